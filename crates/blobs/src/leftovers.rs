//! What nobody needs any more and no change removes: uploads whose sender is gone, and blocks that have waited too long.

use std::time::Duration;

use redb::{Database, ReadableDatabase as _};

use crate::{
    decide::blocks::is_old,
    extents::Staging,
    rows::{self, Ticks},
    state::{NAMES, StateError},
};

/// How often blocks that wait are looked at.
const LOOK: Duration = Duration::from_hours(1);
/// The most rows of one look.
const MOST: usize = 256;

/// Keys of rows to give back. What cannot be given back now is found again: an upload at the next opening, blocks at the
/// next look.
#[derive(Debug)]
pub(crate) struct Leftovers {
    keys: Vec<Vec<u8>>,
    next_look: Duration,
}

impl Leftovers {
    /// All uploads of a store that is being opened: their senders are gone.
    pub(crate) fn at_opening(database: &Database) -> Result<Self, StateError> {
        let transaction = database.begin_read()?;
        let names = transaction.open_table(NAMES)?;
        let mut keys = Vec::new();
        for row in names.range(b"u".as_slice()..b"v".as_slice())? {
            keys.push(row?.0.value().to_vec());
        }
        Ok(Self { keys, next_look: Duration::ZERO })
    }

    /// Finds blocks that have waited for too long, once an hour.
    pub(crate) fn look(
        &mut self,
        database: &Database,
        monotonic: Duration,
        now: Ticks,
    ) -> Result<(), StateError> {
        if monotonic < self.next_look {
            return Ok(());
        }
        self.next_look = monotonic.saturating_add(LOOK);
        let transaction = database.begin_read()?;
        let names = transaction.open_table(NAMES)?;
        for row in names.range(b"s".as_slice()..b"t".as_slice())? {
            let (key, value) = row?;
            let staging: Staging = rows::decode(key.value(), value.value())?;
            if is_old(&staging, now) && self.keys.len() < MOST {
                self.keys.push(key.value().to_vec());
            }
        }
        Ok(())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        self.keys.pop()
    }
}
