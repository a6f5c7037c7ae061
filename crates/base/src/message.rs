//! Messages of errors, and the values that they were composed of.
//!
//! A [`Message`] is made by [`message!`](crate::message!), which takes each value by name: so the text has no
//! value that is not a parameter, and no parameter that the text does not show. A page in another
//! language composes its own sentence of the code and the parameters.

use crate::{AsParam as _, Code, Coded, Param, Params};

/// The parameter that says which of a code's sentences it is; the sentence does not show it.
const PROBLEM: &str = "problem";

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

    /// The same, saying by a word which of the code's sentences it is.
    #[must_use]
    pub fn with_problem(mut self, problem: &'static str) -> Self {
        self.params.add(PROBLEM, problem.as_param());
        self
    }

    /// What is wrong with the values: names that the code's page does not have, values that the text
    /// does not show. Of the problem there must be a word on the code's page.
    pub fn faults(&self) -> Vec<String> {
        let strange = |(name, value): (&str, &Param)| {
            let (code, text) = (self.code.name, &self.text);
            if !self.code.has_param(name) {
                return Some(format!("{code} has no parameter {name}"));
            }
            if name == PROBLEM {
                let is_known = matches!(value, Param::Text(word) if self.code.has_problem(word));
                return (!is_known).then(|| format!("{code} has no problem {value:?}"));
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
/// Where a code has several sentences with the same values, `: word` behind it says which one it is, as the
/// parameter `problem`; the code's page lists these words:
///
/// ```
/// let message = strongroom_base::message!(STORE_DEGRADED: other_vault, "{url} holds another vault", url = "/b");
/// assert_eq!(message.params.get("problem").map(ToString::to_string).as_deref(), Some("other_vault"));
/// ```
///
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
/// ```compile_fail
/// strongroom_base::message!(STORE_DEGRADED: bad_mood, "{url} is sad", url = "/b");
/// ```
#[macro_export]
macro_rules! message {
    ($code:ident : $problem:ident, $($rest:tt)+) => {{
        const {
            assert!(
                $crate::codes::$code.has_problem(stringify!($problem)),
                concat!("the code has no problem ", stringify!($problem)),
            );
        }
        $crate::message!($code, $($rest)+).with_problem(stringify!($problem))
    }};
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
    use crate::{codes, words};

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
        let sad = message!(SOURCE_MISSING, "it is away").with_problem("sad").faults();
        assert!(sad.len() == 1 && sad[0].contains("no problem \"sad\""), "{sad:?}");
        let known = message!(SOURCE_MISSING: disk, "a disk is missing");
        assert_eq!(known.faults(), Vec::<String>::new());
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
