//! Why keys cannot be had or changed.

use std::path::PathBuf;

use strongroom_base::{Code, Coded, Params, SlotId, VaultId, codes, params};
use strongroom_format::FormatError;
use strongroom_objects::{Key, StoreError};

/// Why keys cannot be had or changed. Nothing secret is ever part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The store failed.
    #[error("the vault's keys cannot be read or written")]
    Store {
        /// The cause.
        #[from]
        source: StoreError,
    },
    /// The vault has no keys at all.
    #[error("vault {vault} has no keys in the store")]
    None {
        /// The vault.
        vault: VaultId,
    },
    /// The vault has keys already.
    #[error("vault {vault} already has keys")]
    Exists {
        /// The vault.
        vault: VaultId,
    },
    /// The key opens no slot.
    #[error("{key} opens none of the {slots} key slots of the vault")]
    Wrong {
        /// What was given.
        key: String,
        /// How many slots there are.
        slots: usize,
    },
    /// The slot has been removed from the vault.
    #[error("key slot {slot} has been removed from the vault")]
    Removed {
        /// The slot that was opened.
        slot: SlotId,
    },
    /// A file of a secret cannot be read or written.
    #[error("{} cannot be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The verb: read, created.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A file of a secret has no usable content.
    #[error("{} is not usable: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// A PKCS#11 URI is not understood.
    #[error("the PKCS#11 URI is not usable: {reason}")]
    Uri {
        /// Why; has no values of the URI's query in it.
        reason: String,
    },
    /// The token's module is missing, or the token refused or failed.
    #[error("PKCS#11: {what}")]
    Hsm {
        /// What did not work.
        what: String,
        /// What the module said, if it was asked.
        source: Option<cryptoki::error::Error>,
    },
    /// An object of keys is not what was written, and neither is its copy.
    #[error("key object {key} is damaged: {reason}")]
    Damaged {
        /// The object.
        key: Key,
        /// What is wrong.
        reason: &'static str,
        /// What the parser said, if that was where it went wrong.
        source: Option<FormatError>,
    },
    /// There is no such slot.
    #[error("the vault has no key slot {slot}")]
    SlotNotFound {
        /// The slot.
        slot: SlotId,
    },
    /// The vault's only slot cannot be removed.
    #[error("key slot {slot} is the only one of the vault")]
    LastSlot {
        /// The slot.
        slot: SlotId,
    },
    /// A limit of the format is reached.
    #[error("the vault cannot have more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// A slot's label is too long or has control characters.
    #[error("a key slot's label has at most 200 bytes and no control characters")]
    Label,
    /// Other changes of keys came first, again and again.
    #[error("somebody else is changing the vault's keys")]
    Busy,
    /// Something that cannot happen.
    #[error("keys: {what}")]
    Bug {
        /// What.
        what: &'static str,
    },
}

impl Coded for KeyError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Store { source } => source.code(),
            Self::None { .. } => &codes::STORE_MISSING,
            Self::Exists { .. } => &codes::VAULT_EXISTS,
            Self::Wrong { .. } | Self::Removed { .. } => &codes::KEY_WRONG,
            Self::File { .. } | Self::Unusable { .. } => &codes::KEY_UNREADABLE,
            Self::Uri { .. } => &codes::KEY_URI,
            Self::Hsm { .. } => &codes::KEY_HSM,
            Self::Damaged { source: Some(source), .. } => source.code(),
            Self::Damaged { source: None, .. } => &codes::STORE_CORRUPT,
            Self::SlotNotFound { .. } => &codes::KEY_SLOT_NOT_FOUND,
            Self::LastSlot { .. } => &codes::KEY_LAST_SLOT,
            Self::Limit { .. } => &codes::KEY_LIMIT,
            Self::Label => &codes::USAGE_INVALID,
            Self::Busy => &codes::VAULT_BUSY,
            Self::Bug { .. } => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::None { vault } => params!(STORE_MISSING: vault),
            Self::Exists { vault } => params!(VAULT_EXISTS: vault),
            Self::Wrong { key, slots } => params!(KEY_WRONG: key, slots),
            Self::Removed { slot } => params!(KEY_WRONG: slot),
            Self::File { path, action, source: _ } => params!(KEY_UNREADABLE: path, action),
            Self::Unusable { path, reason } => params!(KEY_UNREADABLE: path, reason),
            Self::Uri { reason } => params!(KEY_URI: reason),
            Self::Hsm { what, source: _ } => params!(KEY_HSM: what),
            Self::Damaged { key, reason, source: _ } => {
                params!(VAULT_FORMAT | STORE_CORRUPT | BUG: key, reason)
            }
            Self::SlotNotFound { slot } => params!(KEY_SLOT_NOT_FOUND: slot),
            Self::LastSlot { slot } => params!(KEY_LAST_SLOT: slot),
            Self::Limit { what, limit } => params!(KEY_LIMIT: what, limit),
            Self::Bug { what } => params!(BUG: what),
            Self::Store { source: _ } | Self::Label | Self::Busy => Params::none(),
        }
    }
}
