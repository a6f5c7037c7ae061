//! Socket files: made so that at no moment anybody else may connect, and removed by those who made them.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags};
use strongroom_base::{Entropy, EntropyExt as _};

/// A socket file that this process listens on. Dropping it removes the file, if it is still this one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// What tells it from another file that gets its name later.
    identity: (u64, u64),
}

/// Who besides the superuser may connect: a user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user's id.
    pub user: u32,
    /// The group's id.
    pub group: u32,
}

impl SocketFile {
    /// Makes a socket file that only its owner may use: this process's user, or another one. A socket of a
    /// process that was killed is replaced; one at which somebody listens, or another file, is not.
    ///
    /// # Errors
    ///
    /// If the file cannot be made; [`io::ErrorKind::AlreadyExists`] if there is one that is not replaced;
    /// [`io::ErrorKind::InvalidInput`] if its path is longer than those of sockets (107 bytes).
    pub fn listen(
        path: &Path,
        owner: Option<Owner>,
        entropy: &dyn Entropy,
    ) -> io::Result<(UnixListener, Self)> {
        // It is made under a shorter name, but clients connect to this one.
        std::os::unix::net::SocketAddr::from_pathname(path)?;
        let listener = bind(path, owner, entropy)?;
        let identity = identity_of(path)?;
        Ok((listener, Self { path: path.to_owned(), identity }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity_of(&self.path).is_ok_and(|found| found == self.identity) {
            // Somebody may have removed it; a new one can be made then as well.
            fs::remove_file(&self.path).ok();
        }
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Makes the socket in a private folder, and moves it to its place when its permissions are right.
fn bind(path: &Path, owner: Option<Owner>, entropy: &dyn Entropy) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let private = folder.join(format!(".s{:08x}", u32::from_le_bytes(entropy.array())));
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = private.join("s");
    let listener = UnixListener::bind(&made).and_then(|listener| {
        fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
        if let Some(Owner { user, group }) = owner {
            chown(&made, Some(user), Some(group))?;
        }
        if is_dead(path) {
            fs::remove_file(path)?;
        }
        rustix::fs::renameat_with(CWD, &made, CWD, path, RenameFlags::NOREPLACE)?;
        Ok(listener)
    });
    // The folder is private and has nothing but the socket, if that was not moved.
    fs::remove_file(&made).ok();
    fs::remove_dir(&private).ok();
    listener
}

/// Whether it is a socket file at which nobody listens.
fn is_dead(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).err().is_some_and(refused)
}

#[cfg(test)]
mod tests {
    use strongroom_base::SystemEntropy;

    use super::*;

    fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        SocketFile::listen(path, None, &SystemEntropy)
    }

    #[test]
    fn a_socket_is_private_and_goes_with_its_maker() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("a.sock");
        let (listener, file) = listen(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(file.path(), path);
        drop((listener, file));
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn only_what_nobody_listens_on_is_replaced() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("a.sock");
        // Of a process that was killed.
        drop(UnixListener::bind(&path).expect("a socket"));
        let (listener, file) = listen(&path).expect("replaced");
        let again = listen(&path).expect_err("in use");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(UnixStream::connect(&path).is_ok());
        // One that came later is another's.
        fs::remove_file(&path).expect("removed");
        let other = UnixListener::bind(&path).expect("a socket");
        drop((listener, file));
        assert!(UnixStream::connect(&path).is_ok());
        drop(other);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, b"mine").expect("a file");
        assert_eq!(listen(&path).expect_err("a file").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("kept"), b"mine");
    }
}
