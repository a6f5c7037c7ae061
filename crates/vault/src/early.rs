//! What is asked of a store behind a network before anything else: all at once, as each question costs
//! a round trip and none needs the answer to another.
//!
//! Long lists are asked for in parts. Which, this host remembers of the place: a file of the cache
//! folder that is only a guess and may be deleted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use strongroom_base::VaultId;
use strongroom_format::{VaultConfig, names};
use strongroom_keys::{KeyError, KeyRing, KeySource};
use strongroom_objects::{Entry, Key, ObjectStore};

use crate::{
    Vault, VaultError,
    error::Result,
    files::write_whole,
    kept::{Kept, Listed},
    together::{Piece, ask, cuts_of, do_together, list_in_parts},
};

/// What a store showed when a vault in it was opened.
#[derive(Debug, Default)]
pub struct Early {
    pub(crate) keys: Vec<Entry>,
    pub(crate) index: Vec<Entry>,
    pub(crate) points: Vec<Entry>,
    pub(crate) deleted: Vec<Entry>,
    pub(crate) damaged: Vec<Entry>,
}

/// Where long lists of a place are divided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cuts {
    index: Vec<String>,
    points: Vec<String>,
    deleted: Vec<String>,
}

fn keys(names: &[String]) -> Vec<Key> {
    names.iter().filter_map(|name| Key::new(name.clone()).ok()).collect()
}

fn cut(entries: &[Entry]) -> Vec<String> {
    cuts_of(entries.iter().map(|entry| &entry.key)).iter().map(ToString::to_string).collect()
}

impl Early {
    /// Asks a store for the description of the vault in it, and for the lists.
    pub(crate) fn look(
        store: &dyn ObjectStore,
        cache_dir: Option<&Path>,
    ) -> Result<(VaultConfig, Self)> {
        let file = cache_dir.map(|dir| file_of(dir, &store.name()));
        let read = |file: &PathBuf| serde_json::from_slice::<Cuts>(&fs::read(file).ok()?).ok();
        let cuts = file.as_ref().and_then(read).unwrap_or_default();
        let mut config = None;
        let mut early = Self::default();
        let list = |prefix, cuts: &[String]| list_in_parts(store, prefix, &keys(cuts));
        let pieces: Vec<Piece<'_>> = vec![
            ask(&mut config, || Vault::describe(store).map(Some)),
            ask(&mut early.keys, || list(names::KEYS, &[])),
            ask(&mut early.index, || list(names::INDEX, &cuts.index)),
            ask(&mut early.points, || list(names::POINTS, &cuts.points)),
            ask(&mut early.deleted, || list(names::DELETED, &cuts.deleted)),
            ask(&mut early.damaged, || list(names::DAMAGED, &[])),
        ];
        do_together(true, pieces)?;
        let now = Cuts {
            index: cut(&early.index),
            points: cut(&early.points),
            deleted: cut(&early.deleted),
        };
        if let Some(file) = file.filter(|_| now != cuts) {
            remember(&file, &now);
        }
        let config = config.ok_or(VaultError::Bug("a question without an answer"))?;
        Ok((config, early))
    }

    /// Opens the keys of the vault: what of them is not kept on this host is read at once.
    pub(crate) fn open_keys(
        &self,
        store: &dyn ObjectStore,
        vault: VaultId,
        key: &KeySource,
        cache_dir: Option<&Path>,
    ) -> std::result::Result<KeyRing, KeyError> {
        let kept = cache_dir.map(|dir| Kept::new(&dir.join(vault.to_string())));
        let listed = Listed::new(store, names::KEYS, &self.keys, kept.as_ref());
        let own = ["rings/", "slots/"].map(|folder| format!("{}{folder}", names::keys_of(vault)));
        listed.read_ahead(|name| own.iter().any(|folder| name.as_str().starts_with(folder)));
        KeyRing::open(&listed, vault, key)
    }
}

fn file_of(cache_dir: &Path, store: &str) -> PathBuf {
    let name = blake3::hash(store.as_bytes()).to_hex();
    cache_dir.join("places").join(format!("{name}.json"))
}

fn remember(file: &Path, cuts: &Cuts) {
    let write = || {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        write_whole(file, &serde_json::to_vec(cuts)?)
    };
    if let Err(error) = write() {
        tracing::debug!(file = %file.display(), %error, "how long lists are is not remembered");
    }
}
