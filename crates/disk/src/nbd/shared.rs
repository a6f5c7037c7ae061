//! Connections that several exports of one server share: a server takes a limited number, and keeps those
//! beyond waiting without a word.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use strongroom_base::lock;

use super::disk::Pool;

/// A maximum number of connections for all exports together. An export that has none takes over one that another
/// does not use at the moment. Nobody holds one and waits for a second, so all come to their end.
#[derive(Clone, Debug)]
pub struct NbdConnections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    state: Mutex<State>,
    /// A connection has ended, or is not used any more.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    pools: Vec<Weak<Mutex<Pool>>>,
}

impl NbdConnections {
    /// At most this number, and at least one.
    pub fn new(most: usize) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { most: most.max(1), state, freed: Condvar::new() }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// The right to one more connection, if there is one to be had without taking it from others.
    pub(super) fn try_take(&self) -> bool {
        let mut state = self.state();
        let is_free = state.open < self.0.most;
        if is_free {
            state.open = state.open.saturating_add(1);
        }
        is_free
    }

    /// The right to one more connection. Waits for it; the caller holds no pool.
    pub(super) fn take(&self) {
        let mut state = self.state();
        loop {
            if state.open < self.0.most {
                state.open = state.open.saturating_add(1);
                return;
            }
            let mut pools = state.pools.iter().filter_map(Weak::upgrade);
            let idle = pools.find_map(|pool| {
                let mut pool = pool.try_lock().ok()?;
                let connection = pool.idle.pop()?;
                pool.open = pool.open.saturating_sub(1);
                Some(connection)
            });
            if let Some(connection) = idle {
                connection.end();
                return;
            }
            // A pool may have been held just now, so the wait has an end.
            let wait = self.0.freed.wait_timeout(state, super::disk::LOOK_AGAIN);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns this number of rights.
    pub(super) fn give(&self, count: usize) {
        let mut state = self.state();
        state.open = state.open.saturating_sub(count);
        drop(state);
        self.0.freed.notify_all();
    }

    /// Tells those who wait that a connection is not used any more.
    pub(super) fn is_idle(&self) {
        self.0.freed.notify_one();
    }

    /// Makes a pool known from which others may take what it does not use.
    pub(super) fn register(&self, pool: &Arc<Mutex<Pool>>) {
        let mut state = self.state();
        state.pools.retain(|pool| pool.strong_count() > 0);
        state.pools.push(Arc::downgrade(pool));
    }
}
