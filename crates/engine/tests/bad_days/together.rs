//! Several at once: backups of one item and of several, reclaims, and a backup that sleeps
//! through a reclaim.

use std::{
    sync::{Arc, Barrier, mpsc},
    time::Duration,
};

use strongroom_base::Cancel;
use strongroom_engine::EngineError;
use strongroom_objects::{Faults, Faulty, ObjectStore};
use strongroom_vault::{ReclaimOptions, VaultError, reclaim};

use crate::{
    common::{Place, noise, request},
    tools::{Disk, back_up, chain, code, files, restored, restored_item, source, try_backup},
};

#[test]
fn backups_of_one_item_and_of_several_at_once_share_content_and_restore() {
    for shared_vault in [true, false] {
        let place = Place::new();
        let one = place.open();
        let start = Barrier::new(4);
        let made = std::thread::scope(|scope| {
            let run = |number: u64, item: &'static str| {
                let (place, one, start) = (&place, Arc::clone(&one), &start);
                scope.spawn(move || {
                    // Most is the same for all; some is their own.
                    let mut disk = Disk::with_noise(1, 60);
                    (0..8).for_each(|n| disk.set_block(n * 7, noise(number * 100 + n, 65536)));
                    let vault = if shared_vault { one } else { place.open() };
                    let disk = Arc::new(disk);
                    start.wait();
                    let request = request(item, vec![source("vda", &disk)]);
                    let report = try_backup(&vault, &request).expect("backup");
                    (item, report.recovery_point, disk)
                })
            };
            let threads = [run(1, "web01"), run(2, "web01"), run(3, "db01"), run(4, "mail")];
            threads.map(|thread| thread.join().expect("no panic"))
        });
        std::fs::remove_dir_all(place.path("cache")).expect("a cache");
        let vault = place.open();
        for (item, point, disk) in &made {
            restored_item(&vault, item, *point, disk).expect("each");
        }
        assert_eq!(vault.points(Some("web01")).expect("a list").len(), 2);
        reclaim(&vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaim");
        for (item, point, disk) in &made {
            restored_item(&place.open(), item, *point, disk).expect("each");
        }
    }
}

/// Of two backups with the same content, one fails before its packs are in the vault: the other
/// must not have relied upon them.
#[test]
fn a_backup_does_not_rely_on_what_a_failing_neighbour_was_about_to_store() {
    let place = Place::new();
    let store =
        Arc::new(Faulty::new(place.folder(), strongroom_base::SystemClock, Faults::default()));
    let vault = place.open_in(Arc::clone(&store) as Arc<dyn ObjectStore>);
    let content = Disk::with_noise(1, 60);
    // The neighbour reads the last part only when the other one is done, and fails then.
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(Some(wait));
    let mut slow = content.copy();
    slow.resize(80 << 20);
    slow.set_block(1200, noise(7, 65536));
    slow.bad = vec![strongroom_base::ByteRange::between(1200 * 65536, 1200 * 65536 + 512)];
    let reads = std::sync::atomic::AtomicU64::new(0);
    slow.on_read = Some(Box::new(move || {
        if reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2
            && let Some(wait) = wait.lock().expect("no panic").take()
        {
            wait.recv_timeout(Duration::from_secs(20)).ok();
        }
    }));
    let slow = Arc::new(slow);
    let neighbour = {
        let vault = Arc::clone(&vault);
        std::thread::spawn(move || try_backup(&vault, &request("slow", vec![source("vda", &slow)])))
    };
    std::thread::park_timeout(Duration::from_millis(300));
    let disk = Arc::new(content);
    let report = back_up(&vault, &disk).expect("backup");
    // What the neighbour has not stored by now it never will.
    store.set(Faults { read_only: true, ..Faults::default() });
    go.send(()).ok();
    let error = neighbour.join().expect("no panic").expect_err("a bad sector");
    code(&error);
    store.set(Faults::default());
    restored(&place.open(), report.recovery_point, &disk).expect("whole");
    // The same process goes on with what the failed run had claimed.
    let mut again = disk.copy();
    again.resize(80 << 20);
    again.set_block(1200, noise(7, 65536));
    let again = Arc::new(again);
    let report = try_backup(&vault, &request("slow", vec![source("vda", &again)]));
    let point = report.expect("backup").recovery_point;
    std::fs::remove_dir_all(place.path("cache")).expect("a cache");
    restored_item(&place.open(), "slow", point, &again).expect("whole");
}

#[test]
fn a_backup_that_slept_through_a_reclaim_is_not_published() {
    let place = Place::new();
    let content = Disk::with_noise(1, 60);
    let old = back_up(&place.open(), &Arc::new(content.copy())).expect("backup").recovery_point;
    let other = Arc::new(Disk::with_noise(2, 16));
    let kept = try_backup(&place.open(), &request("other", vec![source("vda", &other)]));
    let kept = kept.expect("backup").recovery_point;

    // It finds all its blocks in the vault, and falls asleep before the last.
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(Some(wait));
    let mut sleepy = content.copy();
    sleepy.on_read = Some(Box::new(move || {
        if let Some(wait) = wait.lock().expect("no panic").take() {
            wait.recv_timeout(Duration::from_secs(20)).ok();
        }
    }));
    let sleepy = Arc::new(sleepy);
    let asleep = {
        let (vault, sleepy) = (place.open(), Arc::clone(&sleepy));
        std::thread::spawn(move || back_up(&vault, &sleepy))
    };
    while place.open().writers().expect("a list").is_empty() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    std::thread::park_timeout(Duration::from_millis(100));

    // By the store's clock nothing was heard of it for twenty minutes.
    for note in files(&place.vault_path().join("writers")) {
        let note = std::fs::File::options().write(true).open(note).expect("a note");
        let heard = note.metadata().and_then(|data| data.modified()).expect("a time");
        note.set_modified(heard - Duration::from_mins(20)).expect("set back");
    }
    let vault = place.open();
    vault.delete_point("web01", old, "here").expect("delete");
    let report = reclaim(&vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaim");
    assert_eq!((report.writers_expired, report.points_removed), (1, 1), "{report:?}");
    assert!(report.packs_removed > 0);
    go.send(()).expect("asleep");
    let error = asleep.join().expect("no panic").expect_err("too late");
    assert_eq!(code(&error), "backup.expired", "{}", chain(&error));

    let vault = place.open();
    assert!(vault.latest("web01").expect("a list").is_none());
    restored_item(&vault, "other", kept, &other).expect("others are untouched");
    let report = back_up(&vault, &sleepy).expect("the next run");
    std::fs::remove_dir_all(place.path("cache")).expect("a cache");
    restored(&place.open(), report.recovery_point, &sleepy).expect("whole");
}

#[test]
fn reclaims_at_once_lose_nothing() {
    for round in 0..4_u64 {
        let place = Place::new();
        let mut disk = Disk::with_noise(round, 40);
        let mut points = vec![];
        for step in 0..6_u64 {
            disk.set_block(step * 3, noise(step + 100, 65536));
            disk.block_mut(30)[..8].copy_from_slice(&step.to_le_bytes());
            let point = back_up(&place.open(), &Arc::new(disk.copy())).expect("backup");
            points.push((point.recovery_point, disk.copy()));
        }
        for (point, _) in points.drain(0..4) {
            place.open().delete_point("web01", point, "here").expect("delete");
        }
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (place, start, disk) = (&place, &start, disk.copy());
                scope.spawn(move || {
                    let vault = place.open();
                    start.wait();
                    if number == 2 {
                        // And a backup that would reuse what they remove.
                        let report = try_backup(
                            &vault,
                            &request("again", vec![source("vda", &Arc::new(disk.copy()))]),
                        );
                        let point = report.expect("backup").recovery_point;
                        restored_item(&place.open(), "again", point, &disk).expect("whole");
                        return;
                    }
                    let options = ReclaimOptions {
                        compact_below: 95,
                        poll: Duration::from_millis(10),
                        wait: Duration::from_secs(20),
                        ..ReclaimOptions::default()
                    };
                    match reclaim(&vault, &options, &Cancel::new()) {
                        Ok(_) | Err(VaultError::ConcurrentReclaim) => {}
                        Err(error) => {
                            let error = EngineError::Vault(error);
                            panic!("{} {}", code(&error), chain(&error));
                        }
                    }
                });
            }
        });
        let options = ReclaimOptions { compact_below: 95, ..ReclaimOptions::default() };
        reclaim(&place.open(), &options, &Cancel::new()).expect("alone it succeeds");
        std::fs::remove_dir_all(place.path("cache")).expect("a cache");
        for (point, wanted) in &points {
            restored(&place.open(), *point, wanted).expect("whole");
        }
        let again = place.open().latest("again").expect("a list").expect("a point").id;
        restored_item(&place.open(), "again", again, &disk).expect("whole");
    }
}
