//! PKCS#11 URIs (RFC 7512), as far as they name one AES key in a token.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::KeyError;

/// How a user makes a key in a token and names it: help text for the command line.
pub const PKCS11_HELP: &str = "\
A key in an HSM or smart card is an AES-256 key that may encrypt. Make it once with the token's own
tools, and keep a backup of the token (or add a second key to the vault): without it the vault does
not open. With pkcs11-tool (package opensc):

  pkcs11-tool --module /PATH/MODULE.so --token-label NAME --login \\
      --keygen --key-type AES:32 --label strongroom --id 01 --sensitive

Then put the PIN into a file that only you can read, and name module, token, key and PIN file:

  --pkcs11 'pkcs11:token=NAME;object=strongroom?module-path=/PATH/MODULE.so&pin-source=/PATH/PIN'
";

/// Names an AES key in a token, the module that reaches the token, and the file with its PIN.
///
/// `pkcs11:token=NAME;object=NAME?module-path=/PATH/MODULE.so&pin-source=/PATH/PIN`. The path
/// attributes `token`, `serial`, `manufacturer`, `model`, `slot-id`, `object`, `id` and
/// `type=secret-key` are understood, and the query attributes `module-path`, `module-name` and
/// `pin-source`. `pin-value` is refused: a command line is no place for a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pkcs11Uri {
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) slot_id: Option<u64>,
    pub(super) object: Option<String>,
    pub(super) id: Option<Vec<u8>>,
    pub(super) module_path: Option<PathBuf>,
    pub(super) module_name: Option<String>,
    pub(super) pin_source: Option<PathBuf>,
}

fn odd(reason: impl Into<String>) -> KeyError {
    KeyError::Uri { reason: reason.into() }
}

/// Takes `name=value` apart, the value still encoded. Only the name may appear in errors.
fn split(attribute: &str) -> Result<(&str, &str), KeyError> {
    attribute.split_once('=').ok_or_else(|| odd("an attribute has no `=`"))
}

fn decode(name: &str, value: &str) -> Result<String, KeyError> {
    let text = percent_decode_str(value).decode_utf8();
    let text = text.map_err(|_| odd(format!("{name} is not UTF-8")))?;
    if text.chars().any(char::is_control) {
        return Err(odd(format!("{name} has a control character")));
    }
    Ok(text.into_owned())
}

/// Sets what may be given once.
fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), KeyError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(odd(format!("{name} is given twice"))),
    }
}

impl Pkcs11Uri {
    fn path_attribute(&mut self, attribute: &str) -> Result<(), KeyError> {
        let (name, value) = split(attribute)?;
        if name == "id" {
            return set(&mut self.id, name, percent_decode_str(value).collect());
        }
        let text = decode(name, value)?;
        match name {
            "token" => set(&mut self.token, name, text),
            "serial" => set(&mut self.serial, name, text),
            "manufacturer" => set(&mut self.manufacturer, name, text),
            "model" => set(&mut self.model, name, text),
            "object" => set(&mut self.object, name, text),
            "slot-id" => match text.parse() {
                Ok(id) => set(&mut self.slot_id, name, id),
                Err(_) => Err(odd("slot-id is not a number")),
            },
            "type" if text == "secret-key" => Ok(()),
            "type" => Err(odd("the type of the object must be secret-key")),
            _ => Err(odd(format!("the path attribute {name:?} is not known"))),
        }
    }

    fn query_attribute(&mut self, attribute: &str) -> Result<(), KeyError> {
        let (name, value) = split(attribute)?;
        match name {
            "module-path" => {
                let path = PathBuf::from(decode(name, value)?);
                if !path.is_absolute() {
                    return Err(odd("module-path is not an absolute path"));
                }
                set(&mut self.module_path, name, path)
            }
            "module-name" => {
                let module = decode(name, value)?;
                if module.is_empty() || module.contains('/') {
                    return Err(odd("module-name is a name, not a path"));
                }
                set(&mut self.module_name, name, module)
            }
            "pin-source" => {
                let text = decode(name, value)?;
                if text.starts_with('|') {
                    return Err(odd("pin-source names a file; commands are not run"));
                }
                let path = text.strip_prefix("file://").or(text.strip_prefix("file:"));
                set(&mut self.pin_source, name, PathBuf::from(path.unwrap_or(&text)))
            }
            "pin-value" => {
                Err(odd("pin-value is refused; put the PIN into a file and name it by pin-source"))
            }
            _ => Err(odd(format!("the query attribute {name:?} is not known"))),
        }
    }
}

impl Pkcs11Uri {
    /// The path of the module, if it is named so.
    pub fn module_path(&self) -> Option<&Path> {
        self.module_path.as_deref()
    }

    /// The name of the module, if it is named so.
    pub fn module_name(&self) -> Option<&str> {
        self.module_name.as_deref()
    }

    /// The file with the PIN, if one is named.
    pub fn pin_source(&self) -> Option<&Path> {
        self.pin_source.as_deref()
    }

    /// The same key, reached by this module.
    #[must_use]
    pub fn with_module(self, path: PathBuf) -> Self {
        Self { module_path: Some(path), ..self }
    }
}

impl FromStr for Pkcs11Uri {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix("pkcs11:").ok_or_else(|| odd("it must start with pkcs11:"))?;
        if text.len() > 4096 {
            return Err(odd("it is longer than 4096 characters"));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        for attribute in path.split(';').filter(|part| !part.is_empty()) {
            uri.path_attribute(attribute)?;
        }
        for attribute in query.split('&').filter(|part| !part.is_empty()) {
            uri.query_attribute(attribute)?;
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err(odd("it names no key: object or id is missing"));
        }
        if uri.module_path.is_none() && uri.module_name.is_none() {
            return Err(odd("it names no module: module-path or module-name is missing"));
        }
        Ok(uri)
    }
}

impl fmt::Display for Pkcs11Uri {
    /// Without the query: which key, not how it is reached.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let mut separator = "";
        let texts = [
            ("token", &self.token),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
            ("object", &self.object),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                let value = utf8_percent_encode(value, UNRESERVED);
                write!(f, "{separator}{name}={value}")?;
                separator = ";";
            }
        }
        if let Some(id) = self.slot_id {
            write!(f, "{separator}slot-id={id}")?;
            separator = ";";
        }
        if let Some(id) = &self.id {
            write!(f, "{separator}id=")?;
            id.iter().try_for_each(|byte| write!(f, "%{byte:02x}"))?;
        }
        Ok(())
    }
}

/// Everything but RFC 3986's unreserved characters is encoded.
const UNRESERVED: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// For fuzzing: parses any text.
#[doc(hidden)]
pub fn fuzz_pkcs11_uri(bytes: &[u8]) {
    if let Ok(uri) = String::from_utf8_lossy(bytes).parse::<Pkcs11Uri>() {
        let again = format!("{uri}?module-name=x").parse::<Pkcs11Uri>();
        let same = |other: Pkcs11Uri| {
            (other.token, other.object, other.id, other.slot_id)
                == (uri.token, uri.object, uri.id, uri.slot_id)
        };
        assert!(again.is_ok_and(same), "what is shown names the same key");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_read() {
        let text = "pkcs11:token=The%20Software%20token;object=kek;id=%01%ff;type=secret-key\
                    ?module-path=/usr/lib/m.so&pin-source=file:/run/pin";
        let uri: Pkcs11Uri = text.parse().expect("parses");
        assert_eq!(uri.token.as_deref(), Some("The Software token"));
        assert_eq!(uri.id, Some(vec![1, 255]));
        assert_eq!(uri.pin_source, Some(PathBuf::from("/run/pin")));
        assert_eq!(uri.to_string(), "pkcs11:token=The%20Software%20token;object=kek;id=%01%ff");
    }

    #[test]
    fn what_is_not_understood_is_refused_without_showing_secrets() {
        for text in [
            "http://x",
            "pkcs11:",
            "pkcs11:object=a",
            "pkcs11:token=x?module-name=m",
            "pkcs11:object=a;object=b?module-name=m",
            "pkcs11:object=a;colour=red?module-name=m",
            "pkcs11:object=a;type=private?module-name=m",
            "pkcs11:object=a;slot-id=x?module-name=m",
            "pkcs11:object=a?module-name=../m",
            "pkcs11:object=a?module-path=m.so",
            "pkcs11:object=a?module-name=m&pin-source=|cat%20pin",
            "pkcs11:object=a%00?module-name=m",
            "pkcs11:object=a?module-name=m&pin-value=secret1234",
        ] {
            let error = text.parse::<Pkcs11Uri>().expect_err(text);
            assert!(matches!(error, KeyError::Uri { .. }));
            assert!(!format!("{error:?} {error}").contains("secret1234"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(pkcs11:)?[a-z=;?&%-]{0,80}", object in "\\PC{1,20}") {
            fuzz_pkcs11_uri(text.as_bytes());
            let object = utf8_percent_encode(&object, UNRESERVED);
            fuzz_pkcs11_uri(format!("pkcs11:object={object}?module-name=m").as_bytes());
        }
    }
}
