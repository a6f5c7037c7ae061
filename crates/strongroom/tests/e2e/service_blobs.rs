//! Page blobs that the service backs up.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strongroom_azure::{BlobName, BlobPath, ContainerName, LeaseAction};
use strongroom_base::{Clock as _, SystemClock, SystemEntropy};
use strongroom_storage_client::{Client, Location, Options};
use strongroom_testing::wait_until;

use crate::{
    documented::assert_documented,
    harness::{Lab, need},
    server::Service,
    session::{Page, Session, part, read},
};

const SETTINGS: &str = "storage_listen = \"127.0.0.1:0\"\nblob_accounts = [\"disks\"]\n";
/// So slow that there is a moment in which to kill it.
const SLOW: &str = "limit_rate = \"6M\"\n";

/// A server that serves the account `disks` with the blobs `vms/a` and `vms/b` of 16 MiB, has the vault `main`, and the
/// host `files`.
fn service() -> Service {
    let service = Service::start_with(SETTINGS);
    let lab = &service.lab;
    lab.ok("storage account create disks --data-dir data/storage");
    lab.ok("container create vms --account disks --data-dir data/storage");
    for (name, seed) in [("a", 1), ("b", 2)] {
        lab.disk(&format!("{name}.raw"), 16, 4, seed);
        lab.ok(&format!(
            "blob upload {name}.raw vms/{name} --account disks --data-dir data/storage"
        ));
    }
    lab.ok("vault create main --soft-delete disabled");
    lab.ok("host create files");
    service
}

/// Writes 512 bytes of a blob, as a machine does.
fn write(lab: &Lab, blob: &str, offset: u64, byte: u8) {
    need("qemu-io", "qemu-utils");
    let words = format!("storage export disks/vms/{blob} --data-dir data/storage --socket w.sock");
    let mut export = lab.command(&format!("{words} --output json"));
    let mut export = export.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut said = BufReader::new(export.stdout.take().expect("piped"));
    let mut text = String::new();
    let shown: Value = loop {
        assert!(said.read_line(&mut text).expect("readable") > 0, "no export: {text}");
        if let Ok(shown) = serde_json::from_str(&text) {
            break shown;
        }
    };
    let write = format!("write -P {byte} {offset} 512");
    let url = shown["url"].as_str().expect("text");
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw", "-c", &write, "-c", "flush", url]).stdout(Stdio::null());
    let written = command.status().expect("runs");
    kill_process(Pid::from_child(&export), Signal::INT).expect("a signal");
    assert!(written.success() && export.wait().expect("ends").success());
}

/// The snapshots of a blob, the oldest first.
fn snapshots(lab: &Lab, account: &str, blob: &str) -> Vec<String> {
    let list = format!("blob list vms --snapshots --account {account} --data-dir data/storage");
    let list = lab.json(&list);
    let blobs = list["blobs"].as_array().expect("a list");
    let of_blob = blobs.iter().filter(|it| it["blob"] == format!("vms/{blob}"));
    of_blob.filter_map(|it| it["snapshot"].as_str().map(str::to_owned)).collect()
}

/// Backs an item up now, and waits for it: the job.
fn back_up(lab: &Lab, item: &str) -> Value {
    let job = lab.json(&format!("protection backup-now --item {item} --wait"));
    assert_eq!(job["state"], "completed", "{job:#}");
    job
}

/// Waits until the newest job of a kind is at a part of its work.
fn wait_for_task(lab: &Lab, task: &str) {
    wait_until("the job is at its part", || {
        let jobs = lab.json("job list --kind backup --limit 1");
        let tasks = jobs["jobs"][0]["tasks"].as_array().cloned().unwrap_or_default();
        tasks.iter().any(|it| it["name"] == task && it["state"] == "in_progress")
    });
}

/// Kills the server, and starts it again where it was.
fn die(service: &mut Service, settings: &str) {
    service.stay(settings);
    service.kill();
    service.start_again();
    service.wait_for_greeting();
}

/// Waits until the newest backup has ended: the job.
fn ended(lab: &Lab) -> Value {
    let jobs = lab.json("job list --kind backup --limit 1");
    let id = jobs["jobs"][0]["id"].as_str().expect("an id").to_owned();
    lab.ok(&format!("job wait {id}"));
    lab.json(&format!("job show {id}"))
}

fn restored(lab: &Lab, folder: &str, disk: &str) -> Vec<u8> {
    let root = lab.path("");
    let to = root.join(folder);
    if !to.exists() {
        let to = to.display();
        lab.ok(&format!("restore disks --item web --recovery-point latest --to {to} --wait"));
    }
    fs::read(to.join(format!("{disk}.raw"))).expect("restored")
}

fn content(lab: &Lab, account: &str, blob: &str, more: &str) -> Vec<u8> {
    fs::remove_file(lab.path("now.raw")).ok();
    lab.ok(&format!(
        "blob download vms/{blob} now.raw --account {account} --data-dir data/storage {more}"
    ));
    fs::read(lab.path("now.raw")).expect("a copy")
}

#[test]
fn page_blobs_are_protected_by_the_service_and_only_what_changed_is_read() {
    let mut service = service();
    let blobs = "--blob one=disks/vms/a --blob two=disks/vms/b";
    let protect = format!("protection enable-for-blobs --host files --vault-name main {blobs}");
    service.lab.ok(&format!("{protect} --item web --wait"));
    let item = service.lab.json("item show web");
    assert_eq!(item["source"]["kind"], "blobs", "{item:#}");
    service.lab.fails(
        "protection enable-for-blobs --host files --vault-name main --item far --blob one=far/vms/a --wait",
        8,
        "place.not_allowed",
    );

    // Killed in the middle of the first backup, the job resumes with its snapshots.
    die(&mut service, &format!("{SETTINGS}{SLOW}"));
    service.lab.ok("protection backup-now --item web");
    wait_for_task(&service.lab, "transfer");
    let (a, b) = (snapshots(&service.lab, "disks", "a"), snapshots(&service.lab, "disks", "b"));
    assert_eq!((a.len(), &a), (1, &b), "both are of one moment");
    die(&mut service, SETTINGS);
    let job = ended(&service.lab);
    assert_eq!((&job["state"], &job["interruptions"]), (&"completed".into(), &1.into()), "{job:#}");
    assert_eq!(snapshots(&service.lab, "disks", "a"), a);

    let lab = &service.lab;
    write(lab, "a", 1 << 20, 9);
    let job = back_up(lab, "web");
    let disk = |index: usize, field: &str| job["report"]["disks"][index][field].clone();
    assert_eq!(
        (disk(0, "changes_from"), disk(1, "changes_from")),
        ("bitmap".into(), "bitmap".into())
    );
    assert_eq!((disk(0, "changed_bytes"), disk(1, "changed_bytes")), (65536.into(), 0.into()));
    // A block, and the sample of those that are said to be unchanged: at least 64 blocks.
    for index in 0..2 {
        assert!(disk(index, "read_bytes").as_u64() <= Some(65 << 16), "{job:#}");
    }
    let (later, b) = (snapshots(lab, "disks", "a"), snapshots(lab, "disks", "b"));
    assert!(later.len() == 1 && later == b && later != a, "{later:?}");
    for (disk, blob) in [("one", "a"), ("two", "b")] {
        assert!(restored(lab, "out", disk) == content(lab, "disks", blob, ""), "{disk} differs");
    }
    let points = lab.json("recoverypoint list --item web");
    let points = points["recovery_points"].as_array().expect("a list");
    assert_eq!(points.len(), 2);
    assert!(points.iter().all(|it| it["consistency"] == "crash"), "{points:#?}");
}

/// The connection string of an account in a file of the server's host.
fn keep_connection_string(lab: &Lab, account: &str) -> String {
    let keys = lab.json(&format!("storage account keys {account} --data-dir data/storage"));
    let string = keys["connection_string"].as_str().expect("text").to_owned();
    fs::write(lab.path(&format!("{account}.txt")), &string).expect("written");
    let key = string.split("AccountKey=").nth(1).and_then(|rest| rest.split(';').next());
    key.expect("a key").to_owned()
}

fn assert_nowhere(lab: &Lab, secret: &str) {
    for words in ["item list", "item show web", "job list", "audit list"] {
        assert!(!lab.json(words).to_string().contains(secret), "{words}");
    }
    let log = fs::read_to_string(lab.path("server.log")).unwrap_or_default();
    assert!(!log.contains(secret), "{log}");
}

#[test]
fn blobs_of_other_accounts_are_reached_by_a_file_of_the_host() {
    let service = service();
    let lab = &service.lab;
    let secret = keep_connection_string(lab, "disks");
    let at = |name: &str| lab.path(name).display().to_string();
    let protect = format!(
        "protection enable-for-blobs --item web --host files --vault-name main --blob one=disks/vms/a \
         --connection-string-file {} --ca-file {}",
        at("disks.txt"),
        at("data/storage/certificate.pem"),
    );
    lab.ok(&format!("{protect} --backup-now --wait"));
    ended(lab);
    write(lab, "a", 5 << 20, 3);
    let job = back_up(lab, "web");
    assert_eq!(job["report"]["disks"][0]["changed_bytes"], 65536, "{job:#}");
    assert!(restored(lab, "out", "one") == content(lab, "disks", "a", ""));
    assert_nowhere(lab, &secret);
    assert!(Path::new(&at("disks.txt")).exists());
    // Files elsewhere are not for those who protect.
    let elsewhere = protect.replace(&at("disks.txt"), "/etc/hostname").replace("web", "other");
    lab.fails(&format!("{elsewhere} --wait"), 8, "place.not_allowed");
}

/// Ends the lease that a killed server had on a blob, which lasts for a minute otherwise.
fn end_lease(lab: &Lab, account: &str, blob: &str) {
    let serve = "storage serve --data-dir data/storage --listen 127.0.0.1:0 --tls off";
    let mut served = lab.command(serve).stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = BufReader::new(served.stderr.take().expect("piped"));
    said.read_line(&mut String::new()).expect("it listens");
    let keys = lab.json(&format!("storage account keys {account} --data-dir data/storage"));
    let string = keys["connection_string"].as_str().expect("text");
    let connection = Location::parse(string).expect("a connection string").connection;
    let options = Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy));
    let client = Client::new(options).expect("a client");
    let path = BlobPath {
        container: ContainerName::new("vms").expect("a name"),
        name: BlobName::new(blob).expect("a name"),
    };
    // It may have none.
    client.lease(&path, LeaseAction::Break { period_seconds: Some(0) }).ok();
    kill_process(Pid::from_child(&served), Signal::TERM).expect("a signal");
    served.wait().expect("ends");
}

/// The backups of `vms/a` in the account `backups`, the oldest first.
fn backups(lab: &Lab) -> Vec<String> {
    backups_of(lab, "a")
}

fn backups_of(lab: &Lab, blob: &str) -> Vec<String> {
    let target = format!("--target backups/vms/{blob}");
    let list =
        lab.json(&format!("storage incremental-backup list {target} --data-dir data/storage"));
    let backups = list["backups"].as_array().expect("a list").iter();
    backups.map(|it| it["snapshot"].as_str().expect("text").to_owned()).collect()
}

fn assert_newest_equals_source(lab: &Lab) {
    let newest = backups(lab).pop().expect("a backup");
    let backup = content(lab, "backups", "a", &format!("--snapshot {newest}"));
    assert!(backup == content(lab, "disks", "a", ""), "the backup {newest} differs");
}

#[test]
fn a_blob_is_backed_up_to_another_account_by_jobs_of_the_service() {
    let mut service = service();
    let settings = format!("{SETTINGS}blob_target_accounts = [\"backups\"]\n");
    service.lab.ok("storage account create backups --data-dir data/storage");
    service.lab.ok("container create vms --account backups --data-dir data/storage");
    let protect = "protection enable-incremental-backup --item web --host files --vault-name main \
                   --source disks/vms/a --keep 2 --target";
    // Nobody writes to an account that the operator has not named.
    let unnamed = format!("{protect} backups/vms/a --wait");
    service.lab.fails(&unnamed, 8, "place.not_allowed");
    die(&mut service, &settings);
    service.lab.fails(&format!("{protect} backups/none/a --wait"), 4, "vm.not_ready");
    service.lab.ok(&unnamed);
    let item = service.lab.json("item show web");
    assert_eq!(
        (&item["source"]["kind"], &item["source"]["keep"]),
        (&"incremental_backup".into(), &2.into())
    );

    let lab = &service.lab;
    let job = back_up(lab, "web");
    assert_documented("storage incremental-backup", &job["report"]);
    let made = |job: &Value, field: &str| job["report"]["backups"][0][field].clone();
    assert_eq!(made(&job, "method"), "full", "{job:#}");
    assert_newest_equals_source(lab);
    write(lab, "a", 1 << 20, 9);
    let job = back_up(lab, "web");
    assert_eq!(made(&job, "method"), "incremental", "{job:#}");
    assert!(made(&job, "read_bytes").as_u64() <= Some(4096), "{job:#}");
    let item = lab.json("item show web");
    assert_eq!(item["state"], "protected", "{item:#}");
    assert!(item["last_backup"].is_string() && item["last_point"].is_null(), "{item:#}");

    // Killed in the middle, the job resumes and makes its backup once.
    for (round, pause) in [0, 15, 60].into_iter().enumerate() {
        let byte = u8::try_from(round).expect("small");
        write(&service.lab, "a", u64::from(byte) << 21, 100 + byte);
        let before = backups(&service.lab);
        service.lab.ok("protection backup-now --item web");
        SystemClock.sleep(Duration::from_millis(pause));
        service.kill();
        end_lease(&service.lab, "backups", "a");
        service.start_again();
        service.wait_for_greeting();
        let job = ended(&service.lab);
        assert_eq!(job["state"], "completed", "{job:#}");
        let after = backups(&service.lab);
        assert_eq!((before.len(), after.len(), &before[1]), (2, 2, &after[0]), "older ones go");
        assert_newest_equals_source(&service.lab);
        assert_eq!(snapshots(&service.lab, "disks", "a").len(), 1, "the source keeps one");
    }
    let lab = &service.lab;
    let newest = backups(lab).pop().expect("a backup");
    lab.ok(&format!(
        "storage incremental-backup restore --target backups/vms/a --snapshot {newest} \
         --to disks/vms/restored --data-dir data/storage"
    ));
    assert!(content(lab, "disks", "restored", "") == content(lab, "disks", "a", ""));

    // What is gone is said, and the backups stay when the protection is stopped.
    lab.ok("blob delete vms/a --snapshots include --account disks --data-dir data/storage --yes");
    lab.fails("protection backup-now --item web --wait", 3, "source.missing");
    let alerts = lab.json("alert list --state firing --rule source_missing");
    assert_eq!(alerts["alerts"].as_array().map(Vec::len), Some(1), "{alerts:#}");
    lab.ok("protection disable --item web --delete-backup-data --yes");
    assert_eq!(backups(lab).len(), 2);
}

/// How the service backs up page blobs.
#[test]
fn the_service_backs_up_blobs_as_the_pages_say() {
    const NAME: &str = "the_service_backs_up_blobs_as_the_pages_say";
    let mut service = service();
    die(&mut service, &format!("{SETTINGS}blob_target_accounts = [\"backups\"]\n"));
    let lab = &service.lab;
    lab.ok("storage account create backups --data-dir data/storage");
    lab.ok("container create vms --account backups --data-dir data/storage");
    for blob in ["web01.vhd", "web01-system.vhd", "web01-data.vhd", "web02.vhd"] {
        lab.ok(&format!("blob upload a.raw vms/{blob} --account disks --data-dir data/storage"));
    }
    keep_connection_string(lab, "disks");
    let path = |name: &str| lab.path(name).display().to_string();
    let ca_file = format!("--ca-file {}", path("data/storage/certificate.pem"));
    let replaced = vec![
        ("HOST", "files".to_owned()),
        ("mypremiumaccount/vms", "disks/vms".to_owned()),
        ("/var/lib/strongroom/keys/mypremiumaccount", format!("{} {ca_file}", path("disks.txt"))),
        ("/var/lib/strongroom/storage", path("data/storage")),
        ("--to /restore", format!("--to {}", path("restored"))),
    ];
    for (name, from, to) in [
        ("docs/use/storage.md", "### Page blobs as items of the service", "## A blob as a disk"),
        ("docs/use/storage.md", "### Incremental backups by a schedule", "## Page blobs into"),
        ("docs/use/service.md", "## Protect machines", "## Snapshots near"),
    ] {
        let page = Page::new(name, NAME);
        let text = read(name);
        let replaced = replaced.clone();
        let session = Session { lab, page: &page, environment: vec![], replaced };
        let commands = part(&text, from, to);
        if name.ends_with("storage.md") && from.contains("items") {
            // The first backup is made before its point is restored.
            let (before, after) = commands.split_once("strongroom restore").expect("a restore");
            session.run(&format!("{before}```"));
            lab.ok("protection backup-now --item web01 --wait");
            session.run(&format!("```\nstrongroom restore{after}"));
        } else {
            session.run(commands);
        }
    }
    assert_eq!(backups_of(lab, "web01.vhd").len(), 1);
    assert!(
        fs::read(lab.path("restored/system.raw")).expect("restored")
            == content(lab, "disks", "a", "")
    );
}
