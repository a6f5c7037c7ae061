//! Bitmaps that are broken, or that look clean and are wrong.

use std::{fs, path::PathBuf};

use super::{Bench, text, write_behind};
use crate::{
    guest::{Disk, Guest},
    harness::{Host, tool},
};

#[test]
fn bitmaps_that_a_crash_left() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::qcow2(48)]);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    guest.wait_records(3);
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    // The bitmap was never written to the image.
    guest.kill_qemu();
    let off = bench.backup_from("all", &[]);
    off.says("vda", "has no bitmap");
    guest.boot();
    bench.backup_from("all", &[]);
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
    // Now it was, and is out of date.
    guest.shutdown();
    guest.boot();
    guest.wait_records(3);
    guest.kill_qemu();
    let off = bench.backup_from("all", &[]);
    off.says("vda", "inconsistent");
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    // The same without a backup while it is off.
    guest.shutdown();
    guest.boot();
    guest.kill_qemu();
    guest.boot();
    let on = bench.backup_from("all", &[]);
    on.says("vda", "inconsistent");
    guest.wait_records(3);
    bench.backup_from("bitmap", &[]);
}

/// A machine with a second disk that the guest does not touch by itself, and its image.
fn with_an_image_of_data(host: &Host) -> (Guest<'_>, PathBuf) {
    let image = host.lab.path("image.qcow2");
    tool("qemu-img", &["create", "-f", "qcow2", text(&image), "32M"]);
    tool("qemu-io", &["-c", "write -P 9 0 24M", text(&image)]);
    let machine = Guest::named("web").disk(Disk::qcow2(48)).disk(Disk::image(&image, "qcow2"));
    (machine.create(host), image)
}

#[test]
fn content_that_changed_behind_the_bitmap() {
    let host = Host::new();
    let (guest, image) = with_an_image_of_data(&host);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    guest.shutdown();
    bench.backup_from("bitmap", &[]);

    // Much of it: a sample finds that.
    write_behind(&image, 24);
    let report = bench.backup(&[]);
    assert_eq!(report.from("vdb"), "all", "{:#}", report.0);
    assert!(report.unexpected("vdb") >= 20, "{:#}", report.0);
    report.says("vdb", "a sample showed");
    bench.backup_from("bitmap", &[]);
    // A single block: only a full compare finds it for certain.
    write_behind(&image, 1);
    let report = bench.backup(&["--full-compare-every", "1"]);
    assert_eq!(report.unexpected("vdb"), 1, "{:#}", report.0);
    guest.boot();
    bench.backup_from("bitmap", &[]);
}

#[test]
fn images_rolled_back_or_replaced() {
    let host = Host::new();
    let (guest, image) = with_an_image_of_data(&host);
    let bench = Bench::new(&host, &guest, 2);
    let write = || guest.sh("dd if=/dev/urandom of=/dev/vdb bs=64k seek=350 count=3; sync");
    let old = host.lab.path("old.qcow2");
    guest.boot();
    bench.backup_from("all", &[]);
    guest.shutdown();
    // The storage is rolled back, and the bitmap with it.
    fs::copy(&image, &old).unwrap();
    tool("qemu-io", &["-c", "write -P 1 8M 1M", text(&image)]);
    fs::copy(&old, &image).unwrap();
    bench.backup_from("bitmap", &[]);
    // The same with a point in between, which has what the rolled back bitmap does not know.
    tool("qemu-io", &["-c", "write -P 2 12M 256k", text(&image)]);
    bench.backup_from("bitmap", &[]);
    fs::copy(&old, &image).unwrap();
    bench.backup_from("bitmap", &[]);
    // And with points in between that have bitmaps of their own.
    guest.boot();
    write();
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    fs::copy(&old, &image).unwrap();
    let report = bench.backup(&[]);
    report.says("vdb", "has no bitmap");
    guest.boot();
    assert_eq!(bench.backup(&[]).from("vdb"), "all");
    write();
    bench.backup_from("bitmap", &[]);
    guest.shutdown();

    // Another file under the same name.
    fs::copy(&image, &old).unwrap();
    tool("qemu-io", &["-c", "write -P 3 16M 1M", text(&old)]);
    fs::rename(&old, &image).unwrap();
    let report = bench.backup(&[]);
    report.says("vdb", "is not the disk of the last point");
    guest.boot();
    assert_eq!(bench.backup(&[]).from("vdb"), "all");
    write();
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    // The same content without any bitmap.
    tool("qemu-img", &["convert", "-O", "qcow2", text(&image), text(&old)]);
    fs::copy(&old, &image).unwrap();
    let report = bench.backup(&[]);
    report.says("vdb", "has no bitmap");
    guest.boot();
    assert_eq!(bench.backup(&[]).from("vdb"), "all");
    write();
    bench.backup_from("bitmap", &[]);
}

#[test]
fn images_that_no_bitmap_knows_of() {
    let host = Host::new();
    // Its content is partly in an image under it.
    let base = host.lab.path("base.qcow2");
    tool("qemu-img", &["create", "-f", "qcow2", text(&base), "16M"]);
    tool("qemu-io", &["-c", "write -P 1 0 16M", text(&base)]);
    let top = host.lab.path("top.qcow2");
    let words = ["create", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&top)];
    tool("qemu-img", &words);
    let guest = Guest::web(&host, [Disk::qcow2(48), Disk::image(&top, "qcow2")]);
    let bench = Bench::new(&host, &guest, 2);
    guest.boot();
    bench.backup_from("all", &[]);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    bench.backup_from("bitmap", &[]);
    // One cluster of the image under it.
    write_behind(&base, 1);
    let report = bench.backup(&[]);
    report.says("vdb", "the images under it");
    assert_eq!((report.from("vda"), report.from("vdb")), ("bitmap", "all"), "{:#}", report.0);
    guest.boot();
    bench.backup(&[]);
    bench.backup_from("bitmap", &[]);

    // Shorter and longer again: what was cut off is zeros then, and no bitmap says so.
    guest.virsh("blockresize", &["vdb", "16320k"]);
    guest.virsh("blockresize", &["vdb", "16M"]);
    let report = bench.backup(&[]);
    report.says("vdb", "a sample showed");
    assert_eq!((report.from("vda"), report.unexpected("vdb")), ("bitmap", 1), "{:#}", report.0);
    bench.backup_from("bitmap", &[]);
    guest.virsh("blockresize", &["vdb", "20M"]);
    guest.sh("dd if=/dev/urandom of=/dev/vdb bs=64k seek=300 count=2; sync");
    bench.backup_from("bitmap", &[]);
    guest.virsh("blockresize", &["vdb", "12M"]);
    bench.backup_from("bitmap", &[]);
    guest.shutdown();
    tool("qemu-img", &["resize", text(&top), "24M"]);
    bench.backup_from("bitmap", &[]);
    tool("qemu-img", &["resize", "--shrink", text(&top), "8M"]);
    bench.backup_from("bitmap", &[]);
    tool("qemu-img", &["resize", "--shrink", text(&top), "4M"]);
    tool("qemu-img", &["resize", text(&top), "8M"]);
    let report = bench.backup(&[]);
    report.says("vdb", "a sample showed");
    guest.boot();
    bench.backup_from("bitmap", &[]);
}
