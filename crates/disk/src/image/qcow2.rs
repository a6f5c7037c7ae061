//! The header of a qcow2 image, version 2 and 3.
//!
//! The format is specified in QEMU's `docs/interop/qcow2.rst`; the limits are QEMU's own.

use super::bytes::{
    Bytes, Found, Reference, Wrong, check_size, check_table,
    number::{be32, be64},
};
use crate::num::to_usize;

const MAGIC: u32 = 0x5146_49fb;
const MAX_L1: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
const MAX_BACKING_NAME: u32 = 1023;
/// Where an entry of the first table says that the second one is.
const L2_AT: u64 = 0x00ff_ffff_ffff_fe00;

/// Header extensions.
mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
}

/// Incompatible features.
mod feature {
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    /// Dirty, corrupt, data file, compression type, extended L2 entries.
    pub(super) const KNOWN: u64 = 0x1f;
}

/// Looks at an image's header and extensions.
pub(super) fn inspect(file: &impl Bytes) -> Result<Found, Wrong> {
    let head = file.cut(0, 72)?;
    if be32(&head, 0) != MAGIC {
        return Err("it does not begin as one".to_owned());
    }
    let version = be32(&head, 4);
    let (features, header_len) = match version {
        2 => (0, 72),
        3 => {
            let more = file.cut(72, 32)?;
            (be64(&more, 0), be32(&more, 28))
        }
        _ => return Err(format!("version {version} is not known")),
    };
    let cluster_bits = be32(&head, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(format!("it claims clusters of 2^{cluster_bits} bytes"));
    }
    let cluster = 1_u64 << cluster_bits;
    if !header_len.is_multiple_of(8)
        || u64::from(header_len) > cluster
        || (version == 3 && header_len < 104)
    {
        return Err(format!("it claims a header of {header_len} bytes"));
    }
    if features & !feature::KNOWN != 0 {
        return Err(format!("it needs features that are not known ({features:#x})"));
    }
    if features & feature::CORRUPT != 0 {
        return Err("it is marked as corrupt".to_owned());
    }
    let size = check_size(be64(&head, 24))?;
    check_tables(file, &head, cluster, size)?;

    let backing_at = be64(&head, 8);
    let extensions_end = if backing_at == 0 { cluster } else { backing_at.min(cluster) };
    let extensions = Extensions::read(file, header_len.into(), extensions_end)?;
    let backing = (backing_at != 0)
        .then(|| backing(file, backing_at, be32(&head, 16), cluster, extensions.backing_format))
        .transpose()?;
    let data_file = match (features & feature::DATA_FILE != 0, extensions.data_file) {
        (false, _) => None,
        (true, Some(name)) => Some(Reference { name, format: Some("raw".to_owned()) }),
        (true, None) => return Err("it does not name its data file".to_owned()),
    };
    let is_encrypted = be32(&head, 32) != 0;
    Ok(Found { size: Some(size), is_encrypted, backing, data_file, extents: Vec::new() })
}

fn check_tables(file: &impl Bytes, head: &[u8], cluster: u64, size: u64) -> Result<(), Wrong> {
    let (l1_entries, l1_at) = (u64::from(be32(head, 36)), be64(head, 40));
    let span = cluster.saturating_mul(cluster / 8);
    if l1_entries < size.div_ceil(span) {
        return Err("its first table is shorter than its size needs".to_owned());
    }
    let have = file.len();
    check_table("first table", l1_at, l1_entries.saturating_mul(8), MAX_L1, have)?;
    let (counts_at, counts_clusters) = (be64(head, 48), u64::from(be32(head, 56)));
    let counts_len = counts_clusters.saturating_mul(cluster);
    check_table("reference counts", counts_at, counts_len.min(cluster), MAX_REFCOUNT_TABLE, have)?;
    if counts_len > MAX_REFCOUNT_TABLE.max(cluster)
        || !l1_at.is_multiple_of(cluster)
        || !counts_at.is_multiple_of(cluster)
    {
        return Err("its tables are at impossible places".to_owned());
    }
    check_sharing(&file.cut(l1_at, to_usize(l1_entries.saturating_mul(8)))?)
}

/// Refuses an image in which two parts of the disk have one table: no program makes one, and a few clusters
/// could claim to be a disk of any size, all of which would be read.
fn check_sharing(first_table: &[u8]) -> Result<(), Wrong> {
    let entries = first_table.chunks_exact(8).map(|entry| be64(entry, 0) & L2_AT);
    let mut tables: Vec<u64> = entries.filter(|at| *at != 0).collect();
    tables.sort_unstable();
    if tables.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        return Err("two parts of it have one table".to_owned());
    }
    Ok(())
}

fn backing(
    file: &impl Bytes,
    at: u64,
    len: u32,
    cluster: u64,
    format: Option<String>,
) -> Result<Reference, Wrong> {
    let fits = at.checked_add(len.into()).is_some_and(|end| end <= cluster);
    if len == 0 || len > MAX_BACKING_NAME || !fits {
        return Err("the name of its backing file is at an impossible place".to_owned());
    }
    let name = text(&file.cut(at, to_usize(len.into()))?)?;
    Ok(Reference { name, format })
}

fn text(bytes: &[u8]) -> Result<String, Wrong> {
    let text = std::str::from_utf8(bytes).map_err(|_| "a file name in it is not UTF-8")?;
    if text.is_empty() || text.contains('\0') {
        return Err("a file name in it is empty or contains a zero byte".to_owned());
    }
    Ok(text.to_owned())
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<String>,
}

impl Extensions {
    fn read(file: &impl Bytes, start: u64, end: u64) -> Result<Self, Wrong> {
        let end = end.min(file.len());
        let area = file.cut(start, to_usize(end.saturating_sub(start)))?;
        let mut found = Self::default();
        let mut at = 0_usize;
        while let Some(rest) = area.get(at..).filter(|rest| rest.len() >= 8) {
            let (kind, len) = (be32(rest, 0), to_usize(be32(rest, 4).into()));
            if kind == extension::END {
                break;
            }
            let payload = rest.get(8..).and_then(|rest| rest.get(..len));
            let payload = payload.ok_or("a header extension ends beyond the header")?;
            match kind {
                extension::BACKING_FORMAT => found.backing_format = Some(text(payload)?),
                extension::DATA_FILE => found.data_file = Some(text(payload)?),
                _ => {}
            }
            at = at.saturating_add(8).saturating_add(len.next_multiple_of(8));
        }
        Ok(found)
    }
}
