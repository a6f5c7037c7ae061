//! NTFS, filled through ntfs-3g and compared with what it shows.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use strongroom_files::{Kind, Piece, probe};

use crate::truth::{
    Image, Served, Truths, assert_same, noise, read, run, shown_by_kernel, survives_damage, tree,
};

fn make(folder: &Path, size: u64, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    File::create(&image).expect("an image").set_len(size).expect("a size");
    let mut arguments = vec!["-F", "-Q", "-q", "-L", "A LABEL 名前"];
    arguments.extend(options);
    arguments.push(image.to_str().expect("utf-8"));
    run("env", &[&["LC_ALL=C.UTF-8", "mkfs.ntfs"], arguments.as_slice()].concat());
    image
}

fn mount(image: &Path, at: &Path, options: &str) -> Option<Served> {
    let options = format!("no_detach,streams_interface=xattr,{options}");
    Served::new("ntfs-3g", &["-o", &options], image, at)
}

/// What ntfs-3g shows, without what it makes up: owners and modes, and sizes and names of folders.
fn shown(root: &Path) -> Truths {
    let mut truths = shown_by_kernel(root);
    for (path, truth) in &mut truths {
        let attributes = &mut truth.attributes;
        (attributes.mode, attributes.uid, attributes.gid) = (None, None, None);
        if attributes.kind == Kind::Folder {
            (attributes.size, attributes.links) = (0, Some(1));
        }
        if path.ends_with(b"/a long name.text") {
            // The name for DOS is none of its own.
            attributes.links = Some(1);
        }
        truth.xattrs.retain(|name, _| name.starts_with(b"user."));
    }
    truths
}

fn compare(image: &Path, at: &Path) {
    let found = read(&mut *tree(image));
    let mount = mount(image, at, "ro").expect("as before");
    assert_same(&found, &shown(mount.path()));
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{} {name}: {error}", path.display()));
}

fn fill(root: &Path, many: u32) {
    let plain = root.join("plain");
    fs::create_dir(&plain).expect("a folder");
    for (seed, size) in (1..).zip([0, 1, 500, 700, 4095, 4096, 70_000, 1_300_001]) {
        fs::write(plain.join(format!("{size}")), noise(seed, size)).expect("a file");
    }
    let names = root.join("names");
    fs::create_dir(&names).expect("a folder");
    let long = "名".repeat(85);
    for name in [&long, "名前 📁", "Case", "case", "ÄÖÜ é", " ", "-rf", "a:b", "dot.", "new\nline"]
    {
        fs::write(names.join(name), name).expect("a file");
    }
    sparse(root, u64::from(many / 2));
    let links = root.join("links");
    fs::create_dir(&links).expect("a folder");
    for target in ["../plain/1", "t", &"t".repeat(200), "名前"] {
        let name = links.join(format!("to-{}", target.len()));
        std::os::unix::fs::symlink(target, name).expect("a link");
    }
    fs::write(links.join("one"), b"one file").expect("a file");
    fs::hard_link(links.join("one"), links.join("two")).expect("a link");
    fs::hard_link(links.join("one"), root.join("three")).expect("a link");
    attributes(root);
    let folder = root.join("many");
    fs::create_dir(&folder).expect("a folder");
    for number in 0..many {
        File::create(folder.join(format!("entry-{number:05}"))).expect("a file");
    }
    for number in (0..many).step_by(3) {
        fs::remove_file(folder.join(format!("entry-{number:05}"))).expect("removed");
    }
}

fn sparse(root: &Path, pieces: u64) {
    let folder = root.join("sparse");
    fs::create_dir(&folder).expect("a folder");
    let hole = File::create(folder.join("hole")).expect("a file");
    hole.set_len(3_000_000).expect("a size");
    let ends = File::create(folder.join("data-between")).expect("a file");
    ends.write_all_at(b"first", 0).expect("written");
    ends.write_all_at(b"middle", 1_000_000).expect("written");
    ends.set_len(2_000_003).expect("a size");
    // Space that was used before, and is only a part of a file: it reads as zeros.
    fs::write(folder.join("stale"), noise(9, 2_000_000)).expect("a file");
    fs::remove_file(folder.join("stale")).expect("removed");
    // In pieces, so that there are more of them than one record can name.
    let file = File::create(folder.join("pieces")).expect("a file");
    for block in 0..pieces {
        file.write_all_at(&noise(block, 4096), block * 8192).expect("written");
    }
    let mut mixed =
        [0, 1].map(|name| File::create(folder.join(format!("mixed{name}"))).expect("a file"));
    for block in 0..100_u64 {
        for (file, seed) in mixed.iter_mut().zip(1..) {
            file.write_all(&noise(seed * 10_000 + block, 4096)).expect("written");
        }
    }
}

fn attributes(root: &Path) {
    let folder = root.join("attributes");
    fs::create_dir(&folder).expect("a folder");
    for (name, seconds) in [("1959", -347_155_200), ("2040", 2_208_988_800), ("now", 1_764_400_000)]
    {
        fs::write(folder.join(name), name).expect("a file");
        // ntfs-3g 2022.10 shows a part of a second before 1970 as a second too late.
        let tv_nsec = if seconds < 0 { 0 } else { 123_456_700 };
        let moment = Timespec { tv_sec: seconds, tv_nsec };
        let times = Timestamps { last_access: moment, last_modification: moment };
        rustix::fs::utimensat(CWD, folder.join(name), &times, AtFlags::empty()).expect("times");
    }
    let with = folder.join("streams");
    fs::write(&with, "its content").expect("a file");
    set(&with, "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n");
    set(&with, "user.empty", b"");
    set(&with, "user.large", &noise(4, 40_000));
    // So many that the names in the folder, and its list of them, move to other records.
    let full = folder.join("full");
    fs::create_dir(&full).expect("a folder");
    for number in 0..100 {
        set(&full, &format!("user.stream-{number:03}"), &noise(number, 90));
        fs::write(full.join(format!("file-{number:03}-{}", "x".repeat(60))), "in it")
            .expect("a file");
    }
    // A name that DOS knows as well.
    let dos = folder.join("a long name.text");
    fs::write(&dos, "with a short one").expect("a file");
    set(&dos, "system.ntfs_dos_name", b"ALONGN~1.TEX");
}

/// What `ntfsinfo` says of a file.
fn info(image: &Path, arguments: &[&str]) -> String {
    let image = image.to_str().expect("utf-8");
    let output = Command::new("ntfsinfo").args(arguments).args(["-f", "-v", image]).output();
    String::from_utf8_lossy(&output.expect("ntfsinfo").stdout).into_owned()
}

#[test]
fn ntfs_of_every_size_of_clusters() {
    let sizes = [
        (3000, &[][..]),
        (800, &["-c", "512"]),
        (300, &["-c", "65536"]),
        (800, &["-s", "4096", "-c", "4096"]),
    ];
    for (many, options) in sizes {
        let folder = tempfile::tempdir().expect("a folder");
        let image = make(folder.path(), 128 << 20, options);
        let at = folder.path().join("mounted");
        let Some(mount) = mount(&image, &at, "rw") else { return };
        fill(mount.path(), many);
        drop(mount);
        for path in ["/sparse/pieces", "/attributes/full"] {
            // Clusters of 64 KiB have no holes of 4 KiB, and records of 4 KiB have room for these pieces.
            if many > 300 && !options.contains(&"-s") || path.ends_with("full") {
                let info = info(&image, &["-F", path]);
                assert!(info.contains("$ATTRIBUTE_LIST (0x20)"), "{options:?} {path}: {info}");
            }
        }
        compare(&image, &at);
        let found = probe(&Image(File::open(&image).expect("open"))).expect("found");
        assert_eq!(found.kind, "ntfs");
        assert_eq!(found.label.as_deref(), Some("A LABEL 名前"));
        assert_eq!(found.notes, Vec::<String>::new());
    }
}

#[test]
fn ntfs_compressed() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), 64 << 20, &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = mount(&image, &at, "rw,compression") else { return };
    let packed = mount.path().join("packed");
    fs::create_dir(&packed).expect("a folder");
    set(&packed, "system.ntfs_attrib", &0x810_u32.to_le_bytes());
    let half: Vec<u8> =
        (0..60).flat_map(|seed| [noise(seed, 3000), vec![7; 9000]].concat()).collect();
    fs::write(packed.join("half"), &half).expect("a file");
    fs::write(packed.join("noise"), noise(1, 300_001)).expect("a file");
    fs::write(packed.join("zeros"), vec![0; 300_001]).expect("a file");
    fs::write(packed.join("small"), "small ".repeat(20)).expect("a file");
    for len in [4096, 65_536, 65_537, 1_000_000] {
        let words: Vec<u8> =
            (0..len).map(|at: u32| (u64::from(at).pow(2) / 977 % 23) as u8 + 65).collect();
        fs::write(packed.join(format!("words-{len}")), words).expect("a file");
    }
    let sparse = File::create(packed.join("sparse")).expect("a file");
    sparse.write_all_at(&half, 500_000).expect("written");
    drop(sparse);
    drop(mount);
    let info = info(&image, &["-F", "/packed/half"]);
    assert!(info.contains("COMPRESSED"), "{info}");
    compare(&image, &at);
}

/// A reparse point: a tag and what belongs to it.
fn point(tag: u32, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).expect("short").to_le_bytes();
    [&tag.to_le_bytes(), &len[..], &[0, 0], data].concat()
}

#[test]
fn what_windows_makes_of_files_is_kept_or_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), 32 << 20, &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = mount(&image, &at, "rw") else { return };
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let names = |substitute: &str, print: &str, flags: &[u8]| {
        let (a, b) = (wide(substitute), wide(print));
        let short = |len: usize| u16::try_from(len).expect("short").to_le_bytes();
        let places = [short(0), short(a.len()), short(a.len()), short(b.len())].concat();
        [places, flags.to_vec(), a, b].concat()
    };
    let relative = names(r"..\in here\名", r"..\in here\名", &[1, 0, 0, 0]);
    let absolute = names(r"\??\C:\Users", r"C:\Users", &[0, 0, 0, 0]);
    let junction = names(r"\??\C:\ProgramData", r"C:\ProgramData", &[]);
    let made: [(&str, bool, u32, &[u8]); 7] = [
        ("relative", false, 0xa000_000c, &relative),
        ("absolute", false, 0xa000_000c, &absolute),
        ("junction", true, 0xa000_0003, &junction),
        ("wsl", false, 0xa000_001d, b"\x02\0\0\0to/\xe5\x90\x8d"),
        ("compact", false, 0x8000_0017, &[1, 0, 0, 0]),
        ("deduplicated", false, 0x8000_0013, &[0; 100]),
        ("strange", false, 0x8000_7777, &[0; 100]),
    ];
    for (name, is_folder, tag, data) in made {
        let path = mount.path().join(name);
        if is_folder { fs::create_dir(&path) } else { fs::write(&path, "") }.expect("made");
        set(&path, "system.ntfs_reparse_data", &point(tag, data));
    }
    drop(mount);
    let mut tree = tree(&image);
    let entries = tree.list(tree.root()).expect("a list");
    let mut said = Vec::new();
    for entry in entries {
        let name = String::from_utf8(entry.name).expect("text");
        let (kind, said_of) = match entry.attributes {
            Ok(found) if found.kind == Kind::Link => {
                let target = tree.target(entry.node).expect("a target");
                ("link", String::from_utf8(target).expect("text"))
            }
            Ok(found) => panic!("{name} is a {}", found.kind.name()),
            // Nor is it read by who knows its node.
            Err(fault) => {
                let read = tree.read(entry.node, 0, &mut [0; 10]).expect_err(&name);
                assert_eq!(read, fault);
                ("refused", fault.reason)
            }
        };
        said.push(format!("{name}: {kind} {said_of}"));
    }
    said.sort();
    assert_eq!(
        said,
        [
            r"absolute: link C:\Users",
            "compact: refused Windows keeps it compressed in another stream (WOF)",
            "deduplicated: refused its content is in the store of data deduplication",
            r"junction: link C:\ProgramData",
            "relative: link ../in here/名",
            "strange: refused it has a reparse point that is not known (0x80007777)",
            "wsl: link to/名",
        ]
    );
}

/// Encrypted files are made by Windows alone: here only the mark is set.
#[test]
fn encrypted_files_are_refused_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), 16 << 20, &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = mount(&image, &at, "rw") else { return };
    for name in ["open", "secret"] {
        fs::write(mount.path().join(name), noise(1, 50_000)).expect("a file");
    }
    drop(mount);
    let mut bytes = fs::read(&image).expect("an image");
    let name: Vec<u8> = "secret".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let record = (0..bytes.len() - 1024)
        .step_by(1024)
        .find(|at| {
            let record = &bytes[*at..at + 1024];
            record.starts_with(b"FILE0") && record.windows(name.len()).any(|it| it == name)
        })
        .expect("a record");
    let data = (record + 56..record + 1000)
        .step_by(8)
        .find(|at| bytes[*at..].starts_with(&[0x80, 0, 0, 0]) && bytes[at + 8] == 1)
        .expect("its content");
    bytes[data + 13] |= 0x40;
    fs::write(&image, bytes).expect("written");
    let mut tree = tree(&image);
    for entry in tree.list(tree.root()).expect("a list") {
        let read = tree.read(entry.node, 0, &mut [0; 10]);
        assert_eq!(entry.attributes.expect("attributes").size, 50_000);
        if entry.name == b"secret" {
            assert_eq!(read.expect_err("refused").reason, "it is encrypted (EFS)");
        } else {
            assert_eq!(read.expect("reads"), Piece::Data(10));
        }
    }
}

#[test]
fn a_name_in_other_capitals_is_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), 16 << 20, &[]);
    let mut tree = tree(&image);
    let mut fold = |name: &str| tree.folded(name.as_bytes()).expect("a text");
    assert_eq!(fold("Program Files Äé"), fold("PROGRAM files äÉ"));
    assert_ne!(fold("Program Files"), fold("Program File"));
}

/// The offset of the log in an image: where `ntfsinfo` says that its first run is.
fn log_of(image: &Path) -> u64 {
    let info = info(image, &["-i", "2"]);
    let runs = info.split("LCN").nth(1).expect("runs");
    let numbers: Vec<u64> = runs
        .split_whitespace()
        .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    numbers[1] * 4096
}

#[test]
fn what_was_not_shut_down_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), 16 << 20, &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = mount(&image, &at, "rw") else { return };
    fs::write(mount.path().join("hiberfil.sys"), [b"HIBR", &[0; 5000][..]].concat())
        .expect("a file");
    drop(mount);
    // A page of the log that says that a client has it open.
    let mut page = vec![0; 4096];
    page[..4].copy_from_slice(b"RSTR");
    for (at, value) in [(4, 30_u16), (6, 9), (16, 4096), (20, 4096), (24, 48)] {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    let log = log_of(&image);
    let file = File::options().write(true).open(&image).expect("open");
    file.write_all_at(&page, log).expect("written");
    let notes = tree(&image).notes();
    assert!(notes.iter().any(|note| note.contains("its log is not replayed")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("hibernated")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("owners")), "{notes:?}");
    // The same with the volume given back.
    page[48 + 14] = 2;
    file.write_all_at(&page, log).expect("written");
    let notes = tree(&image).notes();
    assert!(!notes.iter().any(|note| note.contains("log")), "{notes:?}");
}

#[test]
fn damaged_ntfs_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), 2 << 20, &["-c", "512"]);
    let at = folder.path().join("mounted");
    let Some(mount) = mount(&image, &at, "rw,compression") else { return };
    let packed = mount.path().join("packed");
    fs::create_dir(&packed).expect("a folder");
    set(&packed, "system.ntfs_attrib", &0x810_u32.to_le_bytes());
    fs::write(packed.join("words"), "words and words ".repeat(4000)).expect("a file");
    for number in 0..60 {
        fs::write(mount.path().join(format!("a file of number {number}")), noise(number, 900))
            .expect("a file");
    }
    let full = mount.path().join(OsStr::from_bytes(b"full"));
    fs::write(&full, "").expect("a file");
    for number in 0..40 {
        set(&full, &format!("user.stream-{number:03}"), &noise(number, 90));
    }
    drop(mount);
    let bytes = fs::read(&image).expect("an image");
    // Records and lists are what is worth damaging.
    let marks = [&b"FILE0"[..], b"INDX("];
    let mut places = Vec::new();
    places.push(0..512);
    for at in (0..bytes.len() - 512).step_by(512) {
        if marks.iter().any(|mark| bytes[at..].starts_with(mark)) {
            places.push(at..at + 512);
        }
    }
    assert!(places.len() > 60, "{}", places.len());
    survives_damage(&bytes, &places, 600);
}
