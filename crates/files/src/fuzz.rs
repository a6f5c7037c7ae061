//! What fuzzing calls: parsers of bytes from disks and from the process that reads.

use std::{io, sync::Arc};

use crate::{
    source::{ReadAt, check_within, length},
    survey::survey,
    wire::{Answer, Given, Hello, Request},
};

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn size(&self) -> u64 {
        length(&self.0)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size(), offset, length(buf))?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let part = self.0.get(start..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Partitions and file systems of a disk. Every volume that can be read lies within it.
pub fn disk(data: &[u8]) {
    let disk: Arc<dyn ReadAt> = Arc::new(Bytes(data.to_vec()));
    for it in survey(&[Arc::clone(&disk)]) {
        assert!(it.volume.refusal.is_some() || it.volume.offset.is_none_or(|at| at <= disk.size()));
    }
}

/// Messages of both sides.
pub fn messages(data: &[u8]) {
    drop(postcard::from_bytes::<Answer>(data));
    drop(postcard::from_bytes::<Request>(data));
    drop(postcard::from_bytes::<Hello>(data));
    drop(postcard::from_bytes::<Given>(data));
}
