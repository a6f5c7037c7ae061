//! How many read files of recovery points at once, and what became of it, in memory.
//!
//! This module owns the places of readers, which looks were recorded already, and the reports of downloads. It must not
//! know who may read, and how.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_api::FileReport;
use strongroom_base::{PointId, UserId, lock, message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ControlError, Result};

/// How long a reader waits for a place.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long further looks of a user at a point belong to the first one.
const LOOK: Duration = Duration::from_mins(15);
/// Looks that are remembered, at most.
const LOOKS_MAX: usize = 10_000;
/// Reports that are remembered, at most, and for how long.
const REPORTS_MAX: usize = 128;
const REPORT: Duration = Duration::from_mins(15);

/// A report, and whose it is.
struct Kept {
    request: String,
    user: Option<UserId>,
    at: Duration,
    report: FileReport,
}

/// Those who read files.
pub(crate) struct Readers {
    most: usize,
    places: Arc<Semaphore>,
    looks: Mutex<HashMap<(String, PointId), Duration>>,
    reports: Mutex<VecDeque<Kept>>,
}

impl Readers {
    /// Nobody reads yet; at most this number may at once.
    pub(crate) fn new(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(1).clamp(1, 1024);
        let places = Arc::new(Semaphore::new(most));
        Self { most, places, looks: Mutex::default(), reports: Mutex::default() }
    }

    /// A place for a reader, which is free again when it is dropped.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(PATIENCE, place).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(ControlError::from(message!(
                FILES_BUSY,
                "files are read for others at the moment, as many at a time as may be: {readers}",
                readers = self.most
            ))),
        }
    }

    /// Whether a user has not looked at a point for a while: such a look is recorded.
    pub(crate) fn is_first_look(&self, user: &str, point: PointId, now: Duration) -> bool {
        let mut looks = lock(&self.looks);
        if looks.len() >= LOOKS_MAX {
            looks.retain(|_, at| now.saturating_sub(*at) < LOOK);
        }
        if looks.len() >= LOOKS_MAX {
            // Recorded once too often rather than not at all.
            looks.clear();
        }
        let key = (user.to_owned(), point);
        if looks.get(&key).is_some_and(|at| now.saturating_sub(*at) < LOOK) {
            return false;
        }
        looks.insert(key, now);
        true
    }

    /// Keeps what became of a download, for the user who asked for it.
    pub(crate) fn keep(
        &self,
        request: String,
        user: Option<UserId>,
        report: FileReport,
        at: Duration,
    ) {
        let mut reports = lock(&self.reports);
        reports.retain(|kept| at.saturating_sub(kept.at) < REPORT);
        if reports.len() >= REPORTS_MAX {
            reports.pop_front();
        }
        reports.push_back(Kept { request, user, at, report });
    }

    /// What became of a download of a user.
    pub(crate) fn report(&self, request: &str, user: Option<UserId>) -> Option<FileReport> {
        let reports = lock(&self.reports);
        let kept = reports.iter().find(|kept| kept.request == request && kept.user == user);
        kept.map(|kept| kept.report.clone())
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::codes;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_read_than_may() {
        let readers = Readers::new(2);
        let (one, _two) =
            (readers.place().await.expect("free"), readers.place().await.expect("free"));
        let full = readers.place().await.expect_err("all are taken").body();
        assert_eq!((full.code.as_str(), full.known()), ("files.busy", &codes::FILES_BUSY));
        drop(one);
        drop(readers.place().await.expect("free again"));
    }

    #[test]
    fn a_look_is_recorded_once_in_a_while() {
        let readers = Readers::new(1);
        let (point, other) = (PointId::from_bytes([1; 16]), PointId::from_bytes([2; 16]));
        let at = Duration::from_mins;
        assert!(readers.is_first_look("ann", point, at(0)));
        assert!(!readers.is_first_look("ann", point, at(14)));
        assert!(readers.is_first_look("bob", point, at(14)));
        assert!(readers.is_first_look("ann", other, at(14)));
        assert!(readers.is_first_look("ann", point, at(15)));
    }

    #[test]
    fn reports_are_for_those_who_asked_and_not_for_ever() {
        let readers = Readers::new(1);
        let ann = Some(UserId::from_bytes([1; 16]));
        let keep = |name: &str, at| {
            readers.keep(name.to_owned(), ann, FileReport::default(), Duration::from_mins(at));
        };
        keep("a", 0);
        assert!(readers.report("a", ann).is_some());
        assert!(readers.report("a", None).is_none());
        keep("b", 15);
        assert!(readers.report("a", ann).is_none());
        for _ in 0..REPORTS_MAX {
            keep("c", 16);
        }
        assert!(readers.report("b", ann).is_none());
    }
}
