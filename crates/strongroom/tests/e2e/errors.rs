//! Mistakes on purpose: each has its exit code, its stable code, and words that help.

use std::{
    fs,
    io::Read as _,
    process::{Command, Stdio},
};

use crate::harness::{Lab, Run};

#[test]
fn wrong_command_lines() {
    let lab = Lab::empty();
    for words in [
        "bakup",
        "backup",
        "backup --item web",
        "backup --item web --disk d.img",
        "backup --item ../etc --disk a=d.img",
        "backup --item web --disk a/b=d.img",
        "backup --item web --disk a=d.img --tag novalue",
        "backup --item web --disk a=d.img --limit-rate fast",
        "backup --item web --disk a=d.img --threads 0",
        "backup --item web --disk a=d.img --deltas perhaps",
        "backup --item web --disk a=http://host/x",
        "backup --item web --disk a=d.img --parent xyz",
        "backup --item web --disk a=d.img --key-file a --pkcs11 pkcs11:token=b",
        "recoverypoint show --item web --recovery-point 28.11.2026",
        "recoverypoint show --item web --recovery-point 5m",
        "recoverypoint list --quiet --verbose",
        "restore disks --item web --recovery-point latest",
        "restore disks --item web --recovery-point latest --to out --format vhd",
        "vault verify --sample 0",
        "vault reclaim --wait 5",
        "vault key rotate --master --new-key-file x",
        "vault key remove --slot first",
    ] {
        lab.fails(words, 2, "usage.invalid");
        let run = lab.run(words);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{words}");
        assert!(run.stderr.to_lowercase().starts_with("error: "), "{words}: {}", run.stderr);
    }
    lab.fails("errors --markdown", 2, "usage.invalid");
    let error = lab.fails("backup --item web --disk d.img", 2, "usage.invalid");
    assert!(error["message"].as_str().unwrap().contains("NAME=DISK"), "{error}");
}

#[test]
fn things_that_are_not_there() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.fails("backup --item web --disk a=nowhere.img", 3, "disk.not_found");
    lab.fails("recoverypoint list --vault nowhere", 3, "vault.not_found");
    fs::create_dir(lab.path("empty")).unwrap();
    lab.fails("recoverypoint list --vault empty", 3, "vault.not_found");
    lab.fails("recoverypoint list --vault ftp://host/x", 2, "url.invalid");
    lab.fails("vault create", 4, "vault.exists");
    fs::write(lab.path("empty/file"), "x").unwrap();
    lab.fails("vault create --vault empty", 4, "vault.exists");
    assert_eq!(fs::read_dir(lab.path("empty")).unwrap().count(), 1);
    lab.fails("vault create --vault twice --mirror twice", 2, "usage.invalid");
    let mut command = lab.command("recoverypoint list");
    let run = Run::of(&command.env_remove("STRONGROOM_VAULT").output().unwrap());
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("Code: vault.not_given"), "{}", run.stderr);
}

#[test]
fn wrong_changed_ranges() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk system=d.img");
    let backup = "backup --item web --disk system=d.img --changed-ranges ranges";
    for ranges in [
        "system 0\n",
        "system zero 1\n",
        "system 0 1 2\n",
        "system 4194304 1\n",
        "system 18446744073709551615 10\n",
    ] {
        fs::write(lab.path("ranges"), ranges).unwrap();
        lab.fails(backup, 2, "ranges.invalid");
    }
    fs::write(lab.path("ranges"), "sytem 0 1\n").unwrap();
    lab.fails(backup, 2, "usage.invalid");
    // Any order and overlaps are fine.
    fs::write(lab.path("ranges"), "system 70000 10\nsystem 0 5\nsystem 3 70000\n").unwrap();
    let run = lab.ok(&format!("{backup} --check-clean none --output json"));
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["disks"][0]["read_bytes"], 131_072);
    fs::remove_file(lab.path("ranges")).unwrap();
    lab.fails(backup, 3, "disk.not_found");
    assert_eq!(lab.points("web").len(), 2);
}

#[test]
fn the_configuration_file() {
    let lab = Lab::new();
    let write = |text: &str| fs::write(lab.path("c.toml"), text).unwrap();
    write("valt = \"x\"\n");
    let error = lab.fails("recoverypoint list --config c.toml", 2, "config.invalid");
    assert!(error["message"].as_str().unwrap().contains("valt"));
    lab.fails("recoverypoint list --config nowhere.toml", 2, "config.invalid");

    // The command line counts before the environment, that before the file.
    write("vault = \"from-file\"\noutput = \"json\"\n");
    let with = |vault: Option<&str>, words: &str| {
        let mut command = lab.command(&format!("{words} --config c.toml"));
        command.env_remove("STRONGROOM_VAULT");
        command.envs(vault.map(|vault| ("STRONGROOM_VAULT", vault)));
        Run::of(&command.output().unwrap()).stderr
    };
    assert!(with(None, "vault key list").contains("from-file"));
    assert!(with(Some("from-env"), "vault key list").contains("from-env"));
    assert!(with(Some("from-env"), "vault key list --vault flag").contains("flag"));
    let stderr = with(None, "vault key list");
    assert!(stderr.starts_with('{'), "the file asks for JSON: {stderr}");

    // The user's own file is found.
    let folder = lab.path(".config/strongroom");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), "vault = \"from-home\"\n").unwrap();
    let mut command = lab.command("vault key list");
    let run = Run::of(&command.env_remove("STRONGROOM_VAULT").output().unwrap());
    assert!(run.stderr.contains("from-home"), "{}", run.stderr);
}

#[test]
fn words_for_people() {
    let lab = Lab::new();
    let run = lab.run("recoverypoint list --item nobody");
    assert_eq!(run.code, 3);
    assert_eq!(run.stdout, "");
    let lines: Vec<_> = run.stderr.lines().collect();
    assert!(lines[0].starts_with("Error: ") && lines[0].contains("nobody"), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("Hint: ")));
    assert_eq!(lines.last(), Some(&"Code: item.not_found"));
    assert!(!run.stderr.contains('\x1b'), "no colours where there is no terminal");
}

#[test]
fn help_and_version_are_results() {
    let lab = Lab::empty();
    for words in ["--help", "--version", "help backup", "backup -h", "vault key --help"] {
        let run = lab.ok(words);
        assert!(!run.stdout.is_empty() && run.stderr.is_empty(), "{words}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.ok(&format!("completions {shell}")).stdout.contains("STRONGROOM_COMPLETE"));
    }
    lab.ok("man pages");
    assert!(lab.path("pages/strongroom-restore-disks.1").exists());
    assert!(lab.ok("errors").stdout.contains("vault.not_found"));
    assert!(lab.json("errors")["errors"].as_array().unwrap().len() > 30);
    // Without a command, the help is the answer to a mistake.
    assert_eq!(lab.run("").code, 2);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lab = Lab::empty();
    let mut child = lab
        .command("errors --markdown")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success(), "{stderr}");
    assert_eq!(stderr, "");
}

#[test]
fn completions_are_sound_bash() {
    let lab = Lab::empty();
    fs::write(lab.path("script"), lab.ok("completions bash").stdout).unwrap();
    let status = Command::new("bash").arg("-n").arg(lab.path("script")).status().unwrap();
    assert!(status.success());
}
