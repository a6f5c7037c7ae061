//! A small seeded generator of random numbers: the same seed gives the same data on every machine.

use strongroom_base::SplitMix64;

/// xoshiro256**, seeded through splitmix64. Good enough for test data, useless for secrets.
#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut seeds = SplitMix64::new(seed);
        Self(std::array::from_fn(|_| seeds.bits()))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `end`, or 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let product = u128::from(self.bits()) * u128::from(end);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// A number of `start..end`.
    pub fn between(&mut self, start: u64, end: u64) -> u64 {
        start + self.below(end.saturating_sub(start))
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A number below `end` that favours the small ones, as words and paths are used in life.
    pub fn skewed(&mut self, end: u64) -> u64 {
        let uniform = u128::from(self.bits() >> 32);
        u64::try_from((uniform * uniform * uniform * u128::from(end)) >> 96).unwrap_or(0)
    }

    /// A number around `centre` with about the given standard deviation, wrapped into `0..end`.
    pub fn around(&mut self, centre: u64, deviation: u64, end: u64) -> u64 {
        // The sum of twelve uniform numbers of 0..1 has variance 1 and mean 6.
        let spread: u64 = (0..12).map(|_| self.below(deviation.max(1))).sum();
        let shifted = centre + end.max(1) * 6 + spread;
        shifted.saturating_sub(6 * deviation) % end.max(1)
    }

    /// One of `choices`; the default of an empty slice.
    pub fn pick<T: Copy + Default>(&mut self, choices: &[T]) -> T {
        let len = u64::try_from(choices.len()).unwrap_or(0);
        let index = usize::try_from(self.below(len)).unwrap_or(0);
        choices.get(index).copied().unwrap_or_default()
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.bits().to_le_bytes();
            for (byte, random) in chunk.iter_mut().zip(random) {
                *byte = random;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn is_the_same_for_the_same_seed_and_stays_in_its_bounds() {
        let (mut one, mut same, mut other) = (Rng::new(7), Rng::new(7), Rng::new(8));
        assert_eq!(one.bits(), same.bits());
        assert_ne!(one.bits(), other.bits());
        for _ in 0..10_000 {
            assert!(one.below(10) < 10);
            assert!((3..9).contains(&one.between(3, 9)));
            assert!(one.skewed(1000) < 1000);
            assert!(one.around(5, 100, 1000) < 1000);
        }
        assert_eq!(one.below(0), 0);
    }

    #[test]
    fn skewed_favours_small_numbers_and_around_its_centre() {
        let mut rng = Rng::new(1);
        let small = (0..10_000).filter(|_| rng.skewed(1000) < 125).count();
        assert!((4_700..5_300).contains(&small), "{small}");
        let near = (0..10_000).filter(|_| rng.around(500, 20, 1000).abs_diff(500) <= 20).count();
        assert!((6_400..7_300).contains(&near), "{near}");
    }
}
