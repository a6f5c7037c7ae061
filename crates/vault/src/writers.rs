//! Who is writing to the vault now, and whether they still are.
//!
//! A writer announces itself with a note whose name says what it will publish, as a name does not rot
//! (`writers/<id>/for-...`), shows that it lives with `writers/<id>/beat-<n>`, and removes both when it
//! is done. Its note names the recovery point it
//! will publish, so that anybody can *expire* a writer that has gone silent: a void
//! under the point's name, made with the same create-only put as the point itself. The first put
//! decides. Expiring is always safe for data: the writer finds the name taken and gives up.
//! Clocks only decide how soon it is tried.
//!
//! This module owns the notes of writers and the verdict on who lives. It must not know what a writer writes.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use strongroom_base::{PointId, WriterId};
use strongroom_format::{
    FormatError,
    names::{self, ItemKey},
    sealed::SealedKind,
};
use strongroom_objects::{Key, Put, StoreError};

use crate::{Vault, VaultError, error::Result, read::is_damage};

/// What a writer says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterNote {
    /// The writer.
    pub id: WriterId,
    /// The host it runs on.
    pub host: String,
    /// This boot of the host; with pid and start it tells whether the process still exists.
    pub boot: String,
    /// Its process.
    pub pid: u32,
    /// When the process started, in clock ticks since boot.
    pub pid_start: u64,
    /// When it started to write, by its own clock.
    pub started: Timestamp,
    /// What it does: `backup`, `reclaim` or `repair`.
    pub purpose: String,
    /// Folder of the item it writes a point of; none for a reclaim.
    item: Option<String>,
    /// The point it will publish; none for a reclaim.
    pub point: Option<PointId>,
}

/// Whether a writer still writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its process is known to be gone.
    Dead,
    /// Nothing was heard of it for longer than [`STALE_AFTER`].
    Silent,
    /// It may be alive.
    Active,
}

/// A writer as the vault shows it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The writer.
    pub id: WriterId,
    /// Its note, unless it cannot be read.
    pub note: Option<WriterNote>,
    /// Its oldest object, by the store's clock.
    pub first_heard: Timestamp,
    /// Its newest object, by the store's clock.
    pub last_heard: Timestamp,
    /// Whether it still writes.
    pub life: Life,
    /// What it will publish, as names of its objects say; empty if none says anything.
    targets: Vec<Option<(ItemKey, PointId)>>,
}

impl Seen {
    /// Who it is, for people.
    pub(crate) fn words(&self) -> String {
        self.note.as_ref().map_or_else(
            || self.id.to_string(),
            |note| format!("{} on {} since {}", note.purpose, note.host, note.started),
        )
    }
}

/// Silence after which a writer counts as gone.
pub const STALE_AFTER: SignedDuration = SignedDuration::from_mins(15);

impl WriterNote {
    pub(crate) fn new(
        id: WriterId,
        host: &str,
        started: Timestamp,
        purpose: &str,
        target: Option<(ItemKey, PointId)>,
    ) -> Self {
        let process = Process::current();
        Self {
            id,
            host: host.to_owned(),
            boot: process.boot,
            pid: process.pid,
            pid_start: process.start,
            started,
            purpose: purpose.to_owned(),
            item: target.map(|(item, _)| item.to_string()),
            point: target.map(|(_, point)| point),
        }
    }

    fn target(&self) -> Option<(ItemKey, PointId)> {
        Some((self.item.as_ref()?.parse().ok()?, self.point?))
    }

    /// Whether the process that wrote the note certainly does not exist any more.
    fn is_dead(&self, here: &Process) -> bool {
        !here.boot.is_empty()
            && self.boot == here.boot
            && Process::start_of(self.pid) != Some(self.pid_start)
    }
}

/// A process of this host.
struct Process {
    boot: String,
    pid: u32,
    start: u64,
}

impl Process {
    fn current() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // In a container, process ids are of its own namespace: a process of another namespace
        // with the same boot must not be taken for dead.
        let namespace = std::fs::read_link("/proc/self/ns/pid")
            .map(|link| link.display().to_string())
            .unwrap_or_default();
        let pid = std::process::id();
        Self {
            boot: format!("{} {namespace}", boot.trim()),
            pid,
            start: Self::start_of(pid).unwrap_or(0),
        }
    }

    /// When a process started: field 22 of its stat, after the name in parentheses.
    fn start_of(pid: u32) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
    }
}

impl Vault {
    /// Everybody who has announced itself and not yet taken leave.
    pub fn writers(&self) -> Result<Vec<Seen>> {
        self.writers_seen_by(None)
    }

    /// As [`Self::writers`]. How long they have been silent is reckoned by the store's clock: by the
    /// date of the note of `own`, a writer that put it at this moment of the monotonic clock, or else
    /// by that of a probe.
    pub(crate) fn writers_seen_by(&self, own: Option<(WriterId, Duration)>) -> Result<Vec<Seen>> {
        let here = Process::current();
        let mut seen: Vec<Seen> = Vec::new();
        let mut notes: HashMap<WriterId, Vec<Key>> = HashMap::new();
        for entry in self.list(names::WRITERS)? {
            let Some(id) = names::parse_writer(&entry.key) else { continue };
            let target = names::parse_writer_target(&entry.key);
            if target.is_some() || entry.key == names::writer_started(id) {
                notes.entry(id).or_default().push(entry.key.clone());
            }
            match seen.last_mut().filter(|last| last.id == id) {
                Some(last) => {
                    last.first_heard = last.first_heard.min(entry.modified);
                    last.last_heard = last.last_heard.max(entry.modified);
                    last.targets.extend(target);
                }
                None => seen.push(Seen {
                    id,
                    note: None,
                    first_heard: entry.modified,
                    last_heard: entry.modified,
                    life: Life::Active,
                    targets: target.into_iter().collect(),
                }),
            }
        }
        let dated = own.and_then(|(id, at)| {
            let own = seen.iter().find(|writer| writer.id == id)?;
            Some(self.store_clock_was(own.first_heard, at))
        });
        let now = match dated {
            Some(now) => now,
            None if seen.is_empty() => return Ok(seen),
            None => self.store_now()?,
        };
        let own = own.map(|(id, _)| id);
        // The caller knows what it has put.
        for writer in seen.iter_mut().filter(|writer| Some(writer.id) != own) {
            let mut names = notes.remove(&writer.id).unwrap_or_default();
            // Earlier programs put the note as `started` beside an empty object of the other name. Without
            // that, an empty one is damaged, and another copy may be good.
            let started = names::writer_started(writer.id);
            names.sort_by_key(|name| *name != started);
            writer.note = match self.writer_note(&names) {
                Ok(note) => note,
                Err(error) if is_damage(&error) => {
                    tracing::warn!(%error, "the note of a writer cannot be read");
                    if writer.targets.is_empty() {
                        // Nobody knows which point to forbid it: it counts as active until its
                        // note is repaired or removed. That holds up reclaim, but no backup.
                        continue;
                    }
                    None
                }
                Err(error) => return Err(error),
            };
            let silence = now.duration_since(writer.last_heard);
            writer.life = match &writer.note {
                Some(note) if note.is_dead(&here) => Life::Dead,
                // Should the store's clock jump, a backup is expired at worst, and has to be repeated.
                _ if silence > STALE_AFTER => Life::Silent,
                _ => Life::Active,
            };
        }
        Ok(seen)
    }

    /// The first of a writer's notes that can be read.
    fn writer_note(&self, names: &[Key]) -> Result<Option<WriterNote>> {
        let mut damaged = None;
        for name in names {
            match self.read_sealed(SealedKind::Writer, name) {
                Ok(plain) => match serde_json::from_slice(&plain) {
                    Ok(note) => return Ok(Some(note)),
                    Err(error) => {
                        let reason = error.to_string();
                        let source = FormatError::Text { what: "writer's note", reason };
                        damaged = Some(VaultError::Object { object: name.to_string(), source });
                    }
                },
                Err(VaultError::Store(StoreError::Missing { .. })) => {}
                Err(error) if is_damage(&error) => damaged = Some(error),
                Err(error) => return Err(error),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// Makes sure that a writer will never publish, and removes its objects. False if it has
    /// published already. A dead process needs it, too: what it sent last may still be on its way.
    pub(crate) fn expire(&self, writer: &Seen) -> Result<bool> {
        let mut expired = true;
        let noted = writer.note.as_ref().and_then(WriterNote::target);
        let named = writer.targets.iter().copied().flatten();
        for (item, point) in noted.into_iter().chain(named).collect::<BTreeSet<_>>() {
            expired &= self.put_void(item, point, Some(writer.id))? == Put::Created;
        }
        self.remove_writer(writer.id)?;
        Ok(expired)
    }

    /// Removes a writer's objects: beats, which never stand alone, and its note last, or what an
    /// earlier program has left in its place.
    pub(crate) fn remove_writer(&self, id: WriterId) -> Result<()> {
        let started = names::writer_started(id);
        let listed = self.list(&names::writer_folder(id))?;
        let (targets, mut names): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .map(|entry| entry.key)
            .partition(|key| names::parse_writer_target(key).is_some());
        names.retain(|name| *name != started);
        names.push(started);
        names.extend(targets);
        names.iter().try_for_each(|name| Ok(self.store.delete(name)?))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::{Clock as _, SystemClock, SystemEntropy};

    use super::*;
    use crate::points::tests::vault;

    #[test]
    fn who_was_killed_is_known_to_be_dead_by_its_one_note() {
        let dir = tempfile::tempdir().expect("temp");
        let vault = vault(dir.path());
        let point = PointId::from_bytes([7; 16]);
        let target = Some((vault.item_key("web").expect("a name"), point));
        let announced = |pid: Option<u32>| {
            let id = WriterId::generate(&SystemClock, &SystemEntropy);
            let mut note = WriterNote::new(id, "here", SystemClock.now(), "backup", target);
            note.pid = pid.unwrap_or(note.pid);
            let plain = serde_json::to_vec(&note).expect("JSON");
            let name = names::writer_target(id, target);
            vault.put_sealed(SealedKind::Writer, &name, &plain).expect("put");
            let seen = vault.writers().expect("listed");
            vault.remove_writer(id).expect("removed");
            assert_eq!(seen.len(), 1);
            seen[0].clone()
        };
        assert_eq!(announced(None).life, Life::Active);
        let dead = announced(Some(u32::MAX));
        assert_eq!(dead.life, Life::Dead);
        assert!(vault.expire(&dead).expect("expired"));
        vault.point("web", point).expect_err("it can never be");
        // An earlier program says nothing there: it may live.
        let id = WriterId::generate(&SystemClock, &SystemEntropy);
        vault.store.put_new(&names::writer_target(id, target), b"").expect("put");
        let seen = vault.writers().expect("listed");
        assert_eq!((seen[0].life, seen[0].note.is_none()), (Life::Active, true));
        // And then its note under the other name: it is taken.
        let mut note = WriterNote::new(id, "here", SystemClock.now(), "backup", target);
        note.pid = u32::MAX;
        let plain = serde_json::to_vec(&note).expect("JSON");
        vault.put_sealed(SealedKind::Writer, &names::writer_started(id), &plain).expect("put");
        let seen = vault.writers().expect("listed");
        assert_eq!((seen.len(), seen[0].life), (1, Life::Dead));
        assert!(!vault.expire(&seen[0]).expect("expired"), "the void was there already");
        assert!(vault.writers().expect("listed").is_empty());
    }
}
