//! Who else may write to a disk that is about to be read.
//!
//! Looked at once, before reading: a disk that nobody may write to now can still be opened later. Of
//! other users' processes only root sees what they have open; a server or another host that has the
//! same storage is never seen.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{
    file::{RawFile, open_error},
    locks,
};
use crate::DiskError;

/// Refuses a file or block device that somebody else may write to.
pub(crate) fn refuse_if_in_use(path: &Path, file: &RawFile, name: &str) -> Result<(), DiskError> {
    let file = file.file();
    let about = file.metadata().map_err(|error| open_error(name, error))?;
    match reason(path, file, &about) {
        Some(reason) => Err(DiskError::Busy { disk: name.to_owned(), reason }),
        None => Ok(()),
    }
}

fn reason(path: &Path, file: &File, about: &Metadata) -> Option<String> {
    if about.file_type().is_block_device() {
        let alone = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
        let opened = OpenOptions::new().read(true).custom_flags(alone).open(path);
        if opened.is_err_and(|error| error.kind() == ErrorKind::ResourceBusy) {
            return Some("it is mounted, or a part of another device".to_owned());
        }
    } else if locks::has_writer(file).unwrap_or(false) {
        // A file system without locks cannot tell; QEMU does without them there as well.
        return Some(locks::BY_A_MACHINE.to_owned());
    } else if let Some(device) = loop_device(path) {
        return Some(format!("it is the content of {device}, which can be written to"));
    }
    writer(path, about)
        .map(|(process, program)| format!("process {process} ({program}) may write to it"))
}

/// The block device that the kernel makes of a file and that can be written to.
fn loop_device(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let devices = fs::read_dir("/sys/block").ok()?.flatten();
    devices.map(|entry| entry.path()).find_map(|device| {
        let file = fs::read_to_string(device.join("loop/backing_file")).ok()?;
        let can_write = fs::read_to_string(device.join("ro")).is_ok_and(|ro| ro.trim() == "0");
        let name = device.file_name()?.to_str()?;
        (can_write && Path::new(file.trim_end_matches('\n')) == path)
            .then(|| format!("/dev/{name}"))
    })
}

/// A process, other than ours, that has the file or device open to write.
fn writer(path: &Path, about: &Metadata) -> Option<(String, String)> {
    let is_device = about.file_type().is_block_device();
    let names = [path.file_name().map(ToOwned::to_owned), canonical_name(path)];
    // Only what may be it is looked at: a look at a file of a server that is away would not end.
    let may_be_it = |link: &Path| {
        let has_name = || names.iter().flatten().any(|name| link.file_name() == Some(name));
        if is_device { link.starts_with("/dev") } else { has_name() }
    };
    let is_it = |fd: &Path| {
        fs::metadata(fd).is_ok_and(|other| {
            if is_device {
                other.file_type().is_block_device() && other.rdev() == about.rdev()
            } else {
                (other.dev(), other.ino()) == (about.dev(), about.ino())
            }
        })
    };
    let ours = std::process::id().to_string();
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let processes = processes.filter(|process| {
        let name = process.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.bytes().all(|byte| byte.is_ascii_digit()) && name != ours
    });
    for process in processes {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        for fd in open.map(|entry| entry.path()) {
            let is_open = match fs::read_link(&fd) {
                Ok(link) => may_be_it(&link) && is_it(&fd),
                // It says no more of its other files.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
                Err(_) => false,
            };
            if is_open && can_write(&process, &fd) {
                let number = process.file_name()?.to_string_lossy().into_owned();
                let program = fs::read_to_string(process.join("comm")).unwrap_or_default();
                return Some((number, program.trim().to_owned()));
            }
        }
    }
    None
}

fn canonical_name(path: &Path) -> Option<std::ffi::OsString> {
    path.canonicalize().ok()?.file_name().map(ToOwned::to_owned)
}

/// Whether a process has opened this descriptor to write.
fn can_write(process: &Path, fd: &Path) -> bool {
    let Some(number) = fd.file_name() else { return false };
    let info: PathBuf = process.join("fdinfo").join(number);
    let info = fs::read_to_string(info).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0b11 != 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::{super::file::Access, *};

    #[test]
    fn who_writes_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk image");
        fs::write(&path, [0; 4096]).expect("written");
        let look = || {
            let file = RawFile::open(&path, "x", Access::Read).expect("opens");
            refuse_if_in_use(&path, &file, "x")
        };
        look().expect("nobody has it open");
        let run = |redirect: &str| {
            Command::new("sh")
                .args(["-c", &format!("exec {redirect} '{}'; echo; exec sleep 60", path.display())])
                .stdout(Stdio::piped())
                .spawn()
                .expect("starts")
        };
        for (redirect, is_writer) in [("3<", false), ("3<>", true), ("3>>", true)] {
            let mut child = run(redirect);
            let mut line = [0];
            let output = child.stdout.as_mut().expect("a pipe");
            std::io::Read::read_exact(output, &mut line).expect("it has opened the file");
            let found = look();
            child.kill().expect("killed");
            child.wait().expect("ended");
            assert_eq!(found.is_err(), is_writer, "{redirect} {found:?}");
            if let Err(error) = found {
                assert!(error.to_string().contains(&child.id().to_string()), "{error}");
            }
        }
    }
}
