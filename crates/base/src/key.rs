//! Names of objects in a store.

use std::fmt;

/// The name of an object: segments of `A-Z a-z 0-9 . _ -` joined by `/`; no segment is empty or
/// starts with a dot; at most 512 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// Why a text is not a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an object name")]
pub struct KeyError(pub String);

impl Key {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, KeyError> {
        let name = name.into();
        let good_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let good_segment =
            |s: &str| !s.is_empty() && !s.starts_with('.') && s.chars().all(good_char);
        if name.len() <= 512 && name.split('/').all(good_segment) {
            Ok(Self(name))
        } else {
            Err(KeyError(name.chars().take(80).collect()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
