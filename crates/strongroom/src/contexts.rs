//! Contexts: the servers that the user knows, with the tokens for them.
//!
//! They are kept in `contexts.toml` beside the user's configuration file, for the user's eyes alone.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{EntropyExt as _, SystemEntropy};
use strongroom_client::{Fingerprint, Trust};

use crate::{
    config::user_folder,
    error::{FaceError, Failure},
};

/// All contexts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The name of that which is used if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, ServerContext>,
}

/// A server, and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerContext {
    /// Its URL.
    pub(crate) server: String,
    /// Who signed in, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// What is sent to say who asks.
    pub(crate) token: String,
    /// When the token ends, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Timestamp>,
    /// Authorities that are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The one certificate that is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
}

impl std::fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerContext").field("server", &self.server).finish_non_exhaustive()
    }
}

impl ServerContext {
    /// Whose certificate is believed.
    pub(crate) fn trust(&self) -> Result<Trust, Failure> {
        trust(self.fingerprint.as_deref(), self.ca_file.clone())
    }
}

/// Whose certificate is believed.
pub(crate) fn trust(fingerprint: Option<&str>, ca: Option<PathBuf>) -> Result<Trust, Failure> {
    match (fingerprint, ca) {
        (Some(fingerprint), _) => {
            let parsed: Result<Fingerprint, _> = fingerprint.parse();
            Ok(Trust::Fingerprint(parsed.map_err(|error| Failure::usage(error.to_string()))?))
        }
        (None, Some(file)) => Ok(Trust::CaFile(file)),
        (None, None) => Ok(Trust::System),
    }
}

/// Where they are kept.
fn file() -> Result<PathBuf, Failure> {
    let folder = user_folder().ok_or_else(|| {
        Failure::usage("neither HOME nor XDG_CONFIG_HOME says where contexts are")
    })?;
    Ok(folder.join("contexts.toml"))
}

impl Contexts {
    /// Those that the user has; none if there is no file, or no place for one.
    pub(crate) fn load() -> Result<Self, Failure> {
        let Ok(file) = file() else { return Ok(Self::default()) };
        let wrong = |reason: String| FaceError::Config { file: file.clone(), reason };
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(wrong(error.to_string()).into()),
        };
        // The parser's own words would show the line, and with it perhaps a token.
        toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()).into())
    }

    /// Keeps them. The file is whole at every moment, and for its owner alone.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let file = file()?;
        let failed = |source| FaceError::Local { path: file.clone(), action: "write", source };
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        if let Some(folder) = file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let new =
            file.with_extension(format!("toml.{:016x}", u64::from_le_bytes(SystemEntropy.array())));
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut to = options.write(true).create_new(true).mode(0o600).open(&new)?;
            to.write_all(text.as_bytes())?;
            to.sync_all()?;
            fs::rename(&new, &file)
        };
        write().map_err(|source| {
            fs::remove_file(&new).ok();
            failed(source).into()
        })
    }

    /// One of them.
    pub(crate) fn get(&self, name: &str) -> Result<&ServerContext, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let hint = match known.as_slice() {
                [] => "There is no context: create one with `strongroom context add`.".to_owned(),
                known => format!(
                    "There are: {}; `strongroom context list` shows them.",
                    known.join(", ")
                ),
            };
            Failure::from(FaceError::NoContext(name.to_owned())).with_hint(hint)
        })
    }
}
