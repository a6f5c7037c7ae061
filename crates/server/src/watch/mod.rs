//! Watching: how people and programs outside learn how the service is.
//!
//! ```text
//!  alerts ─▶ mail, webhook          what happened ─▶ logs: one line each, with the ids
//!  how it is ─▶ metrics, readiness  how it went   ─▶ traces: spans of requests and jobs
//! ```
//!
//! It only looks: nothing here decides anything, and nothing waits for it. What is sent and when is
//! decided by [`strongroom_control::notify`].

mod channels;
mod logs;
mod mail;
mod metrics;
mod page;
mod process;
mod scrape;
pub(crate) mod traces;
mod webhook;

pub use self::{
    channels::{MailConfig, MailTls, WebhookConfig},
    logs::{Logging, log},
    metrics::{Metric, Metrics},
};
pub(crate) use self::{
    channels::{channels, check_channels},
    page::{follow_jobs, healthz, not_ready, page, readyz},
};
