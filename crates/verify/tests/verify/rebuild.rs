//! Rebuilding the index.

use std::sync::Arc;

use strongroom_base::{BLOCK_SIZE, Cancel, Digest, SystemEntropy};
use strongroom_format::{Conditional, pack::RecordKind};
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_objects::{Folder, Key, ObjectStore};
use strongroom_vault::{RebuildReport, Vault, VaultOptions, Writer};
use strongroom_verify::{VerifyOptions, verify};

use crate::common::{Place, dump, flip, get, keys, memory, noise};

fn rebuild(vault: &Vault) -> RebuildReport {
    let report = vault.rebuild_index(&|_, _| {}, &Cancel::new()).expect("rebuilds");
    assert_eq!(report.index_objects_kept, 0);
    report
}

fn reads(vault: &Vault, seed: u64) -> bool {
    let mut plain = vec![0; BLOCK_SIZE];
    let digest = vault.hasher().block(&noise(seed));
    vault.reader().block(&digest, &mut plain).is_ok() && plain == noise(seed)
}

#[test]
fn lost_and_damaged_index_objects_come_back() {
    let place = Place::new(memory());
    let indexes = keys(&*place.store, "index/");
    assert_eq!(indexes.len(), 3);
    place.store.delete(&indexes[0]).expect("deletes");
    for at in [20, 100] {
        // The key's id, then what is sealed.
        flip(&*place.store, &indexes[1], at);
        let vault = place.open(true);
        let report = verify(&vault, &<_>::default(), &|_| {}, &Cancel::new()).expect("verifies");
        assert!(report.unindexed_packs > 0 && report.damaged_objects == 1, "{report:?}");
        assert_eq!(report.damaged_recovery_points, 0, "the packs are all there");
    }
    let vault = place.open(true);
    let packs = keys(&*place.store, "packs/").len();
    let report = rebuild(&vault);
    assert_eq!(report.packs, u64::try_from(packs).expect("few"));
    assert_eq!((report.index_objects_written, report.index_objects_removed), (1, 2));
    assert_eq!(report.unreadable_packs, 0);
    for vault in [vault, place.open(true), place.open(false)] {
        assert!((0..24).all(|seed| reads(&vault, seed)));
        assert!(verify(&vault, &<_>::default(), &|_| {}, &Cancel::new()).expect("verifies").clean);
    }
}

/// What is damaged in all copies, or lost, is in the packs themselves.
#[test]
fn nothing_depends_on_an_index_object() {
    let place = Place::new(memory());
    let whole = dump(&*place.store);
    for key in keys(&*place.store, "index/") {
        for damage in ["flipped", "empty", "lost"] {
            let what = format!("{key}: {damage}");
            match damage {
                "flipped" => flip(&*place.store, &key, 100),
                "empty" => place.store.replace(&key, b"").expect("cut"),
                _ => place.store.delete(&key).expect("lost"),
            }
            let hurt = dump(&*place.store);
            let vault = place.open(true);
            assert!((0..24).all(|seed| reads(&vault, seed)), "{what}");
            assert!(dump(&*place.store) == hurt, "{what}: nothing is written to read it");
            let repair = VerifyOptions { repair: true, ..VerifyOptions::default() };
            let report =
                verify(&place.open(true), &repair, &|_| {}, &Cancel::new()).expect("verifies");
            assert!(report.clean && report.unindexed_packs == 0, "{what}: {report:?}");
            let vault = place.open(true);
            let report =
                verify(&vault, &<_>::default(), &|_| {}, &Cancel::new()).expect("verifies");
            assert!(report.clean && report.damaged.is_empty(), "{what}: {report:?}");
            for key in keys(&*place.store, "") {
                place.store.delete(&key).expect("cleared");
            }
            for (key, body) in &whole {
                place.store.put_new(key, body).expect("as before");
            }
        }
    }
}

/// The description is there twice.
#[test]
fn a_vault_is_not_lost_with_its_description() {
    let mut place = Place::new(memory());
    let first = Key::new("strongroom.json").expect("a name");
    let copies = keys(&*place.store, "keys/");
    let copy = copies.iter().find(|key| key.file_name() == "strongroom.json").expect("a copy");
    let good = get(&*place.store, &first);
    assert_eq!(get(&*place.store, copy), good);
    for hurt in [&first, copy] {
        for damage in ["flipped", "empty", "lost"] {
            let what = format!("{hurt}: {damage}");
            match damage {
                "flipped" => flip(&*place.store, hurt, 5),
                "empty" => place.store.replace(hurt, b"").expect("cut"),
                _ => place.store.delete(hurt).expect("lost"),
            }
            assert!(reads(&place.open(true), 0), "{what}");
            let report = place.full();
            // An earlier program has made no copy: that is no damage.
            assert_eq!(report.clean, hurt == copy && damage == "lost", "{what}: {report:?}");
            assert!(place.repair().clean, "{what}");
            assert!(place.full().clean, "{what}");
            assert_eq!(get(&*place.store, hurt), good, "{what}");
        }
    }
    // The next backup makes the copy.
    place.store.delete(copy).expect("as an earlier program left it");
    place.vault = place.open(false);
    place.backup("web01", &crate::common::Content::from([(1, noise(77))]));
    assert_eq!(get(&*place.store, copy), good);
}

#[test]
fn a_pack_with_a_rotten_trailer_stays_readable() {
    let place = Place::new(memory());
    let digest = place.vault.hasher().block(&noise(0));
    let home = place.vault.index().find(&digest).expect("reads")[0].pack.to_string();
    let pack = keys(&*place.store, "packs/");
    let pack = pack.iter().find(|key| key.file_name() == home).expect("listed");
    let len = get(&*place.store, pack).len();
    flip(&*place.store, pack, len - 60);
    let report = rebuild(&place.vault);
    assert_eq!(report.unreadable_packs, 1);
    assert_eq!(report.unreadable[0].object, pack.as_str());
    assert!(report.unreadable[0].indexed);
    assert!(reads(&place.open(true), 0), "its records are good");
    // Twice is as good as once.
    assert!(rebuild(&place.open(true)).unreadable[0].indexed);
    assert!(reads(&place.open(true), 0));
    // If nobody knows what was in it, the rest is indexed all the same.
    keys(&*place.store, "index/").iter().for_each(|key| place.store.delete(key).expect("deletes"));
    let report = rebuild(&place.open(true));
    assert!(!report.unreadable[0].indexed && report.packs > 0);
}

#[test]
fn stopping_it_loses_nothing() {
    let place = Place::new(memory());
    let before = dump(&*place.store);
    let cancel = Cancel::new();
    let stopped = place.vault.rebuild_index(&|_, _| cancel.cancel(), &cancel);
    assert!(stopped.is_err());
    let after = dump(&*place.store);
    assert!(before.iter().all(|(key, bytes)| after.get(key) == Some(bytes)));
    assert!(reads(&place.vault, 0) && reads(&place.open(true), 0));
}

#[test]
fn an_empty_vault_has_an_empty_index() {
    let place = Place::new(memory());
    for key in keys(&*place.store, "packs/") {
        place.store.delete(&key).expect("deletes");
    }
    let report = rebuild(&place.vault);
    assert_eq!((report.packs, report.index_objects_written), (0, 0));
    assert!(place.vault.index().is_empty());
}

/// A vault as of a few terabytes, as far as its index is concerned: the figures of
/// `STRONGROOM_RECORDS` records (a million if it is not set) are printed.
#[test]
fn a_large_index_is_rebuilt_from_trailers() {
    if std::env::var_os("STRONGROOM_LONG").is_none() {
        println!("skipped: it takes long; set STRONGROOM_LONG=1");
        return;
    }
    let records = std::env::var("STRONGROOM_RECORDS").ok().and_then(|n| n.parse().ok());
    let records: u64 = records.unwrap_or(1_000_000);
    let dir = tempfile::tempdir().expect("temp");
    generate_key_file(&dir.path().join("key"), &SystemEntropy).expect("key");
    let store = Folder::create(&dir.path().join("vault"), Arc::new(SystemEntropy)).expect("folder");
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    // About a thousand records a pack, each of a byte.
    let options = VaultOptions {
        pack_size: 61_000,
        uploaders: 2,
        cache_dir: Some(dir.path().join("cache")),
        ..VaultOptions::default()
    };
    let key = KeySource::File(dir.path().join("key"));
    let honoured = Conditional::Honoured;
    let vault = Vault::create(store, &key, "test", honoured, vec![], options.clone());
    let vault = Arc::new(vault.expect("vault"));
    let mut writer = Writer::begin(&vault, "web01", "here").expect("begins");
    let mut digests = blake3::Hasher::new().finalize_xof();
    let mut digest = [0; 32];
    for _ in 0..records {
        digests.fill(&mut digest);
        let digest = Digest::new(digest);
        writer.store_block(RecordKind::BlockStored, digest, 1, None, b"x").expect("stores");
    }
    writer.finish_packs().expect("finishes");
    drop(writer);
    let wanted = vault.index().len();
    keys(&**vault.store(), "index/").iter().for_each(|k| vault.store().delete(k).expect("deletes"));
    let store = Arc::clone(vault.store());
    drop(vault);
    std::fs::remove_dir_all(dir.path().join("cache")).expect("removes");
    let vault = Vault::open(Arc::clone(&store), &key, options.clone()).expect("opens");
    assert_eq!(vault.index().len(), 0);
    // Only from here on does memory count.
    std::fs::write("/proc/self/clear_refs", "5").expect("resets the peak");
    let before = used("VmRSS");
    let report = rebuild(&vault);
    println!("{report:?}; {before} before, {} at most", used("VmHWM"));
    assert_eq!((report.records, vault.index().len()), (wanted, wanted));
    // What it wrote is what others read.
    let other = VaultOptions { cache_dir: None, ..options };
    assert_eq!(Vault::open(store, &key, other).expect("opens").index().len(), wanted);
}

fn used(what: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("it");
    line.trim_start_matches(':').trim().to_owned()
}
