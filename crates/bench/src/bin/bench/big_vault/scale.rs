//! How large the vault is, and what that means for each point.
//!
//! The first point has every block of the disk, all different. From one point to the next `churn` percent
//! of the blocks change. So many of these are new to the vault that its packs come to `stored_bytes` in the
//! end; the others take content that the vault has, as of files that are moved, copied or put back. Marking
//! treats both alike: it looks for each changed block of each point in the index.
//!
//! With the defaults a point changes 152,588 blocks (10 GB), of which 14,756 are new: 1,000 points of
//! a 1 TB disk whose every changed block were new would be 5.5 TB at two to one, not the 1 TB that this is
//! about. A record takes 33,333 bytes on average, as blocks do that compress two to one, so 1 TB stored is
//! 30 million records.

use std::fmt;

use strongroom_base::BLOCK_SIZE_U64;
use strongroom_bench::{Failure, Outcome};

/// Sealed bytes of a record, on average.
pub(crate) const RECORD_BYTES: u64 = 33_333;
/// Records of a data pack, so that it has about 32 MiB.
pub(crate) const RECORDS_A_PACK: u64 = 950;
/// New blocks that a point must have at least. Packs of fewer are so small that reclaim merges them, which
/// must fail where the blocks' bytes are not there.
const MIN_FRESH: u64 = 300;

/// What is generated.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub(crate) points: u64,
    /// Points that are deleted before the reclaim.
    pub(crate) delete: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) blocks: u64,
    /// Blocks that change from point to point.
    pub(crate) changed: u64,
    /// Those of them that are new to the vault.
    pub(crate) fresh: u64,
}

impl Scale {
    pub(crate) fn new(
        points: u64,
        disk_bytes: u64,
        stored_bytes: u64,
        churn: u64,
        delete: u64,
    ) -> Outcome<Self> {
        let blocks = disk_bytes.div_ceil(BLOCK_SIZE_U64);
        let changed = blocks.saturating_mul(churn).div_ceil(100);
        if points < 2 || delete + 2 > points || churn > 50 || !disk_bytes.is_multiple_of(512) {
            return Err(Failure::new(
                "needs two points that are not deleted, at most 50 % churn, whole sectors",
            ));
        }
        let records = stored_bytes / RECORD_BYTES;
        let fresh = (records.saturating_sub(blocks) / (points - 1)).min(changed);
        if fresh < MIN_FRESH || u32::try_from(records).is_err() {
            let least = (blocks + MIN_FRESH * (points - 1)) * RECORD_BYTES;
            return Err(Failure::new(format!(
                "each point must change and add {MIN_FRESH} blocks at least: \
                 --stored-bytes {least} or more, and enough --churn"
            )));
        }
        Ok(Self { points, delete, disk_bytes, blocks, changed, fresh })
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} points of a disk of {} blocks; {} change from one to the next, {} of them new",
            self.points, self.blocks, self.changed, self.fresh
        )
    }
}

/// A number of bytes, perhaps in powers of 1000.
pub(crate) fn bytes(text: &str) -> Outcome<u64> {
    let (digits, power) = match text.char_indices().last() {
        Some((at, 'K')) => (text.get(..at), 1),
        Some((at, 'M')) => (text.get(..at), 2),
        Some((at, 'G')) => (text.get(..at), 3),
        Some((at, 'T')) => (text.get(..at), 4),
        _ => (Some(text), 0),
    };
    let number: u64 = digits.unwrap_or_default().parse()?;
    number
        .checked_mul(1000_u64.pow(power))
        .ok_or_else(|| Failure::new(format!("{text} is too large")))
}
