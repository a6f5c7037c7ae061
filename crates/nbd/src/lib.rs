//! The NBD protocol: the messages of both sides, URLs, both parts of a conversation, and serving on sockets.
//!
//! ```text
//!  client ── RequestHead, OptionHead, GoOption, ContextOption ──▶ server
//!         ◀── Greeting, OptionReply, Fact, Context, Reply, chunks ──
//! ```
//!
//! Bytes in, messages out, and back. [`client`] and [`server`] lead a conversation over any stream that
//! they are given; only [`server::listen`] knows sockets, and nothing here knows what a disk is. What the other side says is not
//! believed: lengths are checked before memory is taken, and every message that breaks a rule is refused
//! with a [`proto::Reason`].
//!
//! The protocol is specified at
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

pub mod client;
pub mod proto;
pub mod server;
mod url;

#[doc(hidden)]
pub mod fuzz;

pub use url::{NbdServer, NbdTls, NbdUrl, UrlError};
