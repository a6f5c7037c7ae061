//! Conversions between widths of integers, without `as`. A value that does not fit becomes the greatest one, which
//! every check of a limit refuses.

/// An index or a length for the standard library.
pub(crate) fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A length as the store has it.
pub(crate) fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
