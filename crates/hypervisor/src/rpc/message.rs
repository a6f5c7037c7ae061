//! Frames: a length, a header, and arguments or results.

use super::{
    procedure::Procedure,
    xdr::{Decoder, Encoder, Malformed},
};

/// Bytes of a header, after the length.
const HEADER: usize = 24;

/// The longest message that libvirt sends (`VIR_NET_MESSAGE_MAX`).
pub(super) const MAX_MESSAGE: usize = (32 << 20) + 4;

/// Kinds of messages: a call (`VIR_NET_CALL`), its answer (`VIR_NET_REPLY`), a part of a stream (`VIR_NET_STREAM`).
const CALL: i32 = 0;
const REPLY: i32 = 1;
const STREAM: i32 = 3;

/// Outcomes of a call; of a stream, there is more.
const OK: i32 = 0;
const ERROR: i32 = 1;
const CONTINUE: i32 = 2;

/// What a daemon sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// A call's results.
    Done { serial: u32, results: &'a [u8] },
    /// A call's failure.
    Failed { serial: u32, error: RemoteError },
    /// Some bytes of the stream that belongs to a call; none at its end.
    Part { serial: u32, bytes: &'a [u8] },
    /// The stream that belongs to a call is closed.
    Closed { serial: u32 },
    /// Something that nobody asked for: an event, a keep-alive.
    Other,
}

/// What a daemon says of a failed call (`remote_error`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteError {
    /// libvirt's error number.
    pub(crate) number: i32,
    /// Its words.
    pub(crate) message: String,
}

/// A call with its length in front.
pub(super) fn call(procedure: Procedure, serial: u32, arguments: &[u8]) -> Vec<u8> {
    frame(procedure, CALL, serial, arguments)
}

/// Says that all of the stream that belongs to a call has been received.
pub(super) fn finish(procedure: Procedure, serial: u32) -> Vec<u8> {
    frame(procedure, STREAM, serial, &[])
}

fn frame(procedure: Procedure, kind: i32, serial: u32, arguments: &[u8]) -> Vec<u8> {
    let len = HEADER.saturating_add(arguments.len()).saturating_add(4);
    let mut frame = Encoder::default()
        .u32(u32::try_from(len).unwrap_or(u32::MAX))
        .u32(procedure.program())
        .u32(1)
        .u32(procedure.number())
        .i32(kind)
        .u32(serial)
        .i32(OK)
        .into_bytes();
    frame.extend_from_slice(arguments);
    frame
}

/// Reads a message that came after its length.
pub(super) fn parse(bytes: &[u8]) -> Result<Incoming<'_>, Malformed> {
    let (head, body) = bytes.split_at_checked(HEADER).ok_or(Malformed)?;
    let mut head = Decoder::new(head);
    let (_program, _version, _procedure) = (head.u32()?, head.u32()?, head.u32()?);
    let (kind, serial, status) = (head.i32()?, head.u32()?, head.i32()?);
    Ok(match (kind, status) {
        (REPLY, OK) => Incoming::Done { serial, results: body },
        (REPLY | STREAM, ERROR) => Incoming::Failed { serial, error: error(body)? },
        (STREAM, CONTINUE) => Incoming::Part { serial, bytes: body },
        (STREAM, OK) => Incoming::Closed { serial },
        _ => Incoming::Other,
    })
}

fn error(body: &[u8]) -> Result<RemoteError, Malformed> {
    let mut body = Decoder::new(body);
    let (number, _origin) = (body.i32()?, body.i32()?);
    let message = body.optional_string()?.unwrap_or_default();
    Ok(RemoteError { number, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_as_libvirt_expects_it() {
        let frame = call(Procedure::AuthList, 5, &[]);
        let expected = [28, 0x2000_8086, 1, 66, 0, 5, 0].iter().flat_map(|n: &u32| n.to_be_bytes());
        assert_eq!(frame, expected.collect::<Vec<_>>());
    }

    #[test]
    fn replies() {
        let head = |kind, status| {
            Encoder::default().u32(0x2000_8086).u32(1).u32(66).i32(kind).u32(5).i32(status)
        };
        let done = head(1, 0).u32(9).into_bytes();
        assert_eq!(parse(&done), Ok(Incoming::Done { serial: 5, results: &[0, 0, 0, 9] }));
        let failed = head(1, 1).i32(42).i32(10).optional_string(Some("no domain")).into_bytes();
        let error = RemoteError { number: 42, message: "no domain".to_owned() };
        assert_eq!(parse(&failed), Ok(Incoming::Failed { serial: 5, error }));
        let part = head(3, 2).u32(9).into_bytes();
        assert_eq!(parse(&part), Ok(Incoming::Part { serial: 5, bytes: &[0, 0, 0, 9] }));
        assert_eq!(parse(&head(3, 0).into_bytes()), Ok(Incoming::Closed { serial: 5 }));
        assert_eq!(parse(&head(2, 0).into_bytes()), Ok(Incoming::Other));
        assert_eq!(parse(&done[..20]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            drop(parse(&bytes));
        }
    }
}
