//! Operations: what a request asks for, with everything that its headers and query say, typed and checked.

mod account;
mod blob;
mod blocks;
mod container;
mod copy;
mod needs;
mod pages;

#[cfg(test)]
mod tests;

pub use account::{AccountOperation, ListContainers};
pub use blob::{
    BlobOperation, BlobWrite, DeleteBlob, DeleteSnapshots, GetBlob, ReadBlob, SetBlobMetadata,
    SetBlobProperties, SetBlobTier, SnapshotBlob,
};
pub use blocks::{
    AppendBlock, BlockId, BlockListType, GetBlockList, PutAppendBlob, PutBlobFromUrl, PutBlock,
    PutBlockBlob, PutBlockFromUrl, PutBlockList,
};
pub use container::{
    ContainerOperation, ContainerWrite, CreateContainer, Include, ListBlobs, PublicAccess, SetAcl,
    SetContainerMetadata,
};
pub use copy::{AbortCopy, CopyBlob, IncrementalCopy, Source, SourceUrl};
pub use needs::{Level, Needs, Permission};
pub use pages::{
    ClearPages, GetPageRanges, PreviousSnapshot, PutPage, PutPageBlob, PutPageFromUrl,
    SequenceAction,
};

use crate::{BlobPath, Body, Code, ContainerName, Headers, Query, Refusal, Resource, Version};

/// The methods of HTTP that the dialect knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Reads without a body in the answer.
    Head,
    /// Writes.
    Put,
    /// Deletes.
    Delete,
    /// Batches. Queries and keys are not supported.
    Post,
    /// Asks for permission across origins: known, and not granted.
    Options,
}

impl Method {
    /// Reads a method.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Ok(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "POST" => Self::Post,
            "OPTIONS" => Self::Options,
            _ => return Err(Code::InvalidHttpVerb.into()),
        })
    }

    /// As requests have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Post => "POST",
            Self::Options => "OPTIONS",
        }
    }
}

/// What a request asks for, by what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one of it for each request")]
pub enum Operation {
    /// About the account.
    Account(AccountOperation),
    /// About a container.
    Container(ContainerName, ContainerOperation),
    /// About a blob.
    Blob(BlobPath, BlobOperation),
}

/// What operations are read from.
pub(crate) struct Parts<'a> {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) headers: &'a Headers,
    pub(crate) query: &'a Query,
    pub(crate) is_secondary: bool,
}

impl Parts<'_> {
    /// The parameter `comp` in lower case; empty if it is missing.
    fn comp(&self) -> String {
        self.query.get("comp").unwrap_or_default().to_ascii_lowercase()
    }

    fn restype(&self) -> String {
        self.query.get("restype").unwrap_or_default().to_ascii_lowercase()
    }

    /// The refusal of a combination of method, `comp` and `restype` that is no operation.
    fn unknown(&self, known_with_another_method: bool) -> Refusal {
        if known_with_another_method {
            return Code::UnsupportedHttpVerb.into();
        }
        let name = if self.query.get("comp").is_some() { "comp" } else { "restype" };
        match self.query.get(name) {
            Some(value) => {
                Refusal::parameter(name, value, "The operation is unknown or not supported.")
            }
            None => Code::UnsupportedHttpVerb.into(),
        }
    }

    fn body(&self, limit: u64) -> Result<Body, Refusal> {
        Body::parse(self.headers, self.version, limit)
    }

    /// Refuses a body where an operation has none.
    fn no_body(&self) -> Result<(), Refusal> {
        match self.headers.number("content-length")? {
            None | Some(0) => Ok(()),
            Some(length) => Err(Refusal::header("content-length", &length.to_string())),
        }
    }
}

impl Operation {
    pub(crate) fn parse(parts: &Parts<'_>, resource: &Resource) -> Result<Self, Refusal> {
        refuse_unsupported(parts)?;
        if parts.method == Method::Options {
            return Err(Code::CorsPreflightFailure.into());
        }
        Ok(match resource {
            Resource::Account => Self::Account(AccountOperation::parse(parts)?),
            Resource::Container(name) => {
                Self::Container(name.clone(), ContainerOperation::parse(parts)?)
            }
            Resource::Blob(path) => Self::Blob(path.clone(), BlobOperation::parse(parts)?),
        })
    }

    /// The body that the request has, if the operation takes one.
    pub fn body(&self) -> Option<&Body> {
        match self {
            Self::Account(
                AccountOperation::SetProperties(body) | AccountOperation::Batch(body),
            )
            | Self::Container(
                _,
                ContainerOperation::SetAcl(SetAcl { body, .. }) | ContainerOperation::Batch(body),
            ) => Some(body),
            Self::Blob(_, operation) => operation.body(),
            Self::Account(_) | Self::Container(..) => None,
        }
    }

    /// Whether it changes anything; the secondary refuses it then.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Account(operation) => matches!(operation, AccountOperation::SetProperties(_)),
            Self::Container(_, operation) => operation.is_write(),
            Self::Blob(_, operation) => operation.is_write(),
        }
    }
}

/// Headers of features that this service does not have. A request that needs one is refused: it would not get what it
/// asks for.
const UNSUPPORTED: [&str; 19] = [
    "x-ms-encryption-key",
    "x-ms-encryption-key-sha256",
    "x-ms-encryption-algorithm",
    "x-ms-encryption-scope",
    "x-ms-source-encryption-key",
    "x-ms-source-encryption-key-sha256",
    "x-ms-source-encryption-algorithm",
    "x-ms-tags",
    "x-ms-if-tags",
    "x-ms-source-if-tags",
    "x-ms-immutability-policy-until-date",
    "x-ms-immutability-policy-mode",
    "x-ms-copy-source-authorization",
    "x-ms-file-request-intent",
    "x-ms-expiry-option",
    "x-ms-expiry-time",
    "x-ms-delete-type-permanent",
    "x-ms-access-tier-if-modified-since",
    "x-ms-access-tier-if-unmodified-since",
];

/// Headers of such features that may be there if they ask for nothing.
const UNSUPPORTED_UNLESS: [(&str, &str); 5] = [
    ("x-ms-legal-hold", "false"),
    ("x-ms-seal-blob", "false"),
    ("x-ms-deny-encryption-scope-override", "false"),
    ("x-ms-default-encryption-scope", "$account-encryption-key"),
    ("x-ms-copy-source-tag-option", "REPLACE"),
];

fn refuse_unsupported(parts: &Parts<'_>) -> Result<(), Refusal> {
    if let Some(name) = UNSUPPORTED.into_iter().find(|name| parts.headers.get(name).is_some()) {
        return Err(Refusal::unsupported(name));
    }
    for (name, harmless) in UNSUPPORTED_UNLESS {
        if parts.headers.get(name).is_some_and(|value| !value.eq_ignore_ascii_case(harmless)) {
            return Err(Refusal::unsupported(name));
        }
    }
    for name in ["versionid", "deletetype"] {
        if let Some(value) = parts.query.get(name) {
            return Err(Refusal::parameter(name, value, "Versions of blobs are not supported."));
        }
    }
    parts.query.parsed("timeout", |value| value.parse::<u32>().ok())?;
    Ok(())
}

/// The parameter `maxresults`: at most `limit`, and not less than 1.
fn max_results(query: &Query, limit: u32) -> Result<Option<u32>, Refusal> {
    let Some(value) = query.get("maxresults") else { return Ok(None) };
    match value.parse::<i64>() {
        Ok(number) if number >= 1 => Ok(Some(u32::try_from(number).unwrap_or(limit).min(limit))),
        Ok(_) => Err(Refusal::new(Code::OutOfRangeQueryParameterValue)
            .with("QueryParameterName", "maxresults")
            .with("QueryParameterValue", value)
            .with("MinimumAllowed", "1")
            .with("MaximumAllowed", limit.to_string())),
        Err(_) => Err(Refusal::parameter("maxresults", value, "It is not a number.")),
    }
}
