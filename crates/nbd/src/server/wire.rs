//! What both parts of a conversation need: whole messages, and their failures.

use std::io::{self, Read};

/// By which number block status names `base:allocation`.
pub(super) const ALLOCATION_ID: u32 = 1;

/// Bytes of which the protocol says how many come.
pub(super) fn receive<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A broken rule of the protocol.
pub(super) fn wrong(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}
