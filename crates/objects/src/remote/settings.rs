//! From the URL of a remote store, and the environment variables of its cloud, to a client.
//!
//! Secrets come from the environment only: URLs end up in shell histories, process lists and
//! configuration files.

use std::{sync::Arc, time::Duration};

use object_store::{
    ClientOptions, RetryConfig, StaticCredentialProvider,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum},
    azure::MicrosoftAzureBuilder,
    gcp::{GcpCredential, GoogleCloudStorageBuilder},
};
use percent_encoding::percent_decode_str;

use crate::{
    open::decode,
    store::{Key, StoreError},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cloud {
    S3,
    Azure,
    Google,
}

/// What a URL says. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one parameter of the URL")]
pub(super) struct Settings {
    pub(super) cloud: Cloud,
    pub(super) bucket: String,
    /// Empty, or segments that end in a slash.
    pub(super) prefix: String,
    /// The URL without its parameters.
    pub(super) name: String,
    pub(super) unconditional: bool,
    endpoint: Option<String>,
    region: Option<String>,
    account: Option<String>,
    virtual_hosted: bool,
    checksum: bool,
    anonymous: bool,
    system_proxy: bool,
}

impl Settings {
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        // What follows the question mark may be a secret that does not belong there.
        let bad = |reason: String| StoreError::Url { url: place.to_owned(), reason };
        let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
        let cloud = match scheme {
            "s3" => Cloud::S3,
            "az" => Cloud::Azure,
            "gs" => Cloud::Google,
            _ => return Err(bad("it is not an s3://, az:// or gs:// URL".to_owned())),
        };
        if rest.contains('@') {
            let reason =
                "credentials do not belong in a URL; use the environment (an @ in a prefix is \
                          written %40)"
                    .to_owned();
            return Err(StoreError::Url { url: format!("{scheme}://..."), reason });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains('/') || Key::new(bucket).is_err() {
            return Err(bad("it names no bucket or container".to_owned()));
        }
        let prefix =
            decode(prefix.trim_end_matches('/')).map_err(|reason| bad(reason.to_owned()))?;
        if let Some(reason) = why_no_prefix(cloud, &prefix) {
            return Err(bad(format!(
                "{prefix:?} is not usable as a prefix of object names: {reason}"
            )));
        }
        let mut settings = Self {
            cloud,
            bucket: bucket.to_owned(),
            prefix: if prefix.is_empty() { prefix } else { format!("{prefix}/") },
            name: place.trim_end_matches('/').to_owned(),
            unconditional: false,
            endpoint: None,
            region: None,
            account: None,
            virtual_hosted: false,
            checksum: false,
            anonymous: false,
            system_proxy: false,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| bad(format!("its parameter {name} is not UTF-8")))?;
            settings.set(name, &value).map_err(bad)?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let choice = |yes: &str, no: &str| match value {
            _ if value == yes => Ok(true),
            _ if value == no => Ok(false),
            _ => Err(format!("its parameter {name} is {yes} or {no}")),
        };
        match (self.cloud, name) {
            (_, "endpoint") => {
                let host = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
                if host.is_none_or(|host| host.is_empty() || host.contains(['@', '?', '#'])) {
                    return Err(
                        "its endpoint is not an http:// or https:// URL of a host".to_owned()
                    );
                }
                self.endpoint = Some(value.trim_end_matches('/').to_owned());
            }
            (_, "conditional-put") => self.unconditional = !choice("on", "off")?,
            (_, "anonymous") => self.anonymous = choice("true", "false")?,
            (_, "proxy") => self.system_proxy = choice("environment", "none")?,
            (Cloud::S3, "region") => self.region = Some(host_part(name, value)?),
            (Cloud::S3, "path-style") => self.virtual_hosted = !choice("true", "false")?,
            (Cloud::S3, "checksum") => self.checksum = choice("sha256", "none")?,
            (Cloud::Azure, "account") => self.account = Some(host_part(name, value)?),
            _ => {
                let name: String = name.chars().take(40).collect();
                return Err(format!("its parameter {name:?} is not known"));
            }
        }
        Ok(())
    }

    /// Whether `other` is the same server's same bucket, at this prefix or below it.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let place =
            |of: &Self| (of.cloud, of.bucket.clone(), of.endpoint.clone(), of.account.clone());
        place(self) == place(other)
            && self.virtual_hosted == other.virtual_hosted
            && self.system_proxy == other.system_proxy
            && other.prefix.starts_with(&self.prefix)
    }

    fn client_options(&self, environment: &Environment<'_>) -> ClientOptions {
        let options = ClientOptions::new()
            .with_allow_http(self.endpoint_is_http() || environment.allows_http())
            .with_connect_timeout(CONNECT_TIMEOUT)
            // Both would cut off a slow upload of a large object; the caller limits requests.
            .with_timeout_disabled()
            .with_read_timeout_disabled();
        if self.system_proxy {
            return options;
        }
        // A proxy that is used for no host: this keeps the one of the environment out.
        options.with_proxy_url("http://127.0.0.1:9").with_proxy_excludes("*,0.0.0.0/0,::/0")
    }

    /// Reading the system's some hundred certificates takes as long as a small backup. A client without TLS needs
    /// none; but one that has no key of its own asks other servers for it, over TLS.
    fn client_options_s3(&self, environment: &Environment<'_>) -> ClientOptions {
        let has_key = self.anonymous || environment.get("aws_access_key_id").is_some();
        let speaks_tls = !self.endpoint_is_http() || self.system_proxy || !has_key;
        self.client_options(environment).with_no_system_certificates(!speaks_tls)
    }

    fn endpoint_is_http(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|url| url.starts_with("http:"))
    }

    /// Whether the store lists objects in the order of their names and begins behind any of them:
    /// those of Amazon for single zones do not.
    pub(super) fn lists_by_name(&self) -> bool {
        match self.cloud {
            Cloud::S3 => !self.bucket.ends_with("--x-s3"),
            Cloud::Google => true,
            Cloud::Azure => false,
        }
    }

    /// A second client, for deleting many objects with one request; none where there is no such
    /// request.
    pub(super) fn connect_for_many(
        &self,
        environment: &[(String, String)],
    ) -> Option<Arc<dyn object_store::ObjectStore>> {
        if self.cloud != Cloud::S3 {
            return None;
        }
        self.connect_s3(&Environment { variables: environment, prefix: "aws_" }, true).ok()
    }

    /// A client for the store. `environment` are the variables of all clouds.
    pub(super) fn connect(
        &self,
        environment: &[(String, String)],
    ) -> Result<Arc<dyn object_store::ObjectStore>, StoreError> {
        let prefix = match self.cloud {
            Cloud::S3 => "aws_",
            Cloud::Azure => "azure_",
            Cloud::Google => "google_",
        };
        let environment = Environment { variables: environment, prefix };
        let built = match self.cloud {
            Cloud::S3 => self.connect_s3(&environment, false),
            Cloud::Azure => self.connect_azure(&environment),
            Cloud::Google => self.connect_google(&environment),
        };
        built.map_err(|error| StoreError::Url { url: self.name.clone(), reason: error.to_string() })
    }

    /// The client deletes `many` objects with one request, or else each with one of its own, as not
    /// every server knows the former.
    fn connect_s3(&self, environment: &Environment<'_>, many: bool) -> Built {
        let mut builder = AmazonS3Builder::new();
        for (name, value) in environment.settings() {
            if let Ok(name) = name.parse() {
                builder = builder.with_config(name, value);
            }
        }
        builder = builder
            .with_bucket_name(&self.bucket)
            .with_retry(no_retries())
            .with_client_options(self.client_options_s3(environment))
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_disable_bulk_delete(!many);
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if self.checksum {
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        if self.anonymous {
            builder = builder.with_skip_signature(true);
        }
        if let Some(endpoint) = &self.endpoint {
            // The name of the bucket is part of the host in one style, of the path in the other.
            let endpoint = match (self.virtual_hosted, endpoint.split_once("://")) {
                (true, Some((scheme, host))) => format!("{scheme}://{}.{host}", self.bucket),
                _ => endpoint.clone(),
            };
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        Ok(Arc::new(builder.build()?))
    }

    fn connect_azure(&self, environment: &Environment<'_>) -> Built {
        let mut builder = MicrosoftAzureBuilder::new();
        // The names that Azure's own command line uses; the others, if set, take precedence.
        if let Some(account) = environment.get("azure_storage_account") {
            builder = builder.with_account(account);
        }
        if let Some(key) = environment.get("azure_storage_key") {
            builder = builder.with_access_key(key);
        }
        if let Some(endpoint) = environment.get("identity_endpoint") {
            builder = builder.with_msi_endpoint(endpoint);
        }
        for (name, value) in environment.settings() {
            if let Ok(name) = name.parse() {
                builder = builder.with_config(name, value);
            }
        }
        builder = builder
            .with_container_name(&self.bucket)
            .with_retry(no_retries())
            .with_client_options(self.client_options(environment));
        if let Some(account) = &self.account {
            builder = builder.with_account(account);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if self.anonymous {
            builder = builder.with_skip_signature(true);
        }
        Ok(Arc::new(builder.build()?))
    }

    fn connect_google(&self, environment: &Environment<'_>) -> Built {
        let mut builder = GoogleCloudStorageBuilder::new();
        for (name, value) in environment.settings() {
            if let Ok(name) = name.parse() {
                builder = builder.with_config(name, value);
            }
        }
        builder = builder
            .with_bucket_name(&self.bucket)
            .with_retry(no_retries())
            .with_client_options(self.client_options(environment));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        if self.anonymous {
            // The switch for unsigned requests is not heeded by puts.
            let nobody = GcpCredential { bearer: String::new() };
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
        }
        Ok(Arc::new(builder.build()?))
    }
}

/// Most bytes of a prefix: the names of objects have 1,024, and a vault's own take up to 512.
const MAX_PREFIX: usize = 500;

/// Why a prefix cannot be used as it is, if it cannot: stores, and what lies on the way to them, would
/// take it for another one.
fn why_no_prefix(cloud: Cloud, prefix: &str) -> Option<&'static str> {
    if prefix.is_empty() {
        return None;
    }
    let any = |is_bad: fn(&str) -> bool| prefix.split('/').any(is_bad);
    if prefix.len() > MAX_PREFIX {
        Some("it is longer than 500 bytes")
    } else if any(str::is_empty) {
        Some("two slashes follow each other, or it begins with one")
    } else if any(|segment| segment == "." || segment == "..") {
        Some("'.' and '..' are not names")
    } else if prefix.contains(char::is_control) {
        Some("it has control characters")
    } else if prefix.contains('\\') {
        Some("some stores take a backslash for a slash")
    } else if cloud == Cloud::Azure && any(|segment| segment.ends_with('.')) {
        Some("Azure drops a dot at the end of a name")
    } else if cloud == Cloud::Google && prefix.contains(['%', '#', '?']) {
        Some("this program cannot ask Google for names with %, # or ?")
    } else {
        None
    }
}

/// A value that becomes a part of a host's name: nothing in it may name another host.
fn host_part(name: &str, value: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if value.is_empty() || value.len() > 100 || !value.chars().all(good) {
        return Err(format!(
            "its parameter {name} is not made of letters, digits, '.', '_' and '-'"
        ));
    }
    Ok(value.to_owned())
}

type Built = object_store::Result<Arc<dyn object_store::ObjectStore>>;

/// The environment variables of one cloud.
struct Environment<'a> {
    variables: &'a [(String, String)],
    prefix: &'static str,
}

impl Environment<'_> {
    /// The variables of the cloud, their names in lower case.
    fn settings(&self) -> impl Iterator<Item = (String, &str)> {
        let lower = self.variables.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
        lower
            .filter(|(name, _)| name.starts_with(self.prefix))
            .map(|(name, value)| (name, value.as_str()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.variables.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.as_str())
    }

    fn allows_http(&self) -> bool {
        self.get(&format!("{}allow_http", self.prefix)) == Some("true")
    }
}

/// The caller tries again itself: it has to know when an answer was lost.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

#[cfg(test)]
mod tests {
    use object_store::ClientConfigKey;

    use super::*;

    fn refused(url: &str) -> String {
        match Settings::parse(url).expect_err(url) {
            StoreError::Url { url, reason } => format!("{url}: {reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_client_that_may_speak_tls_reads_the_systems_certificates() {
        let key = [("aws_access_key_id".to_owned(), "lab".to_owned())];
        let reads = |url: &str, environment: &[(String, String)]| {
            let environment = Environment { variables: environment, prefix: "aws_" };
            let options = Settings::parse(url).expect(url).client_options_s3(&environment);
            let none = options.get_config_value(&ClientConfigKey::NoSystemCertificates);
            none.as_deref() != Some("true")
        };
        let plain = "s3://b?endpoint=http://127.0.0.1:1";
        assert!(!reads(plain, &key));
        assert!(!reads(&format!("{plain}&anonymous=true"), &[]));
        // Its key comes from a server of Amazon's; the proxy may be one with TLS; the store is.
        assert!(reads(plain, &[]));
        assert!(reads(&format!("{plain}&proxy=environment"), &key));
        assert!(reads("s3://b?endpoint=https://127.0.0.1:1", &key));
        assert!(reads("s3://b", &key));
    }

    #[test]
    fn urls_say_where_and_how() {
        let plain = Settings::parse("s3://bucket").expect("a URL");
        assert_eq!((plain.bucket.as_str(), plain.prefix.as_str()), ("bucket", ""));
        assert!(!plain.unconditional && plain.endpoint.is_none() && !plain.virtual_hosted);

        let full = "s3://my-bucket/some/where/?endpoint=http%3A%2F%2F127.0.0.1:7480/&region=eu-1&path-style=false&conditional-put=off&anonymous=true";
        let full = Settings::parse(full).expect("a URL");
        assert_eq!(
            (full.prefix.as_str(), full.name.as_str()),
            ("some/where/", "s3://my-bucket/some/where")
        );
        assert_eq!(full.endpoint.as_deref(), Some("http://127.0.0.1:7480"));
        assert_eq!(full.region.as_deref(), Some("eu-1"));
        assert!(full.unconditional && full.virtual_hosted && full.anonymous);

        let azure = Settings::parse("az://container/p?account=me").expect("a URL");
        assert_eq!((azure.cloud, azure.account.as_deref()), (Cloud::Azure, Some("me")));
        assert_eq!(Settings::parse("gs://b").expect("a URL").cloud, Cloud::Google);
    }

    #[test]
    fn a_prefix_is_what_its_url_stands_for_and_no_two_are_one() {
        let mut seen = std::collections::BTreeMap::new();
        for (url, prefix) in [
            ("a b", "a b/"),
            ("a%20b", "a b/"),
            ("a%2520b", "a%20b/"),
            ("a+b", "a+b/"),
            ("a%23b", "a#b/"),
            ("a#b", "a#b/"),
            ("a%3Fb", "a?b/"),
            ("100%25", "100%/"),
            ("日本/語", "日本/語/"),
            ("%E6%97%A5本/語", "日本/語/"),
            ("web [1]~*/x", "web [1]~*/x/"),
        ] {
            let found = Settings::parse(&format!("s3://b/{url}")).expect(url);
            assert_eq!(found.prefix, prefix, "{url}");
            assert!(found.covers(&found));
            let name = super::super::as_it_is(&format!("{prefix}x"));
            assert_eq!(name.as_ref(), format!("{prefix}x"), "it is written as it is");
            let before = seen.insert(name.as_ref().to_owned(), prefix);
            assert!(before.is_none_or(|before| before == prefix), "{url}");
        }
        for url in [
            "s3://b/100%",
            "s3://b/a%2",
            "s3://b/a%2fb/%2e%2e/c",
            "s3://b/a%2F%2Fb",
            "s3://b/./a",
            "s3://b/a%00",
            "s3://b/a%0ab",
            "s3://b/a\\b",
            "s3://b/%ff",
            "s3://b/me@home",
            "az://c/a./b",
            "gs://b/a%25",
            "gs://b/a%23",
        ] {
            let error = Settings::parse(url).map(|found| found.prefix);
            assert!(matches!(error, Err(StoreError::Url { .. })), "{url}: {error:?}");
        }
        assert!(Settings::parse(&format!("s3://b/{}", "a".repeat(501))).is_err());
    }

    #[test]
    fn urls_that_make_no_sense_are_refused_without_repeating_secrets() {
        for (url, reason) in [
            ("s3://", "no bucket"),
            ("s3:///prefix", "no bucket"),
            ("s3://bucket/a//b", "not usable as a prefix"),
            ("s3://bucket/../b", "not usable as a prefix"),
            ("s3://bucket?account=x", "not known"),
            ("az://c?region=x", "not known"),
            ("s3://b?region=x@127.0.0.1/", "region is not made of"),
            ("az://c?account=127.0.0.1/x%3F", "account is not made of"),
            ("s3://b?endpoint=ftp://x", "endpoint"),
            ("s3://b?path-style=maybe", "true or false"),
            ("s3://b?secret_access_key=SECRET", "\"secret_access_key\" is not known"),
            ("s3://KEY:SECRET@bucket/p", "environment"),
            ("s3://b?endpoint=http://KEY:SECRET@host", "endpoint"),
        ] {
            let said = refused(url);
            assert!(said.contains(reason), "{url}: {said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
    }

    #[test]
    fn a_place_covers_what_is_below_it() {
        let covers = |allowed: &str, url: &str| {
            let [allowed, url] = [allowed, url].map(|url| Settings::parse(url).expect("a URL"));
            allowed.covers(&url)
        };
        for (allowed, url) in [
            ("s3://b", "s3://b"),
            ("s3://b/", "s3://b/x/y?region=eu-1"),
            ("s3://b/x", "s3://b/x?conditional-put=off"),
            ("s3://b/x/", "s3://b/x/y"),
            ("s3://b?endpoint=https://h", "s3://b/x?endpoint=https://h/"),
        ] {
            assert!(covers(allowed, url), "{allowed} {url}");
        }
        for (allowed, url) in [
            ("s3://b/x", "s3://b"),
            ("s3://b/x", "s3://b/xy"),
            ("s3://b", "s3://bc"),
            ("s3://b", "gs://b"),
            ("s3://b", "s3://b?endpoint=http://127.0.0.1:1"),
            ("s3://b?endpoint=https://h", "s3://b"),
            ("s3://b?endpoint=https://h", "s3://b?endpoint=http://h"),
            ("s3://b", "s3://b?proxy=environment"),
            ("s3://b", "s3://b?path-style=false"),
            ("az://c?account=a", "az://c?account=b"),
        ] {
            assert!(!covers(allowed, url), "{allowed} {url}");
        }
    }
}
