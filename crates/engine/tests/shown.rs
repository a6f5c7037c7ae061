//! A recovery point, read by QEMU over NBD straight from the vault.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and a server has its threads"
)]

mod common;

use std::{fs, sync::Arc, time::Duration};

use strongroom_base::{Cancel, PointId, SplitMix64, SystemClock, SystemEntropy, start_thread};
use strongroom_disk::DiskSource as _;
use strongroom_export::{
    BlockCache, Endpoint, Export, PointDisk, Shown, Trace, TraceRecorder, serve_disks,
};
use strongroom_testing::run;
use strongroom_vault::Vault;

use common::{Place, make_disk};

fn exports(vault: &Arc<Vault>, point: PointId) -> Vec<Export> {
    let record = vault.point("web01", point).expect("a point");
    let disk = |disk: &strongroom_format::DiskRecord| {
        let shown = Shown::new(Arc::new(PointDisk::new(vault, disk).expect("an image")));
        Export { name: disk.name.clone(), disk: Arc::new(shown) }
    };
    record.disks.iter().map(disk).collect()
}

#[test]
fn qemu_reads_a_point_over_nbd() {
    let place = Place::new();
    let disk = place.path("a.raw");
    make_disk(&disk, 40 << 20);
    let vault = place.open();
    let first = place.backup(&vault, &[("a", None)]).recovery_point;
    let then = place.path("then.raw");
    fs::copy(&disk, &then).expect("a copy");
    make_disk(&disk, 48 << 20);
    let second = place.backup(&vault, &[("a", None)]).recovery_point;
    for (point, image) in [(first, &then), (second, &disk)] {
        let socket = place.path(&format!("{}.socket", image.file_stem().expect("one").display()));
        let at = Endpoint::Socket { path: socket.clone(), owner: None };
        let clock = Arc::new(SystemClock);
        let serving = serve_disks(exports(&vault, point), at, clock, &SystemEntropy);
        let serving = serving.expect("is served");
        let [(_, url)] = &serving.urls()[..] else { panic!("one disk") };
        let url = url.to_string();
        let image = image.display().to_string();
        run("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &url]);
        // Holes of the point are holes to clients, so that a copy does not fetch them.
        let map = run("libnbd-bin", "nbdinfo", &["--map", "--totals", &url]);
        assert!(map.contains("hole,zero"), "{map}");
        let copy = place.path("copy.raw");
        run("libnbd-bin", "nbdcopy", &[&url, copy.to_str().expect("text")]);
        assert!(fs::read(&copy).expect("a copy") == fs::read(&image).expect("a disk"));
        serving.stop().expect("nothing was written");
        assert!(!socket.exists());
    }
}

/// A disk of the newest point, with a cache.
fn cached(vault: &Arc<Vault>, point: PointId, cache: &Arc<BlockCache>) -> Arc<PointDisk> {
    let record = vault.point("web01", point).expect("a point");
    Arc::new(PointDisk::cached(vault, &record.disks[0], cache).expect("an image"))
}

#[test]
fn many_readers_get_what_was_backed_up_and_each_block_is_loaded_once() {
    let place = Place::new();
    let path = place.path("a.raw");
    make_disk(&path, 40 << 20);
    let vault = place.open();
    let point = place.backup(&vault, &[("a", None)]).recovery_point;
    let expected = Arc::new(fs::read(&path).expect("a disk"));
    let cache = BlockCache::new(128 << 20);
    let disk = cached(&vault, point, &cache);
    let readers: Vec<_> = (0..8_u64)
        .map(|reader| {
            let (disk, expected) = (Arc::clone(&disk), Arc::clone(&expected));
            start_thread("reads", move || {
                let mut random = SplitMix64::new(reader);
                let mut in_order = 0;
                for _ in 0..400 {
                    let size = disk.size();
                    let len = 1 + random.below(300_000);
                    let offset = if reader % 2 == 0 { in_order } else { random.below(size) };
                    let len = len.min(size - offset);
                    in_order = (offset + len) % size;
                    let mut bytes = vec![1; usize::try_from(len).expect("small")];
                    disk.read_at(offset, &mut bytes).expect("is read");
                    let start = usize::try_from(offset).expect("small");
                    assert!(bytes == expected[start..start + bytes.len()], "{offset}, {len}");
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().expect("ends well"));
    let blocks: std::collections::HashSet<_> =
        expected.chunks(65536).filter(|block| block.iter().any(|byte| *byte != 0)).collect();
    let figures = cache.figures();
    let loads = usize::try_from(figures.loads).expect("small");
    assert!(loads <= blocks.len(), "{figures:?} of {} blocks", blocks.len());
}

#[test]
fn a_small_cache_is_right_too_and_stays_small() {
    let place = Place::new();
    let path = place.path("a.raw");
    make_disk(&path, 40 << 20);
    let vault = place.open();
    let point = place.backup(&vault, &[("a", None)]).recovery_point;
    let cache = BlockCache::new(0);
    let disk = cached(&vault, point, &cache);
    let mut bytes = vec![1; 40 << 20];
    for _ in 0..2 {
        bytes.fill(1);
        disk.read_at(0, &mut bytes).expect("is read");
        assert!(bytes == fs::read(&path).expect("a disk"));
    }
    assert!(cache.figures().bytes <= 64 * 65536, "{:?}", cache.figures());
}

#[test]
fn what_a_store_does_not_give_is_an_error_until_it_does() {
    let place = Place::new();
    let path = place.path("a.raw");
    make_disk(&path, 8 << 20);
    let point = place.backup(&place.open(), &[("a", None)]).recovery_point;
    let (packs, away) = (place.vault_path().join("packs"), place.path("away"));
    let vault = place.open();
    let disk = cached(&vault, point, &BlockCache::new(64 << 20));
    fs::rename(&packs, &away).expect("moved");
    let mut bytes = vec![0; 8 << 20];
    disk.read_at(0, &mut bytes).expect_err("there is nothing to read");
    fs::rename(&away, &packs).expect("moved back");
    disk.read_at(0, &mut bytes).expect("is read");
    assert!(bytes == fs::read(&path).expect("a disk"));
}

#[test]
fn a_trace_brings_blocks_into_memory_before_they_are_read() {
    let place = Place::new();
    let path = place.path("a.raw");
    make_disk(&path, 128 << 20);
    let vault = place.open();
    let point = place.backup(&vault, &[("a", None)]).recovery_point;
    let cache = BlockCache::new(64 << 20);
    let recorder = TraceRecorder::new(Arc::new(SystemClock), Duration::from_mins(5));
    let disk = recorder.watch("a", cached(&vault, point, &cache));
    let mut bytes = vec![0; 4096];
    // Where there is content, so far apart that nothing is read ahead.
    let places: Vec<u64> = (0..40).map(|n| (n * 17 % 40) * (3 << 20) + 512).collect();
    places.iter().for_each(|place| disk.read_at(*place, &mut bytes).expect("is read"));
    let trace = Trace::decode(&recorder.trace().encode().expect("bytes")).expect("a trace");
    assert_eq!(trace.blocks(), 40);
    assert_eq!(cache.figures().loads, 40);

    let cache = BlockCache::new(64 << 20);
    let disk = cached(&vault, point, &cache);
    trace.read_first(&[Arc::clone(&disk)], &cache, &Cancel::new());
    strongroom_testing::eventually("everything is loaded", || {
        (cache.figures().loads >= 40).then_some(())
    });
    places.iter().for_each(|place| disk.read_at(*place, &mut bytes).expect("is read"));
    assert_eq!(cache.figures().loads, 40, "nothing was left to load");
}
