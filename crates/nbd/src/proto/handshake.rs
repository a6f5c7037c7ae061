//! The handshake: greeting, options, and the answers to them.

use super::{FIXED_NEWSTYLE, Fields, MAX_OPTION, Reason, info, joined, push_string};

/// `NBDMAGIC`, the server's first word.
const HELLO: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, its second word, and the start of every option.
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The start of an answer to an option.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// The first thing that a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// [`FIXED_NEWSTYLE`] and others.
    pub flags: u16,
}

impl Greeting {
    /// Its bytes.
    pub const LEN: usize = 18;

    /// As it is sent.
    pub fn encode(self) -> [u8; Self::LEN] {
        joined(&[&HELLO.to_be_bytes(), &OPTION_MAGIC.to_be_bytes(), &self.flags.to_be_bytes()])
    }

    /// As it was received.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        if fields.u64() != Some(HELLO) {
            return Err("it is not an NBD server".to_owned());
        }
        let style = fields.u64();
        match fields.u16() {
            Some(flags) if style == Some(OPTION_MAGIC) && flags & FIXED_NEWSTYLE != 0 => {
                Ok(Self { flags })
            }
            _ => Err("it speaks only an old form of the protocol".to_owned()),
        }
    }
}

/// The head of an option; `len` bytes of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHead {
    /// See [`option`](super::option).
    pub option: u32,
    /// At most [`MAX_OPTION`].
    pub len: u32,
}

impl OptionHead {
    /// Its bytes.
    pub const LEN: usize = 16;

    /// As it is sent.
    pub fn encode(self) -> [u8; Self::LEN] {
        let (option, len) = (self.option.to_be_bytes(), self.len.to_be_bytes());
        joined(&[&OPTION_MAGIC.to_be_bytes(), &option, &len])
    }

    /// As it was received.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        if fields.u64() != Some(OPTION_MAGIC) {
            return Err("it sends something else than options".to_owned());
        }
        match (fields.u32(), fields.u32()) {
            (Some(option), Some(len)) if len <= MAX_OPTION => Ok(Self { option, len }),
            _ => Err("an option is too long".to_owned()),
        }
    }
}

/// The bytes of an option with its data.
pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [OptionHead { option, len }.encode().as_slice(), data].concat()
}

/// The data of [`option::GO`](super::option::GO) and [`option::INFO`](super::option::INFO).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoOption {
    /// The export's name; may be empty.
    pub export: String,
    /// The facts that are asked for: see [`info`].
    pub facts: Vec<u16>,
}

impl GoOption {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_string(&mut bytes, &self.export);
        bytes.extend_from_slice(&u16::try_from(self.facts.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.facts.iter().for_each(|fact| bytes.extend_from_slice(&fact.to_be_bytes()));
        bytes
    }

    /// As it was received.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        let mut parse = || {
            let export = fields.string()?;
            let count = fields.u16()?;
            let facts = (0..count).map(|_| fields.u16()).collect::<Option<_>>()?;
            fields.is_empty().then_some(Self { export, facts })
        };
        parse().ok_or_else(|| "a choice of an export of a wrong form".to_owned())
    }
}

/// The data of [`option::SET_META_CONTEXT`](super::option::SET_META_CONTEXT) and [`option::LIST_META_CONTEXT`](super::option::LIST_META_CONTEXT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextOption {
    /// The export's name; may be empty.
    pub export: String,
    /// The contexts that are asked for.
    pub queries: Vec<String>,
}

impl ContextOption {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_string(&mut bytes, &self.export);
        bytes.extend_from_slice(&u32::try_from(self.queries.len()).unwrap_or(0).to_be_bytes());
        self.queries.iter().for_each(|query| push_string(&mut bytes, query));
        bytes
    }

    /// As it was received.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        let mut parse = || {
            let export = fields.string()?;
            let count = fields.u32()?;
            // A query is four bytes at least: the count is believed only as far as there are bytes.
            let queries = (0..count).map(|_| fields.string()).collect::<Option<_>>()?;
            fields.is_empty().then_some(Self { export, queries })
        };
        parse().ok_or_else(|| "a choice of contexts of a wrong form".to_owned())
    }
}

/// The head of an answer to an option; `len` bytes of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that it answers.
    pub option: u32,
    /// See [`answer`](super::answer).
    pub kind: u32,
    /// At most [`MAX_OPTION`].
    pub len: u32,
}

impl OptionReply {
    /// Its bytes.
    pub const LEN: usize = 20;

    /// As it is sent.
    pub fn encode(self) -> [u8; Self::LEN] {
        let numbers = [self.option, self.kind, self.len].map(u32::to_be_bytes);
        joined(&[&OPTION_REPLY_MAGIC.to_be_bytes(), numbers.as_flattened()])
    }

    /// As it was received in answer to the option `asked`.
    pub fn parse(bytes: &[u8; Self::LEN], asked: u32) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        if fields.u64() != Some(OPTION_REPLY_MAGIC) || fields.u32() != Some(asked) {
            return Err("it answers the handshake with something else".to_owned());
        }
        match (fields.u32(), fields.u32()) {
            (Some(kind), Some(len)) if len <= MAX_OPTION => Ok(Self { option: asked, kind, len }),
            _ => Err("an answer in the handshake is too long".to_owned()),
        }
    }
}

/// A fact of an export: the data of an answer of the kind [`answer::INFO`](super::answer::INFO).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// How large it is and what it can do.
    Export {
        /// Bytes.
        size: u64,
        /// See [`transmission`](super::transmission).
        flags: u16,
    },
    /// Sizes of blocks.
    BlockSize {
        /// Every offset and length is a multiple of it.
        least: u32,
        /// What is best.
        preferred: u32,
        /// The most bytes of one read or write.
        most: u32,
    },
    /// Something else, which may be ignored.
    Other(u16),
}

impl Fact {
    /// As it is sent. Nothing is said of an unknown fact but its number.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Export { size, flags } => {
                [&info::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()]
                    .concat()
            }
            Self::BlockSize { least, preferred, most } => {
                let sizes = [least, preferred, most].map(|size| size.to_be_bytes());
                [&info::BLOCK_SIZE.to_be_bytes()[..], sizes.as_flattened()].concat()
            }
            Self::Other(number) => number.to_be_bytes().to_vec(),
        }
    }

    /// As it was received.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        match fields.u16() {
            Some(info::EXPORT) => {
                let fact = fields.u64().zip(fields.u16());
                fact.map(|(size, flags)| Self::Export { size, flags })
                    .ok_or_else(|| "a size of a wrong form".to_owned())
            }
            Some(info::BLOCK_SIZE) => {
                let sizes = fields.u32().zip(fields.u32()).zip(fields.u32());
                sizes
                    .map(|((least, preferred), most)| Self::BlockSize { least, preferred, most })
                    .ok_or_else(|| "block sizes of a wrong form".to_owned())
            }
            Some(other) => Ok(Self::Other(other)),
            None => Err("a fact of a wrong form".to_owned()),
        }
    }
}

/// A context that was agreed on: the data of an answer of the kind [`answer::META_CONTEXT`](super::answer::META_CONTEXT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// By which number block status names it.
    pub id: u32,
    /// Its name.
    pub name: Vec<u8>,
}

impl Context {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        [&self.id.to_be_bytes()[..], &self.name].concat()
    }

    /// As it was received.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        let id = fields.u32().ok_or("a context of a wrong form")?;
        Ok(Self { id, name: fields.0.to_vec() })
    }
}
