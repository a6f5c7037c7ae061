//! Vaults over two folders, one of which is lost, rotten or cannot be written.

use std::{fs, path::Path, sync::Arc, time::Duration};

use strongroom_base::{Cancel, SystemClock, SystemEntropy};
use strongroom_objects::{Faults, Faulty, Folder, Heal, Key, Mirror, ObjectStore};
use strongroom_vault::{ReclaimOptions, Vault, reclaim};

use crate::{
    common::{Place, noise},
    tools::{Disk, back_up, bytes_below, files, restored},
};

/// The vault's folder and another one that mirrors it, empty at first.
fn mirrored(place: &Place) -> (Vec<Arc<Faulty<Folder>>>, Arc<Vault>) {
    let entropy = || Arc::new(SystemEntropy);
    let second = Folder::create(&place.path("mirror"), entropy()).expect("folder");
    let copies: Vec<_> = [place.folder(), second]
        .into_iter()
        .map(|folder| Arc::new(Faulty::new(folder, SystemClock, Faults::default())))
        .collect();
    let stores = copies.iter().map(|copy| Arc::clone(copy) as Arc<dyn ObjectStore>).collect();
    (copies, place.open_in(Arc::new(Mirror::new(stores, vec![]))))
}

/// The mirror as another process would open it, with a new cache.
fn fresh(place: &Place) -> Arc<Vault> {
    fs::remove_dir_all(place.path("cache")).ok();
    mirrored(place).1
}

fn spoil(folder: &Path) {
    for path in files(&folder.join("packs")) {
        let mut bytes = fs::read(&path).expect("read");
        (100..bytes.len()).step_by(1000).for_each(|at| bytes[at] ^= 2);
        fs::write(&path, bytes).expect("write");
    }
}

/// Every pack is good in both folders.
fn check_same(place: &Place) {
    let relative = |folder: &Path| -> Vec<(String, Vec<u8>)> {
        let all = files(&folder.join("packs")).into_iter();
        all.map(|path| {
            let name = path.strip_prefix(folder).expect("below").display().to_string();
            (name, fs::read(path).expect("read"))
        })
        .collect()
    };
    assert!(relative(place.vault_path()) == relative(&place.path("mirror")));
}

fn heal_all(vault: &Vault) -> usize {
    let mut keys = vec![];
    let visit = &mut |entry: strongroom_objects::Entry| {
        keys.push(entry.key);
        std::ops::ControlFlow::Continue(())
    };
    vault.store().list("packs/", visit).expect("a list");
    let name = |key: &Key| key.file_name().to_owned();
    let good =
        |key: &Key, bytes: &[u8]| strongroom_format::pack::pack_id(bytes).to_string() == name(key);
    let heal = |key: &Key| vault.store().heal(key, &|bytes| good(key, bytes)).expect("heals");
    keys.iter().filter(|key| heal(key) == Heal::Repaired).count()
}

#[test]
fn a_rotten_or_lost_copy_is_served_from_the_other_and_rebuilt() {
    let place = Place::new();
    let (_, vault) = mirrored(&place);
    let mut disk = Disk::with_noise(1, 60);
    let old = disk.copy();
    let first = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
    (0..60).for_each(|block| disk.block_mut(block)[9..12].fill(1));
    let second = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
    check_same(&place);
    for folder in [place.vault_path().to_owned(), place.path("mirror")] {
        spoil(&folder);
        let vault = fresh(&place);
        restored(&vault, second, &disk).expect("from the other copy");
        restored(&vault, first, &old).expect("from the other copy");
        // What the restore met is repaired; the rest by asking for it.
        heal_all(&vault);
        check_same(&place);

        fs::remove_dir_all(folder.join("packs")).expect("remove");
        let vault = fresh(&place);
        restored(&vault, second, &disk).expect("from the other copy");
        heal_all(&vault);
        check_same(&place);
    }
    // All copies of one pack gone: said, not made up.
    for folder in [place.vault_path().to_owned(), place.path("mirror")] {
        spoil(&folder);
    }
    restored(&fresh(&place), second, &disk).expect_err("both are rotten");
}

#[test]
fn a_copy_that_fails_in_the_middle_is_brought_up_to_date_later() {
    for broken in [0, 1] {
        let place = Place::new();
        let (copies, vault) = mirrored(&place);
        let mut disk = Disk::with_noise(1, 60);
        let old = disk.copy();
        let first = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
        (0..60).step_by(2).for_each(|block| disk.set_block(block, noise(block + 900, 65536)));
        // Full in the middle of the second backup.
        copies[broken].set(Faults { capacity: Some(500_000), ..Faults::default() });
        let second = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
        assert_eq!(vault.store().degraded().len(), 1);
        restored(&vault, second, &disk).expect("from the good copy");
        // Nothing is reclaimed while a copy is away: it would come back from there.
        vault.delete_point("web01", first, "here").expect("delete");
        let before = bytes_below(&place.path("vault/packs"));
        let options = ReclaimOptions { wait: Duration::ZERO, ..ReclaimOptions::default() };
        let refused = reclaim(&vault, &options, &Cancel::new());
        assert!(refused.is_err() || refused.is_ok_and(|r| r.packs_removed == 0));
        assert_eq!(bytes_below(&place.path("vault/packs")), before);

        // It has room again: the next process brings it up to date.
        let vault = fresh(&place);
        assert!(heal_all(&vault) > 0);
        check_same(&place);
        restored(&vault, second, &disk).expect("whole");
        // The note of the backup could not be removed then; in time it counts as gone.
        let report = reclaim(&vault, &options, &Cancel::new()).expect("reclaim");
        assert!(report.waiting_for.len() <= 1, "{report:?}");
        restored(&fresh(&place), second, &disk).expect("whole");
        check_same(&place);
        let third = back_up(&fresh(&place), &Arc::new(old.copy())).expect("backup");
        restored(&fresh(&place), third.recovery_point, &old).expect("whole");
    }
}

#[test]
fn a_mirror_whose_copies_all_fail_says_so() {
    let place = Place::new();
    let (copies, vault) = mirrored(&place);
    copies.iter().for_each(|copy| copy.set(Faults { read_only: true, ..Faults::default() }));
    let error = back_up(&vault, &Arc::new(Disk::with_noise(1, 8))).expect_err("read-only");
    assert_eq!(crate::tools::code(&error), "store.read_only");
}
