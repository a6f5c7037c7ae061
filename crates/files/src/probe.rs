//! What is on a disk or partition, and whether a reader here reads it right.
//!
//! Owns the lists of features that each reader is allowed: what a file system has beyond them is refused with its
//! name. The lists are kept to what the tests of this crate compare with the kernel's own view. That a reader opens
//! a file system is no reason to believe it.

use std::fmt::Write as _;

use crate::{
    bytes::Le,
    exfat, luks,
    md::{self, MEMBER},
    ntfs,
    source::{ReadAt, bytes_at},
    tree::Fault,
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is, as `blkid` calls it.
    pub kind: &'static str,
    /// Its label.
    pub label: Option<String>,
    /// Its id.
    pub uuid: Option<String>,
    /// Who reads it, or why nobody does.
    pub reader: Result<Reader, Fault>,
    /// What somebody should know who looks at it.
    pub notes: Vec<String>,
}

/// The readers of file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// ext2, ext3 and ext4.
    Ext,
    /// FAT12, FAT16 and FAT32.
    Fat,
    /// XFS.
    Xfs,
    /// btrfs on one device.
    Btrfs,
    /// NTFS.
    Ntfs,
    /// exFAT.
    Exfat,
}

/// What is on it; none if nothing known is.
pub fn probe(disk: &dyn ReadAt) -> Option<Found> {
    // First: the beginning of a member may be that of a file system, and older than the array's.
    if md::member(disk).is_some() {
        return Some(refused(MEMBER, "it is a part of an array (Linux RAID)"));
    }
    let head = bytes_at(disk, 0, 4096).or_else(|| bytes_at(disk, 0, 512))?;
    let le = Le(&head);
    if le.has(0, b"LUKS\xba\xbe") {
        return Some(luks::found(disk));
    }
    if le.has(3, b"NTFS    ") {
        return Some(ntfs::found(disk, &le));
    }
    if le.has(3, b"EXFAT   ") {
        return Some(exfat::found(disk, &le));
    }
    other(disk, &le)
        .or_else(|| ext(&le))
        .or_else(|| xfs(&le))
        .or_else(|| btrfs(disk))
        .or_else(|| fat(&le))
}

/// What is known and not read.
fn other(disk: &dyn ReadAt, head: &Le) -> Option<Found> {
    let at = |offset, bytes: &[u8]| {
        bytes_at(disk, offset, bytes.len()).is_some_and(|there| there == bytes)
    };
    let (kind, reason) = if head.has(3, b"-FVE-FS-") {
        ("BitLocker", "it is encrypted (BitLocker)")
    } else if [0, 512, 1024, 1536].iter().any(|at| head.has(*at, b"LABELONE")) {
        ("LVM2_member", "it is a part of a volume group (LVM)")
    } else if head.has(3, b"ReFS\0") {
        ("ReFS", "no reader for ReFS is in this version")
    } else if head.has(32, b"NXSB") {
        ("apfs", "no reader for APFS is in this version")
    } else if head.has(0, b"hsqs") {
        ("squashfs", "no reader for squashfs is in this version")
    } else if at(1024, &[0x10, 0x20, 0xf5, 0xf2]) {
        ("f2fs", "no reader for F2FS is in this version")
    } else if at(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        ("erofs", "no reader for EROFS is in this version")
    } else if at(1024, b"H+\0\x04") {
        ("hfsplus", "no reader for HFS+ is in this version")
    } else if at(1024 + 6, &[0x34, 0x34]) && at(1024, &[2, 0, 0, 0]) {
        ("nilfs2", "no reader for NILFS2 is in this version")
    } else if at(0x8000, b"JFS1") {
        ("jfs", "no reader for JFS is in this version")
    } else if at(0x1_0034, b"ReIsEr") {
        ("reiserfs", "no reader for ReiserFS is in this version")
    } else if at(4096 - 10, b"SWAPSPACE2") {
        ("swap", "it is swap space")
    } else if at(32769, b"BEA01") {
        ("udf", "no reader for UDF is in this version")
    } else if at(32769, b"CD001") {
        ("iso9660", "no reader for ISO 9660 is in this version")
    } else {
        return None;
    };
    Some(refused(kind, reason))
}

fn refused(kind: &'static str, reason: &'static str) -> Found {
    let reader = Err(Fault::unsupported(reason));
    Found { kind, label: None, uuid: None, reader, notes: Vec::new() }
}

/// Features of ext2, ext3 and ext4 that change how it is read, by their names in `dumpe2fs`.
const EXT_INCOMPAT: [(u32, &str); 17] = [
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
    (0x8_0000, "unknown"),
];
/// Those that are read right. Encrypted files are refused one by one.
const EXT_INCOMPAT_READ: u32 = 0x2
    | 0x4
    | 0x10
    | 0x40
    | 0x80
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
/// Features that only writers must know, by name, and those with which reading was found right.
const EXT_RO_COMPAT: [(u32, &str); 17] = [
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x4, "btree_dir"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x80, "has_snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];
const EXT_RO_COMPAT_READ: u32 = 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x10
    | 0x20
    | 0x40
    | 0x100
    | 0x200
    | 0x400
    | 0x1000
    | 0x2000
    | 0x8000
    | 0x1_0000;
const EXT_NEEDS_RECOVERY: u32 = 0x4;
const EXT_HAS_JOURNAL: u32 = 0x4;
const EXT_FAST_COMMIT: u32 = 0x400;

fn ext(head: &Le) -> Option<Found> {
    let sb = Le(head.0.get(1024..2048)?);
    if sb.u16(56) != 0xef53 {
        return None;
    }
    let (compat, incompat, ro_compat) = (sb.u32(92), sb.u32(96), sb.u32(100));
    let has_journal = compat & EXT_HAS_JOURNAL != 0;
    let is_dirty = incompat & EXT_NEEDS_RECOVERY != 0;
    // As blkid decides: what ext3 does not know makes it ext4.
    let is_ext4 = incompat & !0x1e != 0 || ro_compat & !0x7 != 0;
    let kind = match (is_ext4, has_journal) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    };
    let refusal = beyond(incompat, EXT_INCOMPAT_READ, &EXT_INCOMPAT)
        .or_else(|| beyond(ro_compat, EXT_RO_COMPAT_READ, &EXT_RO_COMPAT))
        .or_else(|| {
            let lost = if is_dirty && compat & EXT_FAST_COMMIT != 0 {
                "its journal has to be replayed, and has fast commits (fast_commit)"
            } else if is_dirty && has_journal && sb.u32(224) == 0 {
                "its journal has to be replayed, and is on another device"
            } else {
                return None;
            };
            Some(Fault::unsupported(lost))
        });
    let mut notes = Vec::new();
    if refusal.is_none() && is_dirty {
        notes.push("it was in use; its journal was replayed in memory".to_owned());
    } else if !has_journal && sb.u16(58) & 1 == 0 {
        notes.push("it was in use, and has no journal: its newest changes may be torn".to_owned());
    }
    if sb.u16(58) & 2 != 0 {
        notes.push("its file system recorded errors".to_owned());
    }
    Some(Found {
        kind,
        label: sb.text(120, 16),
        uuid: sb.uuid(104),
        reader: refusal.map_or(Ok(Reader::Ext), Err),
        notes,
    })
}

/// A refusal that names the features which are not read, if there are any.
fn beyond(has: u32, reads: u32, names: &[(u32, &str)]) -> Option<Fault> {
    let unread = has & !reads;
    if unread == 0 {
        return None;
    }
    let mut text = String::new();
    for bit in (0..32).map(|bit| 1_u32 << bit).filter(|bit| unread & bit != 0) {
        let comma = if text.is_empty() { "" } else { ", " };
        match names.iter().find(|(known, _)| *known == bit) {
            Some((_, name)) => write!(text, "{comma}{name}").ok(),
            None => write!(text, "{comma}{bit:#x}").ok(),
        };
    }
    Some(Fault::unsupported(format!("it uses features that no reader here reads right: {text}")))
}

/// Features of XFS version 5 that change how it is read.
const XFS_INCOMPAT: [(u32, &str); 8] = [
    (0x1, "ftype"),
    (0x2, "sparse inodes"),
    (0x4, "meta_uuid"),
    (0x8, "bigtime"),
    (0x10, "needsrepair"),
    (0x20, "nrext64"),
    (0x40, "exchange-range"),
    (0x80, "parent pointers"),
];
const XFS_INCOMPAT_READ: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80;
const XFS_RO_COMPAT: [(u32, &str); 4] =
    [(0x1, "finobt"), (0x2, "rmapbt"), (0x4, "reflink"), (0x8, "inobtcount")];
const XFS_RO_COMPAT_READ: u32 = 0xf;

/// Big-endian, as XFS writes.
fn be32(head: &Le, offset: usize) -> u32 {
    head.u32(offset).swap_bytes()
}

fn xfs(head: &Le) -> Option<Found> {
    if !head.has(0, b"XFSB") {
        return None;
    }
    let version = head.u16(100).swap_bytes() & 0xf;
    let refusal = if version == 5 {
        beyond(be32(head, 216), XFS_INCOMPAT_READ, &XFS_INCOMPAT)
            .or_else(|| beyond(be32(head, 212), XFS_RO_COMPAT_READ, &XFS_RO_COMPAT))
    } else {
        Some(Fault::unsupported(format!("it is of version {version}; version 5 is read")))
    };
    let refusal = refusal.or_else(|| {
        let realtime = head.u64(16) != 0;
        let external = head.u64(48) == 0;
        let what = match (realtime, external) {
            (true, _) => "it has a realtime device",
            (_, true) => "its log is on another device",
            _ => return None,
        };
        Some(Fault::unsupported(what))
    });
    Some(Found {
        kind: "xfs",
        label: head.text(108, 12),
        uuid: head.uuid(32),
        reader: refusal.map_or(Ok(Reader::Xfs), Err),
        notes: Vec::new(),
    })
}

/// Features of btrfs that change how it is read.
const BTRFS_INCOMPAT: [(u32, &str); 16] = [
    (0x1, "mixed_backref"),
    (0x2, "default_subvol"),
    (0x4, "mixed_groups"),
    (0x8, "compress_lzo"),
    (0x10, "compress_zstd"),
    (0x20, "big_metadata"),
    (0x40, "extended_iref"),
    (0x80, "raid56"),
    (0x100, "skinny_metadata"),
    (0x200, "no_holes"),
    (0x400, "metadata_uuid"),
    (0x800, "raid1c34"),
    (0x1000, "zoned"),
    (0x2000, "extent_tree_v2"),
    (0x4000, "raid_stripe_tree"),
    (0x1_0000, "simple_quota"),
];
const BTRFS_INCOMPAT_READ: u32 = 0x1 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200;

/// A device of a file system.
pub(crate) struct Member {
    /// How many devices the file system has.
    pub(crate) devices: u64,
    /// Which of them this is.
    pub(crate) id: u64,
    /// How often the file system was written.
    pub(crate) generation: u64,
}

/// A device of btrfs that has several, if nothing else speaks against reading it.
pub(crate) fn btrfs_member(disk: &dyn ReadAt) -> Option<Member> {
    let sb = bytes_at(disk, 0x1_0000, 4096)?;
    let sb = Le(&sb);
    let member = Member { devices: sb.u64(0x88), id: sb.u64(0xc9), generation: sb.u64(0x48) };
    let is_one = sb.has(0x40, b"_BHRfS_M") && member.devices > 1 && btrfs_refusal(&sb).is_none();
    is_one.then_some(member)
}

/// What speaks against reading btrfs, wherever its devices are.
fn btrfs_refusal(sb: &Le) -> Option<Fault> {
    // The upper half of the bits has none that is known.
    let refusal = if sb.u32(0xc0) == 0 {
        beyond(sb.u32(0xbc), BTRFS_INCOMPAT_READ, &BTRFS_INCOMPAT)
    } else {
        Some(Fault::unsupported("it uses features that no reader here knows"))
    };
    refusal.or_else(|| {
        let reason = "it was in use, and its log has to be replayed";
        (sb.u64(0x60) != 0).then(|| Fault::unsupported(reason))
    })
}

fn btrfs(disk: &dyn ReadAt) -> Option<Found> {
    let sb = bytes_at(disk, 0x1_0000, 4096)?;
    let sb = Le(&sb);
    if !sb.has(0x40, b"_BHRfS_M") {
        return None;
    }
    let several = || {
        let reason = "it is on several devices, of which not all are here";
        (sb.u64(0x88) > 1).then(|| Fault::unsupported(reason))
    };
    let refusal = btrfs_refusal(&sb).or_else(several);
    Some(Found {
        kind: "btrfs",
        label: sb.text(0x12b, 256),
        uuid: sb.uuid(0x20),
        reader: refusal.map_or(Ok(Reader::Btrfs), Err),
        notes: Vec::new(),
    })
}

fn fat(head: &Le) -> Option<Found> {
    let (bytes, cluster, reserved) = (head.u16(11), head.u8(13), head.u16(14));
    let is_fat = head.has(510, &[0x55, 0xaa])
        && matches!(head.u8(0), 0xeb | 0xe9)
        && matches!(bytes, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && reserved != 0
        && matches!(head.u8(16), 1 | 2)
        && (head.u8(21) == 0xf0 || head.u8(21) >= 0xf8);
    if !is_fat {
        return None;
    }
    // FAT32 keeps the size of its tables elsewhere, and what follows lies deeper.
    let at = if head.u16(22) == 0 { 67 } else { 39 };
    let label = head.text(at + 4, 11).filter(|label| label != "NO NAME");
    let id = head.u32(at);
    let id = format!("{:04X}-{:04X}", id >> 16, id & 0xffff);
    let uuid = matches!(head.u8(at - 1), 0x28 | 0x29).then_some(id);
    Some(Found { kind: "vfat", label, uuid, reader: Ok(Reader::Fat), notes: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What only a machine reads is known by name, and refused.
    #[test]
    fn file_systems_without_a_reader_are_named() {
        let signs: [(&str, usize, &[u8]); 9] = [
            ("squashfs", 0, b"hsqs"),
            ("f2fs", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
            ("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
            ("hfsplus", 1024, b"H+\0\x04"),
            ("nilfs2", 1024, &[2, 0, 0, 0, 0, 0, 0x34, 0x34]),
            ("jfs", 0x8000, b"JFS1"),
            ("reiserfs", 0x1_0034, b"ReIsEr2Fs"),
            ("udf", 32769, b"BEA01"),
            ("iso9660", 32769, b"CD001"),
        ];
        for (kind, offset, bytes) in signs {
            let mut disk = vec![0; 1 << 17];
            disk[offset..offset + bytes.len()].copy_from_slice(bytes);
            let found = probe(&disk).expect(kind);
            assert_eq!((found.kind, found.reader.is_err()), (kind, true));
        }
        assert_eq!(probe(&vec![0; 1 << 17]), None);
    }

    /// A half of a mirror of the format 1.0 begins as its file system does, and may be the older half.
    #[test]
    fn a_member_of_an_array_is_none_of_its_file_system() {
        let mut disk = vec![0; 1 << 20];
        disk[..4].copy_from_slice(b"hsqs");
        let sector: u64 = (1 << 20) / 512 - 16;
        let head = &mut disk[(1 << 20) - 8192..];
        head[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        head[144..152].copy_from_slice(&sector.to_le_bytes());
        let found = probe(&disk).expect("a member");
        assert_eq!((found.kind, found.reader.is_err()), (MEMBER, true));
        // One that lies elsewhere than it says was left by something else.
        disk[(1 << 20) - 8192 + 144] ^= 8;
        assert_eq!(probe(&disk).expect("a file system").kind, "squashfs");
    }
}
