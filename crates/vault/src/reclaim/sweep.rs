//! Sweeping: copying what is needed out of condemned packs, checking, deleting.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use strongroom_base::{Cancel, PackId, PointId, Stage, Things};
use strongroom_format::{
    IndexObject,
    codec::Effort,
    names::{self, ItemKey},
    pack::{Contents, Packing, pack_id},
};
use strongroom_objects::{Heal, StoreError};
use ulid::Ulid;

use super::{
    OnReclaim, ReclaimOptions, ReclaimProgress, ReclaimReport,
    mark::Marks,
    repack::{Repacker, packing_by_pack},
};
use crate::{
    Vault, VaultError, Writer,
    error::Result,
    read::is_damage,
    together::{cuts_of, read_ahead},
    write::ListedPack,
};

/// Index objects with fewer records are small; more than this many small ones are joined.
const SMALL_INDEX: usize = 64 * 1024;
const MANY_SMALL: usize = 32;

/// Bytes of packs that are read ahead of being copied.
const READ_AHEAD: u64 = 64 << 20;

/// Packs that the store is asked to remove at once.
const DELETED_AT_ONCE: usize = 1000;

/// How many such requests are on their way at once.
const DELETES_AT_ONCE: usize = 4;

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
    let mut writer = Writer::begin_copy(vault, &options.host)?;
    for (_, records) in &mut wanted {
        // In the order in which they lie, so that what was written together stays together.
        records.sort_unstable_by_key(|record| record.entry().map(|e| (e.offset, e.part.at)));
    }
    // What was packed tightly stays apart, and is never packed once more.
    let packing = packing_by_pack(vault);
    let tight = |pack: &PackId| packing.get(pack) == Some(&Packing::Tight);
    let (tightly, loosely): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|(pack, _)| tight(pack));
    let total = tightly.len().saturating_add(loosely.len());
    let mut done = 0;
    let size = |pack: &PackId| packs.get(pack).map_or(0, |listed| listed.size);
    let read = |pack: &PackId| {
        if cancel.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        read_pack(vault, packs.get(pack).ok_or(VaultError::ConcurrentReclaim)?)
    };
    for (packs_of, effort) in [(loosely, Effort::Backup), (tightly, Effort::Recompression)] {
        if packs_of.is_empty() {
            continue;
        }
        if effort == Effort::Recompression {
            writer.set_packing(Packing::Tight)?;
        }
        let mut repacker = Repacker::new(vault, &writer, effort);
        read_ahead(
            vault.at_once(),
            READ_AHEAD,
            &packs_of,
            |(pack, _)| size(pack),
            |(pack, _)| read(pack),
            |(pack, records), bytes| {
                progress(ReclaimProgress::new(Stage::Copying, Things::Packs, done, total));
                done += 1;
                let listed = packs.get(pack).ok_or(VaultError::ConcurrentReclaim)?;
                repacker.copy(listed, records, &bytes?)
            },
        )?;
    }
    let bytes = writer.end()?;
    report.copied_bytes = report.copied_bytes.saturating_add(bytes);
    Ok(())
}

/// Reads a whole pack, and has it healed if it is not what its name says.
pub(super) fn read_pack(vault: &Vault, listed: &ListedPack) -> Result<Vec<u8>> {
    let key = names::pack(listed.kind, &listed.id);
    if let Some(bytes) = vault.kept_pack(listed).filter(|bytes| pack_id(bytes) == listed.id) {
        return Ok(bytes);
    }
    let read = || match vault.store.get(&key, listed.size) {
        Ok(bytes) if pack_id(&bytes) == listed.id => Ok(bytes),
        Ok(_) => Err(VaultError::Pack { pack: listed.id }),
        Err(StoreError::Missing { .. }) => Err(VaultError::ConcurrentReclaim),
        Err(error) => Err(error.into()),
    };
    match read() {
        Err(VaultError::Pack { .. }) if vault.heal_pack(listed.kind, &listed.id)? != Heal::Lost => {
            read()
        }
        other => other,
    }
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
    let groups: Vec<_> = doomed.chunks(DELETED_AT_ONCE).collect();
    if total > 0 {
        progress(ReclaimProgress::new(Stage::Deleting, Things::Packs, 0, total));
    }
    let at_once = if vault.store.is_local() { 1 } else { DELETES_AT_ONCE };
    let mut done = 0_usize;
    read_ahead(
        at_once,
        u64::MAX,
        &groups,
        |_| 0,
        |packs| {
            let names: Vec<_> = packs.iter().map(|pack| names::pack(pack.kind, &pack.id)).collect();
            vault.store.delete_all(&names)
        },
        |packs, deleted| {
            deleted?;
            for pack in *packs {
                report.packs_removed = report.packs_removed.saturating_add(1);
                report.removed_bytes = report.removed_bytes.saturating_add(pack.size);
            }
            done = done.saturating_add(packs.len());
            progress(ReclaimProgress::new(Stage::Deleting, Things::Packs, done, total));
            Ok(())
        },
    )?;
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

/// Writes the index objects that list condemned packs again without them, and joins small ones.
fn replace_index_objects(vault: &Vault, condemned: &HashSet<PackId>) -> Result<()> {
    let mut records: HashMap<Ulid, usize> = HashMap::new();
    let mut stale: HashSet<Ulid> = HashSet::new();
    let known: Vec<_> = vault.index.sources().into_iter().map(names::index).collect();
    for entry in vault.list_in_parts(names::INDEX, &cuts_of(known.iter()))? {
        let Some(id) = names::parse_ulid(&entry.key) else { continue };
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        records.insert(id, size.checked_div(44).unwrap_or(0));
    }
    // Whether something stays of what an object lists.
    let mut listing: HashMap<Ulid, bool> = HashMap::new();
    for loaded in vault.index.loaded() {
        for pack in &loaded.segment.packs {
            let Some(source) = loaded.segment.sources.get(pack.source) else { continue };
            *listing.entry(*source).or_default() |= !condemned.contains(&pack.id);
            if condemned.contains(&pack.id) {
                stale.insert(*source);
            }
        }
    }
    let small: Vec<Ulid> =
        records.iter().filter(|(_, count)| **count < SMALL_INDEX).map(|(id, _)| *id).collect();
    if small.len() > MANY_SMALL {
        stale.extend(small);
    }
    let size = |id| Some((id, u64::try_from(records.get(&id)?.saturating_mul(44)).ok()?));
    let mut stale: Vec<(Ulid, u64)> = stale.into_iter().filter_map(size).collect();
    stale.sort_unstable();
    // Of an object of which nothing stays nobody needs to know more.
    let (stale, over): (Vec<_>, Vec<_>) =
        stale.into_iter().partition(|(id, _)| listing.get(id) != Some(&false));
    let mut batch: Vec<Contents> = Vec::new();
    let mut in_batch: HashSet<PackId> = HashSet::new();
    let mut replaced: Vec<Ulid> = over.into_iter().map(|(id, _)| id).collect();
    for (id, object) in vault.index_objects(&stale) {
        let packs = match object {
            Ok(object) => object.packs,
            Err(VaultError::Store(StoreError::Missing { .. })) => continue,
            // Its packs were asked when the index was brought up to date.
            Err(error) if is_damage(&error) => vault.contents_of_damaged(id)?,
            Err(error) => return Err(error),
        };
        let kept = packs.into_iter().filter(|pack| !condemned.contains(&pack.id));
        for contents in kept {
            if in_batch.insert(contents.id) {
                batch.push(contents);
            }
        }
        replaced.push(id);
        // Not later: the next one may be as large as index objects get, and would come on top.
        let count: usize = batch.iter().map(|contents| contents.entries.len()).sum();
        if count >= IndexObject::TARGET_RECORDS / 4 {
            finish_batch(vault, &mut batch, &mut replaced)?;
            in_batch.clear();
        }
    }
    finish_batch(vault, &mut batch, &mut replaced)
}

/// The new object first, so that no pack is ever without one.
fn finish_batch(vault: &Vault, batch: &mut Vec<Contents>, replaced: &mut Vec<Ulid>) -> Result<()> {
    if !batch.is_empty() {
        vault.put_index(std::mem::take(batch))?;
    }
    if replaced.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = replaced.iter().map(|id| names::index(*id)).collect();
    vault.store.delete_all(&names)?;
    // Now, and not when all are replaced: the local index would take twice its size meanwhile.
    vault.index.forget(replaced).map_err(|error| vault.local_error(error))?;
    replaced.clear();
    Ok(())
}
