//! Exports of NBD servers as disks: connections, over TCP or sockets, encrypted or not, and a pool of them.
//!
//! ```text
//!  NbdUrl ─▶ stream (TCP, socket, TLS) ─▶ nbd::client ─▶ connection ─┐
//!                                                        connection ─┼─ pool ─▶ NbdDisk
//!                                                        ...         ┘
//! ```
//!
//! What is said over a connection is the matter of the crate `nbd`, which believes nothing a server says; a
//! server that is silent for too long is an error.

mod disk;
mod shared;
mod stream;

pub(crate) use disk::{NbdDisk, NbdOptions};
pub use shared::NbdConnections;
pub use strongroom_nbd::{NbdServer, NbdTls, NbdUrl};
