//! qcow2 images to write.
//!
//! This module makes the image and lets `qemu-nbd` write into it. It must not know where the data comes from.

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
};

use strongroom_base::{ByteRange, Environment};

use super::serve::{Served, Service};
use crate::{
    DiskError, DiskTarget, Existing, Extent, ImageFormat, TargetOptions, raw::open_existing,
    within::pinned,
};

/// The program that makes images.
const QEMU_IMG: &str = "qemu-img";

/// A qcow2 image to write.
#[derive(Debug)]
struct Qcow2Target(Served);

/// Opens or makes a qcow2 image for a disk of `size` bytes; a new one is for its owner alone (mode
/// 0600).
pub(crate) fn open_qcow2(
    path: &Path,
    name: &str,
    size: u64,
    options: &TargetOptions,
) -> Result<Box<dyn DiskTarget>, DiskError> {
    let io_error = |error: std::io::Error| crate::raw::open_error(name, error);
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let (file, is_new) = match made {
        Ok(file) => (file, true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let file = open_existing(path, name, options.existing, options.links)?;
            let data = file.metadata().map_err(io_error)?;
            (file, data.is_file() && data.len() == 0)
        }
        Err(error) => return Err(io_error(error)),
    };
    if is_new {
        create(&pinned(&file), name, size)?;
    } else if options.existing == Existing::Refuse {
        return Err(DiskError::NotEmpty { disk: name.to_owned() });
    }
    let served = Served::start(&Service {
        file: &file,
        path,
        name,
        format: ImageFormat::Qcow2,
        allowed: &options.open.allow_backing,
        layout: None,
        even_if_in_use: false,
        bitmap: None,
        write: true,
        blank: is_new,
        timeout: options.open.timeout,
    })?;
    let have = served.disk().len();
    if have < size {
        return Err(DiskError::TooSmall { disk: name.to_owned(), have, need: size });
    }
    let target = Qcow2Target(served);
    if is_new {
        sync_folder(path).map_err(|source| DiskError::Io {
            disk: name.to_owned(),
            action: "sync the folder of",
            source,
        })?;
    }
    Ok(Box::new(target))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match std::path::absolute(path)?.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes an empty image in an empty file.
fn create(path: &Path, name: &str, size: u64) -> Result<(), DiskError> {
    let tool = |reason: String| DiskError::Tool { tool: QEMU_IMG, disk: name.to_owned(), reason };
    let output = Command::new(QEMU_IMG)
        .env_clear()
        .envs(Environment::given().path())
        .args(["create", "-q", "-f", "qcow2"])
        .arg(path)
        .arg(size.to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => tool("it is not installed".to_owned()),
            _ => tool(error.to_string()),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(tool(said.trim().chars().filter(|c| !c.is_control()).take(500).collect()))
}

impl DiskTarget for Qcow2Target {
    fn size(&self) -> u64 {
        DiskTarget::size(self.0.disk())
    }

    fn is_blank(&self) -> bool {
        self.0.disk().is_blank()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.0.disk().write_at(offset, data)
    }

    fn write_zeroes(&self, range: ByteRange) -> Result<(), DiskError> {
        self.0.disk().write_zeroes(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        DiskTarget::read_at(self.0.disk(), offset, buf)
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        DiskTarget::extents(self.0.disk(), range)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.0.disk().flush()
    }
}
