//! ext2, ext3 and ext4, with features one by one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use strongroom_files::{FaultKind, probe};

use crate::{
    fill::{Can, fill},
    truth::{Image, Mount, assert_same, noise, read, run, shown_by_kernel, tree},
};

const ALL: Can = Can { dates: true, xattr: 3000 };
/// With inodes of 128 bytes.
const OLD: Can = Can { dates: false, xattr: 500 };

fn make(folder: &Path, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    let file = fs::File::create(&image).expect("an image");
    file.set_len(192 << 20).expect("a size");
    let mut arguments = options.to_vec();
    arguments.extend(["-q", "-F", "-L", "a label", image.to_str().expect("utf-8")]);
    run("mke2fs", &arguments);
    image
}

/// Makes an image, fills it through the kernel and compares the two views.
fn compare(options: &[&str], can: Can) {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), options);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop") else { return };
    fill(mount.path(), can);
    drop(mount);
    let found = read(&mut *tree(&image));
    let mount = Mount::new(&image, &at, "loop,ro").expect("as before");
    assert_same(&found, &shown_by_kernel(mount.path()));
}

#[test]
fn ext4_of_today() {
    compare(&["-t", "ext4", "-b", "4096"], ALL);
}

#[test]
fn ext4_with_small_blocks() {
    compare(&["-t", "ext4", "-b", "1024", "-I", "128"], OLD);
}

#[test]
fn ext4_with_inline_data() {
    compare(&["-t", "ext4", "-b", "4096", "-O", "inline_data"], ALL);
}

#[test]
fn ext4_with_clusters() {
    compare(
        &["-t", "ext4", "-b", "4096", "-C", "16384", "-O", "bigalloc,large_dir,ea_inode,mmp"],
        ALL,
    );
}

#[test]
fn ext4_of_long_ago() {
    let off = "^metadata_csum,^64bit,^flex_bg,^huge_file,^extra_isize,meta_bg,^resize_inode";
    compare(&["-t", "ext4", "-b", "4096", "-O", off], ALL);
}

#[test]
fn ext3() {
    compare(&["-t", "ext3", "-b", "4096"], ALL);
}

#[test]
fn ext2() {
    compare(&["-t", "ext2", "-b", "1024", "-I", "128"], OLD);
}

/// An image that is copied while it is in use, as a backup of a running machine without its agent: committed to the
/// journal, not yet written to its place.
fn compare_in_use(kind: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), &["-t", kind]);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop,commit=1000") else { return };
    // The log begins anew at its start when it is full.
    for round in 0..12 {
        for number in 0..150 {
            let name = format!("round-{round}-{number}");
            fs::write(mount.path().join(&name), name.repeat(30)).expect("a file");
        }
        rustix::fs::syncfs(fs::File::open(mount.path()).expect("open")).expect("on the disk");
    }
    for number in 0..150 {
        fs::remove_file(mount.path().join(format!("round-3-{number}"))).expect("removed");
    }
    fs::File::open(mount.path()).expect("open").sync_all().expect("on the disk");
    let copy = folder.path().join("copy");
    fs::copy(&image, &copy).expect("copied");
    drop(mount);
    let mut tree = tree(&copy);
    assert!(tree.notes().iter().any(|note| note.contains("journal was replayed")));
    let found = read(&mut *tree);
    // The kernel replays it into the copy itself.
    let mount = Mount::new(&copy, &at, "loop").expect("as before");
    let kernel = shown_by_kernel(mount.path());
    assert!(kernel.len() > 1500, "{}", kernel.len());
    assert_same(&found, &kernel);
}

#[test]
fn ext4_in_use() {
    compare_in_use("ext4");
}

#[test]
fn ext3_in_use() {
    compare_in_use("ext3");
}

#[test]
fn what_is_not_read_right_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), &["-t", "ext4"]);
    let mut bytes = fs::read(&image).expect("an image");
    // Read-only compatible bit 0x4000.
    bytes[1024 + 101] |= 0x40;
    fs::write(&image, bytes).expect("written");
    let found = probe(&Image(fs::File::open(&image).expect("open"))).expect("found");
    assert_eq!((found.kind, found.label.as_deref()), ("ext4", Some("a label")));
    let refusal = found.reader.expect_err("refused");
    assert_eq!(refusal.kind, FaultKind::Unsupported);
    assert!(refusal.reason.ends_with("shared_blocks"), "{refusal}");
}

/// What mke2fs is given without a mount, for those who may not mount.
#[test]
fn a_tree_that_mke2fs_copies() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("a/b")).expect("folders");
    fs::write(source.join("a/b/file"), noise(1, 100_000)).expect("a file");
    std::os::unix::fs::symlink("../file", source.join("a/link")).expect("a link");
    let image = make(folder.path(), &["-t", "ext4", "-d", source.to_str().expect("utf-8")]);
    let mut found = read(&mut *tree(&image));
    found.retain(|path, _| !path.starts_with(b"/lost+found"));
    let mut kernel = shown_by_kernel(&source);
    for truth in found.values_mut().chain(kernel.values_mut()) {
        // Sizes of folders, and parts of seconds, are the file system's own.
        truth.attributes.accessed = None;
        truth.attributes.modified.iter_mut().for_each(|time| time.nanoseconds = 0);
        if truth.content.is_empty() && truth.target.is_empty() {
            truth.attributes.size = 0;
        }
    }
    assert_same(&found, &kernel);
}
