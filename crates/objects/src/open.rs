//! From a URL to a store.
//!
//! This module owns the forms of URLs and which kind of store each one names. It must not know what a store is
//! used for; settings and secrets of clouds come from the caller's environment.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use percent_encoding::percent_decode_str;
use strongroom_base::{Clock, Entropy, Environment, SystemClock, SystemEntropy};

use crate::{Folder, Memory, ObjectStore, StoreError, remote::Remote};

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Make the folder, with its parents, if it does not exist.
    pub create: bool,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where the names of temporary files come from.
    pub entropy: Arc<dyn Entropy>,
    /// How long a request to a remote store may take, before the time that its bytes need.
    pub request_timeout: Duration,
    /// How often a request to a remote store is tried.
    pub attempts: u32,
    /// Settings of the clouds' clients, keys and tokens among them, by the names of their usual
    /// environment variables: `AWS_...`, `AZURE_...`, `GOOGLE_...`; by default those that the program was
    /// started with ([`Environment::clouds`]).
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: false,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            request_timeout: Duration::from_mins(1),
            attempts: 8,
            environment: Environment::given().clouds(),
        }
    }
}

/// Shows no [`Options::environment`]: it holds secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("create", &self.create).finish_non_exhaustive()
    }
}

/// The scheme of a URL and what follows; none if it is a path, whatever it contains.
fn scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let begins = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
    (begins && scheme.chars().all(good)).then_some((scheme, rest))
}

/// What a part of a URL stands for. A `%` begins two hexadecimal digits, so that two ways of writing never
/// look like two names.
pub(crate) fn decode(part: &str) -> Result<String, &'static str> {
    let hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = part.as_bytes();
    let mut percents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let digits = |at: usize| bytes.get(at.saturating_add(1)..).unwrap_or_default();
    if percents.any(|(at, _)| !hex(digits(at).first()) || !hex(digits(at).get(1))) {
        return Err("in a URL, write a literal % as %25");
    }
    let text = percent_decode_str(part).decode_utf8().map_err(|_| "it is not UTF-8")?;
    if text.contains('\0') { Err("it has a zero byte") } else { Ok(text.into_owned()) }
}

/// The folder that a path or a `file:` URL means; none if it means another kind of store.
pub fn folder_of(url: &str) -> Result<Option<PathBuf>, StoreError> {
    let bad = |reason: &str| StoreError::Url { url: url.to_owned(), reason: reason.to_owned() };
    match scheme(url) {
        None => Ok(Some(PathBuf::from(url))),
        Some(("file", rest)) => {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(bad("a file URL has three slashes: file:///path"));
            }
            decode(path).map(|path| Some(PathBuf::from(path))).map_err(bad)
        }
        Some(_) => Ok(None),
    }
}

/// Opens the store at `url`: a path, `file:///path`, `s3://bucket/prefix`,
/// `az://container/prefix`, `gs://bucket/prefix`, or (in tests) `memory:`.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let bad = |reason: &str| StoreError::Url { url: url.to_owned(), reason: reason.to_owned() };
    if url == "memory:" {
        return Ok(Arc::new(Memory::new(Arc::clone(&options.clock))));
    }
    if url.is_empty() {
        return Err(bad("it is empty"));
    }
    if let Some(path) = folder_of(url)? {
        return folder(&path, options);
    }
    match scheme(url) {
        Some(("s3" | "az" | "gs", _)) => Ok(Arc::new(Remote::open(url, options)?)),
        _ => Err(bad("its kind is not known; known are a path, file://, s3://, az:// and gs://")),
    }
}

fn folder(path: &Path, options: &Options) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let entropy = Arc::clone(&options.entropy);
    Ok(Arc::new(if options.create {
        Folder::create(path, entropy)?
    } else {
        Folder::open(path, entropy)?
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_open_folders() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = place.path().join("with space");
        let text = path.to_str().expect("UTF-8");
        let options = Options::default();
        assert!(open(text, &options).is_err(), "there is none yet");
        let made = open(text, &Options { create: true, ..Options::default() }).expect("a folder");
        made.put_new(&crate::Key::new("a").expect("a key"), b"1").expect("a put");
        for url in [text.to_owned(), format!("file://{}", text.replace(' ', "%20"))] {
            let store = open(&url, &options).expect("the folder");
            assert_eq!(store.get(&crate::Key::new("a").expect("a key"), 1).expect("it"), b"1");
            assert!(store.is_local());
        }
        assert!(open("memory:", &options).expect("memory").is_local());
        assert!(!open("s3://bucket/p?anonymous=true", &options).expect("no request").is_local());
    }

    #[test]
    fn a_path_is_what_it_is_and_a_url_is_decoded() {
        let folder =
            |url: &str| folder_of(url).ok().flatten().map(|path| path.display().to_string());
        for path in ["/a b", "/100%", "/a%20b", "/a+b#c?d", "/a://b", "b", "./s3://b", "/日本/語"]
        {
            assert_eq!(folder(path).as_deref(), Some(path));
        }
        for (url, path) in [
            ("file:///a b", "/a b"),
            ("file:///a%20b", "/a b"),
            ("file:///a%2520b", "/a%20b"),
            ("file:///a+b#c?d", "/a+b#c?d"),
            ("file://localhost/a", "/a"),
            ("file:///%E6%97%A5本", "/日本"),
        ] {
            assert_eq!(folder(url).as_deref(), Some(path), "{url}");
        }
        for url in ["s3://b/p", "file:///100%", "file:///a%2", "file:///%ff", "file:///a%00b"] {
            assert_eq!(folder(url), None, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["", "ftp://host/path", "file://host/path", "s3://", "file:///100%"] {
            assert!(matches!(open(url, &Options::default()), Err(StoreError::Url { .. })), "{url}");
        }
    }
}
