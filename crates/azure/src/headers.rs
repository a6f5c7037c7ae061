//! The headers of a request or an answer: names in lower case, values as text, bounded.

use std::{collections::BTreeMap, fmt};

use crate::{Code, Refusal};

/// The most headers of one request.
pub const MAX_HEADERS: usize = 256;
/// The most bytes of all names and values of one request.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// Headers by their names in lower case. Values of a header that is sent twice are joined by commas.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<String, String>);

/// Without values, which may be secrets.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Headers {
    /// Takes the headers of a request. Values that are not ASCII are refused in headers of the dialect and dropped
    /// in others.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Refusal> {
        let mut headers = Self::default();
        let (mut count, mut bytes) = (0_usize, 0_usize);
        for (name, value) in fields {
            count += 1;
            bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
            if count > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
                return Err(Refusal::new(Code::InvalidInput)
                    .with("Reason", "The headers of the request are too many or too long."));
            }
            let name = name.to_ascii_lowercase();
            match std::str::from_utf8(value) {
                Ok(text) if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) => {
                    headers.add(name, text.trim_matches([' ', '\t']));
                }
                _ if name.starts_with("x-ms-meta-") => return Err(Code::InvalidMetadata.into()),
                _ if name.starts_with("x-ms-") || SIGNED.contains(&name.as_str()) => {
                    return Err(Refusal::header(&name, ""));
                }
                _ => {}
            }
        }
        Ok(headers)
    }

    /// Headers of names and values that are known to be text.
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Refusal> {
        Self::new(fields.into_iter().map(|(name, value)| (name, value.as_bytes())))
    }

    fn add(&mut self, name: String, value: &str) {
        self.0
            .entry(name)
            .and_modify(|text| {
                text.push(',');
                text.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }

    /// The value of a header, if it is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value, or a refusal that names the header.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::missing(name))
    }

    /// The value, read by `parse`.
    pub(crate) fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        parse(value).map(Some).ok_or_else(|| Refusal::header(name, value))
    }

    /// A number without a sign.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.parsed(name, parse_number)
    }

    /// `true` or `false`; false if it is missing.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        let parse = |value: &str| match () {
            () if value.eq_ignore_ascii_case("true") => Some(true),
            () if value.eq_ignore_ascii_case("false") => Some(false),
            () => None,
        };
        Ok(self.parsed(name, parse)?.unwrap_or(false))
    }

    /// Every header, sorted by its name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The headers besides `x-ms-*` that a signature covers, in its order.
pub(crate) const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Digits only: `u64::from_str` would take a plus sign.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_values_no_surrounding_blanks() {
        let headers =
            Headers::of([("X-Ms-Version", " 2026-10-06\t"), ("Range", "")]).expect("is fine");
        assert_eq!(headers.get("x-ms-version"), Some("2026-10-06"));
        assert_eq!(headers.get("range"), None);
    }

    #[test]
    fn a_header_that_is_sent_twice_is_one_with_a_comma() {
        let headers = Headers::of([("x-ms-meta-a", "1"), ("X-MS-META-A", "2")]).expect("is fine");
        assert_eq!(headers.get("x-ms-meta-a"), Some("1,2"));
    }

    #[test]
    fn values_that_are_not_ascii_are_refused_where_they_matter() {
        let code =
            |name: &str| Headers::new([(name, &b"\xff"[..])]).map_err(|refusal| refusal.code());
        assert_eq!(code("x-ms-meta-a"), Err(Code::InvalidMetadata));
        assert_eq!(code("x-ms-range"), Err(Code::InvalidHeaderValue));
        assert_eq!(code("if-match"), Err(Code::InvalidHeaderValue));
        assert_eq!(code("user-agent"), Ok(Headers::default()));
    }

    #[test]
    fn too_many_and_too_long_headers_are_refused() {
        let long = "x".repeat(MAX_HEADER_BYTES);
        assert!(Headers::of([("a", long.as_str())]).is_err());
        assert!(Headers::of((0..=MAX_HEADERS).map(|_| ("a", "b"))).is_err());
    }
}
