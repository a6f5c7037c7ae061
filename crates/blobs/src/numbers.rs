//! Conversions between widths of integers, without `as`.
//!
//! This crate runs where a pointer has 64 bits, so that a `u64` always fits; a value that does not fit becomes the
//! greatest one, which every check of a limit refuses.

/// An index or a length for the standard library.
pub(crate) fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A length as it is written down.
pub(crate) fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A number of a block, a cell or a page, or a length of a field.
pub(crate) fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
