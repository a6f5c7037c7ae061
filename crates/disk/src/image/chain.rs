//! From an image to the whole tree of files behind it, each looked at and allowed.

use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use rustix::fs::OFlags;
use serde_json::{Value, json};
use strongroom_base::ByteRange;

use super::{
    bytes::{Found, Reference, Window},
    qcow2, vhd, vhdx, vmdk,
};
use crate::{
    DiskError, ImageFormat, Layout, OpenOptions, Under, Within,
    raw::{Access, RawFile},
    within::{open_error, pinned},
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
    /// Its files: QEMU opens these, whatever has their names by then.
    pub(super) files: Vec<File>,
    /// What QEMU calls them, and what people do.
    names: Vec<(String, String)>,
}

impl Chain {
    /// What QEMU says, with names that people know.
    pub(super) fn with_names(&self, said: String) -> String {
        // The longest first: one may begin as another does.
        self.names.iter().rev().fold(said, |said, (pinned, name)| said.replace(pinned, name))
    }
}

/// Who names a file that an image needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamedBy {
    /// The image, which a guest may have written: only files of the allowed folders are opened.
    Image,
    /// The machine's definition, which says what the machine reads.
    Definition,
}

/// Looks at files and remembers which.
struct Walk<'a> {
    allowed: Vec<PathBuf>,
    name: &'a str,
    top: ImageFormat,
    seen: Vec<(u64, u64)>,
    /// The image itself, until it is looked at.
    image: Option<File>,
    files: Vec<File>,
    names: Vec<(String, String)>,
}

/// Looks at an image, which is at `path`, and all that it refers to. What it refers to must be in one of the
/// folders `allowed`, or below. What a machine's definition says of it decides, if there is one.
pub(super) fn inspect(
    file: &File,
    path: &Path,
    name: &str,
    format: ImageFormat,
    allowed: &[PathBuf],
    layout: Option<&Layout>,
) -> Result<Chain, DiskError> {
    let allowed = allowed.iter().map(|folder| {
        folder.canonicalize().map_err(|error| DiskError::Io {
            disk: folder.display().to_string(),
            action: "look into this folder",
            source: error,
        })
    });
    let allowed = allowed.collect::<Result<_, _>>()?;
    let io = |source| DiskError::Io { disk: name.to_owned(), action: "open", source };
    // To read: an offset and rights of its own.
    let image = RawFile::open_file(&pinned(file), Access::Read, OFlags::empty()).map_err(io)?;
    let mut walk = Walk {
        allowed,
        name,
        top: format,
        seen: Vec::new(),
        image: Some(image),
        files: Vec::new(),
        names: Vec::new(),
    };
    let absolute = std::path::absolute(path).map_err(|source| DiskError::Io {
        disk: name.to_owned(),
        action: "open",
        source,
    })?;
    let (node, size) = walk.image(&absolute, NamedBy::Image, format, layout)?;
    Ok(Chain { node, size, files: walk.files, names: walk.names })
}

/// Looks at an image and all that it refers to, as before it is opened.
pub(crate) fn look(
    file: &File,
    path: &Path,
    name: &str,
    format: ImageFormat,
    options: &OpenOptions,
) -> Result<(), DiskError> {
    inspect(file, path, name, format, &options.allow_backing, options.layout.as_ref()).map(drop)
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
    fn open(&mut self, path: &Path, by: NamedBy) -> Result<RawFile, DiskError> {
        let shown = if self.seen.is_empty() {
            self.name.to_owned()
        } else {
            format!("{} (of {})", path.display(), self.name)
        };
        let file = match (self.image.take(), by) {
            (Some(image), _) => image,
            (None, NamedBy::Definition) => {
                let opened = RawFile::open_file(path, Access::Read, OFlags::empty());
                opened.map_err(|error| open_error(&shown, error))?
            }
            // Its path has no links any more: one that has come since is not followed.
            (None, NamedBy::Image) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let opened = Within::new(self.allowed.clone()).open_exactly(path, flags);
                opened.map_err(|error| open_error(&shown, error))?
            }
        };
        let file = RawFile::of(file, &shown)?;
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

    /// The node of QEMU that holds a file's bytes. It gets the file that was looked at and not its path.
    fn file_node(&mut self, path: &Path, file: &RawFile) -> Result<Value, DiskError> {
        let held = file.file().try_clone().map_err(|error| file.io_error("open", error))?;
        let text = pinned(&held).display().to_string();
        self.names.push((text.clone(), path.display().to_string()));
        self.files.push(held);
        Ok(node_of(file, &text))
    }

    /// The node of a file whose name QEMU has to know, as it finds others beside it.
    fn named_node(&self, path: &Path, file: &RawFile) -> Result<Value, DiskError> {
        let text = path.to_str().ok_or_else(|| DiskError::Spec {
            disk: self.name.to_owned(),
            reason: "QEMU takes only paths in UTF-8".to_owned(),
        })?;
        Ok(node_of(file, text))
    }

    /// QEMU's node of an image, and the disk's size.
    fn image(
        &mut self,
        path: &Path,
        by: NamedBy,
        format: ImageFormat,
        layout: Option<&Layout>,
    ) -> Result<(Value, Option<u64>), DiskError> {
        let file = self.open(path, by)?;
        let slice = layout.and_then(|layout| layout.slice);
        if slice.is_some_and(|slice| slice.is_empty() || slice.end() > file.len()) {
            return Err(self.wrong(path, "the part of the file that it is ends beyond it"));
        }
        let range = slice.unwrap_or_else(|| ByteRange::between(0, file.len()));
        let bytes = Window { file: &file, range };
        let found = match format {
            ImageFormat::Raw => Ok(Found::default()),
            ImageFormat::Qcow2 => qcow2::inspect(&bytes),
            ImageFormat::Vhd => vhd::inspect(&bytes),
            ImageFormat::Vhdx => vhdx::inspect(&bytes),
            ImageFormat::Vmdk => vmdk::inspect(&bytes),
        };
        let found = found.map_err(|reason| self.wrong(path, &reason))?;
        if found.is_encrypted {
            let disk = self.name.to_owned();
            let reason = if self.seen.len() > 1 {
                format!("{} is encrypted", path.display())
            } else {
                "it is encrypted".to_owned()
            };
            return Err(DiskError::NeedsQemu { disk, reason });
        }
        let mut node = if found.extents.is_empty() {
            self.file_node(path, &file)?
        } else {
            self.named_node(path, &file)?
        };
        drop(file);
        if let Some(slice) = slice {
            let (offset, size) = (slice.offset(), slice.len());
            node = json!({ "driver": "raw", "offset": offset, "size": size, "file": node });
        }
        let mut node = match format {
            ImageFormat::Raw if slice.is_some() => node,
            ImageFormat::Raw => json!({ "driver": "raw", "file": node }),
            ImageFormat::Qcow2 => json!({ "driver": "qcow2", "file": node, "backing": null }),
            // Of some disks, a machine sees no more than what their geometry can address.
            ImageFormat::Vhd if layout.is_some() => json!({ "driver": "vpc", "file": node }),
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
            let (path, by) = match layout.and_then(|layout| layout.data_file.clone()) {
                Some(path) => (path, NamedBy::Definition),
                None => (self.resolve(path, reference)?, NamedBy::Image),
            };
            let file = self.open(&path, by)?;
            add("data-file", self.file_node(&path, &file)?);
        }
        for reference in &found.extents {
            self.extent(path, reference)?;
        }
        let can_have_backing = matches!(format, ImageFormat::Qcow2 | ImageFormat::Vmdk);
        match (layout.map(|layout| &layout.under), &found.backing) {
            (Some(Under::Nothing), _) if can_have_backing => {}
            (Some(Under::Image(layer)), _) if can_have_backing => {
                let by = NamedBy::Definition;
                add("backing", self.image(&layer.path, by, layer.format, Some(&layer.layout))?.0);
            }
            (_, None) => {}
            (_, Some(reference)) => {
                let below = self.resolve(path, reference)?;
                let format = self.backing_format(path, format, reference)?;
                let layout = layout.map(|_| Layout::default());
                add("backing", self.image(&below, NamedBy::Image, format, layout.as_ref())?.0);
            }
        }
        let size = found.size.filter(|_| layout.is_none() || format != ImageFormat::Vhd);
        Ok((node, size))
    }

    /// Looks at an extent of a VMDK. QEMU finds it by the name in the descriptor.
    fn extent(&mut self, image: &Path, reference: &Reference) -> Result<(), DiskError> {
        let path = self.resolve(image, reference)?;
        let file = self.open(&path, NamedBy::Image)?;
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
        DiskError::Unsafe { disk: self.name.to_owned(), reference: shown(reference) }
    }

    /// Where a reference leads, if it may be followed.
    fn resolve(&self, image: &Path, reference: &Reference) -> Result<PathBuf, DiskError> {
        let refuse = || self.refuse(reference);
        let name = match reference.name.strip_prefix("file:") {
            Some(path) if path.starts_with('/') => path,
            _ => reference.name.as_str(),
        };
        // A colon before the first slash would be a protocol of QEMU's.
        let first = name.split('/').next().unwrap_or_default();
        if first.contains(':') {
            let reason =
                format!("{} is under it, and only names of files are followed", shown(reference));
            return Err(DiskError::NeedsQemu { disk: self.name.to_owned(), reason });
        }
        let folder = image.parent().unwrap_or(Path::new("/"));
        let named = folder.join(name);
        let path = named.canonicalize().map_err(|error| {
            // A file elsewhere is not revealed to exist or not.
            let is_inside = self.allowed.iter().any(|folder| named.starts_with(folder))
                && !named.components().any(|part| part == Component::ParentDir);
            if is_inside && error.kind() == std::io::ErrorKind::NotFound {
                let disk = format!("{}, which {} needs,", named.display(), self.name);
                DiskError::NotFound { disk }
            } else {
                refuse()
            }
        })?;
        let is_allowed = self.allowed.iter().any(|folder| path.starts_with(folder));
        if is_allowed { Ok(path) } else { Err(refuse()) }
    }
}

fn node_of(file: &RawFile, name: &str) -> Value {
    let driver = if file.is_device() { "host_device" } else { "file" };
    json!({ "driver": driver, "filename": name })
}

/// A name out of an image, fit to be shown.
fn shown(reference: &Reference) -> String {
    reference.name.chars().filter(|c| !c.is_control()).take(1023).collect()
}
