//! Which part a server plays for a store that is at two servers.

use std::fmt;

use serde::{Deserialize, Serialize};
use strongroom_base::{Entropy, EntropyExt as _};

/// The id of a store, which both servers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId(pub(crate) [u8; 16]);

/// The id of a server's part in a store, random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerId(u128);

impl ServerId {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        Self(u128::from_be_bytes(entropy.array()))
    }

    pub(crate) const fn from_number(number: u128) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u128 {
        self.0
    }
}

impl From<ServerId> for String {
    fn from(id: ServerId) -> Self {
        format!("{:032x}", id.0)
    }
}

impl TryFrom<String> for ServerId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

impl From<StoreId> for String {
    fn from(id: StoreId) -> Self {
        format!("{:032x}", u128::from_be_bytes(id.0))
    }
}

impl TryFrom<String> for StoreId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(|id| Self(id.to_be_bytes()))
    }
}

/// The part of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// There is no other server.
    #[default]
    Alone,
    /// It decides changes.
    Primary,
    /// It was the primary when it was closed, and does not know yet whether it still is: it is read, and refuses changes.
    Waiting,
    /// It takes the primary's records, is read, and refuses changes.
    Secondary,
    /// Another server has become the primary: it is read, and refuses changes.
    Fenced,
}

impl Role {
    /// Whether it takes changes.
    pub const fn decides(self) -> bool {
        matches!(self, Self::Alone | Self::Primary)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "alone",
            Self::Primary => "primary",
            Self::Waiting => "waiting",
            Self::Secondary => "secondary",
            Self::Fenced => "fenced",
        })
    }
}

/// Which part a server plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The part.
    pub role: Role,
    /// Which epoch it knows: each promotion begins one. 0 for a server that is alone and always was.
    pub epoch: u64,
    /// The id of this server's part, once it was not alone.
    pub server: Option<ServerId>,
}

/// A part of the history of a store that one server has decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Era {
    /// The epoch.
    pub epoch: u64,
    /// The server that decided it.
    pub server: ServerId,
    /// The number of its first record.
    pub first: u64,
}

/// A place in the history of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The number of the next record; the first one has 1.
    pub next_record: u64,
    /// The stamp of the record before it, in ticks of 100 ns since 1970; 0 without one.
    pub stamp: u64,
    /// The epoch in which that record was decided, and who decided it; none for a store that was always alone. Two servers
    /// that have the same here have the same history up to the lesser of both numbers.
    pub era: Option<(u64, ServerId)>,
}

/// Whether a store with these eras has the history up to a position.
pub(crate) fn has_history(eras: &[Era], position: &Position) -> bool {
    let known = match position.era {
        None => 0,
        Some((epoch, server)) => {
            let own = eras.iter().any(|era| (era.epoch, era.server) == (epoch, server));
            if !own {
                return false;
            }
            epoch
        }
    };
    // What it has behind the beginning of the next era was decided by the wrong server.
    eras.iter().find(|era| era.epoch > known).is_none_or(|next| position.next_record <= next.first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_behind_the_end_of_an_era_belong_to_another_history() {
        let server = |n: u128| ServerId(n);
        let era = |epoch, server, first| Era { epoch, server, first };
        let eras = [era(1, server(7), 10), era(2, server(8), 50), era(4, server(7), 90)];
        let at = |next_record, era| Position { next_record, stamp: 0, era };
        for (position, wanted) in [
            (at(1, None), true),
            (at(10, None), true),
            (at(11, None), false),
            (at(50, Some((1, server(7)))), true),
            (at(51, Some((1, server(7)))), false),
            (at(20, Some((1, server(8)))), false),
            (at(90, Some((2, server(8)))), true),
            (at(91, Some((2, server(8)))), false),
            (at(60, Some((3, server(7)))), false),
            (at(5000, Some((4, server(7)))), true),
            (at(95, Some((5, server(7)))), false),
        ] {
            assert_eq!(has_history(&eras, &position), wanted, "{position:?}");
        }
    }
}
