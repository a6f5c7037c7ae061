//! How commands reach a storage account: a connection string, a URL with a shared access signature, or an account of a
//! folder on this machine.

use std::{fs, path::PathBuf, sync::Arc};

use clap::Args;
use strongroom_azure::{BlobPath, ConnectionString, ContainerName, Resource, SnapshotId};
use strongroom_storage::admin::{Command, Reply};
use strongroom_storage_client::{Client, Location, Options, Trust, place};

use super::storage::{DataArgs, EndpointArgs};
use crate::{
    context::{Context, variable},
    error::{FaceError, Failure},
};

/// The variables with a connection string; the second is Azure's.
pub(super) const VARIABLES: [&str; 2] =
    ["STRONGROOM_CONNECTION_STRING", "AZURE_STORAGE_CONNECTION_STRING"];

/// The storage account that a command works on.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Storage account")]
pub(crate) struct AccountArgs {
    /// Connection string of the account, or its URL with a shared access signature; it works for every service that
    /// speaks Azure's dialect. Other users of this machine can read it in the list of processes: the variable
    /// STRONGROOM_CONNECTION_STRING or AZURE_STORAGE_CONNECTION_STRING is not shown there
    #[arg(long, value_name = "STRING", conflicts_with_all = ["connection_string_file", "account"])]
    connection_string: Option<String>,

    /// File with the connection string
    #[arg(long, value_name = "FILE", conflicts_with = "account")]
    connection_string_file: Option<PathBuf>,

    /// An account that this machine serves from --data-dir, instead of a connection string
    #[arg(long, value_name = "NAME")]
    account: Option<String>,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    trust: CaArgs,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CaArgs {
    /// Believe the certificates in this file (PEM) and those that they have signed, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl CaArgs {
    /// Those of this file, or the system's.
    pub(crate) const fn of(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file }
    }
}

impl AccountArgs {
    /// A client of the account.
    pub(crate) fn client(&self, context: &Context) -> Result<Client, Failure> {
        if let Some(account) = &self.account {
            return local(context, account, &self.data, &self.trust);
        }
        let text = match (&self.connection_string, &self.connection_string_file) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(path)) => Some(read(path)?),
            (None, None) => VARIABLES.iter().find_map(|name| variable(name)),
        };
        let text = text.ok_or_else(|| {
            Failure::usage("no storage account is given")
                .with_hint("Use --connection-string, STRONGROOM_CONNECTION_STRING, or --account for one of this machine.")
        })?;
        connect(context, Location::parse(&text)?.connection, &self.trust)
    }
}

/// The first line of a file.
pub(super) fn read(path: &PathBuf) -> Result<String, Failure> {
    let read = |source| FaceError::Local { path: path.clone(), action: "read", source };
    Ok(fs::read_to_string(path).map_err(read)?.trim().to_owned())
}

fn connect(
    context: &Context,
    connection: ConnectionString,
    trust: &CaArgs,
) -> Result<Client, Failure> {
    let options = Options::new(connection, Arc::new(context.clock), Arc::new(context.entropy));
    let trust = trust.ca_file.clone().map_or(Trust::System, Trust::CaFile);
    Ok(Client::new(Options { trust, cancel: context.cancel.clone(), ..options })?)
}

/// A client of an account that this machine serves. Its key comes from the folder, and so does the certificate.
fn local(
    context: &Context,
    account: &str,
    data: &DataArgs,
    trust: &CaArgs,
) -> Result<Client, Failure> {
    let folder = data.folder()?;
    let endpoint = EndpointArgs::default().of(data)?;
    let command = Command::Keys { name: account.to_owned(), endpoint: endpoint.clone() };
    let Reply::Keys(found) = data.ask(context, &command)? else {
        return Err(super::storage::other_answer());
    };
    let mut connection = Location::parse(&found.connection_string)?.connection;
    // At the secondary of a pair of servers, what is here is read.
    if let Some(secondary) = &connection.secondary
        && secondary.to_string().starts_with(endpoint.trim_end_matches('/'))
    {
        connection.primary = secondary.clone();
    }
    let own = folder.join("certificate.pem");
    let own = (connection.primary.to_string().starts_with("https:") && own.exists()).then_some(own);
    let trust = CaArgs { ca_file: trust.ca_file.clone().or(own) };
    connect(context, connection, &trust)
}

/// The blob of `ACCOUNT/CONTAINER/BLOB`, with a client of its account; or of a URL with a shared access signature.
///
/// The account is reached by `connection`, or is one of this machine.
pub(crate) fn blob_of_account(
    context: &Context,
    text: &str,
    connection: Option<&str>,
    data: &DataArgs,
    trust: &CaArgs,
) -> Result<(Client, BlobPath), Failure> {
    if text.starts_with("https://") || text.starts_with("http://") {
        let location = Location::parse(text)?;
        let Resource::Blob(path) = location.resource else {
            return Err(Failure::usage("the URL names no blob"));
        };
        return Ok((connect(context, location.connection, trust)?, path));
    }
    let wrong = || Failure::usage(format!("{text:?} is not ACCOUNT/CONTAINER/BLOB"));
    let (account, below) = text.split_once('/').ok_or_else(wrong)?;
    let path = blob(below).map_err(|_| wrong())?;
    let Some(connection) = connection else {
        return Ok((local(context, account, data, trust)?, path));
    };
    let connection = Location::parse(connection)?.connection;
    match &connection.account {
        Some(named) if named.as_str() != account => Err(Failure::usage(format!(
            "the connection string is that of the account {named}, not of {account}"
        ))),
        _ => Ok((connect(context, connection, trust)?, path)),
    }
}

/// The name of a container.
pub(crate) fn container(text: &str) -> Result<ContainerName, Failure> {
    match place(text)? {
        Resource::Container(name) => Ok(name),
        _ => Err(Failure::usage(format!("{text:?} is not the name of a container"))),
    }
}

/// `CONTAINER/BLOB`.
pub(crate) fn blob(text: &str) -> Result<BlobPath, Failure> {
    match place(text)? {
        Resource::Blob(path) => Ok(path),
        _ => Err(Failure::usage(format!("{text:?} is not CONTAINER/BLOB"))),
    }
}

/// Reads the time that names a snapshot.
pub(crate) fn snapshot(text: &str) -> Result<SnapshotId, String> {
    text.parse().map_err(|_| {
        "a snapshot is named by its time, as 2026-11-30T01:00:00.0000000Z: see `blob list --snapshots`"
            .to_owned()
    })
}
