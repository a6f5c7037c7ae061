//! The storage accounts that this process serves, for the service beside them.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
};

use strongroom_api as api;
use strongroom_base::message;
use strongroom_orders::{Result, StorageAccounts};
use strongroom_storage::{
    Storage, StorageError,
    admin::{self, Command, Reply},
};

use super::shapes;

/// Accounts that are served until their own thread ends: holding them does not keep their store open.
pub(in crate::commands) struct Served {
    storage: Weak<Storage>,
    endpoint: String,
}

impl Served {
    /// Accounts that are served at an address of this machine.
    pub(in crate::commands) fn new(
        storage: &Arc<Storage>,
        address: SocketAddr,
        host: &str,
        tls: bool,
    ) -> Self {
        let scheme = if tls { "https" } else { "http" };
        let endpoint = if address.ip().is_unspecified() {
            format!("{scheme}://{host}:{}", address.port())
        } else {
            format!("{scheme}://{address}")
        };
        Self { storage: Arc::downgrade(storage), endpoint }
    }

    fn ask<T>(&self, command: &Command, read: impl FnOnce(Reply) -> Option<T>) -> Result<T> {
        let reason = "the storage accounts are not served any more";
        let Some(storage) = self.storage.upgrade() else {
            return Err(message!(STORAGE_STOPPED, "{reason}", reason).into());
        };
        let failure = match admin::execute_served(&storage, command) {
            Reply::Refused { kind, message } => StorageError::Refused { kind, message },
            reply => match read(reply) {
                Some(read) => return Ok(read),
                None => StorageError::Bug("the reply is to another command"),
            },
        };
        Err(Box::new(api::ErrorBody::of(&failure)))
    }

    fn endpoint(&self, given: Option<&str>) -> String {
        given.unwrap_or(&self.endpoint).to_owned()
    }
}

impl StorageAccounts for Served {
    fn list(&self) -> Result<Vec<api::StorageAccount>> {
        self.ask(&Command::List, shapes::accounts)
    }

    fn show(&self, name: &str) -> Result<api::StorageAccount> {
        self.ask(&Command::Show { name: name.to_owned() }, shapes::account)
    }

    fn create(&self, new: &api::StorageAccountCreate) -> Result<api::StorageAccountKeys> {
        let endpoint = self.endpoint(new.endpoint.as_deref());
        self.ask(&shapes::create(new, endpoint), shapes::keys)
    }

    fn keys(&self, name: &str, endpoint: Option<&str>) -> Result<api::StorageAccountKeys> {
        let endpoint = self.endpoint(endpoint);
        self.ask(&Command::Keys { name: name.to_owned(), endpoint }, shapes::keys)
    }

    fn regenerate_key(
        &self,
        name: &str,
        key: api::StorageKeyName,
        endpoint: Option<&str>,
    ) -> Result<api::StorageAccountKeys> {
        let command = shapes::regenerate_key(name, key, self.endpoint(endpoint));
        self.ask(&command, shapes::keys)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.ask(&Command::Delete { name: name.to_owned() }, |reply| shapes::is_deleted(&reply))
    }

    fn snapshot(&self, blobs: &[api::BlobToSnapshot]) -> Result<api::BlobSnapshots> {
        self.ask(&shapes::snapshot(blobs), shapes::snapshots)
    }

    fn status(&self) -> Result<api::StorageStatus> {
        self.ask(&Command::Status, shapes::status)
    }

    fn set_redundancy(&self, name: &str, redundancy: api::StorageAccountRedundancy) -> Result<()> {
        self.ask(&shapes::set_redundancy(name, redundancy), |reply| {
            shapes::account(reply).map(drop)
        })
    }

    fn replication(&self) -> Result<api::StorageReplication> {
        self.ask(&Command::ReplicationShow, shapes::replication)
    }

    fn fail_over(&self, accept_loss: bool) -> Result<api::StorageFailedOver> {
        self.ask(&Command::Failover { accept_loss }, |reply| shapes::failed_over(&reply))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::{Code, SystemClock, SystemEntropy, codes};
    use strongroom_storage::Options;

    use super::*;

    fn open(folder: &tempfile::TempDir) -> Arc<Storage> {
        let options = Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
        Storage::open(folder.path(), options).expect("nobody else has the store")
    }

    fn assert_code<T: std::fmt::Debug>(refused: Result<T>, code: &Code) {
        let error = refused.expect_err("it is refused");
        assert!(error.code == *code, "{error:?}");
    }

    #[test]
    fn accounts_are_reached_while_they_are_served_and_their_store_is_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = open(&folder);
        let anywhere = "0.0.0.0:10000".parse().expect("an address");
        let served = Served::new(&storage, anywhere, "files.example.org", true);
        let new = api::StorageAccountCreate {
            name: "disks".to_owned(),
            kind: None,
            redundancy: None,
            rules: None,
            endpoint: None,
        };
        let made = served.create(&new).expect("an account");
        // An address that is none for clients is not in what they get.
        let text = &made.connection_string;
        assert!(text.contains("BlobEndpoint=https://files.example.org:10000/disks"), "{text}");
        let given = served.keys("disks", Some("http://192.0.2.7")).expect("keys");
        assert!(given.connection_string.contains("BlobEndpoint=http://192.0.2.7/disks"));
        assert_code(served.create(&new), &codes::ACCOUNT_EXISTS);
        let redundancy = Some(api::StorageAccountRedundancy::RaGrs);
        let elsewhere = api::StorageAccountCreate { name: "more".to_owned(), redundancy, ..new };
        assert_code(served.create(&elsewhere), &codes::STORAGE_REPLICATION_INVALID);
        assert_code(served.keys("disks", Some("nonsense")), &codes::ACCOUNT_INVALID);
        assert_code(served.show("none"), &codes::ACCOUNT_NOT_FOUND);

        drop(storage);
        assert_code(served.list(), &codes::STORAGE_STOPPED);
        assert_eq!(open(&folder).store().status().records, 1);
    }
}
