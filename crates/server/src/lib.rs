//! The service on the network: its API over HTTPS, its configuration, its life.
//!
//! Handlers are thin: [`strongroom_control::Control`] decides everything. Here is what networks and
//! operating systems need: who asks, what was sent, how it is answered; certificates, signals,
//! folders. This crate must not know rules, disks or stores: it gives control the agents, and asks nothing of them.
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
