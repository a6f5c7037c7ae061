//! The process that reads: it has the socket, and nothing else.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd as _, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use strongroom_base::lock;

use crate::{
    luks, sandbox,
    secret::{Place, Secret, Unlocked},
    source::{Cached, ReadAt, check_within, length},
    survey::{Surveyed, Volume, survey, survey_with},
    tree::{Entry, Fault, FaultKind, Piece, Tree},
    wire::{Answer, Given, Hello, Line, READ_MAX, Request},
};

/// Bytes of entries after which they are sent.
const BATCH: usize = 256 << 10;

/// A disk that the parent reads.
struct Remote {
    line: Arc<Mutex<Line>>,
    index: u32,
    size: u64,
}

impl ReadAt for Remote {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size, offset, length(buf))?;
        let mut line = lock(&self.line);
        let mut at = offset;
        for part in buf.chunks_mut(READ_MAX) {
            let len = u32::try_from(part.len()).map_err(io::Error::other)?;
            line.say(&Answer::Need { disk: self.index, offset: at, len })?;
            match line.hear()? {
                Given::Data if line.take(part)? == part.len() => {}
                Given::Data => return Err(io::ErrorKind::InvalidData.into()),
                Given::Failed => return Err(io::Error::other("the disk cannot be read")),
            }
            at = at.saturating_add(length(part));
        }
        Ok(())
    }
}

/// Reads file systems for the process at the other end of standard input, until that ends. Locks the process in
/// first, so that it must be the first that a program does, before it has threads.
pub fn serve() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What panics is answered; the trace would have to open files.
    std::panic::set_hook(Box::new(|_| {}));
    let mut line = Line::new(socket);
    let hello: Hello = line.hear()?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    sandbox::lock_in(hello.memory, hello.seconds)?;
    line.say(&Answer::Ready)?;
    let line = Arc::new(Mutex::new(line));
    let mut disks: Vec<Arc<dyn ReadAt>> = Vec::new();
    for (index, size) in (0..).zip(hello.disks) {
        let remote = Remote { line: Arc::clone(&line), index, size };
        disks.push(Arc::new(Cached::new(Arc::new(remote))));
    }
    let volumes = OfDisks { disks, volumes: Vec::new(), unlocked: Vec::new() };
    Child::new(line, volumes).run()
}

/// Where volumes come from.
pub(crate) trait Volumes {
    /// What is on the disks.
    fn survey(&mut self) -> Vec<Volume>;

    /// Opens the file system of a volume of the last survey. None is open.
    fn open(&mut self, volume: u32) -> Result<Box<dyn Tree>, Fault>;

    /// The keys of encrypted volumes that one of these secrets opens.
    fn unlock(&mut self, secrets: &[Secret]) -> Result<Vec<Unlocked>, Fault>;

    /// Has encrypted volumes opened by these keys in every survey from now on.
    fn keys(&mut self, unlocked: &[Unlocked]) -> Result<(), Fault>;
}

/// Volumes that the readers here read.
struct OfDisks {
    disks: Vec<Arc<dyn ReadAt>>,
    volumes: Vec<Surveyed>,
    unlocked: Vec<Unlocked>,
}

impl Volumes for OfDisks {
    fn survey(&mut self) -> Vec<Volume> {
        self.volumes = survey_with(&self.disks, &self.unlocked);
        self.volumes.iter().map(|it| it.volume.clone()).collect()
    }

    fn open(&mut self, volume: u32) -> Result<Box<dyn Tree>, Fault> {
        let index = usize::try_from(volume).ok();
        let volume = index.and_then(|index| self.volumes.get(index));
        volume.ok_or_else(no_volume)?.open()
    }

    fn unlock(&mut self, secrets: &[Secret]) -> Result<Vec<Unlocked>, Fault> {
        Ok(unlock(&self.disks, secrets))
    }

    fn keys(&mut self, unlocked: &[Unlocked]) -> Result<(), Fault> {
        self.unlocked = unlocked.to_vec();
        Ok(())
    }
}

pub(crate) fn no_volume() -> Fault {
    Fault::new(FaultKind::NotFound, "there is no such volume")
}

/// The side that answers.
pub(crate) struct Child<S, V> {
    line: Arc<Mutex<Line<S>>>,
    volumes: V,
    tree: Option<Box<dyn Tree>>,
}

impl<S: Read + Write, V: Volumes> Child<S, V> {
    pub(crate) fn new(line: Arc<Mutex<Line<S>>>, volumes: V) -> Self {
        Self { line, volumes, tree: None }
    }

    /// Answers until nobody asks any more.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let request = lock(&self.line).hear();
            match request {
                Ok(request) => self.answer(&request)?,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&mut self, request: &Request) -> io::Result<()> {
        let mut buf = Vec::new();
        let answered = catch_unwind(AssertUnwindSafe(|| self.work(request, &mut buf)));
        let panicked = || Fault::new(FaultKind::Reader, "the reader failed at it");
        let answer = answered.unwrap_or_else(|_| Err(panicked())).unwrap_or_else(Answer::Failed);
        let mut line = lock(&self.line);
        line.say(&answer)?;
        if matches!(answer, Answer::Data) {
            line.give(&buf)?;
        }
        Ok(())
    }

    fn work(&mut self, request: &Request, buf: &mut Vec<u8>) -> Result<Answer, Fault> {
        match request {
            Request::Survey => return Ok(Answer::Volumes(self.volumes.survey())),
            Request::Open { volume } => {
                // The one that was open lets go of its volume first.
                self.tree = None;
                let tree = self.volumes.open(*volume)?;
                let opened = Answer::Opened { root: tree.root(), notes: tree.notes() };
                self.tree = Some(tree);
                return Ok(opened);
            }
            Request::Unlock { secrets } => {
                return Ok(Answer::Unlocked(self.volumes.unlock(secrets)?));
            }
            Request::Keys { unlocked } => {
                self.volumes.keys(unlocked)?;
                return Ok(Answer::Ready);
            }
            _ => {}
        }
        let none = || Fault::new(FaultKind::NotFound, "no file system is open");
        let tree = self.tree.as_mut().ok_or_else(none)?;
        Ok(match request {
            Request::Attributes { node } => Answer::Attributes(tree.attributes(*node)?),
            Request::List { node } => {
                let entries = tree.list(*node)?;
                send(&self.line, entries)?;
                Answer::End
            }
            Request::Find { node, name } => {
                let entries = tree.list(*node)?;
                Answer::Found(named(&mut **tree, entries, name))
            }
            Request::Read { node, offset, len } => {
                let len = usize::try_from(*len).unwrap_or(READ_MAX).min(READ_MAX);
                buf.resize(len, 0);
                match tree.read(*node, *offset, buf)? {
                    Piece::Hole(len) => Answer::Hole(len),
                    Piece::Data(len) => {
                        buf.truncate(len);
                        Answer::Data
                    }
                }
            }
            Request::Target { node } => Answer::Target(tree.target(*node)?),
            Request::Xattrs { node } => Answer::Xattrs(tree.xattrs(*node)?),
            Request::Survey
            | Request::Open { .. }
            | Request::Unlock { .. }
            | Request::Keys { .. } => return Err(none()),
        })
    }
}

/// Tries secrets on every encrypted volume.
fn unlock(disks: &[Arc<dyn ReadAt>], secrets: &[Secret]) -> Vec<Unlocked> {
    let surveyed = survey(disks).into_iter();
    let encrypted = surveyed.filter(|it| it.volume.file_system.as_deref() == Some(luks::KIND));
    let tried = encrypted.map(|it| {
        let mut keys = secrets.iter().map(|secret| luks::unlock(&*it.bytes, secret.bytes()));
        let found = keys.find(|key| !matches!(key, Ok(None))).unwrap_or(Ok(None));
        Unlocked { place: Place::of(&it.volume), key: found.map(|key| key.map(Secret::new)) }
    });
    tried.collect()
}

/// The entry of this name; where capitals do not matter, else the only one that differs by them.
fn named(tree: &mut dyn Tree, entries: Vec<Entry>, name: &[u8]) -> Option<Entry> {
    if let Some(same) = entries.iter().find(|entry| entry.name == *name) {
        return Some(same.clone());
    }
    let wanted = tree.folded(name)?;
    let mut alike =
        entries.into_iter().filter(|it| tree.folded(&it.name).as_ref() == Some(&wanted));
    let found = alike.next();
    if alike.next().is_some() { None } else { found }
}

/// Sends entries in messages of bounded length.
fn send<S: Read + Write>(line: &Mutex<Line<S>>, entries: Vec<Entry>) -> Result<(), Fault> {
    let lost = |error: io::Error| Fault::new(FaultKind::Reader, error.to_string());
    let (mut batch, mut bytes) = (Vec::new(), 0_usize);
    for entry in entries {
        bytes = bytes.saturating_add(entry.name.len()).saturating_add(128);
        batch.push(entry);
        if bytes > BATCH {
            let full = std::mem::take(&mut batch);
            lock(line).say(&Answer::Entries(full)).map_err(lost)?;
            bytes = 0;
        }
    }
    lock(line).say(&Answer::Entries(batch)).map_err(lost)
}
