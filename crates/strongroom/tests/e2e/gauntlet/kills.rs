//! Killed at random moments, several programs at once: no listed point is ever lost or wrong, and nothing that
//! runs beside it is disturbed.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::Value;
use strongroom_base::{Clock as _, SystemClock};

use super::{
    Chance, figures, many,
    world::{ITEMS, World},
};
use crate::harness::Run;

#[derive(Default, Debug)]
struct Kills {
    rounds: u64,
    /// Programs that SIGKILL ended.
    killed: u64,
    /// Programs that came to their end.
    ended: u64,
    points: usize,
    restores: u64,
    verifies: u64,
    /// How long programs are left alone at most: so that about half of them come to their end.
    within: Duration,
}

/// A program that runs, and when it is killed.
struct Program {
    words: String,
    child: Child,
    kill_after: Option<Duration>,
}

impl Program {
    /// Starts it; four of five are killed within the time given.
    fn start(world: &World, words: &str, within: Duration, chance: &mut Chance) -> Self {
        let mut command = world.lab.command(words);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let micros = u64::try_from(within.as_micros()).expect("fits");
        let kill_after = (!chance.once_in(5)).then(|| Duration::from_micros(chance.below(micros)));
        Self { words: words.to_owned(), child: child.expect("starts"), kill_after }
    }
}

/// The programs of a round.
fn programs(world: &mut World, chance: &mut Chance) -> Vec<String> {
    let mut programs = Vec::new();
    for (item, _) in ITEMS {
        world.change(item, chance);
        programs.push(World::backup(item));
    }
    let reclaim = "vault reclaim --wait 0s".to_owned();
    match chance.below(8) {
        0 | 1 => programs.push(reclaim),
        2 => programs.extend([reclaim.clone(), reclaim]),
        3 => programs.push("vault verify --repair".to_owned()),
        4 => programs.push("vault key rotate --master".to_owned()),
        5 => programs.extend([reclaim, "vault verify --repair".to_owned()]),
        _ => {}
    }
    for (item, _) in ITEMS {
        if let Some(point) = world.oldest_of_many(item, 3) {
            world.give_up(&point);
            programs.push(World::delete(&point));
        }
    }
    programs
}

/// Runs all of them at once, kills most, and returns how each that was not killed ended.
fn run(
    world: &World,
    programs: &[String],
    chance: &mut Chance,
    kills: &mut Kills,
) -> Vec<(String, Run)> {
    let within = kills.within;
    let start = SystemClock.monotonic();
    let mut running: Vec<_> =
        programs.iter().map(|words| Program::start(world, words, within, chance)).collect();
    running.sort_by_key(|program| program.kill_after);
    for program in &mut running {
        if let Some(after) = program.kill_after {
            SystemClock.sleep(after.saturating_sub(SystemClock.monotonic().saturating_sub(start)));
            program.child.kill().expect("can be killed");
        }
    }
    let mut ended = Vec::new();
    for program in running {
        let output = program.child.wait_with_output().expect("it ends");
        if output.status.signal() == Some(9) {
            kills.killed += 1;
        } else {
            kills.ended += 1;
            ended.push((program.words, Run::of(&output)));
        }
    }
    ended
}

/// What ends by itself beside programs that are killed ends well; a reclaim or a verify may say that it is to
/// come again.
fn assert_undisturbed(words: &str, run: &Run) {
    // Reclaim and verify.
    let again = words.starts_with("vault ") && run.stderr.contains("Code: reclaim.");
    assert!(
        run.code == 0 || again,
        "strongroom {words}: {}\n{}{}",
        run.code,
        run.stdout,
        run.stderr
    );
}

fn round(world: &mut World, chance: &mut Chance, kills: &mut Kills) {
    let programs = programs(world, chance);
    let ended = run(world, &programs, chance, kills);
    let new = world.look();
    kills.points += new;
    let backups = ended.iter().filter(|(words, run)| words.starts_with("backup") && run.code == 0);
    assert!(new >= backups.count(), "a backup that ended well has no point");
    let (up, down) = if kills.ended < kills.killed { (11, 10) } else { (9, 10) };
    kills.within = kills.within * up / down;
    for (words, run) in &ended {
        assert_undisturbed(words, run);
    }
    world.restore_all("");
    if chance.once_in(4) {
        verify(world);
        kills.verifies += 1;
    }
    kills.rounds += 1;
}

/// Which copy of a mirror has what a killed program was about is repaired, not damage. In one folder there is one thing of
/// that kind: a change of keys is complete with its first object, and its second one may be missing. Nothing else may be
/// wrong, and after a repair nothing is.
fn verify(world: &World) {
    if world.mirrored {
        world.lab.ok("vault verify --repair");
        return;
    }
    let found = world.lab.run("vault verify --output json");
    if found.code == 0 {
        return;
    }
    let report: Value = serde_json::from_str(&found.stdout).expect("a report");
    let damaged = report["damaged"].as_array().expect("a list");
    assert!(!damaged.is_empty(), "{report:#}");
    for one in damaged {
        let is_second = one["object"].as_str().is_some_and(|name| name.contains("/copies/"));
        let copies = one["copies"].as_array().expect("a list");
        let is_missing = copies.iter().all(|copy| copy["state"] == "missing");
        assert!(is_second && is_missing, "{report:#}");
    }
    world.lab.ok("vault verify --repair");
    world.lab.ok("vault verify");
}

/// A vault, killed around until so many were killed.
fn gauntlet(part: u64, mirrored: bool, enough: u64) {
    let mut chance = Chance::new(part);
    let mut world = World::new(&mut chance, mirrored);
    let mut kills = Kills { within: Duration::from_millis(300), ..Kills::default() };
    while kills.killed < enough {
        round(&mut world, &mut chance, &mut kills);
    }
    // In the end all is as if nobody had been killed.
    verify(&world);
    world.lab.ok("vault reclaim --wait 0s");
    world.lab.ok("vault verify");
    for (item, _) in ITEMS {
        world.backed_up(item, &mut chance);
    }
    world.restore_all("");
    kills.restores = world.restores;
    figures(&format!(
        "{}: {kills:?}; 0 points lost, 0 restored wrong, 0 false alarms",
        if mirrored { "kills, mirror" } else { "kills, one folder" }
    ));
}

#[test]
fn kills_of_a_vault_in_one_folder_lose_nothing() {
    gauntlet(1, false, many(10, 600));
}

#[test]
fn kills_of_a_mirrored_vault_lose_nothing() {
    gauntlet(2, true, many(8, 400));
}
