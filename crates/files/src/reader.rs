//! The side that asks: starts the process that reads, gives it bytes of disks, and checks what it answers.
//!
//! The process is taken for hostile: it has read a stranger's file system. It gets bytes of the disks and nothing
//! else; what it answers is bounded, and names are checked before anything is made of them.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use serde::Serialize;
use strongroom_base::{Clock as _, Kind as CodeKind, SystemClock, lock, start_thread};

use crate::{
    error::{FilesError, code_of, shown, with_causes},
    machine::{Accelerator, Machine, Running, Started},
    secret::{Place, Secret, Unlocked},
    source::ReadAt,
    survey::Volume,
    tree::{Attributes, Entry, Fault, FaultKind, Piece, Xattr},
    wire::{Answer, Given, Hello, Line, READ_MAX, Request},
};

/// Most entries of one folder.
const ENTRIES_MAX: usize = 2 << 20;
/// How long secrets may take that open volumes: every one is made to take seconds.
const UNLOCK: Duration = Duration::from_mins(5);
/// What one of them may take of memory besides.
const UNLOCK_MEMORY: u64 = (1 << 30) + (64 << 20);
/// How long a process has to end when its socket is closed.
const END: Duration = Duration::from_secs(1);

/// How the process is started: a program that calls [`crate::serve`] and does nothing else.
#[derive(Clone, Debug)]
pub struct ReaderCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// What the process may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of address space.
    pub memory: u64,
    /// Processor time of all its work.
    pub processor: Duration,
    /// How long one answer may take it, without the time in which it waits for bytes of the disk.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            processor: Duration::from_hours(12),
            patience: Duration::from_mins(1),
        }
    }
}

/// A disk to read files from.
#[derive(Clone)]
pub struct NamedDisk {
    /// Its name, for errors.
    pub name: String,
    /// Its bytes.
    pub bytes: Arc<dyn ReadAt>,
}

/// Ends a process from another thread: those who wait for its answer get an error.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// Ends it.
    pub fn stop(&self) {
        // It is gone already, if this fails.
        self.0.shutdown(Shutdown::Both).ok();
    }
}

/// A disk that could not be read, and why, until that is an error.
pub(crate) type Unread = Arc<Mutex<Option<(String, io::Error)>>>;

/// A process that reads file systems of some disks. The thread that starts it must live as long as it does.
pub struct FileReader {
    /// None in tests that answer themselves.
    child: Option<Child>,
    line: Line,
    disks: Vec<NamedDisk>,
    patience: Duration,
    /// Where the last read ended.
    end: Option<(u32, u64)>,
    /// What is read before it is asked for.
    ahead: Option<Ahead>,
    unread: Unread,
    /// Why a part of the disks could not be read in the last survey.
    missed: Option<FilesError>,
    /// Why the process is of no use any more.
    broken: Option<String>,
    /// Of a machine that reads in the place of a process: what it needs besides.
    machine: Option<Running>,
}

/// Bytes that are being read: of which disk, where and how many.
struct Ahead {
    of: (u32, u64, usize),
    bytes: JoinHandle<io::Result<Vec<u8>>>,
}

fn read(disk: &dyn ReadAt, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    disk.read_at(offset, &mut buf)?;
    Ok(buf)
}

/// Says in the volumes that a part of a disk could not be read. The error of that.
fn missed(volumes: &mut [Volume], disk: String, error: io::Error) -> FilesError {
    let causes = with_causes(&error);
    let note = format!("a part of disk {disk} could not be read: {causes}");
    let reason = match code_of(&error).kind {
        CodeKind::Corrupt => "could not be read: stored data is damaged".to_owned(),
        _ => format!("could not be read: {causes}"),
    };
    for volume in volumes {
        volume.notes.push(note.clone());
        if let Some(fault) = volume.refusal.as_mut().filter(|it| it.kind == FaultKind::Disk) {
            fault.reason.clone_from(&reason);
        }
    }
    FilesError::Disk { disk, source: error }
}

impl FileReader {
    /// Starts a process for these disks.
    pub fn start(
        command: &ReaderCommand,
        disks: Vec<NamedDisk>,
        limits: Limits,
    ) -> Result<Self, FilesError> {
        let failed = |error: io::Error| FilesError::Reader {
            path: "/".to_owned(),
            reason: format!("it cannot be started: {error}"),
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_write_timeout(Some(limits.patience)).map_err(failed)?;
        let child = Command::new(&command.program)
            .args(&command.arguments)
            // No secret of ours is in its environment, and it takes no settings.
            .env_clear()
            .current_dir("/")
            // Who interrupts the command ends it by the socket, in order.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let sizes = disks.iter().map(|disk| disk.bytes.size()).collect();
        let mut reader = Self {
            child: Some(child),
            line: Line::new(ours),
            disks,
            patience: limits.patience,
            end: None,
            ahead: None,
            unread: Unread::default(),
            missed: None,
            broken: None,
            machine: None,
        };
        let hello =
            Hello { disks: sizes, memory: limits.memory, seconds: limits.processor.as_secs() };
        match reader.ask(b"/", &hello)? {
            Answer::Ready => Ok(reader),
            other => Err(reader.lied(b"/", &other)),
        }
    }

    /// Starts a machine for these disks, whose kernel reads them. It is gone when this is.
    pub fn start_machine(machine: &Machine, disks: &[NamedDisk]) -> Result<Self, FilesError> {
        let mut all = Accelerator::all().into_iter().peekable();
        while let Some(accelerator) = all.next() {
            match Self::start_with(machine, accelerator, disks.to_vec()) {
                Err(FilesError::Machine { reason }) if all.peek().is_some() => {
                    tracing::debug!(
                        reason,
                        ?accelerator,
                        "the machine that reads files does not start so"
                    );
                }
                started => return started,
            }
        }
        Err(FilesError::Machine { reason: "nothing can run it".to_owned() })
    }

    fn start_with(
        machine: &Machine,
        accelerator: Accelerator,
        disks: Vec<NamedDisk>,
    ) -> Result<Self, FilesError> {
        let unread = Unread::default();
        let sizes = disks.iter().map(|disk| disk.bytes.size()).collect();
        let Started { child, line, running } = machine.start(accelerator, &disks, &unread)?;
        let mut reader = Self {
            child: Some(child),
            line,
            disks,
            patience: accelerator.patience(machine),
            end: None,
            ahead: None,
            unread,
            missed: None,
            broken: None,
            machine: Some(running),
        };
        let hello = Hello { disks: sizes, memory: 0, seconds: 0 };
        match reader.ask(b"/", &hello) {
            Ok(Answer::Ready) => {
                reader.patience = machine.limits.patience;
                Ok(reader)
            }
            Ok(other) => Err(reader.lied(b"/", &other)),
            Err(FilesError::Reader { reason, .. }) => Err(FilesError::Machine { reason }),
            Err(other) => Err(other),
        }
    }

    /// Whether a machine reads.
    pub const fn is_machine(&self) -> bool {
        self.machine.is_some()
    }

    /// The process, as long as there is one.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What ends the process from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        self.line.socket().try_clone().map(Stopper)
    }

    /// Whether the process is of no use any more, so that nothing else can be read.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// What is on the disks.
    pub fn survey(&mut self) -> Result<Vec<Volume>, FilesError> {
        match self.ask(b"/", &Request::Survey)? {
            Answer::Volumes(mut volumes) => {
                if !volumes.iter().filter_map(|it| it.disk).all(|disk| self.disk(disk).is_some()) {
                    return Err(self.breaks(b"/", "it names disks that it was not given"));
                }
                // The rest of the disks may be whole.
                let unread = lock(&self.unread).take();
                if let Some((disk, error)) = unread {
                    self.missed = Some(missed(&mut volumes, disk, error));
                }
                Ok(volumes)
            }
            other => Err(self.lied(b"/", &other)),
        }
    }

    /// Opens encrypted volumes (LUKS) by these secrets in every survey from now on. A process of its own gets the
    /// secrets, and ends with them; this one gets the keys of the volumes. Volumes that none opens stay closed; if
    /// that are all, it is an error.
    pub fn unlock(
        &mut self,
        command: &ReaderCommand,
        secrets: Vec<Secret>,
        limits: Limits,
    ) -> Result<(), FilesError> {
        let memory = limits.memory.saturating_add(UNLOCK_MEMORY);
        let limits = Limits { memory, patience: UNLOCK, ..limits };
        let mut other = Self::start(command, self.disks.clone(), limits)?;
        let unlocked = match other.ask(b"/", &Request::Unlock { secrets })? {
            Answer::Unlocked(unlocked) => other.settled(unlocked)?,
            answer => return Err(other.lied(b"/", &answer)),
        };
        drop(other);
        let is_open = |it: &Unlocked| matches!(it.key, Ok(Some(_)));
        if let Some(first) = unlocked.first()
            && !unlocked.iter().any(is_open)
        {
            let path = self.place(&first.place);
            let fault = unlocked.iter().find_map(|it| it.key.as_ref().err());
            return Err(match fault {
                Some(fault) => FilesError::of_fault(path.as_bytes(), fault.clone()),
                None => FilesError::Secret { path },
            });
        }
        match self.ask(b"/", &Request::Keys { unlocked })? {
            Answer::Ready => Ok(()),
            other => Err(self.lied(b"/", &other)),
        }
    }

    /// What people call a volume.
    fn place(&self, place: &Place) -> String {
        let disk = place.disk.and_then(|disk| self.disk(disk)).map_or("", |disk| &disk.name);
        match (place.partition, &place.logical) {
            (_, Some(name)) => format!("volume {}", shown(name.as_bytes())),
            (Some(number), None) => format!("disk {disk}, partition {number}"),
            (None, None) => format!("disk {disk}"),
        }
    }

    /// Why the last survey could not read a part of the disks, if so. It is given once.
    pub fn missed(&mut self) -> Option<FilesError> {
        self.missed.take()
    }

    /// Opens the file system of a volume. The node of its uppermost folder, and what to know of it.
    pub fn open(&mut self, volume: &Volume) -> Result<(u64, Vec<String>), FilesError> {
        match self.ask(b"/", &Request::Open { volume: volume.index })? {
            Answer::Opened { root, notes } => self.settled((root, notes)),
            other => Err(self.lied(b"/", &other)),
        }
    }

    /// What is known of a node.
    pub fn attributes(&mut self, path: &[u8], node: u64) -> Result<Attributes, FilesError> {
        match self.ask(path, &Request::Attributes { node })? {
            Answer::Attributes(attributes) => self.settled(attributes),
            other => Err(self.lied(path, &other)),
        }
    }

    /// The entries of a folder.
    pub fn list(&mut self, path: &[u8], node: u64) -> Result<Vec<Entry>, FilesError> {
        let mut answer = self.ask(path, &Request::List { node })?;
        let mut entries = Vec::new();
        loop {
            match answer {
                Answer::Entries(some) => entries.extend(some),
                Answer::End => return self.settled(entries),
                other => return Err(self.lied(path, &other)),
            }
            if entries.len() > ENTRIES_MAX {
                return Err(self.breaks(path, "it lists more entries than it may"));
            }
            answer = self.hear(path, self.patience)?;
        }
    }

    /// The entry of this name in a folder.
    pub fn find(
        &mut self,
        path: &[u8],
        node: u64,
        name: &[u8],
    ) -> Result<Option<Entry>, FilesError> {
        match self.ask(path, &Request::Find { node, name: name.to_vec() })? {
            Answer::Found(found) => self.settled(found),
            other => Err(self.lied(path, &other)),
        }
    }

    /// The next bytes of a file.
    pub fn read(
        &mut self,
        path: &[u8],
        node: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<Piece, FilesError> {
        let most = buf.len().min(READ_MAX);
        let buf = buf.get_mut(..most).unwrap_or_default();
        let len = u32::try_from(buf.len()).unwrap_or(0);
        match self.ask(path, &Request::Read { node, offset, len })? {
            Answer::Hole(len) => self.settled(Piece::Hole(len)),
            Answer::Data => match self.line.take(buf) {
                Ok(len) => self.settled(Piece::Data(len)),
                Err(error) => Err(self.ended(path, &error)),
            },
            other => Err(self.lied(path, &other)),
        }
    }

    /// Where a link points.
    pub fn target(&mut self, path: &[u8], node: u64) -> Result<Vec<u8>, FilesError> {
        match self.ask(path, &Request::Target { node })? {
            Answer::Target(target) => self.settled(target),
            other => Err(self.lied(path, &other)),
        }
    }

    /// The extended attributes of a node.
    pub fn xattrs(&mut self, path: &[u8], node: u64) -> Result<Vec<Xattr>, FilesError> {
        match self.ask(path, &Request::Xattrs { node })? {
            Answer::Xattrs(xattrs) => self.settled(xattrs),
            other => Err(self.lied(path, &other)),
        }
    }

    /// An answer, unless a part of the disk could not be read for it: readers may make something of that.
    fn settled<T>(&mut self, answer: T) -> Result<T, FilesError> {
        let unread = lock(&self.unread).take();
        match unread {
            Some((disk, source)) => Err(FilesError::Disk { disk, source }),
            None => Ok(answer),
        }
    }

    fn disk(&self, index: u32) -> Option<&NamedDisk> {
        self.disks.get(usize::try_from(index).ok()?)
    }

    fn ask<T: Serialize>(&mut self, path: &[u8], request: &T) -> Result<Answer, FilesError> {
        if let Some(reason) = &self.broken {
            return Err(FilesError::Reader { path: shown(path), reason: reason.clone() });
        }
        if let Err(error) = self.line.say(request) {
            return Err(self.ended(path, &error));
        }
        self.hear(path, self.patience)
    }

    /// The next answer, with the disk's bytes given until it comes.
    fn hear(&mut self, path: &[u8], mut patience: Duration) -> Result<Answer, FilesError> {
        loop {
            let begun = SystemClock.monotonic();
            let timeout = patience.max(Duration::from_millis(1));
            if let Err(error) = self.line.socket().set_read_timeout(Some(timeout)) {
                return Err(self.ended(path, &error));
            }
            let answer = self.line.hear();
            patience = patience.saturating_sub(SystemClock.monotonic().saturating_sub(begun));
            match answer {
                Ok(Answer::Need { disk, offset, len }) => self.give(path, disk, offset, len)?,
                Ok(Answer::Failed(fault)) => return Err(self.failed(path, fault)),
                Ok(answer) => return Ok(answer),
                Err(error) => return Err(self.ended(path, &error)),
            }
            if patience.is_zero() {
                return Err(self.ended(path, &io::ErrorKind::TimedOut.into()));
            }
        }
    }

    fn give(&mut self, path: &[u8], disk: u32, offset: u64, len: u32) -> Result<(), FilesError> {
        let wanted = (disk, offset, usize::try_from(len).unwrap_or(usize::MAX));
        // A machine has its disks.
        let may_ask = self.machine.is_none() && wanted.2 <= READ_MAX;
        let Some(named) = self.disk(disk).filter(|_| may_ask).cloned() else {
            return Err(self.breaks(path, "it asks for bytes that it may not have"));
        };
        let read = match self.ahead.take() {
            Some(ahead) if ahead.of == wanted => {
                let failed = |_| Err(io::Error::other("reading ahead failed"));
                ahead.bytes.join().unwrap_or_else(failed)
            }
            _ => read(&*named.bytes, offset, wanted.2),
        };
        self.read_ahead(&named, wanted);
        let given = match read {
            Ok(bytes) => self.line.say(&Given::Data).and_then(|()| self.line.give(&bytes)),
            Err(error) => {
                lock(&self.unread).get_or_insert((named.name, error));
                self.line.say(&Given::Failed)
            }
        };
        given.map_err(|error| self.ended(path, &error))
    }

    /// Begins to read what comes next, if the process reads one part after the other.
    fn read_ahead(&mut self, named: &NamedDisk, (disk, offset, len): (u32, u64, usize)) {
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let is_next = self.end.replace((disk, end)) == Some((disk, offset));
        let next_end = end.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        if is_next && next_end <= named.bytes.size() {
            let bytes = Arc::clone(&named.bytes);
            let bytes = start_thread("read-ahead", move || read(&*bytes, end, len));
            self.ahead = Some(Ahead { of: (disk, end, len), bytes });
        }
    }

    /// A failure that the process answered. If the disk is to blame, the disk's own error.
    fn failed(&mut self, path: &[u8], fault: Fault) -> FilesError {
        let unread = lock(&self.unread).take();
        match (unread, fault.kind) {
            (Some((disk, source)), _) => FilesError::Disk { disk, source },
            (None, FaultKind::Disk) => FilesError::of_fault(path, Fault::damaged(fault.reason)),
            (None, _) => FilesError::of_fault(path, fault),
        }
    }

    fn lied(&mut self, path: &[u8], _: &Answer) -> FilesError {
        self.breaks(path, "it answers another question")
    }

    /// The process is of no use any more.
    fn breaks(&mut self, path: &[u8], reason: &str) -> FilesError {
        if let Some(child) = &mut self.child {
            child.kill().ok();
        }
        self.broken = Some(reason.to_owned());
        FilesError::Reader { path: shown(path), reason: reason.to_owned() }
    }

    fn ended(&mut self, path: &[u8], error: &io::Error) -> FilesError {
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let seconds = self.patience.as_secs_f32();
        let mut reason = if is_late {
            format!("it did not answer within {seconds} seconds")
        } else {
            match self.end() {
                Some(status) => format!("it ended ({status})"),
                None => format!("it broke the protocol ({error})"),
            }
        };
        if let Some(said) = self.machine.as_ref().and_then(Running::said) {
            reason = format!("{reason}; the last that it said: {said}");
        }
        self.breaks(path, &reason)
    }

    /// How it has ended, if it does so soon.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        let begun = SystemClock.monotonic();
        let child = self.child.as_mut()?;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if SystemClock.monotonic().saturating_sub(begun) < END => {
                    SystemClock.sleep(Duration::from_millis(2));
                }
                _ => return None,
            }
        }
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        self.line.socket().shutdown(Shutdown::Both).ok();
        if let Some(child) = &mut self.child {
            // It has nothing to finish.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests;
