//! Verifications.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::PointId;

/// How deep a verify looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyMode {
    /// Compare packs with their names, and the copies of everything else with each other; needs
    /// no key. A pack that is missing from every copy is not noticed.
    Blind,
    /// Open everything, and follow every recovery point down to its blocks.
    #[default]
    Full,
}

impl VerifyMode {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blind => "blind",
            Self::Full => "full",
        }
    }
}

/// What a verify found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each says something else, and they are printed")]
pub struct VerifyReport {
    /// How deep it looked.
    pub mode: VerifyMode,
    /// Whether everything that was asked for was looked at and all is well, or was made well.
    pub clean: bool,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// The percentage of packs that was asked for, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_percent: Option<f64>,
    /// When the interrupted verify began that this one went on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<Timestamp>,
    /// The copies that were looked at.
    pub copies: Vec<String>,
    /// Copies that belong to the vault but could not be looked at.
    pub absent_copies: Vec<String>,
    /// Objects other than packs that were looked at.
    pub metadata_objects: u64,
    /// Packs in the vault.
    pub packs: u64,
    /// Packs that were read.
    pub verified_packs: u64,
    /// Packs that the interrupted verify had found good.
    pub resumed_packs: u64,
    /// Bytes that were read of packs, of all copies.
    pub read_bytes: u64,
    /// Records that were opened and compared with their digests.
    pub verified_records: u64,
    /// Records that are good but of no use, because they say how a block differs from one that is
    /// lost.
    pub records_without_base: u64,
    /// Packs that no readable index object lists, except those that may be of running backups:
    /// `vault rebuild-index` puts that right.
    pub unindexed_packs: u64,
    /// The vault changed so much that it could not be decided whether all recovery points are
    /// whole: to be run again.
    pub undecided: bool,
    /// Whether recovery points need such packs: they cannot be restored before `vault
    /// rebuild-index`.
    pub index_incomplete: bool,
    /// Packs that later backups do not rely on, as damage in them could not be repaired: what they
    /// hold is stored again when a backup meets it. Only a repair says so.
    pub distrusted_packs: u64,
    /// Recovery points whose content was followed to its end.
    pub recovery_points: u64,
    /// Objects of which a copy is missing or not what was written.
    pub damaged_objects: u64,
    /// How many of them are good again in every copy.
    pub repaired_objects: u64,
    /// The first thousand of them.
    pub damaged: Vec<DamagedObject>,
    /// Why repairs that were asked for were not made: once for each copy that cannot be written. The rest
    /// was repaired all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_repairs: Vec<FailedRepair>,
    /// Distinct blocks that points need and no good pack has.
    pub lost_blocks: u64,
    /// Distinct tree nodes that points need and no good pack has.
    pub lost_nodes: u64,
    /// Recovery points that cannot be restored whole.
    pub damaged_recovery_points: u64,
    /// The first thousand of them.
    pub damaged_points: Vec<DamagedPoint>,
    /// How long it took.
    pub seconds: f64,
}

/// Why a copy was not repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRepair {
    /// Which.
    pub copy: String,
    /// The error's code.
    pub code: String,
    /// What was said.
    pub reason: String,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// The vault's description.
    Description,
    /// A key slot or key ring.
    Key,
    /// An index object: costs time, not data.
    Index,
    /// The manifest of a recovery point.
    Manifest,
    /// A note that a point is deleted.
    DeletionNote,
    /// A note of packs about to be removed.
    Condemnation,
    /// A note of a writer.
    WriterNote,
    /// A note that a pack cannot be read.
    DamageNote,
    /// Something that a service keeps.
    Service,
    /// Until when a recovery point may not be deleted.
    Lock,
    /// A pack of blocks.
    DataPack,
    /// A pack of tree nodes.
    NodePack,
    /// Anything else.
    Other,
}

/// An object of which not every copy is what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedObject {
    /// Its name.
    pub object: String,
    /// What it is.
    pub kind: ObjectKind,
    /// What is wrong with it, copy by copy.
    pub copies: Vec<UnsoundCopy>,
    /// Copies that are good.
    pub good_copies: u64,
    /// Whether the unsound copies were replaced by a good one.
    pub repaired: bool,
    /// Records of a pack that can still be read although no copy of it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readable_records: Option<u64>,
    /// Records of a pack that cannot be read any more; not given if it is not known what was in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_records: Option<u64>,
}

/// A copy that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsoundCopy {
    /// Which copy.
    pub copy: String,
    /// In which way.
    pub state: CopyState,
    /// What was seen.
    pub reason: String,
}

/// In which way a copy is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// It is not there.
    Missing,
    /// It is not what was written under this name.
    Damaged,
    /// It is authentic but another than the first copy, or, without a key, just another.
    Conflicting,
    /// It could not be read.
    Unreachable,
}

/// A recovery point that cannot be restored whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPoint {
    /// Its item; not given if the manifest itself cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The point.
    pub recovery_point: PointId,
    /// Its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Whether the machine's configuration is lost.
    pub configuration_lost: bool,
    /// Its disks that are not whole. None are named if the manifest itself cannot be read.
    pub disks: Vec<DamagedDisk>,
}

/// A disk of a recovery point that is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedDisk {
    /// Its name.
    pub disk: String,
    /// Bytes that are lost.
    pub lost_bytes: u64,
    /// Where: the first hundred ranges.
    pub ranges: Vec<LostRange>,
    /// Whether that is all; else `lost_bytes` and `ranges` are only the beginning.
    pub complete: bool,
}

/// Bytes of a disk that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// The first.
    pub offset: u64,
    /// How many.
    pub length: u64,
}
