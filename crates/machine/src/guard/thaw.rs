//! Thaws the guest, and repeats it until the agent confirms.
//!
//! While libvirt lives, it is the way to the agent. When it is dead, the guard uses QEMU's socket
//! to the agent: a guest must not stay frozen until a daemon is back.

use std::{path::Path, time::Duration};

use strongroom_base::{Clock as _, SystemClock};
use strongroom_hypervisor::{
    AgentSocket, Connection, HypervisorError, Uuid,
    agent::{self, Agent, FreezeStatus, GuestAgent, QUICK},
};

/// Thaws a machine's file systems and comes back when its agent says that they are thawed, or when
/// the machine is off. Neither a failed nor an unanswered thaw ends it before `patience` does: an
/// agent whose freeze took longer than we waited freezes later, and stays frozen until somebody
/// thaws it. `socket` is the agent's own, for the case that libvirt does not answer.
pub(crate) fn thaw_surely(
    connection: &mut Option<Connection>,
    open: &dyn Fn() -> Result<Connection, HypervisorError>,
    machine: Uuid,
    socket: Option<&Path>,
    patience: Duration,
) -> Result<(), HypervisorError> {
    let deadline = SystemClock.monotonic().saturating_add(patience);
    let mut pause = Duration::from_millis(20);
    loop {
        let error = match attempt(connection, open, machine, socket) {
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
    socket: Option<&Path>,
) -> Result<bool, HypervisorError> {
    // One that is started when somebody connects may keep us waiting for long.
    let is_dead = connection.as_ref().is_some_and(Connection::has_ended);
    if is_dead && socket.is_some_and(is_thawed_over) {
        return Ok(true);
    }
    match through_libvirt(connection, open, machine) {
        Err(error) if error.is_connection() => match socket {
            Some(socket) if is_thawed_over(socket) => Ok(true),
            _ => Err(error),
        },
        other => other,
    }
}

fn through_libvirt(
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
    thaw(&GuestAgent::new(connection, &domain))
}

/// Thaws without libvirt. Where that is alive, QEMU does not let us talk to the agent.
fn is_thawed_over(socket: &Path) -> bool {
    let thawed = AgentSocket::open(socket, QUICK).and_then(|agent| thaw(&agent));
    if let Err(error) = &thawed {
        tracing::debug!(%error, "not thawed without libvirt");
    }
    thawed.unwrap_or(false)
}

/// True if the agent says that it is thawed.
fn thaw(guest: &dyn Agent) -> Result<bool, HypervisorError> {
    if agent::freeze_status(guest)? == FreezeStatus::Thawed {
        return Ok(true);
    }
    agent::thaw(guest, QUICK)?;
    Ok(agent::freeze_status(guest)? == FreezeStatus::Thawed)
}
