//! Whether a running machine uses a file.
//!
//! QEMU marks what it does with an image by locks on single bytes of it: byte 100 + n for a right
//! it uses, byte 200 + n for a right it lets nobody else use. The locks are advisory and do not
//! hinder us; they are looked at.

use std::{fs::File, io};

use rustix::{
    fs::FlockOperation,
    io::Errno,
    process::{Flock, FlockType, fcntl_getlk},
};

/// The bytes that QEMU locks while it may write to an image, or resize it.
const WRITING: [u64; 2] = [101, 103];

/// What is said of a file that QEMU has locked.
pub(super) const BY_A_MACHINE: &str = "a running machine or another tool holds its lock";

/// Whether somebody has the right to write to `file` by QEMU's rules.
pub(super) fn has_writer(file: &File) -> io::Result<bool> {
    for start in WRITING {
        let ask = Flock { start, length: 1, ..Flock::from(FlockType::WriteLock) };
        if fcntl_getlk(file, &ask)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes `file` for us alone until it is closed; false if anybody has any lock on it. QEMU then
/// refuses to start a machine on it.
pub(super) fn take(file: &File) -> io::Result<bool> {
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        // A file system without locks has no machine's lock either.
        Ok(()) | Err(Errno::NOLCK | Errno::NOTSUP) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
