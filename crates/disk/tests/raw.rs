//! Raw files and block devices, on real ones.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use common::{assert_same, data_len, folder, noise, open, raw_disk, read_all, run, text};
use strongroom_base::{AlignedBuf, ByteRange};
use strongroom_disk::{
    DiskError, DiskSpec, DiskTarget, Existing, OpenOptions, TargetOptions, open_source, open_target,
};

const MIB: usize = 1 << 20;

fn target(spec: &str, size: usize, existing: Existing) -> Result<Box<dyn DiskTarget>, DiskError> {
    let options = TargetOptions { existing, ..TargetOptions::default() };
    let size = u64::try_from(size).expect("fits");
    open_target(&spec.parse::<DiskSpec>().expect("parses"), size, &options)
}

fn pages_cached(path: &Path) -> u64 {
    let bytes = run("util-linux", "fincore", &["-nbo", "RES", text(path)]);
    bytes.trim().parse::<u64>().expect("a number") / 4096
}

fn forget(path: &Path, offset: usize, len: usize) {
    let file = fs::File::open(path).expect("opens");
    file.sync_all().expect("syncs");
    let (offset, len) = (u64::try_from(offset).expect("fits"), u64::try_from(len).expect("fits"));
    rustix::fs::fadvise(
        &file,
        offset,
        std::num::NonZeroU64::new(len),
        rustix::fs::Advice::DontNeed,
    )
    .expect("forgets");
}

#[test]
fn reads_what_is_there_and_skips_holes() {
    let folder = folder();
    let path = folder.path().join("disk");
    // Sizes that are no multiple of a page, a sector, a block.
    for len in [0, 1, 511, 512, 4097, 3 * MIB + 1000, 40 * MIB + 513] {
        let data: Vec<_> = [(0, 1), (len / 2, 70_000), (len.saturating_sub(3000), 3000)]
            .into_iter()
            .filter(|(offset, part)| offset + part <= len)
            .collect();
        let mut bytes = raw_disk(&path, len, &data);
        bytes.resize(len.next_multiple_of(512), 0);
        // Unasked, a file of such a size is not taken for a disk.
        let source = open(&format!("raw:{}", text(&path))).expect("opens");
        assert_eq!(source.size(), u64::try_from(bytes.len()).expect("fits"));
        assert_same(&read_all(source.as_ref()), &bytes);
        assert!(data_len(source.as_ref()) <= 400_000, "holes are not seen");

        // Past the end are zeros, whatever the alignment.
        let mut buf = AlignedBuf::zeroed(2 * MIB);
        for offset in [0, 1, 4096, 65_536 + 7, len.saturating_sub(10), len + 5] {
            buf.fill(0xAA);
            let from = u64::try_from(offset).expect("fits");
            source.read_at(from, &mut buf[3..MIB]).expect("reads");
            source.read_at(from, &mut buf[MIB..]).expect("reads");
            let mut expected = bytes.get(offset..).unwrap_or_default().to_vec();
            expected.resize(expected.len().max(MIB), 0);
            assert_same(&buf[3..MIB], &expected[..MIB - 3]);
            assert_same(&buf[MIB..], &expected[..MIB]);
        }
    }
}

/// Compares how many pages are cached before and after `work`, again and again: the kernel throws pages
/// out as well, not always counting them. What `work` itself throws out is missing every time.
fn assert_pages_kept(path: &Path, prepare: impl Fn(), work: impl Fn()) {
    let mut seen = Vec::new();
    for _ in 0..30 {
        prepare();
        let before = pages_cached(path);
        work();
        let after = pages_cached(path);
        if after.abs_diff(before) <= 8 {
            return;
        }
        seen.push((before, after));
    }
    panic!("pages that were cached before and after: {seen:?}");
}

#[test]
fn reading_leaves_the_page_cache_as_it_was() {
    let folder = folder();
    let path = folder.path().join("disk");
    let len = 64 * MIB;
    let bytes = raw_disk(&path, len, &[(0, len)]);
    forget(&path, 0, len);
    assert_eq!(pages_cached(&path), 0, "this file system keeps everything in memory: use another");

    let read = |unit: usize| {
        let source = open(text(&path)).expect("opens");
        let mut buf = AlignedBuf::zeroed(unit);
        for at in (0..len).step_by(unit) {
            source.read_at(u64::try_from(at).expect("fits"), &mut buf).expect("reads");
            assert_same(&buf, &bytes[at..(at + unit).min(len)]);
        }
    };
    // Caches a part without reading ahead.
    let warm = |offset: usize, len: usize| {
        let file = fs::File::open(&path).expect("opens");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).expect("advises");
        let mut warm = vec![0; len];
        let from = u64::try_from(offset).expect("fits");
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut warm, from).expect("reads");
        assert_same(&warm, &bytes[offset..offset + len]);
    };
    // Nothing is cached: nothing stays behind.
    for unit in [64 << 10, 1 << 20, 4 << 20] {
        read(unit);
        let left = pages_cached(&path);
        assert!(left <= 8, "{left} pages stayed in the cache after reading {unit} bytes at a time");
    }
    // The first quarter is cached, then scattered pages, then everything: it stays.
    let quarter = || {
        forget(&path, 0, len);
        warm(0, 16 * MIB);
    };
    assert_pages_kept(&path, quarter, || read(1 << 20));
    let scattered = || {
        forget(&path, 0, len);
        for i in 0..500 {
            warm((i * i * 4096 * 13) % (60 * MIB), 4096 * (1 + i % 40));
        }
    };
    assert_pages_kept(&path, scattered, || read(1 << 20));
    assert_pages_kept(&path, || warm(0, len), || read(1 << 20));
}

#[test]
fn restoring_does_not_fill_the_page_cache() {
    let folder = folder();
    let path = folder.path().join("disk");
    let target = target(text(&path), 64 * MIB, Existing::Refuse).expect("opens");
    let mut buf = AlignedBuf::zeroed(MIB);
    buf.copy_from_slice(&noise(1, MIB));
    for at in (0..64 * MIB).step_by(MIB) {
        target.write_at(u64::try_from(at).expect("fits"), &buf).expect("writes");
    }
    target.flush().expect("flushes");
    assert!(pages_cached(&path) <= 8);
}

#[test]
fn many_threads_read_the_same() {
    let folder = folder();
    let path = folder.path().join("disk");
    let bytes = raw_disk(&path, 16 * MIB, &[(0, 16 * MIB)]);
    forget(&path, 5 * MIB, 3 * MIB);
    let source = open(text(&path)).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (source, bytes) = (&source, &bytes);
            scope.spawn(move || {
                let mut buf = AlignedBuf::zeroed(256 << 10);
                for i in 0..64 {
                    let at = (i * 29 + thread * 7) % 64 * buf.len();
                    source.read_at(u64::try_from(at).expect("fits"), &mut buf).expect("reads");
                    assert_same(&buf, &bytes[at..at + buf.len()]);
                }
            });
        }
    });
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let folder = folder();
    let path = folder.path().join("disk");
    raw_disk(&path, 4 * MIB, &[(0, 4 * MIB)]);
    let source = open(text(&path)).expect("opens");
    fs::OpenOptions::new().write(true).open(&path).expect("opens").set_len(3_000_000).expect("cut");
    let mut buf = AlignedBuf::zeroed(MIB);
    source.read_at(0, &mut buf).expect("still there");
    match source.read_at(2 << 20, &mut buf) {
        Err(DiskError::Read { range, .. }) => {
            assert_eq!(range, ByteRange::between(3_000_000, 3 << 20));
        }
        other => panic!("{other:?}"),
    }
    source.extents(ByteRange::between(0, 4 << 20)).expect("no panic");
}

#[test]
fn a_file_in_use_by_a_machine_is_busy() {
    let folder = folder();
    let path = folder.path().join("disk");
    raw_disk(&path, MIB, &[(0, MIB)]);
    let socket = common::socket(&folder);
    let mut server = common::Server::start(
        "qemu-utils",
        "qemu-nbd",
        &["-f", "raw", "-k", text(&socket), text(&path)],
    );
    // The server locks the image some moments after it has made its socket.
    common::wait_until("it is busy", || matches!(open(text(&path)), Err(DiskError::Busy { .. })));
    assert!(matches!(target(text(&path), MIB, Existing::Keep), Err(DiskError::Busy { .. })));
    let options = OpenOptions { even_if_in_use: true, ..OpenOptions::default() };
    let spec = DiskSpec::from_path(&path);
    assert_eq!(open_source(&spec, &options).expect("opens").size(), 1 << 20);
    server.kill();
    open(text(&path)).expect("opens");

    // And the other way round: no machine starts on a disk that is being restored.
    let target = target(text(&path), MIB, Existing::Keep).expect("opens");
    let output = std::process::Command::new("qemu-img")
        .args(["bench", "-w", "-c1", "-f", "raw", text(&path)])
        .output()
        .expect("install the package qemu-utils");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("lock"), "{said}");
    drop(target);
}

#[test]
fn what_is_there_is_not_overwritten_unasked() {
    let folder = folder();
    let path = folder.path().join("disk");
    raw_disk(&path, MIB, &[(0, 10)]);
    assert!(matches!(target(text(&path), MIB, Existing::Refuse), Err(DiskError::NotEmpty { .. })));
    let kept = target(text(&path), 2 * MIB, Existing::Keep).expect("opens");
    assert_eq!((kept.size(), kept.is_blank()), (2 << 20, false));
    drop(kept);
    assert_eq!(fs::metadata(&path).expect("is there").len(), 2 << 20);

    let missing = folder.path().join("no/disk");
    assert!(matches!(open(text(&missing)), Err(DiskError::NotFound { .. })));
    assert!(matches!(
        target(text(&missing), MIB, Existing::Refuse),
        Err(DiskError::NotFound { .. })
    ));
    assert!(matches!(open(text(folder.path())), Err(DiskError::Spec { .. })));
}

#[test]
fn writes_what_it_is_told() {
    let folder = folder();
    let path = folder.path().join("disk");
    let len = 3 * MIB + 512;
    let target = target(text(&path), len, Existing::Refuse).expect("opens");
    assert!(target.is_blank());
    assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
    let mut bytes = vec![0; len];
    let buf = noise(9, 2 * MIB);
    for (offset, len) in
        [(0, MIB), (MIB + 7, 100_000), (2 * MIB - 100, 200), (3 * MIB, 512), (5, 2 * MIB)]
    {
        target.write_at(u64::try_from(offset).expect("fits"), &buf[..len]).expect("writes");
        bytes[offset..offset + len].copy_from_slice(&buf[..len]);
    }
    for (offset, len) in [(65_536, 65_536), (1_000_001, 77), (3 * MIB + 100, 412)] {
        let from = u64::try_from(offset).expect("fits");
        let range = ByteRange::new(from, u64::try_from(len).expect("fits")).expect("fits");
        target.write_zeroes(range).expect("writes");
        bytes[offset..offset + len].fill(0);
    }
    let mut back = vec![0; len];
    target.read_at(0, &mut back).expect("reads");
    assert_same(&back, &bytes);
    target.flush().expect("flushes");
    drop(target);
    assert_same(&fs::read(&path).expect("reads"), &bytes);
}

#[test]
fn renamed_images_are_asked_about() {
    let folder = folder();
    let image = folder.path().join("image");
    run("qemu-utils", "qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    assert!(matches!(open(text(&image)), Err(DiskError::Spec { .. })));
    let as_raw = open(&format!("raw:{}", text(&image))).expect("opens");
    assert_eq!(as_raw.format(), "raw");

    let vhd = folder.path().join("disk.img");
    let arguments = ["create", "-q", "-f", "vpc", "-o", "subformat=fixed", text(&vhd), "10M"];
    run("qemu-utils", "qemu-img", &arguments);
    assert!(matches!(open(text(&vhd)), Err(DiskError::Spec { .. })));
    let plain = folder.path().join("disk.raw");
    fs::copy(&vhd, &plain).expect("copies");
    assert_eq!(open(text(&plain)).expect("opens").format(), "raw");
}

/// A loop device over `path`; none (with a note) where there are no rights to make one.
struct Loop(String);

impl Loop {
    fn over(path: &Path) -> Option<Self> {
        let output = std::process::Command::new("losetup")
            .args(["--show", "-f", text(path)])
            .output()
            .expect("install the package mount");
        if !output.status.success() {
            println!("not tested: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("mount", "losetup", &["-d", &self.0]);
    }
}

#[test]
fn block_devices() {
    let folder = folder();
    let path = folder.path().join("disk");
    let mut bytes = raw_disk(&path, 8 * MIB, &[(3 * MIB, 70_000)]);
    let Some(device) = Loop::over(&path) else { return };
    let source = open(&device.0).expect("opens");
    assert_eq!((source.size(), source.format()), (8 << 20, "raw"));
    assert_same(&read_all(source.as_ref()), &bytes);
    drop(source);

    let refused = |size, existing| target(&device.0, size, existing).err().expect("refused");
    assert!(matches!(refused(9 * MIB, Existing::Keep), DiskError::TooSmall { .. }));
    assert!(matches!(refused(8 * MIB, Existing::Refuse), DiskError::NotEmpty { .. }));
    // A child that another test is just starting may still hold what we have closed.
    let open_kept = || target(&device.0, 4 * MIB, Existing::Keep);
    common::wait_until("it is free", || open_kept().is_ok());
    let kept = std::iter::repeat_with(open_kept).take(100).find_map(Result::ok).expect("opens");
    assert!(matches!(refused(4 * MIB, Existing::Keep), DiskError::Busy { .. }));
    let part = noise(77, 100_000);
    kept.write_at(12_345, &part).expect("writes");
    bytes[12_345..112_345].copy_from_slice(&part);
    kept.write_zeroes(ByteRange::between(3 << 20, (3 << 20) + 65_536)).expect("writes");
    bytes[3 * MIB..3 * MIB + 65_536].fill(0);
    kept.flush().expect("flushes");
    drop(kept);
    assert_same(&read_all(open(&device.0).expect("opens").as_ref()), &bytes);
}

#[test]
fn a_full_disk_says_so() {
    let folder = folder();
    let disk = folder.path().join("fs");
    raw_disk(&disk, 16 * MIB, &[]);
    run("e2fsprogs", "mkfs.ext4", &["-q", "-F", "-b", "4096", text(&disk)]);
    let mount = folder.path().join("mnt");
    fs::create_dir(&mount).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-o", "loop", text(&disk), text(&mount)])
        .output()
        .expect("install the package mount");
    if !mounted.status.success() {
        println!("not tested: {}", String::from_utf8_lossy(&mounted.stderr));
        return;
    }
    let full = std::panic::catch_unwind(|| {
        let target = target(text(&mount.join("disk")), 64 * MIB, Existing::Refuse).expect("opens");
        let buf = noise(3, MIB);
        (0..64_u64).find_map(|i| target.write_at(i << 20, &buf).err())
    });
    run("mount", "umount", &[text(&mount)]);
    match full.expect("no panic") {
        Some(DiskError::Full { range, .. }) => assert_eq!(range.len(), 1 << 20),
        other => panic!("{other:?}"),
    }
}

/// Only what is called raw is taken for a disk whatever it holds.
#[test]
fn what_is_hardly_a_disk_is_asked_about() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let xml = "<domain>\n".repeat(200);
    let gzip = [b"\x1f\x8b\x08".as_slice(), &[0; 1021]].concat();
    for (name, content) in
        [("web01.xml", xml.as_bytes()), ("web.img", &gzip), ("notes", b"a\n"), ("odd", &[0; 1000])]
    {
        fs::write(at(name), content).expect("writes");
        let refused = open(text(&at(name))).err().expect("refused");
        assert!(matches!(refused, DiskError::Doubtful { .. }), "{name}: {refused}");
        open(&format!("raw:{}", text(&at(name)))).expect("it was called a disk");
    }
    for (name, content) in [("disk", noise(1, 1024)), ("odd.img", vec![0; 1000])] {
        fs::write(at(name), content).expect("writes");
        open(text(&at(name))).expect("a disk");
    }
}

#[test]
fn devices_that_may_change_are_refused() {
    let folder = folder();
    let file = folder.path().join("file.img");
    fs::write(&file, vec![0; 4 * MIB]).expect("writes");
    let made =
        std::process::Command::new("losetup").args(["--find", "--show", text(&file)]).output();
    let made = made.map(|made| String::from_utf8_lossy(&made.stdout).trim().to_owned());
    let device = made.unwrap_or_default();
    if !device.starts_with("/dev/loop") {
        println!("not tried: no loop device can be made here");
        return;
    }
    let try_open = |spec: &str| open(spec).map(drop);
    let (quiet, below) = (try_open(&device), try_open(text(&file)));
    let writer = std::process::Command::new("sleep")
        .arg("60")
        .stdin(fs::File::options().read(true).write(true).open(&device).expect("opens"))
        .spawn();
    let busy = try_open(&device);
    let mut writer = writer.expect("starts");
    writer.kill().expect("killed");
    writer.wait().expect("ended");
    run("mount", "losetup", &["--detach", &device]);
    quiet.expect("nobody writes to it");
    for refused in [below, busy] {
        assert!(matches!(refused, Err(DiskError::Busy { .. })), "{refused:?}");
    }
}
