//! The footer of a VHD, and the header of a dynamic one.
//!
//! The format is Microsoft's "Virtual Hard Disk Image Format Specification".

use super::bytes::{
    Bytes, Found, Reference, Wrong, check_size, check_table,
    number::{be32, be64},
};

const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
const MAX_TABLE: u64 = 1 << 30;

/// Looks at an image's footer and header.
pub(super) fn inspect(file: &impl Bytes) -> Result<Found, Wrong> {
    let at_end = file.cut(file.len().saturating_sub(512), 512)?;
    let at_start = file.cut(0, 512)?;
    let is_footer = |sector: &[u8]| sector.starts_with(b"conectix");
    let footer = match (is_footer(&at_start), is_footer(&at_end)) {
        (true, _) => at_start,
        (false, true) => at_end,
        (false, false) => return Err("it has no footer".to_owned()),
    };
    let size = check_size(be64(&footer, 48))?;
    match be32(&footer, 60) {
        FIXED => {
            if file.len().saturating_sub(512) < size {
                return Err("it is shorter than the disk it claims to hold".to_owned());
            }
        }
        DYNAMIC => check_dynamic(file, &footer)?,
        DIFFERENCING => {
            let header = file.cut(be64(&footer, 16), 1024)?;
            let units: Vec<u16> = header
                .get(64..576)
                .unwrap_or_default()
                .as_chunks::<2>()
                .0
                .iter()
                .map(|unit| u16::from_be_bytes(*unit))
                .take_while(|unit| *unit != 0)
                .collect();
            let name = String::from_utf16_lossy(&units);
            let backing = Some(Reference { name, format: Some("vpc".to_owned()) });
            return Ok(Found { size: Some(size), backing, ..Found::default() });
        }
        kind => return Err(format!("disks of type {kind} are not known")),
    }
    Ok(Found { size: Some(size), ..Found::default() })
}

fn check_dynamic(file: &impl Bytes, footer: &[u8]) -> Result<(), Wrong> {
    let header = file.cut(be64(footer, 16), 1024)?;
    if !header.starts_with(b"cxsparse") {
        return Err("it has no header".to_owned());
    }
    let (entries, block) = (u64::from(be32(&header, 28)), u64::from(be32(&header, 32)));
    if !block.is_power_of_two() || !(512..=256 << 20).contains(&block) {
        return Err(format!("it claims blocks of {block} bytes"));
    }
    if entries.saturating_mul(block) < be64(footer, 48) {
        return Err("its block table is shorter than its size needs".to_owned());
    }
    check_table("block table", be64(&header, 16), entries.saturating_mul(4), MAX_TABLE, file.len())
}
