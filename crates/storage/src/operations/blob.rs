//! Operations on a blob that change it, and those that copy it.

use azure::{
    Answer, BlobOperation, BlobType, BlobWrite, Code, DeleteBlob, Grant, PutPageBlob, Refusal,
    SetBlobProperties, SnapshotBlob, Written,
};
use blobs::{Access, BlobChange, BlobName, Change, Done, EtagCondition, NewBlob, SnapshotOf};
use strongroom_azure as azure;
use strongroom_blobs as blobs;

use super::unsupported;
use crate::{
    bodies::Incoming,
    face::{Reply, Work},
    map::{self, Subject},
    storage::Failure,
};

const SUBJECT: Subject = Subject::Blob;

impl Work<'_> {
    /// Carries out an operation on a blob.
    pub(crate) async fn blob(
        &self,
        path: &azure::BlobPath,
        operation: &BlobOperation,
        incoming: &mut Incoming,
    ) -> Result<Reply, Refusal> {
        use BlobOperation as Op;
        let name = self.blob_name(path);
        let answer = match operation {
            Op::Get(get) => return self.get_blob(name, get).await,
            Op::GetPageRanges(get) => return self.get_page_ranges(name, get).await,
            Op::GetProperties(read) => self.get_properties(name, read).await?,
            Op::GetMetadata(read) => self.get_metadata(name, read).await?,
            Op::PutPageBlob(put) => self.put_blob(name, put).await?,
            Op::PutPage(put) => self.put_page(name, put, incoming).await?,
            Op::ClearPages(clear) => self.clear_pages(name, clear).await?,
            Op::PutPageFromUrl(put) => self.put_page_from_url(name, put).await?,
            Op::Snapshot(snapshot) => self.snapshot(name, snapshot).await?,
            Op::Delete(delete) => self.delete(name, delete).await?,
            Op::SetProperties(set) => self.set_properties(name, set).await?,
            Op::SetMetadata(set) => {
                let change = BlobChange::SetMetadata(map::metadata(&set.metadata));
                let done = self.change_blob(name, &set.write, change).await?;
                Answer::changed(&map::stamp(done.etag, done.modified))
            }
            Op::Lease(lease) => {
                let change = BlobChange::Lease(map::lease_action(lease.action));
                let access = map::access(None, &lease.conditions);
                let done = self.change_with(name, access, change).await;
                let done = done.map_err(|failure| map::failure(&failure, SUBJECT))?;
                map::lease_answer(lease.action, &done)?
            }
            Op::SetTier(set) => self.set_tier(name, set).await?,
            Op::Copy(copy) => self.copy_blob(name, copy).await?,
            Op::IncrementalCopy(copy) => self.incremental_copy(name, copy).await?,
            Op::AbortCopy(abort) => self.abort_copy(name, abort).await?,
            Op::GetAccountInformation => map::information(&self.account).answer(),
            Op::PutBlockBlob(put) => self.put_block_blob(name, put, incoming).await?,
            Op::PutAppendBlob(put) => self.put_append_blob(name, put).await?,
            Op::PutBlobFromUrl(put) => self.put_blob_from_url(name, put).await?,
            Op::PutBlock(put) => self.put_block(name, put, incoming).await?,
            Op::PutBlockFromUrl(put) => self.put_block_from_url(name, put).await?,
            Op::PutBlockList(put) => self.put_block_list(name, put, incoming).await?,
            Op::GetBlockList(get) => self.get_block_list(name, get).await?,
            Op::AppendBlock(append) => self.append_block(name, append, incoming).await?,
            Op::AppendBlockFromUrl(append) => self.append_block_from_url(name, append).await?,
        };
        Ok(answer.into())
    }

    pub(crate) async fn change_with(
        &self,
        name: BlobName,
        access: Access,
        change: BlobChange,
    ) -> Result<Done, Failure> {
        self.storage.change(Change::Blob { name, access, change }).await
    }

    /// A change of a blob under a lease and conditions.
    pub(crate) async fn change_blob(
        &self,
        name: BlobName,
        write: &BlobWrite,
        change: BlobChange,
    ) -> Result<Done, Refusal> {
        let access = map::access(write.lease, &write.conditions);
        let done = self.change_with(name, access, change).await;
        done.map_err(|failure| map::failure(&failure, SUBJECT))
    }

    /// With what right a blob is created or overwritten: a signature that only creates must find none.
    pub(crate) fn create_access(&self, write: &BlobWrite) -> Access {
        let mut access = map::access(write.lease, &write.conditions);
        if self.grant.check_overwrite(true).is_err() {
            access.conditions.if_none_match = Some(EtagCondition::Any);
        }
        access
    }

    /// The refusal of a creation.
    pub(crate) fn create_failure(
        &self,
        failure: &Failure,
        write: &BlobWrite,
        subject: Subject,
    ) -> Refusal {
        let asked = matches!(write.conditions.if_none_match, Some(azure::Tags::Any));
        match (&self.grant, failure) {
            (Grant::Sas { .. }, Failure::Refused(blobs::Refusal::BlobExists)) if !asked => {
                Code::UnauthorizedBlobOverwrite.into()
            }
            _ => map::failure(failure, subject),
        }
    }

    async fn put_blob(&self, name: BlobName, put: &PutPageBlob) -> Result<Answer, Refusal> {
        if let Some(tier) = put.tier {
            tier.check(BlobType::Page, self.is_premium())?;
            return Err(no_tiers());
        }
        let new = NewBlob {
            size: put.length,
            sequence: put.sequence_number,
            properties: map::properties(&put.headers),
            metadata: map::metadata(&put.metadata),
            ..NewBlob::default()
        };
        let access = self.create_access(&put.write);
        let done = self.change_with(name, access, BlobChange::Create(new)).await;
        let done = done.map_err(|failure| self.create_failure(&failure, &put.write, SUBJECT))?;
        let stamp = Some(map::stamp(done.etag, done.modified));
        Ok(Written { stamp, ..Written::default() }.answer())
    }

    async fn snapshot(&self, name: BlobName, take: &SnapshotBlob) -> Result<Answer, Refusal> {
        let access = map::access(take.write.lease, &take.write.conditions);
        let metadata = (!take.metadata.is_empty()).then(|| map::metadata(&take.metadata));
        let of = SnapshotOf { blob: name, access, metadata };
        let done = self.storage.change(Change::Snapshot(vec![of])).await;
        let done = done.map_err(|failure| map::failure(&failure, SUBJECT))?;
        let id = done.snapshot.and_then(map::snapshot_shown).ok_or(Code::InternalError)?;
        Ok(Answer::snapshot_taken(id, &map::stamp(done.etag, done.modified)))
    }

    async fn delete(&self, name: BlobName, delete: &DeleteBlob) -> Result<Answer, Refusal> {
        let change = BlobChange::Delete {
            snapshot: delete.snapshot.map(map::snapshot_id),
            snapshots: map::delete_snapshots(delete.snapshots),
        };
        self.change_blob(name, &delete.write, change).await?;
        Ok(Answer::deleted())
    }

    async fn set_properties(
        &self,
        name: BlobName,
        set: &SetBlobProperties,
    ) -> Result<Answer, Refusal> {
        let change = BlobChange::Set {
            size: set.length,
            sequence: set.sequence.map(map::sequence_action),
            properties: set.headers.as_ref().map(map::properties),
        };
        let done = self.change_blob(name, &set.write, change).await?;
        let stamp = map::stamp(done.etag, done.modified);
        Ok(Answer::properties_changed(&stamp, Some(done.sequence)))
    }

    pub(crate) fn is_premium(&self) -> bool {
        self.account.kind == blobs::AccountKind::Premium
    }
}

/// Tiers of page blobs bound speed and size, which this service does not do.
pub(super) fn no_tiers() -> Refusal {
    unsupported(
        Code::BlobAccessTierNotSupportedForAccountType,
        "This service has no tiers of page blobs.",
    )
}
