//! How two states of a disk differ, kept so that one disk can be taken from day to day and back.
//!
//! ```text
//! bench patch compare OLD NEW --disk NAME --to PREFIX    writes PREFIX.ranges, .forward, .back
//! bench patch apply DISK PREFIX forward|back             writes those bytes over DISK's ranges
//! ```
//!
//! `ranges` has lines of `NAME offset length` in whole 64 KiB blocks; `forward` and `back` are the bytes
//! of these ranges, one after the other, in NEW and in OLD.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use strongroom_base::BLOCK_SIZE;
use strongroom_bench::{
    Failure, Outcome,
    image::{Extent, apply, extents, open, pieces},
};

const PIECE: u64 = 16 << 20;

/// Runs it.
pub(crate) fn run_program(arguments: &[String]) -> Outcome<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["compare", old, new, "--disk", name, "--to", prefix] => {
            compare(Path::new(old), Path::new(new), name, prefix)
        }
        ["apply", disk, prefix, "forward"] => apply(Path::new(disk), Path::new(prefix), "forward"),
        ["apply", disk, prefix, "back"] => apply(Path::new(disk), Path::new(prefix), "back"),
        _ => Err(Failure::new(
            "usage: bench patch compare OLD NEW --disk NAME --to PREFIX\n       bench patch apply DISK PREFIX forward|back",
        )),
    }
}

fn part(prefix: &str, kind: &str) -> PathBuf {
    PathBuf::from(format!("{prefix}.{kind}"))
}

fn compare(old_path: &Path, new_path: &Path, name: &str, prefix: &str) -> Outcome<()> {
    let (old, new) = (open(old_path, false)?, open(new_path, false)?);
    let size = new.metadata()?.len();
    if old.metadata()?.len() != size {
        return Err(Failure::new("the two disks have different sizes"));
    }
    // Written beside their names and renamed at the end: a patch is whole or absent.
    let writer = |kind: &str| -> Outcome<_> {
        let path = part(prefix, &format!("{kind}.part"));
        Ok(BufWriter::with_capacity(1 << 20, File::create(&path).map_err(Failure::at(&path))?))
    };
    let (mut forward, mut back) = (writer("forward")?, writer("back")?);
    let mut changed: Vec<Extent> = Vec::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for piece in pieces(&either(extents(&old)?, extents(&new)?), PIECE) {
        let len = usize::try_from(piece.len)?;
        before.resize(len, 0);
        after.resize(len, 0);
        old.read_exact_at(&mut before, piece.offset)?;
        new.read_exact_at(&mut after, piece.offset)?;
        let mut offset = piece.offset;
        for (before, after) in before.chunks(BLOCK_SIZE).zip(after.chunks(BLOCK_SIZE)) {
            let len = u64::try_from(after.len())?;
            if before != after {
                forward.write_all(after)?;
                back.write_all(before)?;
                match changed.last_mut() {
                    Some(last) if last.offset + last.len == offset => last.len += len,
                    _ => changed.push(Extent { offset, len }),
                }
            }
            offset += len;
        }
    }
    let mut ranges = writer("ranges")?;
    for Extent { offset, len } in changed {
        writeln!(ranges, "{name} {offset} {len}")?;
    }
    for (mut writer, kind) in [(forward, "forward"), (back, "back"), (ranges, "ranges")] {
        writer.flush()?;
        fs::rename(part(prefix, &format!("{kind}.part")), part(prefix, kind))?;
    }
    Ok(())
}

/// What is in one list or the other.
fn either(mut one: Vec<Extent>, other: Vec<Extent>) -> Vec<Extent> {
    one.extend(other);
    one.sort_unstable_by_key(|extent| extent.offset);
    let mut joined: Vec<Extent> = Vec::new();
    for extent in one {
        match joined.last_mut() {
            Some(last) if last.offset + last.len >= extent.offset => {
                last.len = last.len.max(extent.offset + extent.len - last.offset);
            }
            _ => joined.push(extent),
        }
    }
    joined
}
