//! Page blobs as disks of a backup: their accounts, and what people are shown of their snapshots.

use std::path::PathBuf;

use clap::Args;
use strongroom_base::PointId;
use strongroom_engine::{BlobDisk, BlobDisks, LeftBehind};
use strongroom_vault::Vault;

use super::{
    served::ServedBlobs,
    storage::DataArgs,
    storage_account::{CaArgs, VARIABLES, blob_of_account},
};
use crate::{
    context::{Context, variable},
    error::Failure,
    values::NamedSource,
};

/// How the accounts of blob disks are reached.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Disks that are page blobs")]
pub(crate) struct BlobAccountArgs {
    /// File with the connection string of the account of blob disks; or the variable STRONGROOM_CONNECTION_STRING or
    /// AZURE_STORAGE_CONNECTION_STRING [default: an account that this machine serves from --data-dir]
    #[arg(long, value_name = "FILE")]
    connection_string_file: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    trust: CaArgs,
}

/// Takes a snapshot of every blob among the disks.
pub(super) fn take(
    context: &Context,
    accounts: &BlobAccountArgs,
    vault: &Vault,
    item: &str,
    disks: &[NamedSource],
    parent: Option<PointId>,
) -> Result<BlobDisks, Failure> {
    let connection = connection(accounts)?;
    let (mut found, mut local) = (Vec::<BlobDisk>::new(), Vec::new());
    for source in disks {
        let NamedSource::Blob { name, blob } = source else { continue };
        let (client, path) =
            blob_of_account(context, blob, connection.as_deref(), &accounts.data, &accounts.trust)?;
        if found.iter().any(|it| it.path == path && it.client.endpoint() == client.endpoint()) {
            return Err(Failure::usage(format!("--disk names the blob {blob} twice")));
        }
        let is_local = connection.is_none() && !blob.contains("://");
        local.extend(is_local.then(|| blob.clone()));
        found.push(BlobDisk { name: name.clone(), client, path });
    }
    // A set of snapshots has one moment; it needs all blobs in one store.
    let are_together = local.len() == found.len();
    let mut blobs = BlobDisks::new(vault, item, parent, None, found)?;
    if !blobs.are_due() {
        return Ok(blobs);
    }
    if are_together {
        let marked: Vec<_> = local.into_iter().zip(blobs.marks().cloned()).collect();
        blobs.taken_together(ServedBlobs::of(context, accounts.data.folder()?).take(&marked)?);
    } else {
        blobs.take_each()?;
    }
    Ok(blobs)
}

/// Says which snapshots are left.
pub(super) fn warn(context: &Context, left: &[LeftBehind]) {
    for LeftBehind { blob, snapshot, error } in left {
        context.out.say(&format!(
            "Warning: the snapshot {snapshot} of {blob} could not be deleted; the next backup tries again: {error}"
        ));
    }
}

/// The connection string of the accounts; none if they are those of this machine.
fn connection(accounts: &BlobAccountArgs) -> Result<Option<String>, Failure> {
    match &accounts.connection_string_file {
        Some(path) => Ok(Some(super::storage_account::read(path)?)),
        None => Ok(VARIABLES.iter().find_map(|name| variable(name))),
    }
}
