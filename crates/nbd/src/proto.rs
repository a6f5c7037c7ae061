//! The messages of both sides: numbers, options, requests, answers.
//!
//! Every message is written by `encode` and read by `parse`. Reading believes nothing: lengths have limits,
//! what is left over is refused.

use std::io;

mod handshake;
mod transfer;

#[cfg(test)]
mod tests;

pub use handshake::{
    Context, ContextOption, Fact, GoOption, Greeting, OptionHead, OptionReply, option_bytes,
};
pub use transfer::{BadRequest, BlockStatus, ErrorChunk, Reply, RequestHead, Stretch, chunk_bytes};

/// The most bytes of an export's name, a context's name or a message.
pub const MAX_STRING: usize = 4096;
/// The most bytes of an option's data, and of an answer to an option.
pub const MAX_OPTION: u32 = 64 << 10;
/// The most bytes of one read or write if the server does not say.
pub const DEFAULT_MAX_LEN: u32 = 32 << 20;
/// The most bytes of a block-status answer: two million stretches.
pub const MAX_STATUS: u32 = 16 << 20;
/// The most bytes of an error answer.
pub const MAX_ERROR: u32 = 8 << 10;

/// The context of holes and zeros.
pub const ALLOCATION: &str = "base:allocation";
/// What the name of a dirty bitmap's context starts with.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";
/// Bit of a `base:allocation` extent: nothing is stored there.
pub const STATE_HOLE: u32 = 1;
/// Bit of a `base:allocation` extent: it reads as zeros.
pub const STATE_ZERO: u32 = 2;
/// Bit of a `qemu:dirty-bitmap` extent: it has changed.
pub const STATE_DIRTY: u32 = 1;

/// Handshake flag: options are answered as the current protocol says.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no padding after the oldest kind of negotiation.
pub const NO_ZEROES: u16 = 2;

/// Options of the handshake.
pub mod option {
    /// The client goes away.
    pub const ABORT: u32 = 2;
    /// Which exports are there?
    pub const LIST: u32 = 3;
    /// From here on encrypted.
    pub const START_TLS: u32 = 5;
    /// What is this export? Nothing is chosen by it.
    pub const INFO: u32 = 6;
    /// This export; ends the handshake.
    pub const GO: u32 = 7;
    /// Answers may come in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which contexts are there?
    pub const LIST_META_CONTEXT: u32 = 9;
    /// These contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of answers to options.
pub mod answer {
    /// Agreed, or the last answer of several.
    pub const ACK: u32 = 1;
    /// An export's name.
    pub const SERVER: u32 = 2;
    /// A fact of an export.
    pub const INFO: u32 = 3;
    /// A context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every refusal.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is not known.
    pub const UNSUPPORTED: u32 = ERROR_BIT + 1;
    /// It is forbidden.
    pub const POLICY: u32 = ERROR_BIT + 2;
    /// The option's data has a wrong form.
    pub const INVALID: u32 = ERROR_BIT + 3;
    /// Not without encryption.
    pub const TLS_REQUIRED: u32 = ERROR_BIT + 5;
    /// There is no such export.
    pub const UNKNOWN: u32 = ERROR_BIT + 6;
    /// Not without the export's block sizes.
    pub const BLOCK_SIZE_REQUIRED: u32 = ERROR_BIT + 8;
}

/// Facts in answers to [`option::GO`].
pub mod info {
    /// Size and abilities.
    pub const EXPORT: u16 = 0;
    /// The export's name.
    pub const NAME: u16 = 1;
    /// Sizes of blocks.
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub mod transmission {
    /// Says that the other flags mean something.
    pub const HAS_FLAGS: u16 = 1;
    /// It is only read.
    pub const READ_ONLY: u16 = 1 << 1;
    /// It knows [`Command::Flush`](super::Command::Flush).
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// It knows forced unit access.
    pub const SEND_FUA: u16 = 1 << 3;
    /// It knows [`Command::Trim`](super::Command::Trim).
    pub const SEND_TRIM: u16 = 1 << 5;
    /// It knows [`Command::WriteZeroes`](super::Command::WriteZeroes).
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// It knows [`request_flag::DONT_FRAGMENT`](super::request_flag::DONT_FRAGMENT).
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see the same bytes.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Flags of requests.
pub mod request_flag {
    /// Answer only when it is on stable storage.
    pub const FUA: u16 = 1;
    /// Zeros must not become a hole.
    pub const NO_HOLE: u16 = 1 << 1;
    /// Answer in one chunk.
    pub const DONT_FRAGMENT: u16 = 1 << 2;
    /// One stretch a context.
    pub const ONE_EXTENT: u16 = 1 << 3;
}

/// Kinds of chunks.
pub mod chunk {
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// Bytes of a read.
    pub const DATA: u16 = 1;
    /// Zeros of a read.
    pub const HOLE: u16 = 2;
    /// Stretches of a context.
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in every kind of error.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error of the whole request.
    pub const ERROR: u16 = ERROR_BIT + 1;
}

/// What is asked of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read bytes.
    Read,
    /// Write bytes.
    Write,
    /// Go away; there is no answer.
    Disconnect,
    /// Put what was written onto stable storage.
    Flush,
    /// Forget bytes.
    Trim,
    /// Expect reads.
    Cache,
    /// Write zeros.
    WriteZeroes,
    /// Tell the stretches of the contexts that were agreed on.
    BlockStatus,
}

impl Command {
    const ALL: [(Self, u16); 8] = [
        (Self::Read, 0),
        (Self::Write, 1),
        (Self::Disconnect, 2),
        (Self::Flush, 3),
        (Self::Trim, 4),
        (Self::Cache, 5),
        (Self::WriteZeroes, 6),
        (Self::BlockStatus, 7),
    ];

    fn number(self) -> u16 {
        Self::ALL.iter().find(|(command, _)| *command == self).map_or(u16::MAX, |(_, n)| *n)
    }

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == number).map(|(command, _)| *command)
    }
}

/// A broken rule of the protocol, in words.
pub type Reason = String;

/// Cuts values off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string as the protocol writes them: its length, then its bytes.
    fn string(&mut self) -> Option<String> {
        let len = usize::try_from(self.u32()?).ok().filter(|len| *len <= MAX_STRING)?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a string as the protocol writes them. Longer ones than [`MAX_STRING`] are refused by the code that
/// reads them.
fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// Joins parts that are `N` bytes long in all; what does not fit is left out.
fn joined<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    let from = parts.iter().flat_map(|part| part.iter());
    bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    bytes
}

/// The error of a number that a server sent: the protocol's numbers are Linux's.
pub fn errno(number: u32) -> io::Error {
    match number {
        1 | 5 | 12 | 22 | 28 | 75 | 95 | 108 => {
            io::Error::from_raw_os_error(i32::try_from(number).unwrap_or(5))
        }
        _ => io::Error::other(format!("error number {number} from the server")),
    }
}

/// What the other side said, fit to be shown: short, and without control characters.
pub fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
