//! What the API tells of itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Role;

/// The server is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the server.
    pub version: String,
}

/// An entry of the catalog of errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorEntry {
    /// Stable name, for scripts.
    pub code: String,
    /// What can be done about it in general.
    pub kind: String,
    /// What has happened.
    pub meaning: String,
    /// What to do about it.
    pub hint: String,
    /// Who can do something about it.
    pub fault: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The HTTP status with which it is answered.
    pub status: u16,
    /// What Azure Backup calls the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub azure: Vec<String>,
}

/// A line of the table of rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessRow {
    /// The operation's name, also in the audit log.
    pub operation: String,
    /// The least role that may do it.
    pub role: Role,
    /// Where that role must hold: `server`, `vault` (or above) or `item` (or above).
    pub reach: String,
    /// What it is.
    pub words: String,
}
