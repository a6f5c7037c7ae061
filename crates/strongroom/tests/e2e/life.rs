//! An item's life: backed up, changed, backed up again, listed, compared, restored, deleted.

use std::fs;

use crate::harness::{Lab, Run, need};

#[test]
fn first_backup_then_increments_then_both_restored() {
    let lab = Lab::new();
    lab.disk("d.img", 64, 8, 1);
    lab.copy("d.img", "day1.img");
    let first = lab.json("backup --item web --disk system=d.img --tag day=1");
    let disk = &first["disks"][0];
    assert_eq!(disk["size_bytes"], 64 << 20);
    assert_eq!(disk["changed_bytes"], 8 << 20);
    assert_eq!(disk["changes_from"], "all");
    assert_eq!(first["parent"], serde_json::Value::Null);

    lab.change("d.img", 1 << 20, 100, 2);
    lab.change("d.img", 40 << 20, 65536, 3);
    lab.copy("d.img", "day2.img");
    let changed = format!("# two places\nsystem {} 100\nsystem {} 65536\n", 1 << 20, 40 << 20);
    fs::write(lab.path("changed"), changed).unwrap();
    let second =
        lab.json("backup --item web --disk system=d.img --changed-ranges changed --tag day=2");
    assert_eq!(second["parent"], first["recovery_point"]);
    assert_eq!(second["disks"][0]["changed_bytes"], 2 * 65536);
    assert_eq!(second["disks"][0]["changes_from"], "ranges");
    let checked = second["disks"][0]["checked_blocks"].as_u64().unwrap();
    assert!((1..=64).contains(&checked) && second["disks"][0]["unexpected_blocks"] == 0);
    assert!(second["disks"][0]["read_bytes"].as_u64().unwrap() <= (2 + checked) * 65536);
    assert!(second["stored_bytes"].as_u64().unwrap() < 200_000);

    // Nothing has changed, and nobody says so: everything is read, nothing stored.
    let third = lab.json("backup --item web --disk system=d.img");
    assert_eq!(third["disks"][0]["changed_bytes"], 0);
    assert!(third["stored_bytes"].as_u64().unwrap() < 20_000);

    let points = lab.points("web");
    assert_eq!(points.len(), 3);
    assert_eq!(points[0], first["recovery_point"].as_str().unwrap());
    for (point, day) in [(points[0].as_str(), "day1.img"), ("latest", "day2.img")] {
        let out = format!("out-{day}");
        let restored =
            lab.json(&format!("restore disks --item web --recovery-point {point} --to {out}"));
        assert_eq!(restored["disks"][0]["location"], format!("{out}/system.raw"));
        lab.assert_same(day, &format!("{out}/system.raw"));
        assert!(!lab.path(&format!("{out}/system.raw.partial")).exists());
    }
    let diff = lab.json(&format!("recoverypoint diff --item web --from {}", points[0]));
    assert_eq!(diff["disks"][0]["changed_bytes"], 2 * 65536);
    assert_eq!(diff["disks"][0]["changed"][0]["offset"], 1 << 20);
}

#[test]
fn restore_in_place_writes_only_what_differs() {
    let lab = Lab::new();
    lab.disk("d.img", 32, 8, 1);
    lab.copy("d.img", "then.img");
    lab.ok("backup --item web --disk system=d.img");
    lab.change("d.img", 3 << 20, 10, 7);
    lab.change("d.img", 30 << 20, 10, 7);
    let report = lab.json(
        "restore disks --item web --recovery-point latest --to system=d.img --in-place --yes",
    );
    assert_eq!(report["disks"][0]["written_blocks"], 2);
    lab.assert_same("d.img", "then.img");
    let report = lab.json(
        "restore disks --item web --recovery-point latest --to system=d.img --in-place --yes",
    );
    assert_eq!(report["disks"][0]["written_blocks"], 0);
}

#[test]
fn a_target_that_holds_something_is_refused_and_left_alone() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.disk("other.img", 4, 1, 2);
    lab.copy("other.img", "before.img");
    let to = "restore disks --item web --recovery-point latest --to";
    lab.fails(&format!("{to} system=other.img"), 4, "disk.not_empty");
    lab.assert_same("other.img", "before.img");
    lab.ok(&format!("{to} out"));
    // The same again finds all of it there.
    assert_eq!(lab.json(&format!("{to} out"))["disks"][0]["written_blocks"], 0);
    lab.change("out/system.raw", 3 << 20, 10, 7);
    lab.copy("out/system.raw", "changed.img");
    lab.fails(&format!("{to} out"), 4, "disk.not_empty");
    // Nor is another disk begun.
    lab.ok("backup --item two --disk a=d.img --disk system=d.img");
    let two = "restore disks --item two --recovery-point latest --to";
    lab.fails(&format!("{two} out"), 4, "disk.not_empty");
    lab.assert_same("out/system.raw", "changed.img");
    assert!(!lab.path("out/a.raw").exists());
    lab.ok(&format!("{to} out --in-place --yes"));
    lab.ok(&format!("{two} out"));
}

#[test]
fn several_disks_and_where_they_go() {
    let lab = Lab::new();
    lab.disk("a.img", 4, 1, 1);
    lab.disk("b.img", 8, 2, 2);
    lab.ok("backup --item db --disk a=a.img --disk b=b.img");
    let restore = "restore disks --item db --recovery-point latest";
    lab.ok(&format!("{restore} --to all"));
    lab.assert_same("a.img", "all/a.raw");
    lab.assert_same("b.img", "all/b.raw");
    lab.ok(&format!("{restore} --to one --disks b"));
    assert!(!lab.path("one/a.raw").exists());
    lab.assert_same("b.img", "one/b.raw");
    lab.ok(&format!("{restore} --to rest --to a=here.img"));
    lab.assert_same("a.img", "here.img");
    assert!(!lab.path("rest/a.raw").exists());
    lab.assert_same("b.img", "rest/b.raw");
    lab.ok(&format!("{restore} --to b=only.img"));
    lab.assert_same("b.img", "only.img");

    lab.fails(&format!("{restore} --to c=x"), 3, "point.disk_not_found");
    lab.fails(&format!("{restore} --to x --disks c"), 3, "point.disk_not_found");
    lab.fails(&format!("{restore} --to a=x --to a=y"), 2, "usage.invalid");
    lab.fails(&format!("{restore} --to x --to y"), 2, "usage.invalid");
    lab.fails(&format!("{restore} --to a=x --disks b"), 2, "usage.invalid");
    lab.fails("backup --item db --disk a=a.img --disk a=b.img", 2, "usage.invalid");
}

#[test]
fn points_by_latest_id_and_time() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.ok("backup --item web --disk system=d.img");
    let points = lab.points("web");
    let show = |point: &str| {
        let shown = lab.json(&format!("recoverypoint show --item web --recovery-point {point}"));
        shown["recovery_point"]["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(show("latest"), points[1]);
    assert_eq!(show(&points[0]), points[0]);
    assert_eq!(show(&points[0].to_lowercase()), points[0]);
    assert_eq!(show("2999-01-01"), points[1]);
    let list = lab.json("recoverypoint list --item web");
    let time = list["recovery_points"][0]["time"].as_str().unwrap();
    assert_eq!(show(time), points[0]);
    let none = "recoverypoint show --item web --recovery-point 2001-01-01T00:00:00Z";
    let error = lab.fails(none, 3, "point.none_before");
    assert!(error["hint"].as_str().unwrap().contains(&points[0]), "{error}");
    let strange = "recoverypoint show --item web --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB";
    lab.fails(strange, 3, "point.not_found");
    lab.fails("recoverypoint list --item nobody", 3, "item.not_found");
}

#[test]
fn all_items_are_listed() {
    let lab = Lab::new();
    assert!(lab.ok("recoverypoint list").stdout.contains("no recovery points yet"));
    assert_eq!(lab.json("recoverypoint list")["recovery_points"], serde_json::json!([]));
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk system=d.img");
    let db = lab.json("backup --item db --disk system=d.img");
    // The vault has these blocks from the other item.
    assert_eq!(db["disks"][0]["deduplicated_bytes"], 1 << 20);
    let list = lab.json("recoverypoint list");
    let items: Vec<_> = list["recovery_points"].as_array().unwrap().iter().collect();
    assert_eq!((&items[0]["item"], &items[1]["item"]), (&"db".into(), &"web".into()));
    let shown = lab.json("vault show");
    assert_eq!(shown["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_deleted_point_is_gone_and_the_others_stay() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.change("d.img", 0, 65536, 5);
    lab.ok("backup --item web --disk system=d.img");
    let points = lab.points("web");
    let delete = format!("recoverypoint delete --item web --recovery-point {} --yes", points[0]);
    lab.fails("recoverypoint delete --item web --recovery-point latest", 2, "usage.invalid");
    lab.ok(&delete);
    assert_eq!(lab.points("web"), [points[1].as_str()]);
    lab.fails(&delete, 3, "point.not_found");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
}

#[test]
fn reclaim_frees_what_deleted_points_needed() {
    let lab = Lab::new();
    lab.disk("d.img", 16, 12, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.disk("d.img", 16, 2, 2);
    lab.ok("backup --item web --disk system=d.img");
    let bytes = || lab.vault_files().iter().map(|(_, size)| size).sum::<u64>();
    let before = bytes();
    assert_eq!(lab.json("vault reclaim")["freed_bytes"], 0);
    let point = lab.points("web").remove(0);
    lab.ok(&format!("recoverypoint delete --item web --recovery-point {point} --yes"));
    let planned = lab.json("vault reclaim --dry-run");
    assert_eq!((&planned["dry_run"], &planned["packs_removed"]), (&true.into(), &0.into()));
    lab.ok("vault reclaim");
    assert!(bytes() < before - (11 << 20), "{before} before, {} after", bytes());
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
}

#[test]
fn qcow2_in_and_out() {
    need("qemu-img", "qemu-utils");
    let lab = Lab::new();
    lab.disk("d.img", 16, 3, 1);
    let qemu_img = |words: &str| {
        let mut command = std::process::Command::new("qemu-img");
        command.args(words.split_whitespace()).current_dir(lab.path(""));
        let run = Run::of(&command.output().expect("qemu-img runs"));
        assert_eq!(run.code, 0, "qemu-img {words}: {}{}", run.stdout, run.stderr);
    };
    qemu_img("convert -O qcow2 d.img d.qcow2");
    lab.ok("backup --item web --disk system=d.qcow2");
    lab.ok("restore disks --item web --recovery-point latest --to out --format qcow2");
    qemu_img("compare -F qcow2 d.img out/system.qcow2");
    assert!(!lab.path("out/system.qcow2.partial").exists());
    lab.ok("restore disks --item web --recovery-point latest --to system=x.qcow2");
    qemu_img("compare -F qcow2 d.img x.qcow2");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
}

#[test]
fn what_a_ranges_file_leaves_out_is_found_noted_and_backed_up() {
    let lab = Lab::new();
    lab.disk("d.img", 64, 40, 1);
    lab.ok("backup --item web --disk system=d.img");
    fs::write(lab.path("none"), "system 0 512\n").unwrap();
    let with = "backup --item web --disk system=d.img --changed-ranges none --check-clean";
    // One block is found for sure by reading everything.
    lab.change("d.img", 5 << 20, 100, 2);
    let one = lab.json(&format!("{with} all"));
    assert_eq!(one["disks"][0]["unexpected_blocks"], 1);
    assert_eq!(one["disks"][0]["changes_from"], "all");
    // Many are found by a sample.
    lab.change("d.img", 0, 30 << 20, 3);
    assert_eq!(lab.json(&format!("{with} none"))["disks"][0]["checked_blocks"], 0);
    let many = lab.json(&format!("{with} sample"));
    assert!(many["disks"][0]["unexpected_blocks"].as_u64().unwrap() > 400, "{many}");
    let show = lab.ok("recoverypoint show --item web --recovery-point latest");
    assert!(
        show.stdout.contains("disk system: a sample showed that the changed ranges had missed")
    );
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
}
