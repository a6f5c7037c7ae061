//! Exports of NBD servers: a client of our own.
//!
//! ```text
//!  NbdUrl ─▶ stream (TCP, socket, TLS) ─▶ handshake ─▶ connection ─┐
//!                                                      connection ─┼─ pool ─▶ NbdDisk
//!                                                      ...         ┘
//! ```
//!
//! Nothing a server says is believed: lengths are checked before memory is taken, answers must
//! cover exactly what was asked, and a server that is silent for too long is an error.

mod connection;
mod disk;
mod handshake;
mod proto;
mod shared;
mod stream;
mod url;

#[cfg(test)]
mod tests;

pub(crate) use disk::{NbdDisk, NbdOptions};
pub use shared::NbdConnections;
pub use url::{NbdServer, NbdTls, NbdUrl};

/// Takes `bytes` for what a server sends, in the handshake and after it. For fuzzing.
pub(crate) fn fuzz(bytes: &[u8]) {
    use connection::{Payload, Request, receive_answers};
    use proto::Command;

    let script = Script(bytes);
    if let Ok(handshake) = handshake::Handshake::start(script) {
        let contexts = handshake::Contexts { allocation: true, bitmap: Some("bitmap") };
        drop(handshake.finish("export", contexts));
    }
    let (mut first, mut second) = ([0; 512], [0; 4096]);
    for structured in [false, true] {
        let mut batch = [
            Request::new(Command::Read, 512, 512, Payload::In(&mut first)),
            Request::new(Command::Read, 0, 4096, Payload::In(&mut second)),
            Request::new(Command::BlockStatus, 0, 1 << 20, Payload::Status(Vec::new())),
            Request::new(Command::Flush, 0, 0, Payload::None),
        ];
        receive_answers(&mut &*bytes, structured, 1, &mut batch).ok();
    }
}

/// A peer that has already said all it will say.
struct Script<'a>(&'a [u8]);

impl std::io::Read for Script<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl std::io::Write for Script<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
