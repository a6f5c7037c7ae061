//! Points are deleted and their space comes back, and what is left restores as before.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails says so by panicking"
)]

mod common;

use std::{
    fs,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex},
};

use common::{Place, make_disk, noise};
use strongroom_base::{Cancel, Stage};
use strongroom_vault::{
    ReclaimOptions, ReclaimProgress, ReclaimReport, Vault, reclaim, reclaim_watched,
};

fn run(vault: &Arc<Vault>, dry_run: bool) -> ReclaimReport {
    let options = ReclaimOptions { dry_run, host: "here".to_owned(), ..ReclaimOptions::default() };
    reclaim(vault, &options, &Cancel::new()).expect("reclaim")
}

/// Reclaims, and says which stages it told of. What it counted never exceeded the whole.
fn watched(vault: &Arc<Vault>) -> (ReclaimReport, Vec<Stage>) {
    let told: Mutex<Vec<ReclaimProgress>> = Mutex::default();
    let options = ReclaimOptions { host: "here".to_owned(), ..ReclaimOptions::default() };
    let hears = |now| told.lock().expect("told").push(now);
    let report = reclaim_watched(vault, &options, &hears, &Cancel::new()).expect("reclaim");
    let told = told.into_inner().expect("told");
    assert!(told.iter().all(|now| now.done <= now.total), "{told:?}");
    let mut stages: Vec<_> = told.iter().map(|now| now.stage).collect();
    stages.dedup();
    (report, stages)
}

#[test]
fn deleted_points_give_their_space_back_and_the_others_stay() {
    let place = Place::new();
    let size = 24 << 20;
    make_disk(&place.path("vda.raw"), size);
    let vault = place.open();
    let mut points = vec![];
    for step in 0..6_u64 {
        let file = fs::OpenOptions::new().write(true).open(place.path("vda.raw")).expect("open");
        // Small changes (deltas) everywhere, and a part that is new each time.
        for at in (0..size).step_by(3 << 20) {
            file.write_all_at(&noise(step * 1000 + at, 50), at + step * 200).expect("write");
        }
        file.write_all_at(&noise(step, 2_000_000), 20 << 20).expect("write");
        drop(file);
        let report = place.backup(&vault, &[("vda", None)]);
        points.push((report.recovery_point, fs::read(place.path("vda.raw")).expect("read")));
    }
    let before = run(&vault, true);
    assert_eq!((before.packs_dead, before.removed_bytes), (0, 0), "everything is needed");
    for (point, _) in points.drain(0..4) {
        vault.delete_point("web01", point, "here").expect("delete");
    }
    let planned = run(&vault, true);
    assert!(planned.freed_bytes > 0);
    let (report, mut stages) = watched(&vault);
    // Whether a pack is needed in part depends on which of the threads came first.
    stages.retain(|stage| *stage != Stage::Copying);
    assert_eq!(stages, [Stage::Marking, Stage::Waiting, Stage::Deleting]);
    assert_eq!(report.points_removed, 4);
    // How much exactly depends on how the threads have mixed blocks; no pack of which most is not needed
    // stays.
    assert!(report.freed_bytes > 4_000_000, "{report:?}");
    assert!(report.pack_bytes - report.freed_bytes < report.live_bytes * 2, "{report:?}");
    let again = run(&vault, false);
    assert_eq!((again.points_removed, again.packs_removed), (0, 0), "{again:?}");
    assert_eq!(again.pack_bytes, report.pack_bytes - report.freed_bytes);

    // With the vault's own index, and with none.
    fs::remove_dir_all(place.path("cache")).expect("remove");
    for vault in [vault, place.open()] {
        for (point, wanted) in &points {
            let to = place.path(&format!("{point}.raw"));
            Place::restore(&vault, *point, "vda", &to, false);
            assert!(fs::read(&to).expect("read") == *wanted);
            fs::remove_file(&to).expect("remove");
        }
    }
    let vault = place.open();
    for (point, _) in points {
        vault.delete_point("web01", point, "here").expect("delete");
    }
    let report = run(&vault, false);
    assert_eq!(report.pack_bytes, report.freed_bytes, "{report:?}");
    let left: Vec<_> = ["points", "packs", "index", "condemned", "deleted", "writers"]
        .into_iter()
        .filter(|name| files_below(&place.path("vault").join(name)) > 0)
        .collect();
    assert_eq!(left, [""; 0]);
}

fn files_below(dir: &std::path::Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .map(|entry| {
            let path = entry.expect("entry").path();
            if path.is_dir() { files_below(&path) } else { 1 }
        })
        .sum()
}
