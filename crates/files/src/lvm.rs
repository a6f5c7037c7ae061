//! LVM2: volume groups over the disks that are here, and their linear and striped volumes.
//!
//! What is on a physical volume is checked by its sums, and of several copies of a group's description the newest one
//! counts. Thin volumes, mirrors, snapshots and caches are named and not read.

use std::{collections::BTreeMap, io, sync::Arc};

use crate::{
    bytes::Le,
    partitions::crc32_from,
    source::{ReadAt, bytes_at, check_within, length},
    tree::Fault,
};

/// Most bytes of the description of a group.
const TEXT_MAX: u64 = 4 << 20;
/// How deep sections may lie in each other; a description has four.
const DEPTH_MAX: usize = 8;
/// What LVM begins its check sums with.
const SUM: u32 = 0xf597_a6cf;
const SECTOR: u64 = 512;

/// A logical volume.
pub(crate) struct Logical {
    /// `GROUP/VOLUME`.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Its bytes, or why they are not read.
    pub(crate) bytes: Result<Arc<dyn ReadAt>, Fault>,
}

/// A physical volume: its id and its bytes.
struct Physical {
    id: String,
    bytes: Arc<dyn ReadAt>,
    description: Description,
}

/// The description of a group.
struct Description {
    name: String,
    body: Section,
}

type Section = BTreeMap<String, Value>;

/// A value of a description.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Section(Section),
    Number(u64),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    fn section(&self) -> Option<&Section> {
        if let Self::Section(section) = self { Some(section) } else { None }
    }

    fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }
}

/// The logical volumes of all groups on these physical volumes, by name.
pub(crate) fn volumes(parts: &[Arc<dyn ReadAt>]) -> Vec<Logical> {
    let physical: Vec<Physical> = parts.iter().filter_map(physical).collect();
    // The newest description of each group, by the group's id.
    let mut groups: BTreeMap<&str, (u64, &Description)> = BTreeMap::new();
    for one in &physical {
        let body = &one.description.body;
        let Some(id) = body.get("id").and_then(Value::text) else { continue };
        let number = body.get("seqno").and_then(Value::number).unwrap_or(0);
        let known = groups.entry(id).or_insert((number, &one.description));
        if number > known.0 {
            *known = (number, &one.description);
        }
    }
    let mut found: Vec<Logical> =
        groups.values().flat_map(|(_, group)| of_group(group, &physical)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn physical(bytes: &Arc<dyn ReadAt>) -> Option<Physical> {
    let head = bytes_at(&**bytes, 0, 2048)?;
    let label = [0, 512, 1024, 1536].into_iter().find_map(|at| {
        let sector = head.get(at..at + 512)?;
        let le = Le(sector);
        let is_label = le.has(0, b"LABELONE")
            && le.has(24, b"LVM2 001")
            && crc32_from(SUM, sector.get(20..)?) == le.u32(16);
        is_label.then_some(sector)
    })?;
    let header = label.get(usize::try_from(Le(label).u32(20)).ok()?..)?;
    let id = String::from_utf8(header.get(..32)?.to_vec()).ok()?;
    let le = Le(header);
    // Places of data end with an empty one, and then places of descriptions.
    let mut at = 40;
    while le.u64(at) != 0 {
        at += 16;
    }
    at += 16;
    let mut newest: Option<Description> = None;
    while le.u64(at) != 0 && at < 512 {
        let found = description(&**bytes, le.u64(at));
        let number = |it: &Description| it.body.get("seqno").and_then(Value::number);
        if found.as_ref().and_then(number) > newest.as_ref().and_then(number) {
            newest = found;
        }
        at += 16;
    }
    Some(Physical { id, bytes: Arc::clone(bytes), description: newest? })
}

/// The description in the area that begins there.
fn description(bytes: &dyn ReadAt, area: u64) -> Option<Description> {
    let head = bytes_at(bytes, area, 512)?;
    let le = Le(&head);
    if !le.has(4, b" LVM2 x[5A%r0N*>") || crc32_from(SUM, head.get(4..)?) != le.u32(0) {
        return None;
    }
    let (area_len, offset, len) = (le.u64(32), le.u64(40), le.u64(48));
    let (sum, flags) = (le.u32(56), le.u32(60));
    if offset == 0 || len > TEXT_MAX || offset >= area_len || flags & 1 != 0 {
        return None;
    }
    // The area is a ring after its header.
    let first = len.min(area_len.checked_sub(offset)?);
    let mut text = bytes_at(bytes, area.checked_add(offset)?, usize::try_from(first).ok()?)?;
    let rest = usize::try_from(len.checked_sub(first)?).ok()?;
    text.extend(bytes_at(bytes, area.checked_add(SECTOR)?, rest)?);
    if crc32_from(SUM, &text) != sum {
        return None;
    }
    let text = String::from_utf8(text).ok()?;
    let all = Parser { rest: &text }.section(0)?;
    let (name, body) = all.iter().find_map(|(name, value)| Some((name, value.section()?)))?;
    Some(Description { name: name.clone(), body: body.clone() })
}

/// Reads a description: `name { ... }` and `name = value`, with comments.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// The next character that is no space and no comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\0');
            if !self.rest.starts_with('#') {
                return self.rest.chars().next();
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn take(&mut self, wanted: char) -> Option<()> {
        self.peek()?;
        self.rest = self.rest.strip_prefix(wanted)?;
        Some(())
    }

    fn word(&mut self) -> Option<&'a str> {
        self.peek()?;
        let is_word = |c: char| c.is_alphanumeric() || "_.+-".contains(c);
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    /// What stands up to the end of the section, or of all.
    fn section(&mut self, depth: usize) -> Option<Section> {
        if depth > DEPTH_MAX {
            return None;
        }
        let mut section = Section::new();
        loop {
            match self.peek() {
                None if depth == 0 => return Some(section),
                Some('}') if depth > 0 => {
                    self.take('}')?;
                    return Some(section);
                }
                _ => {}
            }
            let name = self.word()?.to_owned();
            let value = if self.peek()? == '{' {
                self.take('{')?;
                Value::Section(self.section(depth + 1)?)
            } else {
                self.take('=')?;
                self.value(depth)?
            };
            section.insert(name, value);
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            '"' => {
                self.take('"')?;
                let mut text = String::new();
                let mut chars = self.rest.char_indices();
                loop {
                    match chars.next()? {
                        (at, '"') => {
                            self.rest = self.rest.get(at + 1..)?;
                            return Some(Value::Text(text));
                        }
                        (_, '\\') => text.push(chars.next()?.1),
                        (_, c) => text.push(c),
                    }
                }
            }
            '[' => {
                self.take('[')?;
                let mut list = Vec::new();
                loop {
                    match self.peek()? {
                        ']' => {
                            self.take(']')?;
                            return Some(Value::List(list));
                        }
                        ',' => self.take(',')?,
                        _ => list.push(self.value(depth + 1)?),
                    }
                }
            }
            _ => {
                let word = self.word()?;
                // Numbers that are negative or have a point are none that are needed here.
                Some(word.parse().map_or_else(|_| Value::Text(word.to_owned()), Value::Number))
            }
        }
    }
}

fn of_group(group: &Description, physical: &[Physical]) -> Vec<Logical> {
    let empty = Section::new();
    let section = |name: &str| group.body.get(name).and_then(Value::section).unwrap_or(&empty);
    let extent = group.body.get("extent_size").and_then(Value::number).unwrap_or(0);
    let extent = extent.saturating_mul(SECTOR);
    let places = section("physical_volumes");
    let mut found = Vec::new();
    for (name, volume) in section("logical_volumes") {
        let Some(volume) = volume.section() else { continue };
        let status = volume.get("status").and_then(Value::list).unwrap_or_default();
        // The others are parts of these.
        if !status.iter().any(|word| word.text() == Some("VISIBLE")) {
            continue;
        }
        let segments = volume.values().filter_map(Value::section);
        let segments: Vec<&Section> =
            segments.filter(|it| it.contains_key("start_extent")).collect();
        let extents = segments.iter().filter_map(|it| it.get("extent_count")?.number());
        let size = extents.fold(0_u64, u64::saturating_add).saturating_mul(extent);
        let bytes = mapped(&segments, extent, size, places, physical);
        let bytes = bytes.map(|mapped| -> Arc<dyn ReadAt> { Arc::new(mapped) });
        found.push(Logical { name: format!("{}/{name}", group.name), size, bytes });
    }
    found
}

/// A logical volume: pieces of physical ones.
struct Mapped {
    size: u64,
    /// In order, without gaps.
    segments: Vec<Segment>,
}

struct Segment {
    start: u64,
    len: u64,
    /// Bytes of each physical volume in turn; all of them, if there is one.
    stripe: u64,
    stripes: Vec<(Arc<dyn ReadAt>, u64)>,
}

fn mapped(
    segments: &[&Section],
    extent: u64,
    size: u64,
    places: &Section,
    physical: &[Physical],
) -> Result<Mapped, Fault> {
    let mut found = Vec::new();
    for segment in segments {
        let number = |name: &str| segment.get(name).and_then(Value::number);
        let kind = segment.get("type").and_then(Value::text).unwrap_or_default();
        if kind != "striped" {
            return Err(Fault::unsupported(format!("it is a volume of type {kind} (LVM)")));
        }
        let wrong = || Fault::damaged("the description of its volume group is wrong");
        let start =
            number("start_extent").and_then(|it| it.checked_mul(extent)).ok_or_else(wrong)?;
        let len = number("extent_count").and_then(|it| it.checked_mul(extent)).ok_or_else(wrong)?;
        let list = segment.get("stripes").and_then(Value::list).ok_or_else(wrong)?;
        let mut stripes = Vec::new();
        for pair in list.chunks(2) {
            let [name, first] = pair else { return Err(wrong()) };
            let name = name.text().ok_or_else(wrong)?;
            let place = places.get(name).and_then(Value::section).ok_or_else(wrong)?;
            let id = place.get("id").and_then(Value::text).ok_or_else(wrong)?.replace('-', "");
            let begin = place.get("pe_start").and_then(Value::number).ok_or_else(wrong)?;
            let first = first.number().and_then(|it| it.checked_mul(extent)).ok_or_else(wrong)?;
            let at = begin.checked_mul(SECTOR).and_then(|at| at.checked_add(first));
            let bytes = physical.iter().find(|it| it.id == id).map(|it| Arc::clone(&it.bytes));
            let missing = || Fault::unsupported("a physical volume of its group (LVM) is missing");
            stripes.push((bytes.ok_or_else(missing)?, at.ok_or_else(wrong)?));
        }
        let stripe = match stripes.len() {
            0 => return Err(wrong()),
            1 => len,
            _ => number("stripe_size").and_then(|it| it.checked_mul(SECTOR)).ok_or_else(wrong)?,
        };
        if stripe == 0 || len == 0 {
            return Err(wrong());
        }
        found.push(Segment { start, len, stripe, stripes });
    }
    found.sort_by_key(|segment| segment.start);
    let end = found
        .iter()
        .try_fold(0, |at, segment| (segment.start == at).then(|| at.saturating_add(segment.len)));
    if end != Some(size) || size == 0 {
        return Err(Fault::damaged("the description of its volume group has gaps"));
    }
    Ok(Mapped { size, segments: found })
}

impl ReadAt for Mapped {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size, offset, length(buf))?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let index = self.segments.partition_point(|segment| segment.start <= at);
            let segment = index.checked_sub(1).and_then(|index| self.segments.get(index));
            let segment = segment.ok_or(io::ErrorKind::InvalidData)?;
            let within = at.saturating_sub(segment.start);
            let count = u64::try_from(segment.stripes.len()).unwrap_or(1);
            let (row, in_stripe) = (within / segment.stripe, within % segment.stripe);
            let stripe = usize::try_from(row % count).unwrap_or(0);
            let (bytes, base) = segment.stripes.get(stripe).ok_or(io::ErrorKind::InvalidData)?;
            let place = (row / count).saturating_mul(segment.stripe).saturating_add(in_stripe);
            let left = (segment.stripe - in_stripe).min(segment.len.saturating_sub(within));
            let len = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (part, after) = rest.split_at_mut(len);
            bytes.read_at(base.saturating_add(place), part)?;
            at = at.saturating_add(length(part));
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read_or_refused() {
        let text = "# made\nvg { id = \"a-b\" list = [\"x\", 3, []] # end\n in { n = 4 } }\ncontents = \"T\\\"\"\n\0";
        let all = Parser { rest: text }.section(0).expect("a section");
        let group = all["vg"].section().expect("a section");
        assert_eq!(group["id"].text(), Some("a-b"));
        assert_eq!(group["list"].list().map(<[Value]>::len), Some(3));
        assert_eq!(group["in"].section().and_then(|it| it["n"].number()), Some(4));
        assert_eq!(all["contents"].text(), Some("T\""));
        let deep = "a { ".repeat(100_000);
        let lists = format!("a = {}", "[".repeat(100_000));
        for wrong in ["a {", "a = ", "a = \"x", "a = [", "}", "= 3", &deep, &lists] {
            assert_eq!(Parser { rest: wrong }.section(0), None, "{}", &wrong[..wrong.len().min(9)]);
        }
    }
}
