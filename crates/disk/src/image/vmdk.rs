//! The header and descriptor of a VMDK.
//!
//! A descriptor is text. It stands alone in a file that names others as extents, or within a
//! sparse extent, where it can name a parent.

use super::bytes::{
    Bytes, Found, Reference, Wrong, check_size,
    number::{le32, le64},
};
use crate::num::to_usize;

/// As much of a descriptor as QEMU reads.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// Where QEMU looks for the descriptor within a sparse extent.
const EMBEDDED_AT: u64 = 512;
const EMBEDDED_LEN: u64 = 20 * 512;
const MAX_EXTENTS: usize = 256;
const SECTOR: u64 = 512;
/// As much of an extent's name as QEMU reads: it would open another file than the one that is looked at.
const MAX_EXTENT_NAME: usize = 511;

/// Looks at an image that a user or another image names.
pub(super) fn inspect(file: &impl Bytes) -> Result<Found, Wrong> {
    let magic = file.cut(0, 4)?;
    match magic.as_slice() {
        b"KDMV" | b"COWD" => inspect_sparse(file),
        _ => {
            let len = file.len();
            if len > MAX_DESCRIPTOR {
                return Err("its descriptor is too long".to_owned());
            }
            let text = descriptor(&file.cut(0, to_usize(len))?)?;
            let is_descriptor = text.lines().map(str::trim).find(|line| !line.is_empty());
            if is_descriptor.is_none_or(|line| !line.to_ascii_lowercase().contains("descriptor")) {
                return Err("it is neither a descriptor nor a sparse extent".to_owned());
            }
            let (extents, size) = extents(&text)?;
            let found = Found { size: Some(size), extents, ..Found::default() };
            Ok(Found { backing: parent(&text)?, ..found })
        }
    }
}

/// Looks at a sparse extent, which holds data and perhaps a descriptor.
pub(super) fn inspect_sparse(file: &impl Bytes) -> Result<Found, Wrong> {
    let head = file.cut(0, 512)?;
    let size = match head.get(..4) {
        Some(b"KDMV") => {
            let sectors = le64(&head, 12);
            if sectors == 0 {
                // QEMU would look for extents in a descriptor elsewhere.
                return Err("it holds a descriptor of other files instead of data".to_owned());
            }
            sectors
        }
        Some(b"COWD") => le32(&head, 12).into(),
        _ => return Err("it does not begin as a sparse extent".to_owned()),
    };
    let size = check_size(size.saturating_mul(SECTOR))?;
    let len = EMBEDDED_LEN.min(file.len().saturating_sub(EMBEDDED_AT));
    let embedded = file.cut(EMBEDDED_AT, to_usize(len))?;
    let end = embedded.iter().position(|byte| *byte == 0).unwrap_or(embedded.len());
    let text = String::from_utf8_lossy(embedded.get(..end).unwrap_or_default());
    Ok(Found { size: Some(size), backing: parent(&text)?, ..Found::default() })
}

fn descriptor(bytes: &[u8]) -> Result<String, Wrong> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or_default().to_vec();
    String::from_utf8(text).map_err(|_| "its descriptor is not UTF-8".to_owned())
}

/// The parent that a descriptor names.
fn parent(text: &str) -> Result<Option<Reference>, Wrong> {
    let Some(at) = text.find("parentFileNameHint") else {
        return Ok(None);
    };
    let line = text.get(at..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let name = line.split('"').nth(1).unwrap_or_default();
    if name.is_empty() {
        return Err("it names a parent in a form that is not known".to_owned());
    }
    Ok(Some(Reference { name: name.to_owned(), format: Some("vmdk".to_owned()) }))
}

/// The extents that a descriptor names, and the bytes of all of them:
/// `RW 131072 FLAT "disk-flat.vmdk" 0`.
fn extents(text: &str) -> Result<(Vec<Reference>, u64), Wrong> {
    let (mut found, mut sectors) = (Vec::new(), 0_u64);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if !matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS")) {
            continue;
        }
        let wrong = || format!("an extent in a form that is not known: {line:.80?}");
        let count = words.next().and_then(|word| word.parse::<u64>().ok()).ok_or_else(wrong)?;
        let kind = words.next().ok_or_else(wrong)?;
        sectors = sectors.saturating_add(count);
        if kind == "ZERO" {
            continue;
        }
        if !matches!(kind, "FLAT" | "SPARSE" | "VMFS" | "VMFSSPARSE") {
            return Err(wrong());
        }
        let name = line.split('"').nth(1).filter(|name| !name.is_empty()).ok_or_else(wrong)?;
        if name.len() > MAX_EXTENT_NAME {
            return Err(format!("an extent's name is longer than {MAX_EXTENT_NAME} bytes"));
        }
        found.push(Reference { name: name.to_owned(), format: Some(kind.to_owned()) });
        if found.len() > MAX_EXTENTS {
            return Err(format!("it has more than {MAX_EXTENTS} extents"));
        }
    }
    if found.is_empty() {
        return Err("it has no extents".to_owned());
    }
    let size = check_size(sectors.saturating_mul(SECTOR))?;
    Ok((found, size))
}
