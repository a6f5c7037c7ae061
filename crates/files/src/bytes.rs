//! Numbers in bytes of a disk; what lies outside is zero.

use std::fmt::Write as _;

/// Little-endian numbers at offsets.
pub(crate) struct Le<'a>(pub(crate) &'a [u8]);

impl Le<'_> {
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    pub(crate) fn u8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.at(offset))
    }

    pub(crate) fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.at(offset))
    }

    pub(crate) fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.at(offset))
    }

    pub(crate) fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.at(offset))
    }

    /// Whether these bytes stand there.
    pub(crate) fn has(&self, offset: usize, bytes: &[u8]) -> bool {
        self.0.get(offset..).is_some_and(|rest| rest.starts_with(bytes))
    }

    /// A text of fixed length that ends at the first NUL; none if nothing is left of it.
    pub(crate) fn text(&self, offset: usize, len: usize) -> Option<String> {
        let bytes = self.0.get(offset..offset.saturating_add(len))?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(bytes.get(..end)?);
        let text: String = text.trim_end().chars().filter(|c| !c.is_control()).collect();
        (!text.is_empty()).then_some(text)
    }

    /// An id of 16 bytes in the order in which they stand.
    pub(crate) fn uuid(&self, offset: usize) -> Option<String> {
        let bytes: [u8; 16] = self.at(offset);
        (bytes != [0; 16]).then(|| grouped(&bytes))
    }

    /// An id of which the first three groups are little-endian.
    pub(crate) fn guid(&self, offset: usize) -> [u8; 16] {
        let mut bytes: [u8; 16] = self.at(offset);
        for group in [0..4, 4..6, 6..8] {
            bytes.get_mut(group).unwrap_or_default().reverse();
        }
        bytes
    }
}

/// 16 bytes as a UUID is written.
pub(crate) fn grouped(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").ok();
    }
    text
}
