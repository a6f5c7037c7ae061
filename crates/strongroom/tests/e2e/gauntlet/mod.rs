//! The gauntlet: everything that a bad day has, at random but from a seed, in great number: kills, rot, full
//! disks, errors of system calls, hostile images, callers without a token. What it counts is printed; what must
//! be nought is asserted.
//!
//! `scripts/gauntlet` runs it alone and shows its figures. `STRONGROOM_LONG=1` makes it long, and
//! `STRONGROOM_GAUNTLET_SEED` begins another one.

use std::io::Write as _;

use strongroom_base::SplitMix64;

mod disks;
mod errors;
mod images;
mod kills;
mod rot;
mod strangers;
mod world;

/// Prints what a part of the gauntlet has counted, which `scripts/gauntlet` looks for.
fn figures(text: &str) {
    writeln!(std::io::stdout(), "gauntlet: {text}").expect("standard output");
}

/// How much of something is done: little in every run of the tests, much in a long one.
fn many(short: u64, long: u64) -> u64 {
    if std::env::var_os("STRONGROOM_LONG").is_some() { long } else { short }
}

/// The seed of this run.
fn seed() -> u64 {
    let seed = std::env::var("STRONGROOM_GAUNTLET_SEED").unwrap_or_else(|_| "1".to_owned());
    seed.parse().expect("STRONGROOM_GAUNTLET_SEED is a number")
}

/// Every decision of the gauntlet is one of these numbers.
pub(super) struct Chance(SplitMix64);

impl Chance {
    /// The decisions of one part of the gauntlet.
    fn new(part: u64) -> Self {
        Self(SplitMix64::new(seed().wrapping_mul(0x2545_f491_4f6c_dd1d) ^ part))
    }

    fn next(&mut self) -> u64 {
        self.0.bits()
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// An index of something of this length.
    fn index(&mut self, length: usize) -> usize {
        let below = self.below(u64::try_from(length).expect("fits"));
        usize::try_from(below).expect("fits")
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of some things.
    fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.index(things.len())]
    }

    /// So many bytes that do not compress.
    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).map(|_| self.next());
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(usize::try_from(length).expect("fits"));
        bytes
    }
}
