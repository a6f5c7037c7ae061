//! Answers about one container.

use super::{Answer, Stamp};
use crate::{LeaseState, Metadata, PublicAccess, StoredPolicy};

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerProperties {
    /// Its state.
    pub stamp: Stamp,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its lease.
    pub lease: LeaseState,
    /// What may be read without credentials.
    pub public_access: Option<PublicAccess>,
}

impl ContainerProperties {
    /// The answer of Get Container Properties and Get Container Metadata: 200.
    pub fn answer(&self) -> Answer {
        let mut answer = Answer::new(200)
            .stamped(&self.stamp)
            .with("x-ms-lease-status", self.lease.status())
            .with("x-ms-lease-state", self.lease.name())
            .maybe("x-ms-lease-duration", self.lease.duration())
            .maybe("x-ms-blob-public-access", self.public_access.map(PublicAccess::name))
            .with("x-ms-has-immutability-policy", "false")
            .with("x-ms-has-legal-hold", "false")
            .with("x-ms-immutable-storage-with-versioning-enabled", "false")
            .with("x-ms-default-encryption-scope", "$account-encryption-key")
            .with("x-ms-deny-encryption-scope-override", "false");
        answer.headers.extend(self.metadata.to_headers());
        answer
    }
}

/// The answer of Get Container ACL: 200.
pub fn container_acl(
    stamp: &Stamp,
    public_access: Option<PublicAccess>,
    policies: &[StoredPolicy],
) -> Answer {
    Answer::xml(200, StoredPolicy::list_to_xml(policies))
        .stamped(stamp)
        .maybe("x-ms-blob-public-access", public_access.map(PublicAccess::name))
}
