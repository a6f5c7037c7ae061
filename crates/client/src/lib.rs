//! A client of the service's API.
//!
//! [`Client`] has a method for each operation of the API, with the types of `strongroom_api`. It
//! blocks, because its callers do. When the network fails it repeats requests that are safe to
//! repeat: reads, and requests with an idempotency key.
//!
//! | module  | what it does |
//! |---------|--------------|
//! | `trust` | whose certificate is believed: the system's authorities, one file's, or one certificate |
//! | `http`  | requests: tokens, keys, tries, errors |
//! | `pages` | paged lists |
//! | `calls` | one method for each route |
//! | `files` | files of recovery points, as streams |
//! | `watch` | waiting for a job |
//! | `error` | [`ClientError`] |
//!
//! It must not know where tokens are kept, what a terminal is, or how anything is done.

mod calls;
mod error;
mod files;
mod http;
mod pages;
mod trust;
mod watch;

pub use calls::{AlertQuery, ItemQuery, JobQuery, OfVault};
pub use error::ClientError;
pub use files::{Download, FileDownload, FileQuery};
pub use http::{Client, Options};
pub use pages::Pages;
pub use trust::{Fingerprint, NotAFingerprint, Trust, pinned};
