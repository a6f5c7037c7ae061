//! What is kept of a vault on this host, sealed: what was found out once and costs time to find out again.
//!
//! It is a cache: losing it costs time, and what does not open is not there. It is sealed as objects of the vault are,
//! under a name that no object of a store has.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use strongroom_format::sealed::{MAX_SEALED, SealedKind};
use strongroom_objects::Key;

use crate::{Vault, files::write_whole};

/// Bytes that are kept of a vault, at most, and how much of it stays when it was more.
const MOST: u64 = 256 << 20;
const LESS: u64 = MOST / 4 * 3;

impl Vault {
    /// Most plain bytes of what is kept under one name.
    pub const MAX_BESIDE: usize = 64 << 20;

    /// Keeps something on this host, if the vault has a cache folder. `name` is of letters, digits and dashes. That it
    /// cannot be kept is no failure.
    pub fn keep_beside(&self, name: &str, plain: &[u8]) {
        let Some((path, key)) = self.beside(name).filter(|_| plain.len() <= Self::MAX_BESIDE)
        else {
            return;
        };
        let Ok(sealed) = self.seal(SealedKind::Service, &key, plain) else { return };
        if let Err(error) = put(&path, &sealed) {
            tracing::debug!(%error, name, "a listing is not kept");
        }
    }

    /// What is kept so, if it is there and opens.
    pub fn kept_beside(&self, name: &str) -> Option<Vec<u8>> {
        let (path, key) = self.beside(name)?;
        let mut sealed = Vec::new();
        fs::File::open(path).ok()?.take(MAX_SEALED).read_to_end(&mut sealed).ok()?;
        self.unseal(SealedKind::Service, &key, sealed).ok()
    }

    fn beside(&self, name: &str) -> Option<(PathBuf, Key)> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_plain) {
            return None;
        }
        let dir = self.options.cache_dir.as_ref()?;
        let dir = dir.join(self.config.vault_id.to_string()).join("beside");
        Some((dir.join(name), Key::new(format!("beside/{name}")).ok()?))
    }
}

fn put(path: &Path, sealed: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let mut files = Vec::new();
    for file in fs::read_dir(dir)? {
        let file = file?;
        if let Ok(about) = file.metadata() {
            let made = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.push((made, about.len(), file.path()));
        }
    }
    let new = u64::try_from(sealed.len()).unwrap_or(u64::MAX);
    let mut sum = files.iter().map(|(_, len, _)| *len).fold(new, u64::saturating_add);
    if sum > MOST {
        files.sort();
        for (_, len, path) in files {
            if sum <= LESS {
                break;
            }
            fs::remove_file(path).ok();
            sum = sum.saturating_sub(len);
        }
    }
    write_whole(path, sealed)
}
