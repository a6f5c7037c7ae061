//! exFAT.
//!
//! Like FAT, it knows no owners, modes or links. Its times may have a zone; without one they are given as if they
//! were in UTC.

use std::{collections::HashMap, io, sync::Arc};

use jiff::civil;

use crate::{
    bytes::Le,
    probe::{Found, Reader},
    source::{ReadAt, bytes_at, length},
    tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr},
    units::{folded, units, wtf8},
};

/// Bytes of an entry of a folder.
const ENTRY: usize = 32;
/// Most bytes of a folder, as the specification says.
const FOLDER_MAX: u64 = 256 << 20;
/// Most bytes of the table of capitals.
const CAPITALS_MAX: u64 = 2 << 16;
/// Most entries that are listed in all.
const SEEN_MAX: usize = 2 << 20;
/// The node of the uppermost folder. No entry lies there.
const ROOT: u64 = 0;
/// Marks of entries. Those whose bit 7 is not set were deleted.
mod mark {
    pub(super) const BITMAP: u8 = 0x81;
    pub(super) const CAPITALS: u8 = 0x82;
    pub(super) const LABEL: u8 = 0x83;
    pub(super) const FILE: u8 = 0x85;
    pub(super) const STREAM: u8 = 0xc0;
    pub(super) const NAME: u8 = 0xc1;
    pub(super) const IN_USE: u8 = 0x80;
    pub(super) const BENIGN: u8 = 0x20;
    pub(super) const SECONDARY: u8 = 0x40;
}

/// How a volume is laid out.
#[derive(Clone, Copy)]
struct Geometry {
    /// Where the table of clusters begins.
    table: u64,
    /// Where the clusters begin.
    heap: u64,
    /// Bytes of a cluster.
    cluster: u64,
    /// How many there are; the first has number 2.
    clusters: u64,
    /// The first cluster of the uppermost folder.
    root: u64,
}

impl Geometry {
    fn of(boot: &Le) -> Result<Self, Fault> {
        let odd = |what: &str| Fault::unsupported(format!("its {what} is none that exFAT has"));
        let (shift, more) = (boot.u8(108), boot.u8(109));
        if !(9..=12).contains(&shift) || more > 25 - shift {
            return Err(odd("size of sectors or clusters"));
        }
        if boot.u8(105) != 1 || boot.u8(110) != 1 {
            return Err(Fault::unsupported("it is of another version than 1, or has two tables"));
        }
        let geometry = Self {
            table: u64::from(boot.u32(80)) << shift,
            heap: u64::from(boot.u32(88)) << shift,
            cluster: 1 << (shift + more),
            clusters: u64::from(boot.u32(92)),
            root: u64::from(boot.u32(96)),
        };
        let table = (geometry.clusters + 2) * 4;
        let has_room = table <= u64::from(boot.u32(84)) << shift;
        if !has_room || geometry.table + table > geometry.heap {
            return Err(Fault::damaged("its table of clusters has no room"));
        }
        Ok(geometry)
    }
}

/// The first sector: of the first copy that is whole. Whether that is the second one.
fn boot(disk: &dyn ReadAt) -> Result<(Vec<u8>, bool), Fault> {
    let at = |start: u64, sector: u64| {
        let all = bytes_at(disk, start * sector, usize::try_from(sector * 12).ok()?)?;
        let (summed, sums) = all.split_at(usize::try_from(sector * 11).ok()?);
        let mut sum = 0_u32;
        for (place, byte) in summed.iter().enumerate() {
            // These change while it is in use.
            if !matches!(place, 106 | 107 | 112) {
                sum = sum.rotate_right(1).wrapping_add(u32::from(*byte));
            }
        }
        let is_whole = Le(sums).u32(0) == sum
            && Le(summed).has(3, b"EXFAT   ")
            && 1_u64.checked_shl(u32::from(Le(summed).u8(108))) == Some(sector);
        is_whole.then(|| all.get(..512).unwrap_or_default().to_vec())
    };
    for (start, is_second) in [(0, false), (12, true)] {
        for sector in [512, 1024, 2048, 4096] {
            if let Some(boot) = at(start, sector) {
                return Ok((boot, is_second));
            }
        }
    }
    Err(Fault::damaged("no copy of its first sectors is whole"))
}

/// What is on a disk that says that it has exFAT.
pub(crate) fn found(disk: &dyn ReadAt, head: &Le) -> Found {
    let id = head.u32(100);
    let uuid = Some(format!("{:04X}-{:04X}", id >> 16, id & 0xffff));
    let (label, reader, notes) = match look(disk) {
        Ok((label, notes)) => (label, Ok(Reader::Exfat), notes),
        Err(fault) => (None, Err(fault), Vec::new()),
    };
    Found { kind: "exfat", label, uuid, reader, notes }
}

/// The label of a volume, and what to know of it, if it can be read.
fn look(disk: &dyn ReadAt) -> Result<(Option<String>, Vec<String>), Fault> {
    let (boot, is_second) = boot(disk)?;
    let flags = Le(&boot).u16(106);
    let mut notes = Vec::new();
    if is_second {
        notes.push("its first sectors are damaged; their copy was read".to_owned());
    }
    if flags & 2 != 0 {
        notes.push("it was in use, and has no journal: its newest changes may be torn".to_owned());
    }
    if flags & 4 != 0 {
        notes.push("its file system recorded errors of the disk".to_owned());
    }
    let volume = Volume { disk, geometry: Geometry::of(&Le(&boot))? };
    let folder = volume.bytes(&volume.root()?, FOLDER_MAX)?;
    let mut entries = folder.chunks_exact(ENTRY).take_while(|entry| Le(entry).u8(0) != 0);
    let label = entries.find(|entry| Le(entry).u8(0) == mark::LABEL);
    let label = label.and_then(|entry| entry.get(2..2 + 2 * usize::from(Le(entry).u8(1)).min(11)));
    let label = label.map(|name| String::from_utf8_lossy(&wtf8(units(name))).into_owned());
    Ok((label.filter(|label| !label.is_empty()), notes))
}

/// Clusters in a row: the first, and how many.
type Run = (u64, u64);

/// A file or folder.
#[derive(Clone)]
struct Node {
    attributes: Attributes,
    /// Its first cluster.
    first: u64,
    /// Bytes that were written; those after them are zeros.
    valid: u64,
    /// Whether its clusters lie in a row, and the table does not know them.
    is_row: bool,
}

/// A disk and where things lie on it.
struct Volume<D> {
    disk: D,
    geometry: Geometry,
}

impl<D: std::ops::Deref<Target: ReadAt>> Volume<D> {
    /// Where a cluster begins on the disk.
    fn place(&self, cluster: u64) -> u64 {
        self.geometry.heap + (cluster - 2) * self.geometry.cluster
    }

    fn is_cluster(&self, cluster: u64) -> bool {
        cluster >= 2 && cluster - 2 < self.geometry.clusters
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.disk.read_at(offset, buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Fault::damaged("a cluster lies beyond the end of the disk")
            }
            _ => Fault::new(FaultKind::Disk, error.to_string()),
        })
    }

    /// The clusters of something that begins here and has at most, or exactly, this count.
    fn runs(&self, first: u64, count: u64, is_row: bool, exactly: bool) -> Result<Vec<Run>, Fault> {
        let damaged = |reason| Err(Fault::damaged(reason));
        if count == 0 {
            return Ok(Vec::new());
        }
        if count > self.geometry.clusters {
            return damaged("a file has more clusters than the volume");
        }
        if is_row {
            if !self.is_cluster(first) || !self.is_cluster(first + (count - 1)) {
                return damaged("a cluster lies outside of the volume");
            }
            return Ok(vec![(first, count)]);
        }
        let (mut runs, mut next): (Vec<Run>, u64) = (Vec::new(), first);
        for done in 0..count {
            if !exactly && done > 0 && next >= 0xffff_fff8 {
                break;
            }
            if !self.is_cluster(next) {
                return damaged("the clusters of a file end before it does, or lie outside");
            }
            match runs.last_mut() {
                Some((start, len)) if *start + *len == next => *len += 1,
                _ => runs.push((next, 1)),
            }
            let mut entry = [0; 4];
            self.read_at(self.geometry.table + next * 4, &mut entry)?;
            next = u64::from(u32::from_le_bytes(entry));
        }
        if !exactly && next < 0xffff_fff8 {
            return damaged("the uppermost folder is longer than a folder can be");
        }
        Ok(runs)
    }

    /// The clusters of the uppermost folder, which has no length but that of its chain.
    fn root(&self) -> Result<Vec<Run>, Fault> {
        let most = FOLDER_MAX.div_ceil(self.geometry.cluster).min(self.geometry.clusters);
        self.runs(self.geometry.root, most, false, false)
    }

    /// The clusters of a file or folder.
    fn runs_of(&self, node: &Node) -> Result<Vec<Run>, Fault> {
        let count = node.attributes.size.div_ceil(self.geometry.cluster);
        self.runs(node.first, count, node.is_row, true)
    }

    /// All bytes of some clusters, of which there may not be too many.
    fn bytes(&self, runs: &[Run], most: u64) -> Result<Vec<u8>, Fault> {
        let clusters: u64 = runs.iter().map(|(_, count)| count).sum();
        let len = clusters.saturating_mul(self.geometry.cluster);
        if len > most.max(self.geometry.cluster) {
            return Err(Fault::damaged("a folder is longer than a folder can be"));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let mut rest = bytes.as_mut_slice();
        for (first, count) in runs {
            let len = usize::try_from(count * self.geometry.cluster).unwrap_or(0);
            let (part, after) = rest.split_at_mut(len.min(rest.len()));
            self.read_at(self.place(*first), part)?;
            rest = after;
        }
        Ok(bytes)
    }

    /// Where an offset of some clusters lies on the disk, and how many bytes follow in a row.
    fn locate(&self, runs: &[Run], offset: u64) -> Option<(u64, u64)> {
        let mut before = 0;
        for (first, count) in runs {
            let len = count * self.geometry.cluster;
            if offset - before < len {
                let within = offset - before;
                return Some((self.place(*first) + within, len - within));
            }
            before += len;
        }
        None
    }
}

/// An open volume.
pub(crate) struct Exfat {
    volume: Volume<Arc<dyn ReadAt>>,
    notes: Vec<String>,
    /// Entries that were listed, by where they lie on the disk.
    seen: HashMap<u64, Node>,
    /// The clusters of the file that was read last.
    open: Option<(u64, Arc<[Run]>)>,
    /// Capitals of all characters, when they are needed.
    capitals: Option<Vec<u16>>,
}

/// A time, its hundredths of a second and its zone; none if there is no such day.
fn moment(time: u32, hundredths: u8, zone: u8) -> Option<Time> {
    let bits = |at: u32, count: u32| i8::try_from(time >> at & ((1 << count) - 1)).ok();
    let year = i16::try_from(time >> 25).ok()? + 1980;
    let day = civil::Date::new(year, bits(21, 4)?, bits(16, 5)?).ok()?;
    let clock = civil::Time::new(bits(11, 5)?, bits(5, 6)?, bits(0, 5)? * 2, 0).ok()?;
    let stamp = day.to_datetime(clock).to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    // A number of quarters of an hour with 7 bits, of which one is the sign.
    let quarters = match i64::from(zone & 0x7f) {
        east @ 0..=0x3f => east,
        west => west - 0x80,
    };
    let by = if zone & 0x80 == 0 { 0 } else { quarters * 900 };
    let hundredths = hundredths.min(199);
    Some(Time {
        seconds: stamp.as_second() - by + i64::from(hundredths / 100),
        nanoseconds: u32::from(hundredths % 100) * 10_000_000,
    })
}

/// The sum of a file's entries.
fn sum(entries: &[u8]) -> u16 {
    let mut sum = 0_u16;
    for (place, byte) in entries.iter().enumerate() {
        if !matches!(place, 2 | 3) {
            sum = sum.rotate_right(1).wrapping_add(u16::from(*byte));
        }
    }
    sum
}

/// The name and node of a file, from all its entries; the name alone if their sum is wrong.
fn file(entries: &[u8]) -> Option<(Vec<u8>, Option<Node>)> {
    let (first, stream) = (Le(entries), Le(entries.get(ENTRY..2 * ENTRY)?));
    if stream.u8(0) != mark::STREAM {
        return None;
    }
    let chars = usize::from(stream.u8(3));
    let mut name = Vec::new();
    for entry in entries.chunks_exact(ENTRY).skip(2) {
        if Le(entry).u8(0) == mark::NAME {
            name.extend(units(entry.get(2..)?));
        }
    }
    let name = wtf8(name.get(..chars).filter(|name| !name.is_empty())?.iter().copied());
    let kind = if first.u16(4) & 0x10 == 0 { Kind::File } else { Kind::Folder };
    let (valid, size) = (stream.u64(8), stream.u64(24));
    let is_whole = sum(entries) == first.u16(2) && valid <= size;
    let node = is_whole.then(|| Node {
        attributes: Attributes {
            modified: moment(first.u32(12), first.u8(21), first.u8(23)),
            accessed: moment(first.u32(16), 0, first.u8(24)),
            ..Attributes::bare(kind, size)
        },
        first: u64::from(stream.u32(20)),
        valid,
        is_row: stream.u8(1) & 2 != 0,
    });
    Some((name, node))
}

impl Exfat {
    pub(crate) fn open(disk: Arc<dyn ReadAt>, mut notes: Vec<String>) -> Result<Self, Fault> {
        let (boot, _) = boot(&*disk)?;
        notes.push("times without a zone are shown as UTC".to_owned());
        let volume = Volume { disk, geometry: Geometry::of(&Le(&boot))? };
        Ok(Self { volume, notes, seen: HashMap::new(), open: None, capitals: None })
    }

    fn node(&self, node: u64) -> Result<&Node, Fault> {
        let none = || Fault::new(FaultKind::NotFound, "there is no such entry");
        self.seen.get(&node).ok_or_else(none)
    }

    fn folder(&self, node: u64) -> Result<Vec<Run>, Fault> {
        if node == ROOT {
            return self.volume.root();
        }
        let folder = self.node(node)?;
        if folder.attributes.kind != Kind::Folder {
            return Err(Fault::new(FaultKind::WrongKind, "it is no folder"));
        }
        self.volume.runs_of(folder)
    }

    /// The entry of a file with those that belong to it. What is wrong is in its place, so that it is not lost.
    fn entry(&mut self, index: usize, place: u64, entries: &[u8]) -> Result<Entry, Fault> {
        let broken = |name| {
            let attributes = Err(Fault::damaged("its entry contradicts itself"));
            Ok(Entry { name, node: place, attributes })
        };
        let (name, node) = match file(entries) {
            Some((name, Some(node))) => (name, node),
            Some((name, None)) => return broken(name),
            None => return broken(format!("(damaged entry {index})").into_bytes()),
        };
        if self.seen.len() >= SEEN_MAX {
            return Err(Fault::unsupported("it has more entries than are read"));
        }
        let mut attributes = node.attributes.clone();
        if attributes.kind == Kind::Folder {
            attributes.size = 0;
        }
        self.seen.insert(place, node);
        Ok(Entry { name, node: place, attributes: Ok(attributes) })
    }

    fn capitals(&self) -> Option<Vec<u16>> {
        let root = self.volume.bytes(&self.volume.root().ok()?, FOLDER_MAX).ok()?;
        let mut entries = root.chunks_exact(ENTRY).take_while(|entry| Le(entry).u8(0) != 0);
        let entry = Le(entries.find(|entry| Le(entry).u8(0) == mark::CAPITALS)?);
        let len = entry.u64(24).min(CAPITALS_MAX);
        let count = len.div_ceil(self.volume.geometry.cluster);
        let runs = self.volume.runs(u64::from(entry.u32(20)), count, false, true).ok()?;
        let table = self.volume.bytes(&runs, CAPITALS_MAX).ok()?;
        let table = table.get(..usize::try_from(len).ok()?)?;
        let sum = table
            .iter()
            .fold(0_u32, |sum, byte| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
        if sum != entry.u32(4) {
            return None;
        }
        let mut capitals: Vec<u16> = Vec::new();
        let mut rest = units(table);
        while let Some(unit) = rest.next().filter(|_| capitals.len() < 65_536) {
            // A number of those that are their own capitals.
            let same = if unit == u16::MAX { rest.next() } else { None };
            match same {
                Some(same) => {
                    let from = u16::try_from(capitals.len()).ok()?;
                    capitals.extend(from..from.saturating_add(same));
                }
                None => capitals.push(unit),
            }
        }
        Some(capitals)
    }
}

impl Tree for Exfat {
    fn root(&self) -> u64 {
        ROOT
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        if node == ROOT {
            return Ok(Attributes::bare(Kind::Folder, 0));
        }
        let mut attributes = self.node(node)?.attributes.clone();
        if attributes.kind == Kind::Folder {
            attributes.size = 0;
        }
        Ok(attributes)
    }

    fn list(&mut self, node: u64) -> Result<Vec<Entry>, Fault> {
        let runs = self.folder(node)?;
        let bytes = self.volume.bytes(&runs, FOLDER_MAX)?;
        let (mut found, mut index) = (Vec::new(), 0);
        while let Some(entries) = bytes.get(index * ENTRY..).filter(|rest| rest.len() >= ENTRY) {
            let first = Le(entries).u8(0);
            let mut count = 1;
            match first {
                0 => break,
                mark::FILE => {
                    let offset = u64::try_from(index * ENTRY).unwrap_or(0);
                    let place = self.volume.locate(&runs, offset);
                    let (place, _) = place.ok_or_else(|| Fault::damaged("a folder has no end"))?;
                    let more = usize::from(Le(entries).u8(1)) + 1;
                    let all = entries.get(..more * ENTRY).unwrap_or_default();
                    let belongs = |entry: &[u8]| Le(entry).u8(0) & 0xc0 == 0xc0;
                    let is_whole = !all.is_empty() && all.chunks_exact(ENTRY).skip(1).all(belongs);
                    count = if is_whole { more } else { 1 };
                    let all = entries.get(..count * ENTRY).unwrap_or_default();
                    found.push(self.entry(index, place, all)?);
                }
                mark::BITMAP | mark::CAPITALS | mark::LABEL => {}
                // Deleted; of no matter to those who do not know it; left over from a damaged one.
                _ if first & mark::IN_USE == 0 => {}
                _ if first & (mark::BENIGN | mark::SECONDARY) != 0 => {}
                _ => {
                    let reason = format!("the folder has entries that are not known ({first:#x})");
                    return Err(Fault::unsupported(reason));
                }
            }
            index += count;
        }
        Ok(found)
    }

    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault> {
        let file = self.node(node)?;
        if file.attributes.kind != Kind::File {
            return Err(Fault::new(FaultKind::WrongKind, "it is no file"));
        }
        let (size, valid) = (file.attributes.size, file.valid);
        if offset >= size || buf.is_empty() {
            return Ok(Piece::Data(0));
        }
        let runs = match self.open.take() {
            Some((open, runs)) if open == node => runs,
            _ => self.volume.runs_of(self.node(node)?)?.into(),
        };
        self.open = Some((node, Arc::clone(&runs)));
        if offset >= valid {
            return Ok(Piece::Hole(size - offset));
        }
        let short = || Fault::damaged("the clusters of a file end before it does");
        let (place, row) = self.volume.locate(&runs, offset).ok_or_else(short)?;
        let len = length(buf).min(row).min(valid - offset);
        let len = usize::try_from(len).unwrap_or(0);
        self.volume.read_at(place, buf.get_mut(..len).unwrap_or_default())?;
        Ok(Piece::Data(len))
    }

    fn target(&mut self, _: u64) -> Result<Vec<u8>, Fault> {
        Err(Fault::new(FaultKind::WrongKind, "it is no link"))
    }

    fn xattrs(&mut self, _: u64) -> Result<Vec<Xattr>, Fault> {
        Ok(Vec::new())
    }

    fn folded(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let capitals = match self.capitals.take() {
            Some(capitals) => capitals,
            None => self.capitals().unwrap_or_default(),
        };
        folded(name, self.capitals.insert(capitals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_zones() {
        // 2026-11-30 12:34:56 + 1.5 s
        let time = (46 << 25) + (11 << 21) + (30 << 16) + (12 << 11) + (34 << 5) + 28;
        let of = |zone| moment(time, 150, zone).map(|time| (time.seconds, time.nanoseconds));
        let utc = 1_796_042_097;
        assert_eq!(of(0), Some((utc, 500_000_000)));
        assert_eq!(of(0x80), Some((utc, 500_000_000)));
        // Tokyo, 9 hours before; New York, 5 hours after; a zone that is not valid.
        assert_eq!(of(0x80 + 36), Some((utc - 9 * 3600, 500_000_000)));
        assert_eq!(of(0x80 + (0x80 - 20)), Some((utc + 5 * 3600, 500_000_000)));
        assert_eq!(of(36), Some((utc, 500_000_000)));
        assert_eq!(moment(0, 0, 0x80), None);
    }
}
