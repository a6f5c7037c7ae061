//! The log of who did what: an entry in the same transaction as what was done.
//!
//! This module owns the form of entries and the check of the chain. It must not know whether the action was allowed.

use serde_json::Value;
use strongroom_api as api;
use strongroom_catalog::{AuditEntry, AuditQuery, AuditRecord, Tx};

use crate::{
    error::Result,
    rights::{Caller, Operation, Target, forbidden},
    service::Control,
};

/// Records that something was done.
pub(crate) async fn record(
    tx: &mut Tx,
    caller: &Caller,
    operation: Operation,
    target: &str,
    detail: Value,
) -> Result<()> {
    entry(tx, caller, operation.name(), target, "allowed", detail).await
}

/// Records an entry.
pub(crate) async fn entry(
    tx: &mut Tx,
    caller: &Caller,
    action: &str,
    target: &str,
    outcome: &str,
    detail: Value,
) -> Result<()> {
    let cut = |text: &str| text.chars().take(200).collect::<String>();
    let (actor, target) = (cut(&caller.name), cut(target));
    tx.audit(AuditRecord { actor: &actor, action, target: &target, outcome, detail: &detail })
        .await?;
    Ok(())
}

fn entry_of(entry: AuditEntry) -> api::AuditEntry {
    api::AuditEntry {
        seq: entry.seq,
        time: jiff::Timestamp::from_microsecond(entry.time).unwrap_or_default(),
        actor: entry.actor,
        action: entry.action,
        target: entry.target,
        outcome: entry.outcome,
        detail: serde_json::from_str(entry.detail.get()).unwrap_or_default(),
        prev_hash: entry.prev_hash.to_string(),
        hash: entry.hash.to_string(),
    }
}

impl Control {
    fn check_audit(&self, caller: &Caller) -> Result<()> {
        let operation = Operation::ViewAudit;
        self.check(caller, operation, Target::Server, || forbidden(caller, operation))
    }

    /// Entries of the audit log with numbers below one, the latest first, up to a maximum number.
    pub async fn audit_entries(
        &self,
        caller: &Caller,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<api::AuditEntry>> {
        self.check_audit(caller)?;
        let query = AuditQuery { before, limit, ..AuditQuery::default() };
        let entries = in_read!(self, tx => { Ok(tx.audit_list(&query).await?) })?;
        Ok(entries.into_iter().map(entry_of).collect())
    }

    /// Up to 1000 entries of the audit log from a number on, in order: for an export.
    pub async fn audit_from(&self, caller: &Caller, first: u64) -> Result<Vec<api::AuditEntry>> {
        self.check_audit(caller)?;
        let mut entries = Vec::new();
        in_read!(self, tx => {
            let last = first.saturating_add(999);
            tx.audit_export(first..=last, |entry| {
                entries.push(entry_of(entry));
                std::ops::ControlFlow::Continue(())
            })
            .await?;
            Ok(())
        })?;
        Ok(entries)
    }

    /// Checks the whole audit log, and that its end is not before `head` if one is given that was kept
    /// elsewhere: a number and a hash.
    pub async fn verify_audit(
        &self,
        caller: &Caller,
        head: Option<(u64, String)>,
    ) -> Result<api::AuditVerified> {
        self.check_audit(caller)?;
        let anchors: Vec<strongroom_catalog::AuditHead> = head
            .and_then(|(seq, hash)| {
                Some(strongroom_catalog::AuditHead { seq, hash: hash.parse().ok()? })
            })
            .into_iter()
            .collect();
        let report = self.catalog.verify_chain(&anchors).await?;
        Ok(api::AuditVerified {
            intact: report.broken.is_none(),
            entries: report.head.seq,
            head: report.head.hash.to_string(),
            broken_at: report.broken.map(|broken| broken.seq),
        })
    }

    /// Records that somebody was refused.
    pub async fn record_refusal(&self, caller: &Caller, action: &str, target: &str) -> Result<()> {
        in_write!(self, tx => { entry(tx, caller, action, target, "denied", Value::Null).await })
    }
}
