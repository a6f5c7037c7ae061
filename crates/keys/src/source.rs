//! Where a key-encryption key comes from: a file, a passphrase, a token.
//!
//! Secrets are read from files or stay in a token; they never are command-line arguments.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use strongroom_base::{Entropy, EntropyExt as _};
use strongroom_format::{
    secret::SecretKey,
    slot::{Argon2Cost, Kek},
};
use zeroize::Zeroizing;

use super::{
    KeyError, Pkcs11Uri, crypto,
    module::{ModuleCommand, Process},
    pkcs11::{Token, read_pin},
    secret_file::{read_secret_file, unusable},
};

/// Fewest bytes of a key file.
pub const MIN_KEY_FILE: usize = 32;

/// Where the user's key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file of at least 32 unpredictable bytes.
    File(PathBuf),
    /// A file with a passphrase in it.
    Passphrase(PathBuf),
    /// An AES key in a token.
    Pkcs11(Box<Pkcs11Key>),
}

/// An AES key in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Key {
    /// Which.
    pub uri: Pkcs11Uri,
    /// How a process is started that loads the module; without one, this process loads it.
    pub module: Option<ModuleCommand>,
}

impl std::str::FromStr for Pkcs11Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self { uri: text.parse()?, module: None })
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "key file {}", path.display()),
            Self::Passphrase(path) => write!(f, "the passphrase in {}", path.display()),
            Self::Pkcs11(key) => write!(f, "PKCS#11 key {}", key.uri),
        }
    }
}

/// Creates a key file that only its owner may read: 32 random bytes as text. Never replaces a
/// file.
pub fn generate_key_file(path: &Path, entropy: &dyn Entropy) -> Result<(), KeyError> {
    let failed = |source| KeyError::File { path: path.to_path_buf(), action: "created", source };
    let key = SecretKey::generate(entropy);
    let text = Zeroizing::new(format!("strongroom-key-1:{}\n", &*encode(&key)));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    // The name has to outlive a power cut as well.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let sync = || File::open(folder.unwrap_or(Path::new(".")))?.sync_all();
    written.and_then(|()| sync()).map_err(|error| {
        // Half a key is worse than none; that it cannot be removed changes nothing in the report.
        fs::remove_file(path).ok();
        failed(error)
    })
}

fn encode(key: &SecretKey) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(key.as_bytes()))
}

/// A [`KeySource`] that has been read, or a token that has been logged in to.
pub(super) enum Secret {
    File(Zeroizing<Vec<u8>>),
    Passphrase(Zeroizing<Vec<u8>>),
    Token(Token),
    Module(Process),
}

impl Secret {
    /// Reads the file or opens the token.
    pub(super) fn read(source: &KeySource) -> Result<Self, KeyError> {
        Ok(match source {
            KeySource::File(path) => {
                let bytes = read_secret_file(path)?;
                if bytes.len() < MIN_KEY_FILE {
                    return Err(unusable(path, "a key file has at least 32 bytes"));
                }
                Self::File(bytes)
            }
            KeySource::Passphrase(path) => {
                let bytes = read_secret_file(path)?;
                if bytes.is_empty() {
                    return Err(unusable(path, "there is no passphrase in it"));
                }
                Self::Passphrase(bytes)
            }
            KeySource::Pkcs11(key) => {
                let pin = read_pin(&key.uri)?;
                let pin = pin.as_ref().map(|pin| pin.as_str());
                match &key.module {
                    Some(command) => Self::Module(Process::open(command, &key.uri, pin)?),
                    None => Self::Token(Token::open(&key.uri, pin)?),
                }
            }
        })
    }

    /// A new key-encryption key from this secret, and what a slot says about it.
    pub(super) fn new_kek(
        &self,
        cost: Argon2Cost,
        entropy: &dyn Entropy,
    ) -> Result<(Kek, SecretKey), KeyError> {
        let salt: [u8; 32] = entropy.array();
        Ok(match self {
            Self::File(bytes) => {
                let (fingerprint, key) = file_kek(bytes, &salt);
                (Kek::KeyFile { salt, fingerprint }, key)
            }
            Self::Passphrase(bytes) => {
                (Kek::Passphrase { cost, salt }, passphrase_kek(bytes, cost, &salt)?)
            }
            Self::Token(token) => new_kek(token.names(), |it| token.kek(it), entropy)?,
            Self::Module(token) => new_kek(token.names(), |it| token.kek(it), entropy)?,
        })
    }

    /// The key-encryption key for a slot; `None` if the slot is of another kind or tells at once
    /// that the secret is not the one. `Some` may still be the wrong key.
    pub(super) fn kek(&self, kek: &Kek) -> Result<Option<SecretKey>, KeyError> {
        Ok(match (self, kek) {
            (Self::File(bytes), Kek::KeyFile { salt, fingerprint }) => {
                let (found, key) = file_kek(bytes, salt);
                (found == *fingerprint).then_some(key)
            }
            (Self::Passphrase(bytes), Kek::Passphrase { cost, salt }) => {
                Some(passphrase_kek(bytes, *cost, salt)?)
            }
            (Self::Token(token), Kek::Pkcs11 { challenge, .. }) => Some(token.kek(challenge)?),
            (Self::Module(token), Kek::Pkcs11 { challenge, .. }) => Some(token.kek(challenge)?),
            (Self::File(_) | Self::Passphrase(_) | Self::Token(_) | Self::Module(_), _) => None,
        })
    }
}

/// A new key-encryption key of a token.
fn new_kek(
    (token, object): (String, String),
    kek: impl Fn(&[u8; 64]) -> Result<SecretKey, KeyError>,
    entropy: &dyn Entropy,
) -> Result<(Kek, SecretKey), KeyError> {
    let challenge: [u8; 64] = entropy.array();
    let key = kek(&challenge)?;
    if key.as_bytes() != kek(&challenge)?.as_bytes() {
        let what = "the token gives two answers to one question".to_owned();
        return Err(KeyError::Hsm { what, source: None });
    }
    Ok((Kek::Pkcs11 { token, object, challenge }, key))
}

/// Fingerprint and key-encryption key of a key file.
fn file_kek(bytes: &[u8], salt: &[u8; 32]) -> ([u8; 16], SecretKey) {
    let root = crypto::hmac_sha256(salt, &[bytes]);
    let print = root.derive("key file fingerprint", b"");
    let mut fingerprint = [0; 16];
    fingerprint.iter_mut().zip(print.as_bytes()).for_each(|(to, from)| *to = *from);
    (fingerprint, root.derive("key file kek", b""))
}

fn passphrase_kek(bytes: &[u8], cost: Argon2Cost, salt: &[u8; 32]) -> Result<SecretKey, KeyError> {
    const BUG: KeyError = KeyError::Bug { what: "Argon2 refuses checked parameters" };
    let params = Params::new(cost.memory_kib(), cost.passes(), 1, Some(32)).map_err(|_| BUG)?;
    let mut out = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(bytes, salt, out.as_mut_slice())
        .map_err(|_| BUG)?;
    Ok(SecretKey::new(*out).derive("passphrase kek", b""))
}
