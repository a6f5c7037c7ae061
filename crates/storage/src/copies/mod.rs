//! Copies: begun by an operation, carried on in the background, begun again after a restart.
//!
//! What a copy needs besides its blob lies in a file of its own before the copy begins, and is deleted at its end: the
//! whole URL of the source with its signature, and the tag that the source had. So a restart finds every copy that was
//! running by the files alone.

mod job;
mod memory;
mod source;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use azure::{AbortCopy, Answer, BlobType, Code, CopyBlob, IncrementalCopy, Refusal, State};
use blobs::{Access, BlobChange, BlobName, Change, CopyStep, NewBlob, NewCopy};
use strongroom_azure as azure;
use strongroom_base::lock;
use strongroom_blobs as blobs;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    StorageError,
    bodies::Budget,
    face::Work,
    map::{self, Subject},
    storage::{Failure, Storage},
};

use job::Job;
use memory::Memory;
pub(crate) use source::{Source, SourceHead};

/// Copies that make progress at once; others wait.
const AT_ONCE: usize = 4;
/// Bytes of copies in memory.
const BYTES: u64 = 32 << 20;
/// Blobs that are looked at in one step.
const LISTED: usize = 5000;
/// How long an answer waits for a copy to be complete, so that small ones need no second look.
const SHORT: Duration = Duration::from_millis(700);
/// The largest source of a copy that is answered only when it is complete.
const MAX_SYNCHRONOUS: u64 = 256 << 20;
/// How long such an answer waits.
const SYNCHRONOUS: Duration = Duration::from_mins(2);

/// The copies of a store.
pub(crate) struct Copies {
    folder: PathBuf,
    client: reqwest::Client,
    running: Mutex<HashMap<BlobName, (String, CancellationToken)>>,
    slots: Semaphore,
    budget: Budget,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when the server takes no changes any more; the copies are kept.
    round: Mutex<CancellationToken>,
}

impl Copies {
    pub(crate) fn new(folder: PathBuf) -> Result<Self, StorageError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(StorageError::local("create", &folder))?;
        // Proxies would come from the environment, which is not read here.
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(StorageError::Client)?;
        let stop = CancellationToken::new();
        Ok(Self {
            folder,
            client,
            running: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
            budget: Budget::new(BYTES),
            tasks: TaskTracker::new(),
            round: Mutex::new(stop.child_token()),
            stop,
        })
    }

    /// Ends all copies where they are; they continue when the server takes changes again.
    pub(crate) fn pause(&self) {
        let mut round = lock(&self.round);
        round.cancel();
        *round = self.stop.child_token();
    }

    /// Ends all copies where they are; they continue at the next start.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Storage {
    /// Continues the copies that were running when the server stopped.
    pub(crate) async fn resume_copies(self: &Arc<Self>) {
        for memory in memory::all(&self.copies.folder) {
            let name = memory.target();
            let wanted = name.clone();
            let found = self.look(move |view| view.head(&wanted, None)).await;
            let copy = match found {
                Ok(head) => head.copy,
                Err(Failure::Refused(_)) => None,
                // It is looked at again at the next start.
                Err(Failure::Busy | Failure::Broken) => continue,
            };
            let is_ours = |copy: &blobs::Copy| {
                copy.status == blobs::CopyStatus::Pending && copy.source == memory.shown
            };
            match copy.filter(is_ours) {
                Some(copy) => {
                    tracing::info!(copy = copy.id, "a copy continues");
                    drop(self.start_copy(name, copy, memory));
                }
                None => memory.forget(),
            }
        }
    }

    /// Ends copies that were running at the server that was the primary before: the URLs of their sources with their
    /// signatures were kept there only. Whether all of them have ended.
    pub(crate) async fn end_unknown_copies(self: &Arc<Self>) -> bool {
        let pending = match self.look(pending_copies).await {
            Ok(pending) => pending,
            Err(failure) => {
                tracing::warn!(
                    ?failure,
                    "copies that were running before the failover are not found yet"
                );
                return false;
            }
        };
        for (name, id) in pending {
            if lock(&self.copies.running).contains_key(&name) {
                continue;
            }
            let description = "The server was failed over while the copy was running.".to_owned();
            let change = BlobChange::Copy { id, step: CopyStep::Fail { description } };
            let access = Access::default();
            match self.change(Change::Blob { name, access, change }).await {
                Ok(_) | Err(Failure::Refused(blobs::Refusal::NoPendingCopyOperation)) => {}
                Err(failure) => {
                    tracing::warn!(
                        ?failure,
                        "a copy that was running before the failover cannot be ended"
                    );
                    return false;
                }
            }
        }
        true
    }

    /// Starts the task of a copy that has begun; the token is cancelled at its end.
    fn start_copy(
        self: &Arc<Self>,
        name: BlobName,
        copy: blobs::Copy,
        memory: Memory,
    ) -> CancellationToken {
        let round = lock(&self.copies.round).clone();
        let (ended, abort) = (CancellationToken::new(), round.child_token());
        let running = (copy.id.clone(), abort.clone());
        lock(&self.copies.running).insert(name.clone(), running);
        let (storage, end) = (Arc::clone(self), ended.clone());
        self.copies.tasks.spawn(async move {
            let _end = end.drop_guard();
            let id = copy.id.clone();
            let is_over = {
                let job = Job { storage: &storage, name: &name, copy: &copy, memory: &memory };
                tokio::select! {
                    is_over = job.run() => is_over,
                    () = abort.cancelled() => !round.is_cancelled(),
                }
            };
            if is_over {
                memory.forget();
            }
            let mut running = lock(&storage.copies.running);
            if running.get(&name).is_some_and(|(other, _)| *other == id) {
                running.remove(&name);
            }
        });
        ended
    }

    /// Begins a copy and starts its task. It is not interrupted by a client that goes away.
    async fn begin_copy(
        self: &Arc<Self>,
        name: BlobName,
        access: Access,
        new: NewCopy,
        memory: Memory,
    ) -> Result<(String, CancellationToken), Failure> {
        let storage = Arc::clone(self);
        let begun = tokio::spawn(async move {
            if let Err(error) = memory.keep() {
                tracing::error!(%error, "what a copy needs cannot be written");
                return Err(Failure::Broken);
            }
            let change = BlobChange::BeginCopy(Box::new(new));
            let begun = storage.change(Change::Blob { name: name.clone(), access, change }).await;
            if let Err(failure) = begun {
                memory.forget();
                return Err(failure);
            }
            // What an incremental copy begins from is what the store says now.
            let wanted = name.clone();
            let head = storage.look(move |view| view.head(&wanted, None)).await?;
            let copy = head.copy.ok_or(Failure::Broken)?;
            let id = copy.id.clone();
            Ok((id, storage.start_copy(name, copy, memory)))
        });
        begun.await.unwrap_or(Err(Failure::Broken))
    }
}

impl Work<'_> {
    /// Copy Blob, of a blob or a snapshot; a snapshot over its own blob promotes it.
    pub(crate) async fn copy_blob(
        &self,
        name: BlobName,
        copy: &CopyBlob,
    ) -> Result<Answer, Refusal> {
        let source = Source::find(self, &copy.source.url).await?;
        let head = source.head(self.storage, copy.source_lease, self.now()).await?;
        let state = State { etag: &head.stamp.etag, last_modified: head.stamp.last_modified };
        copy.source.conditions.check_source(state)?;
        head.admit(source.is_snapshot())?;
        let tier = match (copy.tier, head.kind) {
            (Some(tier), kind) if kind != BlobType::Block => {
                tier.check(kind, self.is_premium())?;
                return Err(Refusal::new(Code::BlobAccessTierNotSupportedForAccountType));
            }
            (tier, _) => self.block_tier(tier)?,
        };
        if !source.is_snapshot() {
            self.refuse_self(&name, &head).await?;
        }
        if copy.is_synchronous && head.blob.size > MAX_SYNCHRONOUS {
            return Err(Refusal::new(Code::InvalidInput)
                .with("Reason", "A synchronous copy has at most 256 MiB."));
        }
        let mut blob = NewBlob { tier, ..head.blob.clone() };
        if !copy.metadata.is_empty() {
            blob.metadata = map::metadata(&copy.metadata);
        }
        let shown = copy.source.url.shown();
        let new = NewCopy { source: shown.clone(), blob, incremental: None };
        let memory = Memory::new(self.storage, &name, source, shown, &head);
        let access = self.create_access(&copy.write);
        let begun = self.storage.begin_copy(name.clone(), access, new, memory).await;
        let (id, ended) = begun
            .map_err(|failure| self.create_failure(&failure, &copy.write, Subject::CopyTarget))?;
        let patience = if copy.is_synchronous { SYNCHRONOUS } else { SHORT };
        self.copy_answer(name, &id, ended, patience).await
    }

    /// Refuses a copy of a blob to itself, under whatever name of this server: it would be emptied before it is read.
    /// No two states in a store have the same tag.
    async fn refuse_self(&self, name: &BlobName, source: &SourceHead) -> Result<(), Refusal> {
        let wanted = name.clone();
        let target = match self.storage.look(move |view| view.head(&wanted, None)).await {
            Ok(target) => map::stamp(target.etag, target.modified),
            Err(Failure::Refused(_)) => return Ok(()),
            Err(failure) => return Err(map::failure(&failure, Subject::CopyTarget)),
        };
        if target == source.stamp {
            return Err(Refusal::new(Code::InvalidHeaderValue)
                .with("HeaderName", "x-ms-copy-source")
                .with("Reason", "The source is the blob itself."));
        }
        Ok(())
    }

    /// Incremental Copy Blob: only what differs from the snapshot that was copied before.
    pub(crate) async fn incremental_copy(
        &self,
        name: BlobName,
        copy: &IncrementalCopy,
    ) -> Result<Answer, Refusal> {
        let id = map::snapshot_id(copy.snapshot()?);
        let source = Source::find(self, &copy.source).await?;
        let head = source.head(self.storage, None, self.now()).await?;
        head.admit(true)?;
        if head.kind != BlobType::Page {
            return Err(Code::InvalidSourceBlobType.into());
        }
        let wanted = name.clone();
        let before = match self.storage.look(move |view| view.head(&wanted, None)).await {
            Ok(before) => before.copy.and_then(|copy| copy.incremental),
            Err(Failure::Refused(blobs::Refusal::BlobNotFound)) => None,
            Err(failure) => return Err(map::failure(&failure, Subject::CopyTarget)),
        };
        if let Some(last) = before.and_then(|memory| memory.last_source).filter(|last| *last < id) {
            source.check_since(self.storage, last, &head).await?;
        }
        // The snapshot is no part of the source's name: the next copy is of another one.
        let shown = copy.source.shown();
        let shown = shown.split_once('?').map_or(shown.as_str(), |(blob, _)| blob).to_owned();
        let new = NewCopy { source: shown.clone(), blob: head.blob.clone(), incremental: Some(id) };
        let memory = Memory::new(self.storage, &name, source, shown, &head);
        let write = azure::BlobWrite { lease: None, conditions: copy.conditions.clone() };
        let access = self.create_access(&write);
        let begun = self.storage.begin_copy(name.clone(), access, new, memory).await;
        let (id, ended) =
            begun.map_err(|failure| self.create_failure(&failure, &write, Subject::CopyTarget))?;
        self.copy_answer(name, &id, ended, SHORT).await
    }

    async fn copy_answer(
        &self,
        name: BlobName,
        id: &str,
        ended: CancellationToken,
        patience: Duration,
    ) -> Result<Answer, Refusal> {
        // A copy that takes longer is answered as one that runs.
        tokio::time::timeout(patience, ended.cancelled()).await.ok();
        let head = self.storage.look(move |view| view.head(&name, None)).await;
        let head = head.map_err(|failure| map::failure(&failure, Subject::CopyTarget))?;
        let status = head.copy.filter(|copy| copy.id == id).map(|copy| copy.status);
        let status = status.map_or(azure::CopyStatus::Pending, map::copy_status);
        Ok(Answer::copy_started(id, status, &map::stamp(head.etag, head.modified)))
    }

    /// Abort Copy Blob.
    pub(crate) async fn abort_copy(
        &self,
        name: BlobName,
        abort: &AbortCopy,
    ) -> Result<Answer, Refusal> {
        let id = abort.copy_id.clone();
        let access = map::access(abort.lease, &azure::Conditions::default());
        let change = BlobChange::Copy { id: id.clone(), step: CopyStep::Abort };
        self.change_with(name.clone(), access, change)
            .await
            .map_err(|failure| map::failure(&failure, Subject::CopyTarget))?;
        if let Some((running, token)) = lock(&self.storage.copies.running).get(&name)
            && *running == id
        {
            token.cancel();
        }
        Ok(Answer::aborted())
    }
}

/// The blobs of all accounts to which a copy is running, with its id.
fn pending_copies(view: &blobs::View) -> Result<Vec<(BlobName, String)>, blobs::ReadError> {
    let mut found = Vec::new();
    for (account, _) in view.accounts()? {
        let containers = view.containers(&account, "", None, usize::MAX)?;
        for (container, _) in containers.items {
            let name = blobs::ContainerName::new(account.as_str(), container.as_str());
            let mut query = blobs::ListQuery { max: LISTED, ..blobs::ListQuery::default() };
            loop {
                let listed = view.list(&name, &query)?;
                for item in listed.items {
                    let blobs::Item::Blob(head) = item else { continue };
                    if let Some(copy) =
                        head.copy.filter(|copy| copy.status == blobs::CopyStatus::Pending)
                    {
                        found.push((name.clone().blob(head.name), copy.id));
                    }
                }
                match listed.next {
                    Some(next) => query.marker = Some(next),
                    None => break,
                }
            }
        }
    }
    Ok(found)
}

impl SourceHead {
    /// Tag and moment of its state.
    pub(crate) const fn stamp(&self) -> &azure::Stamp {
        &self.stamp
    }

    /// Its length in bytes.
    pub(crate) const fn length(&self) -> u64 {
        self.blob.size
    }

    /// Adds to a new blob what it does not say itself.
    pub(crate) fn complete(&self, new: &mut NewBlob, headers: bool) {
        if new.metadata.is_empty() {
            new.metadata = self.blob.metadata.clone();
        }
        if !headers {
            return;
        }
        let (own, other) = (&mut new.properties, &self.blob.properties);
        let fill = |own: &mut Option<String>, other: &Option<String>| {
            if own.is_none() {
                own.clone_from(other);
            }
        };
        fill(&mut own.content_type, &other.content_type);
        fill(&mut own.content_encoding, &other.content_encoding);
        fill(&mut own.content_language, &other.content_language);
        fill(&mut own.content_md5, &other.content_md5);
        fill(&mut own.content_disposition, &other.content_disposition);
        fill(&mut own.cache_control, &other.cache_control);
    }

    /// Refuses what cannot be copied.
    fn admit(&self, is_snapshot: bool) -> Result<(), Refusal> {
        if self.is_incremental && !is_snapshot {
            return Err(Code::CopySourceCannotBeIncrementalCopyBlob.into());
        }
        Ok(())
    }
}

/// A blob as a copy of another begins.
fn new_blob(properties: &azure::BlobProperties) -> NewBlob {
    NewBlob {
        kind: map::blob_kind(properties.kind),
        size: properties.length,
        sequence: properties.sequence_number.or(properties.block_count).unwrap_or(0),
        properties: map::properties(&properties.headers),
        metadata: map::metadata(&properties.metadata),
        tier: None,
    }
}
