//! One connection: calls one after the other, each with a deadline.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use strongroom_base::Clock;

use super::{
    message::{self, Incoming, MAX_MESSAGE, RemoteError},
    procedure::Procedure,
    transport::Transport,
    xdr::{Decoder, Malformed},
};

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum CallError {
    /// libvirt refused it or failed.
    Remote(RemoteError),
    /// No answer in time. Whether the call was or will be carried out is not known.
    Timeout,
    /// The connection is gone.
    Lost(io::Error),
    /// The answer is not valid.
    Malformed,
}

impl From<Malformed> for CallError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A connection to a daemon.
pub(crate) struct Client {
    transport: Transport,
    clock: Arc<dyn Clock>,
    serial: u32,
    /// After a timeout or a failure nobody knows where in the stream of answers we are.
    broken: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("transport", &self.transport)
            .field("serial", &self.serial)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) const fn new(transport: Transport, clock: Arc<dyn Clock>) -> Self {
        Self { transport, clock, serial: 0, broken: false }
    }

    /// By which it waits.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Whether the connection is of no more use: a call has failed, or the other side is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.broken || self.transport.is_closed()
    }

    /// Calls a procedure and reads its results.
    pub(crate) fn call<T>(
        &mut self,
        procedure: Procedure,
        arguments: &[u8],
        timeout: Duration,
        read: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
    ) -> Result<T, CallError> {
        if self.broken {
            return Err(CallError::Lost(io::ErrorKind::NotConnected.into()));
        }
        let result = self.attempt(procedure, arguments, timeout, read);
        self.broken = !matches!(result, Ok(_) | Err(CallError::Remote(_)));
        result
    }

    /// Calls a procedure whose results are followed by a stream of bytes, and reads both. More than `most` bytes are
    /// an error.
    pub(crate) fn call_with_stream<T>(
        &mut self,
        procedure: Procedure,
        arguments: &[u8],
        timeout: Duration,
        most: usize,
        read: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
    ) -> Result<(T, Vec<u8>), CallError> {
        let results = self.call(procedure, arguments, timeout, read)?;
        let bytes = self.stream(procedure, timeout, most);
        // After an error of the stream it is closed, and the next call is answered.
        self.broken = !matches!(bytes, Ok(_) | Err(CallError::Remote(_)));
        Ok((results, bytes?))
    }

    /// The stream of the latest call.
    fn stream(
        &mut self,
        procedure: Procedure,
        timeout: Duration,
        most: usize,
    ) -> Result<Vec<u8>, CallError> {
        let deadline = self.clock.monotonic().saturating_add(timeout);
        let mut stream = Vec::new();
        loop {
            let answer = self.receive(deadline)?;
            match message::parse(&answer)? {
                Incoming::Part { serial, bytes } if serial == self.serial => {
                    if bytes.is_empty() {
                        // The daemon waits for our word before it closes it.
                        let finish = message::finish(procedure, self.serial);
                        self.transport.stream().write_all(&finish).map_err(lost)?;
                    }
                    if stream.len().saturating_add(bytes.len()) > most {
                        return Err(CallError::Malformed);
                    }
                    stream.extend_from_slice(bytes);
                }
                Incoming::Closed { serial } if serial == self.serial => return Ok(stream),
                Incoming::Failed { serial, error } if serial == self.serial => {
                    return Err(CallError::Remote(error));
                }
                _ => {}
            }
        }
    }

    fn attempt<T>(
        &mut self,
        procedure: Procedure,
        arguments: &[u8],
        timeout: Duration,
        read: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
    ) -> Result<T, CallError> {
        self.serial = self.serial.wrapping_add(1);
        let deadline = self.clock.monotonic().saturating_add(timeout);
        self.transport.set_timeout(timeout).map_err(CallError::Lost)?;
        let frame = message::call(procedure, self.serial, arguments);
        self.transport.stream().write_all(&frame).map_err(lost)?;
        loop {
            let answer = self.receive(deadline)?;
            match message::parse(&answer)? {
                Incoming::Done { serial, results } if serial == self.serial => {
                    return Ok(read(&mut Decoder::new(results))?);
                }
                Incoming::Failed { serial, error } if serial == self.serial => {
                    return Err(CallError::Remote(error));
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self, deadline: Duration) -> Result<Vec<u8>, CallError> {
        let mut len = [0; 4];
        self.fill(&mut len, deadline)?;
        let len = usize::try_from(u32::from_be_bytes(len)).map_err(|_| CallError::Malformed)?;
        let len = len.checked_sub(4).filter(|len| *len <= MAX_MESSAGE);
        let mut answer = vec![0; len.ok_or(CallError::Malformed)?];
        self.fill(&mut answer, deadline)?;
        Ok(answer)
    }

    fn fill(&mut self, mut buffer: &mut [u8], deadline: Duration) -> Result<(), CallError> {
        while !buffer.is_empty() {
            let left = deadline.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Err(CallError::Timeout);
            }
            self.transport.set_timeout(left).map_err(CallError::Lost)?;
            match self.transport.stream().read(buffer) {
                Ok(0) => return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = buffer.get_mut(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }
}

fn lost(error: io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Timeout,
        _ => CallError::Lost(error),
    }
}
