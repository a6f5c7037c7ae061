//! Several writers on one open vault: each relies on what it saw itself.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_base::{ByteRange, Cancel};
use strongroom_objects::{Entry, Key, ObjectStore, Put, StoreError};
use strongroom_vault::{ReclaimOptions, Vault, Writer, reclaim};

use crate::common::{Content, Place, keys, memory, noise};

type Hook = Box<dyn FnOnce() + Send>;

/// A store in which one listing takes so long that something happens meanwhile.
struct Slow {
    inner: Arc<dyn ObjectStore>,
    prefix: &'static str,
    /// What happens after the listing was answered, and before its caller hears of it.
    hook: Mutex<Option<Hook>>,
}

impl ObjectStore for Slow {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.inner.put_new(key, body)
    }
    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get(key, max_len)
    }
    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.inner.get_range(key, range)
    }
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list(prefix, visit)?;
        let hook =
            (prefix == self.prefix).then(|| self.hook.lock().expect("a lock").take()).flatten();
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }
    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key)
    }
    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(key, body)
    }
    fn name(&self) -> String {
        self.inner.name()
    }
    fn is_local(&self) -> bool {
        true
    }
}

fn slow(store: &Arc<dyn ObjectStore>, prefix: &'static str) -> Arc<Slow> {
    Arc::new(Slow { inner: Arc::clone(store), prefix, hook: Mutex::default() })
}

#[test]
fn a_slow_list_does_not_undo_what_a_later_writer_saw() {
    let mut place = Place::new(memory());
    // Nothing needs the block of a point that is deleted; a reclaim will condemn its pack.
    place.backup("gone", &Content::from([(1, noise(900))]));
    let block = place.vault.hasher().block(&noise(900));
    place.vault.delete_point("gone", place.points[3], "here").expect("deletes");
    let slow = slow(&place.store, "packs/");
    let store: Arc<dyn ObjectStore> = Arc::<Slow>::clone(&slow);
    let shared = Arc::new(Vault::open(store, &place.key(), place.options()).expect("opens"));
    let (other, later) = (place.open(true), Arc::new(Mutex::new(None)));
    let (vault, made) = (Arc::clone(&shared), Arc::clone(&later));
    *slow.hook.lock().expect("a lock") = Some(Box::new(move || {
        // The first writer has its list. A reclaim condemns, and waits for that writer; then comes
        // another one, who knows of the condemnation.
        let options = ReclaimOptions { wait: Duration::ZERO, ..ReclaimOptions::default() };
        let report = reclaim(&other, &options, &Cancel::new()).expect("reclaims");
        assert_eq!((report.waiting_for.len(), report.packs_removed), (1, 0), "{report:?}");
        let writer = Writer::begin(&vault, "web01", "here").expect("begins");
        *made.lock().expect("a lock") = Some(writer);
    }));
    let first = Writer::begin(&shared, "db01", "here").expect("begins");
    let later = later.lock().expect("a lock").take().expect("it came");
    assert!(!keys(&*place.store, "condemned/").is_empty());
    assert!(!first.claim(&block).expect("asks"), "the reclaim waits for this one");
    assert!(later.claim(&block).expect("asks"), "the pack will go before this one publishes");
}

#[test]
fn a_slow_list_does_not_undo_what_another_thread_has_added() {
    let place = Place::new(memory());
    let slow = slow(&place.store, "index/");
    let store: Arc<dyn ObjectStore> = Arc::<Slow>::clone(&slow);
    let shared = Arc::new(Vault::open(store, &place.key(), place.options()).expect("opens"));
    let before = shared.index().len();
    let vault = Arc::clone(&shared);
    *slow.hook.lock().expect("a lock") = Some(Box::new(move || {
        let mut writer = Writer::begin(&vault, "web01", "here").expect("begins");
        let digest = vault.hasher().block(&noise(901));
        assert!(writer.claim(&digest).expect("asks"));
        let kind = strongroom_format::pack::RecordKind::BlockStored;
        writer.store_block(kind, digest, 65536, None, &noise(901)).expect("stores");
        writer.finish_packs().expect("stores");
    }));
    shared.sync().expect("syncs");
    assert_eq!(shared.index().len(), before + 1, "the new record is still known");
}
