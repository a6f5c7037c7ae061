//! A raw file to a page blob.
//!
//! While an upload lasts, the blob's metadata has `strongroom_upload` with the length of the file and when it was last
//! changed. An upload that finds its own mark continues: pages that are there are not sent again.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

use bytes::Bytes;
use strongroom_azure::{
    BlobHeaders, BlobPath, BlobProperties, BlobType, BlobWrite, Conditions, MAX_PAGE_BLOB,
    Metadata, PAGE, Tags,
};
use strongroom_base::{ByteRange, Stage};

use super::{
    Counts, TransferReport, Work,
    sparse::{Data, length, not_zero},
};
use crate::{
    Client, NewPageBlob, RangeQuery, StorageClientError,
    parallel::in_parallel,
    ranges::{Beside, Pieces, of_kind, without},
};

/// The metadata of a blob whose upload has not ended.
const MARK: &str = "strongroom_upload";

/// How a file is uploaded.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    /// The metadata that the blob gets.
    pub metadata: Metadata,
    /// The type of the content; Azure's default if it is missing.
    pub content_type: Option<String>,
    /// Whether a blob that is there is replaced.
    pub overwrites: bool,
}

/// Uploads a file or a device to a page blob. Its length must be whole pages of 512 bytes. Holes and zeros are not
/// sent. An upload that was interrupted continues if the file was not changed; a file that is changed while it is
/// uploaded is an error.
pub fn upload(
    client: &Client,
    file: &Path,
    to: &BlobPath,
    options: &Upload,
    work: &Work,
) -> Result<TransferReport, StorageClientError> {
    let begun = client.clock.monotonic();
    let opened = File::open(file).map_err(StorageClientError::local("open", file))?;
    let size = length(&opened).map_err(StorageClientError::local("read", file))?;
    if !size.is_multiple_of(PAGE) || size > MAX_PAGE_BLOB {
        return Err(StorageClientError::UnsuitableFile {
            path: file.to_owned(),
            reason: "its length is not whole pages of 512 bytes, or is more than 8 TiB",
        });
    }
    let mark = mark_of(&opened, file, size)?;
    work.progress.set_stage(Stage::Preparing);
    let was_continued = begin(client, to, size, &mark, options)?;
    let held = client.hold(to, work.wait)?;
    let write = BlobWrite { lease: Some(held.id()), ..BlobWrite::default() };
    let counts = Counts::default();
    let sending =
        Sending { client, file: &opened, path: file, to, write: &write, counts: &counts, work };
    work.progress.set_stage(Stage::Reading);
    sending.send(size, was_continued, || held.check())?;
    if mark_of(&opened, file, size)? != mark {
        return Err(StorageClientError::UnsuitableFile {
            path: file.to_owned(),
            reason: "it was changed while it was uploaded",
        });
    }
    client.set_metadata(to, &options.metadata, &write)?;
    Ok(counts.report(size, was_continued, client.clock.monotonic().saturating_sub(begun)))
}

/// What tells one state of a file from another.
fn mark_of(file: &File, path: &Path, size: u64) -> Result<String, StorageClientError> {
    let facts = file.metadata().map_err(StorageClientError::local("read", path))?;
    Ok(format!("{size}.{}.{:09}", facts.mtime(), facts.mtime_nsec()))
}

/// Creates the blob with the mark; whether it was there with it.
fn begin(
    client: &Client,
    to: &BlobPath,
    size: u64,
    mark: &str,
    options: &Upload,
) -> Result<bool, StorageClientError> {
    let is_ours = |found: &BlobProperties| {
        found.kind == BlobType::Page
            && found.length == size
            && found.metadata.get(MARK) == Some(mark)
    };
    let found = client.find(to, None)?;
    if found.as_ref().is_some_and(is_ours) {
        return Ok(true);
    }
    let pairs = options.metadata.iter().chain([(MARK, mark)]);
    let metadata = Metadata::of(pairs)
        .map_err(|_| StorageClientError::Settings("the metadata is too long".to_owned()))?;
    let headers =
        BlobHeaders { content_type: options.content_type.clone(), ..BlobHeaders::default() };
    let blob = NewPageBlob { length: size, metadata, headers };
    match found {
        Some(found) if options.overwrites => {
            // What was found is replaced, and nothing that came meanwhile.
            let tag = Tags::One(found.stamp.etag);
            let conditions = Conditions { if_match: Some(tag), ..Conditions::default() };
            client.create_page_blob(to, &blob, &BlobWrite { conditions, lease: None })?;
        }
        _ => client.create_or_find(to, &blob, is_ours)?,
    }
    Ok(false)
}

struct Sending<'a> {
    client: &'a Client,
    file: &'a File,
    path: &'a Path,
    to: &'a BlobPath,
    write: &'a BlobWrite,
    counts: &'a Counts,
    work: &'a Work,
}

impl Sending<'_> {
    fn send(
        &self,
        size: u64,
        is_continued: bool,
        check: impl Fn() -> Result<(), StorageClientError> + Sync,
    ) -> Result<(), StorageClientError> {
        let data = Data::new(self.file, self.path, size);
        self.work.progress.add_total(size);
        let there = self.client.pages(self.to, RangeQuery::default());
        let mut there = Beside::new(of_kind(there, false, size));
        let mut at = 0;
        let pieces = Pieces::new(data).map(|piece| {
            let read = piece?.read;
            self.work.progress.advance(read.offset().saturating_sub(at));
            at = read.end();
            let missing =
                if is_continued { without(read, &there.within(read)?) } else { vec![read] };
            Ok((read.len(), missing))
        });
        in_parallel(self.work.parallel, &self.work.cancel, pieces, |(length, missing)| {
            check()?;
            for range in missing {
                self.range(range)?;
            }
            self.work.progress.advance(length);
            Ok(())
        })
    }

    fn range(&self, range: ByteRange) -> Result<(), StorageClientError> {
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, range.offset());
        read.map_err(StorageClientError::local("read", self.path))?;
        Counts::add(&self.counts.read_bytes, range.len());
        let bytes = Bytes::from(bytes);
        for part in not_zero(&bytes) {
            let start = u64::try_from(part.start).unwrap_or(u64::MAX);
            let body = bytes.slice(part);
            let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
            let offset = range.offset().saturating_add(start);
            self.client.put_pages(self.to, offset, body, self.write)?;
            Counts::add(&self.counts.written_bytes, length);
            Counts::add(&self.counts.written_ranges, 1);
            self.work.progress.add_stored(length);
        }
        Ok(())
    }
}
