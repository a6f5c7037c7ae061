//! The bytes of files, for those who write streams: archives, and single files; and what archives of all forms have in
//! common.

use std::{
    io::{self, Write},
    ops::Range,
};

use strongroom_base::{Cancel, Coded as _};

use crate::{
    deliver::{Delivered, Problem},
    error::FilesError,
    source::length,
    tree::{Attributes, Fault, FaultKind, Kind, Piece},
    walk::{Files, Located, Visited},
    wire::READ_MAX,
};

/// Files up to this size are read whole before they are written.
pub(crate) const WHOLE: u64 = 16 << 20;
/// Most problems that are listed; all are counted.
pub(crate) const PROBLEMS_MAX: usize = 10_000;

/// Writes the bytes of a file from one offset to another, holes as zeros.
pub fn content(
    files: &mut Files<'_>,
    what: &Located,
    range: Range<u64>,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<(), FilesError> {
    if what.attributes.kind != Kind::File {
        let reason = format!("it is a {}, not a file", what.attributes.kind.in_words());
        let fault = Fault::new(FaultKind::WrongKind, reason);
        return Err(FilesError::of_fault(&what.path, fault));
    }
    let mut buf = Vec::new();
    pieces(files, &what.path, what.node, range, &mut buf, &mut |bytes| {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        out.write_all(bytes)
    })
    .map_err(|error| if cancel.is_cancelled() { FilesError::Cancelled } else { error })
}

/// Gives the bytes of a file within a range, holes as zeros.
pub(crate) fn pieces(
    files: &mut Files<'_>,
    path: &[u8],
    node: u64,
    range: Range<u64>,
    buf: &mut Vec<u8>,
    give: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), FilesError> {
    buf.resize(READ_MAX, 0);
    let mut at = range.start;
    while at < range.end {
        let rest = range.end.saturating_sub(at);
        let wanted = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let part = buf.get_mut(..wanted).unwrap_or_default();
        let done = match files.reader().read(path, node, at, part)? {
            Piece::Data(len) => {
                let bytes = part.get(..len).unwrap_or_default();
                give(bytes).map_err(unwritten)?;
                length(bytes)
            }
            Piece::Hole(len) => {
                let mut left = len.min(rest);
                let hole = left;
                part.fill(0);
                while left > 0 {
                    let some = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let zeros = part.get(..some).unwrap_or_default();
                    give(zeros).map_err(unwritten)?;
                    left = left.saturating_sub(length(zeros));
                }
                hole
            }
        };
        if done == 0 {
            let fault = Fault::damaged("fewer bytes than the file's size could be read");
            return Err(FilesError::of_fault(path, fault));
        }
        at = at.saturating_add(done);
    }
    Ok(())
}

/// Why an archive cannot be written.
pub(crate) fn unwritten(source: io::Error) -> FilesError {
    FilesError::Target { action: "write", path: "the archive".to_owned(), source }
}

/// What an error stops: this entry, or the archive.
pub(crate) enum Stop {
    This(FilesError),
    All(FilesError),
}

impl Stop {
    /// The archive cannot be written.
    pub(crate) fn unwritten(source: io::Error) -> Self {
        Self::All(unwritten(source))
    }
}

/// Names in an archive: paths from the last part of what is packed on.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    /// Bytes of a path before them.
    parent: usize,
}

impl Names {
    pub(crate) fn below(what: &Located) -> Self {
        Self { parent: what.path.len().saturating_sub(what.name().map_or(0, <[u8]>::len)) }
    }

    /// The name of what has this path; empty of the uppermost folder.
    pub(crate) fn of(self, path: &[u8]) -> &[u8] {
        let name = path.get(self.parent..).unwrap_or_default();
        name.strip_prefix(b"/").unwrap_or(name)
    }
}

/// Packs a file, or a folder with all that is in it: gives every entry that can be read to `entry`. What cannot be read or
/// packed is listed.
pub(crate) fn pack<F>(
    files: &mut Files<'_>,
    what: &Located,
    cancel: &Cancel,
    mut entry: F,
) -> Result<Problems, FilesError>
where
    F: FnMut(&mut Files<'_>, &[u8], u64, &Attributes) -> Result<(), Stop>,
{
    let mut problems = Problems::default();
    files.visit(what, cancel, &mut |files, visited| match visited {
        Visited::Entry { path, node, attributes } => {
            match entry(files, path, node, attributes) {
                Err(Stop::All(error)) => return Err(error),
                Err(Stop::This(error)) if files.reader().is_broken() => return Err(error),
                Err(Stop::This(error)) => problems.add(path, &error),
                Ok(()) => {}
            }
            Ok(())
        }
        Visited::Failed { path, error } => {
            problems.add(path, &error);
            Ok(())
        }
    })?;
    Ok(problems)
}

/// All bytes of a small file.
pub(crate) fn whole(
    files: &mut Files<'_>,
    path: &[u8],
    node: u64,
    size: u64,
    buf: &mut Vec<u8>,
) -> Result<Vec<u8>, Stop> {
    let mut whole = Vec::new();
    let read = pieces(files, path, node, 0..size, buf, &mut |bytes| {
        whole.extend_from_slice(bytes);
        Ok(())
    });
    read.map(|()| whole).map_err(Stop::This)
}

/// Reads the beginning of a large file: what fails there fails before anything of it is written.
pub(crate) fn probe(files: &mut Files<'_>, path: &[u8], node: u64) -> Result<(), Stop> {
    files.reader().read(path, node, 0, &mut [0; 512]).map(drop).map_err(Stop::This)
}

/// What a stream leaves out: the first of it, and how much.
#[derive(Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    count: u64,
}

impl Problems {
    /// Something could not be read.
    pub(crate) fn add(&mut self, path: &[u8], error: &FilesError) {
        self.count = self.count.saturating_add(1);
        if self.list.len() < PROBLEMS_MAX {
            let (code, reason) = (Some(error.code().name), error.with_causes());
            self.list.push(Problem { path: path.to_vec(), code, reason });
        }
    }

    /// Becomes a part of what was done.
    pub(crate) fn join(self, done: &mut Delivered) {
        done.problem_count = done.problem_count.saturating_add(self.count);
        done.problems.extend(self.list);
    }
}
