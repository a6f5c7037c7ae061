//! A guest is thawed in time, whatever becomes of libvirt, of the guard's orders and of its file.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use strongroom_base::{Clock as _, SystemClock};

use crate::{
    after::{assert_clean, assert_clean_within, backup, failed, guards, points, restored, says},
    check::Taken,
    guest::Guest,
    harness::{Host, Mounted, within},
    killed::next,
    under_way::{Running, slow_freeze, wait_frozen, web},
};

/// Has the guest say on its console when it has been thawed.
fn tell_of_thaws(guest: &Guest<'_>) {
    let hook = "#!/bin/sh\n[ $1 = freeze ] || echo LAB thawed >/dev/console\n";
    guest.put("/etc/fsfreeze-hook.d/tell", "755", hook);
}

fn thaws(guest: &Guest<'_>) -> usize {
    guest.console().matches("LAB thawed").count()
}

/// libvirt's daemon is killed when the guest is frozen, and stays dead until it is thawed: by the
/// backup, which has lost its connection; by the guard, when the backup hangs or has died.
#[test]
fn libvirt_dies_while_the_guest_is_frozen() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    slow_freeze(&guest, 3);
    tell_of_thaws(&guest);
    for end in ["KILL", "CONT", "STOP"] {
        guest.wait_records(2);
        let before = thaws(&guest);
        // Its orders to the guard leave 7 s for freezing, and 5 s more.
        let run = Running::start(&host, &["--freeze-timeout", "7s"]);
        within(2, || false);
        // It does not see that the guest is frozen, so it stays so for as long as we like.
        run.signal("STOP");
        wait_frozen(&guest);
        host.kill_libvirtd();
        assert_eq!(thaws(&guest), before);
        run.signal(end);
        let killed = SystemClock.monotonic();
        let thawed = within(if end == "STOP" { 15 } else { 8 }, || thaws(&guest) > before);
        let took = SystemClock.monotonic().saturating_sub(killed);
        println!("{end}: thawed {took:?} after libvirt died");
        assert!(thawed, "{end}: frozen; {}", guest.console());
        assert_ne!(host.try_virsh(&["list"]).code, 0, "libvirt is back");
        host.start_libvirtd();
        guest.wait_agent();
        if end != "CONT" {
            // A backup that goes on begins again as soon as libvirt is back, and freezes it once more.
            assert_eq!(guest.freeze_status(), "thawed");
        }
        if end == "KILL" {
            run.end();
            assert_clean_within(20, &host, &guest, first["checkpoint"].as_str());
            continue;
        }
        run.signal("CONT");
        let report = run.report();
        if end == "STOP" {
            // It finds libvirt back, and goes on with a guest that is not frozen any more.
            assert!(says(&report["evidence"], "thawed before the transaction"), "{report:#}");
            assert_eq!(report["consistency"], "crash", "{report:#}");
            restored(&host, &report, Taken::Running);
        } else {
            assert!(says(&report["notes"], "begun again"), "{report:#}");
            assert_eq!(report["consistency"], "file_system", "{report:#}");
            restored(&host, &report, Taken::Frozen);
        }
        assert_clean_within(10, &host, &guest, report["checkpoint"].as_str());
    }
    guest.sh("rm /etc/fsfreeze-hook.d/slow");
    next(&host, &guest, "bitmap");
}

/// A guard that the test gives orders.
struct Guard {
    process: Child,
    orders: UnixStream,
}

impl Guard {
    fn start(host: &Host) -> Self {
        let (orders, theirs) = UnixStream::pair().unwrap();
        orders.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut command = host.command(&["vm-guard"]);
        command.stdin(OwnedFd::from(theirs.try_clone().unwrap())).stdout(OwnedFd::from(theirs));
        command.stderr(Stdio::null()).process_group(0);
        Self { process: command.spawn().expect("it starts"), orders }
    }

    /// Gives an order, and waits for the answer.
    fn tell(&mut self, order: &Value) {
        self.orders.write_all(format!("{order}\n").as_bytes()).unwrap();
        let mut answer = [0; 512];
        let count = self.orders.read(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer[..count]).expect("an answer");
        assert_eq!(answer["late"], false, "{answer}");
    }

    /// Says something that is no order; the guard must clean up and end, while we stay.
    fn ends_by(mut self, noise: &[u8]) {
        // It may have had enough before the end of it.
        self.orders.write_all(noise).ok();
        let ended = within(30, || self.process.try_wait().unwrap().is_some());
        if !ended {
            self.process.kill().unwrap();
        }
        assert!(ended, "it goes on");
    }
}

/// What comes over the guard's socket and is no order: whoever says it is as good as dead.
#[test]
fn what_is_no_order_ends_in_thawing() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    let uuid = guest.virsh("domuuid", &[]);
    let lock = host.lab.path(&format!("r/strongroom/{uuid}.guard"));
    let watch = json!({"watch": {
        "uri": host.uri(), "runtime_dir": host.lab.path("r"), "cache_dir": host.lab.path(".cache"),
        "is_root": false, "machine": uuid, "agent": null, "lock": lock,
    }});
    let huge = vec![b'['; 3 << 20];
    let noises: [&[u8]; 6] = [
        b"\n",
        b"\xff\xfe\x00\x01 garbage\n",
        b"{\"freeze\": {\"deadline_ms\": -1}}\n",
        b"{\"no_such_order\": {}}\n",
        b"\"done",
        &huge,
    ];
    for (number, noise) in noises.into_iter().enumerate() {
        // Before it knows of a machine it has nothing to do.
        if noise != b"\"done" {
            Guard::start(&host).ends_by(noise);
        }
        let mut guard = Guard::start(&host);
        guard.tell(&watch);
        guard.tell(&json!({"freeze": {"deadline_ms": 600_000}}));
        guest.virsh("domfsfreeze", &[]);
        assert_eq!(guest.freeze_status(), "frozen");
        if noise == b"\"done" {
            // Half an order, and then nothing more.
            guard.orders.write_all(noise).unwrap();
            guard.orders.shutdown(std::net::Shutdown::Write).unwrap();
        }
        guard.ends_by(if noise == b"\"done" { b"" } else { noise });
        assert_eq!(guest.freeze_status(), "thawed", "noise {number}");
        assert_clean(&host, &guest, first["checkpoint"].as_str());
    }
    next(&host, &guest, "bitmap");
}

/// What is owed cannot be noted, as `/run` is full: then nothing is frozen.
#[test]
fn there_is_no_room_for_what_the_guard_owes() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    tell_of_thaws(&guest);
    let before = thaws(&guest);
    let run = host.lab.path("r/strongroom");
    let folder = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name());
    let locks: Vec<_> = folder.collect();
    let Some(mounted) = Mounted::tmpfs(&run, "64k") else { return };
    // With the locks, and no page more.
    for lock in &locks {
        fs::write(run.join(lock), "").unwrap();
    }
    let full = || fs::write(run.join("other"), vec![1; 1 << 20]).is_err();
    assert!(full());
    let ended = Running::start(&host, &[]).end();
    let words = failed(&ended, "local.io");
    assert!(words.contains("cannot keep what it owes"), "{words}");
    assert!(words.contains("No space left"), "{words}");
    assert_eq!(guest.freeze_status(), "thawed");
    assert_eq!(thaws(&guest), before, "it was frozen");
    assert_eq!(points(&host).len(), 1);
    // The same command goes through when there is room.
    fs::remove_file(run.join("other")).unwrap();
    assert!(within(10, || guards(&host).is_empty()));
    assert_clean(&host, &guest, first["checkpoint"].as_str());
    next(&host, &guest, "bitmap");
    drop(mounted);
}
