//! Progress, events and cancellation of a running order.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use strongroom_api::{TaskName, TaskState};
use strongroom_base::{Cancel, Progress};

/// A part of an order came to another state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Which part.
    pub task: TaskName,
    /// Its state.
    pub state: TaskState,
    /// What it found or did, for people.
    pub detail: Option<String>,
}

/// Follows an order. Clones follow the same one.
#[derive(Clone)]
pub struct Watch {
    /// Raised when the order is to be left.
    pub cancel: Cancel,
    /// How far it has come; polled.
    pub progress: Progress,
    events: Arc<dyn Fn(TaskEvent) + Send + Sync>,
}

impl Watch {
    /// Follows an order; `events` is called with every change of a part, from any thread.
    pub fn new(cancel: Cancel, events: impl Fn(TaskEvent) + Send + Sync + 'static) -> Self {
        Self { cancel, progress: Progress::new(), events: Arc::new(events) }
    }

    /// Follows an order without a listener.
    pub fn silent() -> Self {
        Self::new(Cancel::new(), |_| {})
    }

    /// Says that a part came to another state.
    pub fn task(&self, task: TaskName, state: TaskState, detail: Option<String>) {
        (self.events)(TaskEvent { task, state, detail });
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("progress", &self.progress).finish_non_exhaustive()
    }
}
