//! Conversions between sizes in memory and sizes on disk, which saturate instead of wrapping.

/// A length in memory as a length on disk.
pub(crate) fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A length on disk as a length in memory; what does not fit becomes the largest length.
pub(crate) fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// `value` rounded down to a multiple of `unit`.
pub(crate) fn round_down(value: u64, unit: u64) -> u64 {
    value.saturating_sub(value.checked_rem(unit).unwrap_or(0))
}

/// `value` rounded up to a multiple of `unit`; the largest number if that does not fit.
pub(crate) fn round_up(value: u64, unit: u64) -> u64 {
    value.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}
