//! Pairs: who may join, by what, and what servers refuse each other.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;
use strongroom_testing::{free_port, wait_until};

use super::{FOLDERS, Two, raw};
use crate::{
    blocks::{Page, parts, read},
    documented::assert_documented,
    harness::Lab,
    storage::Served,
};

#[test]
fn an_invitation_is_for_one_server_and_one_hour_and_nobody_else() {
    let mut two =
        Two { lab: Lab::empty(), ports: [free_port(), free_port()], served: [None, None] };
    two.lab.ok("storage account create disks --data-dir a");
    let invite = format!("storage replication invite --data-dir a --url {}", two.url(0));
    for (url, text) in [("http://192.0.2.1:1", "loopback"), ("https://127.0.0.1:1", "certificate")]
    {
        let refused = format!("storage replication invite --data-dir a --url {url}");
        let said = two.lab.fails(&refused, 2, "storage.replication_invalid").to_string();
        assert!(said.contains(text), "{said}");
    }
    let line = two.lab.ok(&invite).stdout;
    fs::write(two.lab.path("invitation"), &line).expect("written");
    assert_eq!(two.show(0)["role"], "alone");
    let join = |folder: &str, url: &str| {
        format!(
            "storage replication join --data-dir {folder} --url {url} --invitation-file invitation"
        )
    };
    // Nobody serves yet.
    two.lab.fails(&join("b", &two.url(1)), 5, "storage.peer_unavailable");
    two.serve(0);
    let own = two.lab.fails(&join("b", &two.url(0)), 2, "storage.replication_invalid").to_string();
    assert!(own.contains("gave the invitation"), "{own}");
    two.lab.ok("storage account create other --data-dir c");
    two.lab.fails(&join("c", &two.url(1)), 2, "storage.replication_invalid");
    fs::write(two.lab.path("nonsense"), "nonsense").expect("written");
    let nonsense =
        join("b", &two.url(1)).replace("invitation-file invitation", "invitation-file nonsense");
    two.lab.fails(&nonsense, 2, "storage.replication_invalid");

    // Who has no secret is answered as anybody who asks something that does not exist.
    let host = format!("127.0.0.1:{}", two.ports[0]);
    let secret = line.split(' ').nth(3).expect("a secret").to_owned();
    for (method, token) in [
        ("GET", "Bearer x"),
        ("POST", "Bearer x"),
        ("GET", "nothing"),
        ("GET", &format!("Bearer {secret}")),
    ] {
        let path = if token.contains(&secret) { "records" } else { "state" };
        let text = format!(
            "{method} /-/replication/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: {token}\r\ncontent-length: 0\r\n\r\n"
        );
        let (status, answer) = raw(&host, &text);
        assert!((400..=403).contains(&status), "{answer}");
        assert!(!answer.contains("\"role\"") && !answer.contains("epoch"), "{answer}");
    }
    let joined = two.lab.json(&join("b", &two.url(1)));
    assert_eq!(joined["accounts"], serde_json::json!(["disks"]));
    // It was interrupted, perhaps, and is repeated; another server is too late.
    two.lab.ok(&join("b", &two.url(1)));
    two.lab.fails(&join("d", "http://127.0.0.1:9"), 5, "storage.peer_unavailable");
    two.serve(1);
    two.wait_in_step(1);
    two.lab.fails(&join("d", "http://127.0.0.1:9"), 5, "storage.peer_unavailable");
    let again = two.lab.fails(&invite, 2, "storage.replication_invalid").to_string();
    assert!(again.contains("has another one already"), "{again}");

    // The secret is in no log, list or message, and its file is for its owner.
    for folder in FOLDERS {
        let file = two.lab.path(folder).join("replication.json");
        assert_eq!(fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).expect("text");
        let kept: Value = serde_json::from_str(&text).expect("JSON");
        let kept = kept["peer"]["secret"].as_str().expect("a secret").to_owned();
        assert_ne!(kept, secret);
        let shown =
            two.lab.ok(&format!("storage replication show --data-dir {folder} --output json"));
        assert!(!shown.stdout.contains(&kept) && !shown.stderr.contains(&kept));
    }
}

/// The page's commands, with ports of this machine for the names of its servers; with TLS.
#[test]
fn the_page_of_two_servers_works() {
    let lab = Lab::empty();
    let name = "docs/use/storage.md";
    let page = Page::new(name, "the_page_of_two_servers_works");
    let ports = FOLDERS.map(|folder| (folder, free_port()));
    let show = |folder: &str| lab.json(&format!("storage replication show --data-dir {folder}"));
    let mut served = Vec::new();
    for part in parts(&read(name)) {
        if !page.take(&part) {
            continue;
        }
        let mut words = part.trim_start_matches("strongroom ").replace("/srv/", "");
        for (folder, port) in ports {
            words = words.replace(&format!("{folder}.example:10000"), &format!("127.0.0.1:{port}"));
            if words.contains(&format!("--data-dir {folder} ")) {
                words = words.replace("0.0.0.0:10000", &format!("127.0.0.1:{port}"));
            }
        }
        if words.starts_with("storage serve") {
            served.push(Served::start(&lab, &words));
            continue;
        }
        if words.starts_with("storage account failover") {
            let follows = if words.contains("dir a") { "a" } else { "b" };
            wait_until("the secondary is in step", || {
                let shown = show(follows);
                shown["role"] == "secondary" && shown["state"] == "live"
            });
        }
        lab.ok(&words);
    }
    page.assert_all_run();
    wait_until("the first server is the primary again", || show("a")["role"] == "primary");
    wait_until("the other one follows", || {
        let shown = show("b");
        shown["role"] == "secondary" && shown["state"] == "live"
    });
    // A certificate that is made again is known after the next start: its server says so.
    served.pop().expect("b is served").stop();
    fs::remove_file(lab.path("b/certificate.pem")).expect("removed");
    let before = show("a")["peer_fingerprint"].clone();
    let words = format!("storage serve --data-dir b --listen 127.0.0.1:{}", ports[1].1);
    served.push(Served::start(&lab, &words));
    wait_until("the new certificate is known", || show("a")["peer_fingerprint"] != before);
    wait_until("the secondary follows", || show("b")["state"] == "live");
    // So it is for the primary, which asks the other server when it starts.
    served.remove(0).stop();
    fs::remove_file(lab.path("a/certificate.pem")).expect("removed");
    let before = show("b")["peer_fingerprint"].clone();
    let words = format!("storage serve --data-dir a --listen 127.0.0.1:{}", ports[0].1);
    served.push(Served::start(&lab, &words));
    wait_until("the new certificate is known", || show("b")["peer_fingerprint"] != before);
    wait_until("the secondary follows", || show("b")["state"] == "live");
}

#[test]
fn servers_refuse_each_other_what_is_not_valid() {
    let two = Two::joined();
    two.wait_in_step(1);
    let file = fs::read_to_string(two.lab.path("b/replication.json")).expect("text");
    let kept: Value = serde_json::from_str(&file).expect("JSON");
    let secret = kept["peer"]["secret"].as_str().expect("a secret").to_owned();
    let host = format!("127.0.0.1:{}", two.ports[0]);
    let ask = |method: &str, path: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "{method} /-/replication/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
        );
        let (status, answer) = raw(
            &host,
            &format!(
                "{head}authorization: Bearer {secret}\r\ncontent-length: {length}\r\n\r\n{body}"
            ),
        );
        let code = answer.lines().find_map(|line| line.strip_prefix("x-strongroom-code: "));
        (status, code.unwrap_or_default().to_owned())
    };
    let said = |status: u16, code: &str| (status, code.to_owned());
    let standing = two.show(0);
    let next = standing["records"].as_u64().expect("a number") + 1;
    assert_eq!(ask("GET", "state", ""), said(200, "done"));
    for path in [
        "records",
        "records?at=1.0&epoch=1&durable=1",
        "records?at=-1.0&epoch=1&durable=1&wait=0",
        "records?at=1.0&epoch=x&durable=1&wait=0",
        "records?at=99999999999999999999.0&epoch=1&durable=1&wait=0",
        "other",
        "",
        "../disks",
    ] {
        assert_eq!(ask("GET", path, ""), said(400, "invalid"), "{path}");
    }
    for path in ["state", "fence", "fence?epoch=", "join"] {
        assert_eq!(ask("POST", path, "{}"), said(400, "invalid"), "{path}");
    }
    let records = |next: u64, stamp: u64, epoch: u64| {
        ask("GET", &format!("records?at={next}.{stamp}&epoch={epoch}&durable=1&wait=0"), "")
    };
    assert_eq!(records(next, 1, 2), said(409, "wrong_epoch"));
    assert_eq!(records(next + 1000, 1, 1), said(409, "ahead"));
    assert_eq!(records(next, 1, 1), said(410, "too_far_behind"));
    assert_eq!(ask("POST", "resync?session=none", "question"), said(410, "session_gone"));
    assert_eq!(ask("POST", "resync", "no question"), said(410, "session_gone"));
    // More than a question may have.
    let long = "x".repeat((4 << 20) + 1);
    assert_eq!(ask("POST", "resync", &long), said(400, "invalid"));
    // Nothing of this has changed anything.
    two.wait_in_step(1);
    assert_eq!(two.show(0)["role"], "primary");
    // An older epoch fences nobody.
    assert_eq!(ask("POST", "fence?epoch=0", ""), said(200, "done"));
    assert_eq!(ask("POST", "fence?epoch=1", ""), said(200, "done"));
    assert_eq!(two.role(0), "primary");
}

#[test]
fn a_primary_whose_secondary_never_came_may_be_joined_again() {
    let mut two =
        Two { lab: Lab::empty(), ports: [free_port(), free_port()], served: [None, None] };
    two.lab.ok("storage account create disks --data-dir a");
    two.serve(0);
    let invite = format!("storage replication invite --data-dir a --url {}", two.url(0));
    two.lab.ok(&format!("{invite} --file invitation"));
    let join = format!(
        "storage replication join --data-dir b --url {} --invitation-file invitation",
        two.url(1)
    );
    two.lab.ok(&join);
    two.stop(0);
    two.serve(0);
    // There is nobody who could have been promoted.
    two.wait_for_role(0, "primary");
    assert_eq!(two.ask(0, "PUT", "/disks/vms?restype=container").0, 201);
    fs::remove_dir_all(two.lab.path("b")).expect("removed");
    two.lab.ok(&join);
    two.serve(1);
    two.wait_in_step(1);
    // A plan is of what would happen.
    let plan = "storage account failover --dry-run --data-dir a";
    two.lab.fails(plan, 2, "storage.replication_invalid");
    two.lab.ok("storage account failover --dry-run --data-dir b");
    two.lab.ok("storage account create alone --data-dir c");
    let nothing = "storage replication remove --dry-run --data-dir c";
    two.lab.fails(nothing, 2, "storage.replication_invalid");
    // The second server moves.
    two.stop(1);
    two.ports[1] = free_port();
    let moved = format!("storage replication update --data-dir b --url {}", two.url(1));
    assert_documented("storage replication show", &two.lab.json(&moved));
    two.serve(1);
    two.wait_in_step(1);
    wait_until("the first one has learned it", || two.show(0)["peer_url"] == two.url(1));
}
