//! Names of accounts, containers and blobs, by Azure's rules.

use std::fmt;

use crate::{Code, Refusal};

/// The longest name of a blob, in characters.
pub const MAX_BLOB_NAME: usize = 1024;
/// The most segments between slashes in a blob's name.
pub const MAX_BLOB_SEGMENTS: usize = 254;

/// Containers whose names break the rule of names, and are known.
const SPECIAL: [&str; 5] = ["$root", "$web", "$logs", "$blobchangefeed", "$metrics"];

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Refusal;

            fn from_str(text: &str) -> Result<Self, Refusal> {
                Self::new(text)
            }
        }
    };
}

name! {
    /// The name of a storage account: 3 to 24 lower-case letters and digits.
    AccountName
}

name! {
    /// The name of a container: 3 to 63 lower-case letters, digits and single hyphens between them; or one of
    /// `$root`, `$web`, `$logs`, `$blobchangefeed`, `$metrics`.
    ContainerName
}

name! {
    /// The name of a blob: 1 to 1024 characters, with at most 254 segments between slashes.
    BlobName
}

impl AccountName {
    /// Checks a name.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !text.bytes().all(plain) {
            return Err(Code::InvalidResourceName.into());
        }
        if !(3..=24).contains(&text.len()) {
            return Err(Code::NameLengthOutOfRange.into());
        }
        Ok(Self(text.to_owned()))
    }
}

impl ContainerName {
    /// The container of blobs that are addressed without one.
    pub const ROOT: &str = "$root";

    /// Checks a name.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        if SPECIAL.contains(&text) {
            return Ok(Self(text.to_owned()));
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let hyphens = text.starts_with('-') || text.ends_with('-') || text.contains("--");
        if hyphens || !text.bytes().all(plain) {
            return Err(Code::InvalidResourceName.into());
        }
        if !(3..=63).contains(&text.len()) {
            return Err(Code::NameLengthOutOfRange.into());
        }
        Ok(Self(text.to_owned()))
    }

    /// The container of blobs that are addressed without one.
    pub fn root() -> Self {
        Self(Self::ROOT.to_owned())
    }

    /// Whether it is `$root`, whose blobs' names may have no slash.
    pub fn is_root(&self) -> bool {
        self.0 == Self::ROOT
    }
}

impl BlobName {
    /// Checks a name.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        if text.contains('\0') {
            return Err(Code::InvalidResourceName.into());
        }
        if text.is_empty() || text.chars().count() > MAX_BLOB_NAME {
            return Err(Code::NameLengthOutOfRange.into());
        }
        if text.split('/').count() > MAX_BLOB_SEGMENTS {
            return Err(Code::InvalidResourceName.into());
        }
        Ok(Self(text.to_owned()))
    }
}

/// A blob within an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobPath {
    /// Its container.
    pub container: ContainerName,
    /// Its name.
    pub name: BlobName,
}

impl fmt::Display for BlobPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_accounts_are_short_and_plain() {
        assert!(AccountName::new("devstoreaccount1").is_ok());
        for bad in ["Upper", "with-hyphen", "a/b", "tést"] {
            assert_eq!(AccountName::new(bad), Err(Code::InvalidResourceName.into()), "{bad}");
        }
        for bad in ["", "ab", "abcdefghijklmnopqrstuvwxy"] {
            assert_eq!(AccountName::new(bad), Err(Code::NameLengthOutOfRange.into()), "{bad}");
        }
    }

    #[test]
    fn names_of_containers_have_single_hyphens_inside() {
        for good in ["abc", "a-b", "my-container-1", "$root", "$web", "$logs", &"x".repeat(63)] {
            assert_eq!(ContainerName::new(good).expect(good).as_str(), good);
        }
        for bad in ["Abc", "a--b", "-ab", "ab-", "a_b", "$other", "a.b"] {
            assert_eq!(ContainerName::new(bad), Err(Code::InvalidResourceName.into()), "{bad}");
        }
        for bad in ["", "ab", &"x".repeat(64)] {
            assert_eq!(ContainerName::new(bad), Err(Code::NameLengthOutOfRange.into()), "{bad}");
        }
    }

    #[test]
    fn names_of_blobs_are_counted_in_characters() {
        assert!(BlobName::new(&"ü".repeat(1024)).is_ok());
        assert_eq!(BlobName::new(&"u".repeat(1025)), Err(Code::NameLengthOutOfRange.into()));
        assert_eq!(BlobName::new(""), Err(Code::NameLengthOutOfRange.into()));
        assert!(BlobName::new(&["a"; 254].join("/")).is_ok());
        assert_eq!(BlobName::new(&["a"; 255].join("/")), Err(Code::InvalidResourceName.into()));
    }
}
