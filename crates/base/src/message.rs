//! Messages of errors, and the values that they were composed of.
//!
//! A [`Message`] is made by [`message!`](crate::message!), which takes each value by name: so the text has no
//! value that is not a parameter, and no parameter that the text does not show. A page in another
//! language composes its own sentence of the code and the parameters.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use crate::{ByteRange, Code, Coded, words};

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

/// What is said about an error: its place in the catalog, a sentence, and the values in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place in the catalog.
    pub code: &'static Code,
    /// The sentence, in English.
    pub text: String,
    /// The values in it.
    pub params: Params,
}

impl Message {
    /// A sentence without values.
    pub fn new(code: &'static Code, text: &'static str) -> Self {
        Self { code, text: text.to_owned(), params: Params::none() }
    }

    /// What an error says of itself.
    pub fn of(error: &(impl Coded + ?Sized)) -> Self {
        Self { code: error.code(), text: error.to_string(), params: error.params() }
    }

    /// What is wrong with the values: names that the code's page does not have, values that the text
    /// does not show.
    pub fn faults(&self) -> Vec<String> {
        let strange = |(name, value): (&str, &Param)| {
            let (code, text) = (self.code.name, &self.text);
            if !self.code.has_param(name) {
                return Some(format!("{code} has no parameter {name}"));
            }
            let fault = || format!("{code}: {name} is {value:?}, which does not stand in {text:?}");
            (!value.stands_in(text)).then(fault)
        };
        self.params.iter().filter_map(strange).collect()
    }
}

/// Makes a [`Message`] of a code's constant, a text, and each value in it by name:
///
/// ```
/// let (item, days) = ("web", 3_u64);
/// let message = strongroom_base::message!(ITEM_BUSY, "{item} is busy by {job}", item, job = "J");
/// assert_eq!((message.text.as_str(), message.params.iter().count()), ("web is busy by J", 2));
/// ```
///
/// A value that the text shows in another form has that form behind `=>`: `free = free => words::bytes(free)`.
/// A code that is not a constant is written in parentheses. A name that the page of a constant does not have,
/// a value in the text without a name, and a name that the text does not show are errors of the compiler:
///
/// ```compile_fail
/// strongroom_base::message!(ITEM_BUSY, "{item} is busy", item = "web", colour = "red");
/// ```
/// ```compile_fail
/// let job = 3;
/// strongroom_base::message!(ITEM_BUSY, "{item} is busy by {job}", item = "web");
/// ```
/// ```compile_fail
/// strongroom_base::message!(ITEM_BUSY, "it has the colour {colour}", colour = "red");
/// ```
#[macro_export]
macro_rules! message {
    (($code:expr), $text:literal $(,)?) => { $crate::Message::new($code, $text) };
    ($code:ident, $text:literal $(,)?) => { $crate::Message::new(&$crate::codes::$code, $text) };
    (($code:expr), $text:literal $(, $name:ident $(= $value:expr $(=> $shown:expr)?)?)+ $(,)?) => {{
        let ($($name,)+) = ($($crate::message!(@both $name $(= $value $(=> $shown)?)?),)+);
        $crate::Message {
            code: $code,
            // Not a literal of its own: such a text takes no value that is not named below.
            text: format!(concat!($text), $($name = $name.1),+),
            params: [$((stringify!($name), $name.0)),+].into_iter().collect(),
        }
    }};
    ($code:ident, $text:literal $(, $name:ident $(= $value:expr $(=> $shown:expr)?)?)+ $(,)?) => {{
        const {
            $(assert!(
                $crate::codes::$code.has_param(stringify!($name)),
                concat!("the code has no parameter ", stringify!($name)),
            );)+
        }
        $crate::message!((&$crate::codes::$code), $text $(, $name $(= $value $(=> $shown)?)?)+)
    }};
    // The value, and how the text shows it.
    (@both $name:ident) => { $crate::message!(@both $name = $name) };
    (@both $name:ident = $value:expr) => {{
        let value = $crate::AsParam::as_param(&$value);
        (value.clone(), value)
    }};
    (@both $name:ident = $value:expr => $shown:expr) => {
        ($crate::AsParam::as_param(&$value), $crate::AsParam::as_param(&$shown))
    };
    (@value $name:ident) => { $name };
    (@value $name:ident = $value:expr) => { $value };
}

/// The values of an error: those of its fields that its message shows, under the name of the field or
/// another. With a list of codes in front, the page of each must have the names.
///
/// ```
/// # use strongroom_base::params;
/// let (item, job) = ("web", "J");
/// assert_eq!(params!(ITEM_BUSY: item, job).iter().count(), 2);
/// assert!(params!(ITEM_BUSY: item, job = 7_u64).get("job").is_some());
/// ```
#[macro_export]
macro_rules! params {
    ($($code:ident)|+ : $($name:ident $(= $value:expr)?),+ $(,)?) => {{
        const {
            $crate::params!(@check [$($code)+] [$($name)+]);
        }
        [$((stringify!($name), $crate::AsParam::as_param(&$crate::message!(@value $name $(= $value)?)))),+]
            .into_iter()
            .collect::<$crate::Params>()
    }};
    (@check [$($code:ident)+] $names:tt) => { $($crate::params!(@check_one $code $names);)+ };
    (@check_one $code:ident [$($name:ident)+]) => {
        $(assert!(
            $crate::codes::$code.has_param(stringify!($name)),
            concat!("the code has no parameter ", stringify!($name)),
        );)+
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    #[test]
    fn values_are_in_the_text_and_in_the_parameters() {
        let (item, job) = ("we\"b", String::from("J"));
        let message = message!(ITEM_BUSY, "{item:?} is busy by {job}", item, job);
        assert_eq!(message.text, "\"we\\\"b\" is busy by J");
        assert_eq!(message.params.get("item"), Some(&Param::Text(item.to_owned())));
        assert_eq!((message.code, message.faults()), (&codes::ITEM_BUSY, Vec::new()));
    }

    #[test]
    fn a_value_may_be_shown_in_another_form() {
        let items = 2_u64;
        let message = message!(VAULT_NOT_EMPTY, "it has {items}", items = items => words::count(items, "item"));
        assert_eq!((message.text.as_str(), message.faults()), ("it has 2 items", Vec::new()));
        assert_eq!(message.params.get("items"), Some(&Param::Number(2)));
    }

    #[test]
    fn faults_name_what_is_strange() {
        let params = [("item", "web".as_param()), ("colour", "red".as_param())];
        let params = params.into_iter().collect();
        let message = Message { params, ..Message::new(&codes::ITEM_BUSY, "it is busy, and red") };
        let faults = message.faults();
        assert!(faults[0].contains("no parameter colour"), "{faults:?}");
        assert!(faults[1].contains("does not stand"), "{faults:?}");
    }

    #[test]
    fn json() {
        let values = [("a", 7_u64.as_param()), ("b", vec!["x".to_owned()].as_param())];
        let params: Params = values.into_iter().chain([("c", "7".as_param())]).collect();
        assert_eq!(params.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "c"]);
        for (value, text) in [(2_u64.pow(20), "1 MiB free"), (90, "in 1 min 30 s"), (12, "12 days")]
        {
            assert!(value.as_param().stands_in(text));
        }
        assert!(!7_u64.as_param().stands_in("none"));
    }
}
