//! What a column holds.

use serde::{Deserialize, Serialize};

/// The longest id or text in a column, in bytes: PostgreSQL keeps no more than 2.7 KB of an
/// entry in an index.
pub const MAX_TEXT: usize = 512;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text, compared by its bytes on every database.
    Text,
    /// A signed number of 64 bits. Times are kept as such: microseconds, so that they sort.
    Integer,
}

/// What a column holds.
///
/// Values sort by the order of the variants: nothing, numbers, texts by their bytes; so do both
/// databases.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl Value {
    /// The type, unless it is nothing.
    pub fn type_of(&self) -> Option<Type> {
        match self {
            Self::Null => None,
            Self::Integer(_) => Some(Type::Integer),
            Self::Text(_) => Some(Type::Text),
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Why this cannot be kept, if it cannot.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        self.as_text().and_then(text_fault)
    }
}

/// Why a text cannot be an id or in a column, if it cannot.
pub(crate) fn text_fault(text: &str) -> Option<&'static str> {
    if text.len() > MAX_TEXT {
        Some("it is longer than 512 bytes")
    } else if text.contains('\0') {
        Some("it has a NUL character")
    } else {
        None
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

/// Numbers beyond those of a column are kept as the largest there is.
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Integer(flag.into())
    }
}

/// Microseconds since 1970.
impl From<jiff::Timestamp> for Value {
    fn from(time: jiff::Timestamp) -> Self {
        Self::Integer(time.as_microsecond())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
