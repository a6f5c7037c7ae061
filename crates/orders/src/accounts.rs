//! The trait of those who have the storage accounts of this server open.
//!
//! Owns what the service asks of them. Must not know how accounts are kept, and who may ask.
//!
//! Invariant: keys are in the answers of [`StorageAccounts::create`], [`StorageAccounts::keys`] and
//! [`StorageAccounts::regenerate_key`] and nowhere else, errors included.

use strongroom_api::{
    BlobSnapshots, BlobToSnapshot, StorageAccount, StorageAccountCreate, StorageAccountKeys,
    StorageAccountRedundancy, StorageFailedOver, StorageKeyName, StorageReplication, StorageStatus,
};

use crate::Result;

/// Who has the storage accounts open that this server serves. All of this blocks.
pub trait StorageAccounts: Send + Sync {
    /// The accounts, by name.
    fn list(&self) -> Result<Vec<StorageAccount>>;

    /// An account.
    fn show(&self, name: &str) -> Result<StorageAccount>;

    /// Creates an account with two new keys.
    fn create(&self, new: &StorageAccountCreate) -> Result<StorageAccountKeys>;

    /// An account with its keys; clients reach it at `endpoint`, or where the accounts are served.
    fn keys(&self, name: &str, endpoint: Option<&str>) -> Result<StorageAccountKeys>;

    /// Replaces a key of an account. The old key opens nothing from then on.
    fn regenerate_key(
        &self,
        name: &str,
        key: StorageKeyName,
        endpoint: Option<&str>,
    ) -> Result<StorageAccountKeys>;

    /// Deletes an account with everything in it.
    fn delete(&self, name: &str) -> Result<()>;

    /// Takes a snapshot of each blob at the same moment, of all or of none.
    fn snapshot(&self, blobs: &[BlobToSnapshot]) -> Result<BlobSnapshots>;

    /// How the store stands.
    fn status(&self) -> Result<StorageStatus>;

    /// Changes where the data of an account is kept.
    fn set_redundancy(&self, name: &str, redundancy: StorageAccountRedundancy) -> Result<()>;

    /// How the accounts are kept at a second server.
    fn replication(&self) -> Result<StorageReplication>;

    /// Makes this server the primary. It takes as long as the old one needs to send what is missing.
    fn fail_over(&self, accept_loss: bool) -> Result<StorageFailedOver>;
}
