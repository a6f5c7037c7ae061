//! Numbers, times and tables for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::{Timestamp, tz::TimeZone};

pub(crate) use strongroom_base::words::{bytes, count};

/// `5.0 of 10.0 GiB`: a part of a whole, both in the unit of the whole and with one decimal.
pub(crate) fn of_bytes(part: u64, whole: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = UNITS.into_iter().find(|(shift, _)| whole >> shift > 0) else {
        return format!("{part} of {whole} B");
    };
    let in_unit = |bytes: u64| {
        let tenths = u128::from(bytes).saturating_mul(10) >> shift;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    format!("{} of {} {unit}", in_unit(part), in_unit(whole))
}

/// A duration to come: `3 s`, `2 min 05 s`, `1 h 01 min`.
pub(crate) fn about(duration: std::time::Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        _ => seconds(duration.as_secs_f64()),
    }
}

/// Bytes a second.
#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people; casts of floats saturate"
)]
pub(crate) fn rate_of(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second as u64))
}

/// A duration: `0.3 s`, `12.0 s`, `3 min 20 s`, `2 h 05 min`.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = whole(seconds);
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Bytes a second over a duration; empty if that says nothing.
pub(crate) fn rate(amount: u64, seconds: f64) -> String {
    if seconds < 0.01 {
        return String::new();
    }
    format!("{}/s", bytes(per_second(amount, seconds)))
}

#[allow(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people; casts of floats saturate"
)]
fn per_second(amount: u64, seconds: f64) -> u64 {
    (amount as f64 / seconds) as u64
}

#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people; casts of floats saturate"
)]
fn whole(seconds: f64) -> u64 {
    seconds as u64
}

/// A moment in the system's time zone, to the minute, as lists show it.
pub(crate) fn minute(moment: Timestamp) -> String {
    local(moment, "%Y-%m-%d %H:%M")
}

/// The day of a moment in the system's time zone.
pub(crate) fn day(moment: Timestamp) -> String {
    local(moment, "%Y-%m-%d")
}

/// A moment in the system's time zone, to the second.
pub(crate) fn second(moment: Timestamp) -> String {
    local(moment, "%Y-%m-%d %H:%M:%S")
}

fn local(moment: Timestamp, form: &str) -> String {
    moment.to_zoned(TimeZone::system()).strftime(form).to_string()
}

/// A moment in the system's time zone, to the second, with its offset.
pub(crate) fn time(moment: Timestamp) -> String {
    time_in(moment, &TimeZone::system())
}

fn time_in(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// A word as a shell takes it for one: in quotes unless every character is harmless.
pub(crate) fn shell_word(word: &str) -> String {
    let harmless = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Text from outside made safe for a terminal: control characters, and those that turn the direction of text, are
/// shown as `?`.
pub(crate) fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_bad = |c: char| c.is_control() && c != '\n' || turns(c);
    text.chars().map(|c| if is_bad(c) { '?' } else { c }).collect()
}

/// Text that ends in exactly one line break.
pub(crate) fn one_final_newline(text: &str) -> String {
    text.trim_end().to_owned() + "\n"
}

/// A plain table: a heading line, two spaces between columns. Columns named in `right` hold
/// numbers and are aligned to the right.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    right: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    any_table(&head, right, rows.into_iter().map(Vec::from))
}

/// The same, of as many columns as there are.
pub(crate) fn any_table(
    head: &[&str],
    right: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Lines of `label: value`, the values in one column.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let line = |(label, value): &(&str, String)| {
        let line = format!("{label:width$}  {}", printable(value));
        line.trim_end().to_owned() + "\n"
    };
    facts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_wholes() {
        assert_eq!(of_bytes(0, 2 << 30), "0.0 of 2.0 GiB");
        assert_eq!(of_bytes(705_100_000, 1 << 40), "0.0 of 1.0 TiB");
        assert_eq!(of_bytes(7, 900), "7 of 900 B");
        assert_eq!(of_bytes(u64::MAX, u64::MAX), "16777215.9 of 16777215.9 TiB");
    }

    #[test]
    fn durations_and_rates() {
        assert_eq!(seconds(0.26), "0.3 s");
        assert_eq!(seconds(200.0), "3 min 20 s");
        assert_eq!(seconds(7500.0), "2 h 05 min");
        assert_eq!(rate(200 << 20, 2.0), "100 MiB/s");
        assert_eq!(rate(200, 0.0), "");
    }

    #[test]
    fn words_of_a_shell() {
        assert_eq!(shell_word("/srv/a-b_1.toml"), "/srv/a-b_1.toml");
        assert_eq!(shell_word("/srv/a b"), "'/srv/a b'");
        assert_eq!(shell_word("it's;x"), r"'it'\''s;x'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn times() {
        let zone = TimeZone::get("Asia/Tokyo").expect("known");
        assert_eq!(time_in(Timestamp::UNIX_EPOCH, &zone), "1970-01-01 09:00:00 +09:00");
    }

    #[test]
    fn tables_have_no_trailing_space_and_hide_control_characters() {
        let rows =
            [["a".to_owned(), "1 B".to_owned()], ["bb\x1b[2J".to_owned(), "22 B".to_owned()]];
        let text = table(["NAME", "SIZE"], &[1], rows);
        assert_eq!(text, "NAME    SIZE\na        1 B\nbb?[2J  22 B\n");
        assert_eq!(facts(&[("A", "1".to_owned()), ("Long", String::new())]), "A     1\nLong\n");
    }
}
