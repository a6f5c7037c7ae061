//! Byte ranges of a disk, and sorted sets of them.

use std::fmt;

/// `len` bytes from `offset`. Its end never exceeds `u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    offset: u64,
    len: u64,
}

/// Why numbers do not make a range or a set of ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Its end does not fit in 64 bits.
    #[error("{len} bytes from offset {offset} end beyond any disk")]
    Overflow {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl ByteRange {
    /// `len` bytes from `offset`.
    pub const fn new(offset: u64, len: u64) -> Result<Self, RangeError> {
        match offset.checked_add(len) {
            Some(_) => Ok(Self { offset, len }),
            None => Err(RangeError::Overflow { offset, len }),
        }
    }

    /// From `start` up to but not including `end`; empty if `end` is before `start`.
    pub const fn between(start: u64, end: u64) -> Self {
        Self { offset: start, len: end.saturating_sub(start) }
    }

    /// First byte.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes in it.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte after it.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// The bytes in both.
    #[must_use]
    pub fn intersect(&self, other: Self) -> Self {
        Self::between(self.offset.max(other.offset), self.end().min(other.end()))
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.len)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes from offset {}", self.len, self.offset)
    }
}

/// A set of bytes as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<ByteRange>);

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The union of ranges in any order, which may overlap.
    pub fn from_unsorted(mut ranges: Vec<ByteRange>) -> Self {
        ranges.sort_unstable();
        let mut set = Self::new();
        for range in ranges {
            set.push(range);
        }
        set
    }

    /// Adds a range that starts at or after the start of the last one.
    fn push(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.offset <= last.end() => {
                *last = ByteRange::between(last.offset, last.end().max(range.end()));
            }
            _ => self.0.push(range),
        }
    }

    /// Grows every range to whole multiples of `unit` bytes and joins what then touches.
    #[must_use]
    pub fn align_outwards(&self, unit: u64) -> Self {
        let mut set = Self::new();
        for range in &self.0 {
            let unit = unit.max(1);
            let start = range.offset.saturating_sub(range.offset.checked_rem(unit).unwrap_or(0));
            let end = range.end().checked_next_multiple_of(unit).unwrap_or(u64::MAX);
            set.push(ByteRange::between(start, end));
        }
        set
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.0.iter().copied()
    }

    /// The parts of the set that lie within `window`, ascending. Costs a binary search plus the
    /// answer.
    pub fn within(&self, window: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let first = self.0.partition_point(|range| range.end() <= window.offset());
        self.0
            .iter()
            .skip(first)
            .take_while(move |range| range.offset < window.end())
            .map(move |range| range.intersect(window))
            .filter(|range| !range.is_empty())
    }

    /// How many separate ranges.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Bytes in the set.
    pub fn total_len(&self) -> u64 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.len))
    }

    /// Whether the set has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The end of the last range; 0 for the empty set.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, ByteRange::end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covered(ranges: impl Iterator<Item = ByteRange>) -> Vec<bool> {
        let mut bytes = vec![false; 400];
        for range in ranges {
            for byte in range.offset()..range.end() {
                bytes[usize::try_from(byte).expect("small")] = true;
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn set_holds_exactly_the_union(raw in prop::collection::vec((0_u64..200, 0_u64..40), 0..30), window in (0_u64..250, 0_u64..80)) {
            let ranges: Vec<_> = raw.iter().map(|&(offset, len)| ByteRange::new(offset, len).expect("fits")).collect();
            let set = RangeSet::from_unsorted(ranges.clone());
            prop_assert_eq!(covered(set.iter()), covered(ranges.into_iter()));
            prop_assert!(set.0.windows(2).all(|pair| pair[0].end() < pair[1].offset()));

            let window = ByteRange::new(window.0, window.1).expect("fits");
            let cut: Vec<_> = set.iter().map(|range| range.intersect(window)).filter(|range| !range.is_empty()).collect();
            prop_assert_eq!(set.within(window).collect::<Vec<_>>(), cut);

            let aligned = set.align_outwards(16);
            prop_assert!(aligned.iter().all(|range| range.offset() % 16 == 0 && range.len() % 16 == 0));
            prop_assert!(set.iter().all(|range| aligned.within(range).map(|r| r.len()).sum::<u64>() == range.len()));
        }
    }

    #[test]
    fn overflow_is_an_error() {
        assert_eq!(
            ByteRange::new(u64::MAX, 2),
            Err(RangeError::Overflow { offset: u64::MAX, len: 2 })
        );
    }
}
