//! An overlay against a model, through losses of power at every moment.

use std::{collections::BTreeSet, fs, os::unix::fs::FileExt as _};

use strongroom_base::{Digest, PointId, RangeSet, SplitMix64, SystemEntropy, VaultId};
use strongroom_disk::{DiskError, Extent};

use super::*;

const SIZE: u64 = 40 * CLUSTER + 1024;
const SECTOR_LEN: u64 = 512;

/// A disk with a pattern, and a hole in it.
struct Base;

fn pattern(sector: u64) -> u8 {
    u8::try_from(sector % 200 + 50).expect("small")
}

impl DiskSource for Base {
    fn size(&self) -> u64 {
        SIZE
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        // The second half of it, as if it were a hole, in two answers.
        let middle = (SIZE / 2).clamp(range.offset(), range.end());
        let first = ByteRange::between(range.offset(), middle);
        let rest = ByteRange::between(middle, range.end());
        let extent = |range, kind| Extent { range, kind };
        Ok(if first.is_empty() {
            vec![extent(rest, ExtentKind::Zero)]
        } else {
            vec![extent(first, ExtentKind::Data)]
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        for (at, byte) in (offset..).zip(buf) {
            *byte = if at < SIZE / 2 { pattern(at / SECTOR_LEN) } else { 0 };
        }
        Ok(())
    }

    fn changed(&self) -> Option<&RangeSet> {
        None
    }

    fn format(&self) -> &'static str {
        "raw"
    }
}

fn of() -> OverlayOf {
    OverlayOf {
        vault: VaultId::from_bytes([1; 16]),
        point: PointId::from_bytes([2; 16]),
        disk: "vda".to_owned(),
        root: Digest::new([3; 32]),
        size: SIZE,
    }
}

fn open(dir: &Path) -> Result<Overlay, OverlayError> {
    Overlay::open(dir, &of(), Arc::new(Base), &SystemEntropy)
}

/// In memory: a test of many syncs would mostly wait for a disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// What was done to one of two files.
#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    SetLen(u64),
    Sync,
}

type Ops = Arc<Mutex<Vec<(usize, Op)>>>;

/// A file that remembers what was done to it.
struct Recorded {
    number: usize,
    now: Mutex<Vec<u8>>,
    ops: Ops,
}

fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(offset, data) => {
            let (start, end) = (within(*offset), within(*offset) + data.len());
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(data);
        }
        Op::Punch(offset, len) => {
            let end = within(offset + len).min(bytes.len());
            bytes[within(*offset)..end].fill(0);
        }
        Op::SetLen(len) => bytes.resize(within(*len), 0),
        Op::Sync => {}
    }
}

impl Recorded {
    fn add(&self, op: Op) {
        apply(&mut lock(&self.now), &op);
        lock(&self.ops).push((self.number, op));
    }
}

impl Bytes for Recorded {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(lock(&self.now).len()).expect("small"))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = within(offset);
        buf.copy_from_slice(&lock(&self.now)[start..start + buf.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.add(Op::Write(offset, data.to_vec()));
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.add(Op::Punch(offset, len));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.add(Op::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.add(Op::Sync);
        Ok(())
    }
}

fn in_memory(files: [Vec<u8>; 2], ops: &Ops) -> Result<Overlay, OverlayError> {
    let [map, data] = files;
    let file =
        |number, bytes| Box::new(Recorded { number, now: Mutex::new(bytes), ops: Arc::clone(ops) });
    let name = Path::new("vda.map");
    Overlay::from_files(file(0, map), file(1, data), &of(), Arc::new(Base), name)
}

fn fresh() -> [Vec<u8>; 2] {
    let data = within(SIZE.div_ceil(CLUSTER) * CLUSTER);
    [encode_header([9; 16], &of()), vec![0; data]]
}

/// What each sector may hold, by the first byte of it: all bytes of a sector are equal in this test.
struct Model {
    /// At the last flush that was answered, and everything since.
    may: Vec<BTreeSet<u8>>,
    now: Vec<u8>,
}

impl Model {
    fn new() -> Self {
        let mut bytes = vec![0; within(SIZE)];
        Base.read_at(0, &mut bytes).expect("is read");
        let now: Vec<u8> = bytes.iter().copied().step_by(512).collect();
        Self { may: now.iter().map(|byte| BTreeSet::from([*byte])).collect(), now }
    }

    fn set(&mut self, sectors: Range<u64>, byte: u8) {
        for sector in sectors {
            let sector = within(sector);
            self.now[sector] = byte;
            self.may[sector].insert(byte);
        }
    }

    fn flushed(&mut self) {
        for (may, now) in self.may.iter_mut().zip(&self.now) {
            *may = BTreeSet::from([*now]);
        }
    }
}

/// Does something to the overlay, and to the model.
fn step(overlay: &Overlay, model: &mut Model, random: &mut SplitMix64, number: u8) {
    let sectors = SIZE / SECTOR_LEN;
    let first = random.below(sectors);
    let count = (1 + random.below(40)).min(sectors - first);
    let (offset, len) = (first * SECTOR_LEN, count * SECTOR_LEN);
    match random.below(10) {
        0..5 => {
            model.set(first..first + count, number);
            overlay.write(offset, &vec![number; within(len)]).expect("is written");
        }
        kind @ (5 | 6) => {
            model.set(first..first + count, 0);
            overlay.zero(offset, len, kind == 5).expect("is cleared");
        }
        7 => {
            // Whole clusters alone are cleared.
            let [_, whole, _] = overlay.split(offset, len);
            model.set(whole.start / SECTOR_LEN..whole.end / SECTOR_LEN, 0);
            overlay.trim(offset, len).expect("is trimmed");
        }
        _ => {
            overlay.flush().expect("is flushed");
            model.flushed();
        }
    }
}

fn content(overlay: &Overlay) -> Vec<u8> {
    let mut bytes = vec![0; within(SIZE)];
    overlay.read(0, &mut bytes).expect("is read");
    bytes.chunks(512).for_each(|sector| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
    });
    bytes.into_iter().step_by(512).collect()
}

/// The files after a loss of power: what was synced, and of the rest sectors by chance.
fn after_crash(ops: &[(usize, Op)], random: &mut SplitMix64) -> [Vec<u8>; 2] {
    let mut files = fresh();
    for (number, file) in files.iter_mut().enumerate() {
        let own: Vec<&Op> = ops.iter().filter(|(it, _)| *it == number).map(|(_, op)| op).collect();
        let synced = own.iter().rposition(|op| matches!(op, Op::Sync)).unwrap_or(0);
        let luck = random.below(3);
        for (place, op) in own.into_iter().enumerate() {
            if place <= synced || luck == 0 {
                apply(file, op);
                continue;
            }
            match op {
                Op::Write(offset, data) => {
                    for (sector, part) in (0..).zip(data.chunks(512)) {
                        if luck == 1 && random.below(2) == 0 {
                            apply(file, &Op::Write(offset + sector * 512, part.to_vec()));
                        }
                    }
                }
                op if luck == 1 && random.below(2) == 0 => apply(file, op),
                _ => {}
            }
        }
    }
    files
}

#[test]
fn after_every_prefix_of_writes_flushed_bytes_are_there() {
    for seed in 0..12 {
        let mut random = SplitMix64::new(seed);
        let ops = Ops::default();
        let overlay = in_memory(fresh(), &ops).expect("is made");
        let mut model = Model::new();
        let mut states = Vec::new();
        for number in 0..60 {
            let before: Vec<_> = model.may.clone();
            let was = lock(&ops).len();
            step(&overlay, &mut model, &mut random, number % 50);
            // While a step runs, each sector may hold what it could before, and after.
            let both: Vec<BTreeSet<u8>> =
                before.iter().zip(&model.may).map(|(a, b)| a | b).collect();
            let is_last = lock(&ops).len();
            states.extend((was..is_last).map(|_| both.clone()));
            assert_eq!(content(&overlay), model.now);
        }
        let ops = std::mem::take(&mut *lock(&ops));
        for cut in 0..states.len() {
            for _ in 0..3 {
                let files = after_crash(&ops[..cut], &mut random);
                let again = in_memory(files, &Ops::default()).expect("opens again");
                let may = cut.checked_sub(1).map(|last| &states[last]);
                for (sector, byte) in content(&again).into_iter().enumerate() {
                    let allowed = may.is_none_or(|may| may[sector].contains(&byte));
                    assert!(allowed, "seed {seed}, cut {cut}, sector {sector}: {byte}");
                }
            }
        }
    }
}

#[test]
fn it_is_as_its_model_through_openings_and_says_where_data_is() {
    let dir = folder();
    let mut model = Model::new();
    let mut random = SplitMix64::new(77);
    for round in 0..20 {
        let overlay = open(dir.path()).expect("opens");
        assert_eq!(content(&overlay), model.now, "round {round}");
        for number in 0..30 {
            step(&overlay, &mut model, &mut random, number + 1);
        }
        overlay.flush().expect("is flushed");
        let mut at = 0;
        while at < SIZE {
            for stretch in overlay.allocation(at, SIZE - at).expect("is known") {
                let end = at + stretch.len;
                let is_zero = (at..end).all(|byte| model.now[within(byte / SECTOR_LEN)] == 0);
                assert!(is_zero || !stretch.is_hole, "{at}..{end} is no hole");
                at = end;
            }
        }
        assert_eq!(at, SIZE);
    }
    let overlay = open(dir.path()).expect("opens");
    assert!(overlay.own_bytes() > 0 && overlay.dropped_bytes() == 0);
}

#[test]
fn only_its_own_point_opens_it_and_one_process_at_a_time() {
    let dir = folder();
    let overlay = open(dir.path()).expect("is made");
    let error = open(dir.path()).err().expect("in use");
    assert_eq!(error.code().name, "export.overlay_in_use");
    drop(overlay);
    let other = OverlayOf { point: PointId::from_bytes([5; 16]), ..of() };
    let error = Overlay::open(dir.path(), &other, Arc::new(Base), &SystemEntropy);
    assert_eq!(error.err().expect("another point").code().name, "export.overlay_other");
    fs::remove_file(dir.path().join("vda.data")).expect("removed");
    let error = open(dir.path()).err().expect("no data");
    assert_eq!(error.code().name, "export.overlay_damaged");
}

#[test]
fn a_torn_tail_is_dropped_and_damage_before_it_refused() {
    let dir = folder();
    let overlay = open(dir.path()).expect("is made");
    for number in 1..4 {
        overlay.write(u64::from(number) * CLUSTER, &[number; 4096]).expect("is written");
        overlay.flush().expect("is flushed");
    }
    drop(overlay);
    let path = dir.path().join("vda.map");
    let good = fs::read(&path).expect("a map");
    assert_eq!(good.len(), 512 * 4);
    // Every byte of the last batch may be the one that is missing.
    for len in 512 * 3 + 1..512 * 4 {
        fs::write(&path, &good[..len]).expect("written");
        let overlay = open(dir.path()).expect("opens");
        assert_eq!(overlay.dropped_bytes(), u64::try_from(len).expect("small") - 512 * 3);
        let states = lock(&overlay.map);
        assert_eq!((states.state(2), states.state(3)), (State::Data, State::Point));
    }
    for at in [600, 512 * 2 + 20] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).expect("written");
        let error = open(dir.path()).err().expect("damaged");
        assert_eq!(error.code().name, "export.overlay_damaged", "{at}");
    }
    for at in 0..512 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).expect("written");
        assert!(open(dir.path()).is_err(), "byte {at} of the header");
    }
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let ops = Ops::default();
    let overlay = in_memory(fresh(), &ops).expect("is made");
    overlay.write(CLUSTER, &[1; 8192]).expect("is written");
    overlay.zero(CLUSTER * 8, CLUSTER * 4, true).expect("is cleared");
    overlay.flush().expect("is flushed");
    let [mut map, mut data] = fresh();
    for (number, op) in &*lock(&ops) {
        apply(if *number == 0 { &mut map } else { &mut data }, op);
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/overlay-1.map");
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        fs::write(&golden, &map).expect("written");
    }
    assert!(fs::read(golden).expect("a golden file") == map);
    assert_eq!(&map[512..516], b"BTCH");
    assert_eq!(
        map[528..544],
        [&1_u64.to_le_bytes()[..], &(2 | 1_u64 << 56).to_le_bytes()].concat()
    );
}

/// A file whose syncs fail on demand.
struct Failing(File, Arc<AtomicBool>);

impl Bytes for Failing {
    fn len(&self) -> io::Result<u64> {
        Bytes::len(&self.0)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(&self.0, len)
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) { Err(io::Error::other("no")) } else { Ok(()) }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_promised_any_more() {
    let dir = folder();
    drop(open(dir.path()).expect("is made"));
    let fails = Arc::new(AtomicBool::new(false));
    let file = |name: &str| {
        let path = dir.path().join(name);
        let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
        Box::new(Failing(file, Arc::clone(&fails)))
    };
    let name = Path::new("vda.map");
    let files = (file("vda.map"), file("vda.data"));
    let overlay =
        Overlay::from_files(files.0, files.1, &of(), Arc::new(Base), name).expect("opens");
    overlay.write(0, &[7; 4096]).expect("is written");
    overlay.flush().expect("is flushed");
    overlay.write(0, &[8; 4096]).expect("is written");
    fails.store(true, Ordering::SeqCst);
    assert!(overlay.flush().is_err());
    fails.store(false, Ordering::SeqCst);
    assert!(overlay.flush().is_err(), "the kernel may have dropped the bytes");
    assert!(overlay.write(0, &[9; 4096]).is_err());
}
