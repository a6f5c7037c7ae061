//! The service on the network: its API over HTTPS, its configuration, its life.
//!
//! Handlers are thin: [`strongroom_control::Control`] decides everything. Here is what networks and
//! operating systems need: who asks, what was sent, how it is answered; certificates, signals,
//! folders.
//!
//! ```text
//!  connection ─▶ TLS ─▶ guard: id, time, caller, idempotency ─▶ handler ─▶ Control ─▶ answer
//! ```

mod answer;
mod document;
mod events;
mod extract;
mod guard;
mod idempotency;
mod router;
mod routes;
mod state;

pub use answer::status_of;
pub use router::{openapi, router};
