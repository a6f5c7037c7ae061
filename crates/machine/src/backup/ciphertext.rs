//! Disks that are encrypted on the host, kept as ciphertext.
//!
//! The image is read as the bytes that it is, its headers with the (encrypted) keys included: in
//! qcow2 the ciphertext depends on where in the file it is, so only the file as a whole can be opened
//! again. While a machine runs its QEMU has a part of the image in memory, so the file is whole only
//! when it is off: `docs/decisions/0012-encrypted-disks.md`.

use std::{path::PathBuf, sync::Arc};

use strongroom_base::{ByteRange, RangeSet};
use strongroom_disk::{
    DiskError, DiskSource, DiskSpec, Extent, ImageFormat, OpenOptions, open_source,
};
use strongroom_engine::{BackupDisk, CleanCheck};
use strongroom_hypervisor::{Disk, ImageInfo, State};

use super::{
    Work, collect,
    stopped::{Opened, fingerprint},
};
use crate::{EncryptedDisks, MachineError, error::Result, image};

/// Noted of an encrypted disk that is kept the other way.
pub(super) const DECRYPTED: &str = "encrypted on the host; kept as the guest sees it";

/// Whether a disk is kept as ciphertext.
pub(super) fn is_kept(work: &Work<'_>, disk: &Disk) -> bool {
    disk.encryption.is_some() && work.request.encrypted_disks == EncryptedDisks::Ciphertext
}

/// Refuses what cannot be kept as ciphertext because of the machine's state.
pub(super) fn check(work: &Work<'_>) -> Result<()> {
    let selection = work.selection()?;
    let Some(disk) = selection.chosen.iter().find(|disk| is_kept(work, disk)) else {
        return Ok(());
    };
    let target = &disk.target;
    let reason = match work.state {
        // It would have to be started for its other disks.
        State::Off => match work.needs_qemu()? {
            Some(reason) if work.request.start_paused => format!(
                "{target} can be kept as ciphertext only while it is off, but {reason}; back them \
                 up apart (--exclude-disks)"
            ),
            _ => return Ok(()),
        },
        _ => format!(
            "its encrypted disk {target} can be kept as ciphertext only while the machine is off, since QEMU exports only what the guest sees; shut the machine down, or back it up with --encrypted-disks decrypted"
        ),
    };
    let (machine, state) = (work.domain.name.clone(), work.state.name());
    Err(MachineError::State { machine, state, reason })
}

/// Opens the image of a machine that is off as the bytes that it is.
pub(super) fn open(work: &Work<'_>, disk: &Disk) -> Result<Opened> {
    let refuse = |reason: &str| MachineError::Unsupported {
        machine: work.domain.name.clone(),
        reason: format!(
            "disk {}: {reason}, so its ciphertext alone would be of no use (--encrypted-disks \
             decrypted)",
            disk.target
        ),
    };
    let Some(path) = disk.source.path().map(PathBuf::from) else {
        return Err(refuse("it has no path"));
    };
    if disk.slice.is_some() {
        return Err(refuse("it is a part of a file"));
    }
    let name = disk.driver.format.as_deref().unwrap_or("raw");
    let chain = image::chain_of(disk);
    if let Some(reason) = not_alone(&chain) {
        return Err(refuse(reason));
    }
    let fingerprint = fingerprint(&path)?;
    let spec = DiskSpec::File { path: path.clone(), format: Some(ImageFormat::Raw) };
    let options = OpenOptions { even_if_in_use: true, ..OpenOptions::default() };
    let bytes = open_source(&spec, &options)?;
    // A device has no length of its own; all of it is the image.
    let length = Some(fingerprint.2).filter(|length| *length > 0).unwrap_or_else(|| bytes.size());
    let source: Arc<dyn DiskSource> = Arc::new(Container { bytes, format: format_of(name) });
    let mut identity = collect::identity(disk, Some(source.size()), true, &chain);
    identity.image = image::info(&path, name).as_ref().map(image::recipe);
    identity.ciphertext = Some(length);
    let mut backup = BackupDisk::new(&disk.target, disk.source.to_string(), source);
    backup.clean = CleanCheck::Trust;
    backup.notes = vec![
        "kept as ciphertext: the encrypted image as it lies on the host, without its key; all of \
         it was read and compared"
            .to_owned(),
    ];
    Ok(Opened { path, fingerprint, backup, identity })
}

/// Why an image is not all of its disk, if that is so.
fn not_alone(chain: &[ImageInfo]) -> Option<&'static str> {
    match chain {
        [] => Some("qemu-img does not say whether it has images under it"),
        [top] if top.data_file.is_some() => Some("its bytes are in another file"),
        [_] => None,
        _ => Some("it has images under it"),
    }
}

/// The format that is noted of an encrypted image on the point, for people.
fn format_of(driver: &str) -> &'static str {
    if driver == "raw" { "luks" } else { "qcow2+luks" }
}

/// An encrypted image as the bytes that it is.
struct Container {
    bytes: Box<dyn DiskSource>,
    format: &'static str,
}

impl DiskSource for Container {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn extents(&self, range: ByteRange) -> std::result::Result<Vec<Extent>, DiskError> {
        self.bytes.extents(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), DiskError> {
        self.bytes.read_at(offset, buf)
    }

    fn changed(&self) -> Option<&RangeSet> {
        None
    }

    fn format(&self) -> &str {
        self.format
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_are_all_of_their_disks() {
        let one = ImageInfo::default();
        let apart = ImageInfo { data_file: Some("data.raw".to_owned()), ..ImageInfo::default() };
        assert_eq!(not_alone(std::slice::from_ref(&one)), None);
        assert!(not_alone(&[]).is_some_and(|why| why.contains("qemu-img")));
        assert!(not_alone(&[apart]).is_some_and(|why| why.contains("another file")));
        assert!(not_alone(&[one.clone(), one]).is_some_and(|why| why.contains("under it")));
    }
}
