//! libvirt's remote protocol: calls and replies over a byte stream.
//!
//! Sources: <https://libvirt.org/internals/rpc.html> (framing), `remote_protocol.x` and
//! `qemu_protocol.x` of libvirt (procedures and their arguments in XDR, RFC 4506). libvirt keeps
//! both stable for ever.
//!
//! Spoken directly, and not through libvirt's C library, because a restore must work on a machine
//! without it, because every call needs a deadline (the library's calls wait without one), and
//! because the thawer needs a connection that nothing else can block.

/// Reads a message, whatever it is; for fuzzing.
pub(crate) fn fuzz(bytes: &[u8]) {
    drop(message::parse(bytes));
}

mod client;
mod message;
mod procedure;
mod transport;
pub(crate) mod xdr;

pub(crate) use client::{CallError, Client};
pub(crate) use procedure::Procedure;
pub(crate) use transport::{Transport, find_program};
pub(crate) use xdr::{Decoder, Encoder, Malformed};
