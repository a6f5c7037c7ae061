//! Connection strings: `DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;EndpointSuffix=core.windows.net`,
//! and the URLs of the requests that go to what they name.

use std::fmt;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::{
    AccountKey, AccountName, Headers, Method, Refusal, Resource, Version, query::percent_encode,
    sign_request, time::http_date,
};

/// The longest connection string.
const MAX_LENGTH: usize = 8 << 10;
/// The account of emulators.
const EMULATOR: &str = "devstoreaccount1";
/// Its key, which everybody knows.
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The suffix of endpoints if none is named.
const AZURE: &str = "core.windows.net";

/// Why text is not a connection string. Values are not repeated: they may be secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConnectionString {
    /// It has more than 8 KiB.
    #[error("the connection string is longer than 8 KiB")]
    TooLong,
    /// A part is not a name and a value.
    #[error("a part of the connection string is not NAME=VALUE")]
    Part,
    /// A name is there twice.
    #[error("{0} is twice in the connection string")]
    Twice(&'static str),
    /// What must be there is missing.
    #[error("{0} is missing in the connection string")]
    Missing(&'static str),
    /// A value is not valid.
    #[error("the value of {0} in the connection string is not valid")]
    Value(&'static str),
}

/// By what right requests are sent.
#[derive(Clone)]
pub enum Secret {
    /// A key of the account.
    Key(AccountKey),
    /// The query of a shared access signature, without a question mark.
    Sas(Zeroizing<String>),
    /// None: only what is public.
    Nothing,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(..)",
            Self::Sas(_) => "Sas(..)",
            Self::Nothing => "Nothing",
        })
    }
}

/// Where the blob service of an account is: a URL of HTTP or HTTPS, perhaps with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is HTTPS.
    pub is_https: bool,
    /// Host and port.
    pub authority: String,
    /// The path, empty or with a leading slash: the account, where it is not in the host.
    pub path: String,
}

impl Endpoint {
    /// Reads a URL.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.trim().split_once("://")?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len()))?;
        let plain = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#@;".contains(&byte))
        };
        if authority.is_empty() || !plain(authority) || !plain(path) {
            return None;
        }
        let path = path.trim_end_matches('/').to_owned();
        Some(Self { is_https, authority: authority.to_owned(), path })
    }

    /// The target of a request about a resource: its path and query. The values are encoded here.
    pub fn target(&self, resource: &Resource, query: &[(&str, &str)]) -> String {
        let mut target = format!("{}{}", self.path, resource.to_path());
        if target.is_empty() {
            target.push('/');
        }
        for (at, (name, value)) in query.iter().enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&percent_encode(value, ""));
        }
        target
    }

    /// The URL of a target.
    pub fn url(&self, target: &str) -> String {
        format!("{}://{}{target}", if self.is_https { "https" } else { "http" }, self.authority)
    }

    /// The account that its path or its host names.
    fn account(&self) -> Option<AccountName> {
        let label = || self.authority.split_once(".blob.").map(|(label, _)| label);
        let name = self.path.strip_prefix('/').filter(|name| !name.contains('/')).or_else(label)?;
        AccountName::new(name).ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url(&self.path))
    }
}

/// A request that is ready to be sent. Its URL or its headers have a secret: neither is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// Every header, except `host`.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.url.split_once('?').map_or(self.url.as_str(), |(before, _)| before);
        write!(f, "Prepared({} {plain})", self.method.name())
    }
}

/// An account of any blob service that speaks the dialect.
#[derive(Clone, Debug)]
pub struct ConnectionString {
    /// The account; a SAS does not need it.
    pub account: Option<AccountName>,
    /// By what right.
    pub secret: Secret,
    /// Where the primary is.
    pub primary: Endpoint,
    /// Where the secondary is, if it is known.
    pub secondary: Option<Endpoint>,
}

/// The names that have a meaning here.
const NAMES: [&str; 9] = [
    "AccountName",
    "AccountKey",
    "BlobEndpoint",
    "BlobSecondaryEndpoint",
    "EndpointSuffix",
    "SharedAccessSignature",
    "DefaultEndpointsProtocol",
    "UseDevelopmentStorage",
    "DevelopmentStorageProxyUri",
];

impl ConnectionString {
    /// Reads a connection string. Names have no case; names of other services mean nothing.
    pub fn parse(text: &str) -> Result<Self, BadConnectionString> {
        if text.len() > MAX_LENGTH {
            return Err(BadConnectionString::TooLong);
        }
        let mut values: [Option<&str>; NAMES.len()] = [None; NAMES.len()];
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(BadConnectionString::Part)?;
            let known = NAMES
                .iter()
                .zip(&mut values)
                .find(|(known, _)| known.eq_ignore_ascii_case(name.trim()));
            if let Some((known, slot)) = known {
                if slot.is_some() {
                    return Err(BadConnectionString::Twice(known));
                }
                *slot = Some(value.trim());
            }
        }
        let [account, key, endpoint, secondary, suffix, sas, protocol, emulated, proxy] =
            values.map(|value| value.filter(|value| !value.is_empty()));
        if let Some(emulated) = emulated {
            return match emulated.to_ascii_lowercase().as_str() {
                "true" => Self::emulator(proxy.unwrap_or("http://127.0.0.1")),
                _ => Err(BadConnectionString::Value("UseDevelopmentStorage")),
            };
        }
        let account = account
            .map(|name| {
                AccountName::new(name).map_err(|_| BadConnectionString::Value("AccountName"))
            })
            .transpose()?;
        let protocol = protocol.unwrap_or("https");
        if !protocol.eq_ignore_ascii_case("https") && !protocol.eq_ignore_ascii_case("http") {
            return Err(BadConnectionString::Value("DefaultEndpointsProtocol"));
        }
        let suffix = suffix.unwrap_or(AZURE);
        let derived = |name: &'static str, url: Option<&str>, ending: &str| match (url, &account) {
            (Some(url), _) => {
                Endpoint::parse(url).ok_or(BadConnectionString::Value(name)).map(Some)
            }
            (None, Some(account)) => {
                Endpoint::parse(&format!("{protocol}://{account}{ending}.blob.{suffix}"))
                    .ok_or(BadConnectionString::Value("EndpointSuffix"))
                    .map(Some)
            }
            (None, None) => Ok(None),
        };
        let primary = derived("BlobEndpoint", endpoint, "")?
            .ok_or(BadConnectionString::Missing("AccountName"))?;
        // The secondary of an endpoint that was given cannot be guessed.
        let secondary = match (endpoint, secondary) {
            (Some(_), None) => None,
            (_, url) => derived("BlobSecondaryEndpoint", url, "-secondary")?,
        };
        let secret = match (key, sas) {
            (Some(key), _) => Secret::Key(
                AccountKey::parse(key).map_err(|_| BadConnectionString::Value("AccountKey"))?,
            ),
            (None, Some(sas)) => {
                Secret::Sas(Zeroizing::new(sas.trim_start_matches('?').to_owned()))
            }
            (None, None) => Secret::Nothing,
        };
        let account = account.or_else(|| primary.account());
        if account.is_none() && matches!(secret, Secret::Key(_)) {
            return Err(BadConnectionString::Missing("AccountName"));
        }
        Ok(Self { account, secret, primary, secondary })
    }

    fn emulator(proxy: &str) -> Result<Self, BadConnectionString> {
        let bad = BadConnectionString::Value("DevelopmentStorageProxyUri");
        let proxy = Endpoint::parse(proxy).ok_or(bad)?;
        let at = |ending: &str| Endpoint {
            authority: format!("{}:10000", proxy.authority),
            path: format!("/{EMULATOR}{ending}"),
            ..proxy.clone()
        };
        Ok(Self {
            account: AccountName::new(EMULATOR).ok(),
            secret: Secret::Key(AccountKey::parse(EMULATOR_KEY).map_err(|_| bad)?),
            primary: at(""),
            secondary: Some(at("-secondary")),
        })
    }

    /// Makes a request about a resource ready to be sent to one of the endpoints: adds version and date, and the
    /// signature or the SAS. The headers must have `content-length` if there is a body; the values of the query are
    /// encoded here.
    pub fn prepare(
        &self,
        endpoint: &Endpoint,
        method: Method,
        resource: &Resource,
        query: &[(&str, &str)],
        mut headers: Vec<(String, String)>,
        moment: Timestamp,
    ) -> Result<Prepared, Refusal> {
        headers.push(("x-ms-version".to_owned(), Version::OURS.to_string()));
        headers.push(("x-ms-date".to_owned(), http_date(moment)));
        let mut target = endpoint.target(resource, query);
        match (&self.secret, &self.account) {
            (Secret::Key(key), Some(account)) => {
                let signed = Headers::of(
                    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
                )?;
                let authorization = sign_request(account, key, method, &target, &signed)?;
                headers.push(("authorization".to_owned(), authorization));
            }
            (Secret::Sas(sas), _) => {
                target.push(if query.is_empty() { '?' } else { '&' });
                target.push_str(sas);
            }
            (Secret::Key(_) | Secret::Nothing, _) => {}
        }
        Ok(Prepared { method, url: endpoint.url(&target), headers })
    }

    /// The connection string, with its secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        let mut add = |name: &str, value: &str| {
            if !text.is_empty() {
                text.push(';');
            }
            text.push_str(name);
            text.push('=');
            text.push_str(value);
        };
        add("DefaultEndpointsProtocol", if self.primary.is_https { "https" } else { "http" });
        if let Some(account) = &self.account {
            add("AccountName", account.as_str());
        }
        match &self.secret {
            Secret::Key(key) => add("AccountKey", &key.to_base64()),
            Secret::Sas(sas) => add("SharedAccessSignature", sas),
            Secret::Nothing => {}
        }
        add("BlobEndpoint", &self.primary.to_string());
        if let Some(secondary) = &self.secondary {
            add("BlobSecondaryEndpoint", &secondary.to_string());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AccountSas, BlobName, BlobPath, Caller, ContainerName, Grant, Request, Sas, SasKind,
        Suffixes,
    };
    use proptest::prelude::*;

    fn parse(text: &str) -> ConnectionString {
        ConnectionString::parse(text).expect(text)
    }

    #[test]
    fn endpoints_are_named_or_derived() {
        let azure = parse(
            "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=a2V5;EndpointSuffix=x.test",
        );
        assert_eq!(azure.primary.to_string(), "https://acct.blob.x.test");
        assert_eq!(
            azure.secondary.expect("is there").to_string(),
            "https://acct-secondary.blob.x.test"
        );
        let named = parse(
            "AccountName=acct;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:10000/acct/;TableEndpoint=x",
        );
        assert_eq!(named.primary.path, "/acct");
        assert_eq!(named.secondary, None);
        let sas = parse(
            "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=?sv=1&sig=a%2Bb%3D",
        );
        assert_eq!(sas.account, AccountName::new("acct").ok());
        assert!(matches!(sas.secret, Secret::Sas(query) if query.as_str() == "sv=1&sig=a%2Bb%3D"));
        let emulated = parse("UseDevelopmentStorage=true");
        assert_eq!(emulated.primary.to_string(), "http://127.0.0.1:10000/devstoreaccount1");
        let proxied = parse("usedevelopmentstorage=true;DevelopmentStorageProxyUri=http://host");
        assert_eq!(proxied.primary.authority, "host:10000");
    }

    #[test]
    fn what_is_no_connection_string_is_refused_without_its_values() {
        for (text, error) in [
            ("", BadConnectionString::Missing("AccountName")),
            ("AccountKey=a2V5", BadConnectionString::Missing("AccountName")),
            ("AccountName", BadConnectionString::Part),
            ("AccountName=Bad!", BadConnectionString::Value("AccountName")),
            ("AccountName=acct;AccountKey=?", BadConnectionString::Value("AccountKey")),
            ("AccountName=acct;accountname=acct", BadConnectionString::Twice("AccountName")),
            (
                "AccountName=acct;DefaultEndpointsProtocol=ftp",
                BadConnectionString::Value("DefaultEndpointsProtocol"),
            ),
            (
                "AccountName=acct;BlobEndpoint=acct.example",
                BadConnectionString::Value("BlobEndpoint"),
            ),
            ("AccountName=acct;EndpointSuffix=a?b", BadConnectionString::Value("EndpointSuffix")),
            ("UseDevelopmentStorage=no", BadConnectionString::Value("UseDevelopmentStorage")),
        ] {
            assert_eq!(ConnectionString::parse(text).expect_err(text), error, "{text}");
        }
        assert!(ConnectionString::parse(&"a=b;".repeat(MAX_LENGTH)).is_err());
    }

    #[test]
    fn a_connection_string_survives_and_hides_its_secret() {
        for text in [
            "AccountName=acct;AccountKey=a2V5",
            "BlobEndpoint=http://h:1/acct;AccountKey=a2V5;BlobSecondaryEndpoint=http://h:1/acct-secondary",
            "BlobEndpoint=http://h:1;SharedAccessSignature=sig=hidden",
        ] {
            let parsed = parse(text);
            let again = parse(&parsed.to_text());
            assert_eq!(*again.to_text(), *parsed.to_text());
            assert_eq!(
                (again.account, again.primary, again.secondary),
                (parsed.account.clone(), parsed.primary.clone(), parsed.secondary.clone())
            );
            let shown = format!("{parsed:?}");
            assert!(!shown.contains("hidden") && !shown.contains("a2V5"), "{shown}");
        }
    }

    #[test]
    fn targets_have_the_path_of_the_endpoint() {
        let blob = Resource::Blob(BlobPath {
            container: ContainerName::new("con").expect("is a name"),
            name: BlobName::new("a b/c").expect("is a name"),
        });
        let endpoint = Endpoint::parse("http://h:1/acct").expect("is a URL");
        let target = endpoint.target(&blob, &[("comp", "pagelist"), ("prevsnapshot", "12:00")]);
        assert_eq!(target, "/acct/con/a%20b/c?comp=pagelist&prevsnapshot=12%3A00");
        assert_eq!(endpoint.url(&target), format!("http://h:1{target}"));
        let host_style = Endpoint::parse("https://acct.blob.test").expect("is a URL");
        assert_eq!(host_style.target(&Resource::Account, &[("comp", "list")]), "/?comp=list");
    }

    /// What is sent by each kind of secret is let in by our own service.
    #[test]
    fn prepared_requests_are_authorized() {
        let blob = Resource::Blob(BlobPath {
            container: ContainerName::new("con").expect("is a name"),
            name: BlobName::new("a b+c").expect("is a name"),
        });
        let moment: Timestamp = "2026-11-28T16:17:00Z".parse().expect("is a moment");
        let key = AccountKey::from_bytes(b"key");
        let kind = SasKind::Account(AccountSas {
            services: "b".to_owned(),
            resource_types: "o".to_owned(),
        });
        let sas = Sas::new(kind, "w", "2027-01-01T00:00:00Z".parse().expect("is a moment"));
        let account = AccountName::new("acct").expect("is a name");
        let sas = sas.sign(&account, &key, &blob, None).expect("fits");
        let by_key = format!(
            "AccountName=acct;AccountKey={};BlobEndpoint=http://h:1/acct",
            key.to_base64().as_str()
        );
        let by_sas = format!("BlobEndpoint=http://acct.blob.localhost;SharedAccessSignature={sas}");
        for text in [by_key, by_sas] {
            let connection = parse(&text);
            let headers = vec![
                ("x-ms-page-write".to_owned(), "clear".to_owned()),
                ("x-ms-range".to_owned(), "bytes=0-511".to_owned()),
            ];
            let query = [("comp", "page")];
            let prepared = connection.prepare(
                &connection.primary,
                Method::Put,
                &blob,
                &query,
                headers,
                moment,
            );
            let prepared = prepared.expect("is prepared");
            assert!(!format!("{prepared:?}").contains("sig="));
            let fields =
                prepared.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let headers = Headers::of(fields).expect("headers");
            let request =
                Request::parse("PUT", &prepared.url, headers, &Suffixes::new(["localhost"]));
            let caller = Caller { moment, address: None, is_https: false };
            let grant =
                request.expect("is a request").authorize(std::slice::from_ref(&key), None, &caller);
            assert!(matches!(grant, Ok(Grant::Owner | Grant::Sas { .. })), "{grant:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "((AccountName|BlobEndpoint|AccountKey)=.{0,20};?){0,4}") {
            if let Ok(parsed) = ConnectionString::parse(&text) {
                let again = ConnectionString::parse(&parsed.to_text());
                prop_assert!(again.is_ok());
            }
        }
    }
}
