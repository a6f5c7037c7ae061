//! Operations on a container.

use std::str::FromStr;

use super::{Method, Parts, account::MAX_LIST, max_results};
use crate::{
    Body, Conditions, Headers, Lease, LeaseId, Metadata, Refusal, UnknownName, batch::MAX_BATCH,
    lease::no_conditions, xml::MAX_ACL_XML,
};

/// An operation on a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerOperation {
    /// Create Container.
    Create(CreateContainer),
    /// Delete Container.
    Delete(ContainerWrite),
    /// Get Container Properties, or Get Container Metadata: the answer has both.
    GetProperties(Option<LeaseId>),
    /// Set Container Metadata.
    SetMetadata(SetContainerMetadata),
    /// Get Container ACL.
    GetAcl(Option<LeaseId>),
    /// Set Container ACL.
    SetAcl(SetAcl),
    /// Lease Container.
    Lease(Lease),
    /// List Blobs.
    ListBlobs(ListBlobs),
    /// Get Account Information, addressed to a container.
    GetAccountInformation,
    /// Blob Batch; the body is read by `Batch::parse`.
    Batch(Body),
}

/// What may be read without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicAccess {
    /// The list of blobs, and blobs.
    Container,
    /// Blobs.
    Blob,
}

impl PublicAccess {
    /// As headers have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Blob => "blob",
        }
    }

    fn of(headers: &Headers) -> Result<Option<Self>, Refusal> {
        headers.parsed("x-ms-blob-public-access", |value| value.parse().ok())
    }
}

impl FromStr for PublicAccess {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text.to_ascii_lowercase().as_str() {
            "container" => Ok(Self::Container),
            "blob" => Ok(Self::Blob),
            _ => Err(UnknownName),
        }
    }
}

/// Create Container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateContainer {
    /// Its metadata.
    pub metadata: Metadata,
    /// What may be read without credentials.
    pub public_access: Option<PublicAccess>,
}

/// What every change of a container may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerWrite {
    /// The id of its lease.
    pub lease: Option<LeaseId>,
    /// Conditions by times.
    pub conditions: Conditions,
}

impl ContainerWrite {
    fn parse(headers: &Headers) -> Result<Self, Refusal> {
        Ok(Self {
            lease: LeaseId::of(headers)?,
            conditions: Conditions::parse(headers)?.only_times()?,
        })
    }
}

/// Set Container Metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetContainerMetadata {
    /// Lease and conditions.
    pub write: ContainerWrite,
    /// The new metadata, instead of all there is.
    pub metadata: Metadata,
}

/// Set Container ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAcl {
    /// Lease and conditions.
    pub write: ContainerWrite,
    /// What may be read without credentials.
    pub public_access: Option<PublicAccess>,
    /// The stored access policies, read by `StoredPolicy::parse_list`; without any they are removed.
    pub body: Body,
}

/// What a list of blobs has besides blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the parameter `include`")]
pub struct Include {
    /// Snapshots, before their base.
    pub snapshots: bool,
    /// Metadata.
    pub metadata: bool,
    /// Blobs of which only blocks are there.
    pub uncommitted: bool,
    /// Properties of copies.
    pub copy: bool,
}

/// List Blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListBlobs {
    /// What the names begin with.
    pub prefix: Option<String>,
    /// What ends the names of prefixes that are listed instead of what is below them.
    pub delimiter: Option<String>,
    /// Where an earlier answer ended.
    pub marker: Option<String>,
    /// The most entries, at most 5000.
    pub max_results: Option<u32>,
    /// What is listed.
    pub include: Include,
}

impl ContainerOperation {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let (comp, restype, headers) = (parts.comp(), parts.restype(), parts.headers);
        let read = matches!(parts.method, Method::Get | Method::Head);
        if restype == "account" && comp == "properties" && read {
            return Ok(Self::GetAccountInformation);
        }
        if restype != "container" {
            return Err(parts.unknown(false));
        }
        Ok(match (parts.method, comp.as_str()) {
            (Method::Put, "") => {
                parts.no_body()?;
                no_conditions(headers)?;
                Self::Create(CreateContainer {
                    metadata: Metadata::parse(headers)?,
                    public_access: PublicAccess::of(headers)?,
                })
            }
            (Method::Delete, "") => Self::Delete(ContainerWrite::parse(headers)?),
            (Method::Get | Method::Head, "" | "metadata") => {
                Self::GetProperties(LeaseId::of(headers)?)
            }
            (Method::Put, "metadata") => {
                parts.no_body()?;
                Self::SetMetadata(SetContainerMetadata {
                    write: ContainerWrite::parse(headers)?,
                    metadata: Metadata::parse(headers)?,
                })
            }
            (Method::Get | Method::Head, "acl") => Self::GetAcl(LeaseId::of(headers)?),
            (Method::Put, "acl") => Self::SetAcl(SetAcl {
                write: ContainerWrite::parse(headers)?,
                public_access: PublicAccess::of(headers)?,
                body: parts.body(MAX_ACL_XML)?,
            }),
            (Method::Put, "lease") => {
                parts.no_body()?;
                let lease = Lease::parse(headers)?;
                Self::Lease(Lease { conditions: lease.conditions.only_times()?, ..lease })
            }
            (Method::Get, "list") => Self::ListBlobs(ListBlobs::parse(parts)?),
            (Method::Post, "batch") => Self::Batch(parts.body(MAX_BATCH)?),
            (_, "" | "metadata" | "acl" | "lease" | "list") => return Err(parts.unknown(true)),
            _ => return Err(parts.unknown(false)),
        })
    }

    pub(super) fn is_write(&self) -> bool {
        match self {
            Self::Create(_)
            | Self::Delete(_)
            | Self::SetMetadata(_)
            | Self::SetAcl(_)
            | Self::Lease(_) => true,
            // What writes in a batch is a part, which is checked by itself.
            Self::GetProperties(_)
            | Self::GetAcl(_)
            | Self::ListBlobs(_)
            | Self::GetAccountInformation
            | Self::Batch(_) => false,
        }
    }
}

impl ListBlobs {
    fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let query = parts.query;
        let text = |name: &str| query.get(name).map(str::to_owned);
        let mut list = Self {
            prefix: text("prefix"),
            delimiter: text("delimiter"),
            marker: text("marker"),
            max_results: max_results(query, MAX_LIST)?,
            include: Include::default(),
        };
        let include = query.get("include").unwrap_or_default();
        for word in include.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "snapshots" => list.include.snapshots = true,
                "metadata" => list.include.metadata = true,
                "uncommittedblobs" => list.include.uncommitted = true,
                "copy" => list.include.copy = true,
                // No blob has any of these, so that nothing is missing in the list.
                "deleted"
                | "tags"
                | "versions"
                | "deletedwithversions"
                | "immutabilitypolicy"
                | "legalhold"
                | "permissions" => {}
                _ => return Err(Refusal::parameter("include", include, "A word is unknown.")),
            }
        }
        if list.delimiter.is_some() && list.include.snapshots {
            return Err(Refusal::parameter(
                "include",
                include,
                "Snapshots cannot be listed together with a delimiter.",
            ));
        }
        Ok(list)
    }
}
