//! What a caller adds when all disks have been read: the machine's configuration, proofs, a veto.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, atomic::Ordering},
};

use strongroom_base::{Cancel, Coded as _, PointId};
use strongroom_engine::{
    BackupDisk, BackupReport, BackupRequest, DiskEnding, Ending, EngineError, Progress,
    backup_with, read_configuration,
};
use strongroom_format::{Consistency, ExcludedDisk};
use strongroom_vault::{ReclaimOptions, UsageOptions, Vault, reclaim};
use strongroom_verify::{VerifyOptions, VerifyReport, verify};

use crate::{
    common::{Place, noise, request},
    tools::{Disk, back_up, code, files, ranges, restored, source},
};

fn ended(
    vault: &Arc<Vault>,
    request: &BackupRequest,
    ending: Ending,
) -> Result<BackupReport, EngineError> {
    backup_with(vault, request, &Progress::new(), &Cancel::new(), |_| Ok(ending))
}

/// Backs up a disk with a configuration.
fn configured(vault: &Arc<Vault>, disk: &Arc<Disk>, archive: &[u8]) -> BackupReport {
    let ending = Ending { configuration: Some(archive.to_vec()), ..Ending::default() };
    ended(vault, &request("web01", vec![source("vda", disk)]), ending).expect("backup")
}

fn configuration(vault: &Arc<Vault>, point: PointId) -> Result<Option<Vec<u8>>, EngineError> {
    read_configuration(vault, &vault.point("web01", point)?)
}

fn verified(vault: &Arc<Vault>) -> VerifyReport {
    verify(vault, &VerifyOptions::default(), &|_| {}, &Cancel::new()).expect("verifies")
}

#[test]
fn configurations_of_all_sizes_come_back() {
    let place = Place::new();
    let disk = Arc::new(Disk::with_noise(1, 4));
    let lengths = [1, 511, 512, 513, 65_536, 65_537, (16 << 20) + 1, 20 << 20];
    let mut archives: Vec<_> = lengths.map(|length| noise(7, length)).to_vec();
    archives.push(vec![0; 3000]);
    archives.push([vec![0; 200_000], b"end".to_vec(), vec![0; 200_000]].concat());
    let points: Vec<_> = archives
        .iter()
        .map(|archive| {
            let report = configured(&place.open(), &disk, archive);
            assert_eq!(
                report.configuration_bytes,
                Some(u64::try_from(archive.len()).expect("fits"))
            );
            report.recovery_point
        })
        .collect();
    let vault = place.open();
    for (point, archive) in points.iter().zip(&archives) {
        assert!(configuration(&vault, *point).expect("reads").as_ref() == Some(archive));
        restored(&vault, *point, &disk).expect("restores");
    }
    assert!(verified(&vault).clean);
    let none = back_up(&vault, &disk).expect("backup");
    assert_eq!(none.configuration_bytes, None);
    assert_eq!(configuration(&vault, none.recovery_point).expect("reads"), None);
    let empty = configured(&vault, &disk, b"");
    assert_eq!(configuration(&vault, empty.recovery_point).expect("reads"), None);
}

#[test]
fn a_configuration_that_is_too_large_is_refused() {
    let place = Place::new();
    let vault = place.open();
    let disk = Arc::new(Disk::with_noise(1, 4));
    let largest = vec![1; 64 << 20];
    let point = configured(&vault, &disk, &largest).recovery_point;
    assert!(configuration(&vault, point).expect("reads") == Some(largest.clone()));
    let ending = Ending { configuration: Some([largest, vec![1]].concat()), ..Ending::default() };
    let error = ended(&vault, &request("web01", vec![source("vda", &disk)]), ending);
    assert_eq!(code(&error.expect_err("too large")), "backup.configuration_size");
    assert_eq!(vault.points(None).expect("points").len(), 1);
    assert!(vault.writers().expect("a list").is_empty());
}

#[test]
fn an_unchanged_configuration_costs_nothing() {
    let place = Place::new();
    let vault = place.open();
    let disk = Arc::new(Disk::with_noise(1, 4));
    let archive = noise(3, 600_000);
    let first = configured(&vault, &disk, &archive);
    assert!(first.stored_bytes > 800_000);
    assert_eq!(configured(&vault, &disk, &archive).stored_bytes, 0);
    let mut changed = archive;
    changed[100] ^= 1;
    let third = configured(&vault, &disk, &changed).stored_bytes;
    assert!((65_536..80_000).contains(&third), "{third}");
}

#[test]
fn reclaim_keeps_and_usage_counts_configurations() {
    let place = Place::new();
    let vault = place.open();
    let disk = Arc::new(Disk::with_noise(1, 4));
    let archives = [noise(3, 600_000), noise(4, 600_000), noise(5, 700_000)];
    let points = archives.each_ref().map(|a| configured(&vault, &disk, a).recovery_point);
    let usage =
        |content| vault.usage(UsageOptions { content }, &Cancel::new()).expect("usage").content;
    let before = usage(true).expect("content");
    assert!(before.unique_bytes > 1_900_000 + 4 * 65_536, "{before:?}");
    let run = || {
        let options = ReclaimOptions { host: "here".to_owned(), ..ReclaimOptions::default() };
        reclaim(&vault, &options, &Cancel::new()).expect("reclaims")
    };
    assert_eq!(run().freed_bytes, 0);
    for point in &points[..2] {
        vault.delete_point("web01", *point, "here").expect("deletes");
    }
    assert!((1_200_000..1_300_000).contains(&run().freed_bytes));
    assert!(usage(true).expect("content").unique_bytes < before.unique_bytes - 1_200_000);
    let last = configuration(&place.open(), points[2]).expect("reads");
    assert!(last.as_ref() == Some(&archives[2]));
    assert!(verified(&vault).clean);
    vault.delete_point("web01", points[2], "here").expect("deletes");
    run();
    assert!(files(&place.vault_path().join("packs")).is_empty());
}

#[test]
fn a_lost_configuration_is_named_and_never_read_wrong() {
    let place = Place::new();
    let disk = Arc::new(Disk::with_noise(1, 4));
    back_up(&place.open(), &disk).expect("backup");
    let before = files(&place.vault_path().join("packs"));
    let archive = noise(3, 300_000);
    let point = configured(&place.open(), &disk, &archive).recovery_point;
    // A pack of its blocks and one of its tree.
    for pack in files(&place.vault_path().join("packs")) {
        if before.contains(&pack) {
            continue;
        }
        let good = fs::read(&pack).expect("read");
        for bad in [good[..100].to_vec(), good.iter().map(|byte| byte ^ 1).collect()] {
            fs::write(&pack, bad).expect("write");
            let vault = place.open();
            let error = configuration(&vault, point).expect_err("it is lost");
            assert_eq!(error.code().kind.name(), "corrupt");
            restored(&vault, point, &disk).expect("the disk is whole");
            let report = verified(&vault);
            assert_eq!(report.damaged_recovery_points, 1);
            assert!(report.damaged_points[0].configuration_lost);
            assert!(report.damaged_points[0].disks.is_empty());
        }
        fs::remove_file(&pack).expect("remove");
        assert!(configuration(&place.open(), point).is_err());
        fs::write(&pack, good).expect("write");
    }
    assert!(configuration(&place.open(), point).expect("reads") == Some(archive));
    assert!(verified(&place.open()).clean);
}

#[test]
fn the_end_is_asked_for_when_all_is_read_and_nothing_published() {
    let place = Place::new();
    let vault = place.open();
    let disks = [Arc::new(Disk::with_noise(1, 600)), Arc::new(Disk::with_noise(2, 10))];
    let parts = [source("vda", &disks[0]), source("vdb", &disks[1])];
    let mut wish = request("web01", parts.into());
    wish.disks[0].notes = vec!["first".to_owned()];
    wish.disks[1].checkpoint = Some("kept".to_owned());
    wish.evidence = vec!["asked".to_owned()];
    wish.tags = BTreeMap::from([("a", "1"), ("b", "1")].map(|(k, v)| (k.into(), v.into())));
    wish.excluded = vec![ExcludedDisk { name: "vdc".into(), reason: "not wanted".into() }];
    let reads = || disks.each_ref().map(|disk| disk.reads.load(Ordering::SeqCst));
    let mut at_the_end = None;
    let report = backup_with(&vault, &wish, &Progress::new(), &Cancel::new(), |reports| {
        at_the_end = Some(reads());
        assert_eq!(reports[0].read_bytes, 600 * 65_536);
        assert_eq!(reports[1].read_bytes, 10 * 65_536);
        assert!(vault.points(None).expect("points").is_empty(), "published too early");
        assert_eq!(vault.writers().expect("writers").len(), 1);
        let vda = DiskEnding { checkpoint: Some("c1".into()), notes: vec!["second".into()] };
        Ok::<_, EngineError>(Ending {
            consistency: Some(Consistency::FileSystem),
            evidence: vec!["thawed".to_owned()],
            tags: BTreeMap::from([("b".to_owned(), "2".to_owned())]),
            disks: BTreeMap::from([("vda".to_owned(), vda)]),
            configuration: None,
        })
    })
    .expect("backup");
    assert_eq!(at_the_end, Some(reads()), "read after the end");
    assert_eq!(report.disks[0].notes, ["first", "second"]);
    let point = vault.point("web01", report.recovery_point).expect("point");
    assert_eq!(point.consistency, Consistency::FileSystem);
    assert_eq!(point.evidence, ["asked", "thawed"]);
    assert_eq!((point.tags["a"].as_str(), point.tags["b"].as_str()), ("1", "2"));
    assert_eq!(point.disks[0].source.checkpoint.as_deref(), Some("c1"));
    assert_eq!(point.disks[1].source.checkpoint.as_deref(), Some("kept"));
    assert_eq!(point.disks[0].notes, ["first", "second"]);
    assert_eq!(point.excluded, wish.excluded);
}

#[derive(Debug)]
enum Mine {
    Engine(EngineError),
    GuestWasDisturbed,
}

impl From<EngineError> for Mine {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

#[test]
fn a_veto_leaves_no_point() {
    let place = Place::new();
    let vault = place.open();
    let disk = Arc::new(Disk::with_noise(1, 40));
    let wish = request("web01", vec![source("vda", &disk)]);
    let (progress, cancel) = (Progress::new(), Cancel::new());
    let vetoed = backup_with(&vault, &wish, &progress, &cancel, |_| Err(Mine::GuestWasDisturbed));
    assert!(matches!(vetoed, Err(Mine::GuestWasDisturbed)));
    assert!(vault.points(None).expect("points").is_empty());
    assert!(vault.writers().expect("a list").is_empty());
    // Whoever stops it in the end stops it.
    let stopped = backup_with(&vault, &wish, &progress, &cancel, |_| {
        cancel.cancel();
        Ok::<_, Mine>(Ending::default())
    });
    assert!(matches!(stopped, Err(Mine::Engine(EngineError::Interrupted))));
    assert!(vault.points(None).expect("points").is_empty());
    // What was stored is reused.
    let report = back_up(&vault, &disk).expect("backup");
    assert_eq!(report.disks[0].deduplicated_bytes, 40 * 65_536);
    restored(&vault, report.recovery_point, &disk).expect("restores");
}

#[test]
fn the_end_comes_once_also_when_the_parent_is_damaged() {
    let place = Place::new();
    let mut disk = Disk::with_noise(1, 300);
    back_up(&place.open(), &Arc::new(disk.copy())).expect("backup");
    for pack in files(&place.vault_path().join("packs/node")) {
        fs::remove_file(pack).expect("remove");
    }
    disk.set_block(5, noise(9, 65_536));
    let disk = Arc::new(disk);
    let mut part = source("vda", &disk);
    part.changed = Some(ranges(&[5]));
    let (vault, mut asked) = (place.open(), 0);
    let wish = request("web01", vec![part]);
    let report = backup_with(&vault, &wish, &Progress::new(), &Cancel::new(), |_| {
        asked += 1;
        Ok::<_, EngineError>(Ending::default())
    })
    .expect("backup");
    assert_eq!(asked, 1);
    restored(&vault, report.recovery_point, &disk).expect("restores");
}

#[test]
fn names_of_disks_that_are_left_out_are_checked() {
    let place = Place::new();
    let vault = place.open();
    let disk = Arc::new(Disk::with_noise(1, 2));
    for name in ["vda", "a/b", ""] {
        let vda = BackupDisk::new("vda", "memory", Arc::clone(&disk) as _);
        let mut wish = request("web01", vec![vda]);
        wish.excluded = vec![ExcludedDisk { name: name.into(), reason: String::new() }];
        let error = ended(&vault, &wish, Ending::default()).expect_err("a wrong name");
        assert_eq!(code(&error), "item.name");
    }
    let disks = BTreeMap::from([("vdx".to_owned(), DiskEnding::default())]);
    let ending = Ending { disks, ..Ending::default() };
    let wish = request("web01", vec![source("vda", &disk)]);
    assert!(matches!(ended(&vault, &wish, ending), Err(EngineError::Bug(_))));
    assert!(vault.points(None).expect("points").is_empty());
}
