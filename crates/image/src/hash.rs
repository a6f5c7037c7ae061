//! Digests of blocks and nodes.

use strongroom_base::{BLOCK_SIZE, Digest};
use zeroize::ZeroizeOnDrop;

/// Computes digests: BLAKE3 keyed per vault, with one key for blocks and another for nodes, so that
/// a block whose bytes happen to encode a node never has that node's digest.
///
/// A keyed hash that is all zero would read as a hole. That has a chance of 2⁻²⁵⁶ a block, far below
/// any hardware's, and is not checked for.
///
/// The keys are overwritten when it is dropped, never printed, and there is one of them: it is not `Clone`.
#[derive(ZeroizeOnDrop)]
pub struct Hasher {
    block_key: [u8; 32],
    node_key: [u8; 32],
}

/// What follows the data of a short block.
static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

impl Hasher {
    /// A hasher with the two keys of a vault.
    pub const fn new(block_key: &[u8; 32], node_key: &[u8; 32]) -> Self {
        Self { block_key: *block_key, node_key: *node_key }
    }

    /// The digest of a block of at most 64 KiB; a shorter one is hashed as if zeros followed it.
    /// All zeros are [`Digest::HOLE`].
    pub fn block(&self, data: &[u8]) -> Digest {
        debug_assert!(data.len() <= BLOCK_SIZE, "a block of {} bytes", data.len());
        if is_zero(data) {
            return Digest::HOLE;
        }
        let padding = ZEROS.get(data.len()..).unwrap_or_default();
        let hash = if padding.is_empty() {
            blake3::keyed_hash(&self.block_key, data)
        } else {
            blake3::Hasher::new_keyed(&self.block_key).update(data).update(padding).finalize()
        };
        Digest::new(hash.into())
    }

    /// The digest of a node, from its encoding ([`Node::encode`](crate::Node::encode)).
    ///
    /// A reader of a node from a store compares this with the digest asked for.
    pub fn node(&self, encoded: &[u8]) -> Digest {
        Digest::new(blake3::keyed_hash(&self.node_key, encoded).into())
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

/// Whether all bytes are zero; true for no bytes.
///
/// Runs on every byte of a disk that is read, so its inner loop has no branch and is vectorised.
pub fn is_zero(data: &[u8]) -> bool {
    let (chunks, rest) = data.as_chunks::<512>();
    chunks.iter().all(|chunk| {
        let (words, _) = chunk.as_chunks::<8>();
        words.iter().fold(0, |any, word| any | u64::from_ne_bytes(*word)) == 0
    }) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static HASHER: Hasher = Hasher::new(&[1; 32], &[2; 32]);

    #[test]
    fn zeros_are_holes_and_short_blocks_are_padded() {
        for len in [0, 1, 512, BLOCK_SIZE] {
            assert_eq!(HASHER.block(&vec![0; len]), Digest::HOLE);
        }
        let mut block = vec![0; BLOCK_SIZE];
        block[..700].fill(9);
        let whole = HASHER.block(&block);
        for len in [700, 1024, BLOCK_SIZE - 1] {
            assert_eq!(HASHER.block(&block[..len]), whole);
        }
        assert_ne!(HASHER.block(&block[..699]), whole);
    }

    #[test]
    fn keys_decide_the_digest_and_stay_out_of_debug_output() {
        let data = [5; 100];
        assert_ne!(HASHER.block(&data), Hasher::new(&[3; 32], &[2; 32]).block(&data));
        assert_eq!(HASHER.block(&data), Hasher::new(&[1; 32], &[3; 32]).block(&data));
        assert_ne!(HASHER.node(&data), Hasher::new(&[1; 32], &[3; 32]).node(&data));
        let mut padded = vec![5; 100];
        padded.resize(BLOCK_SIZE, 0);
        assert_ne!(HASHER.block(&padded), HASHER.node(&padded));
        assert_eq!(format!("{HASHER:?}"), "Hasher { .. }");
    }

    /// What is overwritten when it is dropped, by the compiler's word.
    const fn is_wiped<T: ZeroizeOnDrop>() {}

    struct Type<T>(std::marker::PhantomData<T>);

    /// What holds of a type that is not [`Clone`].
    trait Single {
        const IS_CLONE: bool = false;
    }

    impl<T> Single for Type<T> {}

    impl<T: Clone> Type<T> {
        const IS_CLONE: bool = true;
    }

    #[test]
    fn keys_are_wiped_and_there_is_one_of_them() {
        const { is_wiped::<Hasher>() };
        const { assert!(!Type::<Hasher>::IS_CLONE && Type::<Digest>::IS_CLONE) };
    }

    /// These bytes are part of the format: a change would make every vault unreadable.
    #[test]
    fn digests_are_keyed_blake3() {
        let block = vec![7; BLOCK_SIZE];
        let want = blake3::Hasher::new_keyed(&[1; 32]).update(&block).finalize();
        assert_eq!(HASHER.block(&block).as_bytes(), want.as_bytes());
        let want = blake3::Hasher::new_keyed(&[2; 32]).update(b"node").finalize();
        assert_eq!(HASHER.node(b"node").as_bytes(), want.as_bytes());
    }

    proptest! {
        #[test]
        fn one_bit_anywhere_is_not_zero(len in 1_usize..3000, at in 0_usize..3000, bit in 0_u32..8, skip in 0_usize..64) {
            let mut data = vec![0; len + skip];
            prop_assert!(is_zero(&data[skip..]));
            data[skip + at % len] = 1 << bit;
            prop_assert!(!is_zero(&data[skip..]));
        }
    }
}
