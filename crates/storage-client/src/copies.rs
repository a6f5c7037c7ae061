//! Copies that the service makes itself.

use std::time::Duration;

use jiff::SignedDuration;
use strongroom_azure::{
    BlobPath, BlobWrite, CopyState, CopyStatus, LeaseId, Metadata, Method, Overrides, ReadBlob,
    Resource, Sas, SasKind, SasResource, Secret, ServiceSas, SnapshotId, SourceUrl,
};
use strongroom_base::{Cancel, Progress, Stage, Things};

use crate::{
    Client, StorageClientError,
    blobs::write_headers,
    http::{Received, Sent},
};

/// How often it is looked whether a copy has ended.
const LOOK: Duration = Duration::from_secs(1);
/// How long a signature for a source is valid: as long as Azure lets a copy wait.
const SIGNATURE_HOURS: i64 = 14 * 24;

/// A copy that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its id.
    pub id: String,
    /// How it stands. [`Client::properties`] shows its progress.
    pub status: CopyStatus,
}

impl Client {
    /// The URL of a blob or a snapshot, with a signature by which another service may read it for two weeks. With a
    /// shared access signature instead of a key, the URL has that one.
    pub fn signed_url(
        &self,
        path: &BlobPath,
        snapshot: Option<SnapshotId>,
    ) -> Result<SourceUrl, StorageClientError> {
        let resource = if snapshot.is_some() { SasResource::Snapshot } else { SasResource::Blob };
        self.source_url(path, snapshot, Some(resource))
    }

    /// The URL of a snapshot for an incremental copy: its signature is that of the blob, as Azure wants it.
    pub fn incremental_url(
        &self,
        path: &BlobPath,
        snapshot: SnapshotId,
    ) -> Result<SourceUrl, StorageClientError> {
        self.source_url(path, Some(snapshot), Some(SasResource::Blob))
    }

    /// The URL of a snapshot for a copy within the account: the key that signs the request permits to read it.
    pub(crate) fn own_url(
        &self,
        path: &BlobPath,
        snapshot: SnapshotId,
    ) -> Result<SourceUrl, StorageClientError> {
        self.source_url(path, Some(snapshot), None)
    }

    /// A URL with a signature for `signed`, if there is a key to sign with.
    fn source_url(
        &self,
        path: &BlobPath,
        snapshot: Option<SnapshotId>,
        signed: Option<SasResource>,
    ) -> Result<SourceUrl, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let id = snapshot.map(|snapshot| snapshot.to_string());
        let query: Vec<_> = id.iter().map(|id| ("snapshot", id.as_str())).collect();
        let plain = self.connection.primary.url(&self.connection.primary.target(&resource, &query));
        let signature = match (&self.connection.secret, &self.connection.account, signed) {
            (Secret::Key(key), Some(account), Some(signed)) => {
                let of = snapshot.filter(|_| signed == SasResource::Snapshot);
                let overrides = Overrides::default();
                let kind =
                    SasKind::Service(ServiceSas { resource: signed, policy: None, overrides });
                let until = self.clock.now() + SignedDuration::from_hours(SIGNATURE_HOURS);
                Sas::new(kind, "r", until).sign(account, key, &resource, of)
            }
            (Secret::Sas(sas), ..) => Some(sas.to_string()),
            (Secret::Key(_) | Secret::Nothing, ..) => None,
        };
        let joint = if query.is_empty() { '?' } else { '&' };
        let url = match signature {
            Some(signature) => format!("{plain}{joint}{signature}"),
            None => plain,
        };
        SourceUrl::parse("x-ms-copy-source", &url).map_err(|_| {
            StorageClientError::Settings("the URL of the source is too long".to_owned())
        })
    }

    /// Begins a copy to a blob, which it replaces; snapshots of that blob stay. Without metadata the copy gets that of
    /// the source.
    pub fn copy(
        &self,
        source: &SourceUrl,
        to: &BlobPath,
        metadata: &Metadata,
        write: &BlobWrite,
    ) -> Result<Copied, StorageClientError> {
        let resource = Resource::Blob(to.clone());
        let sent = Sent::new("begin a copy to", Method::Put, &resource)
            .header("x-ms-copy-source", source.as_str())
            .headers(metadata.to_headers())
            .headers(write_headers(write))
            .once();
        let received = self.send(&sent)?;
        self.copied(&received)
    }

    /// Makes a snapshot the present state of its blob again. Snapshots stay; a difference to one of them cannot be
    /// listed any more.
    pub fn promote(
        &self,
        path: &BlobPath,
        snapshot: SnapshotId,
        write: &BlobWrite,
    ) -> Result<Copied, StorageClientError> {
        let source = self.own_url(path, snapshot)?;
        self.copy(&source, path, &Metadata::default(), write)
    }

    /// Begins an incremental copy of a snapshot. The URL names the snapshot.
    pub fn incremental_copy(
        &self,
        source: &SourceUrl,
        to: &BlobPath,
    ) -> Result<Copied, StorageClientError> {
        let resource = Resource::Blob(to.clone());
        let sent = Sent::new("begin an incremental copy to", Method::Put, &resource)
            .query("comp", "incrementalcopy")
            .header("x-ms-copy-source", source.as_str())
            .once();
        let received = self.send(&sent)?;
        self.copied(&received)
    }

    /// Waits until the last copy to a blob has ended, and says how. If the work is stopped, the copy continues.
    pub fn wait_for_copy(
        &self,
        to: &BlobPath,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<CopyState, StorageClientError> {
        loop {
            let copy = self.properties(to, &ReadBlob::default())?.copy;
            let copy = copy.ok_or_else(|| StorageClientError::Unsuitable {
                resource: to.to_string(),
                reason: "nothing was copied to it",
            })?;
            let (done, total) = (copy.done_bytes, copy.total_bytes);
            progress.count(Stage::Copying, Things::Bytes, done, total);
            if copy.status != CopyStatus::Pending {
                return Ok(copy);
            }
            if cancel.is_cancelled() {
                return Err(StorageClientError::Interrupted);
            }
            self.sleep(LOOK)?;
        }
    }

    /// Ends a copy that is under way. The blob is empty then.
    pub fn abort_copy(
        &self,
        to: &BlobPath,
        copy_id: &str,
        lease: Option<LeaseId>,
    ) -> Result<(), StorageClientError> {
        let resource = Resource::Blob(to.clone());
        let sent = Sent::new("abort the copy to", Method::Put, &resource)
            .query("comp", "copy")
            .query("copyid", copy_id)
            .header("x-ms-copy-action", "abort")
            .maybe("x-ms-lease-id", lease)
            .once();
        self.send(&sent).map(|_| ())
    }

    fn copied(&self, received: &Received) -> Result<Copied, StorageClientError> {
        let text = |name: &str| received.headers.get(name);
        let status = text("x-ms-copy-status")
            .and_then(|status| CopyStatus::ALL.into_iter().find(|known| known.name() == status));
        let id = text("x-ms-copy-id").map(str::to_owned);
        let (id, status) =
            id.zip(status).ok_or_else(|| self.senseless("there is no copy in it"))?;
        Ok(Copied { id, status })
    }
}
