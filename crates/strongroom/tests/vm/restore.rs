//! Machines that come back: beside their originals, in their place, on hosts that are not the same.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    after::failed,
    check::{Taken, assert_same_disk, check},
    documented::assert_documented,
    guest::{Disk, Guest},
    harness::{Host, Mounted, Run, try_tool, within},
};

/// The image of a restored disk.
pub(crate) fn image(report: &Value, disk: usize) -> PathBuf {
    PathBuf::from(report["disks"][disk]["path"].as_str().unwrap())
}

/// A folder of the test's, made.
pub(crate) fn folder(host: &Host, name: &str) -> String {
    let folder = host.lab.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder.canonicalize().unwrap().display().to_string()
}

const LATEST: [&str; 6] = ["restore", "vm", "--item", "web", "--recovery-point", "latest"];

pub(crate) fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&LATEST[..], more].concat()
}

/// What a folder has, also hidden.
pub(crate) fn files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_copy_runs_beside_its_original() {
    let host = Host::new();
    let nic = "<interface type='user'><mac address='52:54:00:11:22:33'/></interface>";
    let guest = Guest::named("web")
        .disk(Disk::qcow2(64).options("cluster_size=4096"))
        .disk(Disk::raw(48))
        .xml(nic)
        .create(&host);
    guest.boot();
    guest.wait_records(5);
    guest.suspend();
    let report = host.json(&["backup", "--vm", "web"]);
    let truth = guest.paused_copy("truth", || {});
    guest.resume();
    let to = folder(&host, "copies");
    let planned = host.json(&words(&["--name", "copy", "--storage-dir", &to, "--dry-run"]));
    assert_eq!((&planned["dry_run"], &planned["state"]), (&true.into(), &"off".into()));
    assert!(files(&to).is_empty(), "{:?}", files(&to));
    let restored = host.json(&words(&["--name", "copy", "--storage-dir", &to]));
    println!("{restored:#}");
    assert_eq!(restored["recovery_point"], report["recovery_point"]);
    assert_ne!(restored["uuid"], report["uuid"]);
    assert_ne!(restored["addresses"][0], "52:54:00:11:22:33");
    assert_eq!(files(&to), ["copy-vda.qcow2", "copy-vdb.raw"]);
    assert_same_disk(&truth[0], &image(&restored, 0));
    assert_same_disk(&truth[1], &image(&restored, 1));
    let info = crate::harness::tool("qemu-img", &["info", &format!("{to}/copy-vda.qcow2")]);
    assert!(info.contains("cluster_size: 4096"), "{info}");
    assert!(!host.virsh(&["list", "--all", "--autostart", "--name"]).contains("copy"));

    let copy = Guest::known(&host, "copy", &[&image(&restored, 0), &image(&restored, 1)]);
    copy.boot();
    copy.wait_records(3);
    assert_eq!(guest.state(), "running");
    guest.wait_records(1);
    copy.shutdown();
    check(&[copy.disk_path("vda"), copy.disk_path("vdb")], Taken::Frozen).unwrap();

    // What is there is not written to, and is said before anything is written.
    for more in [&["--name", "copy"][..], &[], &["--same-identity", "--name", "other"]] {
        let run = host.strongroom(&words(&[more, &["--storage-dir", &to]].concat()));
        assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains("already has a machine"), "{}", run.stderr);
    }
    copy.virsh("undefine", &[]);
    let run = host.strongroom(&words(&["--name", "copy", "--storage-dir", &to]));
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("copy-vda.qcow2 exists already"), "{}", run.stderr);
    assert_eq!(files(&to), ["copy-vda.qcow2", "copy-vdb.raw"]);
}

#[test]
fn a_lost_machine_comes_back_as_itself_in_another_pool() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::qcow2(48)]).up(5);
    guest.virsh("autostart", &[]);
    let report = host.json(&["backup", "--vm", "web"]);
    let run = host.strongroom(&words(&["--same-identity"]));
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    guest.destroy();
    let checkpoints = guest.virsh("checkpoint-list", &["--name"]);
    for name in checkpoints.split_whitespace() {
        guest.virsh("checkpoint-delete", &[name, "--metadata"]);
    }
    guest.virsh("undefine", &[]);
    for disk in ["vda", "vdb"] {
        std::fs::remove_file(guest.disk_path(disk)).unwrap();
    }

    let fast = folder(&host, "fast");
    let slow = folder(&host, "slow");
    host.virsh(&["pool-define-as", "fast", "dir", "--target", &fast]);
    host.virsh(&["pool-start", "fast"]);
    let run = host.strongroom(&words(&["--same-identity", "--pool", "none"]));
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("it has fast"), "{}", run.stderr);
    let vdb = format!("vdb={slow}");
    let restored =
        host.json(&words(&["--same-identity", "--pool", "fast", "--storage-dir", &vdb, "--start"]));
    assert_eq!(restored["uuid"], report["uuid"], "{restored:#}");
    assert_eq!(restored["autostart"], true);
    assert_eq!(image(&restored, 0), Path::new(&fast).join("web-vda.qcow2"));
    assert_eq!(image(&restored, 1), Path::new(&slow).join("web-vdb.qcow2"));
    assert!(host.virsh(&["vol-list", "fast"]).contains("web-vda.qcow2"));
    let back = Guest::known(&host, "web", &[&image(&restored, 0), &image(&restored, 1)]);
    back.wait_agent();
    back.wait_records(3);
    // It is the same machine with other disks: the next backup compares all and is right.
    let report = host.json(&["backup", "--vm", "web"]);
    assert_eq!(report["disks"][0]["changes_from"], "all", "{report:#}");
    back.suspend();
    let report = host.json(&["backup", "--vm", "web"]);
    assert_eq!(report["disks"][0]["changes_from"], "bitmap", "{report:#}");
    let again = folder(&host, "again");
    let copy = host.json(&words(&["--name", "copy", "--storage-dir", &again]));
    assert_same_disk(&image(&copy, 0), back.disk_path("vda"));
    assert_same_disk(&image(&copy, 1), back.disk_path("vdb"));
}

#[test]
fn what_a_host_lacks_is_said_before_anything_is_written() {
    let host = Host::new();
    let nic = "<interface type='network'><source network='gone'/></interface>";
    let media = host.lab.path("media.iso");
    std::fs::write(&media, vec![1; 4096]).unwrap();
    let cdrom = format!(
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='sda' bus='sata'/><readonly/></disk>",
        media.display()
    );
    let guest = Guest::named("web")
        .disk(Disk::qcow2(64))
        .disk(Disk::qcow2(48))
        .xml(&cdrom)
        .xml(nic)
        .create(&host);
    host.json(&["backup", "--vm", "web", "--exclude-disks", "vdb"]);
    std::fs::remove_file(&media).unwrap();
    drop(guest);
    let to = folder(&host, "copies");
    let base = ["--name", "copy", "--storage-dir", &to];
    let refused = |more: &[&str], words_: &[&str]| {
        let run = host.strongroom(&words(&[&base[..], more].concat()));
        assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
        for word in words_ {
            assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
        }
        assert!(files(&to).is_empty(), "{:?}", files(&to));
    };
    // All of it at once.
    refused(&["--machine-type", "pc-q35-99.0"], &["network gone", "pc-q35-99.0"]);
    refused(&["--cpu", "host-passthrough"], &["network gone", "host-passthrough"]);
    let network = "<network><name>office</name><bridge name='none0'/></network>";
    let file = host.lab.path("office.xml");
    std::fs::write(&file, network).unwrap();
    host.virsh(&["net-define", file.to_str().unwrap()]);
    let map = ["--network", "network=gone:office"];
    let restored = host.json(&words(&[&base[..], &map].concat()));
    let left: Vec<&str> = restored["left_behind"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| left["name"].as_str().unwrap())
        .collect();
    assert_eq!(left, ["vdb", "sda"], "{restored:#}");
    assert_documented("restore vm", &restored);
    let xml = host.virsh(&["dumpxml", "copy"]);
    assert!(xml.contains("network='office'"), "{xml}");
    assert!(!xml.contains("vdb") && !xml.contains("media.iso"), "{xml}");
    assert!(xml.contains("<target dev='sda' bus='sata'/>"), "{xml}");
}

/// A machine with two disks that has run, and two recovery points of it: returns the first.
fn twice_backed_up(host: &Host) -> (Guest<'_>, Value, Vec<PathBuf>) {
    let guest = Guest::web(host, [Disk::qcow2(64), Disk::raw(48)]).up(5);
    guest.suspend();
    let first = host.json(&["backup", "--vm", "web"]);
    let truth = guest.paused_copy("first", || {});
    guest.resume();
    guest.wait_records(5);
    host.json(&["backup", "--vm", "web"]);
    (guest, first, truth)
}

/// The newest recovery point is what the disks are.
fn assert_backup_is_right(host: &Host, disks: &[&Path], to: &str) {
    let to = folder(host, to);
    let copy = host.json(&words(&["--name", "check", "--storage-dir", &to]));
    for (index, disk) in disks.iter().enumerate() {
        assert_same_disk(&image(&copy, index), disk);
    }
    host.virsh(&["undefine", "check"]);
}

#[test]
fn disks_are_replaced_and_the_old_ones_come_back() {
    let host = Host::new();
    let (guest, first, truth) = twice_backed_up(&host);
    let point = first["recovery_point"].as_str().unwrap();
    let replace =
        ["restore", "vm", "--item", "web", "--recovery-point", point, "--replace", "--yes"];
    let run = host.strongroom(&replace);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("must be off"), "{}", run.stderr);
    let planned = host.json(&[&replace[..], &["--shut-down", "--dry-run"]].concat());
    assert_eq!((&planned["dry_run"], guest.state().as_str()), (&true.into(), "running"));

    let replaced = host.json(&[&replace[..], &["--shut-down"]].concat());
    println!("{replaced:#}");
    assert_eq!(guest.state(), "shut off");
    assert!(replaced["safety_point"].is_string(), "{replaced:#}");
    let old = [guest.disk_path("vda").to_owned(), guest.disk_path("vdb").to_owned()];
    check(&[&old[0], &old[1]], Taken::Frozen).unwrap();
    let before: Vec<_> = old.iter().map(|disk| std::fs::read(disk).unwrap()).collect();
    for (index, truth) in truth.iter().enumerate() {
        assert_same_disk(truth, &image(&replaced, index));
        let disk = &replaced["disks"][index];
        assert!(disk["written_bytes"].as_u64() < Some(4 << 20), "{disk:#}");
        assert_eq!(disk["replaces"], old[index].to_str().unwrap());
    }
    // That it is to be decided is known wherever one looks, and neither way is gone unasked.
    let checked = host.json(&["vm", "check", "web"]);
    let findings = checked["machines"][0]["findings"].as_array().unwrap();
    let open = findings.iter().find(|finding| finding["id"] == "restore.open").unwrap();
    assert!(open["what_to_do"].as_str().unwrap().contains("restore undo --vm web"), "{open}");
    for decision in ["accept", "undo"] {
        let run = host.strongroom(&["restore", decision, "--vm", "web"]);
        assert_eq!(run.code, 2, "{}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains("--yes") && run.stderr.contains("vda, vdb"), "{}", run.stderr);
        let run = host.strongroom(&["restore", decision, "--vm", "web", "--dry-run"]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains("no way back"), "{}", run.stdout);
    }
    // Once more is not done before it is decided.
    let run = host.strongroom(&replace);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("restore accept"), "{}", run.stderr);

    // It runs with them, and is backed up.
    let new = Guest::known(&host, "web", &[&image(&replaced, 0), &image(&replaced, 1)]);
    new.boot();
    new.wait_records(5);
    let report = host.json(&["backup", "--vm", "web"]);
    println!("{report:#}");
    new.wait_records(3);
    new.suspend();
    // Where libvirt has deleted a bitmap in an old image, which lies under the new one, all of the
    // disk is compared once more.
    let report = host.json(&["backup", "--vm", "web"]);
    assert_eq!(report["disks"][1]["changes_from"], "bitmap", "{report:#}");
    assert_backup_is_right(&host, &[new.disk_path("vda"), new.disk_path("vdb")], "checked");
    let run = host.strongroom(&["restore", "undo", "--vm", "web", "--yes"]);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    new.destroy();

    let undone = host.json(&["restore", "undo", "--vm", "web", "--yes"]);
    assert_eq!(undone["decision"], "undone", "{undone:#}");
    assert_documented("restore accept", &undone);
    for (old, before) in old.iter().zip(&before) {
        assert_same_disk(old, &{
            let copy = old.with_extension("before");
            std::fs::write(&copy, before).unwrap();
            copy
        });
    }
    assert!(!image(&replaced, 0).exists() && !image(&replaced, 1).exists());
    guest.boot();
    guest.wait_records(3);
    guest.suspend();
    let report = host.json(&["backup", "--vm", "web"]);
    println!("{report:#}");
    assert_backup_is_right(&host, &[&old[0], &old[1]], "again");
    let run = host.strongroom(&["restore", "undo", "--vm", "web", "--yes"]);
    assert_eq!(run.code, 2, "{}{}", run.stdout, run.stderr);
}

#[test]
fn replaced_disks_stay() {
    let host = Host::new();
    let (guest, first, truth) = twice_backed_up(&host);
    guest.destroy();
    let point = first["recovery_point"].as_str().unwrap();
    let replace =
        ["restore", "vm", "--item", "web", "--recovery-point", point, "--replace", "--yes"];
    let replaced = host.json(&replace);
    // What is there meanwhile, as if the end had come before it was removed.
    let uuid = host.virsh(&["domuuid", "web"]);
    let state = host.lab.path(&format!(".strongroom-replaced-{uuid}.json"));
    let meanwhile: Vec<(PathBuf, Vec<u8>)> = [state, image(&replaced, 0), image(&replaced, 1)]
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    let accepted = host.json(&["restore", "accept", "--vm", "web", "--yes"]);
    assert_eq!(accepted["decision"], "accepted", "{accepted:#}");
    assert_documented("restore vm", &replaced);
    assert_documented("restore accept", &accepted);
    let old = [guest.disk_path("vda").to_owned(), guest.disk_path("vdb").to_owned()];
    for (index, truth) in truth.iter().enumerate() {
        assert_same_disk(truth, &old[index]);
        assert!(!image(&replaced, index).exists());
    }
    let xml = guest.virsh("dumpxml", &[]);
    assert!(xml.contains(old[0].to_str().unwrap()) && xml.contains("type='raw'"), "{xml}");

    // The next backup may believe the bitmap in the image: what was written back is in it.
    let report = host.json(&["backup", "--vm", "web"]);
    println!("{report:#}");
    assert_backup_is_right(&host, &[&old[0], &old[1]], "off");
    guest.boot();
    guest.wait_records(3);
    guest.suspend();
    let report = host.json(&["backup", "--vm", "web"]);
    println!("{report:#}");
    assert_eq!(report["disks"][0]["unexpected_blocks"], 0, "{report:#}");
    assert_backup_is_right(&host, &[&old[0], &old[1]], "running");
    guest.destroy();

    // It is not written into them again, now that the machine has gone on with them.
    let copies = guest.paused_copy("later", || {});
    for (path, content) in &meanwhile {
        let content = String::from_utf8(content.clone())
            .map_or_else(std::string::FromUtf8Error::into_bytes, |text| {
                text.replace("\"replaced\"", "\"accepting\"").into_bytes()
            });
        std::fs::write(path, content).unwrap();
    }
    let run = host.strongroom(&["restore", "undo", "--vm", "web", "--yes"]);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    host.json(&["restore", "accept", "--vm", "web", "--yes"]);
    assert_same_disk(&copies[0], &old[0]);
    assert_same_disk(&copies[1], &old[1]);
    assert!(meanwhile.iter().all(|(path, _)| !path.exists()));
}

#[test]
fn one_disk_is_replaced() {
    let host = Host::new();
    let (guest, _, _) = twice_backed_up(&host);
    guest.shutdown();
    let words = words(&["--replace", "--yes", "--disks", "vdb", "--no-safety-point", "--start"]);
    let replaced = host.json(&words);
    assert_eq!(replaced["disks"].as_array().unwrap().len(), 1);
    assert_eq!(replaced["left_behind"][0]["name"], "vda", "{replaced:#}");
    assert_eq!(replaced["safety_point"], Value::Null);
    let new = Guest::known(&host, "web", &[guest.disk_path("vda"), &image(&replaced, 0)]);
    new.wait_agent();
    new.destroy();
    host.json(&["restore", "accept", "--vm", "web", "--yes"]);
    guest.boot();
}

#[test]
fn firmware_and_tpm_come_back() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).uefi().tpm().create(&host);
    guest.boot();
    let variable = "/sys/firmware/efi/efivars/Lab-12345678-1234-1234-1234-123456789abc";
    guest.sh(&format!("printf '\\007\\000\\000\\000hello' >{variable}; sync"));
    guest.shutdown();
    host.json(&["backup", "--vm", "web"]);
    let to = folder(&host, "copies");
    let restored = host.json(&words(&["--name", "copy", "--storage-dir", &to]));
    println!("{restored:#}");
    let nvram = restored["nvram"].as_str().unwrap();
    assert_eq!(nvram, format!("{to}/copy-nvram.fd"));
    let tpm = PathBuf::from(restored["tpm"].as_str().unwrap());
    assert!(tpm.ends_with(restored["uuid"].as_str().unwrap()), "{tpm:?}");
    let uuid = host.virsh(&["domuuid", "web"]);
    let file = "tpm2/tpm2-00.permall";
    let old = std::fs::read(tpm.with_file_name(&uuid).join(file)).unwrap();
    assert!(old == std::fs::read(tpm.join(file)).unwrap());
    // Replaced, they are kept and come back.
    let vars = host.lab.path("c/libvirt/qemu/nvram/web_VARS.fd");
    std::fs::write(&vars, b"other").unwrap();
    std::fs::write(tpm.with_file_name(&uuid).join(file), b"other").unwrap();
    host.json(&words(&["--replace", "--yes", "--no-safety-point"]));
    assert!(std::fs::read(&vars).unwrap() == std::fs::read(nvram).unwrap());
    assert!(old == std::fs::read(tpm.with_file_name(&uuid).join(file)).unwrap());
    host.json(&["restore", "undo", "--vm", "web", "--yes"]);
    assert_eq!(std::fs::read(&vars).unwrap(), b"other");
    assert_eq!(std::fs::read(tpm.with_file_name(&uuid).join(file)).unwrap(), b"other");

    let copy = Guest::known(&host, "copy", &[&image(&restored, 0)]);
    copy.boot();
    assert_eq!(copy.sh(&format!("tail -c 5 {variable}")), "hello");
    assert_eq!(copy.sh("cat /sys/class/tpm/tpm0/tpm_version_major"), "2");
}

#[test]
fn a_description_comes_with_disks() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(3);
    let report = host.json(&["backup", "--vm", "web"]);
    let to = folder(&host, "out");
    let base = ["restore", "disks", "--item", "web", "--recovery-point", "latest", "--to", &to];
    let restored = host.json(&base);
    let file = format!("{to}/web.xml");
    assert_eq!(restored["template"], file.as_str(), "{restored:#}");
    assert_documented("restore disks", &restored);
    assert_ne!(restored["template_uuid"], report["uuid"]);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    // The same again is no harm, another's file is left alone.
    host.json(&base);
    std::fs::rename(&file, format!("{to}/mine.xml")).unwrap();
    std::fs::write(&file, "mine").unwrap();
    let again = host.json(&base);
    assert_eq!(again["template"], Value::Null);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    let text = std::fs::read_to_string(format!("{to}/mine.xml")).unwrap();
    std::fs::write(&file, text.replace("<name>web</name>", "<name>copy</name>")).unwrap();
    host.virsh(&["define", &file]);
    let disks = [format!("{to}/vda.raw"), format!("{to}/vdb.raw")].map(PathBuf::from);
    let copy = Guest::known(&host, "copy", &[&disks[0], &disks[1]]);
    copy.boot();
    copy.wait_records(2);
    assert_eq!(guest.state(), "running");
}

#[test]
fn killed_at_any_step_it_goes_on() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]);
    host.json(&["backup", "--vm", "web"]);
    let to = folder(&host, "copies");
    let restore = words(&["--name", "copy", "--storage-dir", &to, "--limit-rate", "2M"]);
    let fast = words(&["--name", "copy", "--storage-dir", &to]);
    let mut child = host.strongroom_start(&restore);
    let partial = Path::new(&to).join("copy-vdb.raw.partial");
    assert!(within(30, || partial.exists()));
    let run = host.strongroom(&fast);
    assert_eq!(run.code, 4, "two at once: {}{}", run.stdout, run.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    let known = host.virsh(&["list", "--all", "--name"]);
    assert!(!known.contains("copy"), "{known}");
    // Another point's restore does not take its files.
    host.json(&["backup", "--vm", "web"]);
    let run = host.strongroom(&fast);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("restore.unfinished"), "{}", run.stderr);
    let points = host.json(&["recoverypoint", "list", "--item", "web"]);
    let first = points["recovery_points"][0]["id"].as_str().unwrap();
    let mut again = fast.clone();
    again[5] = first;
    // As if it had ended after the disks had their names, and before the machine had.
    let journal = Path::new(&to).join(".copy.strongroom-restore");
    let note = std::fs::read(&journal).unwrap();
    let restored = host.json(&again);
    assert!(!journal.exists());
    assert_eq!(files(&to), ["copy-vda.qcow2", "copy-vdb.raw"]);
    host.virsh(&["undefine", "copy"]);
    std::fs::write(&journal, &note).unwrap();
    let once_more = host.json(&again);
    assert_eq!(once_more["uuid"], restored["uuid"]);
    assert_eq!(once_more["disks"][0]["written_bytes"], 0, "{once_more:#}");
    // And as if it had ended after that.
    std::fs::write(&journal, &note).unwrap();
    let last = host.json(&again);
    assert_eq!(last["uuid"], restored["uuid"]);
    assert!(!journal.exists());
    assert_same_disk(&image(&restored, 0), guest.disk_path("vda"));
    assert_same_disk(&image(&restored, 1), guest.disk_path("vdb"));
}

#[test]
fn a_replacement_that_was_killed_goes_on_or_is_undone() {
    let host = Host::new();
    let (guest, first, truth) = twice_backed_up(&host);
    guest.shutdown();
    let point = first["recovery_point"].as_str().unwrap();
    let replace = [
        "restore",
        "vm",
        "--item",
        "web",
        "--recovery-point",
        point,
        "--replace",
        "--yes",
        "--no-safety-point",
    ];
    let before = guest.virsh("dumpxml", &[]);
    let folder = host.lab.path("");
    let overlay = folder.join(format!("web-b.raw.{point}.qcow2"));
    let interrupt = || {
        let mut child = host.strongroom_start(&[&replace[..], &["--limit-rate", "100K"]].concat());
        assert!(within(30, || overlay.exists()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(guest.virsh("dumpxml", &[]), before);
    };
    interrupt();
    host.json(&["restore", "undo", "--vm", "web", "--yes"]);
    assert!(!overlay.exists());
    assert_eq!(guest.virsh("dumpxml", &[]), before);
    interrupt();
    let run = host.strongroom(&["restore", "accept", "--vm", "web", "--yes"]);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    let replaced = host.json(&replace);
    for (index, truth) in truth.iter().enumerate() {
        assert_same_disk(truth, &image(&replaced, index));
    }
    host.json(&["restore", "accept", "--vm", "web", "--yes"]);
    assert_same_disk(&truth[1], guest.disk_path("vdb"));
    guest.boot();
}

/// There was room when it was planned, and then there is none: that is said, and the same command goes
/// on when there is again.
#[test]
fn the_disk_is_full() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::raw(48)]);
    host.json(&["backup", "--vm", "web"]);
    let to = folder(&host, "small");
    let path = Path::new(&to);
    let Some(_mounted) = Mounted::tmpfs(path, "40M") else { return };
    let other = path.join("other");
    let fill = || {
        let target = format!("of={}", other.display());
        try_tool("dd", &["if=/dev/zero", &target, "bs=64k", "conv=notrunc", "oflag=append"]);
    };
    let command = |name, disk| {
        words(&["--name", name, "--disks", disk, "--storage-dir", &to, "--output", "json"])
    };

    // It is known before.
    fill();
    let said = failed(&host.strongroom(&command("one", "vda")), "disk.full");
    assert!(said.contains("are needed"), "{said}");
    assert_eq!(files(&to), ["other"]);
    std::fs::remove_file(&other).unwrap();

    // It turns out while it is written: by QEMU's tools, and by us.
    for (name, disk, file) in [("one", "vda", "one-vda.qcow2"), ("two", "vdb", "two-vdb.raw")] {
        let command = command(name, disk);
        let run = host.strongroom_start(&[&command[..], &["--limit-rate", "1M"]].concat());
        let partial = path.join(format!("{file}.partial"));
        assert!(within(20, || partial.exists()), "{:?}", files(&to));
        fill();
        let said = failed(&Run::of(&run.wait_with_output().unwrap()), "disk.full");
        assert!(said.contains(file) && said.contains("continues where it stopped"), "{said}");
        assert!(!host.virsh(&["list", "--all", "--name"]).contains(name));
        std::fs::remove_file(&other).unwrap();
        let restored = host.json(&command[..command.len() - 2]);
        assert_same_disk(guest.disk_path(disk), &image(&restored, 0));
        assert!(!files(&to).iter().any(|file| file.contains("partial") || file.starts_with('.')));
    }
}
