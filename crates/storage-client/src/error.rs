//! What fails between a client and a blob service.

use std::{io, path::PathBuf};

use strongroom_azure::{Code as Service, Failure, SnapshotId};
use strongroom_base::{Code, Coded, Params, codes, params};

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was to be done: a verb and its object.
    pub action: &'static str,
    /// The container or blob: `CONTAINER/BLOB`, or the account's endpoint.
    pub resource: String,
    /// Status, code and message of the service.
    pub failure: Failure,
    /// The id under which the service knows the request.
    pub request_id: Option<String>,
}

impl Refused {
    /// The name of the service's code.
    pub fn service_code(&self) -> &str {
        self.failure.name.as_deref().unwrap_or("no code")
    }

    fn words(&self) -> String {
        let id = self.request_id.as_deref().unwrap_or("unknown");
        format!(
            "cannot {} {}: the service answered {} {} (request {id})",
            self.action,
            self.resource,
            self.failure.status,
            self.service_code(),
        )
    }
}

/// Why work with a blob service failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageClientError {
    /// A connection string, a URL, a name or another setting is wrong.
    #[error("{0}")]
    Settings(String),
    /// The service does not answer.
    #[error("cannot {action} {resource}: {endpoint} does not answer")]
    Unavailable {
        /// What was to be done.
        action: &'static str,
        /// The container or blob.
        resource: String,
        /// Where the service should be.
        endpoint: String,
        /// Whether it is certain that nothing was done.
        is_undone: bool,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The service's certificate is not trusted.
    #[error("the certificate of {endpoint} is not trusted: {reason}")]
    Untrusted {
        /// Where the service is.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// An answer is not valid.
    #[error("{endpoint} sent an answer that is not valid: {reason}")]
    Protocol {
        /// Where the service is.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The service refuses the request, or failed.
    #[error("{}", .0.words())]
    Refused(Box<Refused>),
    /// A blob belongs to something else.
    #[error("{resource} is not written: {reason}")]
    Foreign {
        /// The blob.
        resource: String,
        /// What it is.
        reason: &'static str,
    },
    /// A blob cannot be used.
    #[error("{resource} cannot be used: {reason}")]
    Unsuitable {
        /// The blob.
        resource: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file cannot be used.
    #[error("the file {} cannot be used: {reason}", path.display())]
    UnsuitableFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A blob has no such backup.
    #[error("{resource} has no complete backup {snapshot}")]
    NoBackup {
        /// The blob.
        resource: String,
        /// The snapshot that was asked for.
        snapshot: SnapshotId,
    },
    /// The lease of this run was lost: somebody has broken it, or it could not be renewed in time.
    #[error("the lease on {resource} was lost")]
    LeaseLost {
        /// The blob.
        resource: String,
    },
    /// A local file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The verb.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Interrupted,
    /// Something that cannot happen.
    #[error("{0}")]
    Bug(&'static str),
}

impl StorageClientError {
    /// The service's code, if it refused the request.
    pub fn service(&self) -> Option<Service> {
        self.refused().and_then(|refused| refused.failure.code)
    }

    /// What the service answered, if it refused the request.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    /// Whether there is no such blob, snapshot or container.
    pub fn is_not_found(&self) -> bool {
        self.refused().is_some_and(|refused| refused.failure.status == 404)
    }

    /// Whether the service may have done what it was asked for, though the answer does not say so. Of all refusals,
    /// only those by a status of 4xx and 503 are conclusive.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Refused(refused) => {
                refused.failure.status >= 500 && refused.failure.status != 503
            }
            Self::Unavailable { is_undone, .. } => !is_undone,
            Self::Protocol { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn local(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Local { path, action, source }
    }
}

/// What a refusal means to the user of the command.
fn code_of(refused: &Refused) -> &'static Code {
    match refused.failure.code {
        Some(Service::AccountNotFound) => return &codes::ACCOUNT_NOT_FOUND,
        Some(Service::ContainerNotFound) => return &codes::CONTAINER_NOT_FOUND,
        Some(Service::ContainerAlreadyExists | Service::ContainerBeingDeleted) => {
            return &codes::CONTAINER_EXISTS;
        }
        Some(Service::BlobAlreadyExists) => return &codes::BLOB_EXISTS,
        Some(Service::ConditionNotMet | Service::SourceConditionNotMet) => {
            return &codes::BLOB_CHANGED;
        }
        Some(Service::SnapshotCountExceeded | Service::SnapshotOperationRateExceeded) => {
            return &codes::BLOB_SNAPSHOT_LIMIT;
        }
        _ => {}
    }
    if refused.service_code().starts_with("Lease") {
        return &codes::BLOB_LEASED;
    }
    match refused.failure.status {
        401 | 403 => &codes::STORAGE_DENIED,
        404 => &codes::BLOB_NOT_FOUND,
        409 | 412 => &codes::BLOB_CONFLICT,
        _ if refused.failure.is_transient() => &codes::STORAGE_UNAVAILABLE,
        _ => &codes::BLOB_REFUSED,
    }
}

impl Coded for StorageClientError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Settings(_) => &codes::USAGE_INVALID,
            Self::Unavailable { .. } => &codes::STORAGE_UNAVAILABLE,
            Self::Untrusted { .. } => &codes::STORAGE_UNTRUSTED,
            Self::Protocol { .. } => &codes::STORAGE_PROTOCOL,
            Self::Refused(refused) => code_of(refused),
            Self::Foreign { .. } => &codes::BLOB_FOREIGN,
            Self::Unsuitable { .. } | Self::UnsuitableFile { .. } => &codes::BLOB_TYPE,
            Self::NoBackup { .. } => &codes::BLOB_NO_BACKUP,
            Self::LeaseLost { .. } => &codes::BLOB_LEASED,
            Self::Local { .. } => &codes::LOCAL_IO,
            Self::Interrupted => &codes::INTERRUPTED,
            Self::Bug(_) => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Settings(reason) => params!(USAGE_INVALID: reason),
            Self::Unavailable { action, resource, endpoint, is_undone: _, source: _ } => {
                params!(STORAGE_UNAVAILABLE: action, resource, endpoint)
            }
            Self::Untrusted { endpoint, reason } => params!(STORAGE_UNTRUSTED: endpoint, reason),
            Self::Protocol { endpoint, reason } => params!(STORAGE_PROTOCOL: endpoint, reason),
            Self::Refused(refused) => {
                let Refused { action, resource, failure: _, request_id: _ } = &**refused;
                let (service_code, status) =
                    (refused.service_code(), u64::from(refused.failure.status));
                params!(
                    STORAGE_UNAVAILABLE | ACCOUNT_NOT_FOUND | STORAGE_DENIED | CONTAINER_NOT_FOUND | CONTAINER_EXISTS
                        | BLOB_NOT_FOUND | BLOB_EXISTS | BLOB_CHANGED | BLOB_LEASED
                        | BLOB_SNAPSHOT_LIMIT | BLOB_CONFLICT | BLOB_REFUSED:
                    action, resource, service_code, status
                )
            }
            Self::Foreign { resource, reason } => params!(BLOB_FOREIGN: resource, reason),
            Self::Unsuitable { resource, reason } => params!(BLOB_TYPE: resource, reason),
            Self::UnsuitableFile { path, reason } => params!(BLOB_TYPE: path, reason),
            Self::NoBackup { resource, snapshot } => {
                let snapshot = snapshot.to_string();
                params!(BLOB_NO_BACKUP: resource, snapshot)
            }
            Self::LeaseLost { resource } => params!(BLOB_LEASED: resource),
            Self::Local { path, action, source: _ } => params!(LOCAL_IO: path, action),
            Self::Interrupted => Params::none(),
            Self::Bug(reason) => params!(BUG: reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use strongroom_azure::Headers;
    use strongroom_base::Message;

    use super::*;

    fn refused(status: u16, name: &str) -> StorageClientError {
        let headers = Headers::of([("x-ms-error-code", name)]).expect("headers");
        StorageClientError::Refused(Box::new(Refused {
            action: "read",
            resource: "disks/web".to_owned(),
            failure: Failure::parse(status, &headers, b""),
            request_id: None,
        }))
    }

    #[test]
    fn what_a_service_says_has_a_code_and_its_message_the_values() {
        for (status, name, code) in [
            (404, "BlobNotFound", "blob.not_found"),
            (404, "AccountNotFound", "account.not_found"),
            (404, "ContainerNotFound", "container.not_found"),
            (409, "ContainerAlreadyExists", "container.exists"),
            (409, "BlobAlreadyExists", "blob.exists"),
            (409, "SnapshotsPresent", "blob.conflict"),
            (409, "SnaphotOperationRateExceeded", "blob.snapshot_limit"),
            (409, "LeaseAlreadyPresent", "blob.leased"),
            (412, "LeaseIdMissing", "blob.leased"),
            (412, "ConditionNotMet", "blob.changed"),
            (403, "AuthenticationFailed", "storage.denied"),
            (503, "ServerBusy", "storage.unavailable"),
            (400, "InvalidInput", "blob.refused"),
            (418, "", "blob.refused"),
        ] {
            let error = refused(status, name);
            assert_eq!(error.code().name, code, "{error}");
            assert_eq!(Message::of(&error).faults(), Vec::<String>::new());
        }
    }

    #[test]
    fn only_some_refusals_are_conclusive() {
        assert!(!refused(409, "LeaseAlreadyPresent").may_be_done());
        assert!(!refused(503, "ServerBusy").may_be_done());
        assert!(refused(500, "InternalError").may_be_done());
    }
}
