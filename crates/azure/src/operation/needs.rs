//! What a shared access signature must permit for an operation.

use super::{AccountOperation, BlobOperation, ContainerOperation, Operation};
use crate::LeaseAction;

/// A permission of a shared access signature, by its letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// `r`
    Read,
    /// `a`: append.
    Add,
    /// `c`: create what does not exist.
    Create,
    /// `w`
    Write,
    /// `d`
    Delete,
    /// `l`
    List,
}

impl Permission {
    /// Its letter in `sp`.
    pub const fn letter(self) -> char {
        match self {
            Self::Read => 'r',
            Self::Add => 'a',
            Self::Create => 'c',
            Self::Write => 'w',
            Self::Delete => 'd',
            Self::List => 'l',
        }
    }
}

/// On which level of the service an operation works: the letters of `srt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// `s`
    Service,
    /// `c`
    Container,
    /// `o`
    Object,
}

impl Level {
    /// Its letter in `srt`.
    pub const fn letter(self) -> char {
        match self {
            Self::Service => 's',
            Self::Container => 'c',
            Self::Object => 'o',
        }
    }
}

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The level that an account SAS must have; none if every level will do.
    pub level: Option<Level>,
    /// One of these permissions; empty if no SAS permits the operation.
    pub any_of: &'static [Permission],
    /// Whether it replaces a blob that exists, for which the permission to create does not suffice.
    pub may_overwrite: bool,
    /// Whether a SAS of a container or blob permits it, not only one of the account.
    pub by_service_sas: bool,
}

impl Operation {
    /// What the operation needs, by Azure's tables of operations and permissions.
    pub fn needs(&self) -> Needs {
        use Permission::{Create, Delete, List, Read, Write};
        let on = |level, any_of| Needs {
            level: Some(level),
            any_of,
            may_overwrite: false,
            by_service_sas: false,
        };
        match self {
            Self::Account(operation) => match operation {
                AccountOperation::GetProperties | AccountOperation::GetStats => {
                    on(Level::Service, &[Read])
                }
                AccountOperation::SetProperties(_) => on(Level::Service, &[Write]),
                AccountOperation::ListContainers(_) => on(Level::Service, &[List]),
                AccountOperation::GetInformation | AccountOperation::Batch(_) => ANYTHING,
            },
            Self::Container(_, operation) => match operation {
                ContainerOperation::Create(_) => on(Level::Container, &[Create, Write]),
                ContainerOperation::Delete(_) => on(Level::Container, &[Delete]),
                ContainerOperation::GetProperties(_) => on(Level::Container, &[Read]),
                ContainerOperation::SetMetadata(_) => on(Level::Container, &[Write]),
                ContainerOperation::GetAcl(_) | ContainerOperation::SetAcl(_) => {
                    on(Level::Container, &[])
                }
                ContainerOperation::Lease(lease) => {
                    on(Level::Container, lease_needs(&lease.action))
                }
                ContainerOperation::ListBlobs(_) => {
                    Needs { by_service_sas: true, ..on(Level::Container, &[List]) }
                }
                ContainerOperation::GetAccountInformation | ContainerOperation::Batch(_) => {
                    ANYTHING
                }
            },
            Self::Blob(_, operation) => operation.needs(),
        }
    }
}

/// Get Account Information needs any permission on any level; a batch too, because each of its parts is checked by
/// itself.
const ANYTHING: Needs = Needs {
    level: None,
    any_of: &[
        Permission::Read,
        Permission::Add,
        Permission::Create,
        Permission::Write,
        Permission::Delete,
        Permission::List,
    ],
    may_overwrite: false,
    by_service_sas: true,
};

const fn lease_needs(action: &LeaseAction) -> &'static [Permission] {
    match action {
        LeaseAction::Break { .. } => &[Permission::Delete, Permission::Write],
        _ => &[Permission::Write],
    }
}

impl BlobOperation {
    fn needs(&self) -> Needs {
        use Permission::{Add, Create, Delete, Read, Write};
        let (any_of, may_overwrite): (&'static [Permission], bool) = match self {
            Self::PutPageBlob(_)
            | Self::PutBlockBlob(_)
            | Self::PutAppendBlob(_)
            | Self::PutBlobFromUrl(_)
            | Self::PutBlockList(_)
            | Self::Copy(_)
            | Self::IncrementalCopy(_) => (&[Create, Write], true),
            Self::PutBlock(_) | Self::PutBlockFromUrl(_) | Self::Snapshot(_) => {
                (&[Create, Write], false)
            }
            Self::AppendBlock(_) | Self::AppendBlockFromUrl(_) => (&[Add, Write], false),
            Self::PutPage(_)
            | Self::ClearPages(_)
            | Self::PutPageFromUrl(_)
            | Self::AbortCopy(_)
            | Self::SetProperties(_)
            | Self::SetMetadata(_)
            | Self::SetTier(_) => (&[Write], false),
            Self::Lease(lease) => (lease_needs(&lease.action), false),
            Self::Delete(_) => (&[Delete], false),
            Self::Get(_)
            | Self::GetProperties(_)
            | Self::GetMetadata(_)
            | Self::GetPageRanges(_)
            | Self::GetBlockList(_) => (&[Read], false),
            Self::GetAccountInformation => return ANYTHING,
        };
        Needs { level: Some(Level::Object), any_of, may_overwrite, by_service_sas: true }
    }
}
