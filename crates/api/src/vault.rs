//! Vaults: their settings, their keys by reference, and their usage.
//!
//! Must not know how a vault is stored. No type here holds a secret: a key is named by file or by token.
//! Fields are added, never removed or renamed; requests refuse unknown fields.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{ItemId, VaultId};
use utoipa::ToSchema;

use crate::{DrillPolicy, words};

words! {
    /// The redundancy of a vault's data.
    Redundancy {
        /// One region: one store, or several folders in separate fault domains with full copies.
        Local = "local",
        /// Also in a paired region.
        Geo = "geo",
        /// Also in a paired region, which can be read at any time.
        ReadAccessGeo = "read_access_geo",
    }
}

words! {
    /// Whether deleted data can be restored for some days.
    SoftDeleteState {
        /// Deleted data cannot be restored.
        Disabled = "disabled",
        /// Deleted data is kept for some days.
        Enabled = "enabled",
        /// Deleted data is kept for some days, and this can never be turned off.
        AlwaysOn = "always_on",
    }
}

words! {
    /// Whether recovery points can be deleted before they expire.
    Immutability {
        /// They can.
        Disabled = "disabled",
        /// They cannot; but this can be turned off.
        Unlocked = "unlocked",
        /// They cannot, and this can never be turned off.
        Locked = "locked",
    }
}

words! {
    /// Whether a vault is in use.
    VaultState {
        /// It is.
        Active = "active",
        /// It is deleted and can still be restored.
        SoftDeleted = "soft_deleted",
    }
}

words! {
    /// Who manages a vault's key.
    KeyManagement {
        /// The server: it generated the key and keeps it in its folder.
        Platform = "platform",
        /// The customer: a key file, a passphrase, or a key in a hardware token.
        Customer = "customer",
    }
}

/// Soft delete: how long deleted data can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SoftDelete {
    /// Whether it can.
    pub state: SoftDeleteState,
    /// Days for which deleted data can be restored: 14 to 180. Data that is already deleted keeps
    /// the days of its deletion.
    #[schema(minimum = 14, maximum = 180)]
    pub retention_days: u16,
}

impl Default for SoftDelete {
    fn default() -> Self {
        Self { state: SoftDeleteState::Enabled, retention_days: 14 }
    }
}

/// A vault's key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Encryption {
    /// Who manages it.
    pub management: KeyManagement,
    /// Its location: a path on the server or a PKCS#11 URI.
    pub key: String,
    /// When the vault's master key was last changed.
    pub rotated: Timestamp,
}

/// A vault: a place for recovery points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vault {
    /// Its id, which is also in its store.
    pub id: VaultId,
    /// Its name, which no other vault has.
    pub name: String,
    /// Where its data is: the path of a folder, or the URL of an object store.
    pub url: String,
    /// Whether it is in use.
    pub state: VaultState,
    /// In how many places its data lies.
    pub redundancy: Redundancy,
    /// Folders that hold the same, if it is a folder.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Its key.
    pub encryption: Encryption,
    /// Soft delete: how long deleted data can be restored.
    pub soft_delete: SoftDelete,
    /// Whether recovery points can be deleted before they expire.
    pub immutability: Immutability,
    /// Whether each reclaim also compresses once more what the recovery points need.
    #[serde(default)]
    pub recompress: bool,
    /// The drill that the service carries out by itself; none if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillPolicy>,
    /// Tags: names and values of the operator's choice.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When it was created.
    pub created: Timestamp,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// Until when it can be restored. Its data stays in the store until somebody removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_after: Option<Timestamp>,
}

/// A new vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultCreate {
    /// Its name: 1 to 200 bytes of any script, without `/`, `\` and control characters.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// The path of a folder, or the URL of an object store; the default is a folder of the server's
    /// own. An existing vault is taken over with its recovery points. The server's configuration
    /// must allow it: a folder by `vault_dirs`, an object store by `vault_urls`.
    #[serde(default)]
    pub url: Option<String>,
    /// The redundancy; only `local` is supported until regions exist.
    #[serde(default)]
    pub redundancy: Option<Redundancy>,
    /// Folders on other disks that hold the same. The server's `vault_dirs` must allow each.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// The customer's own key; by default the server generates one.
    #[serde(default)]
    pub key: Option<KeyReference>,
    /// Soft delete: how long deleted data can be restored.
    #[serde(default)]
    pub soft_delete: Option<SoftDelete>,
    /// Whether recovery points can be deleted before they expire.
    #[serde(default)]
    pub immutability: Option<Immutability>,
    /// Whether each reclaim also compresses once more what the recovery points need: up to 64 GiB each
    /// time, beside running backups. By default it does not. Programs before format 2 cannot read the
    /// vault afterwards.
    #[serde(default)]
    pub recompress: Option<bool>,
    /// Whether to create the vault although its store cannot arbitrate between writers; nobody else
    /// may then write to it.
    #[serde(default)]
    pub single_writer: bool,
    /// Tags: names and values of the operator's choice.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// Location of a key. Keys themselves are never sent. The server's configuration must allow the
/// location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyReference {
    /// The path of a key file on the server, below one of its `key_dirs`.
    File(String),
    /// The path of a file with a passphrase on the server, below one of its `key_dirs`.
    Passphrase(String),
    /// A key in a hardware token: a `pkcs11:` URI with the `module-name` of one of the server's
    /// `pkcs11_modules`. A file with its PIN (`pin-source`) is below one of the `key_dirs`.
    Pkcs11(String),
}

/// Changes of a vault. Omitted fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultUpdate {
    /// Another name.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// Another redundancy.
    #[serde(default)]
    pub redundancy: Option<Redundancy>,
    /// Soft delete: how long deleted data can be restored.
    #[serde(default)]
    pub soft_delete: Option<SoftDelete>,
    /// Whether recovery points can be deleted before they expire.
    #[serde(default)]
    pub immutability: Option<Immutability>,
    /// Whether each reclaim also compresses once more what the recovery points need.
    #[serde(default)]
    pub recompress: Option<bool>,
    /// Another drill that the service carries out by itself: `every_days` 0 ends it.
    #[serde(default)]
    pub drill: Option<DrillPolicy>,
    /// New tags, which replace all present ones.
    #[serde(default)]
    pub tags: Option<BTreeMap<String, String>>,
}

/// A change of a vault's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRotate {
    /// The key that opens the vault from now on; if omitted, the key stays and only the master key
    /// changes.
    #[serde(default)]
    pub key: Option<KeyReference>,
}

/// The content of a vault and its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VaultUsage {
    /// The vault.
    pub vault: VaultId,
    /// When this was measured.
    pub measured: Timestamp,
    /// Recovery points.
    pub recovery_points: u64,
    /// Deleted recovery points that can still be restored.
    pub soft_deleted_points: u64,
    /// Sizes of all disks of the newest point of every item.
    pub protected_bytes: u64,
    /// Bytes of all objects of one copy of the vault.
    pub stored_bytes: u64,
    /// Bytes that reclaim can free.
    pub reclaimable_bytes: u64,
    /// Protected instances, counted by size: up to 50 GB one unit, up to 500 GB two, two more for each
    /// further 500 GB.
    pub instance_units: u64,
    /// Growth in bytes a day, over the last 30 days; none before the second measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_day: Option<i64>,
    /// Expected bytes in 30 days at this growth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_bytes_30_days: Option<u64>,
    /// The items, by name.
    pub items: Vec<ItemUsage>,
}

/// An item's share of its vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ItemUsage {
    /// The item, unless the service does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemId>,
    /// Its name.
    pub name: String,
    /// Recovery points.
    pub recovery_points: u64,
    /// Sizes of all disks of its newest point.
    pub protected_bytes: u64,
    /// Bytes of data in its newest point, which decide the size of a protected instance.
    pub instance_bytes: u64,
    /// Units of protected instances.
    pub instance_units: u64,
    /// Stored bytes that only this item needs.
    pub unique_bytes: u64,
    /// Stored bytes that other items need too.
    pub shared_bytes: u64,
}
