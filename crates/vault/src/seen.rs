//! Vaults that have gone back: to an older state, or without points that were there.
//!
//! A store can be rolled back, or lose objects, without anything in it being damaged. Who knows what
//! there must be asks for it: [`Vault::absent`]. Who does not remembers what it saw: the newest point
//! of each item, how many there were, and the generation of the key ring, in a file of the vault's
//! cache folder. Deleting it harms nothing but this memory.
//!
//! This module owns what is remembered and the comparison. What follows from a loss is for the caller to decide.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt, fs, io,
    path::PathBuf,
    sync::PoisonError,
};

use serde::{Deserialize, Serialize};
use strongroom_base::PointId;

use crate::{Vault, VaultError, error::Result, files::write_whole, points::PointNames};
use strongroom_format::names::ItemKey;

/// How a point that should be there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// It has no manifest.
    Missing,
    /// It has a deletion note.
    Hidden,
}

/// A point that should be there and is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AbsentPoint {
    /// Its item's name.
    pub item: String,
    /// The point.
    pub point: PointId,
    /// How it is absent.
    pub how: Absence,
}

/// That a vault is not what this host saw last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regression {
    /// Its key ring is older.
    Keys {
        /// The generation that was seen.
        seen: u32,
        /// The one that is there.
        found: u32,
    },
    /// The newest point of an item is gone, and no deletion of it was seen.
    Point {
        /// The item; none if its name is not known.
        item: Option<String>,
        /// The point.
        newest: PointId,
        /// How many points of the item were seen.
        seen: u64,
        /// How many there are.
        found: u64,
    },
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { seen, found } => write!(
                f,
                "the vault's key ring has generation {found}, and had {seen} when this host saw it last"
            ),
            Self::Point { item, newest, seen, found } => {
                let item = item.as_deref().unwrap_or("an item");
                write!(
                    f,
                    "recovery point {newest} of {item}, the newest that this host has seen, is gone: \
                     there were {seen}, and there are {found}"
                )
            }
        }
    }
}

/// What was seen of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SeenItem {
    newest: PointId,
    points: u64,
}

/// What was seen of a vault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    ring: u32,
    items: BTreeMap<String, SeenItem>,
}

impl Vault {
    /// Which of these points are not there: of one item, or of all. A point that was made after the
    /// caller had listed what it expects is not missed.
    pub fn absent(
        &self,
        item: Option<&str>,
        expected: &[(String, PointId)],
    ) -> Result<Vec<AbsentPoint>> {
        let names = self.point_names(item.map(|item| self.item_key(item)).transpose()?)?;
        let visible = names.visible.iter();
        let visible: HashSet<(ItemKey, PointId)> = visible
            .flat_map(|(item, points)| points.iter().map(move |point| (*item, *point)))
            .collect();
        let hidden: HashSet<_> = names.deleted.into_iter().collect();
        let mut keys: HashMap<&str, ItemKey> = HashMap::new();
        let mut absent = Vec::new();
        for (item, point) in expected {
            let key = match keys.get(item.as_str()) {
                Some(key) => *key,
                None => *keys.entry(item.as_str()).or_insert(self.item_key(item)?),
            };
            if visible.contains(&(key, *point)) {
                continue;
            }
            let is_hidden = hidden.contains(&(key, *point)) && self.has_manifest(key, *point)?;
            let how = if is_hidden { Absence::Hidden } else { Absence::Missing };
            absent.push(AbsentPoint { item: item.clone(), point: *point, how });
        }
        Ok(absent)
    }

    fn has_manifest(&self, item: ItemKey, point: PointId) -> Result<bool> {
        match self.manifest(item, point) {
            Ok(manifest) => Ok(manifest.is_some()),
            Err(error) if crate::read::is_damage(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The file in which this host remembers what it saw; none without a cache folder.
    pub fn memory_file(&self) -> Option<PathBuf> {
        let dir = self.options.cache_dir.as_ref()?;
        Some(dir.join(self.config.vault_id.to_string()).join("seen.json"))
    }

    /// The newest point of an item that this host has seen.
    pub(crate) fn remembered_newest(&self, item: ItemKey) -> Option<PointId> {
        let text = fs::read(self.memory_file()?).ok()?;
        let memory = serde_json::from_slice::<Memory>(&text).ok()?;
        memory.items.get(&item.to_string()).map(|seen| seen.newest)
    }

    /// How the vault is less than this host saw last; remembers what it sees now.
    pub fn regressions(&self) -> Result<Vec<Regression>> {
        let Some(path) = self.memory_file() else { return Ok(Vec::new()) };
        let names = match self.names_at_opening(None) {
            Some(names) => names,
            None => self.point_names(None)?,
        };
        let failed = |source| VaultError::Local { path: path.clone(), source };
        let before = match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<Memory>(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the record of the vault's newest points was lost");
                Memory::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Memory::default(),
            Err(error) => return Err(failed(error)),
        };
        let ring = self.keys().read().unwrap_or_else(PoisonError::into_inner).generation();
        let mut after = before.clone();
        let mut found = Vec::new();
        if ring < before.ring {
            found.push(Regression::Keys { seen: before.ring, found: ring });
        }
        after.ring = ring.max(before.ring);
        // The name of an item stands in the manifests that are left.
        let name_of = |item: ItemKey, points: &[PointId]| {
            points.iter().rev().find_map(|point| Some(self.manifest(item, *point).ok()??.item))
        };
        found.extend(compare(&mut after, &names, name_of));
        if after != before
            && let Err(error) = save(&path, &after)
        {
            // A cache that cannot be written is no reason not to work.
            tracing::warn!(path = %path.display(), %error, "the record of the vault's newest points cannot be saved");
        }
        Ok(found)
    }
}

/// Compares what was seen with what is there, and remembers what is not less.
fn compare(
    memory: &mut Memory,
    names: &PointNames,
    name_of: impl Fn(ItemKey, &[PointId]) -> Option<String>,
) -> Vec<Regression> {
    let mut found = Vec::new();
    let hidden: HashSet<_> = names.deleted.iter().copied().collect();
    let mut keys: BTreeSet<ItemKey> = names.visible.keys().copied().collect();
    keys.extend(memory.items.keys().filter_map(|key| key.parse::<ItemKey>().ok()));
    for key in keys {
        let visible = names.visible.get(&key).map_or(&[][..], Vec::as_slice);
        let count = u64::try_from(visible.len()).unwrap_or(u64::MAX);
        let newest = visible.iter().max().copied();
        if let Some(seen) = memory.items.get(&key.to_string())
            && newest.is_none_or(|newest| newest < seen.newest)
            && !hidden.contains(&(key, seen.newest))
        {
            found.push(Regression::Point {
                item: name_of(key, visible),
                newest: seen.newest,
                seen: seen.points,
                found: count,
            });
            continue;
        }
        match newest {
            Some(newest) => {
                memory.items.insert(key.to_string(), SeenItem { newest, points: count });
            }
            None => {
                memory.items.remove(&key.to_string());
            }
        }
    }
    found
}

/// Writes the file in one step.
fn save(path: &std::path::Path, memory: &Memory) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    write_whole(path, &serde_json::to_vec(memory)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use strongroom_base::SystemEntropy;
    use strongroom_format::{Conditional, names};
    use strongroom_objects::Memory as MemoryStore;

    use super::*;
    use crate::{VaultOptions, points::tests::put_point};
    use strongroom_keys::{KeySource, generate_key_file};

    /// A vault that remembers what it saw in a folder.
    fn remembering(dir: &std::path::Path) -> Vault {
        let key = dir.join("key");
        generate_key_file(&key, &SystemEntropy).expect("a key");
        Vault::create(
            Arc::new(MemoryStore::default()),
            &KeySource::File(key),
            "test",
            Conditional::Honoured,
            Vec::new(),
            VaultOptions { cache_dir: Some(dir.join("cache")), ..VaultOptions::default() },
        )
        .expect("a vault")
    }

    fn lose(vault: &Vault, item: &str, point: PointId) {
        let item = vault.item_key(item).expect("a name");
        vault.store.delete(&names::point(item, point)).expect("lost");
    }

    #[test]
    fn who_saw_a_newer_point_notices_that_it_is_gone() {
        let dir = tempfile::tempdir().expect("temp");
        let vault = remembering(dir.path());
        let [old, new, newer] = [1, 2, 3].map(|byte| PointId::from_bytes([byte; 16]));
        put_point(&vault, "web", old, None);
        put_point(&vault, "web", new, None);
        assert_eq!(vault.regressions().expect("looks"), []);
        lose(&vault, "web", new);
        let item = Some("web".to_owned());
        let less = Regression::Point { item, newest: new, seen: 2, found: 1 };
        for _ in 0..3 {
            let found = vault.regressions().expect("looks");
            assert_eq!(found, std::slice::from_ref(&less), "it is said as long as it is so");
        }
        // A new backup goes on from here.
        put_point(&vault, "web", newer, None);
        assert_eq!(vault.regressions().expect("looks"), []);
        // What was deleted and seen to be so may go.
        vault.delete_point("web", newer, "here").expect("deletes");
        assert_eq!(vault.regressions().expect("looks"), []);
        lose(&vault, "web", newer);
        assert_eq!(vault.regressions().expect("looks"), []);
        // All of an item.
        lose(&vault, "web", old);
        assert_eq!(vault.regressions().expect("looks").len(), 1);
        fs::remove_file(vault.memory_file().expect("a file")).expect("removes");
        assert_eq!(vault.regressions().expect("looks"), [], "forgetting harms nothing");
    }

    #[test]
    fn an_older_key_ring_is_noticed() {
        let dir = tempfile::tempdir().expect("temp");
        let vault = remembering(dir.path());
        assert_eq!(vault.regressions().expect("looks"), []);
        let path = vault.memory_file().expect("a file");
        let newer = Memory { ring: 7, items: BTreeMap::new() };
        fs::write(&path, serde_json::to_vec(&newer).expect("JSON")).expect("writes");
        let found = vault.regressions().expect("looks");
        assert_eq!(found, [Regression::Keys { seen: 7, found: 1 }]);
        fs::write(&path, b"{").expect("writes");
        assert_eq!(vault.regressions().expect("a torn file is forgotten"), []);
    }

    #[test]
    fn who_knows_what_must_be_there_learns_what_is_not() {
        let dir = tempfile::tempdir().expect("temp");
        let vault = remembering(dir.path());
        let [here, hidden, gone] = [1, 2, 3].map(|byte| PointId::from_bytes([byte; 16]));
        put_point(&vault, "web", here, None);
        put_point(&vault, "web", hidden, None);
        vault.delete_point("web", hidden, "here").expect("deletes");
        let expected = [here, hidden, gone].map(|point| ("web".to_owned(), point));
        let absent = vault.absent(None, &expected).expect("looks");
        let found: Vec<_> = absent.iter().map(|absent| (absent.point, absent.how)).collect();
        assert_eq!(found, [(hidden, Absence::Hidden), (gone, Absence::Missing)]);
        let of_item = vault.absent(Some("web"), &expected[..1]).expect("looks");
        assert_eq!(of_item, []);
    }
}
