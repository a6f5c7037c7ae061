//! Stores that break a promise, or hide a step of the protocol from somebody: with each of them
//! data is lost sooner or later, and the simulator must notice.

use jiff::SignedDuration;

use crate::store::Role;

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
