//! The manifest: one recovery point, all its disks, the machine's configuration, and how it came about.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
pub use strongroom_base::{Consistency, SkippedRange};
use strongroom_base::{
    Digest, MAX_DISK_SIZE, NewContent, PointId, SECTOR_SIZE, Suspicion, check_name,
};

use crate::FormatError;

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
    /// What is new to the vault, and how much of it does not compress. None if the disk was not compared
    /// with a parent point, and in points of earlier programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_content: Option<NewContent>,
    /// How long it took.
    pub seconds: f64,
    /// Where the data came from.
    pub source: SourceRecord,
    /// Parts that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedRange>,
    /// Blocks that had changed although what says which ranges changed had left them out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unexpected_blocks: u64,
    /// What was noticed, for people: why everything was compared, what was not as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A disk that the item has and the point does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludedDisk {
    /// The disk's name within the item.
    pub name: String,
    /// Why it was left out, for people.
    pub reason: String,
}

/// A machine's configuration: an archive, kept as the image of a disk would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationRecord {
    /// Bytes of the archive.
    pub length: u64,
    /// Root of its image, which is the archive and zeros up to a whole sector; all zero for an
    /// archive of zeros.
    pub root: Digest,
}

impl ConfigurationRecord {
    /// Most bytes of an archive.
    pub const MAX_LEN: u64 = 64 * 1024 * 1024;

    /// The size of the image that holds it: its length in whole sectors.
    pub const fn image_size(&self) -> u64 {
        self.length.div_ceil(SECTOR_SIZE).saturating_mul(SECTOR_SIZE)
    }

    /// Whether an archive can have this length.
    pub const fn length_is_valid(length: u64) -> bool {
        length > 0 && length <= Self::MAX_LEN
    }
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
    /// The best that the guest can have as it is set up, where that is less than what was asked for. Nothing
    /// is known of it if it is missing, as it is in points of earlier programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_consistency: Option<Consistency>,
    /// How it was proved, step by step, for people.
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
    /// Disks that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<ExcludedDisk>,
    /// The machine's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationRecord>,
    /// It may not be deleted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
    /// Why it may hold content that ransomware has encrypted, as its writer judged it by the points before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<Suspicion>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Checks a name that is a part of an object's name: 1 to 200 letters and digits of ASCII, `.`, `_`
/// and `-`, starting with a letter or digit.
pub fn check_plain_name(name: &str) -> bool {
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

    /// The names of the disks that it has and of those that were left out.
    fn all_names(&self) -> impl Iterator<Item = &str> {
        let excluded = self.excluded.iter().map(|disk| disk.name.as_str());
        self.disks.iter().map(|disk| disk.name.as_str()).chain(excluded)
    }

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
        let configuration = manifest.configuration.as_ref();
        let mut jumps = manifest.suspicion.iter().flat_map(|suspicion| &suspicion.jumps);
        if !check_name(&manifest.item)
            || !names_are_valid(manifest.all_names())
            || !manifest.disks.iter().all(|disk| size_ok(disk.size_bytes))
            || !jumps.all(|jump| check_name(&jump.disk))
            || !configuration.is_none_or(|c| ConfigurationRecord::length_is_valid(c.length))
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
    fn golden_text_of_a_suspect_point_decodes() {
        let golden = include_bytes!("../tests/golden/manifest-v1-suspect.json");
        let manifest = Manifest::decode(golden).expect("decodes");
        let new = NewContent { bytes: 64_424_509_440, incompressible_bytes: 60_129_542_144 };
        assert_eq!(manifest.disks[0].new_content, Some(new));
        let suspicion = manifest.suspicion.clone().expect("a suspicion");
        assert_eq!(suspicion.last_before.id.to_string(), "01KASF6Q8H0000000000000001");
        assert_eq!((suspicion.jumps[0].disk.as_str(), suspicion.jumps[0].points), ("vda", 12));
        let again = Manifest::decode(&manifest.encode().expect("encodes")).expect("decodes");
        assert_eq!(again, manifest);
        // What a later program may say more is no damage.
        let golden = String::from_utf8_lossy(golden);
        let later = golden.replace("\"incompressible\"", "\"something else\"");
        let later = Manifest::decode(later.as_bytes()).expect("decodes").suspicion;
        assert_eq!(later.expect("a suspicion").jumps[0].kind, strongroom_base::JumpKind::Other);
        // The name of a disk is printed.
        let hostile = golden.replace("\"disk\": \"vda\"", "\"disk\": \"\\u001b[2J\"");
        assert!(Manifest::decode(hostile.as_bytes()).is_err());
    }

    #[test]
    fn golden_text_of_a_machine_decodes() {
        let golden = include_bytes!("../tests/golden/manifest-v1-machine.json");
        let manifest = Manifest::decode(golden).expect("decodes");
        let configuration = manifest.configuration.expect("a configuration");
        assert_eq!((configuration.length, configuration.image_size()), (573_441, 573_952));
        assert_eq!(manifest.disks[0].source.checkpoint.as_deref(), Some("strongroom-7"));
        assert_eq!((manifest.disks[0].notes.len(), manifest.disks[0].unexpected_blocks), (1, 2));
        assert_eq!(manifest.excluded[0].name, "vdb");
        assert_eq!(manifest.best_consistency, None, "earlier programs did not say it");
        let best = Manifest { best_consistency: Some(Consistency::FileSystem), ..manifest.clone() };
        assert_eq!(Manifest::decode(&best.encode().expect("encodes")).expect("decodes"), best);
        let again = Manifest::decode(&manifest.encode().expect("encodes")).expect("decodes");
        assert_eq!(again, manifest);
        let golden = String::from_utf8_lossy(golden);
        for (from, to) in [
            ("573441", "0"),
            ("573441", "67108865"),
            ("573441", "18446744073709551615"),
            ("\"vdb\"", "\"vda\""),
            ("\"vdb\"", "\"../x\""),
        ] {
            assert!(Manifest::decode(golden.replace(from, to).as_bytes()).is_err(), "{to}");
        }
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
        for bad in ["", ".", "..", "-x", "a/b", &"x".repeat(201)] {
            assert!(!check_name(bad), "{bad}");
        }
        assert!(!names_are_valid(["a", "a"].into_iter()));
        let golden = include_str!("../tests/golden/manifest-v1.json");
        let renamed = golden.replace("web01", "web サーバー 01");
        let manifest = Manifest::decode(renamed.as_bytes()).expect("decodes");
        assert_eq!(manifest.item, "web サーバー 01");
        assert!(check_plain_name("web-01.example_x") && !check_plain_name("web 01"));
    }
}
