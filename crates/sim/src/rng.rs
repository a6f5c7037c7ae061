//! Seeded chance: every decision of a run comes from here.

use std::sync::Mutex;

use strongroom_base::{Entropy, SplitMix64, lock};

/// A small generator: the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Rng(SplitMix64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.bits()
    }

    /// A number below `n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next().checked_rem(n).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// True once in `n` times on average; never if `n` is 0.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// One of some things; none if there are none.
    pub(crate) fn pick<'a, T>(&mut self, things: &'a [T]) -> Option<&'a T> {
        let at = self.below(u64::try_from(things.len()).unwrap_or(u64::MAX));
        things.get(usize::try_from(at).unwrap_or(0))
    }

    /// One of some values.
    pub(crate) fn choose<T: Copy, const N: usize>(&mut self, values: [T; N], default: T) -> T {
        self.pick(&values).copied().unwrap_or(default)
    }
}

/// Seeded bytes where the product asks for unpredictable ones.
pub(crate) struct SimEntropy(Mutex<Rng>);

impl SimEntropy {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Rng::new(seed)))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rng = lock(&self.0);
        for part in bytes.chunks_mut(8) {
            let word = rng.next().to_le_bytes();
            part.copy_from_slice(word.get(..part.len()).unwrap_or(&word));
        }
    }
}
