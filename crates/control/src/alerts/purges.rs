//! What is deleted for good soon, and what was: alerts that leave two days to restore deleted data.
//!
//! A reconciler: it compares what will be purged with the alerts that hold, and brings these to that.
//! Time is the one that purges are judged by, so an alert never comes too late because a clock was
//! set.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{Item, PointState, ProtectionState, Vault, VaultState};
use strongroom_base::words;
use strongroom_catalog::{Filter, Query, ReadTx, Stored, Tx};

use super::{Happening, Rule, key, raise, resolve_key};
use crate::{
    error::Result,
    lookup::vault_of,
    model::{AlertDoc, ItemDoc, PointDoc, VaultDoc},
    service::Control,
};

/// How long before.
const NOTICE: SignedDuration = SignedDuration::from_hours(48);

/// What is purged soon.
struct Soon {
    title: String,
    subject: String,
    vault: strongroom_base::VaultId,
    item: Option<strongroom_base::ItemId>,
}

impl Soon {
    fn key(&self) -> String {
        key(Rule::PurgeSoon, &self.subject, Some(self.vault), self.item)
    }
}

impl Control {
    /// Raises an alert for all that is purged soon, and resolves those of which that is so no more.
    pub(crate) async fn alert_of_purges(&self) -> Result<()> {
        let (now, trusted) = (self.now(), self.trusted_now());
        let plan = in_read!(self, tx => { Plan::of(tx, trusted).await })?;
        if plan.is_done() {
            return Ok(());
        }
        in_write!(self, tx => {
            let plan = Plan::of(tx, trusted).await?;
            for key in &plan.over {
                resolve_key(tx, key, now).await?;
            }
            for soon in plan.new {
                let what = Happening {
                    rule: Rule::PurgeSoon,
                    title: soon.title,
                    error: None,
                    subject: &soon.subject,
                    vault: Some(soon.vault),
                    item: soon.item,
                    job: None,
                };
                raise(self, tx, what, now).await?;
            }
            Ok(())
        })
    }
}

/// What differs between the alerts that hold and those that should.
struct Plan {
    /// Keys of those that hold no more.
    over: Vec<String>,
    new: Vec<Soon>,
}

impl Plan {
    fn is_done(&self) -> bool {
        self.over.is_empty() && self.new.is_empty()
    }

    async fn of(tx: &mut ReadTx, trusted: Timestamp) -> Result<Self> {
        let mut soon = soon(tx, trusted).await?;
        let holding = Filter::all().eq("rule", Rule::PurgeSoon.name()).not_null("key");
        let holding = tx.list::<AlertDoc>(&Query::new(holding).limit(1000)).await?.items;
        let keys = holding.into_iter().filter_map(|it| it.doc.key);
        let over = keys.filter(|key| soon.remove(key).is_none()).collect();
        Ok(Self { over, new: soon.into_values().collect() })
    }
}

/// All that is purged soon, by the key of its alert.
async fn soon(tx: &mut ReadTx, trusted: Timestamp) -> Result<BTreeMap<String, Soon>> {
    let until = trusted.checked_add(NOTICE).unwrap_or(Timestamp::MAX);
    let mut found = Vec::new();
    let vaults = tx.list::<VaultDoc>(&Query::default().limit(1000)).await?.items;
    let ids: Vec<String> = vaults.iter().map(|it| it.doc.vault.id.to_string()).collect();
    for Stored { doc: VaultDoc { vault, .. }, .. } in vaults {
        if vault.state != VaultState::SoftDeleted {
            continue;
        }
        if let Some(after) = vault.purge_after.filter(|it| *it > trusted && *it <= until) {
            let title = format!("the vault {} is forgotten for good after {after:.0}", vault.name);
            found.push(Soon { title, subject: vault.name, vault: vault.id, item: None });
        }
    }
    // What is to go at once is gone before anybody reads of it, as points whose time is simply over.
    let deleted = |state: &'static str| {
        Filter::all().eq("state", state).gt("purge_after", trusted).le("purge_after", until)
    };
    let items = deleted(ProtectionState::SoftDeleted.name());
    let items = Query::new(items).ascending("purge_after").limit(1000);
    for Stored { doc: ItemDoc { item, .. }, .. } in tx.list::<ItemDoc>(&items).await?.items {
        let after = item.purge_after.unwrap_or(until);
        let title = format!("the data of {} is deleted for good after {after:.0}", item.name);
        found.push(Soon { title, subject: item.name, vault: item.vault, item: Some(item.id) });
    }
    let mut counts = Vec::new();
    for vault in ids {
        // Vault by vault, as an index has them.
        let here = deleted(PointState::SoftDeleted.name()).eq("vault", vault);
        counts.extend(tx.count_by::<PointDoc>("item", &here).await?);
    }
    for (item, count) in counts {
        let Some(id) = item.as_text() else { continue };
        let Some(Stored { doc: ItemDoc { item, .. }, .. }) = tx.get::<ItemDoc>(id).await? else {
            continue;
        };
        let title = format!(
            "{} of {} will be gone for good before {until:.0}",
            words::count(count, "deleted recovery point"),
            item.name
        );
        found.push(Soon { title, subject: item.name, vault: item.vault, item: Some(item.id) });
    }
    let mut by_key = BTreeMap::new();
    for soon in found {
        // Of an item that goes as a whole, its points need no word.
        by_key.entry(soon.key()).or_insert(soon);
    }
    Ok(by_key)
}

/// Something that was deleted is gone for good.
pub(crate) async fn purged(
    control: &Control,
    tx: &mut Tx,
    title: String,
    vault: &Vault,
    item: Option<&Item>,
) -> Result<()> {
    let what = Happening {
        rule: Rule::Purged,
        title,
        error: None,
        subject: item.map_or(&vault.name, |item| &item.name),
        vault: Some(vault.id),
        item: item.map(|item| item.id),
        job: None,
    };
    raise(control, tx, what, control.now()).await
}

/// Points of an item that had been deleted before their time are gone for good.
pub(crate) async fn points_purged(
    control: &Control,
    tx: &mut Tx,
    vault: &Vault,
    points: &[Stored<PointDoc>],
) -> Result<()> {
    let mut cut: BTreeMap<strongroom_base::ItemId, usize> = BTreeMap::new();
    for Stored { doc, .. } in points.iter().filter(|stored| stored.doc.cut) {
        let count = cut.entry(doc.point.item).or_default();
        *count = count.saturating_add(1);
    }
    for (item, count) in cut {
        let Some(Stored { doc, .. }) = tx.get::<ItemDoc>(&item.to_string()).await? else {
            continue;
        };
        let name = &doc.item.name;
        let title = format!(
            "gone for good: {} of {name}",
            words::count_of(count, "deleted recovery point")
        );
        purged(control, tx, title, vault, Some(&doc.item)).await?;
    }
    Ok(())
}

/// An item's data is gone for good.
pub(crate) async fn item_purged(control: &Control, tx: &mut Tx, doc: &ItemDoc) -> Result<()> {
    let vault = vault_of(tx, &doc.item).await?.vault;
    let title = format!("the data of {} is gone for good", doc.item.name);
    purged(control, tx, title, &vault, Some(&doc.item)).await
}
