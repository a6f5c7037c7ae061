//! The keeper of vaults that the program itself reaches.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use strongroom_api::{ErrorBody, ItemUsage, KeyReference, TaskName, TaskState};
use strongroom_base::{Entropy, EntropyExt as _, PointId, Stage, lock, words};
use strongroom_engine::data_bytes;
use strongroom_format::Manifest;
use strongroom_keys::{self as keys, KeyError, KeyRing};
use strongroom_orders::{
    AbsentPoint, BootEvidence, HeldPoint, Keeper, PointFacts, ReclaimDone, ReclaimOrder, Result,
    RotateOrder, SavedObject, UsageFacts, ValidateOrder, VaultAccess, VaultFacts, VaultMake,
    VerifyFacts, VerifyOrder, Watch,
};
use strongroom_vault::{
    Notes, ReclaimOptions, ReclaimProgress, UsageOptions, ValidateOptions, ValidateProgress,
    Validated, Vault, VaultError, VaultOptions, WhyHeld,
    place::{self, NewVault, OpenKeys},
    reclaim_watched,
};

use crate::{
    Vaults,
    error::body,
    facts::{absent_point, point_facts, skipped},
    local::boot::evidence,
    vaults::OpenVault,
    verify,
};

/// The keeper of vaults that the program itself reaches.
///
/// Vaults stay open between orders; see [`Vaults`]. A recovery point is validated at the cost of what
/// it added, as [`Vault::validate`] says.
#[derive(Debug)]
pub struct LocalKeeper {
    vaults: Arc<Vaults>,
    host: String,
    threads: usize,
}

impl LocalKeeper {
    /// A keeper that shares open vaults with others. `host` is this host's name, for notes in vaults.
    pub fn new(vaults: Arc<Vaults>, host: impl Into<String>, threads: usize) -> Self {
        Self { vaults, host: host.into(), threads }
    }

    fn open(&self, access: &VaultAccess) -> Result<OpenVault> {
        self.vaults.open(access).map_err(body)
    }

    fn vault(&self, access: &VaultAccess) -> Result<Arc<Vault>> {
        Ok(self.open(access)?.vault)
    }

    fn make_new(&self, order: &VaultMake) -> Result<(), VaultError> {
        if let (KeyReference::File(path), true) = (&order.key, order.make_key) {
            make_key_file(Path::new(path), &*self.vaults.options().entropy)?;
        }
        let new = NewVault {
            url: order.url.clone(),
            mirrors: order.mirrors.clone(),
            key: self.vaults.key_source(&order.key)?,
            label: "first key".to_owned(),
            single_writer: order.single_writer,
        };
        place::create(&new, self.vaults.options()).map(drop)
    }
}

impl Keeper for LocalKeeper {
    fn make(&self, order: &VaultMake) -> Result<VaultFacts> {
        let existed = match place::open_store(&order.url) {
            Ok(_) => true,
            Err(VaultError::NotFound { .. }) => false,
            Err(error) => return Err(body(error)),
        };
        if !existed {
            self.make_new(order).map_err(body)?;
        }
        let access = VaultAccess { url: order.url.clone(), key: order.key.clone() };
        let mut facts = self.facts(&access)?;
        facts.existed = existed;
        let recorded: Vec<_> = facts.mirrors.iter().map(|at| fs::canonicalize(at).ok()).collect();
        for mirror in &order.mirrors {
            let asked = place::folder_of(mirror).and_then(|folder| fs::canonicalize(folder).ok());
            if asked.is_none() || !recorded.contains(&asked) {
                let words = "is not recorded in the vault, which was there before, as a copy of it";
                facts.warnings.push(format!("{mirror} {words}"));
            }
        }
        Ok(facts)
    }

    fn facts(&self, access: &VaultAccess) -> Result<VaultFacts> {
        let OpenVault { vault, warnings, .. } = self.open(access)?;
        let key_changed = {
            let ring = vault.keys().read().unwrap_or_else(PoisonError::into_inner);
            let millis = i64::try_from(ring.current().0.millis()).unwrap_or(i64::MAX);
            Timestamp::from_millisecond(millis).unwrap_or_else(|_| ring.changed())
        };
        let config = vault.config();
        Ok(VaultFacts {
            id: config.vault_id,
            mirrors: config.mirrors.clone(),
            existed: true,
            key_changed,
            free_bytes: free_bytes(&access.url, &config.mirrors),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        })
    }

    fn points(
        &self,
        access: &VaultAccess,
        item: Option<&str>,
    ) -> Result<(Vec<PointFacts>, Vec<ErrorBody>)> {
        let list = match self.vault(access)?.list_points(item) {
            // It has none yet, or none any more.
            Err(VaultError::ItemNotFound { .. }) => return Ok(Default::default()),
            list => list.map_err(body)?,
        };
        let mut points: Vec<PointFacts> = list.points.iter().map(point_facts).collect();
        points.sort_by_key(|point| (point.time, point.id));
        let damaged = list.damaged.into_iter().map(|damaged| *body(damaged.into_error()));
        Ok((points, damaged.collect()))
    }

    fn validate(&self, order: &ValidateOrder, watch: &Watch) -> Result<Vec<String>> {
        watch.task(TaskName::Validate, TaskState::InProgress, None);
        let vault = self.vault(&order.vault)?;
        let hears = |now: ValidateProgress| {
            watch.progress.count(now.stage, now.things, now.done, now.total);
        };
        let options = ValidateOptions::default();
        let validated = vault.validate(&order.item, order.point, options, &hears, &watch.cancel);
        let validated = validated.map_err(body)?;
        if validated.point.configuration.is_some() {
            // All of it, as a restore of the machine reads it.
            strongroom_machine::restore::configuration(&vault, &validated.point).map_err(body)?;
        }
        let found = words(&validated);
        watch.task(TaskName::Validate, TaskState::Completed, found.first().cloned());
        Ok(found)
    }

    fn delete_points(
        &self,
        access: &VaultAccess,
        item: &str,
        points: &[PointId],
        now: Timestamp,
    ) -> Result<Vec<(PointId, Timestamp)>> {
        let vault = self.vault(access)?;
        let mut locked = Vec::new();
        for point in points {
            match vault.delete_point_at(item, *point, &self.host, Some(now)) {
                Ok(()) | Err(VaultError::PointNotFound { .. }) => {}
                Err(VaultError::Locked { point, until }) => locked.push((point, until)),
                Err(error) => return Err(body(error)),
            }
        }
        Ok(locked)
    }

    fn lock_points(
        &self,
        access: &VaultAccess,
        item: &str,
        locks: &[(PointId, Timestamp)],
    ) -> Result<Vec<(PointId, Timestamp)>> {
        let vault = self.vault(access)?;
        let mut locked = Vec::new();
        for (point, until) in locks {
            match vault.lock_point(item, *point, *until, &self.host) {
                Ok(until) => locked.push((*point, until)),
                Err(VaultError::PointNotFound { .. }) => {}
                Err(error) => return Err(body(error)),
            }
        }
        Ok(locked)
    }

    fn absent(
        &self,
        access: &VaultAccess,
        item: Option<&str>,
        expected: &[(String, PointId)],
    ) -> Result<Vec<AbsentPoint>> {
        let absent = self.vault(access)?.absent(item, expected).map_err(body)?;
        Ok(absent.into_iter().map(absent_point).collect())
    }

    fn reclaim(&self, order: &ReclaimOrder, watch: &Watch) -> Result<ReclaimDone> {
        let vault = self.vault(&order.vault)?;
        let options = ReclaimOptions {
            threads: self.threads,
            host: self.host.clone(),
            notes: Notes::Of(order.given_up.iter().cloned().collect()),
            now: Some(order.now),
            recompress: order.recompress.then_some(ReclaimOptions::RECOMPRESS),
            ..ReclaimOptions::default()
        };
        let last = Mutex::new(None);
        let hears = |now: ReclaimProgress| {
            watch.progress.count(now.stage, now.things, now.done, now.total);
            let mut last = lock(&last);
            if *last != Some(now.stage) {
                *last = Some(now.stage);
                let words = match now.stage {
                    Stage::Waiting => "waiting for backups that may need data to be removed",
                    stage => stage.name(),
                };
                watch.task(TaskName::Reclaim, TaskState::InProgress, Some(words.to_owned()));
            }
        };
        let report = reclaim_watched(&vault, &options, &hears, &watch.cancel).map_err(body)?;
        let freed = words::bytes(report.freed_bytes);
        let words = match report.waiting_for.join(", ") {
            others if others.is_empty() => format!("freed {freed}"),
            others => format!(
                "freed {freed}; the rest is for the next reclaim, as others are at work: {others}"
            ),
        };
        watch.task(TaskName::Reclaim, TaskState::InProgress, Some(words));
        let held = report.held.iter().map(|held| HeldPoint {
            item: held.item.clone(),
            point: held.recovery_point,
            locked: held.why == WhyHeld::Locked,
        });
        Ok(ReclaimDone {
            complete: report.waiting_for.is_empty(),
            held: held.collect(),
            report: report.into(),
        })
    }

    fn verify(&self, order: &VerifyOrder, watch: &Watch) -> Result<VerifyFacts> {
        let vault = self.vault(&order.vault)?;
        verify::run(&vault, order.depth, (&self.host, self.threads), watch)
    }

    fn usage(&self, access: &VaultAccess, watch: &Watch) -> Result<UsageFacts> {
        let vault = self.vault(access)?;
        let report = vault.usage(UsageOptions { content: true }, &watch.cancel).map_err(body)?;
        let mut items = Vec::with_capacity(report.items.len());
        for item in report.items {
            if watch.cancel.is_cancelled() {
                return Err(body(VaultError::Interrupted));
            }
            let newest = vault.latest(&item.item).map_err(body)?;
            items.push(ItemUsage {
                item: None,
                recovery_points: item.recovery_points,
                protected_bytes: item.protected_bytes,
                instance_bytes: newest.map_or(Ok(0), |newest| instance_bytes(&vault, &newest))?,
                instance_units: 0,
                unique_bytes: item.unique_bytes.unwrap_or(0),
                shared_bytes: item.shared_bytes.unwrap_or(0),
                name: item.item,
            });
        }
        Ok(UsageFacts {
            recovery_points: report.recovery_points,
            protected_bytes: report.protected_bytes,
            stored_bytes: report.total_bytes,
            reclaimable_bytes: report.content.unwrap_or_default().reclaimable_bytes,
            items,
        })
    }

    fn rotate_key(&self, order: &RotateOrder) -> Result<VaultFacts> {
        let access = &order.vault;
        let new = order.new.as_ref().filter(|new| **new != access.key);
        let rotated = rotate(&self.vaults, access, new);
        // Even if it failed: nobody continues with a key that may open it no more.
        self.vaults.close(&access.url);
        rotated.map_err(body)?;
        let key = new.unwrap_or(&access.key).clone();
        self.facts(&VaultAccess { url: access.url.clone(), key })
    }

    fn make_key_file(&self, path: &Path) -> Result<()> {
        make_key_file(path, &*self.vaults.options().entropy).map_err(body)
    }

    fn save(&self, access: &VaultAccess, name: &str, bytes: &[u8]) -> Result<()> {
        self.vault(access)?.save_service_object(name, bytes).map_err(body)
    }

    fn saved(&self, access: &VaultAccess) -> Result<Vec<SavedObject>> {
        let objects = self.vault(access)?.service_objects().map_err(body)?.into_iter();
        Ok(objects.map(|kept| SavedObject { name: kept.name, size_bytes: kept.size }).collect())
    }

    fn boot(
        &self,
        access: &VaultAccess,
        item: &str,
        point: PointId,
    ) -> Result<Option<BootEvidence>> {
        let vault = self.vault(access)?;
        // It is the item's own.
        vault.point(item, point).map_err(body)?;
        let boot = strongroom_machine::boot(&vault, point).map_err(body)?;
        Ok(boot.map(evidence))
    }

    fn load(&self, access: &VaultAccess, name: &str) -> Result<Vec<u8>> {
        self.vault(access)?.load_service_object(name).map_err(body)
    }

    fn unsave(&self, access: &VaultAccess, name: &str) -> Result<()> {
        self.vault(access)?.remove_service_object(name).map_err(body)
    }
}

/// Changes the keys of a vault. It continues a first try that broke off.
fn rotate(
    vaults: &Vaults,
    access: &VaultAccess,
    new: Option<&KeyReference>,
) -> Result<(), VaultError> {
    let old_key = vaults.key_source(&access.key)?;
    let new_key = new.map(|key| vaults.key_source(key)).transpose()?;
    let VaultOptions { clock, entropy, .. } = vaults.options();
    let (open, replaced) = match (place::open_keys(&access.url, &old_key), &new_key) {
        (Ok(open), _) => (open, false),
        // The old one opens it no more: has an earlier try replaced it?
        (Err(VaultError::Key(wrong @ KeyError::Wrong { .. })), Some(new_key)) => {
            let open = place::open_keys(&access.url, new_key).map_err(|_| wrong)?;
            (open, true)
        }
        (Err(error), _) => return Err(error),
    };
    let OpenKeys { store, mut ring, .. } = open;
    if let (Some(new_key), false) = (&new_key, replaced) {
        let old = ring.slot();
        let slots = keys::list_slots(&*store, ring.vault())?.into_iter();
        let label = slots.filter(|slot| slot.slot == old).find_map(|slot| Some(slot.head?.label));
        let label = label.unwrap_or_default();
        ring.rotate_slot(&*store, old, new_key, &label, &*clock, &*entropy)?;
    }
    // A holder of the old key may have kept the master key: so it is changed last.
    if !(replaced && is_newer_than_slot(&ring)) {
        ring.rotate_master(&*store, &*clock, &*entropy)?;
    }
    Ok(())
}

/// Whether the master key was made after the slot that opened it.
fn is_newer_than_slot(ring: &KeyRing) -> bool {
    ring.current().0.millis() > ring.slot().millis()
}

/// Makes a key file, unless it is there. A crash leaves all of it or nothing.
fn make_key_file(path: &Path, entropy: &dyn Entropy) -> Result<(), VaultError> {
    let failed = |source| VaultError::Local { path: path.to_owned(), source };
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let mut unfinished = path.as_os_str().to_owned();
    // Another process may make it at the same time, even one of our number in another container.
    unfinished.push(format!(".{:016x}", u64::from_le_bytes(entropy.array())));
    let unfinished = PathBuf::from(unfinished);
    keys::generate_key_file(&unfinished, entropy)?;
    let linked = match fs::hard_link(&unfinished, path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked.and_then(|()| sync_folder(path)),
    };
    fs::remove_file(&unfinished).map_err(failed)?;
    linked.map_err(failed)
}

/// The name of a file outlives a power failure.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Bytes that are free where a vault is, if it is in folders: where there are least.
fn free_bytes(url: &str, mirrors: &[String]) -> Option<u64> {
    let folders = mirrors.iter().map(PathBuf::from).chain(place::folder_of(url));
    let free = |folder: PathBuf| {
        let stat = rustix::fs::statvfs(&folder).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    };
    folders.filter_map(free).min()
}

/// Bytes of data in the disks of a point.
fn instance_bytes(vault: &Arc<Vault>, point: &Manifest) -> Result<u64> {
    let of_disk = |disk| data_bytes(vault, disk).map_err(body);
    point.disks.iter().try_fold(0_u64, |sum, disk| Ok(sum.saturating_add(of_disk(disk)?)))
}

/// What people should know of a point that was validated.
fn words(validated: &Validated) -> Vec<String> {
    let Validated { point, base, nodes, blocks, sampled } = validated;
    let shared = base.map_or_else(String::new, |base| {
        format!("; data shared with recovery point {base} was validated with that point")
    });
    let walked = format!(
        "{nodes} tree nodes read, {blocks} blocks found, {sampled} read and checked{shared}"
    );
    let skipped = point.disks.iter().filter_map(skipped).map(|message| message.text);
    std::iter::once(walked).chain(skipped).collect()
}
