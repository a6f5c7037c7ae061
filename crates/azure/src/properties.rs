//! What a client keeps on a blob or container: metadata and HTTP headers; kinds of blobs and tiers.

use std::{collections::BTreeMap, str::FromStr};

use crate::{Code, Headers, Refusal, checksum::parse_md5};

/// The most bytes of all names and values of metadata.
pub const MAX_METADATA: usize = 8 << 10;

/// What the names of metadata's headers begin with.
const PREFIX: &str = "x-ms-meta-";

/// Metadata: names in lower case, and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Reads the headers `x-ms-meta-NAME`. A name is an identifier of C#.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        let pairs =
            headers.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value)));
        Self::of(pairs)
    }

    /// Checks names and values. Names become lower case.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Refusal> {
        let mut metadata = Self::default();
        let mut bytes = 0_usize;
        for (name, value) in pairs {
            if name.is_empty() {
                return Err(Code::EmptyMetadataKey.into());
            }
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let identifier =
                name.bytes().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
            let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
            if !identifier || !printable {
                return Err(Code::InvalidMetadata.into());
            }
            bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
            if bytes > MAX_METADATA {
                return Err(Code::MetadataTooLarge.into());
            }
            metadata.0.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        Ok(metadata)
    }

    /// What of these names and values keeps the rules.
    pub(crate) fn of_valid<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut metadata = Self::default();
        for pair in pairs {
            metadata.0.extend(Self::of([pair]).unwrap_or_default().0);
        }
        metadata
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Headers of a request or an answer.
    pub fn to_headers(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()))
    }
}

/// The HTTP headers that a read of a blob answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobHeaders {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-MD5` of the whole blob, as the client gave it.
    pub content_md5: Option<[u8; 16]>,
}

impl BlobHeaders {
    /// What a blob's `Content-Type` is if nobody says.
    pub const DEFAULT_TYPE: &str = "application/octet-stream";

    /// Reads the headers `x-ms-blob-*`.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        let text = |name: &str| headers.get(name).map(str::to_owned);
        Ok(Self {
            content_type: text("x-ms-blob-content-type"),
            content_encoding: text("x-ms-blob-content-encoding"),
            content_language: text("x-ms-blob-content-language"),
            content_disposition: text("x-ms-blob-content-disposition"),
            cache_control: text("x-ms-blob-cache-control"),
            content_md5: parse_md5(headers, "x-ms-blob-content-md5")?,
        })
    }

    /// Reads the headers `x-ms-blob-*`, and what they do not say from the standard headers, as Put Blob does.
    pub fn parse_with_standard(headers: &Headers) -> Result<Self, Refusal> {
        let own = Self::parse(headers)?;
        let text =
            |own: Option<String>, name: &str| own.or_else(|| headers.get(name).map(str::to_owned));
        Ok(Self {
            content_type: text(own.content_type, "content-type"),
            content_encoding: text(own.content_encoding, "content-encoding"),
            content_language: text(own.content_language, "content-language"),
            content_disposition: own.content_disposition,
            cache_control: text(own.cache_control, "cache-control"),
            content_md5: own.content_md5,
        })
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A kind of blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlobType {
    /// Made of blocks.
    Block,
    /// Made of pages of 512 bytes.
    Page,
    /// Made of blocks that are appended.
    Append,
}

impl BlobType {
    /// As headers and lists have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "BlockBlob",
            Self::Page => "PageBlob",
            Self::Append => "AppendBlob",
        }
    }
}

/// A name that is not one of a fixed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of the names that are known here")]
pub struct UnknownName;

impl FromStr for BlobType {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        [Self::Block, Self::Page, Self::Append]
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(text))
            .ok_or(UnknownName)
    }
}

/// A tier of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessTier {
    /// Block blobs: often read.
    Hot,
    /// Block blobs: rarely read.
    Cool,
    /// Block blobs: hardly ever read.
    Cold,
    /// Block blobs: not readable before they are moved to another tier.
    Archive,
    /// Page blobs of premium accounts: `P` and a number.
    Premium(u8),
}

impl AccessTier {
    const BLOCK: [(Self, &str); 4] = [
        (Self::Hot, "Hot"),
        (Self::Cool, "Cool"),
        (Self::Cold, "Cold"),
        (Self::Archive, "Archive"),
    ];
    const PREMIUM: [u8; 11] = [4, 6, 10, 15, 20, 30, 40, 50, 60, 70, 80];

    /// As headers have it.
    pub fn name(self) -> String {
        match self {
            Self::Premium(number) => format!("P{number}"),
            tier => Self::BLOCK
                .iter()
                .find(|(other, _)| *other == tier)
                .map(|(_, name)| (*name).to_owned())
                .unwrap_or_default(),
        }
    }

    /// The tier in the header `x-ms-access-tier`.
    pub(crate) fn of(headers: &Headers) -> Result<Option<Self>, Refusal> {
        headers.parsed("x-ms-access-tier", |text| text.parse().ok())
    }

    /// Whether blobs of this kind, in an account of this kind, have such tiers.
    pub fn check(self, kind: BlobType, is_premium: bool) -> Result<(), Refusal> {
        match (self, kind) {
            (Self::Premium(_), BlobType::Page) if is_premium => Ok(()),
            (Self::Premium(_), BlobType::Page) => {
                Err(Code::BlobAccessTierNotSupportedForAccountType.into())
            }
            (Self::Premium(_), _) | (_, BlobType::Page | BlobType::Append) => {
                Err(Code::AccessTierNotSupportedForBlobType.into())
            }
            (_, BlobType::Block) if is_premium => {
                Err(Code::BlobAccessTierNotSupportedForAccountType.into())
            }
            (_, BlobType::Block) => Ok(()),
        }
    }
}

impl FromStr for AccessTier {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        if let Some((tier, _)) =
            Self::BLOCK.iter().find(|(_, name)| name.eq_ignore_ascii_case(text))
        {
            return Ok(*tier);
        }
        let number = text.strip_prefix(['P', 'p']).and_then(|digits| digits.parse().ok());
        number.filter(|number| Self::PREMIUM.contains(number)).map(Self::Premium).ok_or(UnknownName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&str, &str)]) -> Result<Metadata, Code> {
        let headers = Headers::of(pairs.iter().copied()).expect("headers");
        Metadata::parse(&headers).map_err(|refusal| refusal.code())
    }

    #[test]
    fn metadata_has_the_names_of_identifiers() {
        let both = metadata(&[("x-ms-meta-Name", "a b"), ("x-ms-meta-_2", ""), ("x-ms-date", "x")]);
        let both = both.expect("is fine");
        assert_eq!(both.iter().collect::<Vec<_>>(), [("_2", ""), ("name", "a b")]);
        assert_eq!(metadata(&[("x-ms-meta-", "v")]), Err(Code::EmptyMetadataKey));
        for bad in ["x-ms-meta-1a", "x-ms-meta-a-b", "x-ms-meta-a.b"] {
            assert_eq!(metadata(&[(bad, "v")]), Err(Code::InvalidMetadata), "{bad}");
        }
        let headers: Vec<_> = both.to_headers().collect();
        let again =
            Headers::of(headers.iter().map(|(a, b)| (a.as_str(), b.as_str()))).expect("headers");
        assert_eq!(Metadata::parse(&again), Ok(both));
    }

    #[test]
    fn metadata_is_bounded() {
        let value = "x".repeat(MAX_METADATA - 1);
        assert!(metadata(&[("x-ms-meta-a", &value)]).is_ok());
        assert_eq!(metadata(&[("x-ms-meta-ab", &value)]), Err(Code::MetadataTooLarge));
    }

    #[test]
    fn headers_of_a_blob_are_its_own_before_the_standard_ones() {
        let sent = Headers::of([("content-type", "a/b"), ("x-ms-blob-cache-control", "none")])
            .expect("headers");
        let parsed = BlobHeaders::parse_with_standard(&sent).expect("ok");
        assert_eq!(parsed.content_type.as_deref(), Some("a/b"));
        assert_eq!(BlobHeaders::parse(&sent).expect("ok").content_type, None);
        let bad = Headers::of([("x-ms-blob-content-md5", "eA==")]).expect("headers");
        let refusal = BlobHeaders::parse(&bad).expect_err("is too short");
        assert_eq!(refusal.code(), Code::InvalidMd5);
    }

    #[test]
    fn tiers_belong_to_kinds_of_blobs_and_accounts() {
        assert_eq!("p10".parse(), Ok(AccessTier::Premium(10)));
        assert_eq!("P11".parse::<AccessTier>(), Err(UnknownName));
        assert_eq!("cool".parse::<AccessTier>().expect("is a tier").name(), "Cool");
        let refused =
            |tier: AccessTier, kind, premium| tier.check(kind, premium).map_err(|r| r.code());
        assert_eq!(refused(AccessTier::Premium(10), BlobType::Page, true), Ok(()));
        let standard = refused(AccessTier::Premium(10), BlobType::Page, false);
        assert_eq!(standard, Err(Code::BlobAccessTierNotSupportedForAccountType));
        assert_eq!(
            refused(AccessTier::Hot, BlobType::Page, false),
            Err(Code::AccessTierNotSupportedForBlobType)
        );
        assert_eq!(refused(AccessTier::Hot, BlobType::Block, false), Ok(()));
    }
}
