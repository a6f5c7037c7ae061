//! Entry points for fuzzing: each takes outside bytes and must return, whatever they are.

use crate::{
    client::{Contexts, Handshake, Payload, Request, receive_answers},
    proto::{Command, ContextOption, GoOption, OptionHead, RequestHead},
};

/// What a server sends, in the handshake and after it.
pub fn fuzz_reply(bytes: &[u8]) {
    if let Ok(handshake) = Handshake::start(Script(bytes)) {
        let contexts = Contexts { allocation: true, bitmap: Some("bitmap") };
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

/// What a client sends, in the handshake and after it.
pub fn fuzz_request(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk() {
        OptionHead::parse(head).ok();
    }
    if let Some(head) = bytes.first_chunk()
        && let Ok(head) = RequestHead::parse(head)
    {
        assert_eq!(RequestHead::parse(&head.encode()), Ok(head));
    }
    if let Ok(option) = GoOption::parse(bytes) {
        assert_eq!(GoOption::parse(&option.encode()), Ok(option));
    }
    if let Ok(option) = ContextOption::parse(bytes) {
        assert_eq!(ContextOption::parse(&option.encode()), Ok(option));
    }
}

/// A peer that has already said all it will say.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

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
