//! The targets of a restore of disks, and unfinished files.
//!
//! A file that does not exist is written under its name with `.partial` appended, and gets its name
//! when it is complete and durable. A restore continues an existing `.partial` file if an earlier
//! run can have left it: it compares the content with the recovery point, so the result is right in
//! any case. It refuses another user's file, or a link: its owner would own the disk. It never
//! overwrites an existing file under the final name unless that is requested: either the file is
//! already right, or the restore is refused.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};
use strongroom_disk::{
    DiskError, DiskSpec, DiskTarget, Existing, ImageFormat, Links, TargetOptions, Within,
    open_target, pinned,
};
use strongroom_engine::{EngineError, Overwrite, RestoreDisk};
use strongroom_format::Manifest;

use super::{ciphertext::Container, place::local, template::TemplateDisk};
use crate::{MachineError, error::Result};

/// Where the disks of a point go.
pub(super) struct Wanted<'a> {
    /// The folder for all disks that are not named.
    pub(super) folder: Option<&'a Path>,
    /// Where single disks go.
    pub(super) named: &'a BTreeMap<String, DiskSpec>,
    /// The disks; all if empty.
    pub(super) disks: &'a [String],
    /// The format of files in the folder, and of targets whose name does not tell.
    pub(super) format: Option<ImageFormat>,
    /// Whether existing targets are overwritten where they differ.
    pub(super) in_place: bool,
    /// Folders that no link may lead out of; none: all may be written to.
    pub(super) within: Option<&'a Within>,
    /// Disks that are written as the encrypted images that they were.
    pub(super) containers: BTreeMap<String, Container>,
}

/// A file that is not complete yet.
pub(super) struct Unfinished {
    /// What it is called until then.
    now: PathBuf,
    /// What it is called when it is complete.
    name: PathBuf,
    /// Its folder, if these names are of that very folder.
    _folder: Option<File>,
    /// If it is an encrypted image: its length is set in the end.
    container: Option<Container>,
}

/// Where one disk goes.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    name: String,
    size: u64,
    spec: DiskSpec,
}

/// Opened targets of a restore.
pub(super) struct Targets {
    /// For the engine.
    pub(super) disks: Vec<RestoreDisk>,
    /// Files that get their names and lengths when all is done.
    pub(super) unfinished: Vec<Unfinished>,
    /// For a machine's description.
    pub(super) template: Vec<TemplateDisk>,
}

impl Wanted<'_> {
    /// Decides which disk of a point goes where.
    fn places(&self, point: &Manifest) -> Result<Vec<Place>> {
        let choice = |reason: String| MachineError::Choice { reason };
        for name in self.disks.iter().chain(self.named.keys()) {
            if !point.disks.iter().any(|disk| disk.name == *name) {
                let name = name.clone();
                return Err(EngineError::NoSuchDisk { point: point.id, name }.into());
            }
        }
        let mut places = Vec::new();
        for disk in &point.disks {
            let chosen = self.disks.is_empty() || self.disks.contains(&disk.name);
            let spec = match (self.named.get(&disk.name), self.folder) {
                (Some(spec), _) if chosen => spec.clone(),
                (None, Some(folder)) if chosen => {
                    let container = self.containers.get(&disk.name);
                    let kept = container.map(|container| container.format);
                    if let (Some(kept), Some(format)) = (kept, self.format)
                        && kept != format
                    {
                        return Err(choice(format!(
                            "disk {} was kept as ciphertext, which stays {kept}: leave out \
                             --format, or restore it apart (--disks)",
                            disk.name
                        )));
                    }
                    let format = kept.or(self.format).unwrap_or(ImageFormat::Raw);
                    let path = folder.join(format!("{}.{format}", disk.name));
                    DiskSpec::File { path, format: Some(format) }
                }
                (None, None) if chosen && !self.disks.is_empty() => {
                    let name = &disk.name;
                    return Err(choice(format!("--to does not say where disk {name} goes")));
                }
                _ => continue,
            };
            places.push(Place { name: disk.name.clone(), size: disk.size_bytes, spec });
        }
        if places.is_empty() {
            return Err(choice("--disks leaves no disk to restore".to_owned()));
        }
        Ok(places)
    }

    /// Opens the targets for the disks of a point.
    pub(super) fn open(&self, point: &Manifest) -> Result<Targets> {
        let places = self.places(point)?;
        if let Some(folder) = self.folder {
            let made = match self.within {
                None => fs::create_dir_all(folder),
                Some(within) => within.make_folder(folder).map(drop),
            };
            made.map_err(|source| no_folder(folder, source))?;
        }
        let mut targets =
            Targets { disks: Vec::new(), unfinished: Vec::new(), template: Vec::new() };
        for Place { name, size, spec } in places {
            let location = spec.to_string();
            let container = self.containers.get(&name).copied();
            targets.template.push(self.template(&name, &spec));
            let mut existing = if self.in_place { Existing::Keep } else { Existing::Refuse };
            let mut opened = spec.clone();
            let mut length = size;
            let mut links = Links::Followed;
            if let DiskSpec::File { path, format } = &spec {
                let real = path;
                let (path, folder) = self.pin(real)?;
                if folder.is_some() {
                    links = Links::Refused;
                }
                let (mut now, mut format) = (path.clone(), *format);
                if !path.try_exists().map_err(|source| local("find", real, source))? {
                    now = with_suffix(&path, ".partial");
                    format = Some(self.format_of(real, format));
                    existing = Existing::Ours;
                }
                if let Some(container) = container {
                    (format, length) = (Some(ImageFormat::Raw), container.length);
                }
                targets.unfinished.push(Unfinished {
                    now: now.clone(),
                    name: path,
                    _folder: folder,
                    container,
                });
                opened = DiskSpec::File { path: now, format };
            }
            let shown = Some(location.clone());
            let mut options =
                TargetOptions { format: self.format, existing, links, shown, ..Default::default() };
            let (target, overwrite) = match open_target(&opened, size, &options) {
                Ok(target) if target.is_blank() => (target, Overwrite::All),
                Ok(target) => (target, Overwrite::Differences),
                Err(DiskError::NotEmpty { disk }) if self.may_be_complete(&opened, length) => {
                    options.existing = Existing::Keep;
                    let target = open_target(&opened, size, &options)?;
                    if target.size() != size {
                        return Err(DiskError::NotEmpty { disk }.into());
                    }
                    (target, Overwrite::Nothing)
                }
                Err(error) => return Err(error.into()),
            };
            let target: Arc<dyn DiskTarget> = Arc::from(target);
            targets.disks.push(RestoreDisk { name, location, target, overwrite });
        }
        Ok(targets)
    }

    /// A path whose folder cannot be exchanged any more, and what holds it; the path itself where any may
    /// be written to, or where the operator has named this very file or device.
    fn pin(&self, path: &Path) -> Result<(PathBuf, Option<File>)> {
        let (Some(within), Some(folder), Some(name)) =
            (self.within, path.parent(), path.file_name())
        else {
            return Ok((path.to_owned(), None));
        };
        if within.is_named(path) {
            return Ok((path.to_owned(), None));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = within.open(folder, flags, Mode::empty());
        let opened = opened.map_err(|source| no_folder(folder, source))?;
        Ok((pinned(&opened).join(name), Some(opened)))
    }

    fn template(&self, name: &str, spec: &DiskSpec) -> TemplateDisk {
        let (path, format) = match spec {
            DiskSpec::File { path, format } => (Some(path), self.format_of(path, *format)),
            DiskSpec::Nbd(_) => (None, ImageFormat::Raw),
        };
        let container = self.containers.get(name);
        let format = container.map_or(format, |container| container.format).to_string();
        let (name, path) = (name.to_owned(), path.cloned());
        TemplateDisk { name, path, format, encrypted: container.is_some() }
    }

    /// The format of a file: as said with it, by its ending, as said for all.
    fn format_of(&self, path: &Path, said: Option<ImageFormat>) -> ImageFormat {
        let named = said.or_else(|| ImageFormat::from_extension(path));
        named.or(self.format).unwrap_or(ImageFormat::Raw)
    }

    /// Whether an existing file may be what an earlier run of the same command has restored
    /// completely: then it is compared. A raw file must have the right length, as opening it would
    /// set it.
    fn may_be_complete(&self, spec: &DiskSpec, length: u64) -> bool {
        let DiskSpec::File { path, format } = spec else { return false };
        let Ok(data) = path.metadata() else { return false };
        let right_size = match self.format_of(path, *format) {
            ImageFormat::Raw => data.len() == length,
            _ => true,
        };
        data.is_file() && right_size
    }
}

/// Gives complete files their lengths and names. All targets must be closed.
pub(super) fn finish(unfinished: &[Unfinished]) -> Result<()> {
    for Unfinished { now, name: path, container, .. } in unfinished {
        if let Some(container) = container {
            container.cut(now, now != path)?;
        }
        if now == path {
            continue;
        }
        if path.try_exists().map_err(|source| local("find", path, source))? {
            let appeared = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(local("name", path, appeared));
        }
        fs::rename(now, path).map_err(|source| local("name", path, source))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // The new name must outlive a power failure.
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| local("sync", folder, source))?;
    }
    Ok(())
}

/// Opens a folder in which something is written beside the disks.
pub(super) fn open_folder(folder: &Path, within: Option<&Within>) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = match within {
        Some(within) => within.open(folder, flags, Mode::empty()),
        None => File::open(folder),
    };
    opened.map_err(|source| no_folder(folder, source))
}

/// Why a folder cannot be used. A folder with a link that leads out of it has its own variant.
fn no_folder(folder: &Path, source: io::Error) -> MachineError {
    if source.kind() == io::ErrorKind::CrossesDevices {
        return DiskError::Outside { disk: folder.display().to_string() }.into();
    }
    local("make", folder, source)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
