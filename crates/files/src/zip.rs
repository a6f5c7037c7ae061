//! Files of a volume as a zip archive, written as a stream.
//!
//! Zip has no owners, links and devices that every unpacker understands, so these are left out, and a file at the end
//! of the archive says so, as does the list of what could not be read. Small files are read whole before anything of
//! them is written; of a large file the check sum follows its bytes, which are packed so that they say themselves where
//! they end (as blocks of `deflate` that compress nothing). Sizes and places from 4 GiB on are those of Zip64.
//!
//! Names are for any machine: one that another system would take for a path is left out.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use crc_fast::{CrcAlgorithm, Digest};
use jiff::{Timestamp, tz::TimeZone};
use strongroom_base::Cancel;

use crate::{
    content::{Names, Stop, WHOLE, pack, pieces, probe, unwritten, whole},
    deliver::{Delivered, why_no_name},
    error::{FilesError, shown},
    source::length,
    tree::{Attributes, Fault, Kind, Time},
    walk::{Files, Located},
};

/// Bytes of the list of entries, at most: it is kept until the end.
const CENTRAL_MAX: usize = 128 << 20;
/// Numbers from here on do not fit into the old fields.
const MAX_32: u64 = 0xffff_ffff;
/// Files of this size are written as files that may be larger than 4 GiB once they are packed.
const LARGE: u64 = 0xf000_0000;
/// The longest name in an archive.
const NAME_MAX: usize = 0xffff;
/// The name of the file that lists what is missing.
const MISSING: &str = "NOT IN THIS ARCHIVE.txt";

/// Names are UTF-8; sizes and check sum follow the bytes.
const UTF8: u16 = 0x0800;
const FOLLOWS: u16 = 0x0008;

/// Writes a file, or a folder with all that is in it, as a zip archive. Names in it begin with the last part of the
/// path. What could not be read is listed and left out, and so is what zip cannot hold.
pub fn zip(
    files: &mut Files<'_>,
    what: &Located,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<Delivered, FilesError> {
    let names = Names::below(what);
    let mut work = Work {
        out,
        at: 0,
        names,
        central: Vec::new(),
        entries: 0,
        done: Delivered::default(),
        takes_missing: false,
        buf: Vec::new(),
    };
    let problems = pack(files, what, cancel, |files, path, node, attributes| {
        work.entry(files, path, node, attributes)
    })?;
    problems.join(&mut work.done);
    work.end().map_err(unwritten)?;
    Ok(work.done)
}

struct Work<'a> {
    out: &'a mut dyn Write,
    /// Bytes that were written.
    at: u64,
    names: Names,
    /// The list of entries at the end.
    central: Vec<u8>,
    entries: u64,
    done: Delivered,
    /// Whether a file of the volume has the name of the list of what is missing.
    takes_missing: bool,
    buf: Vec<u8>,
}

/// An entry, as both of its headers say it.
struct Head<'a> {
    name: &'a [u8],
    modified: Option<Time>,
    /// Attributes as Unix and DOS have them.
    external: u32,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    /// Whether its header says that sizes have eight bytes.
    is_large: bool,
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
        let unsupported =
            |reason: String| Stop::This(FilesError::of_fault(path, Fault::unsupported(reason)));
        if let Some(reason) = why_not(name) {
            return Err(unsupported(reason.to_owned()));
        }
        let mode = attributes.mode.map(|mode| mode & 0o777);
        match attributes.kind {
            Kind::Folder => {
                let name = [name, b"/"].concat();
                let external = ((0o040_000 | mode.unwrap_or(0o755)) << 16) | 0x10;
                self.whole(&name, attributes.modified, external, &[]).map_err(Stop::unwritten)?;
                self.done.folders = self.done.folders.saturating_add(1);
            }
            Kind::File => {
                let external = (0o100_000 | mode.unwrap_or(0o644)) << 16;
                if attributes.size <= WHOLE {
                    let whole = whole(files, path, node, attributes.size, &mut self.buf)?;
                    self.whole(name, attributes.modified, external, &whole)
                        .map_err(Stop::unwritten)?;
                } else {
                    probe(files, path, node)?;
                    let head = Head {
                        name,
                        modified: attributes.modified,
                        external,
                        flags: UTF8 | FOLLOWS,
                        method: 8,
                        crc: 0,
                        packed: 0,
                        size: attributes.size,
                        is_large: attributes.size >= LARGE,
                    };
                    self.large(files, path, node, head)?;
                }
                self.takes_missing |= name == MISSING.as_bytes();
                self.done.files = self.done.files.saturating_add(1);
                self.done.bytes = self.done.bytes.saturating_add(attributes.size);
            }
            kind => {
                let kind = kind.in_words();
                return Err(unsupported(format!("a zip archive cannot hold a {kind}; tar can")));
            }
        }
        Ok(())
    }

    /// An entry whose bytes are at hand.
    fn whole(
        &mut self,
        name: &[u8],
        modified: Option<Time>,
        external: u32,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
        digest.update(bytes);
        let size = length(bytes);
        let head = Head {
            name,
            modified,
            external,
            flags: UTF8,
            method: 0,
            crc: low_32(digest.finalize()),
            packed: size,
            size,
            is_large: false,
        };
        let offset = self.at;
        self.put(&head.local())?;
        self.put(bytes)?;
        self.list(&head, offset)
    }

    /// An entry that is read while it is written.
    fn large(
        &mut self,
        files: &mut Files<'_>,
        path: &[u8],
        node: u64,
        mut head: Head<'_>,
    ) -> Result<(), Stop> {
        let offset = self.at;
        self.put(&head.local()).map_err(Stop::unwritten)?;
        let begun = self.at;
        let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
        let mut buf = std::mem::take(&mut self.buf);
        let read = pieces(files, path, node, 0..head.size, &mut buf, &mut |bytes| {
            digest.update(bytes);
            for block in bytes.chunks(0xffff) {
                self.block(0, block)?;
            }
            Ok(())
        });
        self.buf = buf;
        read.map_err(Stop::All)?;
        self.block(1, &[]).map_err(Stop::unwritten)?;
        head.crc = low_32(digest.finalize());
        head.packed = self.at.saturating_sub(begun);
        let mut after = Vec::new();
        after.extend(0x0807_4b50_u32.to_le_bytes());
        after.extend(head.crc.to_le_bytes());
        for size in [head.packed, head.size] {
            if head.is_large {
                after.extend(size.to_le_bytes());
            } else {
                after.extend(low_32(size).to_le_bytes());
            }
        }
        self.put(&after).and_then(|()| self.list(&head, offset)).map_err(Stop::unwritten)
    }

    /// A block of `deflate` as it is: whether it is the last, its length, the same inverted, its bytes.
    fn block(&mut self, last: u8, bytes: &[u8]) -> io::Result<()> {
        let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let ([a, b], [c, d]) = (len.to_le_bytes(), (!len).to_le_bytes());
        self.put(&[last, a, b, c, d])?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at = self.at.saturating_add(length(bytes));
        Ok(())
    }

    /// Adds an entry to the list at the end.
    fn list(&mut self, head: &Head<'_>, offset: u64) -> io::Result<()> {
        let entry = head.central(offset);
        if self.central.len().saturating_add(entry.len()) > CENTRAL_MAX {
            return Err(io::Error::other("a zip archive takes no more entries; tar does"));
        }
        self.central.extend(entry);
        self.entries = self.entries.saturating_add(1);
        Ok(())
    }

    /// What is missing, the list of entries, and where that begins.
    fn end(&mut self) -> io::Result<()> {
        if self.done.problem_count > 0 {
            let name = if self.takes_missing { "NOT IN THIS ARCHIVE (2).txt" } else { MISSING };
            let text = missing(&self.done);
            self.whole(name.as_bytes(), None, 0o100_644 << 16, text.as_bytes())?;
        }
        let (begin, central) = (self.at, std::mem::take(&mut self.central));
        self.put(&central)?;
        let (size, entries) = (length(&central), self.entries);
        let mut end = Vec::new();
        if entries >= 0xffff || size >= MAX_32 || begin >= MAX_32 {
            let at = self.at;
            end.extend(0x0606_4b50_u32.to_le_bytes());
            end.extend(44_u64.to_le_bytes());
            end.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for number in [entries, entries, size, begin] {
                end.extend(number.to_le_bytes());
            }
            end.extend(0x0706_4b50_u32.to_le_bytes());
            end.extend(0_u32.to_le_bytes());
            end.extend(at.to_le_bytes());
            end.extend(1_u32.to_le_bytes());
        }
        let count = u16::try_from(entries).unwrap_or(0xffff).to_le_bytes();
        end.extend(0x0605_4b50_u32.to_le_bytes());
        end.extend([0; 4]);
        end.extend(count);
        end.extend(count);
        end.extend(old_32(size).to_le_bytes());
        end.extend(old_32(begin).to_le_bytes());
        end.extend([0; 2]);
        self.put(&end)?;
        self.out.flush()
    }
}

impl Head<'_> {
    /// What both headers have: version, flags, method, times, check sum, sizes, length of the name.
    fn common(&self, version: u16, sizes: [u32; 2]) -> Vec<u8> {
        let (time, date) = dos(self.modified);
        let mut bytes = Vec::new();
        for field in [version, self.flags, self.method, time, date] {
            bytes.extend(field.to_le_bytes());
        }
        for field in [self.crc, sizes[0], sizes[1]] {
            bytes.extend(field.to_le_bytes());
        }
        let name = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        bytes.extend(name.to_le_bytes());
        bytes
    }

    /// The moment of its last change, as Unix has it.
    fn stamp(&self) -> Vec<u8> {
        let seconds = self.modified.and_then(|time| i32::try_from(time.seconds).ok());
        let mut bytes = Vec::new();
        if let Some(seconds) = seconds {
            bytes.extend([0x55, 0x54, 5, 0, 1]);
            bytes.extend(seconds.to_le_bytes());
        }
        bytes
    }

    fn local(&self) -> Vec<u8> {
        let mut extra = Vec::new();
        let sizes = match (self.is_large, self.flags & FOLLOWS) {
            (true, _) => {
                extra.extend([1, 0, 16, 0]);
                extra.extend([0; 16]);
                [u32::MAX; 2]
            }
            (false, 0) => [old_32(self.packed), old_32(self.size)],
            (false, _) => [0; 2],
        };
        extra.extend(self.stamp());
        let mut bytes = 0x0403_4b50_u32.to_le_bytes().to_vec();
        bytes.extend(self.common(if self.is_large { 45 } else { 20 }, sizes));
        bytes.extend(u16::try_from(extra.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(self.name);
        bytes.extend(extra);
        bytes
    }

    fn central(&self, offset: u64) -> Vec<u8> {
        let mut large = Vec::new();
        for number in [self.size, self.packed, offset] {
            if number >= MAX_32 {
                large.extend(number.to_le_bytes());
            }
        }
        let mut extra = Vec::new();
        if !large.is_empty() {
            extra.extend([1, 0]);
            extra.extend(u16::try_from(large.len()).unwrap_or(0).to_le_bytes());
            extra.extend(large);
        }
        extra.extend(self.stamp());
        let version = if self.is_large || offset >= MAX_32 { 45 } else { 20 };
        let mut bytes = 0x0201_4b50_u32.to_le_bytes().to_vec();
        // Made by this version for Unix.
        bytes.extend([45, 3]);
        bytes.extend(self.common(version, [old_32(self.packed), old_32(self.size)]));
        bytes.extend(u16::try_from(extra.len()).unwrap_or(0).to_le_bytes());
        // No comment, the first disk, no text.
        bytes.extend([0; 6]);
        bytes.extend(self.external.to_le_bytes());
        bytes.extend(old_32(offset).to_le_bytes());
        bytes.extend(self.name);
        bytes.extend(extra);
        bytes
    }
}

/// Why a name cannot be in an archive; none if it can.
fn why_not(name: &[u8]) -> Option<&'static str> {
    if let Some(reason) =
        name.split(|byte| *byte == b'/').find_map(|it| why_no_name(it, usize::MAX))
    {
        return Some(reason);
    }
    let is_drive = matches!(name, [letter, b':', ..] if letter.is_ascii_alphabetic());
    match std::str::from_utf8(name) {
        Err(_) => Some("its name is not UTF-8, which a zip archive needs; tar does not"),
        Ok(text) if text.contains('\\') || is_drive => {
            Some("another system would take its name for a path; tar can hold it")
        }
        Ok(_) if name.len() >= NAME_MAX => Some("its path is longer than an archive can have"),
        Ok(_) => None,
    }
}

/// What is left out, for people.
fn missing(done: &Delivered) -> String {
    let mut text =
        "These files are not in this archive, or not with all that they have:\r\n\r\n".to_owned();
    for problem in &done.problems {
        let path = shown(&problem.path);
        let reason = problem.reason.strip_prefix(&format!("{path}: ")).unwrap_or(&problem.reason);
        let line: String = format!("{path}: {reason}")
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        write!(text, "{line}\r\n").ok();
    }
    let listed = u64::try_from(done.problems.len()).unwrap_or(u64::MAX);
    let more = done.problem_count.saturating_sub(listed);
    if more > 0 {
        write!(text, "and {more} more\r\n").ok();
    }
    text
}

/// A number as the old fields have it: the highest one says that the real one stands elsewhere.
fn old_32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The lowest 32 bits.
fn low_32(number: u64) -> u32 {
    u32::try_from(number & MAX_32).unwrap_or(0)
}

/// A moment as DOS has it, in UTC: its time and date. What it cannot have is its first day.
fn dos(time: Option<Time>) -> (u16, u16) {
    let at = time.and_then(|time| Timestamp::from_second(time.seconds).ok());
    let Some(at) = at.map(|at| at.to_zoned(TimeZone::UTC)) else { return (0, 0x21) };
    let field = |number: i8| u16::try_from(number).unwrap_or(0);
    let year = u16::try_from(at.year()).unwrap_or(0);
    if !(1980..=2107).contains(&year) {
        return (0, 0x21);
    }
    let time = (field(at.hour()) << 11) | (field(at.minute()) << 5) | (field(at.second()) / 2);
    let date = ((year - 1980) << 9) | (field(at.month()) << 5) | field(at.day());
    (time, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_left_out() {
        for bad in [&b"a/../b"[..], b"..", b"/etc", b"a//b", b"..\\..\\x", b"C:/x", b"c:x", b"\xff"]
        {
            assert!(why_not(bad).is_some(), "{}", shown(bad));
        }
        for good in [&b"a/b"[..], b"2026-11-30T10:00", b"a b", "\u{e9}".as_bytes(), b"...", b".x"] {
            assert_eq!(why_not(good), None, "{}", shown(good));
        }
    }

    #[test]
    fn moments_are_those_of_dos() {
        let at = |seconds| dos(Some(Time { seconds, nanoseconds: 0 }));
        // 2020-02-03T04:05:06Z
        assert_eq!(at(1_580_702_706), ((4 << 11) | (5 << 5) | 3, (40 << 9) | (2 << 5) | 3));
        assert_eq!(at(0), (0, 0x21));
        assert_eq!(at(i64::MAX), (0, 0x21));
    }
}
