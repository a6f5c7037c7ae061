//! Deciding: a change is checked against the state, by Azure's rules, and becomes the operations of a record.
//!
//! Nothing here changes anything. What needs time or chance takes it from the [`Moment`] and the entropy that are
//! given, and writes the result into the record.

mod accounts;
mod appends;
mod blobs;
pub(crate) mod blocks;
mod containers;
mod copies;
mod snapshots;

use redb::ReadableTable as _;
use strongroom_base::{Entropy, EntropyExt as _};

use crate::{
    change::{Access, Change, Conditions, Done, EtagCondition},
    lease::Lease,
    map::{Applier, ApplyError},
    record::Op,
    refusal::Refusal,
    rows::{self, Container, ContainerName, Etag, Ticks, keys},
    state::StateError,
};

/// When a change is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the clock.
    pub(crate) now: Ticks,
    /// The number of the change: it grows with each one.
    pub(crate) stamp: u64,
}

/// Why there is no record.
#[derive(Debug)]
pub(crate) enum Undecided {
    /// The change is against the rules.
    Refused(Refusal),
    /// The store failed.
    Failed(ApplyError),
}

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StateError> for Undecided {
    fn from(error: StateError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ApplyError> for Undecided {
    fn from(error: ApplyError) -> Self {
        Self::Failed(error)
    }
}

impl From<redb::StorageError> for Undecided {
    fn from(error: redb::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// Operations, and what they leave.
pub(crate) type Decision = Result<(Vec<Op>, Done), Undecided>;

/// Decides one change.
pub(crate) struct Decider<'a, 'b, 't> {
    /// The state, with what earlier changes of the group did.
    pub(crate) applier: &'a Applier<'b, 't>,
    /// When.
    pub(crate) moment: Moment,
    /// The generation that a new blob gets.
    pub(crate) next_generation: u64,
    /// For ids.
    pub(crate) entropy: &'a dyn Entropy,
}

impl Decider<'_, '_, '_> {
    /// Decides.
    pub(crate) fn decide(&self, change: &Change) -> Decision {
        match change {
            Change::Account { name, change } => self.account(name, change),
            Change::Container { name, access, change } => self.container(name, access, change),
            Change::Blob { name, access, change } => self.blob(name, access, change),
            Change::Snapshot(blobs) => self.snapshots(blobs),
            Change::Upload { id, step } => self.upload_step(*id, step),
        }
    }

    fn row<T: for<'de> serde::Deserialize<'de>>(&self, key: &[u8]) -> Result<Option<T>, Undecided> {
        let row = self.applier.tables.names.get(key)?;
        Ok(row.map(|row| rows::decode(key, row.value())).transpose()?)
    }

    fn container_row(&self, name: &ContainerName) -> Result<Container, Undecided> {
        self.row(&keys::container(name))?.ok_or_else(|| Refusal::ContainerNotFound.into())
    }

    fn etag(&self) -> Etag {
        Etag(self.moment.stamp)
    }

    /// Checks lease and conditions of a change of something that exists.
    fn admit(
        &self,
        access: &Access,
        lease: Option<&Lease>,
        etag: Etag,
        modified: u64,
    ) -> Result<(), Refusal> {
        Lease::admits(lease, access.lease.as_ref(), self.moment.now)?;
        access.conditions.check(etag, modified)
    }

    /// A random id in the form of a UUID.
    fn uuid(&self) -> String {
        let number = u128::from_be_bytes(self.entropy.array());
        let version = (number & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let text = format!("{version:032x}");
        let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    }
}

impl Conditions {
    /// Checks them for a change, or for a read whose face answers [`Refusal::NotModified`] in its own way.
    pub fn check(&self, etag: Etag, modified: u64) -> Result<(), Refusal> {
        let matches = |condition: EtagCondition| match condition {
            EtagCondition::Any => true,
            EtagCondition::Is(wanted) => wanted == etag,
        };
        let is_met = self.if_match.is_none_or(matches)
            && !self.if_none_match.is_some_and(matches)
            && self.if_modified_since.is_none_or(|since| modified > since)
            && self.if_unmodified_since.is_none_or(|since| modified <= since);
        if is_met { Ok(()) } else { Err(Refusal::ConditionNotMet) }
    }

    /// Checks them for a read: what has not changed since the caller saw it is [`Refusal::NotModified`].
    pub fn check_read(&self, etag: Etag, modified: u64) -> Result<(), Refusal> {
        let writes = Self { if_none_match: None, if_modified_since: None, ..*self };
        writes.check(etag, modified)?;
        self.check(etag, modified).map_err(|_| Refusal::NotModified)
    }
}
