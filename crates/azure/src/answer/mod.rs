//! Answers: typed facts in, status, headers and XML out.

mod blob;
mod blocks;
mod container;
mod failure;
mod lists;
mod pages;
mod read;
mod service;

#[cfg(test)]
mod tests;

pub use blob::{BlobProperties, BlobRead, CopyState, CopyStatus, Written};
pub use blocks::{BlockLookup, BlockPlace, ListedBlock, block_list};
pub use container::{ContainerProperties, container_acl};
pub use failure::Failure;
pub use lists::{
    BlobEntry, BlobList, BlobListHead, ContainerEntry, ContainerList, ContainerListHead, ListedBlob,
};
pub use pages::{ListedRange, PageList};
pub use service::{
    AccountInformation, AccountKind, CorsRule, GeoStatus, Logging, Metrics, RetentionDays,
    ServiceProperties, ServiceStats, Sku, StaticWebsite,
};

use jiff::Timestamp;

use crate::{
    ETag, LeaseId, Refusal, Repeated, SnapshotId,
    time::{http_date, iso_date},
    xml::Writer,
};

/// What identifies a state of a blob or container in every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its tag.
    pub etag: ETag,
    /// When it was last changed.
    pub last_modified: Timestamp,
}

/// An answer: what goes back over HTTP, except the content of a blob, which the face adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, if it is XML. `Content-Length` is for the face.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer with nothing but its status.
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header if there is a value.
    #[must_use]
    pub(crate) fn maybe(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    #[must_use]
    pub(crate) fn stamped(self, stamp: &Stamp) -> Self {
        self.with("etag", stamp.etag.to_string())
            .with("last-modified", http_date(stamp.last_modified))
    }

    pub(crate) fn xml(status: u16, body: Vec<u8>) -> Self {
        Self { body, ..Self::new(status).with("content-type", "application/xml") }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The answer of a deletion: 202.
    pub const fn deleted() -> Self {
        Self::new(202)
    }

    /// The answer of an aborted copy: 204.
    pub const fn aborted() -> Self {
        Self::new(204)
    }

    /// The answer of new service properties: 202.
    pub const fn properties_set() -> Self {
        Self::new(202)
    }

    /// The answer of a new tier: 200, because it is in force at once.
    pub const fn tier_set() -> Self {
        Self::new(200)
    }

    /// The answer of a created container: 201.
    pub fn container_created(stamp: &Stamp) -> Self {
        Self::new(201).stamped(stamp)
    }

    /// The answer of changed metadata, and of a changed ACL of a container: 200.
    pub fn changed(stamp: &Stamp) -> Self {
        Self::new(200).stamped(stamp)
    }

    /// The answer of changed properties of a blob: 200. Page blobs say their sequence number.
    pub fn properties_changed(stamp: &Stamp, sequence_number: Option<u64>) -> Self {
        Self::changed(stamp)
            .maybe("x-ms-blob-sequence-number", sequence_number.map(|n| n.to_string()))
    }

    /// The answer of a snapshot: 201. The stamp is that of the blob.
    pub fn snapshot_taken(snapshot: SnapshotId, stamp: &Stamp) -> Self {
        Self::new(201)
            .stamped(stamp)
            .with("x-ms-snapshot", snapshot.to_string())
            .with("x-ms-request-server-encrypted", "false")
    }

    /// The answer of a copy that has begun, or is whole already: 202. An incremental copy is one, too.
    pub fn copy_started(copy_id: &str, status: CopyStatus, stamp: &Stamp) -> Self {
        Self::new(202)
            .stamped(stamp)
            .with("x-ms-copy-id", copy_id)
            .with("x-ms-copy-status", status.name())
    }

    /// The answer of an acquired lease: 201.
    pub fn lease_acquired(id: LeaseId, stamp: &Stamp) -> Self {
        Self::new(201).stamped(stamp).with("x-ms-lease-id", id.to_string())
    }

    /// The answer of a renewed lease, or of one with a new id: 200.
    pub fn lease_held(id: LeaseId, stamp: &Stamp) -> Self {
        Self::new(200).stamped(stamp).with("x-ms-lease-id", id.to_string())
    }

    /// The answer of a released lease: 200.
    pub fn lease_released(stamp: &Stamp) -> Self {
        Self::new(200).stamped(stamp)
    }

    /// The answer of a broken lease: 202, and in how many seconds it ends.
    pub fn lease_broken(seconds_left: u64, stamp: &Stamp) -> Self {
        Self::new(202).stamped(stamp).with("x-ms-lease-time", seconds_left.to_string())
    }

    /// The answer of a refusal: its code as a header and, unless it is 304, with a message as XML.
    pub fn refused(
        refusal: &Refusal,
        repeated: &Repeated,
        request_id: &str,
        moment: Timestamp,
    ) -> Self {
        let code = refusal.code();
        let name = code.name_at(repeated.version);
        let mut answer = Self::new(code.status());
        if code.status() != 304 {
            let mut writer = Writer::new("Error");
            writer.leaf("Code", name).leaf(
                "Message",
                &format!("{}\nRequestId:{request_id}\nTime:{}", code.message(), iso_date(moment)),
            );
            for (name, value) in refusal.details() {
                writer.leaf(name, value);
            }
            answer = Self::xml(code.status(), writer.finish());
        }
        answer = answer.with("x-ms-error-code", name);
        if code.status() == 401 {
            answer = answer.with("www-authenticate", "SharedKey");
        }
        answer.repeat(repeated, request_id, moment)
    }

    /// Adds what every answer has: version, ids, date. The body of an answer to `HEAD` is dropped.
    #[must_use]
    pub fn repeat(mut self, repeated: &Repeated, request_id: &str, moment: Timestamp) -> Self {
        if repeated.is_head {
            self.body.clear();
        }
        self.with("x-ms-version", repeated.version.to_string())
            .with("x-ms-request-id", request_id)
            .maybe("x-ms-client-request-id", repeated.client_request_id.clone())
            .with("date", http_date(moment))
    }
}
