//! What a command works with: its settings, resolved; its printer; its clock.
//!
//! A setting comes from the command line, else from the environment, else from the configuration
//! file, else it has a default.

use std::{cell::OnceCell, env, io::IsTerminal as _, path::PathBuf, thread};

use strongroom_base::{Cancel, SystemClock, SystemEntropy};
use strongroom_engine::Progress;

use crate::{
    args::{GlobalArgs, KeyArgs, VaultArgs, WorkArgs},
    config::{self, Config},
    error::{FaceError, Failure},
    out::{Format, Out},
    progress::{Shown, Style},
    signals::Stopping,
};

/// Which key, as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyChoice {
    /// A key file.
    File(PathBuf),
    /// A passphrase file.
    Passphrase(PathBuf),
    /// A PKCS#11 URI.
    Pkcs11(String),
}

impl KeyChoice {
    /// The keys that are given, of options that exclude each other.
    pub(crate) fn of(
        file: Option<PathBuf>,
        passphrase: Option<PathBuf>,
        pkcs11: Option<String>,
    ) -> Vec<Self> {
        let file = file.map(Self::File).into_iter();
        let passphrase = passphrase.map(Self::Passphrase);
        file.chain(passphrase).chain(pkcs11.map(Self::Pkcs11)).collect()
    }
}

/// The server that a command asked, and what to do if that was not meant.
pub(crate) struct Asked {
    /// The server, with the name of its context.
    pub(crate) server: String,
    /// How to do the same without a server, as a sentence.
    pub(crate) instead: &'static str,
}

/// What a command works with.
pub(crate) struct Context {
    /// Its printer.
    pub(crate) out: Out,
    /// Raised when it should stop.
    pub(crate) cancel: Cancel,
    /// What else signals do to it.
    pub(crate) stopping: Stopping,
    /// The clock.
    pub(crate) clock: SystemClock,
    /// Randomness.
    pub(crate) entropy: SystemEntropy,
    /// The context that the command line names.
    pub(crate) of_server: Option<String>,
    /// The server that a command asked which could have worked without one as well.
    pub(crate) asked: OnceCell<Asked>,
    config: Config,
    progress_style: Style,
}

impl Context {
    /// Reads the configuration.
    pub(crate) fn new(global: &GlobalArgs, cancel: Cancel) -> Result<Self, Failure> {
        let file = global.config.clone().or_else(|| variable("STRONGROOM_CONFIG").map(Into::into));
        let config = Config::load(file.as_deref())?;
        let format = global.output.or(config.output).unwrap_or_default();
        let progress_style = match (global.quiet, global.verbose) {
            (true, _) => Style::None,
            (false, 0) if std::io::stderr().is_terminal() => Style::Bar,
            // A bar and log lines would write over each other.
            _ => Style::Lines,
        };
        let quiet = global.quiet;
        Ok(Self {
            out: Out::new(format, quiet),
            cancel,
            stopping: Stopping::default(),
            clock: SystemClock,
            entropy: SystemEntropy,
            of_server: global.context.clone(),
            asked: OnceCell::new(),
            config,
            progress_style,
        })
    }

    /// A printer for failures that come before the configuration is read.
    pub(crate) fn early_out(format: Option<Format>) -> Out {
        Out::new(format.unwrap_or_default(), false)
    }

    /// The vault's path or URL.
    pub(crate) fn vault_url(&self, args: &VaultArgs) -> Result<String, Failure> {
        let url = args.vault.clone().or_else(|| variable("STRONGROOM_VAULT"));
        match url.or_else(|| self.config.vault.clone()) {
            Some(url) => Ok(url),
            None => Err(FaceError::NoVault.into()),
        }
    }

    /// The vault of the configuration file.
    pub(crate) fn configured_vault(&self) -> Option<&str> {
        self.config.vault.as_deref()
    }

    /// The key that was named.
    pub(crate) fn key(&self, args: &KeyArgs) -> Result<KeyChoice, Failure> {
        let KeyArgs { key_file, passphrase_file, pkcs11 } = args.clone();
        let given = KeyChoice::of(key_file, passphrase_file, pkcs11);
        if let Some(key) = given.into_iter().next() {
            return Ok(key);
        }
        let mut given = KeyChoice::of(
            path_variable("STRONGROOM_KEY_FILE"),
            path_variable("STRONGROOM_PASSPHRASE_FILE"),
            variable("STRONGROOM_PKCS11"),
        );
        if given.len() > 1 {
            return Err(Failure::usage(
                "more than one of STRONGROOM_KEY_FILE, STRONGROOM_PASSPHRASE_FILE and \
                 STRONGROOM_PKCS11 is set",
            ));
        }
        given.extend(self.config.key());
        given.into_iter().next().ok_or_else(|| FaceError::NoKey.into())
    }

    /// Where the index is cached.
    pub(crate) fn cache_dir(&self, given: Option<&PathBuf>) -> PathBuf {
        given
            .cloned()
            .or_else(|| path_variable("STRONGROOM_CACHE_DIR"))
            .or_else(|| self.config.cache_dir.clone())
            .unwrap_or_else(config::default_cache_dir)
    }

    /// Bytes a second at most.
    pub(crate) fn limit_rate(&self, args: &WorkArgs) -> Option<u64> {
        args.limit_rate.or(self.config.limit_rate)
    }

    /// Threads to work with.
    pub(crate) fn threads(&self, args: &WorkArgs) -> usize {
        args.threads
            .or(self.config.threads)
            .unwrap_or_else(|| thread::available_parallelism().map_or(2, usize::from))
    }

    /// Runs long work and shows how far it has come.
    pub(crate) fn watched<T>(&self, work: impl FnOnce(&Progress) -> T) -> T {
        let progress = Progress::new();
        let shown = Shown::start(progress.clone(), self.progress_style, self.clock);
        let result = work(&progress);
        drop(shown);
        result
    }
}

/// An environment variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// This machine's name, for the record.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}
