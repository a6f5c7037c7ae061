//! How much a report names. Its form is the matter of the crate `reports`.

/// Objects and points named in a report; beyond that they are only counted.
pub(super) const MAX_NAMED: usize = 1000;
/// Ranges named for each disk.
pub(super) const MAX_RANGES: usize = 100;
