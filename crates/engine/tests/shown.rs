//! A recovery point, read by QEMU over NBD straight from the vault.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and a server has its threads"
)]

mod common;

use std::{fs, sync::Arc};

use strongroom_base::{PointId, SystemClock, SystemEntropy};
use strongroom_export::{Endpoint, Export, PointDisk, Shown, serve_disks};
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
