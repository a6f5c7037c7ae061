//! Work by several threads: a list of items, a bounded number of them under way, and the first error ends it.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use crossbeam_channel::bounded;
use strongroom_base::{Cancel, lock};

use crate::StorageClientError;

/// The most threads of one piece of work.
const MAX_WORKERS: usize = 64;

/// Calls `work` for each item, by this many threads. The list is read only as far ahead as there are threads.
pub(crate) fn in_parallel<T: Send>(
    workers: usize,
    cancel: &Cancel,
    items: impl Iterator<Item = Result<T, StorageClientError>>,
    work: impl Fn(T) -> Result<(), StorageClientError> + Sync,
) -> Result<(), StorageClientError> {
    let workers = workers.clamp(1, MAX_WORKERS);
    let first: Mutex<Option<StorageClientError>> = Mutex::new(None);
    let has_failed = AtomicBool::new(false);
    let fail = |error| {
        has_failed.store(true, Ordering::Relaxed);
        lock(&first).get_or_insert(error);
    };
    let (sender, receiver) = bounded(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (receiver, work, fail, has_failed) = (receiver.clone(), &work, &fail, &has_failed);
            scope.spawn(move || {
                for item in receiver {
                    // The rest is taken, so that the list's reader does not wait for ever, and dropped.
                    if !has_failed.load(Ordering::Relaxed)
                        && let Err(error) = work(item)
                    {
                        fail(error);
                    }
                }
            });
        }
        drop(receiver);
        for item in items {
            let item =
                if cancel.is_cancelled() { Err(StorageClientError::Interrupted) } else { item };
            match item {
                Ok(item) if !has_failed.load(Ordering::Relaxed) => {
                    // The receivers live until the sender is dropped.
                    sender.send(item).ok();
                }
                Ok(_) => break,
                Err(error) => {
                    fail(error);
                    break;
                }
            }
        }
        drop(sender);
    });
    match first.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(StorageClientError::Bug("a thread of a transfer panicked")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        let sum = AtomicU64::new(0);
        let items = (1..=1000_u64).map(Ok);
        let add = |item| {
            sum.fetch_add(item, Ordering::Relaxed);
            Ok(())
        };
        in_parallel(4, &Cancel::new(), items, add).expect("works");
        assert_eq!(sum.into_inner(), 500_500);
    }

    #[test]
    fn the_first_error_ends_a_list_without_an_end() {
        let bug = |item| match item {
            100 => Err(StorageClientError::Bug("a test")),
            _ => Ok(()),
        };
        let error = in_parallel(3, &Cancel::new(), (0_u64..).map(Ok), bug).expect_err("fails");
        assert!(matches!(error, StorageClientError::Bug("a test")));
        let broken = [Ok(1_u64), Err(StorageClientError::Bug("a list"))];
        let error = in_parallel(3, &Cancel::new(), broken.into_iter(), |_| Ok(()));
        assert!(matches!(error, Err(StorageClientError::Bug("a list"))));
    }

    #[test]
    fn work_is_stopped_on_request() {
        let cancel = Cancel::new();
        let stop = |item| {
            if item == 10_u64 {
                cancel.cancel();
            }
            Ok(())
        };
        let error = in_parallel(2, &cancel, (0..).map(Ok), stop).expect_err("stops");
        assert!(matches!(error, StorageClientError::Interrupted));
    }
}
