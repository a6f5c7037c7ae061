//! FAT12, FAT16 and FAT32, by `fatfs`.
//!
//! FAT knows no owners, modes or links, and its times have no zone: they are given as if they were in UTC.

use std::{io, sync::Arc};

use fatfs::{DateTime, Dir, DirEntry, File, FileSystem, FsOptions};
use jiff::civil;
use std::io::{Read as _, Seek as _, SeekFrom};

use crate::{
    source::{Cursor, ReadAt},
    tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr},
};

/// Most entries of a folder: more do not fit into the 2 MiB that a folder may have.
const ENTRIES_MAX: usize = 65_536;

/// Most entries that are listed in all. A folder of FAT has no number by which it could be known again, so that one
/// which is in itself is found by this alone.
const SEEN_MAX: usize = 2 << 20;

/// An open file system. It stays in memory until the process ends: entries refer to it.
pub(crate) struct Fat {
    fs: &'static FileSystem<Cursor>,
    notes: Vec<String>,
    /// Entries that were listed: node 1 is the first.
    seen: Vec<DirEntry<'static, Cursor>>,
    /// The file that was read last, at the place after it.
    open: Option<(u64, u64, File<'static, Cursor>)>,
}

fn fault(error: &io::Error) -> Fault {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => FaultKind::NotFound,
        // The reader has no better kind for what contradicts itself. Who asks knows whether the disk failed.
        _ => FaultKind::Damaged,
    };
    Fault::new(kind, error.to_string())
}

/// The moment of a DOS time, taken for UTC; none if there is no such day.
fn moment(time: DateTime) -> Option<Time> {
    let small = |number: u16| i8::try_from(number).ok();
    let year = i16::try_from(time.date.year).ok()?;
    let day = civil::Date::new(year, small(time.date.month)?, small(time.date.day)?).ok()?;
    let (hour, minute) = (small(time.time.hour)?, small(time.time.min)?);
    let clock = civil::Time::new(hour, minute, small(time.time.sec)?, 0).ok()?;
    let stamp = day.to_datetime(clock).to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Time { seconds: stamp.as_second(), nanoseconds: u32::from(time.time.millis) * 1_000_000 })
}

fn attributes(entry: &DirEntry<'static, Cursor>) -> Attributes {
    let kind = if entry.is_dir() { Kind::Folder } else { Kind::File };
    Attributes { modified: moment(entry.modified()), ..Attributes::bare(kind, entry.len()) }
}

impl Fat {
    pub(crate) fn open(disk: Arc<dyn ReadAt>, mut notes: Vec<String>) -> Result<Self, Fault> {
        let fs = FileSystem::new(Cursor::new(disk), FsOptions::new()).map_err(|e| fault(&e))?;
        notes.push("times have no zone and are shown as UTC".to_owned());
        Ok(Self { fs: Box::leak(Box::new(fs)), notes, seen: Vec::new(), open: None })
    }

    fn entry(&self, node: u64) -> Result<&DirEntry<'static, Cursor>, Fault> {
        let index = usize::try_from(node).ok().and_then(|node| node.checked_sub(1));
        let entry = index.and_then(|index| self.seen.get(index));
        entry.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such entry"))
    }

    fn folder(&self, node: u64) -> Result<Dir<'static, Cursor>, Fault> {
        if node == 0 {
            return Ok(self.fs.root_dir());
        }
        let entry = self.entry(node)?;
        if !entry.is_dir() {
            return Err(Fault::new(FaultKind::WrongKind, "it is no folder"));
        }
        Ok(entry.to_dir())
    }
}

impl Tree for Fat {
    fn root(&self) -> u64 {
        0
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        if node == 0 {
            return Ok(Attributes::bare(Kind::Folder, 0));
        }
        Ok(attributes(self.entry(node)?))
    }

    fn list(&mut self, node: u64) -> Result<Vec<Entry>, Fault> {
        let mut entries = Vec::new();
        for entry in self.folder(node)?.iter() {
            let entry = entry.map_err(|error| fault(&error))?;
            let name = entry.file_name();
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() >= ENTRIES_MAX {
                return Err(Fault::damaged("a folder has more entries than it can have"));
            }
            if self.seen.len() >= SEEN_MAX {
                return Err(Fault::unsupported(
                    "it has more entries than are read, or a folder in itself",
                ));
            }
            let attributes = Ok(attributes(&entry));
            self.seen.push(entry);
            let node = u64::try_from(self.seen.len()).unwrap_or(0);
            entries.push(Entry { name: name.into_bytes(), node, attributes });
        }
        Ok(entries)
    }

    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault> {
        let entry = self.entry(node)?;
        if entry.is_dir() {
            return Err(Fault::new(FaultKind::WrongKind, "it is no file"));
        }
        let rest = entry.len().saturating_sub(offset);
        let mut file = match self.open.take() {
            Some((open, at, file)) if (open, at) == (node, offset) => file,
            _ => {
                let mut file = self.entry(node)?.to_file();
                file.seek(SeekFrom::Start(offset)).map_err(|error| fault(&error))?;
                file
            }
        };
        let wanted = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < wanted {
            let part = buf.get_mut(done..wanted).unwrap_or_default();
            match file.read(part).map_err(|error| fault(&error))? {
                0 => return Err(Fault::damaged("the file's clusters end before it does")),
                len => done = done.saturating_add(len),
            }
        }
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(0));
        self.open = Some((node, at, file));
        Ok(Piece::Data(done))
    }

    fn target(&mut self, _: u64) -> Result<Vec<u8>, Fault> {
        Err(Fault::new(FaultKind::WrongKind, "it is no link"))
    }

    fn xattrs(&mut self, _: u64) -> Result<Vec<Xattr>, Fault> {
        Ok(Vec::new())
    }

    fn folded(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        Some(std::str::from_utf8(name).ok()?.to_uppercase().into_bytes())
    }
}
