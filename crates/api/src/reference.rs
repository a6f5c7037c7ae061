//! What the API tells of itself.

use serde::{Deserialize, Serialize};
use strongroom_base::{Fault, Kind};
use utoipa::ToSchema;

use crate::{CodeName, Role};

/// The server runs.
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
    #[schema(value_type = String)]
    pub code: CodeName,
    /// The kind of error, which says what the caller can do in general.
    #[schema(value_type = String)]
    pub kind: Kind,
    /// What has happened.
    pub meaning: String,
    /// What to do about it.
    pub hint: String,
    /// Who can remove the cause.
    #[schema(value_type = String)]
    pub fault: Fault,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The names of the values that its messages are composed of.
    #[serde(default)]
    pub params: Vec<String>,
    /// Azure Backup's names for the same error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub azure: Vec<String>,
}

/// A line of the table of rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessRow {
    /// The operation's name, also in the audit log.
    pub operation: String,
    /// The lowest role with the permission.
    pub role: Role,
    /// The scope in which the user needs that role: `server`, `vault` (or above) or `item` (or
    /// above).
    pub reach: String,
    /// Description of the operation.
    pub words: String,
}
