//! Opening stores and vaults as the user named them, and saying what is not as it should be.

use std::sync::Arc;

use strongroom_objects::{Limited, Rate};
use strongroom_vault::{
    Vault, VaultError, VaultOptions,
    keys::{KeyError, KeySource},
    place::{self, Warning},
};

pub(crate) use strongroom_vault::place::{OpenKeys, OpenStore};

use crate::{
    args::{OpenArgs, VaultArgs},
    context::{Context, KeyChoice},
    error::Failure,
};

/// Opens the store of an existing vault, without a key. Nobody vouches for the list of its mirrors
/// then: only folders that hold this vault already are used.
pub(crate) fn open_store(context: &Context, args: &VaultArgs) -> Result<OpenStore, Failure> {
    let url = context.vault_url(args)?;
    let open = place::open_store(&url).map_err(|error| not_opened(error, &url))?;
    say(context, &open.warnings);
    Ok(open)
}

/// Opens the store and the keys of a vault.
pub(crate) fn open_keys(context: &Context, args: &OpenArgs) -> Result<OpenKeys, Failure> {
    let key = key_source(context.key(&args.key)?)?;
    let url = context.vault_url(&args.vault)?;
    let open = place::open_keys(&url, &key).map_err(|error| not_opened(error, &url))?;
    say(context, &open.warnings);
    Ok(open)
}

fn say(context: &Context, warnings: &[Warning]) {
    for warning in warnings {
        context.out.say(&format!("Warning: {warning}"));
    }
}

fn not_opened(error: VaultError, url: &str) -> Failure {
    let no_folder = matches!(error, VaultError::NotFound { .. })
        && place::folder_of(url).is_some_and(|folder| !folder.exists());
    let failure = Failure::from(error);
    if no_folder {
        return failure.with_hint(
            "The folder does not exist: check the path, and whether its disk is mounted.",
        );
    }
    failure
}

/// Opens a vault with its key. With a rate, its store moves at most so many bytes a second.
pub(crate) fn open_vault(
    context: &Context,
    args: &OpenArgs,
    limit_rate: Option<u64>,
) -> Result<Arc<Vault>, Failure> {
    let OpenKeys { store, config, ring, .. } = open_keys(context, args)?;
    let store = match limit_rate {
        Some(rate) => {
            let rate = Rate::new(rate, Arc::new(context.clock));
            Arc::new(Limited::new(store, rate))
        }
        None => store,
    };
    let options = vault_options(context, args.cache_dir.as_ref());
    Ok(Arc::new(Vault::open_with(store, config, ring, options)?))
}

/// How vaults are opened.
pub(crate) fn vault_options(
    context: &Context,
    cache_dir: Option<&std::path::PathBuf>,
) -> VaultOptions {
    VaultOptions { cache_dir: Some(context.cache_dir(cache_dir)), ..VaultOptions::default() }
}

/// A key as the vault takes it.
pub(crate) fn key_source(key: KeyChoice) -> Result<KeySource, KeyError> {
    Ok(match key {
        KeyChoice::File(file) => KeySource::File(file),
        KeyChoice::Passphrase(file) => KeySource::Passphrase(file),
        KeyChoice::Pkcs11(uri) => KeySource::Pkcs11(Box::new(uri.parse()?)),
    })
}
