//! Disks of every kind and size, that come and go.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Bench, Report, text};
use crate::{
    after::long,
    guest::{Disk, Guest},
    harness::{Host, tool, try_tool, within},
};

#[test]
fn disks_that_hold_no_bitmap() {
    let host = Host::new();
    let iso = host.lab.path("seed.iso");
    fs::write(&iso, vec![7; 1 << 20]).unwrap();
    let locked = host.lab.path("locked.raw");
    fs::write(&locked, vec![9; 1 << 20]).unwrap();
    let external = host.lab.path("external.qcow2");
    let data = format!("data_file={}/external.data,data_file_raw=on", host.lab.path("").display());
    tool("qemu-img", &["create", "-f", "qcow2", "-o", &data, text(&external), "16M"]);
    let guest = Guest::named("web")
        .disk(Disk::qcow2(48).options("compat=0.10"))
        .disk(Disk::qcow2(48).cluster(4096))
        .disk(Disk::qcow2(64).cluster(2 << 20))
        .disk(Disk::raw(48))
        .disk(Disk::image(&external, "qcow2"))
        .disk(Disk::image(&locked, "raw").xml("<readonly/>"))
        .xml(&format!(
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
             <source file='{}'/><target dev='sda' bus='sata'/><readonly/></disk>",
            iso.display()
        ))
        .create(&host);
    let bench = Bench::new(&host, &guest, 5);
    guest.boot();
    guest.wait_records(3);
    let first = bench.backup_from("all", &[]);
    let point = first.0["recovery_point"].as_str().unwrap();
    let shown = bench.json(&["recoverypoint", "show", "--item", "web", "--recovery-point", point]);
    let excluded = shown["recovery_point"]["excluded"].to_string();
    assert!(excluded.contains("vdf") && excluded.contains("sda"), "{shown:#}");
    let check = |report: Report| {
        for target in ["vda", "vdd"] {
            assert_eq!(report.from(target), "all", "{:#}", report.0);
        }
        for target in ["vdb", "vdc", "vde"] {
            assert_eq!(report.from(target), "bitmap", "{:#}", report.0);
            assert_eq!(report.disk(target)["notes"], json!([]), "{:#}", report.0);
        }
        report.says("vda", "version 2 of qcow2");
        report.says("vdd", "a raw disk holds no bitmap");
    };
    let write = || {
        bench.write(&["b", "c", "d"]);
        guest.sh("dd if=/dev/urandom of=/dev/vde bs=64k seek=3 count=2; sync");
    };
    write();
    check(bench.backup(&[]));
    // The second disk of a cloud image, its seed, is what makes others' backups fail after this.
    write();
    guest.shutdown();
    check(bench.backup(&[]));
    guest.boot();
    write();
    guest.virsh("change-media", &["sda", "--eject"]);
    check(bench.backup(&[]));
    guest.virsh("change-media", &["sda", text(&iso), "--insert"]);
    check(bench.backup(&[]));
}

#[test]
fn disks_come_and_go() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(48)]);
    let mut bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    // Plugged in while it runs, and out, and in again.
    let hot = host.lab.path("hot.qcow2");
    tool("qemu-img", &["create", "-f", "qcow2", text(&hot), "16M"]);
    let plug = || {
        let words = [text(&hot), "vdc", "--subdriver", "qcow2", "--live"];
        guest.virsh("attach-disk", &words);
        let there = || guest.try_sh("test -b /dev/vdc").0 == 0;
        assert!(within(30, there), "it is not plugged in");
        guest.sh("dd if=/dev/urandom of=/dev/vdc bs=64k seek=10 count=10; sync");
    };
    let unplug = || {
        guest.virsh("detach-disk", &["vdc", "--live"]);
        let gone = || !guest.virsh("domblklist", &[]).contains("vdc");
        assert!(within(30, gone), "it is not unplugged");
    };
    let disk = ("vdc".to_owned(), hot.clone());
    plug();
    bench.disks.push(disk.clone());
    let report = bench.backup(&[]);
    report.says("vdc", "does not have this disk");
    assert_eq!((report.from("vda"), report.from("vdc")), ("bitmap", "all"), "{:#}", report.0);
    bench.backup_from("bitmap", &[]);
    unplug();
    tool("qemu-io", &["-c", "write -P 5 0 1M", text(&hot)]);
    plug();
    bench.backup_from("bitmap", &[]);
    unplug();
    bench.disks.pop();
    bench.backup_from("bitmap", &[]);
    plug();
    bench.disks.push(disk);
    let report = bench.backup(&[]);
    assert_eq!((report.from("vda"), report.from("vdc")), ("bitmap", "all"), "{:#}", report.0);
    unplug();
    bench.disks.pop();
    bench.backup_from("bitmap", &[]);

    // Two disks change places, by their description.
    guest.shutdown();
    let (a, b) = (bench.disks[0].1.clone(), bench.disks[1].1.clone());
    let xml = guest.virsh("dumpxml", &["--inactive"]);
    let swapped = xml.replace(text(&a), "AAA").replace(text(&b), text(&a)).replace("AAA", text(&b));
    let file = host.lab.path("swapped.xml");
    fs::write(&file, swapped).unwrap();
    host.virsh(&["define", text(&file)]);
    bench.disks = vec![("vda".to_owned(), b.clone()), ("vdb".to_owned(), a.clone())];
    let report = bench.backup_from("all", &[]);
    report.says("vda", "is not the disk of the last point");
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    // And by their files: moved, and copied over each other with the bitmaps of the same names.
    guest.shutdown();
    let aside = host.lab.path("aside");
    fs::rename(&a, &aside).unwrap();
    fs::rename(&b, &a).unwrap();
    fs::rename(&aside, &b).unwrap();
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    fs::copy(&a, &aside).unwrap();
    fs::copy(&b, &a).unwrap();
    fs::copy(&aside, &b).unwrap();
    let report = bench.backup_from("all", &[]);
    report.says("vda", "a sample showed");
    report.says("vdb", "a sample showed");
    guest.boot();
    bench.backup(&[]);
    bench.backup_from("bitmap", &[]);
}

#[test]
fn what_is_discarded_costs_nothing() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(256).blank()]);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    guest.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=40; sync");
    bench.backup_from("all", &[]);
    guest.sh(
        "dd if=/dev/zero of=/dev/vdb bs=1M seek=2 count=2; blkdiscard -o 4194304 /dev/vdb; sync",
    );
    let report = bench.backup_from("bitmap", &[]);
    assert!(report.disk("vdb")["changed_bytes"].as_u64().unwrap() >= 36 << 20, "{:#}", report.0);
    assert!(report.disk("vdb")["read_bytes"].as_u64().unwrap() < 8 << 20, "{:#}", report.0);
    assert!(report.disk("vdb")["stored_bytes"].as_u64().unwrap() < 64 << 10, "{:#}", report.0);
    bench.backup_from("bitmap", &[]);
}

/// Runs the program and tells how many bytes of memory it had at most.
fn peak(bench: &Bench<'_>, words: &[&str]) -> (Report, u64) {
    let mut child = bench.host.strongroom_start(&[words, &["--output", "json"]].concat());
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    within(300, || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        most = most.max(kib.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0));
        child.try_wait().expect("waited for").is_some()
    });
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (Report(serde_json::from_slice(&output.stdout).unwrap()), most << 10)
}

#[test]
fn a_huge_disk() {
    if !long() {
        return;
    }
    let host = Host::new();
    let huge = host.lab.path("huge.qcow2");
    tool("qemu-img", &["create", "-f", "qcow2", text(&huge), "2T"]);
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::image(&huge, "qcow2")]);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    // Little, all over the disk.
    let scatter = |seed: u32| {
        guest.sh(&format!(
            "for i in $(seq 0 39); do dd if=/dev/urandom of=/dev/vdb bs=64k count=1 \
             seek=$((i * 800000 + {seed})) conv=notrunc 2>/dev/null; done; sync"
        ));
    };
    scatter(0);
    let words = ["backup", "--vm", "web"];
    let (first, memory) = peak(&bench, &words);
    println!("first: {} s, {memory} bytes of memory", first.0["seconds"]);
    assert!(first.0["seconds"].as_f64().unwrap() < 60.0, "{:#}", first.0);
    assert!(memory < 1 << 30, "{memory}");
    scatter(1);
    let (second, memory) = peak(&bench, &words);
    println!("second: {} s, {memory} bytes of memory", second.0["seconds"]);
    assert_eq!(second.from("vdb"), "bitmap", "{:#}", second.0);
    assert_eq!(second.disk("vdb")["changed_bytes"], 40 << 16, "{:#}", second.0);
    assert!(second.0["seconds"].as_f64().unwrap() < 60.0, "{:#}", second.0);
    assert!(memory < 1 << 30, "{memory}");
    guest.suspend();
    let folder = host.lab.path("restored");
    let point = second.0["recovery_point"].as_str().unwrap();
    let to = text(&folder);
    bench.json(&["restore", "disks", "--item", "web", "--recovery-point", point, "--to", to]);
    // A comparison of all of it would take an hour.
    let read = |image: &Path, format: &str| {
        let mut words = vec!["-U".to_owned(), "-r".to_owned(), "-f".to_owned(), format.to_owned()];
        for i in 0..40_u64 {
            let at = i * 800_000 * 65536;
            words.extend(["-c".to_owned(), format!("read -v {at} 131072")]);
        }
        words.push(text(image).to_owned());
        let said = tool("qemu-io", &words.iter().map(String::as_str).collect::<Vec<_>>());
        let lines = said.lines().filter(|line| line.contains(":  "));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let (there, back) = (read(&huge, "qcow2"), read(&folder.join("vdb.raw"), "raw"));
    assert_eq!(there.len(), 40 * 131_072 / 16);
    assert!(there == back, "what was written did not come back");
}

#[test]
fn disks_on_block_devices() {
    if !long() {
        return;
    }
    let host = Host::new();
    let device = |name: &str| {
        let file = host.lab.path(name);
        fs::File::create(&file).unwrap().set_len(32 << 20).unwrap();
        let run = try_tool("losetup", &["--find", "--show", text(&file)]);
        (run.code == 0).then(|| Loop(run.stdout.trim().to_owned()))
    };
    let (Some(raw), Some(qcow2)) = (device("raw.loop"), device("qcow2.loop")) else {
        println!("not tried: loop devices need root");
        return;
    };
    tool("qemu-img", &["create", "-f", "qcow2", &qcow2.0, "16M"]);
    let disk = |device: &Loop, format: &str, target: &str| {
        format!(
            "<disk type='block' device='disk'><driver name='qemu' type='{format}'/>
             <source dev='{}'/><target dev='{target}' bus='virtio'/></disk>",
            device.0
        )
    };
    let guest = Guest::named("web")
        .disk(Disk::qcow2(48))
        .xml(&disk(&raw, "raw", "vdb"))
        .xml(&disk(&qcow2, "qcow2", "vdc"))
        .create(&host);
    let mut bench = Bench::new(&host, &guest, 1);
    bench.disks.push(("vdb".to_owned(), PathBuf::from(&raw.0)));
    bench.disks.push(("vdc".to_owned(), PathBuf::from(&qcow2.0)));
    let write = || {
        for disk in ["vdb", "vdc"] {
            guest.sh(&format!("dd if=/dev/urandom of=/dev/{disk} bs=64k seek=9 count=5; sync"));
        }
    };
    guest.boot();
    write();
    bench.backup_from("all", &[]);
    for running in [true, false, true] {
        if !running {
            guest.shutdown();
        } else if guest.state() == "shut off" {
            guest.boot();
            write();
        }
        let report = bench.backup(&[]);
        assert_eq!((report.from("vdb"), report.from("vdc")), ("all", "bitmap"), "{:#}", report.0);
        report.says("vdb", "a raw disk holds no bitmap");
    }
}

/// A loop device, detached when it is dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        try_tool("losetup", &["--detach", &self.0]);
    }
}
