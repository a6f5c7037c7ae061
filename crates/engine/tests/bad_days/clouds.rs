//! One whole life of a vault on real object stores on loopback.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use strongroom_base::Cancel;
use strongroom_objects::{Options, open};
use strongroom_vault::{ReclaimOptions, reclaim};

use crate::{
    common::{Place, noise, request},
    tools::{Disk, back_up, ranges, restored, source, try_backup},
};

/// A store that runs for one test.
struct Lab(tempfile::TempDir);

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab/stores")
}

impl Drop for Lab {
    fn drop(&mut self) {
        let stopped = Command::new(script()).arg("stop").arg(self.0.path()).status();
        assert!(stopped.expect("bash").success());
    }
}

fn whole_life(name: &str) {
    let lab = Lab(tempfile::tempdir().expect("a temporary folder"));
    let started = Command::new(script()).args(["start", name]).arg(lab.0.path()).output();
    let started = started.expect("bash");
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let mut options = Options { environment: vec![], ..Options::default() };
    let mut url = String::new();
    for line in String::from_utf8(started.stdout).expect("text").lines() {
        match line.split_once('=').expect("NAME=VALUE") {
            ("url", value) => url = value.replacen("//lab", "//lab/some/vault", 1),
            (name, value) => options.environment.push((name.to_owned(), value.to_owned())),
        }
    }
    let store = open(&url, &options).unwrap_or_else(|error| panic!("{url}: {error}"));
    let place = Place::new();
    drop(place.create_in(Arc::clone(&store)));
    let vault = place.open_in(Arc::clone(&store));
    let mut disk = Disk::with_noise(1, 60);
    let old = disk.copy();
    let first = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
    disk.set_block(7, noise(9, 65536));
    let mut part = source("vda", &Arc::new(disk.copy()));
    part.changed = Some(ranges(&[7]));
    let report = try_backup(&vault, &request("web01", vec![part])).expect("backup");
    assert_eq!(report.disks[0].changes_from, "ranges");
    assert!(report.stored_bytes < 100_000, "{report:?}");
    restored(&vault, first, &old).expect("restore");
    std::fs::remove_dir_all(place.path("cache")).expect("a cache");
    let vault = place.open_in(Arc::clone(&store));
    restored(&vault, report.recovery_point, &disk).expect("restore");
    vault.delete_point("web01", first, "here").expect("delete");
    reclaim(&vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaim");
    restored(&place.open_in(store), report.recovery_point, &disk).expect("restore");
}

fn long() -> bool {
    let long = std::env::var_os("STRONGROOM_LONG").is_some();
    if !long {
        println!("not tried: set STRONGROOM_LONG=1, as scripts/test --long does");
    }
    long
}

#[test]
fn a_vault_in_s3() {
    whole_life("moto");
}

#[test]
fn a_vault_in_azure() {
    if long() {
        whole_life("azurite");
    }
}

#[test]
fn a_vault_in_google_cloud() {
    if long() {
        whole_life("fake-gcs");
    }
}
