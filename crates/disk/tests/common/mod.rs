//! What the tests on real disks share.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use strongroom_base::ByteRange;
use strongroom_disk::{DiskError, DiskSource, DiskSpec, ExtentKind, OpenOptions, open_source};
#[allow(unused_imports, reason = "each test program uses a part of it")]
pub use strongroom_testing::{Server, noise, run, wait_until};

/// A folder on the file system that the build uses: a real one, not a tmpfs.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the test")
}

/// Waits until somebody listens at the socket `path`.
pub fn wait_for(path: &Path) {
    let listens = || std::os::unix::net::UnixStream::connect(path).is_ok();
    wait_until(&format!("somebody listens at {}", path.display()), listens);
}

/// Writes a disk of `len` bytes with data at the given places, and returns its bytes.
pub fn raw_disk(path: &Path, len: usize, data: &[(usize, usize)]) -> Vec<u8> {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut bytes = vec![0; len];
    let file = std::fs::File::create(path).expect("a new file");
    file.set_len(u64::try_from(len).expect("fits")).expect("resizes");
    for &(offset, len) in data {
        let part = noise(SEED.fetch_add(1, Ordering::Relaxed), len);
        bytes[offset..offset + len].copy_from_slice(&part);
        std::os::unix::fs::FileExt::write_all_at(
            &file,
            &part,
            u64::try_from(offset).expect("fits"),
        )
        .expect("writes");
    }
    file.sync_all().expect("syncs");
    bytes
}

pub fn open(spec: &str) -> Result<Box<dyn DiskSource>, DiskError> {
    open_source(&spec.parse::<DiskSpec>()?, &OpenOptions::default())
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Reads a source whole, holes by their extents, and checks that the extents are well-formed.
pub fn read_all(source: &dyn DiskSource) -> Vec<u8> {
    let size = source.size();
    let mut bytes = vec![0xAA; usize::try_from(size).expect("small")];
    let mut at = 0;
    while at < size {
        let answer = source.extents(ByteRange::between(at, size)).expect("extents");
        assert!(!answer.is_empty(), "no extent at {at}");
        for extent in answer {
            assert_eq!(extent.range.offset(), at);
            assert!(!extent.range.is_empty() && extent.range.end() <= size);
            let start = usize::try_from(at).expect("small");
            let end = usize::try_from(extent.range.end()).expect("small");
            for (i, part) in bytes[start..end].chunks_mut(100_000).enumerate() {
                match extent.kind {
                    ExtentKind::Data => {
                        let at = at + u64::try_from(i * 100_000).expect("fits");
                        source.read_at(at, part).expect("reads");
                    }
                    ExtentKind::Zero => part.fill(0),
                }
            }
            at = extent.range.end();
        }
    }
    bytes
}

/// Bytes that are said to be data.
pub fn data_len(source: &dyn DiskSource) -> u64 {
    let (mut at, mut sum) = (0, 0);
    while at < source.size() {
        for extent in source.extents(ByteRange::between(at, source.size())).expect("extents") {
            at = extent.range.end();
            if extent.kind == ExtentKind::Data {
                sum += extent.range.len();
            }
        }
    }
    sum
}

/// Asserts that two disks are equal without printing them.
pub fn assert_same(left: &[u8], right: &[u8]) {
    assert_eq!(left.len(), right.len());
    if let Some(at) = left.iter().zip(right).position(|(left, right)| left != right) {
        panic!("they differ from byte {at}");
    }
}

pub fn socket(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("socket")
}
