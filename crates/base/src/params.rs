//! The values that messages are composed of.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use crate::{ByteRange, words};

/// One value that a message was composed of.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Param {
    /// A number: an amount in the unit that its name has, bytes if it is a size.
    Number(u64),
    /// A text, as the message shows it.
    Text(String),
    /// Several texts, in the order of the message.
    List(Vec<String>),
}

impl Param {
    /// Whether a text shows this value: as it is, quoted, or in words for people.
    pub fn stands_in(&self, text: &str) -> bool {
        match self {
            Self::Number(number) => {
                let forms = [number.to_string(), words::bytes(*number), words::span(*number)];
                forms.iter().any(|form| text.contains(form))
            }
            Self::Text(value) => shows(text, value),
            Self::List(values) => values.iter().all(|value| shows(text, value)),
        }
    }
}

fn shows(text: &str, value: &str) -> bool {
    text.contains(value) || text.contains(&format!("{value:?}"))
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => fmt::Display::fmt(number, f),
            Self::Text(text) => fmt::Display::fmt(text, f),
            Self::List(texts) => fmt::Display::fmt(&texts.join(", "), f),
        }
    }
}

/// As the value itself, so that `{name:?}` in a message quotes it.
impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => fmt::Debug::fmt(number, f),
            Self::Text(text) => fmt::Debug::fmt(text, f),
            Self::List(texts) => fmt::Debug::fmt(texts, f),
        }
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Param {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
        let of = |kind| ObjectBuilder::new().schema_type(kind);
        let texts = ArrayBuilder::new().items(of(Type::String));
        OneOfBuilder::new()
            .item(of(Type::Integer).minimum(Some(0)))
            .item(of(Type::String))
            .item(texts)
            .description(Some("A value that a message was composed of."))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Param {}

/// What can be a value of a message.
pub trait AsParam {
    /// The value.
    fn as_param(&self) -> Param;
}

impl<T: AsParam + ?Sized> AsParam for &T {
    fn as_param(&self) -> Param {
        (**self).as_param()
    }
}

impl AsParam for Param {
    fn as_param(&self) -> Param {
        self.clone()
    }
}

impl<T: AsParam + ?Sized> AsParam for Box<T> {
    fn as_param(&self) -> Param {
        (**self).as_param()
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl AsParam for $number {
            fn as_param(&self) -> Param {
                Param::Number(u64::try_from(*self).unwrap_or(u64::MAX))
            }
        }
    )*};
}
numbers! { u8 u16 u32 u64 usize }

/// Implements [`AsParam`] for types that are shown by their `Display`.
#[macro_export]
macro_rules! text_params {
    ($($shown:ty)*) => {$(
        impl $crate::AsParam for $shown {
            fn as_param(&self) -> $crate::Param {
                $crate::Param::Text(self.to_string())
            }
        }
    )*};
}
text_params! { str String Cow<'_, str> ByteRange jiff::Timestamp std::net::SocketAddr fmt::Arguments<'_> }
text_params! { crate::Digest crate::Key crate::PackId crate::WriterId crate::AlertId crate::AssignmentId }
text_params! { crate::HostId crate::ItemId crate::JobId crate::KeyId crate::NoticeId crate::PointId }
text_params! { crate::PolicyId crate::RequestId crate::SlotId crate::TokenId crate::UserId crate::VaultId }
text_params! { crate::KeyError crate::ParseIdError crate::RangeError }

impl AsParam for Path {
    fn as_param(&self) -> Param {
        Param::Text(self.display().to_string())
    }
}

impl AsParam for PathBuf {
    fn as_param(&self) -> Param {
        self.as_path().as_param()
    }
}

impl AsParam for [String] {
    fn as_param(&self) -> Param {
        Param::List(self.to_vec())
    }
}

impl AsParam for Vec<String> {
    fn as_param(&self) -> Param {
        self.as_slice().as_param()
    }
}

/// The values that a message was composed of, by name. One object in JSON.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Params(BTreeMap<Cow<'static, str>, Param>);

impl Params {
    /// No values.
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One more, in place of what has the name.
    pub(crate) fn add(&mut self, name: &'static str, value: Param) {
        self.0.insert(Cow::Borrowed(name), value);
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromIterator<(&'static str, Param)> for Params {
    fn from_iter<I: IntoIterator<Item = (&'static str, Param)>>(values: I) -> Self {
        Self(values.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect())
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Params {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .additional_properties(Some(Param::schema()))
            .description(Some("The values that a message was composed of, by name."))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Params {}
