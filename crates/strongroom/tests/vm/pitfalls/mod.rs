//! What makes other programs' incremental backups wrong, or never work again: docs/use/machines.md
//! has the list.
//!
//! After each misfortune the restored point is compared with the disks themselves, byte by byte,
//! and the backup after it must be incremental again.

mod bitmaps;
mod checkpoints;
mod disks;
mod machines;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    after::failed,
    check::assert_same_disk,
    guest::Guest,
    harness::{Host, Run, tool},
};
use serde_json::{Value, json};

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
        failed(&self.strongroom(&words), code)
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
