//! From an image to the whole tree of files behind it, each looked at and allowed.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    bytes::{Found, Reference},
    qcow2, vhd, vhdx, vmdk,
};
use crate::{
    DiskError, ImageFormat,
    raw::{Access, RawFile},
};

/// The most images on top of each other.
const MAX_DEPTH: usize = 64;

/// An image with all it needs, ready for QEMU.
#[derive(Debug)]
pub(super) struct Chain {
    /// QEMU's node tree.
    pub(super) node: Value,
    /// Bytes of the disk, if the header says so.
    pub(super) size: Option<u64>,
}

/// Looks at files and remembers which.
struct Walk<'a> {
    allowed: Vec<PathBuf>,
    name: &'a str,
    top: ImageFormat,
    seen: Vec<(u64, u64)>,
}

/// Looks at the image at `path` and all that it refers to. What it refers to must be in one of the
/// folders `allowed`, or below.
pub(super) fn inspect(
    path: &Path,
    name: &str,
    format: ImageFormat,
    allowed: &[PathBuf],
) -> Result<Chain, DiskError> {
    let allowed = allowed.iter().map(|folder| {
        folder.canonicalize().map_err(|error| DiskError::Io {
            disk: folder.display().to_string(),
            action: "look into this folder",
            source: error,
        })
    });
    let allowed = allowed.collect::<Result<_, _>>()?;
    let mut walk = Walk { allowed, name, top: format, seen: Vec::new() };
    let absolute = std::path::absolute(path).map_err(|source| DiskError::Io {
        disk: name.to_owned(),
        action: "open",
        source,
    })?;
    walk.image(&absolute, format)
}

impl Walk<'_> {
    fn wrong(&self, path: &Path, reason: &str) -> DiskError {
        DiskError::Format {
            disk: self.name.to_owned(),
            format: self.top.to_string(),
            reason: if self.seen.len() > 1 {
                format!("{}: {reason}", path.display())
            } else {
                reason.to_owned()
            },
        }
    }

    /// Opens a file once; a second time is a loop.
    fn open(&mut self, path: &Path) -> Result<RawFile, DiskError> {
        let shown = if self.seen.is_empty() {
            self.name.to_owned()
        } else {
            format!("{} (of {})", path.display(), self.name)
        };
        let file = RawFile::open(path, &shown, Access::Read)?;
        let data = file.file().metadata().map_err(|error| file.io_error("open", error))?;
        let identity = (data.dev(), data.ino());
        if self.seen.contains(&identity) {
            return Err(self.wrong(path, "it refers to itself"));
        }
        if self.seen.len() >= MAX_DEPTH {
            return Err(self.wrong(path, &format!("more than {MAX_DEPTH} files")));
        }
        self.seen.push(identity);
        Ok(file)
    }

    /// The node of QEMU that holds a file's bytes.
    fn file_node(&self, path: &Path, file: &RawFile) -> Result<Value, DiskError> {
        let text = path.to_str().ok_or_else(|| DiskError::Spec {
            disk: self.name.to_owned(),
            reason: "QEMU takes only paths in UTF-8".to_owned(),
        })?;
        let driver = if file.is_device() { "host_device" } else { "file" };
        Ok(json!({ "driver": driver, "filename": text }))
    }

    fn image(&mut self, path: &Path, format: ImageFormat) -> Result<Chain, DiskError> {
        let file = self.open(path)?;
        let node = self.file_node(path, &file)?;
        let found = match format {
            ImageFormat::Raw => Ok(Found::default()),
            ImageFormat::Qcow2 => qcow2::inspect(&file),
            ImageFormat::Vhd => vhd::inspect(&file),
            ImageFormat::Vhdx => vhdx::inspect(&file),
            ImageFormat::Vmdk => vmdk::inspect(&file),
        };
        drop(file);
        let found = found.map_err(|reason| self.wrong(path, &reason))?;
        let mut node = match format {
            ImageFormat::Raw => json!({ "driver": "raw", "file": node }),
            ImageFormat::Qcow2 => json!({ "driver": "qcow2", "file": node, "backing": null }),
            // Without this QEMU rounds some disks to what their geometry can address.
            ImageFormat::Vhd => {
                json!({ "driver": "vpc", "file": node, "force_size_calc": "current_size" })
            }
            ImageFormat::Vhdx => json!({ "driver": "vhdx", "file": node }),
            ImageFormat::Vmdk => json!({ "driver": "vmdk", "file": node, "backing": null }),
        };
        let mut add = |key: &str, value: Value| {
            if let Some(map) = node.as_object_mut() {
                map.insert(key.to_owned(), value);
            }
        };
        if let Some(reference) = &found.data_file {
            let path = self.resolve(path, reference)?;
            let file = self.open(&path)?;
            add("data-file", self.file_node(&path, &file)?);
        }
        for reference in &found.extents {
            self.extent(path, reference)?;
        }
        if let Some(reference) = &found.backing {
            let below = self.resolve(path, reference)?;
            let format = self.backing_format(path, format, reference)?;
            add("backing", self.image(&below, format)?.node);
        }
        Ok(Chain { node, size: found.size })
    }

    /// Looks at an extent of a VMDK. QEMU finds it by the name in the descriptor.
    fn extent(&mut self, image: &Path, reference: &Reference) -> Result<(), DiskError> {
        let path = self.resolve(image, reference)?;
        let file = self.open(&path)?;
        if reference.format.as_deref().is_some_and(|kind| kind.ends_with("SPARSE")) {
            let found = vmdk::inspect_sparse(&file).map_err(|reason| self.wrong(&path, &reason))?;
            if let Some(parent) = found.backing {
                return Err(self.refuse(&parent));
            }
        }
        Ok(())
    }

    fn backing_format(
        &self,
        path: &Path,
        of: ImageFormat,
        reference: &Reference,
    ) -> Result<ImageFormat, DiskError> {
        match (of, reference.format.as_deref()) {
            (ImageFormat::Qcow2, Some("vpc")) => Ok(ImageFormat::Vhd),
            (ImageFormat::Qcow2 | ImageFormat::Vmdk, Some(format)) => {
                ImageFormat::from_name(format).ok_or_else(|| {
                    self.wrong(path, &format!("its backing file is {format:.20?}, not known here"))
                })
            }
            (ImageFormat::Qcow2, None) => Err(self.wrong(
                path,
                "it does not say the format of its backing file (qemu-img rebase -u -F does)",
            )),
            _ => Err(self.wrong(path, "disks on top of a parent are not read in this format")),
        }
    }

    fn refuse(&self, reference: &Reference) -> DiskError {
        let reference: String =
            reference.name.chars().filter(|c| !c.is_control()).take(1023).collect();
        DiskError::Unsafe { disk: self.name.to_owned(), reference }
    }

    /// Where a reference leads, if it may be followed.
    fn resolve(&self, image: &Path, reference: &Reference) -> Result<PathBuf, DiskError> {
        let refuse = || self.refuse(reference);
        // A colon before the first slash would be a protocol of QEMU's.
        let first = reference.name.split('/').next().unwrap_or_default();
        if first.contains(':') {
            return Err(refuse());
        }
        let folder = image.parent().unwrap_or(Path::new("/"));
        // A file that is not there is refused as well: saying so would tell what exists.
        let path = folder.join(&reference.name).canonicalize().map_err(|_| refuse())?;
        let is_allowed = self.allowed.iter().any(|folder| path.starts_with(folder));
        if is_allowed { Ok(path) } else { Err(refuse()) }
    }
}
