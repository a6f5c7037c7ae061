//! Where a vault is: its store, found by a path or URL, with the mirrors that it has recorded.
//!
//! The named copy is always used, a recorded one only if it is a folder of this vault. The key
//! authenticates the recorded list; without the key, only folders that already hold this vault are used.
//! A copy that is missing or wrong is reported, and is no error.
//!
//! This module owns the way from a URL to a store with its mirrors and keys. It must not know what the vault holds.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_base::{Message, message};
use strongroom_format::{Conditional, VaultConfig};
use strongroom_keys::{KeyError, KeyRing, KeySource};
pub use strongroom_objects::covers;
use strongroom_objects::{Mirror, ObjectStore, Options, StoreError, open, probe};

use crate::{Early, Vault, VaultError, VaultOptions, error::Result};

/// Something that is not as it should be, but does not keep anybody from using the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Message);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// A vault's store, with its mirrors, and what it says about itself.
pub struct OpenStore {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The vault's plain description.
    pub config: VaultConfig,
    /// What is not as it should be.
    pub warnings: Vec<Warning>,
}

/// A vault's store and keys.
pub struct OpenKeys {
    /// The store, with its mirrors.
    pub store: Arc<dyn ObjectStore>,
    /// The vault's description.
    pub config: VaultConfig,
    /// Its keys.
    pub ring: KeyRing,
    /// What was asked of the store besides, if it is behind a network.
    pub early: Option<Early>,
    /// What is not as it should be.
    pub warnings: Vec<Warning>,
}

/// A vault to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVault {
    /// The path of a folder, which is made, or the URL of an object store.
    pub url: String,
    /// Folders that hold the same, which are made.
    pub mirrors: Vec<String>,
    /// What opens it.
    pub key: KeySource,
    /// Words that tell this key from others.
    pub label: String,
    /// Whether a store that cannot keep two writers apart will do.
    pub single_writer: bool,
}

/// The copy of a vault that was named. Whatever else is recorded, this one is used.
struct Named {
    url: String,
    store: Arc<dyn ObjectStore>,
    config: VaultConfig,
    identity: Option<Identity>,
    early: Option<Early>,
    warnings: Vec<Warning>,
}

/// What is found at a place that a vault's description names.
enum Found {
    /// The copy that was named.
    Named,
    /// A folder with this vault; with its description if that can be read.
    Copy(Arc<dyn ObjectStore>, Option<Box<VaultConfig>>),
    /// Nothing that may be used, and why.
    Away(Message),
}

/// What makes a folder the same one under all its names: symbolic links, further mounts.
pub type Identity = (u64, u64);

/// The identity of a folder, if it exists.
pub fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Named {
    fn open(url: &str) -> Result<Self> {
        Self::open_asking(url, None)
    }

    /// Opens the store; one behind a network is asked for all that opening the vault needs. `asking`
    /// is where this host keeps what it knows, if it keeps anything.
    #[allow(clippy::option_option, reason = "one says whether to ask, the other where to keep")]
    fn open_asking(url: &str, asking: Option<Option<&Path>>) -> Result<Self> {
        let path = folder_of(url);
        if path.as_ref().is_some_and(|path| !path.exists()) {
            return Err(VaultError::NotFound { store: url.to_owned() });
        }
        let identity = path.and_then(|path| identity(&path));
        let store = open(url, &Options::default())?;
        let (config, early) = match asking.filter(|_| !store.is_local()) {
            Some(cache_dir) => {
                let (config, early) = Early::look(&*store, cache_dir)?;
                (config, Some(early))
            }
            None => (Vault::describe(&*store)?, None),
        };
        Ok(Self { url: url.to_owned(), store, config, identity, early, warnings: Vec::new() })
    }

    /// Looks at a recorded place; nothing is written. `others` are the folders seen before.
    fn look(&self, url: &str, others: &mut Vec<Identity>) -> Found {
        let path = Path::new(url);
        // A description is read before anybody can vouch for it: it must not make the program
        // speak to some server, or look below the current folder.
        if !path.is_absolute() {
            return Found::Away(
                message!(STORE_DEGRADED: no_folder, "{url} is not the path of a folder", url),
            );
        }
        let folder = identity(path);
        if folder.is_some() && folder == self.identity {
            return Found::Named;
        }
        if folder.is_some_and(|folder| others.contains(&folder)) {
            return Found::Away(message!(
                STORE_DEGRADED: same_folder,
                "{url} is the same folder as another copy",
                url
            ));
        }
        let store = match open(url, &Options::default()) {
            Ok(store) => store,
            Err(error) => {
                return Found::Away(message!(
                    STORE_DEGRADED: unreadable,
                    "a copy of the vault is away: {error}",
                    error = error.to_string()
                ));
            }
        };
        let found = match Vault::describe(&*store) {
            Ok(config) if config.vault_id == self.config.vault_id => {
                Found::Copy(store, Some(Box::new(config)))
            }
            Ok(_) => Found::Away(message!(
                STORE_DEGRADED: other_vault,
                "{url} holds another vault, which is left alone",
                url
            )),
            // An empty folder is more often the mount point of a disk that is not mounted.
            Err(VaultError::NotFound { .. }) => Found::Away(message!(
                STORE_DEGRADED: no_copy,
                "{url} should hold a copy of the vault and does not; is its disk mounted?",
                url
            )),
            Err(_) => Found::Copy(store, None),
        };
        others.extend(folder);
        found
    }

    fn look_at_all(&self, recorded: &[String]) -> Vec<(String, Found)> {
        let mut others = Vec::new();
        let mut named = false;
        let recorded = recorded.iter().map(|url| {
            let found = match self.look(url, &mut others) {
                Found::Named if named => Found::Away(message!(
                    STORE_DEGRADED: same_folder,
                    "{url} is the same folder as another copy",
                    url
                )),
                found => found,
            };
            named |= matches!(found, Found::Named);
            (url.clone(), found)
        });
        recorded.collect()
    }

    fn warn(&mut self, message: Message) {
        self.warnings.push(Warning(message));
    }

    /// The store of the vault: this copy, and those of the recorded places that are copies. One
    /// whose description cannot be read is used only if somebody `vouches` for the list.
    fn with_mirrors(
        &mut self,
        recorded: Vec<(String, Found)>,
        vouches: bool,
    ) -> Arc<dyn ObjectStore> {
        if recorded.is_empty() {
            return Arc::clone(&self.store);
        }
        // In the order in which they are recorded, whichever was named: the first one decides
        // which of two writers creates an object.
        let (mut copies, mut absent) = (Vec::new(), Vec::new());
        let mut named = false;
        for (url, found) in recorded {
            match found {
                Found::Named => {
                    named = true;
                    copies.push(Arc::clone(&self.store));
                }
                Found::Copy(store, config) if vouches || config.is_some() => copies.push(store),
                Found::Copy(..) => {
                    self.warn(message!(
                        STORE_DEGRADED: unknown,
                        "it is unknown whether {url} is a copy of the vault",
                        url
                    ));
                    absent.push(url);
                }
                Found::Away(why) => {
                    self.warn(why);
                    absent.push(url);
                }
            }
        }
        if !named {
            let url = &self.url;
            let message = message!(
                STORE_DEGRADED: not_recorded,
                "{url} is not among the places of copies that the vault has recorded",
                url
            );
            self.warn(message);
            copies.push(Arc::clone(&self.store));
        }
        Arc::new(Mirror::new(copies, absent))
    }
}

/// Opens the store of an existing vault, without a key. Nobody vouches for the list of its mirrors
/// then: only folders that hold this vault already are used.
pub fn open_store(url: &str) -> Result<OpenStore> {
    let mut named = Named::open(url)?;
    let recorded = named.look_at_all(&named.config.mirrors);
    let store = named.with_mirrors(recorded, false);
    Ok(OpenStore { store, config: named.config, warnings: named.warnings })
}

/// Opens the store and the keys of a vault. Until the keys vouch for the list of mirrors, nothing is
/// written anywhere.
pub fn open_keys(url: &str, key: &KeySource) -> Result<OpenKeys> {
    opened_keys(Named::open(url)?, key, None)
}

/// As [`open_keys`], for who opens the vault next: a store behind a network is asked for what that needs
/// at the same time. `cache_dir` is that of [`VaultOptions`].
pub fn open_keys_early(url: &str, key: &KeySource, cache_dir: Option<&Path>) -> Result<OpenKeys> {
    opened_keys(Named::open_asking(url, Some(cache_dir))?, key, cache_dir)
}

fn opened_keys(mut named: Named, key: &KeySource, cache_dir: Option<&Path>) -> Result<OpenKeys> {
    // Only folders have mirrors.
    if let Some(early) = named.early.take().filter(|_| named.config.mirrors.is_empty()) {
        let ring = early.open_keys(&*named.store, named.config.vault_id, key, cache_dir)?;
        if ring.vouches_for(&named.config) {
            let Named { store, config, warnings, .. } = named;
            return Ok(OpenKeys { store, config, ring, early: Some(early), warnings });
        }
    }
    let mut recorded = named.look_at_all(&named.config.mirrors);
    let mut ring = unlock(&named, &recorded, key)?;
    let good = |config: &VaultConfig| ring.vouches_for(config);
    if good(&named.config) {
        let store = named.with_mirrors(recorded, true);
        ring.refresh(&*store)?;
        let Named { config, warnings, .. } = named;
        return Ok(OpenKeys { store, config, ring, early: None, warnings });
    }
    let reason = Vault::UNSEALED;
    let message = message!(STORE_CORRUPT, "{url}: {reason}", url = named.url, reason);
    named.warnings.push(Warning(message));
    let copies = recorded.iter().filter_map(|(_, found)| match found {
        Found::Copy(_, config) => config.as_deref(),
        _ => None,
    });
    if let Some(config) = copies.into_iter().find(|config| good(config)).cloned() {
        // That of another copy counts.
        recorded = named.look_at_all(&config.mirrors);
        let store = named.with_mirrors(recorded, true);
        ring.refresh(&*store)?;
        return Ok(OpenKeys { store, config, ring, early: None, warnings: named.warnings });
    }
    // Which other copies there are nobody knows; so nothing may be deleted.
    let mut absent: Vec<String> = recorded.into_iter().map(|(url, _)| url).collect();
    absent.push("copies that only an unaltered strongroom.json could name".to_owned());
    let store = Arc::new(Mirror::new(vec![Arc::clone(&named.store)], absent));
    Ok(OpenKeys { store, config: named.config, ring, early: None, warnings: named.warnings })
}

/// Opens the keys: from the copy that was named, else from another that has them.
fn unlock(
    named: &Named,
    recorded: &[(String, Found)],
    key: &KeySource,
) -> Result<KeyRing, KeyError> {
    let vault = named.config.vault_id;
    let first = KeyRing::open(&*named.store, vault, key);
    let elsewhere = match &first {
        // The copy may have been away when they were changed.
        Err(KeyError::None { .. } | KeyError::Damaged { .. } | KeyError::Wrong { .. }) => recorded,
        _ => &[],
    };
    for (_, found) in elsewhere {
        if let Found::Copy(store, _) = found
            && let Ok(ring) = KeyRing::open(&**store, vault, key)
        {
            return Ok(ring);
        }
    }
    first
}

/// Makes a vault in a place that must be empty. Its store is probed first: one that does not honour
/// create-only puts is refused, unless there will be a single writer.
pub fn create(new: &NewVault, options: VaultOptions) -> Result<Vault> {
    let with_folder = Options { create: true, ..Options::default() };
    let mut store = open(&new.url, &with_folder)?;
    let mut mirrors = Vec::new();
    if !new.mirrors.is_empty() {
        let mut copies = vec![store];
        mirrors.push(folder_url(&new.url)?);
        for mirror in &new.mirrors {
            copies.push(open(mirror, &with_folder)?);
            mirrors.push(folder_url(mirror)?);
        }
        refuse_same(&mirrors)?;
        store = Arc::new(Mirror::new(copies, Vec::new()));
    }
    // The probe writes: nothing may be touched where something else is.
    Vault::check_vacant(&*store)?;
    let puts = if probe(&*store, &*options.entropy)?.allow_several_writers() {
        Conditional::Honoured
    } else if new.single_writer {
        Conditional::Ignored
    } else {
        return Err(VaultError::Unsafe { store: store.name() });
    };
    Vault::create(store, &new.key, &new.label, puts, mirrors, options)
}

/// The folder that a vault's path or URL means, if it means one.
pub fn folder_of(url: &str) -> Option<PathBuf> {
    strongroom_objects::folder_of(url).ok().flatten()
}

/// The absolute path of a folder that is recorded in the vault as a mirror.
fn folder_url(url: &str) -> Result<String> {
    let path = folder_of(url).ok_or_else(|| StoreError::Url {
        url: url.to_owned(),
        reason: "mirrors are folders".to_owned(),
    })?;
    let absolute = fs::canonicalize(&path).map_err(|source| VaultError::Local { path, source })?;
    match absolute.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => Err(StoreError::Url {
            url: path.to_string_lossy().into_owned(),
            reason: "it is not UTF-8".to_owned(),
        }
        .into()),
    }
}

/// Refuses mirrors that are one folder, whatever it is called.
fn refuse_same(mirrors: &[String]) -> Result<()> {
    let mut seen = Vec::new();
    let mut is_new = |mirror: &String| {
        let identity = identity(Path::new(mirror));
        let is_new = !seen.contains(&identity);
        seen.push(identity);
        is_new
    };
    match mirrors.iter().find(|mirror| !is_new(mirror)) {
        Some(twice) => Err(VaultError::SameFolder { folder: twice.clone() }),
        None => Ok(()),
    }
}
