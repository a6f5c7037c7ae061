//! Files of a volume, put together from their records, and the bytes of their streams.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::Arc,
};

use super::{
    lznt1,
    record::{Attribute, Content, Geometry, Record, Run, Stream, kind},
};
use crate::{
    bytes::Le,
    source::{ReadAt, bytes_at, length},
    tree::{Fault, FaultKind, Piece},
    units::{units, wtf8},
};

/// Most bytes of a list of attributes, as Windows has it.
const LIST_MAX: u64 = 256 << 10;
/// Most bytes of an attribute that is read as one.
const VALUE_MAX: u64 = 1 << 20;
/// The bits of a reference that are the number of a record.
const NUMBER: u64 = (1 << 48) - 1;

/// Records with a fixed place.
pub(super) mod place {
    pub(crate) const MFT: u64 = 0;
    pub(crate) const LOG: u64 = 2;
    pub(crate) const VOLUME: u64 = 3;
    pub(crate) const ROOT: u64 = 5;
    pub(crate) const CAPITALS: u64 = 10;
    /// The first that belongs to people.
    pub(crate) const FIRST: u64 = 16;
}

/// The number of the record that a reference names.
pub(super) const fn number(reference: u64) -> u64 {
    reference & NUMBER
}

/// A file: all its attributes, wherever they are.
pub(super) struct File {
    pub(super) is_folder: bool,
    attributes: Vec<Attribute>,
}

impl File {
    /// All attributes of a kind.
    pub(super) fn all(&self, kind: u32) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter().filter(move |it| it.kind == kind)
    }

    /// The stream of this kind and name.
    pub(super) fn stream(&self, kind: u32, name: &[u8]) -> Option<&Stream> {
        self.all(kind).find(|it| it.name == name).map(|it| &it.stream)
    }

    /// The value of an attribute that stands in its record.
    pub(super) fn value(&self, kind: u32) -> Option<Le<'_>> {
        self.all(kind).next().and_then(|it| it.stream.resident()).map(Le)
    }

    /// The content of the file.
    pub(super) fn data(&self) -> Option<&Stream> {
        self.stream(kind::DATA, b"")
    }
}

/// The unit of compressed data that was read last: of which place on the volume, and what is in it.
type Unpacked = (u64, Arc<[u8]>);

/// A volume.
pub(super) struct Volume<'d> {
    disk: Arc<dyn ReadAt + 'd>,
    pub(super) geometry: Geometry,
    mft: Stream,
    unpacked: Option<Unpacked>,
}

fn lost(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::damaged("a cluster lies beyond the end of the disk"),
        _ => Fault::new(FaultKind::Disk, error.to_string()),
    }
}

impl<'d> Volume<'d> {
    pub(super) fn open(disk: Arc<dyn ReadAt + 'd>) -> Result<Self, Fault> {
        let short = || Fault::damaged("the disk ends before its first sector");
        let boot = bytes_at(&*disk, 0, 512).ok_or_else(short)?;
        let geometry = Geometry::of(&Le(&boot))?;
        let mut bytes = vec![0; geometry.record];
        disk.read_at(geometry.mft, &mut bytes).map_err(|error| lost(&error))?;
        let record = Record::new(bytes)?;
        let attributes = record.attributes(&geometry)?;
        let first = |it: &&Attribute| it.kind == kind::DATA && it.name.is_empty() && it.first == 0;
        let mft = attributes.iter().find(first).map(|it| it.stream.clone());
        let mft = mft.ok_or_else(|| Fault::damaged("the master file table has no content"))?;
        let mut volume = Self { disk, geometry, mft, unpacked: None };
        // The table says itself where its other parts are: each is found by those before.
        if let Some(list) = attributes.iter().find(|it| it.kind == kind::LIST) {
            let list = volume.value(&list.stream, LIST_MAX)?;
            for item in items(&list)? {
                if item.kind == kind::DATA && item.first != 0 {
                    let part = volume.part(&item, place::MFT)?;
                    volume.mft.extend(part.stream, item.first)?;
                }
            }
        }
        Ok(volume)
    }

    /// A record by its number.
    fn record(&mut self, number: u64) -> Result<Record, Fault> {
        let len = u64::try_from(self.geometry.record).unwrap_or(u64::MAX);
        let at = number.checked_mul(len).filter(|at| *at < self.mft.initialized);
        let at = at.ok_or_else(|| Fault::damaged("there is no such record"))?;
        let mut bytes = vec![0; self.geometry.record];
        let mft = std::mem::replace(&mut self.mft.content, Content::Here(Vec::new()));
        let read = match &mft {
            Content::Runs(runs) => self.fill(runs, at, &mut bytes),
            Content::Here(_) => Err(Fault::damaged("the master file table is in itself")),
        };
        self.mft.content = mft;
        read?;
        Record::new(bytes)
    }

    /// The record that a reference names, if it still belongs to the same file.
    fn referred(&mut self, reference: u64) -> Result<Record, Fault> {
        let record = self.record(number(reference))?;
        let sequence = reference >> 48;
        if sequence != 0 && sequence != u64::from(record.sequence()) {
            return Err(Fault::damaged("the record of the file belongs to another file by now"));
        }
        Ok(record)
    }

    /// An attribute that lies in another record than the file's first.
    fn part(&mut self, item: &Item, of: u64) -> Result<Attribute, Fault> {
        let record = self.referred(item.reference)?;
        if number(record.base()) != of && number(item.reference) != of {
            return Err(Fault::damaged("a record belongs to another file than the one it is in"));
        }
        let found = record.attributes(&self.geometry)?.into_iter().find(|it| item.is(it));
        found.ok_or_else(|| Fault::damaged("a part of the file is not where it should be"))
    }

    /// A file, with everything that belongs to it.
    pub(super) fn file(&mut self, reference: u64) -> Result<File, Fault> {
        let record = self.referred(reference)?;
        if record.base() != 0 {
            return Err(Fault::damaged("the record is only a part of a file"));
        }
        let is_folder = record.is_folder();
        let mut attributes = record.attributes(&self.geometry)?;
        if let Some(list) = attributes.iter().find(|it| it.kind == kind::LIST) {
            let list = self.value(&list.stream.clone(), LIST_MAX)?;
            attributes = self.listed(&list, number(reference), attributes)?;
        } else if attributes.iter().any(|it| it.first != 0) {
            return Err(Fault::damaged("the first part of a stream is missing"));
        }
        Ok(File { is_folder, attributes })
    }

    /// The attributes that a list names, each put together from its parts.
    fn listed(
        &mut self,
        list: &[u8],
        of: u64,
        here: Vec<Attribute>,
    ) -> Result<Vec<Attribute>, Fault> {
        let mut records = HashMap::from([(of, here)]);
        let mut found: Vec<Attribute> = Vec::new();
        for item in items(list)? {
            let there = number(item.reference);
            let all = match records.entry(there) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(space) => {
                    let record = self.referred(item.reference)?;
                    if number(record.base()) != of {
                        return Err(Fault::damaged("a part of the file belongs to another file"));
                    }
                    space.insert(record.attributes(&self.geometry)?)
                }
            };
            let missing = || Fault::damaged("a part of the file is not where it should be");
            let part = all.iter().find(|it| item.is(it)).cloned();
            let part = part.ok_or_else(missing)?;
            if item.first == 0 {
                found.push(part);
                continue;
            }
            let of_it = |it: &&mut Attribute| it.kind == part.kind && it.name == part.name;
            let stream = found.iter_mut().rev().find(of_it).ok_or_else(missing)?;
            stream.stream.extend(part.stream, item.first)?;
        }
        Ok(found)
    }

    /// All bytes of a stream that may not be longer than this.
    pub(super) fn value(&mut self, stream: &Stream, most: u64) -> Result<Vec<u8>, Fault> {
        if stream.size > most {
            return Err(Fault::unsupported("one of its attributes is too large to be read"));
        }
        let mut bytes = vec![0; usize::try_from(stream.size).unwrap_or(0)];
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get_mut(at..).unwrap_or_default();
            let done = match self.read(stream, u64::try_from(at).unwrap_or(0), rest)? {
                Piece::Data(len) => len,
                Piece::Hole(len) => usize::try_from(len).unwrap_or(usize::MAX),
            };
            if done == 0 {
                return Err(Fault::damaged("a stream ends before it should"));
            }
            at = at.saturating_add(done);
        }
        Ok(bytes)
    }

    /// The value of an attribute of a file, wherever it is.
    pub(super) fn value_of(&mut self, file: &File, kind: u32) -> Result<Option<Vec<u8>>, Fault> {
        let Some(found) = file.all(kind).next() else { return Ok(None) };
        self.value(&found.stream, VALUE_MAX).map(Some)
    }

    /// The next bytes of a stream.
    pub(super) fn read(
        &mut self,
        stream: &Stream,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<Piece, Fault> {
        if stream.is_encrypted() {
            return Err(Fault::unsupported("it is encrypted (EFS)"));
        }
        let rest = stream.size.saturating_sub(offset);
        if rest == 0 || buf.is_empty() {
            return Ok(Piece::Data(0));
        }
        let len = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let buf = buf.get_mut(..len).unwrap_or_default();
        let runs = match &stream.content {
            Content::Here(bytes) => {
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                let there = bytes.get(at..).and_then(|there| there.get(..len));
                buf.copy_from_slice(there.ok_or_else(|| Fault::damaged("a value is too short"))?);
                return Ok(Piece::Data(len));
            }
            Content::Runs(runs) => runs,
        };
        let written = stream.initialized.saturating_sub(offset);
        if written == 0 {
            return Ok(Piece::Hole(rest));
        }
        let len = len.min(usize::try_from(written).unwrap_or(usize::MAX));
        let buf = buf.get_mut(..len).unwrap_or_default();
        if let Some(unit) = stream.unit(self.geometry.cluster)? {
            return self.unpack(runs, unit, offset, buf);
        }
        let run = self.run(runs, offset)?;
        let cluster = self.geometry.cluster;
        let there = run.end().saturating_mul(cluster).saturating_sub(offset);
        let Some(place) = run.place else { return Ok(Piece::Hole(there.min(rest))) };
        let len = len.min(usize::try_from(there).unwrap_or(usize::MAX));
        let buf = buf.get_mut(..len).unwrap_or_default();
        let within = offset.saturating_sub(run.first.saturating_mul(cluster));
        let at = place.saturating_mul(cluster).saturating_add(within);
        self.disk.read_at(at, buf).map_err(|error| lost(&error))?;
        Ok(Piece::Data(len))
    }

    /// The run in which an offset of a stream lies.
    fn run<'r>(&self, runs: &'r [Run], offset: u64) -> Result<&'r Run, Fault> {
        let cluster = offset.checked_div(self.geometry.cluster).unwrap_or(0);
        let index = runs.partition_point(|run| run.end() <= cluster);
        runs.get(index).ok_or_else(|| Fault::damaged("the clusters of a stream end before it does"))
    }

    /// Fills a buffer from runs that have no holes there.
    fn fill(&self, runs: &[Run], mut offset: u64, mut buf: &mut [u8]) -> Result<(), Fault> {
        let cluster = self.geometry.cluster;
        while !buf.is_empty() {
            let run = self.run(runs, offset)?;
            let hole = || Fault::damaged("a structure of the volume has a hole");
            let place = run.place.ok_or_else(hole)?;
            let there = run.end().saturating_mul(cluster).saturating_sub(offset);
            let len = buf.len().min(usize::try_from(there).unwrap_or(usize::MAX));
            let (part, rest) = buf.split_at_mut(len);
            let within = offset.saturating_sub(run.first.saturating_mul(cluster));
            let at = place.saturating_mul(cluster).saturating_add(within);
            self.disk.read_at(at, part).map_err(|error| lost(&error))?;
            offset = offset.saturating_add(length(part));
            buf = rest;
        }
        Ok(())
    }

    /// Bytes of a compressed stream. A unit without clusters is zeros, one with all of them is not compressed.
    fn unpack(
        &mut self,
        runs: &[Run],
        unit: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<Piece, Fault> {
        let cluster = self.geometry.cluster;
        let bytes = unit.saturating_mul(cluster);
        let first = offset.checked_div(bytes).unwrap_or(0).saturating_mul(unit);
        let skip = usize::try_from(offset.checked_rem(bytes).unwrap_or(0)).unwrap_or(0);
        let (mut places, mut ended) = (Vec::new(), false);
        let from = runs.partition_point(|run| run.end() <= first);
        for run in runs.get(from..).unwrap_or_default() {
            let start = run.first.max(first);
            let end = run.end().min(first.saturating_add(unit));
            let Some(count) = end.checked_sub(start).filter(|count| *count > 0) else { break };
            match run.place {
                Some(_) if ended => {
                    return Err(Fault::damaged("a compressed unit has a hole in the middle"));
                }
                Some(place) => places.push((place + (start - run.first), count)),
                None => ended = true,
            }
        }
        let Some((key, _)) = places.first().copied() else {
            let rest = bytes.saturating_sub(u64::try_from(skip).unwrap_or(0));
            return Ok(Piece::Hole(rest.min(length(buf))));
        };
        let unpacked = match self.unpacked.take() {
            Some((place, unpacked)) if place == key => unpacked,
            _ => self.unit(&places, unit)?,
        };
        let there = unpacked.get(skip..).unwrap_or_default();
        let len = there.len().min(buf.len());
        let (to, _) = buf.split_at_mut(len);
        to.copy_from_slice(there.get(..len).unwrap_or_default());
        self.unpacked = Some((key, unpacked));
        Ok(Piece::Data(len))
    }

    /// The content of a unit of this many clusters, of which these are stored.
    fn unit(&self, places: &[(u64, u64)], unit: u64) -> Result<Arc<[u8]>, Fault> {
        let cluster = self.geometry.cluster;
        let size = |clusters: u64| usize::try_from(clusters.saturating_mul(cluster)).unwrap_or(0);
        let stored: u64 = places.iter().map(|(_, count)| count).sum();
        let mut bytes = vec![0; size(stored)];
        let mut rest = bytes.as_mut_slice();
        for (place, count) in places {
            let (part, after) = rest.split_at_mut(size(*count).min(rest.len()));
            let at = place.saturating_mul(cluster);
            self.disk.read_at(at, part).map_err(|error| lost(&error))?;
            rest = after;
        }
        if stored < unit {
            bytes = lznt1::unpack(&bytes, size(unit))?;
        }
        Ok(bytes.into())
    }
}

/// Where a list says that an attribute is.
struct Item {
    kind: u32,
    name: Vec<u8>,
    first: u64,
    reference: u64,
    id: u16,
}

impl Item {
    fn is(&self, it: &Attribute) -> bool {
        (it.kind, it.id, it.first) == (self.kind, self.id, self.first) && it.name == self.name
    }
}

/// The items of a list of attributes.
fn items(list: &[u8]) -> Result<Vec<Item>, Fault> {
    let broken = || Fault::damaged("the list of the file's parts contradicts itself");
    let (mut found, mut rest) = (Vec::new(), list);
    while !rest.is_empty() {
        let le = Le(rest);
        let len = usize::from(le.u16(4));
        let item = rest.get(..len).filter(|item| item.len() >= 26).ok_or_else(broken)?;
        let name_at = usize::from(le.u8(7));
        let name = item.get(name_at..name_at + 2 * usize::from(le.u8(6))).ok_or_else(broken)?;
        found.push(Item {
            kind: le.u32(0),
            name: wtf8(units(name)),
            first: le.u64(8),
            reference: le.u64(16),
            id: le.u16(24),
        });
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(found)
}
