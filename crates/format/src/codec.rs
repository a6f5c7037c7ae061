//! How the plain bytes of a block are represented: stored, compressed, or as a delta.
//!
//! A delta is a zstd frame whose prefix is another, full, block: usually the previous version of
//! the same place of the disk. There are no deltas against deltas.

use strongroom_base::BLOCK_SIZE;
use zstd_safe::{CCtx, CParameter, DCtx, ResetDirective, Strategy};

use crate::FormatError;

/// How the payload of a record represents its plain bytes. The number is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Stored,
    /// A zstd frame.
    Zstd,
    /// A zstd frame with another block as its prefix.
    Delta,
}

/// How hard units are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// While a backup runs: as fast as block by block, and smaller.
    Backup,
    /// When there is time.
    Recompression,
}

/// First bytes of a trained zstd dictionary. zstd would treat a prefix that starts with them as
/// one; such blocks serve as nobody's base.
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];

/// Compresses blocks. Holds zstd's working memory; one for each thread.
pub struct Encoder {
    context: CCtx<'static>,
    level: i32,
    full: Vec<u8>,
    delta: Vec<u8>,
    /// For units, which have their own parameters; made when the first one comes.
    units: Option<CCtx<'static>>,
    effort: Effort,
}

impl Encoder {
    /// The level for blocks: chosen by measurement, see `docs/decisions/0003-compression.md`.
    pub const LEVEL: i32 = 1;

    /// The level for what is compressed once more when there is time.
    pub const TIGHT_LEVEL: i32 = 12;

    /// An encoder of [`Self::LEVEL`].
    pub fn new() -> Self {
        Self::with_level(Self::LEVEL)
    }

    /// An encoder of another zstd level.
    pub fn with_level(level: i32) -> Self {
        let room = zstd_safe::compress_bound(BLOCK_SIZE);
        Self {
            context: CCtx::create(),
            level,
            full: Vec::with_capacity(room),
            delta: Vec::with_capacity(room),
            units: None,
            effort: Effort::Backup,
        }
    }

    /// An encoder that compresses units with this effort.
    pub fn with_effort(effort: Effort) -> Self {
        let level = if effort == Effort::Backup { Self::LEVEL } else { Self::TIGHT_LEVEL };
        Self { effort, ..Self::with_level(level) }
    }

    /// Several blocks as one frame, if that saves at least a 32nd.
    pub fn unit(&mut self, plain: &[u8]) -> Option<&[u8]> {
        let context = match &mut self.units {
            Some(context) => context,
            none => none.insert(unit_context(self.effort)?),
        };
        self.full.clear();
        self.full.reserve(zstd_safe::compress_bound(plain.len()));
        context.compress2(&mut self.full, plain).ok()?;
        let worth = plain.len().saturating_sub(plain.len() >> 5);
        (self.full.len() < worth).then_some(self.full.as_slice())
    }

    /// The smallest full representation of `plain`: compressed if that saves at least a 32nd.
    pub fn full<'a>(&'a mut self, plain: &'a [u8]) -> (Encoding, &'a [u8]) {
        self.full.clear();
        self.full.reserve(zstd_safe::compress_bound(plain.len()));
        let done = self.context.compress(&mut self.full, plain, self.level).is_ok();
        let worth = plain.len().saturating_sub(plain.len() >> 5);
        if done && self.full.len() < worth {
            (Encoding::Zstd, &self.full)
        } else {
            (Encoding::Stored, plain)
        }
    }

    /// `plain` as a delta against `base`, if it becomes smaller than `limit` bytes.
    pub fn delta<'a>(&'a mut self, plain: &[u8], base: &[u8], limit: usize) -> Option<&'a [u8]> {
        if base.starts_with(&DICTIONARY_MAGIC) {
            return None;
        }
        self.delta.clear();
        self.delta.reserve(zstd_safe::compress_bound(plain.len()));
        self.context.compress_using_dict(&mut self.delta, plain, base, self.level).ok()?;
        (self.delta.len() < limit).then_some(self.delta.as_slice())
    }
}

/// The parameters were measured: see `docs/decisions/0003-compression.md`.
fn unit_context(effort: Effort) -> Option<CCtx<'static>> {
    let mut context = CCtx::create();
    let parameters = match effort {
        Effort::Backup => &[
            CParameter::CompressionLevel(Encoder::LEVEL),
            CParameter::WindowLog(20),
            CParameter::HashLog(15),
            CParameter::ChainLog(15),
            CParameter::MinMatch(6),
            CParameter::Strategy(Strategy::ZSTD_fast),
        ][..],
        Effort::Recompression => {
            &[CParameter::CompressionLevel(Encoder::TIGHT_LEVEL), CParameter::WindowLog(20)][..]
        }
    };
    context.reset(ResetDirective::SessionAndParameters).ok()?;
    for parameter in parameters {
        context.set_parameter(*parameter).ok()?;
    }
    Some(context)
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Decompresses blocks; one for each thread.
pub struct Decoder(DCtx<'static>);

impl Decoder {
    /// A decoder.
    pub fn new() -> Self {
        Self(DCtx::create())
    }

    /// Restores the plain bytes of a record into `plain`, whose length must be the record's
    /// plain length.
    pub fn decode(
        &mut self,
        encoding: Encoding,
        payload: &[u8],
        base: Option<&[u8]>,
        plain: &mut [u8],
    ) -> Result<(), FormatError> {
        let error = FormatError::Compression { what: "record" };
        let written = match (encoding, base) {
            (Encoding::Stored, _) if payload.len() == plain.len() => {
                plain.copy_from_slice(payload);
                payload.len()
            }
            (Encoding::Zstd, _) => self.0.decompress(plain, payload).map_err(|_| error.clone())?,
            (Encoding::Delta, Some(base)) => {
                self.0.decompress_using_dict(plain, payload, base).map_err(|_| error.clone())?
            }
            (Encoding::Stored | Encoding::Delta, _) => return Err(error),
        };
        if written == plain.len() { Ok(()) } else { Err(error) }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut bytes = vec![0; len];
        reader.fill(&mut bytes);
        bytes
    }

    #[test]
    fn noise_is_stored_and_text_is_compressed() {
        let mut encoder = Encoder::new();
        assert_eq!(encoder.full(&noise(1, BLOCK_SIZE)).0, Encoding::Stored);
        let text = b"the quick brown fox ".repeat(3000);
        let (encoding, payload) = encoder.full(&text);
        assert_eq!(encoding, Encoding::Zstd);
        let mut plain = vec![0; text.len()];
        Decoder::new().decode(encoding, payload, None, &mut plain).expect("decodes");
        assert_eq!(plain, text);
    }

    #[test]
    fn a_small_change_of_noise_is_a_small_delta() {
        let base = noise(2, BLOCK_SIZE);
        let mut changed = base.clone();
        changed[30_000..30_100].copy_from_slice(&noise(3, 100));
        let mut encoder = Encoder::new();
        let delta = encoder.delta(&changed, &base, BLOCK_SIZE / 2).expect("small").to_vec();
        assert!(delta.len() < 300, "{}", delta.len());
        let mut plain = vec![0; BLOCK_SIZE];
        let mut decoder = Decoder::new();
        decoder.decode(Encoding::Delta, &delta, Some(&base), &mut plain).expect("decodes");
        assert_eq!(plain, changed);
        assert!(decoder.decode(Encoding::Delta, &delta, None, &mut plain).is_err());
        assert!(encoder.delta(&noise(4, BLOCK_SIZE), &base, BLOCK_SIZE / 2).is_none());
    }

    #[test]
    fn a_unit_is_smaller_than_its_blocks_and_noise_is_none() {
        // Each block by itself is noise; together they repeat each other.
        let block = noise(7, BLOCK_SIZE);
        let unit = block.repeat(4);
        for effort in [Effort::Backup, Effort::Recompression] {
            let mut encoder = Encoder::with_effort(effort);
            let payload = encoder.unit(&unit).expect("smaller").to_vec();
            assert!(payload.len() < BLOCK_SIZE + 1000, "{effort:?}: {}", payload.len());
            let mut plain = vec![0; unit.len()];
            let mut decoder = Decoder::new();
            decoder.decode(Encoding::Zstd, &payload, None, &mut plain).expect("decodes");
            assert_eq!(plain, unit);
            assert!(encoder.unit(&noise(8, 4 * BLOCK_SIZE)).is_none());
        }
    }

    #[test]
    fn a_dictionary_is_no_base() {
        let mut base = noise(5, BLOCK_SIZE);
        base[..4].copy_from_slice(&DICTIONARY_MAGIC);
        assert!(Encoder::new().delta(&base.clone(), &base, BLOCK_SIZE).is_none());
    }

    proptest! {
        #[test]
        fn foreign_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200), base in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new();
            let mut plain = vec![0; 1000];
            for encoding in [Encoding::Stored, Encoding::Zstd, Encoding::Delta] {
                prop_assert!(decoder.decode(encoding, &payload, Some(&base), &mut plain).is_err() || payload.len() >= 9);
            }
        }
    }
}
