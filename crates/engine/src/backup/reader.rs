//! From a plan to bytes in memory.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use crossbeam_channel::{Receiver, Sender};
use strongroom_base::{AlignedBuf, BLOCK_SIZE_U64, ByteRange, LEAF_SPAN};
use strongroom_disk::DiskError;
use strongroom_format::SkippedRange;
use strongroom_objects::Rate;

use super::{
    job::Job,
    plan::{LeafWork, Planner, Unit},
};
use crate::{
    error::{EngineError, Result},
    failure::Failure,
};

/// Readers of one disk: enough reads in flight to keep a disk busy that is not in the page cache.
pub(super) const READERS: usize = 8;

/// A unit whose bytes are in memory: at the start of its buffer, which is longer. (Buffers keep
/// their length, so that they are cleared once and not for every unit.)
pub(super) struct Filled<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) leaves: Sender<Arc<LeafWork>>,
    pub(super) unit: Unit,
    pub(super) buffer: AlignedBuf,
}

/// Reads units of one disk into buffers.
pub(super) struct Reader<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) planner: Arc<Mutex<Planner<'a>>>,
    pub(super) buffers: Receiver<AlignedBuf>,
    pub(super) give: Sender<AlignedBuf>,
    pub(super) units: Sender<Filled<'a>>,
    pub(super) leaves: Sender<Arc<LeafWork>>,
    pub(super) skip_bad_blocks: bool,
}

impl Reader<'_> {
    pub(super) fn run(&self, failure: &Failure<'_>, rate: &Rate) -> Result<()> {
        while failure.go_on() {
            // The buffer first: units are then handed out in the order in which they are read.
            let Ok(mut buffer) = self.buffers.recv() else { break };
            let unit = self.planner.lock().unwrap_or_else(PoisonError::into_inner).next();
            let unit = unit.and_then(|unit| match unit {
                Some(unit) => self.fill(&unit, &mut buffer, rate).map(|()| Some(unit)),
                None => Ok(None),
            });
            // The buffer goes back whatever happens: others may wait for it.
            let Ok(Some(unit)) = unit else {
                self.give.send(buffer).ok();
                return unit.map(|_| ());
            };
            let leaves = self.leaves.clone();
            let filled = Filled { job: self.job, leaves, unit, buffer };
            if self.units.send(filled).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn fill(&self, unit: &Unit, buffer: &mut AlignedBuf, rate: &Rate) -> Result<()> {
        let leaf_start = unit.leaf.index.saturating_mul(LEAF_SPAN);
        let mut from = 0_usize;
        for run in &unit.runs {
            let len = run.blocks.saturating_mul(strongroom_base::BLOCK_SIZE);
            let offset =
                leaf_start.saturating_add(u64::from(run.slot).saturating_mul(BLOCK_SIZE_U64));
            let end = from.saturating_add(len);
            let part = buffer
                .get_mut(from..end)
                .ok_or(EngineError::Bug("a unit larger than its buffer"))?;
            from = end;
            let bytes = u64::try_from(len).unwrap_or(u64::MAX);
            rate.take(bytes);
            self.read(offset, part)?;
            let bytes = bytes.min(self.job.source.size().saturating_sub(offset));
            self.job.work.read.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads; parts that cannot be read are an error, or zeros and a record of it.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let work = &self.job.work;
        let mut at = 0_usize;
        while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let start = offset.saturating_add(u64::try_from(at).unwrap_or(u64::MAX));
            let end = start.saturating_add(u64::try_from(rest.len()).unwrap_or(u64::MAX));
            match self.job.source.read_at(start, rest) {
                Ok(()) => return Ok(()),
                Err(DiskError::Read { range, source, disk }) => {
                    let bad = range.intersect(ByteRange::between(start, end));
                    if !self.skip_bad_blocks || bad.is_empty() {
                        let name = work.name.clone();
                        let source = DiskError::Read { range, source, disk };
                        return Err(EngineError::SourceRead { name, range, source });
                    }
                    let index = |offset: u64| {
                        usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX)
                    };
                    // What lies before the bad part is read again: not every source promises to
                    // have filled it.
                    if let Some(good) =
                        rest.get_mut(..index(bad.offset())).filter(|g| !g.is_empty())
                    {
                        self.job.source.read_at(start, good).map_err(|e| work.disk_error(e))?;
                    }
                    if let Some(zeros) = rest.get_mut(index(bad.offset())..index(bad.end())) {
                        zeros.fill(0);
                    }
                    let skipped = SkippedRange { offset: bad.offset(), length: bad.len() };
                    work.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(skipped);
                    at = at.saturating_add(index(bad.end()));
                }
                Err(error) => return Err(work.disk_error(error)),
            }
        }
        Ok(())
    }
}
