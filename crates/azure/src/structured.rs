//! Structured bodies, `XSM/1.0; properties=crc64`: content in segments, each with its CRC-64, and one of the whole.
//!
//! ```text
//! header    version u8 = 1 | length of the whole body u64 | flags u16 = 1 (CRC-64) | segments u16
//! segment   number u16, from 1 | length u64 | bytes | crc64 of its bytes
//! trailer   crc64 of all bytes
//! ```
//!
//! Numbers have their lowest byte first. An empty body is one empty segment. Both directions keep one CRC and a few
//! bytes, whatever the length.

use crc_fast::CrcAlgorithm;

use crate::{Code, Refusal};

/// The value of `x-ms-structured-body` in requests and answers.
pub const STRUCTURED: &str = "XSM/1.0; properties=crc64";

/// Bytes of content in a segment that we write.
const SEGMENT: u64 = 4 << 20;

const HEADER: u64 = 13;
const SEGMENT_HEADER: u64 = 10;
const CRC: u64 = 8;
const VERSION: u8 = 1;
const FLAG_CRC64: u16 = 1;

/// Whether a header's value asks for this form.
pub(crate) fn is_structured(value: &str) -> bool {
    let plain: String = value.chars().filter(|c| *c != ' ').collect();
    plain.eq_ignore_ascii_case("XSM/1.0;properties=crc64")
}

fn crc() -> crc_fast::Digest {
    crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme)
}

/// The length of the body that [`Encoder`] makes of content of this length; none if it does not fit.
pub fn encoded_length(content: u64) -> Option<u64> {
    let segments = content.div_ceil(segment_size(content)).max(1);
    segments.checked_mul(SEGMENT_HEADER + CRC)?.checked_add(content)?.checked_add(HEADER + CRC)
}

/// Bytes in each segment but the last: as many as keep the number of segments within 16 bits.
fn segment_size(content: u64) -> u64 {
    content.div_ceil(u64::from(u16::MAX)).max(SEGMENT)
}

/// Makes a structured body of content whose length is known.
#[derive(Clone)]
pub struct Encoder {
    length: u64,
    written: u64,
    segment_left: u64,
    number: u16,
    segment_crc: crc_fast::Digest,
    whole_crc: crc_fast::Digest,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("length", &self.length)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder of content of this length.
    pub fn new(length: u64) -> Self {
        Self {
            length,
            written: 0,
            segment_left: 0,
            number: 0,
            segment_crc: crc(),
            whole_crc: crc(),
        }
    }

    /// Takes the next bytes of the content and appends what of the body is ready. Bytes beyond the length are not
    /// taken; the number of taken bytes is returned.
    pub fn encode(&mut self, mut content: &[u8], body: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while !content.is_empty() && self.written < self.length {
            if self.segment_left == 0 {
                self.begin_segment(body);
            }
            let room = usize::try_from(self.segment_left).unwrap_or(usize::MAX);
            let (part, rest) = content.split_at(room.min(content.len()));
            self.segment_crc.update(part);
            self.whole_crc.update(part);
            body.extend_from_slice(part);
            let bytes = u64::try_from(part.len()).unwrap_or(u64::MAX);
            self.segment_left -= bytes;
            self.written += bytes;
            taken += part.len();
            content = rest;
            if self.segment_left == 0 {
                body.extend_from_slice(&self.segment_crc.finalize().to_le_bytes());
            }
        }
        taken
    }

    /// Appends the end of the body. False if less content came than was promised: then the body must not be sent as
    /// if it were whole.
    #[must_use]
    pub fn finish(mut self, body: &mut Vec<u8>) -> bool {
        if self.number == 0 && self.length == 0 {
            self.begin_segment(body);
            body.extend_from_slice(&self.segment_crc.finalize().to_le_bytes());
        }
        body.extend_from_slice(&self.whole_crc.finalize().to_le_bytes());
        self.written == self.length
    }

    fn begin_segment(&mut self, body: &mut Vec<u8>) {
        let size = segment_size(self.length);
        if self.number == 0 {
            let segments = u16::try_from(self.length.div_ceil(size).max(1)).unwrap_or(u16::MAX);
            body.push(VERSION);
            body.extend_from_slice(&encoded_length(self.length).unwrap_or(u64::MAX).to_le_bytes());
            body.extend_from_slice(&FLAG_CRC64.to_le_bytes());
            body.extend_from_slice(&segments.to_le_bytes());
        }
        self.number = self.number.saturating_add(1);
        self.segment_left = size.min(self.length.saturating_sub(self.written));
        self.segment_crc = crc();
        body.extend_from_slice(&self.number.to_le_bytes());
        body.extend_from_slice(&self.segment_left.to_le_bytes());
    }
}

/// Where a decoder is in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    SegmentHeader,
    Content { left: u64 },
    SegmentCrc,
    WholeCrc,
    End,
}

/// Reads a structured body that comes in parts of any size. Content is given out as it comes: it is proved only when
/// [`Decoder::finish`] succeeds.
#[derive(Clone)]
pub struct Decoder {
    body_length: u64,
    content_length: u64,
    part: Part,
    pending: Vec<u8>,
    segments: u16,
    number: u16,
    content: u64,
    segment_crc: crc_fast::Digest,
    whole_crc: crc_fast::Digest,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("part", &self.part)
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

fn damaged(reason: &str) -> Refusal {
    Refusal::new(Code::InvalidInput)
        .with("Reason", format!("The structured body is invalid: {reason}."))
}

impl Decoder {
    /// A decoder of a body of `body_length` bytes (`Content-Length`), which promises `content_length` bytes of content
    /// (`x-ms-structured-content-length`).
    pub fn new(body_length: u64, content_length: u64) -> Result<Self, Refusal> {
        let least = content_length.checked_add(HEADER + SEGMENT_HEADER + CRC + CRC);
        if least.is_none_or(|least| body_length < least) {
            return Err(damaged("it is too short for its content"));
        }
        Ok(Self {
            body_length,
            content_length,
            part: Part::Header,
            pending: Vec::with_capacity(16),
            segments: 0,
            number: 0,
            content: 0,
            segment_crc: crc(),
            whole_crc: crc(),
        })
    }

    /// Takes the next bytes of the body and gives their content to `sink`.
    pub fn decode(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Result<(), Refusal> {
        while !bytes.is_empty() || matches!(self.part, Part::Content { left: 0 }) {
            let wanted = match self.part {
                Part::Header => HEADER,
                Part::SegmentHeader => SEGMENT_HEADER,
                Part::SegmentCrc | Part::WholeCrc => CRC,
                Part::Content { left: 0 } => {
                    self.part = Part::SegmentCrc;
                    continue;
                }
                Part::Content { left } => {
                    let room = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (content, rest) = bytes.split_at(room);
                    self.segment_crc.update(content);
                    self.whole_crc.update(content);
                    sink(content);
                    let taken = u64::try_from(room).unwrap_or(u64::MAX);
                    self.content += taken;
                    self.part = Part::Content { left: left - taken };
                    bytes = rest;
                    continue;
                }
                Part::End => return Err(damaged("it has bytes after its end")),
            };
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let missing = wanted.saturating_sub(self.pending.len());
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.pending.extend_from_slice(taken);
            bytes = rest;
            if self.pending.len() == wanted {
                let frame = std::mem::take(&mut self.pending);
                self.part = self.frame(&frame)?;
                self.pending = frame;
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// Reads a header or a checksum, which are whole; says what comes next.
    fn frame(&mut self, frame: &[u8]) -> Result<Part, Refusal> {
        let number = |from: usize, bytes: usize| {
            let field = frame.get(from..from + bytes).unwrap_or_default();
            field.iter().rev().fold(0_u64, |n, byte| (n << 8) | u64::from(*byte))
        };
        let short = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        match self.part {
            Part::Header => {
                if number(0, 1) != u64::from(VERSION) {
                    return Err(damaged("its version is not 1"));
                }
                if number(1, 8) != self.body_length {
                    return Err(damaged("its length is not the length of the request"));
                }
                if number(9, 2) != u64::from(FLAG_CRC64) {
                    return Err(damaged("its properties are not crc64"));
                }
                self.segments = short(number(11, 2));
                let frames = u64::from(self.segments) * (SEGMENT_HEADER + CRC) + HEADER + CRC;
                if self.segments == 0
                    || self.content_length.checked_add(frames) != Some(self.body_length)
                {
                    return Err(damaged("its segments do not make its length"));
                }
                Ok(Part::SegmentHeader)
            }
            Part::SegmentHeader => {
                if number(0, 2) != u64::from(self.number) + 1 {
                    return Err(damaged("its segments are not in order"));
                }
                let left = number(2, 8);
                if left > self.content_length - self.content {
                    return Err(damaged("a segment is longer than the content"));
                }
                self.number += 1;
                self.segment_crc = crc();
                Ok(Part::Content { left })
            }
            Part::SegmentCrc => {
                if number(0, 8) != self.segment_crc.finalize() {
                    return Err(Code::Crc64Mismatch.into());
                }
                Ok(if self.number == self.segments { Part::WholeCrc } else { Part::SegmentHeader })
            }
            _ => {
                if self.content != self.content_length {
                    return Err(damaged("it has less content than it promises"));
                }
                if number(0, 8) != self.whole_crc.finalize() {
                    return Err(Code::Crc64Mismatch.into());
                }
                Ok(Part::End)
            }
        }
    }

    /// Checks that the body is whole; the CRC-64 of its content.
    pub fn finish(self) -> Result<u64, Refusal> {
        if self.part == Part::End {
            Ok(self.whole_crc.finalize())
        } else {
            Err(damaged("it ends too early"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc64;
    use proptest::prelude::*;

    fn len(bytes: &[u8]) -> u64 {
        u64::try_from(bytes.len()).expect("fits")
    }

    fn encode(content: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        let mut encoder = Encoder::new(len(content));
        assert_eq!(encoder.encode(content, &mut body), content.len());
        assert!(encoder.finish(&mut body));
        body
    }

    fn decode(body: &[u8], content: u64, chunk: usize) -> Result<Vec<u8>, Refusal> {
        let mut decoder = Decoder::new(len(body), content)?;
        let mut found = Vec::new();
        for part in body.chunks(chunk.max(1)) {
            decoder.decode(part, |bytes| found.extend_from_slice(bytes))?;
        }
        assert_eq!(decoder.finish()?, crc64(&found));
        Ok(found)
    }

    /// Bytes that azure-storage-blob 12.31.1 makes of `hello`.
    #[test]
    fn a_body_of_another_implementation_is_read_and_written() {
        let mut body = vec![1, 44, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        body.extend_from_slice(b"hello");
        body.extend_from_slice(&crc64(b"hello").to_le_bytes());
        body.extend_from_slice(&crc64(b"hello").to_le_bytes());
        assert_eq!(encode(b"hello"), body);
        assert_eq!(decode(&body, 5, 3), Ok(b"hello".to_vec()));
    }

    #[test]
    fn the_length_is_that_of_the_clients() {
        assert_eq!(encoded_length(4096), Some(4135));
        assert_eq!(encoded_length(0), Some(39));
        assert_eq!(encoded_length(SEGMENT + 1), Some(SEGMENT + 1 + 13 + 8 + 36));
        assert_eq!(encode(&[]).len(), 39);
        assert_eq!(decode(&encode(&[]), 0, 100), Ok(Vec::new()));
        assert_eq!(encoded_length(u64::MAX), None);
    }

    #[test]
    fn several_segments_are_read() {
        let content: Vec<u8> =
            (0..SEGMENT + 1000).map(|n| u8::try_from(n % 251).expect("is small")).collect();
        let body = encode(&content);
        assert_eq!(len(&body), encoded_length(len(&content)).expect("fits"));
        assert_eq!(decode(&body, len(&content), 65_536), Ok(content));
    }

    #[test]
    fn too_little_content_is_no_whole_body() {
        let mut body = Vec::new();
        let mut encoder = Encoder::new(10);
        encoder.encode(b"12345", &mut body);
        assert!(!encoder.finish(&mut body));
    }

    #[test]
    fn each_damaged_byte_is_noticed() {
        let body = encode(b"content of a page");
        for at in 0..body.len() {
            let mut damaged = body.clone();
            damaged[at] ^= 1;
            let refusal = decode(&damaged, 17, 7).expect_err("is damaged");
            assert!(
                matches!(refusal.code(), Code::InvalidInput | Code::Crc64Mismatch),
                "byte {at}"
            );
        }
        for end in 0..body.len() {
            assert!(decode(&body[..end], 17, 100).is_err());
        }
        assert!(decode(&[&body[..], b"x"].concat(), 17, 100).is_err());
        assert!(decode(&body, 16, 100).is_err());
        assert!(decode(&body, u64::MAX, 100).is_err());
    }

    #[test]
    fn the_header_is_compared_without_blanks_and_case() {
        assert!(is_structured(STRUCTURED) && is_structured("xsm/1.0;properties=CRC64"));
        assert!(!is_structured("XSM/1.0") && !is_structured("XSM/2.0; properties=crc64"));
    }

    proptest! {
        #[test]
        fn a_body_survives_whatever_the_parts(
            content in prop::collection::vec(any::<u8>(), 0..2000),
            chunk in 1..300_usize,
        ) {
            let body = encode(&content);
            prop_assert_eq!(decode(&body, len(&content), chunk), Ok(content));
        }

        #[test]
        fn no_body_makes_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200), content in 0_u64..100) {
            decode(&body, content, 7).ok();
        }
    }
}
