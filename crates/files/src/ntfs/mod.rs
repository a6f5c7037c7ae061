//! NTFS 3.0 and 3.1.
//!
//! Of the crates that read NTFS, one gives compressed files as they are stored and very fragmented ones as empty,
//! without an error; another cannot list folders whose list moved to a second record, nor read sectors of 4 KiB. So
//! this is our own: records ([`record`]), files and their streams ([`volume`]), folders ([`index`]).
//!
//! The log is not replayed, which a note says. What a half-written change could break is checked: records that were
//! not written whole, and references to records that belong to another file by now, are errors.

use std::{collections::HashMap, io, sync::Arc};

use self::{
    record::kind,
    reparse::Meaning,
    volume::{File, Volume, place},
};
use crate::{
    bytes::Le,
    error::shown,
    probe::{Found, Reader},
    source::ReadAt,
    tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr},
    units::{folded, units, wtf8},
};

mod index;
mod lznt1;
mod record;
mod reparse;
mod volume;

/// Most files that are kept open.
const OPEN_MAX: usize = 32;
/// Most bytes of a stream that is given as an attribute: Linux takes no more.
const STREAM_MAX: u64 = 64 << 10;
/// Flags of files.
const SYSTEM: u32 = 0x4;
/// Its content is elsewhere: off-line, or fetched when somebody reads it.
const OFFLINE: u32 = 0x1000 | 0x4_0000 | 0x40_0000;
/// What a link of Interix, and of ntfs-3g, begins with.
const INTERIX: &[u8] = b"IntxLNK\x01";
/// Most bytes of such a link.
const INTERIX_MAX: u64 = 8 + 2 * 4096;

/// A disk that is lent.
struct Lent<'d>(&'d dyn ReadAt);

impl ReadAt for Lent<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
}

/// What is on a disk that says that it has NTFS.
pub(crate) fn found(disk: &dyn ReadAt, head: &Le) -> Found {
    let serial = format!("{:016X}", head.u64(72));
    let looked = Volume::open(Arc::new(Lent(disk))).and_then(|mut volume| look(&mut volume));
    let (label, reader, notes) = match looked {
        Ok((label, notes)) => (label, Ok(Reader::Ntfs), notes),
        Err(fault) => (None, Err(fault), Vec::new()),
    };
    Found { kind: "ntfs", label, uuid: Some(serial), reader, notes }
}

/// The label of a volume, and what to know of it, if it can be read.
fn look(volume: &mut Volume<'_>) -> Result<(Option<String>, Vec<String>), Fault> {
    let file = volume.file(place::VOLUME)?;
    let label = file.value(kind::VOLUME_NAME).map(|name| wtf8(units(name.0)));
    let label = label.map(|label| String::from_utf8_lossy(&label).into_owned());
    let info = file.value(kind::VOLUME_INFORMATION);
    let info = info.ok_or_else(|| Fault::damaged("the volume does not say its version"))?;
    let version = (info.u8(8), info.u8(9));
    if !matches!(version, (3, 0 | 1)) {
        let (major, minor) = version;
        let reason = format!("it is of version {major}.{minor}; versions 3.0 and 3.1 are read");
        return Err(Fault::unsupported(reason));
    }
    let mut notes = Vec::new();
    if !is_log_done(volume) {
        notes.push(
            "it was in use; its log is not replayed: names and files that changed last may be missing, \
             old or refused"
                .to_owned(),
        );
    }
    if info.u16(10) & 1 != 0 {
        notes.push("Windows marked it to be checked (chkdsk)".to_owned());
    }
    Ok((label.filter(|label| !label.is_empty()), notes))
}

/// Whether nothing is in the log that is not in the volume.
fn is_log_done(volume: &mut Volume<'_>) -> bool {
    let Ok(log) = volume.file(place::LOG) else { return false };
    let Some(stream) = log.data() else { return false };
    let mut pages = vec![0; 8192];
    let mut read = |offset, buf: &mut [u8]| match volume.read(stream, offset, buf) {
        Ok(Piece::Data(len)) => len == buf.len(),
        _ => false,
    };
    let (first, second) = pages.split_at_mut(4096);
    if !read(0, first) || !read(4096, second) {
        return false;
    }
    if first.iter().all(|byte| *byte == 0xff) {
        return true;
    }
    // Two pages tell where the log begins; the newer one counts.
    let state = |page: &mut [u8]| {
        record::settle(page, *b"RSTR").ok()?;
        let area = usize::from(Le(page).u16(24));
        let area = Le(page.get(area..area + 16)?);
        Some((area.u64(0), area.u16(14) & 2 != 0 || area.u16(12) == u16::MAX))
    };
    let newest = [state(first), state(second)].into_iter().flatten().max_by_key(|(at, _)| *at);
    newest.is_some_and(|(_, is_done)| is_done)
}

/// The moment of a time of Windows: tenths of microseconds since 1601.
fn moment(ticks: u64) -> Option<Time> {
    let seconds = i64::try_from(ticks / 10_000_000).ok()? - 11_644_473_600;
    let nanoseconds = u32::try_from(ticks % 10_000_000).ok()? * 100;
    Some(Time { seconds, nanoseconds })
}

/// An open volume.
pub(crate) struct Ntfs {
    volume: Volume<'static>,
    notes: Vec<String>,
    /// Files that were read last.
    open: HashMap<u64, Arc<File>>,
    /// Capitals of all characters, when they are needed.
    capitals: Option<Vec<u16>>,
}

impl Ntfs {
    pub(crate) fn open(disk: Arc<dyn ReadAt>, mut notes: Vec<String>) -> Result<Self, Fault> {
        let volume = Volume::open(disk)?;
        notes.push(
            "owners, access control lists, flags and extended attributes of Windows are not given"
                .to_owned(),
        );
        let mut ntfs = Self { volume, notes, open: HashMap::new(), capitals: None };
        if ntfs.is_hibernated()? {
            let note = "Windows was hibernated, or shut down for a fast start: what it kept in memory is missing";
            ntfs.notes.push(note.to_owned());
        }
        Ok(ntfs)
    }

    /// Whether Windows left memory on this volume that it will read again.
    fn is_hibernated(&mut self) -> Result<bool, Fault> {
        let root = self.file(place::ROOT)?;
        let names = index::names(&mut self.volume, &root)?;
        let is_memory = |name: &[u8]| name.eq_ignore_ascii_case(b"hiberfil.sys");
        let Some(found) = names.iter().find(|it| is_memory(&it.name)) else { return Ok(false) };
        let Ok(file) = self.file(found.reference) else { return Ok(false) };
        let mut magic = [0; 4];
        let read = file.data().map(|data| self.volume.read(data, 0, &mut magic));
        Ok(matches!(read, Some(Ok(Piece::Data(4)))) && magic.eq_ignore_ascii_case(b"hibr"))
    }

    fn file(&mut self, node: u64) -> Result<Arc<File>, Fault> {
        if let Some(file) = self.open.get(&node) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.volume.file(node)?);
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(node, Arc::clone(&file));
        Ok(file)
    }

    /// What a file is, as Windows sees it.
    fn meaning(&mut self, file: &File) -> Result<Meaning, Fault> {
        let flags = file.value(kind::STANDARD_INFORMATION).map_or(0, |value| value.u32(32));
        if let Some(value) = self.volume.value_of(file, kind::REPARSE_POINT)? {
            return reparse::meaning(&value, !file.is_folder && flags & OFFLINE != 0);
        }
        let data = file.data().filter(|data| (9..INTERIX_MAX).contains(&data.size));
        if let Some(data) = data.filter(|_| flags & SYSTEM != 0 && !file.is_folder) {
            let value = self.volume.value(data, INTERIX_MAX)?;
            if let Some(target) = value.strip_prefix(INTERIX) {
                return Ok(Meaning::Link(wtf8(units(target))));
            }
        }
        Ok(Meaning::Plain)
    }

    fn about(&mut self, file: &File) -> Result<Attributes, Fault> {
        let size = file.data().map_or(0, |data| data.size);
        let (kind, size) = match self.meaning(file)? {
            Meaning::Link(target) => (Kind::Link, u64::try_from(target.len()).unwrap_or(0)),
            Meaning::Special(kind) => (kind, 0),
            _ if file.is_folder => (Kind::Folder, 0),
            // Its own bytes are not what Windows shows, and an empty one would not even be read.
            Meaning::Elsewhere(reason) => return Err(Fault::unsupported(reason)),
            Meaning::Plain => (Kind::File, size),
        };
        let times = file.value(kind::STANDARD_INFORMATION);
        let times = times.ok_or_else(|| Fault::damaged("the record of the file has no times"))?;
        let names = file.all(kind::FILE_NAME).filter_map(|it| it.stream.resident());
        let names = names.filter(|name| Le(name).u8(65) != index::DOS).count();
        Ok(Attributes {
            modified: moment(times.u64(8)),
            accessed: moment(times.u64(24)),
            links: u32::try_from(names).ok(),
            ..Attributes::bare(kind, size)
        })
    }

    fn capitals(&mut self) -> Vec<u16> {
        let file = self.file(place::CAPITALS).ok();
        let table = file.and_then(|file| self.volume.value(file.data()?, 2 << 16).ok());
        units(&table.unwrap_or_default()).collect()
    }
}

impl Tree for Ntfs {
    fn root(&self) -> u64 {
        place::ROOT
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        let file = self.file(node)?;
        self.about(&file)
    }

    fn list(&mut self, node: u64) -> Result<Vec<Entry>, Fault> {
        let folder = self.file(node)?;
        if !folder.is_folder {
            return Err(Fault::new(FaultKind::WrongKind, "it is no folder"));
        }
        match self.meaning(&folder)? {
            Meaning::Elsewhere(reason) => return Err(Fault::unsupported(reason)),
            Meaning::Link(_) => return Err(Fault::new(FaultKind::WrongKind, "it is a link")),
            _ => {}
        }
        let mut entries = Vec::new();
        for index::Named { reference, name } in index::names(&mut self.volume, &folder)? {
            if volume::number(reference) < place::FIRST {
                continue;
            }
            let file = self.volume.file(reference);
            let attributes = file.and_then(|file| self.about(&file));
            entries.push(Entry { name, node: reference, attributes });
        }
        Ok(entries)
    }

    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault> {
        let file = self.file(node)?;
        match self.meaning(&file)? {
            Meaning::Plain if !file.is_folder => {}
            Meaning::Elsewhere(reason) => return Err(Fault::unsupported(reason)),
            _ => return Err(Fault::new(FaultKind::WrongKind, "it is no file")),
        }
        match file.data() {
            Some(data) => self.volume.read(data, offset, buf),
            None => Ok(Piece::Data(0)),
        }
    }

    fn target(&mut self, node: u64) -> Result<Vec<u8>, Fault> {
        let file = self.file(node)?;
        match self.meaning(&file)? {
            Meaning::Link(target) => Ok(target),
            _ => Err(Fault::new(FaultKind::WrongKind, "it is no link")),
        }
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Xattr>, Fault> {
        let file = self.file(node)?;
        let mut found = Vec::new();
        for stream in file.all(kind::DATA).filter(|it| !it.name.is_empty()) {
            if stream.stream.size > STREAM_MAX {
                let (name, size) = (shown(&stream.name), stream.stream.size);
                let reason =
                    format!("its stream {name} has {size} bytes; an attribute has up to 65536");
                return Err(Fault::unsupported(reason));
            }
            let value = self.volume.value(&stream.stream, STREAM_MAX)?;
            found.push(([b"user.", stream.name.as_slice()].concat(), value));
        }
        Ok(found)
    }

    fn folded(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let capitals = match self.capitals.take() {
            Some(capitals) => capitals,
            None => self.capitals(),
        };
        folded(name, self.capitals.insert(capitals))
    }
}
