//! Every end of a journal: each prefix of its bytes, torn frames, flipped bytes, with data files in any later state.
//!
//! The store is compared with what it was after the number of changes that the prefix holds whole.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use strongroom_base::SplitMix64;
use strongroom_blobs::{
    AccountKind, AppendConditions, BlobChange, BlobKind, BlockId, BlockList, BlockPlace, Change,
    Content, DeleteSnapshots, JournalDamage, NewBlob, Options, Refusal, SnapshotId, Store,
    StoreError, UploadId, UploadStep, UploadTo, WriteBuffer,
};

use crate::tools::{
    TestClock, blob, change, clear, copy_folder, create, folder, mix_sectors, options, page_of,
    snapshot, store_in, store_in_copies, write,
};

/// All that a reader can see of the blobs `a` and `b`.
pub(crate) type Seen = Vec<(String, Option<SnapshotId>, Vec<u8>)>;

pub(crate) fn seen(store: &Store) -> Seen {
    let view = store.view().expect("a view");
    let query = strongroom_blobs::ListQuery {
        snapshots: true,
        uncommitted: true,
        max: 1000,
        ..strongroom_blobs::ListQuery::default()
    };
    let items = view.list(&crate::tools::container(), &query).expect("lists").items;
    items
        .into_iter()
        .map(|item| {
            let strongroom_blobs::Item::Blob(head) = item else { panic!("no delimiter") };
            let mut bytes = vec![0; usize::try_from(head.size).expect("small")];
            if head.is_uncommitted {
                bytes = Vec::from(b"waits");
            } else {
                view.read(&head, 0, &mut bytes).expect("reads");
            }
            if head.kind == BlobKind::Block && head.snapshot.is_none() {
                let waiting = view.uncommitted_blocks(&blob(&head.name)).expect("blocks");
                bytes.extend(waiting.iter().flat_map(|block| block.id.as_bytes()));
            }
            (head.name.clone(), head.snapshot, bytes)
        })
        .collect()
}

pub(crate) fn workload() -> Vec<Change> {
    let pages =
        |tag: u64, count: u64| -> Vec<u8> { (tag..tag + count).flat_map(page_of).collect() };
    vec![
        create("a", 3 * 65536),
        write("a", 512, pages(1, 3)),
        write("a", 65536 - 1024, pages(10, 4)),
        snapshot("a"),
        write("a", 1024, pages(20, 1)),
        clear("a", 0, 1024),
        snapshot("a"),
        write("a", 65536 - 512, pages(30, 2)),
        clear("a", 65536, 65536),
        create("b", 8192),
        write("b", 0, pages(40, 16)),
        change("a", BlobChange::Resize { size: 65536 }),
        write("a", 1024, pages(50, 2)),
        create("b", 4096),
        write("b", 4096 - 512, pages(60, 1)),
        change("a", BlobChange::Delete { snapshot: None, snapshots: DeleteSnapshots::Only }),
        write("a", 4096, pages(70, 1)),
        snapshot("a"),
        write("a", 4096, pages(80, 1)),
    ]
}

/// A change, or one that needs the upload that began last.
enum Work {
    Of(Box<Change>),
    With(fn(UploadId) -> Change),
}

fn workload_of_blocks() -> Vec<Work> {
    let bytes = |tag: u8, len: usize| Content::Bytes(Bytes::from(vec![tag; len]));
    let id = |name: &str| BlockId::new(name.as_bytes()).expect("an id");
    let stage = |name: &str, tag, len| {
        change("a", BlobChange::StageBlock { id: id(name), content: bytes(tag, len) })
    };
    let commit = |names: &[&str]| {
        let blocks = names.iter().map(|name| (id(name), BlockPlace::Latest)).collect();
        change("a", BlobChange::CommitBlocks(BlockList { blocks, ..BlockList::default() }))
    };
    let append = |tag, len| {
        let conditions = AppendConditions::default();
        change("b", BlobChange::Append { content: bytes(tag, len), conditions })
    };
    let begin = |name, to| change(name, BlobChange::BeginUpload { to, len: 9000 });
    let log = NewBlob { kind: BlobKind::Append, ..NewBlob::default() };
    let piece = |id| {
        let data = Bytes::from(vec![9; 9000]);
        Change::Upload { id, step: UploadStep::Write { offset: 0, data } }
    };
    let of = |change| Work::Of(Box::new(change));
    vec![
        of(stage("one", 1, 5000)),
        of(stage("two", 2, 70_000)),
        of(commit(&["two", "one"])),
        of(snapshot("a")),
        of(begin("a", UploadTo::Block)),
        Work::With(piece),
        of(stage("one", 3, 100)),
        Work::With(|upload| {
            let id = BlockId::new(b"six").expect("an id");
            change("a", BlobChange::StageBlock { id, content: Content::Upload(upload) })
        }),
        of(commit(&["six", "one", "two", "six"])),
        of(change("b", BlobChange::Create(log))),
        of(append(4, 700)),
        of(append(5, 5000)),
        of(begin("b", UploadTo::Append)),
        Work::With(piece),
        of(append(6, 40)),
        of(snapshot("b")),
        Work::With(|upload| {
            let content = Content::Upload(upload);
            let conditions = AppendConditions::default();
            change("b", BlobChange::Append { content, conditions })
        }),
        of(append(7, 300)),
        of(begin("a", UploadTo::Blob)),
        Work::With(piece),
        Work::With(|upload| {
            let content = Content::Upload(upload);
            change("a", BlobChange::Put { new: Box::default(), content })
        }),
        of(stage("new", 8, 200)),
    ]
}

/// A crash image, what was seen after each record from the checkpoint on, and the data files of the checkpoint.
struct Image {
    _root: tempfile::TempDir,
    clock: std::sync::Arc<TestClock>,
    folder: PathBuf,
    checkpoint: PathBuf,
    /// How many records the checkpoint has.
    first: u64,
    /// After the checkpoint and after each change: what is seen, and the data files.
    states: Vec<(Seen, PathBuf)>,
}

fn image(work_before: usize) -> Image {
    image_of(workload().into_iter().map(|change| Work::Of(Box::new(change))).collect(), work_before)
}

fn image_of(mut changes: Vec<Work>, work_before: usize) -> Image {
    let root = folder();
    let clock = TestClock::new();
    let live = root.path().join("live");
    // The journal lies in one segment.
    let one_segment = Options { segment_size: 4 << 20, ..options(&clock) };
    let store = store_in_copies(&live, one_segment, AccountKind::Standard);
    let mut upload = None;
    let mut apply = |work: Work| {
        let change = match work {
            Work::Of(change) => *change,
            Work::With(change) => change(upload.expect("has begun")),
        };
        upload = store.apply(change).expect("applies").upload.or(upload);
    };
    let later = changes.split_off(work_before);
    changes.into_iter().for_each(&mut apply);
    store.settle();
    store.checkpoint();
    let checkpoint = root.path().join("checkpoint");
    copy_folder(&live.join("data"), &checkpoint);
    let first = store.status().records;
    let mut states = vec![(seen(&store), checkpoint.clone())];
    for work in later {
        apply(work);
        // Records of background work that follow write no data.
        let data = root.path().join(format!("data-{}", states.len()));
        copy_folder(&live.join("data"), &data);
        states.push((seen(&store), data));
    }
    let folder = root.path().join("image");
    copy_folder(&live, &folder);
    drop(store);
    Image { _root: root, clock, folder, checkpoint, first, states }
}

impl Image {
    fn journal(&self) -> PathBuf {
        let entries = fs::read_dir(self.folder.join("journal")).expect("a folder");
        let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        all.sort();
        all.pop().expect("a segment")
    }

    /// A copy of the image whose journal has these bytes.
    ///
    /// Slots are written when the records are durable: the data files have at most what `data` has, of which any
    /// sectors may be missing.
    fn with_journal(&self, to: &Path, bytes: &[u8], data: &Path, random: &mut SplitMix64) {
        if to.exists() {
            fs::remove_dir_all(to).expect("removes");
        }
        copy_folder(&self.folder, to);
        let name = self.journal();
        fs::write(to.join("journal").join(name.file_name().expect("a name")), bytes)
            .expect("writes");
        fs::remove_dir_all(to.join("data")).expect("removes");
        copy_folder(data, &to.join("data"));
        mix_sectors(&self.checkpoint, &to.join("data"), random);
    }

    /// What a reader must see, and what the data files have at most, when the first `frames` of the journal are whole.
    /// Those of background work change nothing that is seen.
    fn state_of(&self, journal: &[u8], frames: usize) -> &(Seen, PathBuf) {
        let ends = frame_ends(journal);
        let is_change = |at: &&usize| journal[payload(journal, **at).start + 12] != 7;
        &self.states[ends[..frames].iter().filter(is_change).count()]
    }
}

pub(crate) fn same(found: &Seen, wanted: &Seen, place: &str) {
    let names = |seen: &Seen| -> Vec<_> {
        seen.iter().map(|(name, id, bytes)| (name.clone(), *id, bytes.len())).collect()
    };
    assert_eq!(names(found), names(wanted), "{place}");
    for ((name, id, found), (_, _, wanted)) in found.iter().zip(wanted) {
        let page = found.chunks(512).zip(wanted.chunks(512)).position(|(a, b)| a != b);
        assert_eq!(page, None, "the first other page of {name} {id:?} at {place}");
    }
}

/// Where frames end, by their own lengths.
pub(crate) fn frame_ends(journal: &[u8]) -> Vec<usize> {
    let mut ends = vec![64];
    loop {
        let at = *ends.last().expect("the head");
        if journal.get(at..at + 4) != Some(b"SRMf") {
            return ends;
        }
        ends.push(payload(journal, at).end.next_multiple_of(8));
    }
}

/// Where the payload of the frame at `at` lies, by the frame's own lengths.
pub(crate) fn payload(journal: &[u8], at: usize) -> std::ops::Range<usize> {
    let number = |at: usize| {
        let bytes = journal[at..at + 4].try_into().expect("four");
        usize::try_from(u32::from_le_bytes(bytes)).expect("small")
    };
    let start = at + 32 + number(at + 28);
    start..start + number(at + 24)
}

fn every_prefix(work_before: usize, seed: u64) {
    every_prefix_of(&image(work_before), 397, seed);
}

/// Of a frame some bytes at its ends are looked at, and each `step` of the others.
fn every_prefix_of(image: &Image, step: usize, seed: u64) {
    let mut random = SplitMix64::new(seed);
    let journal = fs::read(image.journal()).expect("reads");
    let ends = frame_ends(&journal);
    let behind = *ends.last().expect("some");
    let place = image.folder.with_extension("try");
    // Each byte of heads and of the first bytes of payloads, and some of the rest.
    let lengths = (64..=behind).filter(|len| {
        let since = ends.iter().rev().find(|end| *end <= len).expect("the head");
        let step = if std::env::var_os("STRONGROOM_LONG").is_some() { step / 50 } else { step };
        len - since < 3 || (len - since) % step == 0 || ends.contains(&(len + 1))
    });
    for len in lengths {
        let mut cut = journal[..len].to_vec();
        // What lies behind the end: nothing, zeros as preallocated, or noise.
        match random.below(3) {
            0 => {}
            1 => cut.resize(journal.len(), 0),
            _ => cut.extend((0..200).map(|_| random.bits().to_le_bytes()[0])),
        }
        // A frame is whole without the padding behind it, and zeros may be what it lacks.
        let whole = ends.windows(2).take_while(|pair| {
            let payload = payload(&journal, pair[0]);
            let ends = [pair[0]..pair[0] + 32, payload];
            ends.into_iter().all(|part| cut.get(part.clone()) == Some(&journal[part]))
        });
        let whole = whole.count();
        let wanted = image.first + u64::try_from(whole).expect("small");
        let (state, data) = image.state_of(&journal, whole);
        image.with_journal(&place, &cut, data, &mut random);
        let store = Store::open(&place, options(&image.clock))
            .unwrap_or_else(|error| panic!("{len} of {behind}: {error:?}"));
        let found = store.status().records;
        assert!(found >= wanted, "{found} of {wanted} records at {len}");
        same(&seen(&store), state, &format!("{len} of {behind}, {wanted} records"));
        // It continues, and what it does then survives as well.
        store.apply(create("new", 512)).expect("creates");
        store.apply(write("new", 0, vec![5; 512])).expect("writes");
    }
}

#[test]
fn every_prefix_of_the_journal_gives_a_prefix_of_the_changes() {
    every_prefix(0, 1);
}

#[test]
fn every_prefix_of_the_journal_after_a_checkpoint_gives_a_prefix_of_the_changes() {
    every_prefix(4, 2);
    every_prefix(9, 3);
}

#[test]
fn every_prefix_of_the_journal_gives_whole_blocks_and_appends() {
    every_prefix_of(&image_of(workload_of_blocks(), 0), 397, 6);
    every_prefix_of(&image_of(workload_of_blocks(), 4), 397, 7);
    every_prefix_of(&image_of(workload_of_blocks(), 11), 397, 8);
}

/// Writes that pass the page cache by, with others over and between them.
fn workload_of_long_writes() -> Vec<Work> {
    let long = |offset: u64, tag: u64, pages: u64| {
        let mut buffer = WriteBuffer::with_capacity(usize::try_from(pages * 512).expect("small"));
        (tag..tag + pages).for_each(|tag| buffer.extend_from_slice(&page_of(tag)));
        write("a", offset, buffer.freeze())
    };
    let changes = [
        create("a", 1 << 20),
        long(0, 1, 512),
        long(65536, 10_000, 640),
        write("a", 131_072 + 512, page_of(20_000).to_vec()),
        snapshot("a"),
        long(4096, 30_000, 768),
        clear("a", 65536, 131_072),
        long(0, 40_000, 1024),
    ];
    changes.into_iter().map(|change| Work::Of(Box::new(change))).collect()
}

#[test]
fn every_prefix_of_the_journal_gives_whole_long_writes() {
    every_prefix_of(&image_of(workload_of_long_writes(), 0), 16_381, 9);
    every_prefix_of(&image_of(workload_of_long_writes(), 3), 16_381, 10);
}

/// The other tests work in memory, where nothing passes the page cache by.
#[test]
fn long_writes_to_a_disk_are_read_back_and_applied_again() {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let clock = TestClock::new();
    let path = disk.path().join("s");
    let store = store_in(&path, &clock, AccountKind::Standard);
    let mut states = Vec::new();
    for work in workload_of_long_writes() {
        let Work::Of(change) = work else { panic!("no upload") };
        store.apply(*change).expect("applies");
        states.push(seen(&store));
    }
    let last = states.pop().expect("some");
    assert_eq!(store.scrub().lost, 0);
    let crashed = disk.path().join("crashed");
    copy_folder(&path, &crashed);
    drop(store);
    for folder in [crashed, path] {
        let store = Store::open(&folder, options(&clock)).expect("opens");
        same(&seen(&store), &last, "opened again");
        assert_eq!(store.scrub().lost, 0);
    }
}

#[test]
fn a_flipped_byte_at_the_end_takes_one_change_and_before_it_is_refused() {
    let image = image(4);
    let mut random = SplitMix64::new(5);
    let journal = fs::read(image.journal()).expect("reads");
    let ends = frame_ends(&journal);
    let place = image.folder.with_extension("try");
    for (frame, pair) in ends.windows(2).enumerate() {
        // The padding of a frame means nothing.
        let payload = payload(&journal, pair[0]);
        let heads = [0, 4, 8, 16, 24, 28].map(|at| pair[0] + at);
        for at in heads.into_iter().chain([payload.start, payload.end - 1]) {
            let mut bytes = journal.clone();
            bytes[at] ^= 1 << random.below(8);
            let number = image.first + u64::try_from(frame).expect("small");
            let (state, data) = image.state_of(&journal, frame);
            image.with_journal(&place, &bytes, data, &mut random);
            match Store::open(&place, options(&image.clock)) {
                Ok(store) => {
                    assert_eq!(frame + 2, ends.len(), "only the last frame may be torn");
                    same(&seen(&store), state, "the last frame");
                }
                Err(StoreError::Journal(JournalDamage::Missing { number: missing })) => {
                    assert!(frame + 2 < ends.len(), "later frames are there");
                    assert_eq!(missing, number + 1);
                }
                Err(other) => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_journal_that_is_missing_or_another_stores_is_refused() {
    let image = image(4);
    let place = image.folder.with_extension("try");
    copy_folder(&image.folder, &place);
    let segment = place.join("journal").join(image.journal().file_name().expect("a name"));
    let kept = fs::read(&segment).expect("reads");
    let open = || Store::open(&place, options(&image.clock)).err().expect("is refused");
    fs::remove_file(&segment).expect("removes");
    assert!(matches!(open(), StoreError::Journal(JournalDamage::Ends { .. })));
    let mut other = kept;
    other[8] ^= 1;
    fs::write(&segment, other).expect("writes");
    assert!(matches!(open(), StoreError::Journal(JournalDamage::Head { .. })));
}

#[test]
fn a_change_that_finds_no_room_is_refused_and_the_store_continues() {
    let root = folder();
    let clock = TestClock::new();
    let path = root.path().join("s");
    let store = store_in(&path, &clock, AccountKind::Standard);
    store.apply(create("a", 65536)).expect("creates");
    store.apply(write("a", 0, vec![1; 512])).expect("writes");
    store.checkpoint();
    // A folder in the place of the next segment: it cannot be created.
    let next = store.status().records + 1;
    let before = seen(&store);
    // The present segment is full after this.
    while store.status().journal_bytes < (1 << 20) - 8192 {
        store.apply(write("a", 0, vec![1; 4096])).expect("writes");
    }
    assert!(store.status().records > next);
    let journal = path.join("journal");
    let moved = path.join("moved");
    fs::rename(&journal, &moved).expect("moves");
    let refusals: Vec<Refusal> =
        (0..4).filter_map(|_| store.apply(write("a", 512, vec![2; 4096])).err()).collect();
    assert!(!refusals.is_empty() && refusals.iter().all(|refusal| *refusal == Refusal::Full));
    assert_eq!(seen(&store).len(), before.len(), "it reads");
    assert!(store.status().failure.is_none(), "it has not stopped");
    fs::rename(&moved, &journal).expect("moves back");
    store.apply(write("a", 512, vec![3; 512])).expect("there is room again");
    drop(store);
    let store = Store::open(&path, options(&clock)).expect("opens");
    assert_eq!(seen(&store)[0].2[512..1024], [3; 512]);
}

#[test]
fn a_damaged_cell_is_refused_and_never_written_over_with_a_good_checksum() {
    let root = folder();
    let clock = TestClock::new();
    let path = root.path().join("s");
    let store = store_in(&path, &clock, AccountKind::Standard);
    store.apply(create("a", 65536)).expect("creates");
    store.apply(write("a", 0, vec![1; 16384])).expect("writes");
    let file = fs::read_dir(path.join("data")).expect("a folder").next().expect("a file");
    let file = file.expect("an entry").path();
    let mut bytes = fs::read(&file).expect("reads");
    bytes[5000] ^= 4;
    fs::write(&file, bytes).expect("writes");
    let view = store.view().expect("a view");
    let head = view.head(&blob("a"), None).expect("is there");
    let mut page = [0; 512];
    let damaged = Refusal::Damaged { offset: 4096 };
    let error = view.read(&head, 4096 + 512, &mut page).expect_err("is damaged");
    assert!(matches!(error, strongroom_blobs::ReadError::Refused(refusal) if refusal == damaged));
    view.read(&head, 8192, &mut page).expect("the next cell is good");
    // A part of the cell would give the rest of it a good checksum.
    assert_eq!(store.apply(write("a", 4096, vec![2; 512])), Err(damaged.clone()));
    store.apply(snapshot("a")).expect("a snapshot");
    assert_eq!(store.apply(write("a", 0, vec![2; 4096])), Err(damaged));
    store.apply(write("a", 0, vec![2; 16384])).expect("replaces all of it");
}

#[test]
fn a_store_that_fails_reads_and_changes_nothing_until_it_is_opened_again() {
    let root = folder();
    let clock = TestClock::new();
    let path = root.path().join("s");
    let store = store_in(&path, &clock, AccountKind::Standard);
    store.apply(create("a", 65536)).expect("creates");
    store.apply(write("a", 0, vec![1; 4096])).expect("writes");
    store.apply(create("b", 65536)).expect("creates");
    let before = seen(&store);
    // The data file of `b` cannot be made: that is no want of room.
    let in_the_way = path.join("data/0000000000000002.home");
    fs::create_dir(&in_the_way).expect("a folder");
    assert_eq!(store.apply(write("b", 0, vec![2; 4096])), Err(Refusal::NotDurable));
    assert_eq!(store.apply(write("a", 0, vec![3; 4096])), Err(Refusal::Stopped));
    assert!(matches!(store.status().failure.as_deref(), Some(StoreError::Apply(_))));
    assert!(seen(&store) == before, "it reads");
    store.checkpoint();
    store.settle();
    drop(store);
    fs::remove_dir(&in_the_way).expect("removes");
    let store = Store::open(&path, options(&clock)).expect("opens");
    same(&seen(&store), &before, "opened again");
    store.apply(write("b", 0, vec![2; 4096])).expect("writes again");
}
