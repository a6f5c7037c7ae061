//! The test bed itself: without it being right, no other test of machines says anything. Backups here
//! are made by virsh and others' tools, not by the program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    check::{Taken, assert_same_disk, check},
    guest::{Disk, Guest},
    harness::{Host, Run, tool, try_tool, within},
};

/// Pulls these disks of a machine by nbdcopy, to raw images whose names end with `tag`.
fn pull(host: &Host, socket: &Path, targets: &[&str], tag: &str) -> Vec<PathBuf> {
    let pull = |target: &&str| {
        let image = host.lab.path(&format!("{target}.{tag}"));
        let from = format!("nbd+unix:///{target}?socket={}", socket.display());
        tool("nbdcopy", &[&from, image.to_str().expect("text")]);
        image
    };
    targets.iter().map(pull).collect()
}

fn paths(images: &[PathBuf]) -> Vec<&Path> {
    images.iter().map(PathBuf::as_path).collect()
}

fn process_with(text: &str) -> Run {
    // pgrep does not find itself.
    try_tool("pgrep", &["-af", text])
}

#[test]
fn a_guest_lives_and_ends() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(0);
    assert_eq!(guest.sh("hostname"), "web");
    assert_eq!(guest.try_sh("echo no; exit 3"), (3, "no\n".to_owned()));
    guest.put("/etc/azure/test.json", "600", "{\n  \"quote\": \"'\"\n}\n");
    let found = guest.sh("stat -c '%a %U' /etc/azure/test.json; sed -n 2p /etc/azure/test.json");
    assert_eq!(found, "600 root\n  \"quote\": \"'\"");
    guest.wait_records(5);
    guest.shutdown();
    let images = [guest.disk_path("vda"), guest.disk_path("vdb")];
    let cut = check(&images, Taken::Frozen).unwrap();
    assert!(cut.records.0 >= 5 && cut.records.0 == cut.records.1, "{cut:?}");
    // It goes on where it was, also after a hard end.
    guest.boot();
    guest.wait_records(5);
    guest.kill_qemu();
    let later = check(&images, Taken::Running).unwrap();
    assert!(later.records.1 >= cut.records.1 + 4, "{later:?}");

    let folder = host.lab.path("").display().to_string();
    drop(host);
    assert!(!Path::new(&folder).exists());
    let left = process_with(&folder);
    assert!(left.stdout.is_empty(), "{}", left.stdout);
}

#[test]
fn a_backup_of_one_instant_is_told_from_one_of_two() {
    let host = Host::new();
    let disks = (Disk::qcow2(64).cluster(4096), Disk::raw(48));
    let guest = Guest::web(&host, [disks.0, disks.1]).up(5);

    // While it is paused, a backup is what a plain copy of the image is, whatever the guest does later.
    let both = ["vda", "vdb"];
    let mut socket = PathBuf::new();
    let truth = guest.paused_copy("truth", || socket = guest.begin_pull(&both));
    guest.wait_records(5);
    let pulled = pull(&host, &socket, &both, "running");
    guest.end_pull();
    for (one, other) in pulled.iter().zip(&truth) {
        assert_same_disk(one, other);
    }
    let cut = check(&paths(&pulled), Taken::Running).unwrap();
    assert!(cut.records.0 >= 5, "{cut:?}");

    // Frozen, with the application asked: clean without repair, and balanced.
    guest.sh("/usr/lib/lab/app-pre");
    guest.virsh("domfsfreeze", &[]);
    assert_eq!(guest.freeze_status(), "frozen");
    let socket = guest.begin_pull(&both);
    guest.virsh("domfsthaw", &[]);
    guest.sh("/usr/lib/lab/app-post");
    let noted = guest.sh("sed -n 's/.*at freeze: a=\\([0-9]*\\) b=.*/\\1/p' /run/hook.log");
    guest.wait_records(2);
    let pulled = pull(&host, &socket, &both, "frozen");
    guest.end_pull();
    let cut = check(&paths(&pulled), Taken::Frozen).unwrap();
    // A record may be written between the hook and the freeze.
    let noted: u64 = noted.parse().unwrap();
    assert!((noted..=noted + 2).contains(&cut.records.0), "{noted} {cut:?}");
    let (one, other) = cut.balances.unwrap();
    assert!(one == other && one > 0, "{cut:?}");

    // One disk after the other: the check must see it.
    let mut apart = Vec::new();
    for target in both {
        let socket = guest.begin_pull(&[target]);
        apart.extend(pull(&host, &socket, &[target], "apart"));
        guest.end_pull();
        guest.wait_records(3);
    }
    let error = check(&paths(&apart), Taken::Running).unwrap_err();
    assert!(error.contains("different instants"), "{error}");
}

#[test]
fn machines_outlive_the_daemon() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48)]).up(0);
    let socket = guest.begin_pull(&["vda"]);
    host.kill_libvirtd();
    assert_ne!(host.try_virsh(&["list"]).code, 0);
    let pulled = pull(&host, &socket, &["vda"], "pulled");
    check(&paths(&pulled), Taken::Running).unwrap();
    host.start_libvirtd();
    assert!(within(10, || guest.state() == "running"));
    guest.end_pull();
    guest.wait_agent();
    guest.reboot();
    guest.wait_records(2);
}

#[test]
fn xfs_and_a_restored_machine() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(320).xfs()).disk(Disk::raw(48));
    let guest = guest.disk(Disk::raw(16)).disk(Disk::qcow2(16)).create(&host);
    guest.boot();
    assert_eq!(guest.sh("grep -c ' /data/[a-d] ' /proc/mounts"), "4");
    assert_eq!(guest.sh("grep -c ' /data/a xfs ' /proc/mounts"), "1");
    guest.wait_records(3);
    guest.virsh("domfsfreeze", &[]);
    let copies = guest.paused_copy("copy", || ());
    guest.virsh("domfsthaw", &[]);
    guest.destroy();
    let mut restored = Guest::named("new").cmdline("lab.nowriter");
    for copy in &copies {
        restored = restored.disk(Disk::image(copy, "raw"));
    }
    let restored = restored.create(&host);
    restored.boot();
    let (a, b) = restored.last_records();
    assert!(a >= 3 && (a == b || a == b + 1), "{a} {b}");
    restored
        .sh("for d in a b c d; do sha256sum </data/$d/payload | grep -qf /data/$d/payload.sha256 || exit 1; done");
}

#[test]
fn uefi_and_a_tpm() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).uefi().tpm().vga().create(&host);
    guest.boot();
    let picture = host.lab.path("picture");
    guest.virsh("screenshot", &[picture.to_str().unwrap()]);
    let picture = fs::read(picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG") || picture.starts_with(b"P6"));
    assert_eq!(guest.sh("cat /sys/class/tpm/tpm0/tpm_version_major"), "2");
    assert_ne!(guest.sh("ls /sys/firmware/efi/efivars | wc -l"), "0");
    guest.shutdown();
}
