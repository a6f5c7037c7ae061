//! Stores behind a network: S3 and what speaks like it, Azure Blob, Google Cloud Storage.
//!
//! Each call is one request, tried again on passing faults and given up after a time that grows
//! with its size; a server that hangs is as good as one that is down. Requests run on a small
//! runtime of this module's own, which the whole process shares; callers block, and so must not
//! call from an asynchronous task.
//!
//! A create-only put whose answer was lost may find its own object when it is tried again. Only
//! then are the bytes compared: two writers of equal bytes must not both get the answer that they created
//! them.
//!
//! This module owns requests, tries and time limits; `failure` owns what an answer means, `settings` how a cloud is
//! reached. None of them knows keys, packs or vaults.

mod failure;
mod settings;

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path,
};
use strongroom_base::{ByteRange, Entropy, EntropyExt};
use tokio::runtime::Runtime;

use crate::{
    Options,
    store::{
        Entry, Key, ObjectStore, Put, StoreError, check_len, check_prefix, fingerprint, is_between,
    },
};
use failure::Failure;
use settings::Settings;

/// A store behind a network. See the module's head.
pub(crate) struct Remote {
    client: Arc<dyn object_store::ObjectStore>,
    /// Deletes many objects with one request, if there is such a request.
    many: OnceLock<Option<Arc<dyn object_store::ObjectStore>>>,
    /// The server was seen not to know that request.
    one_by_one: AtomicBool,
    environment: Vec<(String, String)>,
    settings: Settings,
    entropy: Arc<dyn Entropy>,
    timeout: Duration,
    attempts: u32,
}

/// The slowest transfer that is not taken for a hanging one.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 * 1024;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A request that hangs costs its whole time each time.
const TIMEOUTS_MAX: u32 = 2;

/// Objects that a list takes from the stream at once.
const LIST_CHUNK: usize = 1000;

/// Objects that are deleted with one request at most: what S3 allows.
const DELETE_CHUNK: usize = 1000;

/// Deletions in flight where each takes a request.
const DELETES_AT_ONCE: usize = 32;

/// Whether a place in an object store is the place `allowed` or below it: the same server, the same bucket,
/// and a prefix that begins with the same segments.
pub fn covers(allowed: &str, url: &str) -> Result<bool, StoreError> {
    Ok(Settings::parse(allowed)?.covers(&Settings::parse(url)?))
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Remote {
    /// Opens the store at an `s3://`, `az://` or `gs://` URL. Asks nothing of the network yet.
    pub(crate) fn open(url: &str, options: &Options) -> Result<Self, StoreError> {
        let settings = Settings::parse(url)?;
        runtime(&settings.name)?;
        let client = settings.connect(&options.environment)?;
        Ok(Self {
            client,
            many: OnceLock::new(),
            one_by_one: false.into(),
            environment: options.environment.clone(),
            settings,
            entropy: Arc::clone(&options.entropy),
            timeout: options.request_timeout,
            attempts: options.attempts.max(1),
        })
    }

    fn path(&self, key: &Key) -> Path {
        as_it_is(&format!("{}{key}", self.settings.prefix))
    }

    fn key(&self, path: &Path) -> Option<Key> {
        Key::new(path.as_ref().strip_prefix(&self.settings.prefix)?).ok()
    }

    fn failed(&self, action: &'static str, key: &Key, failure: Failure) -> StoreError {
        failure.into_error(action, key.as_str(), Some(key), &self.name())
    }

    fn short(&self, key: &Key, have: u64, need: u64) -> StoreError {
        StoreError::Length { key: key.clone(), store: self.name(), have, need }
    }

    /// Runs a request to its end: see [`Self::tried`].
    fn run<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        bytes: u64,
        once: impl Fn(u32) -> F,
    ) -> Result<T, Failure> {
        runtime(&self.settings.name).map_err(Failure::Local)?.block_on(self.tried(bytes, once))
    }

    /// Runs a request until it succeeds, fails for good, or has been tried often enough. `once`
    /// gets the number of earlier tries.
    async fn tried<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        bytes: u64,
        once: impl Fn(u32) -> F,
    ) -> Result<T, Failure> {
        let transfer = Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let limit = self.timeout.saturating_add(transfer);
        let mut timeouts = 0;
        let mut attempt = 0;
        loop {
            let failure = match tokio::time::timeout(limit, once(attempt)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => Failure::Refused(error),
                Err(_) => Failure::TimedOut(limit),
            };
            attempt = attempt.saturating_add(1);
            timeouts += u32::from(matches!(failure, Failure::TimedOut(_)));
            if attempt >= self.attempts || timeouts >= TIMEOUTS_MAX || !failure.is_passing() {
                return Err(failure);
            }
            tracing::debug!(store = self.settings.name, attempt, ?failure, "trying again");
            self.pause(attempt).await;
        }
    }

    /// Deletes one object; that it is not there is no failure.
    async fn delete_one(&self, key: &Key) -> Result<(), Failure> {
        let path = self.path(key);
        self.tried(0, |_| async {
            match self.client.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        })
        .await
    }

    /// Deletes objects with one request. False if that did not do: each has to be deleted by itself.
    async fn delete_at_once(&self, keys: &[Key]) -> bool {
        let connect = || self.settings.connect_for_many(&self.environment);
        let Some(client) = self.many.get_or_init(connect) else { return false };
        if keys.len() < 2 || self.one_by_one.load(Ordering::Relaxed) {
            return false;
        }
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let paths = futures::stream::iter(paths).boxed();
        let deleting = client.delete_stream(paths).try_for_each(|_| async { Ok(()) });
        // Once: what does not pass is tried again one by one.
        let failure = match tokio::time::timeout(self.timeout, deleting).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => Failure::Refused(error),
            Err(_) => Failure::TimedOut(self.timeout),
        };
        tracing::debug!(store = self.settings.name, ?failure, "objects are deleted one by one");
        self.one_by_one.fetch_or(!failure.is_passing(), Ordering::Relaxed);
        false
    }

    /// Waits longer from one attempt to the next, and never all clients in step.
    async fn pause(&self, attempt: u32) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10));
        let pause = doubled.min(LONGEST_PAUSE);
        let share = u32::from(u8::from_le_bytes(self.entropy.array()));
        tokio::time::sleep(pause.saturating_mul(share.saturating_add(128)) / 256).await;
    }

    async fn put_once(&self, key: &Key, body: PutPayload, tried: u32) -> object_store::Result<Put> {
        let path = self.path(key);
        let mode = if self.settings.unconditional {
            match self.client.head(&path).await {
                Ok(_) => return self.whose(&path, &body, tried).await,
                Err(object_store::Error::NotFound { .. }) => PutMode::Overwrite,
                Err(error) => return Err(error),
            }
        } else {
            PutMode::Create
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.client.put_opts(&path, body.clone(), options).await {
            Ok(_) => Ok(Put::Created),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => self.whose(&path, &body, tried).await,
            Err(error) => Err(error),
        }
    }

    /// The store says that the object exists. Is it the one that an earlier attempt put?
    ///
    /// Some servers also say so to each of two puts that disturb one another; then there is no
    /// object, and the error makes the caller try again.
    async fn whose(&self, path: &Path, body: &PutPayload, tried: u32) -> object_store::Result<Put> {
        let meta = self.client.head(path).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                let source = "two puts of one object disturbed one another".into();
                object_store::Error::Generic { store: "object store", source }
            }
            other => other,
        })?;
        let len = u64::try_from(body.content_length()).unwrap_or(u64::MAX);
        if tried == 0 || meta.size != len {
            return Ok(Put::Exists);
        }
        let stored = self.client.get(path).await?.bytes().await?;
        let ours = body.iter().flatten().eq(stored.iter());
        Ok(if ours { Put::Created } else { Put::Exists })
    }

    /// Reads a range, or everything, if the object's size suits `fits`; else its size.
    async fn get_once(
        &self,
        path: &Path,
        range: Option<ByteRange>,
        fits: impl Fn(u64) -> bool,
    ) -> object_store::Result<Result<Vec<u8>, u64>> {
        let bounded = range.map(|range| GetRange::Bounded(range.offset()..range.end()));
        let options = GetOptions { range: bounded, ..GetOptions::default() };
        let answer = self.client.get_opts(path, options).await?;
        let size = answer.meta.size;
        if !fits(size) {
            return Ok(Err(size));
        }
        let want = range.map_or(size, |range| range.len());
        let bytes = self.collect(answer, want).await?;
        Ok(Ok(bytes))
    }

    async fn collect(
        &self,
        answer: object_store::GetResult,
        want: u64,
    ) -> object_store::Result<Vec<u8>> {
        // `want` is no more than the store says it has, and never more than the caller allows.
        let want = usize::try_from(want).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(want);
        let mut stream = answer.into_stream();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part?);
            if bytes.len() > want {
                break;
            }
        }
        if bytes.len() == want {
            return Ok(bytes);
        }
        let source = format!("{} bytes came where {want} were promised", bytes.len()).into();
        Err(object_store::Error::Generic { store: "object store", source })
    }

    fn size(&self, key: &Key) -> Result<u64, StoreError> {
        let path = self.path(key);
        self.run(0, |_| self.client.head(&path))
            .map(|meta| meta.size)
            .map_err(|failure| self.failed("read", key, failure))
    }

    fn entry(&self, meta: &ObjectMeta) -> Option<Entry> {
        let modified = Timestamp::from_millisecond(meta.last_modified.timestamp_millis());
        Some(Entry {
            key: self.key(&meta.location)?,
            size: meta.size,
            modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }
}

impl ObjectStore for Remote {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        check_len(key, body, &self.name())?;
        let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let payload = PutPayload::from(bytes::Bytes::copy_from_slice(body));
        self.run(len, |tried| self.put_once(key, payload.clone(), tried))
            .map_err(|failure| self.failed("write", key, failure))
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(key);
        self.run(max_len.min(crate::MAX_OBJECT_LEN), |_| {
            self.get_once(&path, None, |size| size <= max_len)
        })
        .map_err(|failure| self.failed("read", key, failure))?
        .map_err(|size| self.short(key, size, max_len))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        let (path, need) = (self.path(key), range.end());
        let checked_size = || match self.size(key)? {
            size if size < need => Err(self.short(key, size, need)),
            size => Ok(size),
        };
        if range.is_empty() {
            return checked_size().map(|_| Vec::new());
        }
        let got = self.run(range.len(), |_| self.get_once(&path, Some(range), |size| size >= need));
        match got {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(size)) => Err(self.short(key, size, need)),
            Err(failure) if failure.is_about_range() => {
                checked_size()?;
                Err(self.failed("read", key, failure))
            }
            Err(failure) => Err(self.failed("read", key, failure)),
        }
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.list_between(prefix, None, None, visit)
    }

    fn lists_by_name(&self) -> bool {
        self.settings.lists_by_name()
    }

    fn list_between(
        &self,
        prefix: &str,
        after: Option<&Key>,
        until: Option<&Key>,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        check_prefix(prefix, &self.name())?;
        let below = format!("{}{prefix}", self.settings.prefix);
        let below = as_it_is(below.trim_end_matches('/'));
        let below = (!below.as_ref().is_empty()).then_some(&below);
        let mut progress = Progress::default();
        let after_path = after.map(|after| self.path(after));
        let until_path = until.filter(|_| self.lists_by_name()).map(|until| self.path(until));
        let runtime = runtime(&self.settings.name)?;
        let mut failures = 0;
        'again: loop {
            // After a fault the list continues behind the last object that was seen. Some stores ignore
            // that and begin at the start; what was seen is passed over.
            let stream = match progress.go_on_behind().or(after_path.as_ref()) {
                None => self.client.list(below),
                Some(last) => self.client.list_with_offset(below, last),
            };
            let mut end = End { until: until_path.clone(), last: None };
            let stream = stream.take_while(move |meta| std::future::ready(!end.is_behind(meta)));
            let mut chunks = stream.ready_chunks(LIST_CHUNK);
            loop {
                let next = async { tokio::time::timeout(self.timeout, chunks.next()).await };
                let Ok(chunk) = runtime.block_on(next) else {
                    let failure = Failure::TimedOut(self.timeout);
                    failures += 1;
                    if failures >= TIMEOUTS_MAX {
                        return Err(failure.into_error("list", prefix, None, &self.name()));
                    }
                    continue 'again;
                };
                let Some(chunk) = chunk else { return Ok(()) };
                for meta in chunk {
                    let meta = match meta.map_err(Failure::Refused) {
                        Ok(meta) => meta,
                        Err(failure) => {
                            failures += 1;
                            if failures >= self.attempts || !failure.is_passing() {
                                return Err(failure.into_error("list", prefix, None, &self.name()));
                            }
                            runtime.block_on(self.pause(failures));
                            continue 'again;
                        }
                    };
                    if !progress.is_new(&meta.location) {
                        continue;
                    }
                    // Only what is new is progress: a store that fails at the same place again and again
                    // is given up.
                    failures = 0;
                    let Some(entry) = self.entry(&meta) else { continue };
                    if is_between(&entry.key, after, until) && visit(entry).is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let runtime = runtime(&self.settings.name)?;
        runtime
            .block_on(self.delete_one(key))
            .map_err(|failure| self.failed("delete", key, failure))
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), StoreError> {
        let runtime = runtime(&self.settings.name)?;
        for keys in keys.chunks(DELETE_CHUNK) {
            let work = async {
                if self.delete_at_once(keys).await {
                    return Ok(());
                }
                let each = futures::stream::iter(keys).map(|key| async move {
                    self.delete_one(key).await.map_err(|failure| (key, failure))
                });
                each.buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await
            };
            runtime.block_on(work).map_err(|(key, failure)| self.failed("delete", key, failure))?;
        }
        Ok(())
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        check_len(key, body, &self.name())?;
        let path = self.path(key);
        let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let payload = PutPayload::from(bytes::Bytes::copy_from_slice(body));
        self.run(len, |_| self.client.put(&path, payload.clone()))
            .map(|_| ())
            .map_err(|failure| self.failed("write", key, failure))
    }

    fn name(&self) -> String {
        self.settings.name.clone()
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// The name of an object, or of a folder of them: written as it is, and not with some characters
/// encoded, as listings show it as it is.
fn as_it_is(name: &str) -> Path {
    // Prefixes and keys were checked: nothing in them is refused.
    Path::parse(name).unwrap_or_else(|_| Path::from(name))
}

/// Where a part of a listing ends, as long as the store lists by name.
struct End {
    until: Option<Path>,
    last: Option<Path>,
}

impl End {
    /// Whether an object is behind the end, and all that follow.
    fn is_behind(&mut self, meta: &object_store::Result<ObjectMeta>) -> bool {
        let (Some(until), Ok(meta)) = (&self.until, meta) else { return false };
        if self.last.as_ref().is_some_and(|last| last.as_ref() > meta.location.as_ref()) {
            // It does not.
            self.until = None;
            return false;
        }
        let behind = meta.location.as_ref() > until.as_ref();
        self.last = Some(meta.location.clone());
        behind
    }
}

/// How far a listing has come.
#[derive(Default)]
struct Progress {
    seen: HashSet<u128>,
    last: Option<Path>,
    /// An object came after one of a later name: this store does not list by name.
    unordered: bool,
}

impl Progress {
    fn is_new(&mut self, path: &Path) -> bool {
        if !self.seen.insert(fingerprint(path.as_ref())) {
            return false;
        }
        self.unordered |= self.last.as_ref().is_some_and(|last| last.as_ref() > path.as_ref());
        self.last = Some(path.clone());
        true
    }

    /// Behind which object a listing may continue; none if it must begin again.
    fn go_on_behind(&self) -> Option<&Path> {
        self.last.as_ref().filter(|_| !self.unordered)
    }
}

/// The runtime of all remote stores of the process.
fn runtime(store: &str) -> Result<&'static Runtime, StoreError> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("object-store")
            .enable_all()
            .build()
    });
    made.as_ref().map_err(|error| StoreError::Unavailable {
        store: store.to_owned(),
        action: "reach",
        what: "the network".to_owned(),
        source: error.to_string().into(),
    })
}

#[cfg(test)]
mod tests;
