//! The query of a request: percent-decoding, and parameters by their names in lower case.

use std::fmt;

use crate::{Code, Refusal};

/// The most parameters of one request.
const MAX_PARAMETERS: usize = 64;

/// The parameters of a query. A name is there once: two values of one name are refused, because a signature and the
/// code behind it might then read different ones.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

/// Without values, which may be secrets.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Query {
    /// Reads the part of a request's target after its question mark.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = percent_decode(&name.replace('+', " "))?.to_lowercase();
            let value = percent_decode(&value.replace('+', " "))?;
            if query.0.len() == MAX_PARAMETERS {
                return Err(Refusal::new(Code::UnsupportedQueryParameter));
            }
            if query.0.iter().any(|(other, _)| *other == name) {
                let shown = if name == "sig" { "" } else { &value };
                return Err(Refusal::parameter(&name, shown, "The parameter is given twice."));
            }
            query.0.push((name, value));
        }
        Ok(query)
    }

    /// The decoded value of a parameter, if it is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value)
            .filter(|v| !v.is_empty())
    }

    /// The value, or a refusal that names the parameter.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::new(Code::MissingRequiredQueryParameter).with("QueryParameterName", name)
        })
    }

    /// The value, read by `parse`.
    pub(crate) fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let refused =
            || Refusal::parameter(name, value, "The value is not in the format of the parameter.");
        parse(value).map(Some).ok_or_else(refused)
    }

    /// Every parameter, in the order of the request.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Replaces `%XX` by its byte. A percent sign without two hexadecimal digits, bytes that are not UTF-8 and the
/// character NUL are refused.
pub(crate) fn percent_decode(text: &str) -> Result<String, Refusal> {
    let refused = || Refusal::new(Code::InvalidUri);
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            let (high, low) = (digit().ok_or_else(refused)?, digit().ok_or_else(refused)?);
            u8::try_from(high * 16 + low).map_err(|_| refused())?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok().filter(|text| !text.contains('\0')).ok_or_else(refused)
}

/// Writes text so that [`percent_decode`] reads it, with every byte escaped that is not unreserved in a URL and not
/// one of `keep`.
pub(crate) fn percent_encode(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let kept = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || keep.as_bytes().contains(&byte);
        if kept {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                encoded.push(
                    char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase(),
                );
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_have_no_case_and_values_are_decoded() {
        let query =
            Query::parse("Comp=pagelist&prevsnapshot=2026-11-28T16%3A17&prefix=a+b%2Bc&acquire")
                .expect("ok");
        assert_eq!(query.get("comp"), Some("pagelist"));
        assert_eq!(query.get("prevsnapshot"), Some("2026-11-28T16:17"));
        assert_eq!(query.get("prefix"), Some("a b+c"));
        assert_eq!(query.get("acquire"), None);
        assert_eq!(query.iter().count(), 4);
    }

    #[test]
    fn a_parameter_with_two_values_is_refused() {
        let refusal = Query::parse("sp=r&SP=w").expect_err("is ambiguous");
        assert_eq!(refusal.code(), Code::InvalidQueryParameterValue);
    }

    #[test]
    fn a_target_that_is_no_text_is_refused() {
        for bad in ["%", "%4", "%zz", "%+1", "%ff", "%c3", "a%00b"] {
            assert_eq!(percent_decode(bad), Err(Code::InvalidUri.into()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_text_survives_its_encoding(text in "[^\0]{0,60}") {
            prop_assert_eq!(percent_decode(&percent_encode(&text, "")), Ok(text.clone()));
            prop_assert_eq!(percent_decode(&percent_encode(&text, "/")), Ok(text));
        }

        #[test]
        fn no_query_makes_the_parser_panic(text in ".{0,100}") {
            Query::parse(&text).ok();
        }
    }
}
