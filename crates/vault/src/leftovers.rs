//! Packs that no index object lists: what they hold is in their own trailers.
//!
//! They are those of an interrupted run or of a running one, or what a damaged or lost index object
//! listed. A writer *adopts* them: it puts an index object for them. A reader looks
//! into their trailers and keeps what they say in the local cache, so that nothing stored depends on
//! an index object. Of a damaged one that is done when the index is brought up to date, under its
//! name, so that it is done once; of a lost one when something is not found.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use strongroom_base::{PackId, lock};
use strongroom_format::{
    IndexObject, names,
    pack::{Contents, Header, PackKind},
};
use ulid::Ulid;

use crate::{Vault, VaultError, error::Result, read::is_damage, write::ListedPack};

/// What this process has read already.
#[derive(Default)]
pub(crate) struct Leftovers {
    /// Damaged index objects whose packs were asked.
    around: Mutex<HashSet<Ulid>>,
    /// Packs whose trailers were asked when something was not found.
    asked: Mutex<HashSet<PackId>>,
}

impl Vault {
    /// Whether the packs of a damaged index object were asked.
    pub(crate) fn was_read_around(&self, index: Ulid) -> bool {
        lock(&self.leftovers.around).contains(&index)
    }

    /// Adds to the local index what the packs that no readable index object lists say of
    /// themselves, as if the damaged one said it.
    pub(crate) fn read_around(&self, damaged: Ulid) -> Result<()> {
        let known = self.index.listed_packs();
        let mut packs = self.list_packs()?;
        packs.retain(|pack| !known.contains(&pack.id));
        let contents = self.read_trailers(&packs)?;
        self.index.add(&[(damaged, &contents)]).map_err(|error| self.local_error(error))?;
        lock(&self.leftovers.around).insert(damaged);
        Ok(())
    }

    /// Adds to the local index, for this process, what packs that no index object lists say of
    /// themselves. Each is asked once.
    pub(crate) fn ask_unlisted(&self) -> Result<()> {
        let known = self.index.packs();
        let mut packs = self.list_packs()?;
        {
            let mut asked = lock(&self.leftovers.asked);
            packs.retain(|pack| !known.contains_key(&pack.id) && asked.insert(pack.id));
        }
        let contents = self.read_trailers(&packs)?;
        if contents.is_empty() {
            return Ok(());
        }
        tracing::warn!(packs = contents.len(), "packs that no index object lists were asked");
        let source = self.new_ulid();
        self.index.assume(source);
        self.index.add(&[(source, &contents)]).map_err(|error| self.local_error(error))
    }

    /// What packs say of themselves; several are asked at once where each costs round trips. Those
    /// that cannot be read, or are gone, are left out: `verify` names them.
    fn read_trailers(&self, packs: &[ListedPack]) -> Result<Vec<Contents>> {
        let threads = if self.store.is_local() { 1 } else { 16 };
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let work = || {
                while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let read = match self.read_contents(pack.kind, pack.id, pack.size) {
                        Err(error) if is_damage(&error) => {
                            tracing::warn!(pack = %pack.id, %error, "its trailer cannot be read");
                            continue;
                        }
                        read => read,
                    };
                    if read.is_err() {
                        next.store(packs.len(), Ordering::Relaxed);
                    }
                    lock(&results).push(read);
                }
            };
            for _ in 1..threads.min(packs.len()) {
                scope.spawn(work);
            }
            work();
        });
        results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
    }

    /// What is known of the packs that a damaged index object listed, from their trailers.
    pub(crate) fn contents_of_damaged(&self, index: Ulid) -> Result<Vec<Contents>> {
        if !self.index.sources().contains(&index) {
            self.read_around(index)?;
        }
        let ids = self.index.packs_of(index);
        let mut packs = self.list_packs()?;
        packs.retain(|pack| ids.contains(&pack.id));
        self.read_trailers(&packs)
    }

    /// Writes the content of a damaged index object again, under another name, and removes it.
    pub(crate) fn replace_damaged_index(&self, index: Ulid) -> Result<()> {
        let contents = self.contents_of_damaged(index)?;
        if !contents.is_empty() {
            self.put_index(contents)?;
        }
        self.store.delete(&names::index(index))?;
        self.index.forget(&[index]).map_err(|error| self.local_error(error))
    }

    /// The contents of a pack, from its own trailer.
    pub(crate) fn read_contents(&self, kind: PackKind, id: PackId, size: u64) -> Result<Contents> {
        use strongroom_base::ByteRange;
        use strongroom_format::pack::{FOOTER_LEN, Footer, HEADER_LEN};
        let key = names::pack(kind, &id);
        let damaged = |source| VaultError::Object { object: key.to_string(), source };
        let footer_len = u64::try_from(FOOTER_LEN).unwrap_or(0);
        let header_len = u64::try_from(HEADER_LEN).unwrap_or(0);
        let header = self.store.get_range(&key, ByteRange::between(0, header_len))?;
        let header = Header::parse(&header).map_err(damaged)?;
        // One read gets the footer and, nearly always, the whole trailer; where reads are cheap,
        // less is read in vain.
        let guess = if self.store.is_local() { 64 * 1024 } else { 256 * 1024 };
        let tail_start = size.saturating_sub(guess).max(header_len);
        let mut tail = self.store.get_range(&key, ByteRange::between(tail_start, size))?;
        let footer = Footer::parse(&tail, size).map_err(damaged)?;
        if footer.trailer_offset < tail_start {
            let range = ByteRange::between(footer.trailer_offset, size);
            tail = self.store.get_range(&key, range)?;
        }
        let trailer_start = tail
            .len()
            .saturating_sub(footer.trailer_len)
            .saturating_sub(usize::try_from(footer_len).unwrap_or(0));
        let trailer_end = trailer_start.saturating_add(footer.trailer_len);
        let seal_key = self.pack_key(&header, &key)?;
        let trailer = tail.get_mut(trailer_start..trailer_end).unwrap_or_default();
        let (entries, bases) = footer.open_trailer(&seal_key, trailer).map_err(damaged)?;
        if header.kind != kind {
            return Err(VaultError::Pack { pack: id });
        }
        Ok(Contents { id, header, size, entries, bases })
    }

    /// Writes index objects for packs that no index object lists. Returns how many packs. Those that
    /// cannot be read are left for `verify` to report.
    pub(crate) fn adopt_leftovers(&self) -> Result<usize> {
        let known = self.index.listed_packs();
        let mut adopted = 0_usize;
        let mut batch = Vec::new();
        let mut records = 0_usize;
        let unlisted: Vec<_> =
            self.list_packs()?.into_iter().filter(|pack| !known.contains(&pack.id)).collect();
        // Not all at once: an index object's worth in memory.
        for packs in unlisted.chunks(64) {
            for contents in self.read_trailers(packs)? {
                records = records.saturating_add(contents.entries.len());
                adopted = adopted.saturating_add(1);
                batch.push(contents);
                if records >= IndexObject::TARGET_RECORDS {
                    self.put_index(std::mem::take(&mut batch))?;
                    records = 0;
                }
            }
        }
        if !batch.is_empty() {
            self.put_index(batch)?;
        }
        Ok(adopted)
    }
}
