//! Bad days: killed, interrupted, unreadable, full.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use strongroom_base::{Clock as _, SystemClock};
use strongroom_testing::wait_until;

use crate::harness::{Lab, Run, need};

fn start(lab: &Lab, words: &str) -> Child {
    lab.command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
}

fn vault_bytes(lab: &Lab) -> u64 {
    lab.vault_files().iter().map(|(_, size)| size).sum()
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn a_killed_backup_leaves_no_point_and_the_next_one_succeeds() {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.disk("e.img", 160, 150, 2);
    let before = vault_bytes(&lab);
    let mut child = start(&lab, "backup --item web --disk system=e.img --limit-rate 40M");
    wait_until("the backup to store something", || vault_bytes(&lab) > before + (30 << 20));
    child.kill().expect("killed");
    child.wait().expect("gone");

    assert_eq!(lab.points("web").len(), 1);
    lab.ok("restore disks --item web --recovery-point latest --to first");
    lab.assert_same("d.img", "first/system.raw");

    lab.ok("backup --item web --disk system=e.img");
    assert_eq!(lab.points("web").len(), 2);
    lab.ok("restore disks --item web --recovery-point latest --to second");
    lab.assert_same("e.img", "second/system.raw");
}

#[test]
fn a_clock_that_is_off_is_told_and_changes_no_order() {
    need("faketime", "faketime");
    let lab = Lab::new();
    lab.disk("d.img", 2, 1, 1);
    let program = lab.command("backup --item web --disk system=d.img");
    let mut ahead = Command::new("faketime");
    ahead.args(["-f", "+400d"]).arg(program.get_program()).args(program.get_args());
    ahead.current_dir(lab.path("")).env_clear();
    for (name, value) in program.get_envs() {
        ahead.env(name, value.expect("set"));
    }
    let run = Run::of(&ahead.output().expect("faketime runs"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let told =
        run.stderr.contains("local.clock") && run.stderr.contains("ahead of the vault's store");
    assert!(told, "{}", run.stderr);

    lab.change("d.img", 0, 1000, 2);
    let run = lab.ok("backup --item web --disk system=d.img");
    let told = run.stderr.contains("local.clock") && run.stderr.contains("later than this one");
    assert!(told, "{}", run.stderr);
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
}

#[test]
fn an_interrupted_backup_says_so() {
    let lab = Lab::new();
    lab.disk("d.img", 64, 60, 1);
    let child = start(&lab, "backup --item web --disk system=d.img --limit-rate 4M");
    wait_until("the backup to begin", || {
        vault_bytes(&lab) > 0 && lab.path("vault/writers").exists()
    });
    SystemClock.sleep(Duration::from_millis(300));
    signal(&child, "-INT");
    let run = Run::of(&child.wait_with_output().expect("ends"));
    assert_eq!(run.code, 130, "{}", run.stderr);
    assert!(run.stderr.contains("Code: interrupted"), "{}", run.stderr);
    assert_eq!(lab.json("recoverypoint list")["recovery_points"], serde_json::json!([]));
    lab.ok("backup --item web --disk system=d.img");
}

#[test]
fn a_killed_restore_goes_on_with_the_same_command() {
    let lab = Lab::new();
    lab.disk("d.img", 80, 60, 1);
    lab.ok("backup --item web --disk system=d.img");
    let restore = "restore disks --item web --recovery-point latest --to out";
    let mut child = start(&lab, &format!("{restore} --limit-rate 20M"));
    let partial = lab.path("out/system.raw.partial");
    let blocks = || {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&partial).map_or(0, |meta| meta.blocks())
    };
    wait_until("the restore to write", || blocks() > 0);
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert!(partial.exists() && !lab.path("out/system.raw").exists());

    let report = lab.json(restore);
    // What had been written was found to be right and is not written again.
    assert!(report["disks"][0]["written_bytes"].as_u64().unwrap() < 60 << 20, "{report:#}");
    lab.assert_same("d.img", "out/system.raw");
    assert!(!partial.exists());
}

#[test]
fn a_partial_file_of_something_else_does_no_harm() {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    fs::create_dir(lab.path("out")).unwrap();
    lab.disk("out/system.raw.partial", 8, 8, 99);
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
}

/// A disk of 16 MiB whose fourth block cannot be read, behind nbdkit.
fn bad_disk(lab: &Lab) -> (Child, String) {
    need("nbdkit", "nbdkit");
    let socket = lab.path("bad.sock");
    let pread = "if [ $4 -lt 262144 ] && [ $(($4 + $3)) -gt 196608 ]; then \
                 echo EIO bad block >&2; exit 1; fi; \
                 head -c $3 /dev/zero | tr '\\0' x";
    let server = Command::new("nbdkit")
        .args(["--foreground", "--exit-with-parent", "--unix"])
        .arg(&socket)
        .args(["eval", "get_size=echo 16777216", &format!("pread={pread}")])
        .stderr(Stdio::null())
        .spawn()
        .expect("nbdkit starts");
    wait_until("nbdkit", || socket.exists());
    (server, format!("nbd+unix:///?socket={}", socket.display()))
}

#[test]
fn a_source_that_cannot_be_read_is_named_or_skipped() {
    let lab = Lab::new();
    let (mut server, url) = bad_disk(&lab);
    let backup = format!("backup --item web --disk data={url}");
    let error = lab.fails(&backup, 5, "backup.source_read");
    assert!(error["message"].as_str().unwrap().contains("data"), "{error:#}");
    assert_eq!(lab.json("recoverypoint list")["recovery_points"], serde_json::json!([]));

    let run = lab.run(&format!("{backup} --skip-bad-blocks --output json"));
    assert_eq!(run.code, 7, "{}", run.stderr);
    assert!(run.stderr.contains("backup.skipped"), "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    let skipped = report["disks"][0]["skipped"].as_array().unwrap();
    let total: u64 = skipped.iter().map(|range| range["length"].as_u64().unwrap()).sum();
    assert_eq!((&skipped[0]["offset"], total), (&196_608.into(), 65536), "{report:#}");
    server.kill().expect("killed");
    server.wait().expect("gone");

    lab.ok("restore disks --item web --recovery-point latest --to out");
    let restored = fs::read(lab.path("out/data.raw")).unwrap();
    let expected = |at: usize| if (196_608..262_144).contains(&at) { 0 } else { b'x' };
    assert!(restored.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
    assert_eq!(restored.len(), 16 << 20);
    let shown = lab.ok("recoverypoint show --item web --recovery-point latest");
    assert!(shown.stdout.contains("Not readable"), "{}", shown.stdout);
}

#[test]
fn a_target_that_is_too_small_is_refused() {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    need("nbdkit", "nbdkit");
    let socket = lab.path("small.sock");
    let mut server = Command::new("nbdkit")
        .args(["--foreground", "--exit-with-parent", "--unix"])
        .arg(&socket)
        .args(["memory", "4M"])
        .stderr(Stdio::null())
        .spawn()
        .expect("nbdkit starts");
    wait_until("nbdkit", || socket.exists());
    let to = format!("nbd+unix:///?socket={}", socket.display());
    let restore = format!("restore disks --item web --recovery-point latest --to system={to}");
    lab.fails(&restore, 4, "disk.too_small");
    server.kill().expect("killed");
    server.wait().expect("gone");
}

/// Flips a bit in the middle of the largest data pack of a vault.
fn damage(lab: &Lab, vault: &str) {
    let files = lab.files(vault);
    let packs = files.iter().filter(|(path, _)| path.to_string_lossy().contains("packs/data"));
    let (pack, size) = packs.max_by_key(|(_, size)| *size).expect("a pack");
    let mut bytes = fs::read(pack).unwrap();
    let middle = usize::try_from(*size).unwrap() / 2;
    bytes[middle] ^= 1;
    let mut permissions = fs::metadata(pack).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a temporary folder of this test")]
    permissions.set_readonly(false);
    fs::set_permissions(pack, permissions).unwrap();
    fs::write(pack, bytes).unwrap();
}

#[test]
fn a_damaged_vault_is_noticed() {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.ok("vault verify");
    lab.ok("vault verify --blind");
    lab.ok("vault verify --sample 50");
    damage(&lab, "vault");
    let restore = "restore disks --item web --recovery-point latest --to out";
    lab.fails(restore, 6, "store.corrupt");
    assert!(!lab.path("out/system.raw").exists());

    let run = lab.run("vault verify --output json");
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(run.stderr.contains("verify.damaged"), "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(report["clean"], false);
    let point = &report["damaged_points"][0];
    assert_eq!((&point["item"], &point["disks"][0]["disk"]), (&"web".into(), &"system".into()));
    let words = lab.run("vault verify");
    assert!(words.stdout.contains("not sound") && words.stdout.contains("packs/data"));
    // Without a key as well; and nothing can repair the only copy.
    let mut blind = lab.command("vault verify --blind");
    let blind = Run::of(&blind.env_remove("STRONGROOM_KEY_FILE").output().unwrap());
    assert_eq!(blind.code, 6, "{}", blind.stderr);
    assert_eq!(lab.run("vault verify --repair").code, 6);
}

#[test]
fn a_mirror_heals_the_other_copy() {
    let lab = Lab::empty();
    lab.ok("vault key generate key");
    lab.ok("vault create --mirror copy");
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    damage(&lab, "vault");
    assert_eq!(lab.run("vault verify").code, 6);
    let report = lab.json("vault verify --repair");
    assert_eq!((&report["clean"], &report["repaired_objects"]), (&true.into(), &1.into()));
    lab.ok("vault verify");

    damage(&lab, "vault");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");

    // Either copy is the whole vault.
    fs::rename(lab.path("vault"), lab.path("gone")).unwrap();
    let run = lab.ok("restore disks --item web --recovery-point latest --to again --vault copy");
    assert!(run.stderr.contains("Warning: a copy of the vault is away"), "{}", run.stderr);
    lab.assert_same("d.img", "again/system.raw");
    let run = lab.run("vault verify --vault copy");
    assert_eq!(run.code, 6, "{}", run.stdout);
    assert!(run.stdout.contains("Copy away"), "{}", run.stdout);
}

#[test]
fn a_lost_index_is_rebuilt() {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    fs::remove_dir_all(lab.path("vault/index")).unwrap();
    fs::remove_dir_all(lab.path(".cache/strongroom")).unwrap();
    let report = lab.json("vault rebuild-index");
    assert!(report["packs"].as_u64().unwrap() >= 2, "{report:#}");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
    lab.ok("vault verify");
}
