//! Moments as users write them: absolute, a day, or so long ago.
//!
//! ```text
//!  2026-11-22T18:00:00Z       RFC 3339, with its own zone
//!  2026-11-22 18:00[:00]      in the local time zone
//!  2026-11-22                 a day of the local time zone, as are
//!  today, yesterday, tomorrow
//!  90s, 30min, 2h             so long ago to the second; also "2h ago"
//!  2d, 3w                     the same time of day a number of days or weeks ago, by the local calendar
//!  in 2h, in 30d              the same ahead
//! ```
//!
//! What a day means, its beginning or its end, is for the option to say, and so is whether a span alone
//! (`2d`) looks back: where a time to come is asked for it would be taken for its opposite, so it is
//! refused there.

use jiff::{
    Span, Timestamp, Zoned,
    civil::{Date, DateTime},
    tz::TimeZone,
};
use strongroom_base::{Clock as _, SystemClock};

/// What an option wants of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One that has passed; a day alone is its beginning.
    Since,
    /// One that has passed; a day alone is its end.
    Until,
    /// One to come; a day alone is its end.
    Ahead,
}

/// What the forms are, for people who wrote another one.
const FORMS: &str = "2026-11-22T18:00:00Z, \"2026-11-22 18:00\", 2026-11-22, today, yesterday, \
                     \"2h ago\" or \"in 30d\" (with s, min, h, d or w)";

/// Parses a moment, which is wanted as having passed; a day alone is its beginning.
pub(crate) fn since(text: &str) -> Result<Timestamp, String> {
    of_system(text, Wanted::Since)
}

/// The same; a day alone is its end.
pub(crate) fn until(text: &str) -> Result<Timestamp, String> {
    of_system(text, Wanted::Until)
}

/// Parses a moment to come; a day alone is its end.
pub(crate) fn ahead(text: &str) -> Result<Timestamp, String> {
    of_system(text, Wanted::Ahead)
}

fn of_system(text: &str, wanted: Wanted) -> Result<Timestamp, String> {
    parse(text, wanted, &SystemClock.now().to_zoned(TimeZone::system()))
}

/// Parses a moment; `now` is what it is relative to, in the zone that counts.
fn parse(text: &str, wanted: Wanted, now: &Zoned) -> Result<Timestamp, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is no time: write {FORMS}");
    if let Ok(timestamp) = text.parse() {
        return Ok(timestamp);
    }
    let zone = now.time_zone();
    if let Some(day) = day(text, now) {
        return bound(day, wanted, zone).map_err(|_| out_of_range(text));
    }
    if let Ok(local) = text.parse::<DateTime>() {
        let zoned = local.to_zoned(zone.clone()).map_err(|_| out_of_range(text))?;
        return Ok(zoned.timestamp());
    }
    let ago = text.strip_suffix(" ago").map(str::trim_end);
    let ahead = text.strip_prefix("in ").map(str::trim_start);
    let span = span(ago.or(ahead).unwrap_or(text)).map_err(|said| said.unwrap_or_else(wrong))?;
    let found = match (ago, ahead) {
        (Some(_), Some(_)) => return Err(wrong()),
        (None, None) if wanted == Wanted::Ahead => {
            return Err(format!("{text:?} may mean before or after now: write \"in {text}\""));
        }
        (None, Some(_)) => now.checked_add(span),
        _ => now.checked_sub(span),
    };
    Ok(found.map_err(|_| out_of_range(text))?.timestamp())
}

fn out_of_range(text: &str) -> String {
    format!("{text:?} is out of range")
}

/// The first moment of a day, or its last: that before the next day's first, since a change of the clocks
/// may have midnight twice.
fn bound(day: Date, wanted: Wanted, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
    let first = |day: Date| Ok::<_, jiff::Error>(day.to_zoned(zone.clone())?.timestamp());
    match wanted {
        Wanted::Since => first(day),
        Wanted::Until | Wanted::Ahead => {
            first(day.tomorrow()?)?.checked_sub(Span::new().nanoseconds(1))
        }
    }
}

/// A day alone.
fn day(text: &str, now: &Zoned) -> Option<Date> {
    match text {
        "today" => Some(now.date()),
        "yesterday" => now.date().yesterday().ok(),
        "tomorrow" => now.date().tomorrow().ok(),
        // Longer ones have a time, which the parser of dates would leave out.
        _ if text.len() <= 10 => text.parse().ok(),
        _ => None,
    }
}

/// A whole number without leading zeros, and a unit. An error with words is of something that could mean
/// two things.
fn span(text: &str) -> Result<Span, Option<String>> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(None);
    }
    let number: i64 = digits.parse().map_err(|_| None)?;
    let none = Span::new();
    let span = match unit {
        "s" => none.try_seconds(number),
        "min" => none.try_minutes(number),
        "h" => none.try_hours(number),
        "d" => none.try_days(number),
        "w" => none.try_weeks(number),
        "m" => {
            return Err(Some(format!(
                "{text:?} may mean minutes or months: write {digits}min, or a date"
            )));
        }
        _ => return Err(None),
    };
    span.map_err(|_| Some(out_of_range(text)))
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, ToSpan as _};
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).expect("known")
    }

    /// 2026-11-28 15:30 in Berlin.
    fn afternoon() -> Zoned {
        "2026-11-28T15:30:00+01:00[Europe/Berlin]".parse().expect("a moment")
    }

    fn at(text: &str, wanted: Wanted) -> String {
        match parse(text, wanted, &afternoon()) {
            Ok(moment) => moment.to_zoned(zone("Europe/Berlin")).strftime("%F %T%.3f").to_string(),
            Err(words) => words,
        }
    }

    #[test]
    fn every_form() {
        use Wanted::{Ahead, Since, Until};
        for (text, wanted, said) in [
            ("2026-11-22T18:00:00Z", Since, "2026-11-22 19:00:00.000"),
            ("2026-11-22T18:00:00+09:00", Since, "2026-11-22 10:00:00.000"),
            ("2026-11-22 18:00", Since, "2026-11-22 18:00:00.000"),
            ("2026-11-22 18:00:05", Until, "2026-11-22 18:00:05.000"),
            ("2026-11-22", Since, "2026-11-22 00:00:00.000"),
            ("2026-11-22", Until, "2026-11-22 23:59:59.999"),
            ("20261122", Until, "2026-11-22 23:59:59.999"),
            ("today", Since, "2026-11-28 00:00:00.000"),
            ("today", Until, "2026-11-28 23:59:59.999"),
            ("yesterday", Since, "2026-11-27 00:00:00.000"),
            ("yesterday", Until, "2026-11-27 23:59:59.999"),
            ("tomorrow", Ahead, "2026-11-29 23:59:59.999"),
            ("2h", Since, "2026-11-28 13:30:00.000"),
            ("2h ago", Until, "2026-11-28 13:30:00.000"),
            ("90s", Until, "2026-11-28 15:28:30.000"),
            ("30min ago", Ahead, "2026-11-28 15:00:00.000"),
            ("2d", Since, "2026-11-26 15:30:00.000"),
            ("3w ago", Until, "2026-11-07 15:30:00.000"),
            ("0h", Until, "2026-11-28 15:30:00.000"),
            ("in 30d", Ahead, "2026-12-28 15:30:00.000"),
            ("in 2h", Until, "2026-11-28 17:30:00.000"),
        ] {
            assert_eq!(at(text, wanted), said, "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused_with_the_forms() {
        for (text, wanted, said) in [
            ("5m", Wanted::Since, "write 5min"),
            ("2d", Wanted::Ahead, "write \"in 2d\""),
            ("in 2d ago", Wanted::Until, "is no time: write 2026-11-22T18:00:00Z"),
            ("28.11.2026", Wanted::Until, "yesterday, \"2h ago\""),
            ("11/28/2026", Wanted::Until, "is no time"),
            ("02h", Wanted::Until, "is no time"),
            ("-2h", Wanted::Until, "is no time"),
            ("1.5h", Wanted::Until, "is no time"),
            ("2 h ago", Wanted::Until, "is no time"),
            ("2hago", Wanted::Until, "is no time"),
            ("h", Wanted::Until, "is no time"),
            ("", Wanted::Until, "is no time"),
            ("now", Wanted::Until, "is no time"),
            ("Yesterday evening", Wanted::Until, "is no time"),
            ("99999999999999999999h", Wanted::Until, "is no time"),
            ("999999999999d", Wanted::Until, "is out of range"),
            ("5000000d", Wanted::Until, "is out of range"),
        ] {
            let words = at(text, wanted);
            assert!(words.contains(said), "{text}: {words}");
        }
    }

    #[test]
    fn a_day_is_one_of_the_calendar_and_an_hour_one_of_the_clock() {
        // In the night before, clocks were set back: the day has 25 hours.
        let now: Zoned = "2026-10-25T12:00:00+01:00[Europe/Berlin]".parse().expect("a moment");
        let ago = |text: &str| {
            let then = parse(text, Wanted::Since, &now).expect(text);
            now.timestamp().duration_since(then)
        };
        assert_eq!(ago("1d"), SignedDuration::from_hours(25));
        assert_eq!(ago("24h"), SignedDuration::from_hours(24));
        // Half past two was not there in the morning of that day.
        let now: Zoned = "2026-03-30T02:30:00+02:00[Europe/Berlin]".parse().expect("a moment");
        let day_before = parse("1d", Wanted::Since, &now).expect("a moment");
        assert_eq!(day_before.to_string(), "2026-03-29T01:30:00Z");
    }

    proptest! {
        /// Any text is a moment or an error, whatever the zone and the time.
        #[test]
        fn nothing_makes_it_panic(
            text in "\\PC{0,24}|(in )?[0-9]{0,20}(s|min|m|h|d|w)?( ago)?|[0-9]{4}-[0-9]{2}-[0-9]{2}.{0,9}",
            seconds in -377_705_023_201_i64..=253_402_207_200,
            zone_name in prop::sample::select(vec!["UTC", "Europe/Berlin", "Pacific/Apia", "America/St_Johns"]),
        ) {
            let now = Timestamp::from_second(seconds).expect("in range").to_zoned(zone(zone_name));
            for wanted in [Wanted::Since, Wanted::Until, Wanted::Ahead] {
                if let Err(words) = parse(&text, wanted, &now) {
                    prop_assert!(!words.is_empty());
                }
            }
        }

        /// Spans of the clock are exact, those of the calendar keep the time of day, and `ago` and `in`
        /// are each other's opposite.
        #[test]
        fn spans_are_what_they_say(
            number in 0_i64..20_000,
            seconds in 0_i64..4_000_000_000,
            zone_name in prop::sample::select(vec!["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]),
        ) {
            let now = Timestamp::from_second(seconds).expect("in range").to_zoned(zone(zone_name));
            for (unit, length) in [("s", 1), ("min", 60), ("h", 3600)] {
                let ago = parse(&format!("{number}{unit} ago"), Wanted::Until, &now);
                let alone = parse(&format!("{number}{unit}"), Wanted::Until, &now);
                let ahead = parse(&format!("in {number}{unit}"), Wanted::Ahead, &now);
                let length = SignedDuration::from_secs(number * length);
                prop_assert_eq!(ago.clone(), Ok(now.timestamp() - length));
                prop_assert_eq!(alone, ago);
                prop_assert_eq!(ahead, Ok(now.timestamp() + length));
            }
            let ago = parse(&format!("{number}d"), Wanted::Since, &now).expect("a moment");
            let ago = ago.to_zoned(now.time_zone().clone());
            prop_assert_eq!(ago.date(), now.date().saturating_sub(number.days()));
            // Times of day that a change of the clocks has left out move by as much.
            let shift = ago.time().duration_since(now.time()).abs();
            prop_assert!(shift <= SignedDuration::from_hours(2), "{} {}", ago, now);
        }

        /// A day alone is all of that day: nothing of it is before its beginning or after its end.
        #[test]
        fn a_day_holds_its_moments(
            seconds in 0_i64..4_000_000_000,
            zone_name in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Sao_Paulo"]),
        ) {
            let now = Timestamp::from_second(seconds).expect("in range").to_zoned(zone(zone_name));
            for text in ["today".to_owned(), now.date().to_string()] {
                let begins = parse(&text, Wanted::Since, &now).expect("a moment");
                let ends = parse(&text, Wanted::Until, &now).expect("a moment");
                prop_assert!(begins <= now.timestamp() && now.timestamp() <= ends, "{}", now);
            }
            let day_before = parse("yesterday", Wanted::Until, &now).expect("a moment");
            prop_assert!(day_before < parse("today", Wanted::Since, &now).expect("a moment"));
        }
    }
}
