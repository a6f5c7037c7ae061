//! The point that a backup builds upon.

use strongroom_format::{DiskRecord, Manifest};
use strongroom_image::Image;
use strongroom_vault::{Vault, Writer};

use crate::{
    BackupRequest,
    error::{EngineError, Result},
};

/// What is said where a parent cannot be built upon.
pub(super) const READ_ALL: &str =
    "the parent point has lost content: everything is read, and the lost content is stored again";

/// The point that a backup builds upon.
pub(super) struct Parent {
    pub(super) manifest: Manifest,
    /// Whether it is the one that the caller means who says what has changed since the last point.
    pub(super) is_last: bool,
}

/// The point to build upon. None if there is none, or if content of it is gone: it would be missed
/// by the new point as well.
pub(super) fn find_parent(
    vault: &Vault,
    writer: &Writer,
    request: &BackupRequest,
) -> Result<Option<Parent>> {
    let (parent, damaged) = match request.parent {
        Some(point) => (Some(vault.parent_point(&request.item, point)?), Vec::new()),
        None => writer.newest_readable()?,
    };
    let is_last = damaged.is_empty();
    for damaged in damaged {
        tracing::warn!(
            object = damaged.object,
            "the newest recovery point is damaged: everything is read and compared with an older one"
        );
    }
    let Some(parent) = parent else { return Ok(None) };
    let image = |disk: &DiskRecord| {
        Image::new(disk.size_bytes, disk.root)
            .map_err(|source| EngineError::Size { name: disk.name.clone(), source })
    };
    let images: Vec<_> = parent.disks.iter().map(image).collect::<Result<_>>()?;
    if writer.holds(&images)? {
        return Ok(Some(Parent { manifest: parent, is_last }));
    }
    tracing::warn!(point = %parent.id, "{READ_ALL}");
    Ok(None)
}
