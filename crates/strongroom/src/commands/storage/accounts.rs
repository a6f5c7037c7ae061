//! Where a command finds storage accounts: in a folder of this machine, or at a server of the service.
//!
//! A command takes what the command line names, else what the environment names, else the server of the context in
//! use, else the default folder. Both give the same answers.

use strongroom_api as api;
use strongroom_client::Client;
use strongroom_storage::admin::{Command, Reply};

use super::{DataArgs, EndpointArgs, other_answer, shapes};
use crate::{context::Context, error::Failure};

/// Storage accounts.
pub(super) enum Accounts<'c> {
    /// In a folder of this machine.
    Here(Here<'c>),
    /// At a server.
    Server(Box<Client>),
}

/// Accounts in a folder of this machine.
pub(super) struct Here<'c> {
    context: &'c Context,
    data: DataArgs,
}

impl Here<'_> {
    fn ask<T>(
        &self,
        command: &Command,
        read: impl FnOnce(Reply) -> Option<T>,
    ) -> Result<T, Failure> {
        read(self.data.ask(self.context, command)?).ok_or_else(other_answer)
    }
}

impl<'c> Accounts<'c> {
    /// Those that are meant.
    pub(super) fn of(context: &'c Context, data: DataArgs) -> Result<Self, Failure> {
        if context.has_accounts_here(data.given())? {
            return Ok(Self::Here(Here { context, data }));
        }
        Ok(Self::Server(Box::new(context.client()?)))
    }

    /// The accounts, by name.
    pub(super) fn list(&self) -> Result<Vec<api::StorageAccount>, Failure> {
        match self {
            Self::Here(here) => here.ask(&Command::List, shapes::accounts),
            Self::Server(client) => Ok(client.storage_accounts().all()?),
        }
    }

    /// An account.
    pub(super) fn show(&self, name: &str) -> Result<api::StorageAccount, Failure> {
        match self {
            Self::Here(here) => here.ask(&Command::Show { name: name.to_owned() }, shapes::account),
            Self::Server(client) => Ok(client.storage_account(name)?),
        }
    }

    /// Creates an account.
    pub(super) fn create(
        &self,
        new: &api::StorageAccountCreate,
    ) -> Result<api::StorageAccountKeys, Failure> {
        match self {
            Self::Here(here) => {
                let endpoint = EndpointArgs::given(new.endpoint.clone()).of(&here.data)?;
                here.ask(&shapes::create(new, endpoint), shapes::keys)
            }
            Self::Server(client) => Ok(client.create_storage_account(new)?),
        }
    }

    /// An account with its keys.
    pub(super) fn keys(
        &self,
        name: &str,
        endpoint: &EndpointArgs,
    ) -> Result<api::StorageAccountKeys, Failure> {
        match self {
            Self::Here(here) => {
                let endpoint = endpoint.of(&here.data)?;
                here.ask(&Command::Keys { name: name.to_owned(), endpoint }, shapes::keys)
            }
            Self::Server(client) => {
                let endpoint = endpoint.endpoint.clone();
                Ok(client.storage_keys(name, &api::StorageKeysRead { endpoint })?)
            }
        }
    }

    /// Replaces a key of an account.
    pub(super) fn regenerate_key(
        &self,
        name: &str,
        key: api::StorageKeyName,
        endpoint: &EndpointArgs,
    ) -> Result<api::StorageAccountKeys, Failure> {
        match self {
            Self::Here(here) => {
                let command = shapes::regenerate_key(name, key, endpoint.of(&here.data)?);
                here.ask(&command, shapes::keys)
            }
            Self::Server(client) => {
                let endpoint = endpoint.endpoint.clone();
                let request = api::StorageKeyRegenerate { key, endpoint };
                Ok(client.regenerate_storage_key(name, &request)?)
            }
        }
    }

    /// Deletes an account.
    pub(super) fn delete(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Here(here) => {
                let command = Command::Delete { name: name.to_owned() };
                here.ask(&command, |reply| shapes::is_deleted(&reply))
            }
            Self::Server(client) => Ok(client.delete_storage_account(name)?),
        }
    }

    /// Changes where the data of an account is kept.
    pub(super) fn set_redundancy(
        &self,
        name: &str,
        redundancy: api::StorageAccountRedundancy,
    ) -> Result<api::StorageAccount, Failure> {
        match self {
            Self::Here(here) => {
                here.ask(&shapes::set_redundancy(name, redundancy), shapes::account)
            }
            Self::Server(client) => {
                let request = api::StorageRedundancySet { redundancy };
                Ok(client.set_storage_redundancy(name, &request)?)
            }
        }
    }

    /// Makes the server of the accounts the primary.
    pub(super) fn fail_over(&self, accept_loss: bool) -> Result<api::StorageFailedOver, Failure> {
        match self {
            Self::Here(here) => {
                let command = Command::Failover { accept_loss };
                here.ask(&command, |reply| shapes::failed_over(&reply))
            }
            Self::Server(client) => {
                let request = api::StorageFailOver { accept_loss: Some(accept_loss) };
                Ok(client.fail_storage_over(&request)?)
            }
        }
    }

    /// How they are kept at a second server.
    pub(super) fn replication(&self) -> Result<api::StorageReplication, Failure> {
        match self {
            Self::Here(here) => here.ask(&Command::ReplicationShow, shapes::replication),
            Self::Server(client) => Ok(client.storage_replication()?),
        }
    }

    /// How the store stands.
    pub(super) fn status(&self) -> Result<api::StorageStatus, Failure> {
        match self {
            Self::Here(here) => here.ask(&Command::Status, shapes::status),
            Self::Server(client) => Ok(client.storage_status()?),
        }
    }
}
