//! Files of recovery points, read by a process that is locked in.
//!
//! Each question and each download has a process of its own, which ends with it. What the process says is checked by
//! `strongroom_files`; names and paths are bytes that strangers have chosen, and are only shown here.

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use strongroom_api::{
    ArchiveFormat, ErrorBody, FileEntry, FileKind, FileLine, FileListing, FileProblem, FileReport,
    FileXattr, OfVolume, PointVolume, PointVolumes,
};
use strongroom_base::Cancel;
use strongroom_export::{Listed, PointFiles as Opened, is_unread};
use strongroom_files::{
    Attributes, Delivered, Entry, Files, FilesError, Kind, Limits, Located, ReaderCommand, Time,
    Volume, archive, content, shown, zip,
};
use strongroom_format::Manifest;
use strongroom_orders::{
    ByteAsk, FileAsk, FileHead, FileSink, FileStream, FilesOf, Leash, ListAsk, Part, PointFiles,
    Result, SentFiles,
};
use strongroom_vault::Vault;

use crate::{Vaults, error::body};

/// Most problems of a report; all are counted.
const PROBLEMS_MAX: usize = 1000;
/// What a process may use. A listing or a download takes less processor time than this, or it is made to take time.
const LIMITS: Limits = Limits {
    memory: 1 << 30,
    processor: Duration::from_hours(1),
    patience: Duration::from_mins(1),
};

/// Reads files of points in the vaults that this process reaches.
#[derive(Debug)]
pub struct LocalPointFiles {
    vaults: Arc<Vaults>,
    command: ReaderCommand,
}

impl LocalPointFiles {
    /// One that shares open vaults with others, and starts processes so.
    pub fn new(vaults: Arc<Vaults>, command: ReaderCommand) -> Self {
        Self { vaults, command }
    }

    /// Opens a point, or one disk of it.
    fn open(&self, of: &FilesOf, disk: Option<&str>, leash: &Leash) -> Result<Opened> {
        let vault = self.vaults.open(&of.vault).map_err(body)?.vault;
        let point = vault.point(&of.item, of.point).map_err(body)?;
        self.start((&vault, &point), disk, leash)
    }

    fn start(
        &self,
        (vault, point): (&Arc<Vault>, &Manifest),
        disk: Option<&str>,
        leash: &Leash,
    ) -> Result<Opened> {
        if leash.cancel().is_cancelled() {
            return Err(body(FilesError::Cancelled));
        }
        let (reader, disks) =
            Opened::start(vault, point, disk, &self.command, LIMITS).map_err(body)?;
        // A socket that cannot be cloned leaves the process its patience.
        if let Ok(stopper) = reader.stopper() {
            leash.on_pull(move || stopper.stop());
        }
        Opened::survey(reader, disks).map_err(body)
    }

    /// Opens a volume, and does something with a file of it.
    fn with<T>(
        &self,
        of: &FilesOf,
        file: &FileAsk,
        leash: &Leash,
        work: impl FnOnce(&mut Files<'_>, &Place) -> std::result::Result<T, FilesError>,
    ) -> Result<T> {
        let mut opened = self.open(of, file.of.disk.as_deref(), leash)?;
        let done = (|| {
            let volume = opened.choose(file.of.partition, file.of.volume.as_deref())?;
            let place = Place::of(&opened, &volume);
            let mut files = Files::open(opened.reader(), &volume)?;
            work(&mut files, &place)
        })();
        ended(done, leash)
    }

    /// Sends a line for each file below a path.
    fn tree(
        &self,
        of: &FilesOf,
        file: &FileAsk,
        to: &mut dyn FileSink,
        leash: &Leash,
    ) -> Result<SentFiles> {
        let vault = self.vaults.open(&of.vault).map_err(body)?.vault;
        let point = vault.point(&of.item, of.point).map_err(body)?;
        let mut opened = self.start((&vault, &point), file.of.disk.as_deref(), leash)?;
        let done = (|| {
            let volume = opened.choose(file.of.partition, file.of.volume.as_deref())?;
            let place = Place::of(&opened, &volume);
            let mut lines =
                Lines { to, done: Delivered::default(), batch: Vec::new(), begun: false };
            let cancel = leash.cancel();
            let notes =
                opened.tree((&vault, &point), &volume, &file.path, cancel, &mut |listed| {
                    lines.take(&listed)
                })?;
            let done = lines.end()?;
            let report = FileReport {
                path: shown(&file.path),
                of: place.of,
                complete: true,
                notes,
                ..report_of(done)
            };
            Ok(SentFiles { report })
        })();
        ended(done, leash)
    }
}

/// What became of a reading. That the process was ended is not its fault.
fn ended<T>(done: std::result::Result<T, FilesError>, leash: &Leash) -> Result<T> {
    match done {
        Err(_) if leash.cancel().is_cancelled() => Err(body(FilesError::Cancelled)),
        done => done.map_err(body),
    }
}

/// Lines of JSON, sent in batches.
struct Lines<'a> {
    to: &'a mut dyn FileSink,
    done: Delivered,
    batch: Vec<u8>,
    begun: bool,
}

/// Bytes of lines after which they are sent.
const BATCH: usize = 256 << 10;

impl Lines<'_> {
    fn take(&mut self, listed: &Listed<'_>) -> std::result::Result<(), FilesError> {
        self.begin();
        let done = &mut self.done;
        let line = match listed {
            Listed::File { path, attributes } => {
                match attributes.kind {
                    Kind::File => done.files = done.files.saturating_add(1),
                    Kind::Folder => done.folders = done.folders.saturating_add(1),
                    Kind::Link => done.links = done.links.saturating_add(1),
                    _ => done.others = done.others.saturating_add(1),
                }
                line(path, attributes)
            }
            Listed::Failed { path, reason } => {
                done.problem_count = done.problem_count.saturating_add(1);
                FileLine { problem: Some((*reason).to_owned()), ..named(path) }
            }
        };
        serde_json::to_writer(&mut self.batch, &line).map_err(|error| lost(error.into()))?;
        self.batch.push(b'\n');
        if self.batch.len() > BATCH { self.send() } else { Ok(()) }
    }

    /// The path is there: the answer begins before the rest is read.
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.to.begin(FileHead {
                name: b"files.ndjson".to_vec(),
                size: None,
                part: Part::Whole,
            });
        }
    }

    fn send(&mut self) -> std::result::Result<(), FilesError> {
        self.begin();
        self.to.write_all(&self.batch).map_err(lost)?;
        self.batch.clear();
        Ok(())
    }

    fn end(mut self) -> std::result::Result<Delivered, FilesError> {
        self.send()?;
        Ok(self.done)
    }
}

/// The volume that was chosen.
struct Place {
    of: OfVolume,
    file_system: String,
}

impl Place {
    fn of(opened: &Opened, volume: &Volume) -> Self {
        let of = OfVolume {
            disk: volume.disk.map(|_| opened.disk(volume).to_owned()),
            partition: volume.partition,
            volume: volume.logical.clone(),
        };
        Self { of, file_system: volume.file_system.clone().unwrap_or_default() }
    }
}

impl PointFiles for LocalPointFiles {
    fn volumes(&self, of: &FilesOf, leash: &Leash) -> Result<PointVolumes> {
        let mut opened = self.open(of, None, leash)?;
        let volumes = opened.volumes().iter().map(|volume| volume_of(&opened, volume)).collect();
        let unread = opened.reader().missed().map(|error| ErrorBody::of(&error));
        Ok(PointVolumes { volumes, unread })
    }

    fn list(
        &self,
        of: &FilesOf,
        file: &FileAsk,
        ask: &ListAsk,
        leash: &Leash,
    ) -> Result<FileListing> {
        self.with(of, file, leash, |files, place| {
            let found = files.locate(&file.path)?;
            list(files, place, &found, ask)
        })
    }

    fn send(
        &self,
        of: &FilesOf,
        file: &FileAsk,
        what: FileStream,
        to: &mut dyn FileSink,
        leash: &Leash,
    ) -> Result<SentFiles> {
        let Some(what) = Bytes::of(what) else { return self.tree(of, file, to, leash) };
        self.with(of, file, leash, |files, place| {
            let cancel = leash.cancel();
            let found = match what {
                Bytes::Content(_) => files.locate_target(&file.path)?,
                Bytes::Archive(_) => files.locate(&file.path)?,
            };
            let notes = files.notes().to_vec();
            let done = send(files, &found, what, to, cancel)?;
            let report = FileReport {
                path: shown(&found.path),
                of: place.of.clone(),
                complete: true,
                notes,
                ..report_of(done)
            };
            Ok(SentFiles { report })
        })
    }
}

/// Lists a part of a folder, or a file as its only entry.
fn list(
    files: &mut Files<'_>,
    place: &Place,
    found: &Located,
    ask: &ListAsk,
) -> std::result::Result<FileListing, FilesError> {
    let is_folder = found.attributes.kind == Kind::Folder;
    let mut entries = if is_folder {
        files.list(found)?
    } else {
        vec![Entry {
            name: found.name().unwrap_or(b"/").to_vec(),
            node: found.node,
            attributes: Ok(found.attributes.clone()),
        }]
    };
    if let Some(after) = &ask.after {
        entries.retain(|entry| entry.name > *after);
    }
    let more = entries.len() > ask.limit;
    entries.truncate(ask.limit);
    let next = entries.last().filter(|_| more).map(|entry| hex(&entry.name));
    let mut shown_entries = Vec::with_capacity(entries.len());
    for one in entries {
        let folder = found.path.strip_suffix(b"/").unwrap_or(&found.path);
        let path = if is_folder { [folder, b"/", &one.name].concat() } else { found.path.clone() };
        shown_entries.push(entry(files, &path, one, ask.xattrs)?);
    }
    Ok(FileListing {
        of: place.of.clone(),
        file_system: place.file_system.clone(),
        path: shown(&found.path),
        path_hex: hex_of(&found.path),
        notes: files.notes().to_vec(),
        entries: shown_entries,
        next_page_token: next,
    })
}

fn entry(
    files: &mut Files<'_>,
    path: &[u8],
    entry: Entry,
    xattrs: bool,
) -> std::result::Result<FileEntry, FilesError> {
    let Entry { name, node, attributes } = entry;
    let mut view =
        FileEntry { name: shown(&name), name_hex: hex_of(&name), ..FileEntry::default() };
    let of = match attributes {
        Ok(attributes) => attributes,
        Err(fault) => {
            view.problem = Some(fault.to_string());
            return Ok(view);
        }
    };
    view.kind = Some(kind_of(of.kind));
    view.size_bytes = Some(of.size);
    view.modified = of.modified.and_then(moment);
    view.mode = of.mode.map(|mode| format!("{mode:04o}"));
    (view.uid, view.gid, view.links) = (of.uid, of.gid, of.links);
    view.device = of.device.map(|(major, minor)| format!("{major}:{minor}"));
    let mut problem = None;
    if of.kind == Kind::Link {
        match files.reader().target(path, node) {
            Ok(target) => {
                view.target = Some(shown(&target));
                view.target_hex = hex_of(&target);
            }
            Err(error) => problem = Some(error),
        }
    }
    if xattrs {
        match files.reader().xattrs(path, node) {
            Ok(found) => {
                let found = found
                    .iter()
                    .map(|(name, value)| FileXattr { name: shown(name), value_hex: hex(value) });
                view.xattrs = Some(found.collect());
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

/// What is sent of files' bytes.
#[derive(Clone, Copy)]
enum Bytes {
    Content(Option<ByteAsk>),
    Archive(ArchiveFormat),
}

impl Bytes {
    /// None of a tree, which is a list.
    fn of(what: FileStream) -> Option<Self> {
        match what {
            FileStream::Content { range } => Some(Self::Content(range)),
            FileStream::Archive(format) => Some(Self::Archive(format)),
            FileStream::Tree => None,
        }
    }
}

/// Sends a file or an archive.
fn send(
    files: &mut Files<'_>,
    found: &Located,
    what: Bytes,
    to: &mut dyn FileSink,
    cancel: &Cancel,
) -> std::result::Result<Delivered, FilesError> {
    let mut head =
        FileHead { name: found.name().unwrap_or_default().to_vec(), size: None, part: Part::Whole };
    match what {
        Bytes::Content(range) => {
            let size = found.attributes.size;
            head.size = Some(size);
            head.part = part(range, size);
            let (first, end) = match head.part {
                Part::Whole => (0, size),
                Part::Bytes(first, end) => (first, end),
                Part::Nothing => (0, 0),
            };
            // What cannot be read at all is an error before the head.
            content(files, found, first..first, &mut io::sink(), cancel)?;
            probe(files, found, first..end)?;
            to.begin(head);
            content(files, found, first..end, &mut Sent(to), cancel)?;
            let bytes = end.saturating_sub(first);
            Ok(Delivered { files: 1, bytes, ..Delivered::default() })
        }
        Bytes::Archive(format) => {
            head.name = [head.name.as_slice(), b".", format.name().as_bytes()].concat();
            to.begin(head);
            let mut out = io::BufWriter::with_capacity(256 << 10, Sent(to));
            match format {
                ArchiveFormat::Tar => archive(files, found, &mut out, cancel),
                ArchiveFormat::Zip => zip(files, found, &mut out, cancel),
            }
        }
    }
}

/// A sink as something that takes bytes.
struct Sent<'a>(&'a mut dyn FileSink);

impl Write for Sent<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Reads the first byte of a part, so that what cannot be read is an error before anything is sent.
fn probe(
    files: &mut Files<'_>,
    found: &Located,
    range: std::ops::Range<u64>,
) -> std::result::Result<(), FilesError> {
    if range.is_empty() {
        return Ok(());
    }
    files.reader().read(&found.path, found.node, range.start, &mut [0; 512]).map(drop)
}

/// What of a file is sent. An empty file has no last bytes: all of it is sent.
fn part(range: Option<ByteAsk>, size: u64) -> Part {
    match range.map(|range| range.of(size)) {
        None => Part::Whole,
        Some(None) => Part::Nothing,
        Some(Some((first, end))) if first == end => Part::Whole,
        Some(Some((first, end))) => Part::Bytes(first, end),
    }
}

fn lost(source: io::Error) -> FilesError {
    FilesError::Target { action: "write", path: "the list".to_owned(), source }
}

fn named(path: &[u8]) -> FileLine {
    FileLine { path: shown(path), path_hex: hex_of(path), ..FileLine::default() }
}

fn line(path: &[u8], of: &Attributes) -> FileLine {
    FileLine {
        kind: Some(kind_of(of.kind)),
        size_bytes: Some(of.size),
        modified: of.modified.map(|time| (time.seconds, time.nanoseconds)),
        mode: of.mode,
        uid: of.uid,
        gid: of.gid,
        device: of.device,
        ..named(path)
    }
}

/// What was delivered, as a report.
fn report_of(done: Delivered) -> FileReport {
    let Delivered { files, folders, links, others, bytes, problems, problem_count } = done;
    let problem = |problem: strongroom_files::Problem| FileProblem {
        path: shown(&problem.path),
        code: problem.code.map(str::to_owned),
        reason: problem.reason,
    };
    FileReport {
        files,
        folders,
        links,
        others,
        file_bytes: bytes,
        problems: problems.into_iter().take(PROBLEMS_MAX).map(problem).collect(),
        problem_count,
        ..FileReport::default()
    }
}

fn volume_of(opened: &Opened, volume: &Volume) -> PointVolume {
    PointVolume {
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
        unread: is_unread(volume),
        notes: volume.notes.clone(),
    }
}

const fn kind_of(kind: Kind) -> FileKind {
    match kind {
        Kind::File => FileKind::File,
        Kind::Folder => FileKind::Folder,
        Kind::Link => FileKind::Link,
        Kind::Pipe => FileKind::Pipe,
        Kind::Socket => FileKind::Socket,
        Kind::CharacterDevice => FileKind::CharacterDevice,
        Kind::BlockDevice => FileKind::BlockDevice,
        Kind::Subvolume => FileKind::Subvolume,
    }
}

/// A moment, as the libraries know it; none if they do not.
fn moment(time: Time) -> Option<Timestamp> {
    Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).ok()?).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// The bytes of what is no UTF-8.
fn hex_of(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| hex(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_has_no_part() {
        let from = ByteAsk::From { first: 0, last: None };
        assert_eq!(part(None, 0), Part::Whole);
        assert_eq!(part(Some(from), 0), Part::Nothing);
        assert_eq!(part(Some(ByteAsk::Last(5)), 0), Part::Whole);
        assert_eq!(part(Some(ByteAsk::Last(5)), 3), Part::Bytes(0, 3));
    }
}
