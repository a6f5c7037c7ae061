//! What the model disks hold: few different blocks, so that they meet again and again.
//!
//! A letter is a block; letters of one family differ in a few bytes, so that one is a good delta
//! against another. Compression is remembered, as it would take most of a run's time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, OnceLock},
};

use strongroom_base::{BLOCK_SIZE, Digest, lock};
use strongroom_format::{codec::Encoder, pack::RecordKind};
use strongroom_image::Hasher;

use crate::rng::Rng;

/// One of the possible blocks.
pub(crate) type Letter = u8;

/// The blocks of a disk that are not zero, by index.
pub(crate) type Disk = BTreeMap<u64, Letter>;

/// Bytes of every model disk: three leaves, the last one not full.
pub(crate) const DISK_SIZE: u64 = 2 * 16 * 1024 * 1024 + 10 * 65_536;

const FAMILIES: u8 = 8;
const MEMBERS: u8 = 4;

/// All letters.
pub(crate) const LETTERS: u8 = FAMILIES * MEMBERS;

/// Places that a disk's writes fall on, in three leaves.
pub(crate) const PLACES: [u64; 24] = [
    0, 1, 2, 3, 7, 8, 100, 101, 102, 254, 255, 256, 257, 300, 301, 302, 303, 400, 511, 512, 513,
    514, 515, 521,
];

/// All letters with their representations.
pub(crate) struct Alphabet {
    blocks: Vec<Vec<u8>>,
    /// By letter and base; none: not worth it.
    payloads: Mutex<HashMap<Which, Option<Payload>>>,
    /// Two letters as one frame.
    units: Mutex<Units>,
}

/// A letter, in full or as a delta against another.
type Which = (Letter, Option<Letter>);

/// Pairs of letters as one frame each, where that is worth it.
type Units = HashMap<(Letter, Letter), Option<Vec<u8>>>;

/// How a block is stored.
pub(crate) type Payload = (RecordKind, Vec<u8>);

impl Alphabet {
    /// The one alphabet.
    pub(crate) fn get() -> &'static Self {
        static ALPHABET: OnceLock<Alphabet> = OnceLock::new();
        ALPHABET.get_or_init(Self::new)
    }

    fn new() -> Self {
        let block = |letter: Letter| {
            let (family, member) = (letter / MEMBERS, letter % MEMBERS);
            let mut rng = Rng::new(u64::from(family));
            let pattern: Vec<u8> = (0..64).flat_map(|_| rng.next().to_le_bytes()).collect();
            let mut block: Vec<u8> = pattern.iter().copied().cycle().take(BLOCK_SIZE).collect();
            let start = usize::from(member).saturating_mul(7_000);
            if let Some(part) = block.get_mut(start..start.saturating_add(16)) {
                part.fill(member);
            }
            block
        };
        Self {
            blocks: (0..LETTERS).map(block).collect(),
            payloads: Mutex::default(),
            units: Mutex::default(),
        }
    }

    /// The bytes of a letter.
    pub(crate) fn block(&self, letter: Letter) -> &[u8] {
        self.blocks.get(usize::from(letter)).map_or(&[], Vec::as_slice)
    }

    /// The letter of a block's bytes.
    pub(crate) fn letter(&self, block: &[u8]) -> Option<Letter> {
        (0..LETTERS).find(|letter| self.block(*letter) == block)
    }

    /// A letter in full.
    pub(crate) fn full(&self, letter: Letter) -> Payload {
        let made = self.payload((letter, None), || {
            let mut encoder = Encoder::new();
            let (encoding, payload) = encoder.full(self.block(letter));
            Some((RecordKind::of_block(encoding), payload.to_vec()))
        });
        made.unwrap_or((RecordKind::BlockStored, self.block(letter).to_vec()))
    }

    /// Two letters as one frame, if that is worth it.
    pub(crate) fn unit(&self, first: Letter, second: Letter) -> Option<Vec<u8>> {
        let mut units = lock(&self.units);
        let make = || {
            let both = [self.block(first), self.block(second)].concat();
            Encoder::new().unit(&both).map(<[u8]>::to_vec)
        };
        units.entry((first, second)).or_insert_with(make).clone()
    }

    /// A letter as a delta against another, if that is small.
    pub(crate) fn delta(&self, letter: Letter, base: Letter) -> Option<Payload> {
        self.payload((letter, Some(base)), || {
            let mut encoder = Encoder::new();
            let delta = encoder.delta(self.block(letter), self.block(base), 256)?;
            Some((RecordKind::BlockDelta, delta.to_vec()))
        })
    }

    fn payload(&self, which: Which, make: impl FnOnce() -> Option<Payload>) -> Option<Payload> {
        let mut payloads = lock(&self.payloads);
        payloads.entry(which).or_insert_with(make).clone()
    }

    /// The digests of all letters in a vault.
    pub(crate) fn digests(&self, hasher: &Hasher) -> Vec<Digest> {
        self.blocks.iter().map(|block| hasher.block(block)).collect()
    }
}

/// Some seeded writes to a disk.
pub(crate) fn scribble(disk: &mut Disk, rng: &mut Rng) {
    let writes = rng.between(1, rng.clone().choose([2, 6, 14], 6));
    for _ in 0..writes {
        let place = rng.pick(&PLACES).copied().unwrap_or(0);
        let letter = u8::try_from(rng.below(u64::from(LETTERS))).unwrap_or(0);
        // A write often changes a block a little, sometimes altogether, sometimes to zeros.
        let new = match (rng.below(8), disk.get(&place).copied()) {
            (0, _) => None,
            (1..=4, Some(old)) => Some(old / MEMBERS * MEMBERS + letter % MEMBERS),
            _ => Some(letter),
        };
        match new {
            Some(new) => disk.insert(place, new),
            None => disk.remove(&place),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_differ_and_those_of_a_family_are_small_deltas() {
        let alphabet = Alphabet::get();
        for letter in 0..LETTERS {
            assert_eq!(alphabet.letter(alphabet.block(letter)), Some(letter));
        }
        assert!(alphabet.delta(1, 0).is_some());
        assert!(alphabet.delta(MEMBERS, 0).is_none());
        assert!(alphabet.full(5).1.len() < 1_500);
    }
}
