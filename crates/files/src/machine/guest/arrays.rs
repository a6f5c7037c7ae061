//! Arrays of Linux RAID: found by their superblocks, and assembled by the kernel, which is asked by files of sysfs.
//!
//! The superblocks are those of `Documentation/driver-api/md/md.rst` and `md_p.h` of Linux. Which member is
//! newer, and whether there are enough, is the kernel's to decide; here it is only found which belong together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use crate::{
    bytes::Le,
    source::{ReadAt, bytes_at},
};

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;

/// The superblock of a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    /// The array's id.
    id: [u8; 16],
    /// The version of the format: `0.90`, `1.0`, `1.1` or `1.2`.
    version: &'static str,
    /// The array's name, if it has one.
    name: Option<String>,
}

/// What a device says of the array to which it belongs, if it does.
pub(super) fn member(device: &dyn ReadAt) -> Option<Member> {
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

/// An array of the machine.
pub(super) struct Array {
    /// The name of its device.
    pub(super) device: String,
    /// What it is called: `md/NAME`.
    pub(super) name: String,
    /// Why it is not there.
    pub(super) failed: Option<String>,
    /// Its members, by their place among those that were looked at.
    pub(super) members: Vec<usize>,
}

/// Assembles the arrays of these members. Nothing is synchronised, and nothing is written before a file system is.
pub(super) fn assemble(members: &[(usize, String, Member)]) -> Vec<Array> {
    let mut arrays: BTreeMap<[u8; 16], Vec<&(usize, String, Member)>> = BTreeMap::new();
    for member in members {
        arrays.entry(member.2.id).or_default().push(member);
    }
    // What a driver writes marks the array as written to, and all of it would be synchronised.
    for file in ["speed_limit_min", "speed_limit_max"] {
        fs::write(format!("/proc/sys/dev/raid/{file}"), "1").ok();
    }
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for (number, members) in arrays.into_values().enumerate() {
        let device = format!("md{number}");
        let named = members.iter().find_map(|(_, _, member)| member.name.clone());
        let named = named.filter(|name| !name.contains('/') && names.insert(name.clone()));
        let name = format!("md/{}", named.unwrap_or_else(|| device.clone()));
        let failed = begin(&device, &members).err().map(|error| error.to_string());
        let members = members.iter().map(|(index, ..)| *index).collect();
        found.push(Array { device, name, failed, members });
    }
    found
}

fn begin(device: &str, members: &[&(usize, String, Member)]) -> io::Result<()> {
    fs::write("/sys/module/md_mod/parameters/new_array", device)?;
    let folder = format!("/sys/block/{device}/md");
    let version = members.first().map_or("1.2", |(_, _, member)| member.version);
    fs::write(format!("{folder}/metadata_version"), version)?;
    let mut failed = None;
    for (_, name, _) in members {
        let number = fs::read_to_string(format!("/sys/class/block/{name}/dev"))?;
        if let Err(error) = fs::write(format!("{folder}/new_dev"), number.trim()) {
            failed = Some(error);
        }
    }
    // It is set to reading, and becomes writable with the first write.
    fs::write(format!("{folder}/array_state"), "read-auto")
        .map_err(|error| failed.unwrap_or(error))?;
    // Not every level has it.
    fs::write(format!("{folder}/sync_action"), "frozen").ok();
    Ok(())
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
