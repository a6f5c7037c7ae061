//! Storage accounts by the program: served, and managed before and while they are.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use strongroom_azure::{BlobEntry, BlobName, BlobPath, BlobWrite, ContainerName, Metadata};
use strongroom_base::{Coded as _, SystemClock, SystemEntropy};
use strongroom_storage_client::{
    BlobQuery, Client as StorageClient, Location, NewPageBlob, Options as StorageOptions, Trust,
};
use strongroom_testing::{free_port, wait_until};

use crate::{
    blocks::{Page, parts, read},
    documented::assert_documented,
    harness::{Lab, Run, need},
    server::Service,
};

/// Accounts that are served.
pub(crate) struct Served {
    pub(crate) server: Child,
    pub(crate) url: String,
    said: BufReader<std::process::ChildStderr>,
}

impl Served {
    pub(crate) fn start(lab: &Lab, words: &str) -> Self {
        Self::start_by(lab.command(words))
    }

    /// Started by a command that becomes the program.
    pub(crate) fn start_by(mut command: Command) -> Self {
        let mut server = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut said = BufReader::new(server.stderr.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("Storage accounts are served at ").map(str::to_owned);
        let url = url.unwrap_or_else(|| panic!("{line}"));
        Self { server, url, said }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.server)
    }

    /// Stops it as a service manager does.
    pub(crate) fn stop(mut self) {
        let pid = Pid::from_child(&self.server);
        kill_process(pid, Signal::TERM).expect("a signal");
        let status = self.server.wait().expect("ends");
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("text");
        assert!(status.success(), "{status}: {rest}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // One that was stopped is gone.
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// A blob that is exported.
struct Export {
    command: Child,
    url: String,
}

impl Export {
    fn start(lab: &Lab, words: &str) -> Self {
        let mut command = lab.command(&format!("{words} --output json"));
        let mut command = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let said = BufReader::new(command.stdout.take().expect("piped"));
        let shown = serde_json::Deserializer::from_reader(said).into_iter().next();
        let shown: Value = shown.expect("a document").expect("JSON");
        assert_documented("storage export", &shown);
        Self { command, url: shown["url"].as_str().expect("text").to_owned() }
    }

    /// Stops it as a user does.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.command), Signal::INT).expect("a signal");
        let status = self.command.wait().expect("ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // One that was stopped is gone.
        self.command.kill().ok();
        self.command.wait().ok();
    }
}

/// Azure's client for Python, which `scripts/lab/install` installs.
fn python() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let lab = std::env::var_os("STRONGROOM_LAB");
    let python =
        lab.map_or_else(|| root.join("target/lab"), PathBuf::from).join("python/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/lab/install", python.display());
    python
}

/// The newest backup of the page's example, by the time that names it.
fn last_backup(lab: &Lab) -> String {
    let list = "storage incremental-backup list --target backups/vms/web01.vhd --data-dir storage";
    let list = lab.json(list);
    assert_documented("storage incremental-backup list", &list);
    let last = list["backups"].as_array().and_then(|all| all.last()).expect("a backup");
    last["snapshot"].as_str().expect("text").to_owned()
}

#[test]
fn the_page_of_storage_accounts_works() {
    let lab = Lab::empty();
    let name = "docs/use/storage.md";
    let page = Page::new(name, "the_page_of_storage_accounts_works");
    let mut served = None;
    let mut connection_string = String::new();
    for part in parts(&read(name)) {
        if !page.take(&part) {
            continue;
        }
        let words = part.replace("~/storage", "storage");
        if let Some(words) = words.strip_prefix("strongroom storage export") {
            let socket = lab.path("web01.sock").display().to_string();
            let words = words.replace("/run/web01.sock", &socket);
            let export = Export::start(&lab, &format!("storage export{words}"));
            let copy = lab.path("copy.raw").display().to_string();
            need("nbdcopy", "libnbd-bin");
            let copied = Command::new("nbdcopy").args([&export.url, &copy]).status();
            assert!(copied.expect("runs").success());
            export.stop();
            let content = fs::read(&copy).expect("a copy");
            assert_eq!((content[0], content[4096], content[8192]), (b'x', b'y', 0));
            assert!(!lab.path("web01.sock").exists());
        } else if let Some(words) = words.strip_prefix("strongroom storage serve --data-dir /disk1")
        {
            let words = format!("storage serve --data-dir disk1{}", words.replace("/disk", "disk"));
            Served::start(&lab, &format!("{words} --listen 127.0.0.1:0 --tls off")).stop();
        } else if let Some(words) = words.strip_prefix("strongroom storage serve") {
            let words = words.replace("127.0.0.1:10000", "127.0.0.1:0");
            served = Some(Served::start(&lab, &format!("storage serve{words}")));
        } else if let Some(words) = words.strip_prefix("strongroom storage account") {
            let account = lab.json(&format!("storage account{words}"));
            connection_string = account["connection_string"].as_str().expect("text").to_owned();
        } else if let Some(words) = words.strip_prefix("strongroom ") {
            let words = match words.split_once("TIME") {
                Some((before, behind)) => format!("{before}{}{behind}", last_backup(&lab)),
                None => words.to_owned(),
            };
            lab.ok(&words);
        } else if words.starts_with("truncate") {
            assert!(lab.shell(&words).status().expect("runs").success());
        } else {
            let script = format!("connection_string = {connection_string:?}\n{part}");
            let output = Command::new(python()).arg("-c").arg(script).output().expect("runs");
            let failed = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{failed}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "[(4096, 4607)]\n");
        }
    }
    page.assert_all_run();
    served.expect("it was served").stop();
}

#[test]
fn accounts_are_managed_before_and_while_they_are_served() {
    let lab = Lab::empty();
    let at = "--data-dir data";
    lab.fails(&format!("storage account list {at}"), 3, "storage.not_found");
    lab.fails(&format!("storage account create No {at}"), 2, "account.invalid");
    let endpoint = "--endpoint http://files.example.org";
    let before = lab.json(&format!("storage account create before {at} {endpoint} --kind premium"));
    let string = before["connection_string"].as_str().expect("text");
    assert!(string.contains("BlobEndpoint=http://files.example.org/before"), "{string}");
    assert_eq!(before["keys"].as_array().expect("keys").len(), 2);
    assert_documented("storage account create", &before);
    lab.fails(&format!("storage account create before {at}"), 4, "account.exists");

    let served = Served::start(&lab, &format!("storage serve {at} --listen 127.0.0.1:0 --tls off"));
    let during = lab.json(&format!("storage account create during {at}"));
    let string = during["connection_string"].as_str().expect("text");
    assert!(string.contains(&format!("BlobEndpoint={}/during", served.url)), "{string}");
    let list = lab.json(&format!("storage account list {at}"));
    let names = list["accounts"].as_array().expect("accounts").iter();
    assert_eq!(
        names.map(|account| account["name"].clone()).collect::<Vec<_>>(),
        ["before", "during"]
    );
    assert_documented("storage account list", &list);
    let show = lab.json(&format!("storage account show during {at}"));
    assert_documented("storage account show", &show);
    // Keys are asked for by name only.
    let key = during["keys"][0]["value"].as_str().expect("a key");
    assert!(!list.to_string().contains(key));
    assert!(!show.to_string().contains(key));
    let new = lab.json(&format!("storage account regenerate-key during --key key1 --yes {at}"));
    assert_ne!(new["keys"][0], during["keys"][0]);
    assert_eq!(new["keys"][1], during["keys"][1]);
    assert_eq!(lab.json(&format!("storage account keys during {at}"))["keys"], new["keys"]);
    lab.fails(&format!("storage account delete during {at}"), 2, "usage.invalid");
    let deleted = lab.json(&format!("storage account delete during {at} --yes"));
    assert_eq!(deleted["deleted"], "during");
    assert_documented("storage account delete", &deleted);
    lab.fails(&format!("storage account keys during {at}"), 3, "account.not_found");
    let status = lab.json(&format!("storage status {at}"));
    assert_documented("storage status", &status);
    assert_eq!(status["accounts"], 1);

    // A stranger is refused in Azure's words.
    let address = served.url.strip_prefix("http://").expect("no TLS").to_owned();
    let mut stranger = TcpStream::connect(address).expect("listens");
    let request = b"GET /before?comp=list HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stranger.write_all(request).expect("sent");
    let mut answer = String::new();
    stranger.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401") || answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("<Error>"), "{answer}");
    served.stop();
    assert_eq!(lab.json(&format!("storage account show before {at}"))["kind"], "premium");
}

#[test]
fn what_cannot_be_served_is_refused() {
    let lab = Lab::empty();
    lab.ok("storage account create disks --data-dir data");
    lab.fails("storage serve --data-dir data --listen 0.0.0.0:0 --tls off", 2, "usage.invalid");
    lab.fails(
        "storage account create more --data-dir data --redundancy ra-grs",
        2,
        "storage.replication_invalid",
    );
    // A process that has the store, and takes no commands.
    let lock = File::open(lab.path("data/blobs/state.redb")).expect("the state");
    flock(&lock, FlockOperation::LockExclusive).expect("nobody has it");
    lab.fails("storage account list --data-dir data", 4, "storage.in_use");
    drop(lock);
    lab.ok("storage account list --data-dir data");
    // A journal of which a part is gone.
    for segment in fs::read_dir(lab.path("data/blobs/journal")).expect("a folder") {
        fs::remove_file(segment.expect("an entry").path()).expect("removed");
    }
    lab.fails("storage account list --data-dir data", 6, "storage.damaged");
}

/// Makes the container `vms` and the page blob `a` of 1 MiB in an account.
fn make_blob(connection_string: &str) {
    let script = format!(
        "from azure.storage.blob import BlobServiceClient\n\
         service = BlobServiceClient.from_connection_string({connection_string:?})\n\
         service.create_container('vms').get_blob_client('a').create_page_blob(1 << 20)"
    );
    let output = Command::new(python()).arg("-c").arg(script).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn exports_say_what_is_wrong() {
    let lab = Lab::empty();
    let at = "--data-dir storage";
    let export = format!("storage export disks/vms/a {at} --socket a.sock");
    lab.ok(&format!("storage account create disks {at}"));
    lab.fails(&export, 5, "storage.not_served");
    let served = Served::start(&lab, &format!("storage serve {at} --listen 127.0.0.1:0 --tls off"));
    let account = lab.json(&format!("storage account keys disks {at}"));
    make_blob(account["connection_string"].as_str().expect("text"));
    let missing = format!("storage export disks/vms/b {at} --socket b.sock");
    lab.fails(&missing, 3, "blob.not_found");
    lab.fails(&format!("storage export disks/vms/a {at}"), 2, "usage.invalid");
    let open = format!("storage export disks/vms/a {at} --listen 127.0.0.1:0");
    let said = lab.fails(&open, 2, "usage.invalid").to_string();
    assert!(said.contains("--client-ca"), "{said}");

    fs::write(lab.path("taken"), b"mine").expect("written");
    let taken = format!("storage export disks/vms/a {at} --socket taken");
    lab.fails(&taken, 2, "storage.export_invalid");

    let first = Export::start(&lab, &export);
    let other = format!("storage export disks/vms/a {at} --socket other.sock");
    lab.fails(&other, 4, "blob.leased");
    first.stop();

    // The server dies under an export: the command says so, and ends.
    let mut command = lab.command(&format!("{export} --output json"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = command.spawn().expect("the program starts");
    let said = BufReader::new(command.stdout.take().expect("piped"));
    let shown = serde_json::Deserializer::from_reader(said).into_iter::<Value>().next();
    assert!(shown.expect("a document").is_ok());
    drop(served);
    let output = command.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("storage.export_broken"), "{said}");
}

#[test]
fn blobs_are_managed_by_the_program() {
    let mut lab = Lab::empty();
    let at = "--data-dir storage";
    lab.ok(&format!("storage account create disks {at}"));
    lab.ok(&format!("storage account create far {at}"));
    let _served =
        Served::start(&lab, &format!("storage serve {at} --listen 127.0.0.1:0 --tls off"));
    lab.fails("container list", 2, "usage.invalid");
    lab.fails(&format!("container list --account nobody {at}"), 3, "account.not_found");
    lab.fails("container list --connection-string nonsense", 2, "usage.invalid");
    let account = lab.json(&format!("storage account keys disks {at}"));
    let string = account["connection_string"].as_str().expect("text").to_owned();
    let file = lab.path("account.txt");
    fs::write(&file, format!("{string}\n")).expect("written");
    let by_file = "--connection-string-file account.txt";
    assert_documented("container show", &lab.json(&format!("container create vms {by_file}")));
    lab.fails(&format!("container create vms {by_file}"), 4, "container.exists");
    lab.fails(&format!("container show none {by_file}"), 3, "container.not_found");
    lab.set("STRONGROOM_CONNECTION_STRING", &string);
    assert_eq!(lab.json("container list")["containers"][0]["name"], "vms");

    lab.disk("web.raw", 8, 3, 7);
    let up = lab.json("blob upload web.raw vms/web");
    assert_documented("blob upload", &up);
    assert_eq!((&up["size"], &up["was_continued"]), (&(8 << 20).into(), &false.into()));
    lab.fails("blob upload web.raw vms/web", 4, "blob.exists");
    lab.fails("blob upload none.raw vms/other", 5, "local.io");
    fs::write(lab.path("odd"), b"odd").expect("written");
    lab.fails("blob upload odd vms/odd", 2, "blob.type");
    lab.fails("blob show vms/none", 3, "blob.not_found");
    lab.fails("blob show web", 2, "usage.invalid");
    let first = lab.json("blob snapshot vms/web --metadata reason=test");
    assert_eq!(first["metadata"]["reason"], "test");
    let first = first["snapshot"].as_str().expect("text").to_owned();
    lab.ok("blob copy vms/web vms/copy");
    assert_documented("blob show", &lab.json("blob show vms/copy"));
    lab.change("web.raw", 4 << 20, 4096, 9);
    lab.ok("blob upload web.raw vms/web --overwrite");
    // The blob was created again: there is no difference from a snapshot of before.
    lab.fails(&format!("blob diff vms/web --since {first}"), 4, "blob.conflict");
    let second = lab.json("blob snapshot vms/web");
    let second = second["snapshot"].as_str().expect("text").to_owned();
    let diff = lab.json(&format!("blob diff vms/web --since {second}"));
    assert_eq!(diff["ranges"].as_array().map(Vec::len), Some(0));
    let pages = lab.json(&format!("blob pages vms/web --snapshot {second}"));
    assert_documented("blob diff", &pages);
    lab.ok(&format!("blob promote vms/web --snapshot {first}"));
    lab.ok("blob download vms/web back.raw");
    lab.fails("blob download vms/web back.raw", 5, "local.io");
    lab.ok(&format!("blob download vms/web second.raw --snapshot {second}"));
    lab.assert_same("second.raw", "web.raw");
    let list = lab.json("blob list vms --snapshots");
    assert_eq!(list["blobs"].as_array().map(Vec::len), Some(4), "{list:#}");
    lab.fails("blob delete vms/web --yes", 4, "blob.conflict");
    lab.ok("blob delete vms/web --snapshots include --yes");
    assert_eq!(lab.json("blob list vms")["blobs"][0]["blob"], "vms/copy");

    // From one account to another; then the container is taken away.
    lab.ok(&format!("container create far --account far {at}"));
    let backup =
        format!("storage incremental-backup --source disks/vms/copy --target far/far/copy {at}");
    let made = lab.json(&backup);
    assert_documented("storage incremental-backup", &made);
    assert_eq!(made["backups"][0]["method"], "full", "{made:#}");
    assert_eq!(lab.json(&backup)["backups"][0]["method"], "incremental");
    let other =
        format!("storage incremental-backup --source disks/vms/copy --target disks/vms/copy2 {at}");
    lab.ok(&other);
    let foreign =
        format!("storage incremental-backup --source far/far/copy --target disks/vms/copy2 {at}");
    lab.fails(&foreign, 4, "blob.foreign");
    let restore =
        "storage incremental-backup restore --target far/far/copy --to disks/vms/restored";
    let missing = format!("{restore} --snapshot 2026-01-01T00:00:00.0000000Z {at}");
    lab.fails(&missing, 3, "blob.no_backup");
    let snapshot = made["backups"][0]["snapshot"].as_str().expect("text").to_owned();
    let restored = lab.json(&format!("{restore} --snapshot {snapshot} {at}"));
    assert_documented("storage incremental-backup restore", &restored);
    lab.ok("blob download vms/restored restored.raw");
    lab.ok("blob download vms/copy copy.raw");
    lab.assert_same("restored.raw", "copy.raw");
    lab.ok("container delete vms --yes");
    lab.fails("blob list vms", 3, "container.not_found");
}

/// The snapshots of a blob.
fn snapshots(lab: &Lab, blob: &str) -> Vec<String> {
    let (container, _) = blob.split_once('/').expect("a blob");
    let list =
        lab.json(&format!("blob list {container} --snapshots --account disks --data-dir storage"));
    let blobs = list["blobs"].as_array().expect("a list");
    let ours = blobs.iter().filter(|it| it["blob"] == blob);
    ours.filter_map(|it| it["snapshot"].as_str().map(str::to_owned)).collect()
}

#[test]
fn page_blobs_are_backed_up_by_their_snapshots() {
    let lab = Lab::new();
    let at = "--data-dir storage";
    let account = format!("--account disks {at}");
    lab.ok(&format!("storage account create disks {at}"));
    let served = Served::start(&lab, &format!("storage serve {at} --listen 127.0.0.1:0 --tls off"));
    lab.ok(&format!("container create vms {account}"));
    for (name, seed) in [("a", 1), ("b", 2)] {
        lab.disk(&format!("{name}.raw"), 16, 4, seed);
        lab.ok(&format!("blob upload {name}.raw vms/{name} {account}"));
    }
    lab.ok(&format!("blob snapshot vms/a {account}"));
    let own = snapshots(&lab, "vms/a");
    let disks = "--disk one=blob:disks/vms/a --disk two=blob:disks/vms/b";
    let first = lab.json(&format!("backup --item web {disks} {at}"));
    assert_eq!(first["disks"][0]["changes_from"], "all", "{first:#}");
    // Both are of one moment, and a snapshot of the user's stays.
    let of = |lab: &Lab| (snapshots(lab, "vms/a"), snapshots(lab, "vms/b"));
    let (a, b) = of(&lab);
    assert_eq!((a.len(), b.len(), &a[0]), (2, 1, &own[0]));
    assert_eq!(a[1], b[0]);

    // 512 bytes change over NBD.
    let export = Export::start(&lab, &format!("storage export disks/vms/a {at} --socket a.sock"));
    need("qemu-io", "qemu-utils");
    let write = ["-f", "raw", "-c", "write -P 9 1048576 512", "-c", "flush", &export.url];
    assert!(Command::new("qemu-io").args(write).status().expect("runs").success());
    export.stop();
    let second = lab.json(&format!("backup --item web {disks} {at}"));
    let disk = |index: usize, field: &str| second["disks"][index][field].clone();
    assert_eq!(
        (disk(0, "changes_from"), disk(1, "changes_from")),
        ("bitmap".into(), "bitmap".into())
    );
    // A block of the vault, and the sample of blocks that are said to be unchanged.
    assert_eq!((disk(0, "changed_bytes"), disk(1, "changed_bytes")), (65536.into(), 0.into()));
    let (later_a, later_b) = of(&lab);
    assert_eq!((later_a.len(), later_b.len(), &later_a[0]), (2, 1, &own[0]));
    assert!(later_a[1] > a[1]);

    // A backup that fails leaves its snapshot behind as little as its point.
    lab.fails(
        &format!("backup --item web {disks} --disk three=none.raw {at}"),
        3,
        "disk.not_found",
    );
    assert_eq!(of(&lab), (later_a.clone(), later_b));

    // Where the blob was created again, all is read.
    lab.change("a.raw", 0, 4096, 5);
    lab.ok(&format!("blob upload a.raw vms/a --overwrite {account}"));
    let third = lab.json(&format!("backup --item web {disks} {at}"));
    assert_eq!(third["disks"][0]["changes_from"], "all", "{third:#}");
    assert_eq!(third["disks"][1]["changes_from"], "bitmap");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("out/one.raw", "a.raw");
    lab.assert_same("out/two.raw", "b.raw");
    served.stop();
    let refused = format!("backup --item web {disks} {at}");
    lab.fails(&refused, 5, "storage.unavailable");
}

#[test]
fn accounts_are_kept_on_several_disks() {
    let lab = Lab::empty();
    let at = "--data-dir disk1";
    lab.ok(&format!("storage account create disks {at}"));
    let serve = format!("storage serve {at} --listen 127.0.0.1:0 --tls off");
    let served = Served::start(&lab, &format!("{serve} --copy disk2 --copy disk3"));
    let account = format!("--account disks {at}");
    let states = |lab: &Lab| -> Vec<String> {
        let list = lab.json(&format!("storage copy list {at}"));
        let copies = list["copies"].as_array().expect("a list").iter();
        copies.map(|it| it["state"].as_str().expect("text").to_owned()).collect()
    };
    let are = |wanted: &[&str]| {
        wait_until("the copies are as expected", || states(&lab) == wanted);
    };
    are(&["leading", "healthy", "healthy"]);
    assert_documented("storage copy list", &lab.json(&format!("storage copy list {at}")));
    assert_documented("storage status", &lab.json(&format!("storage status {at}")));
    lab.ok(&format!("container create vms {account}"));
    lab.disk("a.raw", 8, 4, 3);
    lab.ok(&format!("blob upload a.raw vms/a {account}"));

    // A disk is gone, and everything goes on; its place stays empty until its owner says so.
    fs::rename(lab.path("disk3"), lab.path("away")).expect("renamed");
    are(&["leading", "healthy", "left_out"]);
    lab.disk("b.raw", 8, 4, 4);
    lab.ok(&format!("blob upload b.raw vms/b {account}"));
    lab.fails(&format!("storage copy add disk2 {at}"), 2, "storage.copy_invalid");
    lab.ok(&format!("storage copy add disk3 {at}"));
    are(&["leading", "healthy", "healthy"]);
    served.stop();

    // The first disk is lost: the others have everything. A copy that is missing must be named as lost.
    fs::remove_dir_all(lab.path("disk2")).expect("removed");
    let missing = lab.fails(&format!("storage status {at}"), 5, "storage.copy_missing");
    assert!(missing.to_string().contains("disk2"), "{missing}");
    let served = Served::start(&lab, &format!("{serve} --without disk2"));
    lab.ok(&format!("storage copy remove disk2 --yes {at}"));
    are(&["leading", "healthy"]);
    for name in ["a", "b"] {
        lab.ok(&format!("blob download vms/{name} {name}.back {account}"));
        lab.assert_same(&format!("{name}.raw"), &format!("{name}.back"));
    }
    served.stop();
}

#[test]
fn a_server_serves_storage_accounts_if_it_is_configured() {
    let mut service = Service::start_with("storage_listen = \"127.0.0.1:0\"\n");
    let folder = service.lab.path("data/storage").display().to_string();
    let at = format!("--data-dir {folder}");
    service.lab.ok(&format!("storage account create disks {at}"));
    // The certificate of the accounts is believed, as the command finds it in the folder.
    service.lab.ok(&format!("container create vms --account disks {at}"));
    service.lab.disk("a.raw", 4, 2, 3);
    service.lab.ok(&format!("blob upload a.raw vms/a --account disks {at}"));
    service.kill_and_start();
    service.lab.ok(&format!("blob download vms/a b.raw --account disks {at}"));
    service.lab.assert_same("a.raw", "b.raw");
    service.stop();
    let gone = format!("container list --account disks {at}");
    service.lab.fails(&gone, 5, "storage.unavailable");
}

/// Whether a text stands in a file below a folder, in one piece.
fn stands_in(folder: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(stands_in(&path, text));
        } else if path.is_file() {
            let content = fs::read(&path).expect("readable");
            if content.windows(text.len()).any(|part| part == text) {
                found.push(path);
            }
        }
    }
    found
}

/// A client of a storage account by its connection string.
fn account_client(lab: &Lab, keys: &Value) -> StorageClient {
    let text = keys["connection_string"].as_str().expect("text");
    let connection = Location::parse(text).expect("a connection string").connection;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let trust = Trust::CaFile(lab.path("data/storage/certificate.pem"));
    let options = StorageOptions { trust, ..StorageOptions::new(connection, clock, entropy) };
    StorageClient::new(options).expect("a client")
}

/// A user with a role everywhere, as the context of the same name.
fn add_user(service: &Service, name: &str, role: &str) {
    let lab = &service.lab;
    fs::write(lab.path("password"), "correct horse battery\n").expect("written");
    lab.ok(&format!("access user create {name} --password-file password"));
    lab.ok(&format!("access assignment create --user {name} --role {role}"));
    let (url, print) = (&service.url, &service.fingerprint);
    let add = format!("context add {name} --server {url} --fingerprint {print} --sign-in {name}");
    lab.ok(&format!("{add} --password-file password"));
}

/// A server beside storage accounts, which logs much.
fn with_accounts() -> Service {
    Service::start_with("storage_listen = \"127.0.0.1:0\"\nlog_level = \"debug\"\n")
}

/// The answer to a `POST` by the first token, with an idempotency key.
fn post(service: &Service, path: &str, body: &Value, key: &str) -> Value {
    let script = format!(
        "curl --silent --cacert data/tls/certificate.pem --header 'Content-Type: application/json' \
         --header \"Authorization: Bearer $(cat token)\" --header 'Idempotency-Key: {key}' \
         --data '{body}' {}/v1/{path}",
        service.url
    );
    let output = service.lab.shell(&script).output().expect("curl runs");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The answer to a `GET` by the first token.
fn get(service: &Service, path: &str) -> Value {
    let script = format!(
        "curl --silent --cacert data/tls/certificate.pem \
         --header \"Authorization: Bearer $(cat token)\" {}/v1/{path}",
        service.url
    );
    let output = service.lab.shell(&script).output().expect("curl runs");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn vms() -> ContainerName {
    ContainerName::new("vms").expect("a name")
}

/// Creates a page blob of 1 MiB in the container `vms`.
fn create_blob(client: &StorageClient, name: &str) {
    let name = BlobName::new(name).expect("a name");
    let blob = BlobPath { container: vms(), name };
    let new = NewPageBlob { length: 1 << 20, ..NewPageBlob::default() };
    client.create_page_blob(&blob, &new, &BlobWrite::default()).expect("created");
}

#[test]
fn accounts_of_the_service_are_managed_by_roles() {
    let service = with_accounts();
    let lab = &service.lab;
    let roles = ["reader", "operator", "contributor"];
    for role in roles {
        add_user(&service, role, role);
    }
    lab.fails("storage account create No", 2, "account.invalid");
    // The commands of the page, with the context of this test.
    let page = Page::new("docs/use/storage.md", "accounts_of_the_service_are_managed_by_roles");
    let run = |part: String| {
        assert!(page.take(&part));
        let words = part.strip_prefix("strongroom ").expect("a command of the program");
        lab.json(&words.replace("--context home", "--context test"))
    };
    let shown: Vec<Value> = page.parts().into_iter().map(run).collect();
    page.assert_all_run();
    let [made, keys] = shown.as_slice() else { panic!("{shown:?}") };
    assert_documented("storage account create", made);
    assert_eq!(keys, made);
    lab.fails("storage account create disks", 4, "account.exists");

    // All roles see accounts, without keys; only those who may read keys get them.
    let here = format!("--data-dir {}", lab.path("data/storage").display());
    for role in roles {
        let by = format!("--context {role}");
        let list = lab.json(&format!("storage account list {by}"));
        assert_documented("storage account list", &list);
        assert_eq!(list, lab.json(&format!("storage account list {here}")));
        let show = lab.json(&format!("storage account show disks {by}"));
        assert_documented("storage account show", &show);
        let status = lab.json(&format!("storage status {by}"));
        assert_documented("storage status", &status);
        assert_eq!(status["accounts"], 1);
        for command in
            ["keys disks", "create more", "regenerate-key disks --key key1", "delete disks"]
        {
            let is_asked = command.contains("key1") || command.contains("delete");
            let yes = if is_asked { "--yes" } else { "" };
            let words = format!("storage account {command} {yes} {by}");
            let denied = lab.fails(&words, 8, "auth.forbidden").to_string();
            assert!(denied.contains("vault_admin"), "{denied}");
        }
    }
    let deleted = lab.json("storage account delete disks --yes");
    assert_documented("storage account delete", &deleted);
    lab.fails("storage account keys disks", 3, "account.not_found");
    let entries = lab.json("audit list --limit 200");
    let entries = entries["entries"].as_array().expect("a list").iter();
    let denied = entries.filter(|it| it["outcome"] == "denied");
    let denied = denied.filter(|it| it["action"].as_str().is_some_and(|it| it.contains("storage")));
    assert_eq!(denied.count(), 12);
}

#[test]
fn a_replaced_key_of_an_account_of_the_service_opens_nothing_any_more() {
    let service = with_accounts();
    let lab = &service.lab;
    let made = lab.json("storage account create disks");
    let client = account_client(lab, &made);
    client.create_container(&vms(), &Metadata::default()).expect("created");
    let after = lab.json("storage account regenerate-key disks --key key1 --yes");
    assert_ne!(after["keys"][0], made["keys"][0]);
    assert_eq!(after["keys"][1], made["keys"][1]);
    let refused = client.container(&vms()).expect_err("by the old key");
    assert_eq!(refused.code().name, "storage.denied");
    account_client(lab, &after).container(&vms()).expect("by the new key");
    account_client(lab, &after["keys"][1]).container(&vms()).expect("by the second key");
    let endpoint = "--endpoint https://{account}.blob.example.org";
    let elsewhere = lab.json(&format!("storage account keys disks {endpoint}"));
    let text = elsewhere["connection_string"].as_str().expect("text");
    assert!(text.contains("BlobEndpoint=https://disks.blob.example.org"), "{text}");
    lab.ok("storage account delete disks --yes");
    let gone = account_client(lab, &after).container(&vms()).expect_err("it is gone");
    assert!(["account.not_found", "storage.denied"].contains(&gone.code().name), "{gone}");
}

#[test]
fn the_service_takes_snapshots_of_several_blobs_at_one_moment() {
    let service = with_accounts();
    let lab = &service.lab;
    let made = lab.json("storage account create disks --kind premium");
    let client = account_client(lab, &made);
    client.create_container(&vms(), &Metadata::default()).expect("created");
    create_blob(&client, "a");
    create_blob(&client, "b");
    let of = |names: &[&str]| {
        let blob = |name| json!({ "account": "disks", "container": "vms", "blob": name });
        json!({ "blobs": names.iter().map(blob).collect::<Vec<_>>() })
    };
    let none = post(&service, "storage/snapshots", &of(&["a", "none"]), "1");
    assert_eq!(none["error"]["code"], "blob.not_found", "{none}");
    let taken = post(&service, "storage/snapshots", &of(&["a", "b"]), "2");
    let moment = taken["snapshot"].as_str().expect("a moment").to_owned();
    let snapshot = |entry| match entry {
        BlobEntry::Blob(blob) => blob.snapshot.map(|snapshot| snapshot.to_string()),
        BlobEntry::Prefix(_) => None,
    };
    let query = BlobQuery { snapshots: true, ..BlobQuery::default() };
    let all: Vec<_> =
        client.blobs(&vms(), query).filter_map(|it| snapshot(it.expect("an entry"))).collect();
    assert_eq!(all, [moment.clone(), moment]);
    // A request that is sent again takes no other snapshot.
    assert_eq!(post(&service, "storage/snapshots", &of(&["a", "b"]), "2"), taken);
    let soon = post(&service, "storage/snapshots", &of(&["a"]), "3");
    assert_eq!(soon["error"]["code"], "blob.snapshot_limit", "{soon}");
}

#[test]
fn accounts_of_the_service_are_kept_at_a_second_server_and_fail_over_by_the_api() {
    let service = with_accounts();
    let lab = &service.lab;
    let made = post(&service, "storage-accounts", &json!({ "name": "disks" }), "1");
    let text = made["connection_string"].as_str().expect("text");
    let endpoint = text.split("BlobEndpoint=").nth(1).and_then(|it| it.split("/disks").next());
    let endpoint = endpoint.expect("an endpoint");
    let alone = get(&service, "storage/replication");
    assert_eq!((&alone["role"], &alone["state"]), (&json!("alone"), &json!("unpaired")));
    let refused = post(&service, "storage/failover", &json!({}), "2");
    assert_eq!(refused["error"]["code"], "storage.replication_invalid", "{refused}");

    lab.json(&format!(
        "storage replication invite --data-dir data/storage --url {endpoint} --file it"
    ));
    let port = free_port();
    let join = format!("storage replication join --data-dir b --url http://127.0.0.1:{port}");
    lab.json(&format!("{join} --invitation-file it"));
    let serve = format!("storage serve --data-dir b --listen 127.0.0.1:{port} --tls off");
    let second = Served::start(lab, &serve);
    let stands = |role: &str| {
        let now = get(&service, "storage/replication");
        now["role"] == role && now["state"] == "live"
    };
    wait_until("the second server follows", || stands("primary"));
    let set = json!({ "redundancy": "ra_grs" });
    let set = post(&service, "storage-accounts/disks/set-redundancy", &set, "3");
    assert_eq!(set["redundancy"], "ra_grs", "{set}");
    lab.ok("storage account failover --data-dir b --yes");
    wait_until("the service follows", || stands("secondary"));
    let over = post(&service, "storage/failover", &json!({}), "4");
    assert_eq!((&over["planned"], &over["lost_records"]), (&json!(true), &json!(0)), "{over}");
    wait_until("the service is the primary again", || stands("primary"));
    let entries = lab.json("audit list --limit 50");
    let entries = entries["entries"].as_array().expect("a list");
    assert!(entries.iter().any(|entry| entry["action"] == "storage_account.fail_over"));
    second.stop();
}

#[test]
fn a_key_of_an_account_stands_nowhere_but_in_its_store() {
    let service = with_accounts();
    let lab = &service.lab;
    let new = json!({ "name": "disks" });
    let made = post(&service, "storage-accounts", &new, "1");
    let again = post(&service, "storage-accounts", &new, "1");
    assert_eq!(again["error"]["code"], "request.answered", "{again}");
    let after = lab.json("storage account regenerate-key disks --key key1 --yes");
    assert_eq!(lab.json("storage account keys disks")["keys"], after["keys"]);
    let shown = [&made, &after].into_iter().flat_map(|shown| {
        let keys = shown["keys"].as_array().expect("keys").iter();
        keys.map(|key| key["value"].as_str().expect("a key").to_owned())
    });
    let keys: Vec<String> = shown.collect();
    assert_eq!(keys.len(), 4);
    let said = [
        lab.ok("audit export").stdout,
        lab.ok("storage account list --output json").stdout,
        lab.ok("storage account show disks --output json").stdout,
        service.log(),
    ];
    assert!(said[0].contains("storage_account.read_keys"), "{}", said[0]);
    assert!(said[3].contains("storage-accounts"), "the log is not one: {}", said[3]);
    // The store itself has them: everything else of the server has none, neither as text nor as bytes.
    let own = |text: &[u8]| -> Vec<PathBuf> {
        let mut found = stands_in(&lab.path("data"), text);
        found.retain(|path| !path.starts_with(lab.path("data/storage/blobs")));
        found
    };
    for key in &keys {
        assert!(said.iter().all(|text| !text.contains(key.as_str())));
        let bytes = BASE64.decode(key).expect("base64");
        assert_eq!((own(key.as_bytes()), own(&bytes)), (Vec::new(), Vec::new()));
    }
    // The search finds what stands there.
    assert!(!own(b"storage_account.read_keys").is_empty());
}

#[test]
fn it_is_clear_whose_accounts_a_command_works_on() {
    let service = Service::start();
    let lab = &service.lab;
    // This server has none.
    let none = lab.fails("storage account list", 3, "storage.not_configured").to_string();
    assert!(none.contains("storage_listen") && none.contains("--data-dir"), "{none}");
    lab.fails("storage account create disks", 3, "storage.not_configured");
    lab.fails("storage status --context test", 3, "storage.not_configured");
    // The folder that is named comes before the context in use.
    lab.ok("storage account create disks --data-dir own");
    assert_eq!(lab.json("storage account list --data-dir own")["accounts"][0]["name"], "disks");
    lab.fails("storage account list --data-dir own --context test", 2, "usage.invalid");
    let by = |variables: &[(&str, &str)], words: &str| {
        let mut command = lab.command(&format!("{words} --output json"));
        command.envs(variables.iter().copied());
        Run::of(&command.output().expect("the program starts"))
    };
    let own = ("STRONGROOM_STORAGE_DIR", "own");
    assert!(by(&[own], "storage account list").stdout.contains("disks"));
    let context = by(&[own], "storage account list --context test");
    assert!(context.stderr.contains("storage.not_configured"), "{context:?}");
    let both = by(&[own, ("STRONGROOM_CONTEXT", "test")], "storage account list");
    assert!(both.code == 2 && both.stderr.contains("STRONGROOM_STORAGE_DIR"), "{both:?}");
    let named = [own, ("STRONGROOM_CONTEXT", "test")];
    assert!(by(&named, "storage account list --data-dir own/../own").stdout.contains("disks"));
}

#[test]
fn a_vault_lives_in_a_storage_account() {
    let mut lab = Lab::empty();
    let at = "--data-dir storage";
    let account = lab.json(&format!("storage account create vaults {at}"));
    let served = Served::start(&lab, &format!("storage serve {at} --listen 127.0.0.1:0 --tls off"));
    lab.ok(&format!("container create main --account vaults {at}"));
    let key = account["keys"][0]["value"].as_str().expect("text").to_owned();
    lab.set("AZURE_STORAGE_ACCOUNT_KEY", &key);
    let url = format!("az://main?account=vaults&endpoint={}/vaults", served.url);
    lab.set("STRONGROOM_VAULT", &url);
    lab.ok("vault key generate key");
    let made = lab.json("vault create");
    // Puts that must not overwrite are honoured, so that several backups may write at once.
    assert_eq!(made["several_writers"], true, "{made:#}");
    lab.disk("a.raw", 24, 12, 6);
    lab.ok("backup --item web --disk a=a.raw");
    lab.change("a.raw", 1 << 20, 70_000, 7);
    lab.ok("backup --item web --disk a=a.raw");
    lab.ok("vault verify");
    lab.ok("vault reclaim");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("out/a.raw", "a.raw");
    served.stop();
    lab.fails("recoverypoint list", 5, "store.unavailable");
}
