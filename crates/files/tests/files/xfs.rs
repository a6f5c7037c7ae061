//! XFS, clean and in use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use strongroom_files::Kind;

use crate::{
    fill::{Can, fill},
    truth::{Mount, Truths, assert_same, read, run, shown_by_kernel, tree},
};

fn make(folder: &Path, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    let file = fs::File::create(&image).expect("an image");
    file.set_len(400 << 20).expect("a size");
    let mut arguments = options.to_vec();
    arguments.extend(["-q", "-f", "-L", "a label", image.to_str().expect("utf-8")]);
    run("mkfs.xfs", &arguments);
    image
}

/// Root also sees lists in the form in which they lie on the disk.
fn without_raw_lists(mut truths: Truths) -> Truths {
    for truth in truths.values_mut() {
        truth.xattrs.retain(|name, _| !name.starts_with(b"trusted.SGI_ACL"));
    }
    truths
}

fn compare(options: &[&str], dates: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), options);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop") else { return };
    fill(mount.path(), Can { dates, xattr: 60 });
    drop(mount);
    let found = read(&mut *tree(&image));
    let mount = Mount::new(&image, &at, "loop,ro").expect("as before");
    assert_same(&found, &without_raw_lists(shown_by_kernel(mount.path())));
}

#[test]
fn xfs_of_today() {
    compare(&["-i", "size=1024,nrext64=1"], true);
}

#[test]
fn xfs_with_small_blocks_and_old_times() {
    compare(
        &["-b", "size=1024", "-i", "size=512", "-m", "bigtime=0,rmapbt=1", "-n", "size=8192"],
        false,
    );
}

/// What is known of files whose inodes are in the log only is right; the rest is none.
#[test]
fn xfs_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = make(folder.path(), &[]);
    let at = folder.path().join("mounted");
    let Some(mount) = Mount::new(&image, &at, "loop") else { return };
    let name = |number: usize| at.join(format!("file-{number}"));
    for number in 0..200 {
        fs::write(name(number), format!("first {number}")).expect("a file");
    }
    drop(mount);
    let mount = Mount::new(&image, &at, "loop").expect("again");
    for number in (0..200).step_by(2) {
        fs::write(name(number), format!("second, and longer {number}")).expect("a file");
        std::os::unix::fs::chown(name(number), Some(4321), None).expect("owned");
    }
    std::os::unix::fs::symlink("a target", at.join("link")).expect("a link");
    run("mkfifo", &[at.join("pipe").to_str().expect("utf-8")]);
    rustix::fs::syncfs(fs::File::open(mount.path()).expect("open")).expect("on the disk");
    let copy = folder.path().join("copy");
    fs::copy(&image, &copy).expect("copied");
    drop(mount);
    let clean = "extended attributes that lie outside of the inode are not read";
    assert_eq!(tree(&image).notes(), [clean]);
    let in_use = tree(&copy).notes();
    assert!(in_use[0].starts_with("it was in use; its log was replayed"), "{in_use:?}");
    let found = read(&mut *tree_without_xattrs(&copy));
    let mount = Mount::new(&copy, &at, "loop").expect("as before");
    let mut kernel = shown_by_kernel(mount.path());
    let mut unknown = 0;
    for (path, truth) in &mut kernel {
        let got = &found[path].attributes;
        if got.uid.is_none() {
            unknown += 1;
            let known = matches!(got.kind, Kind::File | Kind::Link | Kind::Pipe);
            assert!(known, "{path:?}");
            truth.attributes.uid = None;
            truth.attributes.gid = None;
            truth.attributes.links = None;
            truth.attributes.modified = None;
            truth.attributes.accessed = None;
        }
    }
    assert_same(&found, &kernel);
    assert!(unknown >= 100, "{unknown}: the log had nothing to replay");
}

/// Attributes of inodes in the log are refused, which is no difference here.
fn tree_without_xattrs(image: &Path) -> Box<dyn strongroom_files::Tree> {
    struct Without(Box<dyn strongroom_files::Tree>);
    impl strongroom_files::Tree for Without {
        fn root(&self) -> u64 {
            self.0.root()
        }
        fn notes(&self) -> Vec<String> {
            self.0.notes()
        }
        fn attributes(
            &mut self,
            node: u64,
        ) -> Result<strongroom_files::Attributes, strongroom_files::Fault> {
            self.0.attributes(node)
        }
        fn list(
            &mut self,
            node: u64,
        ) -> Result<Vec<strongroom_files::Entry>, strongroom_files::Fault> {
            self.0.list(node)
        }
        fn read(
            &mut self,
            node: u64,
            offset: u64,
            buf: &mut [u8],
        ) -> Result<strongroom_files::Piece, strongroom_files::Fault> {
            self.0.read(node, offset, buf)
        }
        fn target(&mut self, node: u64) -> Result<Vec<u8>, strongroom_files::Fault> {
            self.0.target(node)
        }
        fn xattrs(
            &mut self,
            _: u64,
        ) -> Result<Vec<strongroom_files::Xattr>, strongroom_files::Fault> {
            Ok(Vec::new())
        }
    }
    Box::new(Without(tree(image)))
}
