//! The file of `--changed-ranges`: lines of `DISK OFFSET LENGTH`, in bytes.
//!
//! Ranges of one disk ascend and do not overlap; a mistake in such a file would make a recovery
//! point that differs from the disk, so anything odd is refused. Empty lines and lines that
//! start with `#` are skipped.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use strongroom_base::{ByteRange, RangeSet};
use strongroom_disk::DiskError;

use crate::error::{FaceError, Failure};

/// Most ranges of a file; each takes 16 bytes.
const MAX_RANGES: usize = 8_000_000;
/// Most bytes of a line.
const MAX_LINE: u64 = 1024;

/// Reads the file (`-` is standard input) for disks of these names and sizes. A disk that it
/// does not mention has not changed.
pub(crate) fn read(
    file: &Path,
    disks: &BTreeMap<&str, u64>,
) -> Result<BTreeMap<String, RangeSet>, Failure> {
    let failed = |source| FaceError::Local { path: file.to_owned(), action: "read", source };
    if file == Path::new("-") {
        return parse(&mut io::stdin().lock(), "standard input", disks);
    }
    let opened = File::open(file).map_err(failed)?;
    parse(&mut BufReader::new(opened), &file.display().to_string(), disks)
}

fn parse(
    input: &mut dyn BufRead,
    file: &str,
    disks: &BTreeMap<&str, u64>,
) -> Result<BTreeMap<String, RangeSet>, Failure> {
    let mut found: BTreeMap<&str, Vec<ByteRange>> =
        disks.keys().map(|name| (*name, Vec::new())).collect();
    let mut count = 0_usize;
    let mut line = String::new();
    for number in 1_u64.. {
        let wrong =
            |reason: String| DiskError::Ranges { file: file.to_owned(), line: number, reason };
        line.clear();
        let read = input.take(MAX_LINE).read_line(&mut line);
        match read.map_err(|error| wrong(error.to_string()))? {
            0 => break,
            read if !line.ends_with('\n') && u64::try_from(read) == Ok(MAX_LINE) => {
                return Err(wrong(format!("the line is longer than {MAX_LINE} bytes")).into());
            }
            _ if line.trim().is_empty() || line.starts_with('#') => continue,
            _ => {}
        }
        count = count.saturating_add(1);
        if count > MAX_RANGES {
            return Err(wrong(format!("there are more than {MAX_RANGES} ranges")).into());
        }
        let (name, range) = range(&line, disks).map_err(&wrong)?;
        let ranges = found.entry(name).or_default();
        match ranges.last() {
            Some(last) if range.offset() < last.end() => {
                let reason = format!("{range} does not come after the range before it, {last}");
                return Err(wrong(reason).into());
            }
            _ => ranges.push(range),
        }
    }
    let sets = found.into_iter();
    Ok(sets.map(|(name, ranges)| (name.to_owned(), RangeSet::from_unsorted(ranges))).collect())
}

/// One line.
fn range<'d>(line: &str, disks: &BTreeMap<&'d str, u64>) -> Result<(&'d str, ByteRange), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, offset, length] = words.as_slice() else {
        return Err("a line is `DISK OFFSET LENGTH`".to_owned());
    };
    let (name, size) = disks
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("no disk of this backup has the name {name:?}"))?;
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse::<u64>().ok() } else { None };
        number.ok_or_else(|| format!("{text:?} is not a number of bytes"))
    };
    let (offset, length) = (number(offset)?, number(length)?);
    match offset.checked_add(length) {
        _ if length == 0 => Err("a range has at least one byte".to_owned()),
        Some(end) if end <= *size => Ok((name, ByteRange::between(offset, end))),
        _ => Err(format!("the range exceeds disk {name}, which has {size} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<BTreeMap<String, RangeSet>, String> {
        let disks = BTreeMap::from([("a", 1000), ("b", 512)]);
        parse(&mut text.as_bytes(), "f", &disks).map_err(|failure| failure.to_text())
    }

    #[test]
    fn ranges_of_several_disks() {
        let sets =
            parsed("# since noon\na 0 10\n\nb 512 0\n".replace("b 512 0", "b 0 512").as_str())
                .expect("parses");
        assert_eq!(sets["a"].total_len(), 10);
        assert_eq!(sets["b"].total_len(), 512);
        let sets = parsed("a 0 10\na 10 990").expect("parses");
        assert_eq!((sets["a"].total_len(), sets["b"].is_empty()), (1000, true));
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, reason) in [
            ("a 0 10\nc 0 1\n", "line 2: no disk of this backup has the name \"c\""),
            ("a 0\n", "a line is"),
            ("a 0 1 2\n", "a line is"),
            ("a 0 -1\n", "is not a number"),
            ("a +1 1\n", "is not a number"),
            ("a 0 0\n", "at least one byte"),
            ("a 999 2\n", "exceeds disk a"),
            ("a 18446744073709551615 2\n", "exceeds disk a"),
            ("a 99999999999999999999 2\n", "is not a number"),
            ("a 10 10\na 19 5\n", "line 2: "),
            ("a 10 10\na 0 5\n", "does not come after"),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(reason) && error.contains("ranges.invalid"), "{text}: {error}");
        }
        let long = "a".repeat(5000);
        assert!(parsed(&long).expect_err("long").contains("longer than"));
        let disks = BTreeMap::from([("a", 1000)]);
        assert!(parse(&mut &b"a \xff 3\n"[..], "f", &disks).is_err());
    }
}
