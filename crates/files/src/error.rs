//! Why files cannot be read or delivered.

use std::{
    error::Error,
    fmt::{self, Display, Write as _},
    io,
};

use strongroom_base::{Code, Coded, Params, codes, params};

use crate::tree::{Fault, FaultKind};

/// An error of reading files, with its place in the catalog.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// No partition or file system is where one was named, or several are.
    #[error("{reason}")]
    Volume {
        /// What is there instead.
        reason: String,
    },
    /// There is no such file, or something of another kind.
    #[error("{path}: {reason}")]
    NotFound {
        /// The path in the file system.
        path: String,
        /// What is there instead.
        reason: String,
    },
    /// No reader here reads it right.
    #[error("{path}: {reason}")]
    Unsupported {
        /// The path, or the partition.
        path: String,
        /// Which feature.
        reason: String,
    },
    /// No secret that was given opens an encrypted volume.
    #[error("{path}: no passphrase or key file that was given opens it")]
    Secret {
        /// The volume.
        path: String,
    },
    /// The file system contradicts itself.
    #[error("{path}: the file system is damaged: {reason}")]
    Damaged {
        /// The path, or the partition.
        path: String,
        /// How.
        reason: String,
    },
    /// The process that reads ended, took too long or broke the protocol.
    #[error("{path}: the process that reads file systems failed: {reason}")]
    Reader {
        /// The path, or the partition.
        path: String,
        /// How.
        reason: String,
    },
    /// The machine that reads cannot be started on this host.
    #[error("the micro-VM that reads files cannot be started: {reason}")]
    Machine {
        /// What it lacks, or how it failed.
        reason: String,
    },
    /// The disk could not be read.
    #[error("cannot read disk {disk}")]
    Disk {
        /// The disk.
        disk: String,
        /// The cause.
        source: io::Error,
    },
    /// A place to deliver to cannot be written.
    #[error("cannot {action} {path}")]
    Target {
        /// The verb.
        action: &'static str,
        /// The place.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A place to deliver to cannot be written, so that nothing more can be delivered.
    #[error("cannot {action} {path}; files delivered before that: {files}")]
    Stopped {
        /// The verb.
        action: &'static str,
        /// The place.
        path: String,
        /// How many files were delivered.
        files: u64,
        /// The cause.
        source: io::Error,
    },
    /// Stopped on request.
    #[error("interrupted")]
    Cancelled,
}

impl Coded for FilesError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Volume { .. } => &codes::FILES_VOLUME,
            Self::NotFound { .. } => &codes::FILES_NOT_FOUND,
            Self::Unsupported { .. } => &codes::FILES_UNSUPPORTED,
            Self::Secret { .. } => &codes::FILES_SECRET,
            Self::Damaged { .. } => &codes::FILES_DAMAGED,
            Self::Reader { .. } => &codes::FILES_READER,
            Self::Machine { .. } => &codes::FILES_MACHINE,
            Self::Disk { source, .. } => code_of(source),
            Self::Target { .. } | Self::Stopped { .. } => &codes::LOCAL_IO,
            Self::Cancelled => &codes::INTERRUPTED,
        }
    }

    fn params(&self) -> Params {
        match self {
            Self::Volume { reason } => params!(FILES_VOLUME: reason),
            Self::NotFound { path, reason } => params!(FILES_NOT_FOUND: path, reason),
            Self::Unsupported { path, reason } => params!(FILES_UNSUPPORTED: path, reason),
            Self::Secret { path } => params!(FILES_SECRET: path),
            Self::Damaged { path, reason } => params!(FILES_DAMAGED: path, reason),
            Self::Reader { path, reason } => params!(FILES_READER: path, reason),
            Self::Machine { reason } => params!(FILES_MACHINE: reason),
            Self::Disk { disk, source: _ } => {
                params!(DISK_IO | STORE_CORRUPT | STORE_MISSING | STORE_UNAVAILABLE | STORE_DENIED | STORE_PROTOCOL | STORE_FULL | STORE_READ_ONLY | STORE_DEGRADED | INDEX_INCOMPLETE | VAULT_FORMAT | VAULT_NOT_FOUND | KEY_WRONG | LOCAL_IO | INTERRUPTED | BUG: disk)
            }
            Self::Target { action, path, source: _ } => params!(LOCAL_IO: action, path),
            Self::Stopped { action, path, files, source: _ } => {
                params!(LOCAL_IO: action, path, files)
            }
            Self::Cancelled => Params::none(),
        }
    }
}

/// Why bytes of a disk cannot be read, with its place in the catalog. A [`ReadAt`](crate::ReadAt) puts it into its
/// [`io::Error`], so that the code of the cause is the code of the error.
#[derive(Debug)]
pub struct ReadFailure {
    /// The code of the cause.
    pub code: &'static Code,
    /// The cause.
    pub cause: Box<dyn Error + Send + Sync>,
}

impl Display for ReadFailure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(to)
    }
}

impl Error for ReadFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// The code of the cause, if it was given.
pub(crate) fn code_of(error: &io::Error) -> &'static Code {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<ReadFailure>());
    cause.map_or(&codes::DISK_IO, |cause| cause.code)
}

/// An error with all its causes, outermost first, without repetitions.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        // Some print their cause as part of themselves.
        if !last.ends_with(&words) {
            write!(text, ": {words}").ok();
            last = words;
        }
        next = cause.source();
    }
    text
}

impl FilesError {
    /// With all causes, in one line.
    pub fn with_causes(&self) -> String {
        with_causes(self)
    }

    /// The error of a fault at this path.
    pub(crate) fn of_fault(path: &[u8], fault: Fault) -> Self {
        let (path, reason) = (shown(path), fault.reason);
        match fault.kind {
            FaultKind::NotFound | FaultKind::WrongKind => Self::NotFound { path, reason },
            FaultKind::Unsupported => Self::Unsupported { path, reason },
            FaultKind::Damaged => Self::Damaged { path, reason },
            FaultKind::Disk | FaultKind::Reader => Self::Reader { path, reason },
        }
    }
}

/// A name or path for people: what is not UTF-8 as `\xNN`, a backslash before it doubled.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let is_text = std::str::from_utf8(bytes).is_ok();
    for chunk in bytes.utf8_chunks() {
        match (is_text, chunk.valid()) {
            (true, valid) => text.push_str(valid),
            (false, valid) => text.push_str(&valid.replace('\\', "\\\\")),
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").ok();
        }
    }
    text
}
