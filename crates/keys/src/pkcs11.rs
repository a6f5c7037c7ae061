//! A key-encryption key that depends on a key which never leaves its token (HSM, smart card).
//!
//! The token encrypts a public, random 64-byte challenge with its AES key (`CKM_AES_CBC`, zero
//! IV); a hash of the answer is the key-encryption key. Nobody can compute the answer without the
//! token. Plain AES-CBC is what practically every token has, also those without AES-GCM or key
//! wrapping, or whose policy forbids to import or to export keys; and symmetric ciphers stay
//! strong against quantum computers, which RSA does not. `docs/use/keys.md` has the comparison.
//!
//! The module to load comes from the user's URI alone, never from anything stored in a vault, and is
//! loaded by a process of its own ([`super::module`]).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use strongroom_base::lock;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use strongroom_format::{secret::SecretKey, slot::label_is_valid};
use zeroize::Zeroizing;

use super::{KeyError, Pkcs11Uri, crypto, secret_file::read_secret_file};

/// Modules that have been loaded. A module may be initialised once per process only, and
/// finalising it would pull it from under other users; so each stays until the process ends.
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// Where distributions put modules.
const MODULE_FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/pkcs11",
    "/usr/lib/x86_64-linux-gnu/softhsm",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/pkcs11",
    "/usr/lib/aarch64-linux-gnu/softhsm",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64/pkcs11",
    "/usr/lib64",
    "/usr/lib/pkcs11",
    "/usr/lib/softhsm",
    "/usr/lib",
    "/usr/local/lib/pkcs11",
    "/usr/local/lib/softhsm",
    "/usr/local/lib",
];

fn hsm(what: impl Into<String>, source: impl Into<Option<Error>>) -> KeyError {
    KeyError::Hsm { what: what.into(), source: source.into() }
}

/// Finds `NAME.so` or `libNAME.so`.
fn find_module(name: &str) -> Result<PathBuf, KeyError> {
    let file_names = [format!("{name}.so"), format!("lib{name}.so")];
    MODULE_FOLDERS
        .iter()
        .flat_map(|folder| file_names.iter().map(|file| Path::new(folder).join(file)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            hsm(format!("no module named {name} is installed where modules usually are"), None)
        })
}

fn load_module(uri: &Pkcs11Uri) -> Result<Pkcs11, KeyError> {
    let path = match (&uri.module_path, &uri.module_name) {
        (Some(path), _) => path.clone(),
        (None, Some(name)) => find_module(name)?,
        (None, None) => return Err(KeyError::Bug { what: "a PKCS#11 URI without a module" }),
    };
    let mut modules = lock(&MODULES);
    if let Some(module) = modules.get(&path) {
        return Ok(module.clone());
    }
    let failed = |what, error| hsm(format!("module {} {what}", path.display()), error);
    let module = Pkcs11::new(&path).map_err(|error| failed("cannot be loaded", error))?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(failed("cannot be initialised", error)),
    }
    modules.insert(path, module.clone());
    Ok(module)
}

/// The one token that the URI names.
fn find_token(module: &Pkcs11, uri: &Pkcs11Uri) -> Result<Slot, KeyError> {
    let slots =
        module.get_slots_with_token().map_err(|error| hsm("tokens cannot be listed", error))?;
    let mut found = None;
    for slot in slots {
        if uri.slot_id.is_some_and(|id| id != slot.id()) {
            continue;
        }
        // A token that does not even say what it is, is not the one.
        let Ok(info) = module.get_token_info(slot) else { continue };
        let fits = |wanted: &Option<String>, have: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == have.trim_end())
        };
        if info.token_initialized()
            && fits(&uri.token, info.label())
            && fits(&uri.serial, info.serial_number())
            && fits(&uri.manufacturer, info.manufacturer_id())
            && fits(&uri.model, info.model())
            && found.replace(slot).is_some()
        {
            return Err(hsm(format!("several tokens fit {uri}"), None));
        }
    }
    found.ok_or_else(|| hsm(format!("no token fits {uri}"), None))
}

fn log_in(session: &Session, pin: Option<&str>) -> Result<(), KeyError> {
    let Some(pin) = pin else { return Ok(()) };
    let pin = AuthPin::new(pin.into());
    match session.login(UserType::User, Some(&pin)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error @ Error::Pkcs11(RvError::PinIncorrect, _)) => {
            Err(hsm("the token says that the PIN is wrong", error))
        }
        Err(error @ Error::Pkcs11(RvError::PinLocked, _)) => {
            Err(hsm("the token's PIN is locked after wrong attempts", error))
        }
        Err(error) => Err(hsm("the token refuses the login", error)),
    }
}

/// The PIN that a URI names, if it names one.
pub(super) fn read_pin(uri: &Pkcs11Uri) -> Result<Option<Zeroizing<String>>, KeyError> {
    let Some(path) = &uri.pin_source else { return Ok(None) };
    let bytes = read_secret_file(path)?;
    let unusable = |reason| KeyError::Unusable { path: path.clone(), reason };
    match std::str::from_utf8(&bytes) {
        Ok("") => Err(unusable("there is no PIN in it")),
        Ok(pin) => Ok(Some(Zeroizing::new(pin.to_owned()))),
        Err(_) => Err(unusable("the PIN is not UTF-8")),
    }
}

/// A token with its key found, ready to answer challenges.
pub(super) struct Token {
    session: Session,
    key: ObjectHandle,
    label: String,
    key_label: String,
}

impl Token {
    /// Loads the module, finds the token, logs in, and finds the key.
    pub(super) fn open(uri: &Pkcs11Uri, pin: Option<&str>) -> Result<Self, KeyError> {
        let module = load_module(uri)?;
        let slot = find_token(&module, uri)?;
        let info =
            module.get_token_info(slot).map_err(|error| hsm("the token does not answer", error))?;
        if info.login_required() && pin.is_none() {
            return Err(hsm(
                "the token wants a PIN: name a file that has it by pin-source in the URI",
                None,
            ));
        }
        let session = module
            .open_ro_session(slot)
            .map_err(|error| hsm("the token gives no session", error))?;
        log_in(&session, pin)?;

        let mut template =
            vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES)];
        template.extend(uri.object.iter().map(|label| Attribute::Label(label.clone().into())));
        template.extend(uri.id.iter().map(|id| Attribute::Id(id.clone())));
        let keys = session
            .find_objects(&template)
            .map_err(|error| hsm("the token's keys cannot be listed", error))?;
        let [key] = keys.as_slice() else {
            let count = if keys.is_empty() {
                "no AES key of the token fits"
            } else {
                "several AES keys of the token fit"
            };
            return Err(hsm(format!("{count} {uri}"), None));
        };
        let key = *key;
        let key_label = match (&uri.object, &uri.id) {
            (Some(label), _) => label.clone(),
            (None, Some(id)) => percent_encode(id, NON_ALPHANUMERIC).to_string(),
            (None, None) => String::new(),
        };
        Ok(Self { session, key, label: info.label().trim_end().to_owned(), key_label })
    }

    /// Labels of the token and of the key, for people; empty where they would not fit.
    pub(super) fn names(&self) -> (String, String) {
        let fit = |text: &String| if label_is_valid(text) { text.clone() } else { String::new() };
        (fit(&self.label), fit(&self.key_label))
    }

    /// The key-encryption key for a challenge.
    pub(super) fn kek(&self, challenge: &[u8; 64]) -> Result<SecretKey, KeyError> {
        let answer = self
            .session
            .encrypt(&Mechanism::AesCbc([0; 16]), self.key, challenge)
            .map(Zeroizing::new)
            .map_err(|error| hsm("the token's key does not encrypt with AES-CBC", error))?;
        if answer.len() != challenge.len() {
            return Err(hsm("the token's answer is of the wrong length", None));
        }
        Ok(crypto::hmac_sha256(b"strongroom pkcs11 kek 1", &[&answer]))
    }
}
