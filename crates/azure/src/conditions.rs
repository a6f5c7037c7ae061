//! Conditions of requests: what a blob, a container or a source must be like for a request to be carried out.

use std::fmt;

use jiff::Timestamp;

use crate::{
    Code, Headers, Refusal,
    time::{http_date, parse_http_date},
};

/// The longest tag, in bytes.
const MAX_ETAG: usize = 128;

/// The tag of one state of a blob or container. Kept without quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(String);

impl ETag {
    /// The tag of a number, as Azure writes tags: `0x8DEE7A1B2C3D4E5`.
    pub fn from_number(number: u64) -> Self {
        Self(format!("0x{number:X}"))
    }

    /// Reads a tag, with quotes or without.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.strip_prefix('"').map_or(Some(text), |rest| rest.strip_suffix('"'))?;
        let fine = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',');
        (!plain.is_empty() && plain.len() <= MAX_ETAG && plain.bytes().all(fine))
            .then(|| Self(plain.to_owned()))
    }

    /// The tag without quotes, as lists have it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// With quotes, as headers have it.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// What `If-Match` or `If-None-Match` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever is there.
    Any,
    /// One state.
    One(ETag),
}

impl Tags {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" { Some(Self::Any) } else { ETag::parse(text).map(Self::One) }
    }

    fn holds(&self, current: Option<&State<'_>>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::One(tag), Some(state)) => tag == state.etag,
        }
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(tag) => tag.fmt(f),
        }
    }
}

/// The state of what a condition is about.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// Its tag.
    pub etag: &'a ETag,
    /// When it was last changed. Fractions of a second do not count.
    pub last_modified: Timestamp,
}

/// What a request does with what its conditions are about; decides the code of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads: 304 if nothing has changed, else 412.
    Read,
    /// It changes something that is there: 412.
    Write,
    /// It creates or replaces a blob: 409 `BlobAlreadyExists` for `If-None-Match: *`, else 412.
    Create,
}

/// The conditions `If-*` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`.
    pub if_match: Option<Tags>,
    /// `If-None-Match`.
    pub if_none_match: Option<Tags>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<Timestamp>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<Timestamp>,
}

const TARGET: [&str; 4] = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
const SOURCE: [&str; 4] = [
    "x-ms-source-if-match",
    "x-ms-source-if-none-match",
    "x-ms-source-if-modified-since",
    "x-ms-source-if-unmodified-since",
];

impl Conditions {
    /// Reads the conditions of what the request addresses.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        Self::named(headers, TARGET)
    }

    /// Reads the conditions of the source of a copy.
    pub fn parse_source(headers: &Headers) -> Result<Self, Refusal> {
        Self::named(headers, SOURCE)
    }

    /// Only the two pairs that Azure documents may be there together: `If-Match` with `If-Unmodified-Since`, and
    /// `If-None-Match` with `If-Modified-Since`. The tag of a pair decides.
    fn named(headers: &Headers, [matches, none, since, until]: [&str; 4]) -> Result<Self, Refusal> {
        let conditions = Self {
            if_match: headers.parsed(matches, Tags::parse)?,
            if_none_match: headers.parsed(none, Tags::parse)?,
            if_modified_since: headers.parsed(since, parse_http_date)?,
            if_unmodified_since: headers.parsed(until, parse_http_date)?,
        };
        let first = conditions.if_match.is_some() || conditions.if_unmodified_since.is_some();
        let second = conditions.if_none_match.is_some() || conditions.if_modified_since.is_some();
        if first && second {
            return Err(Code::MultipleConditionHeadersNotSupported.into());
        }
        Ok(conditions)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses conditions by tags, which containers do not have.
    pub(crate) fn only_times(self) -> Result<Self, Refusal> {
        if self.if_match.is_some() || self.if_none_match.is_some() {
            return Err(Code::ConditionHeadersNotSupported.into());
        }
        Ok(self)
    }

    /// Checks the conditions against the state of what is addressed; `None` if it does not exist. A read of
    /// something that does not exist is for the caller to refuse.
    pub fn check(&self, current: Option<State<'_>>, access: Access) -> Result<(), Refusal> {
        let not_modified =
            if access == Access::Read { Code::NotModified } else { Code::ConditionNotMet };
        let current = current.as_ref();
        if let Some(tags) = &self.if_match {
            if !tags.holds(current) {
                return Err(Code::ConditionNotMet.into());
            }
        } else if let (Some(until), Some(state)) = (self.if_unmodified_since, current)
            && state.last_modified.as_second() > until.as_second()
        {
            return Err(Code::ConditionNotMet.into());
        }
        if let Some(tags) = &self.if_none_match {
            match (tags, access) {
                (Tags::Any, Access::Read) => return Err(Code::UnsatisfiableCondition.into()),
                (Tags::Any, Access::Create) if current.is_some() => {
                    return Err(Code::BlobAlreadyExists.into());
                }
                _ if tags.holds(current) => return Err(not_modified.into()),
                _ => {}
            }
        } else if let (Some(since), Some(state)) = (self.if_modified_since, current)
            && state.last_modified.as_second() <= since.as_second()
        {
            return Err(not_modified.into());
        }
        Ok(())
    }

    /// Checks the conditions of a copy's source.
    pub fn check_source(&self, state: State<'_>) -> Result<(), Refusal> {
        self.check(Some(state), Access::Write).map_err(|_| Code::SourceConditionNotMet.into())
    }

    /// The conditions as headers of a request.
    pub fn to_headers(&self) -> Vec<(String, String)> {
        let [matches, none, since, until] = TARGET;
        [
            (matches, self.if_match.as_ref().map(Tags::to_string)),
            (none, self.if_none_match.as_ref().map(Tags::to_string)),
            (since, self.if_modified_since.map(http_date)),
            (until, self.if_unmodified_since.map(http_date)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }
}

/// Conditions on the sequence number of a page blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceConditions {
    /// `x-ms-if-sequence-number-le`: at most.
    pub at_most: Option<u64>,
    /// `x-ms-if-sequence-number-lt`: less than.
    pub less_than: Option<u64>,
    /// `x-ms-if-sequence-number-eq`: exactly.
    pub equal: Option<u64>,
}

impl SequenceConditions {
    /// Reads them.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        Ok(Self {
            at_most: headers.number("x-ms-if-sequence-number-le")?,
            less_than: headers.number("x-ms-if-sequence-number-lt")?,
            equal: headers.number("x-ms-if-sequence-number-eq")?,
        })
    }

    /// Checks them against the blob's sequence number.
    pub fn check(&self, number: u64) -> Result<(), Refusal> {
        let met = self.at_most.is_none_or(|limit| number <= limit)
            && self.less_than.is_none_or(|limit| number < limit)
            && self.equal.is_none_or(|wanted| number == wanted);
        if met { Ok(()) } else { Err(Code::SequenceNumberConditionNotMet.into()) }
    }
}

/// Conditions on the length of an append blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendConditions {
    /// `x-ms-blob-condition-maxsize`: what the blob may grow to, in bytes.
    pub max_size: Option<u64>,
    /// `x-ms-blob-condition-appendpos`: where the block must begin.
    pub position: Option<u64>,
}

impl AppendConditions {
    /// Reads them.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        Ok(Self {
            max_size: headers.number("x-ms-blob-condition-maxsize")?,
            position: headers.number("x-ms-blob-condition-appendpos")?,
        })
    }

    /// Checks them against the blob's length, and the length that is appended.
    pub fn check(&self, length: u64, appended: u64) -> Result<(), Refusal> {
        if self.position.is_some_and(|position| position != length) {
            return Err(Code::AppendPositionConditionNotMet.into());
        }
        if self.max_size.is_some_and(|limit| length.saturating_add(appended) > limit) {
            return Err(Code::MaxBlobSizeConditionNotMet.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: &str = "Sat, 28 Nov 2026 16:17:00 GMT";

    fn conditions(headers: &[(&str, &str)]) -> Result<Conditions, Refusal> {
        Conditions::parse(&Headers::of(headers.iter().copied()).expect("headers"))
    }

    fn check(header: (&str, &str), seconds_later: i64, access: Access) -> Result<(), Code> {
        let etag = ETag::from_number(255);
        let day = parse_http_date(DAY).expect("is a date");
        let last_modified = day + jiff::SignedDuration::new(seconds_later, 700_000_000);
        let state = State { etag: &etag, last_modified };
        let conditions = conditions(&[header]).expect("are conditions");
        conditions.check(Some(state), access).map_err(|refusal| refusal.code())
    }

    #[test]
    fn a_tag_has_quotes_in_headers_and_may_lack_them_in_requests() {
        assert_eq!(ETag::from_number(0x8DE).to_string(), "\"0x8DE\"");
        assert_eq!(ETag::parse("\"0x8DE\""), ETag::parse("0x8DE"));
        for bad in ["", "\"", "\"\"", "\"a", "a\"b", "a,b", "\"a\",\"b\""] {
            assert_eq!(ETag::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_failed_condition_has_the_code_of_its_access() {
        use Access::{Create, Read, Write};
        assert_eq!(check(("if-match", "\"0xFF\""), 0, Read), Ok(()));
        assert_eq!(check(("if-match", "*"), 0, Write), Ok(()));
        assert_eq!(check(("if-match", "\"0xFE\""), 0, Read), Err(Code::ConditionNotMet));
        assert_eq!(check(("if-none-match", "\"0xFF\""), 0, Read), Err(Code::NotModified));
        assert_eq!(check(("if-none-match", "\"0xFF\""), 0, Write), Err(Code::ConditionNotMet));
        assert_eq!(check(("if-none-match", "\"0xFE\""), 0, Read), Ok(()));
        assert_eq!(check(("if-none-match", "*"), 0, Read), Err(Code::UnsatisfiableCondition));
        assert_eq!(check(("if-none-match", "*"), 0, Write), Err(Code::ConditionNotMet));
        assert_eq!(check(("if-none-match", "*"), 0, Create), Err(Code::BlobAlreadyExists));
    }

    #[test]
    fn times_are_compared_by_whole_seconds() {
        use Access::{Read, Write};
        assert_eq!(check(("if-modified-since", DAY), 0, Read), Err(Code::NotModified));
        assert_eq!(check(("if-modified-since", DAY), 0, Write), Err(Code::ConditionNotMet));
        assert_eq!(check(("if-modified-since", DAY), 1, Read), Ok(()));
        assert_eq!(check(("if-unmodified-since", DAY), 0, Read), Ok(()));
        assert_eq!(check(("if-unmodified-since", DAY), 1, Read), Err(Code::ConditionNotMet));
    }

    #[test]
    fn what_does_not_exist_matches_no_tag() {
        let with =
            |name, value| conditions(&[(name, value)]).expect("ok").check(None, Access::Create);
        assert_eq!(with("if-none-match", "*"), Ok(()));
        assert_eq!(with("if-match", "*"), Err(Code::ConditionNotMet.into()));
        assert_eq!(with("if-unmodified-since", DAY), Ok(()));
    }

    #[test]
    fn only_documented_pairs_may_be_together() {
        let codes =
            |headers: &[(&str, &str)]| conditions(headers).map_err(|refusal| refusal.code());
        assert!(codes(&[("if-match", "a"), ("if-unmodified-since", DAY)]).is_ok());
        assert!(codes(&[("if-none-match", "a"), ("if-modified-since", DAY)]).is_ok());
        let mixed = [("if-match", "a"), ("if-none-match", "b")];
        assert_eq!(codes(&mixed), Err(Code::MultipleConditionHeadersNotSupported));
        assert_eq!(codes(&[("if-modified-since", "soon")]), Err(Code::InvalidHeaderValue));
    }

    #[test]
    fn sequence_and_append_conditions_are_checked() {
        let headers = Headers::of([("x-ms-if-sequence-number-lt", "7")]).expect("headers");
        let lt = SequenceConditions::parse(&headers).expect("ok");
        assert_eq!(lt.check(6), Ok(()));
        assert_eq!(lt.check(7), Err(Code::SequenceNumberConditionNotMet.into()));
        let append = AppendConditions { max_size: Some(10), position: Some(6) };
        assert_eq!(append.check(6, 4), Ok(()));
        assert_eq!(append.check(6, 5), Err(Code::MaxBlobSizeConditionNotMet.into()));
        assert_eq!(append.check(5, 4), Err(Code::AppendPositionConditionNotMet.into()));
    }
}
