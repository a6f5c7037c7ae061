//! Policies.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{ItemId, PolicyId, VaultId};
use strongroom_policy::PolicyRules;
use utoipa::ToSchema;

use crate::{BootPolicy, ConsistencyWanted};

/// A policy: when items are backed up, with which consistency, and when their points expire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// Its id.
    pub id: PolicyId,
    /// Its vault.
    pub vault: VaultId,
    /// Its name, which no other policy of the vault has.
    pub name: String,
    /// Its rules; see `docs/use/policies.md`.
    pub rules: PolicyRules,
    /// The best consistency that is tried for.
    pub consistency: ConsistencyWanted,
    /// Whether less than that is a failure.
    pub consistency_required: bool,
    /// Which recovery points are booted to see whether their machines work; none if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootPolicy>,
    /// When it was made.
    pub created: Timestamp,
}

/// A new policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyCreate {
    /// Its name: 1 to 200 bytes of any script, without `/`, `\` and control characters.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Its rules.
    pub rules: PolicyRules,
    /// The best consistency to try for; the default is application-consistent.
    #[serde(default)]
    pub consistency: Option<ConsistencyWanted>,
    /// Whether less than that is a failure.
    #[serde(default)]
    pub consistency_required: bool,
    /// Which recovery points are booted to see whether their machines work; none if not given.
    #[serde(default)]
    pub boot: Option<BootPolicy>,
}

/// Changes of a policy. Omitted fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyUpdate {
    /// Another name.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// Other rules.
    #[serde(default)]
    pub rules: Option<PolicyRules>,
    /// Another consistency.
    #[serde(default)]
    pub consistency: Option<ConsistencyWanted>,
    /// Whether less than that is a failure.
    #[serde(default)]
    pub consistency_required: Option<bool>,
    /// Other recovery points to boot: `never` ends it.
    #[serde(default)]
    pub boot: Option<BootPolicy>,
}

/// The effect of a change of rules, before it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyPreview {
    /// Whether any point could be kept for a shorter time than now.
    pub shorter: bool,
    /// Points that are removed at once.
    pub removed_now: u64,
    /// Points that are kept for a shorter time, but are not removed at once.
    pub removed_earlier: u64,
    /// Points that are kept for a longer time.
    pub kept_longer: u64,
    /// Points that are kept as long as before.
    pub unchanged: u64,
    /// When the first point would expire whose expiry gets earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_removal: Option<Timestamp>,
    /// When the last such point would expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_removal: Option<Timestamp>,
    /// The items whose points these are.
    pub items: Vec<ItemPreview>,
    /// In one sentence.
    pub summary: String,
}

/// The effect of a change of rules on one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemPreview {
    /// The item.
    pub item: ItemId,
    /// Its name.
    pub name: String,
    /// Points that are removed at once.
    pub removed_now: u64,
    /// Points that are kept for a shorter time.
    pub removed_earlier: u64,
}

/// Asks for the effect of new rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyTry {
    /// The new rules.
    pub rules: PolicyRules,
}
