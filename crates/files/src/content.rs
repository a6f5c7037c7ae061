//! The bytes of files, for those who write streams: archives, and single files.

use std::{
    io::{self, Write},
    ops::Range,
};

use strongroom_base::{Cancel, Coded as _};

use crate::{
    deliver::{Delivered, Problem},
    error::FilesError,
    source::length,
    tree::{Fault, FaultKind, Kind, Piece},
    walk::{Files, Located},
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
    let lost =
        |source| FilesError::Target { action: "write", path: "the archive".to_owned(), source };
    buf.resize(READ_MAX, 0);
    let mut at = range.start;
    while at < range.end {
        let rest = range.end.saturating_sub(at);
        let wanted = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let part = buf.get_mut(..wanted).unwrap_or_default();
        let done = match files.reader().read(path, node, at, part)? {
            Piece::Data(len) => {
                let bytes = part.get(..len).unwrap_or_default();
                give(bytes).map_err(lost)?;
                length(bytes)
            }
            Piece::Hole(len) => {
                let mut left = len.min(rest);
                let hole = left;
                part.fill(0);
                while left > 0 {
                    let some = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let zeros = part.get(..some).unwrap_or_default();
                    give(zeros).map_err(lost)?;
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
