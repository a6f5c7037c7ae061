//! When tokens were used last: noted in memory with each request, and written down while the house is kept,
//! for each token once an hour at most. So a request waits for no write because of it, an idle server
//! writes nothing, and a busy one hardly anything.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use jiff::{SignedDuration, Timestamp};
use strongroom_api::Token;
use strongroom_base::{TokenId, lock};

use crate::{error::Result, model::TokenDoc, service::Control};

/// How much older what is written down may be than the last use.
const COARSE: SignedDuration = SignedDuration::from_hours(1);

/// The last use of a token.
#[derive(Clone, Copy, Debug)]
struct Use {
    last: Timestamp,
    /// What is written down.
    written: Option<Timestamp>,
}

impl Use {
    fn is_due(&self) -> bool {
        self.written.is_none_or(|written| self.last.duration_since(written).abs() >= COARSE)
    }
}

/// The last uses of tokens, as far as more is known than is written down.
#[derive(Debug, Default)]
pub(crate) struct Used(Mutex<BTreeMap<TokenId, Use>>);

impl Used {
    fn uses(&self) -> MutexGuard<'_, BTreeMap<TokenId, Use>> {
        lock(&self.0)
    }

    /// A token is used.
    pub(super) fn note(&self, token: &Token, now: Timestamp) {
        let mut uses = self.uses();
        uses.entry(token.id).or_insert(Use { last: now, written: token.last_used }).last = now;
    }

    /// Adds to tokens what is known of them besides.
    pub(super) fn add_to(&self, tokens: &mut [Token]) {
        let uses = self.uses();
        for token in tokens {
            token.last_used = uses.get(&token.id).map(|of| of.last).or(token.last_used);
        }
    }
}

impl Control {
    /// Writes down when tokens were used last, if that is due; at the end at once.
    pub async fn write_down_uses(&self, at_the_end: bool) -> Result<()> {
        let now = self.now();
        let due: Vec<(TokenId, Timestamp)> = {
            let mut uses = self.used.uses();
            uses.retain(|_, of| of.is_due() || now.duration_since(of.last).abs() < COARSE);
            let due = uses
                .iter()
                .filter(|(_, of)| of.is_due() || (at_the_end && of.written != Some(of.last)));
            due.map(|(id, of)| (*id, of.last)).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        in_write!(self, tx => {
            for (id, last) in &due {
                // It may have been revoked since.
                if let Some(mut found) = tx.get::<TokenDoc>(&id.to_string()).await? {
                    found.doc.token.last_used = Some(*last);
                    tx.update(&found.doc, found.version).await?;
                }
            }
            Ok(())
        })?;
        let mut uses = self.used.uses();
        for (id, last) in due {
            if let Some(of) = uses.get_mut(&id) {
                of.written = Some(last);
            }
        }
        Ok(())
    }
}
