//! Reading a journal after a crash: where it ends, and whether that is an end or damage.

use std::{fs, io, path::Path};

use bytes::Bytes;

use super::{
    frame::{FRAME_ALIGN, Frame, SEGMENT_HEAD, SegmentHead},
    segments,
};
use crate::{
    numbers::{size, wide},
    record::{BadRecord, Record},
};

/// Why a journal cannot be applied: changes that were acknowledged are missing from it.
#[derive(Debug, thiserror::Error)]
pub enum JournalDamage {
    /// A file cannot be read.
    #[error("the journal cannot be read")]
    Read(#[source] io::Error),
    /// A segment has no valid head, or is another store's.
    #[error("the segment of record {first} is damaged or belongs to another store")]
    Head {
        /// The number in the segment's name.
        first: u64,
    },
    /// A record is missing, although later ones are there.
    #[error("record {number} of the journal is damaged or missing, but later records are there")]
    Missing {
        /// The record's number.
        number: u64,
    },
    /// The journal ends before the place that the state stands for.
    #[error("the journal ends before record {number}, from which on it is needed")]
    Ends {
        /// The first record that is needed.
        number: u64,
    },
    /// A frame is whole, but its record is not one.
    #[error("record {number} of the journal cannot be read")]
    Record {
        /// The record's number.
        number: u64,
        /// What is wrong with it.
        source: BadRecord,
    },
}

/// Gives the records from `from` on to `apply`, and returns the number behind the last one.
pub(crate) fn replay<E: From<JournalDamage>>(
    folder: &Path,
    store: [u8; 16],
    from: u64,
    mut apply: impl FnMut(u64, Record) -> Result<(), E>,
) -> Result<u64, E> {
    let all = segments(folder).map_err(JournalDamage::Read)?;
    // Segments that end before `from` were not deleted yet when the store ended.
    let useless = all.iter().skip(1).take_while(|(first, _)| *first <= from).count();
    let mut next: Option<u64> = None;
    for (first, path) in all.iter().skip(useless) {
        let damaged = || JournalDamage::Head { first: *first };
        let bytes = Bytes::from(fs::read(path).map_err(JournalDamage::Read)?);
        let head = SegmentHead::decode(&bytes)
            .filter(|head| head.store == store && head.first == *first)
            .ok_or_else(damaged)?;
        match next {
            None if *first > from => return Err(JournalDamage::Missing { number: from }.into()),
            Some(next) if *first != next => {
                return Err(JournalDamage::Missing { number: next }.into());
            }
            _ => {}
        }
        let mut number = *first;
        let mut at = SEGMENT_HEAD;
        while let Some(frame) = head.whole_frame(&bytes, at).filter(|f| f.number == number) {
            let Frame { payload, end, .. } = frame;
            if number >= from {
                let record = Record::decode(&payload)
                    .map_err(|source| JournalDamage::Record { number, source })?;
                apply(number, record)?;
            }
            number = number.saturating_add(1);
            at = end;
        }
        if later_is_durable(&head, &bytes, at, number) {
            return Err(JournalDamage::Missing { number }.into());
        }
        next = Some(number);
    }
    match next {
        Some(next) if next >= from => Ok(next),
        _ => Err(JournalDamage::Ends { number: from }.into()),
    }
}

/// Whether a whole frame behind `at` shows that the record `number` was durable once. A frame that was written in the
/// same group shows nothing: the disk may have kept the end of an unfinished write and not its beginning.
fn later_is_durable(head: &SegmentHead, bytes: &Bytes, at: u64, number: u64) -> bool {
    let align = size(FRAME_ALIGN);
    let behind = bytes.get(size(at)..).unwrap_or_default();
    let places = behind.chunks_exact(align).zip((0..).map(|n: u64| n.saturating_mul(FRAME_ALIGN)));
    for (place, offset) in places {
        if place.starts_with(&super::frame::FRAME_MAGIC)
            && let Some(frame) = head.whole_frame(bytes, at.saturating_add(offset))
            && frame.durable >= number
        {
            return true;
        }
    }
    debug_assert!(at <= wide(bytes.len()).next_multiple_of(FRAME_ALIGN), "frames lie within");
    false
}
