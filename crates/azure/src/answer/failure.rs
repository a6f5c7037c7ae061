//! The failures of other servers, as a client sees them.

use std::fmt;

use crate::{
    Code, Headers,
    xml::{self, MAX_ANSWER_XML, child_text},
};

/// The longest message that is kept.
const MAX_MESSAGE: usize = 1024;

/// What another server answered instead of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The status of HTTP.
    pub status: u16,
    /// The name of the code, if the answer has one.
    pub name: Option<String>,
    /// The code, if it is one that this crate knows.
    pub code: Option<Code>,
    /// The message, if the answer has one.
    pub message: Option<String>,
}

impl Failure {
    /// Reads an answer: the code is in a header, and with a message in the body.
    pub fn parse(status: u16, headers: &Headers, body: &[u8]) -> Self {
        let of_body = xml::parse(body, MAX_ANSWER_XML, |root| {
            Ok((child_text(root, "Code"), child_text(root, "Message")))
        });
        let (in_body, message) = of_body.unwrap_or_default();
        let name = headers.get("x-ms-error-code").map(str::to_owned).or(in_body);
        let cut = |text: String| {
            text.chars().filter(|c| !c.is_control() || *c == '\n').take(MAX_MESSAGE).collect()
        };
        Self {
            status,
            code: name.as_deref().and_then(|name| Code::find(name, status)),
            name: name.map(cut),
            message: message.map(cut),
        }
    }

    /// Whether the same request may succeed later: the server is busy or has failed.
    pub const fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502 | 503 | 504)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("no error code");
        write!(f, "the storage service answered {} ({name})", self.status)?;
        match self.message.as_deref().and_then(|message| message.lines().next()) {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}
