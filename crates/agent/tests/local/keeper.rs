//! What a keeper of vaults promises, on vaults in folders.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::KeyReference;
use strongroom_base::{Clock as _, PointId, SystemClock, SystemEntropy, words};
use strongroom_keys::KeySource;
use strongroom_orders::{
    Absence, Agent as _, BackupOrder, HeldPoint, Keeper as _, ReclaimDone, ReclaimOrder, Result,
    RotateOrder, ValidateOrder, VaultAccess, VaultFacts, VaultMake, VerifyDepth, VerifyOrder,
    Watch,
};
use strongroom_vault::place;

use crate::common::{Heard, Lab, files, json, once};

fn now() -> Timestamp {
    SystemClock.now()
}

fn delete(lab: &Lab, points: &[PointId]) {
    let locked = lab.keeper.delete_points(&lab.access(), "web", points, now()).expect("deleted");
    assert_eq!(locked, []);
}

fn reclaim(lab: &Lab, given_up: &[PointId], watch: &Watch) -> Result<ReclaimDone> {
    let given_up = given_up.iter().map(|point| ("web".to_owned(), *point)).collect();
    let order = ReclaimOrder {
        order: once(),
        vault: lab.access(),
        given_up,
        now: now(),
        recompress: false,
    };
    lab.keeper.reclaim(&order, watch)
}

fn rotate(lab: &Lab, vault: &VaultAccess, new: Option<&KeyReference>) -> Result<VaultFacts> {
    let order = RotateOrder { order: once(), vault: vault.clone(), new: new.cloned() };
    lab.keeper.rotate_key(&order)
}

#[test]
fn made_taken_over_and_refused() {
    let mut lab = Lab::new();
    let made = lab.vault();
    assert!(!made.existed && made.warnings.is_empty() && made.free_bytes > Some(0), "{made:?}");
    assert!(made.mirrors.is_empty());
    // Again, as after a crash, and by a service that was started anew.
    lab.restart();
    let again = lab.vault();
    assert!(again.existed);
    assert_eq!((again.id, again.key_changed), (made.id, made.key_changed));
    // The free space is of the moment: others write to the same file system.
    let now = lab.keeper.facts(&lab.access()).expect("facts");
    assert_eq!(VaultFacts { free_bytes: again.free_bytes, ..now }, again);
    // With another key it is not taken over, and nothing is made.
    let mut other = lab.make(&[]);
    other.key = lab.key("other");
    let refused = lab.keeper.make(&other).expect_err("the key is missing");
    assert_eq!(refused.code.as_str(), "key.unreadable");
    assert!(!lab.path("other").exists());
    lab.keeper.make_key_file(&lab.path("other")).expect("made");
    assert_eq!(lab.keeper.make(&other).expect_err("it is another").code.as_str(), "key.wrong");
    // Where something else is, nothing is made.
    fs::create_dir(lab.path("full")).expect("a folder");
    fs::write(lab.path("full/x"), "").expect("a file");
    let mut full = lab.make(&[]);
    full.url = lab.text("full");
    assert_eq!(lab.keeper.make(&full).expect_err("it is full").code.as_str(), "vault.exists");
    assert_eq!(files(&lab.path("full")).len(), 1);
    let nowhere = VaultAccess { url: lab.text("nowhere"), key: lab.key("key") };
    assert_eq!(lab.keeper.facts(&nowhere).expect_err("nothing").code.as_str(), "vault.not_found");
}

#[test]
fn key_files_are_private_and_never_replaced() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::new();
    let path = lab.path("key");
    lab.keeper.make_key_file(&path).expect("made");
    let first = fs::read(&path).expect("read");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    lab.keeper.make_key_file(&path).expect("there already");
    // By several at once, one is made, and nothing else is left.
    let shared = lab.path("shared");
    fs::create_dir(&shared).expect("a folder");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| lab.keeper.make_key_file(&shared.join("key")).expect("made"));
        }
    });
    assert_eq!(fs::read_dir(&shared).expect("a folder").count(), 1);
    assert_eq!(fs::read(&path).expect("read"), first);
    assert_eq!(files(lab.dir.path()), [path, shared.join("key")], "nothing else is left");
    let nowhere = lab.keeper.make_key_file(&lab.path("no/key")).expect_err("no folder");
    assert!(!format!("{nowhere:?}").contains("strongroom-key"));
}

#[test]
fn mirrors_that_are_away_are_told_and_come_back() {
    let lab = Lab::new();
    let made = lab.keeper.make(&lab.make(&["copy"])).expect("a vault");
    assert_eq!((made.mirrors.len(), made.warnings.len()), (2, 0), "{made:?}");
    fs::rename(lab.path("copy"), lab.path("away")).expect("moved");
    // A vault that is open notices when something fails, and one that is opened at once.
    let mut lab = lab;
    lab.restart();
    let facts = lab.keeper.facts(&lab.access()).expect("facts");
    assert_eq!(facts.warnings.len(), 1, "{facts:?}");
    let disk = lab.disk("a.img", 4, 1);
    let done = lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    assert_eq!(done.warnings[0].code.as_str(), "store.degraded", "{:?}", done.warnings);
    assert_eq!(
        reclaim(&lab, &[], &Watch::silent()).expect_err("not now").code.as_str(),
        "store.degraded"
    );
    fs::rename(lab.path("away"), lab.path("copy")).expect("moved");
    assert!(lab.keeper.facts(&lab.access()).expect("facts").warnings.is_empty());
    // Taken over by a service that thinks of other copies.
    let facts = lab.keeper.make(&lab.make(&["copy", "third"])).expect("taken over");
    assert!(facts.existed && facts.warnings.len() == 1, "{facts:?}");
    assert!(facts.warnings[0].contains("third"));
}

#[test]
fn points_are_listed_validated_and_deleted() {
    let lab = Lab::new();
    lab.vault();
    assert_eq!(lab.keeper.points(&lab.access(), None).expect("none"), (Vec::new(), Vec::new()));
    assert_eq!(lab.keeper.points(&lab.access(), Some("web")).expect("none"), Default::default());
    let disk = lab.disk("a.img", 20, 1);
    let first = lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    lab.disk("a.img", 21, 1);
    let second = lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    let (points, damaged) = lab.keeper.points(&lab.access(), Some("web")).expect("listed");
    assert_eq!(points, [first.point.clone(), second.point.clone()]);
    assert!(damaged.is_empty());

    let heard = Heard::default();
    for (point, expect) in [(&first.point, "20 blocks found"), (&second.point, "1 blocks found")] {
        let words = lab.validate(point.id, &heard.watch());
        let words = words.expect("good");
        assert!(words[0].contains(expect), "{words:?}");
        assert_eq!(heard.take(), ["validate in_progress", "validate completed"]);
    }
    let watch = heard.watch();
    watch.cancel.cancel();
    let stopped = lab.validate(first.point.id, &watch);
    assert_eq!(stopped.expect_err("stopped").code.as_str(), "interrupted");

    let ids = [first.point.id, PointId::from_bytes([1; 16])];
    delete(&lab, &ids);
    // They are gone already.
    delete(&lab, &ids);
    let gone = lab.validate(first.point.id, &Watch::silent());
    assert_eq!(gone.expect_err("gone").code.as_str(), "point.not_found");
    let (points, _) = lab.keeper.points(&lab.access(), None).expect("listed");
    assert_eq!(points, [second.point]);
}

#[test]
fn damage_is_told_by_its_code() {
    let lab = Lab::new();
    lab.vault();
    let disk = lab.disk("a.img", 20, 1);
    let point = lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    let id = point.point.id;
    let validate = || lab.validate(id, &Watch::silent());
    let file = |below: &str| files(&lab.path("vault").join(below)).remove(0);
    let code = || validate().expect_err("damaged").code.as_str().to_owned();
    validate().expect("good");
    for kind in ["packs/data", "packs/node"] {
        let pack = file(kind);
        let good = fs::read(&pack).expect("read");
        fs::remove_file(&pack).expect("removed");
        assert_eq!(code(), "store.missing", "{kind}");
        let mut bad = good.clone();
        let at = bad.len() / 3;
        bad[at] ^= 1;
        fs::write(&pack, &bad).expect("written");
        assert_eq!(code(), "store.corrupt", "{kind}");
        fs::write(&pack, &good).expect("written");
        validate().expect("good again");
    }
    let manifest = file("points");
    let good = fs::read(&manifest).expect("read");
    fs::write(&manifest, &good[..good.len() / 2]).expect("cut");
    assert_eq!(code(), "point.damaged");
    let (points, damaged) = lab.keeper.points(&lab.access(), None).expect("listed");
    assert_eq!((points.len(), damaged[0].code.as_str()), (0, "point.damaged"));
    fs::write(&manifest, &good).expect("written");
    validate().expect("good again");
}

#[test]
fn space_is_measured_and_freed() {
    let lab = Lab::new();
    lab.vault();
    let disk = lab.disk("a.img", 20, 1);
    let first = lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    lab.disk("a.img", 30, 2);
    lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    let before = lab.keeper.usage(&lab.access(), &Watch::silent()).expect("measured");
    assert_eq!((before.recovery_points, before.items.len()), (2, 1));
    let item = &before.items[0];
    assert_eq!((item.name.as_str(), item.protected_bytes), ("web", 30 * 65536));
    assert_eq!((item.instance_bytes, item.shared_bytes), (30 * 65536, 0));
    assert!(item.unique_bytes > 50 * 60000 && before.stored_bytes > item.unique_bytes);
    delete(&lab, &[first.point.id]);
    let after = lab.keeper.usage(&lab.access(), &Watch::silent()).expect("measured");
    assert!(after.reclaimable_bytes > before.reclaimable_bytes + 20 * 60000, "{after:?}");
    let heard = Heard::default();
    // What nobody has given up stays, whoever put the note.
    let done = reclaim(&lab, &[], &Watch::silent()).expect("reclaims");
    let held = HeldPoint { item: Some("web".to_owned()), point: first.point.id, locked: false };
    assert_eq!((done.held, done.complete), (vec![held], true));
    assert_eq!(json(&done.report)["points_removed"], 0);
    let done = reclaim(&lab, &[first.point.id], &heard.watch()).expect("freed");
    let report = json(&done.report);
    let freed = report["freed_bytes"].as_u64().expect("a number");
    assert!(freed > 20 * 60000, "{report:#}");
    let details = heard.details();
    assert!(details.iter().any(|detail| detail.starts_with("waiting for")), "{details:?}");
    assert_eq!(details.last(), Some(&format!("freed {}", words::bytes(freed))));
    let end = lab.keeper.usage(&lab.access(), &Watch::silent()).expect("measured");
    assert!(end.stored_bytes < before.stored_bytes - 20 * 60000);
    assert_eq!(end.recovery_points, 1);
}

#[test]
fn what_the_points_need_is_compressed_once_more_if_the_order_says_so() {
    let lab = Lab::new();
    lab.vault();
    let disk = lab.disk("a.img", 20, 1);
    lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    let plain = reclaim(&lab, &[], &Watch::silent()).expect("reclaims");
    assert_eq!(json(&plain.report)["recompressed_packs"], 0);
    let order = ReclaimOrder {
        order: once(),
        vault: lab.access(),
        given_up: vec![],
        now: now(),
        recompress: true,
    };
    let heard = Heard::default();
    let done = lab.keeper.reclaim(&order, &heard.watch()).expect("reclaims");
    assert_eq!(json(&done.report)["recompressed_packs"], 1, "{:?}", done.report);
    assert!(
        heard.details().iter().any(|detail| detail == "recompressing"),
        "{:?}",
        heard.details()
    );
    let again = lab.keeper.reclaim(&order, &Watch::silent()).expect("nothing left to do");
    assert_eq!(json(&again.report)["recompressed_packs"], 0);
    let usage = lab.keeper.usage(&lab.access(), &Watch::silent()).expect("measured");
    assert_eq!((usage.recovery_points, usage.items[0].protected_bytes), (1, 20 * 65536));
}

#[test]
fn keys_are_rotated_and_a_broken_off_rotation_goes_on() {
    let lab = Lab::new();
    let made = lab.vault();
    lab.keeper.save(&lab.access(), "catalog", b"words").expect("saved");
    let old = lab.access();
    let ids = |access: &VaultAccess| {
        let KeyReference::File(file) = &access.key else { panic!("a file") };
        let open = place::open_keys(&access.url, &KeySource::File(file.into())).expect("opens");
        open.ring.ids().count()
    };
    // Only the master key.
    let rotated = rotate(&lab, &old, None).expect("rotated");
    assert!(rotated.key_changed > made.key_changed);
    assert_eq!((rotated.id, ids(&old)), (made.id, 2));
    // A new key, killed after its slot has taken the place of the old one.
    lab.keeper.make_key_file(&lab.path("new")).expect("made");
    let new = VaultAccess { key: lab.key("new"), ..old.clone() };
    let (old_key, new_key) = (KeySource::File(lab.path("key")), KeySource::File(lab.path("new")));
    let mut open = place::open_keys(&old.url, &old_key).expect("opens");
    let slot = open.ring.slot();
    let (clock, chance) = (&SystemClock, &SystemEntropy);
    open.ring.rotate_slot(&*open.store, slot, &new_key, "", clock, chance).expect("rotates");
    assert_eq!(ids(&new), 2);
    let rotated = rotate(&lab, &old, Some(&new.key)).expect("goes on");
    assert_eq!(ids(&new), 3);
    // Given once more, there is nothing left to do.
    let again = rotate(&lab, &old, Some(&new.key)).expect("is done");
    // Others use the same disk.
    let again = VaultFacts { free_bytes: rotated.free_bytes, ..again };
    assert_eq!((again, ids(&new)), (rotated, 3));
    assert_eq!(lab.keeper.load(&new, "catalog").expect("loads"), b"words");
    // The old one opens it no more, although it was open with it.
    assert_eq!(lab.keeper.load(&old, "catalog").expect_err("wrong").code.as_str(), "key.wrong");
    // All at once, and a key that opens nothing changes nothing.
    lab.keeper.make_key_file(&lab.path("third")).expect("made");
    let third = VaultAccess { key: lab.key("third"), ..old.clone() };
    assert_eq!(rotate(&lab, &old, Some(&third.key)).expect_err("wrong").code.as_str(), "key.wrong");
    rotate(&lab, &new, Some(&third.key)).expect("rotated");
    assert_eq!(ids(&third), 4);
    assert_eq!(lab.keeper.facts(&new).expect_err("wrong").code.as_str(), "key.wrong");
    assert_eq!(lab.keeper.load(&third, "catalog").expect("loads"), b"words");
}

/// Somebody else rotates the key of a vault that is open here.
#[test]
fn an_open_vault_notices_changes_of_others() {
    let lab = Lab::new();
    lab.vault();
    let disk = lab.disk("a.img", 4, 1);
    lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    let mut other = Lab::new();
    other.dir = tempfile::tempdir().expect("a folder");
    other.restart();
    let rotated = rotate(&other, &lab.access(), None).expect("rotated");
    assert_eq!(lab.keeper.facts(&lab.access()).expect("facts").key_changed, rotated.key_changed);
    lab.disk("a.img", 5, 2);
    let second = lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
    let order = ValidateOrder {
        order: once(),
        vault: lab.access(),
        item: "web".to_owned(),
        point: second.point.id,
    };
    let validated = other.keeper.validate(&order, &Watch::silent());
    validated.expect("the other finds it");
    // It is another vault now.
    fs::rename(lab.path("vault"), lab.path("first")).expect("moved");
    let made = lab.keeper.make(&lab.make(&[])).expect("another");
    assert_eq!(lab.keeper.facts(&lab.access()).expect("facts").id, made.id);
    assert_ne!(made.id, rotated.id);
    fs::remove_dir_all(lab.path("vault")).expect("removed");
    assert_eq!(lab.keeper.facts(&lab.access()).expect_err("gone").code.as_str(), "vault.not_found");
}

#[test]
fn more_vaults_than_stay_open() {
    let lab = Lab::new();
    let vaults =
        std::sync::Arc::new(strongroom_agent::Vaults::new(Some(lab.path("cache"))).with_most(2));
    let keeper = strongroom_agent::LocalKeeper::new(vaults, "here", 1);
    let accesses: Vec<_> = (0..4)
        .map(|number| {
            let url = lab.text(&format!("v{number}"));
            keeper.make(&VaultMake { url: url.clone(), ..lab.make(&[]) }).expect("made");
            VaultAccess { url, key: lab.key("key") }
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, access) in accesses.iter().cycle().take(16).enumerate() {
            let keeper = &keeper;
            scope.spawn(move || {
                let name = format!("n{number}");
                keeper.save(access, &name, name.as_bytes()).expect("saved");
                assert_eq!(keeper.load(access, &name).expect("loaded"), name.as_bytes());
            });
        }
    });
    for access in &accesses {
        assert_eq!(keeper.saved(access).expect("listed").len(), 4);
    }
}

#[test]
fn saved_replaced_and_removed() {
    let lab = Lab::new();
    lab.vault();
    let access = lab.access();
    assert!(lab.keeper.saved(&access).expect("none").is_empty());
    assert_eq!(
        lab.keeper.load(&access, "catalog").expect_err("none").code.as_str(),
        "vault.nothing_kept"
    );
    lab.keeper.save(&access, "catalog", b"one").expect("saved");
    lab.keeper.save(&access, "catalog", b"two").expect("saved");
    let saved = lab.keeper.saved(&access).expect("listed");
    assert_eq!((saved.len(), saved[0].name.as_str()), (1, "catalog"));
    assert!(saved[0].size_bytes > 60);
    assert_eq!(lab.keeper.load(&access, "catalog").expect("loaded"), b"two");
    lab.keeper.unsave(&access, "catalog").expect("removed");
    lab.keeper.unsave(&access, "catalog").expect("gone already");
    assert!(lab.keeper.saved(&access).expect("none").is_empty());
}

#[test]
fn a_point_of_a_locked_vault_is_locked_and_missed_if_it_is_gone() {
    let lab = Lab::new();
    lab.vault();
    let disk = lab.disk("a.img", 4, 1);
    let later = |hours| now().checked_add(SignedDuration::from_hours(hours)).expect("a time");
    let (day, week) = (later(24), later(24 * 7));
    let order = BackupOrder { locked_until: Some(day), ..lab.order(&[("a", &disk)]) };
    let point = lab.agent.backup(&order, &Watch::silent()).expect("a point").point;
    assert_eq!(point.locked_until, Some(day), "its manifest says so");
    let access = lab.access();
    let extended = lab.keeper.lock_points(&access, "web", &[(point.id, week)]).expect("locks");
    assert!(extended[0].1 >= week);
    let locked = lab.keeper.delete_points(&access, "web", &[point.id], now()).expect("stays");
    assert_eq!(locked, extended);
    let expected = [("web".to_owned(), point.id)];
    assert_eq!(lab.keeper.absent(&access, None, &expected).expect("looks"), []);
    let over = later(24 * 8);
    let locked = lab.keeper.delete_points(&access, "web", &[point.id], over).expect("deleted");
    assert_eq!(locked, []);
    let absent = lab.keeper.absent(&access, Some("web"), &expected).expect("looks");
    assert_eq!(absent[0].how, Absence::Hidden);
}

/// Which packs were read is remembered in the cache folder. Without it a part reads what the one before it
/// has read, and the last part of a round reads all the same.
#[test]
fn a_round_of_parts_ends_also_without_a_cache() {
    for cached in [true, false] {
        let mut lab = Lab::new();
        lab.vault();
        for seed in 0..12 {
            let disk = lab.disk("a.img", 20, 1 + seed);
            lab.agent.backup(&lab.order(&[("a", &disk)]), &Watch::silent()).expect("a point");
        }
        if !cached {
            lab.without_cache();
        }
        let verify = |lab: &Lab, depth| {
            let order = VerifyOrder { order: once(), vault: lab.access(), depth };
            lab.keeper.verify(&order, &Watch::silent()).expect("verifies")
        };
        let mut read = 0;
        for of in [4, 3, 2] {
            let facts = verify(&lab, VerifyDepth::Part { of });
            assert!(!facts.is_whole && facts.damaged.is_empty(), "{facts:?}");
            assert!(facts.verified_packs < facts.packs, "{facts:?}");
            read += facts.verified_packs;
            // Between two parts the service is started anew, and looks at the structure.
            if cached {
                lab.restart();
            } else {
                lab.without_cache();
            }
            assert!(!verify(&lab, VerifyDepth::Structure).is_whole);
        }
        let last = verify(&lab, VerifyDepth::Part { of: 1 });
        assert!(last.is_whole && last.packs >= 24, "{last:?}");
        let expected = if cached { last.packs - read } else { last.packs };
        assert_eq!(last.verified_packs, expected, "{last:?}");
        // The next round begins with the first pack.
        assert!(!verify(&lab, VerifyDepth::Part { of: 4 }).is_whole);
        assert!(verify(&lab, VerifyDepth::All).is_whole);
    }
}
