//! Blobs, ranges and transfers as they are printed.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::Serialize;
use strongroom_azure::{BlobProperties, CopyState, ListedRange, SnapshotId};

use crate::human;

/// A blob or a snapshot.
#[derive(Debug, Serialize)]
pub(super) struct BlobShown {
    pub(super) blob: String,
    pub(super) snapshot: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) size_bytes: u64,
    pub(super) created: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) etag: String,
    pub(super) lease: Option<&'static str>,
    pub(super) sequence_number: Option<u64>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) copy: Option<CopyShown>,
}

/// The last copy to a blob.
#[derive(Debug, Serialize)]
pub(super) struct CopyShown {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) source: String,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) description: Option<String>,
}

impl CopyShown {
    pub(super) fn new(copy: &CopyState) -> Self {
        Self {
            id: copy.id.clone(),
            status: copy.status.name(),
            source: copy.source.clone(),
            done_bytes: copy.done_bytes,
            total_bytes: copy.total_bytes,
            description: copy.description.clone(),
        }
    }
}

impl BlobShown {
    pub(super) fn new(
        blob: String,
        snapshot: Option<SnapshotId>,
        properties: &BlobProperties,
    ) -> Self {
        let metadata = properties.metadata.iter();
        Self {
            blob,
            snapshot: snapshot.map(|id| id.to_string()),
            kind: properties.kind.name(),
            size_bytes: properties.length,
            created: properties.created,
            modified: properties.stamp.last_modified,
            etag: properties.stamp.etag.to_string(),
            lease: properties.lease.map(strongroom_azure::LeaseState::name),
            sequence_number: properties.sequence_number,
            metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            copy: properties.copy.as_ref().map(CopyShown::new),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut facts = vec![
            ("Blob", self.blob.clone()),
            ("Type", self.kind.to_owned()),
            ("Size", human::bytes(self.size_bytes)),
            ("Created", human::time(self.created)),
            ("Modified", human::time(self.modified)),
            ("ETag", self.etag.clone()),
        ];
        facts.extend(self.snapshot.iter().map(|it| ("Snapshot", it.clone())));
        facts.extend(self.lease.map(|it| ("Lease", it.to_owned())));
        facts.extend(self.sequence_number.map(|it| ("Sequence number", it.to_string())));
        let pairs = self.metadata.iter();
        facts.extend(pairs.map(|(name, value)| ("Metadata", format!("{name} = {value}"))));
        if let Some(copy) = &self.copy {
            let of = human::of_bytes(copy.done_bytes, copy.total_bytes);
            facts.push(("Copy", format!("{}, {of}, from {}", copy.status, copy.source)));
            facts.extend(copy.description.iter().map(|it| ("Copy failed", it.clone())));
        }
        human::facts(&facts)
    }
}

/// Ranges of pages: those with content, or those that changed.
#[derive(Debug, Serialize)]
pub(super) struct RangesShown {
    pub(super) blob: String,
    pub(super) snapshot: Option<String>,
    pub(super) since: Option<String>,
    pub(super) written_bytes: u64,
    pub(super) cleared_bytes: u64,
    pub(super) ranges: Vec<RangeShown>,
}

/// A range of pages.
#[derive(Debug, Serialize)]
pub(super) struct RangeShown {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) cleared: bool,
}

impl RangesShown {
    pub(super) fn new(
        blob: String,
        snapshot: Option<SnapshotId>,
        since: Option<SnapshotId>,
        ranges: &[ListedRange],
    ) -> Self {
        let bytes = |cleared: bool| {
            let of = ranges.iter().filter(|it| it.is_clear == cleared);
            of.map(|it| it.range.len()).fold(0, u64::saturating_add)
        };
        let shown = ranges.iter().map(|it| RangeShown {
            offset: it.range.offset(),
            length: it.range.len(),
            cleared: it.is_clear,
        });
        Self {
            blob,
            snapshot: snapshot.map(|id| id.to_string()),
            since: since.map(|id| id.to_string()),
            written_bytes: bytes(false),
            cleared_bytes: bytes(true),
            ranges: shown.collect(),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for range in &self.ranges {
            let what = if range.cleared { "cleared" } else { "written" };
            writeln!(text, "{:>16} {:>14}  {what}", range.offset, range.length).ok();
        }
        let written = human::bytes(self.written_bytes);
        let cleared = match self.cleared_bytes {
            0 => String::new(),
            bytes => format!(", {} cleared", human::bytes(bytes)),
        };
        format!("{text}{} ranges: {written} written{cleared}\n", self.ranges.len())
    }
}
