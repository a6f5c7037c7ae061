//! Addresses: which account, container and blob a request names, in its path or in its host.

use crate::{
    AccountName, BlobName, BlobPath, Code, ContainerName, Query, Refusal,
    query::{percent_decode, percent_encode},
};

/// The longest target of a request, in bytes.
pub const MAX_TARGET: usize = 32 << 10;

/// What the names of readable secondaries end with.
const SECONDARY: &str = "-secondary";

/// The names under which a server is reached: `SUFFIX` of `ACCOUNT.blob.SUFFIX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suffixes(Vec<String>);

impl Suffixes {
    /// Takes names of domains, as `core.windows.net` or `localhost`.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(|name| format!(".blob.{}", name.to_ascii_lowercase())).collect())
    }

    /// The account, perhaps with `-secondary`, that a host names.
    fn account<'a>(&self, host: &'a str) -> Option<&'a str> {
        let suffix = self.0.iter().find(|suffix| host.ends_with(suffix.as_str()))?;
        host.strip_suffix(suffix.as_str())
    }
}

/// What is addressed within an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The account itself.
    Account,
    /// A container.
    Container(ContainerName),
    /// A blob.
    Blob(BlobPath),
}

/// What a request addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The account, without `-secondary`.
    pub account: AccountName,
    /// Whether the readable secondary is meant.
    pub is_secondary: bool,
    /// Whether the account is the first part of the path, not of the host.
    pub is_path_style: bool,
    /// What is addressed in it.
    pub resource: Resource,
    /// The path as it was sent, which signatures cover.
    pub path: String,
}

impl Address {
    /// Reads a request's target (a path with a query, or an absolute URL) and its host. The query is read as well.
    pub fn parse(
        target: &str,
        host: Option<&str>,
        suffixes: &Suffixes,
    ) -> Result<(Self, Query), Refusal> {
        if target.len() > MAX_TARGET || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Code::InvalidUri.into());
        }
        let (host, target) = split_authority(host, target)?;
        let target = target.split_once('#').map_or(target, |(before, _)| before);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = Query::parse(query)?;
        let path = if path.is_empty() { "/" } else { path };
        let rest = path.strip_prefix('/').ok_or(Code::InvalidUri)?;
        let host = host.map(host_name).unwrap_or_default();
        let named = suffixes.account(&host);
        let (account, rest) = if let Some(account) = named {
            (account.to_owned(), rest)
        } else {
            let (account, rest) = rest.split_once('/').unwrap_or((rest, ""));
            (percent_decode(account)?, rest)
        };
        if account.is_empty() {
            return Err(Code::InvalidUri.into());
        }
        let primary = account.strip_suffix(SECONDARY);
        Ok((
            Self {
                account: AccountName::new(primary.unwrap_or(&account))?,
                is_secondary: primary.is_some(),
                is_path_style: named.is_none(),
                resource: Resource::parse(rest, &query)?,
                path: path.to_owned(),
            },
            query,
        ))
    }
}

impl Resource {
    /// Reads the part of a path after the account. One segment is a blob of the root container, unless the query
    /// says that it is a container.
    fn parse(rest: &str, query: &Query) -> Result<Self, Refusal> {
        if rest.is_empty() {
            return Ok(Self::Account);
        }
        let restype = query.get("restype").map(str::to_ascii_lowercase);
        match rest.split_once('/') {
            None | Some((_, "")) if matches!(restype.as_deref(), Some("container" | "account")) => {
                let name = rest.strip_suffix('/').unwrap_or(rest);
                Ok(Self::Container(ContainerName::new(&percent_decode(name)?)?))
            }
            None => Ok(Self::Blob(BlobPath {
                container: ContainerName::root(),
                name: BlobName::new(&percent_decode(rest)?)?,
            })),
            Some((container, "")) => {
                Ok(Self::Container(ContainerName::new(&percent_decode(container)?)?))
            }
            Some((container, name)) => Ok(Self::Blob(BlobPath {
                container: ContainerName::new(&percent_decode(container)?)?,
                name: BlobName::new(&percent_decode(name)?)?,
            })),
        }
    }

    /// The path of a URL, after the account: empty, or with a leading slash.
    pub fn to_path(&self) -> String {
        match self {
            Self::Account => String::new(),
            Self::Container(container) => format!("/{container}"),
            Self::Blob(blob) => {
                format!("/{}/{}", blob.container, percent_encode(blob.name.as_str(), "/"))
            }
        }
    }

    /// The resource as a SAS signs it, after the account and not encoded.
    pub(crate) fn canonical(&self) -> String {
        match self {
            Self::Account => String::new(),
            Self::Container(container) => format!("/{container}"),
            Self::Blob(blob) => format!("/{blob}"),
        }
    }
}

/// Takes scheme and authority from an absolute URL; what it names counts more than the header `Host`.
fn split_authority<'a>(
    host: Option<&'a str>,
    target: &'a str,
) -> Result<(Option<&'a str>, &'a str), Refusal> {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let Some(rest) = scheme.and_then(|scheme| target.get(scheme.len()..)) else {
        return Ok((host, target));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(Code::InvalidUri)?;
    if authority.is_empty() || authority.contains('@') {
        return Err(Code::InvalidUri.into());
    }
    Ok((Some(authority), path))
}

/// The name of a host without its port, in lower case and without a final dot.
fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn suffixes() -> Suffixes {
        Suffixes::new(["core.windows.net", "localhost"])
    }

    fn parse(host: &str, target: &str) -> Result<Address, Refusal> {
        Address::parse(target, Some(host), &suffixes()).map(|(address, _)| address)
    }

    fn blob(container: &str, name: &str) -> Resource {
        let container = ContainerName::new(container).expect("is a name");
        Resource::Blob(BlobPath { container, name: BlobName::new(name).expect("is a name") })
    }

    #[test]
    fn the_account_is_in_the_path_or_in_the_host() {
        for (host, target) in [
            ("127.0.0.1:10000", "/acct/con/a/b"),
            ("acct.blob.core.windows.net", "/con/a/b"),
            ("ACCT.blob.localhost:8080", "/con/a/b?comp=x"),
            ("elsewhere", "http://acct.blob.localhost:1/con/a/b"),
            ("elsewhere", "http://127.0.0.1:1/acct/con/a/b"),
        ] {
            let address = parse(host, target).expect(target);
            assert_eq!((address.account.as_str(), address.is_secondary), ("acct", false));
            assert_eq!(address.resource, blob("con", "a/b"));
        }
        assert!(parse("x", "/acct/con").expect("ok").is_path_style);
        assert!(!parse("acct.blob.localhost", "/con").expect("ok").is_path_style);
    }

    #[test]
    fn the_secondary_has_a_name_of_its_own() {
        for (host, target) in
            [("127.0.0.1", "/acct-secondary/con/b"), ("acct-secondary.blob.localhost", "/con/b")]
        {
            let address = parse(host, target).expect(target);
            assert!(address.is_secondary);
            assert_eq!(address.account.as_str(), "acct");
            assert_eq!(address.resource, blob("con", "b"));
        }
    }

    #[test]
    fn names_of_blobs_are_decoded_whole() {
        for (path, name) in [
            ("/acct/con/a%2Fb", "a/b"),
            ("/acct/con/a+b", "a+b"),
            ("/acct/con/a%20b%3Fc", "a b?c"),
            ("/acct/con/%E6%97%A5%E6%9C%AC", "日本"),
            ("/acct/con//x/", "/x/"),
            ("/acct/con/a%252Fb", "a%2Fb"),
        ] {
            assert_eq!(parse("h", path).expect(path).resource, blob("con", name));
        }
        assert_eq!(parse("h", "/acct/$root/x").expect("ok").resource, blob("$root", "x"));
        assert_eq!(parse("h", "/acct/x.vhd").expect("ok").resource, blob("$root", "x.vhd"));
    }

    #[test]
    fn one_segment_is_a_container_if_the_query_says_so() {
        let container = Resource::Container(ContainerName::new("con").expect("is a name"));
        for target in ["/acct/con?restype=container", "/acct/con/?restype=container", "/acct/con/"]
        {
            assert_eq!(parse("h", target).expect(target).resource, container);
        }
        for target in ["/acct", "/acct/", "/acct/?comp=list"] {
            assert_eq!(parse("h", target).expect(target).resource, Resource::Account);
        }
    }

    #[test]
    fn bad_names_and_targets_have_their_codes() {
        for (target, code) in [
            ("/acct/Con/b", Code::InvalidResourceName),
            ("/acct/co/b", Code::NameLengthOutOfRange),
            ("/", Code::InvalidUri),
            ("", Code::InvalidUri),
            ("*", Code::InvalidUri),
            ("/acct/con/%zz", Code::InvalidUri),
            ("http://user@host/acct/con/b", Code::InvalidUri),
        ] {
            assert_eq!(parse("h", target).expect_err(target).code(), code, "{target}");
        }
    }

    proptest! {
        #[test]
        fn a_path_of_a_resource_is_read_back(name in "[^\0]{1,40}") {
            let resource = blob("con", &name);
            let path = format!("/acct{}", resource.to_path());
            prop_assert_eq!(parse("h", &path).expect("is an address").resource, resource);
        }

        #[test]
        fn no_target_makes_the_parser_panic(host in ".{0,30}", target in ".{0,80}") {
            parse(&host, &target).ok();
        }
    }
}
