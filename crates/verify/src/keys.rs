//! The key objects of every copy: the key ring knows what each must be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use strongroom_format::names;
use strongroom_objects::{Key, MAX_OBJECT_LEN, ObjectStore, StoreError};

use super::{Look, listing::list, words::words};
use strongroom_vault::Vault;

use crate::Result;
use strongroom_keys::KeyError;
use strongroom_reports::{CopyState, DamagedObject, ObjectKind, UnsoundCopy};

/// What the copies' key objects are.
struct Judged {
    /// Objects looked at.
    objects: u64,
    /// Which copies of an object are not good.
    bad: BTreeMap<Key, Vec<usize>>,
    /// A copy that has it good, by its number.
    good: BTreeMap<Key, usize>,
    /// Why no copy could be judged, if none could.
    failure: Option<KeyError>,
}

/// Checks the key objects of all copies, and repairs them if that was asked for.
pub(super) fn verify(vault: &Vault, look: &Look<'_>) -> Result<()> {
    let before = judge(vault, look)?;
    {
        let mut report = look.inspector.report();
        report.metadata_objects = report.metadata_objects.saturating_add(before.objects);
    }
    if let Some(failure) = &before.failure {
        let prefix = names::keys_of(vault.config().vault_id);
        let all = 0..look.inspector.copies.stores().len();
        let unsound = all.map(|number| UnsoundCopy {
            copy: name(look, number),
            state: CopyState::Damaged,
            reason: words(failure),
        });
        look.inspector.damaged(damaged(look, prefix, unsound.collect(), false));
        return Ok(());
    }
    if before.bad.is_empty() {
        return Ok(());
    }
    let bad: Vec<(Key, Vec<UnsoundCopy>)> = before
        .bad
        .into_iter()
        .map(|(key, copies)| {
            let copies = copies.into_iter().map(|number| unsound(look, &key, number)).collect();
            (key, copies)
        })
        .collect();
    let after = if look.inspector.wants_repair() { repair(vault, look)? } else { BTreeMap::new() };
    for (key, copies) in bad {
        let repaired = look.inspector.wants_repair() && !after.contains_key(&key);
        look.inspector.damaged(damaged(look, key.to_string(), copies, repaired));
    }
    Ok(())
}

fn name(look: &Look<'_>, number: usize) -> String {
    look.inspector.copies.names().get(number).cloned().unwrap_or_default()
}

/// How a copy of a key object is not good.
fn unsound(look: &Look<'_>, key: &Key, number: usize) -> UnsoundCopy {
    let store = look.inspector.copies.stores().get(number);
    let (state, reason) = match store.map(|store| store.get(key, MAX_OBJECT_LEN)) {
        Some(Err(StoreError::Missing { .. })) | None => (CopyState::Missing, "it is not there"),
        Some(_) => (CopyState::Damaged, "it differs from the key ring"),
    };
    UnsoundCopy { copy: name(look, number), state, reason: reason.to_owned() }
}

fn damaged(
    look: &Look<'_>,
    object: String,
    unsound: Vec<UnsoundCopy>,
    repaired: bool,
) -> DamagedObject {
    let good = look.inspector.copies.stores().len().saturating_sub(unsound.len());
    DamagedObject {
        object,
        kind: ObjectKind::Key,
        copies: unsound,
        good_copies: u64::try_from(good).unwrap_or(0),
        repaired,
        readable_records: None,
        lost_records: None,
    }
}

fn check(vault: &Vault, store: &dyn ObjectStore, repair: bool) -> Result<BTreeSet<Key>, KeyError> {
    let mut ring = vault.keys().write().unwrap_or_else(PoisonError::into_inner);
    let check = ring.check(store, repair)?;
    let mut bad: BTreeSet<Key> = check.repairable.into_iter().collect();
    for key in check.lost {
        // Neither it nor its twin is good.
        bad.extend(names::key_copy(&key));
        bad.insert(key);
    }
    Ok(bad)
}

/// Has the ring check each copy by itself; one that it cannot make sense of at all is compared
/// with the others.
fn judge(vault: &Vault, look: &Look<'_>) -> Result<Judged> {
    let stores = look.inspector.copies.stores();
    let mut names = list(look, &names::keys_of(vault.config().vault_id))?;
    // What is looked at as the vault's description.
    names.remove(&names::config_copy(vault.config().vault_id));
    let mut failure = None;
    let mut checks = Vec::new();
    for store in stores {
        match check(vault, &**store, false) {
            Ok(bad) => {
                names.extend(bad.iter().cloned());
                checks.push(Some(bad));
            }
            Err(error) => {
                failure = Some(error);
                checks.push(None);
            }
        }
    }
    let objects = u64::try_from(names.len().saturating_mul(stores.len())).unwrap_or(0);
    let mut judged = Judged { objects, bad: BTreeMap::new(), good: BTreeMap::new(), failure: None };
    if checks.iter().all(Option::is_none) {
        judged.failure = failure;
        return Ok(judged);
    }
    for key in names {
        let knows =
            |check: &Option<BTreeSet<Key>>| check.as_ref().is_some_and(|b| !b.contains(&key));
        let good = checks.iter().position(knows);
        let read = |number: usize| stores.get(number)?.get(&key, MAX_OBJECT_LEN).ok();
        let wanted = good.and_then(read);
        for (number, check) in checks.iter().enumerate() {
            let is_bad = match check {
                Some(bad) => bad.contains(&key),
                None => wanted.is_none() || read(number) != wanted,
            };
            if is_bad {
                judged.bad.entry(key.clone()).or_default().push(number);
            }
        }
        judged.good.extend(good.map(|good| (key, good)));
    }
    Ok(judged)
}

/// Repairs key objects, first each from its twin in the same copy, then from other copies. What is
/// still bad.
fn repair(vault: &Vault, look: &Look<'_>) -> Result<BTreeMap<Key, Vec<usize>>> {
    let stores = look.inspector.copies.stores();
    for store in stores {
        if let Err(error) = check(vault, &**store, true) {
            tracing::warn!(%error, "the keys of a copy cannot be repaired from themselves");
        }
    }
    let judged = judge(vault, look)?;
    for key in judged.bad.keys() {
        let good = judged.good.get(key).and_then(|number| stores.get(*number));
        if let Some(Ok(good)) = good.map(|store| store.get(key, MAX_OBJECT_LEN))
            && let Err(error) = vault.store().heal(key, &|bytes| bytes == good)
        {
            look.inspector.not_repaired(key, &error.into());
        }
    }
    Ok(judge(vault, look)?.bad)
}
