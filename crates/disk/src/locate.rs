//! Finding the exact part of a disk that cannot be read.
//!
//! This module owns the search. Whether such a part is skipped or ends the work is for the caller to decide.

use std::io;

use strongroom_base::ByteRange;

use crate::num::{round_down, round_up};

/// The first stretch of `range` that `read` fails on, in whole units of `unit` bytes, and its
/// error; `error` is what reading the whole of `range` said. If nothing fails when it is read
/// again in pieces, that is the last piece that was looked at, and `error`.
///
/// Halves the range until one unit is left, then continues unit by unit while they fail.
pub(crate) fn first_failing(
    range: ByteRange,
    unit: u64,
    error: io::Error,
    read: impl Fn(ByteRange) -> io::Result<()>,
) -> (ByteRange, io::Error) {
    let unit = unit.max(1);
    let last = round_up(range.end(), unit);
    let mut start = round_down(range.offset(), unit);
    let mut end = last;
    let mut cause = error;
    while end.saturating_sub(start) > unit {
        let half = round_up(end.saturating_sub(start) / 2, unit);
        let middle = start.saturating_add(half);
        match read(ByteRange::between(start, middle)) {
            Ok(()) => start = middle,
            Err(error) => (end, cause) = (middle, error),
        }
    }
    while end < last {
        let next = end.saturating_add(unit);
        match read(ByteRange::between(end, next)) {
            Ok(()) => break,
            Err(_) => end = next,
        }
    }
    (ByteRange::between(start, end), cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_the_first_stretch(bad in prop::collection::btree_set(0_u64..64, 1..20), from in 0_u64..32, len in 1_u64..40) {
            let window = ByteRange::new(from * 512 + 7, len * 512).expect("fits");
            let fails = |part: ByteRange| bad.iter().any(|unit| !ByteRange::new(unit * 512, 512).expect("fits").intersect(part).is_empty());
            prop_assume!(fails(window));
            let (found, _) = first_failing(window, 512, io::ErrorKind::Other.into(), |part| {
                if fails(part) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
            });
            let first = *bad.iter().find(|unit| (*unit + 1) * 512 > window.offset()).expect("one");
            let mut end = first + 1;
            while bad.contains(&end) && end * 512 < window.end() { end += 1; }
            prop_assert_eq!(found, ByteRange::between(first * 512, end * 512));
        }
    }
}
