//! Files to blobs, and blobs to files: only what has content, by several requests at once.
//!
//! Memory is bounded: each of the [`Work::parallel`] threads has at most 4 MiB.

mod content;
mod download;
mod sparse;
mod upload;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strongroom_base::{Cancel, Progress};

pub(crate) use content::{Copying, apply, equalise, repair};
pub use download::{Download, download};
pub use upload::{Upload, upload};

/// How long a run waits for the lease of one that was killed: a little longer than such a lease lasts.
pub const LEASE_WAIT: Duration = Duration::from_secs(65);

/// How work is carried out, and watched.
#[derive(Clone, Debug)]
pub struct Work {
    /// How many requests there are at once, 1 to 64.
    pub parallel: usize,
    /// How long to wait for another run that has a lease on the blob.
    pub wait: Duration,
    /// Stops the work.
    pub cancel: Cancel,
    /// Counts bytes.
    pub progress: Progress,
}

impl Default for Work {
    fn default() -> Self {
        Self { parallel: 8, wait: LEASE_WAIT, cancel: Cancel::new(), progress: Progress::new() }
    }
}

/// What a transfer did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferReport {
    /// The length of the blob, in bytes.
    pub size: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Ranges that were written.
    pub written_ranges: u64,
    /// Whether an earlier transfer that had not ended was continued.
    pub was_continued: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What several threads count together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) written_ranges: AtomicU64,
    pub(crate) cleared_bytes: AtomicU64,
    pub(crate) cleared_ranges: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn report(&self, size: u64, was_continued: bool, duration: Duration) -> TransferReport {
        TransferReport {
            size,
            read_bytes: Self::get(&self.read_bytes),
            written_bytes: Self::get(&self.written_bytes),
            written_ranges: Self::get(&self.written_ranges),
            was_continued,
            duration_ms: millis(duration),
        }
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
