//! Saves the catalog in a vault: chunk by chunk, so that memory does not grow with the points.
//!
//! Chunks are named by their content: one that has not changed is there already. The head is put when
//! all of its chunks are there; only then what no head names any more goes. So a crash at any moment
//! leaves a head with all of its chunks.

use std::collections::HashSet;

use strongroom_api::ErrorBody;
use strongroom_base::message;
use strongroom_catalog::{Filter, Query};
use strongroom_orders::VaultAccess;

use super::{
    Mark, all,
    chunks::Chunks,
    form::{Chunk, FORMAT, Head, KeptPoint, NAME, chunk_name, is_chunk},
};
use crate::{
    error::{ControlError, Result},
    lookup::named,
    model::{HostDoc, ItemDoc, PointDoc, VaultDoc},
    service::Control,
};

/// What a save did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SaveDone {
    /// Bytes that were put.
    pub(crate) put: u64,
    /// Chunks that there are, and those of them that were put.
    pub(crate) chunks: (u64, u64),
}

/// A save that is under way.
struct Saving<'a> {
    control: &'a Control,
    access: VaultAccess,
    /// Names that the vault has.
    held: HashSet<String>,
    /// Those of the chunks, in order.
    names: Vec<String>,
    chunks: Chunks,
    done: SaveDone,
}

impl Saving<'_> {
    /// Puts an object under a name.
    async fn put(&mut self, name: String, bytes: Vec<u8>) -> Result<(), Box<ErrorBody>> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.done.put = self.done.put.saturating_add(size);
        let (keeper, access) = (self.control.keeper.clone(), self.access.clone());
        Control::blocking(move || keeper.save(&access, &name, &bytes)).await
    }

    /// Puts a chunk, if there is one and the vault does not have it.
    async fn chunk(&mut self, chunk: Option<Chunk>) -> Result<(), Box<ErrorBody>> {
        let Some(chunk) = chunk else { return Ok(()) };
        let bytes = json(&chunk)?;
        let name = chunk_name(&bytes);
        self.done.chunks.0 = self.done.chunks.0.saturating_add(1);
        if !self.held.contains(&name) {
            self.put(name.clone(), bytes).await?;
            self.done.chunks.1 = self.done.chunks.1.saturating_add(1);
            self.held.insert(name.clone());
        }
        self.names.push(name);
        Ok(())
    }

    /// Adds an item with its points.
    async fn add(&mut self, mut item: ItemDoc) -> Result<(), Box<ErrorBody>> {
        let catalog = &self.control.catalog;
        let filter = Filter::all().eq("item", item.item.id.to_string());
        item.item.job = None;
        item.retention.judge_at = None;
        self.chunks.item(item);
        let mut token = None;
        loop {
            let query = Query::new(filter.clone()).ascending("time").limit(1000).after(token);
            let page = catalog.list::<PointDoc>(&query).await.map_err(ControlError::from)?;
            for doc in page.items.iter().map(|stored| &stored.doc).filter(|doc| doc.is_in_vault()) {
                let ended = self.chunks.point(KeptPoint::of(doc));
                self.chunk(ended).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        let ended = self.chunks.end_item();
        self.chunk(ended).await
    }
}

fn json(of: &impl serde::Serialize) -> Result<Vec<u8>, Box<ErrorBody>> {
    serde_json::to_vec(of)
        .map_err(|error| message!(BUG, "{error}", error = error.to_string()).into())
}

impl Control {
    /// Saves a vault's part of the catalog in it.
    pub(crate) async fn save_in(
        &self,
        vault: strongroom_base::VaultId,
    ) -> Result<SaveDone, Box<ErrorBody>> {
        // Of before anything is read: what changes meanwhile is unsaved still.
        let (doc, mark) = in_read!(self, tx => {
            let doc = named::<VaultDoc>(tx, vault).await?.doc;
            let mark = Mark::read(tx, &doc).await?;
            Ok((doc, mark))
        })?;
        let (keeper, access) = (self.keeper.clone(), doc.access());
        let held = Self::blocking(move || keeper.saved(&access)).await?;
        let mut saving = Saving {
            control: self,
            access: doc.access(),
            held: held.into_iter().map(|object| object.name).collect(),
            names: Vec::new(),
            chunks: Chunks::default(),
            done: SaveDone::default(),
        };
        let in_vault = Filter::all().eq("vault", vault.to_string());
        let (mut hosts, mut token) = (HashSet::new(), None);
        loop {
            let query = Query::new(in_vault.clone()).limit(200).after(token);
            let page = self.catalog.list::<ItemDoc>(&query).await.map_err(ControlError::from)?;
            for item in page.items.into_iter().map(|stored| stored.doc) {
                hosts.insert(item.item.host);
                saving.add(item).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        let rest = saving.chunks.take();
        saving.chunk(rest).await?;
        let head = self.head(doc, &hosts, saving.names.clone()).await?;
        saving.put(NAME.to_owned(), json(&head)?).await?;
        let named: HashSet<String> = saving.names.into_iter().collect();
        for name in saving.held.into_iter().filter(|name| is_chunk(name) && !named.contains(name)) {
            let (keeper, access) = (self.keeper.clone(), saving.access.clone());
            let gone = name.clone();
            // What stays is removed next time, and nobody reads it meanwhile.
            if let Err(error) = Self::blocking(move || keeper.unsave(&access, &gone)).await {
                tracing::warn!(
                    code = error.code.as_str(),
                    name,
                    "an old chunk is left in the vault"
                );
            }
        }
        in_write!(self, tx => { self.set_saved(tx, vault, mark).await })?;
        Ok(saving.done)
    }

    async fn head(
        &self,
        vault: VaultDoc,
        of_items: &HashSet<strongroom_base::HostId>,
        chunks: Vec<String>,
    ) -> Result<Head> {
        let in_vault = Filter::all().eq("vault", vault.vault.id.to_string());
        in_read!(self, tx => {
            let mut hosts: Vec<HostDoc> = all(tx, Filter::all()).await?;
            hosts.retain(|doc| of_items.contains(&doc.host.id));
            Ok(Head {
                format: FORMAT,
                software: format!("strongroom {}", env!("CARGO_PKG_VERSION")),
                saved: self.now(),
                hosts,
                policies: all(tx, in_vault.clone()).await?,
                chunks,
                vault,
            })
        })
    }
}
