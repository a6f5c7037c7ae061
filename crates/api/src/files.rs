//! Files of recovery points.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ErrorBody, words};

words! {
    /// What a file is.
    FileKind {
        /// A regular file.
        File = "file",
        /// A folder.
        Folder = "folder",
        /// A symbolic link.
        Link = "link",
        /// A named pipe.
        Pipe = "pipe",
        /// A socket.
        Socket = "socket",
        /// A character device.
        CharacterDevice = "character_device",
        /// A block device.
        BlockDevice = "block_device",
        /// The root of another file system, which is not entered.
        Subvolume = "subvolume",
    }
}

words! {
    /// The form of an archive.
    ArchiveFormat {
        /// The pax format of tar, with all that Unix knows of a file.
        Tar = "tar",
        /// Zip, with names, bytes and times only.
        Zip = "zip",
    }
}

/// The file systems of a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointVolumes {
    /// Disks without partitions, partitions, and logical volumes.
    pub volumes: Vec<PointVolume>,
    /// Why a part of the disks could not be read, if so. Volumes that lie there are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<ErrorBody>,
}

/// A disk without partitions, a partition, or a logical volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointVolume {
    /// The disk; none of a logical volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// The number of the partition; none if the whole disk is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// `GROUP/NAME` of a logical volume (LVM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The table that the partition is in: `gpt` or `mbr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Its name in the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it begins on its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_bytes: Option<u64>,
    /// Its size.
    pub size_bytes: u64,
    /// The file system, as `blkid` calls it; none if it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<String>,
    /// The label of the file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The id of the file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Whether its files can be read.
    pub readable: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether that is because the disk could not be read there.
    #[serde(default)]
    pub unread: bool,
    /// Notes for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Which volume files are of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfVolume {
    /// The disk; none of a logical volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// The number of the partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// `GROUP/NAME` of a logical volume (LVM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

/// One page of a folder, or a single file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileListing {
    /// The volume.
    pub of: OfVolume,
    /// Its file system.
    pub file_system: String,
    /// The path, without links. What is not UTF-8 is shown as `\xNN`.
    pub path: String,
    /// The bytes of a path that is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// Notes for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The files, by name.
    pub entries: Vec<FileEntry>,
    /// What to ask the next page with; none if this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A file in a folder. What its file system does not know is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    /// Its name. What is not UTF-8 is shown as `\xNN`.
    pub name: String,
    /// The bytes of a name that is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_hex: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FileKind>,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// When its content changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// Its permissions, in octal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The number of its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The number of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// How many names it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<u32>,
    /// Major and minor number of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Where a link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The bytes of a target that is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_hex: Option<String>,
    /// Extended attributes, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<Vec<FileXattr>>,
    /// Why nothing else, or not all, is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An extended attribute of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileXattr {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub value_hex: String,
}

/// A line of a tree of files: a file, or what could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileLine {
    /// Its path. What is not UTF-8 is shown as `\xNN`.
    pub path: String,
    /// The bytes of a path that is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// What it is; none of what could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FileKind>,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// When its content changed last: seconds since 1970, which may be negative, and nanoseconds after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<(i64, u32)>,
    /// Its permissions, as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// The number of its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The number of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Major and minor number of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Why it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a download became.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileReport {
    /// The path, without links.
    pub path: String,
    /// The volume.
    pub of: OfVolume,
    /// Whether it was sent to its end.
    pub complete: bool,
    /// Regular files, each name of a hard link counted.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub links: u64,
    /// Pipes and devices.
    pub others: u64,
    /// Bytes of files, holes among them.
    pub file_bytes: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Notes on the file system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What is not in it, or not with all that it has: the first of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<FileProblem>,
    /// How much is not in it, or not with all that it has.
    pub problem_count: u64,
    /// Why it was not sent to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// A file that is missing in a download, or that lacks something there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileProblem {
    /// Its path.
    pub path: String,
    /// The error's code; none of a file that is there otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What and why.
    pub reason: String,
}
