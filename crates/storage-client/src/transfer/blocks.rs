//! A file of any length to a block blob.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use bytes::Bytes;
use strongroom_azure::{BlobPath, BlobWrite, BlockId, Conditions, Tags};
use strongroom_base::{ByteRange, EntropyExt as _, Stage};

use super::{Counts, TransferReport, Upload, Work, sparse::length, upload::mark_of};
use crate::{Client, StorageClientError, parallel::in_parallel};

/// A shorter file is sent by one request.
const WHOLE: u64 = 4 << 20;
/// The most blocks of a blob.
const MAX_BLOCKS: u64 = 50_000;
/// The longest block: what a thread has in memory.
const MAX_BLOCK: u64 = 64 << 20;

/// Uploads a file to a block blob: in one piece, or in blocks by several requests at once. The blob appears when it is
/// whole. A file that is changed meanwhile is an error, and so is one of more than 3 TiB. Of the metadata and options
/// of [`Upload`] the type of the content is not used.
pub fn upload_blocks(
    client: &Client,
    file: &Path,
    to: &BlobPath,
    options: &Upload,
    work: &Work,
) -> Result<TransferReport, StorageClientError> {
    let begun = client.clock.monotonic();
    work.progress.set_stage(Stage::Preparing);
    let opened = File::open(file).map_err(StorageClientError::local("open", file))?;
    let size = length(&opened).map_err(StorageClientError::local("read", file))?;
    let unsuitable = |reason| StorageClientError::UnsuitableFile { path: file.to_owned(), reason };
    let block = block_length(size).ok_or_else(|| unsuitable("it is longer than 3 TiB"))?;
    let mark = mark_of(&opened, file, size)?;
    let write = condition(client, to, options)?;
    let counts = Counts::default();
    let read = |range: ByteRange| -> Result<Bytes, StorageClientError> {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(usize::MAX)];
        let read = opened.read_exact_at(&mut bytes, range.offset());
        read.map_err(StorageClientError::local("read", file))?;
        Counts::add(&counts.read_bytes, range.len());
        Ok(bytes.into())
    };
    work.progress.add_total(size);
    work.progress.set_stage(Stage::Reading);
    let written = |bytes: u64| {
        Counts::add(&counts.written_bytes, bytes);
        Counts::add(&counts.written_ranges, 1);
        work.progress.advance(bytes);
    };
    let is_same = || Ok(mark_of(&opened, file, size)? == mark);
    let changed = || unsuitable("it was changed while it was uploaded");
    if size <= WHOLE {
        let bytes = read(ByteRange::between(0, size))?;
        if !is_same()? {
            return Err(changed());
        }
        client.put_block_blob(to, bytes, &options.metadata, &write)?;
        written(size);
    } else {
        let run: [u8; 16] = client.entropy.array();
        let count = size.div_ceil(block);
        let ids = (0..count).map(|index| id(&run, index)).collect::<Result<Vec<_>, _>>()?;
        let blocks = ids.iter().zip(0_u64..).map(|(id, index)| {
            let start = index.saturating_mul(block);
            Ok((id, ByteRange::between(start, start.saturating_add(block).min(size))))
        });
        in_parallel(work.parallel, &work.cancel, blocks, |(id, range)| {
            client.put_block(to, id, read(range)?)?;
            written(range.len());
            Ok(())
        })?;
        if !is_same()? {
            return Err(changed());
        }
        work.progress.set_stage(Stage::Publishing);
        client.put_block_list(to, &ids, &options.metadata, &write)?;
    }
    Ok(counts.report(size, false, client.clock.monotonic().saturating_sub(begun)))
}

/// The length of all blocks but the last, so that there are not too many.
fn block_length(size: u64) -> Option<u64> {
    let mib = 1 << 20;
    let length = size.div_ceil(MAX_BLOCKS).next_multiple_of(mib).max(WHOLE);
    (length <= MAX_BLOCK).then_some(length)
}

/// The id of a block. Two uploads to one blob have different ones.
fn id(run: &[u8; 16], index: u64) -> Result<BlockId, StorageClientError> {
    let bytes: Vec<u8> = run.iter().copied().chain(index.to_be_bytes()).collect();
    BlockId::from_bytes(&bytes).ok_or(StorageClientError::Bug("the id of a block is too long"))
}

/// What was found is replaced if it may be, and nothing that comes meanwhile.
fn condition(
    client: &Client,
    to: &BlobPath,
    options: &Upload,
) -> Result<BlobWrite, StorageClientError> {
    let found = if options.overwrites { client.find(to, None)? } else { None };
    let conditions = match found {
        Some(found) => {
            Conditions { if_match: Some(Tags::One(found.stamp.etag)), ..Conditions::default() }
        }
        None => Conditions { if_none_match: Some(Tags::Any), ..Conditions::default() },
    };
    Ok(BlobWrite { conditions, lease: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_too_many_blocks() {
        for size in [0, 1, WHOLE, 200 << 30, 3 << 40] {
            let length = block_length(size).expect("fits");
            assert!(size.div_ceil(length) <= MAX_BLOCKS && length <= MAX_BLOCK, "{size}");
        }
        assert_eq!(block_length(4 << 40), None);
    }
}
