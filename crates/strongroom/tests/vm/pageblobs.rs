//! Machines whose disks are page blobs: what a guest has synced is in every later snapshot, and survives a server
//! that is killed.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use serde_json::Value;

use crate::{
    check::{Taken, check},
    guest::{Builder, Disk, Guest, make_boot_disk},
    harness::{Host, tool},
};

/// A process that is killed at the end of the test, if it is not at an end before.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// An account that is served from a folder.
struct Accounts<'h> {
    host: &'h Host,
    folder: &'static str,
    account: &'static str,
    server: Running,
    connection_string: String,
}

impl<'h> Accounts<'h> {
    fn new(host: &'h Host, folder: &'static str, account: &'static str, options: &str) -> Self {
        host.lab.ok(&format!("storage account create {account} --data-dir {folder} {options}"));
        Self::start(host, folder, account)
    }

    fn start(host: &'h Host, folder: &'static str, account: &'static str) -> Self {
        let words = format!("storage serve --data-dir {folder} --listen 127.0.0.1:0 --tls off");
        let mut server = host.lab.command(&words).stderr(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let said = server.stderr.take().expect("piped");
        BufReader::new(said).read_line(&mut line).expect("a line");
        assert!(line.contains("are served at"), "{line}");
        let shown = host.lab.json(&format!("storage account keys {account} --data-dir {folder}"));
        let connection_string = shown["connection_string"].as_str().expect("text").to_owned();
        Self { host, folder, account, server: Running(server), connection_string }
    }

    /// Runs a command on an account.
    fn ask(&self, words: &[&str]) -> Value {
        self.host.json(&[words, &["--connection-string", &self.connection_string]].concat())
    }

    /// Exports a blob, `CONTAINER/BLOB`, as the socket `NAME.sock`.
    fn export(&self, blob: &str, name: &str) -> (Running, PathBuf) {
        let socket = self.host.lab.path(&format!("{name}.sock"));
        let Self { folder, account, .. } = self;
        let words =
            format!("storage export {account}/{blob} --data-dir {folder} --socket {name}.sock");
        let mut command = self.host.lab.command(&format!("{words} --output json"));
        let mut command = command.stdout(Stdio::piped()).spawn().expect("starts");
        let said = BufReader::new(command.stdout.take().expect("piped"));
        let shown = serde_json::Deserializer::from_reader(said).into_iter::<Value>().next();
        assert!(shown.expect("a document").is_ok());
        (Running(command), socket)
    }

    /// Copies a snapshot to a raw image.
    fn download(&self, blob: &str, snapshot: &str, path: &Path) {
        let path = path.to_str().expect("text");
        self.ask(&["blob", "download", blob, path, "--snapshot", snapshot]);
    }
}

/// Random writes with checksums in each, all over a disk of 16 MiB; the same each time.
const FIO: &str = "--name=pages --ioengine=psync --rw=randwrite --bs=4k --size=16m --io_size=4m --fsync=32 \
                   --verify=crc32c --verify_fatal=1 --randseed=1 --verify_state_save=0";

#[test]
fn a_machine_starts_from_page_blobs_and_every_snapshot_has_what_it_synced() {
    let host = Host::new();
    let accounts = Accounts::new(&host, "storage", "disks", "");
    accounts.ask(&["container", "create", "vms"]);
    for letter in ["a", "b"] {
        let image = host.lab.path(&format!("{letter}.raw"));
        Disk::raw(48).make(&image);
        let blob = format!("vms/web-{letter}");
        accounts.ask(&["blob", "upload", image.to_str().expect("text"), &blob]);
    }
    let (export_a, socket_a) = accounts.export("vms/web-a", "a");
    // It has no kernel but that on the page blob `web-c`, and `web-d` has nothing on it.
    let boot = host.lab.path("c.raw");
    make_boot_disk(&boot, "web");
    let blank = host.lab.path("d.raw");
    Disk::raw(16).blank().make(&blank);
    for (image, blob) in [(boot, "vms/web-c"), (blank, "vms/web-d")] {
        accounts.ask(&["blob", "upload", image.to_str().expect("text"), blob]);
    }
    let (export_b, socket_b) = accounts.export("vms/web-b", "b");
    let (export_c, socket_c) = accounts.export("vms/web-c", "c");
    let (export_d, socket_d) = accounts.export("vms/web-d", "d");
    let first = Disk::nbd(&socket_c).xml("<boot order='1'/>");
    let disks = [Disk::nbd(&socket_a), Disk::nbd(&socket_b), first, Disk::nbd(&socket_d)];
    let machine =
        disks.into_iter().fold(Guest::named("web"), Builder::disk).without_kernel().memory(384);
    let guest = machine.create(&host).up(5);
    let firmware = guest.sh("ls -d /sys/firmware/efi; grep -c lab.name=web /proc/cmdline");
    assert_eq!(firmware, "/sys/firmware/efi\n1");
    guest.fio("/data/c", &format!("--filename=/dev/vdd --direct=1 {FIO}"));
    // Beside the records, writes that are never at rest.
    guest.sh("workload latency /data/a 60 >/run/latency 2>&1 &");

    let mut taken = Vec::new();
    for _ in 0..6 {
        let synced = guest.last_records().0;
        let shown = accounts.ask(&["blob", "snapshot", "vms/web-a"]);
        let snapshot = shown["snapshot"].as_str().expect("text").to_owned();
        let later = guest.last_records().0;
        assert!(later >= synced);
        taken.push((snapshot, synced, later));
        guest.wait_records(3);
    }
    for (index, (snapshot, synced, later)) in taken.iter().enumerate() {
        let image = host.lab.path(&format!("snapshot-{index}.raw"));
        accounts.download("vms/web-a", snapshot, &image);
        let cut = check(&[&image], Taken::Running).expect("a file system of one instant");
        let found = cut.records.0;
        // The guest may have written one more between the snapshot and the question.
        assert!((*synced..=later + 1).contains(&found), "{synced} <= {found} <= {later}");
    }

    // What changed between two snapshots, applied to the earlier one, is the later one.
    let [(first, ..), .., (last, ..)] = taken.as_slice() else { panic!("six snapshots") };
    let changed = accounts.ask(&["blob", "diff", "vms/web-a", "--since", first, "--until", last]);
    assert!(changed["ranges"].as_array().is_some_and(|ranges| !ranges.is_empty()), "{changed:#}");

    // The machine stops; both disks are of the same instant, and nothing needs repair.
    let records = guest.last_records();
    guest.sh("touch /run/stop; sync");
    guest.shutdown();
    drop((export_a, export_b, export_c, export_d));
    drop(accounts);
    let accounts = Accounts::start(&host, "storage", "disks");
    let mut images = Vec::new();
    for letter in ["a", "b"] {
        let image = host.lab.path(&format!("end-{letter}.raw"));
        let shown = accounts.ask(&["blob", "snapshot", &format!("vms/web-{letter}")]);
        let snapshot = shown["snapshot"].as_str().expect("text").to_owned();
        accounts.download(&format!("vms/web-{letter}"), &snapshot, &image);
        images.push(image);
    }
    let cut = check(&[&images[0], &images[1]], Taken::Running).expect("of one instant");
    assert!(cut.records >= records, "{cut:?} {records:?}");

    // fio finds on this machine what it wrote in the guest.
    let written = host.lab.path("end-d.raw");
    accounts.ask(&["blob", "download", "vms/web-d", written.to_str().expect("text")]);
    let written = format!("--filename={}", written.display());
    let words: Vec<&str> = FIO.split_whitespace().chain(["--verify_only=1", &written]).collect();
    let found = tool("fio", &words);
    assert!(found.contains("issued rwts: total=1024,"), "{found}");
}

#[test]
fn what_a_guest_has_synced_survives_a_server_that_is_killed() {
    let host = Host::new();
    let mut accounts = Accounts::new(&host, "storage", "disks", "");
    accounts.ask(&["container", "create", "vms"]);
    let image = host.lab.path("a.raw");
    Disk::raw(48).make(&image);
    accounts.ask(&["blob", "upload", image.to_str().expect("text"), "vms/web-a"]);
    let (_export, socket) = accounts.export("vms/web-a", "a");
    let guest = Guest::web(&host, [Disk::nbd(&socket)]).up(10);
    let synced = guest.last_records().0;
    accounts.server.0.kill().expect("it runs");
    accounts.server.0.wait().expect("ends");
    guest.destroy();
    let accounts = Accounts::start(&host, "storage", "disks");
    let copy = host.lab.path("after.raw");
    tool("rm", &["-f", copy.to_str().expect("text")]);
    let shown = accounts.ask(&["blob", "snapshot", "vms/web-a"]);
    accounts.download("vms/web-a", shown["snapshot"].as_str().expect("text"), &copy);
    let cut = check(&[&copy], Taken::Running).expect("a file system of one instant");
    assert!(cut.records.0 >= synced, "{cut:?} after {synced}");
}

/// Backups of a disk to another server, and the way back, as the guide to incremental snapshots of unmanaged disks has
/// it. Here a run follows the other at once; the guest writes all the time.
#[test]
fn a_disk_is_backed_up_to_another_server_and_comes_back() {
    let host = Host::new();
    let prem = Accounts::new(&host, "site-a", "prem", "--kind premium --no-limits");
    let far = Accounts::new(&host, "site-b", "backups", "");
    prem.ask(&["container", "create", "vms"]);
    far.ask(&["container", "create", "vms"]);
    let image = host.lab.path("disk.raw");
    Disk::raw(48).make(&image);
    prem.ask(&["blob", "upload", image.to_str().expect("text"), "vms/mypremiumdisk"]);
    let (export, socket) = prem.export("vms/mypremiumdisk", "disk");
    let guest = Guest::web(&host, [Disk::nbd(&socket)]).up(5);
    let places = |words: &str| {
        let (source, target) = (&prem.connection_string, &far.connection_string);
        let words = format!("storage incremental-backup {words} --output json");
        let mut command = host.lab.command(&words);
        command.env("STRONGROOM_SOURCE_CONNECTION_STRING", source);
        command.env("STRONGROOM_TARGET_CONNECTION_STRING", target);
        command
    };
    let target = "--target backups/vms/mybackupstdpageblob";
    let backup = |source: &str| -> Value {
        let output = places(&format!("--source {source} {target}")).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };

    // Each backup has what the guest had synced before it. One is killed, and finished by the next.
    let disk = "prem/vms/mypremiumdisk";
    let mut synced = Vec::new();
    for round in 0..4 {
        guest.wait_records(3);
        synced.push(guest.last_records().0);
        if round == 2 {
            let mut killed = places(&format!("--source {disk} {target}"));
            let mut killed = Running(killed.stdout(Stdio::null()).spawn().expect("starts"));
            std::thread::sleep(std::time::Duration::from_millis(60));
            killed.0.kill().expect("it runs or has ended");
            killed.0.wait().expect("ends");
        }
        let made = backup(disk);
        let methods = made["backups"].as_array().expect("a list");
        let wanted = if round == 0 { "full" } else { "incremental" };
        assert!(methods.iter().all(|it| it["method"] == wanted), "round {round}: {made:#}");
    }
    let list = places(&format!("list {target}")).output().expect("runs");
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let points = list["backups"].as_array().expect("a list");
    assert!(points.len() >= 4, "{list:#}");
    // The source keeps one snapshot.
    let kept = prem.ask(&["blob", "list", "vms", "--snapshots"]);
    assert_eq!(kept["blobs"].as_array().map(Vec::len), Some(2), "{kept:#}");

    // The disk is lost; the newest backup becomes a new one, on which a machine runs.
    guest.destroy();
    drop(export);
    let newest = points.last().expect("one")["snapshot"].as_str().expect("text");
    let restored = "prem/vms/mypremiumdiskrestored";
    let words = format!("restore {target} --snapshot {newest} --to {restored}");
    let output = places(&words).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let copy = host.lab.path("restored.raw");
    prem.ask(&["blob", "download", "vms/mypremiumdiskrestored", copy.to_str().expect("text")]);
    let cut = check(&[&copy], Taken::Running).expect("a file system of one instant");
    assert!(cut.records.0 >= synced[3], "{cut:?} after {synced:?}");
    host.virsh(&["undefine", "web"]);
    let (_export, socket) = prem.export("vms/mypremiumdiskrestored", "restored");
    let guest = Guest::web(&host, [Disk::nbd(&socket)]).up(3);

    // The next backup continues from the restored disk: it reads what has changed.
    let made = backup(restored);
    assert_eq!(made["backups"][0]["method"], "incremental", "{made:#}");
    let read = made["backups"][0]["read_bytes"].as_u64().expect("a number");
    assert!(read < 24 << 20, "{made:#}");
    guest.destroy();
}
