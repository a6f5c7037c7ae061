//! Trees with all that is hard about trees.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::truth::{noise, run};

/// What a file system can keep.
#[derive(Clone, Copy)]
pub(crate) struct Can {
    /// Dates before 1970 and after 2038.
    pub(crate) dates: bool,
    /// Bytes of the longest attribute.
    pub(crate) xattr: usize,
}

fn named(root: &Path, name: &[u8]) -> std::path::PathBuf {
    root.join(OsStr::from_bytes(name))
}

/// Fills a mounted file system.
pub(crate) fn fill(root: &Path, can: Can) {
    let plain = root.join("plain");
    fs::create_dir(&plain).expect("a folder");
    for (seed, size) in (1..).zip([0, 1, 59, 60, 160, 4095, 4096, 70_000, 1_300_001]) {
        fs::write(plain.join(format!("{size}")), noise(seed, size)).expect("a file");
    }
    let names = root.join("names");
    fs::create_dir(&names).expect("a folder");
    let long = [b'n'; 255];
    let strange: [&[u8]; 7] = [
        &long,
        "名前 📁".as_bytes(),
        b"\xff\xfe latin \xe9",
        b"new\nline",
        b" ",
        b"-rf",
        b"back\\slash",
    ];
    for name in strange {
        fs::write(named(&names, name), name).expect("a file");
    }
    sparse(root);
    let links = root.join("links");
    fs::create_dir(&links).expect("a folder");
    for len in [1, 59, 60, 61, 1000] {
        let target = "t".repeat(len);
        std::os::unix::fs::symlink(&target, links.join(format!("to-{len}"))).expect("a link");
    }
    fs::write(links.join("one"), b"one file").expect("a file");
    fs::hard_link(links.join("one"), links.join("two")).expect("a link");
    fs::hard_link(links.join("one"), root.join("three")).expect("a link");
    special(root);
    attributes(root, can);
    let many = root.join("many");
    fs::create_dir(&many).expect("a folder");
    for number in 0..3000 {
        File::create(many.join(format!("entry-{number:05}"))).expect("a file");
    }
    for number in (0..3000).step_by(3) {
        fs::remove_file(many.join(format!("entry-{number:05}"))).expect("removed");
    }
}

fn sparse(root: &Path) {
    let folder = root.join("sparse");
    fs::create_dir(&folder).expect("a folder");
    let hole = File::create(folder.join("hole")).expect("a file");
    hole.set_len(3_000_000).expect("a size");
    let ends = File::create(folder.join("data-between")).expect("a file");
    ends.write_all_at(b"first", 0).expect("written");
    ends.write_all_at(b"middle", 1_000_000).expect("written");
    ends.set_len(2_000_003).expect("a size");
    // Blocks that are reserved hold what was there before, and read as zeros.
    let stale = folder.join("stale");
    fs::write(&stale, noise(9, 2_000_000)).expect("a file");
    File::open(&stale).expect("a file").sync_all().expect("on the disk");
    fs::remove_file(&stale).expect("removed");
    rustix::fs::sync();
    let reserved = File::create(folder.join("reserved")).expect("a file");
    if rustix::fs::fallocate(&reserved, FallocateFlags::empty(), 0, 1_500_000).is_ok() {
        reserved.write_all_at(b"in the middle", 700_000).expect("written");
    }
    let mut fragments =
        [0, 1].map(|name| File::create(folder.join(format!("f{name}"))).expect("a file"));
    for block in 0..300 {
        for file in &mut fragments {
            file.write_all(&noise(block, 4096)).expect("written");
            file.sync_data().expect("on the disk");
        }
    }
}

fn special(root: &Path) {
    let folder = root.join("special");
    fs::create_dir(&folder).expect("a folder");
    let mode = Mode::from_raw_mode(0o640);
    let kinds = [
        ("pipe", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("disk", FileType::BlockDevice, rustix::fs::makedev(259, 200_001)),
    ];
    for (name, kind, device) in kinds {
        rustix::fs::mknodat(CWD, folder.join(name), kind, mode, device).expect("made");
    }
}

fn attributes(root: &Path, can: Can) {
    let folder = root.join("attributes");
    fs::create_dir(&folder).expect("a folder");
    let at = |name: &str| {
        let path = folder.join(name);
        fs::write(&path, name).expect("a file");
        path
    };
    let owned = at("owned");
    std::os::unix::fs::chown(&owned, Some(70_000), Some(4_000_000_000)).expect("owned");
    rustix::fs::chmodat(CWD, &owned, Mode::from_raw_mode(0o6755), AtFlags::empty()).expect("mode");
    let far: &[(&str, i64)] = &[("1959", -347_155_200), ("2040", 2_208_988_800)];
    let far = if can.dates { far } else { &[] };
    let dates = far.iter().chain(&[("now", 1_764_400_000)]);
    for (name, seconds) in dates {
        let moment = Timespec { tv_sec: *seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: moment, last_modification: moment };
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::empty()).expect("times");
    }
    let with = at("xattrs");
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&with, name, value, XattrFlags::empty()).expect("an attribute");
    };
    set("user.small", b"a value");
    set("user.empty", b"");
    set("user.large", &noise(4, can.xattr));
    set("trusted.ours", b"\0\x01");
    let acl = at("acl");
    run("setfacl", &["-m", "u:1234:rw,g:77:r,m::rw", acl.to_str().expect("utf-8")]);
    let folder = folder.join("inherits");
    fs::create_dir(&folder).expect("a folder");
    run("setfacl", &["-d", "-m", "u:99:rwx", folder.to_str().expect("utf-8")]);
}
