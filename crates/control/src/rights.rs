//! What a caller may not do, and what may not be named.
//!
//! This module owns the one check of rights, and the errors of its refusals: what a caller may not see is reported as
//! not found. The table of rights is in `access`.

use strongroom_base::message;
use strongroom_orders::NotAllowed;

use crate::{
    access::{Caller, Operation, Reach, Target},
    error::{ControlError, Result},
    service::Control,
};

impl Control {
    /// Refuses what a caller may not do. What it may not even see does not exist.
    #[allow(clippy::unused_self, reason = "a step of the service")]
    pub(crate) fn check(
        &self,
        caller: &Caller,
        operation: Operation,
        target: Target,
        missing: impl FnOnce() -> ControlError,
    ) -> Result<()> {
        if caller.may(operation, target) {
            return Ok(());
        }
        let view = match target {
            Target::Server => Operation::ViewServer,
            Target::Host(_) => Operation::ViewHost,
            Target::Vault(_) => Operation::ViewVault,
            Target::Item(..) => Operation::ViewItem,
        };
        if caller.may(view, target) || matches!(target, Target::Server) {
            return Err(forbidden(caller, operation));
        }
        Err(missing())
    }
}

/// The error of somebody who has named what the operator lets nobody name. What may be named is for those
/// who see the server.
pub(crate) fn not_allowed(caller: Option<&Caller>, no: &NotAllowed) -> ControlError {
    let sees = caller.is_none_or(|caller| caller.may(Operation::ViewServer, Target::Server));
    if sees { no.whole_message().into() } else { no.message().into() }
}

/// The error of somebody who lacks a right.
pub(crate) fn forbidden(caller: &Caller, operation: Operation) -> ControlError {
    let place = match operation.reach() {
        Reach::Server => "on the server",
        Reach::Vault => "in the vault",
        Reach::Item => "on the item",
        Reach::Host => "on the host",
    };
    let message = message!(
        AUTH_FORBIDDEN,
        "{user} may not do this ({operation}): it takes the role {role} {place}",
        user = caller.name,
        operation = operation.name(),
        role = operation.role(),
        place
    );
    ControlError::Forbidden { operation: operation.name(), message: Box::new(message) }
}
