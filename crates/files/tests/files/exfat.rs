//! exFAT, filled through exfat-fuse and compared with what it shows.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use strongroom_files::{Kind, Time, probe};

use crate::truth::{
    Image, Served, Truths, assert_same, noise, read, run, shown_by_kernel, survives_damage, tree,
};

fn make(folder: &Path, size: u64, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    File::create(&image).expect("an image").set_len(size).expect("a size");
    let mut arguments = options.to_vec();
    arguments.extend(["-L", "label 名前", image.to_str().expect("utf-8")]);
    run("env", &[&["LC_ALL=C.UTF-8", "mkfs.exfat"], arguments.as_slice()].concat());
    image
}

/// A mounted image. exfat-fuse wants a block device.
struct Mounted {
    served: Option<Served>,
    device: PathBuf,
}

impl Mounted {
    fn path(&self) -> &Path {
        self.served.as_ref().expect("mounted").path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.served.take();
        run("losetup", &["-d", self.device.to_str().expect("utf-8")]);
    }
}

fn mount(image: &Path, at: &Path, options: &str) -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        println!("not tried, as nothing can be mounted here");
        return None;
    }
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let made = Command::new("losetup").args(["-f", "--show"]).arg(image).env("PATH", path).output();
    let made = String::from_utf8(made.expect("losetup").stdout).expect("text");
    let device = PathBuf::from(made.trim_end());
    let served = Served::new("mount.exfat-fuse", &["-d", "-o", options], &device, at);
    Some(Mounted { served, device })
}

/// What exfat-fuse shows, without what it makes up.
fn shown(root: &Path) -> Truths {
    let mut truths = shown_by_kernel(root);
    for truth in truths.values_mut() {
        let attributes = &mut truth.attributes;
        (attributes.mode, attributes.uid, attributes.gid) = (None, None, None);
        attributes.links = None;
        if attributes.kind == Kind::Folder {
            attributes.size = 0;
        }
    }
    truths
}

fn fill(root: &Path) {
    let plain = root.join("plain");
    fs::create_dir(&plain).expect("a folder");
    for (seed, size) in (1..).zip([0, 1, 512, 4096, 70_000, 1_300_001]) {
        fs::write(plain.join(format!("{size}")), noise(seed, size)).expect("a file");
    }
    let names = root.join("names");
    fs::create_dir(&names).expect("a folder");
    let long = "名".repeat(85);
    for name in [&long, "名前 📁", &"n".repeat(255), "ÄÖÜ é", "-rf", "dot.name"] {
        fs::write(names.join(name), name).expect("a file");
    }
    // In pieces: the table knows their clusters.
    let mut pieces =
        [0, 1].map(|name| File::create(root.join(format!("pieces{name}"))).expect("a file"));
    for block in 0..60_u64 {
        for (file, seed) in pieces.iter_mut().zip(1..) {
            file.write_all(&noise(seed * 1000 + block, 5000)).expect("written");
            file.sync_all().expect("on the disk");
        }
    }
    drop(pieces);
    let sparse = File::create(root.join("sparse")).expect("a file");
    sparse.write_all_at(b"at the end", 200_000).expect("written");
    for (name, seconds) in [("1981", 347_155_200), ("2040", 2_208_988_800)] {
        let path = root.join(name);
        fs::write(&path, name).expect("a file");
        let moment = Timespec { tv_sec: seconds, tv_nsec: 120_000_000 };
        let times = Timestamps { last_access: moment, last_modification: moment };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).expect("times");
    }
    let many = root.join("many");
    fs::create_dir(&many).expect("a folder");
    for number in 0..1000 {
        File::create(many.join(format!("entry-{number:05}"))).expect("a file");
    }
    for number in (0..1000).step_by(3) {
        fs::remove_file(many.join(format!("entry-{number:05}"))).expect("removed");
    }
}

#[test]
fn exfat_of_every_size_of_clusters() {
    for options in [&[][..], &["-c", "512"], &["-c", "131072"]] {
        let folder = tempfile::tempdir().expect("a folder");
        let image = make(folder.path(), 64 << 20, options);
        let at = folder.path().join("mounted");
        let Some(mounted) = mount(&image, &at, "rw") else { return };
        fill(mounted.path());
        drop(mounted);
        let found = read(&mut *tree(&image));
        let mounted = mount(&image, &at, "ro").expect("as before");
        assert_same(&found, &shown(mounted.path()));
        drop(mounted);
        let found = probe(&Image(File::open(&image).expect("open"))).expect("found");
        assert_eq!((found.kind, found.label.as_deref()), ("exfat", Some("label 名前")));
        assert_eq!(found.notes, Vec::<String>::new());
    }
}

/// Where the entries of a file of this name are.
fn entries_of(image: &[u8], name: &str) -> usize {
    let mut wide = [0; 30];
    for (to, unit) in wide.chunks_exact_mut(2).zip(name.encode_utf16()) {
        to.copy_from_slice(&unit.to_le_bytes());
    }
    let is_here = |at: &usize| {
        image[*at] == 0x85 && image[at + 64] == 0xc1 && image[at + 66..at + 96] == wide
    };
    (0..image.len() - 96).step_by(32).find(is_here).expect("its entries")
}

/// Changes them, and sums them again.
fn change(image: &mut [u8], name: &str, how: impl FnOnce(&mut [u8])) {
    let at = entries_of(image, name);
    let entries = &mut image[at..at + 96];
    how(entries);
    let sum = (0..96)
        .filter(|at| !matches!(at, 2 | 3))
        .fold(0_u16, |sum, at| sum.rotate_right(1).wrapping_add(u16::from(entries[at])));
    entries[2..4].copy_from_slice(&sum.to_le_bytes());
}

/// A volume with some small files.
fn small(folder: &Path) -> Option<Vec<u8>> {
    let image = make(folder, 2 << 20, &["-c", "512", "-b", "4096"]);
    let at = folder.join("mounted");
    let mounted = mount(&image, &at, "rw")?;
    for number in 0..30 {
        fs::write(mounted.path().join(format!("file-{number}")), noise(number, 3000))
            .expect("a file");
    }
    fs::create_dir(mounted.path().join("folder")).expect("a folder");
    fs::write(mounted.path().join("folder/inner"), "inner").expect("a file");
    drop(mounted);
    Some(fs::read(&image).expect("an image"))
}

/// What the kernel and Windows write, and exfat-fuse does not.
#[test]
fn lengths_zones_and_copies_as_windows_makes_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut bytes) = small(folder.path()) else { return };
    // Only 1000 bytes of 3000 were written, whatever lies on the disk; times of Tokyo.
    change(&mut bytes, "file-7", |entries| {
        entries[32 + 8..32 + 16].copy_from_slice(&1000_u64.to_le_bytes());
        entries[12..16].copy_from_slice(&((46_u32 << 25) + (1 << 21) + (2 << 16)).to_le_bytes());
        (entries[21], entries[23]) = (50, 0x80 + 36);
    });
    let wrong = entries_of(&bytes, "file-8");
    bytes[wrong + 6] ^= 1;
    // The first sectors are damaged; and it was in use.
    bytes[12 * 512 + 106] |= 2;
    bytes[80] ^= 1;
    let image = folder.path().join("changed");
    fs::write(&image, &bytes).expect("written");
    let mut tree = tree(&image);
    let mut seen = 0;
    for entry in tree.list(tree.root()).expect("a list") {
        let mut content = vec![1; 3000];
        match entry.name.as_slice() {
            b"file-7" => {
                let attributes = entry.attributes.expect("attributes");
                assert_eq!(attributes.size, 3000);
                let modified = Time { seconds: 1_767_279_600, nanoseconds: 500_000_000 };
                assert_eq!(attributes.modified, Some(modified));
                let mut at = 0;
                while at < 1000 {
                    let piece = tree.read(entry.node, at as u64, &mut content[at..]);
                    let strongroom_files::Piece::Data(len) = piece.expect("reads") else {
                        panic!()
                    };
                    at += len;
                }
                assert_eq!(at, 1000);
                assert_eq!(content[..1000], noise(7, 3000)[..1000]);
                let rest = tree.read(entry.node, 1000, &mut content).expect("reads");
                assert_eq!(rest, strongroom_files::Piece::Hole(2000));
            }
            b"file-8" => {
                assert!(entry.attributes.expect_err("damaged").reason.contains("contradicts"));
            }
            _ => assert!(entry.attributes.is_ok(), "{entry:?}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 31);
    let notes = tree.notes().join("; ");
    assert!(notes.contains("their copy was read") && notes.contains("was in use"), "{notes}");
    assert_eq!(tree.folded("FILE-ä".as_bytes()), tree.folded("file-Ä".as_bytes()));
    assert_ne!(tree.folded(b"file-7"), tree.folded(b"file-8"));
}

#[test]
fn damaged_exfat_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(bytes) = small(folder.path()) else { return };
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4")) as usize;
    let (table, heap, root) = (number(80) * 512, number(88) * 512, number(96));
    let root = heap + (root - 2) * 512;
    survives_damage(&bytes, &[table..table + 600, root..root + 4096, root..root + 4096], 600);
}
