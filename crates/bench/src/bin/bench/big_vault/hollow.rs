//! Data packs without data: header, trailer and footer as the format has them, sealed with the vault's
//! key, and a hole in between.
//!
//! Their names are random. The name of a real pack is the hash of its bytes; of these it would be the hash of
//! a terabyte of zeros. Nothing that is measured compares them: opening and rebuilding read trailers,
//! reclaim deletes data packs whole, and copying out of one would fail, which ends the measurement.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use strongroom_base::{BLOCK_SIZE_U64, Digest, EntropyExt, PackId, SystemEntropy};
use strongroom_bench::{Failure, Outcome, rng::Rng};
use strongroom_format::{
    SealKey,
    pack::{Entry, HEADER_LEN, Header, PackKind, Packing, Part, RecordKind, closing},
};
use strongroom_vault::Vault;

use super::{
    failed,
    scale::{RECORD_BYTES, RECORDS_A_PACK},
};

/// The digest that stands for a content.
pub(crate) fn digest(content: u32) -> Digest {
    Digest::new(*blake3::hash(&content.to_le_bytes()).as_bytes())
}

/// Puts the packs of these contents into the folder of a vault: as many as needed, all about equal.
pub(crate) fn put(
    vault: &Vault,
    folder: &Path,
    contents: std::ops::Range<u32>,
    rng: &mut Rng,
) -> Outcome<()> {
    let count = u64::from(contents.end - contents.start);
    let packs = count.div_ceil(RECORDS_A_PACK);
    let cut = |pack: u64| -> Outcome<u32> {
        Ok(contents.start + u32::try_from(count * pack / packs.max(1))?)
    };
    for pack in 0..packs {
        put_one(vault, folder, cut(pack)?..cut(pack + 1)?, rng)?;
    }
    Ok(())
}

fn put_one(
    vault: &Vault,
    folder: &Path,
    contents: std::ops::Range<u32>,
    rng: &mut Rng,
) -> Outcome<()> {
    let salt: [u8; 32] = SystemEntropy.array();
    let (key_id, key) = {
        let ring = vault.keys().read().map_err(|_| Failure::new("the keys are lost"))?;
        let (key_id, master) = ring.current();
        (key_id, SealKey::new(master.derive("pack", &salt).as_bytes()))
    };
    let mut offset = u32::try_from(HEADER_LEN)?;
    let mut entries = Vec::new();
    for (ordinal, content) in (0_u32..).zip(contents) {
        // 0.4 to 1.6 of the average: two to one is an average, too.
        let stored_len = u32::try_from(rng.between(RECORD_BYTES * 2 / 5, RECORD_BYTES * 8 / 5))?;
        entries.push(Entry {
            digest: digest(content),
            kind: RecordKind::BlockZstd,
            ordinal,
            offset,
            stored_len,
            plain_len: u32::try_from(BLOCK_SIZE_U64)?,
            part: Part::WHOLE,
        });
        offset += stored_len;
    }
    let name = PackId::new(SystemEntropy.array()).to_string();
    let path = folder.join("packs/data").join(name.get(..2).unwrap_or_default());
    fs::create_dir_all(&path).map_err(Failure::at(&path))?;
    let path = path.join(&name);
    let file = File::create_new(&path).map_err(Failure::at(&path))?;
    let header = Header { kind: PackKind::Data, key_id, salt, packing: Packing::Single };
    file.write_all_at(&header.encode(), 0).map_err(Failure::at(&path))?;
    let closing = closing(&key, &entries, &[]).map_err(failed)?;
    file.write_all_at(&closing, offset.into()).map_err(Failure::at(&path))
}
