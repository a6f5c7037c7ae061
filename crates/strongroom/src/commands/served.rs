//! The storage accounts of a folder of this machine, as commands and the service reach them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_agent::ServedAccounts;
use strongroom_api::ErrorBody;
use strongroom_azure::{Metadata, SnapshotId};
use strongroom_base::{Cancel, Clock, Code, Coded, Entropy, Params};
use strongroom_storage::{
    StorageError,
    admin::{self, Command, RefusedKind, Reply, Role},
};
use strongroom_storage_client::{Client, Location, Options, StorageClientError, Trust};

use super::storage::endpoint;
use crate::context::Context;

/// The accounts of a folder.
pub(crate) struct ServedBlobs {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for ServedBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedBlobs").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Why an account of a folder cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServedError {
    /// The accounts cannot be asked, or say no.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The client cannot be made.
    #[error(transparent)]
    Client(#[from] StorageClientError),
}

impl Coded for ServedError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Storage(error) => error.code(),
            Self::Client(error) => error.code(),
        }
    }

    fn params(&self) -> Params {
        match self {
            Self::Storage(error) => error.params(),
            Self::Client(error) => error.params(),
        }
    }
}

impl ServedBlobs {
    /// The accounts of a folder.
    pub(crate) fn of(context: &Context, folder: PathBuf) -> Self {
        Self { folder, clock: Arc::new(context.clock), entropy: Arc::new(context.entropy) }
    }

    fn ask(&self, command: &Command) -> Result<Reply, StorageError> {
        admin::run(&self.folder, command, &self.clock, &self.entropy)
    }

    /// Jobs take snapshots, which only a primary does: what a secondary or a fenced server answers to clients says less.
    fn check_primary(&self) -> Result<(), StorageError> {
        let Reply::Replication(stands) = self.ask(&Command::ReplicationShow)? else {
            return Err(StorageError::BadAnswer);
        };
        if matches!(stands.role, Role::Alone | Role::Primary) {
            return Ok(());
        }
        let message = "this server is not the primary of its storage accounts".to_owned();
        Err(StorageError::Refused { kind: RefusedKind::NotPrimary, message })
    }

    /// A client of an account. Its key comes from the folder, and so does the certificate, unless another one is named.
    pub(crate) fn open(
        &self,
        account: &str,
        ca_file: Option<&Path>,
        cancel: &Cancel,
    ) -> Result<Client, ServedError> {
        let endpoint = endpoint(&self.folder)?;
        let command = Command::Keys { name: account.to_owned(), endpoint: endpoint.clone() };
        let Reply::Keys(found) = self.ask(&command)? else {
            return Err(StorageError::BadAnswer.into());
        };
        let mut connection = Location::parse(&found.connection_string)?.connection;
        // At the secondary of a pair of servers, what is here is read.
        if let Some(secondary) = &connection.secondary
            && secondary.to_string().starts_with(endpoint.trim_end_matches('/'))
        {
            connection.primary = secondary.clone();
        }
        let own = self.folder.join("certificate.pem");
        let is_encrypted = connection.primary.to_string().starts_with("https:");
        let own = (is_encrypted && own.exists()).then_some(own);
        let trust = ca_file.map(Path::to_owned).or(own).map_or(Trust::System, Trust::CaFile);
        let options = Options::new(connection, Arc::clone(&self.clock), Arc::clone(&self.entropy));
        Ok(Client::new(Options { trust, cancel: cancel.clone(), ..options })?)
    }

    /// Takes a snapshot of each blob, `ACCOUNT/CONTAINER/BLOB`: all at the same moment, or none.
    pub(crate) fn take(&self, blobs: &[(String, Metadata)]) -> Result<SnapshotId, StorageError> {
        let pairs = |metadata: &Metadata| {
            metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let blobs = blobs.iter().map(|(blob, metadata)| (blob.clone(), pairs(metadata))).collect();
        let Reply::Snapshot { snapshot } = self.ask(&Command::Snapshot { blobs })? else {
            return Err(StorageError::BadAnswer);
        };
        snapshot.parse().map_err(|_| StorageError::BadAnswer)
    }
}

impl ServedAccounts for ServedBlobs {
    fn client(&self, account: &str, cancel: &Cancel) -> Result<Client, Box<ErrorBody>> {
        self.check_primary().map_err(|error| Box::new(ErrorBody::of(&error)))?;
        self.open(account, None, cancel).map_err(|error| Box::new(ErrorBody::of(&error)))
    }

    fn snapshot(&self, blobs: &[(String, Metadata)]) -> Result<SnapshotId, Box<ErrorBody>> {
        self.take(blobs).map_err(|error| Box::new(ErrorBody::of(&error)))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::{SystemClock, SystemEntropy, codes};
    use strongroom_storage::{Options, Storage};

    use super::*;

    #[test]
    fn a_job_at_a_server_that_takes_no_changes_fails_for_that_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let served = ServedBlobs {
            folder: folder.path().to_owned(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        };
        let options = Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
        let storage = Storage::open(folder.path(), options).expect("nobody else has the store");
        // When it is opened again it does not know whether it still is the primary.
        storage.store().pair(true).expect("is paired");
        drop(storage);
        let refused = served.client("disks", &Cancel::new()).expect_err("waits");
        assert_eq!(refused.code, codes::STORAGE_NOT_PRIMARY, "{refused:?}");
    }
}
