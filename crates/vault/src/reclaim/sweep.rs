//! Sweeping: copying what is needed out of condemned packs, checking, deleting.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use strongroom_base::{Cancel, PackId, PointId};
use strongroom_format::{
    IndexObject,
    names::{self, ItemKey},
    pack::{Contents, RecordKind, pack_id},
};
use strongroom_objects::{Heal, StoreError};
use ulid::Ulid;

use super::{OnReclaim, ReclaimOptions, ReclaimProgress, ReclaimReport, mark::Marks};
use crate::{
    Vault, VaultError, Writer, error::Result, index::RawRecord, read::is_damage, write::ListedPack,
};

/// Index objects with fewer records are small; more than this many small ones are joined.
const SMALL_INDEX: usize = 64 * 1024;
const MANY_SMALL: usize = 32;

/// Fails if a condemnation is in force that this reclaim does not know, or one that it knows is
/// gone: another reclaim is at work, and the two may rely on what the other removes.
pub(super) fn check_alone(vault: &Vault, known: &BTreeSet<Ulid>) -> Result<()> {
    if vault.condemnation_ids()? == *known { Ok(()) } else { Err(VaultError::ConcurrentReclaim) }
}

/// Fails if a pack that is relied upon does not exist any more.
pub(super) fn check_packs(vault: &Vault, marks: &Marks<'_>) -> Result<()> {
    let existing: HashSet<PackId> = vault.list_packs()?.into_iter().map(|pack| pack.id).collect();
    if marks.relied_upon()?.is_subset(&existing) {
        Ok(())
    } else {
        Err(VaultError::ConcurrentReclaim)
    }
}

/// Copies what is needed and only condemned packs have into new packs, which are durable and in
/// the index when this returns.
pub(super) fn copy_live(
    vault: &Arc<Vault>,
    options: &ReclaimOptions,
    marks: &Marks<'_>,
    packs: &HashMap<PackId, ListedPack>,
    condemned: &HashSet<PackId>,
    (progress, cancel): (OnReclaim<'_>, &Cancel),
    report: &mut ReclaimReport,
) -> Result<()> {
    let mut wanted: Vec<_> = marks.to_copy()?.into_iter().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    wanted.sort_by_key(|(pack, _)| *pack);
    debug_assert!(wanted.iter().all(|(pack, _)| condemned.contains(pack)));
    let writer = Writer::begin_copy(vault, &options.host)?;
    let mut copied = HashSet::new();
    let total = wanted.len();
    for (done, (pack, mut records)) in wanted.into_iter().enumerate() {
        progress(ReclaimProgress::new("copying", "packs", done, total));
        if cancel.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        let listed = packs.get(&pack).ok_or(VaultError::ConcurrentReclaim)?;
        // In the order in which they lie, so that what was written together stays together.
        records.sort_unstable_by_key(|record| record.entry().map(|entry| entry.offset));
        // One full copy of a digest is enough; of deltas it is not known which has its base.
        records.retain(|record| {
            let kind = record.entry().map(|entry| entry.kind);
            kind == Some(RecordKind::BlockDelta) || copied.insert(record.digest())
        });
        copy_pack(vault, &writer, listed, &records)?;
    }
    let bytes = writer.end()?;
    report.copied_bytes = report.copied_bytes.saturating_add(bytes);
    Ok(())
}

fn copy_pack(
    vault: &Vault,
    writer: &Writer,
    listed: &ListedPack,
    records: &[RawRecord],
) -> Result<()> {
    let key = names::pack(listed.kind, &listed.id);
    let read = || match vault.store.get(&key, listed.size) {
        Ok(bytes) if pack_id(&bytes) == listed.id => Ok(bytes),
        Ok(_) => Err(VaultError::Pack { pack: listed.id }),
        Err(StoreError::Missing { .. }) => Err(VaultError::ConcurrentReclaim),
        Err(error) => Err(error.into()),
    };
    let bytes = match read() {
        Err(VaultError::Pack { .. }) if vault.heal_pack(listed.kind, &listed.id)? != Heal::Lost => {
            read()?
        }
        other => other?,
    };
    let damaged = |source| VaultError::Object { object: key.to_string(), source };
    let header = strongroom_format::pack::Header::parse(&bytes).map_err(damaged)?;
    let seal_key = vault.pack_key(&header, &key)?;
    for entry in records.iter().filter_map(RawRecord::entry) {
        let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(entry.stored_len).unwrap_or(usize::MAX));
        let sealed = bytes.get(start..end).ok_or(VaultError::Pack { pack: listed.id })?;
        let mut sealed = sealed.to_vec();
        let payload = entry.open(&seal_key, &mut sealed).map_err(damaged)?;
        let plain_len = usize::try_from(entry.plain_len).unwrap_or(usize::MAX);
        let kind = entry.kind;
        writer.append(listed.kind, kind, entry.digest, plain_len, payload.base, payload.bytes)?;
    }
    Ok(())
}

/// Deletes the condemned packs, then the deleted points, then replaces the index objects that
/// list what is gone.
pub(super) fn delete(
    vault: &Vault,
    packs: &HashMap<PackId, ListedPack>,
    condemned: &HashSet<PackId>,
    tombstones: &HashSet<(ItemKey, PointId)>,
    progress: OnReclaim<'_>,
    report: &mut ReclaimReport,
) -> Result<()> {
    let mut doomed: Vec<_> = packs.values().filter(|pack| condemned.contains(&pack.id)).collect();
    doomed.sort_by_key(|pack| pack.id);
    let total = doomed.len();
    for (done, pack) in doomed.into_iter().enumerate() {
        progress(ReclaimProgress::new("deleting", "packs", done, total));
        vault.store.delete(&names::pack(pack.kind, &pack.id))?;
        report.packs_removed = report.packs_removed.saturating_add(1);
        report.removed_bytes = report.removed_bytes.saturating_add(pack.size);
    }
    let mut tombstones: Vec<_> = tombstones.iter().copied().collect();
    tombstones.sort_unstable();
    for (item, point) in tombstones {
        vault.store.delete(&names::point(item, point))?;
        vault.remove_locks(item, point)?;
        vault.store.delete(&names::deleted(item, point))?;
        report.points_removed = report.points_removed.saturating_add(1);
    }
    replace_index_objects(vault, condemned)
}

/// Writes the index objects that list condemned packs anew without them, and joins small ones.
fn replace_index_objects(vault: &Vault, condemned: &HashSet<PackId>) -> Result<()> {
    let mut records: HashMap<Ulid, usize> = HashMap::new();
    let mut stale: HashSet<Ulid> = HashSet::new();
    for entry in vault.list(names::INDEX)? {
        let Some(id) = names::parse_ulid(&entry.key) else { continue };
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        records.insert(id, size.checked_div(44).unwrap_or(0));
    }
    for loaded in vault.index.loaded() {
        let gone = loaded.segment.packs.iter().filter(|pack| condemned.contains(&pack.id));
        stale.extend(gone.filter_map(|pack| loaded.segment.sources.get(pack.source)));
    }
    let small: Vec<Ulid> =
        records.iter().filter(|(_, count)| **count < SMALL_INDEX).map(|(id, _)| *id).collect();
    if small.len() > MANY_SMALL {
        stale.extend(small);
    }
    let mut stale: Vec<Ulid> = stale.into_iter().filter(|id| records.contains_key(id)).collect();
    stale.sort_unstable();
    let mut batch: Vec<Contents> = Vec::new();
    let mut replaced = Vec::new();
    for id in stale {
        let packs = match vault.read_index_object(id) {
            Ok(object) => object.packs,
            Err(VaultError::Store(StoreError::Missing { .. })) => continue,
            // Its packs were asked when the index was brought up to date.
            Err(error) if is_damage(&error) => vault.contents_of_damaged(id)?,
            Err(error) => return Err(error),
        };
        let kept = packs.into_iter().filter(|pack| !condemned.contains(&pack.id));
        for contents in kept {
            if !batch.iter().any(|have| have.id == contents.id) {
                batch.push(contents);
            }
        }
        replaced.push(id);
        // Not later: the next one may be as large as index objects get, and would come on top.
        let count: usize = batch.iter().map(|contents| contents.entries.len()).sum();
        if count >= IndexObject::TARGET_RECORDS / 2 {
            finish_batch(vault, &mut batch, &mut replaced)?;
        }
    }
    finish_batch(vault, &mut batch, &mut replaced)
}

/// The new object first, so that no pack is ever without one.
fn finish_batch(vault: &Vault, batch: &mut Vec<Contents>, replaced: &mut Vec<Ulid>) -> Result<()> {
    if !batch.is_empty() {
        vault.put_index(std::mem::take(batch))?;
    }
    for id in &*replaced {
        vault.store.delete(&names::index(*id))?;
    }
    // Now, and not when all are replaced: the local index would take twice its size meanwhile.
    vault.index.forget(replaced).map_err(|error| vault.local_error(error))?;
    replaced.clear();
    Ok(())
}
