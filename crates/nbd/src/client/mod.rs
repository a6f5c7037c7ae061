//! The client's part of a conversation, over any stream.
//!
//! ```text
//!  Handshake::start ─▶ (into_tls ─▶ the caller encrypts ─▶ resume) ─▶ finish ─▶ Export
//!                                                                       └──▶ Connection: batches of requests
//! ```

mod connection;
mod handshake;

#[cfg(test)]
mod tests;

pub use connection::{Connection, Payload, Request, receive_answers};
pub use handshake::{Contexts, Export, Handshake, transport};
