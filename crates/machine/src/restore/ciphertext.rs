//! Disks that were kept as ciphertext: encrypted images that are restored byte by byte.

use std::{fs::File, io, path::Path};

use strongroom_disk::{ImageFormat, open_ours};

use super::place::local;
use crate::{Configuration, error::Result};

/// An encrypted image that a point has as the bytes that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its format: what the bytes are to QEMU. They are written as they are.
    pub format: ImageFormat,
    /// Its length, bytes: the disk in the point is longer by less than a sector.
    pub length: u64,
}

/// The encrypted image that a disk of a point is; none if the point has what the guest sees.
pub fn container(configuration: &Configuration, disk: &str) -> Option<Container> {
    let identity = configuration.disk(disk)?;
    let format = ImageFormat::from_name(&identity.format).unwrap_or(ImageFormat::Raw);
    Some(Container { format, length: identity.ciphertext? })
}

impl Container {
    /// Gives a restored image the length that it had; what is no file stays as it is. One that is `ours`
    /// must be a file that we have made.
    pub fn cut(&self, path: &Path, ours: bool) -> Result<()> {
        let cut = || -> io::Result<()> {
            if !path.metadata()?.is_file() {
                return Ok(());
            }
            let file = if ours {
                open_ours(path, true)?
            } else {
                File::options().write(true).open(path)?
            };
            file.set_len(self.length)?;
            file.sync_all()
        };
        cut().map_err(|source| local("set the length of", path, source))
    }
}
