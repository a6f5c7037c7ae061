//! Secrets that open encrypted volumes, and what they open.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use crate::{survey::Volume, tree::Fault};

/// A passphrase, the content of a key file, or the key of a volume. It is never printed, and overwritten at its end.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// These bytes as a secret.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What a file with these bytes may mean. A line break at its end may be a part of the secret, or come from an
    /// editor: that is tried first.
    pub fn in_file(bytes: Vec<u8>) -> Vec<Self> {
        let line = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = line.map(|line| Self::new(line.to_vec()));
        line.into_iter().chain([Self::new(bytes)]).collect()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Which volume: the same in every survey of the same disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) disk: Option<u32>,
    pub(crate) partition: Option<u32>,
    pub(crate) logical: Option<String>,
}

impl Place {
    pub(crate) fn of(volume: &Volume) -> Self {
        let (disk, partition) = (volume.disk, volume.partition);
        Self { disk, partition, logical: volume.logical.clone() }
    }
}

/// An encrypted volume to which secrets were tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Unlocked {
    pub(crate) place: Place,
    /// Its key; none if no secret is one of it.
    pub(crate) key: Result<Option<Secret>, Fault>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_at_the_end_may_be_none_of_the_secret() {
        let of = |bytes: &[u8]| -> Vec<Vec<u8>> {
            let secrets = Secret::in_file(bytes.to_vec());
            secrets.iter().map(|secret| secret.bytes().to_vec()).collect()
        };
        assert_eq!(of(b"word"), [b"word".to_vec()]);
        assert_eq!(of(b"word\n"), [b"word".to_vec(), b"word\n".to_vec()]);
        assert_eq!(of(b"word\r\n"), [b"word".to_vec(), b"word\r\n".to_vec()]);
        assert_eq!(format!("{:?}", Secret::new(b"word".to_vec())), "Secret");
    }
}
