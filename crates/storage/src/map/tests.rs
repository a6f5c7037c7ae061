//! Every variant has its other side.

use super::*;

fn moment(text: &str) -> Timestamp {
    text.parse().expect("is a moment")
}

/// Every refusal of the store; a new one does not compile here before it has a row.
macro_rules! every_refusal {
    ($($name:ident $({ $field:ident: $value:expr })?),* $(,)?) => {
        fn refusals() -> Vec<blobs::Refusal> {
            let all = vec![$(blobs::Refusal::$name $({ $field: $value })?),*];
            for refusal in &all {
                match refusal {
                    $(blobs::Refusal::$name $({ $field: _ })? => {})*
                }
            }
            all
        }
    };
}

every_refusal! {
    AccountNotFound,
    AccountExists,
    InvalidName,
    ContainerNotFound,
    ContainerExists,
    BlobNotFound,
    BlobExists,
    ConditionNotMet,
    NotModified,
    SequenceConditionNotMet,
    SequenceNumberIncrementTooLarge,
    InvalidSequenceNumber,
    InvalidPageRange,
    InvalidRange,
    InvalidSize,
    TooLarge { limit: 7 },
    InvalidPolicies,
    SnapshotsPresent,
    InvalidSnapshotDeletion,
    SnapshotCountExceeded,
    SnapshotRateExceeded,
    InvalidSnapshotSet,
    PreviousSnapshotNotFound,
    PreviousSnapshotCannotBeNewer,
    BlobOverwritten,
    LeaseIdMissing,
    LeaseIdMismatch,
    LeaseNotPresent,
    LeaseLost,
    LeaseIdMismatchWithLease,
    LeaseNotPresentWithLease,
    LeaseAlreadyPresent,
    LeaseIsBreakingAndCannotBeAcquired,
    LeaseIsBreakingAndCannotBeChanged,
    LeaseIsBrokenAndCannotBeRenewed,
    LeaseDuration,
    LeaseBreakPeriod,
    InfiniteLeaseRequired,
    PendingCopyOperation,
    NoPendingCopyOperation,
    CopyIdMismatch,
    OperationNotAllowedOnIncrementalCopyBlob,
    IncrementalCopyBlobMismatch,
    IncrementalCopyOfEarlierSnapshot,
    InvalidBlobType,
    InvalidBlock,
    InvalidBlockList,
    BlockCountExceeded,
    UncommittedBlockCountExceeded,
    AppendPositionConditionNotMet,
    MaxBlobSizeConditionNotMet,
    UploadLost,
    BlobModified,
    Damaged { offset: 512 },
    Full,
    NotPrimary { role: blobs::Role::Waiting },
    NotDurable,
    Stopped,
}

#[test]
fn only_failures_of_the_store_make_clients_try_again() {
    use blobs::Refusal as R;
    for refused in refusals() {
        for subject in [Subject::Container, Subject::Blob, Subject::CopyTarget] {
            let status = refusal::refusal(&refused, subject).code().status();
            let fails = matches!(
                refused,
                R::Damaged { .. }
                    | R::Full
                    | R::UploadLost
                    | R::NotDurable
                    | R::Stopped
                    | R::NotPrimary { .. }
            );
            assert_eq!(status >= 500, fails, "{refused:?}");
        }
    }
}

#[test]
fn a_refusal_with_the_name_of_a_code_has_that_code() {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    for refused in refusals() {
        let shown = format!("{refused:?}");
        let name = shown.split([' ', '{']).next().expect("a name");
        if codes.contains(&name) {
            let mapped = refusal::refusal(&refused, Subject::Blob).code().name();
            assert_eq!(mapped, name);
        }
    }
}

#[test]
fn leases_of_containers_and_copies_have_codes_of_their_own() {
    use blobs::Refusal as R;
    let code = |refused: &R, subject| refusal::refusal(refused, subject).code();
    let (container, target) = (Subject::Container, Subject::CopyTarget);
    assert_eq!(code(&R::LeaseIdMismatch, container), Code::LeaseIdMismatchWithContainerOperation);
    assert_eq!(code(&R::LeaseNotPresent, container), Code::LeaseNotPresentWithContainerOperation);
    assert_eq!(code(&R::LeaseIdMismatch, target), Code::LeaseIdMismatchWithBlobOperation);
    assert_eq!(code(&R::ConditionNotMet, target), Code::TargetConditionNotMet);
    assert_eq!(code(&R::ConditionNotMet, Subject::Blob), Code::ConditionNotMet);
}

#[test]
fn tags_are_those_of_the_store_or_nothing() {
    let tag = etag(blobs::Etag(0x8DEE_7A1B));
    assert_eq!(etag_number(&tag), blobs::Etag(0x8DEE_7A1B));
    for other in ["x", "0x", "0x8dee7a1b", "0x08DEE7A1B", "0x+1", "8DEE7A1B"] {
        let tag = azure::ETag::parse(other).expect("is a tag");
        assert_eq!(etag_number(&tag), blobs::Etag(0), "{other}");
    }
}

#[test]
fn the_tag_of_a_pair_of_conditions_decides() {
    let since = moment("2026-11-28T16:17:00Z");
    let given = azure::Conditions {
        if_match: Some(azure::Tags::Any),
        if_unmodified_since: Some(since),
        ..azure::Conditions::default()
    };
    let mapped = conditions(&given);
    assert_eq!(mapped.if_match, Some(blobs::EtagCondition::Any));
    assert_eq!(mapped.if_unmodified_since, None);
    let given = azure::Conditions { if_match: None, ..given };
    assert_eq!(conditions(&given).if_unmodified_since, u64::try_from(since.as_second()).ok());
}

#[test]
fn moments_and_snapshots_survive_both_ways() {
    let shown: azure::SnapshotId = "2026-11-28T16:17:00.1234567Z".parse().expect("is an id");
    assert_eq!(snapshot_shown(snapshot_id(shown)), Some(shown));
    assert_eq!(snapshot_shown(blobs::SnapshotId(u64::MAX)), None);
    let now = moment("2026-11-28T16:17:00.1234567Z");
    assert_eq!(timestamp(ticks(now)), now);
    assert_eq!(ticks(moment("1969-12-31T23:59:59Z")), blobs::Ticks(0));
    assert_eq!(second(1_795_882_620), moment("2026-11-28T16:17:00Z"));
}

#[test]
fn metadata_headers_and_policies_survive_both_ways() {
    let given = azure::Metadata::of([("Vm", "web01"), ("a", "")]).expect("is valid");
    assert_eq!(metadata_shown(&metadata(&given)), given);
    let headers = azure::BlobHeaders {
        content_type: Some("x/disk".to_owned()),
        content_encoding: Some("gzip".to_owned()),
        content_language: Some("de".to_owned()),
        content_disposition: Some("inline".to_owned()),
        cache_control: Some("no-store".to_owned()),
        content_md5: Some([7; 16]),
    };
    assert_eq!(headers_shown(&properties(&headers)), headers);
    assert_eq!(headers_shown(&blobs::Properties::default()), azure::BlobHeaders::default());
    let policy = azure::StoredPolicy {
        id: "readers".to_owned(),
        start: Some(moment("2026-11-28T16:17:00Z")),
        expiry: None,
        permissions: Some("rl".to_owned()),
    };
    let all = [policy];
    assert_eq!(policies_shown(&policies(&all)), all);
}

#[test]
fn every_action_on_a_lease_becomes_the_same_one() {
    use azure::LeaseAction as A;
    use blobs::LeaseAction as B;
    let (id, other) = (azure::LeaseId::from_bytes([1; 16]), azure::LeaseId::from_bytes([2; 16]));
    let duration = azure::LeaseDuration::Seconds(15);
    let (endless, proposed) = (azure::LeaseDuration::Infinite, Some(other));
    for (given, mapped) in [
        (
            A::Acquire { duration, proposed },
            B::Acquire { id: Some(lease_id(other)), duration: Some(15) },
        ),
        (A::Acquire { duration: endless, proposed: None }, B::Acquire { id: None, duration: None }),
        (A::Renew(id), B::Renew { id: lease_id(id) }),
        (A::Change { id, proposed: other }, B::Change { id: lease_id(id), to: lease_id(other) }),
        (A::Release(id), B::Release { id: lease_id(id) }),
        (A::Break { period_seconds: Some(9) }, B::Break { period: Some(9) }),
        (A::Break { period_seconds: None }, B::Break { period: None }),
    ] {
        assert_eq!(lease_action(given), mapped);
    }
}

#[test]
fn the_state_of_a_lease_is_that_of_the_moment() {
    let now = moment("2026-11-28T16:17:00Z");
    let (early, late) =
        (ticks(moment("2026-11-28T16:16:00Z")), ticks(moment("2026-11-28T16:18:00Z")));
    let held = blobs::Lease {
        id: blobs::LeaseId("x".to_owned()),
        duration: Some(60),
        expires: Some(late),
        breaks: None,
    };
    let state = |lease: &blobs::Lease| lease_state(Some(lease), now);
    let fixed = azure::LeaseState::Leased(azure::LeaseDuration::Seconds(60));
    assert_eq!(lease_state(None, now), azure::LeaseState::Available);
    assert_eq!(state(&held), fixed);
    let endless = blobs::Lease { duration: None, expires: None, ..held.clone() };
    assert_eq!(state(&endless), azure::LeaseState::Leased(azure::LeaseDuration::Infinite));
    let expired = blobs::Lease { expires: Some(early), ..held.clone() };
    assert_eq!(state(&expired), azure::LeaseState::Expired);
    let breaking = blobs::Lease { breaks: Some(late), ..held.clone() };
    assert_eq!(state(&breaking), azure::LeaseState::Breaking);
    let broken = blobs::Lease { breaks: Some(early), ..held };
    assert_eq!(state(&broken), azure::LeaseState::Broken);
}

#[test]
fn a_read_that_names_a_lease_needs_it() {
    let now = moment("2026-11-28T16:17:00Z");
    let id = azure::LeaseId::from_bytes([1; 16]);
    let held = blobs::Lease { id: lease_id(id), duration: None, expires: None, breaks: None };
    let over = blobs::Lease { breaks: Some(blobs::Ticks(1)), ..held.clone() };
    let check = |given, lease| {
        check_read_lease(given, lease, now, Subject::Blob).map_err(|refusal| refusal.code())
    };
    assert_eq!(check(None, Some(&held)), Ok(()));
    assert_eq!(check(Some(id), Some(&held)), Ok(()));
    let other = azure::LeaseId::from_bytes([2; 16]);
    assert_eq!(check(Some(other), Some(&held)), Err(Code::LeaseIdMismatchWithBlobOperation));
    assert_eq!(check(Some(id), Some(&over)), Err(Code::LeaseLost));
    assert_eq!(check(Some(id), None), Err(Code::LeaseNotPresentWithBlobOperation));
}

#[test]
fn statuses_and_deletions_have_their_names() {
    use azure::{CopyStatus as A, SequenceAction as S};
    use blobs::CopyStatus as B;
    let pairs = [
        (B::Pending, A::Pending),
        (B::Success, A::Success),
        (B::Aborted, A::Aborted),
        (B::Failed, A::Failed),
    ];
    assert!(pairs.into_iter().all(|(own, shown)| copy_status(own) == shown));
    assert_eq!(delete_snapshots(None), blobs::DeleteSnapshots::Refuse);
    let include = Some(azure::DeleteSnapshots::Include);
    assert_eq!(delete_snapshots(include), blobs::DeleteSnapshots::Include);
    assert_eq!(delete_snapshots(Some(azure::DeleteSnapshots::Only)), blobs::DeleteSnapshots::Only);
    assert_eq!(sequence_action(S::Max(3)), blobs::SequenceAction::Max(3));
    assert_eq!(sequence_action(S::Update(3)), blobs::SequenceAction::Update(3));
    assert_eq!(sequence_action(S::Increment), blobs::SequenceAction::Increment);
}
