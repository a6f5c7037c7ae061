//! Storage accounts: who may see them, create and delete them, and who gets their keys.
//!
//! This module owns the rights on accounts and their entries in the audit log. It must not know how accounts are kept.
//! Accounts are not in the catalog: they are in the store that this server serves, which has its own transactions.
//!
//! Invariants: a key is in the answer to the caller who may have it and nowhere else. What changes an account, or gives
//! its keys away, has its entry in the audit log before it happens; if it then fails there is a second entry.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use strongroom_api::{
    self as api, BlobSnapshots, BlobSnapshotsCreate, StorageAccount, StorageAccountCreate,
    StorageAccountKeys, StorageAccountKind, StorageFailOver, StorageFailedOver,
    StorageKeyRegenerate, StorageKeysRead, StorageRedundancySet, StorageReplication, StorageStatus,
};
use strongroom_base::{codes, message};
use strongroom_orders::{Result as WorkResult, StorageAccounts};

use crate::{
    audit,
    error::{ControlError, Result},
    lookup::cut,
    page::PageRequest,
    rights::{Caller, Operation, Target, forbidden},
    service::Control,
};

/// Accounts on a page whose length nobody has given.
const PAGE: usize = 100;
/// Blobs of which one request takes snapshots.
const MAX_SNAPSHOTS: usize = 64;

/// How the storage accounts stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFigures {
    /// Their store.
    pub status: StorageStatus,
    /// Their second server.
    pub replication: StorageReplication,
}

/// Whether an account can have this name.
fn is_name(name: &str) -> bool {
    (3..=24).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl Control {
    /// All storage accounts, by name, without their keys.
    pub async fn storage_accounts(
        &self,
        caller: &Caller,
        at: &PageRequest,
    ) -> Result<api::Page<StorageAccount>> {
        self.check_storage(caller, Operation::ViewStorageAccount)?;
        let accounts = self.storage()?;
        let mut items = Self::blocking(move || accounts.list()).await?;
        if let Some(token) = at.token.as_deref() {
            if !is_name(token) {
                let words = "the token is not the name of a storage account";
                return Err(ControlError::refused(&codes::REQUEST_PAGE_TOKEN, words));
            }
            items.retain(|account| account.name.as_str() > token);
        }
        items.sort_by(|one, other| one.name.cmp(&other.name));
        let limit = at.limit.unwrap_or(PAGE);
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        Ok(api::Page { next_page_token: last.map(|account| account.name.clone()), items })
    }

    /// A storage account, without its keys.
    pub async fn storage_account(&self, caller: &Caller, name: &str) -> Result<StorageAccount> {
        self.check_storage(caller, Operation::ViewStorageAccount)?;
        self.find_account(name).await
    }

    /// Creates a storage account. The answer has its keys.
    pub async fn create_storage_account(
        &self,
        caller: &Caller,
        new: StorageAccountCreate,
    ) -> Result<StorageAccountKeys> {
        let operation = Operation::CreateStorageAccount;
        self.check_storage(caller, operation)?;
        self.storage()?;
        let name = new.name.clone();
        if !is_name(&name) {
            let reason = format!("{:?} is not 3 to 24 lower-case letters and digits", cut(&name));
            return Err(message!(ACCOUNT_INVALID, "{reason}", reason).into());
        }
        match self.find_account(&name).await {
            Ok(_) => {
                let reason = format!("there is a storage account {name}");
                return Err(message!(ACCOUNT_EXISTS, "{reason}", reason).into());
            }
            Err(error) if error.body().code == codes::ACCOUNT_NOT_FOUND => {}
            Err(error) => return Err(error),
        }
        let kind = new.kind.unwrap_or(StorageAccountKind::Standard);
        let detail = json!({ "kind": kind, "rules": new.rules.unwrap_or(true) });
        self.recorded(caller, operation, &name, detail, move |accounts| accounts.create(&new)).await
    }

    /// A storage account with its keys.
    pub async fn storage_account_keys(
        &self,
        caller: &Caller,
        name: &str,
        request: StorageKeysRead,
    ) -> Result<StorageAccountKeys> {
        let operation = Operation::ReadStorageKeys;
        self.check_storage(caller, operation)?;
        let account = self.find_account(name).await?.name;
        let asked = account.clone();
        self.recorded(caller, operation, &account, json!({}), move |accounts| {
            accounts.keys(&asked, request.endpoint.as_deref())
        })
        .await
    }

    /// Replaces a key of a storage account. The answer has its keys.
    pub async fn regenerate_storage_key(
        &self,
        caller: &Caller,
        name: &str,
        request: StorageKeyRegenerate,
    ) -> Result<StorageAccountKeys> {
        let operation = Operation::RegenerateStorageKey;
        self.check_storage(caller, operation)?;
        let account = self.find_account(name).await?.name;
        let asked = account.clone();
        let detail = json!({ "key": request.key });
        self.recorded(caller, operation, &account, detail, move |accounts| {
            accounts.regenerate_key(&asked, request.key, request.endpoint.as_deref())
        })
        .await
    }

    /// Deletes a storage account with everything in it.
    pub async fn delete_storage_account(&self, caller: &Caller, name: &str) -> Result<()> {
        let operation = Operation::DeleteStorageAccount;
        self.check_storage(caller, operation)?;
        let account = self.find_account(name).await?.name;
        let asked = account.clone();
        self.recorded(caller, operation, &account, json!({}), move |accounts| {
            accounts.delete(&asked)
        })
        .await
    }

    /// Takes a snapshot of each of some blobs at the same moment, of all or of none.
    pub async fn snapshot_blobs(
        &self,
        caller: &Caller,
        request: BlobSnapshotsCreate,
    ) -> Result<BlobSnapshots> {
        let operation = Operation::SnapshotBlobs;
        self.check_storage(caller, operation)?;
        self.storage()?;
        let blobs = request.blobs;
        if blobs.is_empty() || blobs.len() > MAX_SNAPSHOTS {
            let words = "a request takes snapshots of 1 to 64 blobs";
            return Err(ControlError::refused(&codes::REQUEST_INVALID, words));
        }
        let accounts: BTreeSet<&str> = blobs.iter().map(|blob| blob.account.as_str()).collect();
        let accounts = accounts.into_iter().collect::<Vec<_>>().join(", ");
        let detail = json!({ "blobs": blobs.len() });
        let work = move |accounts: &dyn StorageAccounts| accounts.snapshot(&blobs);
        self.recorded(caller, operation, &accounts, detail, work).await
    }

    /// Changes where the data of a storage account is kept.
    pub async fn set_storage_redundancy(
        &self,
        caller: &Caller,
        name: &str,
        request: StorageRedundancySet,
    ) -> Result<StorageAccount> {
        let operation = Operation::SetStorageRedundancy;
        self.check_storage(caller, operation)?;
        let account = self.find_account(name).await?.name;
        let asked = account.clone();
        let detail = json!({ "redundancy": request.redundancy });
        self.recorded(caller, operation, &account, detail, move |accounts| {
            accounts.set_redundancy(&asked, request.redundancy)
        })
        .await?;
        self.find_account(&account).await
    }

    /// How the storage accounts are kept at a second server.
    pub async fn storage_replication(&self, caller: &Caller) -> Result<StorageReplication> {
        self.check_storage(caller, Operation::ViewStorageAccount)?;
        let accounts = self.storage()?;
        Ok(Self::blocking(move || accounts.replication()).await?)
    }

    /// Makes this server the primary of the storage accounts.
    pub async fn fail_storage_over(
        &self,
        caller: &Caller,
        request: StorageFailOver,
    ) -> Result<StorageFailedOver> {
        let operation = Operation::FailOverStorage;
        self.check_storage(caller, operation)?;
        self.storage()?;
        let accept_loss = request.accept_loss.unwrap_or(false);
        let detail = json!({ "accept_loss": accept_loss });
        self.recorded(caller, operation, "storage", detail, move |accounts| {
            accounts.fail_over(accept_loss)
        })
        .await
    }

    /// How the store of the storage accounts stands.
    pub async fn storage_status(&self, caller: &Caller) -> Result<StorageStatus> {
        self.check_storage(caller, Operation::ViewStorageAccount)?;
        let accounts = self.storage()?;
        Ok(Self::blocking(move || accounts.status()).await?)
    }

    /// How the storage accounts stand, for monitoring; none if this server serves none.
    pub async fn storage_figures(&self) -> Option<Result<StorageFigures>> {
        let accounts = self.accounts.clone()?;
        let asked = Self::blocking(move || {
            Ok(StorageFigures { status: accounts.status()?, replication: accounts.replication()? })
        });
        Some(asked.await.map_err(ControlError::from))
    }

    fn check_storage(&self, caller: &Caller, operation: Operation) -> Result<()> {
        self.check(caller, operation, Target::Server, || forbidden(caller, operation))
    }

    /// Who has the accounts open.
    fn storage(&self) -> Result<Arc<dyn StorageAccounts>> {
        self.accounts.clone().ok_or_else(|| {
            let code = &codes::STORAGE_NOT_CONFIGURED;
            ControlError::refused(code, code.meaning)
        })
    }

    async fn find_account(&self, name: &str) -> Result<StorageAccount> {
        let accounts = self.storage()?;
        let asked = name.to_owned();
        Ok(Self::blocking(move || accounts.show(&asked)).await?)
    }

    /// Does something that the audit log has before it happens: also if the server dies meanwhile.
    async fn recorded<T: Send + 'static>(
        &self,
        caller: &Caller,
        operation: Operation,
        target: &str,
        detail: Value,
        work: impl FnOnce(&dyn StorageAccounts) -> WorkResult<T> + Send + 'static,
    ) -> Result<T> {
        let accounts = self.storage()?;
        in_write!(self, tx => { audit::record(tx, caller, operation, target, detail).await })?;
        let failure = match Self::blocking(move || work(&*accounts)).await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let detail = json!({ "code": failure.code.as_str() });
        in_write!(self, tx => {
            audit::entry(tx, caller, operation.name(), target, "failed", detail).await
        })?;
        Err(failure.into())
    }
}
