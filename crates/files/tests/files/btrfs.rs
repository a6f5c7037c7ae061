//! btrfs, with compression, subvolumes and snapshots.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_files::{ReadAt, probe, survey};

use crate::{
    fill::{Can, fill},
    truth::{Image, Mount, Truths, assert_same, noise, read, run, shown_by_kernel, tree},
};

const ALL: Can = Can { dates: true, xattr: 3000 };

fn make(folder: &Path, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    let file = fs::File::create(&image).expect("an image");
    file.set_len(256 << 20).expect("a size");
    let mut arguments = options.to_vec();
    arguments.extend(["-q", "-f", "-L", "a label", image.to_str().expect("utf-8")]);
    run("mkfs.btrfs", &arguments);
    image
}

/// The kernel counts names of folders as one, and keeps inode numbers of subvolumes to itself.
fn compare(image: &Path, at: &Path) {
    let found = read(&mut *tree(image));
    let mount = Mount::new(image, at, "loop,ro").expect("as before");
    let kernel = shown_by_kernel(mount.path());
    assert_same(&found, &kernel);
}

#[test]
fn btrfs_of_today() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop") else { return };
    fill(mount.path(), ALL);
    drop(mount);
    compare(&image, &at);
}

#[test]
fn btrfs_compressed() {
    for algorithm in ["zlib", "lzo", "zstd"] {
        let folder = tempfile::tempdir().expect("a folder");
        let image = make(folder.path(), &["--csum", "xxhash"]);
        let at = folder.path().join("mounted");
        let options = format!("loop,compress-force={algorithm}");
        let Some(mount) = Mount::new(&image, &at, &options) else { return };
        let half: Vec<u8> =
            (0..40).flat_map(|seed| [noise(seed, 3000), vec![7; 9000]].concat()).collect();
        fs::write(mount.path().join("half"), &half).expect("a file");
        fs::write(mount.path().join("text"), "words and words ".repeat(40_000)).expect("a file");
        fs::write(mount.path().join("small"), "small ".repeat(200)).expect("a file");
        drop(mount);
        compare(&image, &at);
    }
}

#[test]
fn btrfs_subvolumes_and_snapshots() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop") else { return };
    let path = |name: &str| mount.path().join(name).to_str().expect("utf-8").to_owned();
    run("btrfs", &["subvolume", "create", &path("one")]);
    fs::write(path("one/file"), "in the subvolume").expect("a file");
    run("btrfs", &["subvolume", "create", &path("one/inner")]);
    fs::write(path("one/inner/file"), "in the inner one").expect("a file");
    run("btrfs", &["subvolume", "snapshot", "-r", &path("one"), &path("snapshot")]);
    fs::write(path("one/file"), "changed since").expect("a file");
    drop(mount);
    let without_dummy = |mut truths: Truths| {
        // The kernel makes up an owner and times for the folder that it shows where a snapshot has no subvolume.
        let dummy = truths.remove(b"/snapshot/inner".as_slice()).expect("shown");
        assert_eq!(dummy.attributes.kind, strongroom_files::Kind::Folder);
        truths
    };
    let found = read(&mut *tree(&image));
    let mount = Mount::new(&image, &at, "loop,ro").expect("as before");
    assert_same(&without_dummy(found), &without_dummy(shown_by_kernel(mount.path())));
}

/// A snapshot of a folder with several subvolumes has an empty folder for each, with a place of its own.
#[test]
fn btrfs_snapshots_of_several_subvolumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop") else { return };
    let path = |name: &str| mount.path().join(name).to_str().expect("utf-8").to_owned();
    std::os::unix::fs::chown(mount.path(), Some(500), Some(600)).expect("owned");
    for name in ["home", "var"] {
        run("btrfs", &["subvolume", "create", &path(name)]);
        fs::write(path(&format!("{name}/file")), name).expect("a file");
    }
    for name in ["s1", "s2"] {
        run("btrfs", &["subvolume", "snapshot", "-r", &path("."), &path(name)]);
    }
    drop(mount);
    let found = read(&mut *tree(&image));
    let mount = Mount::new(&image, &at, "loop,ro").expect("as before");
    let mut kernel = shown_by_kernel(mount.path());
    for name in ["s1/home", "s1/var", "s2/home", "s2/var", "s2/s1"] {
        let path = format!("/{name}").into_bytes();
        // The kernel makes up the time: now.
        let truth = kernel.get_mut(&path).expect(name);
        truth.attributes.modified = found[&path].attributes.modified;
    }
    assert_same(&found, &kernel);
}

#[test]
fn a_log_that_was_not_replayed_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop,commit=300") else { return };
    fs::write(mount.path().join("file"), "content").expect("a file");
    let file = fs::File::open(mount.path().join("file")).expect("open");
    rustix::fs::syncfs(&file).expect("on the disk");
    drop(file);
    fs::write(mount.path().join("file"), "other").expect("a file");
    fs::File::open(mount.path().join("file")).expect("open").sync_all().expect("on the disk");
    let copy = folder.path().join("copy");
    fs::copy(&image, &copy).expect("copied");
    drop(mount);
    let found = probe(&Image(fs::File::open(&copy).expect("open"))).expect("found");
    let refusal = found.reader.expect_err("refused");
    assert!(refusal.reason.contains("log has to be replayed"), "{refusal}");
}

/// A file system on several disks of a recovery point.
#[test]
fn btrfs_on_several_devices() {
    for (profile, count) in [("raid0", 2), ("raid1", 2), ("single", 3), ("raid10", 4)] {
        let folder = tempfile::tempdir().expect("a folder");
        if !rustix::process::geteuid().is_root() {
            println!("not tried, as nothing can be mounted here");
            return;
        }
        let path = |number| folder.path().join(format!("image{number}"));
        let mut devices = Vec::new();
        for number in 0..count {
            fs::File::create(path(number)).expect("an image").set_len(160 << 20).expect("a size");
            devices.push(Loop::new(&path(number)));
        }
        let names: Vec<&str> = devices.iter().map(|device| device.0.as_str()).collect();
        let mut arguments = vec!["-q", "-f", "-L", "several", "-d", profile, "-m"];
        arguments.push(if profile == "single" { "raid1" } else { profile });
        run("mkfs.btrfs", &[arguments, names.clone()].concat());
        run("btrfs", &[&["device", "scan"], names.as_slice()].concat());
        let at = folder.path().join("mounted");
        let mount =
            |options: &str| Mount::new(Path::new(names[0]), &at, options).expect("as before");
        let mounted = mount("rw");
        for (seed, size) in (1..).zip([100, 70_000, 3_000_000, 20_000_000]) {
            fs::write(mounted.path().join(format!("{size}")), noise(seed, size)).expect("a file");
        }
        drop(mounted);

        let disk = |number| -> Arc<dyn ReadAt> {
            Arc::new(Image(fs::File::open(path(number)).expect("an image")))
        };
        let disks: Vec<_> = (0..count).map(disk).collect();
        let found = survey(&disks);
        let readable: Vec<_> = found.iter().filter(|it| it.volume.refusal.is_none()).collect();
        assert_eq!(readable.len(), 1, "{profile}");
        assert_eq!(readable[0].volume.notes, [format!("it is on {count} devices")]);
        let truths = read(&mut *readable[0].open().expect("opens"));
        let mounted = mount("ro");
        assert_same(&truths, &shown_by_kernel(mounted.path()));
        drop(mounted);
        // One of them is not there, or there twice.
        for disks in [disks[1..].to_vec(), [&disks[..], &disks[..1]].concat()] {
            for one in survey(&disks) {
                let reason = one.volume.refusal.expect("refused").reason;
                assert!(
                    reason.contains("not all are here") || reason.contains("several times"),
                    "{reason}"
                );
            }
        }
    }
}

/// A block device of a file.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Self {
        let path = "/usr/sbin:/usr/bin:/sbin:/bin";
        let made = std::process::Command::new("losetup")
            .args(["-f", "--show"])
            .arg(image)
            .env("PATH", path)
            .output()
            .expect("losetup");
        assert!(made.status.success(), "{made:?}");
        Self(String::from_utf8(made.stdout).expect("text").trim_end().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["-d", &self.0]);
    }
}
