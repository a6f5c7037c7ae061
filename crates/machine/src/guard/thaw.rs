//! Thaws the guest, and repeats it until the agent confirms.
//!
//! While libvirt lives, it is the way to the agent. When it is dead, the guard uses QEMU's socket
//! to the agent: a guest must not stay frozen until a daemon is back.

use std::time::Duration;

use strongroom_base::Clock;
use strongroom_hypervisor::HypervisorError;

use super::Hands;

/// Thaws a machine's file systems and comes back when its agent says that they are thawed, or when
/// the machine is off. Neither a failed nor an unanswered thaw ends it before `patience` does: an
/// agent whose freeze took longer than we waited freezes later, and stays frozen until somebody
/// thaws it.
pub(crate) fn thaw_surely(
    hands: &mut dyn Hands,
    clock: &dyn Clock,
    patience: Duration,
) -> Result<(), HypervisorError> {
    let deadline = clock.monotonic().saturating_add(patience);
    let mut pause = Duration::from_millis(20);
    loop {
        let error = match hands.thaw() {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, "not thawed yet");
                Some(error)
            }
        };
        if clock.monotonic() >= deadline {
            let frozen = || HypervisorError::Agent {
                command: "guest-fsfreeze-thaw".to_owned(),
                reason: "the file systems stay frozen".to_owned(),
            };
            return Err(error.unwrap_or_else(frozen));
        }
        if error.is_some() {
            clock.sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_secs(1));
        }
    }
}
