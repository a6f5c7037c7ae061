//! Leases: their ids, what can be done with one, and what a blob or container says of it.

use std::{fmt, str::FromStr};

use crate::{Code, Conditions, Headers, Refusal};

/// The id of a lease: a GUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId([u8; 16]);

impl LeaseId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The id in the header `x-ms-lease-id`.
    pub fn of(headers: &Headers) -> Result<Option<Self>, Refusal> {
        headers.parsed("x-ms-lease-id", |value| value.parse().ok())
    }

    fn required(headers: &Headers) -> Result<Self, Refusal> {
        Self::of(headers)?.ok_or_else(|| Refusal::missing("x-ms-lease-id"))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Not a GUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a lease: an id is a GUID as 5f5f3a2e-1d0c-4b8a-9c7d-0a1b2c3d4e5f")]
pub struct BadLeaseId;

/// 32 hexadecimal digits; or with hyphens, and then perhaps in braces or parentheses.
impl FromStr for LeaseId {
    type Err = BadLeaseId;

    fn from_str(text: &str) -> Result<Self, BadLeaseId> {
        let within =
            |open, close| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        let inner = within('{', '}').or_else(|| within('(', ')')).unwrap_or(text);
        let hyphenated = inner.len() == 36
            && inner
                .bytes()
                .enumerate()
                .all(|(at, byte)| matches!(at, 8 | 13 | 18 | 23) == (byte == b'-'));
        if !hyphenated && (inner.len() != 32 || inner != text) {
            return Err(BadLeaseId);
        }
        let mut digits = inner.chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
        let mut id = [0; 16];
        for byte in &mut id {
            let mut digit = || digits.next().flatten().ok_or(BadLeaseId);
            *byte = u8::try_from(digit()? * 16 + digit()?).map_err(|_| BadLeaseId)?;
        }
        Ok(Self(id))
    }
}

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseDuration {
    /// Until it is released or broken.
    Infinite,
    /// This number of seconds, 15 to 60, unless it is renewed.
    Seconds(u8),
}

impl LeaseDuration {
    fn parse(text: &str) -> Option<Self> {
        match text.parse::<i64>().ok()? {
            -1 => Some(Self::Infinite),
            seconds @ 15..=60 => Some(Self::Seconds(u8::try_from(seconds).ok()?)),
            _ => None,
        }
    }

    /// As properties have it: `infinite` or `fixed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infinite => "infinite",
            Self::Seconds(_) => "fixed",
        }
    }
}

/// What is done with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// Takes it.
    Acquire {
        /// How long.
        duration: LeaseDuration,
        /// The id that the client wants.
        proposed: Option<LeaseId>,
    },
    /// Begins its time again.
    Renew(LeaseId),
    /// Gives it another id.
    Change {
        /// Its id.
        id: LeaseId,
        /// The new id.
        proposed: LeaseId,
    },
    /// Ends it.
    Release(LeaseId),
    /// Ends it without its id.
    Break {
        /// After how many seconds, 0 to 60, if that is before its end.
        period_seconds: Option<u8>,
    },
}

/// `PUT ?comp=lease`, on a blob or a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is done.
    pub action: LeaseAction,
    /// Under which conditions.
    pub conditions: Conditions,
}

impl Lease {
    pub(crate) fn parse(headers: &Headers) -> Result<Self, Refusal> {
        let proposed =
            || headers.parsed("x-ms-proposed-lease-id", |value| value.parse::<LeaseId>().ok());
        let name = headers.required("x-ms-lease-action")?;
        let action = match name.to_ascii_lowercase().as_str() {
            "acquire" => LeaseAction::Acquire {
                duration: headers
                    .parsed("x-ms-lease-duration", LeaseDuration::parse)?
                    .ok_or_else(|| Refusal::missing("x-ms-lease-duration"))?,
                proposed: proposed()?,
            },
            "renew" => LeaseAction::Renew(LeaseId::required(headers)?),
            "change" => LeaseAction::Change {
                id: LeaseId::required(headers)?,
                proposed: proposed()?.ok_or_else(|| Refusal::missing("x-ms-proposed-lease-id"))?,
            },
            "release" => LeaseAction::Release(LeaseId::required(headers)?),
            "break" => {
                let parse = |text: &str| text.parse().ok().filter(|seconds| *seconds <= 60);
                LeaseAction::Break {
                    period_seconds: headers.parsed("x-ms-lease-break-period", parse)?,
                }
            }
            _ => return Err(Refusal::header("x-ms-lease-action", name)),
        };
        Ok(Self { action, conditions: Conditions::parse(headers)? })
    }
}

/// The state of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LeaseState {
    /// There is none.
    #[default]
    Available,
    /// It is held.
    Leased(LeaseDuration),
    /// It has expired.
    Expired,
    /// It is broken, and ends later.
    Breaking,
    /// It is broken.
    Broken,
}

impl LeaseState {
    /// As properties have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Leased(_) => "leased",
            Self::Expired => "expired",
            Self::Breaking => "breaking",
            Self::Broken => "broken",
        }
    }

    /// `locked` while writes need the id, else `unlocked`.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Leased(_) | Self::Breaking => "locked",
            Self::Available | Self::Expired | Self::Broken => "unlocked",
        }
    }

    /// The kind of its duration, while it is held.
    pub const fn duration(self) -> Option<&'static str> {
        match self {
            Self::Leased(duration) => Some(duration.name()),
            _ => None,
        }
    }

    /// The state of these names; a fixed duration is taken to be the longest.
    pub(crate) fn from_names(state: &str, duration: Option<&str>) -> Option<Self> {
        Some(match state {
            "available" => Self::Available,
            "leased" if duration == Some("fixed") => Self::Leased(LeaseDuration::Seconds(60)),
            "leased" => Self::Leased(LeaseDuration::Infinite),
            "expired" => Self::Expired,
            "breaking" => Self::Breaking,
            "broken" => Self::Broken,
            _ => return None,
        })
    }
}

/// Refuses a request that may not have conditions.
pub(crate) fn no_conditions(headers: &Headers) -> Result<(), Refusal> {
    if Conditions::parse(headers)?.is_empty() {
        Ok(())
    } else {
        Err(Code::ConditionHeadersNotSupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5f5f3a2e-1d0c-4b8a-9c7d-0a1b2c3d4e5f";

    fn parse(headers: &[(&str, &str)]) -> Result<LeaseAction, Code> {
        let headers = Headers::of(headers.iter().copied()).expect("headers");
        Lease::parse(&headers).map(|lease| lease.action).map_err(|refusal| refusal.code())
    }

    #[test]
    fn an_id_has_the_forms_of_a_guid() {
        let id: LeaseId = ID.parse().expect("is an id");
        assert_eq!(id.to_string(), ID);
        let plain = ID.replace('-', "");
        for text in [plain.as_str(), &ID.to_uppercase(), &format!("{{{ID}}}"), &format!("({ID})")] {
            assert_eq!(text.parse(), Ok(id), "{text}");
        }
        for bad in [
            "",
            "x",
            &format!("{{{plain}}}"),
            &ID.replace('5', "g"),
            &format!("{ID}0"),
            &format!("{{{ID})"),
        ] {
            assert_eq!(bad.parse::<LeaseId>(), Err(BadLeaseId), "{bad}");
        }
    }

    #[test]
    fn each_action_has_its_headers() {
        let id: LeaseId = ID.parse().expect("is an id");
        let acquire = [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "-1")];
        let duration = LeaseDuration::Infinite;
        assert_eq!(parse(&acquire), Ok(LeaseAction::Acquire { duration, proposed: None }));
        assert_eq!(
            parse(&[("x-ms-lease-action", "Renew"), ("x-ms-lease-id", ID)]),
            Ok(LeaseAction::Renew(id))
        );
        let broken = [("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0")];
        assert_eq!(parse(&broken), Ok(LeaseAction::Break { period_seconds: Some(0) }));
        for missing in ["acquire", "renew", "change", "release"] {
            assert_eq!(parse(&[("x-ms-lease-action", missing)]), Err(Code::MissingRequiredHeader));
        }
        assert_eq!(parse(&[]), Err(Code::MissingRequiredHeader));
        for duration in ["14", "61", "0", "-2", "x"] {
            let headers = [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", duration)];
            assert_eq!(parse(&headers), Err(Code::InvalidHeaderValue), "{duration}");
        }
        let late = [("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "61")];
        assert_eq!(parse(&late), Err(Code::InvalidHeaderValue));
        assert_eq!(parse(&[("x-ms-lease-action", "steal")]), Err(Code::InvalidHeaderValue));
    }
}
