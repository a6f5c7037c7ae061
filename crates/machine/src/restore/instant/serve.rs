//! The recovery point as exports for the machine.

use std::sync::Arc;

use strongroom_export::{BlockCache, DEFAULT_CACHE, Export, PointDisk, Shown, Trace};
use strongroom_format::DiskRecord;

use super::super::new::Work;
use crate::{MachineError, boots, error::Result, served::Served};

/// Serves the disks that are restored. What an earlier boot of the item has read is read into memory first.
pub(super) fn start(work: &Work<'_>) -> Result<Served> {
    let uuid = work.plan.machine.uuid;
    let folder = work.request.places.run.join(format!("instant-{uuid}"));
    let cache = BlockCache::new(DEFAULT_CACHE);
    let mut exports = Vec::new();
    let mut disks = Vec::new();
    for disk in &work.plan.disks {
        let record = work.point.disks.iter().find(|record| record.name == disk.name);
        let Some(record) = record else { continue };
        let disk = Arc::new(point_disk(work, record, &cache)?);
        disks.push(Arc::clone(&disk));
        exports.push(Export { name: record.name.clone(), disk: Arc::new(Shown::new(disk)) });
    }
    let served = Served::start(work.connection, folder, exports, &**work.vault.entropy())?;
    if let Some(trace) = learnt(work) {
        served.read_first(trace, disks, cache);
    }
    Ok(served)
}

/// The trace of the newest boot of the item. Without one the machine starts as well.
fn learnt(work: &Work<'_>) -> Option<Trace> {
    match boots::newest_trace(work.vault, &work.point.item) {
        Ok(trace) => trace,
        Err(error) => {
            tracing::debug!(%error, "no trace of an earlier boot");
            None
        }
    }
}

fn point_disk(work: &Work<'_>, record: &DiskRecord, cache: &Arc<BlockCache>) -> Result<PointDisk> {
    let disk = PointDisk::cached(work.vault, record, cache);
    disk.map_err(|error| MachineError::Configuration {
        point: work.point.id.to_string(),
        reason: error.to_string(),
    })
}
