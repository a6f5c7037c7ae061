//! Vaults: created, changed, deleted and undeleted.
//!
//! This module owns the documents of vaults and which change is allowed, irreversible ones among them. Objects and keys
//! of a vault are the matter of its keeper, which is reached only through orders.

use serde_json::json;
use strongroom_api::{
    self as api, Immutability, KeyManagement, KeyReference, RecoveryPointType, Redundancy,
    SoftDelete, SoftDeleteState, Vault, VaultCreate, VaultState, VaultUpdate,
};
use strongroom_base::{EntropyExt as _, VaultId, codes, message, words};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_orders::VaultMake;

use crate::{
    access::seen::seen,
    audit,
    drills::{check_drill_policy, machines},
    error::{ControlError, Result},
    lookup::{check_active, check_name, find_vault, no_vault},
    model::{HostDoc, ItemDoc, PointDoc, PolicyDoc, SettingDoc, VaultDoc},
    page::{PageRequest, Versioned, check_version, page},
    retention::{judge_all, purge_after},
    rights::{Caller, Operation, Target, not_allowed},
    service::Control,
};

/// What is remembered of a vault that is being made at a place: the key that was made for it.
fn intent(url: &str) -> String {
    format!("making_vault/{url}")
}

impl From<Stored<VaultDoc>> for Versioned<Vault> {
    fn from(stored: Stored<VaultDoc>) -> Self {
        Self { value: stored.doc.vault, version: stored.version }
    }
}

impl Control {
    /// All vaults that the caller sees, by name.
    pub async fn vaults(&self, caller: &Caller, at: &PageRequest) -> Result<api::Page<Vault>> {
        let filter = seen::<VaultDoc>(&caller.sight());
        let query = at.of(Query::new(filter).ascending("name"));
        Ok(page(self.catalog.list::<VaultDoc>(&query).await?, |stored| stored.doc.vault))
    }

    /// A vault, by id or name.
    pub async fn vault(&self, caller: &Caller, name: &str) -> Result<Versioned<Vault>> {
        let stored = in_read!(self, tx => { find_vault(tx, name).await })?;
        let target = Target::Vault(stored.doc.vault.id);
        self.check(caller, Operation::ViewVault, target, || no_vault(name))?;
        Ok(stored.into())
    }

    /// Makes a vault, or takes over one that is there.
    pub async fn create_vault(
        &self,
        caller: &Caller,
        request: VaultCreate,
    ) -> Result<Versioned<Vault>> {
        self.check(caller, Operation::CreateVault, Target::Server, || no_vault(&request.name))?;
        check_name("the vault's name", &request.name)?;
        check_redundancy(request.redundancy)?;
        let soft_delete = request.soft_delete.unwrap_or_default();
        check_soft_delete(soft_delete)?;
        let immutability = request.immutability.unwrap_or(Immutability::Disabled);
        if soft_delete.state == SoftDeleteState::AlwaysOn || immutability == Immutability::Locked {
            self.check(caller, Operation::LockVault, Target::Server, || no_vault(&request.name))?;
        }
        self.check_vault_name(&request.name, None).await?;
        self.check_places(caller, &request)?;
        let (make, management) = self.intended_vault(&request).await?;
        let keeper = self.keeper.clone();
        let order = make.clone();
        let facts = Self::blocking(move || {
            if order.make_key
                && let KeyReference::File(path) = &order.key
            {
                keeper.make_key_file(std::path::Path::new(path))?;
            }
            keeper.make(&order)
        })
        .await?;
        let mut doc = VaultDoc {
            vault: Vault {
                id: facts.id,
                name: request.name.clone(),
                url: make.url,
                state: VaultState::Active,
                redundancy: Redundancy::Local,
                mirrors: facts.mirrors,
                encryption: api::Encryption {
                    management,
                    key: key_words(&make.key),
                    rotated: facts.key_changed,
                },
                soft_delete,
                immutability,
                recompress: request.recompress.unwrap_or(false),
                drill: None,
                tags: request.tags.clone(),
                created: self.now(),
                deleted: None,
                purge_after: None,
            },
            key: make.key,
        };
        let found = if facts.existed { Some(self.look_into(&doc).await?) } else { None };
        if let Some(saved) = found.as_ref().and_then(|found| found.saved.as_ref()) {
            keep_protection(&mut doc.vault, &saved.vault.vault, &request);
        }
        let version = in_write!(self, tx => {
            let version = tx.insert(&doc).await.map_err(name_taken)?;
            match &found {
                // Every vault has a policy to begin with.
                None => drop(tx.insert(&self.default_policy(doc.vault.id)).await?),
                Some(found) => self.take_over(tx, &doc, found).await?,
            }
            tx.delete::<SettingDoc>(&intent(&doc.vault.url), None).await?;
            let detail = json!({ "url": doc.vault.url, "existed": facts.existed });
            audit::record(tx, caller, Operation::CreateVault, &doc.vault.name, detail).await?;
            Ok(version)
        })?;
        self.wake.notify_one();
        Ok(Versioned { value: doc.vault, version })
    }

    async fn check_vault_name(&self, name: &str, except: Option<VaultId>) -> Result<()> {
        let query = Query::new(Filter::all().eq("name", name)).limit(1);
        let found = self.catalog.list::<VaultDoc>(&query).await?.items;
        if found.iter().any(|stored| Some(stored.doc.vault.id) != except) {
            let message = message!(VAULT_NAME_TAKEN, "there is a vault {name:?} already", name);
            return Err(ControlError::from(message));
        }
        Ok(())
    }

    /// Where the vault and its key are to be, written down before anything is made: a repeated request
    /// after a crash gets the same key, which opens what was made.
    async fn intended_vault(&self, request: &VaultCreate) -> Result<(VaultMake, KeyManagement)> {
        let (make, management) = self.vault_make(request);
        if !make.make_key {
            return Ok((make, management));
        }
        let name = intent(&make.url);
        in_write!(self, tx => {
            let before = Self::setting::<KeyReference>(tx, &name).await?;
            let key = if let Some(key) = before {
                key
            } else {
                Self::set(tx, &name, &make.key).await?;
                make.key.clone()
            };
            Ok((VaultMake { key, ..make.clone() }, management))
        })
    }

    /// Nobody but the operator on the server's own command line names places that are not on the list.
    fn check_places(&self, caller: &Caller, request: &VaultCreate) -> Result<()> {
        if caller.is_system() {
            return Ok(());
        }
        let allowed = &self.places;
        let no = |no| not_allowed(Some(caller), &no);
        request.url.iter().try_for_each(|url| allowed.check_vault(url)).map_err(no)?;
        request.mirrors.iter().try_for_each(|url| allowed.check_vault_folder(url)).map_err(no)?;
        request.key.iter().try_for_each(|key| allowed.check_key(key)).map_err(no)
    }

    /// Where the vault and its key are to be.
    fn vault_make(&self, request: &VaultCreate) -> (VaultMake, KeyManagement) {
        let data = &self.settings.data_dir;
        let url = request.url.clone().unwrap_or_else(|| {
            data.join("vaults").join(&request.name).to_string_lossy().into_owned()
        });
        let (key, management) = if let Some(key) = &request.key {
            (key.clone(), KeyManagement::Customer)
        } else {
            // A name of its own: a vault of the same name may have been there before.
            let salt = u64::from_be_bytes(self.entropy.array());
            let file = data.join("keys").join(format!("{}-{salt:016x}.key", request.name));
            (KeyReference::File(file.to_string_lossy().into_owned()), KeyManagement::Platform)
        };
        let make = VaultMake {
            url,
            mirrors: request.mirrors.clone(),
            make_key: management == KeyManagement::Platform,
            key,
            single_writer: request.single_writer,
        };
        (make, management)
    }

    /// Changes a vault.
    pub async fn update_vault(
        &self,
        caller: &Caller,
        name: &str,
        expected: Option<u64>,
        change: VaultUpdate,
    ) -> Result<Versioned<Vault>> {
        let now = self.now();
        in_write!(self, tx => {
            let Stored { mut doc, version } = find_vault(tx, name).await?;
            let target = Target::Vault(doc.vault.id);
            self.check(caller, Operation::UpdateVault, target, || no_vault(name))?;
            if let Some(name) = &change.name {
                check_name("the vault's name", name)?;
            }
            check_redundancy(change.redundancy)?;
            if let Some(soft_delete) = change.soft_delete {
                check_soft_delete(soft_delete)?;
            }
            change.drill.as_ref().map_or(Ok(()), check_drill_policy)?;
            check_version(version, expected)?;
            check_active(&doc.vault)?;
            for operation in weakens(&doc.vault, &change)? {
                self.check(caller, operation, target, || no_vault(name))?;
                audit::record(tx, caller, operation, &doc.vault.name, json!(change)).await?;
                crate::alerts::weakened(self, tx, &doc.vault, operation, now).await?;
            }
            let vault = &mut doc.vault;
            let change = change.clone();
            vault.name = change.name.unwrap_or_else(|| vault.name.clone());
            vault.soft_delete = change.soft_delete.unwrap_or(vault.soft_delete);
            vault.immutability = change.immutability.unwrap_or(vault.immutability);
            vault.recompress = change.recompress.unwrap_or(vault.recompress);
            if let Some(drill) = change.drill {
                // A name that is wrong is not found out after months.
                if drill.every_days > 0 && !drill.wanted.items.is_empty() {
                    machines(tx, vault, &drill.wanted).await?;
                }
                vault.drill = Some(drill).filter(|drill| drill.every_days > 0);
            }
            vault.tags = change.tags.unwrap_or_else(|| vault.tags.clone());
            let version = tx.update(&doc, version).await.map_err(name_taken)?;
            judge_all(tx, "vault", doc.vault.id).await?;
            let name = doc.vault.name.clone();
            audit::record(tx, caller, Operation::UpdateVault, &name, json!(doc.vault)).await?;
            Ok(Versioned { value: doc.vault, version })
        })
    }

    /// Deletes a vault: softly, if it has no items but deleted ones.
    pub async fn delete_vault(
        &self,
        caller: &Caller,
        name: &str,
        expected: Option<u64>,
    ) -> Result<Versioned<Vault>> {
        let trusted = self.trusted_now();
        in_write!(self, tx => {
            let Stored { mut doc, version } = find_vault(tx, name).await?;
            let target = Target::Vault(doc.vault.id);
            self.check(caller, Operation::DeleteVault, target, || no_vault(name))?;
            check_version(version, expected)?;
            check_active(&doc.vault)?;
            let in_vault = Filter::all().eq("vault", doc.vault.id.to_string());
            let items = tx.count::<ItemDoc>(&in_vault.clone().ne("state", api::ProtectionState::SoftDeleted.name())).await?;
            if items > 0 {
                let message = message!(VAULT_NOT_EMPTY, "the vault {vault} has {items}", vault = doc.vault.name, items = items => words::count(items, "item"));
                return Err(ControlError::from(message));
            }
            check_no_snapshots(tx, &doc.vault).await?;
            doc.vault.state = VaultState::SoftDeleted;
            doc.vault.deleted = Some(self.now());
            // Not before the last of its items.
            let mut after = purge_after(trusted, doc.vault.soft_delete);
            let last = Query::new(in_vault).descending("purge_after").limit(1);
            if let Some(item) = tx.first::<ItemDoc>(&last).await? {
                after = after.max(item.doc.item.purge_after.unwrap_or(after));
            }
            doc.vault.purge_after = Some(after);
            let version = tx.update(&doc, version).await?;
            let name = doc.vault.name.clone();
            audit::record(tx, caller, Operation::DeleteVault, &name, json!({})).await?;
            crate::alerts::weakened(
                self,
                tx,
                &doc.vault,
                Operation::DeleteVault,
                self.now(),
            )
            .await?;
            Ok(Versioned { value: doc.vault, version })
        })
    }

    /// Brings a deleted vault back.
    pub async fn undelete_vault(&self, caller: &Caller, name: &str) -> Result<Versioned<Vault>> {
        in_write!(self, tx => {
            let Stored { mut doc, version } = find_vault(tx, name).await?;
            let target = Target::Vault(doc.vault.id);
            self.check(caller, Operation::UndeleteVault, target, || no_vault(name))?;
            if doc.vault.state != VaultState::SoftDeleted {
                let message = message!(VAULT_NOT_DELETED, "the vault {vault} is not deleted", vault = doc.vault.name);
                return Err(ControlError::from(message));
            }
            doc.vault.state = VaultState::Active;
            doc.vault.deleted = None;
            doc.vault.purge_after = None;
            let version = tx.update(&doc, version).await?;
            let name = doc.vault.name.clone();
            audit::record(tx, caller, Operation::UndeleteVault, &name, json!({})).await?;
            Ok(Versioned { value: doc.vault, version })
        })
    }

    /// Forgets deleted vaults that have expired. What is in their stores is left there.
    pub(crate) async fn purge_vaults(&self) -> Result<()> {
        let trusted = self.trusted_now();
        let deleted =
            Query::new(Filter::all().eq("state", VaultState::SoftDeleted.name())).limit(1000);
        let over = |doc: &VaultDoc| doc.vault.purge_after.is_some_and(|after| after <= trusted);
        let found = self.catalog.list::<VaultDoc>(&deleted).await?.items;
        if !found.iter().any(|stored| over(&stored.doc)) {
            return Ok(());
        }
        self.store_time().await?;
        in_write!(self, tx => {
            for Stored { doc, version } in tx.list::<VaultDoc>(&deleted).await?.items {
                let in_vault = Filter::all().eq("vault", doc.vault.id.to_string());
                if over(&doc) && tx.count::<ItemDoc>(&in_vault).await? == 0 {
                    tx.delete_all::<PolicyDoc>(&in_vault).await?;
                    tx.delete::<VaultDoc>(&doc.vault.id.to_string(), version).await?;
                    let title = format!("the vault {} is forgotten for good", doc.vault.name);
                    crate::alerts::purged(self, tx, title, &doc.vault, None).await?;
                    let (name, detail) = (&doc.vault.name, json!({ "purged": true }));
                    let system = Caller::system();
                    audit::record(tx, &system, Operation::DeleteVault, name, detail).await?;
                }
            }
            Ok(())
        })
    }
}

/// A vault that is taken over is protected as it was, unless something else is asked for; what was
/// irreversible stays so.
fn keep_protection(vault: &mut Vault, saved: &Vault, request: &VaultCreate) {
    if request.soft_delete.is_none() || saved.soft_delete.state == SoftDeleteState::AlwaysOn {
        vault.soft_delete = saved.soft_delete;
    }
    if request.immutability.is_none() || saved.immutability == Immutability::Locked {
        vault.immutability = saved.immutability;
    }
    if request.recompress.is_none() {
        vault.recompress = saved.recompress;
    }
    if request.tags.is_empty() {
        vault.tags.clone_from(&saved.tags);
    }
}

/// A key's place, for people.
pub(crate) fn key_words(key: &KeyReference) -> String {
    match key {
        KeyReference::File(path) => path.clone(),
        KeyReference::Passphrase(path) => format!("the passphrase in {path}"),
        KeyReference::Pkcs11(uri) => uri.clone(),
    }
}

/// Refuses to delete a vault that new recovery points go into first, or that has some which are nowhere
/// else. Others are forgotten with it.
async fn check_no_snapshots(tx: &mut ReadTx, vault: &Vault) -> Result<()> {
    let hosts = tx.list::<HostDoc>(&Query::default().limit(1000)).await?.items;
    if let Some(host) = hosts.iter().find(|host| host.doc.host.snapshot_vault == Some(vault.id)) {
        let (vault, host) = (&vault.name, &host.doc.host.name);
        let text = message!(
            VAULT_NOT_EMPTY,
            "the vault {vault} takes the snapshots of the host {host}",
            vault,
            host
        );
        return Err(text.into());
    }
    let near = Filter::all()
        .eq("kind", RecoveryPointType::Snapshot.name())
        .ne("state", api::PointState::SoftDeleted.name());
    let mut token = None;
    loop {
        let query = Query::new(near.clone()).limit(1000).after(token);
        let page = tx.list::<PointDoc>(&query).await?;
        let here =
            |doc: &PointDoc| doc.point.snapshot.as_ref().is_some_and(|c| c.vault == vault.id);
        if page.items.iter().any(|stored| here(&stored.doc)) {
            let message = message!(
                VAULT_NOT_EMPTY,
                "the vault {vault} has recovery points that are not in their vaults yet",
                vault = vault.name
            );
            return Err(message.into());
        }
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(()),
        }
    }
}

fn name_taken(error: strongroom_catalog::Error) -> ControlError {
    use strongroom_catalog::Error as E;
    match error {
        E::Exists { .. } => ControlError::refused(
            &codes::VAULT_NAME_TAKEN,
            "the service has the vault at this place already",
        ),
        E::Taken { .. } => {
            ControlError::refused(&codes::VAULT_NAME_TAKEN, "another vault has this name")
        }
        error => error.into(),
    }
}

fn check_redundancy(redundancy: Option<Redundancy>) -> Result<()> {
    match redundancy {
        None | Some(Redundancy::Local) => Ok(()),
        Some(other) => {
            let message = message!(
                FEATURE_MISSING,
                "the redundancy {redundancy} needs a paired region, and regions are not supported yet; use `local` with mirrors on other disks",
                redundancy = other
            );
            Err(ControlError::from(message))
        }
    }
}

fn check_soft_delete(soft_delete: SoftDelete) -> Result<()> {
    if (14..=180).contains(&soft_delete.retention_days) {
        return Ok(());
    }
    let message = message!(
        REQUEST_INVALID,
        "soft delete of {days} days: it can be 14 to 180",
        days = soft_delete.retention_days
    );
    Err(ControlError::from(message))
}

/// What a change does that takes more rights than a change; an error for what can never be done.
fn weakens(vault: &Vault, change: &VaultUpdate) -> Result<Vec<Operation>> {
    let mut operations = Vec::new();
    let never =
        |message: &'static str| Err(ControlError::refused(&codes::VAULT_IRREVERSIBLE, message));
    if let Some(to) = change.soft_delete {
        let from = vault.soft_delete;
        if from.state == SoftDeleteState::AlwaysOn && to.state != SoftDeleteState::AlwaysOn {
            return never("soft delete that is always on can never be turned off");
        }
        if from.state != SoftDeleteState::AlwaysOn && to.state == SoftDeleteState::AlwaysOn {
            operations.push(Operation::LockVault);
        }
        let off = to.state == SoftDeleteState::Disabled && from.state != SoftDeleteState::Disabled;
        if off || to.retention_days < from.retention_days {
            operations.push(Operation::WeakenVault);
        }
    }
    match (vault.immutability, change.immutability) {
        (Immutability::Locked, Some(Immutability::Disabled | Immutability::Unlocked)) => {
            return never("immutability that is locked can never be turned off");
        }
        (Immutability::Unlocked, Some(Immutability::Disabled)) => {
            operations.push(Operation::WeakenVault);
        }
        (Immutability::Disabled | Immutability::Unlocked, Some(Immutability::Locked)) => {
            operations.push(Operation::LockVault);
        }
        _ => {}
    }
    operations.dedup();
    Ok(operations)
}
