//! The file in which a caller says what has changed on disks.
//!
//! ```text
//! # disk offset length, in bytes
//! vda 0 65536
//! vda 1048576 131072
//! vdb 4096 512
//! ```
//!
//! Lines come in any order and may overlap. Empty lines and lines that begin with `#` say nothing. A
//! disk without a line has no known changes: it is read whole.
//!
//! This module owns the form of the file. It must not know how the caller has found the changes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use strongroom_base::{ByteRange, RangeSet};

use crate::{DiskError, num::to_u64};

/// The longest line, bytes.
const MAX_LINE: usize = 4096;

/// The most ranges in a file: a tenth of a GB of memory.
const MAX_RANGES: usize = 6 << 20;

/// The most disks in a file.
const MAX_DISKS: usize = 4096;

/// What a changed-ranges file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedRanges {
    file: String,
    disks: BTreeMap<String, Disk>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Disk {
    ranges: RangeSet,
    farthest_line: u64,
}

/// What was read of a disk so far.
#[derive(Default)]
struct Draft {
    ranges: Vec<ByteRange>,
    farthest_end: u64,
    farthest_line: u64,
}

impl Draft {
    fn add(&mut self, range: ByteRange, line: u64) {
        if range.end() > self.farthest_end {
            (self.farthest_end, self.farthest_line) = (range.end(), line);
        }
        match self.ranges.last_mut() {
            // Most files ascend: neighbours take no memory.
            Some(last) if range.offset() == last.end() => {
                *last = ByteRange::between(last.offset(), range.end());
            }
            _ => self.ranges.push(range),
        }
    }
}

impl ChangedRanges {
    /// Reads the file at `path`.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| crate::raw::open_error(&name, error))?;
        Self::read(&name, BufReader::new(file))
    }

    /// Reads lines; `file` is what errors call their source.
    pub fn read(file: &str, mut lines: impl BufRead) -> Result<Self, DiskError> {
        let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
        let (mut line, mut number, mut count) = (Vec::new(), 0_u64, 0_usize);
        loop {
            line.clear();
            number = number.saturating_add(1);
            let wrong =
                |reason: String| DiskError::Ranges { file: file.to_owned(), line: number, reason };
            let most = to_u64(MAX_LINE).saturating_add(1);
            let got = lines.by_ref().take(most).read_until(b'\n', &mut line);
            match got {
                Ok(0) => break,
                Ok(_) if line.len() > MAX_LINE => {
                    return Err(wrong(format!("it is longer than {MAX_LINE} bytes")));
                }
                Ok(_) => {}
                Err(source) => return Err(read_error(file, source)),
            }
            let Some((disk, range)) = parse(&line).map_err(wrong)? else { continue };
            count = count.saturating_add(1);
            if count > MAX_RANGES {
                return Err(wrong(format!("there are more than {MAX_RANGES} ranges")));
            }
            if drafts.len() >= MAX_DISKS && !drafts.contains_key(disk) {
                return Err(wrong(format!("there are more than {MAX_DISKS} disks")));
            }
            let draft = match drafts.get_mut(disk) {
                Some(draft) => draft,
                None => drafts.entry(disk.to_owned()).or_default(),
            };
            draft.add(range, number);
        }
        let finish = |(name, draft): (String, Draft)| {
            let ranges = RangeSet::from_unsorted(draft.ranges);
            (name, Disk { ranges, farthest_line: draft.farthest_line })
        };
        let disks = drafts.into_iter().map(finish).collect();
        Ok(Self { file: file.to_owned(), disks })
    }

    /// The disks that it names.
    pub fn disks(&self) -> impl Iterator<Item = &str> {
        self.disks.keys().map(String::as_str)
    }

    /// What it says of `disk`, a disk of `size` bytes; nothing if it does not name the disk. It is
    /// an error if it names bytes that the disk does not have.
    pub fn check(&self, disk: &str, size: u64) -> Result<Option<&RangeSet>, DiskError> {
        let Some(found) = self.disks.get(disk) else { return Ok(None) };
        let end = found.ranges.end();
        if end > size {
            return Err(DiskError::Ranges {
                file: self.file.clone(),
                line: found.farthest_line,
                reason: format!("the range ends at {end}, the disk {disk} at {size}"),
            });
        }
        Ok(Some(&found.ranges))
    }
}

fn read_error(file: &str, source: io::Error) -> DiskError {
    DiskError::Io { disk: file.to_owned(), action: "read", source }
}

/// A line's disk and range, if it says anything.
fn parse(line: &[u8]) -> Result<Option<(&str, ByteRange)>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(disk), Some(offset), Some(len), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("it is not `disk offset length`".to_owned());
    };
    let number = |what: &str, word: &str| {
        // `parse` alone would allow a plus sign.
        let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = word.parse::<u64>().ok().filter(|_| is_number);
        parsed.ok_or_else(|| format!("the {what} {word:.40?} is not a decimal number of bytes"))
    };
    let range = ByteRange::new(number("offset", offset)?, number("length", len)?)
        .map_err(|error| error.to_string())?;
    if range.is_empty() {
        return Err("the length is 0".to_owned());
    }
    Ok(Some((disk, range)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<ChangedRanges, DiskError> {
        ChangedRanges::read("f", text.as_bytes())
    }

    fn line_of(text: &str) -> u64 {
        match read(text) {
            Err(DiskError::Ranges { line, .. }) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let ranges =
            read("# head\n\nvda 0 512\r\n  vdb\t7 1\nvda 512 512\nvda 4096 1").expect("right");
        assert_eq!(ranges.disks().collect::<Vec<_>>(), ["vda", "vdb"]);
        let vda = ranges.check("vda", 4097).expect("fits").expect("is named");
        let expected = [ByteRange::between(0, 1024), ByteRange::between(4096, 4097)];
        assert_eq!(vda.iter().collect::<Vec<_>>(), expected);
        assert_eq!(ranges.check("vdc", 0).expect("fits"), None);
        assert!(read("").expect("right").disks().next().is_none());
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(line_of("\nvda 0\n"), 2);
        assert_eq!(line_of("vda 0 512 x\n"), 1);
        assert_eq!(line_of("#\n#\nvda 0 0\n"), 3);
        assert_eq!(line_of("vda -1 5\n"), 1);
        assert_eq!(line_of("vda +1 5\n"), 1);
        assert_eq!(line_of("vda 0x10 5\n"), 1);
        assert_eq!(line_of("vda 18446744073709551615 1\nvda 1 18446744073709551615\n"), 1);
        assert_eq!(line_of(&format!("vda 0 1\n{}", "x".repeat(100_000))), 2);
        let ranges = read("vda 0 512\nvdb 0 1\nvda 1024 512\nvda 512 1\n").expect("right");
        assert!(ranges.check("vda", 1536).is_ok());
        match ranges.check("vda", 1535) {
            Err(DiskError::Ranges { line, file, .. }) => {
                assert_eq!((line, file.as_str()), (3, "f"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_order_and_overlaps_mean_the_same() {
        let expected = [ByteRange::between(0, 1024), ByteRange::between(4096, 8192)];
        for text in [
            "vda 0 1024\nvda 4096 4096\n",
            "vda 4096 4096\nvda 0 1024\n",
            "vda 4096 4096\nvda 512 512\nvda 4096 1\nvda 0 600\nvda 5000 3192\nvda 0 1024\n",
        ] {
            let ranges = read(text).expect("right");
            let vda = ranges.check("vda", 8192).expect("fits").expect("is named");
            assert_eq!(vda.iter().collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn limits() {
        let many: Vec<_> = (0..=MAX_DISKS).map(|i| format!("d{i} 0 1\n")).collect();
        assert_eq!(line_of(&many.concat()), to_u64(MAX_DISKS) + 1);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(ChangedRanges::read("f", bytes.as_slice()));
        }

        #[test]
        fn never_panics_on_lines(text in "([ab] [0-9]{0,21} ?[0-9]{0,21}\n?){0,8}") {
            drop(read(&text));
        }

        /// Any gaps and lengths, written down in any order, are read back.
        #[test]
        fn round_trip(
            steps in prop::collection::vec((0_u64..100, 1_u64..100, any::<bool>()), 0..50),
            turn in 0_usize..50,
        ) {
            let (mut lines, mut ends) = (Vec::new(), [0_u64; 2]);
            let mut expected = [Vec::new(), Vec::new()];
            for (gap, len, second) in steps {
                let disk = usize::from(second);
                let offset = ends[disk] + gap;
                ends[disk] = offset + len;
                expected[disk].push(ByteRange::new(offset, len).expect("fits"));
                let at = turn.checked_rem(lines.len() + 1).unwrap_or(0);
                lines.insert(at, format!("disk{disk} {offset} {len}\n"));
            }
            let ranges = read(&lines.concat()).expect("right");
            for (disk, expected) in expected.into_iter().enumerate() {
                let name = format!("disk{disk}");
                let found = ranges.check(&name, ends[disk]).expect("fits").cloned();
                prop_assert_eq!(found.unwrap_or_default(), RangeSet::from_unsorted(expected));
                prop_assert!(ends[disk] == 0 || ranges.check(&name, ends[disk] - 1).is_err());
            }
        }
    }
}
