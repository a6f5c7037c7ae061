//! What actors do: back up, delete, restore, reclaim, each with the vault's own code.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use strongroom_base::{BLOCK_SIZE, Cancel, Digest, PointId, lock};
use strongroom_format::Manifest;
use strongroom_image::{Builder, Cursor, Image, Node};
use strongroom_keys::KeySource;
use strongroom_objects::StoreError;
use strongroom_testing::{disk_record, manifest};
use strongroom_vault::{Reader, ReclaimOptions, Vault, VaultError, VaultOptions, Writer, reclaim};

use crate::{
    clock::{SimClock, WrongBy},
    content::{Alphabet, DISK_SIZE, Disk, Letter, scribble},
    rng::{Rng, SimEntropy},
    scheduler::ActorId,
    store::{Process, Role, Shared, SimStore, User, work_as},
    world::{Stage, World, Wrong, chain},
};

/// The items that are backed up.
pub(crate) const ITEMS: [&str; 3] = ["web", "mail", "data"];

/// A machine: what its processes share.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) wrong_by: WrongBy,
    /// All actors of this host are threads of one process, with one open vault.
    pub(crate) service: Option<Arc<Mutex<Option<Service>>>>,
}

/// A process whose threads share a vault.
#[derive(Clone)]
pub(crate) struct Service {
    vault: Arc<Vault>,
    crashed: Arc<AtomicBool>,
}

impl Host {
    /// The process that the actors of this host share, if there is one and it has not crashed.
    fn running(&self) -> Option<Service> {
        let service = self.service.as_ref()?;
        let running = lock(service).clone();
        running.filter(|service| !service.crashed.load(Ordering::Relaxed))
    }

    fn start(&self, new: Service) {
        if let Some(service) = &self.service {
            *lock(service) = Some(new);
        }
    }
}

/// What all actors of a run share.
pub(crate) struct Scene {
    pub(crate) shared: Arc<Shared>,
    pub(crate) world: Arc<World>,
    pub(crate) key: KeySource,
    pub(crate) pack_size: usize,
}

/// A process with an open vault.
pub(crate) struct Run {
    pub(crate) vault: Arc<Vault>,
    pub(crate) process: Arc<Process>,
    pub(crate) rng: Rng,
    host: String,
}

impl Scene {
    /// Starts a process and opens the vault in it.
    pub(crate) fn open(
        &self,
        actor: Option<ActorId>,
        host: &Host,
        role: Role,
        name: &str,
        mut rng: Rng,
    ) -> Result<Run, VaultError> {
        let running = host.running();
        let crashed =
            running.as_ref().map_or_else(Arc::default, |service| Arc::clone(&service.crashed));
        let process = Arc::new(Process {
            actor,
            name: name.to_owned(),
            role,
            crashed: Arc::clone(&crashed),
            faulted: false.into(),
            wrong_by: Arc::clone(&host.wrong_by),
        });
        let user = if host.service.is_some() {
            work_as(&process);
            User::Whoever
        } else {
            User::One(Arc::clone(&process))
        };
        if let Some(Service { vault, .. }) = running {
            return Ok(Run { vault, process, rng, host: host.name.clone() });
        }
        let store = SimStore { shared: Arc::clone(&self.shared), user: user.clone() };
        let scheduler = Arc::clone(&self.shared.scheduler);
        let clock = SimClock { scheduler, user: Some(user), wrong_by: Arc::clone(&host.wrong_by) };
        let options = VaultOptions {
            cache_dir: host.cache.clone(),
            clock: Arc::new(clock),
            entropy: Arc::new(SimEntropy::new(rng.next())),
            uploaders: 0,
            pack_size: self.pack_size,
            beats: false,
        };
        let opened = Vault::open(Arc::new(store), &self.key, options);
        match opened {
            Ok(vault) => {
                if self.shared.sabotage.shares_views() {
                    vault.sabotage_trust();
                }
                let vault = Arc::new(vault);
                host.start(Service { vault: Arc::clone(&vault), crashed });
                Ok(Run { vault, process, rng, host: host.name.clone() })
            }
            Err(error) => {
                let faulted = process.faulted.load(Ordering::Relaxed);
                if !faulted {
                    self.world.fail(format!("{name}: opening the vault: {}", chain(&error)));
                }
                Err(error)
            }
        }
    }
}

impl Run {
    /// Whether it may fail in any way.
    pub(crate) fn faulted(&self) -> bool {
        self.process.faulted.load(Ordering::Relaxed) || self.crashed()
    }

    /// Whether it has ended.
    pub(crate) fn crashed(&self) -> bool {
        self.process.crashed.load(Ordering::Relaxed)
    }

    /// Backs up an item whose disks have been written to since some visible point.
    pub(crate) fn backup(&mut self, scene: &Scene) {
        let item = self.rng.choose(ITEMS, "web");
        let mut point = None;
        let result = self.try_backup(&scene.world, item, &mut point);
        let Some(point) = point else {
            return self.judge(scene, "backup", result.err());
        };
        match result {
            Ok(()) => {
                scene.world.update(point, |truth| truth.published = Stage::Done);
                scene.shared.note(&self.process.name, &format!("published {point}"));
            }
            Err(error) => {
                let expired = matches!(error, VaultError::Expired { .. });
                if expired {
                    scene.world.update(point, |truth| truth.published = Stage::Never);
                }
                // A writer that was given up may find anything gone.
                if !scene.shared.is_void(point) {
                    self.judge(scene, "backup", Some(error));
                }
            }
        }
    }

    fn try_backup(
        &mut self,
        world: &World,
        item: &'static str,
        named: &mut Option<PointId>,
    ) -> Result<(), VaultError> {
        let vault = Arc::clone(&self.vault);
        let mut writer = Writer::begin(&vault, item, &self.host)?;
        let point = writer.point().ok_or(VaultError::Bug("a backup without a point"))?;
        let (parent, damaged) = writer.newest_readable()?;
        let parent = parent.filter(|_| damaged.is_empty());
        let known = parent.as_ref().and_then(|parent| world.truth(parent.id));
        let mut disks = known.map_or_else(Vec::new, |truth| truth.disks);
        if disks.is_empty() {
            disks = vec![("vda".to_owned(), Disk::new()), ("vdb".to_owned(), Disk::new())];
        }
        for (_, disk) in &mut disks {
            scribble(disk, &mut self.rng);
        }
        // Known before it can be visible.
        world.expect(point, item, disks.clone());
        *named = Some(point);
        let mut records = Vec::new();
        for (name, disk) in &disks {
            let old = parent.as_ref().and_then(|p| p.disks.iter().find(|old| old.name == *name));
            let old = old.map(|old| Image::new(old.size_bytes, old.root)).transpose();
            let old = old.map_err(|_| VaultError::Bug("a parent of an impossible size"))?;
            let image = self.store_disk(world, &writer, old, disk)?;
            records.push(disk_record(name, &image));
        }
        writer.finish_packs()?;
        let manifest = Manifest {
            host: self.host.clone(),
            parent: parent.map(|parent| parent.id),
            ..manifest(point, item, vault.clock().now(), records)
        };
        writer.publish(&manifest)
    }

    /// What the engine does with a disk, in one thread.
    fn store_disk(
        &mut self,
        world: &World,
        writer: &Writer,
        parent: Option<Image>,
        disk: &Disk,
    ) -> Result<Image, VaultError> {
        let vault = Arc::clone(&self.vault);
        let image_error = |error| match error {
            strongroom_image::Error::Store(error) => error,
            _ => VaultError::Bug("a tree that cannot be"),
        };
        let sink = |digest, encoded: &[u8]| writer.store_node(digest, encoded);
        let mut builder =
            Builder::new(vault.hasher(), DISK_SIZE, parent, &*vault, sink).map_err(image_error)?;
        let mut cursor = parent.map(|parent| Cursor::new(parent, &*vault));
        let mut blocks = Blocks {
            writer,
            reader: vault.reader(),
            base: vec![0; BLOCK_SIZE],
            deltas: !self.rng.once_in(4),
            waiting: None,
        };
        for index in 0..3_u64 {
            let old = match &mut cursor {
                Some(cursor) => cursor.leaf(index).map_err(image_error)?,
                None => None,
            };
            let old = old.map_or_else(Node::empty, |leaf| (*leaf.node).clone());
            let mut node = Node::empty();
            for (place, letter) in disk.range(index << 8..(index + 1) << 8) {
                let slot = u8::try_from(place & 255).unwrap_or(0);
                let digest = world.digest(*letter);
                if old.get(slot) != digest {
                    blocks.store(digest, old.get(slot), *letter)?;
                }
                node.set(slot, digest);
            }
            blocks.store_waiting()?;
            if node != old {
                builder.set_leaf(index, &node).map_err(image_error)?;
            }
        }
        builder.finish().map_err(image_error)
    }

    /// Deletes some visible point.
    pub(crate) fn delete(&mut self, scene: &Scene) {
        let points = match self.vault.list_points(None) {
            Ok(list) => list.points,
            Err(error) => return self.judge(scene, "listing points", Some(error)),
        };
        let Some(victim) = self.rng.pick(&points) else { return };
        scene.world.update(victim.id, |truth| {
            if truth.deleted == Stage::No {
                truth.deleted = Stage::Open;
            }
        });
        match self.vault.delete_point(&victim.item, victim.id, &self.host) {
            Ok(()) => {
                scene.world.update(victim.id, |truth| truth.deleted = Stage::Done);
                scene.shared.note(&self.process.name, &format!("deleted {}", victim.id));
            }
            // Somebody else was faster.
            Err(VaultError::PointNotFound { .. })
                if scene.world.truth(victim.id).is_some_and(|truth| truth.deleted != Stage::No) => {
            }
            Err(error) => self.judge(scene, "deletion", Some(error)),
        }
    }

    /// Restores some visible point; it must succeed unless the point is deleted meanwhile.
    pub(crate) fn restore(&mut self, scene: &Scene) {
        let points = match self.vault.list_points(None) {
            Ok(list) => list.points,
            Err(error) => return self.judge(scene, "listing points", Some(error)),
        };
        let Some(point) = self.rng.pick(&points) else { return };
        let Some(truth) = scene.world.truth(point.id) else {
            return scene.world.fail(format!("{}: nobody made {}", self.process.name, point.id));
        };
        let result = scene.world.restore(&self.vault, point, &truth, &mut HashSet::new());
        let now = scene.world.truth(point.id).map_or(Stage::No, |truth| truth.deleted);
        match result {
            Ok(()) => scene.shared.note(&self.process.name, &format!("restored {}", point.id)),
            Err(Wrong::Vault(_)) if now != Stage::No => {}
            Err(Wrong::Vault(error)) => self.judge(scene, "restore", Some(error)),
            Err(Wrong::Content(what)) => {
                scene.world.fail(format!("{}: restored {}: {what}", self.process.name, point.id));
            }
        }
    }

    /// Reclaims.
    pub(crate) fn reclaim(&mut self, scene: &Scene, options: &ReclaimOptions) {
        match reclaim(&self.vault, options, &Cancel::new()) {
            Ok(report) => {
                let line = format!(
                    "reclaimed {} packs, waits for {}",
                    report.packs_removed,
                    report.waiting_for.len()
                );
                scene.shared.note(&self.process.name, &line);
            }
            Err(VaultError::ConcurrentReclaim) => {
                scene.shared.note(&self.process.name, "gives way to another reclaim");
            }
            Err(error) => self.judge(scene, "reclaim", Some(error)),
        }
    }

    /// Decides whether an error may be.
    fn judge(&self, scene: &Scene, what: &str, error: Option<VaultError>) {
        let Some(error) = error else { return };
        scene.shared.note(&self.process.name, &format!("{what} failed: {}", chain(&error)));
        let fault = matches!(
            error,
            VaultError::Store(StoreError::Unavailable { .. }) | VaultError::Aborted
        );
        // Nobody may continue as if a manifest that was cut had never been.
        let cut = match &error {
            VaultError::PointDamaged { .. } => !scene.shared.ever_cut().is_empty(),
            VaultError::Object { object, .. } => scene.shared.ever_cut().contains(object),
            _ => false,
        };
        if !(cut || fault && self.faulted()) {
            scene.world.fail(format!("{}: {what}: {}", self.process.name, chain(&error)));
        }
    }
}

/// How a reclaim is done in a run.
pub(crate) fn reclaim_options(rng: &mut Rng, host: &str) -> ReclaimOptions {
    ReclaimOptions {
        dry_run: rng.once_in(20),
        wait: std::time::Duration::from_secs(rng.choose([0, 60, 3_600, 36_000], 3_600)),
        poll: std::time::Duration::from_secs(rng.choose([2, 60], 2)),
        compact_below: rng.choose([0, 50, 50, 95], 50),
        merge_below: rng.choose([0, 25, 90], 25),
        threads: 1,
        host: host.to_owned(),
        recompress: rng.clone().once_in(3).then_some(u64::MAX),
        ..ReclaimOptions::default()
    }
}

/// What the engine does with a block.
struct Blocks<'a> {
    writer: &'a Writer,
    reader: Reader<'a>,
    base: Vec<u8>,
    deltas: bool,
    /// A block that waits for another one to share a record with.
    waiting: Option<(Digest, Letter)>,
}

impl Blocks<'_> {
    fn store(&mut self, digest: Digest, old: Digest, letter: Letter) -> Result<(), VaultError> {
        if !self.writer.claim(&digest)? {
            return Ok(());
        }
        let alphabet = Alphabet::get();
        let base = if self.deltas && !old.is_hole() {
            match self.writer.delta_base(&mut self.reader, &old, &mut self.base) {
                Err(error @ VaultError::Store(_)) => return Err(error),
                base => base.unwrap_or(None),
            }
        } else {
            None
        };
        let of = |base| Some((base, alphabet.letter(&self.base)?));
        let delta =
            base.and_then(of).and_then(|(base, old)| Some((base, alphabet.delta(letter, old)?)));
        if let Some((base, (kind, payload))) = delta {
            self.writer.store_block(kind, digest, BLOCK_SIZE, Some(base), &payload)?;
            return Ok(());
        }
        let Some((first_digest, first)) = self.waiting.take() else {
            self.waiting = Some((digest, letter));
            // Some are alone.
            return if letter.is_multiple_of(5) { self.store_waiting() } else { Ok(()) };
        };
        match alphabet.unit(first, letter).filter(|unit| self.writer.takes_unit(2, unit)) {
            Some(unit) if self.writer.unit_blocks() > 1 => {
                self.writer.store_unit(&[first_digest, digest], &unit)?;
            }
            _ => {
                self.waiting = Some((first_digest, first));
                self.store_waiting()?;
                self.waiting = Some((digest, letter));
                self.store_waiting()?;
            }
        }
        Ok(())
    }

    /// Stores the block that waits by itself.
    fn store_waiting(&mut self) -> Result<(), VaultError> {
        if let Some((digest, letter)) = self.waiting.take() {
            let (kind, payload) = Alphabet::get().full(letter);
            self.writer.store_block(kind, digest, BLOCK_SIZE, None, &payload)?;
        }
        Ok(())
    }
}
