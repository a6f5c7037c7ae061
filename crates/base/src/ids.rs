//! Identifiers: one type for each kind, so that the compiler rejects an id of another kind.

use std::{fmt, str::FromStr};

use ulid::Ulid;

use crate::digest::{ParseHexError, parse_hex};
use crate::{Clock, Entropy, EntropyExt as _};

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id (26 characters of 0-9 and A-Z)")]
pub struct ParseIdError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// Which kind of id was wanted.
    pub kind: &'static str,
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// A ULID: its text form sorts by time of creation. Sixteen bytes, big-endian, in binary.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Ulid);

        impl $name {
            /// A new id of this moment.
            pub fn generate(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
                let millis = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
                Self(Ulid::from_parts(millis, u128::from_be_bytes(entropy.array())))
            }

            /// When it was made, in milliseconds since 1970, by its maker's clock.
            pub fn millis(self) -> u64 {
                self.0.timestamp_ms()
            }

            /// The id's 16 bytes.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }

            /// Any 16 bytes are an id.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Ulid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = || ParseIdError { text: text.chars().take(80).collect(), kind: $kind };
                let id = Ulid::from_string(text).map_err(|_| error())?;
                // Only the canonical spelling: an id is also an object's name.
                if id.to_string() == text { Ok(Self(id)) } else { Err(error()) }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, Type};
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some("^[0-7][0-9A-HJKMNP-TV-Z]{25}$"))
                    .description(Some(concat!("The id of a ", $kind, ": a ULID.")))
                    .examples(["01JD3W6E0ZGQ6Q0PZ2R3V9M5TB"])
                    .into()
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}
    };
}

ulid_id!(
    /// A vault.
    VaultId, "vault"
);
ulid_id!(
    /// A host: a hypervisor machine whose machines and disks can be protected.
    HostId, "host"
);
ulid_id!(
    /// A protected item: a machine, or a set of disks, in a vault.
    ItemId, "item"
);
ulid_id!(
    /// A policy of a vault.
    PolicyId, "policy"
);
ulid_id!(
    /// A job: one durable unit of work.
    JobId, "job"
);
ulid_id!(
    /// A user of the service.
    UserId, "user"
);
ulid_id!(
    /// An API token.
    TokenId, "token"
);
ulid_id!(
    /// A role of a user in a scope.
    AssignmentId, "role assignment"
);
ulid_id!(
    /// An alert.
    AlertId, "alert"
);
ulid_id!(
    /// Alerts that are sent together, to one mailbox or webhook.
    NoticeId, "notice"
);
ulid_id!(
    /// A request to the API.
    RequestId, "request"
);
ulid_id!(
    /// A master key of a vault.
    KeyId, "key"
);
ulid_id!(
    /// A key slot: one way to open a vault.
    SlotId, "slot"
);
ulid_id!(
    /// A recovery point.
    PointId, "recovery point"
);
ulid_id!(
    /// Somebody who is writing to a vault now.
    WriterId, "writer"
);

/// The name of a pack: unkeyed BLAKE3 of its bytes, so that anybody can check it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId([u8; 32]);

impl PackId {
    /// Wraps the hash of a pack's bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PackId {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, ParseHexError> {
        parse_hex(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SystemClock, SystemEntropy};

    #[test]
    fn ids_round_trip_and_refuse_other_spellings() {
        let id = PointId::generate(&SystemClock, &SystemEntropy);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(PointId::from_bytes(id.to_bytes()), id);
        assert!(id.to_string().to_lowercase().parse::<PointId>().is_err());
        assert!("../../etc".parse::<PointId>().is_err());
    }
}
