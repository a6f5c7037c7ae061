//! Progress of long work, as numbers for a display.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Counters that long work advances and that a face polls. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    stage: Mutex<&'static str>,
    things: Mutex<&'static str>,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Bytes to go through in all, as far as known; may grow.
    pub total_bytes: u64,
    /// Bytes gone through.
    pub done_bytes: u64,
    /// Bytes written to the vault or the target so far.
    pub stored_bytes: u64,
    /// What is being done: `reading`, `publishing`, ...
    pub stage: &'static str,
    /// What is counted instead of bytes: `packs`, ...; empty if it is bytes.
    pub things: &'static str,
}

impl Progress {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// More bytes are known to be to do.
    pub fn add_total(&self, bytes: u64) {
        self.0.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: u64) {
        self.0.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more bytes were written.
    pub fn add_stored(&self, bytes: u64) {
        self.0.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Begins a stage of which not bytes are counted but `things`: so many are done, of so many.
    pub fn count(&self, stage: &'static str, things: &'static str, done: u64, total: u64) {
        self.set_stage(stage);
        *self.0.things.lock().unwrap_or_else(PoisonError::into_inner) = things;
        self.0.done_bytes.store(done, Ordering::Relaxed);
        self.0.total_bytes.store(total, Ordering::Relaxed);
    }

    /// What is being done now.
    pub fn set_stage(&self, stage: &'static str) {
        *self.0.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let total_bytes = self.0.total_bytes.load(Ordering::Relaxed);
        let done_bytes = self.0.done_bytes.load(Ordering::Relaxed);
        Snapshot {
            total_bytes,
            // Disks are gone through in whole blocks; the last one may be longer than the disk.
            done_bytes: if total_bytes > 0 { done_bytes.min(total_bytes) } else { done_bytes },
            stored_bytes: self.0.stored_bytes.load(Ordering::Relaxed),
            stage: *self.0.stage.lock().unwrap_or_else(PoisonError::into_inner),
            things: *self.0.things.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_done_than_there_is() {
        let progress = Progress::default();
        progress.add_total(1_000_003);
        // The last block is longer than the disk.
        progress.advance(1 << 20);
        assert_eq!(progress.snapshot().done_bytes, 1_000_003);
        let unknown = Progress::default();
        unknown.advance(7);
        assert_eq!(unknown.snapshot().done_bytes, 7);
    }
}
