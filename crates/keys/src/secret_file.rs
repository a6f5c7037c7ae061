//! Files with a secret in them: key files, passphrases, PINs.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use zeroize::Zeroizing;

use super::KeyError;

/// Most bytes of a key file, passphrase file or PIN file.
pub const MAX_SECRET_FILE: usize = 64 * 1024;

/// Reads a secret file: at most [`MAX_SECRET_FILE`] bytes, without one line break at the end.
///
/// The line break is dropped so that it does not matter whether an editor, `echo` or a secret
/// store put one there. Permissions that let others read or change the file are worth a warning,
/// not a refusal: at the moment of a restore, a vault that opens is worth more.
pub(super) fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |source| KeyError::File { path: path.to_path_buf(), action: "read", source };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let mode = meta.permissions().mode();
    if meta.is_file() && mode & 0o026 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:03o}", mode & 0o777),
            "others can read or change this secret file; `chmod 600` it"
        );
    }
    // Its full size at once, so that no part of the secret is left behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_FILE.saturating_add(64)));
    let most = u64::try_from(MAX_SECRET_FILE).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_SECRET_FILE {
        return Err(unusable(path, "it is longer than 64 KiB"));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}

pub(super) fn unusable(path: &Path, reason: &'static str) -> KeyError {
    KeyError::Unusable { path: path.to_path_buf(), reason }
}
