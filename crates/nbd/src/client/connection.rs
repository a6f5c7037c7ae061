//! Requests and their answers over one connection.
//!
//! A connection does one batch of requests at a time: all are sent, then answers are received in
//! whatever order they come. The first broken rule or failed transfer ends the connection; an
//! error that the server reports for a request does not.

use std::io::{self, BufReader, Read, Write};

use strongroom_base::{ByteRange, RangeSet};

use super::handshake::{Export, receive, transport};
use crate::proto::{
    self, BlockStatus, Command, ErrorChunk, MAX_ERROR, MAX_STATUS, Reason, Reply, RequestHead,
    Stretch, chunk,
};

/// The most chunks of one answer.
const MAX_CHUNKS: u32 = 1 << 16;

/// What moves with a request.
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// Bytes to the server.
    Out(&'a [u8]),
    /// Bytes from the server.
    In(&'a mut [u8]),
    /// Stretches of the contexts that were agreed on: number and stretches.
    Status(Vec<(u32, Vec<Stretch>)>),
}

/// A request and what becomes of it.
pub struct Request<'a> {
    command: Command,
    offset: u64,
    len: u32,
    /// What moves.
    pub payload: Payload<'a>,
    /// The error that the server reported for it.
    pub error: Option<io::Error>,
    answered: bool,
    chunks: u32,
    received: Vec<ByteRange>,
    received_len: u64,
}

impl<'a> Request<'a> {
    /// A request for `len` bytes from `offset`, or for all of what moves.
    pub fn new(command: Command, offset: u64, len: u32, payload: Payload<'a>) -> Self {
        Self {
            command,
            offset,
            len,
            payload,
            error: None,
            answered: false,
            chunks: 0,
            received: Vec::new(),
            received_len: 0,
        }
    }

    /// Its head, as it is sent.
    fn head(&self, cookie: u64) -> RequestHead {
        let Self { command, offset, len, .. } = *self;
        RequestHead { flags: 0, command, cookie, offset, len }
    }

    /// Notes that `len` bytes from `offset` have come; they must lie within the request, and in
    /// sum be no more than it.
    fn note(&mut self, offset: u64, len: u64) -> Result<usize, Reason> {
        let whole = ByteRange::between(self.offset, self.offset.saturating_add(self.len.into()));
        let range = ByteRange::new(offset, len).map_err(|error| error.to_string())?;
        self.received_len = self.received_len.saturating_add(len);
        if range.is_empty()
            || range.intersect(whole) != range
            || self.received_len > u64::from(self.len)
        {
            return Err("it sends data that was not asked for".to_owned());
        }
        self.received.push(range);
        Ok(length(offset.saturating_sub(self.offset)))
    }

    /// The answer is complete.
    fn finish(&mut self) -> Result<(), Reason> {
        self.answered = true;
        let complete = self.error.is_some()
            || match &self.payload {
                Payload::In(_) => {
                    let received = RangeSet::from_unsorted(std::mem::take(&mut self.received));
                    received.total_len() == u64::from(self.len)
                }
                Payload::Status(contexts) => !contexts.is_empty(),
                Payload::None | Payload::Out(_) => true,
            };
        if complete { Ok(()) } else { Err("it leaves out a part of the answer".to_owned()) }
    }
}

/// A connection to an export.
#[derive(Debug)]
pub struct Connection<S> {
    stream: BufReader<S>,
    structured: bool,
    next_cookie: u64,
}

impl<S: Read + Write> Connection<S> {
    /// The connection after its handshake.
    pub fn new(stream: BufReader<S>, export: &Export) -> Self {
        Self { stream, structured: export.structured, next_cookie: 1 }
    }

    /// Does requests. An error means that the connection is of no more use.
    pub fn run(&mut self, batch: &mut [Request<'_>]) -> Result<(), Reason> {
        let first = self.next_cookie;
        for request in &*batch {
            let head = request.head(self.next_cookie).encode();
            self.next_cookie = self.next_cookie.wrapping_add(1);
            let stream = self.stream.get_mut();
            let sent = stream.write_all(&head).and_then(|()| match &request.payload {
                Payload::Out(bytes) => stream.write_all(bytes),
                _ => Ok(()),
            });
            sent.and_then(|()| stream.flush()).map_err(|error| transport(&error))?;
        }
        receive_answers(&mut self.stream, self.structured, first, batch)
    }

    /// Says goodbye.
    pub fn end(mut self) {
        let goodbye = Request::new(Command::Disconnect, 0, 0, Payload::None);
        let head = goodbye.head(self.next_cookie).encode();
        let stream = self.stream.get_mut();
        // The server may be gone already.
        stream.write_all(&head).and_then(|()| stream.flush()).ok();
    }
}

/// A length in memory; what does not fit becomes the largest, which no buffer has.
fn length(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Receives until every request of `batch` is answered; the first has the cookie `first`.
pub fn receive_answers(
    stream: &mut impl Read,
    structured: bool,
    first: u64,
    batch: &mut [Request<'_>],
) -> Result<(), Reason> {
    let mut left = batch.len();
    while left > 0 {
        let reply = Reply::parse(&receive(stream)?)?;
        let (Reply::Simple { cookie, .. } | Reply::Chunk { cookie, .. }) = reply;
        let request = batch
            .get_mut(length(cookie.wrapping_sub(first)))
            .filter(|request| !request.answered)
            .ok_or("it answers a request that was not sent")?;
        match reply {
            Reply::Simple { error, .. } => simple(stream, structured, error, request)?,
            Reply::Chunk { done, kind, .. } => {
                if !structured {
                    return Err("it answers in a form that was not agreed on".to_owned());
                }
                request.chunks = request.chunks.saturating_add(1);
                if request.chunks > MAX_CHUNKS || (kind == chunk::NONE && !done) {
                    return Err("it never ends its answer".to_owned());
                }
                let len = u32::from_be_bytes(receive::<{ Reply::CHUNK_REST_LEN }>(stream)?);
                one_chunk(stream, kind, len, request)?;
                if done {
                    request.finish()?;
                }
            }
        }
        if request.answered {
            left = left.saturating_sub(1);
        }
    }
    Ok(())
}

fn simple(
    stream: &mut impl Read,
    structured: bool,
    error: u32,
    request: &mut Request<'_>,
) -> Result<(), Reason> {
    if error != 0 {
        request.error = Some(proto::errno(error));
        return request.finish();
    }
    request.note_all()?;
    if let Payload::In(buf) = &mut request.payload {
        if structured {
            return Err("it answers a read in a form that was not agreed on".to_owned());
        }
        stream.read_exact(buf).map_err(|error| transport(&error))?;
    }
    request.finish()
}

impl Request<'_> {
    /// Notes that all of a read comes at once.
    fn note_all(&mut self) -> Result<(), Reason> {
        if matches!(self.payload, Payload::In(_)) {
            self.note(self.offset, self.len.into())?;
        }
        Ok(())
    }
}

fn one_chunk(
    stream: &mut impl Read,
    kind: u16,
    len: u32,
    request: &mut Request<'_>,
) -> Result<(), Reason> {
    let offset_len = 8_u32;
    match kind {
        chunk::NONE if len == 0 => Ok(()),
        chunk::DATA if len > offset_len => {
            let offset = u64::from_be_bytes(receive(stream)?);
            let len = u64::from(len.saturating_sub(offset_len));
            place(request, offset, len, |part| {
                stream.read_exact(part).map_err(|error| transport(&error))
            })
        }
        chunk::HOLE if len == 12 => {
            let offset = u64::from_be_bytes(receive(stream)?);
            let len = u32::from_be_bytes(receive(stream)?);
            place(request, offset, len.into(), |part| {
                part.fill(0);
                Ok(())
            })
        }
        chunk::BLOCK_STATUS if len <= MAX_STATUS => {
            let BlockStatus { context, stretches } = BlockStatus::parse(&payload(stream, len)?)?;
            match &mut request.payload {
                Payload::Status(contexts)
                    if contexts.iter().all(|(known, _)| *known != context) =>
                {
                    if contexts.len() >= 2 {
                        return Err("it answers for contexts that were not agreed on".to_owned());
                    }
                    contexts.push((context, stretches));
                    Ok(())
                }
                _ => Err("it sends a block status that was not asked for".to_owned()),
            }
        }
        kind if kind & chunk::ERROR_BIT != 0 && len <= MAX_ERROR => {
            let error = ErrorChunk::parse(&payload(stream, len)?)?;
            request.error.get_or_insert_with(|| proto::errno(error.number));
            Ok(())
        }
        _ => Err(format!("it answers with a chunk of kind {kind} and {len} bytes")),
    }
}

/// Puts what came at its place in a read's buffer.
fn place(
    request: &mut Request<'_>,
    offset: u64,
    len: u64,
    fill: impl FnOnce(&mut [u8]) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let at = request.note(offset, len)?;
    let part = match &mut request.payload {
        Payload::In(buf) => buf.get_mut(at..).and_then(|rest| rest.get_mut(..length(len))),
        _ => None,
    };
    fill(part.ok_or("it sends data that was not asked for")?)
}

/// Receives a payload whose length has been checked, without believing that it comes.
fn payload(stream: &mut impl Read, len: u32) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::new();
    let got = stream.take(len.into()).read_to_end(&mut bytes).map_err(|error| transport(&error))?;
    if Ok(got) == usize::try_from(len) {
        Ok(bytes)
    } else {
        Err("it has closed the connection".to_owned())
    }
}
