//! Entry points for fuzzing: each takes outside bytes and must return, whatever they are.

/// A whole image file, taken for each format in turn.
pub fn fuzz_image(bytes: &[u8]) {
    crate::image::fuzz(bytes);
}

/// A changed-ranges file.
pub fn fuzz_changed_ranges(bytes: &[u8]) {
    drop(crate::ChangedRanges::read("fuzz", bytes));
}

/// A disk as a user names it.
pub fn fuzz_spec(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(text.parse::<crate::DiskSpec>());
    }
}
