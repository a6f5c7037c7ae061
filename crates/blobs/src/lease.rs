//! Leases, as Azure has them: a pure machine of states over moments that it is given.

use serde::{Deserialize, Serialize};

use crate::{refusal::Refusal, rows::Ticks};

/// The id of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub String);

/// The lease that a blob or a container has, or had last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Its duration in seconds; `None` is infinite.
    pub duration: Option<u64>,
    /// When it expires without being renewed.
    pub expires: Option<Ticks>,
    /// When the break that was asked for is complete.
    pub breaks: Option<Ticks>,
}

/// The state of a lease at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// There is none.
    Available,
    /// It is held.
    Leased,
    /// It has expired; its holder may renew it.
    Expired,
    /// It is held until its break is complete.
    Breaking,
    /// It was broken.
    Broken,
}

/// What is asked of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// Take it. Without an id the store makes one.
    Acquire {
        /// The id that the caller wants.
        id: Option<LeaseId>,
        /// 15 to 60 seconds; `None` is infinite.
        duration: Option<u64>,
    },
    /// Begin its time again.
    Renew {
        /// The lease's id.
        id: LeaseId,
    },
    /// Give it another id.
    Change {
        /// The lease's id.
        id: LeaseId,
        /// The id that it gets.
        to: LeaseId,
    },
    /// Give it back.
    Release {
        /// The lease's id.
        id: LeaseId,
    },
    /// End it, at once or after some seconds.
    Break {
        /// 0 to 60 seconds; without it the rest of the lease, or nothing of an infinite one.
        period: Option<u64>,
    },
}

/// What an action left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseDone {
    /// The id of the lease, for those who hold it.
    pub id: Option<LeaseId>,
    /// Of a break: the seconds until another caller can acquire it.
    pub remaining: Option<u64>,
}

impl Lease {
    /// Its state.
    pub fn state(lease: Option<&Self>, now: Ticks) -> LeaseState {
        let Some(lease) = lease else { return LeaseState::Available };
        match (lease.breaks, lease.expires) {
            (Some(breaks), _) if breaks > now => LeaseState::Breaking,
            (Some(_), _) => LeaseState::Broken,
            (None, Some(expires)) if expires <= now => LeaseState::Expired,
            (None, _) => LeaseState::Leased,
        }
    }

    /// Checks the id that came with a change of what the lease protects.
    pub(crate) fn admits(
        lease: Option<&Self>,
        given: Option<&LeaseId>,
        now: Ticks,
    ) -> Result<(), Refusal> {
        let is_held = matches!(Self::state(lease, now), LeaseState::Leased | LeaseState::Breaking);
        match (lease, given) {
            (Some(lease), Some(given)) if is_held && lease.id == *given => Ok(()),
            (Some(_), Some(_)) if is_held => Err(Refusal::LeaseIdMismatch),
            (Some(_), None) if is_held => Err(Refusal::LeaseIdMissing),
            // A caller who believes that it has a lease must learn that it has none.
            (Some(lease), Some(given)) if lease.id == *given => Err(Refusal::LeaseLost),
            (_, Some(_)) => Err(Refusal::LeaseNotPresent),
            (_, None) => Ok(()),
        }
    }

    /// What a lease becomes by an action. `new_id` is used when the caller wants none of its own.
    pub(crate) fn act(
        lease: Option<&Self>,
        action: &LeaseAction,
        now: Ticks,
        new_id: impl FnOnce() -> LeaseId,
    ) -> Result<(Option<Self>, LeaseDone), Refusal> {
        let state = Self::state(lease, now);
        let held = |lease: Self, remaining| {
            let id = Some(lease.id.clone());
            Ok((Some(lease), LeaseDone { id, remaining }))
        };
        match action {
            LeaseAction::Acquire { id, duration } => {
                if duration.is_some_and(|seconds| !(15..=60).contains(&seconds)) {
                    return Err(Refusal::LeaseDuration);
                }
                let is_own = lease.is_some_and(|lease| Some(&lease.id) == id.as_ref());
                match state {
                    LeaseState::Leased if !is_own => return Err(Refusal::LeaseAlreadyPresent),
                    LeaseState::Breaking if is_own => {
                        return Err(Refusal::LeaseIsBreakingAndCannotBeAcquired);
                    }
                    LeaseState::Breaking => return Err(Refusal::LeaseAlreadyPresent),
                    _ => {}
                }
                let id = id.clone().unwrap_or_else(new_id);
                let expires = duration.map(|seconds| now.plus_seconds(seconds));
                held(Self { id, duration: *duration, expires, breaks: None }, None)
            }
            LeaseAction::Renew { id } => {
                let lease = Self::matching(lease, id)?;
                match state {
                    LeaseState::Breaking | LeaseState::Broken => {
                        Err(Refusal::LeaseIsBrokenAndCannotBeRenewed)
                    }
                    _ => {
                        let expires = lease.duration.map(|seconds| now.plus_seconds(seconds));
                        held(Self { expires, ..lease.clone() }, None)
                    }
                }
            }
            LeaseAction::Change { id, to } => match (state, lease) {
                (LeaseState::Leased, Some(lease)) if lease.id == *id || lease.id == *to => {
                    held(Self { id: to.clone(), ..lease.clone() }, None)
                }
                (LeaseState::Breaking, Some(_)) => Err(Refusal::LeaseIsBreakingAndCannotBeChanged),
                (LeaseState::Leased, _) => Err(Refusal::LeaseIdMismatchWithLease),
                _ => Err(Refusal::LeaseNotPresentWithLease),
            },
            LeaseAction::Release { id } => {
                Self::matching(lease, id)?;
                Ok((None, LeaseDone { id: None, remaining: None }))
            }
            LeaseAction::Break { period } => Self::begin_break(lease, *period, now),
        }
    }

    fn begin_break(
        lease: Option<&Self>,
        period: Option<u64>,
        now: Ticks,
    ) -> Result<(Option<Self>, LeaseDone), Refusal> {
        if period.is_some_and(|seconds| seconds > 60) {
            return Err(Refusal::LeaseBreakPeriod);
        }
        let Some(lease) = lease else { return Err(Refusal::LeaseNotPresentWithLease) };
        let asked = period.map(|seconds| now.plus_seconds(seconds));
        let breaks = match Self::state(Some(lease), now) {
            // A later break can only come sooner than the one before.
            LeaseState::Breaking => match (lease.breaks, asked) {
                (Some(before), Some(asked)) => before.min(asked),
                (before, _) => before.unwrap_or(now),
            },
            LeaseState::Leased => match (lease.expires, asked) {
                (Some(expires), Some(asked)) => expires.min(asked),
                (Some(expires), None) => expires,
                (None, asked) => asked.unwrap_or(now),
            },
            _ => now,
        };
        let ticks = breaks.0.saturating_sub(now.0);
        let done = LeaseDone { id: None, remaining: Some(ticks.div_ceil(Ticks::SECOND)) };
        Ok((Some(Self { breaks: Some(breaks), ..lease.clone() }), done))
    }

    fn matching<'a>(lease: Option<&'a Self>, id: &LeaseId) -> Result<&'a Self, Refusal> {
        match lease {
            Some(lease) if lease.id == *id => Ok(lease),
            _ => Err(Refusal::LeaseIdMismatchWithLease),
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
