//! Operations on a container.

use azure::{
    Answer, BlobEntry, BlobList, BlobListHead, Code, ContainerOperation, LeaseId, ListBlobs,
    ListedBlob, PublicAccess, Refusal, SetAcl, StoredPolicy, container_acl,
};
use blobs::{Change, Container, ContainerChange, Item, ListMarker, ListQuery};
use strongroom_azure as azure;
use strongroom_blobs as blobs;

use super::{account::LIST, bad_marker};
use crate::{
    bodies::Incoming,
    face::{Reply, Work},
    map::{self, Subject},
    numbers::size,
};

const SUBJECT: Subject = Subject::Container;
/// Bytes of memory that a list of blobs is taken to need, so that only some are made at once.
const LIST_MEMORY: u64 = 4 << 20;

impl Work<'_> {
    /// Carries out an operation on a container.
    pub(crate) async fn container(
        &self,
        name: &azure::ContainerName,
        operation: &ContainerOperation,
        incoming: &mut Incoming,
    ) -> Result<Reply, Refusal> {
        let plain = || azure::Conditions::default();
        let answer = match operation {
            ContainerOperation::Create(create) => {
                refuse_public(create.public_access)?;
                let change = ContainerChange::Create(map::metadata(&create.metadata));
                let done = self.change_container(name, None, &plain(), change).await?;
                Answer::container_created(&map::stamp(done.etag, done.modified))
            }
            ContainerOperation::Delete(write) => {
                let change = ContainerChange::Delete;
                self.change_container(name, write.lease, &write.conditions, change).await?;
                Answer::deleted()
            }
            ContainerOperation::GetProperties(lease) => {
                let container = self.find_container(name, *lease).await?;
                map::container_properties(&container, self.now()).answer()
            }
            ContainerOperation::SetMetadata(set) => {
                let change = ContainerChange::SetMetadata(map::metadata(&set.metadata));
                let write = &set.write;
                let done =
                    self.change_container(name, write.lease, &write.conditions, change).await?;
                Answer::changed(&map::stamp(done.etag, done.modified))
            }
            ContainerOperation::GetAcl(lease) => {
                let container = self.find_container(name, *lease).await?;
                let stamp = map::stamp(container.etag, container.modified);
                container_acl(&stamp, None, &map::policies_shown(&container.policies))
            }
            ContainerOperation::SetAcl(set) => self.set_acl(name, set, incoming).await?,
            ContainerOperation::Lease(lease) => {
                let change = ContainerChange::Lease(map::lease_action(lease.action));
                let done = self.change_container(name, None, &lease.conditions, change).await?;
                map::lease_answer(lease.action, &done)?
            }
            ContainerOperation::ListBlobs(list) => self.list_blobs(name, list).await?,
            ContainerOperation::Batch(body) => self.batch(body, incoming).await?,
            ContainerOperation::GetAccountInformation => map::information(&self.account).answer(),
        };
        Ok(answer.into())
    }

    async fn change_container(
        &self,
        name: &azure::ContainerName,
        lease: Option<LeaseId>,
        conditions: &azure::Conditions,
        change: ContainerChange,
    ) -> Result<blobs::Done, Refusal> {
        let name = self.container_name(name);
        let access = map::access(lease, conditions);
        let done = self.storage.change(Change::Container { name, access, change }).await;
        done.map_err(|failure| map::failure(&failure, SUBJECT))
    }

    async fn find_container(
        &self,
        name: &azure::ContainerName,
        lease: Option<LeaseId>,
    ) -> Result<Container, Refusal> {
        let name = self.container_name(name);
        let found = self.storage.look(move |view| view.container(&name)).await;
        let container = found.map_err(|failure| map::failure(&failure, SUBJECT))?;
        map::check_read_lease(lease, container.lease.as_ref(), self.now(), SUBJECT)?;
        Ok(container)
    }

    async fn set_acl(
        &self,
        name: &azure::ContainerName,
        set: &SetAcl,
        incoming: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        refuse_public(set.public_access)?;
        let (content, _) = incoming.read(&set.body).await?;
        let policies = StoredPolicy::parse_list(&content)?;
        let change = ContainerChange::SetPolicies(map::policies(&policies));
        let write = &set.write;
        let done = self.change_container(name, write.lease, &write.conditions, change).await?;
        Ok(Answer::changed(&map::stamp(done.etag, done.modified)))
    }

    async fn list_blobs(
        &self,
        container: &azure::ContainerName,
        list: &ListBlobs,
    ) -> Result<Answer, Refusal> {
        let marker = list.marker.as_deref().filter(|marker| !marker.is_empty());
        let query = ListQuery {
            prefix: list.prefix.clone().unwrap_or_default(),
            delimiter: list.delimiter.clone(),
            marker: marker.map(parse_marker).transpose()?,
            snapshots: list.include.snapshots,
            uncommitted: list.include.uncommitted,
            max: size(u64::from(list.max_results.unwrap_or(LIST))),
        };
        let name = self.container_name(container);
        let _memory = self.storage.pieces.take(LIST_MEMORY).await.ok_or(Code::ServerBusy)?;
        let found = self.storage.look(move |view| view.list(&name, &query)).await;
        let found = found.map_err(|failure| map::failure(&failure, SUBJECT))?;
        let now = self.now();
        let entry = |item: Item| match item {
            Item::Prefix(prefix) => BlobEntry::Prefix(prefix),
            Item::Blob(head) => BlobEntry::Blob(Box::new(ListedBlob {
                name: head.name.clone(),
                snapshot: head.snapshot.and_then(map::snapshot_shown),
                properties: map::blob_properties(&head, now),
            })),
        };
        let answer = BlobList {
            entries: found.items.into_iter().map(entry).collect(),
            next_marker: found.next.as_ref().map(write_marker),
        };
        let head = BlobListHead {
            endpoint: self.endpoint(),
            container: container.as_str().to_owned(),
            prefix: list.prefix.clone(),
            marker: list.marker.clone(),
            max_results: list.max_results,
            delimiter: list.delimiter.clone(),
        };
        Ok(answer.answer(&head, list.include))
    }
}

/// Nothing is public: who reads has a key or a signature.
fn refuse_public(access: Option<PublicAccess>) -> Result<(), Refusal> {
    match access {
        Some(_) => Err(Code::PublicAccessNotPermitted.into()),
        None => Ok(()),
    }
}

/// A marker as clients carry it: what goes into XML and a query without escapes.
fn write_marker(marker: &ListMarker) -> String {
    use std::fmt::Write as _;
    let mut digits = String::with_capacity(marker.name.len().saturating_mul(2));
    for byte in marker.name.bytes() {
        // A string takes everything.
        write!(digits, "{byte:02x}").ok();
    }
    match marker.snapshot {
        Some(id) => format!("1-{digits}-{}", id.0),
        None => format!("1-{digits}"),
    }
}

fn parse_marker(text: &str) -> Result<ListMarker, Refusal> {
    let parse = || {
        let (digits, snapshot) = match text.strip_prefix("1-")?.split_once('-') {
            Some((digits, id)) => (digits, Some(blobs::SnapshotId(id.parse().ok()?))),
            None => (text.strip_prefix("1-")?, None),
        };
        let pairs = digits.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        let name = String::from_utf8(pairs.collect::<Option<Vec<u8>>>()?).ok()?;
        Some(ListMarker { name, snapshot })
    };
    parse().ok_or_else(|| bad_marker(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_marker_is_read_back(name in ".{0,60}", id in proptest::option::of(any::<u64>())) {
            let marker = ListMarker { name, snapshot: id.map(blobs::SnapshotId) };
            prop_assert_eq!(parse_marker(&write_marker(&marker)), Ok(marker));
        }

        #[test]
        fn no_marker_makes_the_parser_panic(text in "(1-)?.{0,40}") {
            parse_marker(&text).ok();
        }
    }
}
