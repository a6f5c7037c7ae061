//! Refusals: why a request is not carried out, as the answer says it.

use crate::Code;

/// The longest value that a refusal repeats, in characters.
const MAX_VALUE: usize = 256;
/// The longest string that was to be signed.
const MAX_SIGNED: usize = 4096;
/// The element that says what was to be signed. It is for the client alone: it may repeat URLs with their secrets.
const SIGNED: &str = "AuthenticationErrorDetail";

/// Why a request is refused: a code, and which header, parameter or value was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {}{}", code.message(), self.shown())]
pub struct Refusal {
    code: Code,
    details: Vec<(&'static str, String)>,
}

impl Refusal {
    /// A refusal with nothing but its code.
    pub const fn new(code: Code) -> Self {
        Self { code, details: Vec::new() }
    }

    /// Adds an element to the answer's body, by the name that Azure gives it. Long values are cut.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let mut value = value.into();
        let limit = if name == SIGNED { MAX_SIGNED } else { MAX_VALUE };
        if let Some((at, _)) = value.char_indices().nth(limit) {
            value.truncate(at);
        }
        self.details.push((name, value));
        self
    }

    /// A header whose value is not in its format.
    pub(crate) fn header(name: &str, value: &str) -> Self {
        Self::new(Code::InvalidHeaderValue).with("HeaderName", name).with("HeaderValue", value)
    }

    /// A header that this service does not support.
    pub(crate) fn unsupported(name: &str) -> Self {
        Self::new(Code::UnsupportedHeader).with("HeaderName", name)
    }

    /// A header that is missing.
    pub(crate) fn missing(name: &str) -> Self {
        Self::new(Code::MissingRequiredHeader).with("HeaderName", name)
    }

    /// A query parameter whose value is not valid.
    pub(crate) fn parameter(name: &str, value: &str, reason: &str) -> Self {
        Self::new(Code::InvalidQueryParameterValue)
            .with("QueryParameterName", name)
            .with("QueryParameterValue", value)
            .with("Reason", reason)
    }

    /// A signature, a time or a credential that does not hold.
    pub(crate) fn authentication(detail: impl Into<String>) -> Self {
        Self::new(Code::AuthenticationFailed).with(SIGNED, detail)
    }

    /// The code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Further elements of the answer's body, with their names.
    pub fn details(&self) -> &[(&'static str, String)] {
        &self.details
    }

    fn shown(&self) -> String {
        self.details
            .iter()
            .filter(|(name, _)| *name != SIGNED)
            .fold(String::new(), |text, (name, value)| {
                format!("{text} ({name}: {})", value.escape_debug())
            })
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}
