//! Tables that are printed for people, or as lines of bare values for scripts.

use std::collections::BTreeSet;

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
    /// An id: for people a beginning of it that is unique in its column.
    Id(String),
    /// A moment: to the minute, in the local time zone, for people.
    Time(Timestamp),
    /// A moment of which people need the day only.
    Day(Timestamp),
    /// A moment to the second.
    Second(Timestamp),
    /// Nothing is known.
    None,
}

/// The least that is shown of an id: all of the moment at which it was made.
const ID_SHOWN: usize = 10;

impl Cell {
    /// An id.
    #[allow(clippy::needless_pass_by_value, reason = "ids are small")]
    pub(crate) fn id(id: impl ToString) -> Self {
        Self::Id(id.to_string())
    }

    fn shown(&self) -> String {
        match self {
            Self::Bytes(bytes) => human::bytes(*bytes),
            Self::Time(moment) => human::minute(*moment),
            Self::Day(moment) => human::day(*moment),
            Self::Second(moment) => human::second(*moment),
            Self::None => "-".to_owned(),
            plain => plain.bare(),
        }
    }

    fn bare(&self) -> String {
        match self {
            Self::Text(text) | Self::Id(text) => text.clone(),
            Self::Number(number) | Self::Bytes(number) => number.to_string(),
            Self::Time(moment) | Self::Day(moment) | Self::Second(moment) => moment.to_string(),
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
        let lengths: Vec<usize> = (0..self.head.len()).map(|index| self.id_length(index)).collect();
        let shown = |(cell, length): (&Cell, &usize)| match cell {
            Cell::Id(id) => id.chars().take(*length).collect(),
            cell => cell.shown(),
        };
        let rows = self.rows.iter().map(|row| row.iter().zip(&lengths).map(shown).collect());
        human::any_table(&self.head, &right, rows)
    }

    /// How much of the ids of a column tells them from each other.
    fn id_length(&self, column: usize) -> usize {
        let ids: BTreeSet<&str> = self
            .rows
            .iter()
            .filter_map(|row| match row.get(column) {
                Some(Cell::Id(id)) => Some(id.as_str()),
                _ => None,
            })
            .collect();
        let pairs = ids.iter().zip(ids.iter().skip(1));
        let common =
            |(a, b): (&&str, &&str)| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        pairs.map(common).max().map_or(ID_SHOWN, |most| most.saturating_add(1).max(ID_SHOWN))
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
    fn ids_are_cut_to_what_tells_them_apart() {
        let ids = [
            "01M8HCSJD1AAAAAAAAAAAAAAAA",
            "01M8HCSJD1AAAZAAAAAAAAAAAA",
            "01M8HCSJD3AAAAAAAAAAAAAAAA",
        ];
        let shown =
            |ids: &[&str]| Columns::new(["ID"], ids.iter().map(|id| [Cell::id(id)])).to_text();
        assert_eq!(shown(&ids), "ID\n01M8HCSJD1AAAA\n01M8HCSJD1AAAZ\n01M8HCSJD3AAAA\n");
        assert_eq!(shown(&ids[1..]), "ID\n01M8HCSJD1\n01M8HCSJD3\n");
        let twice = [ids[0], ids[0]];
        assert_eq!(shown(&twice), "ID\n01M8HCSJD1\n01M8HCSJD1\n");
        let columns = Columns::new(["ID"], [[Cell::id(ids[0])]]);
        assert_eq!(columns.to_tsv(), format!("{}\n", ids[0]));
    }

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
