//! Blocks that share a record, vaults of the first format, and what is compressed once more.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails says so by panicking"
)]

mod common;

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{Place, noise};
use strongroom_base::{BLOCK_SIZE, Cancel, PointId};
use strongroom_vault::{
    ReclaimOptions, ReclaimReport, Vault, VaultError, reclaim, reclaim_watched,
};

const RECOMPRESS: ReclaimKind = ReclaimKind { recompress: Some(u64::MAX), dry_run: false };

#[derive(Clone, Copy)]
struct ReclaimKind {
    recompress: Option<u64>,
    dry_run: bool,
}

fn options(kind: ReclaimKind) -> ReclaimOptions {
    let ReclaimKind { recompress, dry_run } = kind;
    ReclaimOptions { recompress, dry_run, host: "here".to_owned(), ..ReclaimOptions::default() }
}

fn run(vault: &Arc<Vault>, kind: ReclaimKind) -> ReclaimReport {
    reclaim(vault, &options(kind), &Cancel::new()).expect("reclaim")
}

/// A disk of text whose lines come again after more than a block, some noise, and holes.
fn make_disk(path: &Path, blocks: u64) {
    let file = fs::File::create(path).expect("create");
    file.set_len(blocks << 16).expect("size");
    for block in 0..blocks {
        let data = match block % 40 {
            0..=5 => noise(block, BLOCK_SIZE),
            6..=8 => continue,
            _ => text(block),
        };
        file.write_all_at(&data, block << 16).expect("write");
    }
}

fn text(block: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let mut line = 0_u64;
    while text.len() < BLOCK_SIZE {
        let words = noise(line * 7 % 900, 24);
        text.extend_from_slice(format!("{block} {line}: {words:?}\n").as_bytes());
        line += 1;
    }
    text.truncate(BLOCK_SIZE);
    text
}

fn write(place: &Place, at: u64, data: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(place.path("vda.raw")).expect("open");
    file.write_all_at(data, at).expect("write");
}

/// Backs the disk up; the point, and what it must restore.
fn backup(place: &Place, vault: &Arc<Vault>) -> (PointId, Vec<u8>) {
    let report = place.backup(vault, &[("vda", None)]);
    (report.recovery_point, fs::read(place.path("vda.raw")).expect("read"))
}

/// With the vault's own index, and with none.
fn assert_restores(place: &Place, vault: &Arc<Vault>, points: &[(PointId, Vec<u8>)]) {
    let options = strongroom_vault::VaultOptions { cache_dir: None, ..place.options() };
    let fresh = Vault::open(Arc::new(place.folder()), &place.key(), options).expect("opens");
    for vault in [Arc::clone(vault), Arc::new(fresh)] {
        for (point, wanted) in points {
            let to = place.path(&format!("{point}.raw"));
            Place::restore(&vault, *point, "vda", &to, false);
            assert!(fs::read(&to).expect("read") == *wanted, "{point}");
            fs::remove_file(&to).expect("remove");
            let check = strongroom_vault::ValidateOptions { sample: 1000 };
            vault.validate("web01", *point, check, &|_| {}, &Cancel::new()).expect("valid");
        }
    }
}

/// Points, and what they must restore.
type Points = Vec<(PointId, Vec<u8>)>;

/// A vault with three points: text, small changes that become deltas, and new text.
fn place_with_points() -> (Place, Arc<Vault>, Points) {
    let place = Place::new();
    make_disk(&place.path("vda.raw"), 200);
    let vault = place.open();
    let mut points = vec![backup(&place, &vault)];
    for step in 0..2_u64 {
        for block in (0..200).step_by(11) {
            write(&place, (block << 16) + 500 * step, &noise(step, 40));
        }
        write(&place, (150 + step * 8) << 16, &text(1000 + step));
        points.push(backup(&place, &vault));
    }
    (place, vault, points)
}

#[test]
fn what_is_compressed_once_more_is_smaller_and_is_not_done_twice() {
    let (place, vault, points) = place_with_points();
    assert_restores(&place, &vault, &points);
    let planned = run(&vault, ReclaimKind { dry_run: true, ..RECOMPRESS });
    let report = run(&vault, RECOMPRESS);
    assert!(report.recompressed_packs > 1, "{report:?}");
    let figures = |r: &ReclaimReport| (r.recompressed_packs, r.recompressed_bytes);
    assert_eq!(figures(&planned), figures(&report));
    assert!(report.recompressed_to_bytes < report.recompressed_bytes, "{report:?}");
    assert_eq!(report.recompression_left_bytes, 0);
    assert_restores(&place, &vault, &points);
    let after = run(&vault, RECOMPRESS);
    assert_eq!((after.recompressed_packs, after.packs_removed), (0, 0), "{after:?}");
    // What it replaced is gone.
    assert_eq!(after.pack_bytes, after.live_bytes);
    assert!(after.pack_bytes < planned.pack_bytes, "{after:?}");
    // Deltas are made against what was compressed once more, and go with what needs them.
    write(&place, 300, &noise(77, 50));
    let next = backup(&place, &vault);
    assert_restores(&place, &vault, std::slice::from_ref(&next));
    for (point, _) in &points {
        vault.delete_point("web01", *point, "here").expect("delete");
    }
    run(&vault, RECOMPRESS);
    assert_restores(&place, &vault, std::slice::from_ref(&next));
    vault.delete_point("web01", next.0, "here").expect("delete");
    let last = run(&vault, ReclaimKind { recompress: None, dry_run: false });
    assert_eq!(last.pack_bytes, last.freed_bytes);
}

#[test]
fn a_recompression_of_so_many_bytes_leaves_the_rest() {
    let (place, vault, points) = place_with_points();
    let all = run(&vault, ReclaimKind { dry_run: true, ..RECOMPRESS });
    let half = ReclaimKind { recompress: Some(all.recompressed_bytes / 2), dry_run: false };
    let report = run(&vault, half);
    let sum = report.recompressed_bytes + report.recompression_left_bytes;
    assert_eq!(sum, all.recompressed_bytes);
    assert!(report.recompression_left_bytes > 0 && report.recompressed_packs > 0, "{report:?}");
    assert_restores(&place, &vault, &points);
    let rest = run(&vault, RECOMPRESS);
    assert!(rest.recompressed_bytes > 0 && rest.recompression_left_bytes == 0, "{rest:?}");
    assert_eq!(run(&vault, RECOMPRESS).recompressed_packs, 0);
    assert_restores(&place, &vault, &points);
}

#[test]
fn a_recompression_that_is_stopped_resumes() {
    let (place, vault, points) = place_with_points();
    let cancel = Cancel::new();
    let stops = |now: strongroom_vault::ReclaimProgress| {
        if now.stage == strongroom_base::Stage::Recompressing && now.done == 2 {
            cancel.cancel();
        }
    };
    let stopped = ReclaimOptions { threads: 1, ..options(RECOMPRESS) };
    let error = reclaim_watched(&vault, &stopped, &stops, &cancel).expect_err("stopped");
    assert!(matches!(error, VaultError::Interrupted), "{error}");
    assert_restores(&place, &vault, &points);
    let rest = run(&vault, RECOMPRESS);
    assert!(rest.recompressed_packs > 0, "{rest:?}");
    let after = run(&vault, RECOMPRESS);
    assert_eq!((after.recompressed_packs, after.packs_removed), (0, 0), "{after:?}");
    assert_eq!(after.pack_bytes, after.live_bytes);
    assert_restores(&place, &vault, &points);
}

#[test]
fn of_a_unit_some_blocks_go_and_the_others_stay() {
    let (place, vault, _) = place_with_points();
    // Of every unit most is new; with the old points gone, its pack holds little that is needed.
    for block in (0..200_u64).filter(|block| block % 4 != 1) {
        write(&place, block << 16, &noise(block + 5000, BLOCK_SIZE));
    }
    let last = backup(&place, &vault);
    for point in vault.points(Some("web01")).expect("lists") {
        if point.id != last.0 {
            vault.delete_point("web01", point.id, "here").expect("delete");
        }
    }
    let report = run(&vault, ReclaimKind { recompress: None, dry_run: false });
    assert!(report.packs_compacted > 0 && report.freed_bytes > 0, "{report:?}");
    assert_restores(&place, &vault, std::slice::from_ref(&last));
    let report = run(&vault, RECOMPRESS);
    assert!(report.recompressed_packs > 0, "{report:?}");
    assert_restores(&place, &vault, std::slice::from_ref(&last));
}

/// A vault that version 0.1.0 wrote, with two points of a disk of 40 blocks.
fn golden_vault() -> (tempfile::TempDir, PathBuf) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let dir = strongroom_testing::folder_in_memory();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([golden.join("vault-v1"), golden.join("vault-v1.key"), dir.path().to_owned()])
        .status();
    assert!(copied.expect("cp runs").success());
    let key = dir.path().join("vault-v1.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");
    (dir, key)
}

#[test]
fn a_vault_of_the_first_format_is_read_and_written_as_it_was_until_it_is_recompressed() {
    let (dir, key) = golden_vault();
    let open = || {
        let folder = dir.path().join("vault-v1");
        let store =
            strongroom_objects::Folder::open(&folder, Arc::new(strongroom_base::SystemEntropy));
        let key = strongroom_keys::KeySource::File(key.clone());
        let options = strongroom_vault::VaultOptions::default();
        Arc::new(Vault::open(Arc::new(store.expect("folder")), &key, options).expect("opens"))
    };
    let restored = |vault: &Arc<Vault>| -> Vec<blake3::Hash> {
        let points = vault.points(Some("web")).expect("lists");
        let read = points.iter().map(|point| {
            let record = &point.disks[0];
            let image = strongroom_image::Image::new(record.size_bytes, record.root).expect("size");
            let mut cursor = strongroom_image::Cursor::new(image, &**vault);
            let (mut reader, mut plain) = (vault.reader(), vec![0; BLOCK_SIZE]);
            let mut hasher = blake3::Hasher::new();
            for block in 0..image.blocks() {
                reader.block(&cursor.block(block).expect("node"), &mut plain).expect("block");
                hasher.update(&plain);
            }
            hasher.finalize()
        });
        read.collect()
    };
    let vault = open();
    let before = restored(&vault);
    let wanted = [
        "6132ca2b742ca189da8dcd972b8507122fcac448cbf3cd4516f90665dd16d84d",
        "b91e554875fccdf3ba648d58585242dcdb364240053c66253866399a73ae151d",
    ];
    assert_eq!(before.iter().map(|hash| hash.to_hex().to_string()).collect::<Vec<_>>(), wanted);
    let versions = || -> Vec<u8> {
        let packs = files_below(&dir.path().join("vault-v1/packs/data"));
        let mut versions: Vec<u8> =
            packs.iter().map(|pack| fs::read(pack).expect("a pack")[8]).collect();
        versions.sort_unstable();
        versions
    };
    let place = Place::new();
    make_disk(&place.path("vda.raw"), 40);
    let add = |vault: &Arc<Vault>| {
        let disks = vec![place.disk("vda", None)];
        let request = common::request("other", disks);
        let done = strongroom_engine::backup(
            vault,
            &request,
            &strongroom_engine::Progress::new(),
            &Cancel::new(),
        );
        done.expect("backs up");
    };
    add(&vault);
    assert_eq!(vault.config().format, 1);
    assert_eq!(versions(), [1, 1, 1], "programs that know only these read the vault");
    let report = run(&vault, RECOMPRESS);
    assert!(report.recompressed_packs > 0, "{report:?}");
    assert_eq!(restored(&vault), before);
    let vault = open();
    assert_eq!(vault.config().format, 2);
    assert_eq!(restored(&vault), before);
    assert!(versions().contains(&2));
    let description = fs::read(dir.path().join("vault-v1/strongroom.json")).expect("reads");
    let copies = files_below(&dir.path().join("vault-v1/keys"));
    let copy = copies.iter().find(|path| path.ends_with("strongroom.json")).expect("a copy");
    assert_eq!(fs::read(copy).expect("reads"), description);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("entry").path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
