//! The manifest: one recovery point, all its disks, and how it came about.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{Digest, MAX_DISK_SIZE, PointId, SECTOR_SIZE};

use crate::FormatError;

/// What was proved about the state of the data, never what was hoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// The applications had prepared for it.
    Application,
    /// The file systems were frozen.
    FileSystem,
    /// As after a power cut.
    Crash,
}

/// A stretch of a source disk that could not be read and was recorded as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Where a disk's data came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Path or URL, without secrets.
    pub location: String,
    /// `raw`, `qcow2`, `nbd`, ...
    pub format: String,
    /// What said which ranges had changed: `all` (everything was read), `ranges` (the caller),
    /// `bitmap` (a dirty bitmap).
    pub changes_from: String,
    /// The bitmap or checkpoint, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

/// One disk of a recovery point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// The disk's name within the item.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Root of the image; all zero for an empty disk.
    pub root: Digest,
    /// Bytes of the source that were allocated, if all of it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<u64>,
    /// Bytes in blocks that differ from the parent point.
    pub changed_bytes: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Changed bytes that the vault had already.
    pub deduplicated_bytes: u64,
    /// Bytes added to the vault for this disk, sealed.
    pub stored_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Where the data came from.
    pub source: SourceRecord,
    /// Parts that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedRange>,
}

/// One recovery point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this structure.
    pub format: u16,
    /// The recovery point.
    pub id: PointId,
    /// The item's name.
    pub item: String,
    /// The moment whose data this is: the freeze, or the start of reading.
    pub time: Timestamp,
    /// When it was complete.
    pub completed: Timestamp,
    /// What was proved.
    pub consistency: Consistency,
    /// How it was proved, step by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// The host that wrote it.
    pub host: String,
    /// The program that wrote it.
    pub software: String,
    /// The point that it was built upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PointId>,
    /// Its disks, by name.
    pub disks: Vec<DiskRecord>,
    /// The machine's configuration, a bundle record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Digest>,
    /// It may not be deleted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// Checks the name of an item or a disk: 1 to 200 letters, digits, `.`, `_` and `-`, starting
/// with a letter or digit. Such names are safe as file names.
pub fn check_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=200).contains(&name.len())
        && name.chars().all(good)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Whether all names are good and no two are the same.
pub fn names_are_valid<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    names.into_iter().all(|name| check_name(name) && seen.insert(name))
}

impl Manifest {
    /// Version that this program reads and writes.
    pub const FORMAT: u16 = 1;
    /// Most bytes of its text.
    pub const MAX_LEN: usize = 16 * 1024 * 1024;

    /// Its text.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let bytes = serde_json::to_vec(self).map_err(|error| text(error.to_string()))?;
        if bytes.len() > Self::MAX_LEN {
            return Err(FormatError::TooLarge { what: "manifest" });
        }
        Ok(bytes)
    }

    /// Reads and checks its text.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            format: u16,
        }
        if bytes.len() > Self::MAX_LEN {
            return Err(text("too long".to_owned()));
        }
        let version: Version =
            serde_json::from_slice(bytes).map_err(|error| text(error.to_string()))?;
        if version.format != Self::FORMAT {
            return Err(FormatError::Version {
                what: "manifest",
                found: version.format,
                known: Self::FORMAT,
            });
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| text(error.to_string()))?;
        let size_ok = |size: u64| {
            size > 0 && size <= MAX_DISK_SIZE && size.checked_rem(SECTOR_SIZE) == Some(0)
        };
        if !check_name(&manifest.item)
            || !names_are_valid(manifest.disks.iter().map(|disk| disk.name.as_str()))
            || !manifest.disks.iter().all(|disk| size_ok(disk.size_bytes))
        {
            return Err(text("it has an impossible name or size".to_owned()));
        }
        Ok(manifest)
    }
}

fn text(reason: String) -> FormatError {
    FormatError::Text { what: "manifest", reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_text_decodes() {
        let golden = include_bytes!("../tests/golden/manifest-v1.json");
        let manifest = Manifest::decode(golden).expect("decodes");
        assert_eq!(manifest.item, "web01");
        assert_eq!(manifest.disks[0].size_bytes, 17_179_869_184);
        assert_eq!(manifest.consistency, Consistency::Crash);
        let again = Manifest::decode(&manifest.encode().expect("encodes")).expect("decodes");
        assert_eq!(again, manifest);
    }

    #[test]
    fn hostile_names_and_sizes_are_refused() {
        let golden = include_str!("../tests/golden/manifest-v1.json");
        for (from, to) in [
            ("web01", "../etc"),
            ("\"vda\"", "\"a/b\""),
            ("17179869184", "17"),
            ("17179869184", "9999999999999999"),
            ("\"format\": 1", "\"format\": 2"),
        ] {
            assert!(Manifest::decode(golden.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn names() {
        assert!(check_name("web-01.example_x"));
        for bad in ["", ".", "..", "-x", "a/b", "a b", "é", &"x".repeat(201)] {
            assert!(!check_name(bad), "{bad}");
        }
        assert!(!names_are_valid(["a", "a"].into_iter()));
    }
}
