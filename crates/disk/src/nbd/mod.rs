//! Exports of NBD servers.

mod url;

pub use url::{NbdServer, NbdTls, NbdUrl};
