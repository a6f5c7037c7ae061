//! Everything in a vault but packs.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
};

use jiff::Timestamp;
use strongroom_base::{PackId, PointId, Stage};
use strongroom_format::{
    IndexObject, Manifest, VaultConfig,
    names::{self, ItemKey},
    pack::Contents,
    sealed::{self, SealedKind},
};
use strongroom_objects::{Key, MAX_OBJECT_LEN};
use strongroom_reports::{CopyState, DamagedObject, DamagedPoint, ObjectKind, UnsoundCopy};
use ulid::Ulid;

use super::{
    Look, VerifyProgress, inspect::CheckBytes, listing::list, report::MAX_NAMED, words::words,
};
use strongroom_vault::{
    Vault, VaultError,
    audit::{Locks, Named, check_note},
};

use crate::Result;

/// What the readable metadata says, for the checks that follow.
pub(super) struct Known {
    /// What index objects say of each pack.
    pub(super) indexed: HashMap<PackId, Indexed>,
    /// The index objects that could be read.
    pub(super) sources: HashSet<Ulid>,
    /// Those that could not, and were not written again.
    pub(super) bad_sources: HashSet<Ulid>,
    /// The manifests of visible points that could be read, and of those that are locked in spite of
    /// their deletion notes.
    pub(super) points: Vec<Manifest>,
    /// Until when the latter are.
    pub(super) locked: HashMap<PointId, Timestamp>,
}

/// What an index object says of a pack.
#[derive(Clone, Copy)]
pub(super) struct Indexed {
    /// Which one says so.
    pub(super) source: Ulid,
    /// Stands for all that it says.
    pub(super) fingerprint: [u8; 16],
}

/// Stands for a pack's table of contents: equal for equal tables only.
pub(super) fn fingerprint(contents: Contents) -> Result<([u8; 16], Contents)> {
    let mut object = IndexObject { packs: vec![contents] };
    let bytes =
        object.encode().map_err(|source| VaultError::Format { what: "the index", source })?;
    let mut short = [0; 16];
    blake3::Hasher::new().update(&bytes).finalize_xof().fill(&mut short);
    let contents = object.packs.pop().ok_or(VaultError::Bug("a table that vanished"))?;
    Ok((short, contents))
}

/// Reads an index object again; none if no copy of it is good.
pub(super) fn read_index(vault: &Vault, look: &Look<'_>, id: Ulid) -> Result<Option<IndexObject>> {
    let key = names::index(id);
    let open = |bytes: &[u8]| {
        let plain =
            vault.audit().unseal(SealedKind::Index, &key, bytes.to_vec()).map_err(|e| words(&e))?;
        IndexObject::decode(&plain).map_err(|e| e.to_string())
    };
    let seen = look.inspector.copies.look(&key, sealed::MAX_SEALED, &|b| open(b).map(drop))?;
    Ok(seen.good.and_then(|bytes| open(&bytes).ok()))
}

impl Look<'_> {
    fn step(&self, done: &mut u64, total: u64) -> bool {
        *done = done.saturating_add(1);
        let (bytes_done, bytes_total) = (0, 0);
        let stage = Stage::Metadata;
        (self.progress)(VerifyProgress { stage, done: *done, total, bytes_done, bytes_total });
        self.cancel.is_cancelled()
    }
}

/// Compares the copies of all metadata with each other.
pub(super) fn blind(look: &Look<'_>) -> Result<()> {
    description(look, None)?;
    let prefixes = [
        names::KEYS,
        names::INDEX,
        names::POINTS,
        names::DELETED,
        names::CONDEMNED,
        names::DAMAGED,
        names::SERVICE,
        names::LOCKS,
    ];
    let mut done = 0;
    for prefix in prefixes {
        let names = list(look, prefix)?;
        let total = u64::try_from(names.len()).unwrap_or(0);
        for key in names {
            if look.step(&mut done, total) {
                return Ok(());
            }
            let kind = kind_of(&key);
            let sealed = kind != ObjectKind::Key;
            // Without a key nobody can say more than that it begins like a sealed object.
            look.inspector.object(kind, &key, MAX_OBJECT_LEN, &|bytes| {
                if !sealed || bytes.starts_with(b"SRSEAL\r\n") {
                    Ok(())
                } else {
                    Err("it is no sealed object".to_owned())
                }
            })?;
        }
    }
    Ok(())
}

fn kind_of(key: &Key) -> ObjectKind {
    let key = key.as_str();
    let kinds = [
        (names::KEYS, ObjectKind::Key),
        (names::INDEX, ObjectKind::Index),
        (names::POINTS, ObjectKind::Manifest),
        (names::DELETED, ObjectKind::DeletionNote),
        (names::CONDEMNED, ObjectKind::Condemnation),
        (names::WRITERS, ObjectKind::WriterNote),
        (names::DAMAGED, ObjectKind::DamageNote),
        (names::SERVICE, ObjectKind::Service),
        (names::LOCKS, ObjectKind::Lock),
    ];
    let kind = kinds.iter().find(|(prefix, _)| key.starts_with(prefix));
    kind.map_or(ObjectKind::Other, |(_, kind)| *kind)
}

fn description(look: &Look<'_>, known: Option<&Vault>) -> Result<()> {
    let check = |bytes: &[u8]| {
        let found = VaultConfig::decode(bytes).map_err(|error| error.to_string())?;
        match known {
            Some(vault) if !vault.vouches_for(&found) => {
                Err("it is not what the vault's key vouches for".to_owned())
            }
            Some(vault) if !vault.describes(&found) => {
                Err("it has changed since the vault was opened".to_owned())
            }
            _ => Ok(()),
        }
    };
    let (kind, max) = (ObjectKind::Description, VaultConfig::MAX_LEN);
    let mut names = vec![names::config()];
    if let Some(vault) = known {
        names.push(names::config_copy(vault.config().vault_id));
    }
    for (key, is_first) in names.iter().zip([true, false]) {
        if look.inspector.object(kind, key, max, &check)?.is_some() {
            continue;
        }
        let there = look.inspector.is_there(key)?;
        if is_first && !there {
            look.inspector.lost(kind, key);
        }
        // The copy that an earlier program did not make is no damage.
        if let Some(vault) = known.filter(|_| look.inspector.wants_repair()) {
            match vault.audit().restore_description(key) {
                Ok(()) if is_first || there => look.inspector.mended(key),
                Ok(()) => {}
                Err(error) => look.inspector.not_repaired(key, &error),
            }
        }
    }
    Ok(())
}

/// Opens every copy of all metadata.
pub(super) fn full(vault: &Vault, look: &Look<'_>) -> Result<Known> {
    let mut known = Known {
        indexed: HashMap::new(),
        sources: HashSet::new(),
        bad_sources: HashSet::new(),
        points: Vec::new(),
        locked: HashMap::new(),
    };
    description(look, Some(vault))?;
    super::keys::verify(vault, look)?;
    let sealed = Sealed { vault, look };
    sealed.index_objects(&mut known)?;
    sealed.points(&mut known)?;
    sealed.notes()?;
    Ok(known)
}

struct Sealed<'a> {
    vault: &'a Vault,
    look: &'a Look<'a>,
}

impl Sealed<'_> {
    /// Checks one object with `parse`; what a good copy says.
    fn open<T>(
        &self,
        kind: (ObjectKind, SealedKind),
        key: &Key,
        parse: impl Fn(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<Option<T>> {
        let parsed = RefCell::new(None);
        let check = |bytes: &[u8]| {
            let plain =
                self.vault.audit().unseal(kind.1, key, bytes.to_vec()).map_err(|e| words(&e))?;
            let value = parse(&plain)?;
            parsed.borrow_mut().get_or_insert(value);
            Ok(())
        };
        self.look.inspector.object(kind.0, key, sealed::MAX_SEALED, &check)?;
        Ok(parsed.into_inner())
    }

    /// Checks one object that is a note, or of which no more is known than its seal.
    fn note(&self, kind: (ObjectKind, SealedKind), key: &Key) -> Result<()> {
        self.open(kind, key, |plain| check_note(kind.1, plain)).map(drop)
    }

    fn index_objects(&self, known: &mut Known) -> Result<()> {
        let mut names = list(self.look, names::INDEX)?;
        let mut bad = Vec::new();
        let mut done = 0;
        // Once more for those that were put in place of bad ones.
        for round in 0..2 {
            let total = u64::try_from(names.len()).unwrap_or(0);
            for key in &names {
                let Some(id) = names::parse_ulid(key) else { continue };
                if self.look.step(&mut done, total) {
                    return Ok(());
                }
                if !self.index_object(known, key, id)? {
                    bad.push((key.clone(), id));
                }
            }
            let mut mended = false;
            for (key, id) in bad.drain(..) {
                if round == 0 && self.mend_index(&key, id)? {
                    mended = true;
                } else {
                    known.bad_sources.insert(id);
                }
            }
            if !mended {
                break;
            }
            let before = names;
            names = list(self.look, names::INDEX)?;
            names.retain(|key| !before.contains(key));
        }
        Ok(())
    }

    /// Checks an index object; whether a copy of it is good.
    fn index_object(&self, known: &mut Known, key: &Key, id: Ulid) -> Result<bool> {
        let parse = |plain: &[u8]| IndexObject::decode(plain).map_err(|e| e.to_string());
        let object = self.open((ObjectKind::Index, SealedKind::Index), key, parse)?;
        let Some(object) = object else { return Ok(!self.look.inspector.is_there(key)?) };
        known.sources.insert(id);
        for contents in object.packs {
            let pack = contents.id;
            let (fingerprint, _) = fingerprint(contents)?;
            let said = Indexed { source: id, fingerprint };
            let before = known.indexed.insert(pack, said);
            if before.is_some_and(|before| before.fingerprint != fingerprint) {
                self.disagrees(key, &pack.to_string());
            }
        }
        Ok(true)
    }

    /// Writes the content of a damaged index object again from the packs, if repairs were asked for.
    /// Returns whether it did.
    fn mend_index(&self, key: &Key, id: Ulid) -> Result<bool> {
        if !self.look.inspector.wants_repair() || !self.look.inspector.may_repair(key)? {
            return Ok(false);
        }
        match self.vault.audit().replace_damaged_index(id) {
            Ok(()) => {
                tracing::info!(object = %key, "written again under another name");
                self.look.inspector.mended(key);
                Ok(true)
            }
            Err(error) => {
                self.look.inspector.not_repaired(key, &error);
                Ok(false)
            }
        }
    }

    fn disagrees(&self, key: &Key, pack: &str) {
        disagreement(
            self.look,
            key,
            &format!("another index object says something else of pack {pack}"),
        );
    }

    fn points(&self, known: &mut Known) -> Result<()> {
        // Points first: one that is deleted in between is then hidden, not checked.
        let names_of_points = list(self.look, names::POINTS)?;
        let deleted = list(self.look, names::DELETED)?;
        let mut hidden = BTreeSet::new();
        for key in &deleted {
            hidden.extend(names::parse_point(key));
            self.note((ObjectKind::DeletionNote, SealedKind::Deleted), key)?;
        }
        let total = u64::try_from(names_of_points.len()).unwrap_or(0);
        let locks =
            if hidden.is_empty() { Locks::default() } else { self.vault.audit().locks()? };
        let now = self.vault.clock().now();
        let mut done = 0;
        for key in names_of_points {
            let Some((item, point)) = names::parse_point(&key) else { continue };
            if self.look.step(&mut done, total) {
                return Ok(());
            }
            let hidden = hidden.contains(&(item, point));
            // A locked point is promised, whichever process has put a note.
            let locked = if hidden { self.locked_until(&locks, (item, point))? } else { None };
            let locked = locked.filter(|until| *until > now);
            if let Some(until) = locked {
                self.look.inspector.promise(&key, until);
            }
            let counts = !hidden || locked.is_some();
            match self.manifest(&key, item, point)? {
                Point::Good(manifest) if counts => {
                    known.locked.extend(locked.map(|until| (point, until)));
                    known.points.push(*manifest);
                }
                Point::Lost if counts => self.lost_point(point),
                _ => {}
            }
        }
        Ok(())
    }

    /// Until when a point is locked, as far as any copy of its manifest can be read.
    fn locked_until(&self, locks: &Locks, at: (ItemKey, PointId)) -> Result<Option<Timestamp>> {
        let read = RefCell::new(None);
        let check = |bytes: &[u8]| match self.vault.audit().open_named(at.0, at.1, bytes.to_vec()) {
            Ok(Named::Point(manifest)) => {
                read.borrow_mut().get_or_insert(*manifest);
                Ok(())
            }
            Ok(_) => Err("it is no manifest".to_owned()),
            Err(error) => Err(words(&error)),
        };
        let copies = &self.look.inspector.copies;
        copies.look(&names::point(at.0, at.1), sealed::MAX_SEALED, &check)?;
        Ok(locks.until(at, read.into_inner().as_ref()))
    }

    fn manifest(&self, key: &Key, item: ItemKey, point: PointId) -> Result<Point> {
        let parsed: RefCell<Option<Manifest>> = RefCell::new(None);
        let void: RefCell<Option<Vec<u8>>> = RefCell::new(None);
        let open = |bytes: &[u8]| {
            self.vault
                .audit()
                .open_named(item, point, bytes.to_vec())
                .map_err(|error| words(&error))
        };
        let is_point = |bytes: &[u8]| match open(bytes)? {
            Named::Point(manifest) => {
                parsed.borrow_mut().get_or_insert(*manifest);
                Ok(())
            }
            _ => Err("it says that there is no such point, and another copy has it".to_owned()),
        };
        // Of several voids any will do: the first.
        let is_void = |bytes: &[u8]| match open(bytes)? {
            Named::Void if *void.borrow_mut().get_or_insert_with(|| bytes.to_vec()) == bytes => {
                Ok(())
            }
            Named::Void => Err("it differs from the first copy".to_owned()),
            _ => Err("it is a manifest".to_owned()),
        };
        let kind = ObjectKind::Manifest;
        let checks: [CheckBytes<'_>; 2] = [&is_point, &is_void];
        let good = self.look.inspector.object_of(kind, key, sealed::MAX_SEALED, &checks)?;
        Ok(match (parsed.into_inner(), good) {
            (Some(manifest), _) => Point::Good(Box::new(manifest)),
            (None, Some(_)) => Point::Void,
            (None, None) => {
                if self.look.inspector.is_there(key)? {
                    Point::Lost
                } else {
                    Point::Void
                }
            }
        })
    }

    fn lost_point(&self, point: PointId) {
        let mut report = self.look.inspector.report();
        report.damaged_recovery_points = report.damaged_recovery_points.saturating_add(1);
        if report.damaged_points.len() < MAX_NAMED {
            report.damaged_points.push(DamagedPoint {
                item: None,
                recovery_point: point,
                time: None,
                configuration_lost: false,
                disks: Vec::new(),
            });
        }
    }

    fn notes(&self) -> Result<()> {
        for (prefix, kinds) in [
            (names::CONDEMNED, (ObjectKind::Condemnation, SealedKind::Condemned)),
            (names::DAMAGED, (ObjectKind::DamageNote, SealedKind::Damaged)),
            (names::SERVICE, (ObjectKind::Service, SealedKind::Service)),
            (names::LOCKS, (ObjectKind::Lock, SealedKind::Lock)),
        ] {
            for key in list(self.look, prefix)? {
                if prefix != names::SERVICE || names::parse_service(&key).is_some() {
                    self.note(kinds, &key)?;
                }
            }
        }
        for key in list(self.look, names::WRITERS)? {
            let has_target = names::parse_writer_target(&key).is_some();
            if !has_target && key.file_name() != "started" || self.look.inspector.is_own(&key) {
                continue;
            }
            let is_note = |bytes: &[u8]| {
                let plain = self.vault.audit().unseal(SealedKind::Writer, &key, bytes.to_vec());
                let plain = plain.map_err(|error| words(&error))?;
                check_note(SealedKind::Writer, &plain)
            };
            // Earlier programs put an empty object of this name. Where another copy has the note, it is damage.
            let is_empty = |bytes: &[u8]| match bytes {
                [] if has_target => Ok(()),
                _ => is_note(bytes),
            };
            let checks: [CheckBytes<'_>; 2] = [&is_note, &is_empty];
            let kind = ObjectKind::WriterNote;
            self.look.inspector.object_of(kind, &key, sealed::MAX_SEALED, &checks)?;
        }
        Ok(())
    }
}

enum Point {
    Good(Box<Manifest>),
    Void,
    Lost,
}

/// An index object that is authentic but says something else than it should.
pub(super) fn disagreement(look: &Look<'_>, key: &Key, reason: &str) {
    let copies = look.inspector.copies.names().iter().map(|copy| UnsoundCopy {
        copy: copy.clone(),
        state: CopyState::Conflicting,
        reason: reason.to_owned(),
    });
    look.inspector.damaged(DamagedObject {
        object: key.to_string(),
        kind: ObjectKind::Index,
        copies: copies.collect(),
        good_copies: 0,
        repaired: false,
        readable_records: None,
        lost_records: None,
    });
}
