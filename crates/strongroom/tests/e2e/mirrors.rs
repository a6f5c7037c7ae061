//! Which copies of a mirrored vault are used: always the one that was named, and only such others
//! as the vault's owner has recorded.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;

use crate::harness::{Lab, Run};

/// A vault with a copy and one point.
fn mirrored() -> Lab {
    let lab = Lab::empty();
    lab.ok("vault key generate key");
    lab.ok("vault create --mirror copy");
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab
}

fn manifests(lab: &Lab, folder: &str) -> usize {
    lab.files(&format!("{folder}/points")).len()
}

fn copies(lab: &Lab, words: &str) -> (Run, Vec<String>) {
    let run = lab.run(&format!("vault verify {words} --output json"));
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let copies = report["copies"].as_array().unwrap().iter();
    let copies = copies.map(|copy| copy.as_str().unwrap().to_owned()).collect();
    (run, copies)
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Replaces the description in a folder by a changed one.
fn redescribe(lab: &Lab, folder: &str, change: impl FnOnce(&mut Value)) {
    let path = lab.path(folder).join("strongroom.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::remove_file(&path).unwrap();
    fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
}

#[test]
fn a_copy_that_is_mounted_elsewhere_is_used() {
    let lab = mirrored();
    fs::create_dir(lab.path("mnt")).unwrap();
    fs::rename(lab.path("copy"), lab.path("mnt/usb")).unwrap();
    fs::rename(lab.path("vault"), lab.path("burnt")).unwrap();
    let restore = "restore disks --item web --recovery-point latest --vault mnt/usb --to out";
    let run = lab.ok(restore);
    lab.assert_same("d.img", "out/system.raw");
    assert!(run.stderr.contains("mnt/usb is not among"), "{}", run.stderr);
    let run = lab.ok("vault key list --vault mnt/usb");
    assert!(run.stderr.contains("Warning"), "{}", run.stderr);
    lab.ok("backup --item web --disk system=d.img --vault mnt/usb");
    assert_eq!((manifests(&lab, "mnt/usb"), manifests(&lab, "burnt")), (2, 1));
    // What is deleted now would come back with the copies that are away.
    lab.fails("vault reclaim --vault mnt/usb", 5, "store.degraded");
}

#[test]
fn the_copy_that_was_named_is_used_beside_those_that_are_recorded() {
    let lab = mirrored();
    fs::rename(lab.path("vault"), lab.path("moved")).unwrap();
    lab.ok("backup --item web --disk system=d.img --vault moved");
    assert_eq!((manifests(&lab, "moved"), manifests(&lab, "copy")), (2, 2));
    fs::rename(lab.path("moved"), lab.path("vault")).unwrap();

    // A further copy, named while all that are recorded are there.
    copy_all(&lab.path("copy"), &lab.path("third"));
    lab.ok("backup --item web --disk system=d.img --vault third");
    assert_eq!(["vault", "copy", "third"].map(|folder| manifests(&lab, folder)), [3; 3]);
    // It alone has an object: it is read.
    fs::remove_dir_all(lab.path("vault/packs")).unwrap();
    fs::remove_dir_all(lab.path("copy/packs")).unwrap();
    lab.ok("restore disks --item web --recovery-point latest --vault third --to out");
    lab.assert_same("d.img", "out/system.raw");
}

#[test]
fn one_folder_is_one_copy_whatever_it_is_called() {
    let lab = mirrored();
    symlink(lab.path("vault"), lab.path("link")).unwrap();
    for name in ["vault", "link", "./link/", "link/../vault", "copy"] {
        let (run, copies) = copies(&lab, &format!("--vault {name}"));
        assert_eq!((run.code, copies.len()), (0, 2), "{name}: {copies:?} {}", run.stderr);
        assert!(!run.stderr.contains("Warning"), "{}", run.stderr);
    }
    // Where a copy was is a link to the other one: that is one copy, and one is away.
    fs::rename(lab.path("copy"), lab.path("away")).unwrap();
    symlink(lab.path("vault"), lab.path("copy")).unwrap();
    let (run, copies) = copies(&lab, "");
    assert_eq!((run.code, copies.len()), (6, 1), "{copies:?} {}", run.stderr);
    assert!(run.stderr.contains("the same folder"), "{}", run.stderr);
    lab.fails("vault reclaim", 5, "store.degraded");

    let lab = Lab::empty();
    lab.ok("vault key generate key");
    fs::create_dir(lab.path("one")).unwrap();
    symlink(lab.path("one"), lab.path("other")).unwrap();
    lab.fails("vault create --vault one --mirror other", 2, "usage.invalid");
}

#[test]
fn another_vault_at_a_recorded_place_is_left_alone() {
    let lab = mirrored();
    fs::rename(lab.path("copy"), lab.path("away")).unwrap();
    lab.ok("vault create --vault copy");
    let before = lab.files("copy");
    let run = lab.ok("backup --item web --disk system=d.img");
    assert!(run.stderr.contains("another vault"), "{}", run.stderr);
    assert_eq!(lab.files("copy"), before);
    lab.fails("vault reclaim", 5, "store.degraded");

    // As is an empty folder: more often the mount point of a disk that is not mounted.
    fs::remove_dir_all(lab.path("copy")).unwrap();
    fs::create_dir(lab.path("copy")).unwrap();
    let run = lab.ok("backup --item web --disk system=d.img");
    assert!(run.stderr.contains("is its disk mounted?"), "{}", run.stderr);
    assert!(lab.files("copy").is_empty());
    lab.fails("vault reclaim", 5, "store.degraded");
}

#[test]
fn an_altered_description_makes_nobody_write_elsewhere() {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    fs::create_dir(lab.path("evil")).unwrap();
    let (vault, evil) = (lab.path("vault"), lab.path("evil"));
    redescribe(&lab, "vault", |config| config["mirrors"] = serde_json::json!([vault, evil]));
    // It even looks like a copy.
    fs::copy(lab.path("vault/strongroom.json"), lab.path("evil/strongroom.json")).unwrap();
    let run = lab.ok("backup --item web --disk system=d.img");
    assert!(run.stderr.contains("not what the vault's key vouches for"), "{}", run.stderr);
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
    lab.ok("vault key rotate --master");
    assert_eq!(lab.run("vault verify --repair").code, 6);
    lab.fails("vault reclaim", 5, "store.degraded");
    let left: Vec<_> = lab.files("evil").into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [lab.path("evil/strongroom.json")]);
}

#[test]
fn an_altered_description_is_repaired_from_the_other_copy() {
    let lab = mirrored();
    let good = fs::read(lab.path("vault/strongroom.json")).unwrap();
    fs::create_dir(lab.path("evil")).unwrap();
    fs::write(lab.path("evil/strongroom.json"), &good).unwrap();
    let copy = lab.path("copy");
    let evil = lab.path("evil");
    let changes: [&dyn Fn(&mut Value); 4] = [
        &|config| config["mirrors"].as_array_mut().unwrap().push(evil.to_str().into()),
        &|config| config["mirrors"] = serde_json::json!([evil, copy]),
        &|config| config["create_only_puts"] = "ignored".into(),
        &|config| drop(config.as_object_mut().unwrap().remove("seal")),
    ];
    for (number, change) in changes.iter().enumerate() {
        redescribe(&lab, "vault", change);
        lab.ok("backup --item web --disk system=d.img");
        assert_eq!((manifests(&lab, "vault"), manifests(&lab, "copy")), (2 + number, 2 + number));
        let run = lab.run("vault verify --output json");
        assert_eq!(run.code, 6, "{}", run.stderr);
        assert!(run.stdout.contains("description"), "{}", run.stdout);
        lab.ok("vault verify --repair");
        assert_eq!(fs::read(lab.path("vault/strongroom.json")).unwrap(), good);
        lab.ok("vault verify");
    }
    assert_eq!(lab.files("evil").len(), 1);
}

#[test]
fn keys_are_found_in_the_other_copy() {
    let lab = mirrored();
    fs::rename(lab.path("vault/keys"), lab.path("keys")).unwrap();
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
    lab.ok("vault verify --repair");
    assert!(lab.path("vault/keys").exists());
    // A key that was added while a copy was away opens the vault by that copy as well.
    fs::rename(lab.path("copy"), lab.path("away")).unwrap();
    lab.ok("vault key generate second");
    lab.ok("vault key add --new-key-file second");
    fs::rename(lab.path("away"), lab.path("copy")).unwrap();
    lab.ok("recoverypoint list --vault copy --key-file second");
}

#[test]
fn both_folders_are_used_whichever_description_is_lost() {
    // In the folder that is named the first copy of the description is lost, or damaged; in the other too.
    let gone = |path: &Path| fs::remove_file(path).unwrap();
    let damaged = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::write(path, "{").unwrap();
    };
    let spoils: [&dyn Fn(&Path); 2] = [&gone, &damaged];
    for spoil in spoils {
        for spoilt in [&["vault"][..], &["vault", "copy"]] {
            let lab = mirrored();
            for folder in spoilt {
                spoil(&lab.path(folder).join("strongroom.json"));
            }
            lab.change("d.img", 0, 100_000, 7);
            lab.ok("backup --item web --disk system=d.img");
            assert_eq!((manifests(&lab, "vault"), manifests(&lab, "copy")), (2, 2), "{spoilt:?}");
            let (_, used) = copies(&lab, "");
            assert_eq!(used.len(), 2, "{spoilt:?}: {used:?}");
            lab.ok("restore disks --item web --recovery-point latest --to out");
            lab.assert_same("d.img", "out/system.raw");
        }
    }
}
