//! What users write on the command line and in the configuration file, parsed: sizes, durations,
//! percentages, names, moments. Every error says what would have been right.

use std::{path::PathBuf, str::FromStr, time::Duration};

use jiff::Timestamp;
use strongroom_base::{PointId, check_name};
use strongroom_disk::DiskSpec;

use crate::moments;

/// Parses a number of bytes: digits and an optional `K`, `M`, `G` or `T`, powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is not a size: write bytes, or a whole number with K, M, G or T (64K, 1G)"
        )
    };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase();
    let shift: u32 = match unit.as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// Parses a rate in bytes a second: a size of at least 1, optionally followed by `/s`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    match size(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("a rate of 0 would never end; leave the option out for no limit".to_owned()),
        rate => Ok(rate),
    }
}

/// Parses a number of threads: 1 to 256.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a number of threads from 1 to 256"))
}

/// Parses a duration: a whole number with `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration: write a whole number with s, m, h or d (90s, 2h)");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "" if digits == "0" => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds <= 3650 * 86_400);
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is longer than ten years"))
}

/// Parses a percentage: above 0, at most 100, with or without `%`.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|number| *number > 0.0 && *number <= 100.0)
        .ok_or_else(|| format!("{text:?} is not a percentage above 0, at most 100"))
}

/// Parses the name of an item or disk.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if check_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a name: use 1 to 200 bytes of letters and digits of any script, spaces \
             and punctuation; no '/' or '\\', no '.', '-' or space at the beginning"
        ))
    }
}

/// Parses a tag, `KEY=VALUE`.
pub(crate) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not a tag: write KEY=VALUE")),
    }
}

/// A named disk and where it is: `NAME=DISK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedDisk {
    /// Its name within the item.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) disk: DiskSpec,
}

impl FromStr for NamedDisk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (before, disk) = text.split_once('=').ok_or_else(|| {
            format!("{text:?} does not name the disk: write NAME=DISK, such as system={text}")
        })?;
        let disk = disk.parse().map_err(|error: strongroom_disk::DiskError| error.to_string())?;
        Ok(Self { name: name(before)?, disk })
    }
}

/// A disk to back up: `NAME=DISK`, or `NAME=blob:BLOB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamedSource {
    /// A disk.
    Disk(NamedDisk),
    /// A page blob.
    Blob {
        /// Its name within the item.
        name: String,
        /// `ACCOUNT/CONTAINER/BLOB`, or a URL.
        blob: String,
    },
}

impl NamedSource {
    /// Its name within the item.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Disk(disk) => &disk.name,
            Self::Blob { name, .. } => name,
        }
    }
}

impl FromStr for NamedSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("=blob:") {
            Some((before, blob)) if !before.contains('=') => {
                Ok(Self::Blob { name: name(before)?, blob: blob.to_owned() })
            }
            _ => text.parse().map(Self::Disk),
        }
    }
}

/// Where a restore goes: a folder for all disks, or a place for one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RestoreTo {
    /// `DIR`: each disk becomes a file of its name in it.
    Folder(PathBuf),
    /// `NAME=TARGET`.
    Disk(NamedDisk),
}

impl FromStr for RestoreTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((before, _)) if check_name(before) => text.parse().map(Self::Disk),
            _ if text.is_empty() => Err("there is no folder or target".to_owned()),
            _ if text.starts_with("nbd") && text.contains("://") => {
                Err(format!("say which disk goes there: NAME={text}"))
            }
            _ => Ok(Self::Folder(PathBuf::from(text))),
        }
    }
}

/// Which recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The newest.
    Latest,
    /// The newest from which the machine is known to boot.
    Booted,
    /// The one with this id, or with the only id that begins so.
    Ids(IdRange),
    /// The newest that is no newer than this.
    At(Timestamp),
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("latest") {
            return Ok(Self::Latest);
        }
        if text.eq_ignore_ascii_case("booted") {
            return Ok(Self::Booted);
        }
        if let Ok(ids) = point_ids(text) {
            return Ok(Self::Ids(ids));
        }
        let moment = moments::until(text);
        moment
            .map(Self::At)
            .map_err(|words| format!("write latest, booted, an id or a time; {words}"))
    }
}

/// The ids of recovery points that begin alike; a whole id is the range of itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    low: PointId,
    high: PointId,
}

impl IdRange {
    /// The id, if it is a whole one.
    pub(crate) fn whole(self) -> Option<PointId> {
        (self.low == self.high).then_some(self.low)
    }

    /// Whether an id begins so.
    pub(crate) fn contains(self, id: PointId) -> bool {
        self.low <= id && id <= self.high
    }

    /// What all of them begin with.
    pub(crate) fn prefix(self) -> String {
        let (low, high) = (self.low.to_string(), self.high.to_string());
        low.chars().zip(high.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    }
}

/// The least that is taken for the beginning of an id.
pub(crate) const ID_PREFIX: usize = 6;

/// Parses a recovery point's id or its beginning, in any case. Ids begin with a zero until the year
/// 3084, so no date is one.
pub(crate) fn point_ids(text: &str) -> Result<IdRange, String> {
    let wrong = || {
        format!(
            "{text:?} is not the id of a recovery point: 26 letters and digits, or its first {ID_PREFIX} \
             or more"
        )
    };
    if text.len() < ID_PREFIX || !text.starts_with('0') {
        return Err(wrong());
    }
    let text = text.to_ascii_uppercase();
    let id = |fill: char| {
        let fill = std::iter::repeat_n(fill, 26_usize.saturating_sub(text.len()));
        text.chars().chain(fill).collect::<String>().parse().map_err(|_| wrong())
    };
    Ok(IdRange { low: id('0')?, high: id('Z')? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good = [("0", 0), ("512", 512), ("64K", 65_536), ("10m", 10 << 20), ("1G", 1 << 30)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(size("2TiB"), Ok(2 << 40));
        for bad in ["", "K", "1.5G", "10MB", "-1", "1 G", "99999999999T", "1Gx", "é"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(rate("100M/s"), Ok(100 << 20));
        assert!(rate("0").is_err());
    }

    #[test]
    fn durations_percentages_threads() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "h", "1w", "99999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!((percent("0.5"), percent("100%")), (Ok(0.5), Ok(100.0)));
        assert!(percent("NaN").is_err() && percent("inf").is_err());
        assert!(percent("0").is_err() && percent("101").is_err() && percent("x").is_err());
        assert!(threads("0").is_err() && threads("257").is_err());
    }

    #[test]
    fn disks_and_targets() {
        let disk: NamedDisk = "root=/a=b.img".parse().expect("parses");
        assert_eq!((disk.name.as_str(), disk.disk.to_string().as_str()), ("root", "/a=b.img"));
        assert!("/a.img".parse::<NamedDisk>().is_err());
        assert!("a/b=/a.img".parse::<NamedDisk>().is_err());
        assert_eq!("./a=b".parse(), Ok(RestoreTo::Folder("./a=b".into())));
        assert!(matches!("a=b".parse(), Ok(RestoreTo::Disk(_))));
        assert!("nbd://host/x".parse::<RestoreTo>().is_err());
    }

    #[test]
    fn points() {
        assert_eq!("latest".parse(), Ok(Point::Latest));
        assert_eq!("booted".parse(), Ok(Point::Booted));
        let id = PointId::from_bytes([7; 16]);
        let Ok(Point::Ids(ids)) = id.to_string().to_lowercase().parse() else { panic!("an id") };
        assert_eq!((ids.whole(), ids.prefix()), (Some(id), id.to_string()));
        let Ok(Point::Ids(ids)) = "01m8hcsjd1".parse() else { panic!("a prefix") };
        assert_eq!((ids.whole(), ids.prefix().as_str()), (None, "01M8HCSJD1"));
        let of = |text: &str| text.parse::<PointId>().expect("an id");
        assert!(ids.contains(of("01M8HCSJD1ZZZZZZZZZZZZZZZZ")));
        assert!(!ids.contains(of("01M8HCSJD20000000000000000")));
        for bad in
            ["newest", "5m", "01M8H", "01M8HCSJDU", "11M8HCSJD1", "01M8HCSJD1ZZZZZZZZZZZZZZZZZ"]
        {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
        for time in ["20261122", "yesterday", "2d", "2h ago"] {
            assert!(matches!(time.parse(), Ok(Point::At(_))), "{time}");
        }
    }
}
