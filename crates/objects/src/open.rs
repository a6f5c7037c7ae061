//! From a URL to a store.

use std::{fmt, path::Path, sync::Arc};

use percent_encoding::percent_decode_str;
use strongroom_base::{Clock, Entropy, SystemClock, SystemEntropy};

use crate::{Folder, Memory, ObjectStore, StoreError};

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Make the folder, with its parents, if it does not exist.
    pub create: bool,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where the names of temporary files come from.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Options {
    fn default() -> Self {
        Self { create: false, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("create", &self.create).finish_non_exhaustive()
    }
}

/// Opens the store at `url`: a path, `file:///path`, or (in tests) `memory:`.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let bad = |reason: &str| StoreError::Url { url: url.to_owned(), reason: reason.to_owned() };
    if url == "memory:" {
        return Ok(Arc::new(Memory::new(Arc::clone(&options.clock))));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        if url.is_empty() {
            return Err(bad("it is empty"));
        }
        return folder(Path::new(url), options);
    };
    match scheme {
        "file" => {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(bad("a file URL has three slashes: file:///path"));
            }
            let path =
                percent_decode_str(path).decode_utf8().map_err(|_| bad("it is not UTF-8"))?;
            folder(Path::new(path.as_ref()), options)
        }
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
