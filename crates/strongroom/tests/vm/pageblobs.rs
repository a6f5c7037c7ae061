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
    guest::{Disk, Guest},
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

/// Accounts that are served in the folder `storage`.
struct Accounts<'h> {
    host: &'h Host,
    server: Running,
    connection_string: String,
}

impl<'h> Accounts<'h> {
    fn new(host: &'h Host) -> Self {
        host.lab.ok("storage account create disks --data-dir storage");
        Self::start(host)
    }

    fn start(host: &'h Host) -> Self {
        let words = "storage serve --data-dir storage --listen 127.0.0.1:0 --tls off";
        let mut server = host.lab.command(words).stderr(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let said = server.stderr.take().expect("piped");
        BufReader::new(said).read_line(&mut line).expect("a line");
        assert!(line.contains("are served at"), "{line}");
        let account = host.lab.json("storage account keys disks --data-dir storage");
        let connection_string = account["connection_string"].as_str().expect("text").to_owned();
        Self { host, server: Running(server), connection_string }
    }

    /// Runs a command on an account.
    fn ask(&self, words: &[&str]) -> Value {
        self.host.json(&[words, &["--connection-string", &self.connection_string]].concat())
    }

    /// Exports a blob as the socket `NAME.sock`.
    fn export(&self, blob: &str, name: &str) -> (Running, PathBuf) {
        let socket = self.host.lab.path(&format!("{name}.sock"));
        let words = format!("storage export {blob} --data-dir storage --socket {name}.sock");
        let mut command = self.host.lab.command(&format!("{words} --output json"));
        let mut command = command.stdout(Stdio::piped()).spawn().expect("starts");
        let said = BufReader::new(command.stdout.take().expect("piped"));
        let shown = serde_json::Deserializer::from_reader(said).into_iter().next();
        let _: Value = shown.expect("a document").expect("JSON");
        (Running(command), socket)
    }

    /// Copies a snapshot to a raw image.
    fn download(&self, blob: &str, snapshot: &str, path: &Path) {
        let path = path.to_str().expect("text");
        self.ask(&["blob", "download", blob, path, "--snapshot", snapshot]);
    }
}

#[test]
fn a_machine_runs_from_page_blobs_and_every_snapshot_has_what_it_synced() {
    let host = Host::new();
    let accounts = Accounts::new(&host);
    accounts.ask(&["container", "create", "vms"]);
    for letter in ["a", "b"] {
        let image = host.lab.path(&format!("{letter}.raw"));
        Disk::raw(48).make(&image);
        let blob = format!("vms/web-{letter}");
        accounts.ask(&["blob", "upload", image.to_str().expect("text"), &blob]);
    }
    let (_a, socket_a) = accounts.export("disks/vms/web-a", "a");
    let (_b, socket_b) = accounts.export("disks/vms/web-b", "b");
    let guest = Guest::web(&host, [Disk::nbd(&socket_a), Disk::nbd(&socket_b)]).up(5);
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
    drop((_a, _b));
    drop(accounts);
    let accounts = Accounts::start(&host);
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
}

#[test]
fn what_a_guest_has_synced_survives_a_server_that_is_killed() {
    let host = Host::new();
    let mut accounts = Accounts::new(&host);
    accounts.ask(&["container", "create", "vms"]);
    let image = host.lab.path("a.raw");
    Disk::raw(48).make(&image);
    accounts.ask(&["blob", "upload", image.to_str().expect("text"), "vms/web-a"]);
    let (_export, socket) = accounts.export("disks/vms/web-a", "a");
    let guest = Guest::web(&host, [Disk::nbd(&socket)]).up(10);
    let synced = guest.last_records().0;
    accounts.server.0.kill().expect("it runs");
    accounts.server.0.wait().expect("ends");
    guest.destroy();
    let accounts = Accounts::start(&host);
    let copy = host.lab.path("after.raw");
    tool("rm", &["-f", copy.to_str().expect("text")]);
    let shown = accounts.ask(&["blob", "snapshot", "vms/web-a"]);
    accounts.download("vms/web-a", shown["snapshot"].as_str().expect("text"), &copy);
    let cut = check(&[&copy], Taken::Running).expect("a file system of one instant");
    assert!(cut.records.0 >= synced, "{cut:?} after {synced}");
}
