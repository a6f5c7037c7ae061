//! Following a journal that is being written, or is whole: records one after another, as far as the caller knows that
//! they are durable.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};

use super::{
    frame::{FRAME_HEAD, SEGMENT_HEAD, SegmentHead, lengths},
    replay::JournalDamage,
    segments,
};
use crate::{numbers::size, record::Record};

/// A place in a journal.
pub(crate) struct Tail {
    folder: PathBuf,
    store: [u8; 16],
    /// The number of the next record.
    next: u64,
    segment: Option<Open>,
}

struct Open {
    file: File,
    head: SegmentHead,
    /// Where the next frame begins, and its number.
    at: u64,
    number: u64,
}

impl Tail {
    /// Begins at record `next`.
    pub(crate) fn new(folder: &Path, store: [u8; 16], next: u64) -> Self {
        Self { folder: folder.to_owned(), store, next, segment: None }
    }

    /// The number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The next records, which must be there: those before `end`, but not many more than `most` bytes.
    pub(crate) fn read(&mut self, end: u64, most: usize) -> Result<Vec<Record>, JournalDamage> {
        let mut records = Vec::new();
        let mut bytes = 0;
        while self.next < end && bytes < most {
            let payload = self.payload()?;
            bytes = bytes.saturating_add(payload.len()).saturating_add(size(FRAME_HEAD));
            let number = self.next;
            let record = Record::decode(&payload);
            records.push(record.map_err(|source| JournalDamage::Record { number, source })?);
            self.next = self.next.saturating_add(1);
        }
        Ok(records)
    }

    /// The payload of the next record.
    fn payload(&mut self) -> Result<Bytes, JournalDamage> {
        let number = self.next;
        for _ in 0..2 {
            while let Some(open) = &mut self.segment {
                let Some((found, payload)) = open.frame().map_err(JournalDamage::Read)? else {
                    break;
                };
                if found == number {
                    return Ok(payload);
                }
            }
            // The segment ends before it: a later one begins with it, or reaches it.
            self.segment = Open::at(&self.folder, self.store, number)?;
        }
        Err(JournalDamage::Missing { number })
    }
}

impl Open {
    /// The segment that has a record, if any can have it.
    fn at(folder: &Path, store: [u8; 16], number: u64) -> Result<Option<Self>, JournalDamage> {
        let all = segments(folder).map_err(JournalDamage::Read)?;
        let Some((first, path)) = all.iter().rev().find(|(first, _)| *first <= number) else {
            return Ok(None);
        };
        let file = File::open(path).map_err(JournalDamage::Read)?;
        let mut bytes = vec![0; size(SEGMENT_HEAD)];
        file.read_exact_at(&mut bytes, 0).map_err(JournalDamage::Read)?;
        let head = SegmentHead::decode(&bytes)
            .filter(|head| head.store == store && head.first == *first)
            .ok_or(JournalDamage::Head { first: *first })?;
        Ok(Some(Self { file, head, at: SEGMENT_HEAD, number: *first }))
    }

    /// The next frame, if a whole one is there.
    fn frame(&mut self) -> io::Result<Option<(u64, Bytes)>> {
        let mut bytes = BytesMut::zeroed(size(FRAME_HEAD));
        if !read_whole(&self.file, &mut bytes, self.at)? {
            return Ok(None);
        }
        let Some((gap, len)) = lengths(&bytes) else { return Ok(None) };
        bytes.resize(size(FRAME_HEAD.saturating_add(gap).saturating_add(len)), 0);
        let payload = bytes.get_mut(size(FRAME_HEAD)..).unwrap_or_default();
        if !read_whole(&self.file, payload, self.at.saturating_add(FRAME_HEAD))? {
            return Ok(None);
        }
        let Some(frame) = self.head.whole_frame(&bytes.freeze(), 0) else { return Ok(None) };
        if frame.number != self.number {
            return Ok(None);
        }
        self.at = self.at.saturating_add(frame.end);
        self.number = self.number.saturating_add(1);
        Ok(Some((frame.number, frame.payload)))
    }
}

fn read_whole(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
