//! The tables that both servers have equal: their rows and keys as bytes, and digests of them.

use redb::ReadTransaction;

use super::wire::{BadMessage, DIGEST, ROWS};
use crate::{
    numbers::wide,
    pages::CELLS,
    state::{BLOCKS, CHANGED, EPOCHS, GENERATIONS, Generation, NAMES, StateError, Version},
};

/// A table that both servers have equal; the places of blocks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Names,
    Generations,
    Epochs,
    Changed,
    Blocks,
}

impl Table {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Names => 1,
            Self::Generations => 2,
            Self::Epochs => 3,
            Self::Changed => 4,
            Self::Blocks => 5,
        }
    }

    pub(crate) fn from_number(number: u8) -> Result<Self, BadMessage> {
        Ok(match number {
            1 => Self::Names,
            2 => Self::Generations,
            3 => Self::Epochs,
            4 => Self::Changed,
            5 => Self::Blocks,
            _ => return Err(BadMessage),
        })
    }
}

/// Keys from `from` to before `to`; an empty `from` is the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Option<Vec<u8>>,
}

/// A row: its key, what both servers have equal, and of a block the number of its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) slot: u64,
}

/// The bytes of the number of a generation.
pub(crate) fn generation_key(generation: u64) -> Vec<u8> {
    generation.to_be_bytes().to_vec()
}

/// The bytes of the key of a block.
pub(crate) fn block_key(generation: u64, block: u32, epoch: u32) -> Vec<u8> {
    [generation.to_be_bytes().as_slice(), &block.to_be_bytes(), &epoch.to_be_bytes()].concat()
}

/// Takes the key of a block apart.
pub(crate) fn read_block_key(key: &[u8]) -> Option<(u64, u32, u32)> {
    let (generation, rest) = key.split_first_chunk::<8>()?;
    let (block, rest) = rest.split_first_chunk::<4>()?;
    let epoch = rest.try_into().ok()?;
    Some((u64::from_be_bytes(*generation), u32::from_be_bytes(*block), u32::from_be_bytes(epoch)))
}

/// Takes the key of an epoch apart.
pub(crate) fn read_epoch_key(key: &[u8]) -> Option<(u64, u32)> {
    let (generation, rest) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*generation), u32::from_be_bytes(rest.try_into().ok()?)))
}

/// Which pages a version has, and the checksums of its cells, in the one form that both servers give them.
pub(crate) fn block_value(version: &Version) -> Vec<u8> {
    let mut value = version.written.to_le_bytes().to_vec();
    for (cell, checksum) in version.checksums.iter().enumerate() {
        let is_written = version.written & crate::pages::pages_of_cell(cell) != 0;
        value.extend(if is_written { checksum.to_le_bytes() } else { [0; 4] });
    }
    value
}

/// Reads it.
pub(crate) fn read_block_value(value: &[u8]) -> Option<Version> {
    let (written, rest) = value.split_first_chunk::<16>()?;
    let words = rest.as_chunks::<4>().0;
    if rest.len() != CELLS.checked_mul(4)? {
        return None;
    }
    let mut version = Version::EMPTY;
    version.written = u128::from_le_bytes(*written);
    version.checksums.iter_mut().zip(words).for_each(|(to, word)| *to = u32::from_le_bytes(*word));
    Some(version)
}

/// What both servers have equal of a generation.
pub(crate) fn generation_value(generation: Generation) -> Vec<u8> {
    Generation { aside: 0, ..generation }.encode().to_vec()
}

/// What a walk over rows does next.
pub(crate) enum Next {
    Continue,
    /// This row is not wanted any more.
    Stop,
}

/// Gives the rows of a range of a table to `each`.
pub(crate) fn walk(
    transaction: &ReadTransaction,
    table: Table,
    range: &KeyRange,
    each: &mut dyn FnMut(Row) -> Next,
) -> Result<Result<(), BadMessage>, StateError> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    macro_rules! rows {
        ($table:expr, $read:expr, $row:expr) => {{
            let read = $read;
            let from = if range.from.is_empty() { None } else { Some(read(&range.from)) };
            let to = range.to.as_deref().map(read);
            let (Some(from), Some(to)) = (
                from.map_or(Some(None), |key| key.map(Some)),
                to.map_or(Some(None), |key| key.map(Some)),
            ) else {
                return Ok(Err(BadMessage));
            };
            if let (Some(from), Some(to)) = (&from, &to)
                && from > to
            {
                return Ok(Err(BadMessage));
            }
            let bounds = (from.map_or(Unbounded, Included), to.map_or(Unbounded, Excluded));
            let table = transaction.open_table($table)?;
            for row in table.range(bounds)? {
                let (key, value) = row?;
                if let Next::Stop = each($row(key.value(), value.value())) {
                    break;
                }
            }
        }};
    }
    match table {
        Table::Names => {
            let table = transaction.open_table(NAMES)?;
            let from = range.from.as_slice();
            if range.to.as_deref().is_some_and(|to| to < from) {
                return Ok(Err(BadMessage));
            }
            let bounds = (Included(from), range.to.as_deref().map_or(Unbounded, Excluded));
            for row in table.range::<&[u8]>(bounds)? {
                let (key, value) = row?;
                let row = Row { key: key.value().to_vec(), value: value.value().to_vec(), slot: 0 };
                if let Next::Stop = each(row) {
                    break;
                }
            }
        }
        Table::Generations => rows!(
            GENERATIONS,
            |key: &[u8]| key.try_into().ok().map(u64::from_be_bytes),
            |key, value| Row {
                key: generation_key(key),
                value: generation_value(Generation::decode(value)),
                slot: 0
            }
        ),
        Table::Epochs => rows!(EPOCHS, read_epoch_key, |key: (u64, u32), value: u8| Row {
            key: [key.0.to_be_bytes().as_slice(), &key.1.to_be_bytes()].concat(),
            value: vec![value],
            slot: 0
        }),
        Table::Changed => rows!(CHANGED, read_block_key, |key: (u64, u32, u32), value: u128| Row {
            key: block_key(key.0, key.1, key.2),
            value: value.to_le_bytes().to_vec(),
            slot: 0
        }),
        Table::Blocks => rows!(BLOCKS, read_block_key, |key: (u64, u32, u32), value| {
            let version = Version::decode(value);
            Row {
                key: block_key(key.0, key.1, key.2),
                value: block_value(&version),
                slot: version.slot.number(),
            }
        }),
    }
    Ok(Ok(()))
}

/// A range, the digest of its rows, and how many they are.
type RangeOfRows = (KeyRange, [u8; DIGEST], u64);

/// The next rows of a table as a range with its digest and how many they are; each row is given to `each`. Ranges of
/// blocks end between blocks.
pub(crate) fn take_range(
    transaction: &ReadTransaction,
    table: Table,
    from: Vec<u8>,
    each: &mut dyn FnMut(&Row),
) -> Result<Result<RangeOfRows, BadMessage>, StateError> {
    let mut digester = Digester::default();
    let (mut count, mut to) = (0_usize, None);
    let mut last: Option<Vec<u8>> = None;
    let block_of = |key: &[u8]| key.get(..12).map(<[u8]>::to_vec);
    let range = KeyRange { from, to: None };
    let mut add = |row: Row| {
        let is_block = table == Table::Blocks;
        let splits = is_block && last.as_deref().and_then(block_of) == block_of(&row.key);
        if count >= ROWS && !splits {
            to = Some(if is_block { cut_epoch(&row.key) } else { row.key });
            return Next::Stop;
        }
        digester.add(&row);
        each(&row);
        count = count.saturating_add(1);
        last = Some(row.key);
        Next::Continue
    };
    let walked = walk(transaction, table, &range, &mut add)?;
    Ok(walked.map(|()| (KeyRange { to, ..range }, digester.finish(), wide(count))))
}

/// The key of a block's first epoch.
fn cut_epoch(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    key.truncate(12);
    key.extend([0; 4]);
    key
}

/// The digest of rows, one after another.
#[derive(Default)]
pub(crate) struct Digester(blake3::Hasher);

impl Digester {
    /// Adds a row.
    pub(crate) fn add(&mut self, row: &Row) {
        for part in [&row.key, &row.value] {
            self.0.update(&wide(part.len()).to_le_bytes());
            self.0.update(part);
        }
    }

    /// The digest of the rows that were added.
    pub(crate) fn finish(&self) -> [u8; DIGEST] {
        *self.0.finalize().as_bytes()
    }
}
