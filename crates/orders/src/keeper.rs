//! Orders, questions and wanted states for vaults, and the trait [`Keeper`] that carries them out.
//!
//! Owns the plain data of both directions. Must not know how a vault keeps its data, nor why an order is
//! given.
//!
//! Invariants: every order names its vault and is safe to repeat; questions change nothing; a field that
//! may be missing has a default, and `ORDERS_VERSION` grows with every other change.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_api::{ErrorBody, ItemUsage, KeyReference, Report};
use strongroom_base::{PointId, VaultId};

use crate::{OrderId, PointFacts, Result, VaultAccess, Watch};

/// Makes a vault, or takes over one that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultMake {
    /// The path of a folder, or the URL of an object store.
    pub url: String,
    /// Folders that hold the same.
    pub mirrors: Vec<String>,
    /// Where its key is. A key file that does not exist is made if `make_key`.
    pub key: KeyReference,
    /// Whether the key file is made if there is none.
    pub make_key: bool,
    /// Whether a store that cannot keep two writers apart will do.
    pub single_writer: bool,
}

/// A vault as it is in its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultFacts {
    /// Its id.
    pub id: VaultId,
    /// Folders that hold the same.
    pub mirrors: Vec<String>,
    /// Whether it was there before.
    pub existed: bool,
    /// When its master key was changed last.
    pub key_changed: Timestamp,
    /// Bytes that are free where it is, if it is a folder.
    pub free_bytes: Option<u64>,
    /// What is not as it should be: copies that are away, a description that nobody vouches for.
    pub warnings: Vec<String>,
}

/// What a vault holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageFacts {
    /// Recovery points.
    pub recovery_points: u64,
    /// Sizes of all disks of the newest point of every item.
    pub protected_bytes: u64,
    /// Bytes of all objects of one copy.
    pub stored_bytes: u64,
    /// Bytes that reclaim can free.
    pub reclaimable_bytes: u64,
    /// The items: `item` and the units are for the caller to fill in.
    pub items: Vec<ItemUsage>,
}

/// How a point is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// It has no manifest.
    Missing,
    /// It has a deletion note.
    Hidden,
}

/// A point that should be there and is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AbsentPoint {
    /// Its item's name.
    pub item: String,
    /// The point.
    pub point: PointId,
    /// How it is absent.
    pub how: Absence,
}

/// Reads what a recovery point is made of, as far as it takes to say that it can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidateOrder {
    /// Which order it is.
    pub order: OrderId,
    /// The vault.
    pub vault: VaultAccess,
    /// The item's name there.
    pub item: String,
    /// The point.
    pub point: PointId,
}

/// Verifies a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyOrder {
    /// Which order it is.
    pub order: OrderId,
    /// The vault.
    pub vault: VaultAccess,
    /// How much of it.
    pub depth: VerifyDepth,
}

/// Changes a vault's master key, and the key that opens it if a new one is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateOrder {
    /// Which order it is.
    pub order: OrderId,
    /// The vault, and what opened it before.
    pub vault: VaultAccess,
    /// What opens it from now on, if that is something else.
    pub new: Option<KeyReference>,
}

/// Frees what no recovery point needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimOrder {
    /// Which order it is.
    pub order: OrderId,
    /// The vault.
    pub vault: VaultAccess,
    /// The points that were given up: item and id. Of other points no deletion note is executed,
    /// whichever process put it.
    pub given_up: Vec<(String, PointId)>,
    /// The time by which locks are judged.
    pub now: Timestamp,
    /// Whether to compress once more what the points need, as much as one reclaim does.
    #[serde(default)]
    pub recompress: bool,
}

/// A point with a deletion note that a reclaim has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPoint {
    /// Its item's name in the vault; none if its manifest cannot be read.
    pub item: Option<String>,
    /// The point.
    pub point: PointId,
    /// Whether a lock holds it; else it was not given up.
    pub locked: bool,
}

/// A reclaim is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReclaimDone {
    /// Whether it came to its end; else the rest is for the next one.
    pub complete: bool,
    /// Points whose deletion notes were not executed.
    pub held: Vec<HeldPoint>,
    /// The report, as the command of the same name prints it.
    pub report: Report,
}

/// How much of a vault is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verify", rename_all = "snake_case")]
pub enum VerifyDepth {
    /// All but packs is opened, every recovery point is followed down to its blocks, and of the packs only
    /// a few are read.
    Structure,
    /// Of the packs that were not read since all were, one in `of`; with the last of them every recovery
    /// point is followed down to its blocks.
    Part {
        /// In how many times the rest is to be read; 1: all of it now.
        of: u32,
    },
    /// Everything.
    All,
}

/// What a verify found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyFacts {
    /// Whether all packs were read, now or by the interrupted verifies that this one continued.
    pub is_whole: bool,
    /// Objects of which a copy is missing or not what was written, and is so still.
    pub damaged_objects: u64,
    /// Recovery points that cannot be restored whole.
    pub damaged_points: u64,
    /// Packs that were read.
    pub verified_packs: u64,
    /// Packs in the vault.
    pub packs: u64,
    /// Bytes of packs that were read.
    pub read_bytes: u64,
    /// What is damaged, the first of it, for people.
    pub damaged: Vec<String>,
    /// The report, as the command prints it.
    pub report: Report,
}

/// Something that the service keeps in a vault, sealed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SavedObject {
    /// Its name.
    pub name: String,
    /// Its bytes, sealed.
    pub size_bytes: u64,
}

/// The newest boot verification of a recovery point, with what shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootEvidence {
    /// The report, as the command prints it.
    pub report: Report,
    /// The format and the bytes of the picture of the screen, if there is one.
    pub screenshot: Option<(String, Vec<u8>)>,
    /// What the machine has written on its console; of a long text the middle is left out.
    pub console: Vec<u8>,
}

/// Who looks after vaults. Every order names the vault; the keeper keeps it open.
pub trait Keeper: Send + Sync {
    /// Makes a vault, or takes over one that is there and that the key opens.
    fn make(&self, order: &VaultMake) -> Result<VaultFacts>;

    /// Opens a vault, and says how it is.
    fn facts(&self, vault: &VaultAccess) -> Result<VaultFacts>;

    /// The recovery points of an item, or of all, oldest first; those that are damaged are reported
    /// with an error each.
    fn points(
        &self,
        vault: &VaultAccess,
        item: Option<&str>,
    ) -> Result<(Vec<PointFacts>, Vec<ErrorBody>)>;

    /// Whether a recovery point can be restored: its manifest, all of its trees and its
    /// configuration are read, all packs that it needs are looked for, and a sample of its blocks is
    /// read and checked. The answer is what people should know. Task: `validate`.
    fn validate(&self, order: &ValidateOrder, watch: &Watch) -> Result<Vec<String>>;

    /// Deletes recovery points. One that is gone already is no error. Those that are locked at `now`
    /// stay: the answer says until when.
    fn delete_points(
        &self,
        vault: &VaultAccess,
        item: &str,
        points: &[PointId],
        now: Timestamp,
    ) -> Result<Vec<(PointId, Timestamp)>>;

    /// Locks recovery points until then at least. The answer says which are locked, and until when:
    /// one that is gone is left out.
    fn lock_points(
        &self,
        vault: &VaultAccess,
        item: &str,
        locks: &[(PointId, Timestamp)],
    ) -> Result<Vec<(PointId, Timestamp)>>;

    /// Which of these points are not in the vault: of one item, or of all.
    fn absent(
        &self,
        vault: &VaultAccess,
        item: Option<&str>,
        expected: &[(String, PointId)],
    ) -> Result<Vec<AbsentPoint>>;

    /// Frees what no recovery point needs.
    fn reclaim(&self, order: &ReclaimOrder, watch: &Watch) -> Result<ReclaimDone>;

    /// Verifies the vault: damage that a copy mends is mended. Damage is no error. Task: `verify`.
    fn verify(&self, order: &VerifyOrder, watch: &Watch) -> Result<VerifyFacts>;

    /// The newest boot verification of a recovery point; none if it has none.
    fn boot(&self, vault: &VaultAccess, item: &str, point: PointId)
    -> Result<Option<BootEvidence>>;

    /// Measures what the vault holds.
    fn usage(&self, vault: &VaultAccess, watch: &Watch) -> Result<UsageFacts>;

    /// Changes the vault's master key, and the key that opens it if a new one is given. The old key
    /// opens it no more then. A repeated order continues.
    fn rotate_key(&self, order: &RotateOrder) -> Result<VaultFacts>;

    /// Makes a key file that only the server can read, unless it is there.
    fn make_key_file(&self, path: &Path) -> Result<()>;

    /// Keeps something in the vault, sealed, in place of what was there under the name.
    fn save(&self, vault: &VaultAccess, name: &str, bytes: &[u8]) -> Result<()>;

    /// What is kept there so.
    fn saved(&self, vault: &VaultAccess) -> Result<Vec<SavedObject>>;

    /// Reads what is kept under a name.
    fn load(&self, vault: &VaultAccess, name: &str) -> Result<Vec<u8>>;

    /// Removes what is kept under a name. That it is gone already is no error.
    fn unsave(&self, vault: &VaultAccess, name: &str) -> Result<()>;
}
