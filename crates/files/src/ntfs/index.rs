//! Folders: trees of names.

use std::collections::HashSet;

use super::{
    record::{kind, settle},
    volume::{File, Volume},
};
use crate::{
    bytes::Le,
    tree::{Fault, Piece},
    units::{units, wtf8},
};

/// The name of the tree of names.
const NAMES: &[u8] = b"$I30";
/// Most entries of a folder.
const ENTRIES_MAX: usize = 2 << 20;
/// The short name that DOS knows a file by, which has another as well.
pub(super) const DOS: u8 = 2;

/// A name in a folder.
pub(super) struct Named {
    pub(super) reference: u64,
    pub(super) name: Vec<u8>,
}

fn broken() -> Fault {
    Fault::damaged("the list of the folder contradicts itself")
}

/// The names in a folder, without the short ones.
pub(super) fn names(volume: &mut Volume<'_>, folder: &File) -> Result<Vec<Named>, Fault> {
    let root = folder.stream(kind::INDEX_ROOT, NAMES).and_then(|stream| stream.resident());
    let root = root.ok_or_else(|| Fault::damaged("the folder has no list of names"))?;
    let block = u64::from(Le(root).u32(8));
    if !block.is_power_of_two() || !(512..=65_536).contains(&block) {
        return Err(broken());
    }
    let unit = if block >= volume.geometry.cluster { volume.geometry.cluster } else { 512 };
    let (mut found, mut below) = (Vec::new(), Vec::new());
    node(root.get(16..).ok_or_else(broken)?, &mut found, &mut below)?;
    let mut seen = HashSet::new();
    while let Some(at) = below.pop() {
        if !seen.insert(at) {
            return Err(broken());
        }
        let stream = folder.stream(kind::INDEX_ALLOCATION, NAMES).ok_or_else(broken)?;
        let offset = at.checked_mul(unit).ok_or_else(broken)?;
        let mut bytes = vec![0; usize::try_from(block).unwrap_or(0)];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let from = offset.saturating_add(u64::try_from(done).unwrap_or(0));
            match volume.read(stream, from, rest)? {
                Piece::Data(len @ 1..) => done += len,
                _ => return Err(broken()),
            }
        }
        settle(&mut bytes, *b"INDX")?;
        if Le(&bytes).u64(16) != at {
            return Err(broken());
        }
        node(bytes.get(24..).ok_or_else(broken)?, &mut found, &mut below)?;
        if found.len() > ENTRIES_MAX {
            return Err(Fault::unsupported("the folder has more than two million entries"));
        }
    }
    Ok(found)
}

/// Adds the names of a node, and the nodes below it.
fn node(bytes: &[u8], found: &mut Vec<Named>, below: &mut Vec<u64>) -> Result<(), Fault> {
    let le = Le(bytes);
    let at = usize::try_from(le.u32(0)).ok();
    let used = usize::try_from(le.u32(4)).ok();
    let mut rest = at.and_then(|at| bytes.get(at..used?)).ok_or_else(broken)?;
    loop {
        let le = Le(rest);
        let (len, key, flags) = (usize::from(le.u16(8)), usize::from(le.u16(10)), le.u16(12));
        if len < 16 || len > rest.len() {
            return Err(broken());
        }
        if flags & 1 != 0 {
            below.push(le.u64(len.checked_sub(8).filter(|at| *at >= 16).ok_or_else(broken)?));
        }
        if flags & 2 != 0 {
            return Ok(());
        }
        let key = rest.get(16..16 + key).filter(|key| key.len() >= 66 && 16 + key.len() <= len);
        let key = key.ok_or_else(broken)?;
        let chars = 2 * usize::from(Le(key).u8(64));
        let name = key.get(66..66 + chars).ok_or_else(broken)?;
        if Le(key).u8(65) != DOS {
            found.push(Named { reference: le.u64(0), name: wtf8(units(name)) });
        }
        rest = rest.get(len..).ok_or_else(broken)?;
    }
}
