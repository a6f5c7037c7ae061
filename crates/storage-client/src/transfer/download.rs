//! A blob or a snapshot to a raw file, which is sparse where the blob has no content.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use strongroom_azure::{
    BlobPath, BlobProperties, BlobType, Conditions, ReadBlob, SnapshotId, Tags,
};
use strongroom_base::{ByteRange, Stage};

use super::{Counts, TransferReport, Work};
use crate::{
    Client, RangeQuery, StorageClientError,
    blobs::of_snapshot,
    parallel::in_parallel,
    ranges::{Listed, Pieces, of_kind},
};

/// How a blob is downloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Download {
    /// The snapshot; without one, the blob itself.
    pub snapshot: Option<SnapshotId>,
    /// Whether a file that is there is replaced.
    pub overwrites: bool,
}

/// Downloads a blob or a snapshot. Until it is whole, the file has the name `FILE.unfinished`. A blob that is changed
/// meanwhile is an error; a snapshot cannot be.
pub fn download(
    client: &Client,
    from: &BlobPath,
    file: &Path,
    options: &Download,
    work: &Work,
) -> Result<TransferReport, StorageClientError> {
    let begun = client.clock.monotonic();
    work.progress.set_stage(Stage::Preparing);
    if !options.overwrites && file.symlink_metadata().is_ok() {
        return Err(exists(file));
    }
    let found = client.properties(from, &of_snapshot(options.snapshot))?;
    let conditions =
        Conditions { if_match: Some(Tags::One(found.stamp.etag.clone())), ..Conditions::default() };
    let read = ReadBlob { snapshot: options.snapshot, conditions, lease: None };
    let unfinished = unfinished(file);
    let output = create(&unfinished, found.length)?;
    let counts = Counts::default();
    work.progress.set_stage(Stage::Reading);
    let getting = Getting {
        client,
        from,
        read: &read,
        output: &output,
        path: &unfinished,
        counts: &counts,
        work,
    };
    let got = getting.get(&found);
    if got.is_err() {
        std::fs::remove_file(&unfinished).ok();
        got?;
    }
    work.progress.set_stage(Stage::Flushing);
    output.sync_all().map_err(StorageClientError::local("write", &unfinished))?;
    publish(&unfinished, file, options.overwrites)?;
    Ok(counts.report(found.length, false, client.clock.monotonic().saturating_sub(begun)))
}

fn exists(file: &Path) -> StorageClientError {
    StorageClientError::local("create", file)(io::ErrorKind::AlreadyExists.into())
}

fn unfinished(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".unfinished");
    name.into()
}

/// An empty file of this length, which no other download has.
fn create(path: &Path, length: u64) -> Result<File, StorageClientError> {
    let failed = || StorageClientError::local("create", path);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = file.map_err(failed())?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| failed()(error.into()))?;
    // Before it was locked, another download may have ended and given the file its name.
    let (of_path, of_file) =
        (path.metadata().map_err(failed())?, file.metadata().map_err(failed())?);
    if (of_path.dev(), of_path.ino()) != (of_file.dev(), of_file.ino()) {
        return Err(failed()(io::ErrorKind::ResourceBusy.into()));
    }
    file.set_len(0).and_then(|()| file.set_len(length)).map_err(failed())?;
    Ok(file)
}

fn publish(unfinished: &Path, file: &Path, overwrites: bool) -> Result<(), StorageClientError> {
    let flags = if overwrites { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match rustix::fs::renameat_with(CWD, unfinished, CWD, file, flags) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Err(exists(file)),
        Err(error) => return Err(StorageClientError::local("rename", unfinished)(error.into())),
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(StorageClientError::local("write", folder))
}

struct Getting<'a> {
    client: &'a Client,
    from: &'a BlobPath,
    read: &'a ReadBlob,
    output: &'a File,
    path: &'a Path,
    counts: &'a Counts,
    work: &'a Work,
}

impl Getting<'_> {
    fn get(&self, found: &BlobProperties) -> Result<(), StorageClientError> {
        if found.kind == BlobType::Page {
            let query = RangeQuery { read: self.read.clone(), ..RangeQuery::default() };
            let pages = self.client.pages(self.from, query);
            self.ranges(of_kind(pages, false, found.length))
        } else {
            self.ranges(
                (found.length > 0).then(|| Ok(ByteRange::between(0, found.length))).into_iter(),
            )
        }
    }

    fn ranges(&self, list: impl Iterator<Item = Listed>) -> Result<(), StorageClientError> {
        let pieces = Pieces::new(list).inspect(|piece| {
            if let Ok(piece) = piece {
                self.work.progress.add_total(piece.read.len());
            }
        });
        in_parallel(self.work.parallel, &self.work.cancel, pieces, |piece| {
            let bytes = self.client.get(self.from, self.read, piece.read)?;
            Counts::add(&self.counts.read_bytes, piece.read.len());
            for part in piece.parts {
                let start = part.offset().saturating_sub(piece.read.offset());
                let within = usize::try_from(start).ok().zip(usize::try_from(part.len()).ok());
                let bytes = within
                    .and_then(|(start, length)| bytes.get(start..)?.get(..length))
                    .ok_or(StorageClientError::Bug("a part is outside of its piece"))?;
                let written = self.output.write_all_at(bytes, part.offset());
                written.map_err(StorageClientError::local("write", self.path))?;
                Counts::add(&self.counts.written_bytes, part.len());
                Counts::add(&self.counts.written_ranges, 1);
            }
            self.work.progress.advance(piece.read.len());
            Ok(())
        })
    }
}
