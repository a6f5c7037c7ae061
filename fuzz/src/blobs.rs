//! What two servers of a store of blobs send each other.

use std::{cell::RefCell, path::PathBuf, sync::Arc};

use strongroom_base::{SystemClock, SystemEntropy};
use strongroom_blobs::{Options, ResyncSource, Store, StoreId, TakeError};

/// A primary, the state that it keeps for a resynchronization, and a secondary that takes batches.
struct Pair {
    folder: PathBuf,
    id: StoreId,
    source: ResyncSource,
    _primary: Store,
    secondary: Option<Store>,
    lives: u32,
}

fn options() -> Options {
    Options {
        reserve_size: 0,
        segment_size: 1 << 20,
        cache_size: 1 << 20,
        ..Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }
}

impl Pair {
    fn new() -> Self {
        let base = if std::path::Path::new("/dev/shm").exists() {
            PathBuf::from("/dev/shm")
        } else {
            std::env::temp_dir()
        };
        let folder = base.join(format!("strongroom-fuzz-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        let a = folder.join("a");
        Store::create(&a, &options()).expect("creates");
        let primary = Store::open(&a, options()).expect("opens");
        primary.pair(true).expect("is paired");
        let (id, source) = (primary.id(), primary.resync_source().expect("a moment"));
        Self { folder, id, source, _primary: primary, secondary: None, lives: 0 }
    }

    /// A secondary that has taken nothing.
    fn secondary(&mut self) -> &Store {
        if self.secondary.is_none() {
            drop(std::fs::remove_dir_all(self.folder.join(self.lives.to_string())));
            self.lives += 1;
            let folder = self.folder.join(self.lives.to_string());
            Store::create_secondary(&folder, &options(), self.id, 1).expect("creates");
            self.secondary = Some(Store::open(&folder, options()).expect("opens"));
        }
        self.secondary.as_ref().expect("is open")
    }
}

thread_local! {
    static PAIR: RefCell<Pair> = RefCell::new(Pair::new());
}

/// A question of a resynchronization if the first byte is even; otherwise what follows the head of a batch: counts of eras
/// and records, both, and the checksum is right.
pub fn blobs_replication(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    PAIR.with_borrow_mut(|pair| {
        if kind % 2 == 0 {
            drop(pair.source.answer(rest));
            return;
        }
        let id = u128::from_str_radix(&String::from(pair.id), 16).expect("hexadecimal");
        let mut batch = b"SRBATCH1".to_vec();
        batch.extend(id.to_be_bytes());
        batch.extend(1_u64.to_le_bytes());
        batch.extend(rest);
        batch.extend(crc32c::crc32c(&batch).to_le_bytes());
        let taken = pair.secondary().take(&batch.into());
        // A store that only a primary has changed never fails by what it takes.
        let is_failure = matches!(&taken, Err(TakeError::Store(_)));
        assert!(!is_failure, "{taken:?}");
        if !matches!(taken, Err(TakeError::Bad(_) | TakeError::Position)) {
            pair.secondary = None;
        }
    });
}
