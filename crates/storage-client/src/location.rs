//! Where blobs are: a connection string, a URL with a shared access signature, and names below an account.

use strongroom_azure::{BlobName, BlobPath, ConnectionString, ContainerName, Endpoint, Resource};

use crate::StorageClientError;

/// An account with what grants access to it, and perhaps a container or blob.
#[derive(Clone, Debug)]
pub struct Location {
    /// The account.
    pub connection: ConnectionString,
    /// What was named below it.
    pub resource: Resource,
}

impl Location {
    /// Reads a connection string, or a URL: `https://HOST[/ACCOUNT][/CONTAINER[/BLOB]][?SAS]`. The path of a URL
    /// begins with the account if the host has no `.blob.` in it.
    pub fn parse(text: &str) -> Result<Self, StorageClientError> {
        let text = text.trim();
        let is_url = ["http://", "https://"].iter().any(|scheme| {
            text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        });
        if is_url { Self::parse_url(text) } else { Self::parse_string(text) }
    }

    fn parse_string(text: &str) -> Result<Self, StorageClientError> {
        let connection = ConnectionString::parse(text)
            .map_err(|error| StorageClientError::Settings(error.to_string()))?;
        Ok(Self { connection, resource: Resource::Account })
    }

    fn parse_url(text: &str) -> Result<Self, StorageClientError> {
        let wrong = || {
            StorageClientError::Settings(
                "the URL of a storage account is https://HOST[/ACCOUNT][/CONTAINER[/BLOB]][?SAS]"
                    .to_owned(),
            )
        };
        let (url, sas) = text.split_once('?').unwrap_or((text, ""));
        let endpoint = Endpoint::parse(url).ok_or_else(wrong)?;
        let path = endpoint.path.trim_start_matches('/');
        let is_host_style = endpoint.authority.contains(".blob.");
        let (account, below) = match path.split_once('/') {
            _ if is_host_style => ("", path),
            Some((account, below)) => (account, below),
            None => (path, ""),
        };
        let slash = if account.is_empty() { "" } else { "/" };
        let base = endpoint.url(&format!("{slash}{account}"));
        let secret =
            if sas.is_empty() { String::new() } else { format!(";SharedAccessSignature={sas}") };
        let below = decode(below).ok_or_else(wrong)?;
        let resource = if below.is_empty() { Resource::Account } else { place(&below)? };
        Ok(Self { resource, ..Self::parse_string(&format!("BlobEndpoint={base}{secret}"))? })
    }
}

/// Reads `CONTAINER` or `CONTAINER/BLOB`.
pub fn place(text: &str) -> Result<Resource, StorageClientError> {
    let wrong =
        |what: &str| StorageClientError::Settings(format!("{text:?} is not the name of a {what}"));
    let (container, blob) = match text.split_once('/') {
        Some((container, blob)) => (container, Some(blob)),
        None => (text, None),
    };
    let container = ContainerName::new(container).map_err(|_| wrong("container"))?;
    match blob {
        None => Ok(Resource::Container(container)),
        Some(blob) => {
            let name = BlobName::new(blob).map_err(|_| wrong("blob"))?;
            Ok(Resource::Blob(BlobPath { container, name }))
        }
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (String, String) {
        let location = Location::parse(text).expect(text);
        (location.connection.primary.to_string(), location.resource.to_path())
    }

    #[test]
    fn urls_name_accounts_containers_and_blobs() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            shown("https://acct.blob.core.windows.net/disks/a%20b/c?sv=1&sig=x"),
            pair("https://acct.blob.core.windows.net", "/disks/a%20b/c")
        );
        assert_eq!(
            shown("http://127.0.0.1:1/acct/disks"),
            pair("http://127.0.0.1:1/acct", "/disks")
        );
        assert_eq!(shown("http://127.0.0.1:1/acct/"), pair("http://127.0.0.1:1/acct", ""));
        assert_eq!(
            shown("AccountName=acct;AccountKey=a2V5").0,
            "https://acct.blob.core.windows.net"
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        for bad in [
            "AccountName=x;AccountKey=c2VjcmV0",
            "https://acct.blob.x/UPPER?sig=c2VjcmV0",
            "https://acct.blob.x/%zz?sig=c2VjcmV0",
            "https://user:c2VjcmV0@host/a",
            "",
        ] {
            let error = Location::parse(bad).expect_err(bad).to_string();
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
    }
}
