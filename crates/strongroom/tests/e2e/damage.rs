//! Objects other than packs that are damaged: what is named, what still works, what heals.

use std::{fs, path::Path};

use serde_json::Value;
use strongroom_testing::wait_until;

use crate::harness::Lab;

/// Overwrites a file of a vault, which is read-only, with a changed version of itself.
fn alter(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path) {
    alter(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}

/// The file of a point's manifest.
fn manifest(lab: &Lab, vault: &str, point: &str) -> std::path::PathBuf {
    let files = lab.files(&format!("{vault}/points"));
    let found = files.into_iter().find(|(path, _)| path.ends_with(point));
    found.expect("a manifest").0
}

/// A disk with three versions and a point of each, in a vault with a mirror if asked for.
fn three_points(mirrored: bool) -> (Lab, Vec<String>) {
    let lab = Lab::empty();
    lab.ok("vault key generate key");
    lab.ok(if mirrored { "vault create --mirror copy" } else { "vault create" });
    lab.disk("d.img", 8, 4, 1);
    for version in 0..3_u64 {
        lab.change("d.img", version << 20, 1000, 10 + version);
        lab.copy("d.img", &format!("v{version}.img"));
        lab.ok("backup --item web --disk system=d.img");
    }
    lab.disk("o.img", 4, 1, 2);
    lab.ok("backup --item other --disk data=o.img");
    let points = lab.points("web");
    (lab, points)
}

#[test]
fn a_damaged_manifest_is_named_and_the_other_points_are_listed() {
    let (lab, points) = three_points(false);
    flip(&manifest(&lab, "vault", &points[1]));

    for words in ["recoverypoint list --item web", "recoverypoint list"] {
        let run = lab.run(&format!("{words} --output json"));
        assert_eq!(run.code, 6, "{}", run.stderr);
        assert!(run.stderr.contains("point.damaged"), "{}", run.stderr);
        assert!(run.stderr.contains(&points[1]), "{}", run.stderr);
        let list: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let ids = list["recovery_points"].as_array().unwrap().iter().map(|point| &point["id"]);
        let ids: Vec<_> = ids.filter(|id| points.contains(&id.as_str().unwrap().into())).collect();
        assert_eq!(ids, [points[0].as_str(), &points[2]]);
        let damaged = &list["damaged"][0];
        assert_eq!((&damaged["id"], &damaged["item"]), (&points[1].as_str().into(), &"web".into()));
        assert!(damaged["object"].as_str().unwrap().starts_with("points/"), "{damaged}");
    }
    let words = lab.run("recoverypoint list");
    assert!(
        words.stdout.contains(&points[1]) && words.stdout.contains("other"),
        "{}",
        words.stdout
    );
    let shown = lab.run("vault show");
    assert_eq!(shown.code, 6);
    assert!(shown.stdout.contains("other") && shown.stderr.contains(&points[1]));
    let usage = lab.json("vault usage");
    assert_eq!(usage["damaged_recovery_points"], 1);
    lab.fails("vault usage --content", 6, "point.damaged");

    // The others are as good as ever; what is newest is known.
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("v2.img", "out/system.raw");
    lab.ok(&format!("restore disks --item web --recovery-point {} --to first", points[0]));
    lab.assert_same("v0.img", "first/system.raw");
    let show = format!("recoverypoint show --item web --recovery-point {}", points[1]);
    lab.fails(&show, 6, "point.damaged");
    // Nothing is removed while it is not known what is needed.
    lab.fails("vault reclaim", 6, "point.damaged");
}

#[test]
fn an_older_point_is_not_taken_for_the_latest_one_that_is_damaged() {
    let (lab, points) = three_points(false);
    flip(&manifest(&lab, "vault", &points[2]));

    let restore = "restore disks --item web --to out --recovery-point";
    let now = "2999-01-01T00:00:00Z";
    for which in ["latest", now] {
        let error = lab.fails(&format!("{restore} {which}"), 6, "point.damaged");
        assert!(error["message"].as_str().unwrap().contains(&points[2]), "{error:#}");
        assert!(error["hint"].as_str().unwrap().contains(&points[1]), "{error:#}");
    }
    assert!(!lab.path("out").exists());
    // Long before it: nobody can have meant it.
    lab.fails(&format!("{restore} 2001-01-01"), 3, "point.none_before");
    lab.ok(&format!("{restore} {}", points[1]));
    lab.assert_same("v1.img", "out/system.raw");

    // A backup goes on. That nothing has changed since a point which it cannot read is of no use.
    fs::write(lab.path("ranges"), "").unwrap();
    let run = lab.ok("backup --item web --disk system=d.img --changed-ranges ranges --output json");
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(run.stderr.contains(&points[2]), "{}", run.stderr);
    assert_eq!(report["parent"], points[1].as_str());
    assert_eq!(report["disks"][0]["changes_from"], "all");
    lab.ok("restore disks --item web --recovery-point latest --to again");
    lab.assert_same("v2.img", "again/system.raw");
}

#[test]
fn a_vault_whose_manifests_are_all_damaged_takes_backups() {
    let (lab, points) = three_points(false);
    points.iter().for_each(|point| flip(&manifest(&lab, "vault", point)));
    lab.fails("recoverypoint list --item web", 6, "point.damaged");
    let report = lab.json("backup --item web --disk system=d.img");
    assert_eq!(report["parent"], Value::Null);
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("v2.img", "out/system.raw");
}

#[test]
fn a_damaged_manifest_heals_from_a_mirror() {
    let (lab, points) = three_points(true);
    let good = fs::read(manifest(&lab, "copy", &points[2])).unwrap();
    flip(&manifest(&lab, "vault", &points[2]));
    let run = lab.run("vault verify --output json");
    assert_eq!(run.code, 6, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(report["damaged"][0]["object"].as_str().unwrap().ends_with(&points[2]));
    let report = lab.json("vault verify --repair");
    assert_eq!(report["repaired_objects"], 1);
    assert_eq!(fs::read(manifest(&lab, "vault", &points[2])).unwrap(), good);

    // Without a good copy it is reported, and the point with it.
    flip(&manifest(&lab, "vault", &points[2]));
    flip(&manifest(&lab, "copy", &points[2]));
    let run = lab.run("vault verify --repair --output json");
    assert_eq!(run.code, 6, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(report["damaged_points"][0]["recovery_point"], points[2].as_str());
}

/// Forgets everything that is kept locally.
fn forget_cache(lab: &Lab) {
    fs::remove_dir_all(lab.path(".cache/strongroom")).unwrap();
}

#[test]
fn nothing_waits_for_a_lost_or_damaged_index() {
    type Harm = fn(&Path);
    let ways: [(&str, Harm); 3] = [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| alter(path, Vec::clear)),
        ("rotten", flip),
    ];
    for (way, harm) in ways {
        let (lab, points) = three_points(false);
        for (path, _) in lab.files("vault/index") {
            harm(&path);
        }
        let of_web = "--item web --recovery-point latest";
        for words in [
            format!("restore disks {of_web} --to out"),
            format!("recoverypoint diff --item web --from {} --recovery-point latest", points[0]),
            "vault reclaim --dry-run".to_owned(),
        ] {
            forget_cache(&lab);
            lab.ok(&words);
        }
        lab.assert_same("v2.img", "out/system.raw");

        // Verify says that the cache is gone or damaged, and makes it again.
        forget_cache(&lab);
        let run = lab.run("vault verify --output json");
        assert_eq!(run.code, 6, "{way}: {}", run.stdout);
        let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!(
            (&report["clean"], &report["damaged_recovery_points"]),
            (&false.into(), &0.into())
        );
        lab.ok("vault verify --repair");
        lab.ok("vault verify");
        fs::remove_dir_all(lab.path("out")).unwrap();
        lab.ok(&format!("restore disks {of_web} --to out"));
        lab.assert_same("v2.img", "out/system.raw");
    }
}

#[test]
fn a_backup_makes_up_for_a_lost_index() {
    let (lab, _) = three_points(false);
    fs::remove_dir_all(lab.path("vault/index")).unwrap();
    forget_cache(&lab);
    let report = lab.json("backup --item web --disk system=d.img");
    assert!(report["stored_bytes"].as_u64().unwrap() < 1 << 20, "{report:#}");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("v2.img", "out/system.raw");
    lab.ok("vault verify");
}

/// The largest pack of a kind.
fn pack(lab: &Lab, vault: &str, kind: &str) -> std::path::PathBuf {
    let packs = lab.files(&format!("{vault}/packs/{kind}"));
    packs.into_iter().max_by_key(|(_, size)| *size).expect("a pack").0
}

/// How many notes of damaged packs there are.
fn notes(lab: &Lab, vault: &str) -> usize {
    let folder = format!("{vault}/damaged");
    if lab.path(&folder).exists() { lab.files(&folder).len() } else { 0 }
}

/// Verifies; the vault is not sound.
fn unsound(lab: &Lab, words: &str) -> Value {
    let run = lab.run(&format!("vault verify {words} --output json"));
    assert_eq!(run.code, 6, "{}{}", run.stdout, run.stderr);
    serde_json::from_str(&run.stdout).expect("JSON")
}

#[test]
fn what_is_rotten_and_cannot_be_repaired_is_stored_again() {
    for (kind, ranges) in [("data", false), ("data", true), ("node", false)] {
        let lab = Lab::new();
        lab.disk("d.img", 8, 4, 1);
        lab.ok("backup --item web --disk system=d.img");
        let first = lab.points("web").remove(0);
        let pack = pack(&lab, "vault", kind);
        let lost = fs::metadata(&pack).unwrap().len();
        flip(&pack);

        // Looking changes nothing; repairing without a good copy says that it is not relied upon.
        let before = lab.vault_files();
        assert_eq!(unsound(&lab, "")["distrusted_packs"], 0);
        assert_eq!(lab.vault_files(), before);
        let report = unsound(&lab, "--repair");
        assert_eq!(
            (&report["distrusted_packs"], &report["damaged_recovery_points"]),
            (&1.into(), &1.into())
        );
        assert_eq!(notes(&lab, "vault"), 1);
        assert_eq!(unsound(&lab, "--repair")["distrusted_packs"], 1);

        fs::write(lab.path("ranges"), "").unwrap();
        let ranges = if ranges { "--changed-ranges ranges" } else { "" };
        let report = lab.json(&format!("backup --item web --disk system=d.img {ranges}"));
        assert_eq!(report["disks"][0]["changes_from"], "all");
        let stored = report["stored_bytes"].as_u64().unwrap();
        assert!(stored * 10 > lost * 9 && stored < lost + (1 << 20), "{stored} for {lost}");
        // Once is enough.
        let again = lab.json("backup --item web --disk system=d.img");
        assert!(again["stored_bytes"].as_u64().unwrap() * 2 < lost.max(10_000), "{again:#}");
        lab.ok(&format!("restore disks --item web --recovery-point {first} --to out"));
        lab.assert_same("d.img", "out/system.raw");
        let report = unsound(&lab, "");
        assert_eq!(
            (&report["damaged_objects"], &report["damaged_recovery_points"]),
            (&1.into(), &0.into())
        );

        // Nothing needs it any more.
        lab.ok("vault reclaim");
        lab.ok("vault verify");
        assert!(!pack.exists() && notes(&lab, "vault") == 0);
        lab.ok(&format!("restore disks --item web --recovery-point {first} --to again"));
        lab.assert_same("d.img", "again/system.raw");
    }
}

#[test]
fn what_only_a_rotten_pack_has_stays_and_reclaim_goes_on() {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    let old = lab.points("web").remove(0);
    let rotten = pack(&lab, "vault", "data");
    flip(&rotten);
    unsound(&lab, "--repair");
    // Other content: nothing of the old point's blocks is stored again.
    lab.disk("d.img", 8, 4, 2);
    lab.ok("backup --item web --disk system=d.img");
    lab.disk("o.img", 8, 4, 3);
    lab.ok("backup --item other --disk system=o.img");
    let other = lab.points("other").remove(0);
    lab.ok(&format!("recoverypoint delete --item other --recovery-point {other} --yes"));
    let report = lab.json("vault reclaim");
    assert!(report["packs_removed"].as_u64().unwrap() > 0, "{report:#}");
    assert!(rotten.exists() && notes(&lab, "vault") == 1);
    let report = unsound(&lab, "");
    assert_eq!(report["damaged_points"][0]["recovery_point"], old.as_str());
    // Without that point nothing is damaged any more.
    lab.ok(&format!("recoverypoint delete --item web --recovery-point {old} --yes"));
    lab.ok("vault reclaim");
    lab.ok("vault verify");
    assert!(!rotten.exists() && notes(&lab, "vault") == 0);
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/system.raw");
}

#[test]
fn a_pack_that_is_good_again_is_relied_upon_again() {
    let (lab, _) = three_points(true);
    let place = pack(&lab, "vault", "data");
    let copy = pack(&lab, "copy", "data");
    let good = fs::read(&place).unwrap();
    flip(&place);
    flip(&copy);
    assert_eq!(unsound(&lab, "--repair")["distrusted_packs"], 1);
    // A good copy is found in some drawer.
    alter(&copy, |bytes| *bytes = good);
    let report = lab.json("vault verify --repair");
    assert_eq!((&report["repaired_objects"], &report["distrusted_packs"]), (&1.into(), &0.into()));
    assert!(notes(&lab, "vault") + notes(&lab, "copy") == 0);
    let report = lab.json("backup --item web --disk system=d.img");
    assert!(report["stored_bytes"].as_u64().unwrap() < 100_000, "{report:#}");
    lab.ok("vault verify");
}

/// A backup that was killed while it wrote, beside a reclaim that therefore left its condemnation.
fn condemned() -> Lab {
    let lab = Lab::new();
    lab.disk("d.img", 8, 4, 1);
    lab.ok("backup --item web --disk system=d.img");
    let old = lab.points("web").remove(0);
    lab.disk("d.img", 8, 4, 2);
    lab.ok("backup --item web --disk system=d.img");
    lab.ok(&format!("recoverypoint delete --item web --recovery-point {old} --yes"));
    lab.disk("e.img", 64, 60, 3);
    let mut child =
        lab.command("backup --item slow --disk system=e.img --limit-rate 4M").spawn().unwrap();
    let begun = || lab.path("vault/packs").exists() && !started(&lab).is_empty();
    wait_until("the backup to begin", begun);
    let run = lab.run("vault reclaim --wait 0");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(run.code, 7, "{}", run.stderr);
    assert_eq!(lab.files("vault/condemned").len(), 2);
    lab
}

/// The notes of writers.
fn started(lab: &Lab) -> Vec<std::path::PathBuf> {
    if !lab.path("vault/writers").exists() {
        return Vec::new();
    }
    let files = lab.files("vault/writers").into_iter().map(|(path, _)| path);
    let is_note = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("for-"))
    };
    files.filter(is_note).collect()
}

#[test]
fn a_rotten_condemnation_is_read_from_its_copy() {
    for file in ["vault/condemned", "vault/condemned/copies"] {
        let lab = condemned();
        let rotten = lab.files(file).into_iter().map(|(path, _)| path);
        let mut rotten = rotten.filter(|path| path.parent() == Some(&lab.path(file)));
        let rotten = rotten.next().unwrap();
        flip(&rotten);
        lab.ok("backup --item web --disk system=d.img");
        assert_eq!(unsound(&lab, "")["damaged_objects"], 1);
        let report = lab.json("vault reclaim");
        assert!(report["packs_removed"].as_u64().unwrap() > 0, "{report:#}");
        lab.ok("vault verify");
        lab.ok("restore disks --item web --recovery-point latest --to out");
        lab.assert_same("d.img", "out/system.raw");
    }
}

#[test]
fn backups_go_on_where_nobody_knows_what_is_condemned() {
    let lab = condemned();
    for (path, _) in lab.files("vault/condemned") {
        flip(&path);
    }
    // It relies on nothing that the vault has, but on its parent.
    let run = lab.ok("backup --item web --disk system=d.img --output json");
    assert!(run.stderr.contains("condemnation"), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(report["stored_bytes"].as_u64().unwrap() < 1 << 20, "{report:#}");
    let report = lab.json("backup --item fresh --disk system=d.img");
    assert!(report["stored_bytes"].as_u64().unwrap() > 4 << 20, "{report:#}");
    assert_eq!(unsound(&lab, "--repair")["damaged_recovery_points"], 0);
    let error = lab.fails("vault reclaim", 6, "store.corrupt");
    assert!(error["hint"].as_str().unwrap().contains("condemned/copies"), "{error:#}");
    for item in ["web", "fresh"] {
        lab.ok(&format!("restore disks --item {item} --recovery-point latest --to {item}"));
        lab.assert_same("d.img", &format!("{item}/system.raw"));
    }
    // What a person may do who knows that no reclaim sleeps anywhere.
    fs::remove_dir_all(lab.path("vault/condemned")).unwrap();
    lab.ok("vault reclaim");
    lab.ok("vault verify");
}

#[test]
fn a_writer_whose_note_is_rotten_is_expired_all_the_same() {
    let lab = condemned();
    let notes = started(&lab);
    let folder = notes[0].parent().unwrap();
    let target = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let target = target.map(|name| name.into_string().unwrap());
    let target = target.into_iter().find(|name| name.starts_with("for-")).unwrap();
    // An earlier program has left it empty: that is no damage. Rot is.
    let note = fs::read(&notes[0]).unwrap();
    fs::write(&notes[0], "").unwrap();
    lab.ok("vault verify");
    fs::write(&notes[0], note).unwrap();
    flip(&notes[0]);
    let run = lab.run("vault verify --output json");
    assert!(run.code == 6 && run.stdout.contains("writers/"), "{run:?}");
    // It may be alive: that it is silent is what counts, not that its note says which process it is.
    lab.fails("vault reclaim --wait 0", 7, "reclaim.waiting");
    let written = fs::metadata(&notes[0]).unwrap().modified().unwrap();
    let hour_ago = written - std::time::Duration::from_hours(1);
    for entry in fs::read_dir(folder).unwrap() {
        fs::File::open(entry.unwrap().path()).unwrap().set_modified(hour_ago).unwrap();
    }
    let report = lab.json("vault reclaim");
    assert_eq!(report["writers_expired"], 1);
    assert!(report["packs_removed"].as_u64().unwrap() > 0, "{report:#}");
    let (item, point) = target["for-".len()..].split_once('-').unwrap();
    let void = lab.path("vault/points").join(item).join(point);
    assert_eq!(fs::read(void).unwrap()[10], 9, "it can never publish");
    assert!(started(&lab).is_empty());
    lab.ok("vault verify");
}
