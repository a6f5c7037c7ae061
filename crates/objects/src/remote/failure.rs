//! What went wrong with a request, and what it means.
//!
//! This module owns the way from statuses and errors of clients to the errors of the trait. It must not try again by
//! itself.

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

/// A cause in our own words: the status of the answer, and its code if that is a word. What else a server
/// says goes to the log: somebody may have made us ask a server whose words are not for them.
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

    /// The error for the caller.
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
        tracing::debug!(store, action, what, said = one_line(&error), "a request failed");
        let source = Box::new(Cause(in_our_words(&error)));
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
            _ if no_room => StoreError::Full { what, store, source },
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

/// The code of an answer: `AccessDenied` in S3's, Azure's and Google's XML.
fn word(error: &object_store::Error) -> Option<String> {
    messages(error).find_map(|message| {
        let (_, after) = message.split_once("<Code>")?;
        let (word, _) = after.split_once("</Code>")?;
        let good = (3..=60).contains(&word.len()) && word.chars().all(|c| c.is_ascii_alphabetic());
        good.then(|| word.to_owned())
    })
}

/// The server that was asked, as the request's URL names it: scheme, host and port.
fn server(error: &object_store::Error) -> Option<String> {
    let is_url = |word: &&str| word.starts_with("http://") || word.starts_with("https://");
    let url = messages(error)
        .find_map(|message| message.split_whitespace().find(is_url).map(ToOwned::to_owned))?;
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#', '@']).next()?;
    Some(format!("{scheme}://{host}").chars().take(200).collect())
}

fn in_our_words(error: &object_store::Error) -> String {
    let word = word(error).map_or_else(String::new, |word| format!(" {word}"));
    if let Some(status) = status(error) {
        return format!("the server answers {status}{word}");
    }
    if mentions(error, &["Server returned error response"]) {
        return format!("the server answers 200 with an error{word}");
    }
    if mentions(error, &["HTTP error", "error sending request", "not allowed"]) {
        // There was no answer: what the way to the server says, such as "Connection refused".
        let said: String = messages(error).last().unwrap_or_default().chars().take(200).collect();
        return match server(error) {
            Some(server) => format!("{server}: {said}"),
            None => said,
        };
    }
    "the server's answer is not one of such a store (the log of level debug has it)".to_owned()
}

/// As the library says it, in one line, without the parts of URLs that may hold signatures.
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

#[cfg(test)]
#[test]
fn the_server_that_does_not_answer_is_named() {
    let source = "Error performing GET http://127.0.0.1:9/a?sig=SECRET in 1s - HTTP error: refused";
    let error = object_store::Error::Generic { store: "S3", source: source.into() };
    assert_eq!(server(&error).as_deref(), Some("http://127.0.0.1:9"));
}

#[cfg(test)]
#[test]
fn what_a_server_says_is_not_repeated() {
    let of = |text: &str| {
        let source = text.to_owned().into();
        in_our_words(&object_store::Error::Generic { store: "S3", source })
    };
    let answer = "Server returned non-2xx status code: 403 Forbidden: ";
    for (said, shown) in [
        (format!("{answer}<html>INTERNAL"), "the server answers 403"),
        (
            format!("{answer}<Code>AccessDenied</Code>INTERNAL"),
            "the server answers 403 AccessDenied",
        ),
        (format!("{answer}<Code>INTERNAL 1</Code>"), "the server answers 403"),
        (
            "Got invalid list response: unknown element INTERNAL".to_owned(),
            "not one of such a store",
        ),
        ("Server returned error response: INTERNAL".to_owned(), "200 with an error"),
    ] {
        let words = of(&said);
        assert!(words.contains(shown) && !words.contains("INTERNAL"), "{words}");
    }
}
