//! Operations on blobs of every type.

use std::vec;

use bytes::Bytes;
use strongroom_azure::{
    BlobEntry, BlobList, BlobPath, BlobProperties, BlobWrite, Checksum, ChecksumKind, Checksums,
    ContainerName, DeleteSnapshots, MAX_CHECKED_READ, Metadata, Method, ReadBlob, Resource,
    SnapshotId, Stamp, range_header,
};
use strongroom_base::ByteRange;

use crate::{
    Client, StorageClientError,
    containers::Next,
    http::{Received, Sent},
};

/// Which blobs of a container are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobQuery {
    /// What their names begin with.
    pub prefix: Option<String>,
    /// What ends the names of prefixes. Azure lists no snapshots with one.
    pub delimiter: Option<String>,
    /// Whether snapshots are listed.
    pub snapshots: bool,
    /// Whether metadata is listed.
    pub metadata: bool,
    /// Whether copies are listed.
    pub copies: bool,
    /// The most entries of one answer, at most 5,000.
    pub page: Option<u32>,
}

impl BlobQuery {
    fn include(&self) -> Option<String> {
        let wanted =
            [(self.snapshots, "snapshots"), (self.metadata, "metadata"), (self.copies, "copy")];
        let names: Vec<_> =
            wanted.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        (!names.is_empty()).then(|| names.join(","))
    }
}

/// Blobs of a container by their names, a page at a time; snapshots before their blob. It ends after the first error.
#[derive(Debug)]
pub struct Blobs<'a> {
    client: &'a Client,
    container: Resource,
    query: BlobQuery,
    page: vec::IntoIter<BlobEntry>,
    next: Next,
}

impl Iterator for Blobs<'_> {
    type Item = Result<BlobEntry, StorageClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            let next = self.next.take()?;
            if let Err(error) = self.load(next.marker()) {
                return Some(Err(error));
            }
        }
    }
}

impl Blobs<'_> {
    fn load(&mut self, marker: Option<&str>) -> Result<(), StorageClientError> {
        let sent = Sent::new("list the blobs of", Method::Get, &self.container)
            .query("restype", "container")
            .query("comp", "list")
            .maybe_query("include", self.query.include())
            .maybe_query("prefix", self.query.prefix.as_deref())
            .maybe_query("delimiter", self.query.delimiter.as_deref())
            .maybe_query("maxresults", self.query.page)
            .maybe_query("marker", marker);
        let received = self.client.send(&sent)?;
        let list = BlobList::parse(&received.body);
        let list = list.map_err(|refusal| self.client.bad_answer(&refusal))?;
        self.next = Next::after(marker, list.next_marker)
            .ok_or_else(|| self.client.senseless("the list of blobs does not end"))?;
        self.page = list.entries.into_iter();
        Ok(())
    }
}

/// Headers of a lease and conditions.
pub(crate) fn write_headers(write: &BlobWrite) -> Vec<(String, String)> {
    let mut headers = write.conditions.to_headers();
    headers.extend(write.lease.map(|lease| ("x-ms-lease-id".to_owned(), lease.to_string())));
    headers
}

/// A request that reads a blob or a snapshot.
pub(crate) fn reading<'a>(
    action: &'static str,
    method: Method,
    resource: &'a Resource,
    read: &ReadBlob,
) -> Sent<'a> {
    Sent::new(action, method, resource)
        .maybe_query("snapshot", read.snapshot)
        .headers(read.conditions.to_headers())
        .maybe("x-ms-lease-id", read.lease)
}

/// What is read of a snapshot, or of the blob itself.
pub(crate) fn of_snapshot(snapshot: Option<SnapshotId>) -> ReadBlob {
    ReadBlob { snapshot, ..ReadBlob::default() }
}

impl Client {
    /// The blobs of a container.
    pub fn blobs(&self, container: &ContainerName, query: BlobQuery) -> Blobs<'_> {
        Blobs {
            client: self,
            container: Resource::Container(container.clone()),
            query,
            page: Vec::new().into_iter(),
            next: Next::Begin,
        }
    }

    /// What is known of a blob or a snapshot.
    pub fn properties(
        &self,
        path: &BlobPath,
        read: &ReadBlob,
    ) -> Result<BlobProperties, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let received =
            self.send(&reading("read the properties of", Method::Head, &resource, read))?;
        BlobProperties::parse(&received.headers).map_err(|refusal| self.bad_answer(&refusal))
    }

    /// When the service answered, as its header says.
    pub(crate) fn service_date(
        &self,
        path: &BlobPath,
    ) -> Result<Option<String>, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let read = ReadBlob::default();
        let received =
            self.send(&reading("read the properties of", Method::Head, &resource, &read))?;
        Ok(received.headers.get("date").map(str::to_owned))
    }

    /// As [`Self::properties`], and none if the blob does not exist.
    pub fn find(
        &self,
        path: &BlobPath,
        snapshot: Option<SnapshotId>,
    ) -> Result<Option<BlobProperties>, StorageClientError> {
        match self.properties(path, &of_snapshot(snapshot)) {
            Ok(properties) => Ok(Some(properties)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of a blob or a snapshot, at most 4 MiB. Their checksum is checked.
    pub fn get(
        &self,
        path: &BlobPath,
        read: &ReadBlob,
        range: ByteRange,
    ) -> Result<Bytes, StorageClientError> {
        let Some(header) = range_header(range) else { return Ok(Bytes::new()) };
        if range.len() > MAX_CHECKED_READ {
            return Err(StorageClientError::Bug("a read is longer than 4 MiB"));
        }
        let kind = self.checksum_kind();
        let wanted = match kind {
            ChecksumKind::Md5 => "x-ms-range-get-content-md5",
            ChecksumKind::Crc64 => "x-ms-range-get-content-crc64",
        };
        let resource = Resource::Blob(path.clone());
        let sent = reading("read", Method::Get, &resource, read)
            .header("x-ms-range", &header)
            .header(wanted, "true")
            .limit(usize::try_from(range.len()).unwrap_or(usize::MAX));
        let Received { headers, body } = self.send(&sent)?;
        if u64::try_from(body.len()).unwrap_or(u64::MAX) != range.len() {
            return Err(self.senseless("the answer is shorter than was asked for"));
        }
        // A service that does not know the checksum gives none.
        let given = Checksum::of_body(&headers).map_err(|refusal| self.bad_answer(&refusal))?;
        if let Some(given) = given {
            let mut checksums = Checksums::new([match given {
                Checksum::Md5(_) => ChecksumKind::Md5,
                Checksum::Crc64(_) => ChecksumKind::Crc64,
            }]);
            checksums.update(&body);
            checksums.check(given).map_err(|refusal| self.bad_answer(&refusal))?;
        }
        Ok(body)
    }

    /// The kind of checksum that the service knows.
    pub(crate) fn checksum_kind(&self) -> ChecksumKind {
        if self.is_azurite() { ChecksumKind::Md5 } else { ChecksumKind::Crc64 }
    }

    /// The checksum of a request's body, as a header.
    pub(crate) fn checksum_header(&self, body: &[u8]) -> (String, String) {
        let checksum = match self.checksum_kind() {
            ChecksumKind::Md5 => Checksum::Md5(strongroom_azure::md5(body)),
            ChecksumKind::Crc64 => Checksum::Crc64(strongroom_azure::crc64(body)),
        };
        let (name, value) = checksum.to_header();
        (name.to_owned(), value)
    }

    /// Takes a snapshot. Without metadata it gets that of the blob. It is sent once: a repeated request could take a
    /// second snapshot.
    pub fn snapshot(
        &self,
        path: &BlobPath,
        metadata: &Metadata,
        write: &BlobWrite,
    ) -> Result<SnapshotId, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("take a snapshot of", Method::Put, &resource)
            .query("comp", "snapshot")
            .headers(metadata.to_headers())
            .headers(write_headers(write))
            .once();
        let received = self.send(&sent)?;
        let id = received.headers.get("x-ms-snapshot").and_then(|id| id.parse().ok());
        id.ok_or_else(|| self.senseless("there is no id of a snapshot in it"))
    }

    /// Deletes a blob or a snapshot. A blob with snapshots is deleted only with `snapshots`. A snapshot that is not found
    /// may have been deleted by an earlier try.
    pub fn delete(
        &self,
        path: &BlobPath,
        snapshot: Option<SnapshotId>,
        snapshots: Option<DeleteSnapshots>,
        write: &BlobWrite,
    ) -> Result<(), StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let with_snapshots = snapshots.map(|snapshots| match snapshots {
            DeleteSnapshots::Include => "include",
            DeleteSnapshots::Only => "only",
        });
        let sent = Sent::new("delete", Method::Delete, &resource)
            .maybe_query("snapshot", snapshot)
            .maybe("x-ms-delete-snapshots", with_snapshots)
            .headers(write_headers(write));
        // The id of a snapshot is never given to another.
        let sent = if snapshot.is_some() { sent } else { sent.once() };
        self.send(&sent).map(|_| ())
    }

    /// Replaces the metadata of a blob.
    pub fn set_metadata(
        &self,
        path: &BlobPath,
        metadata: &Metadata,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("set the metadata of", Method::Put, &resource)
            .query("comp", "metadata")
            .headers(metadata.to_headers())
            .headers(write_headers(write));
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }
}
