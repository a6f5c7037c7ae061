//! Transfers: from the vault near the source to the one that keeps the recovery point.

use strongroom_api::{TaskName, TaskState};
use strongroom_base::words;
use strongroom_engine::{CopyRequest, copy_point, find_copy};
use strongroom_orders::{BackupDone, Result, TransferOrder, Watch};

use super::{LocalAgent, backup::report_of};
use crate::{
    error::body,
    facts::{point_facts, warning},
};

impl LocalAgent {
    /// Copies a recovery point, or finds that it was copied already.
    pub(super) fn copy(&self, order: &TransferOrder, watch: &Watch) -> Result<BackupDone> {
        watch.task(TaskName::Transfer, TaskState::InProgress, None);
        let to = self.vaults.open(&order.to).map_err(body)?;
        let warnings = to.warnings.iter().map(warning).collect();
        if let Some(point) = find_copy(&to.vault, &order.to_item, order.point).map_err(body)? {
            let detail = "the recovery point was transferred before".to_owned();
            watch.task(TaskName::Transfer, TaskState::Completed, Some(detail));
            let report = report_of(&point).into();
            return Ok(BackupDone { point: point_facts(&point), warnings, report });
        }
        let from = self.vaults.open(&order.from).map_err(body)?;
        let request = CopyRequest {
            item: order.from_item.clone(),
            point: order.point,
            to_item: order.to_item.clone(),
            locked_until: order.locked_until,
            threads: self.host.threads,
            limit_rate: order.limit_rate,
        };
        let (progress, cancel) = (&watch.progress, &watch.cancel);
        let report = copy_point(&from.vault, &to.vault, &request, progress, cancel);
        let report = report.map_err(body)?;
        let point = to.vault.point(&order.to_item, report.recovery_point).map_err(body)?;
        let detail = format!("{} added to the vault", words::bytes(report.stored_bytes));
        watch.task(TaskName::Transfer, TaskState::Completed, Some(detail));
        let stored_bytes = report.stored_bytes;
        tracing::info!(point = %point.id, of = %order.point, stored_bytes, "a recovery point was transferred");
        Ok(BackupDone { point: point_facts(&point), warnings, report: report.into() })
    }
}
