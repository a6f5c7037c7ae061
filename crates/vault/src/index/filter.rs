//! A filter that says of most unknown digests at once that they are unknown.

use strongroom_base::Digest;

/// A blocked Bloom filter: every digest touches one 64-byte line of memory.
///
/// 12 bits a digest give about 0.5 % false positives: 45 MB of memory for the 30 million blocks
/// of 1 TB stored. Digests are uniformly distributed, so their own bytes serve as hashes.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    words: Vec<u64>,
}

const WORDS_A_LINE: usize = 8;
const PROBES: u32 = 6;

impl Filter {
    /// A filter for this number of digests.
    pub(crate) fn with_capacity(digests: usize) -> Self {
        let lines = digests.saturating_mul(12).div_ceil(64 * WORDS_A_LINE).max(1);
        Self { words: vec![0; lines.saturating_mul(WORDS_A_LINE)] }
    }

    /// A filter from what [`Self::words`] gave.
    pub(crate) fn from_words(words: Vec<u64>) -> Option<Self> {
        (!words.is_empty() && words.len().is_multiple_of(WORDS_A_LINE)).then_some(Self { words })
    }

    /// Its memory, for a file.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The line, and the bits within it, of a digest.
    fn place(&self, digest: &Digest) -> (usize, u64) {
        // The line by the first bytes: segments are written and marked in the order of their digests, so
        // that the filter is gone through from one end to the other.
        let line = digest.prefix();
        let (_, rest) = digest.as_bytes().split_at(8);
        let bits = rest.first_chunk().map_or(0, |bits| u64::from_le_bytes(*bits));
        let lines = self.words.len().checked_div(WORDS_A_LINE).unwrap_or(1);
        let lines = u128::try_from(lines).unwrap_or(1);
        let line = (u128::from(line).saturating_mul(lines)) >> 64;
        (usize::try_from(line).unwrap_or(0).saturating_mul(WORDS_A_LINE), bits)
    }

    /// The word within the line and the mask of each probe: nine bits of the digest a probe.
    fn probes(bits: u64) -> impl Iterator<Item = (usize, u64)> {
        (0..PROBES).map(move |probe| {
            let nine = (bits >> probe.saturating_mul(9)) & 511;
            (usize::try_from(nine >> 6).unwrap_or(0), 1_u64 << (nine & 63))
        })
    }

    /// Adds a digest.
    pub(crate) fn insert(&mut self, digest: &Digest) {
        let (start, bits) = self.place(digest);
        if let Some(line) = self.words.get_mut(start..start.saturating_add(WORDS_A_LINE)) {
            for (word, mask) in Self::probes(bits) {
                if let Some(word) = line.get_mut(word) {
                    *word |= mask;
                }
            }
        }
    }

    /// False if the digest was certainly never added.
    pub(crate) fn may_contain(&self, digest: &Digest) -> bool {
        let (start, bits) = self.place(digest);
        self.words.get(start..start.saturating_add(WORDS_A_LINE)).is_some_and(|line| {
            Self::probes(bits).all(|(word, mask)| line.get(word).is_some_and(|w| w & mask != 0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        Digest::new(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    #[test]
    fn knows_all_it_was_given_and_little_else() {
        let mut filter = Filter::with_capacity(100_000);
        (0..100_000).for_each(|n| filter.insert(&digest(n)));
        assert!((0..100_000).all(|n| filter.may_contain(&digest(n))));
        let wrong = (100_000..200_000).filter(|n| filter.may_contain(&digest(*n))).count();
        assert!(wrong < 1500, "{wrong} false positives in 100,000");
        let again = Filter::from_words(filter.words().to_vec()).expect("whole lines");
        assert!((0..100_000).all(|n| again.may_contain(&digest(n))));
    }
}
