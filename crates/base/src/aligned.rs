//! Memory that the kernel can read and write without its page cache.

use std::ops::{Deref, DerefMut};

/// A byte buffer whose first byte lies on a 4 KiB boundary, as `O_DIRECT` wants it.
///
/// It never moves or grows beyond the capacity it was made with.
#[derive(Debug)]
pub struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl AlignedBuf {
    /// The alignment of the first byte.
    pub const ALIGNMENT: usize = 4096;

    /// An empty buffer for up to `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity.saturating_add(Self::ALIGNMENT));
        let start = bytes.as_ptr().align_offset(Self::ALIGNMENT).min(Self::ALIGNMENT);
        bytes.resize(start, 0);
        Self { bytes, start, capacity }
    }

    /// A buffer of `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::with_capacity(len);
        buf.resize(len);
        buf
    }

    /// How many bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many more bytes it can hold.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len())
    }

    /// Appends `bytes`; false, and nothing is appended, if there is no room.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.room();
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        fits
    }

    /// Cuts or extends with zeros to `len` bytes, at most the capacity.
    pub fn resize(&mut self, len: usize) {
        self.bytes.resize(self.start.saturating_add(len.min(self.capacity)), 0);
    }

    /// Forgets the content and keeps the memory.
    pub fn clear(&mut self) {
        self.resize(0);
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_within_its_capacity() {
        for capacity in [0, 1, 4095, 4096, 1 << 20] {
            let mut buf = AlignedBuf::with_capacity(capacity);
            assert!(buf.append(&vec![7; capacity]));
            assert!(!buf.append(&[1]));
            assert_eq!(buf.as_ptr().align_offset(AlignedBuf::ALIGNMENT), 0);
            assert_eq!(*buf, *vec![7; capacity]);
            buf.clear();
            assert_eq!((buf.len(), buf.room()), (0, capacity));
        }
        assert!(AlignedBuf::zeroed(100_000).iter().all(|byte| *byte == 0));
    }
}
