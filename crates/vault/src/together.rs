//! Questions to the store that need not wait for each other.
//!
//! Behind a network each costs a round trip, so all are asked at once. A local store is asked one after
//! the other: threads would cost more than the answers. Where the protocol calls for an order
//! (`docs/decisions/0004-reclaim.md`), a second call follows the first.

use std::sync::{
    Condvar, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use strongroom_base::EntropyExt as _;
use strongroom_objects::{Entry, Key};

use crate::{Vault, error::Result};

/// One of the pieces of work; what it finds out it leaves with its caller.
pub(crate) type Piece<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// A question whose answer goes to `answer`.
pub(crate) fn ask<'a, T: Send>(
    answer: &'a mut T,
    question: impl FnOnce() -> Result<T> + Send + 'a,
) -> Piece<'a> {
    Box::new(move || {
        *answer = question()?;
        Ok(())
    })
}

/// Parts of a list that are asked for at once, at most.
const PARTS: usize = 32;

/// Objects that a list shows with one request: a little less than what stores show.
const PAGE: usize = 800;

/// Does all pieces of work, in threads or one after the other. The first failure, in the order in
/// which they are given, is that of all; in threads the others are done all the same.
pub(crate) fn do_together(in_threads: bool, pieces: Vec<Piece<'_>>) -> Result<()> {
    if !in_threads {
        return pieces.into_iter().try_for_each(|piece| piece());
    }
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let mut own = None;
        for (number, piece) in pieces.into_iter().enumerate() {
            let failures = &failures;
            let work = move || {
                if let Err(error) = piece() {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push((number, error));
                }
            };
            match number {
                // One in this thread, while the others are at work.
                0 => own = Some(work),
                _ => drop(scope.spawn(work)),
            }
        }
        if let Some(own) = own {
            own();
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let first = failures.into_iter().min_by_key(|(number, _)| *number);
    first.map_or(Ok(()), |(_, error)| Err(error))
}

/// Reads ahead: does `work` on items in several threads, and hands each result to `take`, as they come,
/// until it fails. What is read and not taken yet has no more than `most` bytes by `size`, or is of
/// one item.
pub(crate) fn read_ahead<T: Sync, R: Send>(
    threads: usize,
    most: u64,
    items: &[T],
    size: impl Fn(&T) -> u64 + Sync,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> Result<()>,
) -> Result<()> {
    if threads <= 1 {
        return items.iter().try_for_each(|item| take(item, work(item)));
    }
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (held, freed) = (Mutex::new(0_u64), Condvar::new());
    let lock = || held.lock().unwrap_or_else(PoisonError::into_inner);
    let free = |bytes: u64| {
        let mut held = lock();
        *held = held.saturating_sub(bytes);
        drop(held);
        freed.notify_all();
    };
    let (sender, receiver) = crossbeam_channel::unbounded();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            let sender = sender.clone();
            scope.spawn(|| {
                let sender = sender;
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let bytes = size(item);
                    let mut held = lock();
                    while *held > 0 && held.saturating_add(bytes) > most {
                        held = freed.wait(held).unwrap_or_else(PoisonError::into_inner);
                    }
                    *held = held.saturating_add(bytes);
                    drop(held);
                    if stopped.load(Ordering::Relaxed) || sender.send((item, work(item))).is_err() {
                        free(bytes);
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut taken = Ok(());
        for (item, result) in receiver {
            if taken.is_ok() {
                taken = take(item, result);
                stopped.store(taken.is_err(), Ordering::Relaxed);
            }
            free(size(item));
        }
        taken
    })
}

impl Vault {
    /// How many requests to the store are in flight at once when many are to be made.
    pub(crate) fn at_once(&self) -> usize {
        if self.store.is_local() { 1 } else { 128 }
    }

    /// Does pieces of work that need not wait for each other. The simulator, which has one thread for
    /// each of its actors, sees them in any order.
    pub(crate) fn together(&self, mut pieces: Vec<Piece<'_>>) -> Result<()> {
        let in_threads = !self.store.is_local();
        if !in_threads && self.options.uploaders == 0 {
            for last in (1..pieces.len()).rev() {
                let [number] = self.options.entropy.array::<1>();
                let other = usize::from(number).checked_rem(last.saturating_add(1)).unwrap_or(0);
                pieces.swap(last, other);
            }
        }
        do_together(in_threads, pieces)
    }

    /// All objects under a prefix, in the order of their names. `cuts` are names that divide them
    /// into parts of which each takes one request: they are listed at once.
    pub(crate) fn list_in_parts(&self, prefix: &str, cuts: &[Key]) -> Result<Vec<Entry>> {
        list_in_parts(&*self.store, prefix, cuts)
    }
}

/// As [`Vault::list_in_parts`].
pub(crate) fn list_in_parts(
    store: &dyn strongroom_objects::ObjectStore,
    prefix: &str,
    cuts: &[Key],
) -> Result<Vec<Entry>> {
    let mut cuts: Vec<&Key> = if store.lists_by_name() { cuts.iter().collect() } else { vec![] };
    cuts.sort_unstable();
    cuts.dedup();
    let found = Mutex::new(Vec::new());
    let bounds = cuts.iter().map(|cut| Some(*cut));
    let mut parts: Vec<_> =
        std::iter::once(None).chain(bounds.clone()).zip(bounds.chain([None])).collect();
    while !parts.is_empty() {
        let rest = parts.split_off(parts.len().min(PARTS));
        let pieces = parts.into_iter().map(|(after, until)| -> Piece<'_> {
            let found = &found;
            Box::new(move || {
                let mut entries = Vec::new();
                store.list_between(prefix, after, until, &mut |entry| {
                    entries.push(entry);
                    std::ops::ControlFlow::Continue(())
                })?;
                found.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
                Ok(())
            })
        });
        let pieces: Vec<_> = pieces.collect();
        do_together(pieces.len() > 1, pieces)?;
        parts = rest;
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Names that divide a list like this one into parts of which each takes one request.
pub(crate) fn cuts_of<'a>(names: impl Iterator<Item = &'a Key>) -> Vec<Key> {
    names.skip(PAGE).step_by(PAGE).cloned().collect()
}

/// The number of parts that a list of this number of objects should have.
pub(crate) fn parts_for(objects: usize) -> usize {
    objects.div_ceil(PAGE).max(1)
}

#[cfg(test)]
mod tests {
    use std::{
        ops::ControlFlow,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use strongroom_objects::{Memory, ObjectStore, Put, StoreError};

    use super::*;
    use crate::VaultError;

    /// A store that lists by name, and counts how often it is asked.
    #[derive(Default)]
    struct ByName(Memory, AtomicUsize);

    impl ObjectStore for ByName {
        fn put_new(&self, key: &Key, body: &[u8]) -> std::result::Result<Put, StoreError> {
            self.0.put_new(key, body)
        }

        fn get(&self, key: &Key, max_len: u64) -> std::result::Result<Vec<u8>, StoreError> {
            self.0.get(key, max_len)
        }

        fn get_range(
            &self,
            key: &Key,
            range: strongroom_base::ByteRange,
        ) -> std::result::Result<Vec<u8>, StoreError> {
            self.0.get_range(key, range)
        }

        fn list(
            &self,
            prefix: &str,
            visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
        ) -> std::result::Result<(), StoreError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.list(prefix, visit)
        }

        fn lists_by_name(&self) -> bool {
            true
        }

        fn delete(&self, key: &Key) -> std::result::Result<(), StoreError> {
            self.0.delete(key)
        }

        fn replace(&self, key: &Key, body: &[u8]) -> std::result::Result<(), StoreError> {
            self.0.replace(key, body)
        }

        fn name(&self) -> String {
            self.0.name()
        }

        fn is_local(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_list_in_parts_is_the_whole_list() {
        let store = ByName::default();
        let name = |n: usize| Key::new(format!("d/{n:05}")).expect("a name");
        for n in 0..2000 {
            store.put_new(&name(n), b"").expect("a put");
        }
        let all = list_in_parts(&store, "d/", &[]).expect("a list");
        assert_eq!((all.len(), store.1.swap(0, Ordering::Relaxed)), (2000, 1));
        let cuts = cuts_of(all.iter().map(|entry| &entry.key));
        assert_eq!(cuts, [name(800), name(1600)]);
        assert_eq!(list_in_parts(&store, "d/", &cuts).expect("a list"), all);
        assert_eq!(store.1.swap(0, Ordering::Relaxed), 3);
        // Cuts that name nothing, out of order and twice.
        let odd = [name(9000), name(3), Key::new("a").expect("a name"), name(3)];
        assert_eq!(list_in_parts(&store, "d/", &odd).expect("a list"), all);
        assert_eq!(list_in_parts(&store.0, "d/", &cuts).expect("one that does not"), all);
        assert_eq!([0, 1, 800, 801, 2800].map(parts_for), [1, 1, 1, 2, 4]);
    }

    #[test]
    fn reading_ahead_is_bounded_complete_and_ends_with_a_failure() {
        let items: Vec<u64> = (1..=100).collect();
        for threads in [1, 8] {
            let held = AtomicUsize::new(0);
            let mut sum = 0;
            let work = |item: &u64| {
                let more = usize::try_from(*item).expect("small");
                let now = held.fetch_add(more, Ordering::SeqCst) + more;
                assert!(now <= 150, "{now} are held");
                *item * 2
            };
            read_ahead(
                threads,
                150,
                &items,
                |item| *item,
                work,
                |item, double| {
                    sum += double;
                    held.fetch_sub(usize::try_from(*item).expect("small"), Ordering::SeqCst);
                    Ok(())
                },
            )
            .expect("all");
            assert_eq!(sum, 2 * 5050);
            let mut taken = 0;
            let failed = read_ahead(
                threads,
                10,
                &items,
                |_| 1,
                |item| *item,
                |_, _| {
                    taken += 1;
                    if taken == 3 { Err(VaultError::Bug("enough")) } else { Ok(()) }
                },
            );
            assert!(matches!(failed, Err(VaultError::Bug("enough"))));
            assert_eq!(taken, 3);
            // One that is larger than all that may be held is read by itself.
            read_ahead(threads, 10, &[500_u64], |item| *item, |item| *item, |_, _| Ok(()))
                .expect("one");
        }
    }

    #[test]
    fn the_first_failure_is_that_of_all() {
        for in_threads in [false, true] {
            let done = AtomicUsize::new(0);
            let piece = |bug: Option<&'static str>| -> Piece<'_> {
                let done = &done;
                Box::new(move || {
                    done.fetch_add(1, Ordering::Relaxed);
                    bug.map_or(Ok(()), |bug| Err(VaultError::Bug(bug)))
                })
            };
            do_together(in_threads, vec![piece(None), piece(None)]).expect("both");
            assert_eq!(done.swap(0, Ordering::Relaxed), 2);
            let error =
                do_together(in_threads, vec![piece(None), piece(Some("b")), piece(Some("c"))]);
            assert!(matches!(error, Err(VaultError::Bug("b"))), "{error:?}");
            assert_eq!(done.load(Ordering::Relaxed), if in_threads { 3 } else { 2 });
        }
    }
}
