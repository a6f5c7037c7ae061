//! The guard: a separate process that thaws the guest and cleans up if the backup dies.
//!
//! Before a backup touches a machine it starts a guard, and reports each step to the guard before
//! it takes the step. When the backup's process ends without reporting that all is done (killed,
//! crashed, out of memory), the guard thaws the guest, runs the post script, ends the backup job,
//! deletes the checkpoint that belongs to no point and removes the files. While the guest is frozen
//! it also watches the clock, and thaws at the deadline, whatever the backup does.
//!
//! ```text
//!  backup ── watch, script, freeze, thawed, job, committed, done ──▶ guard ──▶ libvirt (its own
//!         ◀───────────────── answers: late or not ──────────────────          connection)
//! ```
//!
//! If libvirt is dead as well, the guard thaws over the socket that QEMU has for the agent.
//!
//! If the guard is killed as well, the next backup of the machine does its work first: what the
//! guard knows is also in a file.

mod hands;
mod serve;
mod thaw;

#[cfg(test)]
mod simulated;

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strongroom_hypervisor::{Connection, Uuid};

pub(crate) use self::hands::{Hands, JobsOf, Libvirt, end_job_at, resume_halted, still_runs};
pub use self::serve::serve;
pub(crate) use self::serve::{Leftovers, clear_leftovers};
pub(crate) use self::thaw::thaw_surely;
use crate::error::{MachineError, Result};

/// How long the guard may take to answer; it does little before it does.
const ANSWER: Duration = Duration::from_secs(30);

/// Messages to the guard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// Which machine. Always the first.
    Watch {
        uri: String,
        runtime_dir: Option<PathBuf>,
        cache_dir: Option<PathBuf>,
        is_root: bool,
        machine: String,
        agent: Option<PathBuf>,
        lock: PathBuf,
    },
    /// If we die, run this in the guest.
    Script { path: String, arguments: Vec<String>, timeout_ms: u64 },
    /// A script runs in the guest as this process.
    ScriptRuns { pid: u64 },
    /// The script was run.
    ScriptDone,
    /// The guest will be frozen, for so long at most.
    Freeze { deadline_ms: u64 },
    /// The guest is thawed: it was checked.
    Thawed,
    /// This run of the machine was started only for the backup: it is switched off in the end.
    SwitchOff { run: i32 },
    /// A backup job will be started that serves at this socket, with this checkpoint; these are its
    /// files. A machine that runs must still run after it.
    Job { socket: PathBuf, checkpoint: Option<String>, files: Vec<PathBuf>, runs: bool },
    /// The point is published: its checkpoint stays, these go.
    Committed { superseded: Vec<String> },
    /// All is done that the backup could do.
    Done,
}

/// What the guard answers to every order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Answer {
    /// Whether it had to thaw at the deadline.
    late: bool,
    /// Whether something is left for it to do, after the last order.
    goes_on: bool,
    /// Why the order cannot be kept, if that is so. Then it cleans up and ends.
    failed: Option<String>,
}

/// Leads to a guard.
trait Line {
    /// Gives an order and waits for the answer.
    fn exchange(&mut self, order: &Order) -> io::Result<Answer>;

    /// Waits for the guard's end.
    fn wait(&mut self) -> io::Result<()>;
}

/// A running guard.
pub(crate) struct Guard(Box<dyn Line>);

/// A guard that is a process.
struct Process {
    child: Child,
    orders: UnixStream,
    answers: BufReader<UnixStream>,
}

/// How a guard is started: our own program with words that make it one.
#[derive(Clone, Debug)]
pub struct GuardCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Guard {
    /// Starts a guard for a machine. `agent` is the socket of its guest's agent, `lock` the file that
    /// says that a guard is at work.
    pub(crate) fn start(
        command: &GuardCommand,
        connection: &Connection,
        machine: Uuid,
        agent: Option<&Path>,
        lock: &Path,
    ) -> Result<Self> {
        let failed = |source| local_error(&command.program, source);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        let output: OwnedFd = theirs.try_clone().map_err(failed)?.into();
        let child = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output))
            // What it says goes nowhere that could block or end it.
            .stderr(Stdio::null())
            // Ctrl-C at a terminal goes to all of a group: not to the guard.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let answers = BufReader::new(ours.try_clone().map_err(failed)?);
        let mut guard = Self(Box::new(Process { child, orders: ours, answers }));
        let settings = connection.settings();
        guard.send(&Order::Watch {
            uri: connection.uri().to_string(),
            runtime_dir: settings.runtime_dir.clone(),
            cache_dir: settings.cache_dir.clone(),
            is_root: settings.is_root,
            machine: machine.to_string(),
            agent: agent.map(ToOwned::to_owned),
            lock: lock.to_owned(),
        })?;
        Ok(guard)
    }

    /// If we die, this script runs in the guest.
    pub(crate) fn register_script(
        &mut self,
        path: &str,
        arguments: &[String],
        timeout: Duration,
    ) -> Result<()> {
        self.send(&Order::Script {
            path: path.to_owned(),
            arguments: arguments.to_vec(),
            timeout_ms: millis(timeout),
        })
        .map(drop)
    }

    /// A script, the one that is owed or the one before it, runs in the guest as this process.
    pub(crate) fn script_runs(&mut self, pid: u64) {
        if let Err(error) = self.send(&Order::ScriptRuns { pid }) {
            tracing::warn!(%error, "the guard does not know of a script");
        }
    }

    /// The script was run.
    pub(crate) fn script_done(&mut self) -> Result<()> {
        self.send(&Order::ScriptDone).map(drop)
    }

    /// The guest will be frozen; the guard thaws it after `longest`.
    pub(crate) fn freeze(&mut self, longest: Duration) -> Result<()> {
        self.send(&Order::Freeze { deadline_ms: millis(longest) }).map(drop)
    }

    /// The guest is thawed. True if the guard had to do it at the deadline.
    pub(crate) fn thawed(&mut self) -> Result<bool> {
        Ok(self.send(&Order::Thawed)?.late)
    }

    /// If we die, this run of the machine is switched off.
    pub(crate) fn switch_off(&mut self, run: i32) -> Result<()> {
        self.send(&Order::SwitchOff { run }).map(drop)
    }

    /// A job will be started.
    pub(crate) fn job(
        &mut self,
        socket: &Path,
        checkpoint: Option<&str>,
        files: &[PathBuf],
        runs: bool,
    ) -> Result<()> {
        let checkpoint = checkpoint.map(ToOwned::to_owned);
        let (socket, files) = (socket.to_owned(), files.to_vec());
        self.send(&Order::Job { socket, checkpoint, files, runs }).map(drop)
    }

    /// The point is published; these checkpoints are of no more use.
    pub(crate) fn committed(&mut self, superseded: &[String]) -> Result<()> {
        self.send(&Order::Committed { superseded: superseded.to_vec() }).map(drop)
    }

    /// The guard ends, unless the guest is still owed a thaw or a script.
    pub(crate) fn done(mut self) -> Result<()> {
        if self.send(&Order::Done)?.goes_on {
            tracing::warn!("the guard continues: the guest still needs a thaw or a script");
            return Ok(());
        }
        self.0.wait().map_err(|source| local_error(Path::new("the guard"), source))
    }

    fn send(&mut self, order: &Order) -> Result<Answer> {
        let answer = self.0.exchange(order).and_then(|answer| match answer.failed {
            Some(reason) => Err(io::Error::other(reason)),
            None => Ok(answer),
        });
        answer.map_err(|source| local_error(Path::new("the guard"), source))
    }
}

impl Line for Process {
    fn exchange(&mut self, order: &Order) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.orders.write_all(&line)?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the guard has ended"));
        }
        Ok(serde_json::from_str(&answer)?)
    }

    fn wait(&mut self) -> io::Result<()> {
        self.child.wait().map(drop)
    }
}

fn local_error(program: &Path, source: io::Error) -> MachineError {
    MachineError::Local { action: "work with", path: program.display().to_string(), source }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
