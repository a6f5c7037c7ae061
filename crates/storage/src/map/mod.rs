//! The two worlds that this crate joins: words of the dialect and words of the store, each way in one place.
//!
//! Nothing here decides: what the dialect says is handed to the store as it is, and the store's answer becomes
//! Azure's. Conditions of reads are checked here, because the store checks those of changes only.

mod refusal;

pub(crate) use refusal::{Subject, failure};

use azure::{Code, State};
use jiff::Timestamp;
use strongroom_azure as azure;
use strongroom_blobs as blobs;

/// A container's name in the store.
pub(crate) fn container_name(
    account: &azure::AccountName,
    name: &azure::ContainerName,
) -> blobs::ContainerName {
    blobs::ContainerName::new(account.as_str(), name.as_str())
}

/// A blob's name in the store.
pub(crate) fn blob_name(account: &azure::AccountName, path: &azure::BlobPath) -> blobs::BlobName {
    container_name(account, &path.container).blob(path.name.as_str())
}

/// A moment in the store's ticks; those before 1970 are its first.
pub(crate) fn ticks(moment: Timestamp) -> blobs::Ticks {
    let ticks = moment.as_nanosecond().checked_div(100).and_then(|ticks| u64::try_from(ticks).ok());
    blobs::Ticks(ticks.unwrap_or(0))
}

/// A moment of the store.
pub(crate) fn timestamp(ticks: blobs::Ticks) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ticks.0) * 100).unwrap_or(Timestamp::MAX)
}

/// A whole second since 1970.
pub(crate) fn second(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default()
}

/// The id of a snapshot in the store.
pub(crate) const fn snapshot_id(id: azure::SnapshotId) -> blobs::SnapshotId {
    blobs::SnapshotId(id.ticks())
}

/// The id of a snapshot in the dialect; none after the year 9999.
pub(crate) const fn snapshot_shown(id: blobs::SnapshotId) -> Option<azure::SnapshotId> {
    azure::SnapshotId::from_ticks(id.0)
}

/// The tag of a state.
pub(crate) fn etag(etag: blobs::Etag) -> azure::ETag {
    azure::ETag::from_number(etag.0)
}

/// The number that a tag was made of; 0, which nothing has, if it is not one of this store.
fn etag_number(tag: &azure::ETag) -> blobs::Etag {
    let number = tag.as_str().strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    blobs::Etag(number.filter(|n| azure::ETag::from_number(*n) == *tag).unwrap_or(0))
}

/// Tag and moment of a state.
pub(crate) fn stamp(tag: blobs::Etag, modified: u64) -> azure::Stamp {
    azure::Stamp { etag: etag(tag), last_modified: second(modified) }
}

/// The conditions of a change. Of a tag and a moment together, the tag decides.
pub(crate) fn conditions(conditions: &azure::Conditions) -> blobs::Conditions {
    let tag = |tags: &azure::Tags| match tags {
        azure::Tags::Any => blobs::EtagCondition::Any,
        azure::Tags::One(tag) => blobs::EtagCondition::Is(etag_number(tag)),
    };
    let seconds = |moment: Timestamp| u64::try_from(moment.as_second()).unwrap_or(0);
    let if_match = conditions.if_match.as_ref().map(tag);
    let if_none_match = conditions.if_none_match.as_ref().map(tag);
    blobs::Conditions {
        if_match,
        if_none_match,
        if_modified_since: conditions
            .if_modified_since
            .filter(|_| if_none_match.is_none())
            .map(seconds),
        if_unmodified_since: conditions
            .if_unmodified_since
            .filter(|_| if_match.is_none())
            .map(seconds),
    }
}

/// With what right a change comes.
pub(crate) fn access(lease: Option<azure::LeaseId>, given: &azure::Conditions) -> blobs::Access {
    blobs::Access { conditions: conditions(given), lease: lease.map(lease_id) }
}

/// Conditions on the sequence number.
pub(crate) const fn sequence_conditions(
    conditions: azure::SequenceConditions,
) -> blobs::SequenceConditions {
    let azure::SequenceConditions { at_most, less_than, equal } = conditions;
    blobs::SequenceConditions { at_most, less_than, equal }
}

/// A change of the sequence number.
pub(crate) const fn sequence_action(action: azure::SequenceAction) -> blobs::SequenceAction {
    match action {
        azure::SequenceAction::Max(number) => blobs::SequenceAction::Max(number),
        azure::SequenceAction::Update(number) => blobs::SequenceAction::Update(number),
        azure::SequenceAction::Increment => blobs::SequenceAction::Increment,
    }
}

/// What becomes of snapshots when a blob is deleted.
pub(crate) const fn delete_snapshots(
    snapshots: Option<azure::DeleteSnapshots>,
) -> blobs::DeleteSnapshots {
    match snapshots {
        None => blobs::DeleteSnapshots::Refuse,
        Some(azure::DeleteSnapshots::Include) => blobs::DeleteSnapshots::Include,
        Some(azure::DeleteSnapshots::Only) => blobs::DeleteSnapshots::Only,
    }
}

/// The id of a lease.
pub(crate) fn lease_id(id: azure::LeaseId) -> blobs::LeaseId {
    blobs::LeaseId(id.to_string())
}

/// What is asked of a lease.
pub(crate) fn lease_action(action: azure::LeaseAction) -> blobs::LeaseAction {
    match action {
        azure::LeaseAction::Acquire { duration, proposed } => blobs::LeaseAction::Acquire {
            id: proposed.map(lease_id),
            duration: match duration {
                azure::LeaseDuration::Infinite => None,
                azure::LeaseDuration::Seconds(seconds) => Some(u64::from(seconds)),
            },
        },
        azure::LeaseAction::Renew(id) => blobs::LeaseAction::Renew { id: lease_id(id) },
        azure::LeaseAction::Change { id, proposed } => {
            blobs::LeaseAction::Change { id: lease_id(id), to: lease_id(proposed) }
        }
        azure::LeaseAction::Release(id) => blobs::LeaseAction::Release { id: lease_id(id) },
        azure::LeaseAction::Break { period_seconds } => {
            blobs::LeaseAction::Break { period: period_seconds.map(u64::from) }
        }
    }
}

/// The answer of an action on a lease.
pub(crate) fn lease_answer(
    action: azure::LeaseAction,
    done: &blobs::Done,
) -> Result<azure::Answer, azure::Refusal> {
    use azure::{Answer, LeaseAction};
    let stamp = stamp(done.etag, done.modified);
    let lease = done.lease.as_ref();
    let held = || {
        let id = lease.and_then(|lease| lease.id.as_ref()).and_then(|id| id.0.parse().ok());
        id.ok_or(Code::InternalError)
    };
    Ok(match action {
        LeaseAction::Acquire { .. } => Answer::lease_acquired(held()?, &stamp),
        LeaseAction::Renew(_) | LeaseAction::Change { .. } => Answer::lease_held(held()?, &stamp),
        LeaseAction::Release(_) => Answer::lease_released(&stamp),
        LeaseAction::Break { .. } => {
            let left = lease.and_then(|lease| lease.remaining).unwrap_or(0);
            Answer::lease_broken(left, &stamp)
        }
    })
}

/// The state of a lease at a moment.
pub(crate) fn lease_state(lease: Option<&blobs::Lease>, now: Timestamp) -> azure::LeaseState {
    match blobs::Lease::state(lease, ticks(now)) {
        blobs::LeaseState::Available => azure::LeaseState::Available,
        blobs::LeaseState::Leased => {
            let seconds = lease.and_then(|lease| lease.duration);
            let duration = seconds.map_or(azure::LeaseDuration::Infinite, |seconds| {
                azure::LeaseDuration::Seconds(u8::try_from(seconds).unwrap_or(u8::MAX))
            });
            azure::LeaseState::Leased(duration)
        }
        blobs::LeaseState::Expired => azure::LeaseState::Expired,
        blobs::LeaseState::Breaking => azure::LeaseState::Breaking,
        blobs::LeaseState::Broken => azure::LeaseState::Broken,
    }
}

/// Checks the lease that a read names: it must be held then. A read that names none is always admitted.
pub(crate) fn check_read_lease(
    given: Option<azure::LeaseId>,
    lease: Option<&blobs::Lease>,
    now: Timestamp,
    subject: Subject,
) -> Result<(), azure::Refusal> {
    let Some(given) = given.map(lease_id) else { return Ok(()) };
    let state = blobs::Lease::state(lease, ticks(now));
    let is_held = matches!(state, blobs::LeaseState::Leased | blobs::LeaseState::Breaking);
    let refusal = match lease {
        Some(lease) if is_held && lease.id == given => return Ok(()),
        Some(_) if is_held => blobs::Refusal::LeaseIdMismatch,
        Some(lease) if lease.id == given => blobs::Refusal::LeaseLost,
        _ => blobs::Refusal::LeaseNotPresent,
    };
    Err(refusal::refusal(&refusal, subject))
}

/// Checks the conditions of a read.
pub(crate) fn check_read(
    conditions: &azure::Conditions,
    stamp: &azure::Stamp,
) -> Result<(), azure::Refusal> {
    let state = State { etag: &stamp.etag, last_modified: stamp.last_modified };
    conditions.check(Some(state), azure::Access::Read)
}

/// Metadata, into the store.
pub(crate) fn metadata(metadata: &azure::Metadata) -> blobs::Metadata {
    metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Metadata, as it is shown. What the store has was checked when it came.
pub(crate) fn metadata_shown(metadata: &blobs::Metadata) -> azure::Metadata {
    let pairs = metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    azure::Metadata::of(pairs).unwrap_or_default()
}

/// The HTTP headers of a blob, into the store.
pub(crate) fn properties(headers: &azure::BlobHeaders) -> blobs::Properties {
    blobs::Properties {
        content_type: headers.content_type.clone(),
        content_encoding: headers.content_encoding.clone(),
        content_language: headers.content_language.clone(),
        content_md5: headers.content_md5.map(|md5| azure::Checksum::Md5(md5).to_header().1),
        content_disposition: headers.content_disposition.clone(),
        cache_control: headers.cache_control.clone(),
    }
}

/// The HTTP headers of a blob, as they are shown.
pub(crate) fn headers_shown(properties: &blobs::Properties) -> azure::BlobHeaders {
    let md5 = properties.content_md5.as_deref().and_then(|text| {
        let headers = azure::Headers::of([("x-ms-blob-content-md5", text)]).ok()?;
        azure::BlobHeaders::parse(&headers).ok()?.content_md5
    });
    azure::BlobHeaders {
        content_type: properties.content_type.clone(),
        content_encoding: properties.content_encoding.clone(),
        content_language: properties.content_language.clone(),
        content_disposition: properties.content_disposition.clone(),
        cache_control: properties.cache_control.clone(),
        content_md5: md5,
    }
}

/// How a copy stands.
pub(crate) const fn copy_status(status: blobs::CopyStatus) -> azure::CopyStatus {
    match status {
        blobs::CopyStatus::Pending => azure::CopyStatus::Pending,
        blobs::CopyStatus::Success => azure::CopyStatus::Success,
        blobs::CopyStatus::Aborted => azure::CopyStatus::Aborted,
        blobs::CopyStatus::Failed => azure::CopyStatus::Failed,
    }
}

fn copy_state(copy: &blobs::Copy) -> azure::CopyState {
    azure::CopyState {
        id: copy.id.clone(),
        status: copy_status(copy.status),
        source: copy.source.clone(),
        done_bytes: copy.done,
        total_bytes: copy.total,
        completed: copy.completed.map(timestamp),
        description: copy.description.clone(),
        destination_snapshot: copy
            .incremental
            .and_then(|memory| memory.snapshot)
            .and_then(snapshot_shown),
    }
}

/// A kind of blob.
pub(crate) const fn blob_type(kind: blobs::BlobKind) -> azure::BlobType {
    match kind {
        blobs::BlobKind::Page => azure::BlobType::Page,
        blobs::BlobKind::Block => azure::BlobType::Block,
        blobs::BlobKind::Append => azure::BlobType::Append,
    }
}

/// A kind of blob, into the store.
pub(crate) const fn blob_kind(kind: azure::BlobType) -> blobs::BlobKind {
    match kind {
        azure::BlobType::Page => blobs::BlobKind::Page,
        azure::BlobType::Block => blobs::BlobKind::Block,
        azure::BlobType::Append => blobs::BlobKind::Append,
    }
}

/// The tier of a block blob, into the store, which has no archive.
pub(crate) const fn tier(tier: azure::AccessTier) -> Option<blobs::Tier> {
    match tier {
        azure::AccessTier::Hot => Some(blobs::Tier::Hot),
        azure::AccessTier::Cool => Some(blobs::Tier::Cool),
        azure::AccessTier::Cold => Some(blobs::Tier::Cold),
        azure::AccessTier::Archive | azure::AccessTier::Premium(_) => None,
    }
}

/// The tier of a block blob; one that nobody has set is hot.
const fn tier_shown(tier: Option<blobs::Tier>) -> azure::AccessTier {
    match tier {
        None | Some(blobs::Tier::Hot) => azure::AccessTier::Hot,
        Some(blobs::Tier::Cool) => azure::AccessTier::Cool,
        Some(blobs::Tier::Cold) => azure::AccessTier::Cold,
    }
}

/// The id of a block, into the store.
pub(crate) fn block_id(id: &azure::BlockId) -> Result<blobs::BlockId, azure::Refusal> {
    blobs::BlockId::new(id.as_bytes()).ok_or_else(|| Code::InvalidBlockId.into())
}

/// What is known of a blob or a snapshot.
pub(crate) fn blob_properties(head: &blobs::Head, now: Timestamp) -> azure::BlobProperties {
    let is_snapshot = head.snapshot.is_some();
    azure::BlobProperties {
        stamp: stamp(head.etag, head.modified),
        created: timestamp(head.created),
        kind: blob_type(head.kind),
        length: head.size,
        headers: headers_shown(&head.properties),
        metadata: metadata_shown(&head.metadata),
        lease: (!is_snapshot).then(|| lease_state(head.lease.as_ref(), now)),
        sequence_number: (head.kind == blobs::BlobKind::Page).then_some(head.sequence),
        block_count: (head.kind == blobs::BlobKind::Append).then_some(head.sequence),
        tier: (head.kind == blobs::BlobKind::Block && !head.is_uncommitted)
            .then(|| (tier_shown(head.tier), head.tier.is_none())),
        copy: head.copy.as_ref().map(copy_state),
        is_incremental_copy: head.copy.as_ref().is_some_and(|copy| copy.incremental.is_some()),
    }
}

/// What is known of a container.
pub(crate) fn container_properties(
    container: &blobs::Container,
    now: Timestamp,
) -> azure::ContainerProperties {
    azure::ContainerProperties {
        stamp: stamp(container.etag, container.modified),
        metadata: metadata_shown(&container.metadata),
        lease: lease_state(container.lease.as_ref(), now),
        public_access: None,
    }
}

/// Stored access policies, into the store.
pub(crate) fn policies(policies: &[azure::StoredPolicy]) -> Vec<blobs::AccessPolicy> {
    let into = |policy: &azure::StoredPolicy| blobs::AccessPolicy {
        id: policy.id.clone(),
        start: policy.start.map(ticks),
        expiry: policy.expiry.map(ticks),
        permissions: policy.permissions.clone(),
    };
    policies.iter().map(into).collect()
}

/// Stored access policies, as they are shown.
pub(crate) fn policies_shown(policies: &[blobs::AccessPolicy]) -> Vec<azure::StoredPolicy> {
    let shown = |policy: &blobs::AccessPolicy| azure::StoredPolicy {
        id: policy.id.clone(),
        start: policy.start.map(timestamp),
        expiry: policy.expiry.map(timestamp),
        permissions: policy.permissions.clone(),
    };
    policies.iter().map(shown).collect()
}

/// Both keys of an account, as signatures are verified by them.
pub(crate) fn keys(account: &blobs::Account) -> [azure::AccountKey; 2] {
    let [first, second] = &account.keys;
    [first, second].map(|key| azure::AccountKey::from_bytes(key.secret()))
}

/// What an account is called by Get Account Information.
pub(crate) const fn information(account: &blobs::Account) -> azure::AccountInformation {
    use azure::{AccountKind, Sku};
    let sku = match (account.kind, account.redundancy) {
        (blobs::AccountKind::Premium, _) => Sku::PremiumLrs,
        (blobs::AccountKind::Standard, blobs::Redundancy::Lrs) => Sku::StandardLrs,
        (blobs::AccountKind::Standard, blobs::Redundancy::Grs) => Sku::StandardGrs,
        (blobs::AccountKind::Standard, blobs::Redundancy::RaGrs) => Sku::StandardRagrs,
    };
    azure::AccountInformation { sku, kind: AccountKind::StorageV2 }
}

#[cfg(test)]
mod tests;
