//! The index against a plain map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use strongroom_base::KeyId;
use strongroom_format::pack::{Entry, PackKind, Packing, Part};

use super::*;

fn digest(n: u32) -> Digest {
    // Few distinct prefixes, so that runs of equal prefixes cross pages.
    let mut bytes = *blake3::hash(&n.to_le_bytes()).as_bytes();
    bytes[..8].copy_from_slice(&u64::from(n % 3).to_be_bytes());
    Digest::new(bytes)
}

fn contents(pack: u8, digests: impl Iterator<Item = u32>) -> Contents {
    let mut offset = 64;
    let entries = digests
        .zip(0..)
        .map(|(n, ordinal)| {
            let entry = Entry {
                digest: digest(n),
                kind: if n.is_multiple_of(5) {
                    RecordKind::BlockDelta
                } else {
                    RecordKind::BlockZstd
                },
                ordinal,
                offset,
                stored_len: 100 + n % 50,
                plain_len: 65536,
                part: Part::WHOLE,
            };
            offset += entry.stored_len;
            entry
        })
        .collect::<Vec<_>>();
    let bases = entries
        .iter()
        .filter(|entry| entry.kind == RecordKind::BlockDelta)
        .map(|_| digest(999_999))
        .collect();
    Contents {
        id: PackId::new([pack; 32]),
        header: Header {
            kind: PackKind::Data,
            packing: Packing::Units,
            key_id: KeyId::from_bytes([1; 16]),
            salt: [pack; 32],
        },
        size: u64::from(offset),
        entries,
        bases,
    }
}

fn source(n: u8) -> Ulid {
    Ulid::from_bytes([n; 16])
}

#[test]
fn what_may_be_relied_upon_is_found() {
    let dir = tempfile::tempdir().expect("temp");
    let index = Index::open(dir.path()).expect("opens");
    let pack = contents(1, 1..200);
    index.add(&[(source(1), std::slice::from_ref(&pack))]).expect("writes");
    assert_eq!(index.find(&digest(7)).expect("reads")[0].entry, pack.entries[6]);
    let segment = index.loaded()[0].segment.clone();
    for n in 0_u32..210 {
        let wanted = (n > 0 && n < 200 && n.is_multiple_of(5)).then(|| digest(999_999));
        let wanted: Vec<_> = wanted.into_iter().collect();
        assert_eq!(segment.bases_of(&digest(n)).expect("reads"), wanted, "{n}");
    }
    let trust = index.new_trust();
    let relied_upon =
        |trust: &Trust| index.find_reliable(&digest(7), trust).expect("reads").is_some();
    trust.begin(HashSet::new(), HashSet::new());
    assert!(!relied_upon(&trust), "a pack that is not in the store");
    let audience = index.audience();
    let later = index.new_trust();
    audience.landed(pack.id);
    assert!(relied_upon(&trust));
    assert!(!relied_upon(&later), "who came after the put sees it in its list, or not at all");
    let one = index.new_trust();
    one.begin([pack.id].into(), [pack.id].into());
    assert!(!relied_upon(&one), "a condemned pack is not relied upon");
    assert!(relied_upon(&trust), "each relies on what it saw itself");
    index.audience().landed(pack.id);
    assert!(!relied_upon(&one), "whoever lands it");
    let two = index.new_trust();
    two.begin([pack.id].into(), HashSet::new());
    assert!(relied_upon(&two));
    index.distrust(pack.id);
    assert!(!relied_upon(&two), "nor is a pack that could not be read");
}

#[test]
fn what_another_thread_adds_during_a_list_stays() {
    let dir = tempfile::tempdir().expect("temp");
    let index = Index::open(dir.path()).expect("opens");
    index.add(&[(source(1), &[contents(1, 1..50)])]).expect("writes");
    // A list begins, another thread puts an index object, and the list has not seen it.
    let known = index.sources();
    index.add(&[(source(2), &[contents(2, 50..90)])]).expect("writes");
    index.set_present([source(1)].into(), &known).expect("keeps");
    assert_eq!(index.sources(), [source(1), source(2)].into());
    // The next list has not seen it either: it is gone.
    index.set_present([source(1)].into(), &index.sources()).expect("removes");
    assert_eq!(index.sources(), [source(1)].into());
}

#[test]
fn packs_of_vanished_objects_are_forgotten() {
    let dir = tempfile::tempdir().expect("temp");
    let index = Index::open(dir.path()).expect("opens");
    index
        .add(&[(source(1), &[contents(1, 1..50)]), (source(2), &[contents(2, 50..90)])])
        .expect("writes");
    index.add(&[(source(3), &[contents(3, 100..150)])]).expect("writes");
    index.forget(&[source(1), source(3)]).expect("removes");
    assert!(index.find(&digest(3)).expect("reads").is_empty());
    assert!(index.find(&digest(120)).expect("reads").is_empty());
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 1);
    assert_eq!(index.find(&digest(60)).expect("reads").len(), 1);
    index.set_present([source(2)].into(), &index.sources()).expect("removes");
    assert!(index.find(&digest(3)).expect("reads").is_empty());
    assert_eq!(index.find(&digest(60)).expect("reads").len(), 1);
    index.set_present(HashSet::new(), &index.sources()).expect("removes");
    assert!(index.is_empty());
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 0);
}

/// Two processes with one cache folder each wrote a segment of source 1; where one speaks for it,
/// merging the other must not take the word from it.
#[test]
fn a_merged_segment_does_not_speak_for_what_it_left_out() {
    let dir = tempfile::tempdir().expect("temp");
    let (one, two) = (Index::open(dir.path()), Index::open(dir.path()));
    one.expect("opens").add(&[(source(1), &[contents(1, 0..10)])]).expect("writes");
    two.expect("opens")
        .add(&[(source(1), &[contents(1, 0..10)]), (source(2), &[contents(2, 10..70)])])
        .expect("writes");
    let index = Index::open(dir.path()).expect("opens");
    // First the large segments are merged, then the small ones.
    for (n, records) in (3..10).map(|n| (n, 100)).chain((10..17).map(|n| (n, 20))) {
        let first = u32::from(n) * 100;
        let contents = contents(n, first..first + records);
        index.add(&[(source(n), std::slice::from_ref(&contents))]).expect("writes");
        assert_eq!(index.find(&digest(3)).expect("reads").len(), 1, "{n}");
    }
    assert!(index.loaded().len() < 4, "nothing was merged");
    assert_eq!(Index::open(dir.path()).expect("opens").find(&digest(3)).expect("reads").len(), 1);
}

#[test]
fn threads_that_add_at_once_merge_every_segment_once() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().expect("temp");
        let index = Index::open(dir.path()).expect("opens");
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let index = &index;
                scope.spawn(move || {
                    for nth in 0..16_u8 {
                        let number = thread * 16 + nth + 1;
                        let first = u32::from(number) * 50;
                        let pack = contents(number, first..first + 50);
                        index.add(&[(source(number), &[pack])]).expect("writes");
                    }
                });
            }
        });
        assert_eq!(index.len(), 4 * 16 * 50);
        assert!((50..3250).all(|n| index.find(&digest(n)).expect("reads").len() == 1));
    }
}

#[test]
fn damaged_files_are_dropped() {
    let dir = tempfile::tempdir().expect("temp");
    Index::open(dir.path())
        .expect("opens")
        .add(&[(source(1), &[contents(1, 1..50)])])
        .expect("writes");
    let path = fs::read_dir(dir.path()).expect("reads").next().expect("one").expect("entry").path();
    let mut bytes = fs::read(&path).expect("reads");
    bytes[100] ^= 1;
    fs::write(&path, bytes).expect("writes");
    assert!(Index::open(dir.path()).expect("opens").is_empty());
    assert!(!path.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn finds_exactly_what_was_added(packs in prop::collection::vec((0_u32..400, 1_u32..300), 1..30), gone in any::<u32>()) {
        let dir = tempfile::tempdir().expect("temp");
        let index = Index::open(dir.path()).expect("opens");
        let mut model: BTreeMap<u32, Vec<PackId>> = BTreeMap::new();
        let mut present = HashSet::new();
        for (number, (first, len)) in (1_u8..).zip(&packs) {
            let contents = contents(number, *first..first + len);
            index.add(&[(source(number), std::slice::from_ref(&contents))]).expect("writes");
            if gone & (1 << number.min(31)) == 0 {
                present.insert(source(number));
                (*first..first + len).for_each(|n| model.entry(n).or_default().push(contents.id));
            }
        }
        index.set_present(present.clone(), &index.sources()).expect("removes");
        let reopened = Index::open(dir.path()).expect("opens");
        reopened.set_present(present, &reopened.sources()).expect("removes");
        for index in [&index, &reopened] {
            prop_assert!(index.loaded().len() < 3 * MERGE_AT);
            for n in 0..720 {
                let mut found: Vec<_> = index.find(&digest(n)).expect("reads").iter().map(|p| p.pack).collect();
                found.sort();
                let mut wanted = model.get(&n).cloned().unwrap_or_default();
                wanted.sort();
                prop_assert_eq!(found, wanted);
            }
        }
        // Many at once, in order, some left out.
        for step in [1, 3, 50] {
            let mut digests: Vec<_> = (gone % step..720).step_by(usize::try_from(step).expect("small")).map(digest).collect();
            digests.sort();
            for Loaded { segment, .. } in index.loaded() {
                let mut ascending = segment.ascending();
                for digest in &digests {
                    let (mut alone, mut at_once) = (Vec::new(), Vec::new());
                    segment.find(digest, &mut alone).expect("reads");
                    ascending.find(digest, &mut at_once).expect("reads");
                    prop_assert!(alone == at_once);
                }
            }
        }
    }
}
