//! Why files cannot be read or delivered.

use std::{fmt::Write as _, io};

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
            Self::Damaged { .. } => &codes::FILES_DAMAGED,
            Self::Reader { .. } => &codes::FILES_READER,
            Self::Disk { .. } => &codes::DISK_IO,
            Self::Target { .. } => &codes::LOCAL_IO,
            Self::Cancelled => &codes::INTERRUPTED,
        }
    }

    fn params(&self) -> Params {
        match self {
            Self::Volume { reason } => params!(FILES_VOLUME: reason),
            Self::NotFound { path, reason } => params!(FILES_NOT_FOUND: path, reason),
            Self::Unsupported { path, reason } => params!(FILES_UNSUPPORTED: path, reason),
            Self::Damaged { path, reason } => params!(FILES_DAMAGED: path, reason),
            Self::Reader { path, reason } => params!(FILES_READER: path, reason),
            Self::Disk { disk, source: _ } => params!(DISK_IO: disk),
            Self::Target { action, path, source: _ } => params!(LOCAL_IO: action, path),
            Self::Cancelled => Params::none(),
        }
    }
}

impl FilesError {
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
