//! The server is killed with SIGKILL just when something has been changed: the change reaches the copy of the
//! catalog in the vault all the same, and whoever recovers from that has it.
#![allow(clippy::disallowed_methods, reason = "it waits for the moment to kill a real server")]

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use crate::server::Service;

/// How long the copy may take: it is made seconds after a change, but a minute after the one before.
const PATIENCE: Duration = Duration::from_secs(150);

/// When a server is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many milliseconds after the change was asked for, whether it was answered or not.
    Asked(u64),
    /// So many milliseconds after it was answered.
    Answered(u64),
}

/// The state of the item in the vault's copy, as somebody finds it who has the vault and its key only.
fn recovered(service: &Service, folder: &str) -> Option<String> {
    let recover = format!("recover --vault vault --key-file main.key --data-dir {folder}");
    let run = service.lab.run(&format!("{recover} --output json"));
    let found: serde_json::Value = serde_json::from_str(&run.stdout).ok()?;
    Some(found["items"].as_array()?.first()?["state"].as_str()?.to_owned())
}

fn state(service: &Service) -> String {
    service.lab.json("item show data")["state"].as_str().expect("a state").to_owned()
}

/// Changes an item, kills the server then, starts it again, and waits until what it says of the item is
/// what the vault says. `is_saved`: the state before is in the vault.
fn change_and_kill(moment: Moment, is_saved: bool) {
    let mut service = Service::start();
    service.stay("save_every_minutes = 60\n");
    service.stop();
    service.start_again();
    service.wait_for_greeting();
    let lab = &service.lab;
    lab.ok("vault key generate main.key");
    let [vault, key] = ["vault", "main.key"].map(|name| lab.path(name).display().to_string());
    lab.ok(&format!("vault create main --vault {vault} --key-file {key}"));
    lab.ok("host create files");
    let disk = lab.disk("d.img", 4, 2, 1);
    lab.ok(&format!(
        "protection enable-for-disks --item data --host files --vault-name main --disk root={} --wait",
        disk.display()
    ));
    lab.ok("protection disable --item data --retain-forever");
    let before = state(&service);
    if is_saved {
        service.wait_for_catalog();
        assert_eq!(recovered(&service, "saved").as_ref(), Some(&before));
    }
    let mut change = service.lab.command("protection resume --item data");
    let mut change = change.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let answered = match moment {
        Moment::Asked(millis) => {
            thread::sleep(Duration::from_millis(millis));
            service.kill();
            change.wait().expect("it ends").success()
        }
        Moment::Answered(millis) => {
            assert!(change.wait().expect("it ends").success(), "{moment:?}");
            thread::sleep(Duration::from_millis(millis));
            service.kill();
            true
        }
    };
    service.start_again();
    service.wait_for_greeting();
    let after = state(&service);
    // What was answered has happened; what was not may have.
    assert!(!answered || after != before, "{moment:?}: {after}");
    let begun = Instant::now();
    for attempt in 0.. {
        let found = recovered(&service, &format!("again-{attempt}"));
        if found.as_ref() == Some(&after) {
            return;
        }
        let waited = begun.elapsed();
        let log = service.log();
        assert!(waited < PATIENCE, "{moment:?}: {found:?} and not {after}\n{log}");
        thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_change_just_before_a_kill_reaches_the_vaults_copy() {
    let long = std::env::var_os("STRONGROOM_LONG").is_some();
    let rows: Vec<(Moment, bool)> = if long {
        let delays = [0, 1, 2, 5, 10, 20, 40, 80, 120, 160, 200];
        let moments = delays.into_iter().flat_map(|it| [Moment::Asked(it), Moment::Answered(it)]);
        moments.flat_map(|moment| [(moment, false), (moment, true)]).collect()
    } else {
        [Moment::Asked(20), Moment::Answered(0), Moment::Answered(150)].map(|it| (it, true)).into()
    };
    // They wait most of the time: for the minute between two copies.
    for some in rows.chunks(8) {
        thread::scope(|scope| {
            for (moment, is_saved) in some {
                scope.spawn(|| change_and_kill(*moment, *is_saved));
            }
        });
    }
}
