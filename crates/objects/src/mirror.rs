//! Several copies of every object in separate fault domains.
//!
//! ```text
//!  put_new:  look at all ─▶ first healthy copy decides ─▶ the others, in parallel ─▶ acknowledged
//!  get:      first copy ─(missing, short, failing)─▶ next copy ─▶ missing copies rebuilt
//!  delete:   last copy first, first copy last; refused while a copy is absent
//! ```
//!
//! Rules, and why:
//!
//! - *A copy that fails a write is degraded* for the life of this value: it is no longer written
//!   and read last. One good copy is enough to continue writing. What a degraded copy has missed is
//!   rebuilt when it is read or healed in a later run.
//! - *The first healthy copy arbitrates* creation. All copies are looked at before, so that an
//!   object which only the second copy has (the first was replaced, or was away) still counts.
//! - *Which of two different copies is right is not known here.* Two writers, each seeing another
//!   copy as healthy, may have created an object each. Both are left as they are, and `put_new` says
//!   that there is one. The caller looks at the copies, and `heal`s with a check for the bytes
//!   that count.
//! - *Nothing is deleted while a copy is degraded or absent.* The object would come back from
//!   that copy later. For the same reason a vault must not declare other writers dead then:
//!   [`ObjectStore::degraded`] tells it.
//! - *Deletes go from the last copy to the first.* Readers ask the first copy first; so no reader
//!   finds it missing there, present elsewhere, and puts it back.
//! - Objects in memory: a list costs about 20 bytes for each object, a heal one object.

use std::{
    collections::HashSet,
    fmt,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use strongroom_base::{ByteRange, Coded as _, lock};

use crate::store::{
    Entry, Heal, Key, MAX_OBJECT_LEN, ObjectStore, Put, Refusal, StoreError, check_len,
    check_prefix, fingerprint,
};

/// Two or more stores that hold the same objects. See the module's head for the rules.
pub struct Mirror {
    copies: Vec<Replica>,
    absent: Vec<String>,
    rebuilding: Mutex<HashSet<Key>>,
}

struct Replica {
    store: Arc<dyn ObjectStore>,
    degraded: AtomicBool,
    /// Why it is.
    refusal: OnceLock<Refusal>,
}

impl Replica {
    fn is_healthy(&self) -> bool {
        !self.degraded.load(Ordering::Acquire)
    }

    fn degrade(&self, error: &StoreError) {
        if !self.degraded.swap(true, Ordering::AcqRel) {
            let copy = self.store.name();
            let reason = words(error);
            self.refusal.set(Refusal { copy: copy.clone(), code: error.code(), reason }).ok();
            tracing::warn!(copy, error = %error, cause = ?error, "a copy is degraded and no longer written");
        }
    }
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.copies.iter().map(|copy| copy.store.name()).collect();
        f.debug_struct("Mirror")
            .field("copies", &names)
            .field("absent", &self.absent)
            .finish_non_exhaustive()
    }
}

/// What a look at one copy of an object found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Nothing,
    Something,
    Unknown,
}

/// What became of one of the later copies of a put.
enum Later {
    Written,
    SameAlready,
    OtherAlready,
    Failed,
}

impl Mirror {
    /// Mirrors over `copies`, the first of which is read first. `absent` names copies that
    /// belong to the set but could not be opened.
    pub fn new(copies: Vec<Arc<dyn ObjectStore>>, absent: Vec<String>) -> Self {
        let replica =
            |store| Replica { store, degraded: AtomicBool::new(false), refusal: OnceLock::new() };
        Self {
            copies: copies.into_iter().map(replica).collect(),
            absent,
            rebuilding: Mutex::default(),
        }
    }

    fn healthy(&self) -> impl Iterator<Item = &Replica> {
        self.copies.iter().filter(|copy| copy.is_healthy())
    }

    /// The order of reading: degraded copies may hang, so they come last.
    fn reading_order(&self) -> Vec<&Replica> {
        let mut order: Vec<_> = self.copies.iter().collect();
        order.sort_by_key(|copy| !copy.is_healthy());
        order
    }

    fn none_left(&self, action: &'static str, what: &str) -> StoreError {
        let source = "none of its copies can be written".into();
        StoreError::Unavailable { store: self.name(), action, what: what.to_owned(), source }
    }

    fn rebuilding(&self) -> MutexGuard<'_, HashSet<Key>> {
        lock(&self.rebuilding)
    }

    /// Creates the object on the first copy that can, which decides whether it is new.
    fn arbitrate(&self, key: &Key, body: &[u8]) -> Result<(Put, &Replica), StoreError> {
        let mut first_error = None;
        for copy in self.healthy() {
            match copy.store.put_new(key, body) {
                Ok(put) => return Ok((put, copy)),
                Err(error) => {
                    copy.degrade(&error);
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| self.none_left("write", key.as_str())))
    }

    /// Some copy already has the object: completes the others where that is safe without
    /// knowing what a good object looks like.
    fn complete(key: &Key, body: &[u8], looks: &[(&Replica, Look)]) {
        let missing =
            || looks.iter().filter(|(_, look)| *look == Look::Nothing).map(|(copy, _)| copy);
        if missing().next().is_none() {
            return;
        }
        if !looks.iter().any(|(copy, look)| *look == Look::Something && copy.holds(key, body)) {
            return;
        }
        for copy in missing() {
            if let Err(error) = copy.store.put_new(key, body) {
                copy.degrade(&error);
            }
        }
    }

    /// Reads with `read` from one copy after the other, and rebuilds those that lack the object.
    fn read(
        &self,
        key: &Key,
        read: impl Fn(&dyn ObjectStore) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Vec<u8>, StoreError> {
        let mut lacking = Vec::new();
        let mut failure = None;
        for copy in self.reading_order() {
            match read(&*copy.store) {
                Ok(bytes) => {
                    self.rebuild(key, copy, &lacking);
                    return Ok(bytes);
                }
                Err(StoreError::Missing { .. }) => lacking.push(copy),
                Err(error) => {
                    let away = matches!(error, StoreError::Unavailable { .. });
                    if away && !copy.store.is_local() {
                        // Else every read would wait for its time-outs again.
                        copy.degrade(&error);
                    }
                    // That a copy could not be asked says more than that another has nothing.
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| StoreError::Missing { key: key.clone(), store: self.name() }))
    }

    /// Copies an object to copies that lack it. A failure only means that it stays so.
    fn rebuild(&self, key: &Key, from: &Replica, lacking: &[&Replica]) {
        if lacking.is_empty() || !self.rebuilding().insert(key.clone()) {
            return;
        }
        let body = from.store.get(key, MAX_OBJECT_LEN);
        for copy in lacking.iter().filter(|copy| copy.is_healthy()) {
            let store = copy.store.name();
            match body.as_ref().map(|body| copy.store.put_new(key, body)) {
                Ok(Ok(_)) => tracing::info!(%key, store, "a missing copy was rebuilt"),
                Ok(Err(error)) => copy.degrade(&error),
                Err(error) => tracing::warn!(%key, store, %error, "a missing copy was not rebuilt"),
            }
        }
        self.rebuilding().remove(key);
    }
}

impl Replica {
    fn look(&self, key: &Key) -> Look {
        match self.store.get(key, 0) {
            Ok(_) | Err(StoreError::Length { .. }) => Look::Something,
            Err(StoreError::Missing { .. }) => Look::Nothing,
            Err(_) => Look::Unknown,
        }
    }

    fn holds(&self, key: &Key, body: &[u8]) -> bool {
        let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
        self.store.get(key, len).is_ok_and(|have| have == body)
    }

    /// Writes one of the later copies of an object that the arbiter has created.
    fn follow(&self, key: &Key, body: &[u8]) -> Later {
        match self.store.put_new(key, body) {
            Ok(Put::Created) => Later::Written,
            Ok(Put::Exists) if self.holds(key, body) => Later::SameAlready,
            Ok(Put::Exists) => Later::OtherAlready,
            Err(error) => {
                self.degrade(&error);
                Later::Failed
            }
        }
    }
}

impl ObjectStore for Mirror {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        check_len(key, body, &self.name())?;
        let looks: Vec<_> = self.healthy().map(|copy| (copy, copy.look(key))).collect();
        if looks.iter().any(|(_, look)| *look == Look::Something) {
            Self::complete(key, body, &looks);
            return Ok(Put::Exists);
        }
        let (put, arbiter) = self.arbitrate(key, body)?;
        if put == Put::Exists {
            return Ok(Put::Exists);
        }
        let rest: Vec<_> = self.healthy().filter(|copy| !std::ptr::eq(*copy, arbiter)).collect();
        let later: Vec<Later> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                rest.iter().map(|copy| scope.spawn(|| copy.follow(key, body))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Later::Failed)).collect()
        });
        if later.iter().any(|one| matches!(one, Later::OtherAlready)) {
            tracing::warn!(%key, "two copies of one object differ");
            return Ok(Put::Exists);
        }
        Ok(Put::Created)
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        self.read(key, |store| store.get(key, max_len))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.read(key, |store| store.get_range(key, range))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        check_prefix(prefix, &self.name())?;
        let mut seen: HashSet<u128> = HashSet::new();
        let mut failure = None;
        let mut answered = false;
        let mut broken = false;
        for copy in self.reading_order() {
            let listed = copy.store.list(prefix, &mut |entry| {
                let is_new = seen.insert(fingerprint(entry.key.as_str()));
                let flow = if is_new { visit(entry) } else { ControlFlow::Continue(()) };
                broken |= flow.is_break();
                flow
            });
            match listed {
                Ok(()) => answered = true,
                Err(error) => {
                    copy.degrade(&error);
                    failure.get_or_insert(error);
                }
            }
            if broken {
                return Ok(());
            }
        }
        match failure {
            Some(error) if !answered => Err(error),
            _ => Ok(()),
        }
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let away = self.degraded();
        if !away.is_empty() {
            let source = format!("it would come back from the copy in {}", away.join(", ")).into();
            let (store, what) = (self.name(), key.as_str().to_owned());
            return Err(StoreError::Unavailable { store, action: "delete", what, source });
        }
        for copy in self.copies.iter().rev() {
            copy.store.delete(key).inspect_err(|error| copy.degrade(error))?;
        }
        Ok(())
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        let mut failure = None;
        let mut written = false;
        for copy in self.healthy() {
            match copy.store.replace(key, body) {
                Ok(()) => written = true,
                Err(error) => {
                    copy.degrade(&error);
                    failure.get_or_insert(error);
                }
            }
        }
        if written {
            return Ok(());
        }
        Err(failure.unwrap_or_else(|| self.none_left("write", key.as_str())))
    }

    fn heal(&self, key: &Key, check: &dyn Fn(&[u8]) -> bool) -> Result<Heal, StoreError> {
        let mut chosen: Option<Vec<u8>> = None;
        let mut failure = None;
        let mut bad = Vec::new();
        let mut missing = Vec::new();
        for copy in &self.copies {
            match copy.store.get(key, MAX_OBJECT_LEN) {
                Ok(body) if check(&body) => match &chosen {
                    Some(first) if *first != body => bad.push(copy),
                    Some(_) => {}
                    None => chosen = Some(body),
                },
                Ok(_) | Err(StoreError::Length { .. }) => bad.push(copy),
                Err(StoreError::Missing { .. }) => missing.push(copy),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        let Some(body) = chosen else {
            // A copy that could not be read may be the good one.
            return failure.map_or(Ok(Heal::Lost), Err);
        };
        // That one copy cannot be written is no reason to leave another one bad.
        let (mut repaired, mut refused) = (false, None);
        let all =
            missing.iter().map(|copy| (copy, true)).chain(bad.iter().map(|copy| (copy, false)));
        for (copy, is_missing) in all.filter(|(copy, _)| copy.is_healthy()) {
            let written = if is_missing {
                copy.store.put_new(key, &body).map(drop)
            } else {
                copy.store.replace(key, &body)
            };
            match written {
                Ok(()) => repaired = true,
                Err(error) => {
                    copy.degrade(&error);
                    refused.get_or_insert(error);
                }
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        Ok(if repaired { Heal::Repaired } else { Heal::Healthy })
    }

    fn name(&self) -> String {
        let names: Vec<_> = self.copies.iter().map(|copy| copy.store.name()).collect();
        names.join(" + ")
    }

    fn is_local(&self) -> bool {
        self.copies.iter().all(|copy| copy.store.is_local())
    }

    fn copies(&self) -> Vec<Arc<dyn ObjectStore>> {
        self.copies.iter().map(|copy| Arc::clone(&copy.store)).collect()
    }

    fn degraded(&self) -> Vec<String> {
        let failed = self.copies.iter().filter(|copy| !copy.is_healthy());
        failed.map(|copy| copy.store.name()).chain(self.absent.iter().cloned()).collect()
    }

    fn refusals(&self) -> Vec<Refusal> {
        self.copies.iter().filter_map(|copy| copy.refusal.get().cloned()).collect()
    }

    fn sweep(&self) -> Result<u64, StoreError> {
        let healthy = self.copies.iter().filter(|copy| copy.is_healthy());
        healthy.map(|copy| copy.store.sweep()).sum()
    }
}

#[cfg(test)]
mod tests;
