//! What two servers say to each other: paths, headers, codes and bodies.
//! docs/understand/replication.md describes it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_blobs::{Position, Role, StoreId};

/// Below this path servers talk to each other. No container's name begins with a hyphen.
pub(crate) const PREFIX: &str = "/-/replication/";

/// The code of an answer. Every answer to a server that has proven itself has one.
pub(crate) const CODE: &str = "x-strongroom-code";
/// The primary's clock, taken before the position was read.
pub(crate) const CLOCK: &str = "x-strongroom-clock";
/// Where the primary stands.
pub(crate) const POSITION: &str = "x-strongroom-position";
/// About how many bytes of the journal the secondary lacks.
pub(crate) const BEHIND: &str = "x-strongroom-behind";
/// Where the next batch begins.
pub(crate) const END: &str = "x-strongroom-end";
/// The part of the server that ships records.
pub(crate) const ROLE: &str = "x-strongroom-role";
/// The session of a resynchronization.
pub(crate) const SESSION: &str = "x-strongroom-session";
/// The URL of the server that asks.
pub(crate) const URL: &str = "x-strongroom-url";
/// The fingerprint of the certificate of the server that asks.
pub(crate) const FINGERPRINT: &str = "x-strongroom-fingerprint";
/// The Last Sync Time of the server that asks.
pub(crate) const SYNCED: &str = "x-strongroom-synced";

/// The most bytes of a batch that are asked for.
pub(crate) const BATCH: usize = 8 << 20;
/// The longest batch or answer that is taken, in bytes: one record may be longer than [`BATCH`].
pub(crate) const MAX_ANSWER: u64 = 128 << 20;
/// The longest question or document, in bytes.
pub(crate) const MAX_QUESTION: usize = 4 << 20;
/// The longest wait for records that a server asks for, in milliseconds.
pub(crate) const MAX_WAIT: u64 = 10_000;

/// The code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Done.
    Done,
    /// The journal does not have the records behind the position, or the position is not in this history: resynchronize.
    TooFarBehind,
    /// The position is behind the end of this store.
    Ahead,
    /// The server has another epoch than the request says.
    WrongEpoch,
    /// The server does not ship records in the part that it plays.
    WrongRole,
    /// The session of a resynchronization has ended.
    SessionGone,
    /// The request is not valid.
    Invalid,
    /// The store failed.
    Failed,
}

impl Said {
    const ALL: [(Self, &'static str, u16); 8] = [
        (Self::Done, "done", 200),
        (Self::TooFarBehind, "too_far_behind", 410),
        (Self::Ahead, "ahead", 409),
        (Self::WrongEpoch, "wrong_epoch", 409),
        (Self::WrongRole, "wrong_role", 409),
        (Self::SessionGone, "session_gone", 410),
        (Self::Invalid, "invalid", 400),
        (Self::Failed, "failed", 503),
    ];

    /// Its name in an answer.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(said, ..)| *said == self).map_or("failed", |(_, name, _)| name)
    }

    /// The status of an answer with it.
    pub(crate) fn status(self) -> u16 {
        Self::ALL.into_iter().find(|(said, ..)| *said == self).map_or(503, |(.., status)| status)
    }

    /// Reads a name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, other, _)| *other == name).map(|(said, ..)| said)
    }
}

/// A position as headers and queries have it, with dots between: the number of the next record, the stamp of the record
/// before it, and in which epoch by which server that was decided, if the store was not always alone.
pub(crate) fn position_text(position: Position) -> String {
    let Position { next_record, stamp, era } = position;
    match era {
        None => format!("{next_record}.{stamp}"),
        Some((epoch, server)) => format!("{next_record}.{stamp}.{epoch}.{}", String::from(server)),
    }
}

/// Reads [`position_text`].
pub(crate) fn position_of(text: &str) -> Option<Position> {
    let mut parts = text.split('.');
    let (next_record, stamp) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let era = match parts.next() {
        None => None,
        Some(epoch) => Some((epoch.parse().ok()?, parts.next()?.to_owned().try_into().ok()?)),
    };
    parts.next().is_none().then_some(Position { next_record, stamp, era })
}

/// Where the epoch of a primary began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) epoch: u64,
    pub(crate) position: Position,
}

/// How a server stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) store: StoreId,
    pub(crate) role: Role,
    pub(crate) epoch: u64,
    /// The clock, taken before the position was read.
    pub(crate) clock: Timestamp,
    pub(crate) position: Position,
    /// Where its epoch began, if it was promoted to it.
    pub(crate) begin: Option<Begin>,
}

/// A server asks to become the secondary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinQuestion {
    /// Where the other server reaches it.
    pub(crate) url: String,
    pub(crate) store: StoreId,
}

/// It may.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct JoinAnswer {
    pub(crate) epoch: u64,
    /// What both servers prove themselves by from now on.
    pub(crate) secret: super::Secret,
    /// The accounts that became geo-redundant.
    pub(crate) accounts: Vec<String>,
}

/// Why something is refused, for the log of the server that asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reason {
    pub(crate) reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_positions_are_read_as_they_are_written() {
        for (said, name, _) in Said::ALL {
            assert_eq!((Said::of(name), said.name()), (Some(said), name));
            assert!((200..600).contains(&said.status()));
        }
        assert_eq!(Said::of("other"), None);
        let server = "0123456789abcdef0123456789abcdef".to_owned().try_into().expect("an id");
        for era in [None, Some((3, server))] {
            let position = Position { next_record: 7, stamp: u64::MAX, era };
            assert_eq!(position_of(&position_text(position)), Some(position));
        }
        for wrong in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "-1.1",
            "1.18446744073709551616",
            "1.1.1",
            "1.1.1.",
            "1.1.1.x",
            "1.1.1.1.1",
        ] {
            assert_eq!(position_of(wrong), None, "{wrong}");
        }
    }
}
