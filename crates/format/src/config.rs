//! `strongroom.json`: what must be known of a vault before it can be opened.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{BLOCK_SIZE_U64, FANOUT, VaultId};

use crate::FormatError;

/// Whether the store honours create-only puts, as the probe found when the vault was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditional {
    /// Of several writers exactly one creates an object: many may write at once.
    Honoured,
    /// The store overwrites or races: only one writer at a time is allowed.
    Ignored,
}

/// The plain description of a vault; holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// Always `strongroom vault`.
    pub kind: String,
    /// Version of the repository format.
    pub format: u16,
    /// The vault.
    pub vault_id: VaultId,
    /// When it was created.
    pub created: Timestamp,
    /// Bytes in a block; 65536 in version 1.
    pub block_size: u64,
    /// Children of a tree node; 256 in version 1.
    pub fan_out: usize,
    /// What the store was found to honour.
    pub create_only_puts: Conditional,
    /// URLs of all mirrors including the first, if the vault is mirrored over folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// That somebody with a key of the vault wrote this, in hexadecimal. Without it nothing here is
    /// to be acted upon beyond reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

impl VaultConfig {
    /// Name of the object.
    pub const KEY: &'static str = "strongroom.json";
    /// Format version of new vaults.
    pub const FORMAT: u16 = 2;
    /// From this format version on blocks may share a record of a pack.
    pub const UNITS: u16 = 2;
    /// Most bytes of the object.
    pub const MAX_LEN: u64 = 64 * 1024;
    const KIND: &'static str = "strongroom vault";

    /// The description of a new vault.
    pub fn new(
        vault_id: VaultId,
        created: Timestamp,
        create_only_puts: Conditional,
        mirrors: Vec<String>,
    ) -> Self {
        Self {
            kind: Self::KIND.to_owned(),
            format: Self::FORMAT,
            vault_id,
            created,
            block_size: BLOCK_SIZE_U64,
            fan_out: FANOUT,
            create_only_puts,
            mirrors,
            seal: None,
        }
    }

    /// What the seal covers: all that the program acts upon and that is not the same in every vault
    /// of this version. (The vault's id goes into the key of the seal.)
    pub fn sealed_text(&self) -> Vec<u8> {
        let puts = match self.create_only_puts {
            Conditional::Honoured => "honoured",
            Conditional::Ignored => "ignored",
        };
        // Paths are absolute: this is none.
        let format = (self.format > 1).then(|| format!("format {}", self.format));
        let mirrors = self.mirrors.iter().map(String::as_str);
        let words = std::iter::once(puts).chain(mirrors).chain(format.as_deref());
        words.flat_map(|word| word.bytes().chain([0])).collect()
    }

    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| text(&error))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads and checks the object.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            kind: String,
            format: u16,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|error| text(&error))?;
        if version.kind != Self::KIND {
            return Err(FormatError::Magic { what: Self::KEY });
        }
        if !(1..=Self::FORMAT).contains(&version.format) {
            return Err(FormatError::Version {
                what: "vault",
                found: version.format,
                known: Self::FORMAT,
            });
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|error| text(&error))?;
        if config.block_size != BLOCK_SIZE_U64 || config.fan_out != FANOUT {
            return Err(FormatError::Text {
                what: Self::KEY,
                reason: "block size and fan-out are not those of version 1".to_owned(),
            });
        }
        // It separates them in what the seal covers.
        if config.mirrors.iter().any(|mirror| mirror.contains('\0')) {
            return Err(FormatError::Text {
                what: Self::KEY,
                reason: "the path of a mirror has a zero byte".to_owned(),
            });
        }
        Ok(config)
    }
}

fn text(error: &serde_json::Error) -> FormatError {
    FormatError::Text { what: VaultConfig::KEY, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_text() {
        let mut config = VaultConfig::new(
            VaultId::from_bytes([1; 16]),
            Timestamp::UNIX_EPOCH,
            Conditional::Honoured,
            Vec::new(),
        );
        for (format, name) in [(1, "strongroom-v1.json"), (2, "strongroom-v2.json")] {
            config.format = format;
            let bytes = config.encode().expect("encodes");
            crate::golden::assert_golden(name, &bytes);
            assert_eq!(VaultConfig::decode(&bytes), Ok(config.clone()));
        }
    }

    #[test]
    fn other_versions_and_texts_are_refused() {
        let newer = br#"{"kind":"strongroom vault","format":3,"news":true}"#;
        assert_eq!(
            VaultConfig::decode(newer),
            Err(FormatError::Version { what: "vault", found: 3, known: 2 })
        );
        assert!(VaultConfig::decode(b"{}").is_err());
        let mut config = VaultConfig::new(
            VaultId::from_bytes([1; 16]),
            Timestamp::UNIX_EPOCH,
            Conditional::Ignored,
            vec!["/a".to_owned(), "/b".to_owned()],
        );
        assert_eq!(config.sealed_text(), b"ignored\0/a\0/b\0format 2\0");
        config.format = 1;
        assert_eq!(config.sealed_text(), b"ignored\0/a\0/b\0");
        config.mirrors = vec!["/a\0/b".to_owned()];
        let bytes = config.encode().expect("encodes");
        assert!(VaultConfig::decode(&bytes).is_err());
        assert!(VaultConfig::decode(b"\xff").is_err());
    }
}
