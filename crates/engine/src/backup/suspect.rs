//! Whether a new point is suspect: its figures and those of the item's points before, as `policy` judges them.

use strongroom_base::Suspicion;
use strongroom_format::Manifest;
use strongroom_policy::{Measured, MeasuredDisk, is_worth_judging};
use strongroom_vault::Vault;

/// Judges a point that is about to be published. The points before are read only if it can be suspect at all.
pub(super) fn judge(vault: &Vault, manifest: &Manifest) -> Option<Suspicion> {
    let point = measured(manifest);
    if !is_worth_judging(&point.disks) {
        return None;
    }
    match vault.list_points(Some(&manifest.item)) {
        Ok(list) => {
            let before = list.points.iter().filter(|before| before.id < manifest.id);
            let before: Vec<Measured> = before.map(measured).collect();
            strongroom_policy::judge(&point, &before)
        }
        Err(error) => {
            // A hint is not worth a failed backup.
            tracing::warn!(%error, "the point was not compared with the points before");
            None
        }
    }
}

fn measured(point: &Manifest) -> Measured {
    let disks = point.disks.iter().map(|disk| MeasuredDisk {
        name: disk.name.clone(),
        size_bytes: disk.size_bytes,
        allocated_bytes: disk.allocated_bytes,
        new_content: disk.new_content,
    });
    Measured {
        id: point.id,
        time: point.time,
        disks: disks.collect(),
        suspect_after: point.suspicion.as_ref().map(|suspicion| suspicion.last_before),
    }
}
