//! Deletion notes: which a reclaim executes, and which it leaves.
//!
//! Whoever has the vault's key can put a note, and needs no right to delete for it. So a note is a
//! wish. It is executed if the caller says that notes of this kind are, and if no lock forbids it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_base::PointId;
use strongroom_format::{
    Manifest,
    names::{self, ItemKey},
};
use strongroom_reports::{HeldPoint, RemovedPoint, WhyHeld};

use crate::{Vault, error::Result, read::is_damage};

/// Which deletion notes a reclaim executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notes {
    /// Those that are at least as old as this, by the store's clock.
    OlderThan(Duration),
    /// Those of these points: item and id. A caller that keeps a catalog of what there must be knows which
    /// points it has given up.
    Of(BTreeSet<(String, PointId)>),
}

impl Default for Notes {
    /// All.
    fn default() -> Self {
        Self::OlderThan(Duration::ZERO)
    }
}

/// What the deletion notes of a vault come to.
#[derive(Clone, Debug, Default)]
pub struct NotedPoints {
    /// Points that a reclaim removes now.
    pub due: Vec<RemovedPoint>,
    /// Points that stay.
    pub held: Vec<HeldPoint>,
    /// The names of those that are due, and of notes whose points are gone already.
    pub(super) keys: HashSet<(ItemKey, PointId)>,
}

impl Vault {
    /// What a reclaim would do with the deletion notes that are there now. Locks are judged by `now`;
    /// if it is not given, by this host's clock or the store's, whichever is behind.
    pub fn noted_points(&self, notes: &Notes, now: Option<Timestamp>) -> Result<NotedPoints> {
        let mut noted = NotedPoints::default();
        let listed = self.list(names::DELETED)?;
        if listed.is_empty() {
            return Ok(noted);
        }
        let now = match now {
            Some(now) => now,
            None => self.cautious_now()?,
        };
        let locks = self.locks(None)?;
        let rule = Rule::new(self, notes)?;
        for entry in listed {
            let Some(key) = names::parse_point(&entry.key) else { continue };
            let manifest = match self.manifest(key.0, key.1) {
                Ok(Some(manifest)) => Some(manifest),
                // An earlier reclaim has removed the point, and broke off before its note.
                Ok(None) => {
                    noted.keys.insert(key);
                    continue;
                }
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error),
            };
            let locked = locks.until(key, manifest.as_ref()).filter(|until| *until > now);
            let held = match locked {
                Some(until) => Some((WhyHeld::Locked, Some(until))),
                None => rule.holds(key, entry.modified),
            };
            let of = |manifest: &Manifest| (manifest.item.clone(), manifest.time);
            let (item, time) = manifest.as_ref().map(of).unzip();
            let recovery_point = key.1;
            if let Some((why, until)) = held {
                noted.held.push(HeldPoint { item, recovery_point, time, why, until });
            } else {
                noted.keys.insert(key);
                noted.due.push(RemovedPoint { item, recovery_point, time });
            }
        }
        Ok(noted)
    }
}

/// [`Notes`] in the vault's terms.
enum Rule {
    Before(SignedDuration, Timestamp),
    Of(HashSet<(ItemKey, PointId)>),
}

impl Rule {
    fn new(vault: &Vault, notes: &Notes) -> Result<Self> {
        match notes {
            Notes::OlderThan(age) => {
                let age = SignedDuration::try_from(*age).unwrap_or(SignedDuration::MAX);
                Ok(Self::Before(age, vault.store_now()?))
            }
            Notes::Of(points) => {
                let mut keys: HashMap<&str, ItemKey> = HashMap::new();
                for (item, _) in points {
                    keys.entry(item.as_str()).or_insert(vault.item_key(item)?);
                }
                let key =
                    |(item, point): &(String, PointId)| Some((*keys.get(item.as_str())?, *point));
                Ok(Self::Of(points.iter().filter_map(key).collect()))
            }
        }
    }

    /// Why a note that was put then is not executed.
    fn holds(
        &self,
        key: (ItemKey, PointId),
        put: Timestamp,
    ) -> Option<(WhyHeld, Option<Timestamp>)> {
        match self {
            // Notes from the future are no reason to wait if none has to.
            Self::Before(age, now) => (!age.is_zero() && now.duration_since(put) < *age)
                .then(|| (WhyHeld::Young, put.checked_add(*age).ok())),
            Self::Of(points) => (!points.contains(&key)).then_some((WhyHeld::NotGivenUp, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use strongroom_base::{Cancel, Clock, Coded as _, SystemClock, SystemEntropy};
    use strongroom_format::Conditional;
    use strongroom_objects::Memory;

    use super::*;
    use crate::{
        ReclaimOptions, ReclaimReport, VaultOptions, points::tests::put_point, reclaim::reclaim,
    };
    use strongroom_keys::{KeySource, generate_key_file};

    /// A host's clock that is off by so much.
    #[derive(Debug, Default)]
    struct Off(Mutex<SignedDuration>);

    impl Off {
        fn set(&self, hours: i64) {
            *self.0.lock().expect("locks") = SignedDuration::from_hours(hours);
        }
    }

    impl Clock for Off {
        fn now(&self) -> Timestamp {
            let off = *self.0.lock().expect("locks");
            SystemClock.now().checked_add(off).expect("a time")
        }

        fn monotonic(&self) -> Duration {
            SystemClock.monotonic()
        }

        fn sleep(&self, duration: Duration) {
            SystemClock.sleep(duration);
        }
    }

    /// A vault whose store's clock is right, and a host's clock.
    fn lab(dir: &std::path::Path) -> (Arc<Vault>, Arc<Off>) {
        let key = dir.join("key");
        generate_key_file(&key, &SystemEntropy).expect("a key");
        let clock = Arc::new(Off::default());
        let options = VaultOptions { clock: clock.clone(), ..VaultOptions::default() };
        let store = Arc::new(Memory::default());
        let key = KeySource::File(key);
        let vault = Vault::create(store, &key, "test", Conditional::Honoured, Vec::new(), options);
        (Arc::new(vault.expect("a vault")), clock)
    }

    fn ids(last: u8) -> Vec<PointId> {
        (1..=last).map(|byte| PointId::from_bytes([byte; 16])).collect()
    }

    fn run(vault: &Arc<Vault>, options: &ReclaimOptions) -> ReclaimReport {
        reclaim(vault, options, &Cancel::new()).expect("reclaims")
    }

    /// What the program does: a note, whatever locks say. With the key anybody can.
    fn traitor(vault: &Vault, point: PointId) {
        let key = vault.item_key("web").expect("a name");
        let name = names::deleted(key, point);
        let kind = strongroom_format::sealed::SealedKind::Deleted;
        let note = br#"{"time":"2026-01-01T00:00:00Z","host":"traitor"}"#;
        vault.put_sealed(kind, &name, note).expect("put");
    }

    fn hours_from_now(hours: i64) -> Timestamp {
        let hours = SignedDuration::from_hours(hours);
        SystemClock.now().checked_add(hours).expect("a time")
    }

    #[test]
    fn a_locked_point_outlives_its_deletion_note() {
        let dir = tempfile::tempdir().expect("temp");
        let (vault, clock) = lab(dir.path());
        let [locked, extended, free] = ids(3)[..] else { panic!("three") };
        let week = hours_from_now(24 * 7);
        put_point(&vault, "web", locked, Some(week));
        put_point(&vault, "web", extended, None);
        put_point(&vault, "web", free, None);
        let until = vault.lock_point("web", extended, week, "here").expect("locks");
        assert!(until >= week);
        // Never shortened: neither by the vault nor by a second lock.
        let again = vault.lock_point("web", extended, hours_from_now(1), "here").expect("stays");
        assert_eq!(again, until);
        for point in [locked, extended] {
            let refused = vault.delete_point("web", point, "here").expect_err("locked");
            assert_eq!(refused.code().name, "point.locked");
        }
        for point in [locked, extended, free] {
            traitor(&vault, point);
        }
        // Neither a clock that is ahead nor one that is behind frees it.
        for off in [0, 24 * 365, -24 * 365] {
            clock.set(off);
            let report = run(&vault, &ReclaimOptions { dry_run: true, ..Default::default() });
            let held: Vec<_> =
                report.held.iter().map(|held| (held.recovery_point, held.why)).collect();
            let wanted = [(locked, WhyHeld::Locked), (extended, WhyHeld::Locked)];
            assert_eq!(held, wanted, "{off}");
            assert_eq!(report.clock_ahead_seconds.is_some(), off != 0);
        }
        clock.set(0);
        let report = run(&vault, &ReclaimOptions::default());
        assert_eq!((report.points_removed, report.removed.len(), report.held.len()), (1, 1, 2));
        assert_eq!(report.removed[0].recovery_point, free);
        // Readers have them still, but nothing new builds upon them.
        let listed: Vec<_> =
            vault.points(Some("web")).expect("lists").iter().map(|point| point.id).collect();
        assert_eq!(listed, [locked, extended]);
        assert_eq!(vault.latest("web").expect("reads").map(|point| point.id), Some(extended));
        vault.point("web", locked).expect("it is there");
        vault.parent_point("web", locked).expect_err("hidden for writers");
        assert!(vault.newest_readable("web").expect("reads").0.is_none());
        // When the lock is over, by the time of who knows it, the note counts.
        let later = Some(hours_from_now(24 * 8));
        let report = run(&vault, &ReclaimOptions { now: later, ..Default::default() });
        assert_eq!((report.points_removed, report.held.len()), (2, 0));
        assert!(vault.list(names::LOCKS).expect("lists").is_empty(), "its locks go with it");
    }

    #[test]
    fn only_what_the_catalog_has_given_up_is_removed() {
        let dir = tempfile::tempdir().expect("temp");
        let (vault, _) = lab(dir.path());
        let points = ids(3);
        for point in &points {
            put_point(&vault, "web", *point, None);
            traitor(&vault, *point);
        }
        let given_up = Notes::Of([("web".to_owned(), points[1])].into());
        let report = run(&vault, &ReclaimOptions { notes: given_up, ..Default::default() });
        let removed: Vec<_> = report.removed.iter().map(|point| point.recovery_point).collect();
        assert_eq!(removed, [points[1]]);
        let held: Vec<_> = report.held.iter().map(|held| (held.recovery_point, held.why)).collect();
        assert_eq!(held, [(points[0], WhyHeld::NotGivenUp), (points[2], WhyHeld::NotGivenUp)]);
        // They are hidden, and can be restored by who knows them.
        assert!(vault.points(None).expect("lists").is_empty());
        vault.restorable_point("web", points[0]).expect("it is there");
        vault.restorable_point("web", points[1]).expect_err("it is gone");
    }

    #[test]
    fn young_notes_wait_by_the_stores_clock() {
        let dir = tempfile::tempdir().expect("temp");
        let (vault, clock) = lab(dir.path());
        let point = ids(1)[0];
        put_point(&vault, "web", point, None);
        vault.delete_point("web", point, "here").expect("deletes");
        let week = Notes::OlderThan(Duration::from_hours(24 * 7));
        for off in [0, 24 * 30] {
            clock.set(off);
            let report = run(&vault, &ReclaimOptions { notes: week.clone(), ..Default::default() });
            assert_eq!(report.held[0].why, WhyHeld::Young, "{off}");
            assert!(report.held[0].until.is_some_and(|until| until > hours_from_now(24 * 6)));
        }
        assert_eq!(run(&vault, &ReclaimOptions::default()).points_removed, 1);
    }
}
