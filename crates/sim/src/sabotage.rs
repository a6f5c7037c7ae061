//! Stores that break a promise, or hide a step of the protocol from somebody, and vaults that forget
//! one: with each of them data is lost sooner or later, and the simulator must notice.

use jiff::SignedDuration;

use crate::store::{Faults, Role};

/// What is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// Writers do not see condemnations: they rely on packs that are about to go.
    WritersSeeNoCondemnations,
    /// Reclaims do not see writers: they do not wait for anybody.
    ReclaimsSeeNoWriters,
    /// Reclaims do not see recovery points of the last hour.
    ReclaimsSeeOldPoints,
    /// Reclaims do not see each other's condemnations.
    ReclaimsSeeNoCondemnations,
    /// A create-only put of a recovery point replaces what is there: a writer that was expired
    /// publishes all the same.
    PutsOverwrite,
    /// Deleted packs vanish an hour late: after their condemnation.
    PacksVanishLate,
    /// Some packs are acknowledged and never written.
    PutsAreForgotten,
    /// Nobody sees objects of no bytes below `points/`: a manifest that was cut is taken for a point
    /// that never was, and its data is freed.
    EmptyPointsAreOverlooked,
    /// Nothing, but all actors are threads of one process, and its writers wait long for their lists: the
    /// world of the next one.
    WritersLookSlowly,
    /// The writers of an open vault share what the last of them saw: one that looked before a
    /// condemnation, and heard the answer late, has another one rely on what is condemned.
    WritersShareTheirView,
}

impl Sabotage {
    /// Whether a listing shows nothing.
    pub(crate) fn hides(self, role: Role, prefix: &str) -> bool {
        match self {
            Self::WritersSeeNoCondemnations => role == Role::Writer && prefix == "condemned/",
            Self::ReclaimsSeeNoWriters => role == Role::Reclaim && prefix == "writers/",
            _ => false,
        }
    }

    /// Whether a listing shows only what the process has put itself.
    pub(crate) fn hides_others(self, role: Role, prefix: &str) -> bool {
        self == Self::ReclaimsSeeNoCondemnations && role == Role::Reclaim && prefix == "condemned/"
    }

    /// How old an object must be to be listed.
    pub(crate) fn newest_listed(self, role: Role, prefix: &str) -> Option<SignedDuration> {
        let old = self == Self::ReclaimsSeeOldPoints && role == Role::Reclaim;
        (old && prefix == "points/").then(|| SignedDuration::from_hours(1))
    }

    /// Whether the writers of an open vault share what one of them saw.
    pub(crate) fn shares_views(self) -> bool {
        self == Self::WritersShareTheirView
    }

    /// Whether all actors work on one open vault.
    pub(crate) fn is_one_process(self) -> bool {
        matches!(self, Self::WritersLookSlowly | Self::WritersShareTheirView)
    }

    /// What goes wrong besides.
    pub(crate) fn faults(self, usual: Faults) -> Faults {
        if self.is_one_process() { Faults { pause_one_in: 40, ..Faults::default() } } else { usual }
    }

    /// Once in how many times a listing takes long; zero: never. A writer that has read the condemnations
    /// and waits for the list of packs is where it can go wrong.
    pub(crate) fn slow_list(self, role: Role, prefix: &str) -> u64 {
        if self.is_one_process() && role == Role::Writer && prefix == "packs/" { 2 } else { 0 }
    }

    /// Whether manifests stay whole, so that reclaims, which refuse while one is damaged, do more of what
    /// is to go wrong.
    pub(crate) fn leaves_manifests(self) -> bool {
        !matches!(self, Self::None | Self::EmptyPointsAreOverlooked)
    }

    /// How many bytes an object must have to be listed.
    pub(crate) fn smallest_listed(self, prefix: &str) -> u64 {
        u64::from(self == Self::EmptyPointsAreOverlooked && prefix.starts_with("points/"))
    }

    /// Whether an object vanishes only some time after its deletion.
    pub(crate) fn deletes_late(self, name: &str) -> bool {
        self == Self::PacksVanishLate && name.starts_with("packs/")
    }
}
