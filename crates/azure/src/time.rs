//! Moments as the dialect writes them: in headers, in signatures, and as the ids of snapshots.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    civil::DateTime,
    fmt::rfc2822::{DateTimeParser, DateTimePrinter},
    tz::{Offset, TimeZone},
};

/// Ticks of 100 ns in a second.
const TICKS: u64 = 10_000_000;
/// The last tick of the year 9999, which is the last that has four digits; `jiff` ends a day before, so as to have
/// room for time zones.
const MAX_TICKS: u64 = 253_402_207_200 * TICKS - 1;

/// A moment as headers have it: `Sat, 28 Nov 2026 16:17:00 GMT`.
pub fn http_date(moment: Timestamp) -> String {
    // It fails only before the year 0 and after 9999.
    DateTimePrinter::new().timestamp_to_rfc9110_string(&moment).unwrap_or_default()
}

/// Reads what [`http_date`] writes.
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

/// A moment as XML bodies and SAS tokens have it: `2026-11-28T16:17:00Z`.
pub fn iso_date(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads the forms of ISO 8601 that SAS tokens and stored access policies may have: a date; a date with hours and
/// minutes; with seconds; with up to seven digits of a second. A time ends with `Z` or its offset from UTC.
pub fn parse_iso_date(text: &str) -> Option<Timestamp> {
    let Some((date, time)) = text.split_once('T') else {
        let date: jiff::civil::Date =
            parse_shape(text, "dddd-dd-dd").then(|| text.parse().ok())??;
        return TimeZone::UTC.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).ok();
    };
    let (clock, offset) = if let Some(clock) = time.strip_suffix('Z') {
        (clock, Offset::UTC)
    } else {
        let at = time.rfind(['+', '-'])?;
        let (clock, offset) = time.split_at_checked(at)?;
        (clock, parse_offset(offset)?)
    };
    let shapes = ["dd:dd", "dd:dd:dd"];
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let digits = !fraction.is_empty()
        && fraction.len() <= 7
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let shaped = shapes.iter().any(|shape| parse_shape(whole, shape));
    let fractioned = clock.contains('.') && whole.len() != 8;
    if !parse_shape(date, "dddd-dd-dd") || !shaped || !digits || fractioned {
        return None;
    }
    let civil: DateTime = format!("{date}T{clock}").parse().ok()?;
    offset.to_timestamp(civil).ok()
}

/// Whether text has this shape, in which `d` is a digit.
fn parse_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(byte, want)| match want {
            b'd' => byte.is_ascii_digit(),
            want => byte == want,
        })
}

fn parse_offset(text: &str) -> Option<Offset> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let rest = text.get(1..)?;
    if !parse_shape(rest, "dd:dd") {
        return None;
    }
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if minutes > 59 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// The id of a snapshot: a moment in ticks of 100 ns since 1970, written `2026-11-28T16:17:00.0000000Z` with exactly
/// seven digits. Later snapshots of a blob have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(u64);

impl SnapshotId {
    /// The id with this many ticks since 1970; none after the year 9999.
    pub const fn from_ticks(ticks: u64) -> Option<Self> {
        if ticks <= MAX_TICKS { Some(Self(ticks)) } else { None }
    }

    /// The id of this moment; its last two digits of nanoseconds are dropped.
    pub fn from_timestamp(moment: Timestamp) -> Option<Self> {
        Self::from_ticks(u64::try_from(moment.as_nanosecond().checked_div(100)?).ok()?)
    }

    /// Ticks of 100 ns since 1970.
    pub const fn ticks(self) -> u64 {
        self.0
    }

    /// The moment.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.0) * 100).unwrap_or(Timestamp::MAX)
    }

    /// The next id.
    pub const fn next(self) -> Option<Self> {
        Self::from_ticks(self.0 + 1)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = Timestamp::from_second(i64::try_from(self.0 / TICKS).unwrap_or(i64::MAX))
            .unwrap_or(Timestamp::MAX);
        write!(f, "{}.{:07}Z", second.strftime("%Y-%m-%dT%H:%M:%S"), self.0 % TICKS)
    }
}

/// Not the id of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a snapshot: an id is a moment as 2026-11-28T16:17:00.0000000Z")]
pub struct BadSnapshotId;

impl FromStr for SnapshotId {
    type Err = BadSnapshotId;

    fn from_str(text: &str) -> Result<Self, BadSnapshotId> {
        if !parse_shape(text, "dddd-dd-ddTdd:dd:dd.dddddddZ") {
            return Err(BadSnapshotId);
        }
        let moment = parse_iso_date(text).ok_or(BadSnapshotId)?;
        Self::from_timestamp(moment).filter(|id| id.to_string() == text).ok_or(BadSnapshotId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_of_headers_are_written_and_read() {
        let moment: Timestamp = "2026-11-28T16:17:00Z".parse().expect("is a moment");
        assert_eq!(http_date(moment), "Sat, 28 Nov 2026 16:17:00 GMT");
        assert_eq!(parse_http_date("Sat, 28 Nov 2026 16:17:00 GMT"), Some(moment));
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn every_form_of_a_time_in_a_sas_is_read() {
        let moment = |text: &str| Some(text.parse::<Timestamp>().expect("is a moment"));
        assert_eq!(parse_iso_date("2026-11-28"), moment("2026-11-28T00:00:00Z"));
        assert_eq!(parse_iso_date("2026-11-28T16:17Z"), moment("2026-11-28T16:17:00Z"));
        assert_eq!(parse_iso_date("2026-11-28T16:17:05Z"), moment("2026-11-28T16:17:05Z"));
        assert_eq!(parse_iso_date("2026-11-28T16:17:05+09:00"), moment("2026-11-28T07:17:05Z"));
        let digits = parse_iso_date("2026-11-28T16:17:05.1234567Z");
        assert_eq!(digits, moment("2026-11-28T16:17:05.1234567Z"));
        for bad in ["", "28.11.2026", "2026-11-28T16:17:05", "2026-11-28T16Z", "2026-11-28T25:00Z"]
        {
            assert_eq!(parse_iso_date(bad), None, "{bad}");
        }
        for bad in ["2026-11-28T16:17:05.12345678Z", "2026-11-28T16:17.5Z", "2026-11-28T16:17:05.Z"]
        {
            assert_eq!(parse_iso_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_id_of_a_snapshot_has_exactly_seven_digits() {
        let text = "2026-11-28T16:17:00.0000001Z";
        let id: SnapshotId = text.parse().expect("is an id");
        assert_eq!(id.to_string(), text);
        assert_eq!(id.ticks() % TICKS, 1);
        for bad in
            ["2026-11-28T16:17:00Z", "2026-11-28T16:17:00.000000Z", "2026-11-28T16:17:00.00000000Z"]
        {
            assert_eq!(bad.parse::<SnapshotId>(), Err(BadSnapshotId), "{bad}");
        }
        for bad in [
            "2026-02-30T16:17:00.0000000Z",
            "1969-12-31T23:59:59.9999999Z",
            "2026-11-28T16:17:60.0000000Z",
        ] {
            assert_eq!(bad.parse::<SnapshotId>(), Err(BadSnapshotId), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ids_of_snapshots_survive_and_sort_as_their_text(a in 0..=MAX_TICKS, b in 0..=MAX_TICKS) {
            let (a, b) = (SnapshotId::from_ticks(a).expect("fits"), SnapshotId::from_ticks(b).expect("fits"));
            prop_assert_eq!(a.to_string().parse::<SnapshotId>(), Ok(a));
            prop_assert_eq!(SnapshotId::from_timestamp(a.timestamp()), Some(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn no_text_makes_the_parsers_of_times_panic(text in ".{0,40}") {
            parse_iso_date(&text);
            parse_http_date(&text);
            text.parse::<SnapshotId>().ok();
        }
    }
}
