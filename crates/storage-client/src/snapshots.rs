//! The snapshots of a blob, with the metadata that says who took them.
//!
//! A blob that is made of a snapshot has the snapshot's metadata, and gives it to snapshots of its own. So every snapshot that
//! is taken to be found again has the moment before it was taken in its metadata: a later snapshot with the same value is
//! not the one that was taken then.

use strongroom_azure::{BlobEntry, BlobPath, Metadata, SnapshotId, iso_date, parse_iso_date};
use strongroom_azure::{http_date, parse_http_date};

use crate::{BlobQuery, Client, StorageClientError};

/// The metadata with the time of the service before the snapshot was taken.
pub const MOMENT: &str = "strongroom_moment";

/// How long after its moment a snapshot can be taken: all tries of the request have ended before.
const TAKEN_WITHIN: i64 = 30 * 60;

/// A snapshot of a blob, with its metadata.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The time that names it.
    pub id: SnapshotId,
    /// Its length in bytes.
    pub size: u64,
    /// Its metadata.
    pub metadata: Metadata,
}

impl Taken {
    /// Whether it has its metadata from the request that took it.
    pub fn is_first_hand(&self) -> bool {
        let moment = self.metadata.get(MOMENT).and_then(parse_iso_date);
        moment.is_some_and(|moment| {
            let after = self.id.timestamp().as_second().saturating_sub(moment.as_second());
            (-1..=TAKEN_WITHIN).contains(&after)
        })
    }
}

impl Client {
    /// The snapshots of a blob, the oldest first.
    pub fn snapshots(&self, blob: &BlobPath) -> Result<Vec<Taken>, StorageClientError> {
        let query = BlobQuery {
            prefix: Some(blob.name.as_str().to_owned()),
            snapshots: true,
            metadata: true,
            ..BlobQuery::default()
        };
        let mut taken = Vec::new();
        for entry in self.blobs(&blob.container, query) {
            let BlobEntry::Blob(listed) = entry? else { continue };
            // The name itself comes before longer ones.
            if listed.name != blob.name.as_str() {
                break;
            }
            if let Some(id) = listed.snapshot {
                let properties = listed.properties;
                taken.push(Taken { id, size: properties.length, metadata: properties.metadata });
            }
        }
        taken.sort_by_key(|taken| taken.id);
        Ok(taken)
    }

    /// The time of the service, as [`MOMENT`] has it.
    pub fn moment(&self, blob: &BlobPath) -> Result<String, StorageClientError> {
        let date = self.service_date(blob)?;
        let date = date.unwrap_or_else(|| http_date(self.clock.now()));
        let moment = parse_http_date(&date);
        Ok(iso_date(moment.ok_or_else(|| self.senseless("its date is not one"))?))
    }
}
