//! The bytes of an overlay's map file: a header, and batches of runs. docs/understand/overlay-format.md says the same for
//! those who write another reader.

use strongroom_base::{Digest, PointId, VaultId};

use super::map::{Run, State};

/// Bytes of a cluster.
pub(crate) const CLUSTER: u64 = 4096;
/// Everything in the file begins at a multiple of it.
pub(crate) const SECTOR: usize = 512;
/// The most runs of a batch.
pub(crate) const RUNS_MAX: usize = 16_384;

const MAGIC: &[u8; 8] = b"SROVLY\r\n";
const VERSION: u32 = 1;
const BATCH: &[u8; 4] = b"BTCH";
const NAME_MAX: usize = 200;
const NAME_AT: usize = 112;
const CRC: usize = 4;

/// What an overlay is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayOf {
    /// The vault of the point.
    pub vault: VaultId,
    /// The recovery point.
    pub point: PointId,
    /// The name of the disk.
    pub disk: String,
    /// The root of the disk's image.
    pub root: Digest,
    /// The disk's bytes.
    pub size: u64,
}

/// Why bytes are no header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged,
    Version(u32),
}

/// The header of a map file: which overlay it is, and what it is of.
pub(crate) fn encode_header(id: [u8; 16], of: &OverlayOf) -> Vec<u8> {
    let name = of.disk.as_bytes();
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let cluster = u32::try_from(CLUSTER).unwrap_or(0);
    let mut bytes = Vec::with_capacity(SECTOR);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&cluster.to_le_bytes());
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&of.vault.to_bytes());
    bytes.extend_from_slice(&of.point.to_bytes());
    bytes.extend_from_slice(of.root.as_bytes());
    bytes.extend_from_slice(&of.size.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(name);
    bytes.resize(SECTOR - CRC, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// Reads a header.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<([u8; 16], OverlayOf), BadHeader> {
    if bytes.get(..8) == Some(MAGIC)
        && let Some(version) = number(bytes, 8).filter(|version| *version != VERSION)
    {
        return Err(BadHeader::Version(version));
    }
    parse_header(bytes).ok_or(BadHeader::Damaged)
}

fn parse_header(bytes: &[u8]) -> Option<([u8; 16], OverlayOf)> {
    let bytes = bytes.get(..SECTOR)?;
    let is_whole = number(bytes, SECTOR - CRC)? == crc32c::crc32c(bytes.get(..SECTOR - CRC)?);
    let is_ours = bytes.get(..8)? == MAGIC && u64::from(number(bytes, 12)?) == CLUSTER;
    if !is_whole || !is_ours {
        return None;
    }
    let len = usize::try_from(number(bytes, 104)?).ok().filter(|len| *len <= NAME_MAX)?;
    let name = bytes.get(NAME_AT..NAME_AT.checked_add(len)?)?.to_vec();
    let of = OverlayOf {
        vault: VaultId::from_bytes(array(bytes, 32)?),
        point: PointId::from_bytes(array(bytes, 48)?),
        root: Digest::new(array(bytes, 64)?),
        size: u64::from_le_bytes(array(bytes, 96)?),
        disk: String::from_utf8(name).ok()?,
    };
    Some((array(bytes, 16)?, of))
}

/// A batch of runs; at most [`RUNS_MAX`].
pub(crate) fn encode_batch(id: &[u8; 16], sequence: u64, runs: &[Run]) -> Vec<u8> {
    let count = u32::try_from(runs.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    bytes.extend_from_slice(BATCH);
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    for run in runs {
        let state: u64 = match run.state {
            State::Point => 0,
            State::Data => 1,
            State::Zero => 2,
        };
        bytes.extend_from_slice(&run.first.to_le_bytes());
        // A disk has less than 2^56 clusters.
        bytes.extend_from_slice(&(run.count | state << 56).to_le_bytes());
    }
    bytes.resize(batch_len(runs.len()).saturating_sub(CRC), 0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(id), &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn batch_len(runs: usize) -> usize {
    let len = runs.saturating_mul(16).saturating_add(16 + CRC);
    len.div_ceil(SECTOR).saturating_mul(SECTOR)
}

/// A batch at the beginning of bytes: its sequence number, its runs and its length. None if there is none, or it is
/// not whole.
pub(crate) fn decode_batch(
    id: &[u8; 16],
    bytes: &[u8],
    clusters: u64,
) -> Option<(u64, Vec<Run>, usize)> {
    let count = usize::try_from(number(bytes, 4)?).ok()?;
    if bytes.get(..4)? != BATCH || count > RUNS_MAX {
        return None;
    }
    let len = batch_len(count);
    let body = bytes.get(..len.checked_sub(CRC)?)?;
    let crc = number(bytes, body.len())?;
    if crc != crc32c::crc32c_append(crc32c::crc32c(id), body) {
        return None;
    }
    let mut runs = Vec::with_capacity(count);
    for place in (16..).step_by(16).take(count) {
        let first = u64::from_le_bytes(array(body, place)?);
        let rest = u64::from_le_bytes(array(body, place.checked_add(8)?)?);
        let state = match rest >> 56 {
            1 => State::Data,
            2 => State::Zero,
            _ => return None,
        };
        let count = rest & (u64::MAX >> 8);
        if first.checked_add(count)? > clusters {
            return None;
        }
        runs.push(Run { first, count, state });
    }
    Some((u64::from_le_bytes(array(bytes, 8)?), runs, len))
}
