//! Data files: where the bytes of blocks lie, and what the present group will write there.
//!
//! A generation has two sparse files: `home`, in which block N lies at N times 64 KiB, and `aside`, which is made of
//! numbered slots. Nothing here knows which slot is whose; the map does. What a group writes waits in [`Pending`] until
//! its records are durable.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use strongroom_base::lock;

use crate::{
    direct::{DirectFile, LONG, is_aligned},
    journal::{reserve, sync_folder},
    numbers::{size, wide},
    pages::{BLOCK, CELL, CELLS, cell_runs, span},
};

/// Slots that are written at once: 16 MiB.
const ROW: usize = 256;
/// Files that stay open while nothing is written to them.
const OPEN_FILES: usize = 256;

/// A slot of a generation, as the map names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Slot {
    /// None: the block has no pages.
    None,
    /// The block's own place.
    Home,
    /// A slot of the file `aside`.
    Aside(u64),
}

impl Slot {
    /// As the map writes it: 0, 1, or a slot's number and 2.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Home => 1,
            Self::Aside(n) => n.saturating_add(2),
        }
    }

    /// Reads it.
    pub(crate) fn from_number(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Home,
            n => Self::Aside(n.saturating_sub(2)),
        }
    }
}

/// One of the two files of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId {
    generation: u64,
    is_home: bool,
}

/// A slot's place: a file, and the number of the slot in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    file: FileId,
    index: u64,
}

impl Place {
    /// Where a slot of a block lies; `None` for [`Slot::None`].
    pub(crate) fn of(generation: u64, block: u32, slot: Slot) -> Option<Self> {
        let (is_home, index) = match slot {
            Slot::None => return None,
            Slot::Home => (true, u64::from(block)),
            Slot::Aside(index) => (false, index),
        };
        Some(Self { file: FileId { generation, is_home }, index })
    }

    /// The place this number of slots behind.
    fn behind(self, slots: usize) -> Self {
        Self { index: self.index.saturating_add(wide(slots)), ..self }
    }

    fn offset(self, within: u64) -> u64 {
        self.index.saturating_mul(BLOCK).saturating_add(within)
    }
}

/// The data files of a store.
#[derive(Debug)]
pub(crate) struct DataFiles {
    folder: PathBuf,
    open: Mutex<Open>,
    /// Whether a call of `fdatasync` failed: the system reports it once, and the bytes may be lost.
    has_failed: Mutex<bool>,
}

#[derive(Debug, Default)]
struct Open {
    /// With the moment of the last use, counted in uses.
    files: HashMap<FileId, (Arc<DataFile>, u64)>,
    uses: u64,
    /// Written since they were last made durable.
    dirty: BTreeMap<FileId, Arc<DataFile>>,
    /// Folders with names that are not durable yet.
    named: bool,
}

/// An open data file.
#[derive(Debug)]
struct DataFile {
    file: File,
    /// Opened when something long is written first.
    direct: OnceLock<DirectFile>,
}

impl DataFiles {
    /// The files in a folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, open: Mutex::default(), has_failed: Mutex::default() }
    }

    fn path(&self, file: FileId) -> PathBuf {
        let kind = if file.is_home { "home" } else { "aside" };
        self.folder.join(format!("{:016x}.{kind}", file.generation))
    }

    /// A file to write to.
    fn file(&self, id: FileId) -> io::Result<Arc<DataFile>> {
        match self.existing(id, true)? {
            Some(file) => Ok(file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A file, if it is there or is to be created.
    fn existing(&self, id: FileId, create: bool) -> io::Result<Option<Arc<DataFile>>> {
        let mut open = lock(&self.open);
        open.uses = open.uses.saturating_add(1);
        let now = open.uses;
        if let Some((file, used)) = open.files.get_mut(&id) {
            *used = now;
            return Ok(Some(Arc::clone(file)));
        }
        let path = self.path(id);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !create {
                    return Ok(None);
                }
                open.named = true;
                options.create(true).open(&path)?
            }
            result => result?,
        };
        if open.files.len() >= OPEN_FILES {
            let mut uses: Vec<u64> = open.files.values().map(|(_, used)| *used).collect();
            uses.sort_unstable();
            let oldest_half = uses.get(OPEN_FILES / 2).copied().unwrap_or(0);
            open.files.retain(|_, (_, used)| *used > oldest_half);
        }
        let file = Arc::new(DataFile { file, direct: OnceLock::new() });
        open.files.insert(id, (Arc::clone(&file), now));
        Ok(Some(file))
    }

    /// Reads `start..` of a slot. What lies behind the file's end is zero.
    pub(crate) fn read(&self, place: Place, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let Some(file) = self.existing(place.file, false)? else {
            // It was deleted after the map was read: the next look at the map says so.
            bytes.fill(0);
            return Ok(());
        };
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = place.offset(start).saturating_add(wide(done));
            match file.file.read_at(rest, at) {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(read) => done = done.saturating_add(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes a part of a slot, which the next [`DataFiles::sync`] makes durable.
    pub(crate) fn write(&self, place: Place, start: u64, bytes: &[u8]) -> io::Result<()> {
        self.changing(place.file)?.file.write_all_at(bytes, place.offset(start))
    }

    /// Writes whole slots that lie one behind the other, as [`DataFiles::write`] does.
    fn write_row(&self, first: Place, slots: &[&[u8]]) -> io::Result<()> {
        let file = self.changing(first.file)?;
        let is_long = wide(slots.len()).saturating_mul(BLOCK) >= LONG;
        if is_long && slots.iter().all(|bytes| is_aligned(bytes)) {
            let direct = file.direct.get_or_init(|| DirectFile::open(&self.path(first.file)));
            if direct.write(first.offset(0), slots)? {
                return Ok(());
            }
        }
        let offsets = (first.offset(0)..).step_by(size(BLOCK));
        slots.iter().zip(offsets).try_for_each(|(bytes, at)| file.file.write_all_at(bytes, at))
    }

    /// A file that is written now, and made durable by the next [`DataFiles::sync`].
    fn changing(&self, id: FileId) -> io::Result<Arc<DataFile>> {
        let file = self.file(id)?;
        lock(&self.open).dirty.entry(id).or_insert_with(|| Arc::clone(&file));
        Ok(file)
    }

    /// Gives the room of a part of a slot back; it reads as zeros then. It is best effort: the map does not
    /// depend on it.
    pub(crate) fn punch(&self, place: Place, start: u64, end: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = end.saturating_sub(start);
        let Some(file) = self.existing(place.file, false)? else { return Ok(()) };
        match fallocate(&file.file, flags, place.offset(start), len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes both files of a generation. It may take long: a file system gives the room of each piece back.
    pub(crate) fn remove(&self, generation: u64) -> io::Result<()> {
        for is_home in [true, false] {
            let id = FileId { generation, is_home };
            {
                let mut open = lock(&self.open);
                open.files.remove(&id);
                open.dirty.remove(&id);
            }
            match fs::remove_file(self.path(id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The generations that have files.
    pub(crate) fn generations(&self) -> io::Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = PathBuf::from(entry?.file_name());
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            found.extend(stem.and_then(|stem| u64::from_str_radix(stem, 16).ok()));
        }
        Ok(found)
    }

    /// How many files were written since the last [`DataFiles::sync`].
    pub(crate) fn dirty_files(&self) -> usize {
        lock(&self.open).dirty.len()
    }

    /// Begins to make written files durable, so that [`DataFiles::sync`] has less to wait for.
    pub(crate) fn flush(&self) {
        let mut has_failed = lock(&self.has_failed);
        let dirty: Vec<Arc<DataFile>> = lock(&self.open).dirty.values().map(Arc::clone).collect();
        *has_failed |= dirty.iter().any(|file| file.file.sync_data().is_err());
    }

    /// Makes everything durable that was written before the call.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut has_failed = lock(&self.has_failed);
        if *has_failed {
            return Err(io::Error::other("a data file could not be made durable before"));
        }
        let result = self.sync_dirty();
        *has_failed = result.is_err();
        result
    }

    fn sync_dirty(&self) -> io::Result<()> {
        let (dirty, named) = {
            let mut open = lock(&self.open);
            (std::mem::take(&mut open.dirty), std::mem::take(&mut open.named))
        };
        for file in dirty.values() {
            file.file.sync_data()?;
        }
        if named { sync_folder(&self.folder) } else { Ok(()) }
    }
}

/// What a group will write when its records are durable, by slot. Reads of the group go through it.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    slots: BTreeMap<Place, Waiting>,
    /// Cells that take new room, in the order in which they came.
    fresh: Vec<(Place, u64, u64)>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whole cells with where they begin, as they came; later ones count.
    parts: Vec<(u64, Bytes)>,
    /// Cells to write.
    dirty: u16,
    /// Cells to give back.
    punched: u16,
}

impl Waiting {
    /// The bytes from `at` on of the newest part that has them.
    fn newest(&self, at: u64) -> Option<&[u8]> {
        self.parts.iter().rev().find_map(|(start, bytes)| {
            let from = size(at.checked_sub(*start)?);
            bytes.get(from..).filter(|rest| !rest.is_empty())
        })
    }

    /// The whole slot, if it came in one piece and all of it is to be written.
    fn whole(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [(0, bytes)] if self.dirty == u16::MAX => Some(bytes),
            _ => None,
        }
    }

    /// Writes cells, and gives the room of others back.
    fn write(&self, files: &DataFiles, place: Place) -> io::Result<()> {
        for (start, end) in cell_runs(self.dirty) {
            match self.parts.as_slice() {
                [(at, bytes)] if *at <= start => {
                    let at = start.saturating_sub(*at);
                    let len = end.saturating_sub(start);
                    files.write(place, start, span(bytes, at, at.saturating_add(len)))?;
                }
                _ => {
                    let cells = (start..end).step_by(size(CELL));
                    let cells = cells.map(|at| span(self.newest(at).unwrap_or_default(), 0, CELL));
                    files.write(place, start, &cells.collect::<Vec<_>>().concat())?;
                }
            }
        }
        for (start, end) in cell_runs(self.punched) {
            files.punch(place, start, end)?;
        }
        Ok(())
    }
}

impl Pending {
    /// Reads one cell as it will be.
    pub(crate) fn read_cell(
        &self,
        files: &DataFiles,
        place: Place,
        cell: usize,
    ) -> io::Result<Vec<u8>> {
        let start = wide(cell).saturating_mul(CELL);
        if let Some(waiting) = self.slots.get(&place).filter(|slot| slot.dirty & (1 << cell) != 0) {
            return Ok(span(waiting.newest(start).unwrap_or_default(), 0, CELL).to_vec());
        }
        let mut bytes = vec![0; size(CELL)];
        files.read(place, start, &mut bytes)?;
        Ok(bytes)
    }

    /// Whole cells from `start` on get new content. `fresh` says of each cell whether it takes new room.
    pub(crate) fn write(&mut self, place: Place, start: u64, bytes: &Bytes, fresh: u16) {
        let waiting = self.slots.entry(place).or_default();
        let end = start.saturating_add(wide(bytes.len()));
        if (start, end) == (0, BLOCK) {
            waiting.parts.clear();
        }
        waiting.parts.push((start, bytes.clone()));
        let cells = (0..CELLS).zip((0_u64..).step_by(size(CELL)));
        let written = cells
            .filter(|(_, at)| (start..end).contains(at))
            .fold(0, |cells, (cell, _)| cells | (1 << cell));
        waiting.dirty |= written;
        waiting.punched &= !written;
        for (from, to) in cell_runs(fresh & written) {
            match self.fresh.last_mut() {
                Some((last, _, end)) if *last == place && *end == from => *end = to,
                _ => self.fresh.push((place, from, to)),
            }
        }
    }

    /// Cells whose pages are all cleared give their room back.
    pub(crate) fn punch(&mut self, place: Place, cells: u16) {
        if cells != 0 {
            let waiting = self.slots.entry(place).or_default();
            waiting.dirty &= !cells;
            waiting.punched |= cells;
        }
    }

    /// Takes room on the disk for the new cells, so that writing them later does not fail for want of it.
    pub(crate) fn reserve(&mut self, files: &DataFiles) -> io::Result<()> {
        let mut run: Option<(FileId, u64, u64)> = None;
        for (place, from, to) in std::mem::take(&mut self.fresh) {
            let (start, end) = (place.offset(from), place.offset(to));
            run = match run {
                Some((file, first, last)) if file == place.file && last == start => {
                    Some((file, first, end))
                }
                before => {
                    take_room(files, before)?;
                    Some((place.file, start, end))
                }
            };
        }
        take_room(files, run)
    }

    /// Writes everything.
    pub(crate) fn flush(self, files: &DataFiles) -> io::Result<()> {
        // Whole slots that lie one behind the other.
        let mut row: Option<Place> = None;
        let mut slots: Vec<&[u8]> = Vec::new();
        for (place, waiting) in &self.slots {
            let next = row.map(|first| first.behind(slots.len()));
            if next.is_some_and(|next| next != *place) || slots.len() >= ROW {
                write_row(files, &mut row, &mut slots)?;
            }
            if let Some(bytes) = waiting.whole() {
                row.get_or_insert(*place);
                slots.push(bytes);
            } else {
                write_row(files, &mut row, &mut slots)?;
                waiting.write(files, *place)?;
            }
        }
        write_row(files, &mut row, &mut slots)
    }
}

/// Writes the slots that were gathered, the first of them at `row`.
fn write_row(files: &DataFiles, row: &mut Option<Place>, slots: &mut Vec<&[u8]>) -> io::Result<()> {
    match row.take() {
        Some(first) => files.write_row(first, &std::mem::take(slots)),
        None => Ok(()),
    }
}

fn take_room(files: &DataFiles, run: Option<(FileId, u64, u64)>) -> io::Result<()> {
    match run {
        Some((file, start, end)) => {
            reserve(&files.file(file)?.file, start, end.saturating_sub(start))
        }
        None => Ok(()),
    }
}
