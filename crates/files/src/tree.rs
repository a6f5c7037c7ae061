//! A tree of files as its file system has it: entries, attributes, bytes.
//!
//! Every file system that is read is a [`Tree`]. Names are bytes; nothing here is checked to be harmless to anybody
//! who writes files: that is the work of those who write.

use serde::{Deserialize, Serialize};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// Another file system's root that this reader does not enter, as a subvolume.
    Subvolume,
}

impl Kind {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::Link => "link",
            Self::Pipe => "pipe",
            Self::Socket => "socket",
            Self::CharacterDevice => "character_device",
            Self::BlockDevice => "block_device",
            Self::Subvolume => "subvolume",
        }
    }

    /// The same in a sentence.
    pub fn in_words(self) -> String {
        self.name().replace('_', " ")
    }

    /// What the type bits of a mode say.
    pub const fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Folder,
            0o120_000 => Self::Link,
            0o010_000 => Self::Pipe,
            0o140_000 => Self::Socket,
            0o020_000 => Self::CharacterDevice,
            0o060_000 => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// A moment: seconds since 1970 in UTC, which may be negative, and nanoseconds after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Less than a thousand million.
    pub nanoseconds: u32,
}

/// What a file system says of a file. What it does not know is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Names that it has.
    pub links: Option<u32>,
    /// When its content changed last.
    pub modified: Option<Time>,
    /// When it was read last.
    pub accessed: Option<Time>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
}

impl Attributes {
    /// Those of something of which only kind and size are known.
    pub const fn bare(kind: Kind, size: u64) -> Self {
        Self {
            kind,
            size,
            mode: None,
            uid: None,
            gid: None,
            links: None,
            modified: None,
            accessed: None,
            device: None,
        }
    }
}

impl Attributes {
    /// Whether it has an owner and times that cannot be read. FAT, which has no owners, has no modes either.
    pub(crate) const fn lacks_owner(&self) -> bool {
        self.mode.is_some() && self.uid.is_none()
    }

    /// Whether it has several names, or may have them.
    pub(crate) const fn may_be_linked(&self) -> bool {
        match self.links {
            Some(links) => links > 1,
            None => self.lacks_owner(),
        }
    }
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name: bytes without `/` and NUL, if the file system is sound.
    pub name: Vec<u8>,
    /// By which it is read. Entries with the same node are names of one file.
    pub node: u64,
    /// What is known of it, or why nothing is.
    pub attributes: Result<Attributes, Fault>,
}

/// The next bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// How many bytes were put at the beginning of the buffer; none at the end of the file.
    Data(usize),
    /// How many zeros follow, which may be more than the buffer holds.
    Hole(u64),
}

/// An extended attribute: its name and value, as Linux gives them.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Why something in a file system cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// What it means.
    pub kind: FaultKind,
    /// For people.
    pub reason: String,
}

/// What a fault means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// There is no such file.
    NotFound,
    /// There is something of another kind.
    WrongKind,
    /// The reader cannot read this right, and says so.
    Unsupported,
    /// The file system contradicts itself or its checksums.
    Damaged,
    /// The disk could not be read.
    Disk,
    /// The reader failed at it: a defect of the reader, or a file system made to break it.
    Reader,
}

impl Fault {
    /// A fault of this kind.
    pub fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// The file system contradicts itself.
    pub fn damaged(reason: impl Into<String>) -> Self {
        Self::new(FaultKind::Damaged, reason)
    }

    /// The reader does not read this.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::new(FaultKind::Unsupported, reason)
    }
}

/// A tree of files.
pub trait Tree {
    /// The node of the uppermost folder.
    fn root(&self) -> u64;

    /// What somebody should know who looks at it: that a journal was replayed, that it was not unmounted.
    fn notes(&self) -> Vec<String>;

    /// What is known of a node.
    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault>;

    /// The entries of a folder, without `.` and `..`, in the file system's order.
    fn list(&mut self, node: u64) -> Result<Vec<Entry>, Fault>;

    /// The next bytes of a file from `offset`.
    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault>;

    /// Where a link points.
    fn target(&mut self, node: u64) -> Result<Vec<u8>, Fault>;

    /// The extended attributes of a node, access control lists among them.
    fn xattrs(&mut self, node: u64) -> Result<Vec<Xattr>, Fault>;

    /// A name in the form in which names are compared where capitals do not matter; none where they do.
    fn folded(&mut self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}
