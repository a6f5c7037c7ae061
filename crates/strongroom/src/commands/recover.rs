//! `recover`: a server for a vault whose server is lost.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use strongroom_api::{Item, KeyReference};
use strongroom_base::words;
use strongroom_server::{Recover, recover};

use crate::{
    args::KeyArgs,
    commands::serve::{ServerArgs, this_host},
    context::{Context, KeyChoice},
    error::Failure,
    out::Show,
};

/// Rebuild a server's catalog from a vault
///
/// Use it when the server is lost, and the vault and its key are left. On an empty machine it
/// creates the folder of a new server and restores the sealed copy of the catalog that the old
/// server has saved in the vault: items, policies, recovery points and their expiry. It changes
/// nothing in the vault. It prints the `strongroom serve` command that starts the new server with
/// the same --config, --data-dir and --listen. The old server must not run any more. The key file
/// is copied into the server's folder.
///
/// A restore does not need this command: `strongroom restore` works with the vault and the key
/// alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recover --vault s3://backup/main --key-file /media/stick/main.key
  strongroom recover --vault /backup/main --key-file main.key --data-dir /var/lib/strongroom
  strongroom restore vm --vault /backup/main --key-file main.key --item db --recovery-point latest")]
pub(crate) struct RecoverArgs {
    /// The vault: a path, file://, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    vault: String,

    #[command(flatten)]
    key: KeyArgs,

    /// The vault's name from now on [default: its old name]
    #[arg(long, value_name = "NAME", value_parser = crate::values::name)]
    name: Option<String>,

    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// What was restored.
#[derive(Debug, Serialize)]
struct Shown {
    vault: strongroom_api::Vault,
    already_known: bool,
    policies: u64,
    recovery_points: u64,
    /// When the copy of the catalog was saved; none if the vault has none.
    catalog_saved: Option<jiff::Timestamp>,
    items: Vec<ShownItem>,
    data_dir: String,
    /// The command that starts the server.
    #[serde(skip)]
    next: String,
}

#[derive(Debug, Serialize)]
struct ShownItem {
    #[serde(flatten)]
    item: Item,
    recovery_points: u64,
}

impl Show for Shown {
    fn show(&self) -> String {
        let mut text = String::new();
        let name = &self.vault.name;
        if self.already_known {
            writeln!(text, "The server knows the vault {name} already; nothing was changed.").ok();
        }
        let (items, points) = (self.items.len(), self.recovery_points);
        let policies = self.policies;
        writeln!(
            text,
            "Vault {name}: {}, {}, {}.",
            words::count_of(items, "item"),
            words::count(points, "recovery point"),
            words::count(policies, "policy")
        )
        .ok();
        match self.catalog_saved {
            Some(saved) => {
                let saved = crate::human::time(saved);
                writeln!(text, "Settings, policies and items are those of {saved}.").ok();
            }
            None if self.already_known => {}
            None => {
                writeln!(text, "The vault does not say of when its settings are.").ok();
            }
        }
        for ShownItem { item, recovery_points } in &self.items {
            let last = item.last_backup.map_or_else(|| "never".to_owned(), crate::human::time);
            let points = words::count(*recovery_points, "recovery point");
            writeln!(text, "  {}  {points}, the last of {last}", item.name).ok();
        }
        writeln!(text, "\nStart the server, and make sure that the old one does not run any more:")
            .ok();
        writeln!(text, "  {}", self.next).ok();
        text
    }
}

impl RecoverArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let config = self.server.load()?;
        let data_dir = config.data_dir.display().to_string();
        let next = self.server.command(&config)?;
        let key = match context.key(&self.key)? {
            KeyChoice::File(path) => KeyReference::File(absolute(&path.to_string_lossy())),
            KeyChoice::Passphrase(path) => {
                KeyReference::Passphrase(absolute(&path.to_string_lossy()))
            }
            KeyChoice::Pkcs11(uri) => KeyReference::Pkcs11(uri),
        };
        let url = absolute(&self.vault);
        let order = Recover { config, here: this_host()?, url, key, name: self.name };
        let done = recover(&order)?;
        let items: Vec<ShownItem> = done
            .items
            .into_iter()
            .map(|it| ShownItem { item: it.item, recovery_points: it.recovery_points })
            .collect();
        context.out.result(&Shown {
            vault: done.vault,
            already_known: done.known,
            policies: done.policies,
            catalog_saved: done.saved,
            recovery_points: items.iter().map(|item| item.recovery_points).sum(),
            items,
            data_dir,
            next,
        })
    }
}

/// Makes a path absolute, since the server may be started in another folder.
fn absolute(vault: &str) -> String {
    if vault.contains("://") {
        return vault.to_owned();
    }
    std::path::absolute(vault)
        .map_or_else(|_| vault.to_owned(), |path| path.to_string_lossy().into_owned())
}
