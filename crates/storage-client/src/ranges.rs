//! Lists of ranges, sorted by offset, that are too long for memory: side by side, and in pieces of one request.

use std::iter::Peekable;

use strongroom_azure::{ListedRange, MAX_PUT_PAGE};
use strongroom_base::ByteRange;

use crate::StorageClientError;

/// Ranges that have fewer bytes than this between them are read at once.
const NEAR: u64 = 64 << 10;
/// The most parts of one piece.
const MAX_PARTS: usize = 256;

/// A range, or why a list ends early.
pub(crate) type Listed = Result<ByteRange, StorageClientError>;

/// A sorted list that is asked, in ascending order, what it has within a range.
pub(crate) struct Beside<I: Iterator<Item = Listed>>(Peekable<I>);

impl<I: Iterator<Item = Listed>> Beside<I> {
    pub(crate) fn new(list: impl IntoIterator<IntoIter = I>) -> Self {
        Self(list.into_iter().peekable())
    }

    /// The parts of the list within a range, which does not begin before an earlier one ended.
    pub(crate) fn within(
        &mut self,
        range: ByteRange,
    ) -> Result<Vec<ByteRange>, StorageClientError> {
        let mut parts: Vec<ByteRange> = Vec::new();
        loop {
            match self.0.peek() {
                Some(Ok(next)) if next.offset() < range.end() => {
                    let (next, part) = (*next, next.intersect(range));
                    match parts.last_mut() {
                        Some(last) if last.end() == part.offset() => {
                            *last = ByteRange::between(last.offset(), part.end());
                        }
                        _ if part.is_empty() => {}
                        _ => parts.push(part),
                    }
                    if next.end() > range.end() {
                        return Ok(parts);
                    }
                    self.0.next();
                }
                Some(Err(_)) => {
                    // It is there: it was seen.
                    return match self.0.next() {
                        Some(Err(error)) => Err(error),
                        _ => Ok(parts),
                    };
                }
                Some(Ok(_)) | None => return Ok(parts),
            }
        }
    }
}

/// The parts of a range that are not in sorted parts of it.
pub(crate) fn without(range: ByteRange, parts: &[ByteRange]) -> Vec<ByteRange> {
    let mut rest = Vec::new();
    let mut at = range.offset();
    for part in parts {
        rest.push(ByteRange::between(at, part.offset()));
        at = part.end();
    }
    rest.push(ByteRange::between(at, range.end()));
    rest.retain(|part| !part.is_empty());
    rest
}

/// Bytes that are read by one request, and their parts that are written, each by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// At most 4 MiB.
    pub(crate) read: ByteRange,
    /// In ascending order, within the bytes that are read.
    pub(crate) parts: Vec<ByteRange>,
}

/// Puts sorted ranges into pieces: long ones are divided, near ones are read together.
pub(crate) struct Pieces<I: Iterator<Item = Listed>> {
    list: Peekable<I>,
    /// What is left of a long range.
    rest: Option<ByteRange>,
}

impl<I: Iterator<Item = Listed>> Pieces<I> {
    pub(crate) fn new(list: impl IntoIterator<IntoIter = I>) -> Self {
        Self { list: list.into_iter().peekable(), rest: None }
    }
}

impl<I: Iterator<Item = Listed>> Iterator for Pieces<I> {
    type Item = Result<Piece, StorageClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.rest.take() {
            Some(rest) => rest,
            None => match self.list.next()? {
                Ok(range) => range,
                Err(error) => return Some(Err(error)),
            },
        };
        let end = first.end().min(first.offset().saturating_add(MAX_PUT_PAGE));
        let head = ByteRange::between(first.offset(), end);
        if head != first {
            self.rest = Some(ByteRange::between(end, first.end()));
            return Some(Ok(Piece { read: head, parts: vec![head] }));
        }
        let mut piece = Piece { read: head, parts: vec![head] };
        let limit = head.offset().saturating_add(MAX_PUT_PAGE);
        while let Some(Ok(next)) = self.list.peek() {
            let is_near = next.offset() <= piece.read.end().saturating_add(NEAR);
            if !is_near || next.end() > limit || piece.parts.len() == MAX_PARTS {
                break;
            }
            match piece.parts.last_mut() {
                Some(last) if last.end() == next.offset() => {
                    *last = ByteRange::between(last.offset(), next.end());
                }
                _ => piece.parts.push(*next),
            }
            piece.read = ByteRange::between(head.offset(), next.end());
            self.list.next();
        }
        Some(Ok(piece))
    }
}

/// The ranges of a list that were written, or that were cleared, cut at a length.
pub(crate) fn of_kind(
    list: impl Iterator<Item = Result<ListedRange, StorageClientError>>,
    is_clear: bool,
    length: u64,
) -> impl Iterator<Item = Listed> {
    list.filter_map(move |listed| match listed {
        Ok(listed) if listed.is_clear == is_clear => cut(listed.range, length).map(Ok),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// The ranges of a list of both kinds, cut at a length.
pub(crate) fn of_both(
    list: impl Iterator<Item = Result<ListedRange, StorageClientError>>,
    length: u64,
) -> impl Iterator<Item = Listed> {
    list.filter_map(move |listed| match listed {
        Ok(listed) => cut(listed.range, length).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

fn cut(range: ByteRange, length: u64) -> Option<ByteRange> {
    let range = range.intersect(ByteRange::between(0, length));
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end)
    }

    fn sorted() -> impl Strategy<Value = Vec<ByteRange>> {
        prop::collection::vec((0..40_000_u64, 1..20_000_u64), 0..40).prop_map(|steps| {
            let mut at = 0;
            steps
                .into_iter()
                .map(|(gap, length)| {
                    let start = at + gap * 512;
                    at = start + length * 512;
                    range(start, at)
                })
                .collect()
        })
    }

    fn bytes(ranges: &[ByteRange]) -> u64 {
        ranges.iter().map(ByteRange::len).sum()
    }

    #[test]
    fn near_ranges_are_one_piece_and_long_ones_several() {
        let list = [
            range(0, 512),
            range(1024, 2048),
            range(1 << 20, 10 << 20),
            range(20 << 20, 20 << 20 | 512),
        ];
        let pieces: Vec<_> =
            Pieces::new(list.map(Ok)).map(|piece| piece.expect("a piece")).collect();
        let reads: Vec<_> =
            pieces.iter().map(|piece| (piece.read.offset(), piece.read.len())).collect();
        let mib = 1_u64 << 20;
        assert_eq!(
            reads,
            [(0, 2048), (mib, 4 * mib), (5 * mib, 4 * mib), (9 * mib, mib), (20 * mib, 512)]
        );
        assert_eq!(pieces[0].parts, [range(0, 512), range(1024, 2048)]);
    }

    #[test]
    fn an_error_in_a_list_is_not_lost() {
        let list = || [Ok(range(0, 512)), Err(StorageClientError::Bug("a test"))];
        assert_eq!(Pieces::new(list()).filter(Result::is_err).count(), 1);
        assert!(Beside::new(list()).within(range(0, 1024)).is_err());
        assert!(Beside::new(list()).within(range(0, 100)).is_ok());
    }

    proptest! {
        #[test]
        fn pieces_have_all_that_the_list_has(list in sorted()) {
            let pieces: Vec<Piece> = Pieces::new(list.clone().into_iter().map(Ok))
                .collect::<Result<_, _>>().expect("no error");
            let mut parts = Vec::new();
            for piece in &pieces {
                prop_assert!(piece.read.len() <= MAX_PUT_PAGE);
                for part in &piece.parts {
                    prop_assert_eq!(part.intersect(piece.read), *part);
                }
                parts.extend(piece.parts.iter().copied());
            }
            prop_assert!(parts.windows(2).all(|pair| pair[0].end() <= pair[1].offset()));
            let set = |ranges: &[ByteRange]| strongroom_base::RangeSet::from_unsorted(ranges.to_vec());
            prop_assert_eq!(set(&parts), set(&list));
        }

        #[test]
        fn what_is_within_and_what_is_not_are_the_whole(list in sorted(), windows in sorted()) {
            let mut beside = Beside::new(list.clone().into_iter().map(Ok));
            for window in windows {
                let parts = beside.within(window).expect("no error");
                let expected: u64 = list.iter().map(|range| range.intersect(window).len()).sum();
                prop_assert_eq!(bytes(&parts), expected);
                let rest = without(window, &parts);
                prop_assert_eq!(bytes(&rest) + bytes(&parts), window.len());
                prop_assert!(rest.iter().all(|rest| parts.iter().all(|part| part.intersect(*rest).is_empty())));
            }
        }
    }
}
