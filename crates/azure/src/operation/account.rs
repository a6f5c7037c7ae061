//! Operations on an account.

use super::{Method, Parts, max_results};
use crate::{Body, Refusal, batch::MAX_BATCH, xml::MAX_PROPERTIES_XML};

/// The most containers and blobs in one answer.
pub(super) const MAX_LIST: u32 = 5000;

/// An operation on an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountOperation {
    /// Get Blob Service Properties.
    GetProperties,
    /// Set Blob Service Properties; the body is read by `ServiceProperties::parse`.
    SetProperties(Body),
    /// Get Blob Service Stats, only on the secondary.
    GetStats,
    /// List Containers.
    ListContainers(ListContainers),
    /// Get Account Information.
    GetInformation,
    /// Blob Batch; the body is read by `Batch::parse`.
    Batch(Body),
}

/// List Containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListContainers {
    /// What the names begin with.
    pub prefix: Option<String>,
    /// Where an earlier answer ended.
    pub marker: Option<String>,
    /// The most entries, at most 5000.
    pub max_results: Option<u32>,
    /// Whether metadata is wanted.
    pub include_metadata: bool,
    /// Whether system containers are wanted, as `$logs`.
    pub include_system: bool,
}

impl AccountOperation {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let (comp, restype) = (parts.comp(), parts.restype());
        let read = matches!(parts.method, Method::Get | Method::Head);
        Ok(match (parts.method, restype.as_str(), comp.as_str()) {
            (_, "account", "properties") if read => Self::GetInformation,
            (Method::Get, "service", "properties") => Self::GetProperties,
            (Method::Put, "service", "properties") => {
                Self::SetProperties(parts.body(MAX_PROPERTIES_XML)?)
            }
            (Method::Get, "service", "stats") if parts.is_secondary => Self::GetStats,
            (Method::Get, "service", "stats") => {
                return Err(Refusal::parameter(
                    "comp",
                    "stats",
                    "Only the secondary location has it.",
                ));
            }
            (Method::Get, "", "list") => Self::ListContainers(ListContainers::parse(parts)?),
            // A client for JavaScript takes the account in the path for a container.
            (Method::Post, "" | "container", "batch") => Self::Batch(parts.body(MAX_BATCH)?),
            (_, "account" | "service", "properties")
            | (_, "", "list")
            | (_, "service", "stats") => {
                return Err(parts.unknown(true));
            }
            _ => return Err(parts.unknown(false)),
        })
    }
}

impl ListContainers {
    fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let query = parts.query;
        let mut list = Self {
            prefix: query.get("prefix").map(str::to_owned),
            marker: query.get("marker").map(str::to_owned),
            max_results: max_results(query, MAX_LIST)?,
            ..Self::default()
        };
        let include = query.get("include").unwrap_or_default();
        for word in include.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "metadata" => list.include_metadata = true,
                "system" => list.include_system = true,
                // Deleted containers are not kept: the list of them is empty.
                "deleted" => {}
                _ => return Err(Refusal::parameter("include", include, "A word is unknown.")),
            }
        }
        Ok(list)
    }
}
