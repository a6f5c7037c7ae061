//! The program is killed with SIGKILL before each step that lasts: every sync, every file that gets
//! its name, every file that goes. Whatever it was doing, nothing that was there is lost and the same
//! command succeeds afterwards.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::harness::{Lab, Run, need};

/// The system calls by which a run changes what others see.
const STEPS: &str = "renameat2,rename,linkat,unlinkat,unlink,fsync,fdatasync";

/// How many steps of each count are never left out.
const FIRST: usize = 6;

/// How many threads of a command make steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Threads {
    One,
    Several,
}

/// Runs a command again and again from the same state, killed one step later each time, until it gets
/// to its end; `check` looks at what each run left behind. Returns how often it was killed.
///
/// strace counts the steps of each thread apart, so one count over all calls would jump over what the
/// idler threads do: where there are several, every call is counted alone, too; then without `STRONGROOM_LONG` it is killed
/// at the first six steps and at every third after them, as most of these are those of the first count.
fn killed_at_every_step(
    lab: &Lab,
    words: &str,
    threads: Threads,
    folders: &[&str],
    check: &dyn Fn(usize),
) -> usize {
    need("strace", "strace");
    for folder in folders {
        copy(lab, folder, &format!("{folder}.before"));
    }
    let mut kills = 0;
    let alone = STEPS.split(',').filter(|_| threads == Threads::Several);
    let stride = if std::env::var_os("STRONGROOM_LONG").is_some() { 1 } else { 3 };
    for calls in std::iter::once(STEPS).chain(alone) {
        let stride = if calls == STEPS { 1 } else { stride };
        for step in (1..=FIRST).chain((FIRST + stride..).step_by(stride)) {
            for folder in folders {
                copy(lab, &format!("{folder}.before"), folder);
            }
            let run = run_until(lab, words, calls, step);
            if run.code == 0 {
                break;
            }
            assert!(!run.stderr.contains("Error"), "not killed but failed: {}", run.stderr);
            kills += 1;
            check(kills);
        }
    }
    kills
}

/// Runs a command, killed when one of its threads is about to make the `step`th of these calls.
pub(crate) fn run_until(lab: &Lab, words: &str, calls: &str, step: usize) -> Run {
    run_injected(lab, words, calls, &format!("signal=KILL:when={step}"), Path::new("/dev/null"))
}

/// Runs a command with something done to these calls of it, in the words of `strace`, which writes a trace
/// of them.
pub(crate) fn run_injected(lab: &Lab, words: &str, calls: &str, what: &str, trace: &Path) -> Run {
    let program = lab.command(words);
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-o"])
        .arg(trace)
        .args(["-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:{what}")])
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(lab.path(""))
        .env_clear();
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            traced.env(name, value);
        }
    }
    Run::of(&traced.output().expect("strace starts"))
}

fn copy(lab: &Lab, from: &str, to: &str) {
    fs::remove_dir_all(lab.path(to)).ok();
    let status = Command::new("cp").arg("-a").args([lab.path(from), lab.path(to)]).status();
    assert!(status.expect("cp runs").success());
}

/// Two days of a disk, and a point of something else that shares nothing.
fn lab_with_points(create: &str) -> Lab {
    let lab = Lab::empty();
    lab.ok("vault key generate key");
    lab.ok(create);
    lab.disk("d.img", 4, 2, 1);
    lab.disk("other.img", 2, 1, 9);
    lab.ok("backup --item other --disk system=other.img");
    lab.ok("backup --item web --disk system=d.img");
    lab.copy("d.img", "day1.img");
    lab.change("d.img", 100_000, 400_000, 2);
    lab.ok("backup --item web --disk system=d.img");
    lab
}

/// The newest points of both items are what they should be.
fn assert_restores(lab: &Lab, options: &str) {
    for (item, image) in [("web", "d.img"), ("other", "other.img")] {
        fs::remove_dir_all(lab.path("out")).ok();
        let to = "--recovery-point latest --to out";
        lab.ok(&format!("restore disks --item {item} {to} {options}"));
        lab.assert_same(image, "out/system.raw");
    }
}

/// Reclaims; afterwards there must be none of the objects by which work in progress is known. A
/// writer that was killed before it had written its note is not known to be dead: it counts as gone
/// when it has been silent for long, so that time is let pass.
fn reclaim_all(lab: &Lab, copies: &[&str], step: usize) {
    let reclaim = || lab.ok("vault reclaim --wait 0s");
    reclaim();
    for note in copies.iter().flat_map(|copy| lab.files(&format!("{copy}/writers"))) {
        let file = fs::File::options().write(true).open(&note.0).expect("a note");
        let written = file.metadata().and_then(|data| data.modified()).expect("a time");
        file.set_modified(written - Duration::from_mins(20)).expect("a file system with times");
    }
    reclaim();
    let folders = ["writers", "condemned", "deleted", "damaged"];
    let names = folders.iter().flat_map(|name| copies.iter().map(move |c| format!("{c}/{name}")));
    let left: Vec<_> = names.flat_map(|name| lab.files(&name)).collect();
    assert!(left.is_empty(), "step {step}: {left:?}");
}

#[test]
fn a_backup_killed_at_any_step() {
    let lab = lab_with_points("vault create");
    lab.change("d.img", 1_000_000, 300_000, 3);
    let backup = "backup --item web --disk system=d.img";
    let kills =
        killed_at_every_step(&lab, backup, Threads::Several, &["vault", ".cache"], &|step| {
            let points = lab.points("web").len();
            assert!(points == 2 || points == 3, "step {step}: {points} points");
            lab.ok("vault verify");
            lab.ok(backup);
            assert_restores(&lab, "");
            reclaim_all(&lab, &["vault"], step);
            lab.ok("vault verify");
        });
    assert!(kills > 10, "{kills} steps");
}

#[test]
fn a_reclaim_killed_at_any_step() {
    let lab = lab_with_points("vault create");
    // Something to compact: of this point's packs only a part is needed by the next.
    lab.change("d.img", 0, 1 << 20, 4);
    lab.ok("backup --item web --disk system=d.img");
    for point in &lab.points("web")[..2] {
        lab.ok(&format!("recoverypoint delete --item web --recovery-point {point} --yes"));
    }
    let reclaim = "vault reclaim --wait 0s";
    let kills =
        killed_at_every_step(&lab, reclaim, Threads::Several, &["vault", ".cache"], &|step| {
            assert_eq!(lab.points("web").len(), 1, "step {step}");
            lab.ok("vault verify");
            assert_restores(&lab, "");
            // Beside its leftovers, others can work.
            lab.ok("backup --item third --disk system=day1.img");
            lab.ok(reclaim);
            lab.ok("vault verify");
            assert_restores(&lab, "");
            reclaim_all(&lab, &["vault"], step);
        });
    assert!(kills > 10, "{kills} steps");
}

#[test]
fn a_recompression_killed_at_any_step() {
    let lab = lab_with_points("vault create");
    let recompress = "vault reclaim --recompress --wait 0s";
    let kills =
        killed_at_every_step(&lab, recompress, Threads::Several, &["vault", ".cache"], &|step| {
            assert_eq!(lab.points("web").len(), 2, "step {step}");
            lab.ok("vault verify");
            assert_restores(&lab, "");
            // Beside its leftovers, others can work.
            lab.ok("backup --item third --disk system=day1.img");
            lab.ok(recompress);
            lab.ok("vault verify");
            assert_restores(&lab, "");
            // All of it is compressed once more now, and is not a second time.
            let again = lab.json(recompress);
            assert_eq!(again["recompressed_packs"], 0, "step {step}: {again}");
            reclaim_all(&lab, &["vault"], step);
        });
    assert!(kills > 10, "{kills} steps");
}

#[test]
fn a_key_rotation_killed_at_any_step() {
    let lab = lab_with_points("vault create");
    lab.ok("vault key generate new");
    let rotate = "vault key rotate --new-key-file new";
    let kills = killed_at_every_step(&lab, rotate, Threads::One, &["vault", ".cache"], &|step| {
        let opens = |key: &str| lab.run(&format!("recoverypoint list --key-file {key}")).code == 0;
        assert!(opens("key") || opens("new"), "step {step}: no key opens the vault");
        if opens("key") {
            lab.ok(rotate);
        }
        lab.fails("recoverypoint list --key-file key", 8, "key.wrong");
        assert_restores(&lab, "--key-file new");
        assert_eq!(lab.json("vault key list")["key_slots"].as_array().expect("slots").len(), 1);
    });
    assert!(kills > 2, "{kills} steps");
}

#[test]
fn a_new_master_key_killed_at_any_step() {
    let lab = lab_with_points("vault create");
    let rotate = "vault key rotate --master";
    // It makes few steps of each kind: every kind is counted alone, too.
    let kills = killed_at_every_step(&lab, rotate, Threads::Several, &["vault", ".cache"], &|_| {
        assert_restores(&lab, "");
        lab.ok("backup --item web --disk system=d.img");
        lab.ok(rotate);
        lab.ok("backup --item web --disk system=d.img");
        assert_restores(&lab, "");
        lab.ok("vault verify");
    });
    assert!(kills > 5, "{kills} steps");
}

#[test]
fn a_mirrors_repair_killed_at_any_step() {
    let lab = lab_with_points("vault create --mirror copy");
    // One copy has lost all its packs; of the other one a manifest is rotten.
    fs::remove_dir_all(lab.path("vault/packs")).expect("removed");
    let (manifest, _) = lab.files("copy/points").swap_remove(0);
    let mut bytes = fs::read(&manifest).expect("readable");
    bytes[100] ^= 1;
    fs::write(&manifest, bytes).expect("written");
    let repair = "vault verify --repair";
    let kills = killed_at_every_step(
        &lab,
        repair,
        Threads::Several,
        &["vault", "copy", ".cache"],
        &|step| {
            assert_restores(&lab, "");
            lab.ok(repair);
            lab.ok("vault verify");
            reclaim_all(&lab, &["vault", "copy"], step);
            let files = |copy: &str| -> Vec<_> {
                let strip = |path: &Path| path.strip_prefix(lab.path(copy)).map(Into::into);
                let files = lab.files(copy).into_iter();
                let files = files.map(|(path, _)| strip(&path).expect("inside"));
                // What a put was writing stays for a day: another process may still be writing it.
                files.filter(|path: &PathBuf| !path.starts_with(".tmp")).collect()
            };
            let names: [Vec<PathBuf>; 2] = ["vault", "copy"].map(files);
            assert_eq!(names[0], names[1], "step {step}");
        },
    );
    assert!(kills > 10, "{kills} steps");
}

#[test]
fn a_restore_killed_at_any_step() {
    let lab = lab_with_points("vault create");
    fs::create_dir(lab.path("out")).expect("made");
    let restore = "restore disks --item web --recovery-point latest --to out";
    let kills =
        killed_at_every_step(&lab, restore, Threads::Several, &["out", ".cache"], &|step| {
            lab.ok(restore);
            lab.assert_same("d.img", "out/system.raw");
            let files = lab.files("out");
            assert_eq!(files.len(), 1, "step {step}: {files:?}");
        });
    assert!(kills > 2, "{kills} steps");
}

#[test]
fn a_vaults_creation_killed_at_any_step() {
    let lab = Lab::empty();
    lab.ok("vault key generate key");
    lab.disk("d.img", 2, 1, 1);
    fs::create_dir(lab.path("vault")).expect("made");
    fs::create_dir(lab.path("copy")).expect("made");
    let create = "vault create --mirror copy";
    let kills = killed_at_every_step(&lab, create, Threads::One, &["vault", "copy"], &|step| {
        // Either it is there, or the same command makes it.
        if lab.run("vault show").code != 0 {
            lab.ok(create);
        }
        lab.ok("backup --item web --disk system=d.img");
        // A copy that was not reached counts as away: it is made one as docs/use/recovery.md says.
        if !lab.path("copy/strongroom.json").exists() {
            lab.fails("vault verify", 6, "verify.damaged");
            lab.copy("vault/strongroom.json", "copy/strongroom.json");
            lab.ok("vault verify --repair");
        }
        let report = lab.json("vault verify");
        assert_eq!(report["clean"], true, "step {step}: {report}");
    });
    assert!(kills > 2, "{kills} steps");
}
