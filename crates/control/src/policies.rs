//! Policies of vaults: created, changed, previewed.
//!
//! This module owns the documents and which change is allowed. What the rules of a policy mean is the matter of the
//! crate `policy`; points are judged by `retention`, backups begun by `schedule`.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use strongroom_api::{
    self as api, BootWhen, ConsistencyWanted, Policy, PolicyCreate, PolicyPreview, PolicyUpdate,
};
use strongroom_base::{PolicyId, VaultId, codes, message, words};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_policy as rules;

use crate::{
    alerts, audit,
    error::{ControlError, Result},
    lookup::{check_active, check_mutable, check_name, checked, find_policy, find_vault, no_vault},
    model::{ItemDoc, PolicyDoc},
    page::{PageRequest, Versioned, check_version, page},
    retention,
    rights::{Caller, Operation, Target},
    service::Control,
    wanted::check_wanted,
};

/// The name of the policy that every vault has to begin with.
pub const DEFAULT_POLICY: &str = "default";

impl Control {
    /// A daily policy as Azure's default one.
    pub(crate) fn default_policy(&self, vault: VaultId) -> PolicyDoc {
        PolicyDoc {
            policy: Policy {
                id: PolicyId::generate(&*self.clock, &*self.entropy),
                vault,
                name: DEFAULT_POLICY.to_owned(),
                rules: rules::Policy::default_standard().rules().clone(),
                consistency: ConsistencyWanted::Application,
                consistency_required: false,
                boot: None,
                created: self.now(),
            },
            boot_since: None,
            boot_changed: None,
        }
    }

    /// The policies of a vault, by name.
    pub async fn policies(
        &self,
        caller: &Caller,
        vault: &str,
        at: &PageRequest,
    ) -> Result<api::Page<Policy>> {
        let vault = self.vault(caller, vault).await?.value.id;
        let filter = Filter::all().eq("vault", vault.to_string());
        let query = at.of(Query::new(filter).ascending("name"));
        Ok(page(self.catalog.list::<PolicyDoc>(&query).await?, |stored| stored.doc.policy))
    }

    /// A policy of a vault.
    pub async fn policy(
        &self,
        caller: &Caller,
        vault: &str,
        name: &str,
    ) -> Result<Versioned<Policy>> {
        let vault = self.vault(caller, vault).await?.value.id;
        let stored = in_read!(self, tx => { find_policy(tx, vault, name).await })?;
        Ok(Versioned { value: stored.doc.policy, version: stored.version })
    }

    /// Makes a policy.
    pub async fn create_policy(
        &self,
        caller: &Caller,
        vault: &str,
        request: PolicyCreate,
    ) -> Result<Versioned<Policy>> {
        let id = PolicyId::generate(&*self.clock, &*self.entropy);
        in_write!(self, tx => {
            let place = find_vault(tx, vault).await?.doc.vault;
            let target = Target::Vault(place.id);
            self.check(caller, Operation::CreatePolicy, target, || no_vault(vault))?;
            check_name("the policy's name", &request.name)?;
            let checked = checked(request.rules.clone())?;
            request.boot.as_ref().map_or(Ok(()), |boot| check_wanted(&boot.wanted))?;
            check_active(&place)?;
            let doc = PolicyDoc {
                policy: Policy {
                    id,
                    vault: place.id,
                    name: request.name.clone(),
                    rules: checked.rules().clone(),
                    consistency: request.consistency.unwrap_or(ConsistencyWanted::Application),
                    consistency_required: request.consistency_required,
                    boot: request.boot.clone(),
                    created: self.now(),
                },
                boot_since: request.boot.as_ref().map(|_| self.now()),
                boot_changed: None,
            };
            let version = tx.insert(&doc).await.map_err(name_taken)?;
            let name = format!("{}/{}", place.name, doc.policy.name);
            let detail = json!(doc.policy);
            audit::record(tx, caller, Operation::CreatePolicy, &name, detail).await?;
            Ok(Versioned { value: doc.policy, version })
        })
    }

    /// Changes a policy. The points of its items are judged by the new rules from then on.
    pub async fn update_policy(
        &self,
        caller: &Caller,
        vault: &str,
        name: &str,
        expected: Option<u64>,
        change: PolicyUpdate,
    ) -> Result<Versioned<Policy>> {
        let now = self.now();
        let changed = in_write!(self, tx => {
            let place = find_vault(tx, vault).await?.doc.vault;
            let target = Target::Vault(place.id);
            self.check(caller, Operation::UpdatePolicy, target, || no_vault(vault))?;
            if let Some(name) = &change.name {
                check_name("the policy's name", name)?;
            }
            let new = change.rules.clone().map(checked).transpose()?;
            change.boot.as_ref().map_or(Ok(()), |boot| check_wanted(&boot.wanted))?;
            check_active(&place)?;
            let Stored { mut doc, version } = find_policy(tx, place.id, name).await?;
            check_version(version, expected)?;
            let policy = &mut doc.policy;
            if let Some(new) = &new {
                let old = checked(policy.rules.clone())?;
                if rules::is_shorter(&old, new) {
                    check_mutable(&place, "a policy with shorter retention")?;
                    alerts::shorter(self, tx, &place, &policy.name, now).await?;
                }
                policy.rules = new.rules().clone();
            }
            policy.name = change.name.clone().unwrap_or_else(|| policy.name.clone());
            policy.consistency = change.consistency.unwrap_or(policy.consistency);
            policy.consistency_required =
                change.consistency_required.unwrap_or(policy.consistency_required);
            if let Some(boot) = &change.boot {
                let before = policy.boot.as_ref().map(|boot| boot.when);
                if before != Some(boot.when) {
                    doc.boot_since = Some(now);
                }
                doc.boot_changed = Some(now);
                policy.boot = Some(boot.clone()).filter(|boot| boot.when != BootWhen::Never);
            }
            let version = tx.update(&doc, version).await.map_err(name_taken)?;
            let name = format!("{}/{}", place.name, doc.policy.name);
            let detail = json!(doc.policy);
            audit::record(tx, caller, Operation::UpdatePolicy, &name, detail).await?;
            // When each item's next backup is follows from the new schedule.
            if new.is_some() {
                self.replan(tx, &doc.policy, now).await?;
            }
            Ok(Versioned { value: doc.policy, version })
        })?;
        self.boots_due.store(true, Relaxed);
        self.wake.notify_one();
        Ok(changed)
    }

    /// Deletes a policy that no item has.
    pub async fn delete_policy(
        &self,
        caller: &Caller,
        vault: &str,
        name: &str,
        expected: Option<u64>,
    ) -> Result<()> {
        in_write!(self, tx => {
            let place = find_vault(tx, vault).await?.doc.vault;
            let target = Target::Vault(place.id);
            self.check(caller, Operation::DeletePolicy, target, || no_vault(vault))?;
            let Stored { doc, version } = find_policy(tx, place.id, name).await?;
            check_version(version, expected)?;
            let by_policy = Filter::all().eq("policy", doc.policy.id.to_string());
            let items = tx.count::<ItemDoc>(&by_policy).await?;
            if items > 0 {
                let message = message!(POLICY_IN_USE, "items with the policy {policy}: {items}", policy = doc.policy.name, items);
                return Err(ControlError::from(message));
            }
            tx.delete::<PolicyDoc>(&doc.policy.id.to_string(), version).await?;
            let name = format!("{}/{}", place.name, doc.policy.name);
            audit::record(tx, caller, Operation::DeletePolicy, &name, json!({})).await
        })
    }

    /// What other rules would do to the points of a policy's items.
    pub async fn preview_policy(
        &self,
        caller: &Caller,
        vault: &str,
        name: &str,
        new: rules::PolicyRules,
    ) -> Result<PolicyPreview> {
        let old = self.policy(caller, vault, name).await?.value;
        let new = checked(new)?;
        let now = self.now();
        let mut preview = PolicyPreview::default();
        let checked_old = checked(old.rules.clone())?;
        preview.shorter = rules::is_shorter(&checked_old, &new);
        let mut at = PageRequest { limit: Some(200), token: None };
        let by_policy = Filter::all().eq("policy", old.id.to_string());
        loop {
            let query = at.of(Query::new(by_policy.clone()).ascending("name"));
            let items = self.catalog.list::<ItemDoc>(&query).await?;
            for Stored { doc, .. } in items.items {
                let points = in_read!(self, tx => { live_points(tx, &doc).await })?;
                let history = retention::history(&doc, &points);
                let of = rules::preview(&checked_old, &new, &history.history(), now);
                add(&mut preview, &doc, &of);
            }
            match items.next {
                Some(token) => at.token = Some(token.as_str().to_owned()),
                None => break,
            }
        }
        preview.summary = summary(&preview);
        Ok(preview)
    }
}

/// The points of an item that retention judges.
pub(crate) async fn live_points(
    tx: &mut ReadTx,
    item: &ItemDoc,
) -> Result<Vec<crate::model::PointDoc>> {
    retention::live_points(tx, item.item.id)
        .await
        .map(|points| points.into_iter().map(|stored| stored.doc).collect())
}

fn add(preview: &mut PolicyPreview, doc: &ItemDoc, of: &rules::Preview) {
    let count = |list: &[usize]| u64::try_from(list.len()).unwrap_or(u64::MAX);
    let (removed_now, removed_earlier) = (count(&of.removed), count(&of.shorter));
    preview.removed_now = preview.removed_now.saturating_add(removed_now);
    preview.removed_earlier = preview.removed_earlier.saturating_add(removed_earlier);
    preview.kept_longer = preview.kept_longer.saturating_add(count(&of.longer));
    preview.unchanged = preview.unchanged.saturating_add(count(&of.unchanged));
    preview.first_removal = match (preview.first_removal, of.first_removal) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    preview.last_removal = preview.last_removal.max(of.last_removal);
    if removed_now > 0 || removed_earlier > 0 {
        preview.items.push(api::ItemPreview {
            item: doc.item.id,
            name: doc.item.name.clone(),
            removed_now,
            removed_earlier,
        });
    }
}

/// "This removes 41 points on 12 items by ..."
fn summary(preview: &PolicyPreview) -> String {
    let total = preview.removed_now.saturating_add(preview.removed_earlier);
    match preview.last_removal {
        Some(last) if total > 0 => format!(
            "This removes {} at once and {} more earlier than now, on {}, by {last}.",
            words::count(preview.removed_now, "recovery point"),
            preview.removed_earlier,
            words::count_of(preview.items.len(), "item"),
        ),
        _ => "No recovery point would expire earlier than today.".to_owned(),
    }
}

fn name_taken(error: strongroom_catalog::Error) -> ControlError {
    match error {
        strongroom_catalog::Error::Taken { .. } => {
            ControlError::refused(&codes::POLICY_EXISTS, "the vault has a policy of this name")
        }
        error => error.into(),
    }
}
