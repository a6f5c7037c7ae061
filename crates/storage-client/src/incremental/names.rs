//! The names of metadata, and the names of blobs in it.

use std::fmt::Write as _;

use strongroom_azure::{BlobPath, Metadata, Resource, SnapshotId, md5};
use strongroom_base::{Entropy, EntropyExt as _};

use crate::{Client, StorageClientError};

/// A blob of an account.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The account.
    pub client: &'a Client,
    /// The blob.
    pub blob: &'a BlobPath,
}

pub(super) const STATE: &str = "strongroom_state";
pub(super) const COMPLETE: &str = "complete";
pub(super) const SOURCE: &str = "strongroom_source";
pub(super) const SNAPSHOT: &str = "strongroom_snapshot";
pub(super) const RUN: &str = "strongroom_run";
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use strongroom_azure::{BlobName, ContainerName, MAX_METADATA};
    use strongroom_base::{SystemClock, SystemEntropy};

    use super::*;
    use crate::{Location, Options};

    fn named(blob: &str) -> String {
        let connection =
            Location::parse("AccountName=acct;AccountKey=a2V5").expect("a location").connection;
        let options = Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy));
        let client = Client::new(options).expect("a client");
        let container = ContainerName::new("disks").expect("a name");
        let blob = BlobPath { container, name: BlobName::new(blob).expect("a name") };
        name(Place { client: &client, blob: &blob })
    }

    #[test]
    fn every_name_is_a_value_of_metadata() {
        assert_eq!(named("a b/ü"), "acct/disks/a%20b/%C3%BC");
        let (one, other) = ("ü".repeat(1000), "ö".repeat(1000));
        assert!(named(&one).starts_with("acct/md5/") && named(&one).len() == 9 + 32);
        assert_ne!(named(&one), named(&other));
    }

    #[test]
    fn snapshots_are_kept_as_one_value_and_foreign_metadata_is_kept() {
        let ids: Vec<_> = (0..200).filter_map(SnapshotId::from_ticks).collect();
        let value = joined(ids.iter().copied());
        assert_eq!(separate(Some(&value)).collect::<Vec<_>>(), ids[..MAX_SNAPSHOTS]);
        assert_eq!(separate(Some("nothing,")).count() + separate(None).count(), 0);
        let there = Metadata::of([("of", "web"), (RUN, "old")]).expect("metadata");
        let with = with(&there, &[(OLD, &value), (STATE, "")]).expect("fits");
        let names: Vec<_> = with.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["of", OLD]);
        assert!(value.len() < MAX_METADATA / 2);
    }
}
