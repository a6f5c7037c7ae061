//! System calls that fail: of a program that met an error either the whole new state is there, or the old one
//! and a clear error.

use std::fs;

use super::{Chance, figures, many, world::World};
use crate::{
    harness::{Lab, Run, need},
    killed::run_injected,
};

/// The calls by which data reaches the disk, and by which it is read.
const CALLS: [&str; 11] = [
    "fdatasync",
    "fsync",
    "pwrite64",
    "renameat2",
    "ftruncate",
    "openat2",
    "unlinkat",
    "mkdirat",
    "preadv2",
    "pread64",
    "getdents64",
];

#[derive(Default, Debug)]
struct Errors {
    /// Errors that reached the program.
    injected: u64,
    /// Injections for which a run had too few calls.
    missed: u64,
    /// Runs that went on all the same.
    survived: u64,
    /// Vaults of which one copy lacked objects afterwards; a repair brought them there.
    behind: u64,
    restores: u64,
}

/// Runs the program with its `when`th call of a kind failing; whether it did.
fn run(lab: &Lab, words: &str, call: &str, error: &str, when: u64) -> (Run, bool) {
    let trace = lab.path("trace");
    let run = run_injected(lab, words, call, &format!("error={error}:when={when}"), &trace);
    let reached = fs::read_to_string(&trace).expect("a trace").contains("(INJECTED)");
    let reached = reached && run_began(&run);
    (run, reached)
}

/// The loader of shared libraries reads as well, and says so when it cannot.
fn run_began(run: &Run) -> bool {
    run.code != 127 && !run.stderr.contains("error while loading shared libraries")
}

fn case(world: &mut World, chance: &mut Chance, errors: &mut Errors) {
    let item = *chance.one_of(&["web", "db"]);
    let point = world.some_point(chance).expect("it has points");
    let words = match chance.below(8) {
        0 => "vault reclaim --wait 0s".to_owned(),
        1 => "vault verify --repair".to_owned(),
        2 => "vault key rotate --master".to_owned(),
        3 | 4 => {
            let (item, id) = &point;
            fs::remove_file(world.lab.path("out.raw")).ok();
            fs::remove_file(world.lab.path("out.raw.partial")).ok();
            format!("restore disks --item {item} --recovery-point {id} --to root=out.raw")
        }
        _ => {
            world.change(item, chance);
            World::backup(item)
        }
    };
    let call = *chance.one_of(&CALLS);
    let error = *chance.one_of(&["EIO", "ENOSPC"]);
    let when = 1 + chance.below(8);
    let (run, reached) = run(&world.lab, &words, call, error, when);
    let what = format!("{words}: {error} of {call} {when}: {}: {}", run.code, run.stderr);
    if reached {
        errors.injected += 1;
        errors.survived += u64::from(run.code == 0);
    } else {
        errors.missed += 1;
    }
    assert!(run.code >= 0 && run.code != 101, "{what}");
    assert!(run.code == 0 || run.stderr.contains("Code: ") || !run_began(&run), "{what}");
    let new = world.look();
    if words.starts_with("backup") && run.code == 0 {
        assert_eq!(new, 1, "{what}: it ended well without a point");
    }
    if words.starts_with("restore") && run.code == 0 {
        let restored = fs::read(world.lab.path("out.raw")).expect("restored");
        assert!(restored == *world.points[&point], "{what}: restored wrong");
    }
    for item in ["web", "db"] {
        if let Some(point) = world.oldest_of_many(item, 3) {
            world.give_up(&point);
            world.lab.ok(&World::delete(&point));
            world.look();
        }
    }
    world.restore_all("");
    let verify = world.lab.run("vault verify --output json");
    if verify.code == 6 && reached {
        assert_behind(&verify.stdout, &what);
        world.lab.ok("vault verify --repair");
        world.lab.ok("vault verify");
        errors.behind += 1;
    } else {
        assert_eq!(verify.code, 0, "{what}\n{}{}", verify.stdout, verify.stderr);
    }
}

/// A program whose writes failed leaves objects that only one of two copies has, be they of no use to
/// anybody: one of a mirror, or one of the two objects that each part of the keys is. That is all that may be
/// wrong, and a repair brings them to the other.
fn assert_behind(report: &str, what: &str) {
    let report: serde_json::Value = serde_json::from_str(report).expect("JSON");
    let damaged = report["damaged"].as_array().expect("an array");
    assert_eq!(report["damaged_recovery_points"], 0, "{what}: {report:#}");
    assert!(!damaged.is_empty(), "{what}: {report:#}");
    for object in damaged {
        let copies = object["copies"].as_array().expect("an array");
        assert!(copies.iter().all(|copy| copy["state"] == "missing"), "{what}: {report:#}");
        let there = u64::from(object["kind"] != "key");
        assert!(object["good_copies"].as_u64() >= Some(there), "{what}: {report:#}");
    }
}

#[test]
fn errors_of_system_calls_leave_the_old_state_or_the_new() {
    need("strace", "strace");
    let mut chance = Chance::new(5);
    let mut errors = Errors::default();
    let enough = many(8, 500);
    while errors.injected < enough {
        // A new vault now and then, so that it does not only grow.
        let mut world = World::new(&mut chance, chance_of_a_mirror(errors.injected));
        world.backed_up("web", &mut chance);
        world.backed_up("db", &mut chance);
        for _ in 0..40 {
            if errors.injected == enough {
                break;
            }
            case(&mut world, &mut chance, &mut errors);
        }
        world.lab.ok("vault reclaim --wait 0s");
        world.backed_up("web", &mut chance);
        world.restore_all("");
        errors.restores += world.restores;
    }
    figures(&format!(
        "errors of system calls: {errors:?}; 0 lost, 0 restored wrong, 0 false alarms"
    ));
}

/// Every other vault is mirrored.
fn chance_of_a_mirror(injected: u64) -> bool {
    (injected / 40) % 2 == 1
}
