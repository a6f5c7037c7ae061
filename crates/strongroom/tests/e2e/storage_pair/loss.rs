//! What is there after kills, cuts, rot and failovers with loss.

use std::{fs, time::Duration};

use jiff::Timestamp;
use rustix::process::Signal;
use strongroom_azure::BlobWrite;
use strongroom_base::{Clock as _, SystemClock};
use strongroom_testing::wait_until;

use super::{Two, Writers, assert_writes, numbered, path};
use crate::documented::assert_documented;

#[test]
fn what_was_answered_before_the_last_sync_time_is_at_the_secondary() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.lab.disk("big.raw", 64, 64, 3);
    two.lab.ok("blob upload big.raw vms/big --account disks --data-dir a");
    two.wait_in_step(1);
    let writers = two.writers(0, 4);
    wait_until("much is written", || writers.count() > 2000);
    // The secondary stands still for a moment, so that the primary has what nobody else has when it dies.
    two.signal(1, Signal::STOP);
    let before = writers.count();
    wait_until("more is written", || writers.count() > before + 400);
    two.kill(0);
    two.signal(1, Signal::CONT);
    let answered = writers.end();
    wait_until("the secondary has noticed", || two.show(1)["state"] == "unavailable");

    let refused =
        two.lab.fails("storage account failover --yes --data-dir b", 4, "storage.failover_loses");
    assert!(refused.to_string().contains("writes after 20"), "{refused}");
    assert_eq!(two.role(1), "secondary");
    let lost = two.lab.json("storage account failover --accept-loss --yes --data-dir b");
    assert_eq!(lost["planned"], false, "{lost:#}");
    let synced: Timestamp =
        lost["last_sync_time"].as_str().expect("a time").parse().expect("a time");
    let content = two.download(1, "vms/numbers", false);
    assert_writes(&content, &answered, Some(synced));
    let covered = answered.iter().filter(|write| write.at < synced).count();
    assert!(covered > 500, "{covered} of {} writes are before {synced}", answered.len());

    // The new primary is written; the old one returns and takes nothing, not even for a moment.
    two.lab.disk("new.raw", 4, 4, 4);
    two.lab.ok("blob upload new.raw vms/new --account disks --data-dir b");
    two.serve(0);
    two.wait_for_role(0, "fenced");
    let (status, refused) = two.ask(0, "PUT", "/disks/other?restype=container");
    assert!(status == 403 && refused.contains("AccountIsDisabled"), "{refused}");
    // It is read, with what it alone has.
    assert_writes(&two.download(0, "vms/numbers", false), &answered, None);
    wait_until("it knows what it has alone", || two.show(0)["discard_records"].as_u64().is_some());
    let alone = two.show(0)["discard_records"].as_u64().expect("a number");
    assert!(alone >= 400, "{alone}");
    two.lab.fails("storage replication rejoin --data-dir a", 4, "storage.diverged");
    assert_eq!(two.role(0), "fenced");
    two.lab.ok("storage replication rejoin --discard --yes --data-dir a");
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
    let resync = two.show(0)["resync"].clone();
    let fetched = resync["fetched_bytes"].as_u64().expect("it was resynchronized");
    // 64 MiB are the same at both.
    assert!(fetched < 24 << 20, "{resync:#}");
    for blob in ["vms/numbers", "vms/new", "vms/big"] {
        assert!(two.download(0, blob, true) == two.download(1, blob, false), "{blob}");
    }
    let back = two.lab.json("storage account failover --yes --data-dir a");
    assert_eq!((&back["planned"], &back["lost_records"]), (&true.into(), &0.into()), "{back:#}");
    assert!(two.download(0, "vms/numbers", false) == content);
}

#[test]
fn servers_that_are_killed_again_and_again_stay_equal() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.lab.disk("big.raw", 48, 48, 5);
    two.lab.ok("blob upload big.raw vms/big --account disks --data-dir a");
    two.kill(1);
    let mut blobs = Vec::new();
    for round in 0..6_u64 {
        let blob = format!("vms/numbers{round}");
        let client = || two.client(0, false);
        let writers = Writers::start(client, &blob, 2, Duration::from_millis(1));
        two.serve(1);
        // The secondary dies while it gets its state, and while it takes records.
        SystemClock.sleep(Duration::from_millis(100 + 90 * round));
        two.kill(1);
        if round % 2 == 1 {
            // And the primary, which continues when the other one is there.
            two.kill(0);
            two.serve(1);
            two.serve(0);
            two.wait_for_role(0, "primary");
            two.kill(1);
        }
        blobs.push((blob, writers.end()));
    }
    two.serve(1);
    two.wait_in_step(1);
    assert_eq!(two.show(1)["role"], "secondary");
    assert!(two.download(1, "vms/big", true) == fs::read(two.lab.path("big.raw")).expect("read"));
    for (blob, answered) in blobs {
        assert!(!answered.is_empty(), "{blob} was not written");
        let far = two.download(1, &blob, true);
        assert!(far == two.download(0, &blob, false), "{blob} differs");
        assert_writes(&far, &answered, None);
    }
}

#[test]
fn a_primary_that_has_lost_changes_is_found_out_and_nothing_is_dropped() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.stop(0);
    let copy = two.lab.shell("cp -a a older").status().expect("runs");
    assert!(copy.success());
    two.serve(0);
    two.wait_for_role(0, "primary");
    two.lab.disk("one.raw", 4, 4, 7);
    two.lab.ok("blob upload one.raw vms/one --account disks --data-dir a");
    two.wait_in_step(1);
    two.kill(0);
    // Somebody has copied an older folder back.
    let back = two.lab.shell("rm -r a && mv older a").status().expect("runs");
    assert!(back.success());
    two.serve(0);
    wait_until("it is found out", || two.show(1)["state"] == "ahead");
    let refused =
        two.lab.fails("storage account failover --yes --data-dir b", 4, "storage.failover_loses");
    assert!(refused.to_string().contains("has records that the primary lacks"), "{refused}");
    assert_eq!(two.show(1)["state"], "ahead");
    two.lab.ok("storage account failover --accept-loss --yes --data-dir b");
    let content = fs::read(two.lab.path("one.raw")).expect("is read");
    assert!(two.download(1, "vms/one", false) == content);
    // What the old primary has is in the history of the new one: it returns by itself.
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
}

#[test]
fn a_secondary_whose_disk_rots_fetches_what_is_damaged() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.lab.disk("one.raw", 8, 8, 8);
    two.lab.ok("blob upload one.raw vms/one --account disks --data-dir a");
    two.wait_in_step(1);
    two.stop(1);
    let is_data = |path: &std::path::Path| {
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let is_state =
            name.starts_with("state") || path.components().any(|it| it.as_os_str() == "journal");
        !is_state && path.extension().is_none_or(|extension| extension != "json")
    };
    let files = two.lab.files("b/blobs");
    let data: Vec<_> =
        files.iter().filter(|(path, size)| *size >= 1 << 20 && is_data(path)).collect();
    assert!(!data.is_empty(), "{files:?}");
    for (path, size) in data {
        fs::write(path, vec![0xA5; usize::try_from(*size).expect("fits")]).expect("written");
    }
    two.serve(1);
    // The first write behind a snapshot needs the rest of its block.
    two.lab.ok("blob snapshot vms/one --account disks --data-dir a");
    let page = numbered(1).into();
    let write = BlobWrite::default();
    two.client(0, false).put_pages(&path("vms/one"), 12_288, page, &write).expect("is written");
    two.wait_in_step(1);
    assert!(two.download(1, "vms/one", true) == two.download(0, "vms/one", false));
    let resync = two.show(1)["resync"].clone();
    assert!(resync["fetched_bytes"].as_u64() >= Some(8 << 20), "{resync:#}");
}

#[test]
fn what_was_given_up_is_neither_read_nor_taken_for_the_primarys() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.wait_in_step(1);
    two.kill(1);
    two.lab.disk("own.raw", 4, 4, 1);
    two.lab.ok("blob upload own.raw vms/own --account disks --data-dir a");
    two.kill(0);
    two.serve(1);
    two.lab.ok("storage account failover --accept-loss --yes --data-dir b");
    two.lab.disk("new.raw", 4, 4, 2);
    two.lab.ok("blob upload new.raw vms/new --account disks --data-dir b");
    two.serve(0);
    two.wait_for_role(0, "fenced");
    two.stop(0);
    // While nobody serves it, nothing comes; then the new primary is gone.
    two.lab.ok("storage replication rejoin --discard --yes --data-dir a");
    two.kill(1);
    let shown = two.show(0);
    assert!(shown["last_sync_time"].is_null() && shown["state"] == "bootstrap", "{shown:#}");
    let failover = "storage account failover --yes --data-dir a";
    let refused = two.lab.fails(failover, 4, "storage.failover_loses").to_string();
    assert!(refused.contains("it was to give up"), "{refused}");
    two.serve(0);
    let list = "/disks-secondary/vms?restype=container&comp=list";
    let (status, answer) = two.ask(0, "GET", list);
    assert!(status == 503 && answer.contains("gives its own changes up"), "{answer}");
    two.serve(1);
    two.wait_for_role(1, "primary");
    two.wait_in_step(0);
    assert_eq!(two.ask(0, "GET", list).0, 200);
    assert!(two.download(0, "vms/new", true) == two.download(1, "vms/new", false));
}

#[test]
fn a_verification_finds_content_that_has_the_right_checksum() {
    let mut two = Two::joined();
    two.lab.disk("one.raw", 8, 8, 1);
    two.lab.ok("blob upload one.raw vms/one --account disks --data-dir a");
    two.wait_in_step(1);
    let verify = "storage replication verify --wait --data-dir b";
    let same = two.lab.json(verify);
    let found = &same["verification"];
    assert_eq!(found["state"], "completed", "{same:#}");
    assert_eq!((&found["difference_count"], &found["passed_over"]), (&0.into(), &0.into()));
    assert!(found["bytes"].as_u64().expect("a number") >= 8 << 20, "{same:#}");
    two.lab.fails("storage replication verify --data-dir a", 2, "storage.replication_invalid");

    // The polynomial of CRC-32C is added to a few bytes: the checksum stays what it was.
    two.stop(1);
    let unserved = two.lab.fails(verify, 2, "storage.replication_invalid");
    assert!(unserved["message"].as_str().expect("text").contains("not served"), "{unserved:#}");
    let content = fs::read(two.lab.path("one.raw")).expect("is read");
    let (cell, mut damaged) = (content[4096 * 5..4096 * 6].to_vec(), 0);
    for entry in fs::read_dir(two.lab.path("b/blobs/data")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("is read");
        for at in (0..bytes.len()).step_by(4096) {
            if bytes[at..].starts_with(&cell) {
                for (byte, add) in bytes[at + 9..].iter_mut().zip([0xf1, 0x76, 0xec, 0x05, 0x01]) {
                    *byte ^= add;
                }
                damaged += 1;
            }
        }
        fs::write(&path, bytes).expect("is written");
    }
    assert_eq!(damaged, 1);
    two.serve(1);
    two.wait_in_step(1);
    two.lab.fails(verify, 6, "storage.damaged");
    let shown = two.show(1);
    let found = &shown["verification"];
    assert_eq!((&found["state"], &found["difference_count"]), (&"completed".into(), &1.into()));
    let difference = serde_json::json!({
        "kind": "content", "blob": "disks/vms/one", "offset": 4096 * 5, "length": 4096,
    });
    assert_eq!(found["differences"][0], difference);
    assert_documented("storage replication verify", &serde_json::json!({ "verification": found }));
    // Both work as before.
    two.lab.ok("blob upload one.raw vms/two --account disks --data-dir a");
    two.wait_in_step(1);
}
