//! A vault in a folder, disks beside it, and the steps that every test takes.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part of it")]

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_base::{Cancel, PointId, RangeSet, SystemEntropy};
use strongroom_disk::{DiskSpec, Existing, OpenOptions, TargetOptions, open_source, open_target};
use strongroom_engine::{
    BackupDisk, BackupReport, BackupRequest, Overwrite, Progress, RestoreDisk, RestoreReport,
    RestoreRequest, backup, restore,
};
use strongroom_format::Conditional;
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_objects::{Folder, ObjectStore};
use strongroom_testing::folder_in_memory;
pub use strongroom_testing::noise;
use strongroom_vault::{Vault, VaultOptions};

pub struct Place {
    dir: tempfile::TempDir,
    vault: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let dir = folder_in_memory();
        let vault = dir.path().join("vault");
        Self::with(dir, vault)
    }

    /// With the vault in a folder elsewhere.
    pub fn with_vault_in(vault: PathBuf) -> Self {
        Self::with(folder_in_memory(), vault)
    }

    fn with(dir: tempfile::TempDir, vault: PathBuf) -> Self {
        generate_key_file(&dir.path().join("key"), &SystemEntropy).expect("key");
        let place = Self { dir, vault };
        drop(place.create());
        place
    }

    pub fn folder(&self) -> Folder {
        Folder::open(&self.vault, Arc::new(SystemEntropy)).expect("folder")
    }

    pub fn vault_path(&self) -> &Path {
        &self.vault
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn key(&self) -> KeySource {
        KeySource::File(self.path("key"))
    }

    pub fn options(&self) -> VaultOptions {
        VaultOptions {
            cache_dir: Some(self.path("cache")),
            pack_size: 1 << 20,
            ..VaultOptions::default()
        }
    }

    pub fn create(&self) -> Vault {
        let store = Folder::create(&self.vault, Arc::new(SystemEntropy)).expect("folder");
        self.create_in(Arc::new(store))
    }

    pub fn create_in(&self, store: Arc<dyn ObjectStore>) -> Vault {
        Vault::create(store, &self.key(), "test", Conditional::Honoured, vec![], self.options())
            .expect("vault")
    }

    pub fn open(&self) -> Arc<Vault> {
        self.open_in(Arc::new(self.folder()))
    }

    pub fn open_in(&self, store: Arc<dyn ObjectStore>) -> Arc<Vault> {
        Arc::new(Vault::open(store, &self.key(), self.options()).expect("opens"))
    }

    pub fn backup(&self, vault: &Arc<Vault>, disks: &[(&str, Option<RangeSet>)]) -> BackupReport {
        let disks = disks.iter().map(|(name, changed)| self.disk(name, changed.clone())).collect();
        backup(vault, &request("web01", disks), &Progress::new(), &Cancel::new()).expect("backup")
    }

    /// The file `name`.raw as a disk.
    pub fn disk(&self, name: &str, changed: Option<RangeSet>) -> BackupDisk {
        let path = self.path(&format!("{name}.raw"));
        let source = open_source(&DiskSpec::from_path(&path), &OpenOptions::default());
        let source = Arc::from(source.expect("source"));
        BackupDisk { changed, ..BackupDisk::new(name, path.display().to_string(), source) }
    }

    pub fn restore(
        vault: &Arc<Vault>,
        point: PointId,
        disk: &str,
        to: &Path,
        keep: bool,
    ) -> RestoreReport {
        let record = vault.point("web01", point).expect("point");
        let size = record.disks.iter().find(|d| d.name == disk).expect("disk").size_bytes;
        let existing = if keep { Existing::Keep } else { Existing::Refuse };
        let options = TargetOptions { existing, ..TargetOptions::default() };
        let target = open_target(&DiskSpec::from_path(to), size, &options).expect("target");
        let request = RestoreRequest {
            item: "web01".to_owned(),
            point,
            disks: vec![RestoreDisk {
                name: disk.to_owned(),
                location: to.display().to_string(),
                target: Arc::from(target),
                overwrite: if keep { Overwrite::Differences } else { Overwrite::All },
            }],
            threads: 2,
            limit_rate: None,
        };
        restore(vault, &request, &Progress::new(), &Cancel::new()).expect("restore")
    }
}

pub fn request(item: &str, disks: Vec<BackupDisk>) -> BackupRequest {
    BackupRequest { threads: 2, ..BackupRequest::new(item, "here", disks) }
}

/// A sparse file with noise, text and holes.
pub fn make_disk(path: &Path, size: u64) {
    let file = fs::File::create(path).expect("create");
    file.set_len(size).expect("size");
    for (n, at) in (0..size).step_by(3 << 20).enumerate() {
        let seed = u64::try_from(n).expect("small");
        let len = usize::try_from((size - at).min(700_000)).expect("small");
        let data = if n % 2 == 0 {
            noise(seed, len)
        } else {
            format!("line {n}\n").repeat(len).into_bytes()[..len].to_vec()
        };
        file.write_all_at(&data, at).expect("write");
    }
}
