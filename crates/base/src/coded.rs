//! What every error says of itself: its place in the catalog, and the values of its message.

use std::error::Error;

use crate::{Code, Params};

/// An error that names its place in the catalog.
pub trait Coded: Error {
    /// The catalog entry.
    fn code(&self) -> &'static Code;

    /// The values that its message was composed of; not those of its causes.
    fn params(&self) -> Params;
}
