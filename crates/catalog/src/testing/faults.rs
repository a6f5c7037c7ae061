//! Commits that fail when a test wants them to.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

/// How a commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is changed.
    Refused,
    /// The change is made, and its caller gets no answer.
    Unheard,
}

/// Faults of commits, for tests: none, unless one is set.
#[derive(Debug, Default)]
pub struct Faults {
    next: Mutex<Option<(u64, Fault)>>,
}

impl Faults {
    /// The `n`th commit from now on fails; the first is 1.
    pub fn fail(&self, n: u64, fault: Fault) {
        *self.lock() = Some((n, fault));
    }

    /// No commit fails from now on; whether the one that was to has not come yet.
    pub fn clear(&self) -> bool {
        self.lock().take().is_some()
    }

    /// The fault of the commit that comes now.
    pub(crate) fn take(&self) -> Option<Fault> {
        let mut next = self.lock();
        match &mut *next {
            Some((n, _)) if *n > 1 => {
                *n = n.saturating_sub(1);
                None
            }
            _ => next.take().map(|(_, fault)| fault),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(u64, Fault)>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    /// The answer to the caller that commits.
    pub(crate) fn error(self) -> crate::Error {
        let source = sqlx::Error::Io(io::Error::other("a test has it so"));
        match self {
            Self::Refused => crate::Error::Unavailable { doing: "committing", source },
            Self::Unheard => crate::Error::Uncertain { source },
        }
    }
}
