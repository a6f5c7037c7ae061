//! Failovers: which server takes changes, from when on.

use std::{
    fs,
    io::{Read as _, Write as _},
};

use serde_json::{Value, json};
use strongroom_base::start_thread;
use strongroom_testing::wait_until;

use super::{FOLDERS, Two, assert_writes, raw};
use crate::documented::assert_documented;

#[test]
fn accounts_are_kept_at_a_second_server_and_fail_over_and_back() {
    let mut two = Two::joined();
    let lab = &two.lab;
    let account = lab.json("storage account show disks --data-dir a");
    assert_eq!(account["redundancy"], "grs");
    lab.ok("storage account create more --data-dir a");
    assert_eq!(lab.json("storage account show more --data-dir a")["redundancy"], "grs");
    lab.fails(
        "storage account create less --redundancy lrs --data-dir a",
        2,
        "storage.replication_invalid",
    );
    let at = "--account disks --data-dir a";
    lab.disk("one.raw", 16, 8, 1);
    lab.ok(&format!("blob upload one.raw vms/one {at}"));
    lab.ok(&format!("blob snapshot vms/one {at}"));
    two.wait_in_step(1);

    // Without RA the secondary is not read.
    let target = "/disks-secondary/vms?restype=container&comp=list";
    assert_eq!(two.ask(1, "GET", target).0, 403);
    let update = lab.json("storage account update disks --redundancy ra-grs --data-dir a");
    assert_documented("storage account show", &update);
    let keys = lab.json("storage account keys disks --data-dir a");
    let string = keys["connection_string"].as_str().expect("text").to_owned();
    assert!(string.contains(&format!("{}/disks-secondary", two.url(1))), "{string}");
    two.wait_in_step(1);
    wait_until("the secondary is read", || two.ask(1, "GET", target).0 == 200);
    assert!(two.download(1, "vms/one", true) == fs::read(lab.path("one.raw")).expect("is read"));
    let far = lab.json("storage account keys disks --data-dir b");
    let far = far["connection_string"].as_str().expect("text");
    assert!(far.contains(&format!("BlobEndpoint={}/disks;", two.url(0))), "{far}");
    lab.ok("blob download vms/one far.raw --account disks --data-dir b");
    lab.assert_same("one.raw", "far.raw");
    let (status, stats) = two.ask(1, "GET", "/disks-secondary/?restype=service&comp=stats");
    assert!(status == 200 && stats.contains("<Status>live</Status>"), "{stats}");
    assert!(stats.contains("<LastSyncTime>") && stats.contains("GMT"), "{stats}");

    // It is written at the primary only, by clients and by commands.
    let (status, refused) = two.ask(1, "PUT", "/disks-secondary/other?restype=container");
    assert!(status == 403 && refused.contains("InsufficientAccountPermissions"), "{refused}");
    for method in ["GET", "PUT"] {
        let (status, refused) = two.ask(1, method, "/disks/other?restype=container");
        assert!(status == 403 && refused.contains("AccountIsDisabled"), "{refused}");
        assert!(refused.contains("disks-secondary"), "{refused}");
    }
    assert_eq!(two.ask(0, "GET", target).0, 403);
    lab.fails("storage account create far --data-dir b", 4, "storage.not_primary");
    lab.fails("storage account failover --yes --data-dir a", 2, "storage.replication_invalid");
    let export = "storage export disks/vms/one --data-dir b --socket b.sock";
    lab.fails(export, 4, "storage.not_primary");
    assert_documented("storage replication show", &two.show(1));
    assert_documented("storage replication show", &two.show(0));
    let shown = lab.json("storage account replication disks --data-dir b");
    assert_documented("storage account replication", &shown);
    assert_eq!(
        (&shown["accounts"][0]["redundancy"], &shown["role"]),
        (&"ra_grs".into(), &"secondary".into())
    );

    // A planned failover loses nothing, also of what is written meanwhile, and the old primary follows by itself.
    let writers = two.writers(0, 2);
    wait_until("much is written", || writers.count() > 200);
    let failed_over = lab.json("storage account failover --yes --data-dir b");
    assert_documented("storage account failover", &failed_over);
    assert_eq!((&failed_over["planned"], &failed_over["lost_records"]), (&true.into(), &0.into()));
    let answered = writers.end();
    assert_writes(&two.download(1, "vms/numbers", false), &answered, None);
    assert_eq!(two.role(1), "primary");
    two.wait_for_role(0, "secondary");
    lab.disk("two.raw", 8, 4, 2);
    lab.ok("blob upload two.raw vms/two --account disks --data-dir b");
    two.wait_in_step(0);
    assert!(two.download(0, "vms/two", true) == fs::read(lab.path("two.raw")).expect("is read"));

    // And back, after both were stopped.
    two.stop(0);
    two.stop(1);
    two.serve(1);
    two.serve(0);
    two.wait_for_role(1, "primary");
    two.wait_in_step(0);
    let back = two.lab.json("storage account failover --yes --data-dir a");
    assert_eq!(back["planned"], true, "{back:#}");
    two.wait_for_role(1, "secondary");
    two.wait_in_step(1);
    assert_writes(&two.download(0, "vms/numbers", false), &answered, None);

    // The end of the pair, at both servers.
    for folder in FOLDERS {
        let ended = two.lab.json(&format!("storage replication remove --yes --data-dir {folder}"));
        assert_eq!(ended["role"], "alone", "{ended:#}");
        let account = two.lab.json(&format!("storage account show disks --data-dir {folder}"));
        assert_eq!(account["redundancy"], "lrs");
    }
    assert!(
        two.download(1, "vms/two", false) == fs::read(two.lab.path("two.raw")).expect("is read")
    );
}

#[test]
fn a_primary_takes_no_writes_before_it_knows_that_it_still_is_one() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.stop(1);
    two.stop(0);
    two.serve(0);
    assert_eq!(two.show(0)["state"], "waiting");
    let list = "/disks/vms?restype=container&comp=list";
    assert_eq!(two.ask(0, "GET", list).0, 200);
    let (status, refused) = two.ask(0, "PUT", "/disks/one?restype=container");
    assert!(status == 503 && refused.contains("ServerBusy"), "{refused}");
    two.lab.fails("storage account create more --data-dir a", 4, "storage.not_primary");
    // The other server says so.
    two.serve(1);
    two.wait_for_role(0, "primary");
    assert_eq!(two.ask(0, "PUT", "/disks/one?restype=container").0, 201);
    two.wait_in_step(1);
    // The operator says so.
    two.stop(1);
    two.kill(0);
    two.serve(0);
    wait_until("it says why it waits", || two.show(0)["reason"].as_str().is_some());
    let confirmed = two.lab.json("storage replication confirm --yes --data-dir a");
    assert_eq!(confirmed["role"], "primary", "{confirmed:#}");
    assert_eq!(two.ask(0, "PUT", "/disks/two?restype=container").0, 201);
    two.lab.fails(
        "storage replication confirm --yes --data-dir a",
        2,
        "storage.replication_invalid",
    );
    two.serve(1);
    two.wait_in_step(1);
}

#[test]
fn a_copy_that_was_running_in_a_failover_ends_as_failed() {
    let two = Two::joined();
    // A source that says what it is, and then nothing.
    let source = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let url = format!("http://{}/other/vms/source", source.local_addr().expect("an address"));
    start_thread("source", move || {
        let mut kept = Vec::new();
        for stream in source.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            let length = stream.read(&mut head).expect("a request");
            if head[..length].starts_with(b"HEAD") {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\nx-ms-blob-type: PageBlob\r\n\
                     etag: \"0x1\"\r\nlast-modified: Sun, 29 Nov 2026 12:00:00 GMT\r\nconnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).expect("sent");
            } else {
                kept.push(stream);
            }
        }
    });
    let copy = [("x-ms-copy-source", url.as_str())];
    let (status, begun) = two.ask_with(0, "PUT", "/disks/vms/copy", &copy);
    assert!(status == 202 && begun.contains("x-ms-copy-status: pending"), "{begun}");
    two.wait_in_step(1);
    let failed_over = two.lab.json("storage account failover --yes --data-dir b");
    assert_eq!(failed_over["planned"], true, "{failed_over:#}");
    wait_until("the copy has ended", || {
        let (_, shown) = two.ask(1, "HEAD", "/disks/vms/copy");
        shown.contains("x-ms-copy-status: failed") && shown.contains("failed over")
    });
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
}

#[test]
fn a_failover_needs_no_process_that_serves_the_secondary() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.stop(1);
    two.lab.disk("one.raw", 8, 4, 1);
    two.lab.ok("blob upload one.raw vms/one --account disks --data-dir a");
    // What the secondary lacks is fetched by the command itself.
    let failed_over = two.lab.json("storage account failover --yes --data-dir b");
    assert_eq!(failed_over["planned"], true, "{failed_over:#}");
    let (status, refused) = two.ask(0, "PUT", "/disks/other?restype=container");
    assert!(status == 403 && refused.contains("AccountIsDisabled"), "{refused}");
    two.serve(1);
    two.wait_for_role(1, "primary");
    let content = fs::read(two.lab.path("one.raw")).expect("is read");
    assert!(two.download(1, "vms/one", false) == content);
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
}

#[test]
fn of_two_primaries_the_one_of_the_earlier_epoch_stops() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.kill(0);
    wait_until("the secondary has noticed", || two.show(1)["state"] == "unavailable");
    // What the primary has written since is not known, and is not called nothing.
    let behind = two.show(1);
    assert!(behind["lag_records"].is_null() && behind["lag_seconds"].is_u64(), "{behind:#}");
    two.lab.ok("storage account failover --accept-loss --yes --data-dir b");
    two.kill(1);
    two.serve(0);
    // The operator is wrong: the other one was promoted.
    two.lab.ok("storage replication confirm --yes --data-dir a");
    assert_eq!(two.role(0), "primary");
    two.serve(1);
    two.wait_for_role(1, "primary");
    two.wait_in_step(0);
    assert_eq!(two.ask(1, "PUT", "/disks/one?restype=container").0, 201);
}

#[test]
fn a_failover_that_was_interrupted_says_what_is_left() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    // It ends after its first step: the primary is fenced, nobody is promoted.
    let file = fs::read_to_string(two.lab.path("b/replication.json")).expect("text");
    let kept: Value = serde_json::from_str(&file).expect("JSON");
    let secret = kept["peer"]["secret"].as_str().expect("a secret");
    let host = format!("127.0.0.1:{}", two.ports[0]);
    let head = "POST /-/replication/fence?epoch=2 HTTP/1.1\r\nconnection: close\r\n";
    let request = format!(
        "{head}host: {host}\r\nauthorization: Bearer {secret}\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(raw(&host, &request).0, 200);
    wait_until("the secondary knows", || !two.show(1)["failover"].is_null());
    let shown = two.show(1);
    let failover = &shown["failover"];
    assert_eq!(failover["epoch"], 2);
    assert_eq!(failover["done"], json!(["old_primary_fenced"]));
    assert_eq!(failover["left"], json!(["changes_fetched", "promoted"]));
    assert_eq!(failover["command"], "strongroom storage account failover");
    let text = two.lab.ok("storage replication show --data-dir b").stdout;
    assert!(text.contains("`strongroom storage account failover` completes it"), "{text}");
    let because = || two.show(0)["reason"].as_str().unwrap_or_default().to_owned();
    wait_until("the old primary says it too", || because().contains("storage account failover"));
    let completed = two.lab.json("storage account failover --yes --data-dir b");
    let facts = (&completed["planned"], &completed["old_primary_fenced"]);
    assert_eq!(facts, (&true.into(), &true.into()));
    assert!(two.show(1)["failover"].is_null());
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);

    // Without the old primary the last step is left until that one answers.
    two.kill(1);
    wait_until("the secondary has noticed", || two.show(0)["state"] == "unavailable");
    let forced = two.lab.json("storage account failover --accept-loss --yes --data-dir a");
    assert_eq!(forced["old_primary_fenced"], false, "{forced:#}");
    let failover = &two.show(0)["failover"];
    assert_eq!(failover["done"], json!(["promoted"]));
    assert_eq!(failover["left"], json!(["old_primary_fenced"]));
    assert!(failover["command"].is_null());
    let again = two.lab.fails(
        "storage account failover --yes --data-dir a",
        2,
        "storage.replication_invalid",
    );
    let again = again["message"].as_str().expect("text").to_owned();
    assert!(again.contains("epoch 3"), "{again}");
    two.serve(1);
    wait_until("the old primary is fenced", || two.show(0)["failover"].is_null());
}

#[test]
fn a_primary_notices_that_its_secondary_was_removed() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    assert!(two.show(0)["peer_seen"].is_string());
    two.lab.ok("storage replication remove --yes --data-dir b");
    wait_until("the primary has noticed", || two.show(0)["state"] == "removed");
    let shown = two.show(0);
    let reason = shown["reason"].as_str().expect("text");
    assert!(reason.contains("`storage replication remove`"), "{reason}");
    assert!(shown["peer_seen"].is_string(), "{shown:#}");
    let text = two.lab.ok("storage replication show --data-dir a").stdout;
    assert!(text.contains("the pair was ended there"), "{text}");
    // It takes changes all the same.
    assert_eq!(two.ask(0, "PUT", "/disks/one?restype=container").0, 201);
    two.stop(1);
    wait_until("it is not there at all", || {
        let shown = two.show(0);
        shown["reason"].as_str().is_some_and(|reason| reason.contains("cannot be reached"))
    });
}
