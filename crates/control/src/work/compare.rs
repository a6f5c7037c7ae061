//! What is in a vault, compared with what the catalog says: points that are gone, points that somebody
//! else has deleted, and locks that are shorter than what was promised.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use strongroom_api::{self as api, ErrorBody, Immutability, PointState};
use strongroom_base::{ItemId, JobId, PointId, VaultId};
use strongroom_catalog::{Document as _, Filter, Query, Stored, Tx};
use strongroom_orders::{Absence, AbsentPoint, HeldPoint, OrderId, ReclaimOrder};

use crate::{
    alerts,
    error::{ControlError, Result},
    model::{GivenUpDoc, ItemDoc, PointDoc, VaultDoc},
    service::Control,
};

/// A point that must be in its vault, by its item's name there and its id.
type Name = (String, PointId);

impl Control {
    /// Compares the points of a vault, or of one item of it, with what the vault has. Those that are
    /// gone are lost from then on, those that are back can be restored again.
    pub(super) async fn compare_points(
        &self,
        vault: &VaultDoc,
        item: Option<&api::Item>,
    ) -> Result<(), Box<ErrorBody>> {
        let expected = self.expected(vault.vault.id, item).await?;
        let names: Vec<Name> = expected.keys().cloned().collect();
        let (keeper, access) = (self.keeper.clone(), vault.access());
        let name = item.map(|item| item.name.clone());
        let absent =
            Self::blocking(move || keeper.absent(&access, name.as_deref(), &names)).await?;
        let is_missing = |absent: &&AbsentPoint| absent.how == Absence::Missing;
        let missing: HashSet<Name> = absent
            .iter()
            .filter(is_missing)
            .map(|absent| (absent.item.clone(), absent.point))
            .collect();
        let hidden: Vec<Name> = absent
            .iter()
            .filter(|absent| absent.how == Absence::Hidden)
            .map(|absent| (absent.item.clone(), absent.point))
            .collect();
        let now = self.now();
        in_write!(self, tx => {
            let mut lost = Vec::new();
            for (name, (id, state)) in &expected {
                let is_lost = missing.contains(name);
                if is_lost == (*state == PointState::Lost) && !is_lost {
                    continue;
                }
                // What was deleted meanwhile is not missed.
                let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(id).await? else {
                    continue;
                };
                let wanted = if is_lost { PointState::Lost } else { PointState::Restorable };
                match doc.point.state {
                    PointState::Restorable | PointState::Lost => {}
                    _ => continue,
                }
                if is_lost {
                    lost.push(words(name));
                }
                if doc.point.state != wanted {
                    doc.point.state = wanted;
                    tx.update(&doc, version).await?;
                }
            }
            let known: Vec<String> = hidden.iter().map(words).collect();
            let (vault, of_all) = (&vault.vault, item.is_none());
            alerts::absent(self, tx, vault, Absence::Missing, &lost, of_all, now).await?;
            alerts::absent(self, tx, vault, Absence::Hidden, &known, of_all, now).await
        })?;
        Ok(())
    }

    /// The points that must be in a vault, with the ids of their documents.
    async fn expected(
        &self,
        vault: VaultId,
        item: Option<&api::Item>,
    ) -> Result<BTreeMap<Name, (String, PointState)>, ControlError> {
        let filter = match item {
            Some(item) => Filter::all().eq("item", item.id.to_string()),
            None => Filter::all().eq("vault", vault.to_string()),
        };
        let filter = filter
            .one_of("state", [PointState::Restorable, PointState::Lost].map(PointState::name));
        let (mut expected, mut token) = (BTreeMap::new(), None);
        let mut names: HashMap<ItemId, String> = HashMap::new();
        names.extend(item.map(|item| (item.id, item.name.clone())));
        loop {
            let query = Query::new(filter.clone()).limit(1000).after(token);
            let page = self.catalog.list::<PointDoc>(&query).await?;
            for Stored { doc, .. } in page.items {
                if !doc.is_in_vault() {
                    continue;
                }
                let of = doc.point.item;
                if !names.contains_key(&of) {
                    let found =
                        in_read!(self, tx => { Ok(tx.get::<ItemDoc>(&of.to_string()).await?) })?;
                    names.extend(found.map(|found| (of, found.doc.item.name)));
                }
                if let Some(name) = names.get(&of) {
                    let known = (doc.id(), doc.point.state);
                    expected.insert((name.clone(), doc.point.id), known);
                }
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(expected),
            }
        }
    }

    /// Locks the points of a vault, or of one item of it, as long as was promised, if what is in the
    /// vault can never be deleted earlier.
    pub(super) async fn extend_locks(
        &self,
        vault: &VaultDoc,
        item: Option<&api::Item>,
    ) -> Result<(), Box<ErrorBody>> {
        if vault.vault.immutability != Immutability::Locked {
            return Ok(());
        }
        let filter = match item {
            Some(item) => Filter::all().eq("item", item.id.to_string()),
            None => Filter::all().eq("vault", vault.vault.id.to_string()),
        };
        let filter = filter
            .one_of("state", [PointState::Restorable, PointState::Damaged].map(PointState::name));
        let now = self.trusted_now();
        let mut token = None;
        loop {
            let query = Query::new(filter.clone()).limit(1000).after(token);
            let page = self.catalog.list::<PointDoc>(&query).await.map_err(ControlError::from)?;
            let mut by_item: BTreeMap<ItemId, Vec<(PointId, Timestamp)>> = BTreeMap::new();
            for Stored { doc, .. } in page.items {
                let short = doc
                    .promised
                    .filter(|promised| *promised > now && doc.point.locked_until < Some(*promised));
                if let Some(promised) = short.filter(|_| doc.is_in_vault()) {
                    by_item.entry(doc.point.item).or_default().push((doc.point.id, promised));
                }
            }
            for (item, locks) in by_item {
                self.lock_points(vault, item, locks).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn lock_points(
        &self,
        vault: &VaultDoc,
        item: ItemId,
        locks: Vec<(PointId, Timestamp)>,
    ) -> Result<(), Box<ErrorBody>> {
        let found = in_read!(self, tx => { Ok(tx.get::<ItemDoc>(&item.to_string()).await?) });
        let Some(Stored { doc: of, .. }) = found? else { return Ok(()) };
        let (keeper, access, name) = (self.keeper.clone(), vault.access(), of.item.name);
        let locked = Self::blocking(move || keeper.lock_points(&access, &name, &locks)).await?;
        in_write!(self, tx => {
            for (point, until) in &locked {
                let id = PointDoc::id_of(item, *point);
                if let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(&id).await? {
                    doc.point.locked_until = doc.point.locked_until.max(Some(*until));
                    tx.update(&doc, version).await?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Writes down that points are given up, before their deletion notes are put: a reclaim executes no
    /// others.
    pub(super) async fn give_up(
        &self,
        vault: VaultId,
        item: &str,
        points: &[PointId],
    ) -> Result<(), ControlError> {
        in_write!(self, tx => {
            for point in points {
                let doc = GivenUpDoc { vault, item: item.to_owned(), point: *point };
                tx.put(&doc).await?;
            }
            Ok(())
        })
    }

    /// The order of a reclaim of a vault.
    pub(super) async fn reclaim_order(
        &self,
        job: JobId,
        vault: &VaultDoc,
    ) -> Result<ReclaimOrder, ControlError> {
        let filter = Filter::all().eq("vault", vault.vault.id.to_string());
        let (mut given_up, mut token) = (Vec::new(), None);
        loop {
            let query = Query::new(filter.clone()).limit(1000).after(token);
            let page = self.catalog.list::<GivenUpDoc>(&query).await?;
            given_up
                .extend(page.items.into_iter().map(|stored| (stored.doc.item, stored.doc.point)));
            match page.next {
                Some(next) => token = Some(next),
                None => {
                    return Ok(ReclaimOrder {
                        order: OrderId::of_job(job, "reclaim"),
                        vault: vault.access(),
                        given_up,
                        now: self.trusted_now(),
                        recompress: vault.vault.recompress,
                    });
                }
            }
        }
    }

    /// After a reclaim that came to its end: what was given up is gone, except what is locked. Points
    /// that somebody else has deleted are kept, and an alert names them.
    pub(super) async fn reclaimed(
        &self,
        vault: &VaultDoc,
        order: &ReclaimOrder,
        held: &[HeldPoint],
    ) -> Result<(), ControlError> {
        let stays: HashSet<(&str, PointId)> =
            held.iter().filter_map(|held| Some((held.item.as_deref()?, held.point))).collect();
        let ours: HashSet<(&str, PointId)> =
            order.given_up.iter().map(|(item, point)| (item.as_str(), *point)).collect();
        let is_ours = |held: &&HeldPoint| {
            held.item.as_deref().is_some_and(|item| ours.contains(&(item, held.point)))
        };
        let foreign: Vec<String> =
            held.iter().filter(|held| !is_ours(held)).map(held_words).collect();
        let now = self.now();
        in_write!(self, tx => {
            for (item, point) in &order.given_up {
                if !stays.contains(&(item.as_str(), *point)) {
                    forget_given_up(tx, vault.vault.id, item, *point).await?;
                }
            }
            alerts::absent(self, tx, &vault.vault, Absence::Hidden, &foreign, true, now).await
        })
    }
}

/// Forgets that a point was given up.
pub(super) async fn forget_given_up(
    tx: &mut Tx,
    vault: VaultId,
    item: &str,
    point: PointId,
) -> Result<()> {
    let id = GivenUpDoc { vault, item: item.to_owned(), point }.id();
    tx.delete::<GivenUpDoc>(&id, None).await?;
    Ok(())
}

fn words((item, point): &Name) -> String {
    format!("{point} of {item}")
}

fn held_words(held: &HeldPoint) -> String {
    let item = held.item.as_deref().unwrap_or("an item that cannot be read");
    format!("{} of {item}", held.point)
}
