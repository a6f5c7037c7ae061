//! What all handlers share.

use std::{collections::HashMap, sync::Arc};

use axum::http::Method;
use strongroom_control::Control;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::watch::Metrics;

/// What all handlers share.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>);

/// What it is made of.
pub(crate) struct Parts {
    /// The service.
    pub(crate) control: Arc<Control>,
    /// Becomes true when the server stops: streams end then.
    pub(crate) stop: watch::Receiver<bool>,
    /// Changes that are being made; the server waits for them before it ends.
    pub(crate) tasks: TaskTracker,
    /// The operation of the table of rights that a method at a path takes.
    pub(crate) operations: HashMap<(Method, String), String>,
    /// What is counted of requests.
    pub(crate) metrics: Arc<Metrics>,
    /// The API's description.
    pub(crate) document: Arc<str>,
}

impl App {
    /// Of these parts.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
