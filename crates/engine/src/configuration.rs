//! A machine's configuration: an archive that is stored like the image of a disk. So an unchanged
//! archive costs nothing, and the code that stores, checks and copies disks handles it too.

use strongroom_base::{BLOCK_SIZE, Digest};
use strongroom_format::{ConfigurationRecord, Manifest, codec::Encoder, pack::RecordKind};
use strongroom_image::{Builder, Cursor, Error, Image, Node};
use strongroom_vault::{Vault, VaultError, Writer};

use crate::error::{EngineError, Result};

/// Stores an archive.
pub(crate) fn store(
    vault: &Vault,
    writer: &Writer,
    archive: &[u8],
) -> Result<Option<ConfigurationRecord>> {
    let length = u64::try_from(archive.len()).unwrap_or(u64::MAX);
    if archive.is_empty() {
        return Ok(None);
    }
    if !ConfigurationRecord::length_is_valid(length) {
        let limit = ConfigurationRecord::MAX_LEN;
        return Err(EngineError::ConfigurationSize { length, limit });
    }
    let mut record = ConfigurationRecord { length, root: Digest::HOLE };
    let sink = |digest, encoded: &[u8]| writer.store_node(digest, encoded);
    // Without a parent: nothing is inherited unread, so nothing is if the parent has lost it.
    let mut builder = Builder::new(vault.hasher(), record.image_size(), None, vault, sink)
        .map_err(image_error)?;
    let mut encoder = Encoder::new();
    let blocks: Vec<&[u8]> = archive.chunks(BLOCK_SIZE).collect();
    for (index, leaf) in (0..).zip(blocks.chunks(256)) {
        let mut node = Node::empty();
        for (slot, block) in (0_u8..=255).zip(leaf) {
            node.set(slot, store_block(vault, writer, &mut encoder, block)?);
        }
        builder.set_leaf(index, &node).map_err(image_error)?;
    }
    record.root = builder.finish().map_err(image_error)?.root();
    Ok(Some(record))
}

fn store_block(
    vault: &Vault,
    writer: &Writer,
    encoder: &mut Encoder,
    block: &[u8],
) -> Result<Digest> {
    let digest = vault.hasher().block(block);
    if !digest.is_hole() && writer.claim(&digest)? {
        let mut whole = block.to_vec();
        whole.resize(BLOCK_SIZE, 0);
        let (encoding, payload) = encoder.full(&whole);
        let kind = RecordKind::of_block(encoding);
        writer.store_block(kind, digest, BLOCK_SIZE, None, payload)?;
    }
    Ok(digest)
}

/// The archive of a machine's configuration, if the recovery point has one. Every byte is checked
/// against its digest.
pub fn read_configuration(vault: &Vault, point: &Manifest) -> Result<Option<Vec<u8>>> {
    let Some(record) = point.configuration else { return Ok(None) };
    let length = record.length;
    if !ConfigurationRecord::length_is_valid(length) {
        let limit = ConfigurationRecord::MAX_LEN;
        return Err(EngineError::ConfigurationSize { length, limit });
    }
    let image = Image::new(record.image_size(), record.root)
        .map_err(|error| EngineError::Configuration(error.into()))?;
    let mut cursor = Cursor::new(image, vault);
    let mut reader = vault.reader();
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut archive = Vec::with_capacity(length);
    let mut plain = vec![0; BLOCK_SIZE];
    for block in 0..image.blocks() {
        let digest = cursor.block(block).map_err(image_error)?;
        reader.block(&digest, &mut plain)?;
        archive.extend_from_slice(&plain);
    }
    archive.truncate(length);
    Ok(Some(archive))
}

fn image_error(error: Error<VaultError>) -> EngineError {
    match error {
        Error::Store(error) => EngineError::Vault(error),
        error => EngineError::Configuration(error),
    }
}
