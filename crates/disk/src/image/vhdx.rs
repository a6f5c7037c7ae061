//! The regions and metadata of a VHDX.
//!
//! The format is Microsoft's MS-VHDX.

use super::bytes::{
    Bytes, Found, Reference, Wrong, check_size, check_table,
    number::{le16, le32, le64},
};
use crate::num::to_usize;

const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_LEN: usize = 64 << 10;
const MAX_REGIONS: u32 = 2047;
const MAX_ITEMS: u16 = 1023;
const MAX_REGION: u64 = 1 << 30;

/// Ids of regions and metadata items, in the byte order of the file.
mod id {
    pub(super) const METADATA: [u8; 16] =
        *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
    pub(super) const FILE_PARAMETERS: [u8; 16] =
        *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
    pub(super) const DISK_SIZE: [u8; 16] =
        *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
}

/// Looks at an image's regions and metadata.
pub(super) fn inspect(file: &impl Bytes) -> Result<Found, Wrong> {
    if file.cut(0, 8)? != b"vhdxfile" {
        return Err("it does not begin as one".to_owned());
    }
    let tables = REGION_TABLES.into_iter().map(|at| file.cut(at, TABLE_LEN));
    let mut seen = None;
    // QEMU may use either table, so both must be in order and agree.
    for table in tables {
        let found = inspect_regions(file, &table?)?;
        if seen.replace(found.clone()).is_some_and(|other| other != found) {
            return Err("its two region tables disagree".to_owned());
        }
    }
    seen.ok_or_else(|| "it has no region table".to_owned())
}

fn inspect_regions(file: &impl Bytes, table: &[u8]) -> Result<Found, Wrong> {
    let count = le32(table, 8);
    if !table.starts_with(b"regi") || count > MAX_REGIONS {
        return Err("it has no usable region table".to_owned());
    }
    let entries = table.get(16..).unwrap_or_default().as_chunks::<32>().0;
    let mut metadata = None;
    for entry in entries.iter().take(to_usize(count.into())) {
        let (at, len) = (le64(entry, 16), u64::from(le32(entry, 24)));
        check_table("region", at, len, MAX_REGION, file.len())?;
        if entry.starts_with(&id::METADATA) {
            metadata = Some(at);
        }
    }
    let at = metadata.ok_or("it has no metadata")?;
    inspect_metadata(file, at)
}

fn inspect_metadata(file: &impl Bytes, at: u64) -> Result<Found, Wrong> {
    let table = file.cut(at, TABLE_LEN)?;
    let count = le16(&table, 10);
    if !table.starts_with(b"metadata") || count > MAX_ITEMS {
        return Err("it has no usable metadata table".to_owned());
    }
    let (mut size, mut has_parent) = (None, None);
    let entries = table.get(32..).unwrap_or_default().as_chunks::<32>().0;
    for entry in entries.iter().take(count.into()) {
        let place = at.saturating_add(le32(entry, 16).into());
        if entry.starts_with(&id::FILE_PARAMETERS) {
            has_parent = Some(le32(&file.cut(place, 8)?, 4) & 2 != 0);
        } else if entry.starts_with(&id::DISK_SIZE) {
            size = Some(check_size(le64(&file.cut(place, 8)?, 0))?);
        }
    }
    let (Some(size), Some(has_parent)) = (size, has_parent) else {
        return Err("its metadata lack the disk's size or parameters".to_owned());
    };
    let parent = || Reference { name: "its parent disk".to_owned(), format: None };
    Ok(Found { size: Some(size), backing: has_parent.then(parent), ..Found::default() })
}
