//! Lists of blobs.

use std::iter::Peekable;

use crate::{
    decide::blocks::parse_staging,
    extents::Staging,
    rows::{self, Blob, BlobKind, ContainerName, Etag, Metadata, Properties, SnapshotId, keys},
    state::NAMES,
    view::{Head, Item, ListMarker, ListQuery, Listed, ReadError, View},
};

type Rows<'a> = redb::Range<'a, &'static [u8], &'static [u8]>;

/// A name of a list.
enum Found<'a> {
    Blob(String, Option<SnapshotId>, redb::AccessGuard<'a, &'static [u8]>),
    Staged(String, Staging),
}

impl Found<'_> {
    fn name(&self) -> (&str, Option<SnapshotId>) {
        match self {
            Self::Blob(name, snapshot, _) => (name, *snapshot),
            Self::Staged(name, _) => (name, None),
        }
    }
}

/// Blobs and staged blocks from some name on, in one order.
struct Merged<'a> {
    blobs: Peekable<Rows<'a>>,
    staged: Option<Peekable<Rows<'a>>>,
}

impl<'a> Merged<'a> {
    fn next(&mut self) -> Result<Option<Found<'a>>, ReadError> {
        let staged = match self.staged.as_mut().and_then(Peekable::peek) {
            Some(Ok((key, _))) => parse_staging(key.value()),
            Some(Err(_)) => None,
            None => return self.next_blob(),
        };
        let blob = match self.blobs.peek() {
            Some(Ok((key, _))) => keys::parse_blob(key.value()).map(|(name, _)| name),
            _ => None,
        };
        match (staged, blob) {
            (Some((_, staged)), Some(blob)) if blob <= staged => self.next_blob(),
            _ => self.next_staged(),
        }
    }

    fn next_blob(&mut self) -> Result<Option<Found<'a>>, ReadError> {
        for row in self.blobs.by_ref() {
            let (key, value) = row?;
            if let Some((name, snapshot)) = keys::parse_blob(key.value()) {
                return Ok(Some(Found::Blob(name, snapshot.map(SnapshotId), value)));
            }
        }
        Ok(None)
    }

    fn next_staged(&mut self) -> Result<Option<Found<'a>>, ReadError> {
        let Some(row) = self.staged.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let (key, value) = row?;
        let (_, name) = parse_staging(key.value()).unwrap_or_default();
        Ok(Some(Found::Staged(name, rows::decode(key.value(), value.value())?)))
    }
}

impl View {
    /// Blobs of a container, by name, the snapshots of each before it, oldest first.
    pub fn list(&self, name: &ContainerName, query: &ListQuery) -> Result<Listed<Item>, ReadError> {
        let container = self.container(name)?.id;
        let names = self.transaction.open_table(NAMES)?;
        let end = keys::behind(&keys::blobs(container, &query.prefix));
        let staged_end = keys::behind(&keys::staging(container, &query.prefix));
        let mut from = keys::blobs(container, &query.prefix);
        let mut staged_from = keys::staging(container, &query.prefix);
        if let Some(marker) = &query.marker {
            let snapshot = marker.snapshot.map(|id| id.0);
            from = from.max(keys::blob(container, &marker.name, snapshot));
            staged_from = staged_from.max(keys::staging(container, &marker.name));
        }
        let delimiter = query.delimiter.as_deref().filter(|text| !text.is_empty());
        let mut items = Vec::new();
        loop {
            let mut merged = Merged { blobs: rows(&names, &from, &end)?.peekable(), staged: None };
            if query.uncommitted {
                merged.staged = Some(rows(&names, &staged_from, &staged_end)?.peekable());
            }
            let mut skipped = None;
            while let Some(found) = merged.next()? {
                let (name, snapshot) = found.name();
                if snapshot.is_some() && !query.snapshots || self.is_hidden(container, &found)? {
                    continue;
                }
                if items.len() >= query.max {
                    let marker = ListMarker { name: name.to_owned(), snapshot };
                    return Ok(Listed { items, next: Some(marker) });
                }
                let rest = name.get(query.prefix.len()..).unwrap_or_default();
                if let Some((first, _)) = delimiter.and_then(|text| rest.split_once(text)) {
                    let delimiter = delimiter.unwrap_or_default();
                    skipped = Some([query.prefix.as_str(), first, delimiter].concat());
                    break;
                }
                items.push(Item::Blob(Box::new(self.head_found(container, found)?)));
            }
            let Some(prefix) = skipped else { break };
            from = keys::behind(&keys::blobs(container, &prefix));
            staged_from = keys::behind(&keys::staging(container, &prefix));
            items.push(Item::Prefix(prefix));
        }
        Ok(Listed { items, next: None })
    }

    /// Whether blocks wait under the name of a blob, or none waits.
    fn is_hidden(&self, container: u64, found: &Found<'_>) -> Result<bool, ReadError> {
        let Found::Staged(name, staging) = found else { return Ok(false) };
        if staging.count == 0 {
            return Ok(true);
        }
        let names = self.transaction.open_table(NAMES)?;
        Ok(names.get(keys::blob(container, name, None).as_slice())?.is_some())
    }

    fn head_found(&self, container: u64, found: Found<'_>) -> Result<Head, ReadError> {
        let (name, staging) = match found {
            Found::Blob(name, snapshot, row) => {
                let row: Blob = rows::decode(name.as_bytes(), row.value())?;
                return self.head_of(container, &name, snapshot, row);
            }
            Found::Staged(name, staging) => (name, staging),
        };
        Ok(Head {
            name,
            snapshot: None,
            kind: BlobKind::Block,
            size: 0,
            etag: Etag(staging.touched.0),
            modified: staging.touched.seconds(),
            sequence: 0,
            created: staging.touched,
            properties: Properties::default(),
            metadata: Metadata::new(),
            lease: None,
            copy: None,
            tier: None,
            is_uncommitted: true,
            container,
            generation: staging.generation,
            epoch: 0,
            list: None,
        })
    }
}

/// The rows of a range that may be empty.
fn rows(
    names: &redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
    from: &[u8],
    end: &[u8],
) -> Result<Rows<'static>, ReadError> {
    Ok(names.range(from..end.max(from))?)
}
