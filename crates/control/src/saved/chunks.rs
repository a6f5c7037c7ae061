//! Where one chunk of the copy ends and the next one begins.
//!
//! A chunk ends behind a point, or behind all points of an item, whose id says so: nothing that comes
//! before or behind it has a say. So whatever is added, changed or removed changes the one chunk that it
//! is in, however many there are; if it is an end itself, that chunk becomes two, or two become one.

use super::form::{Chunk, FORMAT, KeptPoint};
use crate::model::ItemDoc;

/// One point in this number ends a chunk, on average. A chunk of a million points that is ten times as
/// long has a chance of one in a hundred, and some 8 MB.
const POINTS: u64 = 4096;

/// One item in this number ends a chunk, on average.
const ITEMS: u64 = 16;

/// Points in a chunk at most: only if somebody has chosen the ids. Then changes cost more.
const MOST_POINTS: usize = 100_000;

/// Items and points, in their order, on their way into chunks.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunk: Chunk,
    /// Whether the item that is under way ends a chunk.
    ends: bool,
}

/// Whether an id is one of those that end something, of which there is one in `of`.
fn is_end(id: &[u8], of: u64) -> bool {
    let hash = blake3::hash(id);
    let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    number.checked_rem(of) == Some(0)
}

impl Chunks {
    /// The next item; its points follow.
    pub(super) fn item(&mut self, item: ItemDoc) {
        self.ends = is_end(&item.item.id.to_bytes(), ITEMS);
        self.chunk.items.push(item);
    }

    /// The next point of the item; the chunk that it ends.
    #[must_use]
    pub(super) fn point(&mut self, point: KeptPoint) -> Option<Chunk> {
        let ends = is_end(&point.id.to_bytes(), POINTS);
        self.chunk.points.push(point);
        if ends || self.chunk.points.len() >= MOST_POINTS { self.take() } else { None }
    }

    /// The item has no more points; the chunk that it ends.
    #[must_use]
    pub(super) fn end_item(&mut self) -> Option<Chunk> {
        if self.ends { self.take() } else { None }
    }

    /// What is left at the end.
    #[must_use]
    pub(super) fn take(&mut self) -> Option<Chunk> {
        let chunk = std::mem::take(&mut self.chunk);
        let is_empty = chunk.items.is_empty() && chunk.points.is_empty();
        (!is_empty).then_some(Chunk { format: FORMAT, ..chunk })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use strongroom_api::{PointState, Trigger};
    use strongroom_base::{ItemId, PointId};

    use super::*;

    /// Items by their ids, each with its points, by their ids.
    type Catalog = BTreeMap<[u8; 16], (u64, BTreeMap<[u8; 16], u64>)>;

    fn an_item() -> ItemDoc {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/catalog-v2-chunk.json");
        let chunk: Chunk =
            serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("a chunk");
        chunk.items.into_iter().next().expect("an item")
    }

    fn kept(item: [u8; 16], id: [u8; 16], version: u64) -> KeptPoint {
        KeptPoint {
            item: ItemId::from_bytes(item),
            id: PointId::from_bytes(id),
            state: PointState::Restorable,
            trigger: Trigger::Scheduled,
            job: None,
            occurrence: None,
            promised: None,
            retain_until: None,
            deleted: None,
            purge_after: None,
            cut: version > 0,
        }
    }

    fn id(number: u64) -> [u8; 16] {
        let hash = blake3::hash(&number.to_le_bytes());
        *hash.as_bytes().first_chunk().expect("long enough")
    }

    fn catalog(items: u64, points: u64) -> Catalog {
        let points = |item: u64| (0..points).map(move |n| (id(item * 1_000_000 + n), 0)).collect();
        (0..items).map(|item| (id(item), (0, points(item)))).collect()
    }

    /// The bytes of the chunks of a catalog.
    fn chunks(catalog: &Catalog) -> BTreeSet<Vec<u8>> {
        let (item, mut chunks) = (an_item(), Chunks::default());
        let mut made = Vec::new();
        for (id, (version, points)) in catalog {
            let mut item = item.clone();
            item.item.id = ItemId::from_bytes(*id);
            item.retention.edits = *version;
            chunks.item(item);
            for (point, version) in points {
                made.extend(chunks.point(kept(*id, *point, *version)));
            }
            made.extend(chunks.end_item());
        }
        made.extend(chunks.take());
        let points: usize = made.iter().map(|chunk| chunk.points.len()).sum();
        assert_eq!(points, catalog.values().map(|(_, points)| points.len()).sum::<usize>());
        assert_eq!(made.iter().map(|chunk| chunk.items.len()).sum::<usize>(), catalog.len());
        made.iter().map(|chunk| serde_json::to_vec(chunk).expect("JSON")).collect()
    }

    /// How many chunks a change makes new.
    fn rewritten(before: &BTreeSet<Vec<u8>>, changed: &Catalog) -> usize {
        chunks(changed).difference(before).count()
    }

    /// The first, those in the middle, and the last.
    fn some<T: Clone>(all: &[T]) -> Vec<T> {
        let last = all.len().saturating_sub(1);
        (0..=5).filter_map(|part| all.get(last * part / 5)).cloned().collect()
    }

    #[test]
    fn one_change_rewrites_one_chunk_whatever_the_size() {
        let mut counts: BTreeMap<(&str, &str), BTreeMap<usize, u64>> = BTreeMap::new();
        for (items, points) in [(1, 0), (40, 0), (100, 30), (3, 5_000), (1, 12_000)] {
            let catalog = catalog(items, points);
            let before = chunks(&catalog);
            let ids: Vec<_> = catalog.keys().copied().collect();
            let mut tried = |kind, what, is_an_end: bool, changed: &Catalog| {
                let count = rewritten(&before, changed);
                // A chunk may be split by what is inserted, and is gone if it held nothing else.
                let most = if what == "insert" && is_an_end { 2 } else { 1 };
                let least = usize::from(what != "delete");
                assert!(
                    (least..=most).contains(&count),
                    "{what} of a {kind}: {count} of {} chunks",
                    before.len()
                );
                *counts.entry((kind, what)).or_default().entry(count).or_default() += 1;
            };
            for item in some(&ids) {
                let mut changed = catalog.clone();
                changed.entry(item).and_modify(|(version, _)| *version += 1);
                tried("item", "update", false, &changed);
                let mut changed = catalog.clone();
                if catalog[&item].1.is_empty() {
                    changed.remove(&item);
                    tried("item", "delete", false, &changed);
                }
                let all: Vec<_> = catalog[&item].1.keys().copied().collect();
                for point in some(&all) {
                    let mut changed = catalog.clone();
                    changed.get_mut(&item).expect("it").1.insert(point, 1);
                    tried("point", "update", false, &changed);
                    changed.get_mut(&item).expect("it").1.remove(&point);
                    tried("point", "delete", false, &changed);
                }
                let new = [[0; 16], [255; 16], id(u64::MAX)];
                for point in new.into_iter().chain(some(&all).into_iter().map(after)) {
                    let mut changed = catalog.clone();
                    changed.get_mut(&item).expect("it").1.insert(point, 0);
                    tried("point", "insert", is_end(&point, POINTS), &changed);
                }
            }
            let new = [[0; 16], [255; 16], id(u64::MAX)];
            for item in new.into_iter().chain(some(&ids).into_iter().map(after)) {
                let mut changed = catalog.clone();
                changed.insert(item, (0, BTreeMap::new()));
                tried("item", "insert", is_end(&item, ITEMS), &changed);
                changed.remove(&item);
                assert_eq!(chunks(&changed), before);
            }
        }
        // Items and points, each inserted, updated and deleted; ends of chunks among what was inserted.
        assert_eq!(counts.len(), 6, "{counts:?}");
        assert!(counts.values().all(|counts| counts.get(&1).is_some_and(|n| *n > 4)), "{counts:?}");
    }

    /// The next id: of no other one.
    fn after(id: [u8; 16]) -> [u8; 16] {
        u128::from_be_bytes(id).wrapping_add(1).to_be_bytes()
    }

    #[test]
    fn what_ends_a_chunk_splits_and_joins_no_more_than_its_own() {
        let catalog = catalog(1, 20_000);
        let before = chunks(&catalog);
        let (item, (_, points)) = catalog.iter().next().expect("one");
        let ends: Vec<_> = points.keys().filter(|point| is_end(*point, POINTS)).collect();
        assert!(ends.len() > 2 && before.len() > ends.len(), "{}", ends.len());
        for end in ends {
            let mut changed = catalog.clone();
            changed.get_mut(item).expect("it").1.remove(end);
            let less = chunks(&changed);
            assert_eq!(
                (less.difference(&before).count(), before.difference(&less).count()),
                (1, 2)
            );
            assert_eq!(less.len() + 1, before.len());
        }
    }

    #[test]
    fn ids_that_somebody_has_chosen_do_not_make_a_chunk_without_end() {
        let mut chunks = Chunks::default();
        chunks.item(an_item());
        let mut ends = 0;
        let mut numbers = (0_u64..).filter(|number| !is_end(&id(*number), POINTS));
        for _ in 0..MOST_POINTS + 10 {
            let point = id(numbers.next().expect("endless"));
            ends += usize::from(chunks.point(kept([0; 16], point, 0)).is_some());
        }
        assert_eq!((ends, chunks.take().expect("the rest").points.len()), (1, 10));
    }
}
