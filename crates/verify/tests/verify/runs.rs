//! How a verify runs: resumed, sampled, limited, blind; and usage.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use strongroom_base::{Cancel, Stage, SystemEntropy};
use strongroom_objects::{Folder, ObjectStore};
use strongroom_vault::UsageOptions;
use strongroom_verify::{
    CopyState, VerifyMode, VerifyOptions, VerifyProgress, verify, verify_blind,
};

use crate::common::{Place, cache_of, flip, keys, memory, names};

#[test]
fn an_interrupted_verify_goes_on_where_it_stopped() {
    for mode in [VerifyMode::Full, VerifyMode::Blind] {
        let place = Place::new(memory());
        let packs = u64::try_from(keys(&*place.store, "packs/").len()).expect("few");
        let options = VerifyOptions { mode, threads: 1, resume: true, ..VerifyOptions::default() };
        let cancel = Cancel::new();
        let stop = |progress: VerifyProgress| {
            if progress.stage == Stage::Packs && progress.done == 2 {
                cancel.cancel();
            }
        };
        let report = verify(&place.vault, &options, &stop, &cancel).expect("stops");
        assert!(report.interrupted && !report.clean);
        assert_eq!((report.verified_packs, report.resumed_from), (2, None));
        // Damage to what was read is not seen; that is what resuming means.
        let report =
            verify(&place.open(false), &options, &|_| {}, &Cancel::new()).expect("resumes");
        assert!(report.clean && report.resumed_from.is_some(), "{report:?}");
        assert_eq!((report.resumed_packs, report.verified_packs), (2, packs - 2));
        // It came to its end: the next one starts anew.
        let report = place.verify(&options);
        assert_eq!((report.resumed_packs, report.verified_packs), (0, packs));
        assert!(!cache_of(&place).join("verify-full").exists());
        assert!(!cache_of(&place).join("verify-blind").exists());
    }
}

#[test]
fn what_was_found_bad_is_read_again_when_resumed() {
    let place = Place::new(memory());
    let packs = keys(&*place.store, "packs/");
    packs.iter().for_each(|pack| flip(&*place.store, pack, 70));
    let options = VerifyOptions { threads: 1, resume: true, ..VerifyOptions::default() };
    let cancel = Cancel::new();
    let stop = |progress: VerifyProgress| {
        if progress.done == 2 && progress.stage == Stage::Packs {
            cancel.cancel();
        }
    };
    verify(&place.vault, &options, &stop, &cancel).expect("stops");
    let report = place.verify(&options);
    assert_eq!(report.resumed_packs, 0);
    assert_eq!(report.damaged.len(), packs.len());
}

#[test]
fn a_sample_reads_some_packs_and_walks_all_points() {
    let place = Place::new(memory());
    let all = place.full();
    let sample = |percent| VerifyOptions { sample: Some(percent), ..VerifyOptions::default() };
    let report = place.verify(&sample(100.0));
    assert_eq!(report.verified_packs, all.packs);
    let report = place.verify(&sample(0.000_001));
    assert!(report.clean);
    assert_eq!((report.verified_packs, report.recovery_points), (1, 3));
    assert_eq!(report.sample_percent, Some(0.000_001));
    // A pack that is missing shows without being in the sample.
    let pack = &keys(&*place.store, "packs/data/")[0];
    place.store.delete(pack).expect("deletes");
    let report = place.verify(&sample(0.000_001));
    assert_eq!(names(&report), [pack.as_str()]);
    assert!(report.damaged_recovery_points > 0);
}

#[test]
fn a_missing_base_shows_in_a_sample() {
    let place = Place::new(memory());
    let base = place.vault.hasher().block(&crate::common::noise(1));
    let home = place.vault.index().find(&base).expect("reads")[0].pack.to_string();
    let packs = keys(&*place.store, "packs/data/");
    let home = packs.iter().find(|key| key.file_name() == home).expect("listed");
    place.store.delete(home).expect("deletes");
    let sample = VerifyOptions { sample: Some(0.000_001), ..VerifyOptions::default() };
    let report = place.verify(&sample);
    let newest = report.damaged_points.iter().find(|p| p.recovery_point == place.points[1]);
    let ranges = &newest.expect("damaged").disks[0].ranges;
    assert!(ranges.iter().any(|range| range.offset == 20 * 65536), "{ranges:?}");
}

#[test]
fn blind_needs_no_key() {
    let place = Place::new(memory());
    let blind = VerifyOptions { mode: VerifyMode::Blind, ..VerifyOptions::default() };
    let verify = || {
        verify_blind(&place.store, &place.options(), &blind, &|_| {}, &Cancel::new())
            .expect("verifies")
    };
    let report = verify();
    assert!(report.clean && report.mode == VerifyMode::Blind, "{report:?}");
    for pack in keys(&*place.store, "packs/") {
        flip(&*place.store, &pack, 5000);
        let report = verify();
        assert_eq!(names(&report), [pack.as_str()]);
        assert_eq!(report.damaged[0].copies[0].state, CopyState::Damaged);
        flip(&*place.store, &pack, 5000);
    }
    assert!(verify().clean);
}

#[test]
fn a_rate_is_kept() {
    let place = Place::new(memory());
    let bytes: u64 = place.full().read_bytes;
    let options = VerifyOptions { limit_rate: Some(bytes), ..VerifyOptions::default() };
    // A second of bytes, a quarter of which may come at once; nodes and metadata come on top.
    assert!(place.verify(&options).seconds > 0.7);
}

#[test]
fn progress_is_told() {
    let place = Place::new(memory());
    let told = Mutex::new(Vec::new());
    let tell = |progress| told.lock().expect("lock").push(progress);
    let report = verify(&place.vault, &VerifyOptions::default(), &tell, &Cancel::new());
    let report = report.expect("verifies");
    let told = told.into_inner().expect("lock");
    let of = |stage| told.iter().filter(move |p| p.stage == stage);
    assert_eq!(of(Stage::Points).map(|p| p.done).max(), Some(3));
    assert_eq!(u64::try_from(of(Stage::Packs).count()).expect("few"), report.packs);
    let end = of(Stage::Packs).max_by_key(|p| p.done).expect("packs");
    assert_eq!(
        (end.done, end.total, end.bytes_total),
        (report.packs, report.packs, report.read_bytes)
    );
    assert!(of(Stage::Metadata).count() >= 6);
}

#[test]
fn folders_are_verified_while_a_backup_runs() {
    let dir = tempfile::tempdir().expect("temp");
    let store: Arc<dyn ObjectStore> = Arc::new(
        Folder::create(&dir.path().join("vault"), Arc::new(SystemEntropy)).expect("folder"),
    );
    let mut place = Place::new(store);
    let vault = place.open(true);
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let verify = scope.spawn(|| {
            let mut runs = 0;
            while stop.load(Ordering::Relaxed) == 0 || runs == 0 {
                let report =
                    verify(&vault, &<_>::default(), &|_| {}, &Cancel::new()).expect("verifies");
                assert!(report.clean, "{report:?}");
                runs += 1;
            }
        });
        for n in 0..10 {
            place.backup("web02", &[(n, crate::common::noise(1000 + n))].into());
        }
        stop.store(1, Ordering::Relaxed);
        verify.join().expect("verifies");
    });
    let report = place.full();
    assert!(report.clean && report.recovery_points == 13, "{report:?}");
}

#[test]
fn usage_adds_up() {
    let place = Place::new(memory());
    place.vault.delete_point("web01", place.points[0], "here").expect("deletes");
    let plain = place.vault.usage(UsageOptions::default(), &Cancel::new()).expect("counts");
    assert_eq!((plain.recovery_points, plain.deleted_recovery_points), (2, 1));
    assert_eq!(plain.protected_bytes, 2 * crate::common::DISK);
    assert!(plain.content.is_none() && plain.items[0].unique_bytes.is_none());
    let parts =
        [plain.data_pack_bytes, plain.node_pack_bytes, plain.index_bytes, plain.other_bytes];
    assert_eq!(parts.iter().sum::<u64>(), plain.total_bytes);
    assert_eq!(
        plain.data_packs + plain.node_packs,
        u64::try_from(keys(&*place.store, "packs/").len()).expect("few")
    );
    let full = place.vault.usage(UsageOptions { content: true }, &Cancel::new()).expect("counts");
    let content = full.content.expect("asked for");
    let [db, web] = &full.items[..] else { panic!("two items: {full:?}") };
    assert_eq!((db.item.as_str(), web.item.as_str()), ("db01", "web01"));
    // They share one block of noise, stored as it is with its tag.
    let one = 65536 + 16;
    assert_eq!((db.shared_bytes, web.shared_bytes), (Some(one), Some(one)));
    assert_eq!(content.shared_bytes, one);
    // db01 alone has one block and a root and a leaf.
    let db_alone = db.unique_bytes.expect("asked for");
    assert!(db_alone > one && db_alone < one + 500, "{db_alone}");
    // web01 needs its 23 other blocks of noise, bases of deltas among them, but not the nodes of
    // the deleted point.
    assert!(web.unique_bytes.expect("asked for") > 23 * one);
    assert_eq!(content.unique_bytes, db_alone + web.unique_bytes.expect("asked for"));
    assert!(content.reclaimable_bytes > 0 && content.reclaimable_bytes < 40_000, "{content:?}");
}
