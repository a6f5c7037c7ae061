//! By what right a request comes: the signature of an account's key, or a shared access signature.
//!
//! Nothing here knows which accounts there are: keys and stored access policies are parameters, and so are the moment
//! and the peer.

mod key;
mod sas;
mod sas_check;
mod shared_key;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use jiff::Timestamp;

pub use key::{AccountKey, BadKey};
pub use sas::{AccountSas, AddressRange, Overrides, Sas, SasKind, SasResource, ServiceSas};
pub use shared_key::{SharedKey, sign_request};

use crate::{Code, Headers, Query, Refusal, Request, StoredPolicy};

/// What a request shows of its right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    Anonymous,
    /// A signature by an account's key.
    SharedKey(SharedKey),
    /// A shared access signature in the query.
    Sas(Box<Sas>),
}

impl Credentials {
    pub(crate) fn parse(headers: &Headers, query: &Query) -> Result<Self, Refusal> {
        let sas = Sas::parse(query)?;
        match (headers.get("authorization"), sas) {
            (None, None) => Ok(Self::Anonymous),
            (None, Some(sas)) => Ok(Self::Sas(Box::new(sas))),
            (Some(_), Some(_)) => Err(Refusal::new(Code::InvalidAuthenticationInfo).with(
                "Reason",
                "A request has either a signature in its query or an Authorization header.",
            )),
            (Some(value), None) => SharedKey::parse(value).map(Self::SharedKey),
        }
    }
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The moment of the request.
    pub moment: Timestamp,
    /// The address that it comes from.
    pub address: Option<IpAddr>,
    /// Whether it came over HTTPS.
    pub is_https: bool,
}

/// A right that was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The account's key: every right.
    Owner,
    /// A shared access signature that permits the operation.
    Sas {
        /// Whether a blob that exists may be replaced. If not, and it exists, the operation is refused by
        /// [`Code::UnauthorizedBlobOverwrite`].
        may_overwrite: bool,
        /// Headers of the answer of a read, instead of the blob's.
        overrides: Overrides,
    },
    /// No credentials: only for what a container has made public, if the account permits that at all.
    Anonymous,
}

impl Grant {
    /// Refuses to replace a blob that exists if the right is only to create.
    pub fn check_overwrite(&self, exists: bool) -> Result<(), Refusal> {
        match self {
            Self::Sas { may_overwrite: false, .. } if exists => {
                Err(Code::UnauthorizedBlobOverwrite.into())
            }
            _ => Ok(()),
        }
    }
}

impl Request {
    /// The id of the stored access policy that the request's SAS refers to: the face gives that of the container to
    /// [`Request::authorize`].
    pub fn policy_id(&self) -> Option<&str> {
        match &self.credentials {
            Credentials::Sas(sas) => sas.policy_id(),
            _ => None,
        }
    }

    /// Proves the request's right by the account's keys. `policy` is the stored access policy with the id
    /// [`Request::policy_id`], if the container has it. A write to the secondary is refused here, too.
    pub fn authorize(
        &self,
        keys: &[AccountKey],
        policy: Option<&StoredPolicy>,
        caller: &Caller,
    ) -> Result<Grant, Refusal> {
        let grant = match &self.credentials {
            Credentials::Anonymous => Grant::Anonymous,
            Credentials::SharedKey(shared) => {
                shared.verify(self, keys, caller)?;
                Grant::Owner
            }
            Credentials::Sas(sas) => sas.authorize(self, keys, policy, caller)?,
        };
        if self.address.is_secondary && self.operation.is_write() {
            return Err(Code::SecondaryWriteNotAllowed.into());
        }
        Ok(grant)
    }
}
