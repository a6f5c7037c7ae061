//! Thawing until it is so.

use std::time::Duration;

use strongroom_base::{Clock as _, SystemClock};
use strongroom_hypervisor::{
    Connection, HypervisorError, Uuid,
    agent::{self, FreezeStatus, GuestAgent, QUICK},
};

/// Thaws a machine's file systems and comes back when its agent says that they are thawed, or when
/// the machine is off. Neither a failed nor an unanswered thaw ends it before `patience` does: an
/// agent whose freeze took longer than we waited freezes later, and stays frozen until somebody
/// thaws it.
pub(crate) fn thaw_surely(
    connection: &mut Option<Connection>,
    open: &dyn Fn() -> Result<Connection, HypervisorError>,
    machine: Uuid,
    patience: Duration,
) -> Result<(), HypervisorError> {
    let deadline = SystemClock.monotonic().saturating_add(patience);
    let mut pause = Duration::from_millis(20);
    loop {
        let error = match attempt(connection, open, machine) {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, "not thawed yet");
                Some(error)
            }
        };
        if SystemClock.monotonic() >= deadline {
            let frozen = || HypervisorError::Agent {
                command: "guest-fsfreeze-thaw".to_owned(),
                reason: "the file systems stay frozen".to_owned(),
            };
            return Err(error.unwrap_or_else(frozen));
        }
        if error.is_some() {
            SystemClock.sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_secs(1));
        }
    }
}

/// One try: true if it is known that nothing is frozen.
fn attempt(
    connection: &mut Option<Connection>,
    open: &dyn Fn() -> Result<Connection, HypervisorError>,
    machine: Uuid,
) -> Result<bool, HypervisorError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(open()?),
    };
    let Some(domain) = connection.domain_by_uuid(machine)? else { return Ok(true) };
    if !connection.state(&domain)?.is_active() {
        return Ok(true);
    }
    let guest = GuestAgent::new(connection, &domain);
    if agent::freeze_status(&guest)? == FreezeStatus::Thawed {
        return Ok(true);
    }
    agent::thaw(&guest, QUICK)?;
    Ok(agent::freeze_status(&guest)? == FreezeStatus::Thawed)
}
