//! What makes other programs' incremental backups wrong, or never work again: docs/machines.md
//! has the list.
//!
//! After each misfortune the restored point is compared with the disks themselves, byte by byte,
//! and the backup after it must be incremental again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    after::long,
    check::assert_same_disk,
    guest::{Disk, Guest},
    harness::{Host, Run, tool, try_tool, within},
};

/// A machine, its images by target, and the vault that it is backed up to.
struct Bench<'a> {
    host: &'a Host,
    guest: &'a Guest<'a>,
    disks: Vec<(String, PathBuf)>,
    vault: &'static str,
}

impl<'a> Bench<'a> {
    /// With disks vda, vdb and so on.
    fn new(host: &'a Host, guest: &'a Guest<'a>, count: usize) -> Self {
        let disks = ('a'..).take(count).map(|letter| {
            let target = format!("vd{letter}");
            let path = guest.disk_path(&target).to_owned();
            (target, path)
        });
        Self { host, guest, disks: disks.collect(), vault: "vault" }
    }

    fn strongroom(&self, words: &[&str]) -> Run {
        let mut command = self.host.command(words);
        command.env("STRONGROOM_VAULT", self.vault);
        Run::of(&command.output().expect("the program starts"))
    }

    fn json(&self, words: &[&str]) -> Value {
        let run = self.strongroom(&[words, &["--output", "json"]].concat());
        assert_eq!(run.code, 0, "strongroom {words:?}\n{}{}", run.stdout, run.stderr);
        serde_json::from_str(&run.stdout).expect("JSON on standard output")
    }

    /// A backup that fails like this, and what it says.
    fn fails(&self, words: &[&str], code: &str) -> String {
        let words = [&["backup", "--vm", "web", "--output", "json"], words].concat();
        let run = self.strongroom(&words);
        assert_ne!(run.code, 0, "{words:?}\n{}", run.stdout);
        let start = run.stderr.find('{').unwrap_or_else(|| panic!("{}", run.stderr));
        let error: Value = serde_json::from_str(&run.stderr[start..]).expect("JSON");
        assert_eq!(error["error"]["code"], code, "{error:#}");
        error["error"]["message"].as_str().unwrap().to_owned()
    }

    /// Backs up the machine, which is paused meanwhile if it runs; what is restored must be what
    /// its disks are. Of our checkpoints and bitmaps only the point's may be left.
    fn backup(&self, words: &[&str]) -> Report {
        let running = self.guest.state() == "running";
        if running {
            self.guest.suspend();
        }
        let report = Report(self.json(&[&["backup", "--vm", "web"], words].concat()));
        let point = report.0["recovery_point"].as_str().unwrap();
        let folder = self.host.lab.path(&format!("restored-{point}"));
        let to = folder.display().to_string();
        self.json(&["restore", "disks", "--item", "web", "--recovery-point", point, "--to", &to]);
        for (target, path) in &self.disks {
            assert_same_disk(&folder.join(format!("{target}.raw")), path);
        }
        fs::remove_dir_all(&folder).unwrap();
        self.assert_tidy(&report);
        if running {
            self.guest.resume();
        }
        report
    }

    /// A backup in which every disk's changes came from here: `bitmap` or `all`.
    fn backup_from(&self, from: &str, words: &[&str]) -> Report {
        let report = self.backup(words);
        for (target, _) in &self.disks {
            assert_eq!(report.from(target), from, "{:#}", report.0);
        }
        report
    }

    /// Of our checkpoints and bitmaps, only those of this point are left.
    fn assert_tidy(&self, report: &Report) {
        let checkpoint = report.0["checkpoint"].as_str();
        if self.guest.state() == "shut off" {
            // Nothing in the images is changed then.
            return;
        }
        let run = self.host.try_virsh(&["backup-dumpxml", "web"]);
        assert_ne!(run.code, 0, "a job is left");
        let known = self.guest.virsh("checkpoint-list", &["--name"]);
        let ours: Vec<_> = known.lines().filter(|name| self.is_ours(name)).collect();
        assert_eq!(ours, checkpoint.into_iter().collect::<Vec<_>>());
        for (target, path) in &self.disks {
            for bitmap in bitmaps(self.guest, path) {
                let good = !self.is_ours(&bitmap) || Some(bitmap.as_str()) == checkpoint;
                assert!(good, "{target} has bitmap {bitmap}, but {checkpoint:?} is the point's");
            }
        }
    }

    /// Whether a checkpoint or bitmap is of this vault.
    fn is_ours(&self, name: &str) -> bool {
        name.starts_with(&self.prefix())
    }

    /// The beginning of the names of this vault's checkpoints.
    fn prefix(&self) -> String {
        let config = self.strongroom(&["vault", "show", "--output", "json"]).stdout;
        let config: Value = serde_json::from_str(&config).unwrap();
        let id = config["vault"].as_str().unwrap().to_ascii_lowercase();
        format!("strongroom-{}-", &id[id.len() - 8..])
    }

    /// Writes in the guest, so that the next backup has something to find.
    fn write(&self, folders: &[&str]) {
        for folder in folders {
            self.guest.sh(&format!(
                "dd if=/dev/urandom of=/data/{folder}/new bs=64k count=4 2>/dev/null; sync"
            ));
        }
    }
}

struct Report(Value);

impl Report {
    fn disk(&self, target: &str) -> &Value {
        let mut disks = self.0["disks"].as_array().unwrap().iter();
        disks.find(|disk| disk["name"] == target).unwrap_or_else(|| panic!("{:#}", self.0))
    }

    fn from(&self, target: &str) -> &str {
        self.disk(target)["changes_from"].as_str().unwrap()
    }

    fn unexpected(&self, target: &str) -> u64 {
        self.disk(target)["unexpected_blocks"].as_u64().unwrap()
    }

    /// A disk's notes must say this.
    fn says(&self, target: &str, words: &str) {
        let notes = self.disk(target)["notes"].to_string();
        assert!(notes.contains(words), "{words:?} is not in {:#}", self.0);
    }

    fn checkpoint(&self) -> &str {
        self.0["checkpoint"].as_str().unwrap()
    }
}

/// Names of the bitmaps of an image: by QEMU, or in the file if the machine is off.
fn bitmaps(guest: &Guest<'_>, path: &Path) -> Vec<String> {
    let list = if guest.state() == "shut off" {
        let info = tool("qemu-img", &["info", "-U", "--output=json", text(path)]);
        let info: Value = serde_json::from_str(&info).unwrap();
        info["format-specific"]["data"]["bitmaps"].clone()
    } else {
        let query = json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}});
        let nodes = guest.virsh("qemu-monitor-command", &[&query.to_string()]);
        let nodes: Value = serde_json::from_str(&nodes).unwrap();
        let mut nodes = nodes["return"].as_array().unwrap().iter();
        let node = nodes.find(|node| node["file"] == text(path) && node["drv"] == "qcow2");
        node.map_or(Value::Null, |node| node["dirty-bitmaps"].clone())
    };
    let list = list.as_array().cloned().unwrap_or_default();
    let names = list.iter().filter_map(|bitmap| bitmap["name"].as_str().map(ToOwned::to_owned));
    names.collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Overwrites the last clusters of data of a qcow2 image as no QEMU would: its bitmaps do not know.
fn write_behind(image: &Path, clusters: usize) {
    let map = tool("qemu-img", &["map", "--output=json", text(image)]);
    let map: Value = serde_json::from_str(&map).unwrap();
    let mut places = Vec::new();
    for part in map.as_array().unwrap().iter().filter(|part| part["data"] == true) {
        let (offset, length) = (part["offset"].as_u64().unwrap(), part["length"].as_u64().unwrap());
        places.extend((0..length / 65536).map(|cluster| offset + cluster * 65536));
    }
    for place in places.iter().rev().take(clusters) {
        let seek = format!("seek={}", place / 512);
        let of = format!("of={}", image.display());
        tool("dd", &["if=/dev/urandom", &of, "bs=512", "count=1", "conv=notrunc", &seek]);
    }
}

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
fn bitmaps_that_a_crash_left() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(48)).create(&host);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    guest.wait_records(3);
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    // The bitmap was never written to the image.
    guest.kill_qemu();
    let off = bench.backup_from("all", &[]);
    off.says("vda", "has no bitmap");
    guest.boot();
    bench.backup_from("all", &[]);
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
    // Now it was, and is out of date.
    guest.shutdown();
    guest.boot();
    guest.wait_records(3);
    guest.kill_qemu();
    let off = bench.backup_from("all", &[]);
    off.says("vda", "inconsistent");
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    // The same without a backup while it is off.
    guest.shutdown();
    guest.boot();
    guest.kill_qemu();
    guest.boot();
    let on = bench.backup_from("all", &[]);
    on.says("vda", "inconsistent");
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
}

/// A machine with a second disk that the guest does not touch by itself, and its image.
fn with_an_image_of_data(host: &Host) -> (Guest<'_>, PathBuf) {
    let image = host.lab.path("image.qcow2");
    tool("qemu-img", &["create", "-f", "qcow2", text(&image), "32M"]);
    tool("qemu-io", &["-c", "write -P 9 0 24M", text(&image)]);
    let machine = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::image(&image, "qcow2"));
    (machine.create(host), image)
}

#[test]
fn content_that_changed_behind_the_bitmap() {
    let host = Host::new();
    let (guest, image) = with_an_image_of_data(&host);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    guest.shutdown();
    bench.backup_from("bitmap", &[]);

    // Much of it: a sample finds that.
    write_behind(&image, 24);
    let report = bench.backup(&[]);
    assert_eq!(report.from("vdb"), "all", "{:#}", report.0);
    assert!(report.unexpected("vdb") >= 20, "{:#}", report.0);
    report.says("vdb", "a sample showed");
    bench.backup_from("bitmap", &[]);
    // A single block: only a full compare finds it for certain.
    write_behind(&image, 1);
    let report = bench.backup(&["--full-compare-every", "1"]);
    assert_eq!(report.unexpected("vdb"), 1, "{:#}", report.0);
    guest.boot();
    bench.backup_from("bitmap", &[]);
}

#[test]
fn images_rolled_back_or_replaced() {
    let host = Host::new();
    let (guest, image) = with_an_image_of_data(&host);
    let bench = Bench::new(&host, &guest, 2);
    let write = || guest.sh("dd if=/dev/urandom of=/dev/vdb bs=64k seek=350 count=3; sync");
    let old = host.lab.path("old.qcow2");
    guest.boot();
    bench.backup_from("all", &[]);
    guest.shutdown();
    // The storage is rolled back, and the bitmap with it.
    fs::copy(&image, &old).unwrap();
    tool("qemu-io", &["-c", "write -P 1 8M 1M", text(&image)]);
    fs::copy(&old, &image).unwrap();
    bench.backup_from("bitmap", &[]);
    // The same with a point in between, which has what the rolled back bitmap does not know.
    tool("qemu-io", &["-c", "write -P 2 12M 256k", text(&image)]);
    bench.backup_from("bitmap", &[]);
    fs::copy(&old, &image).unwrap();
    bench.backup_from("bitmap", &[]);
    // And with points in between that have bitmaps of their own.
    guest.boot();
    write();
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    fs::copy(&old, &image).unwrap();
    let report = bench.backup(&[]);
    report.says("vdb", "has no bitmap");
    guest.boot();
    assert_eq!(bench.backup(&[]).from("vdb"), "all");
    write();
    bench.backup_from("bitmap", &[]);
    guest.shutdown();

    // Another file under the same name.
    fs::copy(&image, &old).unwrap();
    tool("qemu-io", &["-c", "write -P 3 16M 1M", text(&old)]);
    fs::rename(&old, &image).unwrap();
    let report = bench.backup(&[]);
    report.says("vdb", "is not the disk of the last point");
    guest.boot();
    assert_eq!(bench.backup(&[]).from("vdb"), "all");
    write();
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    // The same content without any bitmap.
    tool("qemu-img", &["convert", "-O", "qcow2", text(&image), text(&old)]);
    fs::copy(&old, &image).unwrap();
    let report = bench.backup(&[]);
    report.says("vdb", "has no bitmap");
    guest.boot();
    assert_eq!(bench.backup(&[]).from("vdb"), "all");
    write();
    bench.backup_from("bitmap", &[]);
}

#[test]
fn images_that_no_bitmap_knows_of() {
    let host = Host::new();
    // Its content is partly in an image under it.
    let base = host.lab.path("base.qcow2");
    tool("qemu-img", &["create", "-f", "qcow2", text(&base), "16M"]);
    tool("qemu-io", &["-c", "write -P 1 0 16M", text(&base)]);
    let top = host.lab.path("top.qcow2");
    let words = ["create", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&top)];
    tool("qemu-img", &words);
    let guest =
        Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::image(&top, "qcow2")).create(&host);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    bench.backup_from("bitmap", &[]);
    // One cluster of the image under it.
    write_behind(&base, 1);
    let report = bench.backup(&[]);
    report.says("vdb", "the images under it");
    assert_eq!((report.from("vda"), report.from("vdb")), ("bitmap", "all"), "{:#}", report.0);
    guest.boot();
    bench.backup(&[]);
    bench.backup_from("bitmap", &[]);

    // Shorter and longer again: what was cut off is zeros then, and no bitmap says so.
    guest.virsh("blockresize", &["vdb", "16320k"]);
    guest.virsh("blockresize", &["vdb", "16M"]);
    let report = bench.backup(&[]);
    report.says("vdb", "a sample showed");
    assert_eq!((report.from("vda"), report.unexpected("vdb")), ("bitmap", 1), "{:#}", report.0);
    bench.backup_from("bitmap", &[]);
    guest.virsh("blockresize", &["vdb", "20M"]);
    guest.sh("dd if=/dev/urandom of=/dev/vdb bs=64k seek=300 count=2; sync");
    bench.backup_from("bitmap", &[]);
    guest.virsh("blockresize", &["vdb", "12M"]);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    tool("qemu-img", &["resize", text(&top), "24M"]);
    bench.backup_from("bitmap", &[]);
    tool("qemu-img", &["resize", "--shrink", text(&top), "8M"]);
    bench.backup_from("bitmap", &[]);
    tool("qemu-img", &["resize", "--shrink", text(&top), "4M"]);
    tool("qemu-img", &["resize", text(&top), "8M"]);
    let report = bench.backup(&[]);
    report.says("vdb", "a sample showed");
    guest.boot();
    bench.backup_from("bitmap", &[]);
}

#[test]
fn other_programs_and_other_vaults() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(48)).create(&host);
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
    let guest = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(48)).create(&host);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    let first = bench.backup_from("all", &[]);
    // While it runs.
    guest.virsh("checkpoint-delete", &[first.checkpoint(), "--metadata"]);
    guest.wait_records(3);
    let report = bench.backup_from("bitmap", &[]);
    assert!(report.0["notes"].to_string().contains("made known again"), "{:#}", report.0);
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
    let guest = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(48)).create(&host);
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
        assert_eq!(report.0["notes"].to_string().contains("made known again"), known);
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
    bench.json(&["recoverypoint", "delete", "--item", "web", "--recovery-point", newest]);
    transient(false);
    transient(true);
}

#[test]
fn backups_that_fail_after_their_checkpoint_was_made() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::qcow2(48)).create(&host);
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

#[test]
fn disks_come_and_go() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(48)).create(&host);
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
fn snapshots_and_saved_memory() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(48)).create(&host);
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
    let guest = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(48)).create(&host);
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
fn what_is_discarded_costs_nothing() {
    let host = Host::new();
    let guest =
        Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::qcow2(256).blank()).create(&host);
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

#[test]
fn scratch_that_qemu_cannot_write() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).create(&host);
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
    let guest = Guest::named("web").disk(Disk::qcow2(48)).create(&host);
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
    let guest =
        Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::image(&huge, "qcow2")).create(&host);
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
