//! Members of arrays of Linux RAID, known by their superblocks.
//!
//! The superblocks are those of `Documentation/driver-api/md/md.rst` and `md_p.h` of Linux. Those of the formats 0.90 and
//! 1.0 lie at the end: the beginning of such a member is that of its file system, which may be older than that of the array.
//! Must not know how an array is put together.

use crate::{
    bytes::Le,
    source::{ReadAt, bytes_at},
};

/// What `blkid` calls a member.
pub(crate) const MEMBER: &str = "linux_raid_member";

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;

/// The superblock of a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    /// The array's id.
    pub(crate) id: [u8; 16],
    /// The version of the format: `0.90`, `1.0`, `1.1` or `1.2`.
    pub(crate) version: &'static str,
    /// The array's name, if it has one.
    pub(crate) name: Option<String>,
}

/// What a device says of the array to which it belongs, if it does.
pub(crate) fn member(device: &dyn ReadAt) -> Option<Member> {
    let sectors = device.size().checked_div(SECTOR)?;
    let ends = [
        ("1.2", 4096),
        ("1.1", 0),
        ("1.0", (sectors.checked_sub(16)? & !7).saturating_mul(SECTOR)),
    ];
    for (version, offset) in ends {
        let Some(head) = bytes_at(device, offset, 256) else { continue };
        let head = Le(&head);
        // A copy of the beginning, or of the end, says where it has to lie.
        let is_there = head.u64(144).checked_mul(SECTOR) == Some(offset);
        if head.u32(0) == MAGIC && head.u32(4) == 1 && is_there {
            let name = head.text(32, 32).map(|name| match name.split_once(':') {
                Some((_, name)) => name.to_owned(),
                None => name,
            });
            return Some(Member { id: id(&head, 16), version, name });
        }
    }
    let offset = (sectors & !127).checked_sub(128)?.saturating_mul(SECTOR);
    let head = bytes_at(device, offset, 256)?;
    let head = Le(&head);
    if head.u32(0) == MAGIC && head.u32(4) == 0 && head.u32(8) == 90 {
        let mut bytes = id(&head, 52);
        let first: [u8; 16] = id(&head, 20);
        bytes.copy_within(0..12, 4);
        bytes.iter_mut().zip(first).take(4).for_each(|(to, from)| *to = from);
        return Some(Member { id: bytes, version: "0.90", name: None });
    }
    None
}

fn id(head: &Le, offset: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = head.u8(offset.saturating_add(at));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_head(offset: usize) -> Vec<u8> {
        let mut disk = vec![0; 1 << 20];
        let head = &mut disk[offset..];
        head[..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[4] = 1;
        head[16..32].copy_from_slice(&[7; 16]);
        head[32..41].copy_from_slice(b"host:data");
        let sector = u64::try_from(offset / 512).expect("small");
        head[144..152].copy_from_slice(&sector.to_le_bytes());
        disk
    }

    #[test]
    fn members_are_found_at_the_place_of_each_version() {
        for (version, offset) in [("1.1", 0), ("1.2", 4096), ("1.0", (2048 - 16) * 512)] {
            let found = member(&with_head(offset)).expect(version);
            let name = Some("data".to_owned());
            assert_eq!(found, Member { id: [7; 16], version, name });
        }
        // One that lies elsewhere than it says is a copy.
        let mut moved = with_head(4096);
        moved[4096 + 144] = 0;
        assert_eq!(member(&moved), None);

        let mut old = vec![0; 1 << 20];
        let head = &mut old[(1 << 20) - (64 << 10)..];
        head[..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[8] = 90;
        head[20..24].copy_from_slice(&[1; 4]);
        head[52..64].copy_from_slice(&[2; 12]);
        let found = member(&old).expect("0.90");
        assert_eq!((found.version, found.id[3], found.id[4]), ("0.90", 1, 2));
        assert_eq!(member(&vec![0; 512]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at(len in 0..200_000_usize, bytes in prop::collection::vec(any::<u8>(), 256)) {
            let mut disk = vec![0; len];
            for offset in [0, 4096] {
                if let Some(head) = disk.get_mut(offset..offset + 256) {
                    head.copy_from_slice(&bytes);
                    head[..5].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1]);
                }
            }
            member(&disk);
        }
    }
}
