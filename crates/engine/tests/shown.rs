//! A recovery point, read by QEMU over NBD straight from the vault.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and a server has its threads"
)]

mod common;

use std::{fs, io, os::unix::net::UnixListener, sync::Arc, thread};

use strongroom_base::PointId;
use strongroom_export::{PointDisk, Shown};
use strongroom_nbd::server::{Encryption, Exported, Exports, Handshake, Heard};
use strongroom_testing::run;
use strongroom_vault::Vault;

use common::{Place, make_disk};

/// The disks of a point, by name.
struct Point(Vec<(String, Arc<Shown>)>);

impl Point {
    fn new(vault: &Arc<Vault>, point: PointId) -> Self {
        let record = vault.point("web01", point).expect("a point");
        let disk = |disk: &strongroom_format::DiskRecord| {
            let shown = Shown::new(Arc::new(PointDisk::new(vault, disk).expect("an image")));
            (disk.name.clone(), Arc::new(shown))
        };
        Self(record.disks.iter().map(disk).collect())
    }
}

impl Exports for Point {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Exported>, String> {
        let found = self.0.iter().find(|(known, _)| known == name);
        let (_, disk) = found.ok_or_else(|| format!("there is no disk {name}"))?;
        Ok(Arc::<Shown>::clone(disk))
    }
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
        let point = Arc::new(Point::new(&vault, point));
        let socket = place.path(&format!("{}.socket", image.file_stem().expect("one").display()));
        let listener = UnixListener::bind(&socket).expect("a socket");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let point = Arc::clone(&point);
                thread::spawn(move || -> io::Result<()> {
                    let handshake = Handshake::start(stream?, Encryption::None)?;
                    match handshake.hear(&*point)? {
                        Heard::Chosen(mut session) => session.serve(),
                        _ => Ok(()),
                    }
                });
            }
        });
        let url = format!("nbd+unix:///a?socket={}", socket.display());
        let image = image.display().to_string();
        run("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &url]);
        // Holes of the point are holes to clients, so that a copy does not fetch them.
        let map = run("libnbd-bin", "nbdinfo", &["--map", "--totals", &url]);
        assert!(map.contains("hole,zero"), "{map}");
        let copy = place.path("copy.raw");
        run("libnbd-bin", "nbdcopy", &[&url, copy.to_str().expect("text")]);
        assert!(fs::read(&copy).expect("a copy") == fs::read(&image).expect("a disk"));
    }
}
