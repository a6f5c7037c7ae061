//! `restore files ls`: what is on the disks of a recovery point, and in its folders.

use std::{ffi::OsString, fmt::Write as _};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use strongroom_api::{FileEntry, FileListing, PointVolume, PointVolumes};
use strongroom_export::{PointFiles, is_unread};
use strongroom_files::{Attributes, Entry, Files, FilesError, Kind, Located, Time, shown};

use crate::{
    columns::{Cell, Columns},
    context::Context,
    error::{FaceError, Failure},
    human::{self, printable},
    out::Show,
};

use super::{WhereArgs, path_of, path_parser};

/// List the file systems of a recovery point, or the files in one of their folders
///
/// Without --path, --disk and --partition it lists the disks and partitions: which file system is on
/// them, and whether its files can be read. With --path it lists a folder, or shows one file.
///
/// Upper and lower case differ in paths, except on FAT, exFAT and NTFS. Links in a path are followed inside of the file system.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files ls --item web01 --recovery-point latest
  strongroom restore files ls --item web01 --recovery-point latest --path /etc
  strongroom restore files ls --item web01 --recovery-point latest --disk vda --partition 2 \\
      --path /home --output json
  strongroom restore files ls --item web01 --recovery-point latest --luks-key-file ~/web01.luks
  strongroom restore files ls --item web01 --recovery-point latest --reader machine")]
pub(crate) struct LsArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The folder or file
    #[arg(long, value_name = "PATH", value_parser = path_parser())]
    path: Option<OsString>,

    /// Also list extended attributes, access control lists among them
    #[arg(long)]
    xattrs: bool,
}

/// The volumes, as JSON.
#[derive(Serialize)]
struct VolumeList {
    volumes: Vec<VolumeView>,
}

#[derive(Serialize)]
struct VolumeView {
    disk: Option<String>,
    partition: Option<u32>,
    volume: Option<String>,
    scheme: Option<String>,
    name: Option<String>,
    offset_bytes: Option<u64>,
    size_bytes: u64,
    file_system: Option<String>,
    label: Option<String>,
    uuid: Option<String>,
    readable: bool,
    reason: Option<String>,
    notes: Vec<String>,
}

/// A folder, as JSON.
#[derive(Serialize)]
struct Listing {
    disk: Option<String>,
    partition: Option<u32>,
    volume: Option<String>,
    file_system: String,
    path: String,
    notes: Vec<String>,
    entries: Vec<EntryView>,
}

#[derive(Serialize)]
struct EntryView {
    name: String,
    /// The bytes of a name that is no UTF-8.
    name_hex: Option<String>,
    kind: Option<&'static str>,
    size: Option<u64>,
    modified: Option<Timestamp>,
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    links: Option<u32>,
    device: Option<String>,
    target: Option<String>,
    target_hex: Option<String>,
    xattrs: Option<Vec<XattrView>>,
    /// Why nothing else is known.
    problem: Option<String>,
}

#[derive(Serialize)]
struct XattrView {
    name: String,
    value_hex: String,
}

/// A moment, as the libraries know it; none if they do not.
pub(super) fn moment(time: Time) -> Option<Timestamp> {
    Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).ok()?).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// The bytes of what is no UTF-8.
pub(super) fn hex_of_bytes(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| hex(bytes))
}

impl LsArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let path = self.path.as_ref().map(path_of);
        let path = match (path, self.place.is_named()) {
            (None, false) => None,
            (Some(path), _) => Some(path.to_vec()),
            (None, true) => Some(b"/".to_vec()),
        };
        if let Some(served) = self.place.served(context)? {
            return match path {
                None => list_served_volumes(context, served.volumes()?),
                Some(path) => {
                    let listing = Listing::from(served.list(path, self.xattrs)?);
                    for note in &listing.notes {
                        context.out.say(&format!("Note: {note}"));
                    }
                    context.out.result(&listing)
                }
            };
        }
        let Some(path) = path else {
            let mut opened = self.place.open(context)?;
            let listed = list_volumes(context, &mut opened);
            self.place.name_machine(context, &opened);
            return listed;
        };
        let (mut opened, volume) = self.place.open_volume(context)?;
        let disk = volume.disk.map(|_| opened.disk(&volume).to_owned());
        let mut files = Files::open(opened.reader(), &volume)?;
        let found = files.locate(&path)?;
        let entries = if found.attributes.kind == Kind::Folder {
            files.list(&found)?
        } else {
            vec![entry(&found)]
        };
        let is_folder = found.attributes.kind == Kind::Folder;
        let mut views = Vec::with_capacity(entries.len());
        for entry in entries {
            let path =
                if is_folder { joined(&found.path, &entry.name) } else { found.path.clone() };
            views.push(self.view(&mut files, &path, entry)?);
        }
        for note in files.notes() {
            context.out.say(&format!("Note: {note}"));
        }
        let notes = files.notes().to_vec();
        context.out.result(&Listing {
            disk,
            partition: volume.partition,
            volume: volume.logical,
            file_system: volume.file_system.unwrap_or_default(),
            path: shown(&found.path),
            notes,
            entries: views,
        })
    }

    fn view(
        &self,
        files: &mut Files<'_>,
        path: &[u8],
        entry: Entry,
    ) -> Result<EntryView, FilesError> {
        let Entry { name, node, attributes } = entry;
        let mut view = EntryView::named(&name);
        let attributes = match attributes {
            Ok(attributes) => attributes,
            Err(fault) => {
                view.problem = Some(fault.to_string());
                return Ok(view);
            }
        };
        view.fill(&attributes);
        let mut problem = None;
        if attributes.kind == Kind::Link {
            match files.reader().target(path, node) {
                Ok(target) => {
                    view.target = Some(shown(&target));
                    view.target_hex = hex_of_bytes(&target);
                }
                Err(error) => problem = Some(error),
            }
        }
        if self.xattrs {
            match files.reader().xattrs(path, node) {
                Ok(xattrs) => {
                    let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| XattrView {
                        name: shown(name),
                        value_hex: hex(value),
                    };
                    view.xattrs = Some(xattrs.iter().map(xattr).collect());
                }
                Err(error) => problem = Some(error),
            }
        }
        match problem {
            // The process is gone: nothing that follows can be read.
            Some(error @ (FilesError::Reader { .. } | FilesError::Disk { .. })) => Err(error),
            problem => {
                view.problem = problem.map(|error| error.with_causes());
                Ok(view)
            }
        }
    }
}

/// A file as the only entry of a listing.
fn entry(found: &Located) -> Entry {
    Entry {
        name: found.name().unwrap_or(b"/").to_vec(),
        node: found.node,
        attributes: Ok(found.attributes.clone()),
    }
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let folder = folder.strip_suffix(b"/").unwrap_or(folder);
    [folder, b"/", name].concat()
}

impl EntryView {
    fn named(name: &[u8]) -> Self {
        Self {
            name: shown(name),
            name_hex: hex_of_bytes(name),
            kind: None,
            size: None,
            modified: None,
            mode: None,
            uid: None,
            gid: None,
            links: None,
            device: None,
            target: None,
            target_hex: None,
            xattrs: None,
            problem: None,
        }
    }

    fn fill(&mut self, of: &Attributes) {
        self.kind = Some(of.kind.name());
        self.size = Some(of.size);
        self.modified = of.modified.and_then(moment);
        self.mode = of.mode.map(|mode| format!("{mode:04o}"));
        self.uid = of.uid;
        self.gid = of.gid;
        self.links = of.links;
        self.device = of.device.map(|(major, minor)| format!("{major}:{minor}"));
    }
}

/// Lists the volumes. If a part of the disks could not be read, that is said after the list.
fn list_volumes(context: &Context, opened: &mut PointFiles) -> Result<(), Failure> {
    context.out.result(&volumes(opened))?;
    let Some(error) = opened.reader().missed() else { return Ok(()) };
    if opened.volumes().iter().all(|volume| volume.refusal.is_some()) {
        return Err(error.into());
    }
    let unread = opened.volumes().iter().filter(|volume| is_unread(volume)).count();
    let unread = u64::try_from(unread).unwrap_or(u64::MAX).max(1);
    Err(FaceError::FilesIncomplete(human::count(unread, "problem")).into())
}

/// The same, of a server's answer.
fn list_served_volumes(context: &Context, found: PointVolumes) -> Result<(), Failure> {
    let PointVolumes { volumes, unread } = found;
    let none_is_readable = volumes.iter().all(|volume| !volume.readable);
    let count = volumes.iter().filter(|volume| volume.unread).count();
    let volumes = volumes.into_iter().map(VolumeView::from).collect();
    context.out.result(&VolumeList { volumes })?;
    let Some(error) = unread else { return Ok(()) };
    if none_is_readable {
        return Err(FaceError::Answered(Box::new(error)).into());
    }
    let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    Err(FaceError::FilesIncomplete(human::count(count, "problem")).into())
}

impl From<PointVolume> for VolumeView {
    fn from(of: PointVolume) -> Self {
        let PointVolume { disk, partition, volume, scheme, name, offset_bytes, .. } = of;
        let PointVolume { size_bytes, file_system, label, uuid, readable, reason, .. } = of;
        Self {
            disk,
            partition,
            volume,
            scheme,
            name,
            offset_bytes,
            size_bytes,
            file_system,
            label,
            uuid,
            readable,
            reason,
            notes: of.notes,
        }
    }
}

impl From<FileListing> for Listing {
    fn from(of: FileListing) -> Self {
        Self {
            disk: of.of.disk,
            partition: of.of.partition,
            volume: of.of.volume,
            file_system: of.file_system,
            path: of.path,
            notes: of.notes,
            entries: of.entries.into_iter().map(EntryView::from).collect(),
        }
    }
}

impl From<FileEntry> for EntryView {
    fn from(of: FileEntry) -> Self {
        let xattr =
            |it: strongroom_api::FileXattr| XattrView { name: it.name, value_hex: it.value_hex };
        Self {
            name: of.name,
            name_hex: of.name_hex,
            kind: of.kind.map(strongroom_api::FileKind::name),
            size: of.size_bytes,
            modified: of.modified,
            mode: of.mode,
            uid: of.uid,
            gid: of.gid,
            links: of.links,
            device: of.device,
            target: of.target,
            target_hex: of.target_hex,
            xattrs: of.xattrs.map(|all| all.into_iter().map(xattr).collect()),
            problem: of.problem,
        }
    }
}

fn volumes(opened: &PointFiles) -> VolumeList {
    let view = |volume: &strongroom_files::Volume| VolumeView {
        disk: volume.disk.map(|_| opened.disk(volume).to_owned()),
        partition: volume.partition,
        volume: volume.logical.clone(),
        scheme: volume.scheme.clone(),
        name: volume.name.clone(),
        offset_bytes: volume.offset,
        size_bytes: volume.size,
        file_system: volume.file_system.clone(),
        label: volume.label.clone(),
        uuid: volume.uuid.clone(),
        readable: volume.refusal.is_none(),
        reason: volume.refusal.as_ref().map(ToString::to_string),
        notes: volume.notes.clone(),
    };
    VolumeList { volumes: opened.volumes().iter().map(view).collect() }
}

fn text(text: Option<&str>) -> Cell {
    text.map_or(Cell::None, |text| Cell::Text(printable(text)))
}

impl Show for VolumeList {
    fn show(&self) -> String {
        self.columns().map(|columns| columns.to_text()).unwrap_or_default()
    }

    fn columns(&self) -> Option<Columns> {
        let rows = self.volumes.iter().map(|volume| {
            let readable = match &volume.reason {
                None => "yes".to_owned(),
                Some(reason) => format!("no: {reason}"),
            };
            let name = volume.volume.as_ref().or(volume.disk.as_ref());
            [
                text(name.map(String::as_str)),
                volume.partition.map_or(Cell::None, |number| Cell::Number(u64::from(number))),
                Cell::Bytes(volume.size_bytes),
                text(volume.file_system.as_deref()),
                text(volume.label.as_deref()),
                text(volume.uuid.as_deref()),
                Cell::Text(readable),
            ]
        });
        let head =
            ["DISK OR VOLUME", "PARTITION", "SIZE", "FILE SYSTEM", "LABEL", "UUID", "READABLE"];
        Some(Columns::new(head, rows))
    }
}

impl Show for Listing {
    /// People read the target of a link, and why something cannot be read, behind its name.
    fn show(&self) -> String {
        let rows = self.entries.iter().map(|entry| {
            let name = match (&entry.target, &entry.problem) {
                (_, Some(problem)) => format!("{} (cannot be read: {problem})", entry.name),
                (Some(target), None) => format!("{} -> {target}", entry.name),
                (None, None) => entry.name.clone(),
            };
            let [kind, mode, uid, gid, size, modified] = entry.cells();
            [kind, mode, uid, gid, size, modified, Cell::Text(printable(&name))]
        });
        let head = ["KIND", "MODE", "UID", "GID", "SIZE", "MODIFIED", "NAME"];
        Columns::new(head, rows).to_text()
    }

    fn columns(&self) -> Option<Columns> {
        let rows = self.entries.iter().map(|entry| {
            let [kind, mode, uid, gid, size, modified] = entry.cells();
            let name = Cell::Text(printable(&entry.name));
            let (target, problem) = (entry.target.as_deref(), entry.problem.as_deref());
            [kind, mode, uid, gid, size, modified, name, text(target), text(problem)]
        });
        let head = ["KIND", "MODE", "UID", "GID", "SIZE", "MODIFIED", "NAME", "TARGET", "PROBLEM"];
        Some(Columns::new(head, rows))
    }
}

impl EntryView {
    /// What a table has of it before its name.
    fn cells(&self) -> [Cell; 6] {
        let number = |number: Option<u32>| {
            number.map_or(Cell::None, |number| Cell::Number(u64::from(number)))
        };
        [
            text(self.kind),
            text(self.mode.as_deref()),
            number(self.uid),
            number(self.gid),
            self.size.map_or(Cell::None, Cell::Bytes),
            self.modified.map_or(Cell::None, Cell::Second),
        ]
    }
}
