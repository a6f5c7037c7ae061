//! `container ...`: containers of a storage account, here or anywhere else.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use strongroom_azure::{ContainerProperties, Metadata};

use super::{
    service::common::{Gone, Listed, Thing},
    storage_account::{AccountArgs, container},
};
use crate::{
    columns::{Columns, row},
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human,
};

/// `container ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    Create(CreateArgs),
    List(ListArgs),
    Show(ShowArgs),
    Delete(DeleteArgs),
}

impl ContainerCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(context),
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Delete(args) => args.run(context),
        }
    }
}

/// A container, as it is printed.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    modified: Timestamp,
    etag: String,
    lease: &'static str,
}

impl Shown {
    fn new(name: String, properties: &ContainerProperties) -> Self {
        Self {
            name,
            modified: properties.stamp.last_modified,
            etag: properties.stamp.etag.to_string(),
            lease: properties.lease.name(),
        }
    }
}

/// Create a container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom container create vms --account disks
  STRONGROOM_CONNECTION_STRING='...' strongroom container create vms")]
pub(crate) struct CreateArgs {
    /// Name of the container: 3 to 63 lower-case letters, digits and single hyphens
    name: String,

    #[command(flatten)]
    account: AccountArgs,
}

impl CreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let name = container(&self.name)?;
        let client = self.account.client(context)?;
        client.create_container(&name, &Metadata::default())?;
        let shown = Shown::new(self.name, &client.container(&name)?);
        let text = |it: &Shown| format!("Created the container {}\n", it.name);
        context.out.result(&Thing::new(shown, text))
    }
}

/// List the containers of an account
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom container list --account disks
  strongroom container list --prefix vm --connection-string-file account.txt --output json")]
pub(crate) struct ListArgs {
    /// Only those whose names begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,

    #[command(flatten)]
    account: AccountArgs,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = self.account.client(context)?;
        let found = client
            .containers(self.prefix.as_deref())
            .map(|entry| entry.map(|entry| Shown::new(entry.name, &entry.properties)))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = found.iter().map(|it| row![&it.name, it.modified, it.lease]);
        let columns = Columns::new(["CONTAINER", "MODIFIED", "LEASE"], rows);
        context.out.result(&Listed::new("containers", found, columns))
    }
}

/// Show a container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom container show vms --account disks")]
pub(crate) struct ShowArgs {
    /// The container
    name: String,

    #[command(flatten)]
    account: AccountArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let name = container(&self.name)?;
        let client = self.account.client(context)?;
        let shown = Shown::new(self.name, &client.container(&name)?);
        context.out.result(&Thing::new(shown, |it| {
            human::facts(&[
                ("Container", it.name.clone()),
                ("Modified", human::time(it.modified)),
                ("ETag", it.etag.clone()),
                ("Lease", it.lease.to_owned()),
            ])
        }))
    }
}

/// Delete a container with all its blobs and their snapshots
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom container delete old --account disks
  strongroom container delete old --account disks --yes")]
pub(crate) struct DeleteArgs {
    /// The container
    name: String,

    #[command(flatten)]
    account: AccountArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl DeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let name = container(&self.name)?;
        let client = self.account.client(context)?;
        client.container(&name)?;
        let plan = Plan::new(format!("Delete the container {name}"))
            .with("Its blobs and their snapshots cannot be restored");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        client.delete_container(&name)?;
        context.out.result(&Gone { what: "container", deleted: self.name })
    }
}
