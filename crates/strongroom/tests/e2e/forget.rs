//! Retention without a server, and vaults that have less than they had.

use std::process::Command;

use crate::harness::Lab;

/// A vault with so many points of an item.
fn with_points(count: u64) -> Lab {
    let lab = Lab::empty();
    lab.ok("vault key generate key");
    lab.ok("vault create");
    lab.disk("d.img", 8, 4, 1);
    for number in 0..count {
        lab.change("d.img", 0, 100, number + 2);
        lab.ok("backup --item web01 --disk system=d.img");
    }
    lab
}

#[test]
fn points_are_forgotten_by_rules_and_only_with_consent() {
    let lab = with_points(4);
    let points = lab.points("web01");
    // Nobody is there to be asked.
    lab.fails("recoverypoint forget --keep-last 2", 2, "usage.invalid");
    lab.fails("recoverypoint forget", 2, "usage.invalid");
    lab.fails("recoverypoint forget --keep-daily 3 --yes", 2, "policy.invalid");
    let would = lab.json("recoverypoint forget --keep-last 2 --dry-run");
    assert_eq!((&would["dry_run"], &would["items"][0]["kept"]), (&true.into(), &2.into()));
    assert_eq!(lab.points("web01"), points, "nothing has changed");
    // They are all of today: a rule of days keeps the last of them.
    let kept = lab.json("recoverypoint forget --keep-daily 7 --dry-run");
    assert_eq!(kept["items"][0]["deleted"], serde_json::json!([]), "every point stays for a day");
    let done = lab.json("recoverypoint forget --keep-last 2 --yes");
    assert_eq!(done["items"][0]["deleted"][1]["recovery_point"], points[1].as_str());
    assert_eq!(lab.points("web01"), points[2..]);
    // What goes is named before it does.
    let reclaim = lab.run("vault reclaim");
    assert!(reclaim.stderr.contains(&points[0]), "{}", reclaim.stderr);
    lab.ok("vault verify");
}

#[test]
fn several_points_are_deleted_at_once_and_young_notes_may_wait() {
    let lab = with_points(4);
    let points = lab.points("web01");
    let delete =
        format!("recoverypoint delete --item web01 --recovery-point {},latest --yes", points[0]);
    lab.ok(&delete);
    assert_eq!(lab.points("web01"), points[1..3]);
    lab.fails(
        "recoverypoint delete --item web01 --recovery-point 2026-11-22 --yes",
        2,
        "usage.invalid",
    );
    let waits = lab.json("vault reclaim --respect-notes-after 7d");
    assert_eq!((&waits["points_removed"], &waits["held"][1]["why"]), (&0.into(), &"young".into()));
    assert_eq!(lab.json("vault reclaim")["points_removed"], 2);
}

#[test]
fn a_vault_that_was_rolled_back_is_noticed() {
    let lab = with_points(1);
    let copy = |from: &str, to: &str| {
        std::fs::remove_dir_all(lab.path(to)).ok();
        let copied = Command::new("cp").arg("-a").arg(lab.path(from)).arg(lab.path(to)).status();
        assert!(copied.expect("runs").success());
    };
    copy("vault", "old");
    lab.ok("backup --item web01 --disk system=d.img");
    let newest = lab.points("web01")[1].clone();
    copy("vault", "new");
    copy("old", "vault");
    for command in ["recoverypoint list", "vault verify", "recoverypoint list"] {
        let run = lab.run(command);
        let said = run.stderr.contains("vault.rolled_back") && run.stderr.contains(&newest);
        assert!(said && run.stderr.contains("web01"), "{command}: {}", run.stderr);
    }
    copy("new", "vault");
    assert!(!lab.run("recoverypoint list").stderr.contains("vault.rolled_back"));
}
