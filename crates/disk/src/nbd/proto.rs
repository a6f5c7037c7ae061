//! The bytes of the NBD protocol: numbers, requests, and the headers of answers.
//!
//! Pure: it takes and gives bytes, and believes nothing about them. The protocol is specified at
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

use std::io;

/// `NBDMAGIC`, the server's first word.
pub(super) const HELLO: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, its second word, and the start of every option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The start of an answer to an option.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The start of a request.
const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The start of a simple answer.
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The start of a structured answer's chunk.
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: options are answered as the current protocol says.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no padding after the oldest kind of negotiation.
pub(super) const NO_ZEROES: u16 = 2;

/// Options of the handshake.
pub(super) mod option {
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const START_TLS: u32 = 5;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of answers to options.
pub(super) mod answer {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    pub(in crate::nbd) const ERROR_BIT: u32 = 1 << 31;
    pub(in crate::nbd) const POLICY: u32 = ERROR_BIT + 2;
    pub(in crate::nbd) const TLS_REQUIRED: u32 = ERROR_BIT + 5;
    pub(in crate::nbd) const UNKNOWN: u32 = ERROR_BIT + 6;
}

/// Facts in answers to [`option::GO`].
pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub(super) mod transmission {
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const SEND_FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::nbd) const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    WriteZeroes,
    BlockStatus,
}

impl Command {
    const fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
        }
    }
}

/// Bit of a `base:allocation` extent: it reads as zeros.
pub(super) const STATE_ZERO: u32 = 2;
/// Bit of a `qemu:dirty-bitmap` extent: it has changed.
pub(super) const STATE_DIRTY: u32 = 1;

/// A broken rule of the protocol, in words.
pub(super) type Reason = String;

/// Cuts values off the front of bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The bytes of a request, without its data.
pub(super) fn request(command: Command, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    let (magic, rest) = bytes.split_at_mut(4);
    magic.copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    let (flags_and_command, rest) = rest.split_at_mut(4);
    flags_and_command.copy_from_slice(&u32::from(command.number()).to_be_bytes());
    let (to, rest) = rest.split_at_mut(8);
    to.copy_from_slice(&cookie.to_be_bytes());
    let (to, rest) = rest.split_at_mut(8);
    to.copy_from_slice(&offset.to_be_bytes());
    rest.copy_from_slice(&len.to_be_bytes());
    bytes
}

/// The bytes of an option.
pub(super) fn option_bytes(number: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let parts: [&[u8]; 4] =
        [&OPTION_MAGIC.to_be_bytes(), &number.to_be_bytes(), &len.to_be_bytes(), data];
    parts.concat()
}

/// Appends a string as the protocol writes them: its length, then its bytes.
pub(super) fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// Bytes of an [`OptionReply`]'s head.
pub(super) const OPTION_REPLY_LEN: usize = 20;

/// The head of an answer to an option.
pub(super) struct OptionReply {
    pub(super) kind: u32,
    pub(super) len: u32,
}

impl OptionReply {
    pub(super) fn parse(head: &[u8; OPTION_REPLY_LEN], asked: u32) -> Result<Self, Reason> {
        let mut fields = Fields(head);
        if fields.u64() != Some(OPTION_REPLY_MAGIC) || fields.u32() != Some(asked) {
            return Err("it answers the handshake with something else".to_owned());
        }
        match (fields.u32(), fields.u32()) {
            (Some(kind), Some(len)) => Ok(Self { kind, len }),
            _ => Err("a short answer in the handshake".to_owned()),
        }
    }
}

/// Bytes that the head of every answer has; a chunk's has [`CHUNK_REST_LEN`] more.
pub(super) const REPLY_LEN: usize = 16;

/// What a chunk's head has beyond [`REPLY_LEN`]: the length of what follows.
pub(super) const CHUNK_REST_LEN: usize = 4;

/// The head of an answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// All there is; for a read without an error the data follows.
    Simple { error: u32, cookie: u64 },
    /// A part; the length of its payload follows.
    Chunk { done: bool, kind: u16, cookie: u64 },
}

impl Reply {
    pub(super) fn parse(head: &[u8; REPLY_LEN]) -> Result<Self, Reason> {
        let mut fields = Fields(head);
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

/// Kinds of chunks.
pub(super) mod chunk {
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const DATA: u16 = 1;
    pub(in crate::nbd) const HOLE: u16 = 2;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 5;
    pub(in crate::nbd) const ERROR_BIT: u16 = 1 << 15;
}

/// A stretch of a block-status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) len: u32,
    pub(super) state: u32,
}

/// The payload of a block-status chunk: which context, and its stretches.
pub(super) fn block_status(payload: &[u8]) -> Result<(u32, Vec<Stretch>), Reason> {
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
    Ok((u32::from_be_bytes(*id), stretches.collect::<Result<_, _>>()?))
}

/// The payload of an error chunk.
pub(super) fn error_chunk(payload: &[u8]) -> Result<io::Error, Reason> {
    let mut fields = Fields(payload);
    let number = fields.u32().zip(fields.u16());
    let (number, _message_len) = number.ok_or("an error answer of a wrong form")?;
    Ok(errno(number))
}

/// The protocol's error numbers are Linux's.
pub(super) fn errno(number: u32) -> io::Error {
    match number {
        1 | 5 | 12 | 22 | 28 | 75 | 95 | 108 => {
            io::Error::from_raw_os_error(i32::try_from(number).unwrap_or(5))
        }
        _ => io::Error::other(format!("error number {number} from the server")),
    }
}

/// What a server said, fit to be shown: short, and without control characters.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
