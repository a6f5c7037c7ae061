//! Recovery points that may hold what ransomware has encrypted. Who makes a point judges it; here it only becomes known.
//!
//! Each suspect point has an alert of its own, and nobody but a person resolves it: what a later backup finds
//! proves nothing, and the point before must not be lost from sight.

use jiff::Timestamp;
use strongroom_api::{Alert, AlertState, ErrorBody, Item, RecoveryPoint};
use strongroom_base::AlertId;
use strongroom_catalog::Tx;

use super::Rule;
use crate::{error::Result, model::AlertDoc, service::Control};

/// That a point is suspect, if it is.
pub(crate) fn warning(item: &Item, point: &RecoveryPoint) -> Option<ErrorBody> {
    let suspicion = point.suspicion.as_ref()?;
    Some(suspicion.message(&item.name, point.id).into())
}

/// A point can be restored from now on. If it is suspect, that is an alert.
pub(crate) async fn suspect(
    control: &Control,
    tx: &mut Tx,
    item: &Item,
    point: &RecoveryPoint,
    now: Timestamp,
) -> Result<()> {
    const RULE: Rule = Rule::PointSuspect;
    let Some(warning) = warning(item, point) else { return Ok(()) };
    let doc = AlertDoc {
        alert: Alert {
            id: AlertId::generate(&*control.clock, &*control.entropy),
            rule: RULE.name().to_owned(),
            severity: RULE.severity(),
            state: AlertState::Firing,
            title: format!("ransomware may have encrypted {}", item.name),
            error: Some(warning),
            subject: item.name.clone(),
            vault: Some(item.vault),
            item: Some(item.id),
            job: point.job,
            count: 1,
            first: now,
            last: now,
            resolved: None,
        },
        key: None,
        unsent: true,
    };
    tx.insert(&doc).await?;
    Ok(())
}
