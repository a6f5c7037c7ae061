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
    check::assert_same_disk,
    guest::{Disk, Guest},
    harness::{Host, Run, tool},
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
        let config = self.strongroom(&["vault", "show", "--output", "json"]).stdout;
        let config: Value = serde_json::from_str(&config).unwrap();
        let id = config["vault"].as_str().unwrap().to_ascii_lowercase();
        name.starts_with(&format!("strongroom-{}", &id[id.len() - 8..]))
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

fn is_long() -> bool {
    let long = std::env::var_os("STRONGROOM_LONG").is_some();
    if !long {
        println!("not tried: set STRONGROOM_LONG=1, as scripts/test --long does");
    }
    long
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
        .disk(Disk::qcow2(48).options("cluster_size=4096"))
        .disk(Disk::qcow2(64).options("cluster_size=2M"))
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
    let excluded = shown["excluded"].to_string();
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

#[test]
fn content_that_changed_behind_the_bitmap() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(48)).create(&host);
    let bench = Bench::new(&host, &guest, 1);
    let image = guest.disk_path("vda").to_owned();
    let old = host.lab.path("old.qcow2");
    guest.boot();
    guest.wait_records(3);
    bench.backup_from("all", &[]);
    guest.shutdown();
    bench.backup_from("bitmap", &[]);

    // Much of it: a sample finds that.
    write_behind(&image, 24);
    let report = bench.backup(&[]);
    assert_eq!(report.from("vda"), "all", "{:#}", report.0);
    assert!(report.unexpected("vda") >= 20, "{:#}", report.0);
    report.says("vda", "a sample showed");
    bench.backup_from("bitmap", &[]);
    // A single block: only a full compare finds it for certain.
    write_behind(&image, 1);
    let report = bench.backup_from("all", &["--full-compare-every", "1"]);
    assert_eq!(report.unexpected("vda"), 1, "{:#}", report.0);

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
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    fs::copy(&old, &image).unwrap();
    let report = bench.backup_from("all", &[]);
    report.says("vda", "has no bitmap");
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();

    // Another file under the same name.
    fs::copy(&image, &old).unwrap();
    tool("qemu-io", &["-c", "write -P 3 16M 1M", text(&old)]);
    fs::rename(&old, &image).unwrap();
    let report = bench.backup_from("all", &[]);
    report.says("vda", "is not the disk of the last point");
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    // The same content without any bitmap.
    tool("qemu-img", &["convert", "-O", "qcow2", text(&image), text(&old)]);
    fs::copy(&old, &image).unwrap();
    let report = bench.backup_from("all", &[]);
    report.says("vda", "has no bitmap");
    guest.boot();
    bench.backup_from("all", &[]);
    guest.wait_records(3);
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
    // With no definition at all, made at each start.
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
