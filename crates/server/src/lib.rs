//! The service on the network: its API over HTTPS, its configuration, its life.
//!
//! Handlers are thin: [`strongroom_control::Control`] decides everything. This crate owns the network and
//! the operating system: callers, requests and answers, certificates, signals, folders.
//!
//! It must not know rules (who may do what, when a job runs), disks, hypervisors or stores: `control`
//! decides, and `agent` carries out.
//!
//! ```text
//!  connection ─▶ TLS ─▶ guard: id, time, caller, idempotency ─▶ handler ─▶ Control ─▶ answer
//! ```

mod answer;
mod config;
mod copies;
mod doctor;
mod document;
mod error;
mod events;
mod extract;
mod first;
mod guard;
mod idempotency;
mod notify;
mod recover;
mod router;
mod routes;
mod serve;
mod standby;
mod state;
mod watch;

pub use answer::status_of;
pub use config::{ConfigKey, ConfigSource, LogFormat, ServerConfig, VARIABLES};
pub use copies::{CatalogCopy, dump_catalog, load_catalog};
pub use doctor::{Finding, Level, examine};
pub use error::ServerError;
pub use first::{NewToken, OwnerToken, new_token};
pub use recover::{Recover, recover};
pub use router::{openapi, router};
pub use serve::{Serve, serve};
pub use watch::{Logging, MailConfig, MailTls, Metric, Metrics, WebhookConfig, log};
