//! Operations on block blobs and append blobs.

use azure::{
    AccessTier, Answer, AppendBlock, BlobType, BlockListType, BlockLookup, Body, Code,
    GetBlockList, ListedBlock, PutAppendBlob, PutBlobFromUrl, PutBlock, PutBlockBlob,
    PutBlockFromUrl, PutBlockList, Refusal, SetBlobTier, Source, Written, block_list,
};
use blobs::{
    Access, BlobChange, BlobKind, BlobName, BlockList, BlockPlace, Done, Head, NewBlob, ReadError,
    Tier, UploadTo,
};
use strongroom_azure as azure;
use strongroom_blobs as blobs;

use super::unsupported;
use crate::{
    bodies::Incoming,
    face::Work,
    map::{self, Subject},
    storage::Failure,
    uploads::{Origin, Parcel, Target, refused},
};

/// The most bytes of a blob that is made of another one by one request.
const MAX_FROM_URL: u64 = 5000 << 20;
/// Bytes of memory that a list of blocks is taken to need.
const LIST_MEMORY: u64 = 16 << 20;

/// Both lists of blocks, and the blob if there is one.
type Lists = (Option<Head>, Vec<blobs::Block>, Vec<blobs::Block>);

impl Work<'_> {
    /// The tier of a new block blob.
    pub(crate) fn block_tier(&self, tier: Option<AccessTier>) -> Result<Option<Tier>, Refusal> {
        let Some(tier) = tier else { return Ok(None) };
        tier.check(BlobType::Block, self.is_premium())?;
        match map::tier(tier) {
            Some(tier) => Ok(Some(tier)),
            None => Err(unsupported(
                Code::BlobAccessTierNotSupportedForAccountType,
                "This service has no archive.",
            )),
        }
    }

    pub(super) async fn put_block_blob(
        &self,
        name: BlobName,
        put: &PutBlockBlob,
        incoming: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        let tier = self.block_tier(put.tier)?;
        let access = self.create_access(&put.write);
        let failure = |failure: &Failure| self.put_failure(failure, &put.write);
        let target = Target { name: name.clone(), access: access.clone(), to: UploadTo::Blob };
        let (parcel, received) = self.receive(target, &put.body, incoming, failure).await?;
        let mut headers = put.headers.clone();
        headers.content_md5 = headers.content_md5.or(received.md5);
        let new = new_block_blob(&headers, map::metadata(&put.metadata), tier);
        let content = parcel.content.clone();
        let change = BlobChange::Put { new: Box::new(new), content };
        let done = self.use_parcel(name, access, change, parcel).await;
        let done = done.map_err(|error| failure(&error))?;
        Ok(Written {
            stamp: Some(map::stamp(done.etag, done.modified)),
            checksum: received.checksum,
            is_structured: received.is_structured,
            ..Written::default()
        }
        .answer())
    }

    fn put_failure(&self, failure: &Failure, write: &azure::BlobWrite) -> Refusal {
        self.create_failure(failure, write, Subject::Blob)
    }

    /// Makes a change of what was received; what it does not use is given back.
    async fn use_parcel(
        &self,
        name: BlobName,
        access: Access,
        change: BlobChange,
        parcel: Parcel,
    ) -> Result<Done, Failure> {
        let done = self.change_with(name, access, change).await?;
        parcel.used();
        Ok(done)
    }

    pub(super) async fn put_append_blob(
        &self,
        name: BlobName,
        put: &PutAppendBlob,
    ) -> Result<Answer, Refusal> {
        let new = NewBlob {
            kind: BlobKind::Append,
            properties: map::properties(&put.headers),
            metadata: map::metadata(&put.metadata),
            ..NewBlob::default()
        };
        let access = self.create_access(&put.write);
        let done = self.change_with(name, access, BlobChange::Create(new)).await;
        let done = done.map_err(|failure| self.put_failure(&failure, &put.write))?;
        let stamp = Some(map::stamp(done.etag, done.modified));
        Ok(Written { stamp, ..Written::default() }.answer())
    }

    pub(super) async fn put_blob_from_url(
        &self,
        name: BlobName,
        put: &PutBlobFromUrl,
    ) -> Result<Answer, Refusal> {
        let tier = self.block_tier(put.tier)?;
        let source = crate::copies::Source::find(self, &put.source.url).await?;
        let head = source.head(self.storage, None, self.now()).await?;
        let stamp = head.stamp();
        let state = azure::State { etag: &stamp.etag, last_modified: stamp.last_modified };
        put.source.conditions.check_source(state)?;
        if head.length() > MAX_FROM_URL {
            let limit = MAX_FROM_URL.to_string();
            return Err(Refusal::new(Code::RequestBodyTooLarge).with("MaxLimit", limit));
        }
        let mut new = new_block_blob(&put.headers, map::metadata(&put.metadata), tier);
        head.complete(&mut new, put.copies_headers);
        let access = self.create_access(&put.write);
        let failure = |failure: &Failure| self.put_failure(failure, &put.write);
        let target = Target { name: name.clone(), access: access.clone(), to: UploadTo::Blob };
        let origin = Origin::whole(source, &head);
        let (parcel, checksum) = self.fetch(target, &origin, &put.source, failure).await?;
        let content = parcel.content.clone();
        let change = BlobChange::Put { new: Box::new(new), content };
        let done = self.use_parcel(name, access, change, parcel).await;
        let done = done.map_err(|error| failure(&error))?;
        let stamp = Some(map::stamp(done.etag, done.modified));
        Ok(Written { stamp, checksum, ..Written::default() }.answer())
    }

    pub(super) async fn put_block(
        &self,
        name: BlobName,
        put: &PutBlock,
        incoming: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        let access = map::access(put.lease, &azure::Conditions::default());
        let target = Target { name: name.clone(), access: access.clone(), to: UploadTo::Block };
        let (parcel, received) = self.receive(target, &put.body, incoming, refused).await?;
        self.stage(name, access, &put.id, parcel).await?;
        Ok(Written {
            checksum: received.checksum,
            is_structured: received.is_structured,
            ..Written::default()
        }
        .answer())
    }

    pub(super) async fn put_block_from_url(
        &self,
        name: BlobName,
        put: &PutBlockFromUrl,
    ) -> Result<Answer, Refusal> {
        let access = map::access(put.lease, &azure::Conditions::default());
        let origin = self.origin(&put.source).await?;
        let target = Target { name: name.clone(), access: access.clone(), to: UploadTo::Block };
        let (parcel, checksum) = self.fetch(target, &origin, &put.source, refused).await?;
        self.stage(name, access, &put.id, parcel).await?;
        Ok(Written { checksum, ..Written::default() }.answer())
    }

    async fn stage(
        &self,
        name: BlobName,
        access: Access,
        id: &azure::BlockId,
        parcel: Parcel,
    ) -> Result<(), Refusal> {
        let change =
            BlobChange::StageBlock { id: map::block_id(id)?, content: parcel.content.clone() };
        let done = self.use_parcel(name, access, change, parcel).await;
        done.map(|_| ()).map_err(|failure| refused(&failure))
    }

    pub(super) async fn put_block_list(
        &self,
        name: BlobName,
        put: &PutBlockList,
        incoming: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        let tier = self.block_tier(put.tier)?;
        let memory = self.storage.body_memory(put.body.wire_length.saturating_mul(4)).await;
        let _memory = memory.map_err(|failure| refused(&failure))?;
        let (content, received) = incoming.read(&put.body).await?;
        let list = BlockLookup::parse_list(&content)?;
        let block = |lookup: &BlockLookup| {
            let place = match lookup.place {
                azure::BlockPlace::Committed => BlockPlace::Committed,
                azure::BlockPlace::Uncommitted => BlockPlace::Uncommitted,
                azure::BlockPlace::Latest => BlockPlace::Latest,
            };
            Ok((map::block_id(&lookup.id)?, place))
        };
        let list = BlockList {
            blocks: list.iter().map(block).collect::<Result<_, Refusal>>()?,
            properties: map::properties(&put.headers),
            metadata: map::metadata(&put.metadata),
            tier,
        };
        let access = self.create_access(&put.write);
        let done = self.change_with(name, access, BlobChange::CommitBlocks(list)).await;
        let done = done.map_err(|failure| self.put_failure(&failure, &put.write))?;
        Ok(Written {
            stamp: Some(map::stamp(done.etag, done.modified)),
            checksum: received.checksum,
            is_structured: received.is_structured,
            ..Written::default()
        }
        .answer())
    }

    pub(super) async fn get_block_list(
        &self,
        name: BlobName,
        get: &GetBlockList,
    ) -> Result<Answer, Refusal> {
        let _memory = self.storage.pieces.take(LIST_MEMORY).await.ok_or(Code::ServerBusy)?;
        let (kind, snapshot) = (get.kind, get.read.snapshot.map(map::snapshot_id));
        let found = self.storage.look(move |view| {
            let head = match view.head(&name, snapshot) {
                Ok(head) => Some(head),
                Err(ReadError::Refused(blobs::Refusal::BlobNotFound)) if snapshot.is_none() => None,
                Err(error) => return Err(error),
            };
            let waiting = match snapshot {
                None => view.uncommitted_blocks(&name)?,
                Some(_) => Vec::new(),
            };
            let committed = match &head {
                Some(head) if kind != BlockListType::Uncommitted => view.committed_blocks(head)?,
                _ => Vec::new(),
            };
            Ok::<Lists, ReadError>((head, committed, waiting))
        });
        let (head, committed, waiting) = found.await.map_err(|failure| refused(&failure))?;
        if let Some(head) = &head {
            super::reads::admit(head, &get.read, self.now())?;
        }
        let listed = |block: blobs::Block| {
            let id = azure::BlockId::from_bytes(block.id.as_bytes())?;
            Some(ListedBlock { id, length: block.len })
        };
        let committed: Vec<_> = committed.into_iter().filter_map(listed).collect();
        let waiting: Vec<_> = waiting.into_iter().filter_map(listed).collect();
        let stamp = head.as_ref().map(|head| (map::stamp(head.etag, head.modified), head.size));
        let blob = stamp.as_ref().map(|(stamp, size)| (stamp, *size));
        Ok(block_list(kind, &committed, &waiting, blob))
    }

    pub(super) async fn append_block(
        &self,
        name: BlobName,
        append: &AppendBlock<Body>,
        incoming: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        let access = map::access(append.write.lease, &append.write.conditions);
        let target = Target { name: name.clone(), access: access.clone(), to: UploadTo::Append };
        let (parcel, received) = self.receive(target, &append.content, incoming, refused).await?;
        let written = Written {
            checksum: received.checksum,
            is_structured: received.is_structured,
            ..Written::default()
        };
        self.append(name, access, append.append, parcel, written).await
    }

    pub(super) async fn append_block_from_url(
        &self,
        name: BlobName,
        append: &AppendBlock<Source>,
    ) -> Result<Answer, Refusal> {
        let access = map::access(append.write.lease, &append.write.conditions);
        let origin = self.origin(&append.content).await?;
        let target = Target { name: name.clone(), access: access.clone(), to: UploadTo::Append };
        let (parcel, checksum) = self.fetch(target, &origin, &append.content, refused).await?;
        let written = Written { checksum, ..Written::default() };
        self.append(name, access, append.append, parcel, written).await
    }

    async fn append(
        &self,
        name: BlobName,
        access: Access,
        conditions: azure::AppendConditions,
        parcel: Parcel,
        written: Written,
    ) -> Result<Answer, Refusal> {
        let azure::AppendConditions { max_size, position } = conditions;
        let conditions = blobs::AppendConditions { max_size, position };
        let change = BlobChange::Append { content: parcel.content.clone(), conditions };
        let done = self.use_parcel(name, access, change, parcel).await;
        let done = done.map_err(|failure| refused(&failure))?;
        Ok(Written {
            stamp: Some(map::stamp(done.etag, done.modified)),
            appended: Some((done.appended.unwrap_or(0), done.sequence)),
            ..written
        }
        .answer())
    }

    pub(super) async fn set_tier(
        &self,
        name: BlobName,
        set: &SetBlobTier,
    ) -> Result<Answer, Refusal> {
        let (wanted, snapshot) = (name.clone(), set.snapshot.map(map::snapshot_id));
        let head = self.storage.look(move |view| view.head(&wanted, snapshot)).await;
        let head = head.map_err(|failure| refused(&failure))?;
        if head.kind != BlobKind::Block {
            set.tier.check(map::blob_type(head.kind), self.is_premium())?;
            return Err(super::blob::no_tiers());
        }
        let tier = self.block_tier(Some(set.tier))?.ok_or(Code::InvalidBlobTier)?;
        if snapshot.is_some() {
            return Err(unsupported(Code::InvalidBlobTier, "A snapshot has the tier of its blob."));
        }
        let access = map::access(set.lease, &azure::Conditions::default());
        let done = self.change_with(name, access, BlobChange::SetTier(tier)).await;
        done.map_err(|failure| refused(&failure))?;
        Ok(Answer::tier_set())
    }
}

fn new_block_blob(
    headers: &azure::BlobHeaders,
    metadata: blobs::Metadata,
    tier: Option<Tier>,
) -> NewBlob {
    NewBlob {
        kind: BlobKind::Block,
        properties: map::properties(headers),
        metadata,
        tier,
        ..NewBlob::default()
    }
}
