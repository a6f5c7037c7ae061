//! Tree nodes and their encoding.

use std::fmt;

use strongroom_base::{Code, Coded, Digest, FANOUT, Params, codes, params};

/// 256 child digests: of blocks in a leaf, of nodes in every other node.
///
/// Encoding: a bitmap of 32 bytes (child `i` is present if bit `i % 8`, counted from the lowest, of
/// byte `i / 8` is set), then the 32-byte digests of the present children in order. Holes are the
/// children that are not present. Each node has one encoding, and an encoding one node; a node of
/// holes only has none, because its own digest is a hole and it is never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    children: Box<[Digest; FANOUT]>,
    /// Bit `i % 64` of word `i / 64` is set if child `i` is not a hole.
    present: [u64; 4],
}

/// Bytes of the bitmap that an encoding starts with.
const BITMAP_LEN: usize = FANOUT / 8;

/// Bytes of a digest.
const DIGEST_LEN: usize = 32;

/// Why bytes are not the encoding of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short for the bitmap, or not as long as the bitmap says.
    #[error("a tree node has {len} bytes instead of {want}")]
    Length {
        /// Bytes given.
        len: usize,
        /// Bytes wanted: the shortest possible node, or what the bitmap calls for.
        want: usize,
    },
    /// No child is present: such a node is a hole and never stored.
    #[error("a tree node has no children")]
    Empty,
    /// A child is listed as present but is a hole.
    #[error("a tree node lists its child {slot} as present although it is a hole")]
    PresentHole {
        /// Which child.
        slot: u8,
    },
}

impl Coded for DecodeError {
    fn code(&self) -> &'static Code {
        &codes::STORE_CORRUPT
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Length { len, want } => params!(STORE_CORRUPT: len, want),
            Self::PresentHole { slot } => params!(STORE_CORRUPT: slot),
            Self::Empty => Params::none(),
        }
    }
}

impl Node {
    /// A node of holes.
    pub fn empty() -> Self {
        Self { children: Box::new([Digest::HOLE; FANOUT]), present: [0; 4] }
    }

    /// Child `slot`; [`Digest::HOLE`] if it is not present.
    pub fn get(&self, slot: u8) -> Digest {
        self.children.get(usize::from(slot)).copied().unwrap_or(Digest::HOLE)
    }

    /// Replaces child `slot`.
    pub fn set(&mut self, slot: u8, digest: Digest) {
        if let Some(child) = self.children.get_mut(usize::from(slot)) {
            *child = digest;
        }
        if let Some(word) = self.present.get_mut(usize::from(slot / 64)) {
            let bit = 1 << (slot % 64);
            *word = if digest.is_hole() { *word & !bit } else { *word | bit };
        }
    }

    /// Whether all children are holes.
    pub fn is_empty(&self) -> bool {
        self.present == [0; 4]
    }

    /// How many children are not holes.
    pub fn count(&self) -> usize {
        self.slots().count()
    }

    /// The children that are not holes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Digest)> + '_ {
        self.slots().map(|slot| (slot, self.get(slot)))
    }

    /// The first child at or after `from` that is not a hole.
    pub fn next_present(&self, from: usize) -> Option<u8> {
        let first = self.present.get(from / 64)? & (u64::MAX << (from % 64));
        let later = self.present.iter().copied().skip(from / 64 + 1);
        let mut base = from / 64 * 64;
        for word in std::iter::once(first).chain(later) {
            if word != 0 {
                let bit = usize::try_from(word.trailing_zeros()).ok()?;
                return u8::try_from(base + bit).ok();
            }
            base += 64;
        }
        None
    }

    /// The last child that is not a hole.
    pub(crate) fn last_present(&self) -> Option<u8> {
        self.slots().last()
    }

    /// Makes holes of child `from` and all after it; whether that changed anything.
    pub(crate) fn clear_from(&mut self, from: usize) -> bool {
        let mut changed = false;
        while let Some(slot) = self.next_present(from) {
            self.set(slot, Digest::HOLE);
            changed = true;
        }
        changed
    }

    fn slots(&self) -> impl Iterator<Item = u8> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let slot = self.next_present(from)?;
            from = usize::from(slot) + 1;
            Some(slot)
        })
    }

    /// The node's bytes. A node of holes only must not be encoded: it is never stored, and
    /// [`decode`](Self::decode) refuses it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BITMAP_LEN + self.count() * DIGEST_LEN);
        self.encode_into(&mut bytes);
        bytes
    }

    /// As [`encode`](Self::encode), replacing what is in `bytes` and reusing its memory.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        for word in self.present {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for (_, child) in self.iter() {
            bytes.extend_from_slice(child.as_bytes());
        }
    }

    /// Reads what [`encode`](Self::encode) has written. Takes any bytes, also hostile ones: every
    /// accepted input is exactly the encoding of the returned node.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let shortest = BITMAP_LEN + DIGEST_LEN;
        let (bitmap, digests) = bytes
            .split_first_chunk::<BITMAP_LEN>()
            .ok_or(DecodeError::Length { len: bytes.len(), want: shortest })?;
        let mut node = Self::empty();
        for (word, bytes) in node.present.iter_mut().zip(bitmap.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        if node.is_empty() {
            return Err(DecodeError::Empty);
        }
        let want = BITMAP_LEN + node.count() * DIGEST_LEN;
        let (digests, rest) = digests.as_chunks::<DIGEST_LEN>();
        if bytes.len() != want || !rest.is_empty() {
            return Err(DecodeError::Length { len: bytes.len(), want });
        }
        let slots: Vec<u8> = node.slots().collect();
        for (slot, digest) in slots.into_iter().zip(digests) {
            let digest = Digest::new(*digest);
            if digest.is_hole() {
                return Err(DecodeError::PresentHole { slot });
            }
            node.set(slot, digest);
        }
        Ok(node)
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn digest() -> impl Strategy<Value = Digest> {
        any::<[u8; 32]>().prop_map(Digest::new)
    }

    fn children() -> impl Strategy<Value = BTreeMap<u8, Digest>> {
        prop::collection::btree_map(any::<u8>(), digest(), 1..257)
    }

    fn node_of(children: &BTreeMap<u8, Digest>) -> Node {
        let mut node = Node::empty();
        for (slot, digest) in children {
            node.set(*slot, *digest);
        }
        node
    }

    proptest! {
        #[test]
        fn encoding_round_trips(children in children(), cleared in prop::collection::vec(any::<u8>(), 0..20), from in 0_usize..300) {
            let mut model = children.clone();
            let mut node = node_of(&children);
            for slot in cleared {
                model.remove(&slot);
                node.set(slot, Digest::HOLE);
            }
            prop_assert_eq!(node.iter().collect::<BTreeMap<_, _>>(), model.clone());
            prop_assert_eq!(node.count(), model.len());
            prop_assert_eq!(node.is_empty(), model.is_empty());
            prop_assert_eq!(node.last_present(), model.keys().next_back().copied());
            prop_assert_eq!(node.next_present(from), model.keys().copied().find(|slot| usize::from(*slot) >= from));
            let encoded = node.encode();
            prop_assert_eq!(encoded.len(), 32 + 32 * model.len());
            if model.is_empty() {
                prop_assert_eq!(Node::decode(&encoded), Err(DecodeError::Empty));
            } else {
                prop_assert_eq!(Node::decode(&encoded), Ok(node.clone()));
            }
            let changed = node.clear_from(from);
            prop_assert_eq!(changed, model.keys().any(|slot| usize::from(*slot) >= from));
            model.retain(|slot, _| usize::from(*slot) < from);
            prop_assert_eq!(node, node_of(&model));
        }

        #[test]
        fn any_bytes_are_refused_or_the_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(node) = Node::decode(&bytes) {
                prop_assert_eq!(node.encode(), bytes);
            }
        }

        #[test]
        fn damaged_encodings_are_refused_or_another_node(children in children(), at in any::<prop::sample::Index>(), value in any::<u8>(), len in any::<prop::sample::Index>()) {
            let node = node_of(&children);
            let mut bytes = node.encode();
            prop_assert!(Node::decode(&bytes[..len.index(bytes.len())]).is_err());
            let at = at.index(bytes.len());
            let same = bytes[at] == value;
            bytes[at] = value;
            if let Ok(other) = Node::decode(&bytes) {
                prop_assert_eq!(other == node, same);
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let one = |bitmap: u8, digests: &[u8]| {
            let mut bytes = vec![0; 32];
            bytes[1] = bitmap;
            bytes.extend_from_slice(digests);
            Node::decode(&bytes)
        };
        assert_eq!(Node::decode(&[]), Err(DecodeError::Length { len: 0, want: 64 }));
        assert_eq!(one(0, &[]), Err(DecodeError::Empty));
        assert_eq!(one(0, &[1; 32]), Err(DecodeError::Empty));
        assert_eq!(one(4, &[]), Err(DecodeError::Length { len: 32, want: 64 }));
        assert_eq!(one(4, &[1; 33]), Err(DecodeError::Length { len: 65, want: 64 }));
        assert_eq!(one(4, &[1; 64]), Err(DecodeError::Length { len: 96, want: 64 }));
        assert_eq!(one(4, &[0; 32]), Err(DecodeError::PresentHole { slot: 10 }));
        let node = one(4, &[1; 32]).expect("decodes");
        assert_eq!(node.iter().collect::<Vec<_>>(), [(10, Digest::new([1; 32]))]);
        assert_eq!(one(4, &[0; 32]).expect_err("refused").code().name, "store.corrupt");
    }

    #[test]
    fn a_full_node_is_the_longest() {
        let mut node = Node::empty();
        (0..=255).for_each(|slot| node.set(slot, Digest::new([1; 32])));
        assert_eq!(node.encode().len(), BITMAP_LEN + FANOUT * DIGEST_LEN);
        assert_eq!(Node::decode(&node.encode()), Ok(node));
    }
}
