//! Snapshots, alone and as a set.

use std::collections::BTreeSet;

use redb::ReadableTable as _;

use super::{Decider, Decision, Undecided, blobs::Present};
use crate::{
    change::{Done, SnapshotOf},
    record::{Mark, Op},
    refusal::Refusal,
    rows::{self, Account, AccountKind, Blob, BlobName, Etag, Frozen, SnapshotId, Ticks, keys},
};

/// Snapshots of a blob in a premium account.
const PREMIUM_SNAPSHOTS: usize = 100;
/// Seconds between two of them.
const PREMIUM_INTERVAL: u64 = 600;
/// Blobs of one set.
const MAX_SET: usize = 64;

impl Decider<'_, '_, '_> {
    pub(super) fn snapshots(&self, blobs: &[SnapshotOf]) -> Decision {
        let names: BTreeSet<&BlobName> = blobs.iter().map(|of| &of.blob).collect();
        if names.len() != blobs.len() || blobs.is_empty() || blobs.len() > MAX_SET {
            return Err(Refusal::InvalidSnapshotSet.into());
        }
        let mut ops = Vec::new();
        let mut done = Done::default();
        for of in blobs {
            let container = self.container_row(&of.blob.container)?.id;
            let key = keys::blob(container, &of.blob.blob, None);
            let present = self.present(&key)?.ok_or(Refusal::BlobNotFound)?;
            if present.blob.is_incremental() {
                return Err(Refusal::OperationNotAllowedOnIncrementalCopyBlob.into());
            }
            if present.blob.is_copy_pending() {
                return Err(Refusal::PendingCopyOperation.into());
            }
            // A snapshot disturbs no holder of a lease: only an id that is given must be right.
            let Mark { etag, modified, .. } = present.mark();
            let lease = present.blob.lease.as_ref().filter(|_| of.access.lease.is_some());
            self.admit(&of.access, lease, Etag(etag), modified)?;
            self.admit_premium(container, &of.blob)?;
            let mut blob = present.blob.clone();
            let mut frozen = Self::frozen(&present);
            if let Some(metadata) = &of.metadata {
                blob.metadata.clone_from(metadata);
                frozen.etag = self.etag();
                frozen.modified = self.moment.now.seconds();
            }
            let all = self.snapshot_ops(container, &of.blob, blob, frozen);
            ops.extend(all);
            done = Done {
                etag: frozen.etag,
                modified: frozen.modified,
                sequence: frozen.sequence,
                size: frozen.size,
                snapshot: Some(SnapshotId(self.moment.stamp)),
                ..Done::default()
            };
        }
        Ok((ops, done))
    }

    /// What a snapshot of the present keeps.
    pub(super) fn frozen(present: &Present) -> Frozen {
        let Mark { size, etag, modified, sequence } = present.mark();
        let epoch = present.generation.epoch;
        Frozen { epoch, size, etag: Etag(etag), modified, sequence }
    }

    pub(super) fn snapshot_ops(
        &self,
        container: u64,
        name: &BlobName,
        blob: Blob,
        frozen: Frozen,
    ) -> [Op; 2] {
        let generation = blob.generation;
        let blob = Blob { frozen: Some(frozen), lease: None, ..blob };
        let key = keys::blob(container, &name.blob, Some(self.moment.stamp));
        [Op::Put { key, value: rows::encode(&blob) }, Op::Seal { generation }]
    }

    /// The snapshots of a blob, oldest first.
    pub(super) fn snapshots_of(
        &self,
        container: u64,
        name: &str,
    ) -> Result<Vec<(SnapshotId, Blob)>, Undecided> {
        let (first, end) =
            (keys::blob(container, name, Some(0)), keys::blob(container, name, None));
        let mut found = Vec::new();
        for row in self.applier.tables.names.range(first.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            if let Some((_, Some(id))) = keys::parse_blob(key.value()) {
                found.push((SnapshotId(id), rows::decode(key.value(), value.value())?));
            }
        }
        Ok(found)
    }

    /// Whether a blob has snapshots.
    pub(super) fn has_snapshots(&self, container: u64, name: &str) -> Result<bool, Undecided> {
        Ok(!self.last_snapshots(container, name, 1)?.is_empty())
    }

    /// Up to `most` snapshots, newest first.
    pub(super) fn last_snapshots(
        &self,
        container: u64,
        name: &str,
        most: usize,
    ) -> Result<Vec<u64>, Undecided> {
        let (first, end) =
            (keys::blob(container, name, Some(0)), keys::blob(container, name, None));
        let mut found = Vec::new();
        let rows = self.applier.tables.names.range(first.as_slice()..end.as_slice())?;
        for row in rows.rev().take(most) {
            let (key, _) = row?;
            found.extend(keys::parse_blob(key.value()).and_then(|(_, id)| id));
        }
        Ok(found)
    }

    fn admit_premium(&self, container: u64, name: &BlobName) -> Result<(), Undecided> {
        if !self.has_premium_rules(&name.container.account)? {
            return Ok(());
        }
        let last = self.last_snapshots(container, &name.blob, PREMIUM_SNAPSHOTS)?;
        if last.len() >= PREMIUM_SNAPSHOTS {
            return Err(Refusal::SnapshotCountExceeded.into());
        }
        let is_soon = |id: &u64| Ticks(*id).plus_seconds(PREMIUM_INTERVAL) > self.moment.now;
        if last.first().is_some_and(is_soon) {
            return Err(Refusal::SnapshotRateExceeded.into());
        }
        Ok(())
    }

    /// Whether the limits of premium accounts are enforced.
    pub(super) fn has_premium_rules(&self, account: &str) -> Result<bool, Undecided> {
        let account: Option<Account> = self.row(&keys::account(account))?;
        let account = account.ok_or(Refusal::AccountNotFound)?;
        Ok(account.rules && account.kind == AccountKind::Premium)
    }
}
