//! Operations on page blobs.

use std::{num::NonZeroU32, vec};

use bytes::Bytes;
use strongroom_azure::{
    BlobHeaders, BlobPath, BlobProperties, BlobWrite, Checksum, Code, Conditions, ListedRange,
    MAX_PUT_PAGE, Metadata, Method, PageList, ReadBlob, Resource, SnapshotId, SourceUrl, Stamp,
    Tags, range_header,
};
use strongroom_base::ByteRange;

use crate::{
    Client, StorageClientError,
    blobs::{reading, write_headers},
    containers::Next,
    http::Sent,
};

/// A page blob that is to be created; its pages are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewPageBlob {
    /// Its length in bytes: whole pages of 512, at most 8 TiB.
    pub length: u64,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its HTTP headers.
    pub headers: BlobHeaders,
}

/// Which ranges of a page blob are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeQuery {
    /// The snapshot, and conditions.
    pub read: ReadBlob,
    /// The earlier snapshot of a difference; without one, all ranges with content are listed.
    pub previous: Option<SnapshotId>,
    /// Which part of the blob; all of it if it is missing.
    pub within: Option<ByteRange>,
    /// The most ranges of one answer, at most 10,000.
    pub page: Option<NonZeroU32>,
}

/// Ranges of a page blob by their offsets, a page at a time. It ends after the first error.
#[derive(Debug)]
pub struct Pages<'a> {
    client: &'a Client,
    blob: Resource,
    query: RangeQuery,
    page: vec::IntoIter<ListedRange>,
    next: Next,
    /// Where the last range ended.
    end: u64,
}

impl Iterator for Pages<'_> {
    type Item = Result<ListedRange, StorageClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(listed) = self.page.next() {
                // What follows relies on the order.
                if listed.range.offset() < self.end {
                    self.next = Next::Nothing;
                    self.page = Vec::new().into_iter();
                    return Some(Err(self.client.senseless("ranges of pages are not in order")));
                }
                self.end = listed.range.end();
                return Some(Ok(listed));
            }
            let next = self.next.take()?;
            if let Err(error) = self.load(next.marker()) {
                return Some(Err(error));
            }
        }
    }
}

impl Pages<'_> {
    fn load(&mut self, marker: Option<&str>) -> Result<(), StorageClientError> {
        let sent = reading("list the pages of", Method::Get, &self.blob, &self.query.read)
            .query("comp", "pagelist")
            .maybe_query("prevsnapshot", self.query.previous)
            .maybe_query("maxresults", self.query.page)
            .maybe_query("marker", marker)
            .maybe("x-ms-range", self.query.within.and_then(range_header));
        let received = self.client.send(&sent)?;
        if self.query.previous.is_some() && self.client.is_azurite() {
            // A reader that believed it would miss what was cleared.
            return Err(self.client.senseless("Azurite lists all pages in place of a difference"));
        }
        let list = PageList::parse(&received.body);
        let list = list.map_err(|refusal| self.client.bad_answer(&refusal))?;
        self.next = Next::after(marker, list.next_marker)
            .ok_or_else(|| self.client.senseless("the list of ranges does not end"))?;
        self.page = list.ranges.into_iter();
        Ok(())
    }
}

impl Client {
    /// Creates a page blob. Conditions decide whether it may replace another: without any it does. With `If-None-Match`
    /// it is sent once, as a repeated request would find the blob of the first.
    pub fn create_page_blob(
        &self,
        path: &BlobPath,
        blob: &NewPageBlob,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        self.send_new(path, blob, write, write.conditions.is_empty())
    }

    /// Creates a page blob that does not exist. One that does is good, too, if `is_it` says that it was created for the
    /// same purpose: by an earlier try, or by an earlier run.
    pub(crate) fn create_or_find(
        &self,
        path: &BlobPath,
        blob: &NewPageBlob,
        is_it: impl Fn(&BlobProperties) -> bool,
    ) -> Result<(), StorageClientError> {
        let conditions = Conditions { if_none_match: Some(Tags::Any), ..Conditions::default() };
        match self.send_new(path, blob, &BlobWrite { conditions, lease: None }, true) {
            Ok(_) => Ok(()),
            Err(error) if error.service() == Some(Code::BlobAlreadyExists) => {
                let found = self.find(path, None)?;
                found.filter(is_it).map(|_| ()).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn send_new(
        &self,
        path: &BlobPath,
        blob: &NewPageBlob,
        write: &BlobWrite,
        is_repeatable: bool,
    ) -> Result<Stamp, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("create the page blob", Method::Put, &resource)
            .header("x-ms-blob-type", "PageBlob")
            .header("x-ms-blob-content-length", &blob.length)
            .maybe("x-ms-blob-content-type", blob.headers.content_type.as_deref())
            .headers(blob.metadata.to_headers())
            .headers(write_headers(write));
        let sent = if is_repeatable { sent } else { sent.once() };
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }

    /// Writes pages: whole pages of 512 bytes, at most 4 MiB. The service checks their checksum. Without conditions by
    /// `If-Match` it may be sent again: the same bytes come to the same place.
    pub fn put_pages(
        &self,
        path: &BlobPath,
        offset: u64,
        body: Bytes,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let range = ByteRange::new(offset, length).ok().filter(|range| range.len() <= MAX_PUT_PAGE);
        let header = range.and_then(range_header);
        let header =
            header.ok_or(StorageClientError::Bug("a write of pages has a wrong length"))?;
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("write pages of", Method::Put, &resource)
            .query("comp", "page")
            .header("x-ms-page-write", "update")
            .header("x-ms-range", &header)
            .headers(write_headers(write))
            .content(body);
        let sent = if write.conditions.is_empty() { sent } else { sent.once() };
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }

    /// Clears pages: whole pages of 512 bytes, of any number.
    pub fn clear_pages(
        &self,
        path: &BlobPath,
        range: ByteRange,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let header =
            range_header(range).ok_or(StorageClientError::Bug("nothing is to be cleared"))?;
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("clear pages of", Method::Put, &resource)
            .query("comp", "page")
            .header("x-ms-page-write", "clear")
            .header("x-ms-range", &header)
            .headers(write_headers(write));
        let sent = if write.conditions.is_empty() { sent } else { sent.once() };
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }

    /// Writes pages that the service reads itself, at the same place of another blob: whole pages, at most 4 MiB. The
    /// URL has the signature that lets the service read it.
    pub fn put_pages_from(
        &self,
        path: &BlobPath,
        range: ByteRange,
        source: &SourceUrl,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let header =
            range_header(range).ok_or(StorageClientError::Bug("nothing is to be written"))?;
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("copy pages to", Method::Put, &resource)
            .query("comp", "page")
            .header("x-ms-page-write", "update")
            .header("x-ms-range", &header)
            .header("x-ms-source-range", &header)
            .header("x-ms-copy-source", source.as_str())
            .headers(write_headers(write));
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }

    /// Changes the length of a page blob: new pages are zero, pages behind the new end are dropped.
    pub fn resize(
        &self,
        path: &BlobPath,
        length: u64,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("resize", Method::Put, &resource)
            .query("comp", "properties")
            .header("x-ms-blob-content-length", &length)
            .headers(write_headers(write));
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }

    /// Replaces the HTTP headers of a blob.
    pub fn set_headers(
        &self,
        path: &BlobPath,
        headers: &BlobHeaders,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let md5 = headers.content_md5.map(|md5| Checksum::Md5(md5).to_header().1);
        let sent = Sent::new("set the properties of", Method::Put, &resource)
            .query("comp", "properties")
            .maybe("x-ms-blob-content-type", headers.content_type.as_deref())
            .maybe("x-ms-blob-content-encoding", headers.content_encoding.as_deref())
            .maybe("x-ms-blob-content-language", headers.content_language.as_deref())
            .maybe("x-ms-blob-content-disposition", headers.content_disposition.as_deref())
            .maybe("x-ms-blob-cache-control", headers.cache_control.as_deref())
            .maybe("x-ms-blob-content-md5", md5)
            .headers(write_headers(write));
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }

    /// The ranges of a page blob that have content, or that differ from an earlier snapshot. Azurite answers the second
    /// wrongly, so that it is an error.
    pub fn pages(&self, path: &BlobPath, query: RangeQuery) -> Pages<'_> {
        Pages {
            client: self,
            blob: Resource::Blob(path.clone()),
            query,
            page: Vec::new().into_iter(),
            next: Next::Begin,
            end: 0,
        }
    }
}
