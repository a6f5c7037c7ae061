//! Figures and how they are shown: medians, ratios, targets, tables.

use std::{fs, path::Path};

use serde::Serialize;

use crate::{Failure, Outcome};

/// A row of the table of targets.
#[derive(Debug, Serialize)]
pub struct Target {
    /// What was done.
    pub work: String,
    /// What the value must reach, in words.
    pub wanted: String,
    /// What was reached.
    pub value: Option<f64>,
    /// Whether that is enough; none if it was not measured or is only for information.
    pub met: Option<bool>,
}

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// No more.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
    /// For information.
    None,
}

/// Judges a value.
pub fn target(work: impl Into<String>, words: &str, value: Option<f64>, bound: Bound) -> Target {
    let met = value.and_then(|value| match bound {
        Bound::AtMost(limit) => Some(value <= limit),
        Bound::AtLeast(limit) => Some(value >= limit),
        Bound::None => None,
    });
    Target { work: work.into(), wanted: words.to_owned(), value, met }
}

/// How many times the other the one is.
pub fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? / other.filter(|other| *other > 0.0)?)
}

/// All targets, with what was reached and the verdict.
pub fn targets_table(targets: &[Target]) -> String {
    let rows = targets.iter().map(|row| {
        let value = row.value.map_or_else(|| "not measured".to_owned(), significant);
        let verdict = match (row.value, row.met) {
            (None, _) | (_, None) => "-",
            (_, Some(true)) => "met",
            (_, Some(false)) => "MISSED",
        };
        vec![row.work.clone(), row.wanted.clone(), value, verdict.to_owned()]
    });
    table(&["work", "target", "reached", ""], &rows.collect::<Vec<_>>())
}

/// A count of bytes as a number to calculate with.
pub fn number(bytes: u64) -> f64 {
    let (high, low) = (bytes >> 32, bytes & 0xffff_ffff);
    let part = |part: u64| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    part(high).mul_add(4_294_967_296.0, part(low))
}

/// The middle of some values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    values.get(middle - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// Three significant digits, as far as a reader needs them.
pub fn significant(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.1.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// A Markdown table whose columns line up.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let mut text = line(&head);
    text.push('|');
    for width in &widths {
        text.push_str(&"-".repeat(width + 2));
        text.push('|');
    }
    text.push('\n');
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

/// Puts `text` between the two marks that say that `program` has measured it.
pub fn replace_measured(document: &Path, program: &str, text: &str) -> Outcome<()> {
    let begin = format!("<!-- measured: begin (written by {program}) -->");
    let end = "<!-- measured: end -->";
    let old = fs::read_to_string(document).map_err(Failure::at(document))?;
    let parts =
        old.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(end)?.1)));
    let (head, tail) =
        parts.ok_or_else(|| Failure::new(format!("{} lacks its marks", document.display())))?;
    Ok(fs::write(document, format!("{head}{begin}\n\n{text}\n{end}{tail}"))?)
}

#[cfg(test)]
mod tests {
    use super::{median, number, table};

    #[test]
    fn medians_and_numbers() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert!((number(1 << 40) - 1_099_511_627_776.0).abs() < 0.5);
    }

    #[test]
    fn tables_line_up() {
        let text = table(&["a", "long head"], &[vec!["wide cell".into(), "b".into()]]);
        let widths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(widths, [25, 25, 25]);
    }
}
