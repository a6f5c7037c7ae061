//! Records of the master file table, and the attributes in them.

use crate::{
    bytes::Le,
    tree::Fault,
    units::{units, wtf8},
};

/// Sizes of parts after which a check of two bytes stands in what is written at once.
const STRIDE: usize = 512;
/// Most pieces of which a stream may be made.
const RUNS_MAX: usize = 4 << 20;

/// Kinds of attributes.
pub(super) mod kind {
    pub(crate) const STANDARD_INFORMATION: u32 = 0x10;
    pub(crate) const LIST: u32 = 0x20;
    pub(crate) const FILE_NAME: u32 = 0x30;
    pub(crate) const VOLUME_NAME: u32 = 0x60;
    pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
    pub(crate) const DATA: u32 = 0x80;
    pub(crate) const INDEX_ROOT: u32 = 0x90;
    pub(crate) const INDEX_ALLOCATION: u32 = 0xa0;
    pub(crate) const REPARSE_POINT: u32 = 0xc0;
}

/// Flags of attributes.
const COMPRESSED: u16 = 0x00ff;
const ENCRYPTED: u16 = 0x4000;

/// How a volume is laid out.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Clusters of the volume.
    pub(super) clusters: u64,
    /// Bytes of a record of the master file table.
    pub(super) record: usize,
    /// Where that table begins, in bytes.
    pub(super) mft: u64,
}

impl Geometry {
    /// What the first sector says, if it is that of a volume that can be.
    pub(super) fn of(boot: &Le) -> Result<Self, Fault> {
        let odd = |what: &str| Fault::unsupported(format!("its {what} is none that NTFS has"));
        let sector = u64::from(boot.u16(11));
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(odd("size of sectors"));
        }
        // Large clusters are given as the negative of a power of two.
        let sectors = match boot.u8(13) {
            count @ 1..=0x80 => u64::from(count),
            power @ 0xf4..=0xff => 1 << (256 - u64::from(power)),
            _ => 0,
        };
        let cluster = sector * sectors;
        if !cluster.is_power_of_two() || cluster > 2 << 20 {
            return Err(odd("size of clusters"));
        }
        let record = match boot.u8(64) {
            count @ 1..=0x7f => u64::from(count) * cluster,
            power @ 0xf0..=0xff => 1 << (256 - u64::from(power)),
            _ => 0,
        };
        if !record.is_power_of_two() || !(512..=4096).contains(&record) {
            return Err(odd("size of records"));
        }
        let clusters = boot.u64(40).checked_div(sectors).unwrap_or(0);
        let mft = boot.u64(48);
        if mft >= clusters || clusters.checked_mul(cluster).is_none() {
            return Err(Fault::damaged("its master file table lies outside of it"));
        }
        let record = usize::try_from(record).unwrap_or(4096);
        Ok(Self { cluster, clusters, record, mft: mft * cluster })
    }
}

/// Checks that a structure was written whole, and puts back the bytes that the checks took the place of.
pub(super) fn settle(bytes: &mut [u8], magic: [u8; 4]) -> Result<(), Fault> {
    let le = Le(bytes);
    let torn = || Fault::damaged("a record was not written whole");
    if !le.has(0, &magic) {
        return Err(Fault::damaged("a record is none of its kind"));
    }
    let (at, count) = (usize::from(le.u16(4)), usize::from(le.u16(6)));
    if count != bytes.len() / STRIDE + 1 || at + 2 * count > bytes.len() {
        return Err(torn());
    }
    let kept: Vec<[u8; 2]> =
        (0..count).map(|index| Le(bytes).u16(at + 2 * index).to_le_bytes()).collect();
    let Some((check, kept)) = kept.split_first() else { return Err(torn()) };
    for (part, kept) in bytes.chunks_exact_mut(STRIDE).zip(kept) {
        let end = part.get_mut(STRIDE - 2..).ok_or_else(torn)?;
        if end != check {
            return Err(torn());
        }
        end.copy_from_slice(kept);
    }
    Ok(())
}

/// Clusters in a row. Those without a place are zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first of them in the stream.
    pub(super) first: u64,
    /// How many.
    pub(super) count: u64,
    /// The first of them on the volume.
    pub(super) place: Option<u64>,
}

impl Run {
    pub(super) const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// Where the bytes of a stream are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In the record.
    Here(Vec<u8>),
    /// In clusters.
    Runs(Vec<Run>),
}

/// The bytes of an attribute.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    flags: u16,
    /// Clusters that are compressed together, as a power of two.
    unit: u16,
    /// Bytes.
    pub(super) size: u64,
    /// Bytes after which all are zeros.
    pub(super) initialized: u64,
    pub(super) content: Content,
}

impl Stream {
    pub(super) const fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    /// Clusters that are compressed together, if it is compressed.
    pub(super) fn unit(&self, cluster: u64) -> Result<Option<u64>, Fault> {
        match (self.flags & COMPRESSED, self.unit) {
            (0, _) => Ok(None),
            (1, unit @ 1..=8) if cluster << unit <= 1 << 20 => Ok(Some(1 << unit)),
            _ => Err(Fault::unsupported("it is compressed in a way that is not known")),
        }
    }

    pub(super) fn resident(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Here(bytes) => Some(bytes),
            Content::Runs(_) => None,
        }
    }

    /// Appends the part of a stream that begins at this cluster.
    pub(super) fn extend(&mut self, part: Self, first: u64) -> Result<(), Fault> {
        match (&mut self.content, part.content) {
            (Content::Runs(runs), Content::Runs(more))
                if runs.last().map_or(0, Run::end) == first
                    && runs.len() + more.len() <= RUNS_MAX =>
            {
                runs.extend(more);
                Ok(())
            }
            _ => Err(Fault::damaged("the parts of a stream do not fit together")),
        }
    }
}

/// An attribute, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    pub(super) kind: u32,
    /// Its name, as bytes.
    pub(super) name: Vec<u8>,
    pub(super) id: u16,
    /// The first cluster of the stream that is in this part.
    pub(super) first: u64,
    pub(super) stream: Stream,
}

/// A record that was written whole and is in use.
pub(super) struct Record {
    bytes: Vec<u8>,
}

impl Record {
    /// The record in these bytes.
    pub(super) fn new(mut bytes: Vec<u8>) -> Result<Self, Fault> {
        settle(&mut bytes, *b"FILE")?;
        if Le(&bytes).u16(22) & 1 == 0 {
            return Err(Fault::damaged("the record of the file is not in use"));
        }
        Ok(Self { bytes })
    }

    /// How often it was given to another file.
    pub(super) fn sequence(&self) -> u16 {
        Le(&self.bytes).u16(16)
    }

    pub(super) fn is_folder(&self) -> bool {
        Le(&self.bytes).u16(22) & 2 != 0
    }

    /// The record that this one continues, or none.
    pub(super) fn base(&self) -> u64 {
        Le(&self.bytes).u64(32)
    }

    /// All attributes in it.
    pub(super) fn attributes(&self, geometry: &Geometry) -> Result<Vec<Attribute>, Fault> {
        let broken = || Fault::damaged("the record of the file contradicts itself");
        let le = Le(&self.bytes);
        let used = usize::try_from(le.u32(24)).ok().filter(|used| *used <= self.bytes.len());
        let used = used.ok_or_else(broken)?;
        let mut at = usize::from(le.u16(20));
        let mut found = Vec::new();
        loop {
            if at + 4 > used {
                return Err(broken());
            }
            if le.u32(at) == u32::MAX {
                return Ok(found);
            }
            let len = usize::try_from(le.u32(at + 4)).unwrap_or(usize::MAX);
            let end = at.checked_add(len).filter(|end| len >= 24 && *end <= used);
            let end = end.ok_or_else(broken)?;
            let bytes = self.bytes.get(at..end).ok_or_else(broken)?;
            found.push(attribute(bytes, geometry).ok_or_else(broken)?);
            at = end;
        }
    }
}

fn attribute(bytes: &[u8], geometry: &Geometry) -> Option<Attribute> {
    let le = Le(bytes);
    let name_at = usize::from(le.u16(10));
    let name = bytes.get(name_at..name_at + 2 * usize::from(le.u8(9)))?;
    let (flags, mut unit, mut first) = (le.u16(12), 0, 0);
    let (size, initialized, content) = if le.u8(8) == 0 {
        let (len, at) = (usize::try_from(le.u32(16)).ok()?, usize::from(le.u16(20)));
        let value = bytes.get(at..at.checked_add(len)?)?.to_vec();
        let len = u64::from(le.u32(16));
        (len, len, Content::Here(value))
    } else {
        first = le.u64(16);
        unit = le.u16(34);
        let runs = runs(bytes.get(usize::from(le.u16(32))..)?, first, geometry)?;
        // None at all are "from 0 to -1".
        if le.u64(24).wrapping_add(1) != runs.last().map_or(first, Run::end) {
            return None;
        }
        // Only the first part of a stream knows how long it is.
        if first == 0 && bytes.len() < 64 {
            return None;
        }
        (le.u64(48), le.u64(56).min(le.u64(48)), Content::Runs(runs))
    };
    Some(Attribute {
        kind: le.u32(0),
        name: wtf8(units(name)),
        id: le.u16(14),
        first,
        stream: Stream { flags, unit, size, initialized, content },
    })
}

/// Where clusters lie: each run is its length, and how far it is from the one before.
fn runs(mut bytes: &[u8], first: u64, geometry: &Geometry) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    let (mut first, mut place) = (first, 0_i64);
    while let [head, rest @ ..] = bytes
        && *head != 0
    {
        let (lens, places) = (usize::from(head & 0xf), usize::from(head >> 4));
        if !(1..=8).contains(&lens) || places > 8 {
            return None;
        }
        let count = u64::try_from(signed(rest.get(..lens)?)).ok().filter(|count| *count > 0)?;
        let by = rest.get(lens..lens + places)?;
        let at = if by.is_empty() {
            None
        } else {
            place = place.checked_add(signed(by))?;
            let at = u64::try_from(place).ok()?;
            at.checked_add(count).filter(|end| *end <= geometry.clusters)?;
            Some(at)
        };
        runs.push(Run { first, count, place: at });
        first = first.checked_add(count)?;
        bytes = rest.get(lens + places..)?;
    }
    // No stream is longer than can be counted in bytes.
    first.checked_mul(geometry.cluster)?;
    Some(runs)
}

/// A little-endian number of up to 8 bytes with a sign.
fn signed(bytes: &[u8]) -> i64 {
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut number = [fill; 8];
    number.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    i64::from_le_bytes(number)
}
