//! Progress of long work, as numbers for a display.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::lock;

/// An enum of words for a display.
macro_rules! shown {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[$meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            $($(#[$meta])* $variant,)*
        }

        impl $name {
            /// In words.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

shown! {
    /// What long work is doing.
    Stage {
        /// Nothing more is known of it.
        #[default]
        Working = "working",
        /// It waits for others.
        Waiting = "waiting",
        /// It opens and looks.
        Preparing = "preparing",
        /// It makes what it reads reachable for others.
        Connecting = "connecting",
        /// It decides what to do.
        Planning = "planning",
        /// It looks whether what did not change did not.
        Checking = "checking",
        /// It freezes a guest.
        Freezing = "freezing",
        /// It reads what is backed up.
        Reading = "reading",
        /// It writes what is left.
        Finishing = "finishing",
        /// It makes the recovery point known.
        Publishing = "publishing",
        /// It compares with what is there.
        Comparing = "comparing",
        /// It writes what is restored.
        Restoring = "restoring",
        /// It waits until all is on disk.
        Flushing = "flushing",
        /// It stops a machine.
        ShuttingDown = "shutting down",
        /// It describes a machine.
        Configuring = "configuring",
        /// It starts a machine.
        Starting = "starting",
        /// It watches a machine boot.
        Booting = "booting",
        /// It changes the disks of a running machine over to others.
        Pivoting = "pivoting",
        /// A reclaim compresses what is needed once more.
        Recompressing = "recompressing",
        /// A reclaim finds what is needed.
        Marking = "marking",
        /// A reclaim moves what is needed.
        Copying = "copying",
        /// A reclaim deletes what is not.
        Deleting = "deleting",
        /// A validation follows trees.
        Walking = "walking",
        /// A validation reads a sample.
        Sampling = "sampling",
        /// A verification reads what describes a vault.
        Metadata = "metadata",
        /// A verification reads packs.
        Packs = "packs",
        /// A verification follows recovery points.
        Points = "points",
        /// A job makes a snapshot.
        Snapshot = "snapshot",
        /// A job transfers a recovery point.
        Transfer = "transfer",
        /// A job validates a recovery point.
        Validating = "validating",
        /// A job is being cancelled.
        Cancelling = "cancelling",
    }
}

shown! {
    /// What is counted.
    Things {
        /// Bytes, which are shown in larger units.
        #[default]
        Bytes = "bytes",
        /// Backups.
        Backups = "backups",
        /// Blocks of disks.
        Blocks = "blocks",
        /// Disks.
        Disks = "disks",
        /// Objects in a store.
        Objects = "objects",
        /// Packs.
        Packs = "packs",
        /// Recovery points.
        RecoveryPoints = "recovery points",
    }
}

/// Counters that long work advances and that a face polls. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    stage: Mutex<Stage>,
    things: Mutex<Things>,
    passed: Mutex<Vec<Passed>>,
}

/// A phase of the work that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Its name.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
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
    /// What is being done.
    pub stage: Stage,
    /// What is counted.
    pub things: Things,
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

    /// Adds to the bytes that are done.
    pub fn advance(&self, bytes: u64) {
        self.0.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the bytes that were written.
    pub fn add_stored(&self, bytes: u64) {
        self.0.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Begins a stage that counts `things` in place of bytes: how many are done, of how many.
    pub fn count(&self, stage: Stage, things: Things, done: u64, total: u64) {
        self.set_stage(stage);
        *lock(&self.0.things) = things;
        self.0.done_bytes.store(done, Ordering::Relaxed);
        self.0.total_bytes.store(total, Ordering::Relaxed);
    }

    /// What is being done now.
    pub fn set_stage(&self, stage: Stage) {
        *lock(&self.0.stage) = stage;
    }

    /// A phase has ended.
    pub fn pass(&self, name: &'static str, took: Duration) {
        lock(&self.0.passed).push(Passed { name, took });
    }

    /// The phases that have ended, without the first `seen` of them.
    pub fn passed(&self, seen: usize) -> Vec<Passed> {
        lock(&self.0.passed).get(seen..).unwrap_or_default().to_vec()
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
            stage: *lock(&self.0.stage),
            things: *lock(&self.0.things),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_is_given_once() {
        let progress = Progress::new();
        assert_eq!(progress.passed(0), []);
        let (first, second) = (Duration::from_secs(1), Duration::from_secs(2));
        progress.pass("connect", first);
        progress.clone().pass("start", second);
        let start = Passed { name: "start", took: second };
        assert_eq!(progress.passed(0), [Passed { name: "connect", took: first }, start]);
        assert_eq!(progress.passed(1), [start]);
        assert_eq!(progress.passed(3), []);
    }

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
