//! Whether there may be something to begin: so that an idle server asks the catalog nothing.
//!
//! Everything that begins work changes a document or is a time that comes. Changes are counted by the
//! catalog; the next time is known from the last look. Every half a minute it is looked anyway.

use jiff::{SignedDuration, Timestamp};
use strongroom_catalog::{Document as _, Filter, Query};

use crate::{
    error::Result,
    jobs::service::queued_jobs,
    model::{HostDoc, ItemDoc, JobDoc, PolicyDoc, VaultDoc},
    service::Control,
};

/// How long nothing is looked at, if nothing has changed.
const ANYWAY: SignedDuration = SignedDuration::from_secs(30);

/// What was so when it was looked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    changes: u64,
    running: usize,
}

/// The last look.
#[derive(Debug, Default)]
pub(super) struct Attention {
    last: Option<(Seen, Timestamp)>,
    /// When there is something to do though nothing changes.
    next: Option<Timestamp>,
}

impl Attention {
    /// Whether it must be looked, with what is seen now.
    pub(super) fn is_due(&self, seen: Seen, now: Timestamp) -> bool {
        let same = |(last, at): &(Seen, Timestamp)| {
            *last == seen && now.duration_since(*at).abs() < ANYWAY
        };
        !self.last.as_ref().is_some_and(same) || self.next.is_some_and(|next| next <= now)
    }

    /// It was looked, and what was due is begun.
    pub(super) fn looked(&mut self, seen: Seen, now: Timestamp, next: Option<Timestamp>) {
        (self.last, self.next) = (Some((seen, now)), next);
    }
}

impl Control {
    /// What is to be seen without asking the catalog.
    pub(super) fn seen(&self) -> Seen {
        let kinds = [ItemDoc::KIND, JobDoc::KIND, HostDoc::KIND, VaultDoc::KIND, PolicyDoc::KIND];
        Seen { changes: self.catalog.changes(&kinds), running: self.drivers.at_work().len() }
    }

    /// When something is to be begun next, if nothing changes.
    pub(super) async fn next_time(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let free = Filter::all().not_null("next_backup").is_null("job");
        let first = Query::new(free).ascending("next_backup");
        in_read!(self, tx => {
            let item = tx.first::<ItemDoc>(&first).await?;
            let mut next = item.and_then(|stored| stored.doc.item.next_backup);
            let mut token = None;
            loop {
                let page = tx.list::<JobDoc>(&queued_jobs().after(token)).await?;
                let times = page.items.iter().filter_map(|stored| stored.doc.job.not_before);
                // What could begin already waits for a place, which comes with a change.
                let later = times.filter(|time| *time > now).min();
                next = next.into_iter().chain(later).min();
                match page.next {
                    Some(more) => token = Some(more),
                    None => return Ok(next),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn looks_when_something_changed_or_a_time_has_come_and_every_half_a_minute() {
        let seen = |changes, running| Seen { changes, running };
        let mut attention = Attention::default();
        assert!(attention.is_due(seen(0, 0), at(0)));
        attention.looked(seen(1, 1), at(0), Some(at(20)));
        assert!(!attention.is_due(seen(1, 1), at(19)));
        for (now, at_second) in [(seen(2, 1), 1), (seen(1, 0), 1), (seen(1, 1), 20)] {
            assert!(attention.is_due(now, at(at_second)), "{now:?}");
        }
        attention.looked(seen(1, 1), at(0), None);
        assert!(!attention.is_due(seen(1, 1), at(29)) && attention.is_due(seen(1, 1), at(30)));
        // A clock that was set back.
        assert!(attention.is_due(seen(1, 1), at(-30)));
    }
}
