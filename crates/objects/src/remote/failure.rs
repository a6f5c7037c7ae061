//! What went wrong with a request, and what it means.

use std::{error::Error, time::Duration};

use crate::store::{Key, StoreError};

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server, or the way to it, said no.
    Refused(object_store::Error),
    /// There was no answer in time.
    TimedOut(Duration),
    /// There is nothing to send requests with.
    Local(StoreError),
}

/// A cause in one line, without the parts of a URL that may hold signatures.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

impl Failure {
    /// Whether the same request may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Refused(object_store::Error::JoinError { .. }) => true,
            Self::Refused(error @ object_store::Error::Generic { .. }) => match status(error) {
                // Errors of the connection have no status. 200 is an error in a body.
                None | Some(200 | 408 | 425 | 429) => true,
                Some(501 | 505 | 507) => false,
                Some(status) => status >= 500,
            },
            Self::Refused(_) | Self::Local(_) => false,
        }
    }

    /// Whether the server did not like the range that was asked for.
    pub(super) fn is_about_range(&self) -> bool {
        match self {
            Self::Refused(error) => {
                matches!(status(error), Some(400 | 416)) || mentions(error, &["Wanted range"])
            }
            _ => false,
        }
    }

    /// What the caller hears.
    pub(super) fn into_error(
        self,
        action: &'static str,
        what: &str,
        key: Option<&Key>,
        store: &str,
    ) -> StoreError {
        let (store, what) = (store.to_owned(), what.to_owned());
        let error = match self {
            Self::Local(error) => return error,
            Self::TimedOut(limit) => {
                let source = format!("no answer in {} seconds", limit.as_secs_f32()).into();
                return StoreError::Unavailable { store, action, what, source };
            }
            Self::Refused(error) => error,
        };
        let source = Box::new(Cause(one_line(&error)));
        let no_room = status(&error) == Some(507)
            || mentions(&error, &["QuotaExceeded", "InsufficientStorage", "StorageFull"]);
        match (&error, key) {
            // A write or a list misses no object.
            (object_store::Error::NotFound { .. }, _) if action != "read" => no_bucket(store),
            _ if action == "list" && status(&error) == Some(404) => no_bucket(store),
            _ if mentions(&error, &["NoSuchBucket", "ContainerNotFound"]) => no_bucket(store),
            // The words of Amazon and of its doubles.
            _ if status(&error) == Some(400) && mentions(&error, &["Content-MD5"]) => {
                no_checksum(store)
            }
            (_, Some(key)) if no_room => StoreError::Full { key: key.clone(), store, source },
            (object_store::Error::NotFound { .. }, Some(key)) => {
                StoreError::Missing { key: key.clone(), store }
            }
            // Lists wrap what single requests say plainly.
            _ if matches!(status(&error), Some(401 | 403)) => {
                StoreError::Denied { what, store, source }
            }
            (
                object_store::Error::NotSupported { .. }
                | object_store::Error::NotImplemented { .. },
                _,
            ) => StoreError::Protocol { store, reason: source.to_string() },
            _ if status(&error) == Some(501) => {
                StoreError::Protocol { store, reason: source.to_string() }
            }
            _ => StoreError::Unavailable { store, action, what, source },
        }
    }
}

fn no_bucket(store: String) -> StoreError {
    StoreError::Url { url: store, reason: "the bucket or container does not exist".to_owned() }
}

fn no_checksum(store: String) -> StoreError {
    let reason = "its bucket has object lock and wants a checksum with every put: add \
                  checksum=sha256 to the URL";
    StoreError::Url { url: store, reason: reason.to_owned() }
}

/// All messages of an error and its causes.
fn messages(error: &object_store::Error) -> impl Iterator<Item = String> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error.to_string())
    })
}

/// The HTTP status of the answer. The library keeps it to itself except in its message; a test
/// against a server that gives each status notices if that changes.
fn status(error: &object_store::Error) -> Option<u16> {
    messages(error).find_map(|message| {
        let (_, after) = message.split_once("status code: ")?;
        after.get(..3)?.parse().ok()
    })
}

fn mentions(error: &object_store::Error, words: &[&str]) -> bool {
    messages(error).any(|message| words.iter().any(|word| message.contains(word)))
}

fn one_line(error: &object_store::Error) -> String {
    // The outermost message includes most of the others, but seldom the deepest.
    let mut message = error.to_string();
    if let Some(deepest) = messages(error).last().filter(|last| !message.contains(last.as_str())) {
        message = format!("{message}: {deepest}");
    }
    let words = message.split_whitespace().map(|word| match word.split_once('?') {
        Some((before, query)) if before.contains("://") && !query.is_empty() => before,
        _ => word,
    });
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().take(400).collect()
}

#[cfg(test)]
#[test]
fn causes_are_short_and_hold_no_signatures() {
    let source = "Error performing PUT http://host/a?sig=SECRET in 1s\n - <xml>  no</xml>".into();
    let error = object_store::Error::Generic { store: "S3", source };
    let line = one_line(&error);
    assert!(line.contains("http://host/a in 1s - <xml> no</xml>"), "{line}");
    assert!(!line.contains("SECRET"));
}
