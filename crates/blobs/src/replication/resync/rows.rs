//! The rows of a resynchronization, besides those of blocks.

use std::collections::BTreeSet;

use redb::{ReadTransaction, ReadableTable as _, WriteTransaction};

use super::STAGED;
use crate::{
    replication::{
        tables::{KeyRange, Next, Row, Table, read_block_key, read_epoch_key, walk},
        wire::BadMessage,
    },
    state::{CHANGED, EPOCHS, FREE, FREED, GENERATIONS, Generation, NAMES, StateError},
};

/// Makes the rows of a range those that have come. Rows of blocks are put aside; generations keep their files.
pub(super) fn put_rows(
    before: &ReadTransaction,
    transaction: &WriteTransaction,
    table: Table,
    range: &KeyRange,
    rows: &[Row],
) -> Result<Result<(), BadMessage>, StateError> {
    if table == Table::Blocks {
        let mut staged = transaction.open_table(STAGED)?;
        for row in rows {
            let Some(key) = read_block_key(&row.key) else { return Ok(Err(BadMessage)) };
            staged.insert(key, (row.value.as_slice(), row.slot))?;
        }
        return Ok(Ok(()));
    }
    let wanted: BTreeSet<&[u8]> = rows.iter().map(|row| row.key.as_slice()).collect();
    let mut gone = Vec::new();
    let mut look = |row: Row| {
        if !wanted.contains(row.key.as_slice()) {
            gone.push(row.key);
        }
        Next::Continue
    };
    if let Err(error) = walk(before, table, range, &mut look)? {
        return Ok(Err(error));
    }
    macro_rules! change {
        ($table:expr, $key:expr, $value:expr) => {{
            let mut table = transaction.open_table($table)?;
            for key in &gone {
                let Some(key) = $key(key) else { return Ok(Err(BadMessage)) };
                table.remove(key)?;
            }
            for row in rows {
                let Some(key) = $key(&row.key) else { return Ok(Err(BadMessage)) };
                let Some(value) = $value(&row.value) else { return Ok(Err(BadMessage)) };
                table.insert(key, value)?;
            }
        }};
    }
    let number = |key: &[u8]| key.try_into().ok().map(u64::from_be_bytes);
    match table {
        Table::Names => {
            let mut table = transaction.open_table(NAMES)?;
            for key in &gone {
                table.remove(key.as_slice())?;
            }
            for row in rows {
                table.insert(row.key.as_slice(), row.value.as_slice())?;
            }
        }
        Table::Generations => {
            let mut table = transaction.open_table(GENERATIONS)?;
            for key in &gone {
                let Some(key) = number(key) else { return Ok(Err(BadMessage)) };
                table.remove(key)?;
            }
            for row in rows {
                let Some(key) = number(&row.key) else { return Ok(Err(BadMessage)) };
                let Ok(value) = row.value.as_slice().try_into() else {
                    return Ok(Err(BadMessage));
                };
                let old = table.get(key)?.map(|old| Generation::decode(old.value()));
                let aside = old.map_or(0, |old| old.aside);
                let new = Generation { aside, ..Generation::decode(value) };
                table.insert(key, &new.encode())?;
            }
        }
        Table::Epochs => {
            change!(EPOCHS, |key: &[u8]| read_epoch_key(key), |value: &[u8]| value
                .first()
                .copied());
        }
        Table::Changed => change!(CHANGED, |key: &[u8]| read_block_key(key), |value: &[u8]| value
            .try_into()
            .ok()
            .map(u128::from_le_bytes)),
        Table::Blocks => {}
    }
    Ok(Ok(()))
}

/// Removes the slots of generations that are no more; their files are deleted when the new state is opened.
pub(super) fn forget_generations(transaction: &WriteTransaction) -> Result<(), StateError> {
    let known: BTreeSet<u64> = {
        let generations = transaction.open_table(GENERATIONS)?;
        let keys = generations.iter()?.map(|row| row.map(|(key, _)| key.value()));
        keys.collect::<Result<_, _>>()?
    };
    transaction.open_table(FREE)?.retain(|(generation, _), ()| known.contains(&generation))?;
    transaction.open_table(FREED)?.retain(|(generation, ..), _| known.contains(&generation))?;
    Ok(())
}
