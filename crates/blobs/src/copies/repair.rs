//! Repairing: a cell that does not have its checksum is read from another copy and written again.
//!
//! A cell of another copy is taken only if it belongs to the same generation, block and epoch there and has the
//! checksum that the damaged copy's own map wants, so that it does not matter which of the two has applied more.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering::SeqCst},
    time::Duration,
};

use crc32c::crc32c;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use redb::ReadableDatabase as _;

use super::{hub::Hub, members::Members};
use crate::{
    engine::Shared,
    numbers::{size, wide},
    pages::{BLOCK, CELL, pages_of_cell, span},
    slots::Place,
    state::{BLOCKS, StateError, Version},
    store::StoreError,
};

/// How often a cell is looked for in copies that have not applied everything yet.
const TRIES: usize = 50;
/// How long after one another.
const PAUSE: Duration = Duration::from_millis(10);
/// Versions that are compared at once.
const BATCH: usize = 64;

/// A cell that does not have its checksum.
struct Bad {
    epoch: u32,
    cell: usize,
    checksum: u32,
    place: Place,
}

impl Bad {
    /// Where it begins in its slot.
    fn start(&self) -> u64 {
        wide(self.cell).saturating_mul(CELL)
    }
}

/// The cells of a version that do not have their checksums. One that cannot be read has none.
fn bad_cells(
    copy: &Shared,
    generation: u64,
    block: u32,
    epoch: u32,
    version: &Version,
) -> Vec<Bad> {
    let Some(place) = Place::of(generation, block, version.slot) else { return Vec::new() };
    let mut bytes = vec![0; size(BLOCK)];
    let is_read = copy.files.read(place, 0, &mut bytes).is_ok();
    let mut found = Vec::new();
    for (cell, checksum) in version.checksums.iter().copied().enumerate() {
        if version.written & pages_of_cell(cell) == 0 {
            continue;
        }
        let bad = Bad { epoch, cell, checksum, place };
        let start = bad.start();
        let is_good = if is_read {
            crc32c(span(&bytes, start, start.saturating_add(CELL))) == checksum
        } else {
            has_checksum(copy, &bad)
        };
        if !is_good {
            found.push(bad);
        }
    }
    found
}

fn has_checksum(copy: &Shared, bad: &Bad) -> bool {
    let mut bytes = vec![0; size(CELL)];
    copy.files.read(bad.place, bad.start(), &mut bytes).is_ok() && crc32c(&bytes) == bad.checksum
}

/// All cells of a block, in whatever epoch, that do not have their checksums.
fn bad_cells_of_block(copy: &Shared, generation: u64, block: u32) -> Result<Vec<Bad>, StateError> {
    let transaction = copy.state.database.begin_read()?;
    let blocks = transaction.open_table(BLOCKS)?;
    let mut found = Vec::new();
    for row in blocks.range((generation, block, 0)..=(generation, block, u32::MAX))? {
        let (key, value) = row?;
        let version = Version::decode(value.value());
        found.extend(bad_cells(copy, generation, block, key.value().2, &version));
    }
    Ok(found)
}

/// A cell from a copy that has it with the same checksum.
fn fetch(
    from: &Shared,
    generation: u64,
    block: u32,
    bad: &Bad,
) -> Result<Option<Vec<u8>>, StateError> {
    let transaction = from.state.database.begin_read()?;
    let blocks = transaction.open_table(BLOCKS)?;
    let Some(row) = blocks.get((generation, block, bad.epoch))? else { return Ok(None) };
    let version = Version::decode(row.value());
    let is_same = version.checksums.get(bad.cell) == Some(&bad.checksum);
    let Some(place) = Place::of(generation, block, version.slot).filter(|_| is_same) else {
        return Ok(None);
    };
    let mut bytes = vec![0; size(CELL)];
    let is_read = from.files.read(place, bad.start(), &mut bytes).is_ok();
    Ok((is_read && crc32c(&bytes) == bad.checksum).then_some(bytes))
}

/// What became of a cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was written again.
    Repaired,
    /// It is right, or not there any more.
    Fine,
    /// It is wrong.
    Lost,
}

/// Writes a cell again if the map still wants it where it was.
fn put(
    copy: &Shared,
    generation: u64,
    block: u32,
    bad: &Bad,
    bytes: Option<&[u8]>,
) -> Result<Outcome, StoreError> {
    let _apart = copy.in_step.write().unwrap_or_else(PoisonError::into_inner);
    let transaction = copy.state.database.begin_read().map_err(StateError::from)?;
    let blocks = transaction.open_table(BLOCKS).map_err(StateError::from)?;
    let row = blocks.get((generation, block, bad.epoch)).map_err(StateError::from)?;
    let wants = row.map(|row| Version::decode(row.value())).is_some_and(|version| {
        Place::of(generation, block, version.slot) == Some(bad.place)
            && version.checksums.get(bad.cell) == Some(&bad.checksum)
            && version.written & pages_of_cell(bad.cell) != 0
    });
    if !wants || has_checksum(copy, bad) {
        return Ok(Outcome::Fine);
    }
    let Some(bytes) = bytes else { return Ok(Outcome::Lost) };
    copy.files.write(bad.place, bad.start(), bytes).map_err(StoreError::Data)?;
    Ok(Outcome::Repaired)
}

impl Hub {
    /// Repairs the cells of a block, in all epochs, and says whether all are right then. Another thread may have done
    /// it before.
    pub(crate) fn repair(&self, copy: &Shared, generation: u64, block: u32) -> bool {
        self.look_after(copy, generation, block) == Some(0)
    }

    /// Repairs the cells of a block, and returns how many are lost, if that could be seen.
    fn look_after(&self, copy: &Shared, generation: u64, block: u32) -> Option<u64> {
        match self.try_repair(copy, generation, block) {
            Ok((repaired, lost)) => {
                self.repaired.fetch_add(repaired, SeqCst);
                Some(lost)
            }
            Err(error) => {
                copy.fail(error);
                None
            }
        }
    }

    fn try_repair(
        &self,
        copy: &Shared,
        generation: u64,
        block: u32,
    ) -> Result<(u64, u64), StoreError> {
        let others = self.others(copy);
        let (mut repaired, mut lost) = (0_u64, 0_u64);
        for bad in bad_cells_of_block(copy, generation, block)? {
            let mut outcome = Outcome::Lost;
            for _ in 0..TRIES {
                let good = others.iter().find_map(|from| {
                    fetch(from, generation, block, &bad).unwrap_or_else(|error| {
                        from.fail(StoreError::State(error));
                        None
                    })
                });
                outcome = put(copy, generation, block, &bad, good.as_deref())?;
                // A copy that has not applied as much may have it soon.
                let behind = |other: &Arc<Shared>| {
                    other.next_record.load(SeqCst) < copy.next_record.load(SeqCst)
                };
                if outcome != Outcome::Lost || !others.iter().any(behind) {
                    break;
                }
                pause(PAUSE);
            }
            match outcome {
                Outcome::Repaired => repaired = repaired.saturating_add(1),
                Outcome::Lost => lost = lost.saturating_add(1),
                Outcome::Fine => {}
            }
        }
        Ok((repaired, lost))
    }

    /// Compares all blocks of all copies with their checksums once, at most `rate` bytes in a second, and repairs
    /// what is wrong. It ends early when `stop` has no sender any more.
    pub(crate) fn scrub(&self, rate: u64, stop: &Receiver<()>) {
        let mut lost = 0_u64;
        for copy in self.copies() {
            match self.scrub_copy(&copy, rate, stop) {
                Ok(more) => lost = lost.saturating_add(more),
                // The only copy continues as far as it can.
                Err(_) if self.others(&copy).is_empty() => lost = lost.saturating_add(1),
                Err(error) => copy.fail(StoreError::State(error)),
            }
            if stop.try_recv().is_err_and(|error| error.is_disconnected()) {
                return;
            }
        }
        self.lost.store(lost, SeqCst);
        self.passes.fetch_add(1, SeqCst);
    }

    fn scrub_copy(&self, copy: &Shared, rate: u64, stop: &Receiver<()>) -> Result<u64, StateError> {
        let mut lost = 0_u64;
        let wait = |bytes: u64| {
            self.compared.fetch_add(bytes, SeqCst);
            let time = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
            let waited = stop.recv_timeout(time);
            waited != Err(RecvTimeoutError::Disconnected) && copy.failure().is_none()
        };
        if !matches!(Members::read(&copy.folder), Ok(Some(_))) {
            self.renew.store(true, SeqCst);
        }
        copy.state.renew_sums()?;
        let mut offset = 0_u64;
        loop {
            let compared = copy.state.compare(offset)?;
            if compared == 0 {
                break;
            }
            if !wait(compared) {
                return Ok(lost);
            }
            offset = offset.saturating_add(compared);
        }
        let mut from = (0, 0, 0);
        loop {
            let mut versions = Vec::with_capacity(BATCH);
            {
                let transaction = copy.state.database.begin_read()?;
                for row in transaction.open_table(BLOCKS)?.range(from..)?.take(BATCH) {
                    let (key, value) = row?;
                    versions.push((key.value(), Version::decode(value.value())));
                }
            }
            let Some(((generation, block, epoch), _)) = versions.last() else { return Ok(lost) };
            from = (*generation, *block, epoch.saturating_add(1));
            let mut bytes = 0_u64;
            for ((generation, block, epoch), version) in &versions {
                bytes = bytes.saturating_add(BLOCK);
                // What has changed meanwhile looks wrong as well; the repair looks again.
                if !bad_cells(copy, *generation, *block, *epoch, version).is_empty() {
                    let more = self.look_after(copy, *generation, *block);
                    lost = lost.saturating_add(more.unwrap_or(0));
                }
            }
            if !wait(bytes) {
                return Ok(lost);
            }
        }
    }
}

/// Sleeps; nobody ends it early.
pub(crate) fn pause(time: Duration) {
    let (_sender, receiver) = crossbeam_channel::bounded::<()>(0);
    let _timed_out = receiver.recv_timeout(time);
}
