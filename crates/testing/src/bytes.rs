//! Bytes without a pattern, and where to put them.

/// `len` bytes that do not compress: the same for the same seed.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A temporary folder in memory where that exists: a test of many small files would mostly wait for a disk.
///
/// # Panics
///
/// If no folder can be made.
#[must_use]
pub fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}
