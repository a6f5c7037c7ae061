//! An open vault: its store, keys and index, and how its objects are sealed and opened.
//!
//! This module owns what all others of the crate share: names of objects become sealed objects and back here, and
//! errors of the store become errors of the vault. It must not know what any object means: that is the matter of the
//! module that is named after it.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use strongroom_base::{
    Clock, Entropy, EntropyExt as _, Environment, KeyId, PackId, Recently, SystemClock,
    SystemEntropy, VaultId, check_name, lock,
};
use strongroom_format::{
    Conditional, FormatError, IndexObject, SealKey, VaultConfig,
    names::{self, ItemKey},
    pack::{Header, Packing},
    sealed::{self, SealedHeader, SealedKind},
    secret::SecretKey,
};
use strongroom_image::Hasher;
use strongroom_keys::{KeyRing, KeySource};
use strongroom_objects::{Entry, Key, ObjectStore, PROBES, Put, StoreError};
use ulid::Ulid;

use crate::{
    VaultError,
    early::Early,
    error::Result,
    index::Index,
    kept::Kept,
    leftovers::Leftovers,
    points::PointNames,
    read::{Windows, is_damage},
    store_clock::StoreClock,
    together::{Piece, cuts_of, do_together},
};

/// What opening a vault needs besides the store and the key.
#[derive(Clone)]
pub struct VaultOptions {
    /// Folder of the index cache; each vault has its own below it. None: a temporary one.
    pub cache_dir: Option<PathBuf>,
    /// The clock of points, notes and pauses.
    pub clock: Arc<dyn Clock>,
    /// The source of random ids and salts.
    pub entropy: Arc<dyn Entropy>,
    /// Threads that put packs; 0 puts them in the calling thread (for the simulator).
    pub uploaders: usize,
    /// Bytes after which a data pack is closed.
    pub pack_size: usize,
    /// Whether a thread says regularly that a writer is alive.
    pub beats: bool,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            uploaders: 2,
            pack_size: 32 * 1024 * 1024,
            beats: true,
        }
    }
}

/// The points of a vault at a moment of the monotonic clock, and how often they may be asked for.
#[derive(Debug)]
struct AtOpening {
    names: PointNames,
    at: Duration,
    looks: u8,
}

/// A folder for files that live only as long as the value that holds it.
pub fn temporary_folder() -> Result<tempfile::TempDir> {
    let path = Environment::given().temporary_folder();
    tempfile::tempdir_in(&path).map_err(|source| VaultError::Local { path, source })
}

/// Sealed bytes of index objects that are read at once.
const INDEX_AT_ONCE: u64 = 8 << 20;

/// How long what was listed when the vault was opened is an answer to what there is now.
const NOW: Duration = Duration::from_secs(2);

/// An open vault. Cheap to share; all methods may be called from many threads.
pub struct Vault {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) config: VaultConfig,
    /// The format that its description has by now.
    pub(crate) format: AtomicU16,
    pub(crate) options: VaultOptions,
    pub(crate) index: Index,
    keys: RwLock<KeyRing>,
    hasher: Hasher,
    name_key: SecretKey,
    seal_keys: Mutex<Recently<[u8; 32], Arc<SealKey>>>,
    pub(crate) nodes: Mutex<Recently<strongroom_base::Digest, Arc<strongroom_image::Node>>>,
    pub(crate) windows: Windows,
    pub(crate) store_clock: StoreClock,
    /// Whether it was seen to that the description is there twice.
    pub(crate) described: AtomicBool,
    /// Whether the index cache was checked as a whole since it was opened.
    pub(crate) checked: AtomicBool,
    /// What was read of packs that no index object lists.
    pub(crate) leftovers: Leftovers,
    /// What is kept on this host of a store behind a network.
    pub(crate) kept: Option<Kept>,
    /// The packs with a damage note when the vault was opened, for the first writer.
    damaged_at_opening: Mutex<Option<(HashSet<PackId>, Duration)>>,
    /// The points that there were when the vault was opened, for who asks at once.
    at_opening: Mutex<Option<AtOpening>>,
    /// Lives as long as the vault if the cache folder is a temporary one.
    _temporary: Option<tempfile::TempDir>,
}

impl Vault {
    /// Makes a new vault in an empty store, which must have been probed, and opens it.
    pub fn create(
        store: Arc<dyn ObjectStore>,
        key: &KeySource,
        label: &str,
        create_only_puts: Conditional,
        mirrors: Vec<String>,
        options: VaultOptions,
    ) -> Result<Self> {
        Self::check_vacant(&*store)?;
        let vault_id = VaultId::generate(&*options.clock, &*options.entropy);
        let mut config = VaultConfig::new(vault_id, options.clock.now(), create_only_puts, mirrors);
        let ring =
            KeyRing::create(&*store, vault_id, key, label, &*options.clock, &*options.entropy)?;
        config.seal = Some(ring.seal_of(&config));
        let bytes =
            config.encode().map_err(|source| VaultError::Format { what: "the vault", source })?;
        // Last, so that what has a description is complete.
        match store.put_new(&names::config(), &bytes)? {
            Put::Created => {
                remove_probes(&*store)?;
                let vault = Self::assemble(store, config, ring, options)?;
                vault.describe_twice();
                Ok(vault)
            }
            Put::Exists => {
                KeyRing::discard(&*store, vault_id)?;
                Err(VaultError::Exists { store: store.name(), what: "a vault".to_owned() })
            }
        }
    }

    /// Refuses a place where something is: a vault, or what no vault has written. What a creation
    /// that broke off leaves is nothing: keys lie under the id of their vault, and each probe has
    /// a folder of its own.
    pub fn check_vacant(store: &dyn ObjectStore) -> Result<()> {
        let mut found = None;
        store.list("", &mut |entry| {
            if [names::KEYS, PROBES].iter().any(|folder| entry.key.as_str().starts_with(folder)) {
                return ControlFlow::Continue(());
            }
            found = Some(entry.key);
            ControlFlow::Break(())
        })?;
        let Some(found) = found else { return Ok(()) };
        let is_vault = found == names::config() || Self::describe(store).is_ok();
        let what = if is_vault { "a vault".to_owned() } else { found.to_string() };
        Err(VaultError::Exists { store: store.name(), what })
    }

    /// Opens a vault: checks the key and brings the index cache up to date.
    pub fn open(
        store: Arc<dyn ObjectStore>,
        key: &KeySource,
        options: VaultOptions,
    ) -> Result<Self> {
        if store.is_local() {
            let config = Self::describe(&*store)?;
            let ring = KeyRing::open(&*store, config.vault_id, key)?;
            return Self::open_with(store, config, ring, options);
        }
        let cache_dir = options.cache_dir.as_deref();
        let (config, early) = Early::look(&*store, cache_dir)?;
        let ring = early.open_keys(&*store, config.vault_id, key, cache_dir)?;
        Self::open_early(store, config, ring, Some(early), options)
    }

    /// Opens a vault whose description was read and whose keys were opened before: brings the index
    /// cache up to date.
    pub fn open_with(
        store: Arc<dyn ObjectStore>,
        config: VaultConfig,
        ring: KeyRing,
        options: VaultOptions,
    ) -> Result<Self> {
        Self::open_early(store, config, ring, None, options)
    }

    /// As [`Self::open_with`], with what was asked of the store together with the description.
    pub fn open_early(
        store: Arc<dyn ObjectStore>,
        mut config: VaultConfig,
        ring: KeyRing,
        early: Option<Early>,
        options: VaultOptions,
    ) -> Result<Self> {
        if !ring.vouches_for(&config) {
            tracing::warn!("{}", Self::UNSEALED);
            // Who says that several may write at once may want them to overwrite each other.
            config.create_only_puts = Conditional::Ignored;
        }
        let vault = Self::assemble(store, config, ring, options)?;
        match early {
            None => vault.sync()?,
            Some(early) => {
                let copy = names::config_copy(vault.config.vault_id);
                let described = early.keys.iter().any(|entry| entry.key == copy);
                vault.described.store(described, Ordering::Relaxed);
                vault.sync_with(&early.index)?;
                let damaged = early.damaged.iter();
                let damaged = damaged.filter_map(|entry| names::parse_damaged(&entry.key));
                *lock(&vault.damaged_at_opening) =
                    Some((damaged.collect(), vault.options.clock.monotonic()));
                let names = PointNames::new(&early.points, &early.deleted);
                let at = vault.options.clock.monotonic();
                let at_opening = AtOpening { names, at, looks: 2 };
                *lock(&vault.at_opening) = Some(at_opening);
            }
        }
        Ok(vault)
    }

    /// Packs that had a damage note when the vault was opened: for the first who asks. Such a note is
    /// advice, and as good if it is a little old.
    pub(crate) fn take_damaged_at_opening(&self) -> Option<HashSet<PackId>> {
        let mut damaged = lock(&self.damaged_at_opening);
        let (damaged, at) = damaged.take()?;
        (self.options.clock.monotonic().saturating_sub(at) <= NOW).then_some(damaged)
    }

    /// The points that there are, as far as a list tells that was made when the vault was opened a
    /// moment ago: once for who looks whether there are less than before, and once for who was asked
    /// for them. Not for who writes.
    pub(crate) fn names_at_opening(&self, item: Option<ItemKey>) -> Option<PointNames> {
        let mut at_opening = lock(&self.at_opening);
        let found = at_opening.as_mut()?;
        let age = self.options.clock.monotonic().saturating_sub(found.at);
        if found.looks == 0 || age > NOW {
            *at_opening = None;
            return None;
        }
        found.looks = found.looks.saturating_sub(1);
        Some(match item {
            Some(item) => found.names.of(item),
            None => found.names.clone(),
        })
    }

    /// What is said of a description without a good seal.
    pub const UNSEALED: &'static str = "strongroom.json is not what the vault's key vouches for: \
        somebody has altered it; see docs/use/recovery.md";

    /// Whether the vault's key vouches for a description of it.
    pub fn vouches_for(&self, config: &VaultConfig) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).vouches_for(config)
    }

    pub(crate) fn seal_of(&self, config: &VaultConfig) -> String {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).seal_of(config)
    }

    fn assemble(
        store: Arc<dyn ObjectStore>,
        config: VaultConfig,
        ring: KeyRing,
        options: VaultOptions,
    ) -> Result<Self> {
        let mut temporary = None;
        let dir = if let Some(dir) = &options.cache_dir {
            dir.join(config.vault_id.to_string())
        } else {
            let dir = temporary_folder()?;
            temporary.insert(dir).path().to_owned()
        };
        let index =
            Index::open(&dir).map_err(|source| VaultError::Local { path: dir.clone(), source })?;
        let oldest = ring.oldest();
        let hasher = Hasher::new(
            oldest.derive("block digest", b"").as_bytes(),
            oldest.derive("node digest", b"").as_bytes(),
        );
        let name_key = oldest.derive("item name", b"");
        Ok(Self {
            windows: Windows::new(store.is_local()),
            kept: (!store.is_local()).then(|| Kept::new(&dir)),
            damaged_at_opening: Mutex::default(),
            at_opening: Mutex::default(),
            store_clock: StoreClock::default(),
            store,
            format: config.format.into(),
            config,
            options,
            index,
            keys: RwLock::new(ring),
            hasher,
            name_key,
            seal_keys: Mutex::new(Recently::new(4096)),
            nodes: Mutex::new(Recently::new(2048)),
            checked: false.into(),
            described: false.into(),
            leftovers: Leftovers::default(),
            _temporary: temporary,
        })
    }

    /// The vault's description.
    pub fn config(&self) -> &VaultConfig {
        &self.config
    }

    /// How packs of data are packed in this vault.
    pub(crate) fn packing(&self) -> Packing {
        if self.format.load(Ordering::Acquire) >= VaultConfig::UNITS {
            Packing::Units
        } else {
            Packing::Single
        }
    }

    /// What it was opened with.
    pub fn options(&self) -> &VaultOptions {
        &self.options
    }

    /// The vault's store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The vault's index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Breaks this open vault on purpose: its writers share what the last of them saw of the packs and
    /// condemnations, instead of each relying on its own look. Data will be lost. For the simulator
    /// alone, which must notice.
    #[cfg(feature = "sabotage")]
    pub fn sabotage_trust(&self) {
        self.index.share_trust();
    }

    /// The vault's clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.options.clock
    }

    /// The vault's source of chance.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.options.entropy
    }

    /// Computes the vault's digests.
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// The keys, for managing slots.
    pub fn keys(&self) -> &RwLock<KeyRing> {
        &self.keys
    }

    /// The folder of an item.
    pub(crate) fn item_key(&self, item: &str) -> Result<ItemKey> {
        if !check_name(item) {
            return Err(VaultError::Name { name: item.chars().take(80).collect() });
        }
        let hash = blake3::keyed_hash(self.name_key.as_bytes(), item.as_bytes());
        Ok(ItemKey(*hash.as_bytes().first_chunk().ok_or(VaultError::Bug("a short hash"))?))
    }

    /// A key for one object; `object` names it in errors.
    fn derive(&self, key_id: KeyId, salt: &[u8; 32], label: &str, object: &str) -> Result<SealKey> {
        let read = || self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if read().get(key_id).is_none() {
            // Somebody may have rotated the master key meanwhile.
            self.keys.write().unwrap_or_else(PoisonError::into_inner).refresh(&*self.store)?;
        }
        match read().get(key_id) {
            Some(master) => Ok(SealKey::new(master.derive(label, salt).as_bytes())),
            None => {
                Err(VaultError::UnknownKey { object: object.to_owned(), key: key_id.to_string() })
            }
        }
    }

    /// The key of a pack.
    pub(crate) fn pack_key(&self, header: &Header, object: &Key) -> Result<Arc<SealKey>> {
        let cached = |vault: &Self| lock(&vault.seal_keys).get(&header.salt);
        if let Some(key) = cached(self) {
            return Ok(key);
        }
        let key = Arc::new(self.derive(header.key_id, &header.salt, "pack", object.as_str())?);
        lock(&self.seal_keys).put(header.salt, Arc::clone(&key));
        Ok(key)
    }

    /// The key of a pack that is about to be written.
    pub(crate) fn new_pack_key(&self, header: &Header) -> Result<SealKey> {
        self.derive(header.key_id, &header.salt, "pack", "a new pack")
    }

    /// The current master key's id and a fresh salt.
    pub(crate) fn fresh(&self) -> (KeyId, [u8; 32]) {
        let (key_id, _) = self.keys.read().unwrap_or_else(PoisonError::into_inner).current();
        (key_id, self.options.entropy.array())
    }

    /// Seals a metadata object.
    pub(crate) fn seal(&self, kind: SealedKind, name: &Key, plain: &[u8]) -> Result<Vec<u8>> {
        let (key_id, salt) = self.fresh();
        let key = self.derive(key_id, &salt, "object", name.as_str())?;
        sealed::seal(kind, name.as_str(), SealedHeader { key_id, salt }, &key, plain)
            .map_err(|source| VaultError::Format { what: "a sealed object", source })
    }

    /// Opens a metadata object.
    pub(crate) fn unseal(&self, kind: SealedKind, name: &Key, object: Vec<u8>) -> Result<Vec<u8>> {
        let damaged = |source| VaultError::Object { object: name.to_string(), source };
        let header = SealedHeader::parse(&object, kind).map_err(damaged)?;
        let key = self.derive(header.key_id, &header.salt, "object", name.as_str())?;
        sealed::open(kind, name.as_str(), &key, object).map_err(damaged)
    }

    /// Reads and opens a metadata object; a damaged copy is replaced by a good one where there
    /// is one.
    pub(crate) fn read_sealed(&self, kind: SealedKind, name: &Key) -> Result<Vec<u8>> {
        let read = || self.unseal(kind, name, self.store.get(name, sealed::MAX_SEALED)?);
        match read() {
            Err(VaultError::Object { .. } | VaultError::UnknownKey { .. }) => {
                let good = |bytes: &[u8]| self.unseal(kind, name, bytes.to_vec()).is_ok();
                match self.store.heal(name, &good) {
                    Ok(_) => read(),
                    // A bad copy that cannot be replaced is read last from now on.
                    Err(error) => read().map_err(|_| error.into()),
                }
            }
            other => other,
        }
    }

    /// Seals and puts a new metadata object.
    pub(crate) fn put_sealed(&self, kind: SealedKind, name: &Key, plain: &[u8]) -> Result<Put> {
        Ok(self.store.put_new(name, &self.seal(kind, name, plain)?)?)
    }

    /// As [`Self::put_sealed`], for an object that speaks of a process of this machine.
    pub(crate) fn put_sealed_passing(
        &self,
        kind: SealedKind,
        name: &Key,
        plain: &[u8],
    ) -> Result<Put> {
        Ok(self.store.put_passing(name, &self.seal(kind, name, plain)?)?)
    }

    /// All keys under a prefix.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.store.list(prefix, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        })?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// Brings the index cache up to date with the vault's index objects.
    pub fn sync(&self) -> Result<()> {
        let known = self.index.sources();
        let cuts: Vec<_> = if self.store.lists_by_name() {
            let mut names: Vec<_> = known.iter().map(|id| names::index(*id)).collect();
            names.sort_unstable();
            cuts_of(names.iter())
        } else {
            Vec::new()
        };
        let listed = self.list_in_parts(names::INDEX, &cuts)?;
        self.sync_from(&listed, &known)
    }

    /// As [`Self::sync`], with a list of the index objects that was made before anything was known of
    /// the vault.
    fn sync_with(&self, listed: &[Entry]) -> Result<()> {
        let known = self.index.sources();
        self.sync_from(listed, &known)
    }

    /// Brings the index cache up to date with a list of the index objects that was made when these
    /// were known.
    fn sync_from(&self, listed: &[Entry], known: &HashSet<Ulid>) -> Result<()> {
        let present: HashSet<Ulid> =
            listed.iter().filter_map(|entry| names::parse_ulid(&entry.key)).collect();
        let local = |source| VaultError::Local { path: self.cache_path(), source };
        self.index.set_present(present, known).map_err(local)?;
        let known = self.index.sources();
        let mut batch = Vec::new();
        let mut damaged = Vec::new();
        let mut records = 0_usize;
        let wanted = listed
            .iter()
            .filter_map(|entry| Some((names::parse_ulid(&entry.key)?, entry.size)))
            .filter(|(id, _)| !known.contains(id) && !self.was_read_around(*id));
        let wanted: Vec<_> = wanted.collect();
        for (id, object) in self.index_objects(&wanted) {
            let object = match object {
                Ok(object) => object,
                // Reclaim replaces index objects; its replacement is, or will be, in the list.
                Err(VaultError::Store(StoreError::Missing { .. })) => continue,
                // A damaged index object costs time, not data: see `leftovers.rs`.
                Err(error) if is_damage(&error) => {
                    tracing::warn!(%error, "an index object cannot be read: its packs are asked");
                    damaged.push(id);
                    continue;
                }
                Err(error) => return Err(error),
            };
            records = records.saturating_add(object.digests().count());
            batch.push((id, object.packs));
            if records >= IndexObject::TARGET_RECORDS {
                self.add_batch(&mut batch)?;
                records = 0;
            }
        }
        self.add_batch(&mut batch)?;
        damaged.into_iter().try_for_each(|id| self.read_around(id))
    }

    /// Reads index objects of these sizes, several at once where each costs a round trip; in their order,
    /// and not too many bytes at once, as they may be large.
    pub(crate) fn index_objects<'a>(
        &'a self,
        wanted: &'a [(Ulid, u64)],
    ) -> impl Iterator<Item = (Ulid, Result<IndexObject>)> + 'a {
        let at_once = self.at_once();
        let mut rest = wanted;
        let groups = std::iter::from_fn(move || {
            let mut bytes = 0_u64;
            let fits = rest.iter().take(at_once).take_while(|(_, size)| {
                bytes = bytes.saturating_add(*size);
                bytes <= INDEX_AT_ONCE
            });
            let (group, after) = rest.split_at_checked(fits.count().max(1))?;
            rest = after;
            Some(group)
        });
        groups.flat_map(move |group| {
            let mut objects: Vec<Option<Result<IndexObject>>> =
                group.iter().map(|_| None).collect();
            let pieces = group.iter().zip(&mut objects).map(|((id, _), object)| -> Piece<'_> {
                Box::new(|| {
                    *object = Some(self.read_index_object(*id));
                    Ok(())
                })
            });
            let pieces: Vec<_> = pieces.collect();
            // Each failure is the answer for its own object.
            drop(do_together(pieces.len() > 1, pieces));
            let read = group.iter().map(|(id, _)| *id).zip(objects);
            read.filter_map(|(id, object)| Some((id, object?))).collect::<Vec<_>>()
        })
    }

    /// Checks the whole index cache, rebuilds damaged parts, and brings it up to date.
    pub(crate) fn sync_checked(&self) -> Result<()> {
        self.index.drop_damaged().map_err(|error| self.local_error(error))?;
        self.sync()
    }

    fn add_batch(
        &self,
        batch: &mut Vec<(Ulid, Vec<strongroom_format::pack::Contents>)>,
    ) -> Result<()> {
        let objects: Vec<_> = batch.iter().map(|(id, packs)| (*id, packs.as_slice())).collect();
        self.index
            .add(&objects)
            .map_err(|source| VaultError::Local { path: self.cache_path(), source })?;
        batch.clear();
        Ok(())
    }

    /// Reads one index object.
    pub(crate) fn read_index_object(&self, id: Ulid) -> Result<IndexObject> {
        let name = names::index(id);
        let plain = self.read_sealed(SealedKind::Index, &name)?;
        IndexObject::decode(&plain)
            .map_err(|source: FormatError| VaultError::Object { object: name.to_string(), source })
    }

    /// A new id for an index object or a condemnation.
    pub(crate) fn new_ulid(&self) -> Ulid {
        let millis = u64::try_from(self.options.clock.now().as_millisecond()).unwrap_or(0);
        Ulid::from_parts(millis, u128::from_be_bytes(self.options.entropy.array()))
    }

    pub(crate) fn cache_path(&self) -> PathBuf {
        let temporary = || Environment::given().temporary_folder();
        self.options.cache_dir.clone().unwrap_or_else(temporary)
    }

    pub(crate) fn local_error(&self, source: std::io::Error) -> VaultError {
        VaultError::Local { path: self.cache_path(), source }
    }
}

/// Removes what probes left that broke off.
fn remove_probes(store: &dyn ObjectStore) -> Result<()> {
    let mut left = Vec::new();
    store.list(PROBES, &mut |entry| {
        left.push(entry.key);
        ControlFlow::Continue(())
    })?;
    Ok(left.iter().try_for_each(|key| store.delete(key))?)
}
