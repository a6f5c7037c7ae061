//! Files that are made beside a vault: of its cache.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Makes a file for its owner alone, in place of whatever has the name. A link is replaced, and not
/// followed.
pub fn make_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Writes a file, by way of one of another name, in one step.
pub(crate) fn write_whole(path: &Path, unfinished: &Path, content: &[u8]) -> io::Result<()> {
    make_anew(unfinished)?.write_all(content)?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_that_was_planted_is_replaced() {
        let dir = tempfile::tempdir().expect("temp");
        let [victim, link, path] = ["victim", "link", "path"].map(|name| dir.path().join(name));
        fs::write(&victim, "precious").expect("a file");
        for (unfinished, name) in [(&link, &path), (&path, &link)] {
            symlink(&victim, &link).expect("a link");
            write_whole(name, unfinished, b"new").expect("written");
            assert_eq!(fs::read(name).expect("there"), b"new");
            assert_eq!(fs::symlink_metadata(name).expect("there").mode() & 0o7777, 0o600);
            assert_eq!(fs::read(&victim).expect("there"), b"precious");
            fs::remove_file(name).expect("removed");
        }
    }
}
