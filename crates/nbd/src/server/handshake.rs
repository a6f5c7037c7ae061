//! From a fresh connection to an export.

use std::{
    io::{self, BufReader, Read, Write},
    sync::Arc,
};

use super::{
    Exported, Exports, Session,
    contexts::{Agreed, Query, wanted},
    wire::{receive, wrong},
};
use crate::proto::{
    ContextOption, DEFAULT_MAX_LEN, FIXED_NEWSTYLE, Fact, GoOption, Greeting, NO_ZEROES,
    OptionHead, OptionReply, answer, info, option, transmission,
};

/// The most options of one client: libnbd needs about ten, qemu as many for each export that it looks at.
const MAX_OPTIONS: usize = 1000;

/// The option of the oldest clients: an export; the handshake ends without an answer.
const EXPORT_NAME: u32 = 1;

/// What follows the answer to it, unless the client asked to leave it out.
const PADDING: [u8; 124] = [0; 124];

/// Whether a conversation is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// It cannot be.
    None,
    /// It can be, if the client asks.
    Offered,
    /// It must be, before anything is shown.
    Required,
}

/// What a client has chosen.
pub enum Heard<S: Read + Write> {
    /// An export.
    Chosen(Session<S>),
    /// Encryption: encrypt the stream as the server, and continue with [`Handshake::resume`].
    Encrypt(S),
    /// To go away.
    Ended,
}

impl<S: Read + Write> std::fmt::Debug for Heard<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chosen(_) => "Chosen",
            Self::Encrypt(_) => "Encrypt",
            Self::Ended => "Ended",
        })
    }
}

/// Reads options and answers them.
#[derive(Debug)]
pub struct Handshake<S: Read + Write> {
    stream: BufReader<S>,
    encryption: Encryption,
    /// Whether the client wants no padding.
    no_zeroes: bool,
    structured: bool,
    /// An export, and the contexts that were agreed on for it.
    contexts: Option<(String, Agreed)>,
}

/// What comes of one option.
enum Next {
    /// Another option.
    Option,
    /// An export, and the contexts that were agreed on for it.
    Chosen(Arc<dyn Exported>, Agreed),
    Encrypt,
    Ended,
}

impl<S: Read + Write> Handshake<S> {
    /// Greets the client.
    ///
    /// # Errors
    ///
    /// If the stream fails, or what is at its other end does not speak the current protocol.
    pub fn start(stream: S, encryption: Encryption) -> io::Result<Self> {
        let mut this = Self::new(stream, encryption);
        this.send(&Greeting { flags: FIXED_NEWSTYLE | NO_ZEROES }.encode())?;
        let flags = u32::from_be_bytes(receive(&mut this.stream)?);
        let known = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
        if flags & !known != 0 || flags & u32::from(FIXED_NEWSTYLE) == 0 {
            return Err(wrong("the client speaks another form of the protocol"));
        }
        this.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        Ok(this)
    }

    /// Continues inside a session that is encrypted by now.
    pub fn resume(stream: S) -> Self {
        Self { no_zeroes: true, ..Self::new(stream, Encryption::None) }
    }

    fn new(stream: S, encryption: Encryption) -> Self {
        let stream = BufReader::with_capacity(64 << 10, stream);
        Self { stream, encryption, no_zeroes: false, structured: false, contexts: None }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes)?;
        stream.flush()
    }

    fn answer(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let head = OptionReply { option, kind, len }.encode();
        self.send(&[&head[..], data].concat())
    }

    /// Reads options until the client has chosen.
    ///
    /// # Errors
    ///
    /// If the stream fails, or the client breaks a rule after which nothing it sends can be understood.
    pub fn hear(mut self, exports: &dyn Exports) -> io::Result<Heard<S>> {
        for _ in 0..MAX_OPTIONS {
            let head = OptionHead::parse(&receive(&mut self.stream)?).map_err(wrong)?;
            let mut data = vec![0; usize::try_from(head.len).unwrap_or(usize::MAX)];
            self.stream.read_exact(&mut data)?;
            match self.option(head.option, &data, exports)? {
                Next::Option => {}
                Next::Chosen(export, contexts) => {
                    let (stream, structured) = (self.stream, self.structured);
                    return Ok(Heard::Chosen(Session::new(stream, export, structured, contexts)));
                }
                // What came before the encryption could be somebody else's.
                Next::Encrypt if !self.stream.buffer().is_empty() => {
                    return Err(wrong("the client sends in the clear after asking for encryption"));
                }
                Next::Encrypt => return Ok(Heard::Encrypt(self.stream.into_inner())),
                Next::Ended => return Ok(Heard::Ended),
            }
        }
        Err(wrong("the client never chooses an export"))
    }

    fn option(&mut self, option: u32, data: &[u8], exports: &dyn Exports) -> io::Result<Next> {
        let needs_encryption = !matches!(option, option::ABORT | option::START_TLS);
        if self.encryption == Encryption::Required && needs_encryption {
            // The oldest way to choose has no answer but the connection's end.
            if option == EXPORT_NAME {
                return Err(wrong("the client chooses an export without encryption"));
            }
            self.answer(option, answer::TLS_REQUIRED, b"this server wants encryption")?;
            return Ok(Next::Option);
        }
        match option {
            option::ABORT => {
                // The client may be gone already.
                self.answer(option, answer::ACK, &[]).ok();
                return Ok(Next::Ended);
            }
            option::START_TLS if self.encryption == Encryption::None => {
                self.answer(option, answer::UNSUPPORTED, &[])?;
            }
            option::START_TLS if data.is_empty() => {
                self.answer(option, answer::ACK, &[])?;
                return Ok(Next::Encrypt);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.answer(option, answer::ACK, &[])?;
            }
            option::LIST if data.is_empty() => {
                for name in exports.names() {
                    let len = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
                    self.answer(option, answer::SERVER, &[&len[..], name.as_bytes()].concat())?;
                }
                self.answer(option, answer::ACK, &[])?;
            }
            option::START_TLS | option::STRUCTURED_REPLY | option::LIST => {
                self.answer(option, answer::INVALID, b"this option has no data")?;
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.contexts(option, data, exports)?;
            }
            option::INFO | option::GO => return self.go(option, data, exports),
            EXPORT_NAME => return self.export_name(data, exports),
            _ => self.answer(option, answer::UNSUPPORTED, &[])?,
        }
        Ok(Next::Option)
    }

    /// Which contexts an export has, or which of them the client wants.
    fn contexts(&mut self, option: u32, data: &[u8], exports: &dyn Exports) -> io::Result<()> {
        let lists = option == option::LIST_META_CONTEXT;
        if !lists {
            self.contexts = None;
        }
        let ContextOption { export: name, queries } = match ContextOption::parse(data) {
            Ok(asked) if self.structured => asked,
            Ok(_) => return self.answer(option, answer::INVALID, b"structured replies first"),
            Err(reason) => return self.answer(option, answer::INVALID, reason.as_bytes()),
        };
        let export = match exports.open(&name) {
            Ok(export) => export,
            Err(reason) => return self.answer(option, answer::UNKNOWN, reason.as_bytes()),
        };
        let query = if lists { Query::List } else { Query::Set };
        let found = wanted(&export.bitmaps(), &queries, query);
        for context in found.answers(query) {
            self.answer(option, answer::META_CONTEXT, &context.encode())?;
        }
        if !lists {
            self.contexts = Some((name, found));
        }
        self.answer(option, answer::ACK, &[])
    }

    fn go(&mut self, option: u32, data: &[u8], exports: &dyn Exports) -> io::Result<Next> {
        let asked = match GoOption::parse(data) {
            Ok(asked) => asked,
            Err(reason) => {
                self.answer(option, answer::INVALID, reason.as_bytes())?;
                return Ok(Next::Option);
            }
        };
        let export = match exports.open(&asked.export) {
            Ok(export) => export,
            Err(reason) => {
                self.answer(option, answer::UNKNOWN, reason.as_bytes())?;
                return Ok(Next::Option);
            }
        };
        if export.unit() > 1 && !asked.facts.contains(&info::BLOCK_SIZE) {
            self.answer(option, answer::BLOCK_SIZE_REQUIRED, b"ask for the sizes of blocks")?;
            return Ok(Next::Option);
        }
        let size = Fact::Export { size: export.size(), flags: flags(&*export, self.structured) };
        let blocks = Fact::BlockSize {
            least: export.unit(),
            preferred: export.unit().max(64 << 10),
            most: DEFAULT_MAX_LEN,
        };
        for fact in [size, blocks] {
            self.answer(option, answer::INFO, &fact.encode())?;
        }
        self.answer(option, answer::ACK, &[])?;
        if option == option::INFO {
            return Ok(Next::Option);
        }
        Ok(Next::Chosen(export, self.contexts_of(&asked.export)))
    }

    fn export_name(&mut self, name: &[u8], exports: &dyn Exports) -> io::Result<Next> {
        let name =
            std::str::from_utf8(name).map_err(|_| wrong("the name of an export is no text"))?;
        let export = exports.open(name).map_err(wrong)?;
        if export.unit() > 1 {
            return Err(wrong("the client does not ask for the sizes of blocks"));
        }
        let flags = flags(&*export, self.structured).to_be_bytes();
        let padding: &[u8] = if self.no_zeroes { &[] } else { &PADDING };
        self.send(&[&export.size().to_be_bytes()[..], &flags, padding].concat())?;
        Ok(Next::Chosen(export, self.contexts_of(name)))
    }

    /// What was agreed on for another export does not hold for this one.
    fn contexts_of(&mut self, name: &str) -> Agreed {
        let agreed = self.contexts.take().filter(|(export, _)| export == name);
        agreed.map(|(_, contexts)| contexts).unwrap_or_default()
    }
}

/// What an export can do.
fn flags(export: &dyn Exported, structured: bool) -> u16 {
    let always = transmission::HAS_FLAGS | transmission::SEND_FLUSH;
    let shared = if export.is_shared() { transmission::CAN_MULTI_CONN } else { 0 };
    let fragments = if structured { transmission::SEND_DF } else { 0 };
    let writes = if export.is_read_only() {
        transmission::READ_ONLY
    } else {
        transmission::SEND_FUA | transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES
    };
    always | shared | fragments | writes
}
