//! Objects of a store behind a network, kept on this host.
//!
//! Objects never change, so one that a list shows with the same size and date need not be read again. What
//! is kept is sealed as it is in the store, and is checked like it when it is used. Losing it costs time.
//! Nothing here decides whether something exists: that a list or the store itself says.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use std::{collections::HashMap, ops::ControlFlow};

use strongroom_base::{ByteRange, lock};
use strongroom_objects::{Entry, Key, ObjectStore, Put, StoreError};

use crate::files::write_whole;

/// Bytes that are kept of a vault, at most, and how much of it stays when it was more.
const MOST: u64 = 256 << 20;
const LESS: u64 = MOST / 4 * 3;
/// After this number of files it checks whether it is more.
const LOOK_EVERY: u64 = 128;

/// Length of what stands before an object's bytes: their hash with what follows, size, date.
const HEAD: usize = 32 + 8 + 8;

/// The objects that are kept of one vault.
#[derive(Debug)]
pub(crate) struct Kept {
    dir: PathBuf,
    puts: AtomicU64,
}

impl Kept {
    /// Those of the vault whose cache folder this is.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.join("kept"), puts: AtomicU64::new(0) }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(key.as_str().replace('/', "+"))
    }

    /// The object that a list shows so, if it is kept.
    pub(crate) fn get(&self, entry: &Entry) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = entry.size.saturating_add(u64::try_from(HEAD).unwrap_or(0)).saturating_add(1);
        let file = fs::File::open(self.path(&entry.key)).ok()?;
        file.take(most).read_to_end(&mut bytes).ok()?;
        let body = bytes.get(HEAD..)?;
        (bytes.get(..HEAD) == Some(&head(entry, body)[..])).then(|| body.to_vec())
    }

    /// Keeps an object that a list shows so. That it cannot be kept is no failure.
    pub(crate) fn put(&self, entry: &Entry, body: &[u8]) {
        if u64::try_from(body.len()) != Ok(entry.size) {
            return;
        }
        if let Err(error) = self.try_put(entry, body) {
            tracing::debug!(object = %entry.key, %error, "an object is not kept");
        }
    }

    fn try_put(&self, entry: &Entry, body: &[u8]) -> io::Result<()> {
        if self.puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
            fs::create_dir_all(&self.dir)?;
            self.forget_oldest()?;
        }
        let path = self.path(&entry.key);
        write_whole(&path, &[&head(entry, body)[..], body].concat())
    }

    /// Forgets what was kept first, if that is much.
    fn forget_oldest(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            if let Ok(about) = file.metadata() {
                let made = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.push((made, about.len(), file.path()));
            }
        }
        let mut sum: u64 = files.iter().map(|(_, len, _)| *len).fold(0, u64::saturating_add);
        if sum <= MOST {
            return Ok(());
        }
        files.sort();
        for (_, len, path) in files {
            if sum <= LESS {
                break;
            }
            fs::remove_file(path).ok();
            sum = sum.saturating_sub(len);
        }
        Ok(())
    }

    /// Forgets objects whose names begin so.
    pub(crate) fn forget(&self, beginning: &str) {
        let beginning = beginning.replace('/', "+");
        let Ok(files) = fs::read_dir(&self.dir) else { return };
        for file in files.flatten() {
            if file.file_name().to_string_lossy().starts_with(&beginning) {
                fs::remove_file(file.path()).ok();
            }
        }
    }
}

fn head(entry: &Entry, body: &[u8]) -> [u8; HEAD] {
    let (size, date) = (entry.size.to_le_bytes(), entry.modified.as_millisecond().to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(entry.key.as_str().as_bytes()).update(&size).update(&date).update(body);
    let mut head = [0; HEAD];
    let hash = *hasher.finalize().as_bytes();
    let parts = hash.into_iter().chain(size).chain(date);
    head.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
    head
}

/// A store of which a prefix was listed before: the list is not asked for again, and what it shows and
/// is kept is not read again.
pub(crate) struct Listed<'a> {
    store: &'a dyn ObjectStore,
    prefix: &'a str,
    entries: &'a [Entry],
    kept: Option<&'a Kept>,
    bodies: Mutex<HashMap<Key, Vec<u8>>>,
}

impl<'a> Listed<'a> {
    /// The objects under `prefix` are these, in the order of their names.
    pub(crate) fn new(
        store: &'a dyn ObjectStore,
        prefix: &'a str,
        entries: &'a [Entry],
        kept: Option<&'a Kept>,
    ) -> Self {
        Self { store, prefix, entries, kept, bodies: Mutex::default() }
    }

    /// Reads objects at once, as far as they are not kept. Those that cannot be read are left to
    /// the caller.
    pub(crate) fn read_ahead(&self, wanted: impl Fn(&Key) -> bool) {
        let wanted = self.entries.iter().filter(|entry| wanted(&entry.key)).take(64);
        std::thread::scope(|scope| {
            for entry in wanted {
                scope.spawn(|| {
                    let kept = self.kept.and_then(|kept| kept.get(entry));
                    let read = || {
                        let body = self.store.get(&entry.key, entry.size).ok()?;
                        if let Some(kept) = self.kept {
                            kept.put(entry, &body);
                        }
                        Some(body)
                    };
                    if let Some(body) = kept.or_else(read) {
                        let mut bodies = lock(&self.bodies);
                        bodies.insert(entry.key.clone(), body);
                    }
                });
            }
        });
    }
}

impl ObjectStore for Listed<'_> {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.store.put_new(key, body)
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        let bodies = lock(&self.bodies);
        match bodies.get(key) {
            Some(body) if u64::try_from(body.len()).is_ok_and(|len| len <= max_len) => {
                Ok(body.clone())
            }
            _ => {
                drop(bodies);
                self.store.get(key, max_len)
            }
        }
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.store.get_range(key, range)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if !prefix.starts_with(self.prefix) {
            return self.store.list(prefix, visit);
        }
        let shown = self.entries.iter().filter(|entry| entry.key.as_str().starts_with(prefix));
        let _ = shown.cloned().try_for_each(visit);
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.store.delete(key)
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.store.replace(key, body)
    }

    fn name(&self) -> String {
        self.store.name()
    }

    fn is_local(&self) -> bool {
        self.store.is_local()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn entry(name: &str, body: &[u8]) -> Entry {
        Entry {
            key: Key::new(name).expect("a name"),
            size: u64::try_from(body.len()).expect("a length"),
            modified: Timestamp::from_second(1_800_000_000).expect("a time"),
        }
    }

    #[test]
    fn only_what_a_list_shows_just_so_is_taken_for_the_object() {
        let dir = tempfile::tempdir().expect("temp");
        let kept = Kept::new(dir.path());
        let one = entry("points/a/b", b"body");
        assert_eq!(kept.get(&one), None);
        kept.put(&one, b"body");
        assert_eq!(kept.get(&one).as_deref(), Some(&b"body"[..]));
        let later = Entry { modified: Timestamp::UNIX_EPOCH, ..one.clone() };
        let longer = Entry { size: 5, ..one.clone() };
        let other = entry("points/a/c", b"body");
        for wrong in [&later, &longer, &other] {
            assert_eq!(kept.get(wrong), None, "{wrong:?}");
        }
        // One bit of the file.
        let path = kept.path(&one.key);
        let mut bytes = fs::read(&path).expect("there");
        *bytes.last_mut().expect("bytes") ^= 1;
        fs::write(&path, bytes).expect("written");
        assert_eq!(kept.get(&one), None);
        kept.put(&one, b"body");
        kept.put(&one, b"too long");
        assert!(kept.get(&one).is_some(), "what cannot be is not kept");
        kept.forget("points/a/");
        assert_eq!(kept.get(&one), None);
    }
}
