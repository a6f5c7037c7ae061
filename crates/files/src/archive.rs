//! Files of a volume as a tar archive, as POSIX has it since 2001 (pax).
//!
//! What the old header cannot hold (long names, large numbers, parts of seconds, extended attributes) stands in an
//! extended header before it. An archive is a stream, and nothing can be taken back: small files are read whole before
//! anything of them is written; if a large one fails in the middle, the archive ends there, with the error.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, Write},
};

use strongroom_base::Cancel;

use crate::{
    bytes::Le,
    content::{Names, PROBLEMS_MAX, Stop, WHOLE, pack, pieces, probe, unwritten, whole},
    deliver::{Delivered, NO_NUMBER, NO_OWNER, Problem, why_no_name},
    error::{FilesError, shown},
    source::length,
    tree::{Attributes, Fault, Kind, Time, Xattr},
    walk::{Files, Located},
};

/// Bytes of a header, and of what everything is filled up to.
const BLOCK: usize = 512;

/// Writes a file, or a folder with all that is in it, as an archive. Names in it begin with the last part of the
/// path. What could not be read is listed and left out.
pub fn archive(
    files: &mut Files<'_>,
    what: &Located,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<Delivered, FilesError> {
    let names = Names::below(what);
    let mut work =
        Work { out, names, done: Delivered::default(), linked: HashMap::new(), buf: Vec::new() };
    let problems = pack(files, what, cancel, |files, path, node, attributes| {
        work.entry(files, path, node, attributes)?;
        if attributes.lacks_owner() {
            work.problem(path, NO_OWNER.to_owned());
        }
        Ok(())
    })?;
    work.end()?;
    let mut done = work.done;
    problems.join(&mut done);
    Ok(done)
}

/// A record of an extended header: its key and value.
type Record = (Vec<u8>, Vec<u8>);

struct Work<'a> {
    out: &'a mut dyn Write,
    names: Names,
    done: Delivered,
    /// Names of files with several, by node.
    linked: HashMap<u64, Vec<u8>>,
    buf: Vec<u8>,
}

impl Work<'_> {
    fn entry(
        &mut self,
        files: &mut Files<'_>,
        path: &[u8],
        node: u64,
        attributes: &Attributes,
    ) -> Result<(), Stop> {
        let name = self.names.of(path);
        if name.is_empty() {
            return Ok(());
        }
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if let Some(reason) = why_no_name(last, usize::MAX) {
            return Err(Stop::This(FilesError::of_fault(path, Fault::unsupported(reason))));
        }
        let mut head = Head::new(name, attributes);
        match attributes.kind {
            Kind::File => {
                let again = attributes.may_be_linked();
                if again && let Some(first) = self.linked.get(&node) {
                    head.link(b'1', first);
                    self.done.files = self.done.files.saturating_add(1);
                    return head.write(self.out).map_err(Stop::unwritten);
                }
                head.records = self.records(files, path, node)?;
                self.file(files, path, node, &mut head, attributes.size)?;
                if again {
                    self.linked.insert(node, name.to_vec());
                }
                self.done.files = self.done.files.saturating_add(1);
                self.done.bytes = self.done.bytes.saturating_add(attributes.size);
            }
            Kind::Folder => {
                head.kind = b'5';
                head.name.push(b'/');
                head.records = self.records(files, path, node)?;
                head.write(self.out).map_err(Stop::unwritten)?;
                self.done.folders = self.done.folders.saturating_add(1);
            }
            Kind::Link => {
                let target = files.reader().target(path, node).map_err(Stop::This)?;
                head.link(b'2', &target);
                head.write(self.out).map_err(Stop::unwritten)?;
                self.done.links = self.done.links.saturating_add(1);
            }
            Kind::Pipe | Kind::CharacterDevice | Kind::BlockDevice => {
                head.kind = match attributes.kind {
                    Kind::Pipe => b'6',
                    Kind::CharacterDevice => b'3',
                    _ => b'4',
                };
                let no_number =
                    || Stop::This(FilesError::of_fault(path, Fault::unsupported(NO_NUMBER)));
                if attributes.kind != Kind::Pipe {
                    head.device = attributes.device.ok_or_else(no_number)?;
                }
                head.write(self.out).map_err(Stop::unwritten)?;
                self.done.others = self.done.others.saturating_add(1);
            }
            Kind::Socket | Kind::Subvolume => {
                let reason = format!("an archive cannot hold a {}", attributes.kind.name());
                return Err(Stop::This(FilesError::of_fault(path, Fault::unsupported(reason))));
            }
        }
        Ok(())
    }

    /// Attributes as records of an extended header.
    fn records(
        &mut self,
        files: &mut Files<'_>,
        path: &[u8],
        node: u64,
    ) -> Result<Vec<Record>, Stop> {
        match files.reader().xattrs(path, node) {
            Ok(xattrs) => Ok(xattrs
                .into_iter()
                .filter_map(|xattr| match records_of(xattr) {
                    Ok(record) => Some(record),
                    Err(reason) => {
                        self.problem(path, reason);
                        None
                    }
                })
                .collect()),
            Err(error @ (FilesError::Reader { .. } | FilesError::Disk { .. })) => {
                Err(Stop::This(error))
            }
            Err(error) => {
                self.problem(path, format!("its extended attributes: {}", error.with_causes()));
                Ok(Vec::new())
            }
        }
    }

    /// Lists what an entry lacks that is there otherwise.
    fn problem(&mut self, path: &[u8], reason: String) {
        self.done.problem_count = self.done.problem_count.saturating_add(1);
        if self.done.problems.len() < PROBLEMS_MAX {
            self.done.problems.push(Problem { path: path.to_vec(), code: None, reason });
        }
    }

    fn file(
        &mut self,
        files: &mut Files<'_>,
        path: &[u8],
        node: u64,
        head: &mut Head,
        size: u64,
    ) -> Result<(), Stop> {
        head.size = size;
        let is_whole = size <= WHOLE;
        if is_whole {
            let whole = whole(files, path, node, size, &mut self.buf)?;
            head.write(self.out).map_err(Stop::unwritten)?;
            self.out.write_all(&whole).map_err(Stop::unwritten)?;
        } else {
            probe(files, path, node)?;
            head.write(self.out).map_err(Stop::unwritten)?;
            let mut out = std::mem::take(&mut self.buf);
            let done = self.stream(files, path, node, size, &mut out);
            self.buf = out;
            done.map_err(Stop::All)?;
        }
        fill(self.out, size).map_err(Stop::unwritten)
    }

    /// All bytes of a file, into the archive.
    fn stream(
        &mut self,
        files: &mut Files<'_>,
        path: &[u8],
        node: u64,
        size: u64,
        buf: &mut Vec<u8>,
    ) -> Result<(), FilesError> {
        pieces(files, path, node, 0..size, buf, &mut |bytes| self.out.write_all(bytes))
    }

    /// Two empty blocks.
    fn end(&mut self) -> Result<(), FilesError> {
        let ended = self.out.write_all(&[0; 2 * BLOCK]).and_then(|()| self.out.flush());
        ended.map_err(unwritten)
    }
}

/// Fills the last block up.
fn fill(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let over = usize::try_from(size % 512).unwrap_or(0);
    match over {
        0 => Ok(()),
        over => out.write_all([0; BLOCK].get(over..).unwrap_or_default()),
    }
}

/// What a header says.
struct Head {
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    modified: Time,
    accessed: Option<Time>,
    target: Vec<u8>,
    device: (u32, u32),
    /// More records.
    records: Vec<Record>,
}

impl Head {
    fn new(name: &[u8], of: &Attributes) -> Self {
        let usual = if of.kind == Kind::Folder { 0o755 } else { 0o644 };
        Self {
            name: name.to_vec(),
            kind: b'0',
            mode: of.mode.unwrap_or(usual),
            uid: of.uid.unwrap_or(0),
            gid: of.gid.unwrap_or(0),
            size: 0,
            modified: of.modified.unwrap_or(Time { seconds: 0, nanoseconds: 0 }),
            accessed: of.accessed,
            target: Vec::new(),
            device: (0, 0),
            records: Vec::new(),
        }
    }

    fn link(&mut self, kind: u8, target: &[u8]) {
        self.kind = kind;
        self.target = target.to_vec();
    }

    /// Writes it, with an extended header before it where that is needed.
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut more = Vec::new();
        let is_plain = |bytes: &[u8]| bytes.len() <= 100 && bytes.is_ascii();
        let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
        if !is_text(&self.name) || !is_text(&self.target) {
            record(&mut more, b"hdrcharset", b"BINARY");
        }
        if !is_plain(&self.name) {
            record(&mut more, b"path", &self.name);
        }
        if !is_plain(&self.target) {
            record(&mut more, b"linkpath", &self.target);
        }
        for (key, number, most) in [
            (&b"uid"[..], u64::from(self.uid), 0o777_7777),
            (b"gid", u64::from(self.gid), 0o777_7777),
            (b"size", self.size, 0o77_7777_7777),
        ] {
            if number > most {
                record(&mut more, key, number.to_string().as_bytes());
            }
        }
        if self.modified.nanoseconds != 0 || self.modified.seconds < 0 {
            record(&mut more, b"mtime", decimal(self.modified).as_bytes());
        }
        if let Some(accessed) = self.accessed {
            record(&mut more, b"atime", decimal(accessed).as_bytes());
        }
        for (key, value) in &self.records {
            record(&mut more, key, value);
        }
        if !more.is_empty() {
            out.write_all(&self.block(b'x', b"PaxHeaders/extended", b"", length(&more)))?;
            out.write_all(&more)?;
            fill(out, length(&more))?;
        }
        out.write_all(&self.block(self.kind, &self.name, &self.target, self.size))
    }

    fn block(&self, kind: u8, name: &[u8], target: &[u8], size: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, most: usize, bytes: &[u8]| {
            let places = block.iter_mut().skip(at).take(most);
            places.zip(bytes).for_each(|(to, from)| *to = *from);
        };
        let octal = |number: u64, digits: usize| {
            let most = 8_u64.saturating_pow(u32::try_from(digits).unwrap_or(0)).saturating_sub(1);
            format!("{:0digits$o}", number.min(most))
        };
        put(0, 100, name);
        put(100, 8, octal(u64::from(self.mode), 7).as_bytes());
        put(108, 8, octal(u64::from(self.uid), 7).as_bytes());
        put(116, 8, octal(u64::from(self.gid), 7).as_bytes());
        put(124, 12, octal(size, 11).as_bytes());
        put(136, 12, octal(u64::try_from(self.modified.seconds).unwrap_or(0), 11).as_bytes());
        put(148, 8, b"        ");
        put(156, 1, &[kind]);
        put(157, 100, target);
        put(257, 8, b"ustar\x0000");
        put(329, 8, octal(u64::from(self.device.0), 7).as_bytes());
        put(337, 8, octal(u64::from(self.device.1), 7).as_bytes());
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        block.iter_mut().skip(148).zip(sum.bytes()).for_each(|(to, from)| *to = from);
        block
    }
}

/// The record of an attribute: its key and value, or why it has none. Lists are written as text: `tar --acls` takes
/// them from there alone, and gives a file without one the rights of its mode, which may be wider.
fn records_of((name, value): Xattr) -> Result<Record, String> {
    let list = match name.as_slice() {
        b"system.posix_acl_access" => Some(&b"SCHILY.acl.access"[..]),
        b"system.posix_acl_default" => Some(&b"SCHILY.acl.default"[..]),
        _ => None,
    };
    if let Some(key) = list {
        let text = acl_text(&value);
        let text = text.ok_or_else(|| format!("its attribute {}: it is damaged", shown(&name)))?;
        return Ok((key.to_vec(), text.into_bytes()));
    }
    if name.contains(&b'=') {
        // It would end the key.
        return Err(format!("its attribute {}: its name has a = in it", shown(&name)));
    }
    Ok(([b"SCHILY.xattr.", name.as_slice()].concat(), value))
}

/// An access control list in words, as GNU tar writes it: a line for each entry, users and groups by number. None if it
/// is none.
fn acl_text(list: &[u8]) -> Option<String> {
    let (version, entries) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let mut text = String::new();
    for entry in entries.chunks_exact(8) {
        let le = Le(entry);
        let who = match le.u16(0) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{}", le.u32(4)),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{}", le.u32(4)),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let right = |bit: u16, letter: char| if le.u16(2) & bit == 0 { '-' } else { letter };
        writeln!(text, "{who}:{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x')).ok()?;
    }
    Some(text)
}

/// Seconds with a part behind the point. Before 1970 both are negative.
fn decimal(time: Time) -> String {
    let Time { seconds, nanoseconds } = time;
    let mut text = String::new();
    if seconds < 0 && nanoseconds > 0 {
        let part = 1_000_000_000_u32.saturating_sub(nanoseconds);
        write!(text, "-{}.{part:09}", seconds.saturating_add(1).unsigned_abs()).ok();
    } else {
        write!(text, "{seconds}.{nanoseconds:09}").ok();
    }
    text
}

/// Adds a record, whose length counts its own digits.
fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len().saturating_add(value.len()).saturating_add(3);
    let mut len = rest.saturating_add(1);
    while rest.saturating_add(len.to_string().len()) != len {
        len = rest.saturating_add(len.to_string().len());
    }
    to.extend(len.to_string().bytes());
    to.push(b' ');
    to.extend(key);
    to.push(b'=');
    to.extend(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for (value, length) in [(87, "98"), (88, "99"), (89, "101"), (987, "999"), (988, "1001")] {
            let mut bytes = Vec::new();
            record(&mut bytes, b"path12", &vec![b'v'; value]);
            assert_eq!(bytes.len().to_string(), length, "{value}");
            assert!(bytes.starts_with(format!("{length} path12=v").as_bytes()));
        }
    }

    #[test]
    fn moments_before_1970() {
        let shown = |seconds, nanoseconds| decimal(Time { seconds, nanoseconds });
        assert_eq!(shown(5, 7), "5.000000007");
        assert_eq!(shown(-1, 250_000_000), "-0.750000000");
        assert_eq!(shown(-3, 0), "-3.000000000");
    }
}
