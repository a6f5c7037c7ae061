//! Options that several commands share.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::{complete, out::Format, values};

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// How to print the result
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT", hide_short_help = true)]
    pub(crate) output: Option<Format>,

    /// Configuration file [env: STRONGROOM_CONFIG] [default: ~/.config/strongroom/config.toml, or
    /// /etc/strongroom/config.toml]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) config: Option<PathBuf>,

    /// Use the server of this context [env: STRONGROOM_CONTEXT] [default: the one in use]
    #[arg(
        long, global = true, value_name = "NAME", add = complete::contexts(),
        hide_short_help = true
    )]
    pub(crate) context: Option<String>,

    /// Print results and errors only
    #[arg(long, short, global = true, conflicts_with = "verbose", hide_short_help = true)]
    pub(crate) quiet: bool,

    /// Print more details of the work; give it twice for even more
    #[arg(long, short, global = true, action = ArgAction::Count, hide_short_help = true)]
    pub(crate) verbose: u8,
}

/// The vault.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Vault")]
pub(crate) struct VaultArgs {
    /// Vault: a path, file://, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX
    /// [env: STRONGROOM_VAULT]
    #[arg(long, value_name = "URL")]
    pub(crate) vault: Option<String>,
}

/// The key that opens the vault.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Vault")]
#[group(id = "key", multiple = false)]
pub(crate) struct KeyArgs {
    /// Open the vault with this key file [env: STRONGROOM_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Open the vault with the passphrase in this file [env: STRONGROOM_PASSPHRASE_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// Open the vault with this key of a PKCS#11 token; its PIN comes from `pin-source`
    /// [env: STRONGROOM_PKCS11]
    #[arg(long, value_name = "URI")]
    pub(crate) pkcs11: Option<String>,
}

/// The vault and the key that opens it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Vault")]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArgs,

    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// Folder for the local cache of the vault's index [default: ~/.cache/strongroom]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}

impl OpenArgs {
    /// Whether the command line names a vault or key.
    pub(crate) fn is_given(&self) -> bool {
        let KeyArgs { key_file, passphrase_file, pkcs11 } = &self.key;
        let key = key_file.is_some() || passphrase_file.is_some() || pkcs11.is_some();
        key || self.vault.vault.is_some()
    }
}

/// Limits on the use of resources.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct WorkArgs {
    /// Read or write at most this many bytes a second: 100M, 1G
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    pub(crate) limit_rate: Option<u64>,

    /// Threads for hashing and compressing [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<usize>,
}
