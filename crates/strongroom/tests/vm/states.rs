//! Machines without a guest, in states of their images and definitions that are easily guessed wrong.

use std::{
    fmt::Write as _,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    after::{failed, long},
    documented::assert_documented,
    harness::{Host, Mounted, tool},
};

/// A machine that starts nothing.
struct Machine<'a> {
    host: &'a Host,
    name: &'static str,
    uuid: u8,
}

impl<'a> Machine<'a> {
    fn new(host: &'a Host, name: &'static str) -> Self {
        Self { host, name, uuid: 1 }
    }

    /// Defines it with these devices.
    fn define(&self, devices: &str) {
        let xml = format!(
            "<domain type='qemu'><name>{}</name><uuid>0a1b2c3d-0001-4fff-8000-0000000000{:02x}</uuid>\
             <memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices>{devices}<memballoon model='none'/></devices></domain>",
            self.name, self.uuid
        );
        let file = self.host.lab.path("machine.xml");
        fs::write(&file, xml).unwrap();
        self.host.virsh(&["define", text(&file)]);
    }

    fn start(&self) {
        self.host.virsh(&["start", self.name]);
    }

    fn destroy(&self) {
        self.host.virsh(&["destroy", self.name]);
    }

    fn backup(&self, more: &[&str]) -> Value {
        let words = ["backup", "--vm", self.name, "--consistency", "crash"];
        self.host.json(&[&words[..], more].concat())
    }

    fn fails(&self, more: &[&str], code: &str) -> String {
        let words = ["backup", "--vm", self.name, "--output", "json"];
        failed(&self.host.strongroom(&[&words[..], more].concat()), code)
    }

    /// Backs it up, and gives what vda is then.
    fn vda(&self, more: &[&str]) -> Vec<u8> {
        self.backup(more);
        let out = self.host.lab.path("out");
        let words = ["restore", "disks", "--item", self.name, "--recovery-point", "latest"];
        self.host.json(&[&words[..], &["--format", "raw", "--to", text(&out)]].concat());
        let bytes = fs::read(out.join("vda.raw")).unwrap();
        fs::remove_dir_all(&out).unwrap();
        bytes
    }

    /// The verdict of `vm check`, and all that it says.
    fn check(&self) -> (String, String) {
        let words = ["vm", "check", self.name, "--output", "json"];
        let run = self.host.strongroom(&words);
        let found: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let machine = &found["machines"][0];
        let verdict = machine["verdict"].as_str().unwrap().to_owned();
        assert_eq!(run.code, if verdict == "red" { 4 } else { 0 });
        (verdict, machine["findings"].to_string())
    }

    fn assert_red(&self, words: &str) {
        let (verdict, findings) = self.check();
        assert!(verdict == "red" && findings.contains(words), "{verdict} {words}: {findings}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk with the file as its source, and further elements.
fn disk(format: &str, file: &Path, more: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
         <source file='{}'/>{more}<target dev='vda' bus='virtio'/></disk>",
        file.display()
    )
}

/// A raw file of 1 MiB that begins with this letter.
fn letter(host: &Host, letter: u8) -> PathBuf {
    let path = host.lab.path(&format!("{}.raw", char::from(letter)));
    let file = File::create(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&vec![letter; 65536], 0).unwrap();
    path
}

fn begins(bytes: &[u8]) -> char {
    char::from(bytes[0])
}

#[test]
fn what_the_definition_says_decides() {
    let host = Host::new();
    let web = Machine::new(&host, "web");
    let (a, b, top) = (letter(&host, b'A'), letter(&host, b'B'), host.lab.path("top.qcow2"));
    let store = |file: &Path| {
        format!(
            "<backingStore type='file'><format type='raw'/><source file='{}'/><backingStore/>\
             </backingStore>",
            file.display()
        )
    };
    // The header names A, the definition B; running first, so that there is something to build on.
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&a), "-F", "raw", text(&top)]);
    web.define(&disk("qcow2", &top, &store(&b)));
    web.start();
    assert_eq!(begins(&web.vda(&[])), 'B');
    web.destroy();
    let off = web.backup(&[]);
    assert_eq!(off["disks"][0]["unexpected_blocks"].as_u64().unwrap_or(0), 0, "{off:#}");
    // It is the same disk: nothing but the sample was read.
    assert_eq!(off["disks"][0]["changes_from"], "bitmap", "{off:#}");
    assert_eq!(begins(&web.vda(&["--check-clean", "all"])), 'B');
    // Another is noticed, and so is the end of the chain.
    web.define(&disk("qcow2", &top, &store(&a)));
    assert_eq!(begins(&web.vda(&[])), 'A');
    web.define(&disk("qcow2", &top, "<backingStore/>"));
    assert_eq!(begins(&web.vda(&[])), '\0');
    // A header without a format, and one that names a file which is not there.
    web.define(&disk("qcow2", &top, ""));
    tool("qemu-img", &["rebase", "-u", "-b", text(&b), "-F", "raw", text(&top)]);
    let missing = host.lab.path("missing.raw");
    tool("qemu-img", &["rebase", "-u", "-b", text(&missing), "-F", "raw", text(&top)]);
    web.assert_red("missing.raw");
    assert!(web.fails(&[], "disk.not_found").contains("missing.raw"));
    web.define(&disk("qcow2", &top, &store(&b)));
    assert_eq!(web.check().0, "amber");
    assert_eq!(begins(&web.vda(&[])), 'B');

    // A part of a file.
    let whole = host.lab.disk("whole.raw", 6, 6, 7);
    let slice = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'><slices>\
         <slice type='storage' offset='1048576' size='2097152'/></slices></source>\
         <target dev='vda' bus='virtio'/></disk>",
        whole.display()
    );
    web.define(&slice);
    let want = fs::read(&whole).unwrap()[1 << 20..3 << 20].to_vec();
    assert!(web.vda(&[]) == want, "off");
    web.start();
    assert!(web.vda(&[]) == want, "running");
    web.destroy();

    // A VHD, whose size is what its geometry says to QEMU.
    let vhd = host.lab.path("d.vhd");
    tool("qemu-img", &["create", "-q", "-f", "vpc", text(&vhd), "16M"]);
    tool("qemu-io", &["-f", "vpc", "-c", "write -P 9 1M 64k", text(&vhd)]);
    web.define(&disk("vpc", &vhd, ""));
    let off = web.vda(&[]);
    web.start();
    assert!(web.vda(&[]) == off && off[1 << 20] == 9);
    web.destroy();
}

#[test]
fn disks_that_only_qemu_reads_or_libvirt_refuses() {
    let host = Host::new();
    let web = Machine::new(&host, "web");
    // A name that is no file, as QEMU writes it itself.
    let base = host.lab.disk("base.raw", 2, 2, 3);
    let top = host.lab.path("top.qcow2");
    let name = format!(
        "json:{{\"driver\":\"raw\",\"offset\":1048576,\"size\":1048576,\
         \"file\":{{\"driver\":\"file\",\"filename\":\"{}\"}}}}",
        base.display()
    );
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &name, "-F", "raw", text(&top)]);
    web.define(&disk("qcow2", &top, ""));
    web.assert_red("--start-paused");
    assert!(web.fails(&[], "vm.unsupported").contains("--start-paused"));
    let want = fs::read(&base).unwrap()[1 << 20..].to_vec();
    assert!(web.vda(&["--start-paused"]) == want);
    let alone = format!("d={}", top.display());
    let run =
        ["backup", "--item", "d", "--disk", &alone, "--allow-backing", "/", "--output", "json"];
    failed(&host.strongroom(&run), "disk.needs_qemu");
    let vdi = host.lab.path("d.vdi");
    tool("qemu-img", &["create", "-q", "-f", "vdi", text(&vdi), "1M"]);
    web.define(&disk("vdi", &vdi, ""));
    web.assert_red("vdi");

    // What a check says of a machine that is off is what a backup does.
    let junk = host.lab.disk("junk", 1, 1, 4);
    for (format, file, code) in
        [("qcow2", &junk, "disk.format"), ("raw", &host.lab.path("gone"), "disk.not_found")]
    {
        web.define(&disk(format, file, ""));
        web.assert_red(text(file));
        web.fails(&[], code);
    }
}

#[test]
fn disks_that_are_left_out_and_volumes_of_pools() {
    let host = Host::new();
    let web = Machine::new(&host, "web");
    // A transient disk and one that need not be there are left out, and the others are backed up.
    let good = host.lab.path("good.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&good), "1M"]);
    let other = host.lab.path("other.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&other), "1M"]);
    let second = |file: &Path, source: &str, more: &str| {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
             <source file='{}'{source}/><target dev='vdb' bus='virtio'/>{more}</disk>",
            file.display()
        )
    };
    let first = disk("qcow2", &good, "");
    let optional = second(&host.lab.path("gone"), " startupPolicy='optional'", "");
    web.define(&format!("{first}{optional}"));
    assert_eq!(web.check().0, "amber");
    let report = web.backup(&[]);
    assert_eq!(report["disks"].as_array().unwrap().len(), 1, "{report:#}");
    web.define(&format!("{first}{}", second(&other, "", "<transient/>")));
    for is_running in [false, true] {
        if is_running {
            web.start();
        }
        let (verdict, findings) = web.check();
        assert!(
            verdict == "amber" && findings.contains("lost when the machine stops"),
            "{findings}"
        );
        assert_eq!(web.backup(&[])["disks"].as_array().unwrap().len(), 1);
    }
    web.destroy();

    // A volume of a pool is its file.
    let pool = host.lab.path("pool");
    fs::create_dir(&pool).unwrap();
    let volume = pool.join("v.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&volume), "1M"]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 5 0 64k", text(&volume)]);
    host.virsh(&["pool-define-as", "images", "dir", "--target", text(&pool)]);
    host.virsh(&["pool-start", "images"]);
    web.define(
        "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>\
         <source pool='images' volume='v.qcow2'/><target dev='vda' bus='virtio'/></disk>",
    );
    assert_eq!(web.check().0, "amber");
    assert_eq!(web.vda(&[])[0], 5);
    web.start();
    web.backup(&[]);
    let report = web.backup(&[]);
    assert_eq!(report["disks"][0]["changes_from"], "bitmap", "{report:#}");
    web.destroy();
    let report = web.backup(&[]);
    assert_eq!(report["disks"][0]["changes_from"], "bitmap", "{report:#}");
    host.virsh(&["pool-destroy", "images"]);
    host.virsh(&["pool-undefine", "images"]);
}

#[test]
fn names_and_checkpoints() {
    let host = Host::new();
    let image = |name: &str| {
        let path = host.lab.path(name);
        tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "32M"]);
        tool("qemu-io", &["-f", "qcow2", "-c", "write -P 9 1M 8M", text(&path)]);
        path
    };
    let from = |report: &Value| report["disks"][0]["changes_from"].as_str().unwrap().to_owned();

    // Two machines whose names were one once.
    let (spaced, plain) =
        (Machine::new(&host, "shop db"), Machine { uuid: 2, ..Machine::new(&host, "shop_db") });
    spaced.define(&disk("qcow2", &image("spaced.qcow2"), ""));
    plain.define(&disk("qcow2", &image("plain.qcow2"), ""));
    assert_eq!(spaced.backup(&[])["item"], "shop db");
    assert_eq!(plain.backup(&[])["item"], "shop_db");
    host.json(&["recoverypoint", "list", "--item", "shop db"]);
    // Another machine of the same name.
    host.virsh(&["undefine", "shop_db"]);
    let other = Machine { uuid: 3, ..Machine::new(&host, "shop_db") };
    other.define(&disk("qcow2", &host.lab.path("plain.qcow2"), ""));
    assert!(other.fails(&[], "item.exists").contains("--item"));
    let made_anew = other.backup(&["--item", "shop_db"]);
    assert!(made_anew["notes"].to_string().contains("another machine"), "{made_anew:#}");
    other.backup(&[]);

    // One machine in two items: each goes on from its own checkpoint.
    let web = Machine { uuid: 4, ..Machine::new(&host, "web") };
    web.define(&disk("qcow2", &image("web.qcow2"), ""));
    web.start();
    host.virsh(&["snapshot-create-as", "web", "before"]);
    let mut sources = Vec::new();
    for item in ["daily", "monthly", "daily", "daily", "monthly", "daily"] {
        let report = web.backup(&["--item", item]);
        if sources.is_empty() {
            assert!(report["notes"].to_string().contains("snapshots"), "{report:#}");
        }
        sources.push(from(&report));
    }
    assert_eq!(sources, ["all", "all", "bitmap", "bitmap", "bitmap", "bitmap"]);
    let (_, findings) = web.check();
    assert!(findings.contains("vm checkpoints 'web' --delete"), "{findings}");
    let listed = host.json(&["vm", "checkpoints", "web"]);
    assert_documented("vm checkpoints", &listed);
    let listed = listed["checkpoints"].as_array().unwrap().clone();
    let items: Vec<_> = listed.iter().map(|one| one["item"].as_str().unwrap()).collect();
    assert_eq!(items, ["monthly", "daily"], "{listed:#?}");

    // Running, they go with their bitmaps, and snapshots work again.
    host.json(&["vm", "checkpoints", "web", "--delete", "--yes"]);
    assert_eq!(host.virsh(&["checkpoint-list", "web", "--name"]), "");
    host.virsh(&["snapshot-revert", "web", "before"]);
    assert_eq!(host.virsh(&["domstate", "web"]), "running");
    host.virsh(&["snapshot-delete", "web", "before"]);

    // Renamed: the old item is named. Off, the checkpoints go as well.
    assert_eq!(from(&web.backup(&["--item", "daily"])), "all");
    web.destroy();
    let report = web.backup(&["--item", "elsewhere"]);
    assert!(report["notes"].to_string().contains("backed up as daily"), "{report:#}");
    host.json(&["vm", "checkpoints", "web", "--delete", "--yes"]);
    assert_eq!(host.virsh(&["checkpoint-list", "web", "--name"]), "");
    let info = tool("qemu-img", &["info", text(&host.lab.path("web.qcow2"))]);
    assert!(!info.contains("strongroom-"), "{info}");
    host.virsh(&["undefine", "web"]);
}

#[test]
fn saved_memory_and_copies() {
    let host = Host::new();
    let web = Machine::new(&host, "web");
    let image = host.lab.path("web.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    let log = host.lab.path("serial.log");
    let serial = format!(
        "<serial type='file'><source path='{}'/><target port='0'/></serial>",
        log.display()
    );
    web.define(&format!("{}{serial}", disk("qcow2", &image, "")));
    web.backup(&[]);
    // Nothing is left of a machine with which nothing is done.
    let left: Vec<_> = fs::read_dir(host.lab.path("r/strongroom")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    // A copy beside it writes to a file of its own.
    web.start();
    let words = ["restore", "vm", "--item", "web", "--recovery-point", "latest", "--name", "copy"];
    let bad = [&words[..7], &["a/b", "--output", "json"]].concat();
    assert!(failed(&host.strongroom(&bad), "usage.invalid").contains("'/'"));
    let to = host.lab.path("copies");
    fs::create_dir(&to).unwrap();
    host.json(&[&words[..], &["--storage-dir", text(&to), "--start"]].concat());
    assert!(host.lab.path("serial.log.copy").exists());
    host.virsh(&["destroy", "copy"]);

    // Saved memory goes on only above the disks that it knows.
    host.virsh(&["managedsave", "web"]);
    let to = format!("vda=qcow2:{}", image.display());
    let words =
        ["restore", "disks", "--item", "web", "--recovery-point", "latest", "--in-place", "--yes"];
    let words = [&words[..], &["--to", &to, "--output", "json"]].concat();
    assert!(failed(&host.strongroom(&words), "vm.state").contains("managedsave"));
    host.virsh(&["managedsave-remove", "web"]);
    host.json(&words[..words.len() - 2]);
}

#[test]
fn the_first_cause_is_told() {
    let host = Host::new();
    let web = Machine::new(&host, "web");
    let folder = host.lab.path("small");
    fs::create_dir(&folder).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&folder, "9m") else { return };
    host.lab.ok("vault create --vault small/v");
    web.define(&disk("raw", &host.lab.disk("big.raw", 16, 16, 5), ""));
    web.start();
    web.fails(&["--vault", "small/v"], "store.full");
    web.destroy();
    web.fails(&["--vault", "small/v"], "store.full");
}

/// libvirt lets QEMU's server take 100 connections.
#[test]
fn more_disks_than_connections() {
    if !long() {
        return;
    }
    let host = Host::new();
    let web = Machine::new(&host, "web");
    let mut disks = "<controller type='scsi' model='virtio-scsi'/>".to_owned();
    for number in 0..104_u32 {
        let path = host.lab.path(&format!("d{number}.qcow2"));
        tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "1M"]);
        let letter = |number: u32| char::from(b'a' + u8::try_from(number).unwrap());
        let (high, low) = (number / 26, letter(number % 26));
        let target =
            if high == 0 { format!("sd{low}") } else { format!("sd{}{low}", letter(high - 1)) };
        write!(
            disks,
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='{target}' bus='scsi'/></disk>",
            path.display()
        )
        .unwrap();
    }
    web.define(&disks);
    web.start();
    for _ in 0..2 {
        assert_eq!(web.backup(&[])["disks"].as_array().unwrap().len(), 104);
    }
}
