//! The trait of those who read files of recovery points.
//!
//! Owns what the service asks of them. Must not know how file systems are read, and who may ask.
//!
//! Invariants: nothing is changed; what reads a stranger's file system has nothing else; what is begun ends soon
//! once its leash is pulled.

use std::{
    fmt,
    io::Write,
    sync::{Arc, Mutex},
};

use strongroom_api::{ArchiveFormat, FileListing, FileReport, OfVolume, PointVolumes};
use strongroom_base::{Cancel, PointId, lock};

use crate::{Result, VaultAccess};

/// The recovery point whose files are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesOf {
    /// The vault.
    pub vault: VaultAccess,
    /// The item's name there.
    pub item: String,
    /// The point.
    pub point: PointId,
}

/// The file or folder that is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileAsk {
    /// Which volume, as far as it is named: the only one that can be read, if nothing is.
    pub of: OfVolume,
    /// The path: bytes, as file systems have them.
    pub path: Vec<u8>,
}

/// Which part of a folder is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListAsk {
    /// Only names after this one.
    pub after: Option<Vec<u8>>,
    /// How many at most.
    pub limit: usize,
    /// Whether with extended attributes.
    pub xattrs: bool,
}

/// Which bytes of a file whose size is not known yet (RFC 9110, 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteAsk {
    /// From one byte to another, both of them included.
    From {
        /// The first.
        first: u64,
        /// The last; that of the file, if none is named.
        last: Option<u64>,
    },
    /// This number of bytes at the end.
    Last(u64),
}

impl ByteAsk {
    /// The first byte of a file of `size` bytes that is meant, and the one after the last. None if the file has none of
    /// them.
    pub fn of(self, size: u64) -> Option<(u64, u64)> {
        match self {
            Self::From { first, last } => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                (first < end).then_some((first, end))
            }
            Self::Last(0) => None,
            Self::Last(count) => Some((size.saturating_sub(count), size)),
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStream {
    /// The bytes of a file.
    Content {
        /// Which of them, if only a part is wanted.
        range: Option<ByteAsk>,
    },
    /// An archive of all below a path.
    Archive(ArchiveFormat),
    /// A line of JSON for each file below a path.
    Tree,
}

/// What of a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The bytes that were asked for: the first, and the one after the last.
    Bytes(u64, u64),
    /// Nothing: the file has none of the bytes that were asked for.
    Nothing,
}

/// What is known before the first byte is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHead {
    /// The name of what is sent: bytes that a stranger has chosen. Empty of the uppermost folder.
    pub name: Vec<u8>,
    /// Bytes of the whole file; none of a stream whose length nobody knows.
    pub size: Option<u64>,
    /// What of the file is sent.
    pub part: Part,
}

/// Takes what is sent: first its head, then bytes.
pub trait FileSink: Write + Send {
    /// What is sent can be read, and begins. Called once, before any byte.
    fn begin(&mut self, head: FileHead);
}

/// What was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentFiles {
    /// The report, without the bytes that were sent, which the sink knows.
    pub report: FileReport,
}

/// Who reads files of recovery points. All of this blocks.
pub trait PointFiles: Send + Sync {
    /// The file systems of a point.
    fn volumes(&self, of: &FilesOf, leash: &Leash) -> Result<PointVolumes>;

    /// A part of a folder, or a single file.
    fn list(
        &self,
        of: &FilesOf,
        file: &FileAsk,
        ask: &ListAsk,
        leash: &Leash,
    ) -> Result<FileListing>;

    /// Sends files. An error after the head means that what was sent is not whole.
    fn send(
        &self,
        of: &FilesOf,
        file: &FileAsk,
        what: FileStream,
        to: &mut dyn FileSink,
        leash: &Leash,
    ) -> Result<SentFiles>;
}

/// Ends a reading from outside, at whatever it waits for. Clones are the same leash.
#[derive(Clone, Default)]
pub struct Leash(Arc<Held>);

#[derive(Default)]
struct Held {
    cancel: Cancel,
    end: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl fmt::Debug for Leash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leash").field(&self.0.cancel.is_cancelled()).finish()
    }
}

impl Leash {
    /// A leash that is not pulled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the reading: it looks at its flag, and what was said with [`Leash::on_pull`] happens.
    pub fn pull(&self) {
        self.0.cancel.cancel();
        if let Some(end) = lock(&self.0.end).take() {
            end();
        }
    }

    /// The flag that is raised when it is pulled.
    pub fn cancel(&self) -> &Cancel {
        &self.0.cancel
    }

    /// What ends that which the reading waits for. It happens now if the leash was pulled before.
    pub fn on_pull(&self, end: impl Fn() + Send + 'static) {
        *lock(&self.0.end) = Some(Box::new(end));
        if self.0.cancel.is_cancelled() {
            self.pull();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn it_ends_what_was_begun_before_and_after() {
        let ended = Arc::new(AtomicU32::new(0));
        let counts = |ended: &Arc<AtomicU32>| {
            let ended = Arc::clone(ended);
            move || {
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        let leash = Leash::new();
        leash.on_pull(counts(&ended));
        assert_eq!(ended.load(Ordering::SeqCst), 0);
        leash.clone().pull();
        leash.pull();
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        assert!(leash.cancel().is_cancelled());
        leash.on_pull(counts(&ended));
        assert_eq!(ended.load(Ordering::SeqCst), 2);
    }
}
