//! Keys: what opens a vault, what does not, and how that is changed.

use std::{fs, os::unix::fs::PermissionsExt as _};

use strongroom_base::{Clock as _, SystemClock};

use crate::harness::Lab;

#[test]
fn a_wrong_key_says_so_at_once_and_changes_nothing() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.ok("vault key generate wrong");
    fs::write(lab.path("words"), "not the right ones\n").unwrap();
    fs::write(lab.path("good-words"), "correct horse battery staple\n").unwrap();
    lab.ok("vault key add --new-passphrase-file good-words");
    let before = lab.vault_files();
    for key in ["--key-file wrong", "--passphrase-file words"] {
        for command in [
            "backup --item web --disk system=d.img",
            "recoverypoint list",
            "restore disks --item web --recovery-point latest --to out",
            "vault key add --new-key-file wrong",
            "vault key rotate --master",
            "vault show",
        ] {
            let start = SystemClock.monotonic();
            let error = lab.fails(&format!("{command} {key}"), 8, "key.wrong");
            let seconds = SystemClock.monotonic().saturating_sub(start).as_secs_f64();
            // Argon2 takes its time in a debug build on a busy machine.
            assert!(seconds < 2.0 || cfg!(debug_assertions), "{command} {key}: {seconds} s");
            assert!(!error.to_string().contains("not the right ones"));
        }
    }
    assert_eq!(before, lab.vault_files());
    assert!(!lab.path("out").exists());
}

#[test]
fn keys_are_added_replaced_and_removed() {
    let lab = Lab::new();
    fs::write(lab.path("words"), "correct horse battery staple\n").unwrap();
    lab.ok("vault key generate new");
    let first = lab.json("vault key list")["key_slots"][0]["id"].as_str().unwrap().to_owned();
    let remove = format!("vault key remove --slot {first} --yes");
    lab.fails(&remove, 4, "key.last_slot");

    let added = lab.json("vault key add --new-passphrase-file words --label safe");
    let slots = lab.json("vault key list");
    assert_eq!(slots["key_slots"].as_array().unwrap().len(), 2);
    assert_eq!(slots["key_slots"][1]["kind"], "passphrase");
    assert_eq!(slots["key_slots"][1]["label"], "safe");
    assert_eq!(slots["key_slots"][1]["id"], added["added"]["slot"]);
    lab.ok("recoverypoint list --passphrase-file words");

    let replaced = lab.json("vault key rotate --new-key-file new");
    assert_eq!(replaced["replaced"]["old_slot"], first);
    lab.fails("recoverypoint list", 8, "key.wrong");
    lab.ok("recoverypoint list --key-file new");
    lab.ok("recoverypoint list --passphrase-file words");
    // Removing what has been removed succeeds; what never was is a mistake.
    lab.ok(&format!("{remove} --key-file new"));
    let never = "vault key remove --slot 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB --key-file new --yes";
    lab.fails(never, 3, "key.slot_not_found");
    let slot = added["added"]["slot"].as_str().unwrap();
    lab.ok(&format!("vault key remove --slot {slot} --key-file new --yes"));
    lab.fails("recoverypoint list --passphrase-file words", 8, "key.wrong");
}

#[test]
fn a_new_master_key_leaves_old_data_readable() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.copy("d.img", "day1.img");
    lab.ok("backup --item web --disk system=d.img");
    lab.json("vault key rotate --master")["new_master_key"]["key"].as_str().unwrap();
    lab.change("d.img", 0, 65536, 2);
    lab.ok("backup --item web --disk system=d.img");
    for (point, day) in lab.points("web").iter().zip(["day1.img", "d.img"]) {
        lab.ok(&format!("restore disks --item web --recovery-point {point} --to out-{day}"));
        lab.assert_same(day, &format!("out-{day}/system.raw"));
    }
}

#[test]
fn key_files_are_private_and_never_replaced() {
    let lab = Lab::empty();
    lab.ok("vault key generate key");
    let text = fs::read(lab.path("key")).unwrap();
    assert_eq!(fs::metadata(lab.path("key")).unwrap().permissions().mode() & 0o777, 0o600);
    lab.fails("vault key generate key", 2, "key.unreadable");
    assert_eq!(fs::read(lab.path("key")).unwrap(), text);
    // Nothing that is printed, whatever is asked for, has the key in it.
    lab.ok("vault create");
    let secret = String::from_utf8(text).unwrap();
    let secret = secret.trim().rsplit(':').next().unwrap().to_owned();
    for words in ["vault show -vv", "vault key list -vv", "vault show -vv --output json"] {
        let run = lab.run(words);
        assert!(!run.stdout.contains(&secret) && !run.stderr.contains(&secret), "{words}");
    }
}

#[test]
fn a_missing_key_is_named() {
    let lab = Lab::new();
    lab.fails("recoverypoint list --key-file nowhere", 2, "key.unreadable");
    let mut command = lab.command("recoverypoint list");
    let output = command.env_remove("STRONGROOM_KEY_FILE").output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Code: key.missing"));
    // Which keys there are can be seen without one.
    lab.ok("vault key list");
}
