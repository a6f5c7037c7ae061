//! The rules of a retention, as reasons to keep a point.

use serde::{Deserialize, Serialize};

/// Why a point is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is still in the snapshot tier; a point is never removed before its snapshot.
    Snapshot,
    /// Every point is kept for some days.
    Hourly,
    /// It is the day's point.
    Daily,
    /// It bears the tag of a day of the week.
    Weekly,
    /// It bears the tag of a day of a month.
    Monthly,
    /// It bears the tag of a day of a year.
    Yearly,
    /// It was made on demand.
    OnDemand,
    /// It is the newest good point, which is never removed before there is a newer one.
    LastPoint,
    /// Nothing of the item expires.
    ForEver,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 9] = [
        Self::Snapshot,
        Self::Hourly,
        Self::Daily,
        Self::Weekly,
        Self::Monthly,
        Self::Yearly,
        Self::OnDemand,
        Self::LastPoint,
        Self::ForEver,
    ];

    pub(crate) fn bit(self) -> u16 {
        match self {
            Self::Snapshot => 1,
            Self::Hourly => 2,
            Self::Daily => 4,
            Self::Weekly => 8,
            Self::Monthly => 16,
            Self::Yearly => 32,
            Self::OnDemand => 64,
            Self::LastPoint => 128,
            Self::ForEver => 256,
        }
    }
}
