//! Versions of the service: dates that clients send, and that answers repeat.

use std::{fmt, str::FromStr};

use crate::{Code, Refusal};

/// A version of the service, as `x-ms-version` has it: a date. Every well-formed date since [`Version::OLDEST`] is
/// accepted, so that no release of an SDK is refused for being newer than this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    year: u16,
    month: u8,
    day: u8,
}

impl Version {
    /// The first version with page blobs, and the version of requests that name none.
    pub const OLDEST: Self = Self::new(2009, 9, 19);
    /// What our own client sends.
    pub const OURS: Self = Self::new(2026, 10, 6);

    /// The version of this date.
    pub const fn new(year: u16, month: u8, day: u8) -> Self {
        Self { year, month, day }
    }

    /// Reads a header's value.
    pub fn from_header(value: &str) -> Result<Self, Refusal> {
        value.parse().map_err(|BadVersion| Refusal::header("x-ms-version", value))
    }

    /// Reads the value of a query parameter.
    pub(crate) fn from_query(name: &'static str, value: &str) -> Result<Self, Refusal> {
        value.parse().map_err(|BadVersion| {
            Refusal::new(Code::InvalidQueryParameterValue)
                .with("QueryParameterName", name)
                .with("QueryParameterValue", value)
        })
    }
}

/// Not a date, or one before [`Version::OLDEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version: a version is a date as 2009-09-19, or a later one")]
pub struct BadVersion;

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let mut parts = text.split('-');
        let mut number = |digits: usize| {
            parts
                .next()
                .filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|part| part.parse::<u16>().ok())
                .ok_or(BadVersion)
        };
        let (year, month, day) = (number(4)?, number(2)?, number(2)?);
        let date = (|| {
            jiff::civil::Date::new(
                i16::try_from(year).ok()?,
                i8::try_from(month).ok()?,
                i8::try_from(day).ok()?,
            )
            .ok()
        })();
        if date.is_none() || parts.next().is_some() {
            return Err(BadVersion);
        }
        let small = |n: u16| u8::try_from(n).map_err(|_| BadVersion);
        let version = Self::new(year, small(month)?, small(day)?);
        if version < Self::OLDEST { Err(BadVersion) } else { Ok(version) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_date_since_page_blobs_is_a_version() {
        for text in ["2009-09-19", "2015-02-21", "2026-10-06", "2027-03-07", "2099-12-31"] {
            assert_eq!(text.parse::<Version>().expect(text).to_string(), text);
        }
        assert!(Version::new(2019, 2, 2) < Version::new(2019, 12, 12));
    }

    #[test]
    fn what_is_no_date_is_refused_as_a_header_value() {
        let bad =
            ["", "latest", "2009-09-18", "2024-13-01", "2024-02-30", "2024-2-01", "2024-02-01x"];
        for text in bad.into_iter().chain(["+024-02-01", "2024-02-01-01", " 2024-02-01"]) {
            assert_eq!(text.parse::<Version>(), Err(BadVersion), "{text}");
            let refusal = Version::from_header(text).expect_err(text);
            assert_eq!(refusal.code(), Code::InvalidHeaderValue);
        }
    }
}
