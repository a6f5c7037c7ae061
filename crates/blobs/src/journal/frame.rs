//! The bytes of a journal: the head of a segment and the frames behind it.
//!
//! A frame's checksum begins with the salt of its segment, which no client knows: data that looks like a frame is none.
//! Zeros between its head and its payload put long data where it can be written past the page cache.

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use crate::{
    direct::{ALIGN, LONG},
    numbers::{narrow, size, wide},
};

/// The first bytes of a segment.
const SEGMENT_MAGIC: [u8; 8] = *b"SRMJRNL1";
/// The first bytes of a frame.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"SRMf";
/// The length of a segment's head.
pub(crate) const SEGMENT_HEAD: u64 = 64;
/// The length of a frame's head.
pub(crate) const FRAME_HEAD: u64 = 32;
/// Frames begin at multiples of it.
pub(crate) const FRAME_ALIGN: u64 = 8;
/// The longest payload of a frame.
pub(crate) const MAX_PAYLOAD: u64 = 32 << 20;

/// Where the parts of a frame lie that begins somewhere, relative to its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The zeros between the head and the payload, in bytes; less than [`ALIGN`].
    pub(crate) gap: u64,
    /// Behind the payload.
    pub(crate) end: u64,
}

impl Layout {
    /// The layout of a frame at `at` with a record of a head and data. Long data begins at a multiple of [`ALIGN`].
    pub(crate) fn at(at: u64, head: usize, data: usize) -> Self {
        let (head, data) = (wide(head), wide(data));
        let before = at.saturating_add(FRAME_HEAD).saturating_add(head);
        let is_long = data >= LONG && data.is_multiple_of(ALIGN);
        let gap = if is_long { before.next_multiple_of(ALIGN).saturating_sub(before) } else { 0 };
        let payload = FRAME_HEAD.saturating_add(gap);
        Self { gap, end: payload.saturating_add(head).saturating_add(data) }
    }
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    /// The store to which it belongs.
    pub(crate) store: [u8; 16],
    /// The number of its first record.
    pub(crate) first: u64,
    /// Begins every checksum in it.
    pub(crate) salt: [u8; 16],
}

impl SegmentHead {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size(SEGMENT_HEAD));
        bytes.extend(SEGMENT_MAGIC);
        bytes.extend(self.store);
        bytes.extend(self.first.to_le_bytes());
        bytes.extend(self.salt);
        bytes.extend([0; 12]);
        let checksum = crc32c(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// Reads it; `None` if it is not whole.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.get(..size(SEGMENT_HEAD))?.split_at_checked(60)?;
        let head = Self {
            store: body.get(8..24)?.try_into().ok()?,
            first: u64::from_le_bytes(body.get(24..32)?.try_into().ok()?),
            salt: body.get(32..48)?.try_into().ok()?,
        };
        (body.starts_with(&SEGMENT_MAGIC) && crc32c(body).to_le_bytes() == checksum).then_some(head)
    }

    fn seed(&self) -> u32 {
        crc32c(&self.salt)
    }

    /// The head of the frame of a record, between which and the payload are `gap` zeros.
    pub(crate) fn frame(
        &self,
        number: u64,
        durable: u64,
        gap: u64,
        payload: (&[u8], &[u8]),
    ) -> [u8; size_of_frame_head()] {
        let mut head = [0; size_of_frame_head()];
        let len = narrow(wide(payload.0.len()).saturating_add(wide(payload.1.len())));
        let fields: Vec<u8> = number
            .to_le_bytes()
            .into_iter()
            .chain(durable.to_le_bytes())
            .chain(len.to_le_bytes())
            .chain(narrow(gap).to_le_bytes())
            .collect();
        let mut checksum = crc32c_append(self.seed(), &fields);
        checksum = crc32c_append(checksum, payload.0);
        checksum = crc32c_append(checksum, payload.1);
        let bytes = FRAME_MAGIC.into_iter().chain(checksum.to_le_bytes()).chain(fields);
        head.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        head
    }

    /// The frame that begins at `at`, if a whole one does.
    pub(crate) fn whole_frame(&self, segment: &Bytes, at: u64) -> Option<Frame> {
        let head = segment.get(size(at)..size(at.saturating_add(FRAME_HEAD)))?;
        let checksum = u32::from_le_bytes(head.get(4..8)?.try_into().ok()?);
        let (gap, len) = lengths(head)?;
        let start = at.saturating_add(FRAME_HEAD).saturating_add(gap);
        let end = start.saturating_add(len);
        let payload = segment.get(size(start)..size(end))?;
        let found = crc32c_append(crc32c_append(self.seed(), head.get(8..)?), payload);
        (found == checksum).then_some(Frame {
            number: u64::from_le_bytes(head.get(8..16)?.try_into().ok()?),
            durable: u64::from_le_bytes(head.get(16..24)?.try_into().ok()?),
            payload: segment.slice(size(start)..size(end)),
            end: padded(end),
        })
    }
}

/// The zeros behind the head of a frame and the length of its payload, if both can be right.
pub(crate) fn lengths(head: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| {
        let bytes = head.get(at..at.saturating_add(4))?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    let (len, gap) = (number(24)?, number(28)?);
    let is_possible = head.starts_with(&FRAME_MAGIC) && len <= MAX_PAYLOAD && gap < ALIGN;
    is_possible.then_some((gap, len))
}

/// [`FRAME_HEAD`] as the length of an array.
pub(crate) const fn size_of_frame_head() -> usize {
    32
}

/// A whole frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The number of its record.
    pub(crate) number: u64,
    /// The number of the last record that was durable when the frame was written.
    pub(crate) durable: u64,
    /// The record.
    pub(crate) payload: Bytes,
    /// Where the next frame begins.
    pub(crate) end: u64,
}

/// The next place where a frame can begin.
pub(crate) fn padded(at: u64) -> u64 {
    at.next_multiple_of(FRAME_ALIGN)
}
