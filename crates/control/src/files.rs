//! Files of recovery points: who may read them, and the record of it.
//!
//! This module owns what a caller may read, and what the audit log says of it: a download before its first byte and at
//! its end, looks at folders once in a while. How file systems are read is the matter of
//! [`PointFiles`].

use std::{
    future::Future,
    io::{self, Write},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use strongroom_api::{ErrorBody, FileListing, FileReport, OfVolume, PointVolumes};
use strongroom_base::{PointId, codes, message};
use strongroom_orders::{
    ByteAsk, FileAsk, FileHead, FileSink, FileStream, FilesOf, Leash, ListAsk, PointFiles,
    Result as WorkResult, SentFiles,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    audit,
    error::{ControlError, Result},
    lookup::{find_item, no_item, vault_of},
    points::{check_restorable, find_point},
    rights::{Caller, Operation, Target},
    service::Control,
};

/// How long a client may take nothing of a download.
const STALL: Duration = Duration::from_mins(1);
/// Parts of a download that wait to be sent, at most.
const PARTS: usize = 4;

/// Ends a reading when nobody waits for it any more.
struct Pulls(Leash);

impl Drop for Pulls {
    fn drop(&mut self) {
        self.0.pull();
    }
}

/// Work that goes its way while the answer is sent.
pub type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A download that has begun. Once it is dropped, its reader ends.
pub struct FileDownload {
    /// What is known before its first byte.
    pub head: FileHead,
    parts: mpsc::Receiver<io::Result<Vec<u8>>>,
    _pulls: Pulls,
}

impl FileDownload {
    /// The next bytes; none at the end. An error means that what was sent is not whole.
    pub async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.parts.recv().await
    }
}

/// Takes what a reader sends, and hands it on.
struct Sink {
    head: Option<oneshot::Sender<WorkResult<FileHead>>>,
    parts: mpsc::Sender<io::Result<Vec<u8>>>,
    sent: u64,
    runtime: Handle,
}

impl FileSink for Sink {
    fn begin(&mut self, head: FileHead) {
        if let Some(to) = self.head.take() {
            // That nobody waits any more is noticed with the first byte.
            to.send(Ok(head)).ok();
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = async { tokio::time::timeout(STALL, self.parts.reserve()).await };
        match self.runtime.block_on(room) {
            Ok(Ok(room)) => room.send(Ok(bytes.to_vec())),
            Ok(Err(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        self.sent = self.sent.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a reader has sent.
struct Sent {
    done: WorkResult<SentFiles>,
    bytes: u64,
    /// Where the head goes, if it never came.
    head: Option<oneshot::Sender<WorkResult<FileHead>>>,
}

/// The point that is read, and what the record calls it.
struct Found {
    of: FilesOf,
    /// The item by its name here, and the point as it is known here.
    item: String,
    point: PointId,
    target: String,
}

impl Control {
    /// The file systems of a recovery point.
    pub async fn point_volumes(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
    ) -> Result<PointVolumes> {
        let found = self.files_of(caller, item, point).await?;
        self.record_look(caller, &found, found.detail("volumes", None)).await?;
        self.read_files(move |files, leash| files.volumes(&found.of, leash)).await
    }

    /// A part of a folder of a recovery point, or a file.
    pub async fn list_files(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
        file: FileAsk,
        ask: ListAsk,
    ) -> Result<FileListing> {
        let found = self.files_of(caller, item, point).await?;
        self.record_look(caller, &found, found.detail("folder", Some(&file))).await?;
        self.read_files(move |files, leash| files.list(&found.of, &file, &ask, leash)).await
    }

    /// Begins to send files of a recovery point. `request` names the report that is kept of it, and `start` starts the
    /// work, which also records how it ends.
    pub async fn send_files(
        self: &Arc<Self>,
        caller: &Caller,
        (item, point): (&str, &str),
        file: FileAsk,
        what: FileStream,
        request: String,
        start: impl FnOnce(Sending),
    ) -> Result<FileDownload> {
        let found = self.files_of(caller, item, point).await?;
        let place = self.readers.place().await?;
        let record = found.download_detail(what, &file);
        in_write!(self, tx => {
            audit::record(tx, caller, Operation::ReadFiles, &found.target, record.clone()).await
        })?;
        let (head_to, head) = oneshot::channel();
        let (parts_to, parts) = mpsc::channel(PARTS);
        let leash = Leash::new();
        let pulls = Pulls(leash.clone());
        let (control, caller) = (Arc::clone(self), caller.clone());
        let target = found.target;
        let work = async move {
            let files = Arc::clone(&control.files);
            let (runtime, to) = (Handle::current(), parts_to.clone());
            let held = leash.clone();
            let sent = Self::blocking(move || {
                let _place = place;
                let mut sink = Sink { head: Some(head_to), parts: to, sent: 0, runtime };
                let done = files.send(&found.of, &file, what, &mut sink, &held);
                Ok(Sent { done, bytes: sink.sent, head: sink.head })
            });
            let sent =
                sent.await.unwrap_or_else(|bug| Sent { done: Err(bug), bytes: 0, head: None });
            let left = leash.cancel().is_cancelled() || parts_to.is_closed();
            control.sent(&caller, &target, request, record, &sent, left).await;
            let Sent { done, head, .. } = sent;
            if let Err(error) = done {
                match head {
                    Some(head) => drop(head.send(Err(error))),
                    None => drop(parts_to.send(Err(io::Error::other(error.message))).await),
                }
            }
        };
        start(Box::pin(work));
        let head = head
            .await
            .map_err(|_| ControlError::from(message!(BUG, "a reader ended without an answer")))??;
        Ok(FileDownload { head, parts, _pulls: pulls })
    }

    /// What became of a download of the caller, by the id of its request.
    pub fn file_report(&self, caller: &Caller, request: &str) -> Result<FileReport> {
        let report = self.readers.report(request, caller.user);
        report.ok_or_else(|| {
            let words = "there is no report of such a download: it has not ended, or is long ago";
            ControlError::refused(&codes::REQUEST_NOT_FOUND, words)
        })
    }

    /// Records how a download ended, and keeps its report.
    async fn sent(
        &self,
        caller: &Caller,
        target: &str,
        request: String,
        mut record: Value,
        sent: &Sent,
        left: bool,
    ) {
        let mut report = match &sent.done {
            Ok(sent) => sent.report.clone(),
            Err(error) => FileReport { error: Some((**error).clone()), ..FileReport::default() },
        };
        report.sent_bytes = sent.bytes;
        let outcome = match &sent.done {
            Ok(_) => "completed",
            Err(_) if left => "abandoned",
            Err(_) => "failed",
        };
        if let Some(record) = record.as_object_mut() {
            record.insert("sent_bytes".to_owned(), sent.bytes.into());
            if report.problem_count > 0 {
                record.insert("problem_count".to_owned(), report.problem_count.into());
            }
            if let Some(error) = &report.error {
                record.insert("code".to_owned(), error.code.as_str().into());
            }
        }
        self.readers.keep(request, caller.user, report, self.clock.monotonic());
        let operation = Operation::ReadFiles.name();
        let recorded = in_write!(self, tx => {
            audit::entry(tx, caller, operation, target, outcome, record.clone()).await
        });
        if let Err(error) = recorded {
            let code = error.body().code;
            tracing::error!(
                code = code.as_str(),
                target,
                outcome,
                "the end of a download cannot be recorded"
            );
        }
    }

    /// The point whose files a caller may read. That somebody is refused is recorded.
    async fn files_of(&self, caller: &Caller, item: &str, point: &str) -> Result<Found> {
        let operation = Operation::ReadFiles;
        let found = in_read!(self, tx => {
            let of = find_item(tx, item).await?.doc.item;
            self.check(caller, operation, Target::Item(of.vault, of.id), || no_item(item))?;
            let vault = vault_of(tx, &of).await?;
            Ok((find_point(tx, of.id, point).await?.doc, vault, of))
        });
        let (doc, vault, of) = match found {
            Err(error @ ControlError::Forbidden { .. }) => {
                self.record_refusal(caller, operation.name(), &format!("{item}/{point}")).await?;
                return Err(error);
            }
            found => found?,
        };
        let (point, in_vault) = (doc.point.clone(), doc.is_in_vault());
        check_restorable(&point)?;
        let (name, target) = (of.name.clone(), format!("{}/{}", of.name, point.id));
        let files = match point.snapshot.as_ref().filter(|_| !in_vault) {
            Some(copy) => {
                let place = self.snapshot_place(&of, copy).await?;
                FilesOf { vault: place.vault, item: place.item, point: copy.id }
            }
            None => FilesOf { vault: vault.access(), item: of.name, point: point.id },
        };
        Ok(Found { of: files, point: point.id, item: name, target })
    }

    /// Records that somebody looks at a point, unless that was a moment ago.
    async fn record_look(&self, caller: &Caller, found: &Found, detail: Value) -> Result<()> {
        let now = self.clock.monotonic();
        if !self.readers.is_first_look(&caller.name, found.point, now) {
            return Ok(());
        }
        in_write!(self, tx => {
            audit::record(tx, caller, Operation::ReadFiles, &found.target, detail.clone()).await
        })
    }

    /// Asks a reader something, if one may read now. It ends when nobody waits for its answer.
    async fn read_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn PointFiles, &Leash) -> WorkResult<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.readers.place().await?;
        let leash = Leash::new();
        let _pulls = Pulls(leash.clone());
        let files = Arc::clone(&self.files);
        let done = Self::blocking(move || {
            let _place = place;
            work(&*files, &leash)
        });
        done.await.map_err(|error: Box<ErrorBody>| ControlError::from(error))
    }
}

impl Found {
    /// What the record says of a download.
    fn download_detail(&self, what: FileStream, file: &FileAsk) -> Value {
        match what {
            FileStream::Content { range } => {
                let mut detail = self.detail("file", Some(file));
                let part = range.map(|range| match range {
                    ByteAsk::From { first, .. } => ("from_byte", first),
                    ByteAsk::Last(count) => ("last_bytes", count),
                });
                if let (Some((name, number)), Some(detail)) = (part, detail.as_object_mut()) {
                    detail.insert(name.to_owned(), number.into());
                }
                detail
            }
            FileStream::Archive(format) => self.detail(format.name(), Some(file)),
            FileStream::Tree => self.detail("tree", Some(file)),
        }
    }

    /// What the record says of a look: what was read, and where.
    fn detail(&self, what: &str, file: Option<&FileAsk>) -> Value {
        let mut detail =
            json!({ "what": what, "item": self.item, "recovery_point": self.point.to_string() });
        let Some(FileAsk { of: OfVolume { disk, partition, volume }, path }) = file else {
            return detail;
        };
        let more = [
            ("path", Some(json!(String::from_utf8_lossy(path)))),
            ("disk", disk.as_ref().map(|it| json!(it))),
            ("partition", partition.map(|it| json!(it))),
            ("volume", volume.as_ref().map(|it| json!(it))),
        ];
        if let Some(detail) = detail.as_object_mut() {
            for (name, value) in more {
                detail.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
        detail
    }
}
