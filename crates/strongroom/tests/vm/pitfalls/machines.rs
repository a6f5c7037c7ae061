//! What is done to machines, whose they are, and what they have besides disks.

use std::{fs, path::PathBuf};

use super::{Bench, bitmaps, text};
use crate::{
    after::long,
    guest::{Disk, Guest},
    harness::{Host, tool, try_tool, within},
};

#[test]
fn snapshots_and_saved_memory() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(48)]);
    let mut bench = Bench::new(&host, &guest, 2);
    let images = bench.disks.clone();
    guest.boot();
    bench.backup_from("all", &[]);
    // Outside the images, and merged back into them.
    let snapshot = |name: &str| {
        guest.virsh("snapshot-create-as", &["--disk-only", "--no-metadata", "--name", name]);
        let path = |(target, path): &(String, PathBuf)| (target.clone(), path.with_extension(name));
        images.iter().map(path).collect::<Vec<_>>()
    };
    let merge = || {
        for target in ["vda", "vdb"] {
            guest.virsh("blockcommit", &[target, "--active", "--pivot", "--wait"]);
        }
    };
    // In between there is no backup.
    guest.wait_records(3);
    snapshot("s1");
    guest.wait_records(3);
    merge();
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
    // In between there are some.
    bench.disks = snapshot("s2");
    guest.wait_records(3);
    let report = bench.backup_from("all", &[]);
    report.says("vda", "is not the disk of the last point");
    // The old checkpoint was in the images that are now under these: deleting it changed them.
    let report = bench.backup_from("all", &[]);
    report.says("vda", "the images under it");
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
    merge();
    bench.disks.clone_from(&images);
    guest.wait_records(3);
    bench.backup_from("all", &[]);
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);

    // Memory saved, and restored.
    guest.virsh("managedsave", &[]);
    let off = bench.backup_from("bitmap", &[]);
    assert!(off.0["evidence"].to_string().contains("its memory is saved"), "{:#}", off.0);
    guest.start();
    guest.wait_agent();
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);

    // Inside the image: QEMU does not go back to one as long as there is a bitmap, and without one
    // everything is compared.
    guest.shutdown();
    let image = text(guest.disk_path("vda"));
    tool("qemu-img", &["snapshot", "-c", "inside", image]);
    tool("qemu-io", &["-c", "write -P 1 40M 2M", image]);
    bench.backup_from("bitmap", &[]);
    let run = try_tool("qemu-img", &["snapshot", "-a", "inside", image]);
    assert!(run.stderr.contains("dirty bitmaps"), "{}", run.stderr);
    for bitmap in bitmaps(&guest, guest.disk_path("vda")) {
        tool("qemu-img", &["bitmap", "--remove", image, &bitmap]);
    }
    tool("qemu-img", &["snapshot", "-a", "inside", image]);
    let report = bench.backup(&[]);
    report.says("vda", "has no bitmap");
    guest.boot();
    bench.backup(&[]);
    bench.backup_from("bitmap", &[]);
}

#[test]
fn block_jobs_are_not_disturbed() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(48)]);
    let mut bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    let copy = host.lab.path("copy.qcow2");
    let mirrors = || guest.virsh("dumpxml", &[]).contains("ready='yes'");
    let begin = || {
        fs::remove_file(&copy).ok();
        let words = ["vdb", text(&copy), "--format", "qcow2", "--transient-job"];
        guest.virsh("blockcopy", &words);
        assert!(within(30, mirrors), "it does not copy");
    };
    begin();
    let message = bench.fails(&[], "vm.busy");
    assert!(message.contains("vdb"), "{message}");
    assert!(mirrors(), "it was disturbed");
    guest.virsh("blockjob", &["vdb", "--abort"]);
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
    // The copy takes over.
    begin();
    guest.virsh("blockjob", &["vdb", "--pivot"]);
    bench.disks[1].1.clone_from(&copy);
    guest.wait_records(3);
    let report = bench.backup(&[]);
    report.says("vdb", "is not the disk of the last point");
    assert_eq!(report.from("vda"), "bitmap");
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
}

#[test]
fn scratch_that_qemu_cannot_write() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48)]);
    let bench = Bench::new(&host, &guest, 1);
    guest.boot();
    bench.backup_from("all", &[]);
    // Not a folder, and nothing that could be made one: for root as for anybody.
    let scratch = host.lab.path("file");
    fs::write(&scratch, "").unwrap();
    let message = bench.fails(&["--scratch-dir", text(&scratch.join("x"))], "local.io");
    assert!(message.contains(text(&scratch)), "{message}");
    let frozen = guest.sh("cat /run/hook.log 2>/dev/null || true");
    assert!(!frozen.contains("freeze"), "it was frozen for nothing: {frozen}");
    // Another one does.
    let other = host.lab.path("other");
    fs::create_dir(&other).unwrap();
    bench.backup_from("bitmap", &["--scratch-dir", text(&other)]);
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    // Too little.
    let message = bench.fails(&["--scratch-limit", "0"], "vm.scratch");
    println!("{message}");
    bench.backup_from("bitmap", &[]);
}

#[test]
fn machines_of_other_managers() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48)]);
    let bench = Bench::new(&host, &guest, 1);
    let nova = "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\
                <nova:name>web</nova:name></nova:instance></metadata>";
    let xml = guest.virsh("dumpxml", &[]).replacen("<memory", &format!("{nova}<memory"), 1);
    let file = host.lab.path("nova.xml");
    fs::write(&file, xml).unwrap();
    host.virsh(&["define", text(&file)]);
    let message = bench.fails(&[], "vm.other_manager");
    assert!(message.contains("OpenStack"), "{message}");
    bench.backup_from("all", &["--allow-managed"]);
    guest.boot();
    bench.fails(&[], "vm.other_manager");
    bench.backup_from("all", &["--allow-managed"]);
    guest.wait_records(3);
    bench.backup_from("bitmap", &["--allow-managed"]);
}

#[test]
fn firmware_and_a_tpm_are_in_the_archive() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).uefi().tpm().create(&host);
    let bench = Bench::new(&host, &guest, 1);
    guest.boot();
    bench.backup_from("all", &[]);
    let report = bench.backup_from("bitmap", &[]);
    guest.shutdown();
    let off = bench.backup_from("bitmap", &[]);
    for report in [report, off] {
        // An archive without variables and state would have some 20 KiB.
        let bytes = report.0["configuration_bytes"].as_u64().unwrap();
        assert!(bytes > 540_672, "{bytes}");
        let evidence = report.0.to_string();
        assert!(
            !evidence.contains("firmware variables") && !evidence.contains("TPM"),
            "{evidence}"
        );
    }
}
