//! Files out of an archive, as [`archive`](crate::archive()) writes it, into a folder of this machine.
//!
//! The archive comes from elsewhere, and its names from strangers. What holds for delivery holds here: a file is made
//! by its name in a folder that is open, and only in folders that were made for it; nothing is followed and nothing
//! that exists is overwritten. An archive that ends too early leaves no short file, and is an error.

use std::{
    collections::HashSet,
    ffi::OsStr,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::io::Errno;
use strongroom_base::Cancel;

use crate::{
    deliver::{
        DEPTH_MAX, Delivered, Dresser, NAME_MAX, Options, is_final, why_no_name, write_sparse,
    },
    error::FilesError,
    source::length,
    target::{Target, ended, open_root},
    tree::{Attributes, Fault, Kind, Time, Xattr},
    wire::READ_MAX,
};

/// Bytes of the name of the archive, in errors.
const ARCHIVE: &str = "the archive";

/// Unpacks an archive into a folder, which is made if its parent exists. Errors that concern one file are listed, by
/// their path in the archive after a `/`; only what stops everything is returned.
pub fn unpack(
    from: &mut dyn Read,
    to: &Path,
    options: Options,
    cancel: &Cancel,
) -> Result<Delivered, FilesError> {
    let root = open_root(to)?;
    let mut work = Work {
        root,
        to,
        cancel,
        dresser: Dresser::new(options),
        folders: Vec::new(),
        made: HashSet::new(),
        hasher: RandomState::new(),
        buf: vec![0; READ_MAX],
    };
    let made = work.all(from);
    ended(made, work.dresser.done)
}

/// A folder that was made, until all in it is.
struct Folder {
    /// Its path in the archive.
    path: Vec<u8>,
    /// None of a folder that could not be made: what is in it is left out with it.
    made: Option<OwnedFd>,
    attributes: Attributes,
    xattrs: Vec<Xattr>,
}

struct Work<'a> {
    root: OwnedFd,
    to: &'a Path,
    cancel: &'a Cancel,
    dresser: Dresser,
    /// The folders that are being filled, each in the one before.
    folders: Vec<Folder>,
    /// Files that were made: others get no second name.
    made: HashSet<u64>,
    hasher: RandomState,
    buf: Vec<u8>,
}

/// What the archive says of a file.
struct Found {
    /// Its path in the archive, without the `/` at the end.
    path: Vec<u8>,
    attributes: Attributes,
    /// Where a link points; the first name of a file with several.
    target: Vec<u8>,
    is_again: bool,
    xattrs: Vec<Xattr>,
}

/// The archive cannot be read, or is none of ours.
fn lost(source: io::Error) -> FilesError {
    FilesError::Target { action: "read", path: ARCHIVE.to_owned(), source }
}

fn senseless(reason: &'static str) -> FilesError {
    lost(io::Error::new(io::ErrorKind::InvalidData, reason))
}

impl Work<'_> {
    fn all(&mut self, from: &mut dyn Read) -> Result<(), FilesError> {
        let mut entries = Entries { from };
        while let Some(found) = entries.next()? {
            if self.cancel.is_cancelled() {
                return Err(FilesError::Cancelled);
            }
            let outside = [b"/", found.path.as_slice()].concat();
            // Of another name of a file the bytes were sent with the first.
            let mut content = Read::take(&mut *entries.from, found.attributes.size);
            let made = self.entry(&mut content, &found, &outside);
            match made {
                Ok(()) => {}
                Err(error) if is_final(&error) || is_of_archive(&error) => return Err(error),
                Err(error) => self.dresser.refused(&outside, &error),
            }
            let left = content.limit();
            entries.skip(left, found.attributes.size)?;
        }
        self.leave(0);
        Ok(())
    }

    /// Ends all folders but the uppermost ones.
    fn leave(&mut self, depth: usize) {
        while self.folders.len() > depth {
            let Some(folder) = self.folders.pop() else { return };
            let Some(made) = folder.made else { continue };
            let outside = [b"/", folder.path.as_slice()].concat();
            self.dresser.dress(made.as_fd(), &folder.attributes, Ok(&folder.xattrs), &outside);
        }
    }

    fn entry(
        &mut self,
        bytes: &mut dyn Read,
        found: &Found,
        outside: &[u8],
    ) -> Result<(), FilesError> {
        let parts: Vec<&[u8]> = found.path.split(|byte| *byte == b'/').collect();
        let Some((last, above)) = parts.split_last() else { return Ok(()) };
        let bad = parts.iter().find_map(|part| why_no_name(part, NAME_MAX));
        // A folder of this depth was refused, so what is in it goes nowhere.
        let parent = above.join(&b'/');
        while self.folders.last().is_some_and(|top| {
            top.path != parent && !parent.starts_with(&[top.path.as_slice(), b"/"].concat())
        }) {
            self.leave(self.folders.len().saturating_sub(1));
        }
        let top = self.folders.last();
        if top.map_or(&b""[..], |top| top.path.as_slice()) != parent.as_slice() {
            // Our archives have a folder before what is in it.
            return match bad {
                Some(reason) => Err(FilesError::of_fault(outside, Fault::unsupported(reason))),
                None => Err(senseless("a file is in no folder")),
            };
        }
        let folder = match top {
            None => Some(self.root.as_fd().try_clone_to_owned()),
            Some(top) => top.made.as_ref().map(|made| made.as_fd().try_clone_to_owned()),
        };
        let Some(folder) = folder else {
            // The folder is listed, and this is in it.
            if found.attributes.kind == Kind::Folder {
                self.enter(found, None);
            }
            return Ok(());
        };
        let name = OsStr::from_bytes(last);
        let inside = found.path.as_slice();
        let target = Target { to: self.to, inside, folder: self.root.as_fd(), name };
        let folder = folder.map_err(|error| {
            target.failed("open", Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        let made = match bad {
            Some(reason) => Err(FilesError::of_fault(outside, Fault::unsupported(reason))),
            None if parts.len() > DEPTH_MAX => {
                Err(FilesError::of_fault(outside, Fault::unsupported("it lies too deep")))
            }
            None => self.make(bytes, found, folder.as_fd(), name, outside),
        };
        if made.is_err() && found.attributes.kind == Kind::Folder {
            self.enter(found, None);
        }
        made
    }

    fn enter(&mut self, found: &Found, made: Option<OwnedFd>) {
        self.folders.push(Folder {
            path: found.path.clone(),
            made,
            attributes: found.attributes.clone(),
            xattrs: found.xattrs.clone(),
        });
    }

    fn make(
        &mut self,
        bytes: &mut dyn Read,
        found: &Found,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        outside: &[u8],
    ) -> Result<(), FilesError> {
        let of = &found.attributes;
        let target = Target { to: self.to, inside: &found.path, folder, name };
        match of.kind {
            Kind::Folder => {
                let made = target.make_folder()?;
                self.dresser.done.folders = self.dresser.done.folders.saturating_add(1);
                self.enter(found, Some(made));
            }
            Kind::File if found.is_again => {
                if !self.made.contains(&self.hasher.hash_one(&found.target)) {
                    let reason = "the file that it is another name of is not delivered";
                    return Err(FilesError::of_fault(outside, Fault::unsupported(reason)));
                }
                target.make_again(&self.root, &found.target)?;
                self.dresser.done.files = self.dresser.done.files.saturating_add(1);
            }
            Kind::File => {
                let file =
                    target.make_file(of.size, |file| self.fill(bytes, of.size, file, target))?;
                self.made.insert(self.hasher.hash_one(&found.path));
                self.dresser.done.files = self.dresser.done.files.saturating_add(1);
                self.dresser.done.bytes = self.dresser.done.bytes.saturating_add(of.size);
                self.dresser.dress(file.as_fd(), of, Ok(&found.xattrs), outside);
            }
            Kind::Link => {
                target.make_link(found.target.clone(), outside)?;
                self.dresser.done.links = self.dresser.done.links.saturating_add(1);
                self.dresser.dress_by_name(target, of, outside);
            }
            _ => {
                target.make_special(of, self.dresser.options.trusted, outside)?;
                self.dresser.done.others = self.dresser.done.others.saturating_add(1);
                self.dresser.dress_by_name(target, of, outside);
            }
        }
        Ok(())
    }

    /// Writes the bytes of a file, all of them.
    fn fill(
        &mut self,
        bytes: &mut dyn Read,
        size: u64,
        file: &OwnedFd,
        target: Target<'_>,
    ) -> Result<(), FilesError> {
        let mut at = 0;
        while at < size {
            if self.cancel.is_cancelled() {
                return Err(FilesError::Cancelled);
            }
            let wanted = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
            let wanted = wanted.min(self.buf.len());
            let part = self.buf.get_mut(..wanted).unwrap_or_default();
            bytes.read_exact(part).map_err(lost)?;
            let written = write_sparse(file, at, part);
            at = at.saturating_add(length(part));
            written.map_err(|error| target.failed("write", error))?;
        }
        Ok(())
    }
}

/// Whether it is the archive that cannot be read.
fn is_of_archive(error: &FilesError) -> bool {
    matches!(error, FilesError::Target { path, .. } if path == ARCHIVE)
}

/// What an archive consists of.
const BLOCK: usize = 512;
/// The most bytes of the records of one entry.
const RECORDS_MAX: u64 = 64 << 20;

/// The entries of an archive.
///
/// Read here, as the crate `tar` 0.4 takes the ends of lines for the ends of records: lists of access control, and any
/// other value, may have lines.
struct Entries<'a> {
    from: &'a mut dyn Read,
}

/// What the records before an entry say of it.
#[derive(Default)]
struct Records {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<Time>,
    accessed: Option<Time>,
    xattrs: Vec<Xattr>,
}

impl Entries<'_> {
    /// The next one; none at the end, which two blocks of zeros are.
    fn next(&mut self) -> Result<Option<Found>, FilesError> {
        let mut records = Records::default();
        loop {
            let block = self.block()?;
            if block.iter().all(|byte| *byte == 0) {
                if self.block()?.iter().any(|byte| *byte != 0) {
                    return Err(senseless("something follows its end"));
                }
                io::copy(self.from, &mut io::sink()).map_err(lost)?;
                return Ok(None);
            }
            check_sum(&block)?;
            let size = octal(&block, 124, 12)?;
            match block.get(156) {
                Some(b'x') => records = self.records(size)?,
                Some(b'g') => self.skip(size, size)?,
                Some(kind) => return found(&block, *kind, size, records).map(Some),
                None => return Err(senseless("its header is short")),
            }
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK], FilesError> {
        let mut block = [0; BLOCK];
        self.from.read_exact(&mut block).map_err(lost)?;
        Ok(block)
    }

    /// Passes over what is left of a content of `size` bytes, and over the rest of its last block.
    fn skip(&mut self, left: u64, size: u64) -> Result<(), FilesError> {
        let over = size.checked_next_multiple_of(length(&[0; BLOCK])).unwrap_or(u64::MAX);
        let rest = left.saturating_add(over.saturating_sub(size));
        let passed =
            io::copy(&mut Read::take(&mut *self.from, rest), &mut io::sink()).map_err(lost)?;
        if passed < rest { Err(lost(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }

    fn records(&mut self, size: u64) -> Result<Records, FilesError> {
        if size > RECORDS_MAX {
            return Err(senseless("the records of an entry are too long"));
        }
        let mut bytes = Vec::new();
        Read::take(&mut *self.from, size).read_to_end(&mut bytes).map_err(lost)?;
        if length(&bytes) < size {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        self.skip(0, size)?;
        let mut records = Records::default();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (key, value, next) = record(rest).ok_or_else(|| senseless("a record is wrong"))?;
            records.take(key, value)?;
            rest = next;
        }
        Ok(records)
    }
}

/// The first record, `LENGTH KEY=VALUE` and a line break, of which the length counts all; and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let text = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((text.get(..equals)?, text.get(equals.checked_add(1)?..)?, rest))
}

impl Records {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), FilesError> {
        let text = || std::str::from_utf8(value).ok();
        let number = || text().and_then(|text| text.parse().ok());
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.target = Some(value.to_vec()),
            b"size" => {
                let size = text().and_then(|text| text.parse().ok());
                self.size = Some(size.ok_or_else(|| senseless("a size is wrong"))?);
            }
            b"uid" => self.uid = number(),
            b"gid" => self.gid = number(),
            b"mtime" => self.modified = text().and_then(time),
            b"atime" => self.accessed = text().and_then(time),
            b"SCHILY.acl.access" | b"SCHILY.acl.default" => {
                let list = text().and_then(acl).ok_or_else(|| senseless("it has a wrong list"))?;
                let name: &[u8] = match key {
                    b"SCHILY.acl.access" => b"system.posix_acl_access",
                    _ => b"system.posix_acl_default",
                };
                self.xattrs.push((name.to_vec(), list));
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// A text field of a header, up to its first zero.
fn field(block: &[u8; BLOCK], at: usize, len: usize) -> &[u8] {
    let field = block.get(at..at.saturating_add(len)).unwrap_or_default();
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn octal(block: &[u8; BLOCK], at: usize, len: usize) -> Result<u64, FilesError> {
    let digits = field(block, at, len).trim_ascii();
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'));
    match text {
        Some("") => Ok(0),
        Some(text) => u64::from_str_radix(text, 8).map_err(|_| senseless("a number is wrong")),
        None => Err(senseless("a number is wrong")),
    }
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), FilesError> {
    let sum = block.iter().enumerate().fold(0_u64, |sum, (at, byte)| {
        // The field of the sum itself counts as blanks.
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        sum.saturating_add(u64::from(byte))
    });
    if octal(block, 148, 8)? == sum { Ok(()) } else { Err(senseless("a header is damaged")) }
}

/// What the archive says of an entry.
fn found(block: &[u8; BLOCK], kind: u8, size: u64, records: Records) -> Result<Found, FilesError> {
    let is_again = kind == b'1';
    let kind = match kind {
        b'0' | 0 | b'1' => Kind::File,
        b'5' => Kind::Folder,
        b'2' => Kind::Link,
        b'6' => Kind::Pipe,
        b'3' => Kind::CharacterDevice,
        b'4' => Kind::BlockDevice,
        _ => return Err(senseless("it has an entry of another kind")),
    };
    let mut path = records.path.unwrap_or_else(|| {
        let (above, name) = (field(block, 345, 155), field(block, 0, 100));
        if above.is_empty() { name.to_vec() } else { [above, b"/", name].concat() }
    });
    while path.last() == Some(&b'/') {
        path.pop();
    }
    let has_bytes = kind == Kind::File && !is_again;
    let size = if has_bytes { records.size.unwrap_or(size) } else { 0 };
    let small = |at| Ok(u32::try_from(octal(block, at, 8)?).ok());
    let mut of = Attributes::bare(kind, size);
    of.mode = small(100)?.map(|mode| mode & 0o7777);
    of.uid = if records.uid.is_some() { records.uid } else { small(108)? };
    of.gid = if records.gid.is_some() { records.gid } else { small(116)? };
    let seconds = i64::try_from(octal(block, 136, 12)?).unwrap_or(0);
    of.modified = records.modified.or(Some(Time { seconds, nanoseconds: 0 }));
    of.accessed = records.accessed;
    if matches!(kind, Kind::CharacterDevice | Kind::BlockDevice) {
        of.device = small(329)?.zip(small(337)?);
    }
    let target = records.target.unwrap_or_else(|| field(block, 157, 100).to_vec());
    Ok(Found { path, attributes: of, target, is_again, xattrs: records.xattrs })
}

/// Seconds with a part behind the point. Before 1970 both are negative.
fn time(text: &str) -> Option<Time> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let (is_negative, whole) = match whole.strip_prefix('-') {
        Some(whole) => (true, whole),
        None => (false, whole),
    };
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: u32 = format!("{part:0<9}").get(..9)?.parse().ok()?;
    Some(match (is_negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: seconds.checked_neg()?, nanoseconds: 0 },
        (true, part) => Time {
            seconds: seconds.checked_neg()?.checked_sub(1)?,
            nanoseconds: 1_000_000_000_u32.checked_sub(part)?,
        },
    })
}

/// An access control list in words, as the kernel has it.
fn acl(text: &str) -> Option<Vec<u8>> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for line in text.lines() {
        let mut parts = line.split(':');
        let (who, id, rights) = (parts.next()?, parts.next()?, parts.next()?);
        let tag: u16 = match (who, id.is_empty()) {
            ("user", true) => 0x01,
            ("user", false) => 0x02,
            ("group", true) => 0x04,
            ("group", false) => 0x08,
            ("mask", true) => 0x10,
            ("other", true) => 0x20,
            _ => return None,
        };
        let id: u32 = if id.is_empty() { u32::MAX } else { id.parse().ok()? };
        let bit = |letter: char, bit: u16| if rights.contains(letter) { bit } else { 0 };
        let rights = bit('r', 4) | bit('w', 2) | bit('x', 1);
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;
    use crate::error::shown;

    /// An archive of these entries: name, kind, target or bytes.
    fn packed(entries: &[(&str, EntryType, &str)], ends: bool) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_ustar();
            // The library itself refuses such names.
            let place = &mut header.as_old_mut().name;
            place[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6755);
            header.set_mtime(1);
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            header.set_uid(uid.as_raw().into());
            header.set_gid(gid.as_raw().into());
            let is_file = *kind == EntryType::Regular;
            if !is_file {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            let bytes = if is_file { text.as_bytes() } else { b"" };
            header.set_size(length(bytes));
            header.set_cksum();
            builder.append(&header, bytes).expect("appended");
        }
        let mut bytes = builder.into_inner().expect("written");
        if !ends {
            bytes.truncate(bytes.len() - 1024);
        }
        bytes
    }

    fn unpacked(dir: &Path, archive: &[u8]) -> Result<Delivered, FilesError> {
        unpack(&mut &*archive, &dir.join("out"), Options::default(), &Cancel::new())
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, folder) = (EntryType::Regular, EntryType::Directory);
        std::fs::create_dir_all(dir.path().join("out/there")).expect("a folder");
        std::fs::write(dir.path().join("out/old"), "old").expect("a file");
        std::os::unix::fs::symlink("..", dir.path().join("out/up")).expect("a link");
        let bytes = packed(
            &[
                ("a/", folder, ""),
                ("a/good", file, "good"),
                ("a/..", file, "bad"),
                ("a/again", EntryType::Link, "a/good"),
                ("a/other", EntryType::Link, "old"),
                ("a/link", EntryType::Symlink, "/etc/passwd"),
                ("a/device", EntryType::Char, ""),
                // Folders that were there before are none of ours.
                ("there/", folder, ""),
                ("there/new", file, "bad"),
                ("up/", folder, ""),
                ("up/new", file, "bad"),
                ("old", file, "bad"),
                ("..", folder, ""),
                ("../new", file, "bad"),
            ],
            true,
        );
        let done = unpacked(dir.path(), &bytes).expect("unpacked");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name));
        assert_eq!(read("out/a/good").expect("a file"), "good");
        assert_eq!(read("out/a/again").expect("a file"), "good");
        assert_eq!(read("out/old").expect("a file"), "old");
        for name in ["new", "out/there/new", "out/a/other", "out/a/device"] {
            assert!(!dir.path().join(name).exists(), "{name}");
        }
        assert_eq!((done.files, done.folders, done.links), (2, 1, 1));
        let listed: Vec<String> = done.problems.iter().map(|it| shown(&it.path)).collect();
        for path in ["/a/..", "/a/other", "/a/device", "/there", "/up", "/old", "/.."] {
            assert!(listed.iter().any(|it| it == path), "{path}: {listed:?}");
        }
        // Nobody gets the rights of the owner by a stranger's program.
        let mode = std::os::unix::fs::MetadataExt::mode(
            &dir.path().join("out/a/good").metadata().expect("a file"),
        );
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn an_archive_that_is_cut_is_an_error_and_leaves_no_short_file() {
        let whole =
            packed(&[("a", EntryType::Regular, "good"), ("b", EntryType::Regular, "gone")], true);
        for cut in [0, 100, 512, 514, 1024, 1100, 1536, 1540, 2048, 2560] {
            let dir = tempfile::tempdir().expect("a folder");
            let error = unpacked(dir.path(), &whole[..cut]).expect_err("it is cut").to_string();
            let there = std::fs::read_dir(dir.path().join("out")).expect("a folder");
            for file in there {
                let bytes = std::fs::read(file.expect("a file").path()).expect("bytes");
                assert_eq!(bytes.len(), 4, "{cut}: {error}");
            }
        }
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(unpacked(dir.path(), &whole).expect("whole").files, 2);
    }

    #[test]
    fn records_may_have_lines() {
        let all = b"20 user.t=a\nb=\nc\0dd\n14 path=a/b\nc\n";
        let (key, value, rest) = record(all).expect("a record");
        assert_eq!((key, value), (&b"user.t"[..], &b"a\nb=\nc\0dd"[..]));
        let (key, value, rest) = record(rest).expect("a record");
        assert_eq!((key, value, rest), (&b"path"[..], &b"a/b\nc"[..], &b""[..]));
        for bad in ["", "x", "5", "99 a=b\n", "7 a=b\n", "6 a=b.", "0 a=b\n", "6 abb\n", " a=b\n"] {
            assert!(record(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_list_of_access_control_is_one_record() {
        let mut records = Records::default();
        records.take(b"SCHILY.acl.access", b"user::rw-\nuser:77:rwx\nmask::rwx\n").expect("a list");
        let [(name, list)] = records.xattrs.as_slice() else { panic!("{:?}", records.xattrs) };
        assert_eq!((name.as_slice(), list.len()), (&b"system.posix_acl_access"[..], 4 + 3 * 8));
        assert!(records.take(b"SCHILY.acl.access", b"nobody").is_err());
    }

    #[test]
    fn moments_and_lists_are_those_that_were_packed() {
        let at = |text, seconds, nanoseconds| {
            assert_eq!(time(text), Some(Time { seconds, nanoseconds }), "{text}");
        };
        at("5.000000007", 5, 7);
        at("-0.750000000", -1, 250_000_000);
        at("-3.000000000", -3, 0);
        at("9", 9, 0);
        assert_eq!((time("x"), time("")), (None, None));
        let list = acl("user::rw-\nuser:1000:r--\nmask::rwx\n").expect("a list");
        assert_eq!(list.len(), 4 + 3 * 8);
        assert_eq!(list[12..20], [2, 0, 4, 0, 0xe8, 3, 0, 0]);
        assert_eq!(acl("nobody::rw-"), None);
    }
}
