//! Reading objects, large ones past the page cache unless they are in it already.

use std::{
    fs::File,
    io::{self, ErrorKind, IoSliceMut},
    os::unix::fs::FileExt,
    sync::{Arc, MutexGuard, OnceLock},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::ReadWriteFlags,
};
use strongroom_base::{AlignedBuf, ByteRange, lock};

use super::{BOUNCE_LEN, DIRECT_FROM, Folder};
use crate::store::{Key, ObjectStore, StoreError};

/// Files that were read lately, the latest last.
#[derive(Default)]
pub(super) struct OpenFiles(Vec<(Key, Arc<OpenFile>)>);

/// Opening is cheap on a local disk and a round trip on a network file system.
const OPEN_FILES_MAX: usize = 64;

struct OpenFile {
    cached: File,
    direct: OnceLock<Option<File>>,
}

impl Folder {
    /// Reads the range that `choose` names when it gets the object's length; its error is the
    /// length that would have been needed.
    pub(super) fn read(
        &self,
        key: &Key,
        choose: impl FnOnce(u64) -> Result<ByteRange, u64>,
    ) -> Result<Vec<u8>, StoreError> {
        let failed = |error| self.error("read", key.as_str(), error);
        let (file, have) = self.open_file(key).map_err(failed)?;
        let short = |need| StoreError::Length { key: key.clone(), store: self.name(), have, need };
        let range = choose(have).map_err(short)?;
        let len = usize::try_from(range.len()).map_err(|_| short(range.end()))?;
        // The length lies within the file's, so memory is bounded by what is stored.
        let mut bytes = vec![0; len];
        match self.fill(key, &file, range.offset(), &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(short(range.end())),
            Err(error) => Err(failed(error)),
        }
    }

    fn open_files(&self) -> MutexGuard<'_, OpenFiles> {
        lock(&self.open_files)
    }

    pub(super) fn forget_open_file(&self, key: &Key) {
        self.open_files().0.retain(|(name, _)| name != key);
    }

    fn open_file(&self, key: &Key) -> io::Result<(Arc<OpenFile>, u64)> {
        let kept = {
            let mut files = self.open_files();
            let place = files.0.iter().position(|(name, _)| name == key);
            place.map(|place| {
                let entry = files.0.remove(place);
                let file = Arc::clone(&entry.1);
                files.0.push(entry);
                file
            })
        };
        if let Some(file) = kept {
            let stat = rustix::fs::fstat(&file.cached)?;
            // No name left: deleted, or replaced by a good copy.
            if stat.st_nlink > 0 {
                return Ok((file, u64::try_from(stat.st_size).unwrap_or(0)));
            }
            self.forget_open_file(key);
        }
        let cached = File::from(self.open_beneath(key.as_str(), OFlags::RDONLY, Mode::empty())?);
        let stat = rustix::fs::fstat(&cached)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        let file = Arc::new(OpenFile { cached, direct: OnceLock::new() });
        let mut files = self.open_files();
        files.0.push((key.clone(), Arc::clone(&file)));
        if files.0.len() > OPEN_FILES_MAX {
            files.0.remove(0);
        }
        Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
    }

    fn fill(&self, key: &Key, file: &OpenFile, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        if bytes.len() < DIRECT_FROM {
            return file.cached.read_exact_at(bytes, offset);
        }
        let hit = read_cached(&file.cached, offset, bytes)?;
        let Some(rest) = bytes.get_mut(hit..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        let offset = offset.saturating_add(u64::try_from(hit).unwrap_or(u64::MAX));
        let direct = file.direct.get_or_init(|| self.open_direct(key, &file.cached));
        match direct {
            Some(direct) => self.read_direct(direct, &file.cached, offset, rest),
            None => file.cached.read_exact_at(rest, offset),
        }
    }

    /// The same file past the page cache, where the file system can do that.
    fn open_direct(&self, key: &Key, cached: &File) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECT;
        let file = File::from(self.open_beneath(key.as_str(), flags, Mode::empty()).ok()?);
        let same = rustix::fs::fstat(&file).ok()?.st_ino == rustix::fs::fstat(cached).ok()?.st_ino;
        same.then_some(file)
    }

    fn read_direct(
        &self,
        direct: &File,
        cached: &File,
        mut offset: u64,
        mut bytes: &mut [u8],
    ) -> io::Result<()> {
        let page = u64::try_from(AlignedBuf::ALIGNMENT).unwrap_or(1);
        self.with_bounce(move |buffer| {
            while !bytes.is_empty() {
                let lead = usize::try_from(offset % page).unwrap_or(0);
                let wanted = lead
                    .saturating_add(bytes.len())
                    .next_multiple_of(AlignedBuf::ALIGNMENT)
                    .min(BOUNCE_LEN);
                let place = buffer.get_mut(..wanted).unwrap_or_default();
                let start = offset.saturating_sub(offset % page);
                let got = match direct.read_at(place, start) {
                    Err(error) if error.kind() == ErrorKind::InvalidInput => 0,
                    other => other?,
                };
                let found = place.get(lead..got).unwrap_or_default();
                let count = found.len().min(bytes.len());
                let (now, later) = bytes.split_at_mut(count);
                now.copy_from_slice(found.get(..count).unwrap_or_default());
                bytes = later;
                offset = offset.saturating_add(u64::try_from(count).unwrap_or(0));
                if got < wanted {
                    // The end of the file, or a file system with other ideas of alignment.
                    return cached.read_exact_at(bytes, offset);
                }
            }
            Ok(())
        })
    }
}

/// Reads as many bytes as the page cache has without waiting, and says how many.
fn read_cached(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    // The first page tells whether the rest is worth asking for: a miss starts a read-ahead,
    // which for one page is small.
    let mut step = AlignedBuf::ALIGNMENT;
    while let Some(part) = bytes.get_mut(done..).filter(|part| !part.is_empty()) {
        let step_len = step.min(part.len());
        let part = part.get_mut(..step_len).unwrap_or_default();
        let place = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        let flags = ReadWriteFlags::NOWAIT;
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(part)], place, flags) {
            Ok(0) => break,
            Ok(got) => {
                done = done.saturating_add(got);
                if got < step_len {
                    break;
                }
            }
            // Not in the cache; or a file system that cannot tell.
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::NOTSUP | rustix::io::Errno::INVAL,
            ) => {
                break;
            }
            Err(error) => return Err(error.into()),
        }
        step = usize::MAX;
    }
    Ok(done)
}
