//! Operations on block blobs.

use bytes::Bytes;
use strongroom_azure::{
    BlobPath, BlobWrite, BlockId, BlockLookup, BlockPlace, Metadata, Method, Resource, Stamp,
};

use crate::{Client, StorageClientError, blobs::write_headers, http::Sent};

impl Client {
    /// Creates a block blob with its content.
    pub fn put_block_blob(
        &self,
        path: &BlobPath,
        body: Bytes,
        metadata: &Metadata,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("create the block blob", Method::Put, &resource)
            .header("x-ms-blob-type", "BlockBlob")
            .headers(metadata.to_headers())
            .headers(write_headers(write))
            .content(body);
        let sent = if write.conditions.is_empty() { sent } else { sent.once() };
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }

    /// Sends a block, which is part of the blob when a list names it.
    pub fn put_block(
        &self,
        path: &BlobPath,
        id: &BlockId,
        body: Bytes,
    ) -> Result<(), StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("write a block of", Method::Put, &resource)
            .query("comp", "block")
            .query("blockid", &id)
            .content(body);
        self.send(&sent).map(|_| ())
    }

    /// Makes a block blob of the blocks that were sent.
    pub fn put_block_list(
        &self,
        path: &BlobPath,
        ids: &[BlockId],
        metadata: &Metadata,
        write: &BlobWrite,
    ) -> Result<Stamp, StorageClientError> {
        let list: Vec<_> = ids
            .iter()
            .map(|id| BlockLookup { id: id.clone(), place: BlockPlace::Latest })
            .collect();
        let resource = Resource::Blob(path.clone());
        let sent = Sent::new("write the list of blocks of", Method::Put, &resource)
            .query("comp", "blocklist")
            .headers(metadata.to_headers())
            .headers(write_headers(write))
            .xml(BlockLookup::list_to_xml(&list));
        let sent = if write.conditions.is_empty() { sent } else { sent.once() };
        let received = self.send(&sent)?;
        self.stamp(&received.headers)
    }
}
