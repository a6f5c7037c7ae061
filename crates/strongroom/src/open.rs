//! Opening stores and vaults as the user named them, and saying what is not as it should be.

use std::sync::Arc;

use jiff::SignedDuration;
use strongroom_base::codes;
use strongroom_engine::BackupReport;
use strongroom_keys::{KeyError, KeySource, Pkcs11Key};
use strongroom_objects::{Limited, Rate};
use strongroom_vault::{
    Vault, VaultError, VaultOptions,
    place::{self, Warning},
};

pub(crate) use strongroom_vault::place::{OpenKeys, OpenStore};

use crate::{
    args::{OpenArgs, VaultArgs},
    context::{Context, KeyChoice},
    error::Failure,
    human,
};

/// Clocks that differ by less are not worth a word.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

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

/// Opens a vault with its key. With a rate, its store moves at most this number of bytes a second.
pub(crate) fn open_vault(
    context: &Context,
    args: &OpenArgs,
    limit_rate: Option<u64>,
) -> Result<Arc<Vault>, Failure> {
    let key = key_source(context.key(&args.key)?)?;
    let url = context.vault_url(&args.vault)?;
    let options = vault_options(context, args.cache_dir.as_ref());
    let OpenKeys { store, config, ring, early, warnings } =
        place::open_keys_early(&url, &key, options.cache_dir.as_deref())
            .map_err(|error| not_opened(error, &url))?;
    say(context, &warnings);
    let store = match limit_rate {
        Some(rate) => {
            let rate = Rate::new(rate, Arc::new(context.clock));
            Arc::new(Limited::new(store, rate))
        }
        None => store,
    };
    let vault = Arc::new(Vault::open_early(store, config, ring, early, options)?);
    warn_of_less(context, &vault)?;
    Ok(vault)
}

/// Says how the vault is less than this host saw last.
fn warn_of_less(context: &Context, vault: &Vault) -> Result<(), Failure> {
    let less = vault.regressions()?;
    for regression in &less {
        let code = codes::VAULT_ROLLED_BACK.name;
        context.out.say(&format!("Warning: {regression} ({code})"));
    }
    if let (false, Some(file)) = (less.is_empty(), vault.memory_file()) {
        context.out.say(&format!(
            "The vault was rolled back, lost objects, or somebody else has deleted and reclaimed. If \
             that is right, remove {}.",
            file.display()
        ));
    }
    Ok(())
}

/// Says that a point was made under another clock than the one that it builds upon, or that this
/// host's clock is not the store's.
pub(crate) fn warn_of_clocks(
    context: &Context,
    vault: &Vault,
    report: &BackupReport,
) -> Result<(), Failure> {
    let code = codes::LOCAL_CLOCK.name;
    if let Some(before) = report.parent_time
        && before.duration_since(report.time) > TOLERANCE
    {
        context.out.say(&format!(
            "Warning: the recovery point before is of {}, which is later than this one: a clock is, or \
             was, wrong. `latest` is this one ({code})",
            human::time(before)
        ));
    }
    let ahead = vault.clock_ahead()?;
    if ahead.abs() > TOLERANCE {
        let way = if ahead.is_negative() { "behind" } else { "ahead of" };
        let seconds = human::seconds(ahead.unsigned_abs().as_secs_f64());
        context.out.say(&format!(
            "Warning: this host's clock is {seconds} {way} the vault's store ({code})"
        ));
    }
    Ok(())
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
        KeyChoice::Pkcs11(uri) => {
            let module = Some(crate::hosts::module());
            KeySource::Pkcs11(Box::new(Pkcs11Key { uri: uri.parse()?, module }))
        }
    })
}
