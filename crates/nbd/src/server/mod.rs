//! The server's part of a conversation, over any stream.
//!
//! ```text
//!  Handshake::start ─▶ hear ─▶ Heard::Encrypt ─▶ the caller encrypts ─▶ Handshake::resume ─┐
//!                       ▲  └─▶ Heard::Ended                                                │
//!                       └───────────────────────────────────────────────────────────────────┘
//!                          └─▶ Heard::Chosen(Session) ─▶ Session::serve, until the client goes
//! ```
//!
//! [`Exports`] says what there is, [`Exported`] is one of them. One conversation takes one thread and at most
//! [`PIECE`] bytes for data, however long its requests are. Who may connect, how long the other side may be
//! silent and how many may talk at once is the caller's to decide, by the stream that it gives.
//!
//! [`listen`] serves exports on sockets. The client of this crate, others' clients and a fuzzer talk to it in tests.

mod contexts;
mod handshake;
pub mod listen;
mod session;
mod socket;
mod wire;

#[cfg(test)]
mod tests;

use std::{io, sync::Arc};

pub use handshake::{Encryption, Handshake, Heard};
pub use session::Session;
pub use socket::{Owner, SocketFile};

pub(crate) use contexts::Agreed;

/// The most bytes of a request that are in memory at a time.
pub const PIECE: usize = 1 << 20;

/// The exports of a server.
pub trait Exports {
    /// Their names, for clients that ask which there are; none of those that are kept to oneself.
    fn names(&self) -> Vec<String>;

    /// The export of this name; the empty name is that of the default one.
    ///
    /// # Errors
    ///
    /// Why there is none, in words that the client is shown.
    fn open(&self, name: &str) -> Result<Arc<dyn Exported>, String>;
}

/// A stretch of an export that is all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Its bytes: at least one.
    pub len: u64,
    /// Whether it reads as zeros and nothing is stored for it.
    pub is_hole: bool,
}

/// A stretch of an export that is all changed or all unchanged, as a dirty bitmap says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its bytes: at least one.
    pub len: u64,
    /// Whether it has changed.
    pub is_dirty: bool,
}

/// Something that a client reads, and writes where it may. Offsets and lengths were checked against
/// [`Exported::size`] and [`Exported::unit`] before any method gets them.
///
/// A failure reaches the client as one of the protocol's error numbers; the words of an error reach only
/// clients that understand structured replies.
pub trait Exported: Send + Sync {
    /// Bytes. It does not change while a client is connected.
    fn size(&self) -> u64;

    /// Whether it can only be read.
    fn is_read_only(&self) -> bool {
        true
    }

    /// Every offset and length must be a multiple of it: a power of two up to 64 KiB.
    fn unit(&self) -> u32 {
        1
    }

    /// Whether several connections see each other's writes as soon as they are answered, and a flush on one
    /// covers all.
    fn is_shared(&self) -> bool {
        self.is_read_only()
    }

    /// Fills the buffer from `offset` on.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be read; what is in the buffer then means nothing.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Where data is and where holes are, from `offset` on: at least one stretch, at most `len` bytes in all.
    ///
    /// # Errors
    ///
    /// If it cannot be found out.
    fn allocation(&self, offset: u64, len: u64) -> io::Result<Vec<Allocation>> {
        let _ = offset;
        Ok(vec![Allocation { len, is_hole: false }])
    }

    /// The names of its dirty bitmaps, without `qemu:dirty-bitmap:`. They do not change while a client is connected.
    fn bitmaps(&self) -> Vec<String> {
        Vec::new()
    }

    /// What a dirty bitmap, named by its place in [`Exported::bitmaps`], says from `offset` on: at least one stretch,
    /// at most `len` bytes in all.
    ///
    /// # Errors
    ///
    /// If it cannot be found out, or there is no such bitmap.
    fn changed(&self, bitmap: usize, offset: u64, len: u64) -> io::Result<Vec<Changed>> {
        let _ = (bitmap, offset, len);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes bytes. A long request comes in several parts.
    ///
    /// # Errors
    ///
    /// If they cannot be written; some may be.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _ = (offset, data);
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Writes zeros; if `may_punch`, it may free what was stored there.
    ///
    /// # Errors
    ///
    /// If they cannot be written; some may be.
    fn zero(&self, offset: u64, len: u64, may_punch: bool) -> io::Result<()> {
        let _ = (offset, len, may_punch);
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Learns that nobody needs these bytes any more; what they read as then is up to the export.
    ///
    /// # Errors
    ///
    /// If that cannot be noted.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Returns when all writes that were answered are on stable storage.
    ///
    /// # Errors
    ///
    /// If they are not.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
