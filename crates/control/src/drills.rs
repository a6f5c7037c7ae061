//! Drills: machines of a vault that are booted together, asked for by somebody or begun by the vault's own setting.
//!
//! This module owns which machines take part, on which host, and when a drill is due. What follows from its result is the matter of
//! `work`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use strongroom_api::{
    self as api, BootWanted, DrillPolicy, DrillWanted, JobKind, Trigger, VaultState,
};
use strongroom_base::{HostId, ItemId, JobId, VaultId, codes, message};
use strongroom_catalog::{Filter, Query, ReadTx, Tx};

use crate::{
    audit,
    error::{ControlError, Result},
    items::check_not_deleted,
    lookup::{check_active, find_host, find_item, find_vault, no_vault},
    model::{ItemDoc, JobDoc, Spec, VaultDoc},
    rights::{Caller, Operation, Target},
    service::Control,
    sources,
    wanted::check_wanted,
};

/// The most machines of a drill.
const MACHINES_MAX: usize = 100;
const DAYS_MAX: u32 = 3660;
const SECONDS_MAX: u32 = 24 * 3600;
/// How much earlier than its day a drill may begin, so that it does not creep to a later hour each time.
const EARLY: SignedDuration = SignedDuration::from_hours(1);

/// Machines by their host, in order.
type ByHost = BTreeMap<HostId, Vec<ItemId>>;

impl Control {
    /// Boots machines of a vault together.
    pub async fn drill(&self, caller: &Caller, vault: &str, wanted: DrillWanted) -> Result<JobId> {
        let begun = in_write!(self, tx => {
            let place = find_vault(tx, vault).await?.doc.vault;
            let target = Target::Vault(place.id);
            self.check(caller, Operation::Drill, target, || no_vault(vault))?;
            check_drill(&wanted)?;
            check_active(&place)?;
            let machines = machines(tx, &place, &wanted).await?;
            let (host, items) = one_host(&place, machines)?;
            let asked = (Trigger::OnDemand, caller.name.as_str());
            let begun = self.begin_drill(tx, &place, (host, items), wanted.clone(), asked).await?;
            let detail = json!({ "job": begun, "wanted": wanted });
            audit::record(tx, caller, Operation::Drill, &place.name, detail).await?;
            Ok(begun)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    /// Begins the drills that vaults ask for: one for each host that has machines of the vault.
    pub(crate) async fn begin_drills(&self) -> Result<()> {
        let now = self.now();
        let vaults = self.catalog.list::<VaultDoc>(&Query::default().limit(1000)).await?.items;
        for VaultDoc { vault, .. } in vaults.into_iter().map(|stored| stored.doc) {
            let Some(drill) = &vault.drill else { continue };
            if vault.state == VaultState::Active {
                self.begin_drills_of(&vault, drill, now).await?;
            }
        }
        Ok(())
    }

    async fn begin_drills_of(
        &self,
        vault: &api::Vault,
        drill: &DrillPolicy,
        now: Timestamp,
    ) -> Result<()> {
        let every = SignedDuration::from_hours(24_i64.saturating_mul(drill.every_days.into()));
        let every = every.saturating_sub(EARLY);
        in_write!(self, tx => {
            let by_host = match machines(tx, vault, &drill.wanted).await {
                Ok(by_host) => by_host,
                // Its items were given up, or are not backed up yet.
                Err(error) => {
                    tracing::warn!(vault = vault.name, %error, "no drill is begun");
                    return Ok(());
                }
            };
            for (host, items) in by_host {
                let last = last_of(tx, vault.id, host).await?;
                let is_due = last.is_none_or(|job| {
                    job.ended.is_some() && now.duration_since(job.created).abs() >= every
                });
                if is_due {
                    let asked = (Trigger::Scheduled, "system");
                    let wanted = drill.wanted.clone();
                    self.begin_drill(tx, vault, (host, items), wanted, asked).await?;
                }
            }
            Ok(())
        })
    }

    async fn begin_drill(
        &self,
        tx: &mut Tx,
        vault: &api::Vault,
        (host, items): (HostId, Vec<ItemId>),
        wanted: DrillWanted,
        (trigger, by): (Trigger, &str),
    ) -> Result<JobId> {
        let spec = Spec::Drill { vault: vault.id, host, items, wanted: Box::new(wanted) };
        let job = self.new_job(spec, &vault.name, trigger, by);
        self.begin(tx, job).await
    }
}

/// The last drill of a vault on a host.
async fn last_of(tx: &mut ReadTx, vault: VaultId, host: HostId) -> Result<Option<api::Job>> {
    let filter = Filter::all()
        .eq("kind", JobKind::Drill.name())
        .eq("vault", vault.to_string())
        .eq("host", host.to_string());
    let last = tx.first::<JobDoc>(&Query::new(filter).descending("created").limit(1)).await?;
    Ok(last.map(|stored| stored.doc.job))
}

/// The machines of a drill, by their host.
pub(crate) async fn machines(
    tx: &mut ReadTx,
    vault: &api::Vault,
    wanted: &DrillWanted,
) -> Result<ByHost> {
    let host = match &wanted.host {
        Some(host) => Some(find_host(tx, host).await?.doc.host.id),
        None => None,
    };
    let mut by_host = ByHost::new();
    let mut add = |item: &api::Item| {
        if host.is_none_or(|host| host == item.host) {
            let items = by_host.entry(item.host).or_default();
            if !items.contains(&item.id) {
                items.push(item.id);
            }
        }
    };
    for name in &wanted.items {
        let item = in_vault(tx, vault, name).await?.item;
        if sources::machine_uuid(&item.source).is_none() {
            return Err(ControlError::from(message!(
                REQUEST_INVALID,
                "the item {name} protects no machine, so nothing can be booted",
                name = item.name
            )));
        }
        check_not_deleted(&item)?;
        add(&item);
    }
    if wanted.items.is_empty() {
        let query = Query::new(Filter::all().eq("vault", vault.id.to_string()));
        let query = query.ascending("name").limit(1000);
        let items = tx.list::<ItemDoc>(&query).await?.items.into_iter().map(|stored| stored.doc);
        let is_machine = |doc: &ItemDoc| {
            doc.item.last_point.is_some() && sources::machine_uuid(&doc.item.source).is_some()
        };
        items.filter(|doc| doc.is_active() && is_machine(doc)).for_each(|doc| add(&doc.item));
    }
    if by_host.is_empty() {
        let message = "the vault has no machines that were backed up, or none on that host";
        return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
    }
    if by_host.values().any(|items| items.len() > MACHINES_MAX) {
        let message = "a drill has 100 machines at most: name the items";
        return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
    }
    Ok(by_host)
}

/// An item of the vault, by its name there or its id.
async fn in_vault(tx: &mut ReadTx, vault: &api::Vault, name: &str) -> Result<ItemDoc> {
    let by_name = Filter::all().eq("vault", vault.id.to_string()).eq("name", name);
    if let Some(found) = tx.first::<ItemDoc>(&Query::new(by_name)).await? {
        return Ok(found.doc);
    }
    let found = find_item(tx, name).await?.doc;
    if found.item.vault != vault.id {
        return Err(ControlError::from(message!(
            REQUEST_INVALID,
            "the item {name} is not in that vault",
            name
        )));
    }
    Ok(found)
}

/// The machines of the only host that has some.
fn one_host(vault: &api::Vault, by_host: ByHost) -> Result<(HostId, Vec<ItemId>)> {
    let hosts = by_host.len();
    let mut all = by_host.into_iter();
    match (all.next(), hosts) {
        (Some(one), 1) => Ok(one),
        _ => Err(ControlError::from(message!(
            REQUEST_INVALID,
            "the machines of {name} are on several hosts, and a drill is on one: name the host",
            name = vault.name
        ))),
    }
}

/// Refuses what no drill can be asked.
fn check_drill(wanted: &DrillWanted) -> Result<()> {
    if wanted.items.len() > MACHINES_MAX {
        let message = "a drill has 100 machines at most";
        return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
    }
    if wanted.within_seconds.is_some_and(|seconds| !(1..=SECONDS_MAX).contains(&seconds)) {
        let message = "within_seconds is 1 to 86400";
        return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
    }
    check_wanted(&BootWanted {
        network: wanted.network.clone(),
        memory_bytes: wanted.memory_bytes,
        processors: wanted.processors,
        timeout_seconds: wanted.timeout_seconds,
        ..BootWanted::default()
    })
}

/// Refuses what no vault can ask.
pub(crate) fn check_drill_policy(drill: &DrillPolicy) -> Result<()> {
    if drill.every_days > DAYS_MAX {
        let message = "every_days of a drill is 0 to 3660";
        return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
    }
    check_drill(&drill.wanted)
}
