//! The configuration file: TOML, every key optional, unknown keys refused.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    context::KeyChoice,
    error::{FaceError, Failure},
    out::Format,
    values,
};

/// The system's configuration file, used if the user has none.
const SYSTEM_FILE: &str = "/etc/strongroom/config.toml";

/// What a configuration file may say.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The vault's path or URL.
    pub(crate) vault: Option<String>,
    /// A key file.
    #[serde(default, deserialize_with = "path")]
    key_file: Option<PathBuf>,
    /// A passphrase file.
    #[serde(default, deserialize_with = "path")]
    passphrase_file: Option<PathBuf>,
    /// A PKCS#11 URI.
    pkcs11: Option<String>,
    /// Where the index is cached.
    #[serde(default, deserialize_with = "path")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Bytes a second.
    #[serde(default, deserialize_with = "rate")]
    pub(crate) limit_rate: Option<u64>,
    /// Threads.
    #[serde(default, deserialize_with = "threads")]
    pub(crate) threads: Option<usize>,
    /// How results are printed.
    pub(crate) output: Option<Format>,
}

/// A path that means the same from wherever the program is started: absolute, or below the home
/// folder (`~/`).
fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let path = match (text.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(below), Some(home)) => PathBuf::from(home).join(below),
        _ => PathBuf::from(&text),
    };
    if path.is_absolute() {
        Ok(Some(path))
    } else {
        Err(D::Error::custom(format!("{text:?} must start with / or ~/")))
    }
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    values::rate(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

fn threads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let number = u64::deserialize(deserializer)?;
    values::threads(&number.to_string()).map(Some).map_err(D::Error::custom)
}

impl Config {
    /// The key that it names.
    pub(crate) fn key(&self) -> Option<KeyChoice> {
        self.keys().into_iter().next()
    }

    fn keys(&self) -> Vec<KeyChoice> {
        let Self { key_file, passphrase_file, pkcs11, .. } = self;
        KeyChoice::of(key_file.clone(), passphrase_file.clone(), pkcs11.clone())
    }

    /// Reads `file`; without one, the user's file or else the system's, if there is one.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, Failure> {
        if let Some(file) = file {
            let missing = || FaceError::Config {
                file: file.to_owned(),
                reason: "it does not exist".to_owned(),
            };
            return Ok(Self::read(file)?.ok_or_else(missing)?);
        }
        for file in user_file().into_iter().chain([PathBuf::from(SYSTEM_FILE)]) {
            if let Some(config) = Self::read(&file)? {
                return Ok(config);
            }
        }
        Ok(Self::default())
    }

    fn read(file: &Path) -> Result<Option<Self>, Failure> {
        let wrong = |reason: String| FaceError::Config { file: file.to_owned(), reason };
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string()).into()),
        };
        let config: Self = toml::from_str(&text)
            .map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        if config.keys().len() > 1 {
            let reason = "it names more than one of key_file, passphrase_file and pkcs11";
            return Err(wrong(reason.to_owned()).into());
        }
        Ok(Some(config))
    }
}

/// `$XDG_CONFIG_HOME/strongroom/config.toml`, or the same below `~/.config`.
fn user_file() -> Option<PathBuf> {
    Some(user_folder()?.join("config.toml"))
}

/// The folder of the user's files of this program.
pub(crate) fn user_folder() -> Option<PathBuf> {
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("strongroom"))
}

/// Where the index is cached if nobody says: `$XDG_CACHE_HOME/strongroom`, or the same below
/// `~/.cache`, or `/var/cache/strongroom`.
pub(crate) fn default_cache_dir() -> PathBuf {
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"))
        .join("strongroom")
}

/// An environment variable that holds an absolute path; others are ignored, as the XDG
/// specification says.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Failure> {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = folder.path().join("config.toml");
        fs::write(&file, text).expect("writes");
        Config::load(Some(&file))
    }

    #[test]
    fn every_key() {
        let config = load(
            "vault = \"s3://b/p\"\nkey_file = \"/k\"\ncache_dir = \"/c\"\nlimit_rate = \"10M\"\n\
             threads = 2\noutput = \"json\"\n",
        );
        let config = config.expect("loads");
        assert_eq!(config.vault.as_deref(), Some("s3://b/p"));
        assert_eq!((config.limit_rate, config.threads), (Some(10 << 20), Some(2)));
        assert_eq!(config.output, Some(Format::Json));
    }

    #[test]
    fn mistakes_are_refused_and_named() {
        for (text, named) in [
            ("valt = \"x\"\n", "valt"),
            ("key_file = \"k\"\n", "must start with /"),
            ("threads = 0\n", "threads"),
            ("limit_rate = \"fast\"\n", "not a size"),
            ("key_file = \"/k\"\npkcs11 = \"pkcs11:\"\n", "more than one"),
            ("output = \"xml\"\n", "xml"),
        ] {
            let failure = load(text).expect_err(text);
            assert_eq!(failure.code().name, "config.invalid");
            assert!(failure.to_text().contains(named), "{text}: {}", failure.to_text());
        }
        assert!(Config::load(Some(Path::new("/does/not/exist"))).is_err());
    }
}
