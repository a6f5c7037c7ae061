//! The first error of work that many threads share.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use strongroom_base::{Cancel, lock};
use strongroom_vault::VaultError;

use crate::error::{EngineError, Result};

/// Remembers the first error and tells everybody to stop.
pub(crate) struct Failure<'a> {
    cancel: &'a Cancel,
    stopped: AtomicBool,
    first: Mutex<Option<EngineError>>,
}

impl<'a> Failure<'a> {
    pub(crate) fn new(cancel: &'a Cancel) -> Self {
        Self { cancel, stopped: AtomicBool::new(false), first: Mutex::new(None) }
    }

    /// Whether to continue: nobody has failed and nobody has asked to stop.
    pub(crate) fn go_on(&self) -> bool {
        if self.cancel.is_cancelled() {
            self.set(EngineError::Interrupted);
        }
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Reports an error. One that says that another came first gives way to that one.
    pub(crate) fn set(&self, error: EngineError) {
        let mut first = lock(&self.first);
        let echo = |error: &EngineError| matches!(error, EngineError::Vault(VaultError::Aborted));
        if first.as_ref().is_none_or(echo) {
            *first = Some(error);
        }
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Reports the error of a result; `None` if there was one.
    pub(crate) fn keep<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.set(error)).ok()
    }

    /// The first error, if there was one.
    pub(crate) fn into_result(self) -> Result<()> {
        let _ = self.go_on();
        match self.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
