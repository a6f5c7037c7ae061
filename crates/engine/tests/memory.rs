//! How much memory a backup and a restore take, by the kernel's own account. In a file of its own: the
//! peak is that of the process.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{fs, os::unix::fs::FileExt as _, sync::Arc};

use strongroom_objects::Folder;
use strongroom_vault::{Vault, VaultOptions};

use common::{Place, noise};

/// MiB that neither may take more than.
const MOST: u64 = 128;

/// Blocks of the disk, all different: 1 GiB, of which zstd makes half.
const BLOCKS: u64 = 16 * 1024;

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024
}

#[test]
fn a_backup_and_a_restore_stay_within_their_memory() {
    let place = Place::new();
    let path = place.path("a.raw");
    let disk = fs::File::create(&path).expect("a disk");
    let mut block = vec![b'x'; 65536];
    for number in 0..BLOCKS {
        block[..32768].copy_from_slice(&noise(number, 32768));
        disk.write_all_at(&block, number * 65536).expect("written");
    }
    // Packs as large as they are outside of tests.
    let options = VaultOptions { pack_size: 32 << 20, ..place.options() };
    let store = Folder::open(place.vault_path(), Arc::new(strongroom_base::SystemEntropy));
    let store = Arc::new(store.expect("a folder"));
    let vault = Arc::new(Vault::open(store, &place.key(), options).expect("opens"));
    let before = peak_mib();
    let report = place.backup(&vault, &[("a", None)]);
    assert!(report.stored_bytes > 400 << 20, "{} bytes", report.stored_bytes);
    let backup = peak_mib();
    assert!(backup <= MOST, "a backup takes {backup} MiB, {before} before");
    Place::restore(&vault, report.recovery_point, "a", &place.path("out.raw"), false);
    let restore = peak_mib();
    assert!(restore <= MOST, "a restore takes {restore} MiB, a backup {backup}");
}
