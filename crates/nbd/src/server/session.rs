//! After the handshake: requests, and the answers to them, one after the other.

use std::{
    io::{self, BufReader, Read, Write},
    sync::Arc,
};

use super::{
    Exported, PIECE,
    contexts::{Agreed, bitmap_id},
    wire::{ALLOCATION_ID, receive, wrong},
};
use crate::proto::{
    BadRequest, BlockStatus, Command, DEFAULT_MAX_LEN, ErrorChunk, Reply, RequestHead, STATE_DIRTY,
    STATE_HOLE, STATE_ZERO, Stretch, chunk, chunk_bytes, request_flag,
};

/// The most stretches of one answer: a client asks again from where it ends.
const MAX_STRETCHES: usize = 4096;

/// Bytes before the data of an answer: no head is longer.
const HEAD: usize = 64;

/// Error numbers of the protocol, which are Linux's.
mod errno {
    pub(super) const PERM: u32 = 1;
    pub(super) const IO: u32 = 5;
    pub(super) const NO_MEMORY: u32 = 12;
    pub(super) const INVALID: u32 = 22;
    pub(super) const NO_SPACE: u32 = 28;
    pub(super) const NOT_SUPPORTED: u32 = 95;
    pub(super) const SHUTDOWN: u32 = 108;
}

/// A request that is refused or has failed: the connection continues.
struct Refusal {
    number: u32,
    words: String,
}

impl Refusal {
    fn new(number: u32, words: &str) -> Self {
        Self { number, words: words.to_owned() }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let number = match error.kind() {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => errno::PERM,
            Kind::OutOfMemory => errno::NO_MEMORY,
            Kind::InvalidInput => errno::INVALID,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => errno::NO_SPACE,
            Kind::Unsupported => errno::NOT_SUPPORTED,
            Kind::NotConnected => errno::SHUTDOWN,
            _ => errno::IO,
        };
        Self { number, words: error.to_string() }
    }
}

/// A client that has chosen an export.
pub struct Session<S: Read + Write> {
    stream: BufReader<S>,
    export: Arc<dyn Exported>,
    structured: bool,
    /// What was agreed on for block status.
    contexts: Agreed,
    /// Data on its way, behind room for the head of an answer: both are sent at once.
    piece: Vec<u8>,
}

impl<S: Read + Write> Session<S> {
    pub(crate) const fn new(
        stream: BufReader<S>,
        export: Arc<dyn Exported>,
        structured: bool,
        contexts: Agreed,
    ) -> Self {
        Self { stream, export, structured, contexts, piece: Vec::new() }
    }

    /// Answers requests until the client says goodbye.
    ///
    /// # Errors
    ///
    /// If the stream fails, or the client breaks a rule after which nothing it sends can be understood. What
    /// was answered before stays so.
    pub fn serve(&mut self) -> io::Result<()> {
        loop {
            let request = match RequestHead::parse(&receive(&mut self.stream)?) {
                Ok(request) => request,
                Err(BadRequest::NoRequest) => return Err(wrong("the client sends no requests")),
                Err(BadRequest::Unknown { cookie }) => {
                    self.refuse(cookie, &Refusal::new(errno::INVALID, "an unknown command"))?;
                    continue;
                }
            };
            let done = match request.command {
                Command::Disconnect => return Ok(()),
                Command::Read => self.read(request)?,
                Command::Write => self.write(request)?,
                Command::BlockStatus => self.status(request)?,
                Command::Flush => self.flush(request),
                Command::Trim | Command::WriteZeroes => self.clear(request),
                Command::Cache => Err(Refusal::new(errno::INVALID, "it does not read ahead")),
            };
            match done {
                Ok(true) => {}
                Ok(false) => self.done(request.cookie)?,
                Err(refusal) => self.refuse(request.cookie, &refusal)?,
            }
        }
    }

    fn send(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        parts.iter().try_for_each(|part| stream.write_all(part))?;
        stream.flush()
    }

    /// Answers that all was done and there is nothing to say.
    fn done(&mut self, cookie: u64) -> io::Result<()> {
        if self.structured {
            self.send(&[&chunk_bytes(true, chunk::NONE, cookie, &[])])
        } else {
            self.send(&[&Reply::Simple { error: 0, cookie }.encode()])
        }
    }

    fn refuse(&mut self, cookie: u64, refusal: &Refusal) -> io::Result<()> {
        if !self.structured {
            return self.send(&[&Reply::Simple { error: refusal.number, cookie }.encode()]);
        }
        let error = ErrorChunk { number: refusal.number, message: refusal.words.clone() };
        self.send(&[&chunk_bytes(true, chunk::ERROR, cookie, &error.encode())])
    }

    /// Checks flags and place of a request.
    fn check(&self, request: RequestHead, flags: u16) -> Result<(), Refusal> {
        let RequestHead { offset, len, .. } = request;
        let writes =
            matches!(request.command, Command::Write | Command::Trim | Command::WriteZeroes);
        if writes && self.export.is_read_only() {
            return Err(Refusal::new(errno::PERM, "it can only be read"));
        }
        if request.flags & !flags != 0 {
            return Err(Refusal::new(errno::INVALID, "an unknown flag"));
        }
        let unit = u64::from(self.export.unit().max(1));
        if !offset.is_multiple_of(unit) || !u64::from(len).is_multiple_of(unit) {
            return Err(Refusal::new(errno::INVALID, "it does not fit the sizes of blocks"));
        }
        let end = offset.checked_add(len.into());
        if end.is_none_or(|end| end > self.export.size()) {
            let number = if writes { errno::NO_SPACE } else { errno::INVALID };
            return Err(Refusal::new(number, "it goes beyond the end"));
        }
        Ok(())
    }

    /// The pieces of a request: offset and length of each.
    fn pieces(request: RequestHead) -> impl Iterator<Item = (u64, usize)> {
        let len = usize::try_from(request.len).unwrap_or(usize::MAX);
        (0..len).step_by(PIECE).map(move |at| {
            let offset = u64::try_from(at).unwrap_or(u64::MAX);
            (request.offset.saturating_add(offset), PIECE.min(len.saturating_sub(at)))
        })
    }

    /// Room for a piece.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = len.saturating_add(HEAD);
        if self.piece.len() < end {
            self.piece.resize(end, 0);
        }
        self.piece.get_mut(HEAD..end).unwrap_or_default()
    }

    /// Reads. True if it was answered.
    fn read(&mut self, request: RequestHead) -> io::Result<Result<bool, Refusal>> {
        let flags =
            request_flag::FUA | if self.structured { request_flag::DONT_FRAGMENT } else { 0 };
        if let Err(refusal) = self.check(request, flags) {
            return Ok(Err(refusal));
        }
        if request.len > DEFAULT_MAX_LEN {
            return Ok(Err(Refusal::new(errno::INVALID, "more than a read may ask for")));
        }
        // An answer of several chunks may break off with an error; one whose head is sent cannot.
        let whole = request.flags & request_flag::DONT_FRAGMENT != 0 || !self.structured;
        let mut is_first = true;
        for (offset, len) in Self::pieces(request) {
            let export = Arc::clone(&self.export);
            if let Err(error) = export.read(offset, self.room(len)) {
                if whole && !is_first {
                    return Err(error);
                }
                return Ok(Err(error.into()));
            }
            self.data(request, offset, len, whole, is_first)?;
            is_first = false;
        }
        // What came in chunks has no last one yet, and a read of nothing no answer.
        Ok(Ok(whole && !is_first))
    }

    /// Sends a piece of a read.
    fn data(
        &mut self,
        request: RequestHead,
        offset: u64,
        len: usize,
        whole: bool,
        is_first: bool,
    ) -> io::Result<()> {
        let cookie = request.cookie;
        let end = len.saturating_add(HEAD);
        let piece = self.piece.get(HEAD..end).unwrap_or_default();
        let part = u32::try_from(len).unwrap_or(u32::MAX);
        let hole = self.structured && !whole && is_zero(piece);
        let head = if hole {
            let place = [&offset.to_be_bytes()[..], &part.to_be_bytes()].concat();
            chunk_bytes(false, chunk::HOLE, cookie, &place)
        } else if whole && !is_first {
            Vec::new()
        } else if self.structured {
            let data = if whole { request.len } else { part };
            let head = Reply::Chunk { done: whole, kind: chunk::DATA, cookie }.encode();
            // The payload begins with the offset.
            let payload = data.saturating_add(8).to_be_bytes();
            [&head[..], &payload, &offset.to_be_bytes()].concat()
        } else {
            Reply::Simple { error: 0, cookie }.encode().to_vec()
        };
        let stream = self.stream.get_mut();
        let start = HEAD.saturating_sub(head.len());
        match self.piece.get_mut(start..HEAD) {
            Some(room) if !hole && room.len() == head.len() => {
                room.copy_from_slice(&head);
                stream.write_all(self.piece.get(start..end).unwrap_or_default())?;
            }
            _ => stream.write_all(&head)?,
        }
        stream.flush()
    }

    /// Takes what is to be written, whether it can be written or not.
    fn write(&mut self, request: RequestHead) -> io::Result<Result<bool, Refusal>> {
        if request.len > DEFAULT_MAX_LEN {
            // It need not be taken: nobody who keeps to the protocol sends it.
            return Err(wrong("the client writes more at once than it may"));
        }
        let mut result = self.check(request, request_flag::FUA);
        let export = Arc::clone(&self.export);
        for (offset, len) in Self::pieces(request) {
            self.room(len);
            let piece = self.piece.get_mut(HEAD..len.saturating_add(HEAD)).unwrap_or_default();
            self.stream.read_exact(piece)?;
            if result.is_ok() {
                result = export.write(offset, piece).map_err(Refusal::from);
            }
        }
        Ok(result.and_then(|()| self.settle(request)))
    }

    /// Flushes where the request wants its bytes on stable storage before the answer.
    fn settle(&self, request: RequestHead) -> Result<bool, Refusal> {
        if request.flags & request_flag::FUA != 0 {
            self.export.flush()?;
        }
        Ok(false)
    }

    fn flush(&self, request: RequestHead) -> Result<bool, Refusal> {
        if request.offset != 0 || request.len != 0 {
            return Err(Refusal::new(errno::INVALID, "a flush has no place"));
        }
        self.export.flush()?;
        Ok(false)
    }

    fn clear(&self, request: RequestHead) -> Result<bool, Refusal> {
        let RequestHead { offset, len, .. } = request;
        if request.command == Command::Trim {
            self.check(request, request_flag::FUA)?;
            self.export.trim(offset, len.into())?;
        } else {
            self.check(request, request_flag::FUA | request_flag::NO_HOLE)?;
            let may_punch = request.flags & request_flag::NO_HOLE == 0;
            self.export.zero(offset, len.into(), may_punch)?;
        }
        self.settle(request)
    }

    /// What the contexts say of a range, one answer each. True if it was answered.
    fn status(&mut self, request: RequestHead) -> io::Result<Result<bool, Refusal>> {
        let found = match self.statuses(request) {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let last = found.len().saturating_sub(1);
        for (index, status) in found.iter().enumerate() {
            let is_last = index == last;
            let encoded = status.encode();
            self.send(&[&chunk_bytes(is_last, chunk::BLOCK_STATUS, request.cookie, &encoded)])?;
        }
        Ok(Ok(true))
    }

    fn statuses(&self, request: RequestHead) -> Result<Vec<BlockStatus>, Refusal> {
        self.check(request, request_flag::ONE_EXTENT)?;
        if self.contexts.is_empty() {
            return Err(Refusal::new(errno::INVALID, "no context was agreed on"));
        }
        if request.len == 0 {
            return Err(Refusal::new(errno::INVALID, "a block status of nothing"));
        }
        let (offset, len) = (request.offset, u64::from(request.len));
        let mut all = Vec::new();
        if self.contexts.allocation {
            let found = self.export.allocation(offset, len)?.into_iter();
            let state = |is_hole| if is_hole { STATE_HOLE | STATE_ZERO } else { 0 };
            let found = found.map(|stretch| (stretch.len, state(stretch.is_hole)));
            all.push(BlockStatus { context: ALLOCATION_ID, stretches: stretches(request, found)? });
        }
        for (place, _) in &self.contexts.bitmaps {
            let found = self.export.changed(*place, offset, len)?.into_iter();
            let state = |is_dirty| if is_dirty { STATE_DIRTY } else { 0 };
            let found = found.map(|stretch| (stretch.len, state(stretch.is_dirty)));
            all.push(BlockStatus {
                context: bitmap_id(*place),
                stretches: stretches(request, found)?,
            });
        }
        Ok(all)
    }
}

/// What fits into one answer to a request.
fn stretches(
    request: RequestHead,
    found: impl Iterator<Item = (u64, u32)>,
) -> Result<Vec<Stretch>, Refusal> {
    let one = request.flags & request_flag::ONE_EXTENT != 0;
    let most = if one { 1 } else { MAX_STRETCHES };
    let mut left = request.len;
    let mut stretches = Vec::new();
    for (len, state) in found {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(left);
        if len == 0 || stretches.len() == most {
            break;
        }
        stretches.push(Stretch { len, state });
        left = left.saturating_sub(len);
    }
    if stretches.is_empty() {
        return Err(Refusal::new(errno::IO, "it does not know what is there"));
    }
    Ok(stretches)
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
