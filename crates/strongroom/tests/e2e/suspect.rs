//! Hints of ransomware: a machine's disk that is encrypted between two backups, with and without a server.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    process::Command,
};

use serde_json::json;
use strongroom_testing::noise;

use crate::{documented::assert_documented, harness::Lab, server::Service};

const MIB: u64 = 1 << 20;

/// A disk of 128 MiB, of which text fills 80 MiB.
fn text_disk(lab: &Lab) {
    let disk = File::create(lab.path("text.img")).expect("a disk");
    disk.set_len(128 * MIB).expect("a size");
    for (line, at) in (0..80 * MIB).step_by(1 << 16).enumerate() {
        let text = format!("order {line} of the day\n").repeat(4000);
        disk.write_all_at(&text.as_bytes()[..1 << 16], at).expect("written");
    }
}

/// What is written on a usual day.
fn usual_day(lab: &Lab, day: u64) {
    lab.change("text.img", day * MIB, 10_000, day);
}

/// Every block of the text is encrypted.
fn encrypt(lab: &Lab) {
    let disk = File::options().write(true).open(lab.path("text.img")).expect("the disk");
    disk.write_all_at(&noise(99, 80 << 20), 0).expect("written");
}

#[test]
fn an_encrypted_disk_is_noticed_and_the_last_point_before_is_named() {
    let lab = Lab::new();
    text_disk(&lab);
    let backup = "backup --item web01 --disk system=text.img";
    for day in 0..8 {
        usual_day(&lab, day);
        let run = lab.ok(backup);
        assert!(!run.stderr.contains("point.suspect"), "{}", run.stderr);
    }
    let before = lab.points("web01").pop().expect("a point");
    encrypt(&lab);
    let run = lab.ok(&format!("{backup} --output json"));
    assert!(run.stderr.contains("Warning: ransomware may have encrypted web01"), "{}", run.stderr);
    assert!(run.stderr.contains("(point.suspect)"), "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_documented("suspicion", &report["suspicion"]);
    assert_eq!(report["suspicion"]["last_before"]["id"], before.as_str());
    assert_eq!(report["suspicion"]["jumps"][0]["bytes"], 80 * MIB);
    assert_eq!(report["disks"][0]["incompressible_bytes"], 80 * MIB);

    let suspect = report["recovery_point"].as_str().expect("an id");
    let list = lab.ok("recoverypoint list").stdout;
    let marked: Vec<&str> =
        list.lines().skip_while(|line| !line.contains("SUSPECT")).skip(1).collect();
    assert_eq!(marked.len(), 1, "{list}");
    assert!(marked[0].contains(suspect) && marked[0].contains(&before), "{list}");
    let shown = lab.json("recoverypoint show --item web01 --recovery-point latest");
    assert_eq!(shown["recovery_point"]["suspicion"], report["suspicion"]);
    let shown = lab.ok("recoverypoint show --item web01 --recovery-point latest").stdout;
    assert!(shown.contains("Suspect") && shown.contains("80 MiB of new content"), "{shown}");

    // A restore says which point is better, and restores what it was asked for.
    let restore = "restore disks --item web01 --to out --recovery-point";
    let run = lab.ok(&format!("{restore} latest"));
    assert!(
        run.stderr.contains("(point.suspect)") && run.stderr.contains(&before),
        "{}",
        run.stderr
    );
    lab.assert_same("text.img", "out/system.raw");
    let run = lab.ok(&format!("restore disks --item web01 --to before --recovery-point {before}"));
    assert!(!run.stderr.contains("point.suspect"), "{}", run.stderr);
}

#[test]
fn a_server_raises_an_alert_that_names_the_last_point_before() {
    let service = Service::with_item(16);
    let lab = &service.lab;
    text_disk(lab);
    lab.copy("text.img", "d.img");
    for day in 0..8 {
        lab.change("d.img", day * MIB, 10_000, day);
        lab.ok("protection backup-now --item data --wait");
    }
    let points = lab.json("recoverypoint list --item data");
    let points = points["recovery_points"].as_array().expect("points");
    let before = points[7]["id"].as_str().expect("an id");
    assert_eq!(lab.json("alert list")["alerts"].as_array().expect("alerts").len(), 0);
    encrypt(lab);
    lab.copy("text.img", "d.img");
    let run = lab.run("protection backup-now --item data --wait");
    assert_eq!(run.code, 7, "the job has a warning: {run:?}");
    assert!(run.stderr.contains("ransomware may have encrypted data"), "{}", run.stderr);

    let alerts = lab.json("alert list");
    let alert = &alerts["alerts"][0];
    assert_eq!((&alert["rule"], &alert["severity"]), (&"point_suspect".into(), &"critical".into()));
    assert_eq!((&alert["subject"], &alert["state"]), (&"data".into(), &"firing".into()));
    assert_eq!(alert["error"]["code"], "point.suspect");
    assert_eq!(alert["error"]["params"]["before"], before);
    assert_eq!(alert["error"]["params"]["bytes"], 80 * MIB);
    let list = lab.ok("recoverypoint list --item data").stdout;
    assert_eq!(list.matches("restorable, suspect").count(), 1, "{list}");
    let shown = lab.json("recoverypoint show --item data --recovery-point latest");
    assert_eq!(shown["suspicion"]["last_before"]["id"], before);
    assert_eq!(shown["disks"][0]["incompressible_bytes"], 80 * MIB);
    let shown = lab.ok("recoverypoint show --item data --recovery-point latest").stdout;
    assert!(shown.contains("Suspect") && shown.contains(before), "{shown}");
    let out = lab.path("out");
    fs::create_dir(&out).expect("a folder");
    let restore = "restore disks --item data --recovery-point latest --wait --to";
    let run = lab.ok(&format!("{restore} {}", out.display()));
    assert!(
        run.stderr.contains("(point.suspect)") && run.stderr.contains(before),
        "{}",
        run.stderr
    );
    let id = alert["id"].as_str().expect("an id");
    assert_eq!(lab.json(&format!("alert resolve {id}"))["state"], "resolved");
}

/// A disk with ext4 of this folder.
fn file_system(lab: &Lab, folder: &str) {
    let disk = lab.path("disk.img");
    File::create(&disk).expect("a disk").set_len(32 * MIB).expect("a size");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([lab.path(folder), disk])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .expect("mke2fs");
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn files_that_were_renamed_are_counted_between_two_points() {
    let lab = Lab::new();
    for folder in 0..12 {
        let folder = lab.path(&format!("before/home/{folder}"));
        fs::create_dir_all(&folder).expect("a folder");
        for file in 0..10 {
            fs::write(folder.join(format!("letter {file}.odt")), "Dear Sir").expect("a file");
        }
    }
    file_system(&lab, "before");
    let backup = "backup --item web01 --disk system=disk.img";
    lab.ok(backup);
    // A day of work: a file changes its name, another is new.
    let home = lab.path("before/home");
    fs::rename(home.join("0/letter 0.odt"), home.join("0/letter.odt")).expect("renamed");
    fs::write(home.join("1/offer.pdf"), "%PDF").expect("a file");
    file_system(&lab, "before");
    lab.ok(backup);
    for folder in 0..12 {
        let folder = home.join(folder.to_string());
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let to = format!("{}.lockbit", path.display());
            fs::write(&to, noise(7, 900)).expect("a file");
            fs::remove_file(path).expect("removed");
        }
        fs::write(folder.join("RESTORE-MY-FILES.txt"), "Pay").expect("a file");
    }
    file_system(&lab, "before");
    lab.ok(backup);

    let points = lab.points("web01");
    let diff = "restore files diff --item web01 --suspicious --recovery-point";
    let day = lab.json(&format!("{diff} {} --from {}", points[1], points[0]));
    assert_eq!((&day["suspicious"], &day["replaced"]), (&false.into(), &json!([])));
    let night = format!("{diff} latest --from {}", points[1]);
    let found = lab.json(&night);
    assert_documented("restore files diff --suspicious", &found);
    assert_eq!(
        (&found["suspicious"], &found["from"]["id"]),
        (&true.into(), &points[1].as_str().into())
    );
    let replaced = &found["replaced"][0];
    assert_eq!(replaced["extension"], "lockbit");
    assert_eq!((&replaced["files"], &replaced["folders"]), (&121.into(), &12.into()));
    assert_eq!(found["same_names"].as_array().expect("names").len(), 1, "{found:#}");
    let same = &found["same_names"][0];
    assert_eq!((&same["name"], &same["folders"]), (&"RESTORE-MY-FILES.txt".into(), &12.into()));
    let text = lab.ok(&night).stdout;
    assert!(text.contains("after recovery point") && text.contains(&points[1]), "{text}");
    lab.fails(&format!("{night} --content"), 2, "usage.invalid");
}
