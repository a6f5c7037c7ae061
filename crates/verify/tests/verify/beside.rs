//! Verify beside everything else: backups, deletions, reclaims and repairs of the same vault by
//! others. A vault that is sound is never called anything else.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use strongroom_base::{Cancel, PointId, SystemEntropy};
use strongroom_format::Conditional;
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_objects::{Folder, Mirror, ObjectStore};
use strongroom_vault::{ReclaimOptions, Vault, VaultOptions, Writer, reclaim};
use strongroom_verify::{VerifyOptions, VerifyReport, verify};

use crate::common::{Content, backup, content, noise, options};

/// How long the others are at work.
fn time() -> Duration {
    let long = std::env::var_os("STRONGROOM_LONG").is_some();
    Duration::from_secs(if long { 180 } else { 4 })
}

/// A vault in folders that many open.
struct Bed {
    dir: tempfile::TempDir,
    copies: usize,
    stop: AtomicBool,
    /// What visible points hold.
    truth: Mutex<BTreeMap<PointId, (String, Content)>>,
    opened: AtomicU64,
}

impl Bed {
    fn new(copies: usize) -> Self {
        let dir = tempfile::tempdir().expect("temp");
        generate_key_file(&dir.path().join("key"), &SystemEntropy).expect("key");
        let bed = Self {
            dir,
            copies,
            stop: AtomicBool::new(false),
            truth: Mutex::default(),
            opened: AtomicU64::new(0),
        };
        let (key, options) = (bed.key(), bed.options("made"));
        let (store, puts) = (bed.store(), Conditional::Honoured);
        Vault::create(store, &key, "test", puts, vec![], options).expect("a vault");
        bed
    }

    fn key(&self) -> KeySource {
        KeySource::File(self.dir.path().join("key"))
    }

    fn options(&self, who: &str) -> VaultOptions {
        // Small packs, so that there are many.
        VaultOptions { pack_size: 256 << 10, ..options(&self.dir.path().join(who)) }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let copy = |number| -> Arc<dyn ObjectStore> {
            let path = self.dir.path().join(format!("copy{number}"));
            Arc::new(Folder::create(Path::new(&path), Arc::new(SystemEntropy)).expect("a folder"))
        };
        match self.copies {
            1 => copy(0),
            many => Arc::new(Mirror::new((0..many).map(copy).collect(), vec![])),
        }
    }

    /// As another process opens it, with a cache of its own.
    fn open(&self) -> Arc<Vault> {
        let who = format!("host{}", self.opened.fetch_add(1, Ordering::Relaxed));
        Arc::new(Vault::open(self.store(), &self.key(), self.options(&who)).expect("opens"))
    }

    fn works(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Backs an item up over and over, and deletes what gets old.
    fn write(&self, item: &str, mut seed: u64) {
        let (mut disk, mut points) = (Content::new(), Vec::new());
        let mut chance = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut vault = self.open();
        let mut rounds = 0;
        while self.works() {
            if chance(8) == 0 {
                vault = self.open();
            }
            for _ in 0..4 {
                // Of few different blocks, so that items share them, and what was dead is needed again.
                disk.insert(chance(600), noise(chance(40)));
            }
            let gone: Vec<u64> = disk.keys().copied().filter(|_| chance(6) == 0).collect();
            gone.iter().for_each(|block| drop(disk.remove(block)));
            if chance(10) == 0 {
                // A run that breaks off.
                let writer = Writer::begin(&vault, item, "here").expect("begins");
                let plain = noise(1000 + chance(1000));
                let digest = vault.hasher().block(&plain);
                if writer.claim(&digest).expect("asks") {
                    let kind = strongroom_format::pack::RecordKind::BlockStored;
                    writer.store_block(kind, digest, plain.len(), None, &plain).expect("stores");
                }
            }
            let point = backup(&vault, item, &disk, rounds).expect("backs up");
            self.truth.lock().expect("a lock").insert(point, (item.to_owned(), disk.clone()));
            points.push(point);
            while points.len() > usize::try_from(chance(4)).expect("few") + 1 {
                let old = points.remove(0);
                self.truth.lock().expect("a lock").remove(&old);
                vault.delete_point(item, old, "here").expect("deletes");
            }
            rounds += 1;
        }
        assert!(rounds > 2, "{item}: {rounds} rounds");
    }

    fn reclaim(&self) -> u64 {
        let options = ReclaimOptions {
            wait: Duration::from_millis(500),
            poll: Duration::from_millis(5),
            host: "here".to_owned(),
            ..ReclaimOptions::default()
        };
        let mut removed = 0;
        while self.works() {
            let report = reclaim(&self.open(), &options, &Cancel::new()).expect("reclaims");
            removed += report.packs_removed;
        }
        removed
    }

    /// Verifies over and over; how often, and how often it could not be decided.
    fn verify(&self, repair: bool) -> (u64, u64) {
        let options = VerifyOptions { repair, ..VerifyOptions::default() };
        let (mut runs, mut open) = (0, 0);
        let mut vault = self.open();
        while self.works() {
            if runs % 3 == 0 {
                vault = self.open();
            }
            let report = verify(&vault, &options, &|_| {}, &Cancel::new()).expect("verifies");
            check(&report);
            runs += 1;
            open += u64::from(report.undecided);
        }
        (runs, open)
    }
}

/// It may say that it does not know, but nothing that is not so.
fn check(report: &VerifyReport) {
    assert!(report.damaged.is_empty() && report.damaged_objects == 0, "{report:#?}");
    assert!(report.damaged_points.is_empty() && report.damaged_recovery_points == 0, "{report:#?}");
    assert!(!report.index_incomplete && report.unindexed_packs == 0, "{report:#?}");
    assert_eq!(
        (report.lost_blocks, report.lost_nodes, report.records_without_base),
        (0, 0, 0),
        "{report:#?}"
    );
    assert!(report.distrusted_packs == 0, "{report:#?}");
    assert!(report.clean || report.undecided, "{report:#?}");
}

/// Whoever ends ends the others as well: also who fails.
struct Ends<'a>(&'a Bed);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn nothing_is_called_damaged(copies: usize) {
    let bed = &Bed::new(copies);
    let began = Instant::now();
    let (removed, runs, open) = std::thread::scope(|scope| {
        let writers = [("web", 1), ("mail", 2)].map(|(item, seed)| {
            scope.spawn(move || {
                let _ends = Ends(bed);
                bed.write(item, seed);
            })
        });
        let reclaimer = scope.spawn(move || {
            let _ends = Ends(bed);
            bed.reclaim()
        });
        let verifiers = [false, true].map(|repair| {
            scope.spawn(move || {
                let _ends = Ends(bed);
                bed.verify(repair)
            })
        });
        while bed.works() && began.elapsed() < time() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        drop(Ends(bed));
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        let removed = reclaimer.join().expect("a reclaim");
        let verified = verifiers.map(|verifier| verifier.join().expect("a verify"));
        (removed, verified.map(|(runs, _)| runs), verified.map(|(_, open)| open))
    });
    println!("{runs:?} verifies, {open:?} of them undecided; {removed} packs removed");
    assert!(!runs.contains(&0) && removed > 0, "{runs:?} verifies, {removed} packs removed");
    let (runs, open): (u64, u64) = (runs.iter().sum(), open.iter().sum());
    assert!(open * 2 <= runs, "{open} of {runs} were undecided");

    let vault = bed.open();
    reclaim(&vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaims");
    let report = verify(&vault, &VerifyOptions::default(), &|_| {}, &Cancel::new());
    let report = report.expect("verifies");
    check(&report);
    assert!(report.clean, "{report:#?}");
    let truth = std::mem::take(&mut *bed.truth.lock().expect("a lock"));
    let points = vault.points(None).expect("points");
    assert_eq!(points.len(), truth.len());
    for point in &points {
        let (item, wanted) = &truth[&point.id];
        assert_eq!(point.item, *item);
        assert!(content(&vault, point) == *wanted, "{} of {item} is wrong", point.id);
    }
}

#[test]
fn of_one_folder() {
    nothing_is_called_damaged(1);
}

#[test]
fn of_a_mirror() {
    nothing_is_called_damaged(2);
}
