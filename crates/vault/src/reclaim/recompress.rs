//! Recompression: what the points need, compressed once more with what takes longer and gains more.
//!
//! ```text
//!  mark ─▶ candidates ─▶ blocks ─▶ tight packs, durable and in the index ─▶ the reclaim as always
//! ```
//!
//! This only adds packs, as any writer does. Marking prefers records in tight packs, so the old packs
//! hold nothing needed any more, and the reclaim that follows removes them by the protocol that it has
//! for such packs. So a crash at any moment, and anybody who works beside it, meet nothing new; what is
//! compressed is in tight packs, which the next run does not touch.
//!
//! - Deltas stay as they are. Those of a pack whose full blocks were taken out of it are few, and are
//!   copied when the pack is removed.
//! - A pack in which damage is found stays as it is.
//! - Memory: one pack a thread, the records that are wanted (48 bytes each), and the writer's packs.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use strongroom_base::{Cancel, PackId, Stage, Things};
use strongroom_format::{
    codec::Effort,
    pack::{PackKind, Packing},
};

use super::{
    OnReclaim, ReclaimOptions, ReclaimProgress, ReclaimReport, Start, View,
    mark::{FullAndDelta, Marks},
    repack::Repacker,
    sweep::read_pack,
};
use crate::{
    Vault, VaultError, Writer, error::Result, read::is_damage, write::ListedPack, writers::Life,
};

/// A pack whose full blocks are worth compressing once more, and how many bytes they have.
pub(super) type Candidate = (ListedPack, u64);

/// The packs that are to be compressed once more, the oldest first.
pub(super) fn candidates(
    vault: &Vault,
    view: &View,
    marks: &Marks<'_>,
    (condemned, damaged): (&HashSet<PackId>, &HashSet<PackId>),
) -> Result<Vec<Candidate>> {
    // What a running backup has written it may still need as it is.
    let writers = vault.writers()?;
    let active = writers.iter().filter(|writer| writer.life == Life::Active);
    let young = active.map(|writer| writer.first_heard).min();
    let mut found = Vec::new();
    for (pack, FullAndDelta { full, delta, packing }) in marks.full_by_pack()? {
        let Some(listed) = view.packs.get(&pack) else { continue };
        let is_free = !condemned.contains(&pack)
            && !damaged.contains(&pack)
            && young.is_none_or(|young| listed.modified < young);
        // Of a pack that is mostly deltas the rest would be freed only with them.
        let is_worth = listed.kind == PackKind::Data && packing != Packing::Tight && full > delta;
        if is_free && is_worth {
            found.push((*listed, full));
        }
    }
    found.sort_by_key(|(pack, _)| (pack.modified, pack.id));
    Ok(found)
}

/// Says in the report what [`recompress`] would do.
pub(super) fn foresee(
    vault: &Vault,
    view: &View,
    marks: &Marks<'_>,
    kept: (&HashSet<PackId>, &HashSet<PackId>),
    most: u64,
    report: &mut ReclaimReport,
) -> Result<()> {
    for (_, full) in candidates(vault, view, marks, kept)? {
        let fits = report.recompressed_bytes.saturating_add(full) <= most;
        let sum = if fits {
            report.recompressed_packs = report.recompressed_packs.saturating_add(1);
            &mut report.recompressed_bytes
        } else {
            &mut report.recompression_left_bytes
        };
        *sum = sum.saturating_add(full);
    }
    Ok(())
}

/// Compresses as much as the options say once more. Returns the packs whose full blocks are in tight
/// packs now.
pub(super) fn recompress(
    vault: &Arc<Vault>,
    options: &ReclaimOptions,
    most: u64,
    (progress, cancel): (OnReclaim<'_>, &Cancel),
    report: &mut ReclaimReport,
) -> Result<HashSet<PackId>> {
    vault.upgrade_format()?;
    vault.sync_checked()?;
    let (start, _, view) = Start::and_view(vault, options)?;
    let condemned = start.condemned();
    let view = view.with_leftovers(vault, &start, options)?;
    let marks = Marks::new(vault, &view.packs, &condemned, &start.damaged);
    let marked = marks.mark_points(&view.points, options.threads, progress, cancel);
    marked.or_else(|error| view.explain(vault, error))?;
    let mut budget = most;
    let (mut chosen, mut left) = (Vec::new(), 0_u64);
    for (listed, full) in candidates(vault, &view, &marks, (&condemned, &start.damaged))? {
        match budget.checked_sub(full) {
            Some(rest) => {
                budget = rest;
                chosen.push((listed, full));
            }
            None => left = left.saturating_add(full),
        }
    }
    report.recompression_left_bytes = left;
    if chosen.is_empty() {
        return Ok(HashSet::new());
    }
    let ids = chosen.iter().map(|(listed, _)| listed.id).collect();
    let records = marks.full_records(&ids)?;
    drop(marks);
    let work = Work { vault, chosen: &chosen, records: &records, progress, cancel };
    let mut writer = Writer::begin_copy(vault, &options.host)?;
    writer.set_packing(Packing::Tight)?;
    let done = work.run(&writer, options.threads)?;
    let bytes = writer.end()?;
    for (_, full) in chosen.iter().filter(|(listed, _)| done.contains(&listed.id)) {
        report.recompressed_packs = report.recompressed_packs.saturating_add(1);
        report.recompressed_bytes = report.recompressed_bytes.saturating_add(*full);
    }
    report.recompressed_to_bytes = bytes;
    report.copied_bytes = report.copied_bytes.saturating_add(bytes);
    Ok(done)
}

struct Work<'a> {
    vault: &'a Vault,
    chosen: &'a [Candidate],
    records: &'a HashMap<PackId, Vec<crate::index::RawRecord>>,
    progress: OnReclaim<'a>,
    cancel: &'a Cancel,
}

impl Work<'_> {
    /// The packs that were done.
    fn run(&self, writer: &Writer, threads: usize) -> Result<HashSet<PackId>> {
        let next = AtomicUsize::new(0);
        let (done, failure) = (Mutex::new(HashSet::new()), Mutex::new(None));
        let work = || {
            let mut repacker = Repacker::new(self.vault, writer, Effort::Recompression);
            while let Some((listed, _)) = self.chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.one(&mut repacker, listed) {
                    Ok(()) => {
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.insert(listed.id);
                        let (done, total) = (done.len(), self.chosen.len());
                        (self.progress)(ReclaimProgress::new(
                            Stage::Recompressing,
                            Things::Packs,
                            done,
                            total,
                        ));
                    }
                    Err(error) if is_damage(&error) => {
                        tracing::warn!(pack = %listed.id, %error, "a pack is not compressed anew: run vault verify");
                        repacker = Repacker::new(self.vault, writer, Effort::Recompression);
                    }
                    Err(error) => {
                        next.store(self.chosen.len(), Ordering::Relaxed);
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                }
            }
        };
        // Without threads of its own where nothing else has any: in the simulator.
        let threads = if self.vault.options.uploaders == 0 { 1 } else { threads.max(1) };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(self.chosen.len()) {
                scope.spawn(work);
            }
            work();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn one(&self, repacker: &mut Repacker<'_>, listed: &ListedPack) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        let records = self.records.get(&listed.id).map_or(&[][..], Vec::as_slice);
        let bytes = read_pack(self.vault, listed)?;
        repacker.compress(listed, records, &bytes)
    }
}
