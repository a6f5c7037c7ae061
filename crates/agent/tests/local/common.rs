//! A vault in a folder, an agent without libvirt, and who listens.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use strongroom_agent::{LocalAgent, LocalHost, LocalKeeper, ServedAccounts, Vaults, Within};
use strongroom_api::{ConsistencyWanted, DiskSelection, KeyReference, Report, Source};
use strongroom_base::{Cancel, JobId, PointId, SystemClock, SystemEntropy};
use strongroom_hypervisor::Settings;
use strongroom_machine::{Places, guard::GuardCommand};
use strongroom_orders::{
    BackupOrder, Keeper as _, OrderId, Result, TaskEvent, Tier, ValidateOrder, VaultAccess,
    VaultFacts, VaultMake, Watch,
};

pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) vaults: Arc<Vaults>,
    pub(crate) keeper: LocalKeeper,
    pub(crate) agent: LocalAgent,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let vaults = Arc::new(Vaults::new(Some(dir.path().join("cache"))));
        let (keeper, agent) = workers(dir.path(), &vaults, None);
        Self { dir, vaults, keeper, agent }
    }

    /// The host serves storage accounts.
    pub(crate) fn serve_accounts(&mut self, accounts: Arc<dyn ServedAccounts>) {
        let (keeper, agent) = workers(self.dir.path(), &self.vaults, None);
        (self.keeper, self.agent) = (keeper, agent.serving(Some(accounts)));
    }

    /// As after a start of the service.
    pub(crate) fn restart(&mut self) {
        self.vaults = Arc::new(Vaults::new(Some(self.dir.path().join("cache"))));
        (self.keeper, self.agent) = workers(self.dir.path(), &self.vaults, None);
    }

    /// As a service without a folder for caches.
    pub(crate) fn without_cache(&mut self) {
        self.vaults = Arc::new(Vaults::new(None));
        (self.keeper, self.agent) = workers(self.dir.path(), &self.vaults, None);
    }

    /// Backs up from one folder, and restores to another, and touches nothing else.
    pub(crate) fn hold_within(&mut self, disks: &str, targets: &str) {
        let within = [disks, targets].map(|name| Within::new(vec![self.path(name)]));
        (self.keeper, self.agent) = workers(self.dir.path(), &self.vaults, Some(within));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn key(&self, name: &str) -> KeyReference {
        KeyReference::File(self.text(name))
    }

    pub(crate) fn access(&self) -> VaultAccess {
        VaultAccess { url: self.text("vault"), key: self.key("key") }
    }

    pub(crate) fn make(&self, mirrors: &[&str]) -> VaultMake {
        VaultMake {
            url: self.text("vault"),
            mirrors: mirrors.iter().map(|name| self.text(name)).collect(),
            key: self.key("key"),
            make_key: true,
            single_writer: false,
        }
    }

    /// A vault, with a key that is made.
    pub(crate) fn vault(&self) -> VaultFacts {
        self.keeper.make(&self.make(&[])).expect("a vault")
    }

    /// A disk of so many blocks of noise.
    pub(crate) fn disk(&self, name: &str, blocks: u8, seed: u8) -> PathBuf {
        let path = self.path(name);
        let noise = |block: u8| {
            let mut state = (u64::from(seed) << 9) | (u64::from(block) << 1) | 1;
            let next = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            };
            std::iter::repeat_with(next).take(8192).flatten()
        };
        let bytes: Vec<u8> = (0..blocks).flat_map(noise).collect();
        fs::write(&path, bytes).expect("written");
        path
    }

    pub(crate) fn validate(&self, point: PointId, watch: &Watch) -> Result<Vec<String>> {
        let order =
            ValidateOrder { order: once(), vault: self.access(), item: "web".to_owned(), point };
        self.keeper.validate(&order, watch)
    }

    pub(crate) fn order(&self, disks: &[(&str, &Path)]) -> BackupOrder {
        let disks = disks.iter();
        let disks = disks.map(|(name, path)| ((*name).to_owned(), path.display().to_string()));
        BackupOrder {
            job: JobId::generate(&SystemClock, &SystemEntropy),
            vault: self.access(),
            tier: Tier::Vault,
            item: "web".to_owned(),
            source: Source::Disks { disks: disks.collect() },
            disks: DiskSelection::All,
            consistency: ConsistencyWanted::FileSystem,
            consistency_required: false,
            full_compare_every: 30,
            scratch_dir: None,
            limit_rate: None,
            tags: [("policy".to_owned(), "daily".to_owned())].into(),
            locked_until: None,
        }
    }
}

/// An order that nobody gives again.
pub(crate) fn once() -> OrderId {
    OrderId::once(&SystemClock, &SystemEntropy)
}

fn workers(
    dir: &Path,
    vaults: &Arc<Vaults>,
    within: Option<[Within; 2]>,
) -> (LocalKeeper, LocalAgent) {
    let (disks, targets) = within.map(|[disks, targets]| (disks, targets)).unzip();
    let host = LocalHost {
        name: "here".to_owned(),
        connect: None,
        settings: Settings::new(Arc::new(SystemClock)),
        places: Places::of_session(&dir.join("run"), &dir.join("config")),
        guard: GuardCommand { program: PathBuf::from("/bin/false"), arguments: Vec::new() },
        notes: dir.join("notes"),
        disks,
        targets,
        allow_backing: Vec::new(),
        boots: dir.join("boots"),
        file_reader: None,
        threads: 2,
    };
    let keeper = LocalKeeper::new(Arc::clone(vaults), "here", 2);
    (keeper, LocalAgent::new(host, Arc::clone(vaults)))
}

/// What was heard: task and state, and what they had to say.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<TaskEvent>>>);

impl Heard {
    pub(crate) fn watch(&self) -> Watch {
        let heard = Arc::clone(&self.0);
        Watch::new(Cancel::new(), move |event| heard.lock().expect("unlocked").push(event))
    }

    pub(crate) fn take(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.0.lock().expect("unlocked"));
        events.iter().map(|event| format!("{} {}", event.task, event.state)).collect()
    }

    pub(crate) fn details(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.0.lock().expect("unlocked"));
        events.into_iter().filter_map(|event| event.detail).collect()
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A report as it is read outside.
pub(crate) fn json(report: &Report) -> serde_json::Value {
    report.to_json().expect("JSON")
}
