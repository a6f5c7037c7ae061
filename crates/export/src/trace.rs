//! The hot set of a point: which blocks were read first, in order, so that the next time they are read before anybody asks.
//!
//! ```text
//!  TraceRecorder::watch(disk) ─▶ a disk that notes what is read ─▶ TraceRecorder::trace ─▶ Trace ─▶ a file, or the point
//!  Trace::read_first ─▶ PointDisk::read_ahead, in the order of the trace
//! ```
//!
//! A trace holds numbers of blocks and no data. It is a hint: blocks that a disk does not have are passed over, and one of
//! another point of the same item is nearly as good. docs/understand/overlay-format.md specifies its bytes, which are JSON.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strongroom_base::{
    BLOCK_SIZE_U64, ByteRange, Cancel, Clock, Code, Coded, Params, RangeSet, codes, lock, params,
};
use strongroom_disk::{DiskError, DiskSource, Extent};

use crate::{BlockCache, PointDisk};

const FORMAT: u32 = 1;
/// The most bytes of a trace, written or read.
const LEN_MAX: usize = 8 << 20;
/// The most runs of a trace.
const RUNS_MAX: usize = 200_000;
/// The most blocks of a trace: 16 GiB.
const BLOCKS_MAX: u64 = 262_144;
const DISKS_MAX: usize = 256;

/// Which blocks of which disks were read, in the order in which they were read first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    format: u32,
    block_size: u64,
    disks: Vec<String>,
    /// A disk's place among the disks, its first block, a number of blocks.
    reads: Vec<(usize, u64, u64)>,
}

/// Why bytes are not a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a trace of reads: {reason}")]
pub struct TraceError {
    /// What is wrong with them.
    pub reason: String,
}

impl Coded for TraceError {
    fn code(&self) -> &'static Code {
        &codes::EXPORT_TRACE
    }

    fn params(&self) -> Params {
        let Self { reason } = self;
        params!(EXPORT_TRACE: reason)
    }
}

impl Trace {
    /// Reads a trace, which may be anything.
    ///
    /// # Errors
    ///
    /// If it is not a trace, or exceeds a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, TraceError> {
        let wrong = |reason: &str| TraceError { reason: reason.to_owned() };
        if bytes.len() > LEN_MAX {
            return Err(wrong("it is too long"));
        }
        let trace: Self =
            serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        if trace.format != FORMAT || trace.block_size != BLOCK_SIZE_U64 {
            return Err(wrong("it has another format"));
        }
        if trace.disks.len() > DISKS_MAX || trace.reads.len() > RUNS_MAX {
            return Err(wrong("it has too many parts"));
        }
        let mut sum = 0_u64;
        for (disk, first, count) in &trace.reads {
            sum = sum.saturating_add(*count);
            if *disk >= trace.disks.len() || first.checked_add(*count).is_none() {
                return Err(wrong("a run is not of its disks"));
            }
        }
        if sum > BLOCKS_MAX { Err(wrong("it has too many blocks")) } else { Ok(trace) }
    }

    /// Its bytes.
    ///
    /// # Errors
    ///
    /// None is known.
    pub fn encode(&self) -> Result<Vec<u8>, TraceError> {
        serde_json::to_vec(self).map_err(|error| TraceError { reason: error.to_string() })
    }

    /// The runs: the name of a disk and some of its blocks.
    pub fn reads(&self) -> impl Iterator<Item = (&str, Range<u64>)> {
        self.reads.iter().filter_map(|(disk, first, count)| {
            let name = self.disks.get(*disk)?;
            Some((name.as_str(), *first..first.saturating_add(*count)))
        })
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u64 {
        self.reads.iter().map(|(_, _, count)| *count).fold(0, u64::saturating_add)
    }

    /// Loads its blocks into memory in its order, as many as the cache keeps beside other things; returns when all
    /// are loaded or about to be, or `cancel` is raised.
    pub fn read_first(&self, disks: &[Arc<PointDisk>], cache: &BlockCache, cancel: &Cancel) {
        let mut left = cache.capacity() / 4 * 3;
        for (name, blocks) in self.reads() {
            if left == 0 || cancel.is_cancelled() {
                return;
            }
            let Some(disk) = disks.iter().find(|disk| disk.name() == name) else { continue };
            let last = disk.size().div_ceil(BLOCK_SIZE_U64);
            let end = blocks.end.min(blocks.start.saturating_add(left)).min(last);
            if blocks.start < end {
                left = left.saturating_sub(end.saturating_sub(blocks.start));
                disk.read_ahead(blocks.start..end);
            }
        }
    }
}

/// Notes which blocks are read for some time.
pub struct TraceRecorder {
    clock: Arc<dyn Clock>,
    until: Duration,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    disks: Vec<String>,
    reads: Vec<(usize, u64, u64)>,
    blocks: HashSet<(usize, u64)>,
}

impl TraceRecorder {
    /// Notes what is read from now on, for this long.
    pub fn new(clock: Arc<dyn Clock>, lasts: Duration) -> Arc<Self> {
        let until = clock.monotonic().saturating_add(lasts);
        Arc::new(Self { clock, until, noted: Mutex::default() })
    }

    /// A disk whose reads are noted under a name.
    pub fn watch(self: &Arc<Self>, name: &str, disk: Arc<dyn DiskSource>) -> Arc<dyn DiskSource> {
        let mut noted = lock(&self.noted);
        let place = noted.disks.len();
        noted.disks.push(name.to_owned());
        Arc::new(Watched { disk, place, recorder: Arc::clone(self) })
    }

    fn note(&self, disk: usize, blocks: Range<u64>) {
        if self.clock.monotonic() > self.until {
            return;
        }
        let mut noted = lock(&self.noted);
        for block in blocks {
            let is_full = u64::try_from(noted.blocks.len()).unwrap_or(u64::MAX) >= BLOCKS_MAX;
            if is_full || noted.reads.len() >= RUNS_MAX || !noted.blocks.insert((disk, block)) {
                continue;
            }
            match noted.reads.last_mut() {
                Some((same, first, count))
                    if *same == disk && first.saturating_add(*count) == block =>
                {
                    *count = count.saturating_add(1);
                }
                _ => noted.reads.push((disk, block, 1)),
            }
        }
    }

    /// What was read so far.
    pub fn trace(&self) -> Trace {
        let noted = lock(&self.noted);
        let (disks, reads) = (noted.disks.clone(), noted.reads.clone());
        Trace { format: FORMAT, block_size: BLOCK_SIZE_U64, disks, reads }
    }
}

struct Watched {
    disk: Arc<dyn DiskSource>,
    place: usize,
    recorder: Arc<TraceRecorder>,
}

impl DiskSource for Watched {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.disk.extents(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let end = offset.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        let blocks = offset / BLOCK_SIZE_U64..end.div_ceil(BLOCK_SIZE_U64);
        self.recorder.note(self.place, blocks);
        self.disk.read_at(offset, buf)
    }

    fn changed(&self) -> Option<&RangeSet> {
        self.disk.changed()
    }

    fn format(&self) -> &str {
        self.disk.format()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use strongroom_base::SystemClock;

    use super::*;

    fn recorded() -> Trace {
        let recorder = TraceRecorder::new(Arc::new(SystemClock), Duration::from_mins(1));
        lock(&recorder.noted).disks = vec!["vda".to_owned(), "vdb".to_owned()];
        recorder.note(0, 5..7);
        recorder.note(0, 6..9);
        recorder.note(1, 9..10);
        recorder.note(0, 0..1);
        recorder.note(0, 5..6);
        recorder.trace()
    }

    #[test]
    fn each_block_is_noted_once_in_order() {
        let trace = recorded();
        let reads: Vec<_> = trace.reads().collect();
        assert_eq!(reads, [("vda", 5..9), ("vdb", 9..10), ("vda", 0..1)]);
        assert_eq!(trace.blocks(), 6);
        assert_eq!(Trace::decode(&trace.encode().expect("bytes")), Ok(trace));
    }

    #[test]
    fn nothing_is_noted_when_the_time_is_up() {
        let recorder = TraceRecorder::new(Arc::new(SystemClock), Duration::ZERO);
        SystemClock.sleep(Duration::from_millis(2));
        recorder.note(0, 5..7);
        assert_eq!(recorder.trace().blocks(), 0);
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/trace-1.json");
        let bytes = recorded().encode().expect("bytes");
        if std::env::var_os("STRONGROOM_BLESS").is_some() {
            std::fs::write(&golden, &bytes).expect("written");
        }
        assert_eq!(std::fs::read(golden).expect("a golden file"), bytes);
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let bad = [
            "",
            "{}",
            r#"{"format":2,"block_size":65536,"disks":[],"reads":[]}"#,
            r#"{"format":1,"block_size":4096,"disks":[],"reads":[]}"#,
            r#"{"format":1,"block_size":65536,"disks":["a"],"reads":[[1,0,1]]}"#,
            r#"{"format":1,"block_size":65536,"disks":["a"],"reads":[[0,18446744073709551615,2]]}"#,
            r#"{"format":1,"block_size":65536,"disks":["a"],"reads":[[0,0,9999999]]}"#,
            r#"{"format":1,"block_size":65536,"disks":["a"],"reads":[],"more":1}"#,
        ];
        for text in bad {
            let error = Trace::decode(text.as_bytes()).expect_err(text);
            assert_eq!(error.code().name, "export.trace");
        }
        assert!(Trace::decode(&vec![b' '; LEN_MAX + 1]).is_err());
    }
}
