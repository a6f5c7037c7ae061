//! Who was recognised a moment ago: looking a token up takes three questions to the catalog, which is
//! more than most requests ask besides.
//!
//! What is remembered counts only as long as this server has changed no user, token or right since
//! ([`Catalog::changes`]), so what one request takes away is gone for the next; and for a second at
//! most, because other servers may have changed the same catalog.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_api::{Assignment, Token, User};
use strongroom_base::{Clock, lock};
use strongroom_catalog::{Catalog, Document as _, Kind};

use crate::{
    model::{AssignmentDoc, TokenDoc, UserDoc},
    rights::Caller,
};

/// How long it is believed.
const FRESH: Duration = Duration::from_secs(1);

/// The number that is remembered.
const MAX: usize = 1000;

/// What says who somebody is.
const KINDS: [&Kind; 3] = [UserDoc::KIND, TokenDoc::KIND, AssignmentDoc::KIND];

/// The holder of a token.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) caller: Caller,
    pub(super) token: Token,
    pub(super) user: User,
    pub(super) assignments: Vec<Assignment>,
}

/// A moment of the catalog.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    changes: u64,
    at: Duration,
}

impl Moment {
    /// Now. To be taken before anything is read.
    pub(super) fn now(catalog: &Catalog, clock: &dyn Clock) -> Self {
        Self { changes: catalog.changes(&KINDS), at: clock.monotonic() }
    }
}

/// Holders by the hash of their token.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<String, (Moment, Arc<Holder>)>>);

impl Known {
    /// The holder of a token, if it is known since so short a time that it is so still.
    pub(super) fn get(&self, hash: &str, now: Moment) -> Option<Arc<Holder>> {
        let map = lock(&self.0);
        let (read, holder) = map.get(hash)?;
        let fresh = now.at.saturating_sub(read.at) < FRESH && read.changes == now.changes;
        fresh.then(|| Arc::clone(holder))
    }

    /// Remembers what was read after a moment.
    pub(super) fn put(&self, hash: String, read: Moment, holder: Arc<Holder>) {
        let mut map = lock(&self.0);
        if map.len() >= MAX {
            map.retain(|_, (at, _)| read.at.saturating_sub(at.at) < FRESH);
            if map.len() >= MAX {
                map.clear();
            }
        }
        map.insert(hash, (read, holder));
    }
}
