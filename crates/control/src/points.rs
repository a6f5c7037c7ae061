//! Recovery points: listed, kept longer, deleted, restored from, found again in a vault.
//!
//! This module owns what a caller may do with a point. How long a point is kept by itself is the matter of
//! `retention`, the restore that is begun here of `work`. The vault decides what exists: documents follow it.

use serde_json::json;
use strongroom_api::{
    self as api, PointState, PointUpdate, RecoveryPoint, RecoveryPointType, Restore, Trigger,
};
use strongroom_base::{HostId, ItemId, JobId, PointId, codes, message};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_orders::PointFacts;

use crate::{
    alerts::{self, Rule},
    audit,
    error::{ControlError, Result},
    items::check_free,
    lookup::{check_mutable, cut, find_host, find_item, no_item, vault_of},
    model::{ItemDoc, PointDoc, Spec},
    page::{PageRequest, Versioned, check_version, page},
    retention::purge_after,
    rights::{Caller, Operation, Target, forbidden, not_allowed},
    service::Control,
    sources,
};

impl From<Stored<PointDoc>> for Versioned<RecoveryPoint> {
    fn from(stored: Stored<PointDoc>) -> Self {
        Self { value: stored.doc.point, version: stored.version }
    }
}

/// A recovery point as the catalog keeps it.
pub(crate) fn point_doc(
    item: &api::Item,
    facts: &PointFacts,
    state: PointState,
    trigger: Trigger,
    job: Option<JobId>,
) -> PointDoc {
    PointDoc {
        point: RecoveryPoint {
            id: facts.id,
            item: item.id,
            vault: item.vault,
            time: facts.time,
            completed: facts.completed,
            kind: RecoveryPointType::Vault,
            state,
            consistency: facts.consistency,
            trigger,
            job,
            disks: facts.disks.clone(),
            snapshot: None,
            stored_bytes: facts.stored_bytes,
            locked_until: facts.locked_until,
            retain_until: None,
            expires: None,
            kept_by: Vec::new(),
            deleted: None,
            purge_after: None,
            notes: facts.notes.clone(),
            suspicion: facts.suspicion.clone(),
            boot: None,
        },
        occurrence: None,
        promised: None,
        cut: false,
    }
}

/// Refuses a point that cannot be restored.
pub(crate) fn check_restorable(point: &RecoveryPoint) -> Result<()> {
    if point.state == PointState::Restorable {
        return Ok(());
    }
    Err(ControlError::from(message!(
        POINT_NOT_RESTORABLE,
        "the recovery point {point} is {state}",
        point = point.id,
        state = point.state.in_words()
    )))
}

fn no_point(name: &str) -> ControlError {
    let message =
        message!(POINT_NOT_FOUND, "the item has no recovery point {point:?}", point = cut(name));
    ControlError::from(message)
}

/// A point of an item: its id, or `latest`, which is the newest that can be restored.
pub(crate) async fn find_point(
    tx: &mut ReadTx,
    item: ItemId,
    name: &str,
) -> Result<Stored<PointDoc>> {
    if name == "latest" {
        let good =
            Filter::all().eq("item", item.to_string()).eq("state", PointState::Restorable.name());
        let newest = Query::new(good).descending("time").limit(1);
        return tx.first::<PointDoc>(&newest).await?.ok_or_else(|| no_point(name));
    }
    let Ok(id) = name.parse::<PointId>() else { return Err(no_point(name)) };
    point_or_snapshot(tx, item, id).await?.ok_or_else(|| no_point(name))
}

/// A point of an item by its id, or by that which it had before it was transferred.
pub(crate) async fn point_or_snapshot(
    tx: &mut ReadTx,
    item: ItemId,
    id: PointId,
) -> Result<Option<Stored<PointDoc>>> {
    if let Some(found) = tx.get::<PointDoc>(&PointDoc::id_of(item, id)).await? {
        return Ok(Some(found));
    }
    let by_snapshot = Filter::all().eq("item", item.to_string()).eq("snapshot", id.to_string());
    Ok(tx.first::<PointDoc>(&Query::new(by_snapshot)).await?)
}

impl Control {
    /// The recovery points of an item, the newest first.
    pub async fn points(
        &self,
        caller: &Caller,
        item: &str,
        state: Option<PointState>,
        at: &PageRequest,
    ) -> Result<api::Page<RecoveryPoint>> {
        let item = self.item(caller, item).await?.value.id;
        let mut filter = Filter::all().eq("item", item.to_string());
        if let Some(state) = state {
            filter = filter.eq("state", state.name());
        }
        let query = at.of(Query::new(filter).descending("time"));
        Ok(page(self.catalog.list::<PointDoc>(&query).await?, |stored| stored.doc.point))
    }

    /// A recovery point of an item: its id, or `latest`.
    pub async fn point(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
    ) -> Result<Versioned<RecoveryPoint>> {
        let item = self.item(caller, item).await?.value.id;
        Ok(in_read!(self, tx => { find_point(tx, item, point).await })?.into())
    }

    /// Changes until when a recovery point is kept; brings a deleted one back.
    pub async fn update_point(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
        expected: Option<u64>,
        change: PointUpdate,
    ) -> Result<Versioned<RecoveryPoint>> {
        let now = self.now();
        let (of, version) = in_write!(self, tx => {
            let mut item_doc = find_item(tx, item).await?;
            let of = item_doc.doc.item.clone();
            let target = Target::Item(of.vault, of.id);
            self.check(caller, Operation::UpdatePoint, target, || no_item(item))?;
            let Stored { mut doc, version } = find_point(tx, of.id, point).await?;
            check_version(version, expected)?;
            let vault = vault_of(tx, &of).await?.vault;
            if change.retain_until < doc.point.retain_until {
                check_mutable(&vault, "a shorter retention")?;
            }
            doc.point.retain_until = change.retain_until;
            let deleted = doc.point.state == PointState::SoftDeleted;
            if deleted && doc.cut && change.retain_until.is_some_and(|until| until > now) {
                doc.point.state = PointState::Restorable;
                doc.point.deleted = None;
                doc.point.purge_after = None;
                doc.cut = false;
            }
            tx.update(&doc, version).await?;
            item_doc.doc.retention.edited();
            tx.update(&item_doc.doc, item_doc.version).await?;
            let (name, detail) = (format!("{}/{}", of.name, doc.point.id), json!(change));
            audit::record(tx, caller, Operation::UpdatePoint, &name, detail).await?;
            Ok((of, doc.point.id))
        })?;
        self.retain_item(of.id).await?;
        self.point(caller, item, &version.to_string()).await
    }

    /// Deletes a recovery point, softly if its vault does so.
    pub async fn delete_point(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
        expected: Option<u64>,
    ) -> Result<Versioned<RecoveryPoint>> {
        let (now, trusted) = (self.now(), self.trusted_now());
        let deleted = in_write!(self, tx => {
            let mut item_doc = find_item(tx, item).await?;
            let of = item_doc.doc.item.clone();
            let target = Target::Item(of.vault, of.id);
            self.check(caller, Operation::DeletePoint, target, || no_item(item))?;
            let Stored { mut doc, version } = find_point(tx, of.id, point).await?;
            check_version(version, expected)?;
            let vault = vault_of(tx, &of).await?.vault;
            check_mutable(&vault, "deleting a recovery point")?;
            if doc.point.state == PointState::SoftDeleted {
                return Ok(Versioned { value: doc.point, version });
            }
            let good = Filter::all().eq("item", of.id.to_string()).eq("state", PointState::Restorable.name());
            if doc.point.state == PointState::Restorable
                && tx.count::<PointDoc>(&good).await? == 1
            {
                let message = message!(POINT_LAST, "{point} is the last good point of {item}", point = doc.point.id, item = of.name);
                return Err(ControlError::from(message));
            }
            doc.point.state = PointState::SoftDeleted;
            doc.point.deleted = Some(now);
            doc.point.purge_after = Some(purge_after(trusted, vault.soft_delete));
            doc.cut = true;
            let version = tx.update(&doc, version).await?;
            item_doc.doc.retention.edited();
            tx.update(&item_doc.doc, item_doc.version).await?;
            let name = format!("{}/{}", of.name, doc.point.id);
            audit::record(tx, caller, Operation::DeletePoint, &name, json!({})).await?;
            let title = format!("a recovery point of {} was deleted", of.name);
            let rule = Rule::DeleteBackupData;
            alerts::security(self, tx, rule, title, &vault, Some(&of), now).await?;
            Ok(Versioned { value: doc.point, version })
        })?;
        self.wake.notify_one();
        Ok(deleted)
    }

    /// Restores from a recovery point.
    pub async fn restore(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
        restore: Restore,
    ) -> Result<JobId> {
        let begun = in_write!(self, tx => {
            let Stored { mut doc, version } = find_item(tx, item).await?;
            let target = Target::Item(doc.item.vault, doc.item.id);
            self.check(caller, Operation::Restore, target, || no_item(item))?;
            let mut restore = restore.clone();
            if let Restore::Replace(replace) = &mut restore {
                self.check_machine_of(tx, caller, &doc.item, replace).await?;
            }
            self.check_folder(caller, &restore)?;
            let point = find_point(tx, doc.item.id, point).await?.doc;
            let (point, in_vault) = (point.point.clone(), point.is_in_vault());
            check_restorable(&point)?;
            let host = match &restore {
                Restore::Machine(machine) => machine.host.as_deref(),
                Restore::Disks(disks) => disks.host.as_deref(),
                Restore::Replace(_) => None,
            };
            let host = match host {
                Some(host) => find_host(tx, host).await?.doc.host.id,
                None => doc.item.host,
            };
            if let Restore::Machine(machine) = &restore
                && machine.with_secrets
            {
                let secrets = Operation::RestoreSecrets;
                self.check(caller, secrets, Target::Host(host), || forbidden(caller, secrets))?;
            }
            if !in_vault && host != doc.item.host {
                let message = message!(POINT_SNAPSHOT_ONLY, "the recovery point {point} is not in the vault yet", point = point.id);
                return Err(ControlError::from(message));
            }
            let spec = Spec::Restore {
                item: doc.item.id,
                point: point.id,
                host,
                restore: Box::new(restore.clone()),
            };
            let detail = json!({ "point": point.id, "restore": restore });
            let name = doc.item.name.clone();
            check_free(&doc.item)?;
            let begun = self
                .begin_for_item(tx, &mut doc, version, spec, Trigger::OnDemand, &caller.name)
                .await?;
            audit::record(tx, caller, Operation::Restore, &name, detail).await?;
            Ok(begun)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    /// Whose disks are replaced: those of the item's own machine, of one that an item protects from which
    /// the caller may restore too, or of any if the caller may replace machines of the host. It is named by
    /// its UUID from then on, if that is known: another machine may get its name.
    async fn check_machine_of(
        &self,
        tx: &mut ReadTx,
        caller: &Caller,
        item: &api::Item,
        replace: &mut api::RestoreReplace,
    ) -> Result<()> {
        let Some(machine) = replace.machine.clone() else { return Ok(()) };
        let uuid_of = |source: &api::Source| {
            let found = sources::of(source);
            let found = found.machine().filter(|found| found.is(&machine));
            found.map(|found| found.uuid.to_owned())
        };
        if let Some(uuid) = uuid_of(&item.source) {
            replace.machine = Some(uuid);
            return Ok(());
        }
        let on_host = Filter::all().eq("host", item.host.to_string());
        let (mut own, mut unsaved, mut after) = (None, false, None);
        loop {
            let query = Query::new(on_host.clone()).ascending("name").limit(1000).after(after);
            let page = tx.list::<ItemDoc>(&query).await?;
            for Stored { doc, .. } in page.items {
                let target = Target::Item(doc.item.vault, doc.item.id);
                if let Some(uuid) = uuid_of(&doc.item.source)
                    && caller.may(Operation::Restore, target)
                {
                    own = Some(uuid);
                    unsaved |= caller.may(Operation::DeletePoint, target);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let host = Target::Host(item.host);
        let replaces = Operation::ReplaceMachine;
        if own.is_none() && !caller.may(replaces, host) {
            return Err(forbidden(caller, replaces));
        }
        let unsaves = Operation::ReplaceUnsaved;
        if replace.no_safety_point && !unsaved && !caller.may(unsaves, host) {
            return Err(forbidden(caller, unsaves));
        }
        replace.machine = own.or(Some(machine));
        Ok(())
    }

    /// A user who may restore must not overwrite the host's own files.
    fn check_folder(&self, caller: &Caller, restore: &Restore) -> Result<()> {
        let mut folders: Vec<&str> = Vec::new();
        match restore {
            Restore::Disks(disks) => {
                if disks.folder.is_none() && disks.targets.is_empty() {
                    let message = "neither folder nor targets say where the disks go";
                    return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
                }
                folders.extend(disks.folder.as_deref());
                folders.extend(disks.targets.values().map(String::as_str));
            }
            Restore::Machine(machine) => {
                folders.extend(machine.storage_dirs.values().map(String::as_str));
            }
            Restore::Replace(replace) => {
                folders.extend(replace.storage_dirs.values().map(String::as_str));
            }
        }
        for folder in folders {
            self.places.check_target(folder).map_err(|no| not_allowed(Some(caller), &no))?;
        }
        Ok(())
    }

    /// An item of which a vault has points and nobody knows more.
    pub(crate) fn found_item(&self, vault: &api::Vault, host: HostId, name: &str) -> ItemDoc {
        let now = self.now();
        let id = ItemId::generate(&*self.clock, &*self.entropy);
        ItemDoc::new(id, name, (vault.id, host), sources::unknown(), now)
    }
}
