//! Tables that are printed for people, or as lines of bare values for scripts.

use jiff::Timestamp;

use crate::{human, tree};

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// A text, the same for people and scripts.
    Text(String),
    /// A number.
    Number(u64),
    /// Bytes: with a unit for people.
    Bytes(u64),
    /// A moment: in the local time zone for people.
    Time(Timestamp),
    /// Nothing is known.
    None,
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Bytes(bytes) => human::bytes(*bytes),
            Self::Time(moment) => human::time(*moment),
            Self::None => "-".to_owned(),
            plain => plain.bare(),
        }
    }

    fn bare(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) | Self::Bytes(number) => number.to_string(),
            Self::Time(moment) => moment.to_string(),
            Self::None => String::new(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Timestamp> for Cell {
    fn from(moment: Timestamp) -> Self {
        Self::Time(moment)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// Cells of a row, of any kinds.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { [$($crate::columns::Cell::from($cell)),*] };
}
pub(crate) use row;

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Columns {
    /// A table.
    pub(crate) fn new<const N: usize>(
        head: [&'static str; N],
        rows: impl IntoIterator<Item = [Cell; N]>,
    ) -> Self {
        Self { head: head.to_vec(), rows: rows.into_iter().map(Vec::from).collect() }
    }

    /// For people. Numbers are aligned to the right.
    pub(crate) fn to_text(&self) -> String {
        let number = |cell: Option<&Cell>| matches!(cell, Some(Cell::Number(_) | Cell::Bytes(_)));
        let right: Vec<usize> = (0..self.head.len())
            .filter(|index| self.rows.iter().any(|row| number(row.get(*index))))
            .collect();
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::shown).collect());
        human::any_table(&self.head, &right, rows)
    }

    /// For scripts: no head, a tab between cells.
    pub(crate) fn to_tsv(&self) -> String {
        let line =
            |row: &Vec<Cell>| tree::tsv_line(&row.iter().map(Cell::bare).collect::<Vec<_>>());
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_scripts_see_the_same_cells() {
        let columns = Columns::new(
            ["NAME", "SIZE", "NOTE"],
            [row!["a", Cell::Bytes(2048), None::<&str>], row!["b\tc", Cell::Bytes(0), "x"]],
        );
        assert_eq!(columns.to_text(), "NAME   SIZE  NOTE\na     2 KiB  -\nb?c     0 B  x\n");
        assert_eq!(columns.to_tsv(), "a\t2048\t\nb c\t0\tx\n");
    }
}
