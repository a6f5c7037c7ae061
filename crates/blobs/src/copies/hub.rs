//! What all threads of a store share: which copies have every change, what failed, and what was found.

use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use strongroom_base::lock;

use super::rebuild::Progress;
use crate::{
    engine::Shared,
    replication::{Era, Position, Standing},
    rows::Ticks,
    store::StoreError,
};

/// A copy of a store, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreCopy {
    /// Its folder.
    pub path: PathBuf,
    /// How it stands.
    pub state: StoreCopyState,
}

/// How a copy of a store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCopyState {
    /// It has every change, and is the one that decides and is read.
    Leading,
    /// It has every change.
    Healthy,
    /// It is being made from another one.
    Rebuilding {
        /// Bytes that are there.
        done: u64,
        /// Bytes that there will be; 0 until that is known.
        total: u64,
    },
    /// It lacks changes.
    LeftOut {
        /// The first record that it may lack.
        since: u64,
        /// When it was left out.
        at: Ticks,
        /// Why.
        reason: String,
        /// Whether nothing of the store is found in its folder.
        is_missing: bool,
    },
}

/// What was found when blocks were read and compared with their checksums, since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Cells of 4 KiB that were wrong and could be read from another copy.
    pub repaired: u64,
    /// Cells of 4 KiB that were wrong in a copy and could not be repaired, in the last pass.
    pub lost: u64,
    /// Bytes that were compared.
    pub compared: u64,
    /// How often all blocks of all copies were compared.
    pub passes: u64,
}

/// What the threads of a store share.
#[derive(Default)]
pub(crate) struct Hub {
    /// The copies that have every change; the first one leads.
    copies: RwLock<Vec<Arc<Shared>>>,
    /// Why the store stopped.
    pub(crate) failure: Mutex<Option<Arc<StoreError>>>,
    /// All copies, and how far a rebuild is.
    board: Mutex<Vec<(StoreCopy, Option<Arc<Progress>>)>>,
    /// Which part this server plays.
    standing: Mutex<Standing>,
    /// Who decided the history of the store.
    eras: Mutex<Vec<Era>>,
    /// What is durable in all copies and applied, and who waits for more.
    position: Mutex<Position>,
    moved: Condvar,
    /// The first record that another server may ask for, if there is one.
    wanted: Mutex<Option<u64>>,
    /// Raised when a copy's `copies.json` is to be written again.
    pub(crate) renew: AtomicBool,
    pub(crate) repaired: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) compared: AtomicU64,
    pub(crate) passes: AtomicU64,
}

impl Hub {
    /// Says which copies have every change; the first one leads.
    pub(crate) fn set_copies(&self, copies: Vec<Arc<Shared>>) {
        let wanted = lock(&self.wanted).unwrap_or(u64::MAX);
        for copy in &copies {
            copy.wanted.store(wanted, SeqCst);
        }
        *self.copies.write().unwrap_or_else(PoisonError::into_inner) = copies;
    }

    /// Says from which record on the journals are kept for another server, if there is one.
    pub(crate) fn want(&self, record: Option<u64>) {
        *lock(&self.wanted) = record;
        for copy in self.copies() {
            copy.wanted.store(record.unwrap_or(u64::MAX), SeqCst);
        }
    }

    /// Which part this server plays.
    pub(crate) fn standing(&self) -> Standing {
        *lock(&self.standing)
    }

    /// Says which part this server plays.
    pub(crate) fn set_standing(&self, standing: Standing) {
        *lock(&self.standing) = standing;
    }

    /// Who decided the history of the store.
    pub(crate) fn eras(&self) -> Vec<Era> {
        lock(&self.eras).clone()
    }

    /// Says who decided the history of the store.
    pub(crate) fn set_eras(&self, eras: Vec<Era>) {
        *lock(&self.eras) = eras;
    }

    /// What is durable in all copies and applied.
    pub(crate) fn position(&self) -> Position {
        *lock(&self.position)
    }

    /// Says what is durable in all copies and applied.
    pub(crate) fn set_position(&self, position: Position) {
        *lock(&self.position) = position;
        self.moved.notify_all();
    }

    /// Waits until there are records behind `next`, or for a time.
    pub(crate) fn wait_beyond(&self, next: u64, time: Duration) -> Position {
        let position = lock(&self.position);
        let waited =
            self.moved.wait_timeout_while(position, time, |position| position.next_record <= next);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The copies that have every change.
    pub(crate) fn copies(&self) -> Vec<Arc<Shared>> {
        self.copies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The copy that decides and is read.
    pub(crate) fn leading(&self) -> Option<Arc<Shared>> {
        self.copies.read().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// The copies besides one.
    pub(crate) fn others(&self, than: &Shared) -> Vec<Arc<Shared>> {
        self.copies().into_iter().filter(|copy| copy.id != than.id).collect()
    }

    /// Says how all copies stand.
    pub(crate) fn set_board(&self, board: Vec<(StoreCopy, Option<Arc<Progress>>)>) {
        *lock(&self.board) = board;
    }

    /// How all copies stand.
    pub(crate) fn board(&self) -> Vec<StoreCopy> {
        let shown = |(copy, progress): &(StoreCopy, Option<Arc<Progress>>)| {
            let progress = progress.as_ref().filter(|progress| progress.has_begun.load(SeqCst));
            let state = progress.map(|progress| StoreCopyState::Rebuilding {
                done: progress.done.load(SeqCst),
                total: progress.total.load(SeqCst),
            });
            StoreCopy {
                path: copy.path.clone(),
                state: state.unwrap_or_else(|| copy.state.clone()),
            }
        };
        lock(&self.board).iter().map(shown).collect()
    }

    /// What was found.
    pub(crate) fn findings(&self) -> Findings {
        Findings {
            repaired: self.repaired.load(SeqCst),
            lost: self.lost.load(SeqCst),
            compared: self.compared.load(SeqCst),
            passes: self.passes.load(SeqCst),
        }
    }

    /// Stops the store.
    pub(crate) fn stop(&self, error: Arc<StoreError>) {
        lock(&self.failure).get_or_insert(error);
    }
}
