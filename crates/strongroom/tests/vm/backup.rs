//! Machines that run, backed up again and again, and what comes back.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    check::{Taken, assert_same_disk, check},
    documented::assert_documented,
    guest::{Disk, Guest},
    harness::Host,
};

/// Restores the disks of a recovery point of `item` and returns their raw images.
pub(crate) fn restore(host: &Host, item: &str, point: &str) -> Vec<PathBuf> {
    let folder = host.lab.path(&format!("restored-{point}"));
    let to = folder.display().to_string();
    let words = ["restore", "disks", "--item", item, "--recovery-point", point, "--to", &to];
    host.json(&[&words[..], &["--no-template"]].concat());
    let mut images: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Beside them are a description of the machine and what belongs to it.
    images.retain(|path| path.extension().is_some_and(|extension| extension == "raw"));
    images.sort();
    images
}

pub(crate) fn paths(images: &[PathBuf]) -> Vec<&Path> {
    images.iter().map(PathBuf::as_path).collect()
}

pub(crate) fn point(report: &Value) -> &str {
    report["recovery_point"].as_str().unwrap()
}

/// Nothing of a backup is left: no job, no freeze, no files, and of checkpoints only this one.
fn assert_unharmed(host: &Host, guest: &Guest<'_>, checkpoint: Option<&str>) {
    assert_ne!(host.try_virsh(&["backup-dumpxml", &guest.name]).code, 0, "a job is left");
    assert_eq!(guest.freeze_status(), "thawed");
    let checkpoints = guest.virsh("checkpoint-list", &["--name"]);
    assert_eq!(checkpoints, checkpoint.unwrap_or_default());
    let run = host.lab.path("r/strongroom");
    for entry in std::fs::read_dir(run).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(!name.starts_with("job-"), "{name} is left");
    }
    let scratch = std::fs::read_dir(host.lab.path("")).unwrap();
    for entry in scratch {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(!name.contains("scratch"), "{name} is left");
    }
}

#[test]
fn again_and_again_while_it_writes() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::qcow2(48)]).up(5);
    let mut last = 0;
    for round in 0..4 {
        let report = host.json(&["backup", "--vm", "web"]);
        assert_eq!(report["consistency"], "file_system", "{report:#}");
        let from = if round == 0 { "all" } else { "bitmap" };
        for disk in report["disks"].as_array().unwrap() {
            assert_eq!(disk["changes_from"], from, "{report:#}");
            assert_eq!(disk["unexpected_blocks"], 0, "{report:#}");
        }
        assert_unharmed(&host, &guest, report["checkpoint"].as_str());
        let images = restore(&host, "web", point(&report));
        let cut = check(&paths(&images), Taken::Frozen).unwrap();
        assert!(cut.records.0 > last, "{cut:?}");
        last = cut.records.0;
        guest.wait_records(3);
    }
    // With the machine off, the last point of it must be what its images are.
    let report = host.json(&["backup", "--vm", "web"]);
    println!("{report:#}");
    guest.suspend();
    let report = host.json(&["backup", "--vm", "web"]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    let images = restore(&host, "web", point(&report));
    assert_same_disk(&images[0], guest.disk_path("vda"));
    assert_same_disk(&images[1], guest.disk_path("vdb"));
}

#[test]
fn off_on_and_off_again() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(3);
    let first = host.json(&["backup", "--vm", "web"]);
    let checkpoint = first["checkpoint"].as_str().unwrap().to_owned();
    guest.wait_records(3);
    guest.shutdown();

    // Off: what has changed is known from the bitmap in the image, which stays as it is.
    let off = host.json(&["backup", "--vm", "web"]);
    assert_eq!(off["state"], "off");
    assert_eq!(off["consistency"], "crash");
    assert_eq!(off["disks"][0]["changes_from"], "bitmap", "{off:#}");
    assert_eq!(off["disks"][1]["changes_from"], "all", "{off:#}");
    assert_eq!(off["checkpoint"], checkpoint.as_str());
    let images = restore(&host, "web", point(&off));
    assert_same_disk(&images[0], guest.disk_path("vda"));
    assert_same_disk(&images[1], guest.disk_path("vdb"));

    // On again: the same checkpoint still tells.
    guest.boot();
    guest.wait_records(3);
    let on = host.json(&["backup", "--vm", "web"]);
    assert_eq!(on["disks"][0]["changes_from"], "bitmap", "{on:#}");
    assert_unharmed(&host, &guest, on["checkpoint"].as_str());
    let images = restore(&host, "web", point(&on));
    check(&paths(&images), Taken::Frozen).unwrap();

    // Off without warning.
    guest.wait_records(3);
    guest.destroy();
    let off = host.json(&["backup", "--vm", "web"]);
    assert_eq!(off["disks"][0]["changes_from"], "bitmap", "{off:#}");
    let images = restore(&host, "web", point(&off));
    assert_same_disk(&images[0], guest.disk_path("vda"));
    assert_same_disk(&images[1], guest.disk_path("vdb"));
}

#[test]
fn what_is_printed_is_documented() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(32)]);
    // Off.
    let list = host.json(&["vm", "list"]);
    assert_eq!(list["machines"][0]["state"], "off");
    let checked = host.json(&["vm", "check"]);
    assert_eq!(checked["machines"][0]["verdict"], "amber", "{checked:#}");
    guest.boot();
    assert_documented("vm list", &host.json(&["vm", "list"]));
    let shown = host.json(&["vm", "show", "web"]);
    assert_documented("vm show", &shown);
    assert_eq!(shown["agent"], "connected", "{shown:#}");
    assert_eq!(shown["disks"][0]["size_bytes"], 32 << 20, "{shown:#}");
    assert_documented("vm check", &host.json(&["vm", "check", "web"]));
    let report = host.json(&["backup", "--vm", "web"]);
    assert_documented("backup --vm", &report);

    let none = host.strongroom(&["backup", "--vm", "nobody"]);
    assert_eq!(none.code, 3, "{}", none.stderr);
    assert!(none.stderr.contains("vm.not_found"), "{}", none.stderr);
}
