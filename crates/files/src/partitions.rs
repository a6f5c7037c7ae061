//! Tables of partitions: GPT, also where only its backup is whole, and MBR with logical partitions.
//!
//! Owns where partitions are. What is in them is not its matter.

use std::collections::BTreeSet;

use crate::{
    bytes::{Le, grouped},
    source::{ReadAt, bytes_at},
};

/// Sizes of sectors that disks have.
const SECTORS: [u64; 2] = [512, 4096];
/// Most bytes of the entries of a GPT that are read.
const ENTRIES_MAX: u64 = 1 << 20;
/// Most logical partitions.
const LOGICAL_MAX: u32 = 128;
/// Types of MBR partitions that hold logical ones.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The MBR's type for "this disk has a GPT".
const PROTECTIVE: u8 = 0xee;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as Linux counts.
    pub number: u32,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Its name in the table.
    pub name: Option<String>,
    /// Its type: a GUID, or `0x` with two digits.
    pub kind: String,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `gpt` or `mbr`.
    pub scheme: &'static str,
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<Partition>,
    /// What is wrong with it, though it could be read.
    pub notes: Vec<String>,
}

/// The table of a disk, if it has one. A disk that is one file system must be looked at first: the boot sector of
/// FAT passes for an empty MBR.
pub fn table(disk: &dyn ReadAt) -> Option<Table> {
    gpt(disk).or_else(|| mbr(disk))
}

fn gpt(disk: &dyn ReadAt) -> Option<Table> {
    for sector in SECTORS {
        if let Some(partitions) = gpt_at(disk, sector, sector) {
            return Some(Table { scheme: "gpt", partitions, notes: Vec::new() });
        }
    }
    for sector in SECTORS {
        // Where the broken header says that the backup is, else at the end of the disk.
        let named = bytes_at(disk, sector, 40)
            .filter(|header| Le(header).has(0, b"EFI PART"))
            .and_then(|header| Le(&header).u64(32).checked_mul(sector));
        for at in [disk.size().checked_sub(sector), named].into_iter().flatten() {
            if let Some(partitions) = gpt_at(disk, sector, at) {
                let note = "the table of partitions is damaged; its backup was read";
                return Some(Table { scheme: "gpt", partitions, notes: vec![note.to_owned()] });
            }
        }
    }
    None
}

/// The partitions of the GPT whose header is there, if it and its entries are whole.
fn gpt_at(disk: &dyn ReadAt, sector: u64, at: u64) -> Option<Vec<Partition>> {
    let header = bytes_at(disk, at, usize::try_from(sector).ok()?)?;
    let le = Le(&header);
    let size = usize::try_from(le.u32(12)).ok()?;
    if !le.has(0, b"EFI PART") || !(92..=header.len()).contains(&size) {
        return None;
    }
    let mut checked = header.get(..size)?.to_vec();
    checked.get_mut(16..20)?.fill(0);
    if crc32(&checked) != le.u32(16) || le.u64(24).checked_mul(sector)? != at {
        return None;
    }
    let (count, len) = (u64::from(le.u32(80)), u64::from(le.u32(84)));
    let bytes = count.checked_mul(len)?;
    if len < 128 || len % 8 != 0 || bytes > ENTRIES_MAX {
        return None;
    }
    let entries = bytes_at(disk, le.u64(72).checked_mul(sector)?, usize::try_from(bytes).ok()?)?;
    if crc32(&entries) != le.u32(88) {
        return None;
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(usize::try_from(len).ok()?)) {
        let le = Le(entry);
        let kind = le.guid(0);
        let (first, last) = (le.u64(32), le.u64(40));
        if kind == [0; 16] || last < first {
            continue;
        }
        let units: Vec<u16> =
            entry.get(56..128)?.chunks_exact(2).map(|pair| Le(pair).u16(0)).collect();
        let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
        let name = String::from_utf16_lossy(units.get(..end)?);
        partitions.push(Partition {
            number,
            offset: first.checked_mul(sector)?,
            size: (last - first).checked_add(1)?.checked_mul(sector)?,
            name: (!name.is_empty()).then_some(name),
            kind: grouped(&kind),
        });
    }
    Some(partitions)
}

/// The check sum of GPT (CRC-32 of ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !crc32_from(u32::MAX, bytes)
}

/// Continues a check sum. What is summed is small, so it goes bit by bit.
pub(crate) fn crc32_from(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

fn mbr(disk: &dyn ReadAt) -> Option<Table> {
    let first = bytes_at(disk, 0, 512)?;
    let entries = mbr_entries(&first)?;
    if entries.iter().all(|entry| entry.kind == 0) {
        return None;
    }
    if entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        let notes = vec!["the disk has a GPT, of which no copy is whole".to_owned()];
        return Some(Table { scheme: "gpt", partitions: Vec::new(), notes });
    }
    // The table does not say how long a sector is: where all partitions end within the disk only as 512, they do.
    let end = |sector: u64| entries.iter().filter_map(|e| e.end().checked_mul(sector)).max();
    let fits = |sector| end(sector).is_some_and(|end| end <= disk.size());
    let begins_with_extended = |sector: u64| {
        let mut extended = entries.iter().filter(|entry| EXTENDED.contains(&entry.kind));
        extended.all(|entry| {
            let at = entry.first.checked_mul(sector);
            at.and_then(|at| bytes_at(disk, at, 512)).is_some_and(|b| mbr_entries(&b).is_some())
        })
    };
    let is_probed = |sector: u64| {
        entries.iter().filter(|entry| entry.is_partition()).any(|entry| {
            let at = entry.first.saturating_mul(sector);
            bytes_at(disk, at, 2048).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
        })
    };
    let is_4k = fits(4096)
        && (!begins_with_extended(512) || !is_probed(512))
        && begins_with_extended(4096)
        && is_probed(4096);
    let sector = if is_4k { 4096 } else { 512 };

    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(&entries) {
        if entry.is_partition() {
            partitions.extend(entry.partition(number, 0, sector));
        }
    }
    let extended = entries.iter().find(|entry| EXTENDED.contains(&entry.kind));
    let notes = match extended.map(|entry| logical(disk, entry.first, sector, &mut partitions)) {
        Some(false) => vec!["the chain of logical partitions is damaged".to_owned()],
        _ => Vec::new(),
    };
    Some(Table { scheme: "mbr", partitions, notes })
}

/// Adds the logical partitions of the extended one. Whether their chain was whole.
fn logical(disk: &dyn ReadAt, base: u64, sector: u64, partitions: &mut Vec<Partition>) -> bool {
    let (mut at, mut number) = (base, 5);
    let mut seen = BTreeSet::new();
    while number < 5 + LOGICAL_MAX && seen.insert(at) {
        let bytes = at.checked_mul(sector).and_then(|offset| bytes_at(disk, offset, 512));
        let Some([here, next, ..]) = bytes.as_deref().and_then(mbr_entries) else {
            return false;
        };
        if here.is_partition() {
            partitions.extend(here.partition(number, at, sector));
            number += 1;
        }
        if !EXTENDED.contains(&next.kind) {
            return true;
        }
        at = base.saturating_add(next.first);
    }
    false
}

/// An entry of an MBR.
struct MbrEntry {
    kind: u8,
    first: u64,
    sectors: u64,
}

impl MbrEntry {
    fn is_partition(&self) -> bool {
        self.kind != 0 && self.sectors != 0 && !EXTENDED.contains(&self.kind)
    }

    fn end(&self) -> u64 {
        self.first.saturating_add(self.sectors)
    }

    fn partition(&self, number: u32, base: u64, sector: u64) -> Option<Partition> {
        Some(Partition {
            number,
            offset: base.checked_add(self.first)?.checked_mul(sector)?,
            size: self.sectors.checked_mul(sector)?,
            name: None,
            kind: format!("{:#04x}", self.kind),
        })
    }
}

/// The four entries of a sector, if it is one of a table: signed, each entry marked as bootable or not.
fn mbr_entries(sector: &[u8]) -> Option<[MbrEntry; 4]> {
    let le = Le(sector);
    let all = [446, 462, 478, 494];
    if !le.has(510, &[0x55, 0xaa]) || !all.iter().all(|at| matches!(le.u8(*at), 0 | 0x80)) {
        return None;
    }
    Some(all.map(|at| MbrEntry {
        kind: le.u8(at + 4),
        first: u64::from(le.u32(at + 8)),
        sectors: u64::from(le.u32(at + 12)),
    }))
}
