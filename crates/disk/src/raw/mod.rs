//! Raw files and block devices, read and written past the host's page cache.
//!
//! [`file::RawFile`] moves bytes; [`RawSource`] and [`RawTarget`] make a disk of it.
//!
//! This part owns the way past the page cache, and the look at who else uses a disk. It must not know image formats.

mod file;
mod locks;
mod source;
mod target;
mod users;

pub(crate) use file::{Access, RawFile, open_error};
pub(crate) use source::{Part, RawSource};
pub use target::{Existing, Links};
pub(crate) use target::{RawTarget, open_existing};
pub(crate) use users::refuse_if_in_use;
