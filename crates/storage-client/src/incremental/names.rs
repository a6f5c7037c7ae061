//! The names of metadata, and the names of blobs in it.

use std::fmt::Write as _;

use strongroom_azure::{Metadata, Resource, SnapshotId, md5};
use strongroom_base::{Entropy, EntropyExt as _};

use super::Place;
use crate::StorageClientError;

pub(super) const STATE: &str = "strongroom_state";
pub(super) const COMPLETE: &str = "complete";
pub(super) const SOURCE: &str = "strongroom_source";
pub(super) const SNAPSHOT: &str = "strongroom_snapshot";
pub(super) const RUN: &str = "strongroom_run";
pub(super) const MOMENT: &str = "strongroom_moment";
pub(super) const OLD: &str = "strongroom_old";
pub(super) const FILLING: &str = "strongroom_filling";
pub(super) const BACKUP: &str = "strongroom_backup";
pub(super) const RESTORED: &str = "strongroom_restored";
pub(super) const RESTORING: &str = "strongroom_restoring";

/// What all these names begin with.
const PREFIX: &str = "strongroom_";
/// A longer name of a blob stands as its MD5: all metadata of a blob has at most 8 KiB.
const MAX_NAME: usize = 1024;
/// The most snapshots in one value.
const MAX_SNAPSHOTS: usize = 100;

/// The name of a blob with its account: `ACCOUNT/CONTAINER/BLOB`, percent-encoded.
pub(super) fn name(place: Place<'_>) -> String {
    let path = Resource::Blob(place.blob.clone()).to_path();
    let name = format!("{}{path}", place.client.account());
    if name.len() <= MAX_NAME {
        return name;
    }
    format!("{}/md5/{}", place.client.account(), hex(&md5(name.as_bytes())))
}

/// The name of a new run.
pub(super) fn new_run(entropy: &dyn Entropy) -> String {
    hex(&entropy.array::<16>())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Several snapshots as one value.
pub(super) fn joined(snapshots: impl Iterator<Item = SnapshotId>) -> String {
    let ids: Vec<_> = snapshots.take(MAX_SNAPSHOTS).map(|id| id.to_string()).collect();
    ids.join(",")
}

/// The snapshots of a value.
pub(super) fn separate(value: Option<&str>) -> impl Iterator<Item = SnapshotId> {
    value.into_iter().flat_map(|value| value.split(',')).filter_map(|id| id.trim().parse().ok())
}

/// Metadata with what others have put there, and these values instead of our own.
pub(super) fn with(there: &Metadata, own: &[(&str, &str)]) -> Result<Metadata, StorageClientError> {
    let foreign = there.iter().filter(|(name, _)| !name.starts_with(PREFIX));
    let own = own.iter().copied().filter(|(_, value)| !value.is_empty());
    Metadata::of(foreign.chain(own)).map_err(|_| {
        StorageClientError::Settings("the blob has no room for more metadata".to_owned())
    })
}
