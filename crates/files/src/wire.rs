//! What the process that reads and the one that asks say to each other.
//!
//! ```text
//!  parent: Hello ─▶                      ◀─ Ready: child
//!          Request ─▶
//!                     ◀─ Need ── bytes or a failure ─▶   as often as the child needs the disk
//!                     ◀─ Entries ...
//!                     ◀─ the last Answer
//! ```
//!
//! A frame is its length (`u32`, little-endian), a byte that says whether a message or bare bytes follow, and these.
//! Both sides bound what they take before they take memory.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    secret::{Secret, Unlocked},
    survey::Volume,
    tree::{Attributes, Entry, Fault, Xattr},
};

/// Most bytes of a frame.
pub(crate) const FRAME_MAX: usize = 4 << 20;
/// Most bytes of one read, of a disk or a file.
pub(crate) const READ_MAX: usize = 1 << 20;

/// What the parent says first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Bytes of each disk.
    pub(crate) disks: Vec<u64>,
    /// Most bytes of memory.
    pub(crate) memory: u64,
    /// Most seconds of processor time.
    pub(crate) seconds: u64,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// What is on the disks.
    Survey,
    /// Open the file system of a volume of the last survey; the others close.
    Open { volume: u32 },
    /// The attributes of a node.
    Attributes { node: u64 },
    /// The entries of a folder.
    List { node: u64 },
    /// The entry of this name in a folder.
    Find { node: u64, name: Vec<u8> },
    /// The next bytes of a file.
    Read { node: u64, offset: u64, len: u32 },
    /// Where a link points.
    Target { node: u64 },
    /// The extended attributes of a node.
    Xattrs { node: u64 },
    /// The keys of encrypted volumes that one of these secrets opens.
    Unlock { secrets: Vec<Secret> },
    /// Open encrypted volumes by these keys in every survey from now on.
    Keys { unlocked: Vec<Unlocked> },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The child is locked in and waits.
    Ready,
    /// The child needs bytes of a disk before it can answer.
    Need {
        disk: u32,
        offset: u64,
        len: u32,
    },
    Volumes(Vec<Volume>),
    Opened {
        root: u64,
        notes: Vec<String>,
    },
    Attributes(Attributes),
    /// Some entries; more follow.
    Entries(Vec<Entry>),
    /// All entries were given.
    End,
    Found(Option<Entry>),
    /// The bytes follow as a frame of their own.
    Data,
    Hole(u64),
    Target(Vec<u8>),
    Xattrs(Vec<Xattr>),
    Unlocked(Vec<Unlocked>),
    Failed(Fault),
}

/// What the parent answers to a need.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Given {
    /// The bytes follow as a frame of their own.
    Data,
    /// The disk could not be read.
    Failed,
}

const MESSAGE: u8 = 1;
const BYTES: u8 = 2;

/// One end of the socket, or of what takes its place.
pub(crate) struct Line<S = UnixStream> {
    socket: S,
    frame: Zeroizing<Vec<u8>>,
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl Line {
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Whether nothing comes any more, because the other end is closed.
    pub(crate) fn is_closed(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(&self.socket, &mut [0_u8], flags).is_ok_and(|(_, len)| len == 0)
    }
}

impl<S: Read + Write> Line<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, frame: Zeroizing::default() }
    }

    pub(crate) fn say<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        // It may have a secret in it.
        let bytes = Zeroizing::new(postcard::to_stdvec(message).map_err(io::Error::other)?);
        self.send(MESSAGE, &bytes)
    }

    pub(crate) fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(BYTES, bytes)
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let len = body.len().saturating_add(1);
        if len > FRAME_MAX {
            return Err(invalid("a frame is too long"));
        }
        let mut head = [0, 0, 0, 0, kind];
        let count = u32::try_from(len).map_err(io::Error::other)?.to_le_bytes();
        head.iter_mut().zip(count).for_each(|(to, from)| *to = from);
        self.socket.write_all(&head)?;
        self.socket.write_all(body)
    }

    /// Reads a frame of this kind into the buffer. Memory grows with what arrives, not with what was announced.
    fn receive(&mut self, kind: u8, most: usize) -> io::Result<()> {
        let mut head = [0; 5];
        self.socket.read_exact(&mut head)?;
        let [a, b, c, d, found] = head;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(io::Error::other)?;
        let len = len.checked_sub(1).ok_or_else(|| invalid("a frame is empty"))?;
        if found != kind || len > most {
            return Err(invalid("a frame is of another kind, or too long"));
        }
        self.frame.clear();
        let limit = u64::try_from(len).unwrap_or(u64::MAX);
        if (&mut self.socket).take(limit).read_to_end(&mut self.frame)? != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        self.receive(MESSAGE, FRAME_MAX)?;
        let (message, rest) = postcard::take_from_bytes(&self.frame).map_err(io::Error::other)?;
        if !rest.is_empty() {
            return Err(invalid("bytes after a message"));
        }
        Ok(message)
    }

    /// Bytes that were announced, no more than the buffer holds. How many there were.
    pub(crate) fn take(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(BYTES, buf.len())?;
        let len = self.frame.len();
        buf.get_mut(..len).unwrap_or_default().copy_from_slice(&self.frame);
        Ok(len)
    }
}
