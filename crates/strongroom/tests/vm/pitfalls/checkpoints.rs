//! Checkpoints: of others, forgotten, of no point.

use std::fs;

use super::{Bench, text};
use crate::{
    guest::{Disk, Guest},
    harness::{Host, tool, within},
};

#[test]
fn other_programs_and_other_vaults() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(48)]);
    let one = Bench::new(&host, &guest, 2);
    let two = Bench { vault: "two", ..Bench::new(&host, &guest, 2) };
    assert_eq!(two.strongroom(&["vault", "create"]).code, 0);
    let foreign = |name: &str| {
        guest.virsh(
            "checkpoint-create-as",
            &["--name", name, "--diskspec", "vda,checkpoint=bitmap"],
        );
    };
    guest.boot();
    foreign("before");
    one.backup_from("all", &[]);
    foreign("between");
    one.backup_from("bitmap", &[]);
    two.backup_from("all", &[]);
    foreign("after");
    guest.wait_records(3);
    one.backup_from("bitmap", &[]);
    two.backup_from("bitmap", &[]);
    two.backup_from("bitmap", &[]);
    guest.wait_records(3);
    one.backup_from("bitmap", &[]);
    // They go, one of them without its bitmap.
    guest.virsh("checkpoint-delete", &["between"]);
    guest.virsh("checkpoint-delete", &["after", "--metadata"]);
    guest.wait_records(3);
    two.backup(&[]);
    one.backup(&[]);
    two.backup_from("bitmap", &[]);
    one.backup_from("bitmap", &[]);
    let known = guest.virsh("checkpoint-list", &["--name"]);
    assert!(known.lines().any(|name| name == "before"), "{known}");
    // Off, one vault's bitmap may be closed by the other's, which is newer.
    guest.shutdown();
    one.backup_from("bitmap", &[]);
    let report = two.backup(&[]);
    println!("{:#}", report.0);
    guest.boot();
    one.backup(&[]);
    two.backup(&[]);
    guest.wait_records(3);
    one.backup_from("bitmap", &[]);
    two.backup_from("bitmap", &[]);
}

#[test]
fn checkpoints_that_libvirt_forgets() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(48)]);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    let first = bench.backup_from("all", &[]);
    // While it runs.
    guest.virsh("checkpoint-delete", &[first.checkpoint(), "--metadata"]);
    guest.wait_records(3);
    let report = bench.backup_from("bitmap", &[]);
    assert!(report.0["notes"].to_string().contains("defined again"), "{:#}", report.0);
    // Defined anew.
    guest.shutdown();
    let xml = host.lab.path("again.xml");
    fs::write(&xml, guest.virsh("dumpxml", &["--inactive"])).unwrap();
    guest.virsh("undefine", &["--checkpoints-metadata"]);
    host.virsh(&["define", text(&xml)]);
    bench.backup_from("bitmap", &[]);
    guest.boot();
    bench.backup_from("bitmap", &[]);
}

#[test]
fn machines_without_a_definition() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(48)]);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    let xml = host.lab.path("again.xml");
    fs::write(&xml, guest.virsh("dumpxml", &["--inactive"])).unwrap();
    // Made at each start, it is new to libvirt.
    guest.virsh("undefine", &["--checkpoints-metadata"]);
    let transient = |known: bool| {
        guest.wait_records(3);
        guest.destroy();
        host.virsh(&["create", text(&xml)]);
        guest.wait_agent();
        let report = bench.backup_from(if known { "bitmap" } else { "all" }, &[]);
        assert_eq!(report.0["notes"].to_string().contains("defined again"), known);
    };
    transient(true);
    transient(true);
    // As if the point had never been: its bitmap in the images is nobody's.
    let folder = host.lab.path("vault");
    fs::rename(&folder, host.lab.path("vault-gone")).unwrap();
    assert_eq!(bench.strongroom(&["vault", "create"]).code, 0);
    bench.backup_from("all", &[]);
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(host.lab.path("vault-gone"), &folder).unwrap();
    transient(true);
    // The last point is gone, and with it the name of the bitmap.
    let points = bench.json(&["recoverypoint", "list", "--item", "web"]);
    let points = points["recovery_points"].as_array().unwrap();
    let newest = points.iter().max_by_key(|point| point["time"].as_str().unwrap()).unwrap();
    let newest = newest["id"].as_str().unwrap();
    bench.json(&["recoverypoint", "delete", "--item", "web", "--recovery-point", newest, "--yes"]);
    transient(false);
    transient(true);
}

#[test]
fn backups_that_fail_after_their_checkpoint_was_made() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::qcow2(48)]);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    // The vault cannot be written to: its folder of packs is a file.
    let packs = host.lab.path("vault/packs");
    let aside = host.lab.path("packs");
    for round in 0..2 {
        guest.sh("dd if=/dev/urandom of=/data/a/big bs=64k count=200; sync");
        if round == 0 {
            fs::rename(&packs, &aside).unwrap();
            fs::write(&packs, "").unwrap();
            let run = bench.strongroom(&["backup", "--vm", "web"]);
            fs::remove_file(&packs).unwrap();
            fs::rename(&aside, &packs).unwrap();
            assert_ne!(run.code, 0, "{}", run.stdout);
        } else {
            // As slow as this, it is stopped in the middle.
            let words = ["backup", "--vm", "web", "--limit-rate", "1MiB"];
            let mut child = host.strongroom_start(&words);
            let begun = || guest.virsh("checkpoint-list", &["--name"]).lines().count() == 2;
            assert!(within(30, begun), "no backup begins");
            tool("kill", &["-INT", &child.id().to_string()]);
            assert!(!child.wait().unwrap().success());
        }
        // At once there is only the checkpoint of the last point, and it tells all.
        assert_eq!(guest.virsh("checkpoint-list", &["--name"]).lines().count(), 1);
        guest.sh("dd if=/dev/urandom of=/data/b/new bs=64k count=3; sync");
        let report = bench.backup_from("bitmap", &[]);
        assert!(report.disk("vda")["changed_bytes"].as_u64().unwrap() > 200 << 16);
    }
    // And if the orphan has no bitmaps any more, or only some.
    guest.virsh("checkpoint-create-as", &["--name", &format!("{}x", bench.prefix())]);
    guest.sh("dd if=/dev/urandom of=/data/a/big bs=64k count=200; sync");
    let report = bench.backup_from("bitmap", &[]);
    assert!(report.disk("vda")["changed_bytes"].as_u64().unwrap() > 200 << 16);
    let orphan = format!("{}y", bench.prefix());
    guest.virsh("checkpoint-create-as", &["--name", &orphan]);
    guest.sh("dd if=/dev/urandom of=/data/a/big bs=64k count=200; sync");
    guest.destroy();
    tool("qemu-img", &["bitmap", "--remove", text(guest.disk_path("vda")), &orphan]);
    guest.boot();
    let report = bench.backup(&[]);
    assert!(report.disk("vda")["changed_bytes"].as_u64().unwrap() > 200 << 16, "{:#}", report.0);
    bench.backup_from("bitmap", &[]);
}
