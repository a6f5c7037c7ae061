//! The types of the service's API: requests and answers, in JSON.
//!
//! The server, its clients and the catalog speak with these types, so that a vault, an item or a
//! job is the same thing in each. Fields are only ever added: the server understands older clients,
//! and a client may ignore unknown fields. Durations and sizes have their unit in their name; times
//! are RFC 3339 in UTC.
//!
//! This crate knows no database, no network and no policy's rules.

mod access;
mod alert;
mod boot;
mod error;
mod files;
mod host;
mod item;
mod job;
mod page;
mod point;
mod policy;
mod reference;
mod report;
mod restore;
mod status;
mod storage;
mod vault;

pub use access::*;
pub use alert::*;
pub use boot::*;
pub use error::*;
pub use files::*;
pub use host::*;
pub use item::*;
pub use job::*;
pub use page::*;
pub use point::*;
pub use policy::*;
pub use reference::*;
pub use report::*;
pub use restore::*;
pub use status::*;
pub use storage::*;
pub use vault::*;

/// Implements `Display`, `FromStr` and the list of all values for an enum that is one word in JSON.
macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $word:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize,
            serde::Deserialize,
        )]
        pub enum $name {
            $($(#[doc = $variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// All values, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word in JSON, on the command line and in the console.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The same in a sentence: without underscores.
            pub fn in_words(self) -> String {
                self.name().replace('_', " ")
            }
        }

        // By hand: the derive does not see words that come from a macro.
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, Type};
                let words = concat!($($doc, "\n",)* $("\n- `", $word, "`:", $($variant_doc,)*)*);
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some([$($word),*]))
                    .description(Some(words.trim()))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        strongroom_base::text_params! { $name }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::NotAWord;

            fn from_str(text: &str) -> Result<Self, $crate::NotAWord> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::NotAWord {
                        text: text.chars().take(80).collect(),
                        words: &[$($word),*],
                    }),
                }
            }
        }
    };
}
use words;

/// A text that is not one of the allowed values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAWord {
    /// The text, cut to 80 characters.
    pub text: String,
    /// The allowed values.
    pub words: &'static [&'static str],
}

impl std::fmt::Display for NotAWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not one of {}", self.text, self.words.join(", "))
    }
}

impl std::error::Error for NotAWord {}
