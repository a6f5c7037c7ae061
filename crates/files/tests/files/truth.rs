//! What a tree has, as a reader of this crate says and as the kernel does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use rustix::fs as sys;
use strongroom_base::{Clock as _, SplitMix64, SystemClock};
use strongroom_files::{Attributes, Fault, Kind, Piece, ReadAt, Time, Tree, open, shown, survey};

/// A file as a disk.
pub(crate) struct Image(pub(crate) File);

impl ReadAt for Image {
    fn size(&self) -> u64 {
        self.0.metadata().expect("a size").len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// Everything that is compared of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) attributes: Attributes,
    pub(crate) target: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Files by path.
pub(crate) type Truths = BTreeMap<Vec<u8>, Truth>;

/// The only volume of an image, opened in this process.
pub(crate) fn tree(image: &Path) -> Box<dyn Tree> {
    let disk: Arc<dyn ReadAt> = Arc::new(Image(File::open(image).expect("an image")));
    let found = survey(&[disk]);
    let readable: Vec<_> = found.iter().filter(|it| it.volume.refusal.is_none()).collect();
    let [one] = readable.as_slice() else {
        panic!("not one volume: {:?}", found.iter().map(|it| &it.volume).collect::<Vec<_>>())
    };
    open(Arc::clone(&one.bytes)).expect("opens")
}

/// All that a reader finds.
pub(crate) fn read(tree: &mut dyn Tree) -> Truths {
    let mut found = Truths::new();
    let mut folders = vec![(Vec::new(), tree.root())];
    let mut entered = BTreeSet::new();
    while let Some((folder, node)) = folders.pop() {
        assert!(entered.insert(node), "{}: a folder with two places", shown(&folder));
        for entry in tree.list(node).unwrap_or_else(|e| panic!("{}: {e}", shown(&folder))) {
            let path = [folder.as_slice(), b"/", &entry.name].concat();
            let attributes = good(entry.attributes, &path);
            let target = match attributes.kind {
                Kind::Link => good(tree.target(entry.node), &path),
                _ => Vec::new(),
            };
            let content = match attributes.kind {
                Kind::File => content(tree, entry.node, attributes.size, &path),
                _ => Vec::new(),
            };
            let xattrs = good(tree.xattrs(entry.node), &path);
            if attributes.kind == Kind::Folder {
                folders.push((path.clone(), entry.node));
            }
            let xattrs = xattrs.into_iter().collect();
            let there = found.insert(path.clone(), Truth { attributes, target, content, xattrs });
            assert!(there.is_none(), "{} twice", shown(&path));
        }
    }
    found
}

fn good<T>(result: Result<T, Fault>, path: &[u8]) -> T {
    result.unwrap_or_else(|error| panic!("{}: {error}", shown(path)))
}

/// Reads in pieces of an odd length, so that they begin and end anywhere.
fn content(tree: &mut dyn Tree, node: u64, size: u64, path: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut buf = vec![0; 300_007];
    while (content.len() as u64) < size {
        let piece = tree.read(node, content.len() as u64, &mut buf);
        match piece.unwrap_or_else(|error| panic!("{}: {error}", shown(path))) {
            Piece::Data(0) => panic!("{}: short", shown(path)),
            Piece::Data(len) => content.extend(&buf[..len]),
            Piece::Hole(len) => {
                content.resize(content.len() + usize::try_from(len).expect("small"), 0);
            }
        }
    }
    assert_eq!(content.len() as u64, size, "{}", shown(path));
    content
}

/// All that the kernel shows below a folder.
pub(crate) fn shown_by_kernel(root: &Path) -> Truths {
    let mut found = Truths::new();
    let mut folders = vec![(Vec::new(), root.to_owned())];
    while let Some((folder, place)) = folders.pop() {
        for entry in fs::read_dir(&place).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_vec();
            let path = [folder.as_slice(), b"/", &name].concat();
            let meta = fs::symlink_metadata(entry.path()).expect("attributes");
            let kind = Kind::of_mode(meta.mode()).expect("a kind");
            let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
            let rdev = meta.rdev();
            let attributes = Attributes {
                kind,
                size: meta.size(),
                mode: Some(meta.mode() & 0o7777),
                uid: Some(meta.uid()),
                gid: Some(meta.gid()),
                links: Some(u32::try_from(meta.nlink()).expect("small")),
                modified: time(meta.mtime(), meta.mtime_nsec()),
                accessed: time(meta.atime(), meta.atime_nsec()),
                device: is_device.then(|| (sys::major(rdev), sys::minor(rdev))),
            };
            let target = match kind {
                Kind::Link => {
                    fs::read_link(entry.path()).expect("a link").into_os_string().into_vec()
                }
                _ => Vec::new(),
            };
            let content = match kind {
                Kind::File => fs::read(entry.path()).expect("a file"),
                _ => Vec::new(),
            };
            if kind == Kind::Folder {
                folders.push((path.clone(), entry.path()));
            }
            let xattrs = xattrs(&entry.path());
            found.insert(path, Truth { attributes, target, content, xattrs });
        }
    }
    found
}

#[allow(clippy::unnecessary_wraps, reason = "as attributes have it")]
fn time(seconds: i64, nanoseconds: i64) -> Option<Time> {
    Some(Time { seconds, nanoseconds: u32::try_from(nanoseconds).expect("a part of a second") })
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let len = match sys::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        listed => listed.expect("names of attributes"),
    };
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = sys::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..])
                .expect("an attribute");
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// Fails with the first differences, if there are any.
pub(crate) fn assert_same(found: &Truths, kernel: &Truths) {
    let mut differences = Vec::new();
    for (path, truth) in kernel {
        match found.get(path) {
            None => differences.push(format!("{} is missing", shown(path))),
            Some(got) if got != truth => {
                let of = |truth: &Truth| {
                    let xattrs: Vec<_> =
                        truth.xattrs.iter().map(|(n, v)| (shown(n), v.len())).collect();
                    (truth.attributes.clone(), shown(&truth.target), truth.content.len(), xattrs)
                };
                let same_content = got.content == truth.content;
                differences.push(format!(
                    "{}: {:?} is not {:?} (content alike: {same_content})",
                    shown(path),
                    of(got),
                    of(truth)
                ));
            }
            Some(_) => {}
        }
    }
    for path in found.keys().filter(|path| !kernel.contains_key(*path)) {
        differences.push(format!("{} should not be there", shown(path)));
    }
    let few: Vec<_> = differences.iter().take(10).collect();
    assert!(differences.is_empty(), "{} of {}: {few:#?}", differences.len(), kernel.len());
    assert!(!kernel.is_empty(), "nothing was compared");
}

/// Bytes that no compression makes smaller.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = SplitMix64::new(seed);
    (0..len).map(|_| u8::try_from(numbers.below(256)).expect("a byte")).collect()
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// An image that a process serves through FUSE, until it is dropped.
pub(crate) struct Served {
    at: PathBuf,
    server: Child,
}

impl Served {
    /// Serves it by this program, which stays in the foreground; none where this user may not mount.
    pub(crate) fn new(program: &str, arguments: &[&str], image: &Path, at: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("not tried, as nothing can be mounted here");
            return None;
        }
        fs::create_dir_all(at).expect("a folder");
        let before = fs::metadata(at).expect("a folder").dev();
        let mut server = Command::new(program)
            .args(arguments)
            .args([image, at])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        while fs::metadata(at).expect("a folder").dev() == before {
            let ended = server.try_wait().expect("a process");
            assert!(ended.is_none(), "{program} {arguments:?}: {ended:?}");
            SystemClock.sleep(std::time::Duration::from_millis(5));
        }
        Some(Self { at: at.to_owned(), server })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        run("umount", &[self.at.to_str().expect("utf-8")]);
        // Only then everything is in the image.
        self.server.wait().expect("it ends");
    }
}

/// A reader of damaged copies of an image: whatever is in them, it ends, and does not panic.
pub(crate) fn survives_damage(image: &[u8], places: &[std::ops::Range<usize>], rounds: u64) {
    let mut opened = 0;
    for round in 0..rounds {
        let mut numbers = SplitMix64::new(round);
        let mut below = |most: usize| usize::try_from(numbers.below(most as u64)).expect("small");
        let mut copy = image.to_vec();
        for _ in 0..=below(4) {
            let place = &places[below(places.len())];
            let at = place.start + below(place.len());
            copy[at] =
                if below(2) == 0 { u8::MAX } else { u8::try_from(below(256)).expect("a byte") };
        }
        let disk: Arc<dyn ReadAt> = Arc::new(Memory(copy));
        for one in survey(&[disk]).iter().filter(|it| it.volume.refusal.is_none()) {
            let Ok(mut tree) = open(Arc::clone(&one.bytes)) else { continue };
            opened += 1;
            wander(&mut *tree);
        }
    }
    assert!(opened > rounds / 10, "only {opened} of {rounds} could be opened at all");
}

/// Reads what can be read, but not for ever.
fn wander(tree: &mut dyn Tree) {
    let mut folders = vec![tree.root()];
    let mut entered = BTreeSet::new();
    let mut buf = vec![0; 65_536];
    while let Some(node) = folders.pop() {
        if !entered.insert(node) {
            continue;
        }
        for entry in tree.list(node).unwrap_or_default() {
            tree.target(entry.node).ok();
            tree.xattrs(entry.node).ok();
            tree.folded(&entry.name);
            match entry.attributes {
                Ok(found) if found.kind == Kind::Folder => folders.push(entry.node),
                Ok(found) => {
                    for offset in [0, 5000, found.size / 2, found.size.saturating_sub(1)] {
                        tree.read(entry.node, offset, &mut buf).ok();
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// Bytes as a disk.
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl ReadAt for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(buf.len()).filter(|end| *end <= self.0.len());
        let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(&self.0[start..end]);
        Ok(())
    }
}

/// A mounted image, until it is dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts it; none where this user may not mount.
    pub(crate) fn new(image: &Path, at: &Path, options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("not tried, as nothing can be mounted here");
            return None;
        }
        fs::create_dir_all(at).expect("a folder");
        let (image, folder) = (image.to_str().expect("utf-8"), at.to_str().expect("utf-8"));
        run("mount", &["-o", options, image, folder]);
        Some(Self(at.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().expect("utf-8")]);
    }
}
