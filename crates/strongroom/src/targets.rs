//! Where a restore writes: which disk goes where, and files that are not complete yet.
//!
//! A file that does not exist is written under its name with `.partial` appended, and gets its
//! name when it is complete and durable. A `.partial` file that is found is gone on with: what it
//! holds is compared with the recovery point, whatever wrote it, so the result is right in any
//! case. A file that has its name already is never written unasked: it is either what is wanted, or
//! the restore is refused.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_disk::{
    DiskError, DiskSpec, DiskTarget, Existing, ImageFormat, TargetOptions, open_target,
};
use strongroom_engine::{EngineError, Overwrite, RestoreDisk};
use strongroom_format::Manifest;
use strongroom_machine::restore::{Container, TemplateDisk};

use crate::{
    error::{FaceError, Failure},
    values::RestoreTo,
};

/// What the user said about targets.
pub(crate) struct Wanted {
    /// `--to`.
    pub(crate) to: Vec<RestoreTo>,
    /// `--disks`; empty for all.
    pub(crate) disks: Vec<String>,
    /// `--format`.
    pub(crate) format: Option<ImageFormat>,
    /// `--in-place`.
    pub(crate) in_place: bool,
    /// Disks that are written as the encrypted images that they were.
    pub(crate) containers: BTreeMap<String, Container>,
}

/// A file that is not complete yet.
pub(crate) struct Unfinished {
    /// What it is called until then.
    now: PathBuf,
    /// What it is called when it is complete.
    name: PathBuf,
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
pub(crate) struct Targets {
    /// For the engine.
    pub(crate) disks: Vec<RestoreDisk>,
    /// Files that get their names and lengths when all is done.
    pub(crate) unfinished: Vec<Unfinished>,
    /// For a machine's description.
    pub(crate) template: Vec<TemplateDisk>,
}

impl Wanted {
    /// The folder for all disks, if there is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.to.iter().find_map(|to| match to {
            RestoreTo::Folder(dir) => Some(dir.as_path()),
            RestoreTo::Disk(_) => None,
        })
    }

    /// Decides which disk of a point goes where.
    fn places(&self, point: &Manifest) -> Result<Vec<Place>, Failure> {
        let mut folder = None;
        let mut named = BTreeMap::new();
        for to in &self.to {
            match to {
                RestoreTo::Folder(dir) if folder.is_none() => folder = Some(dir),
                RestoreTo::Folder(dir) => {
                    let dir = dir.display();
                    return Err(Failure::usage(format!("--to names a second folder: {dir}")));
                }
                RestoreTo::Disk(disk) => {
                    if named.insert(disk.name.as_str(), &disk.disk).is_some() {
                        let name = &disk.name;
                        return Err(Failure::usage(format!("--to names disk {name} twice")));
                    }
                }
            }
        }
        let asked = self.disks.iter().map(String::as_str).chain(named.keys().copied());
        for name in asked {
            if !point.disks.iter().any(|disk| disk.name == name) {
                let name = name.to_owned();
                return Err(EngineError::NoSuchDisk { point: point.id, name }.into());
            }
        }
        let mut places = Vec::new();
        for disk in &point.disks {
            let chosen = self.disks.is_empty() || self.disks.contains(&disk.name);
            let spec = match (named.get(disk.name.as_str()), folder) {
                (Some(spec), _) if chosen => (*spec).clone(),
                (None, Some(folder)) if chosen => {
                    let container = self.containers.get(&disk.name);
                    let kept = container.map(|container| container.format);
                    if let (Some(kept), Some(format)) = (kept, self.format)
                        && kept != format
                    {
                        return Err(Failure::usage(format!(
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
                    return Err(Failure::usage(format!(
                        "--to does not say where disk {name} goes"
                    )));
                }
                _ => continue,
            };
            places.push(Place { name: disk.name.clone(), size: disk.size_bytes, spec });
        }
        if places.is_empty() {
            return Err(Failure::usage("--disks leaves no disk to restore"));
        }
        Ok(places)
    }

    /// Opens the targets for the disks of a point.
    pub(crate) fn open(&self, point: &Manifest) -> Result<Targets, Failure> {
        let places = self.places(point)?;
        let folders = self.to.iter().filter_map(|to| match to {
            RestoreTo::Folder(dir) => Some(dir),
            RestoreTo::Disk(_) => None,
        });
        for dir in folders {
            fs::create_dir_all(dir).map_err(|source| local(dir, "make", source))?;
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
            if let DiskSpec::File { path, format } = &spec {
                let (mut now, mut format) = (path.clone(), *format);
                if !path.try_exists().map_err(|source| local(path, "find", source))? {
                    now = with_suffix(path, ".partial");
                    format = Some(self.format_of(path, format));
                    existing = Existing::Keep;
                }
                if let Some(container) = container {
                    (format, length) = (Some(ImageFormat::Raw), container.length);
                }
                targets.unfinished.push(Unfinished {
                    now: now.clone(),
                    name: path.clone(),
                    container,
                });
                opened = DiskSpec::File { path: now, format };
            }
            let mut options = TargetOptions { format: self.format, existing, ..Default::default() };
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
        let told = said.or_else(|| ImageFormat::from_extension(path));
        told.or(self.format).unwrap_or(ImageFormat::Raw)
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
pub(crate) fn finish(unfinished: &[Unfinished]) -> Result<(), Failure> {
    for Unfinished { now, name: path, container } in unfinished {
        if let Some(container) = container {
            container.cut(now)?;
        }
        if now == path {
            continue;
        }
        if path.try_exists().map_err(|source| local(path, "find", source))? {
            let appeared = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(local(path, "name", appeared).into());
        }
        fs::rename(now, path).map_err(|source| local(path, "name", source))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // The new name must outlive a power failure.
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| local(folder, "sync", source))?;
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn local(path: &Path, action: &'static str, source: io::Error) -> FaceError {
    FaceError::Local { path: path.to_owned(), action, source }
}
