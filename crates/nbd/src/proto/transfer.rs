//! After the handshake: requests, and the answers to them.

use super::{Command, Fields, MAX_STRING, Reason, joined, printable};

/// The start of a request.
const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The start of a simple answer.
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The start of a structured answer's chunk.
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The head of a request; for [`Command::Write`] `len` bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// See [`request_flag`](super::request_flag).
    pub flags: u16,
    /// What is asked.
    pub command: Command,
    /// By which the answer names the request.
    pub cookie: u64,
    /// The first byte that it is about.
    pub offset: u64,
    /// How many bytes.
    pub len: u32,
}

impl RequestHead {
    /// Its bytes.
    pub const LEN: usize = 28;

    /// As it is sent.
    pub fn encode(self) -> [u8; Self::LEN] {
        joined(&[
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.command.number().to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    /// As it was received. A command that is not known keeps its cookie, so that the request can be
    /// refused and the connection continue; its length is that of no data.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, BadRequest> {
        let mut fields = Fields(bytes);
        if fields.u32() != Some(REQUEST_MAGIC) {
            return Err(BadRequest::NoRequest);
        }
        let head = fields.u16().zip(fields.u16()).zip(fields.u64());
        let place = fields.u64().zip(fields.u32());
        match head.zip(place) {
            Some((((flags, number), cookie), (offset, len))) => {
                match Command::from_number(number) {
                    Some(command) => Ok(Self { flags, command, cookie, offset, len }),
                    None => Err(BadRequest::Unknown { cookie }),
                }
            }
            None => Err(BadRequest::NoRequest),
        }
    }
}

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// The client does not keep to the protocol: the connection is of no more use.
    NoRequest,
    /// The command is not known.
    Unknown {
        /// The request's.
        cookie: u64,
    },
}

/// The head of an answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// All there is; for a read without an error the data follows.
    Simple {
        /// 0, or an error number.
        error: u32,
        /// The request's.
        cookie: u64,
    },
    /// A part; [`Reply::CHUNK_REST_LEN`] bytes with the length of its payload follow, then the payload.
    Chunk {
        /// Whether it is the last.
        done: bool,
        /// See [`chunk`](super::chunk).
        kind: u16,
        /// The request's.
        cookie: u64,
    },
}

impl Reply {
    /// Bytes that the head of every answer has.
    pub const LEN: usize = 16;
    /// What a chunk's head has beyond [`Reply::LEN`]: the length of what follows.
    pub const CHUNK_REST_LEN: usize = 4;

    /// As it is sent.
    pub fn encode(self) -> [u8; Self::LEN] {
        match self {
            Self::Simple { error, cookie } => joined(&[
                &SIMPLE_REPLY_MAGIC.to_be_bytes(),
                &error.to_be_bytes(),
                &cookie.to_be_bytes(),
            ]),
            Self::Chunk { done, kind, cookie } => joined(&[
                &CHUNK_MAGIC.to_be_bytes(),
                &u16::from(done).to_be_bytes(),
                &kind.to_be_bytes(),
                &cookie.to_be_bytes(),
            ]),
        }
    }

    /// As it was received.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Reason> {
        let mut fields = Fields(bytes);
        let parsed = match fields.u32() {
            Some(SIMPLE_REPLY_MAGIC) => {
                fields.u32().zip(fields.u64()).map(|(error, cookie)| Self::Simple { error, cookie })
            }
            Some(CHUNK_MAGIC) => {
                let flags = fields.u16();
                flags.zip(fields.u16()).zip(fields.u64()).map(|((flags, kind), cookie)| {
                    Self::Chunk { done: flags & 1 != 0, kind, cookie }
                })
            }
            _ => None,
        };
        parsed.ok_or_else(|| "it answers with bytes that are no answer".to_owned())
    }
}

/// The bytes of a chunk with its payload.
pub fn chunk_bytes(done: bool, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&Reply::Chunk { done, kind, cookie }.encode()[..], &len, payload].concat()
}

/// A stretch of a block-status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its bytes: at least one.
    pub len: u32,
    /// Its state in the context, for example [`STATE_ZERO`](super::STATE_ZERO).
    pub state: u32,
}

/// The payload of a block-status chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStatus {
    /// Which context.
    pub context: u32,
    /// Its stretches, the first at the request's offset. At least one.
    pub stretches: Vec<Stretch>,
}

impl BlockStatus {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.context.to_be_bytes().to_vec();
        for stretch in &self.stretches {
            bytes.extend_from_slice(&stretch.len.to_be_bytes());
            bytes.extend_from_slice(&stretch.state.to_be_bytes());
        }
        bytes
    }

    /// As it was received.
    pub fn parse(payload: &[u8]) -> Result<Self, Reason> {
        let wrong = || "a block-status answer of a wrong form".to_owned();
        let (id, rest) = payload.split_first_chunk::<4>().ok_or_else(wrong)?;
        let (stretches, odd) = rest.as_chunks::<8>();
        if stretches.is_empty() || !odd.is_empty() {
            return Err(wrong());
        }
        let stretches = stretches.iter().map(|bytes| {
            let mut fields = Fields(bytes);
            let (len, state) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
            if len == 0 { Err(wrong()) } else { Ok(Stretch { len, state }) }
        });
        let stretches = stretches.collect::<Result<_, _>>()?;
        Ok(Self { context: u32::from_be_bytes(*id), stretches })
    }
}

/// The payload of an error chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorChunk {
    /// The protocol's number, which is Linux's.
    pub number: u32,
    /// The server's words.
    pub message: String,
}

impl ErrorChunk {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let text = self.message.as_bytes();
        let text = text.get(..text.len().min(MAX_STRING)).unwrap_or_default();
        let len = u16::try_from(text.len()).unwrap_or(0);
        [&self.number.to_be_bytes()[..], &len.to_be_bytes(), text].concat()
    }

    /// As it was received. What follows the message, which some kinds of errors have, is ignored.
    pub fn parse(payload: &[u8]) -> Result<Self, Reason> {
        let mut fields = Fields(payload);
        let head = fields.u32().zip(fields.u16());
        let (number, len) = head.ok_or("an error answer of a wrong form")?;
        let text = fields.0.get(..usize::from(len).min(fields.0.len())).unwrap_or_default();
        Ok(Self { number, message: printable(text) })
    }
}
