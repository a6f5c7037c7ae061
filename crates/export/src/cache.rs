//! Blocks in memory, opened and checked: one bounded store for all disks and clients of a process.
//!
//! A block has its digest as its name, so that two points, or two disks, that share it share its memory too. Each
//! block is loaded once, however many ask for it at the same moment: the first gets a [`Ticket`], the others wait for
//! what comes of it.
//!
//! When the memory is used up, a hand goes round the blocks (the CLOCK algorithm): one that was read since the hand's last
//! visit stays, another one goes. So a long sequential read does not drive out what is read again and again.
//!
//! It knows neither vaults nor disks. Tree nodes are not here: the vault keeps the last 2,048 of them, which stand for 32
//! GiB of disk.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use strongroom_base::{BLOCK_SIZE_U64, Digest, VaultId, lock};
use strongroom_vault::VaultError;

use crate::ahead::Pool;

/// Bytes of blocks that a process keeps unless it is asked for another number.
pub const DEFAULT_CACHE: u64 = 128 << 20;

/// The least number of blocks: what one client and its read-ahead have in their hands.
const LEAST: usize = 64;
const SHARDS: usize = 16;

/// A block's bytes.
pub(crate) type Block = Arc<Vec<u8>>;
/// A failure that several who waited for the same block get.
pub(crate) type Failure = Arc<VaultError>;

/// Whose block it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) vault: VaultId,
    pub(crate) digest: Digest,
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A digest is evenly spread already. It is keyed, so that no guest can make collisions.
        state.write_u64(self.digest.prefix());
    }
}

/// Takes the number that a [`Key`] gives as it is.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type Map<V> = HashMap<Key, V, BuildHasherDefault<AsIs>>;

/// See the [module](self).
pub struct BlockCache {
    shards: [Mutex<Shard>; SHARDS],
    capacity: usize,
    pool: Pool,
    hits: AtomicU64,
    loads: AtomicU64,
}

/// What a cache has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Reads of a block that was in memory.
    pub hits: u64,
    /// Blocks that were loaded, by readers or ahead of them.
    pub loads: u64,
    /// Bytes of the blocks in memory.
    pub bytes: u64,
}

#[derive(Default)]
struct Shard {
    at: Map<usize>,
    slots: Vec<Slot>,
    hand: usize,
    flights: Map<Arc<Flight>>,
}

struct Slot {
    key: Key,
    block: Block,
    was_read: bool,
}

/// A block that somebody loads.
#[derive(Default)]
pub(crate) struct Flight {
    result: Mutex<Outcome>,
    done: Condvar,
}

#[derive(Clone, Default)]
enum Outcome {
    #[default]
    Pending,
    Loaded(Block),
    Failed(Failure),
    /// The one who was to load it did not try to the end.
    GivenUp,
}

/// What there is of a block.
pub(crate) enum Claim<'a> {
    Found(Block),
    /// Somebody else loads it.
    Wait(Arc<Flight>),
    /// It is the caller's to load.
    Load(Ticket<'a>),
}

/// The duty to load a block. Dropping it gives up.
pub(crate) struct Ticket<'a> {
    cache: &'a BlockCache,
    pub(crate) key: Key,
    flight: Arc<Flight>,
    is_done: bool,
}

impl BlockCache {
    /// A cache of this number of bytes, with the threads that read ahead for all disks that use it.
    pub fn new(bytes: u64) -> Arc<Self> {
        let blocks = usize::try_from(bytes.checked_div(BLOCK_SIZE_U64).unwrap_or(0));
        let capacity = blocks.unwrap_or(usize::MAX).max(LEAST);
        Arc::new(Self {
            shards: Default::default(),
            capacity,
            pool: Pool::default(),
            hits: AtomicU64::new(0),
            loads: AtomicU64::new(0),
        })
    }

    /// What it has done so far.
    pub fn figures(&self) -> CacheFigures {
        let blocks: usize = self.shards.iter().map(|shard| lock(shard).slots.len()).sum();
        let blocks = u64::try_from(blocks).unwrap_or(u64::MAX);
        CacheFigures {
            hits: self.hits.load(Ordering::Relaxed),
            loads: self.loads.load(Ordering::Relaxed),
            bytes: blocks.saturating_mul(BLOCK_SIZE_U64),
        }
    }

    /// Blocks that it can keep.
    pub(crate) fn capacity(&self) -> u64 {
        u64::try_from(self.capacity).unwrap_or(u64::MAX)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        // Other bits than those that a map looks at.
        let number = usize::try_from((key.digest.prefix() >> 24) & 0xff).unwrap_or(0) % SHARDS;
        self.shards.get(number).unwrap_or(&self.shards[0])
    }

    /// The block, or what has to be done for it.
    pub(crate) fn claim(&self, key: Key) -> Claim<'_> {
        let mut shard = lock(self.shard(&key));
        if let Some(block) = shard.get(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Claim::Found(block);
        }
        if let Some(flight) = shard.flights.get(&key) {
            return Claim::Wait(Arc::clone(flight));
        }
        let flight = Arc::<Flight>::default();
        shard.flights.insert(key, Arc::clone(&flight));
        Claim::Load(Ticket { cache: self, key, flight, is_done: false })
    }

    /// The duty to load a block that is neither in memory nor being loaded.
    pub(crate) fn claim_absent(&self, key: Key) -> Option<Ticket<'_>> {
        if lock(self.shard(&key)).at.contains_key(&key) {
            return None;
        }
        match self.claim(key) {
            Claim::Load(ticket) => Some(ticket),
            Claim::Found(_) | Claim::Wait(_) => None,
        }
    }
}

impl Shard {
    fn get(&mut self, key: &Key) -> Option<Block> {
        let slot = self.slots.get_mut(*self.at.get(key)?)?;
        slot.was_read = true;
        Some(Arc::clone(&slot.block))
    }

    /// Takes a block in, in place of another one if there are `most`.
    fn put(&mut self, key: Key, block: Block, most: usize) {
        if self.at.contains_key(&key) {
            return;
        }
        let slot = Slot { key, block, was_read: false };
        if self.slots.len() < most {
            self.at.insert(key, self.slots.len());
            self.slots.push(slot);
            return;
        }
        // After one round all marks are gone, so that it ends in the second.
        for _ in 0..=self.slots.len().saturating_mul(2) {
            let place = self.hand;
            self.hand = place.saturating_add(1) % self.slots.len().max(1);
            match self.slots.get_mut(place) {
                Some(old) if old.was_read => old.was_read = false,
                Some(old) => {
                    self.at.remove(&old.key);
                    *old = slot;
                    self.at.insert(key, place);
                    return;
                }
                None => self.hand = 0,
            }
        }
    }
}

impl Ticket<'_> {
    /// Where those look who wait for the block.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
    }

    /// The block is loaded.
    pub(crate) fn loaded(mut self, block: &Block) {
        self.cache.loads.fetch_add(1, Ordering::Relaxed);
        self.settle(Outcome::Loaded(Arc::clone(block)));
    }

    /// The block cannot be loaded. All who wait get the failure; who asks later tries again.
    pub(crate) fn failed(mut self, failure: &Failure) {
        self.settle(Outcome::Failed(Arc::clone(failure)));
    }

    fn settle(&mut self, outcome: Outcome) {
        self.is_done = true;
        let mut shard = lock(self.cache.shard(&self.key));
        if let Outcome::Loaded(block) = &outcome {
            let most = self.cache.capacity.div_ceil(SHARDS);
            shard.put(self.key, Arc::clone(block), most);
        }
        shard.flights.remove(&self.key);
        drop(shard);
        *lock(&self.flight.result) = outcome;
        self.flight.done.notify_all();
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.settle(Outcome::GivenUp);
        }
    }
}

impl Flight {
    /// What comes of it; nothing if the one who was to load it gave up.
    pub(crate) fn wait(&self) -> Option<Result<Block, Failure>> {
        let mut result = lock(&self.result);
        loop {
            match &*result {
                Outcome::Pending => {
                    result = self.done.wait(result).unwrap_or_else(PoisonError::into_inner);
                }
                Outcome::Loaded(block) => return Some(Ok(Arc::clone(block))),
                Outcome::Failed(failure) => return Some(Err(Arc::clone(failure))),
                Outcome::GivenUp => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::{SplitMix64, start_thread};

    use super::*;

    fn key(number: u64) -> Key {
        let mut digest = [7; 32];
        // Spread over the shards, as digests are.
        digest[..8].copy_from_slice(&SplitMix64::new(number).bits().to_le_bytes());
        Key { vault: VaultId::from_bytes([1; 16]), digest: Digest::new(digest) }
    }

    fn put(cache: &BlockCache, number: u64) {
        match cache.claim(key(number)) {
            Claim::Load(ticket) => ticket.loaded(&Arc::new(vec![0; 8])),
            Claim::Found(_) | Claim::Wait(_) => {}
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_read_again_stays() {
        let cache = BlockCache::new(1024 * BLOCK_SIZE_U64);
        (0..100).for_each(|number| put(&cache, number));
        // A long sequential read, beside which the hundred are read now and then.
        for number in 1000..20_000 {
            put(&cache, number);
            if number % 100 == 0 {
                (0..100).for_each(|hot| put(&cache, hot));
            }
        }
        assert!(cache.figures().bytes <= 1040 * BLOCK_SIZE_U64, "{:?}", cache.figures());
        let is_there = |number: &u64| matches!(cache.claim(key(*number)), Claim::Found(_));
        let hot = (0..100).filter(is_there).count();
        assert_eq!(hot, 100);
    }

    #[test]
    fn a_block_is_loaded_once_however_many_ask() {
        let cache = BlockCache::new(DEFAULT_CACHE);
        let Claim::Load(ticket) = cache.claim(key(1)) else { panic!("it is nowhere yet") };
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let cache = Arc::clone(&cache);
                start_thread("waits", move || match cache.claim(key(1)) {
                    Claim::Found(block) => block.len(),
                    Claim::Wait(flight) => {
                        flight.wait().expect("is not given up").expect("is loaded").len()
                    }
                    Claim::Load(_) => panic!("it is loaded twice"),
                })
            })
            .collect();
        ticket.loaded(&Arc::new(vec![1; 5]));
        for thread in waiting {
            assert_eq!(thread.join().expect("ends"), 5);
        }
        assert_eq!(cache.figures().loads, 1);
    }

    #[test]
    fn a_failure_reaches_all_who_wait_and_nobody_who_comes_later() {
        let cache = BlockCache::new(DEFAULT_CACHE);
        let Claim::Load(ticket) = cache.claim(key(1)) else { panic!("it is nowhere yet") };
        let Claim::Wait(flight) = cache.claim(key(1)) else { panic!("somebody loads it") };
        ticket.failed(&Arc::new(VaultError::Bug("a test")));
        assert!(flight.wait().expect("is not given up").is_err());
        let Claim::Load(ticket) = cache.claim(key(1)) else { panic!("nothing is kept") };
        let Claim::Wait(flight) = cache.claim(key(1)) else { panic!("somebody loads it") };
        drop(ticket);
        assert!(flight.wait().is_none());
        assert!(matches!(cache.claim(key(1)), Claim::Load(_)));
    }
}
