//! Where the content of block blobs and append blobs lies in the pages of its generation.
//!
//! A generation is an address space of pages. A *place* is an address in it; an *extent* says that some bytes of the
//! content lie at a place. The extents of a blob are rows of the table of names, a piece of the list in each, so that a
//! read looks up the one that it needs. Without rows the content lies at its own offsets.
//!
//! Places of different blocks never share a cell, except those that a copy has written in one piece: what is given back is
//! therefore always whole cells that no block needs.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    numbers::{narrow, size, wide},
    pages::{BLOCK, CELL},
    rows::{Ticks, keys},
    state::StateError,
};

/// The most bytes of an id of a block.
const MAX_ID: usize = 64;
/// Extents in one row.
pub(crate) const PIECE: usize = 128;
/// The end of the address space of a generation: 2^32 blocks of 64 KiB.
const MAX_PLACE: u64 = BLOCK << 32;

/// The id of a block: 1 to 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(Vec<u8>);

impl BlockId {
    /// The id with these bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=MAX_ID).contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A block of a blob, or one that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its id.
    pub id: BlockId,
    /// How many bytes it has.
    pub len: u64,
}

/// Bytes of the content, and where they lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The id of the block.
    pub(crate) id: Vec<u8>,
    pub(crate) place: u64,
    pub(crate) len: u32,
}

/// Where the content of an append blob lies from some offset on, up to the next row or to the end of the blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) place: u64,
    /// The end of all places that the blob had used when the run began.
    pub(crate) top: u64,
}

impl Run {
    pub(crate) fn encode(self) -> Vec<u8> {
        [self.place.to_le_bytes(), self.top.to_le_bytes()].concat()
    }

    pub(crate) fn decode(key: &[u8], row: &[u8]) -> Result<Self, StateError> {
        let numbers = row.as_chunks::<8>();
        match numbers {
            ([place, top], []) => {
                Ok(Self { place: u64::from_le_bytes(*place), top: u64::from_le_bytes(*top) })
            }
            _ => Err(StateError::Row { row: String::from_utf8_lossy(key).into_owned() }),
        }
    }
}

impl Extent {
    /// The whole cells that it touches.
    pub(crate) fn cells(&self) -> Range<u64> {
        whole_cells(self.place, u64::from(self.len))
    }
}

/// The whole cells around bytes.
pub(crate) fn whole_cells(place: u64, len: u64) -> Range<u64> {
    let (start, end) = crate::record::cells_around(place, len);
    if len == 0 { start..start } else { start..end }
}

/// The list of blocks that a block blob is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blocks {
    /// Which rows: the stamp of the change that made them.
    pub(crate) list: u64,
    /// How many blocks.
    pub(crate) count: u32,
    /// Where more blocks find place.
    pub(crate) room: Room,
}

/// Places that nothing uses: those from `gap` to `gap_end`, and all from `end` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Room {
    pub(crate) gap: u64,
    pub(crate) gap_end: u64,
    pub(crate) end: u64,
}

impl Room {
    /// The room beside what is used: the largest gap, and what is behind all.
    pub(crate) fn beside(used: &[Range<u64>]) -> Self {
        let (mut room, mut before) = (Self::default(), 0);
        for range in used {
            if range.start.saturating_sub(before) > room.gap_end.saturating_sub(room.gap) {
                (room.gap, room.gap_end) = (before, range.start);
            }
            before = range.end;
        }
        Self { end: before, ..room }
    }

    /// A place for some bytes, of whole cells. There is none behind the end of the address space.
    pub(crate) fn take(&mut self, len: u64) -> Option<u64> {
        let len = len.next_multiple_of(CELL);
        let from = if len <= self.gap_end.saturating_sub(self.gap) {
            &mut self.gap
        } else {
            &mut self.end
        };
        let place = *from;
        *from = place.saturating_add(len);
        (*from <= MAX_PLACE).then_some(place)
    }
}

/// The blocks that wait under a name, besides their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staging {
    /// Where they lie: the generation of the blob, or one of their own if there is no blob.
    pub(crate) generation: u64,
    /// How many there are.
    pub(crate) count: u32,
    /// The length of their ids; 0 if there is none.
    pub(crate) id_len: u32,
    /// Where more find place.
    pub(crate) room: Room,
    /// When the last one came.
    pub(crate) touched: Ticks,
}

/// What is kept of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upload {
    /// How many bytes it has.
    pub(crate) len: u64,
    /// Whether the generation is its own.
    pub(crate) is_alone: bool,
    /// Of the change that began it.
    pub(crate) stamp: u64,
    /// Of a block: the container and the name under which it will wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) under: Option<(u64, String)>,
}

impl Upload {
    /// The whole cells that it has.
    pub(crate) fn cells(&self, place: u64) -> Range<u64> {
        whole_cells(place, self.len)
    }
}

/// The rows of a list, with the offset of each in the content.
pub(crate) fn encode_list(
    generation: u64,
    list: u64,
    extents: &[Extent],
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut offset = 0_u64;
    let piece = |extents: &[Extent]| {
        let key = keys::content(generation, list, offset);
        let mut value = Vec::with_capacity(extents.len().saturating_mul(32));
        for extent in extents {
            extent.encode(&mut value);
            offset = offset.saturating_add(u64::from(extent.len));
        }
        (key, value)
    };
    extents.chunks(PIECE).map(piece).collect()
}

impl Extent {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.place.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out.extend(narrow(wide(self.id.len())).to_le_bytes().first());
        out.extend(&self.id);
    }

    /// The extents of a row.
    pub(crate) fn decode_row(key: &[u8], mut row: &[u8]) -> Result<Vec<Self>, StateError> {
        let damaged = || StateError::Row { row: String::from_utf8_lossy(key).into_owned() };
        let mut extents = Vec::new();
        while !row.is_empty() {
            let (extent, rest) = Self::decode(row).ok_or_else(damaged)?;
            extents.push(extent);
            row = rest;
        }
        Ok(extents)
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (place, rest) = bytes.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (id_len, rest) = rest.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(*id_len))?;
        let (place, len) = (u64::from_le_bytes(*place), u32::from_le_bytes(*len));
        Some((Self { id: id.to_vec(), place, len }, rest))
    }
}

/// A staged block's row.
pub(crate) fn encode_staged(place: u64, len: u32) -> Vec<u8> {
    let mut value = Vec::with_capacity(16);
    Extent { id: Vec::new(), place, len }.encode(&mut value);
    value
}

/// Reads the row of a staged block.
pub(crate) fn decode_staged(key: &[u8], row: &[u8]) -> Result<Extent, StateError> {
    let id = key.get(size(9)..).unwrap_or_default().to_vec();
    let found = Extent::decode_row(key, row)?.into_iter().next();
    let damaged = || StateError::Row { row: String::from_utf8_lossy(key).into_owned() };
    found.map(|extent| Extent { id, ..extent }).ok_or_else(damaged)
}

/// Sorts ranges and joins those that touch each other.
pub(crate) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut all: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// What of `old` is not in `kept`; both are joined.
pub(crate) fn without(old: &[Range<u64>], kept: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut gone = Vec::new();
    let mut kept = kept.iter().peekable();
    for range in old {
        let mut at = range.start;
        while let Some(next) = kept.peek().filter(|next| next.start < range.end) {
            if at < next.start {
                gone.push(at..next.start);
            }
            at = at.max(next.end);
            if next.end > range.end {
                break;
            }
            kept.next();
        }
        if at < range.end {
            gone.push(at..range.end);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn room_is_taken_from_the_largest_gap_first() {
        let mut room = Room::beside(&[0..4096, 8192..12288, 40960..45056]);
        assert_eq!(room, Room { gap: 12288, gap_end: 40960, end: 45056 });
        assert_eq!(room.take(1), Some(12288));
        assert_eq!(room.take(1 << 20), Some(45056));
        assert_eq!(room.take(24576), Some(16384));
        assert_eq!(room.take(4096), Some(45056 + (1 << 20)));
        assert_eq!(Room { end: MAX_PLACE - 4096, ..Room::default() }.take(4097), None);
        assert_eq!(Room::default().take(5), Some(0));
    }

    #[test]
    fn a_row_that_is_cut_is_damaged() {
        let extents = [Extent { id: b"one".to_vec(), place: 1 << 40, len: 7 }];
        let (key, row) = encode_list(3, 4, &extents).remove(0);
        assert_eq!(Extent::decode_row(&key, &row).expect("reads"), extents);
        for len in 1..row.len() {
            assert!(Extent::decode_row(&key, &row[..len]).is_err(), "{len}");
        }
    }

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        let range = (0_u64..60, 0_u64..9).prop_map(|(start, len)| start..start + len);
        proptest::collection::vec(range, 0..12)
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_each_byte_says(old in ranges(), kept in ranges()) {
            let has = |ranges: &[Range<u64>], at: u64| ranges.iter().any(|r| r.contains(&at));
            let gone = without(&joined(old.clone()), &joined(kept.clone()));
            for at in 0..80 {
                prop_assert_eq!(has(&gone, at), has(&old, at) && !has(&kept, at), "at {}", at);
            }
            prop_assert!(gone.iter().all(|range| !range.is_empty()));
        }
    }
}
