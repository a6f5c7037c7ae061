//! Storage accounts: those that this host serves itself, and those that a file gives access to.

use std::{fmt::Debug, fs, path::PathBuf, sync::Arc};

use strongroom_api::{BlobAccess, ErrorBody};
use strongroom_azure::{BlobPath, Metadata, Resource, SnapshotId};
use strongroom_base::{Cancel, Clock, Entropy, message};
use strongroom_orders::Result;
use strongroom_storage_client::{Client, Location, Options, Trust, place};

use crate::error::body;

/// The storage accounts that this host serves. The program that serves them gives this to the agent.
pub trait ServedAccounts: Debug + Send + Sync {
    /// A client of an account; its requests end when `cancel` is raised.
    fn client(&self, account: &str, cancel: &Cancel) -> Result<Client>;

    /// Takes a snapshot of each of these blobs, `ACCOUNT/CONTAINER/BLOB`, with this metadata: all at the same moment, or none.
    fn snapshot(&self, blobs: &[(String, Metadata)]) -> Result<SnapshotId>;
}

/// How the blobs of an order are reached.
pub(crate) struct Accounts<'a> {
    pub(crate) served: Option<&'a dyn ServedAccounts>,
    pub(crate) access: Option<&'a BlobAccess>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl Accounts<'_> {
    /// Those that this host serves, if the blobs are in them.
    pub(crate) fn served(&self) -> Option<&dyn ServedAccounts> {
        self.served.filter(|_| self.access.is_none())
    }

    /// The blob of `ACCOUNT/CONTAINER/BLOB`, with a client of its account.
    pub(crate) fn open(&self, blob: &str, cancel: &Cancel) -> Result<(Client, BlobPath)> {
        let wrong = || {
            let message = message!(REQUEST_INVALID, "{blob} is not ACCOUNT/CONTAINER/BLOB", blob);
            Box::new(ErrorBody::from(message))
        };
        let (account, below) = blob.split_once('/').ok_or_else(wrong)?;
        let Ok(Resource::Blob(path)) = place(below) else { return Err(wrong()) };
        let client = match (self.access, self.served) {
            (Some(access), _) => self.connect(access, account, cancel)?,
            (None, Some(served)) => served.client(account, cancel)?,
            (None, None) => {
                let message = message!(
                    HOST_LACKS,
                    "this host serves no storage accounts: the account {account} needs a connection string",
                    account
                );
                return Err(Box::new(ErrorBody::from(message)));
            }
        };
        Ok((client, path))
    }

    fn connect(&self, access: &BlobAccess, account: &str, cancel: &Cancel) -> Result<Client> {
        let BlobAccess { connection_string_file: file, ca_file } = access;
        let text = fs::read_to_string(file).map_err(|error| {
            let message =
                message!(LOCAL_IO, "cannot {action} {path}", action = "read", path = file);
            let mut body = ErrorBody::from(message);
            body.causes.push(error.to_string());
            Box::new(body)
        })?;
        // What is wrong with it is said without any of it.
        let connection = Location::parse(text.trim()).map_err(body)?.connection;
        if let Some(named) = &connection.account
            && named.as_str() != account
        {
            let message = message!(
                REQUEST_INVALID,
                "the connection string in {path} is that of the account {named}, not of {account}",
                path = file,
                named = named.as_str(),
                account
            );
            return Err(Box::new(ErrorBody::from(message)));
        }
        let trust =
            ca_file.as_ref().map_or(Trust::System, |file| Trust::CaFile(PathBuf::from(file)));
        let options = Options::new(connection, Arc::clone(&self.clock), Arc::clone(&self.entropy));
        Client::new(Options { trust, cancel: cancel.clone(), ..options }).map_err(body)
    }
}
