//! Files that are made beside a vault: of its cache.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use strongroom_base::{EntropyExt as _, SystemEntropy};

/// Makes a file for its owner alone, in place of whatever has the name. A link is replaced, and not
/// followed.
pub fn make_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// A name beside a file for what is not finished yet. Nobody else takes it, not even a process of the same number in
/// another container that shares the folder.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension(format!("new-{:016x}", u64::from_le_bytes(SystemEntropy.array())))
}

/// Writes a file, by way of one of another name, in one step: who reads it meanwhile, or writes it at the same
/// time, sees one content or the other.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let written = make_anew(&unfinished).and_then(|mut file| file.write_all(content));
    let written = written.and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        fs::remove_file(&unfinished).ok();
    }
    written
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
        symlink(&victim, &link).expect("a link");
        make_anew(&link).expect("made").write_all(b"new").expect("written");
        fs::rename(&link, &path).expect("renamed");
        symlink(&victim, &link).expect("a link");
        write_whole(&link, b"new").expect("written");
        for name in [&link, &path] {
            assert_eq!(fs::read(name).expect("there"), b"new");
            assert_eq!(fs::symlink_metadata(name).expect("there").mode() & 0o7777, 0o600);
            assert_eq!(fs::read(&victim).expect("there"), b"precious");
        }
    }

    #[test]
    fn who_writes_one_file_at_once_does_not_mix_it() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("kept.json");
        std::thread::scope(|scope| {
            for byte in b'a'..b'i' {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_whole(path, &vec![byte; 100_000]).expect("written");
                        let read = fs::read(path).expect("readable");
                        assert!(read.len() == 100_000 && read.iter().all(|it| *it == read[0]));
                    }
                });
            }
        });
        let left = fs::read_dir(dir.path()).expect("a folder").count();
        assert_eq!(left, 1, "nothing unfinished is left");
        write_whole(&dir.path().join("no/file"), b"x").expect_err("no folder");
    }
}
