//! Items: protected, backed up on demand, stopped, resumed, deleted, undeleted.
//!
//! This module owns the state of protection and which change of it is allowed. When a backup runs is the matter of
//! `schedule`, how it runs of `work`; which kind of source an item has is the matter of `sources`.

use serde_json::json;
use strongroom_api::{
    self as api, BackupNow, Item, ItemUpdate, Protect, ProtectionState, ResumeProtection, StopMode,
    StopProtection, Trigger,
};
use strongroom_base::{ItemId, JobId, VaultId, codes, message};
use strongroom_catalog::{Filter, Query, Stored, Tx};
use strongroom_orders::CheckOrder;

use crate::{
    access::seen::seen,
    alerts::{self, Rule},
    audit,
    error::{ControlError, Result},
    hosts::no_host,
    lookup::{
        check_active, check_mutable, check_name, checked, find_host, find_item, find_policy,
        find_vault, named, no_item, no_vault, policy_of, vault_of,
    },
    model::{HostDoc, ItemDoc, MachineDoc, PointDoc, Spec},
    page::{PageRequest, Versioned, check_version, page},
    policies::DEFAULT_POLICY,
    retention::purge_after,
    rights::{Caller, Operation, Target},
    schedule::plan_from,
    service::Control,
    sources,
};

/// Days for which a backup on demand is kept if nothing is said.
const ON_DEMAND_DAYS: i64 = 30;

/// Which items a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemFilter {
    /// Only those of this vault: its name or id.
    pub vault: Option<String>,
    /// Only those in this state.
    pub state: Option<ProtectionState>,
    /// Of this policy's id.
    pub policy: Option<String>,
    /// Only those whose names contain this text.
    pub name: Option<String>,
}

/// What an item is made of.
pub(crate) struct NewItem<'a> {
    /// Its vault.
    pub(crate) vault: VaultId,
    /// The host that has its source.
    pub(crate) host: strongroom_base::HostId,
    /// What was asked for.
    pub(crate) request: &'a Protect,
    /// Its name.
    pub(crate) name: &'a str,
    /// What it protects.
    pub(crate) source: api::Source,
    /// Which disks.
    pub(crate) disks: &'a api::DiskSelection,
}

/// What somebody wants protected, compared with what is.
enum New {
    /// It is new, and has this policy.
    Item(Box<ItemDoc>, Option<Box<api::Policy>>),
    /// This item is the same.
    Same(Box<ItemDoc>),
}

/// That an item is in the way of another one: both by what they protect.
fn protected_already(wanted: &Item, found: &Item) -> ControlError {
    let shown = |item: &Item| format!("{} ({})", item.name, sources::described(&item.source));
    ControlError::from(message!(
        ITEM_EXISTS,
        "{name} cannot be protected: the vault protects {item} already",
        name = wanted.name => shown(wanted),
        item = found.name => shown(found)
    ))
}

impl From<Stored<ItemDoc>> for Versioned<Item> {
    fn from(stored: Stored<ItemDoc>) -> Self {
        Self { value: stored.doc.item, version: stored.version }
    }
}

fn target(item: &Item) -> Target {
    Target::Item(item.vault, item.id)
}

/// Refuses to protect what cannot be.
fn check_sources(request: &Protect) -> Result<()> {
    if request.sources.is_empty() || request.sources.len() > 1000 {
        let message = "1 to 1000 machines or sets of disks can be protected in one request";
        return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
    }
    for source in &request.sources {
        if let Some(name) = &source.name {
            check_name("the item's name", name)?;
        }
        sources::wanted(source)?.check(source)?;
    }
    Ok(())
}

/// Refuses a second operation on an item.
pub(crate) fn check_free(item: &Item) -> Result<()> {
    match item.job {
        None => Ok(()),
        Some(job) => Err(ControlError::Busy { item: item.id, name: item.name.clone(), job }),
    }
}

/// Refuses an item that is deleted.
pub(crate) fn check_not_deleted(item: &Item) -> Result<()> {
    if item.state != ProtectionState::SoftDeleted {
        return Ok(());
    }
    let message = message!(ITEM_SOFT_DELETED, "{item} is deleted", item = item.name);
    Err(ControlError::from(message))
}

impl Control {
    /// Items that the caller sees, by name.
    pub async fn items(
        &self,
        caller: &Caller,
        which: &ItemFilter,
        at: &PageRequest,
    ) -> Result<api::Page<Item>> {
        let mut filter = seen::<ItemDoc>(&caller.sight());
        if let Some(vault) = &which.vault {
            filter = filter.eq("vault", self.vault(caller, vault).await?.value.id.to_string());
        }
        if let Some(state) = which.state {
            filter = filter.eq("state", state.name());
        }
        if let Some(policy) = &which.policy {
            filter = filter.eq("policy", policy.as_str());
        }
        if let Some(name) = &which.name {
            filter = filter.contains("name", name.as_str());
        }
        let query = at.of(Query::new(filter).ascending("name"));
        Ok(page(self.catalog.list::<ItemDoc>(&query).await?, |stored| stored.doc.item))
    }

    /// An item by id, or by name if only one vault has it.
    pub async fn item(&self, caller: &Caller, name: &str) -> Result<Versioned<Item>> {
        let stored = in_read!(self, tx => { find_item(tx, name).await })?;
        self.check(caller, Operation::ViewItem, target(&stored.doc.item), || no_item(name))?;
        Ok(stored.into())
    }

    /// Protects machines or disks.
    pub async fn protect(&self, caller: &Caller, mut request: Protect) -> Result<JobId> {
        let begun = in_write!(self, tx => {
            let vault = find_vault(tx, &request.vault).await?.doc.vault;
            let place = Target::Vault(vault.id);
            self.check(caller, Operation::Protect, place, || no_vault(&request.vault))?;
            let host = find_host(tx, &request.host).await?.doc.host;
            let place = Target::Host(host.id);
            self.check(caller, Operation::ProtectMachine, place, || no_host(&request.host))?;
            check_sources(&request)?;
            check_active(&vault)?;
            // Without a policy an item would never be backed up by itself, and nobody would notice.
            let policy = request.policy.get_or_insert_with(|| DEFAULT_POLICY.to_owned());
            find_policy(tx, vault.id, policy).await?;
            self.check_not_protected(tx, (vault.id, host.id), &request).await?;
            let spec = Spec::Protect {
                vault: vault.id,
                host: host.id,
                request: request.clone(),
            };
            let mut job = self.new_job(spec, &host.name, Trigger::OnDemand, &caller.name);
            job.job.vault = Some(vault.id);
            let begun = self.begin(tx, job).await?;
            let detail = json!(request);
            audit::record(tx, caller, Operation::Protect, &vault.name, detail).await?;
            Ok(begun)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    /// Makes an item, unless the same is protected already; whether it was made.
    pub(crate) async fn add_item(&self, tx: &mut Tx, new: NewItem<'_>) -> Result<(ItemDoc, bool)> {
        let now = self.now();
        let host = new.host;
        let (mut doc, policy) = match self.new_item(tx, new).await? {
            New::Item(doc, policy) => (*doc, policy),
            New::Same(found) => return Ok((*found, false)),
        };
        let rules = policy.map(|policy| checked(policy.rules)).transpose()?;
        plan_from(&mut doc, rules.as_ref(), now);
        tx.insert(&doc).await.map_err(name_taken)?;
        if let Some(uuid) = sources::machine_uuid(&doc.item.source) {
            let id = MachineDoc::id_of(host, &uuid);
            if let Some(Stored { doc: mut machine, version }) = tx.get::<MachineDoc>(&id).await? {
                machine.machine.protected_by = Some(doc.item.id);
                tx.update(&machine, version).await?;
            }
        }
        Ok((doc, true))
    }

    /// An item that is not there yet, or the same that is. One that protects something else under its name, or the same in
    /// another way, is refused: a request to protect is no way to change an item.
    async fn new_item(&self, tx: &mut Tx, new: NewItem<'_>) -> Result<New> {
        let now = self.now();
        let NewItem { vault, host, request, name, source, disks } = new;
        let policy = match &request.policy {
            Some(policy) => Some(find_policy(tx, vault, policy).await?.doc.policy),
            None => None,
        };
        let id = ItemId::generate(&*self.clock, &*self.entropy);
        let mut doc = ItemDoc::new(id, name, (vault, host), source, now);
        doc.item.disks = disks.clone();
        doc.item.policy = policy.as_ref().map(|policy| policy.id);
        doc.item.state = ProtectionState::InitialBackupPending;
        doc.active_since = Some(now);
        let item = &doc.item;
        let of_vault = || Filter::all().eq("vault", vault.to_string());
        let same = of_vault().eq("source", ItemDoc::source_key(item));
        if let Some(found) = tx.first::<ItemDoc>(&Query::new(same)).await? {
            let found = found.doc;
            check_not_deleted(&found.item)?;
            let same = sources::are_same(&found.item.source, &item.source);
            if same && found.item.policy == item.policy && found.item.disks == item.disks {
                return Ok(New::Same(Box::new(found)));
            }
            return Err(protected_already(item, &found.item));
        }
        let named = of_vault().eq("name", name);
        if let Some(found) = tx.first::<ItemDoc>(&Query::new(named)).await? {
            return Err(protected_already(item, &found.doc.item));
        }
        Ok(New::Item(Box::new(doc), policy.map(Box::new)))
    }

    /// Refuses at once what the job would refuse: a source that need not be looked for, and that an item protects in another
    /// way. Everything else that is wrong with it the job says.
    async fn check_not_protected(
        &self,
        tx: &mut Tx,
        (vault, host): (VaultId, strongroom_base::HostId),
        request: &Protect,
    ) -> Result<()> {
        for source in &request.sources {
            let kind = sources::wanted(source)?;
            if kind.is_discovered() {
                continue;
            }
            let Ok(found) = kind.find(source, &[], &*self.places) else { continue };
            let name = source.name.clone().unwrap_or(found.name);
            let (source, disks) = (found.source, &source.disks);
            let new = NewItem { vault, host, request, name: &name, source, disks };
            self.new_item(tx, new).await?;
        }
        Ok(())
    }

    /// Changes an item.
    pub async fn update_item(
        &self,
        caller: &Caller,
        name: &str,
        expected: Option<u64>,
        change: ItemUpdate,
    ) -> Result<Versioned<Item>> {
        let now = self.now();
        let changed = in_write!(self, tx => {
            let Stored { mut doc, version } = find_item(tx, name).await?;
            self.check(caller, Operation::UpdateItem, target(&doc.item), || no_item(name))?;
            check_version(version, expected)?;
            check_not_deleted(&doc.item)?;
            let vault = vault_of(tx, &doc.item).await?.vault;
            if let Some(disks) = &change.disks {
                doc.item.disks = disks.clone();
            }
            if let Some(policy) = &change.policy {
                self.check(caller, Operation::SetPolicy, target(&doc.item), || no_item(name))?;
                let new = find_policy(tx, vault.id, policy).await?.doc.policy;
                let rules = checked(new.rules.clone())?;
                self.set_policy(tx, &mut doc, &vault, &new, &rules, now).await?;
            }
            let version = tx.update(&doc, version).await?;
            let name = doc.item.name.clone();
            audit::record(tx, caller, Operation::UpdateItem, &name, json!(change)).await?;
            Ok::<_, ControlError>(Versioned { value: doc.item, version })
        })?;
        self.wake.notify_one();
        Ok(changed)
    }

    /// Gives an item another policy.
    async fn set_policy(
        &self,
        tx: &mut Tx,
        doc: &mut ItemDoc,
        vault: &api::Vault,
        new: &api::Policy,
        rules: &strongroom_policy::Policy,
        now: jiff::Timestamp,
    ) -> Result<()> {
        let shorter = match policy_of(tx, &doc.item).await? {
            Some((old, _)) if old.id == new.id => return Ok(()),
            Some((_, old)) => strongroom_policy::is_shorter(&old, rules),
            // Without a policy, points are kept for ever.
            None => doc.item.last_point.is_some(),
        };
        if shorter {
            check_mutable(vault, "a policy with shorter retention")?;
            let title = format!("{} got a policy that keeps points shorter", doc.item.name);
            let rule = Rule::ShorterRetention;
            alerts::security(self, tx, rule, title, vault, Some(&doc.item), now).await?;
        }
        doc.item.policy = Some(new.id);
        plan_from(doc, Some(rules), now);
        Ok(())
    }

    /// Backs an item up now.
    pub async fn backup_now(
        &self,
        caller: &Caller,
        name: &str,
        request: BackupNow,
    ) -> Result<JobId> {
        let now = self.now();
        let until = request.retain_until.unwrap_or_else(|| {
            let days = jiff::SignedDuration::from_hours(24 * ON_DEMAND_DAYS);
            now.checked_add(days).unwrap_or(jiff::Timestamp::MAX)
        });
        let begun = in_write!(self, tx => {
            let Stored { mut doc, version } = find_item(tx, name).await?;
            self.check(caller, Operation::BackupNow, target(&doc.item), || no_item(name))?;
            if until <= now {
                let message = message!(REQUEST_INVALID, "retain_until {until} is in the past", until);
                return Err(ControlError::from(message));
            }
            check_not_deleted(&doc.item)?;
            if !doc.is_active() {
                let message = message!(ITEM_STOPPED, "the protection of {item} is stopped", item = doc.item.name);
                return Err(ControlError::from(message));
            }
            check_free(&doc.item)?;
            let spec = Spec::Backup {
                item: doc.item.id,
                occurrence: None,
                retain_until: Some(until),
            };
            let name = doc.item.name.clone();
            let begun = self
                .begin_for_item(tx, &mut doc, version, spec, Trigger::OnDemand, &caller.name)
                .await?;
            let detail = json!({ "job": begun });
            audit::record(tx, caller, Operation::BackupNow, &name, detail).await?;
            Ok(begun)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    /// Stops an item's protection.
    pub async fn stop_protection(
        &self,
        caller: &Caller,
        name: &str,
        request: StopProtection,
    ) -> Result<Versioned<Item>> {
        let (now, trusted) = (self.now(), self.trusted_now());
        let operation = match request.mode {
            StopMode::DeleteData => Operation::DeleteData,
            _ => Operation::StopProtection,
        };
        let item = in_write!(self, tx => {
            let Stored { mut doc, version } = find_item(tx, name).await?;
            self.check(caller, operation, target(&doc.item), || no_item(name))?;
            check_not_deleted(&doc.item)?;
            check_free(&doc.item)?;
            let vault = vault_of(tx, &doc.item).await?.vault;
            let before = doc.item.state;
            match request.mode {
                StopMode::RetainForever => doc.item.state = ProtectionState::ProtectionStopped,
                StopMode::RetainAsPerPolicy => {
                    doc.item.state = ProtectionState::BackupsSuspended;
                }
                StopMode::DeleteData => {
                    let points = Filter::all().eq("item", doc.item.id.to_string());
                    if tx.count::<PointDoc>(&points).await? > 0 {
                        check_mutable(&vault, "deleting an item's data")?;
                    }
                    doc.before_deletion = Some(before);
                    doc.item.state = ProtectionState::SoftDeleted;
                    doc.item.deleted = Some(now);
                    doc.item.purge_after = Some(purge_after(trusted, vault.soft_delete));
                    let title = format!("the data of {} was deleted", doc.item.name);
                    let rule = Rule::DeleteBackupData;
                    alerts::security(self, tx, rule, title, &vault, Some(&doc.item), now)
                        .await?;
                }
            }
            doc.item.error = None;
            doc.item.failures = 0;
            doc.item.next_backup = None;
            doc.planned = None;
            doc.retention.edited();
            for rule in Rule::OF_BACKUPS {
                alerts::resolve(tx, rule, &doc.item, now).await?;
            }
            let version = tx.update(&doc, version).await?;
            let name = doc.item.name.clone();
            audit::record(tx, caller, operation, &name, json!(request)).await?;
            self.record_job(tx, &doc.item, &request.mode, &caller.name).await?;
            Ok(Versioned { value: doc.item, version })
        })?;
        self.wake.notify_one();
        Ok(item)
    }

    /// Resumes an item's protection.
    pub async fn resume_protection(
        &self,
        caller: &Caller,
        name: &str,
        request: ResumeProtection,
    ) -> Result<Versioned<Item>> {
        let now = self.now();
        let item = in_write!(self, tx => {
            let Stored { mut doc, version } = find_item(tx, name).await?;
            self.check(caller, Operation::Resume, target(&doc.item), || no_item(name))?;
            check_not_deleted(&doc.item)?;
            let stopped = matches!(
                doc.item.state,
                ProtectionState::ProtectionStopped | ProtectionState::BackupsSuspended
            );
            if !stopped {
                let message = message!(ITEM_NOT_STOPPED, "the protection of {item} is not stopped", item = doc.item.name);
                return Err(ControlError::from(message));
            }
            let vault = vault_of(tx, &doc.item).await?.vault;
            check_active(&vault)?;
            let has_backups = sources::is_incremental(&doc.item.source) && doc.item.last_backup.is_some();
            doc.item.state = if doc.item.last_point.is_some() || has_backups {
                ProtectionState::Protected
            } else {
                ProtectionState::InitialBackupPending
            };
            if let Some(policy) = &request.policy {
                let new = find_policy(tx, vault.id, policy).await?.doc.policy;
                let rules = checked(new.rules.clone())?;
                self.set_policy(tx, &mut doc, &vault, &new, &rules, now).await?;
            }
            doc.active_since = Some(now);
            let rules = policy_of(tx, &doc.item).await?.map(|(_, rules)| rules);
            plan_from(&mut doc, rules.as_ref(), now);
            let version = tx.update(&doc, version).await?;
            let name = doc.item.name.clone();
            audit::record(tx, caller, Operation::Resume, &name, json!(request)).await?;
            Ok(Versioned { value: doc.item, version })
        })?;
        self.wake.notify_one();
        Ok(item)
    }

    /// Brings a deleted item back: its protection is stopped, and its points are kept.
    pub async fn undelete_item(&self, caller: &Caller, name: &str) -> Result<Versioned<Item>> {
        in_write!(self, tx => {
            let Stored { mut doc, version } = find_item(tx, name).await?;
            self.check(caller, Operation::Undelete, target(&doc.item), || no_item(name))?;
            check_free(&doc.item)?;
            if doc.item.state != ProtectionState::SoftDeleted {
                let message = message!(ITEM_NOT_DELETED, "{item} is not deleted", item = doc.item.name);
                return Err(ControlError::from(message));
            }
            check_active(&vault_of(tx, &doc.item).await?.vault)?;
            doc.item.state = ProtectionState::ProtectionStopped;
            doc.before_deletion = None;
            doc.retention.edited();
            doc.item.deleted = None;
            doc.item.purge_after = None;
            let version = tx.update(&doc, version).await?;
            let name = doc.item.name.clone();
            audit::record(tx, caller, Operation::Undelete, &name, json!({})).await?;
            Ok(Versioned { value: doc.item, version })
        })
    }

    /// What stands in the way of an item's backup.
    pub async fn check_item(&self, caller: &Caller, name: &str) -> Result<api::Check> {
        let stored = in_read!(self, tx => { find_item(tx, name).await })?;
        let item = stored.doc.item;
        self.check(caller, Operation::CheckItem, target(&item), || no_item(name))?;
        let host = in_read!(self, tx => { named::<HostDoc>(tx, item.host).await })?;
        let agent = self.agents.agent(&host.doc.host)?;
        let order = CheckOrder { order: self.order_once(), source: item.source };
        Ok(Self::blocking(move || agent.check(&order)).await?)
    }
}

fn name_taken(error: strongroom_catalog::Error) -> ControlError {
    match error {
        strongroom_catalog::Error::Taken { .. } => ControlError::refused(
            &codes::ITEM_EXISTS,
            "the vault has an item of this name: give this one another",
        ),
        error => error.into(),
    }
}
