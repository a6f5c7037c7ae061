//! Opening stores and vaults as the user named them.

use std::{fs, path::Path, sync::Arc};

use strongroom_format::VaultConfig;
use strongroom_objects::{Limited, Mirror, ObjectStore, Options, Rate, StoreError, open};
use strongroom_vault::{
    Vault, VaultError, VaultOptions,
    keys::{KeyError, KeyRing, KeySource},
};

use crate::{
    args::{OpenArgs, VaultArgs},
    context::{Context, KeyChoice},
    error::{FaceError, Failure},
};

/// A vault's store, with its mirrors, and what it says about itself.
pub(crate) struct OpenStore {
    /// The store.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The vault's plain description.
    pub(crate) config: VaultConfig,
}

/// A vault's store and keys.
pub(crate) struct OpenKeys {
    /// The store, with its mirrors.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The vault's description.
    pub(crate) config: VaultConfig,
    /// Its keys.
    pub(crate) ring: KeyRing,
}

/// The copy of a vault that the user named. Whatever else is recorded, this one is used.
struct Named {
    url: String,
    store: Arc<dyn ObjectStore>,
    config: VaultConfig,
    identity: Option<Identity>,
}

/// What is found at a place that a vault's description names.
enum Found {
    /// The copy that was named.
    Named,
    /// A folder with this vault; with its description if that can be read.
    Copy(Arc<dyn ObjectStore>, Option<Box<VaultConfig>>),
    /// Nothing that may be used, and why.
    Away(String),
}

/// What makes a folder the same one under all its names: symbolic links, further mounts.
pub(crate) type Identity = (u64, u64);

/// The identity of a folder, if it exists.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Named {
    fn open(context: &Context, args: &VaultArgs) -> Result<Self, Failure> {
        let url = context.vault_url(args)?;
        let path = folder_of(&url);
        if path.is_some_and(|path| !path.exists()) {
            return Err(Failure::from(VaultError::NotFound { store: url }).with_hint(
                "The folder does not exist: check the path, and whether its disk is mounted.",
            ));
        }
        let identity = path.and_then(identity);
        let store = open(&url, &Options::default())?;
        let config = Vault::describe(&*store)?;
        Ok(Self { url, store, config, identity })
    }

    /// Looks at a recorded place; nothing is written. `others` are the folders seen before.
    fn look(&self, url: &str, others: &mut Vec<Identity>) -> Found {
        let path = Path::new(url);
        // A description is read before anybody can vouch for it: it shall not make the program
        // speak to some server, or look below the current folder.
        if !path.is_absolute() {
            return Found::Away(format!("{url} is not the path of a folder"));
        }
        let folder = identity(path);
        if folder.is_some() && folder == self.identity {
            return Found::Named;
        }
        if folder.is_some_and(|folder| others.contains(&folder)) {
            return Found::Away(format!("{url} is the same folder as another copy"));
        }
        let store = match open(url, &Options::default()) {
            Ok(store) => store,
            Err(error) => return Found::Away(format!("a copy of the vault is away: {error}")),
        };
        let found = match Vault::describe(&*store) {
            Ok(config) if config.vault_id == self.config.vault_id => {
                Found::Copy(store, Some(Box::new(config)))
            }
            Ok(_) => Found::Away(format!("{url} holds another vault, which is left alone")),
            // An empty folder is more often the mount point of a disk that is not mounted.
            Err(VaultError::NotFound { .. }) => Found::Away(format!(
                "{url} should hold a copy of the vault and does not; is its disk mounted?"
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
                Found::Named if named => {
                    Found::Away(format!("{url} is the same folder as another copy"))
                }
                found => found,
            };
            named |= matches!(found, Found::Named);
            (url.clone(), found)
        });
        recorded.collect()
    }

    /// The store of the vault: this copy, and those of the recorded places that are copies. One
    /// whose description cannot be read is used only if somebody `vouches` for the list.
    fn with_mirrors(
        &self,
        context: &Context,
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
        let warn = |words: &str| context.out.say(&format!("Warning: {words}"));
        for (url, found) in recorded {
            match found {
                Found::Named => {
                    named = true;
                    copies.push(Arc::clone(&self.store));
                }
                Found::Copy(store, config) if vouches || config.is_some() => copies.push(store),
                Found::Copy(..) => {
                    warn(&format!("{url} cannot be told to be a copy of the vault"));
                    absent.push(url);
                }
                Found::Away(why) => {
                    warn(&why);
                    absent.push(url);
                }
            }
        }
        if !named {
            let url = &self.url;
            warn(&format!("{url} is not among the places of copies that the vault has recorded"));
            copies.push(Arc::clone(&self.store));
        }
        Arc::new(Mirror::new(copies, absent))
    }
}

/// Opens the store of an existing vault, without a key. Nobody vouches for the list of its mirrors
/// then: only folders that hold this vault already are used.
pub(crate) fn open_store(context: &Context, args: &VaultArgs) -> Result<OpenStore, Failure> {
    let named = Named::open(context, args)?;
    let recorded = named.look_at_all(&named.config.mirrors);
    let store = named.with_mirrors(context, recorded, false);
    Ok(OpenStore { store, config: named.config })
}

/// Opens the store and the keys of a vault. Until the keys vouch for the list of mirrors, nothing is
/// written anywhere.
pub(crate) fn open_keys(context: &Context, args: &OpenArgs) -> Result<OpenKeys, Failure> {
    let key = key_source(context.key(&args.key)?)?;
    let named = Named::open(context, &args.vault)?;
    let mut recorded = named.look_at_all(&named.config.mirrors);
    let mut ring = unlock(&named, &recorded, &key)?;
    let good = |config: &VaultConfig| ring.vouches_for(config);
    if good(&named.config) {
        let store = named.with_mirrors(context, recorded, true);
        ring.refresh(&*store)?;
        return Ok(OpenKeys { store, config: named.config, ring });
    }
    context.out.say(&format!("Warning: {}: {}", named.url, Vault::UNSEALED));
    let copies = recorded.iter().filter_map(|(_, found)| match found {
        Found::Copy(_, config) => config.as_deref(),
        _ => None,
    });
    if let Some(config) = copies.into_iter().find(|config| good(config)).cloned() {
        // That of another copy counts.
        recorded = named.look_at_all(&config.mirrors);
        let store = named.with_mirrors(context, recorded, true);
        ring.refresh(&*store)?;
        return Ok(OpenKeys { store, config, ring });
    }
    // Which other copies there are nobody knows; so nothing may be deleted.
    let mut absent: Vec<String> = recorded.into_iter().map(|(url, _)| url).collect();
    absent.push("copies that only an unaltered strongroom.json could name".to_owned());
    let store = Arc::new(Mirror::new(vec![Arc::clone(&named.store)], absent));
    Ok(OpenKeys { store, config: named.config, ring })
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

/// Opens a vault with its key. With a rate, its store moves at most so many bytes a second.
pub(crate) fn open_vault(
    context: &Context,
    args: &OpenArgs,
    limit_rate: Option<u64>,
) -> Result<Arc<Vault>, Failure> {
    let OpenKeys { store, config, ring } = open_keys(context, args)?;
    let store = match limit_rate {
        Some(rate) => {
            let rate = Rate::new(rate, Arc::new(context.clock));
            Arc::new(Limited::new(store, rate))
        }
        None => store,
    };
    let options = vault_options(context, args.cache_dir.as_ref());
    Ok(Arc::new(Vault::open_with(store, config, ring, options)?))
}

/// How vaults are opened.
pub(crate) fn vault_options(
    context: &Context,
    cache_dir: Option<&std::path::PathBuf>,
) -> VaultOptions {
    VaultOptions { cache_dir: Some(context.cache_dir(cache_dir)), ..VaultOptions::default() }
}

/// A key as the vault takes it.
pub(crate) fn key_source(key: KeyChoice) -> Result<KeySource, KeyError> {
    Ok(match key {
        KeyChoice::File(file) => KeySource::File(file),
        KeyChoice::Passphrase(file) => KeySource::Passphrase(file),
        KeyChoice::Pkcs11(uri) => KeySource::Pkcs11(Box::new(uri.parse()?)),
    })
}

/// The folder that a vault's name means, if it means one.
fn folder_of(url: &str) -> Option<&Path> {
    match url.split_once("://") {
        None => Some(Path::new(url)),
        Some(("file", path)) => Some(Path::new(path)),
        Some(_) => None,
    }
}

/// The absolute path of a folder that is recorded in the vault as a mirror.
pub(crate) fn folder_url(url: &str) -> Result<String, Failure> {
    let path = folder_of(url).ok_or_else(|| StoreError::Url {
        url: url.to_owned(),
        reason: "mirrors are folders".to_owned(),
    })?;
    let failed = |source| FaceError::Local { path: path.to_owned(), action: "find", source };
    let absolute = fs::canonicalize(path).map_err(failed)?;
    match absolute.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => Err(StoreError::Url {
            url: path.to_string_lossy().into_owned(),
            reason: "it is not UTF-8".to_owned(),
        }
        .into()),
    }
}
