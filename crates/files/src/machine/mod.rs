//! A machine that reads file systems: QEMU with a kernel of this host, whose drivers read what no reader here
//! reads right.
//!
//! ```text
//!  Machine::start ─▶ a process: gives up rights, becomes QEMU ─▶ the kernel ─▶ this program as /init: guest
//!     disks: NBD over a socket each, what is written kept beside ◀── virtio-blk ──┘        │
//!     FileReader ◀────────────── a socket: virtio-serial ──────────────────────────────────┘
//! ```
//!
//! The machine has no network and nothing of this host but a kernel, modules, and programs. Its kernel reads
//! what strangers wrote, and is expected to fall to it one day: what it answers is checked like the answers of
//! the process that reads, and QEMU, which it may take over next, has no files, no rights and no network
//! (`launch`).
//!
//! All that it needs goes through sockets and files in memory, so that nothing is left of it, whatever ends.

mod cpio;
mod disks;
mod guest;
mod host;
mod launch;
mod modules;

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_base::{lock, start_thread};

use crate::{
    error::{FilesError, shown},
    reader::{NamedDisk, ReaderCommand, Unread},
    wire::Line,
};

use self::{
    disks::{Kept, Writable},
    host::Kernel,
    launch::{DISKS_MAX, KVM, Launch},
};

pub use guest::{guest, machine_may_read};
pub use launch::launch;

/// The name of the port over which a machine is asked.
const PORT: &str = "strongroom.files";
/// Where a machine has the files of its modules, and the list of them.
const MODULES_FOLDER: &str = "/modules";
const MODULES_LIST: &str = "/modules/list";
/// How much of what a machine says on its console is kept.
const SAID_MAX: usize = 16 << 10;

/// What a machine may use.
#[derive(Clone, Copy, Debug)]
pub struct MachineLimits {
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes that its drivers may write to all disks together; nothing of it reaches them.
    pub written: u64,
    /// Processor time of all its work.
    pub processor: Duration,
    /// How long its start may take: without support of the processor it takes ten times longer.
    pub boot: Duration,
    /// How long one answer may take.
    pub patience: Duration,
}

impl Default for MachineLimits {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            written: 1 << 30,
            processor: Duration::from_hours(12),
            boot: Duration::from_mins(3),
            patience: Duration::from_mins(3),
        }
    }
}

/// How a machine that reads is started.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The process that becomes QEMU: a program that calls [`launch()`], and nothing else. The same program is
    /// what the machine runs, where it is process 1, and has to call [`guest()`].
    pub command: ReaderCommand,
    /// The argument by which the program knows that it is process 1 of a machine.
    pub guest: String,
    /// Its kernel: `vmlinuz` of a kernel whose modules are in `/lib/modules`. Without one the kernel that runs,
    /// or else the newest in `/boot` that has modules.
    pub kernel: Option<PathBuf>,
    /// Where a file without a name keeps what the machine writes.
    pub temporary: PathBuf,
    /// What it may use.
    pub limits: MachineLimits,
}

/// What runs the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor.
    Processor,
    /// QEMU, which takes ten times longer.
    Emulation,
}

impl Accelerator {
    /// Those to try, the best one first. That there is a device does not say that it works.
    pub(crate) fn all() -> Vec<Self> {
        let processor = File::open(KVM).ok().map(|_| Self::Processor);
        processor.into_iter().chain([Self::Emulation]).collect()
    }

    const fn option(self) -> &'static str {
        match self {
            Self::Processor => "kvm",
            Self::Emulation => "tcg,tb-size=128",
        }
    }

    /// How long a start may take.
    pub(crate) fn patience(self, of: &Machine) -> Duration {
        match self {
            Self::Processor => of.limits.boot.min(Duration::from_secs(30)),
            Self::Emulation => of.limits.boot,
        }
    }
}

/// A machine that was started.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) line: Line,
    pub(crate) running: Running,
}

/// What is held as long as a machine runs.
pub(crate) struct Running {
    /// By its end the process knows that this one is gone.
    _launched: Line,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    /// Of a machine that somebody else plays.
    #[cfg(test)]
    pub(crate) fn played() -> io::Result<Self> {
        let said = b"[ 1.0] first\nKernel panic\x1b \n\n".to_vec();
        Ok(Self { _launched: Line::new(UnixStream::pair()?.0), said: Arc::new(Mutex::new(said)) })
    }

    /// The last line of what its console, or QEMU, has said.
    pub(crate) fn said(&self) -> Option<String> {
        let said = lock(&self.said);
        let lines = said.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let last = lines.rev().find(|line| !line.is_empty())?;
        Some(shown(last.get(..200).unwrap_or(last)).replace(char::is_control, ""))
    }
}

impl Machine {
    /// Whether this host has all that a machine needs, as far as that can be seen without starting one.
    ///
    /// # Errors
    ///
    /// [`FilesError::Machine`] with what it lacks.
    pub fn check(&self) -> Result<(), FilesError> {
        host::qemu()?;
        Kernel::find(self.kernel.as_deref())?;
        Ok(())
    }

    /// Starts a machine with these disks. It was not heard of yet.
    pub(crate) fn start(
        &self,
        accelerator: Accelerator,
        disks: &[NamedDisk],
        unread: &Unread,
    ) -> Result<Started, FilesError> {
        if disks.len() > DISKS_MAX {
            let reason = format!("it has room for {DISKS_MAX} disks; name one with --disk");
            return Err(FilesError::Machine { reason });
        }
        let (program, machine) = host::qemu()?;
        let kernel = Kernel::find(self.kernel.as_deref())?;
        let first = host::in_memory("files", |to| {
            host::first_files(&kernel, &self.command.program, io::BufWriter::new(to))
        })?;
        let failed = |error: io::Error| FilesError::Machine { reason: error.to_string() };
        let image = host::in_memory("kernel", |to| {
            io::Write::write_all(to, &kernel.bytes).map_err(failed)
        })?;
        let serial = if cfg!(target_arch = "aarch64") { "ttyAMA0" } else { "ttyS0" };
        let append = format!(
            "console={serial} quiet loglevel=3 panic=-1 gpt mitigations=off no_timer_check rdinit=/init -- {}",
            self.guest
        );
        let launch = Launch {
            program,
            accelerator: accelerator.option().to_owned(),
            machine,
            append,
            memory: self.limits.memory.div_ceil(1 << 20),
            seconds: self.limits.processor.as_secs(),
        };
        self.run(&launch, disks, unread, [image, first]).map_err(failed)
    }

    /// Starts the process, gives it what it needs, and serves the disks.
    fn run(
        &self,
        launch: &Launch,
        disks: &[NamedDisk],
        unread: &Unread,
        [kernel, first]: [File; 2],
    ) -> io::Result<Started> {
        let (line, their_line) = UnixStream::pair()?;
        line.set_write_timeout(Some(self.limits.boot))?;
        let (console, their_console) = UnixStream::pair()?;
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(&self.command.program)
            .args(&self.command.arguments)
            .env_clear()
            .current_dir("/")
            // Who interrupts the command ends it in order.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(their_console.try_clone()?)))
            .spawn()?;
        let mut child = Ended(Some(child));
        let kept = Arc::new(Kept::new(&self.temporary, self.limits.written)?);
        let mut sockets = Vec::new();
        for disk in disks {
            let (ours, theirs) = UnixStream::pair()?;
            disks::serve(ours, Writable::new(disk.clone(), Arc::clone(&kept), Arc::clone(unread)));
            sockets.push(theirs);
        }
        let mut files =
            vec![their_line.as_fd(), their_console.as_fd(), kernel.as_fd(), first.as_fd()];
        files.extend(sockets.iter().map(|socket| socket.as_fd()));
        let launched = launch::order(ours, launch, &files)?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&said);
        start_thread("files-console", move || hear(console, &hears));
        let running = Running { _launched: launched, said };
        let child = child.0.take().ok_or(io::ErrorKind::NotFound)?;
        Ok(Started { child, line: Line::new(line), running })
    }
}

/// A process that ends with the function that started it, unless that has come to its end.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Keeps the last of what comes.
fn hear(mut from: UnixStream, said: &Mutex<Vec<u8>>) {
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        let mut said = lock(said);
        said.extend(buf.get(..len).unwrap_or_default());
        let over = said.len().saturating_sub(SAID_MAX);
        said.drain(..over);
    }
}
