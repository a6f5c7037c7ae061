//! From what a user wrote to a disk that can be read or written.
//!
//! This module owns the choice: which format a file has, and which part of the crate opens it. It must not know what
//! the disk is for.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use strongroom_base::ByteRange;

use crate::{
    DiskError, DiskSource, DiskSpec, DiskTarget, Existing, ExtentKind, ImageFormat, Layout, Links,
    NbdConnections, NbdUrl, Within,
    image::{ImageSource, look, open_qcow2},
    nbd::{NbdDisk, NbdOptions},
    num::to_usize,
    raw::{Access, Part, RawFile, RawSource, RawTarget, refuse_if_in_use},
    within::open_error,
};

/// How a source is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Folders in which an image may find its backing, data and extent files. Any other such file
    /// is refused.
    pub allow_backing: Vec<PathBuf>,
    /// Folders that paths must not leave, by no link; none: anything may be opened.
    pub within: Option<Within>,
    /// What the definition of a machine says of the disk; otherwise only its headers say how it is put
    /// together.
    pub layout: Option<Layout>,
    /// Open a file or device even if somebody else may write to it.
    pub even_if_in_use: bool,
    /// A dirty bitmap that a qcow2 image holds: what it marks is what changed
    /// ([`DiskSource::changed`]). No machine may have the image open: one that runs keeps its
    /// bitmaps to itself. For an export it is as if the URL named it.
    pub bitmap: Option<String>,
    /// How long a server may send nothing while it owes an answer.
    pub timeout: Duration,
    /// The connections that several exports of one server share.
    pub connections: Option<NbdConnections>,
    /// For how long a server may refuse connections: one that has just been started has its socket
    /// some moments before it listens.
    pub patience: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            allow_backing: Vec::new(),
            within: None,
            layout: None,
            even_if_in_use: false,
            bitmap: None,
            timeout: Duration::from_secs(30),
            connections: None,
            patience: Duration::ZERO,
        }
    }
}

/// How a target is opened.
#[derive(Clone, Debug, Default)]
pub struct TargetOptions {
    /// The format of a file whose spec does not say it; otherwise its extension decides, and
    /// otherwise it is raw.
    pub format: Option<ImageFormat>,
    /// What is done with a target that holds something.
    pub existing: Existing,
    /// Whether the last name of its path may be a symbolic link.
    pub links: Links,
    /// What it is called in errors; its path if not given.
    pub shown: Option<String>,
    /// As for a source: folders, if an existing image is kept, and the timeout.
    pub open: OpenOptions,
}

/// Opens a disk to read.
///
/// A file's format is what its spec says, else what its extension says, else raw; a block device
/// is raw. A file without a telling extension that begins (or, for a fixed VHD, ends) as an image
/// does is refused until its format is said: read as an image, any program that could write to a raw disk
/// could make us read other files by writing a header to it; read as raw, a renamed image would be
/// backed up as a disk that no machine can start from. Nor is a file taken for a disk unasked that
/// is a text, an archive or the like.
pub fn open_source(
    spec: &DiskSpec,
    options: &OpenOptions,
) -> Result<Box<dyn DiskSource>, DiskError> {
    let name = spec.to_string();
    match spec {
        DiskSpec::File { path, format } => {
            let file = open_file(path, &name, options)?;
            let format = match format {
                Some(format) => *format,
                None => guess_format(&file, path, &name)?,
            };
            if let Some(bitmap) = options.bitmap.clone().filter(|_| format != ImageFormat::Qcow2) {
                let reason = "only qcow2 images hold bitmaps".to_owned();
                return Err(DiskError::Bitmap { disk: name, bitmap, reason });
            }
            match format {
                ImageFormat::Raw => {
                    if !options.even_if_in_use {
                        refuse_if_in_use(path, &file, &name)?;
                    }
                    let whole = RawSource::of(file);
                    match options.layout.as_ref().and_then(|layout| layout.slice) {
                        Some(slice) => Ok(Box::new(Part::new(whole, slice, &name)?)),
                        None => Ok(Box::new(whole)),
                    }
                }
                format => {
                    let file = file.file();
                    Ok(Box::new(ImageSource::open(file, path, &name, format, options)?))
                }
            }
        }
        DiskSpec::Nbd(url) => {
            let dirty_bitmap = url.dirty_bitmap.clone().or_else(|| options.bitmap.clone());
            let url = NbdUrl { dirty_bitmap, ..url.clone() };
            let disk = NbdDisk::open(&url, nbd_options(name, options, false))?;
            Ok(Box::new(disk))
        }
    }
}

/// Looks at a file or device, and at all that it refers to, as [`open_source`] does before it opens
/// it: whatever that finds to be wrong is found. Of an export nothing is looked at.
pub fn inspect_source(spec: &DiskSpec, options: &OpenOptions) -> Result<(), DiskError> {
    let DiskSpec::File { path, format } = spec else { return Ok(()) };
    let name = spec.to_string();
    let file = open_file(path, &name, options)?;
    let format = match format {
        Some(format) => *format,
        None => guess_format(&file, path, &name)?,
    };
    match format {
        ImageFormat::Raw => Ok(()),
        format => look(file.file(), path, &name, format, options),
    }
}

/// Opens a file to read, below the folders that are allowed.
fn open_file(path: &Path, name: &str, options: &OpenOptions) -> Result<RawFile, DiskError> {
    match &options.within {
        None => RawFile::open(path, name, Access::Read),
        Some(within) => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = within.open(path, flags, Mode::empty());
            RawFile::of(file.map_err(|error| open_error(name, error))?, name)
        }
    }
}

fn nbd_options(name: String, options: &OpenOptions, write: bool) -> NbdOptions {
    let (format, timeout, patience) = ("nbd".to_owned(), options.timeout, options.patience);
    let connections = options.connections.clone();
    NbdOptions { name, format, write, blank: false, timeout, patience, connections }
}

/// Opens or makes a disk of `size` bytes to write.
///
/// A file that does not exist is made. What exists and holds something is refused or kept as
/// `options` say; a block device or an export "holds something" if its first or last MiB or any of
/// 64 samples between is not zero. A kept file gets the size asked for.
pub fn open_target(
    spec: &DiskSpec,
    size: u64,
    options: &TargetOptions,
) -> Result<Box<dyn DiskTarget>, DiskError> {
    let name = options.shown.clone().unwrap_or_else(|| spec.to_string());
    match spec {
        DiskSpec::File { path, format } => {
            let from_extension = || ImageFormat::from_extension(path);
            let format = format.or(options.format).or_else(from_extension);
            match format.unwrap_or(ImageFormat::Raw) {
                ImageFormat::Raw => {
                    let target =
                        RawTarget::open(path, &name, size, options.existing, options.links)?;
                    if target.is_device() && options.existing == Existing::Refuse {
                        refuse_content(&target, &name)?;
                    }
                    Ok(Box::new(target))
                }
                ImageFormat::Qcow2 => open_qcow2(path, &name, size, options),
                format => Err(DiskError::Spec {
                    disk: name,
                    reason: format!("a target is raw or qcow2, not {format}"),
                }),
            }
        }
        DiskSpec::Nbd(url) => {
            let disk = NbdDisk::open(url, nbd_options(name.clone(), &options.open, true))?;
            if disk.len() < size {
                return Err(DiskError::TooSmall { disk: name, have: disk.len(), need: size });
            }
            if options.existing == Existing::Refuse {
                refuse_content(&disk, &name)?;
            }
            Ok(Box::new(disk))
        }
    }
}

/// The format of a file whose spec does not say it.
fn guess_format(file: &RawFile, path: &Path, name: &str) -> Result<ImageFormat, DiskError> {
    if file.is_device() {
        return Ok(ImageFormat::Raw);
    }
    if let Some(format) = ImageFormat::from_extension(path) {
        return Ok(format);
    }
    let (mut head, mut footer) = (vec![0; 4096.min(to_usize(file.len()))], [0; 64]);
    file.read(0, &mut head)?;
    file.read(file.len().saturating_sub(512), &mut footer)?;
    match looks_like(&head, &footer) {
        None => match why_no_disk(path, file.len(), &head) {
            None => Ok(ImageFormat::Raw),
            Some(reason) => Err(DiskError::Doubtful { disk: name.to_owned(), reason }),
        },
        Some(format) => Err(DiskError::Spec {
            disk: name.to_owned(),
            reason: format!(
                "its content looks like {format}, but its name does not: write {format}:PATH, or raw:PATH if the file is the disk itself"
            ),
        }),
    }
}

/// The image format that a file begins with, or that its last sector, `footer`, tells.
fn looks_like(head: &[u8], footer: &[u8]) -> Option<ImageFormat> {
    let magic: [(&[u8], ImageFormat); 6] = [
        (b"QFI\xfb", ImageFormat::Qcow2),
        (b"conectix", ImageFormat::Vhd),
        (b"vhdxfile", ImageFormat::Vhdx),
        (b"KDMV", ImageFormat::Vmdk),
        (b"COWD", ImageFormat::Vmdk),
        (b"# Disk DescriptorFile", ImageFormat::Vmdk),
    ];
    let is_fixed_vhd = footer.starts_with(b"conectix").then_some(ImageFormat::Vhd);
    let found = magic.iter().find(|(magic, _)| head.starts_with(magic));
    found.map(|(_, format)| *format).or(is_fixed_vhd)
}

/// Why a file that nobody has called a disk is hardly one.
fn why_no_disk(path: &Path, len: u64, head: &[u8]) -> Option<String> {
    const OTHERS: [(usize, &[u8], &str); 11] = [
        (0, b"\x1f\x8b", "a gzip file"),
        (0, b"\xfd7zXZ\0", "an xz file"),
        (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
        (0, b"BZh", "a bzip2 file"),
        (0, b"PK\x03\x04", "a zip file"),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7z file"),
        (0, b"\x7fELF", "a program"),
        (0, b"%PDF-", "a PDF file"),
        (0, b"SQLite format 3\0", "a database"),
        (0, b"LibvirtQemudSave", "the saved memory of a machine"),
        (257, b"ustar", "a tar file"),
    ];
    let begins =
        |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, _, kind)) = OTHERS.iter().find(|(at, magic, _)| begins(*at, magic)) {
        return Some(format!("it begins as {kind} does"));
    }
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    if head.contains(&b'\n') && head.iter().all(is_text) {
        return Some("it begins as a text does".to_owned());
    }
    let is_called_image = path.extension().is_some_and(|extension| extension == "img");
    (!is_called_image && !len.is_multiple_of(strongroom_base::SECTOR_SIZE))
        .then(|| format!("it has {len} bytes, which are no whole sectors of 512"))
}

/// Refuses a target that seems to hold something.
fn refuse_content(target: &dyn DiskTarget, name: &str) -> Result<(), DiskError> {
    const EDGE: u64 = 1 << 20;
    const SAMPLES: u64 = 64;
    const SAMPLE: u64 = 4096;
    let size = target.size();
    let step = crate::num::round_down(size / SAMPLES, SAMPLE);
    let samples = (1..SAMPLES).map(|i| (i.saturating_mul(step), SAMPLE));
    let edges = [(0, EDGE), (size.saturating_sub(EDGE), EDGE)];
    for (offset, len) in edges.into_iter().chain(samples) {
        let range = ByteRange::between(offset, offset.saturating_add(len).min(size));
        if has_content(target, range)? {
            return Err(DiskError::NotEmpty { disk: name.to_owned() });
        }
    }
    Ok(())
}

fn has_content(target: &dyn DiskTarget, range: ByteRange) -> Result<bool, DiskError> {
    let known_zero = target
        .extents(range)?
        .first()
        .is_some_and(|extent| extent.kind == ExtentKind::Zero && extent.range.end() >= range.end());
    if known_zero {
        return Ok(false);
    }
    let mut buf = strongroom_base::AlignedBuf::zeroed(to_usize(range.len()));
    target.read_at(range.offset(), &mut buf)?;
    Ok(buf.iter().any(|byte| *byte != 0))
}
