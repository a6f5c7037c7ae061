//! Random operations on block blobs and append blobs against plain vectors: put, stage, commit, append, uploads in
//! pieces, copy, snapshot, delete, blocks that expire, restart, crash with data files of which only some sectors arrived.
//!
//! A seed that fails is run alone with `STRONGROOM_SEED`. With `STRONGROOM_LONG` there are many more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use strongroom_base::SplitMix64;
use strongroom_blobs::{
    AccountKind, AppendConditions, BlobChange, BlobKind, BlockId, BlockList, BlockPlace, Change,
    Content, CopyStep, DeleteSnapshots, Item, ListQuery, NewBlob, NewCopy, ReadError, Refusal,
    SnapshotId, Store, UploadId, UploadStep, UploadTo, View,
};

use crate::tools::{
    TestClock, blob, change, container, copy_folder, folder, mix_sectors, options, snapshot,
    store_in,
};

const NAMES: [&str; 3] = ["a", "a/b", "c"];
const IDS: u64 = 6;
const CELL: u64 = 4096;

type Blocks = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Clone, Debug)]
struct State {
    kind: BlobKind,
    content: Vec<u8>,
    /// Of a block blob that was committed.
    blocks: Blocks,
    /// Of an append blob.
    count: u64,
}

#[derive(Clone, Debug, Default)]
struct Name {
    present: Option<State>,
    staged: BTreeMap<Vec<u8>, Vec<u8>>,
    snapshots: BTreeMap<SnapshotId, State>,
    /// Bytes of cells that snapshots may keep of blocks that waited.
    retained: u64,
}

struct Upload {
    id: UploadId,
    name: &'static str,
    to: UploadTo,
    data: Vec<u8>,
    sent: usize,
    /// Whether the blob that it was for is still there.
    is_good: bool,
}

struct World {
    random: SplitMix64,
    clock: Arc<TestClock>,
    root: tempfile::TempDir,
    lives: u64,
    store: Option<Store>,
    names: BTreeMap<&'static str, Name>,
    uploads: Vec<Upload>,
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = TestClock::new();
        let root = folder();
        let store = store_in(&root.path().join("0"), &clock, AccountKind::Standard);
        let mut world = Self {
            random: SplitMix64::new(seed),
            clock,
            root,
            lives: 0,
            store: Some(store),
            names: NAMES.iter().map(|name| (*name, Name::default())).collect(),
            uploads: Vec::new(),
        };
        world.checkpoint();
        world
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).expect("small"))).expect("small")
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("is open")
    }

    fn name(&mut self, name: &'static str) -> &mut Name {
        self.names.get_mut(name).expect("is there")
    }

    fn path(&self) -> std::path::PathBuf {
        self.root.path().join(self.lives.to_string())
    }

    fn checkpoint(&mut self) {
        self.store().checkpoint();
        let kept = self.root.path().join("checkpoint");
        if kept.exists() {
            std::fs::remove_dir_all(&kept).expect("removes");
        }
        copy_folder(&self.path().join("data"), &kept);
    }

    fn reopen(&mut self) {
        let options = options(&self.clock);
        self.store = Some(Store::open(&self.path(), options).expect("opens"));
        for upload in &mut self.uploads {
            upload.is_good = false;
        }
        self.store().settle();
        self.checkpoint();
    }

    fn crash(&mut self) {
        let (old, lives) = (self.path(), self.lives + 1);
        let new = self.root.path().join(lives.to_string());
        copy_folder(&old, &new);
        let kept = self.root.path().join("checkpoint");
        mix_sectors(&kept, &new.join("data"), &mut self.random);
        self.store = None;
        std::fs::remove_dir_all(old).expect("removes");
        self.lives = lives;
        self.reopen();
    }

    fn bytes(&mut self) -> Vec<u8> {
        let longest = [1, 40, 511, 4096, 9000, 70_000, 200_000][self.index(7)];
        let len = 1 + self.index(longest);
        let first = self.random.bits();
        let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
        for n in 0..len.div_ceil(8) {
            let word = first.wrapping_mul(2 * u64::try_from(n).expect("small") + 1) | 1;
            bytes.extend(word.to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn id(&mut self) -> Vec<u8> {
        format!("id-{}", self.below(IDS)).into_bytes()
    }

    fn apply(&self, name: &str, step: BlobChange) -> strongroom_blobs::Done {
        self.store().apply(change(name, step)).expect("applies")
    }

    fn kind(&self, name: &str) -> Option<BlobKind> {
        self.names[name].present.as_ref().map(|state| state.kind)
    }

    fn step(&mut self) {
        let name = NAMES[self.index(3)];
        match self.below(100) {
            0..6 => self.put(name),
            6..8 => self.create(name, BlobKind::Page),
            8..13 => self.create(name, BlobKind::Append),
            13..33 => self.stage(name),
            33..43 => self.commit(name),
            43..58 => self.append(name),
            58..68 => self.begin_upload(name),
            68..76 => self.continue_upload(),
            76..80 => self.copy(name),
            80..86 => self.snapshot(name),
            86..90 => self.delete_snapshot(name),
            90..92 => self.delete(name),
            92..94 => self.checkpoint(),
            94 => self.expire(),
            95..97 => {
                self.store().settle();
                self.checkpoint();
            }
            97 => {
                self.store = None;
                self.reopen();
            }
            _ => self.crash(),
        }
    }

    /// Another blob is under the name: what waited is gone.
    fn replaced(&mut self, name: &'static str, state: Option<State>) {
        let entry = self.name(name);
        entry.present = state;
        entry.staged.clear();
        for upload in self.uploads.iter_mut().filter(|upload| upload.name == name) {
            upload.is_good &= upload.to == UploadTo::Blob;
        }
    }

    fn put(&mut self, name: &'static str) {
        let data = if self.below(8) == 0 { Vec::new() } else { self.bytes() };
        let content = Content::Bytes(Bytes::from(data.clone()));
        self.apply(name, BlobChange::Put { new: Box::default(), content });
        self.replaced(name, Some(block(data, Vec::new())));
    }

    fn create(&mut self, name: &'static str, kind: BlobKind) {
        let size = if kind == BlobKind::Page { 8192 } else { 0 };
        self.apply(name, BlobChange::Create(NewBlob { kind, size, ..NewBlob::default() }));
        let content = vec![0; usize::try_from(size).expect("small")];
        self.replaced(name, Some(State { kind, content, blocks: Vec::new(), count: 0 }));
    }

    fn stage(&mut self, name: &'static str) {
        let (id, data) = (self.id(), self.bytes());
        let content = Content::Bytes(Bytes::from(data.clone()));
        let step = BlobChange::StageBlock { id: block_id(&id), content };
        if self.kind(name).is_some_and(|kind| kind != BlobKind::Block) {
            let refused = self.store().apply(change(name, step));
            assert_eq!(refused, Err(Refusal::InvalidBlobType));
            return;
        }
        self.apply(name, step);
        self.name(name).staged.insert(id, data);
    }

    fn commit(&mut self, name: &'static str) {
        if self.kind(name).is_some_and(|kind| kind != BlobKind::Block) {
            return;
        }
        let entry = self.names[name].clone();
        let committed = entry.present.map(|state| state.blocks).unwrap_or_default();
        let (mut list, mut blocks) = (Vec::new(), Vec::new());
        let share = 1 + self.below(3);
        for (id, data) in &committed {
            if self.below(3) < share {
                let latest = entry.staged.get(id).filter(|_| self.random.below(2) == 0);
                let first = committed.iter().find(|(other, _)| other == id);
                let found = latest.unwrap_or(first.map_or(data, |(_, data)| data));
                let place = if latest.is_some() || !entry.staged.contains_key(id) {
                    BlockPlace::Latest
                } else {
                    BlockPlace::Committed
                };
                list.push((block_id(id), place));
                blocks.push((id.clone(), found.clone()));
            }
        }
        for (id, data) in &entry.staged {
            if self.below(4) < 3 {
                list.push((block_id(id), BlockPlace::Uncommitted));
                blocks.push((id.clone(), data.clone()));
            }
        }
        let missing = BlockList {
            blocks: vec![(block_id(b"none"), BlockPlace::Latest)],
            ..BlockList::default()
        };
        let refused = self.store().apply(change(name, BlobChange::CommitBlocks(missing)));
        assert_eq!(refused, Err(Refusal::InvalidBlockList));
        let list = BlockList { blocks: list, ..BlockList::default() };
        self.apply(name, BlobChange::CommitBlocks(list));
        let content = blocks.iter().flat_map(|(_, data)| data.clone()).collect();
        let entry = self.name(name);
        entry.present = Some(block(content, blocks));
        entry.staged.clear();
    }

    fn append(&mut self, name: &'static str) {
        let data = self.bytes();
        let content = Content::Bytes(Bytes::from(data.clone()));
        let Some(state) = self.names[name].present.clone() else { return };
        let size = len(&state.content);
        let conditions = AppendConditions { position: Some(size), max_size: None };
        let step = BlobChange::Append { content, conditions };
        if state.kind != BlobKind::Append {
            let refused = self.store().apply(change(name, step));
            assert_eq!(refused, Err(Refusal::InvalidBlobType));
            return;
        }
        let done = self.apply(name, step);
        assert_eq!((done.appended, done.sequence), (Some(size), state.count + 1));
        self.appended(name, &data);
    }

    fn appended(&mut self, name: &'static str, data: &[u8]) {
        let state = self.name(name).present.as_mut().expect("is there");
        state.content.extend(data);
        state.count += 1;
    }

    fn begin_upload(&mut self, name: &'static str) {
        let kind = self.kind(name);
        let to = match (self.below(3), kind) {
            (0, _) => UploadTo::Blob,
            (_, Some(BlobKind::Append)) => UploadTo::Append,
            (_, Some(BlobKind::Block) | None) => UploadTo::Block,
            (_, Some(BlobKind::Page)) => return,
        };
        let data = self.bytes();
        let begin = BlobChange::BeginUpload { to, len: len(&data) };
        let id = self.apply(name, begin).upload.expect("an id");
        self.uploads.push(Upload { id, name, to, data, sent: 0, is_good: true });
    }

    fn continue_upload(&mut self) {
        if self.uploads.is_empty() {
            return;
        }
        let index = self.index(self.uploads.len());
        if self.below(12) == 0 {
            let upload = self.uploads.remove(index);
            let step = UploadStep::Abandon;
            let done = self.store().apply(Change::Upload { id: upload.id, step });
            assert_eq!(done.is_ok(), upload.is_good, "{done:?}");
            return;
        }
        loop {
            let Upload { id, data, sent, is_good, .. } = &mut self.uploads[index];
            if *sent == data.len() {
                break;
            }
            let end = data.len().min(*sent + 16384);
            let (offset, piece) = (len(&data[..*sent]), Bytes::copy_from_slice(&data[*sent..end]));
            let step = UploadStep::Write { offset, data: piece };
            *sent = end;
            let (id, is_good) = (*id, *is_good);
            let done = self.store().apply(Change::Upload { id, step });
            assert_eq!(done.is_ok(), is_good, "{done:?}");
            if !is_good {
                assert_eq!(done, Err(Refusal::UploadLost));
                self.uploads.remove(index);
                return;
            }
            if self.below(3) == 0 {
                return;
            }
        }
        let upload = self.uploads.remove(index);
        let content = Content::Upload(upload.id);
        let (name, data) = (upload.name, upload.data);
        let id = self.id();
        let step = match upload.to {
            UploadTo::Blob => BlobChange::Put { new: Box::default(), content },
            UploadTo::Block => BlobChange::StageBlock { id: block_id(&id), content },
            UploadTo::Append => {
                BlobChange::Append { content, conditions: AppendConditions::default() }
            }
        };
        let done = self.store().apply(change(name, step));
        if !upload.is_good {
            assert!(done.is_err(), "{done:?}");
            return;
        }
        done.expect("applies");
        match upload.to {
            UploadTo::Blob => self.replaced(name, Some(block(data, Vec::new()))),
            UploadTo::Block => drop(self.name(name).staged.insert(id, data)),
            UploadTo::Append => self.appended(name, &data),
        }
    }

    /// What is at one name becomes what is at another.
    fn copy(&mut self, name: &'static str) {
        let from = NAMES[self.index(3)];
        let Some(state) = self.names[from].present.clone() else { return };
        if state.kind == BlobKind::Page || from == name {
            return;
        }
        let new = NewBlob {
            kind: state.kind,
            size: len(&state.content),
            sequence: state.count,
            ..NewBlob::default()
        };
        let copy = NewCopy { source: from.to_owned(), blob: new, incremental: None };
        let begun = self.store().apply(change(name, BlobChange::BeginCopy(Box::new(copy))));
        if self.kind(name).is_some_and(|kind| kind != state.kind) {
            assert_eq!(begun, Err(Refusal::InvalidBlobType));
            return;
        }
        let id = begun.expect("begins").copy.expect("an id");
        let step = |step| BlobChange::Copy { id: id.clone(), step };
        let mut offset = 0;
        for piece in state.content.chunks(65536) {
            let done = offset + len(piece);
            let data = Bytes::copy_from_slice(piece);
            self.apply(name, step(CopyStep::Write { offset, data, done }));
            offset = done;
        }
        if self.below(5) == 0 {
            self.apply(name, step(CopyStep::Abort));
            let empty = State { content: Vec::new(), blocks: Vec::new(), count: 0, ..state };
            self.replaced(name, Some(empty));
            return;
        }
        let short = |data: &[u8]| u32::try_from(data.len()).expect("small");
        let blocks = state.blocks.iter().map(|(id, data)| (block_id(id), short(data))).collect();
        self.apply(name, step(CopyStep::Finish { blocks }));
        self.replaced(name, Some(state));
    }

    fn snapshot(&mut self, name: &'static str) {
        let Some(state) = self.names[name].present.clone() else { return };
        let id = self.store().apply(snapshot(name)).expect("a snapshot").snapshot.expect("an id");
        let waiting: u64 = self.uploads.iter().map(|upload| cells(&upload.data)).sum();
        let entry = self.name(name);
        entry.retained += waiting + entry.staged.values().map(|data| cells(data)).sum::<u64>();
        entry.snapshots.insert(id, state);
    }

    fn delete_snapshot(&mut self, name: &'static str) {
        let count = self.names[name].snapshots.len();
        if count == 0 {
            return;
        }
        let index = self.index(count);
        let id = *self.names[name].snapshots.keys().nth(index).expect("is there");
        let delete = BlobChange::Delete { snapshot: Some(id), snapshots: DeleteSnapshots::Refuse };
        let done = self.store().apply(change(name, delete));
        if self.names[name].present.is_some() {
            done.expect("deletes");
            self.name(name).snapshots.remove(&id);
        }
    }

    fn delete(&mut self, name: &'static str) {
        let snapshots =
            if self.below(2) == 0 { DeleteSnapshots::Only } else { DeleteSnapshots::Include };
        let done =
            self.store().apply(change(name, BlobChange::Delete { snapshot: None, snapshots }));
        if self.names[name].present.is_none() {
            assert_eq!(done, Err(Refusal::BlobNotFound));
            return;
        }
        done.expect("deletes");
        self.name(name).snapshots.clear();
        if snapshots == DeleteSnapshots::Include {
            self.replaced(name, None);
        }
    }

    fn expire(&mut self) {
        self.clock.advance(Duration::from_hours(24 * 8));
        self.store = None;
        self.reopen();
        // The first change after the opening looks for old blocks.
        self.create("c", BlobKind::Append);
        self.store().settle();
        for name in NAMES {
            self.name(name).staged.clear();
        }
    }

    fn check(&self) {
        let view = self.store().view().expect("a view");
        let mut listed = BTreeSet::new();
        for (name, entry) in &self.names {
            if let Some(state) = &entry.present {
                check_state(&view, name, None, state);
                listed.insert(((*name).to_owned(), false));
            } else {
                let missing = view.head(&blob(name), None).expect_err("is not there");
                assert!(matches!(missing, ReadError::Refused(Refusal::BlobNotFound)));
                if !entry.staged.is_empty() {
                    listed.insert(((*name).to_owned(), true));
                }
            }
            for (id, state) in &entry.snapshots {
                check_state(&view, name, Some(*id), state);
            }
            check_staged(&view, name, entry);
        }
        for max in [1000, 1] {
            assert_eq!(list(&view, max), listed);
        }
    }

    /// The data files hold nothing that nobody needs.
    fn check_room(&mut self) {
        self.store().settle();
        self.checkpoint();
        let mut wanted = 0;
        for entry in self.names.values() {
            let states = entry.snapshots.values().chain(&entry.present);
            let of = |state: &State| {
                let cut = len_of(state.blocks.len()) * 2 * CELL;
                cells(&state.content) + cut + CELL
            };
            wanted += states.map(of).sum::<u64>() + entry.retained;
            wanted += entry.staged.values().map(|data| cells(data)).sum::<u64>();
        }
        wanted += self.uploads.iter().map(|upload| cells(&upload.data)).sum::<u64>();
        // The copy that a crash leaves has no holes: cells with content are counted.
        let files = std::fs::read_dir(self.path().join("data")).expect("a folder");
        let used: u64 = files
            .map(|file| {
                let bytes = std::fs::read(file.expect("an entry").path()).expect("reads");
                let is_used = |cell: &&[u8]| cell.iter().any(|byte| *byte != 0);
                len_of(bytes.chunks(4096).filter(is_used).count()) * CELL
            })
            .sum();
        assert!(used <= wanted, "{used} bytes of {wanted}");
    }
}

fn block(content: Vec<u8>, blocks: Blocks) -> State {
    State { kind: BlobKind::Block, content, blocks, count: 0 }
}

fn block_id(id: &[u8]) -> BlockId {
    BlockId::new(id).expect("an id")
}

fn len(bytes: &[u8]) -> u64 {
    len_of(bytes.len())
}

fn len_of(len: usize) -> u64 {
    u64::try_from(len).expect("small")
}

fn cells(bytes: &[u8]) -> u64 {
    len(bytes).next_multiple_of(CELL)
}

fn check_state(view: &View, name: &str, id: Option<SnapshotId>, state: &State) {
    let head = view.head(&blob(name), id).expect("is there");
    assert_eq!((head.kind, head.size), (state.kind, len(&state.content)), "{name} {id:?}");
    let mut bytes = vec![1; state.content.len()];
    view.read(&head, 0, &mut bytes).expect("reads");
    let other = bytes.iter().zip(&state.content).position(|(found, wanted)| found != wanted);
    assert_eq!(other, None, "the first other byte of {name} {id:?}");
    for (from, to) in [(1, 5), (4000, 4200), (65_000, 66_000), (100_000, 260_000)] {
        let to = to.min(state.content.len());
        if from < to {
            let mut part = vec![1; to - from];
            view.read(&head, len_of(from), &mut part).expect("reads");
            assert!(part == state.content[from..to], "{from} to {to} of {name} {id:?}");
        }
    }
    match state.kind {
        BlobKind::Block => {
            let blocks = view.committed_blocks(&head).expect("blocks");
            let found: Vec<_> =
                blocks.iter().map(|block| (block.id.as_bytes().to_vec(), block.len)).collect();
            let wanted: Vec<_> =
                state.blocks.iter().map(|(id, data)| (id.clone(), len(data))).collect();
            assert_eq!(found, wanted, "{name} {id:?}");
        }
        BlobKind::Append => assert_eq!(head.sequence, state.count),
        BlobKind::Page => {}
    }
}

fn check_staged(view: &View, name: &str, entry: &Name) {
    let found = view.uncommitted_blocks(&blob(name));
    match entry.present.as_ref().map(|state| state.kind) {
        Some(BlobKind::Page | BlobKind::Append) => {
            let refused = found.expect_err("is of another kind");
            assert!(matches!(refused, ReadError::Refused(Refusal::InvalidBlobType)));
        }
        None if entry.staged.is_empty() => {
            let refused = found.expect_err("is not there");
            assert!(matches!(refused, ReadError::Refused(Refusal::BlobNotFound)));
        }
        _ => {
            let found: BTreeMap<Vec<u8>, u64> = found
                .expect("blocks")
                .into_iter()
                .map(|block| (block.id.as_bytes().to_vec(), block.len))
                .collect();
            let wanted: BTreeMap<Vec<u8>, u64> =
                entry.staged.iter().map(|(id, data)| (id.clone(), len(data))).collect();
            assert_eq!(found, wanted, "{name}");
        }
    }
}

fn list(view: &View, max: usize) -> BTreeSet<(String, bool)> {
    let mut all = Vec::new();
    let mut marker = None;
    loop {
        let query = ListQuery { uncommitted: true, max, marker, ..ListQuery::default() };
        let part = view.list(&container(), &query).expect("lists");
        all.extend(part.items.into_iter().map(|item| {
            let Item::Blob(head) = item else { panic!("no delimiter") };
            (head.name.clone(), head.is_uncommitted)
        }));
        marker = part.next;
        if marker.is_none() {
            break;
        }
    }
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    all.into_iter().collect()
}

fn run(seed: u64, steps: u64) {
    println!("STRONGROOM_SEED={seed}");
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step();
        if step % 4 == 3 {
            world.check();
        }
        if step % 50 == 49 {
            world.check_room();
        }
    }
    world.check();
    world.check_room();
    // Everything is given back when nothing is there.
    for upload in std::mem::take(&mut world.uploads) {
        let step = UploadStep::Abandon;
        let done = world.store().apply(Change::Upload { id: upload.id, step });
        assert_eq!(done.is_ok(), upload.is_good, "{done:?}");
    }
    for name in NAMES {
        if world.names[name].present.is_none() {
            world.put(name);
        }
        let snapshots = DeleteSnapshots::Include;
        world.apply(name, BlobChange::Delete { snapshot: None, snapshots });
    }
    world.store().settle();
    let left = std::fs::read_dir(world.path().join("data")).expect("a folder").count();
    assert_eq!(left, 0, "data files of seed {seed}");
}

#[test]
fn random_operations_on_blocks_agree_with_a_model() {
    if let Some(seed) = std::env::var_os("STRONGROOM_SEED") {
        let seed = seed.to_str().and_then(|seed| seed.parse().ok()).expect("a number");
        return run(seed, 300);
    }
    let is_long = std::env::var_os("STRONGROOM_LONG").is_some();
    for seed in 0..if is_long { 3000 } else { 12 } {
        run(seed, 300);
    }
}
