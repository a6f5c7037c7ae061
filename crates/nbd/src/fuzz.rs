//! Entry points for fuzzing: each takes outside bytes and must return, whatever they are.

use std::{
    io::{self, BufReader},
    sync::Arc,
};

use crate::{
    client::{Contexts, Handshake, Payload, Request, receive_answers},
    proto::{Command, ContextOption, GoOption, OptionHead, RequestHead},
    server::{self, Agreed, Changed, Encryption, Exported, Exports, Heard, Session},
};

/// A disk that takes everything and has nothing.
struct Void;

impl Exported for Void {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, _: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn bitmaps(&self) -> Vec<String> {
        vec!["bitmap".to_owned()]
    }

    fn changed(&self, _: usize, _: u64, len: u64) -> io::Result<Vec<Changed>> {
        Ok(vec![Changed { len, is_dirty: true }])
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl Exports for Void {
    fn names(&self) -> Vec<String> {
        vec![String::new()]
    }

    fn open(&self, _: &str) -> Result<Arc<dyn Exported>, String> {
        Ok(Arc::new(Self))
    }
}

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
    if let Ok(handshake) = server::Handshake::start(Script(bytes), Encryption::Offered)
        && let Ok(Heard::Chosen(mut session)) = handshake.hear(&Void)
    {
        session.serve().ok();
    }
    for structured in [false, true] {
        let stream = BufReader::new(Script(bytes));
        let bitmaps = if structured { vec![(0, "bitmap".to_owned())] } else { Vec::new() };
        let agreed = Agreed { allocation: structured, bitmaps };
        Session::new(stream, Arc::new(Void), structured, agreed).serve().ok();
    }
}

/// A peer that has already said all it will say.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl io::Read for Script<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl io::Write for Script<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
