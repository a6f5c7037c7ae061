//! The guard's side: reads the backup's messages, watches the clock, cleans up.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use strongroom_base::Clock;
use strongroom_hypervisor::{ConnectUri, Connection, HypervisorError, Settings, Uuid};

use super::{Answer, Hands, Libvirt, Order, end_job_at, still_runs, thaw_surely};

/// How long the guard tries to thaw and to clean up. A libvirt that is being upgraded comes back in
/// this time; a guest whose agent is dead does not come back by trying longer.
const PATIENCE: Duration = Duration::from_hours(1);

/// How long a backup tries to clean up what an earlier one and its guard have left.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// How long the guard tries to run a script whose agent does not answer.
const SCRIPT: Duration = Duration::from_mins(2);

/// How long thawing is tried before everything else is.
const THAW: Duration = Duration::from_secs(10);

/// The most bytes of an order: scripts' arguments and paths of files are the longest in it.
const MAX_ORDER: u64 = 1 << 20;

/// A script of the guest: its path, its arguments, and how many milliseconds it may take.
pub(super) type Script = (String, Vec<String>, u64);

/// What is to be put right if the backup dies. It is kept in a file as well, for the case that the
/// guard dies too.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Debts {
    /// The guest may be frozen.
    frozen: bool,
    /// It may be frozen by an earlier backup, which could not thaw it.
    frozen_before: bool,
    /// A script that the guest is owed.
    script: Option<Script>,
    /// The process of the script that was started last.
    running: Option<u64>,
    /// The machine ran: a job whose space has run out must not leave it standing still.
    runs: bool,
    /// The socket of the backup job.
    socket: Option<PathBuf>,
    /// The job's files.
    files: Vec<PathBuf>,
    /// The run of the machine that was started only for the backup.
    #[serde(default)]
    switch_off: Option<i32>,
    /// Checkpoints that belong to no point, should we die now.
    orphans: Vec<String>,
}

/// What the guard knows.
pub(super) struct Watch<'a> {
    hands: Box<dyn Hands + 'a>,
    clock: &'a dyn Clock,
    /// When the guest has to be thawed.
    deadline: Option<Duration>,
    /// Whether it was thawed at the deadline.
    late: bool,
    debts: Debts,
    /// Where the debts are kept.
    file: PathBuf,
    /// Held while the guard is at work.
    _lock: Option<File>,
}

/// What a guard receives.
pub(super) enum Heard {
    /// An order.
    Order(Order),
    /// Nothing for as long as it wanted to wait.
    Silence,
    /// The backup has died, or gives orders that are not valid, which means the same.
    End,
}

/// Where orders come from.
pub(super) trait Orders {
    /// Waits for an order, for so long at most.
    fn hear(&mut self, patience: Option<Duration>) -> Heard;

    /// Answers the last order. If nobody reads it any more, the next [`Self::hear`] says so.
    fn answer(&mut self, answer: &Answer);
}

/// Orders that come as lines of JSON over a socket.
struct Lines<'a> {
    stream: &'a UnixStream,
    orders: BufReader<UnixStream>,
}

impl Orders for Lines<'_> {
    fn hear(&mut self, patience: Option<Duration>) -> Heard {
        let mut line = String::new();
        let read = self.stream.set_read_timeout(patience);
        match read.and_then(|()| (&mut self.orders).take(MAX_ORDER).read_line(&mut line)) {
            Ok(0) => Heard::End,
            Ok(_) => serde_json::from_str(&line).map_or(Heard::End, Heard::Order),
            // A line comes in one piece: orders are short and written at once.
            Err(error) if is_timeout(&error) => Heard::Silence,
            Err(_) => Heard::End,
        }
    }

    fn answer(&mut self, answer: &Answer) {
        let Ok(mut line) = serde_json::to_vec(answer) else { return };
        line.push(b'\n');
        self.stream.write_all(&line).ok();
    }
}

/// Does a guard's work: reads orders from `stream` and answers them, until an order says that all is
/// done, or until the backup has died; then it cleans up.
pub fn serve(stream: &UnixStream, clock: &Arc<dyn Clock>) -> io::Result<()> {
    let mut lines = Lines { stream, orders: BufReader::new(stream.try_clone()?) };
    attend(&mut lines, &mut |order| match order {
        Order::Watch { uri, runtime_dir, cache_dir, is_root, machine, agent, lock } => {
            // The backup has talked to this daemon already.
            let trusted_daemons_only = false;
            let settings = Settings {
                clock: Arc::clone(clock),
                runtime_dir,
                cache_dir,
                is_root,
                trusted_daemons_only,
            };
            let uri: ConnectUri = uri.parse().map_err(io::Error::other)?;
            let machine = machine.parse().map_err(io::Error::other)?;
            Watch::begin(&lock, &**clock, || {
                let connection = Connection::open(&uri, &settings).map_err(io::Error::other)?;
                // Open before anything is frozen.
                let connection = Some(connection);
                Ok(Box::new(Libvirt::new((uri, settings), machine, agent, connection)))
            })
        }
        _ => Err(io::Error::other("the first order names no machine")),
    });
    Ok(())
}

/// Does as it is ordered. The first order makes the watch.
pub(super) fn attend<'a>(
    orders: &mut dyn Orders,
    begin: &mut dyn FnMut(Order) -> io::Result<Watch<'a>>,
) {
    let mut watch: Option<Watch<'a>> = None;
    loop {
        let left = watch.as_ref().and_then(Watch::time_left);
        let order = match orders.hear(left) {
            Heard::Order(order) => order,
            Heard::Silence => {
                if let Some(watch) = &mut watch {
                    watch.time_is_over();
                }
                continue;
            }
            Heard::End => break,
        };
        if matches!(order, Order::Done) {
            let goes_on = watch.as_mut().is_some_and(Watch::is_in_debt);
            if !goes_on && let Some(watch) = watch.take() {
                watch.end();
            }
            orders.answer(&Answer { goes_on, ..Answer::default() });
            break;
        }
        let kept = match &mut watch {
            None => begin(order).map(|begun| {
                watch = Some(begun);
                false
            }),
            Some(watch) => watch.note(order),
        };
        // Orders that cannot be kept are the last: what was begun is put right.
        orders.answer(&match &kept {
            Ok(late) => Answer { late: *late, ..Answer::default() },
            Err(error) => Answer { failed: Some(error.to_string()), ..Answer::default() },
        });
        if kept.is_err() {
            break;
        }
    }
    if let Some(mut watch) = watch {
        watch.clean_up(PATIENCE);
    }
}

/// What became of what an earlier backup and its guard had left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// There was nothing.
    None,
    /// It is done.
    Cleared,
    /// Not all of it could be done: the guest may be frozen.
    Remain,
}

/// Does what a guard that died itself has left to do.
pub(crate) fn clear_leftovers(connection: &Connection, machine: Uuid, lock: &Path) -> Leftovers {
    let libvirt = (connection.uri().clone(), connection.settings().clone());
    // An order to be here needs libvirt.
    clear(Box::new(Libvirt::new(libvirt, machine, None, None)), connection.clock(), lock)
}

/// As [`clear_leftovers`], by these hands.
pub(super) fn clear(hands: Box<dyn Hands + '_>, clock: &dyn Clock, lock: &Path) -> Leftovers {
    let file = debts_file(lock);
    let Some(mut debts) = read_debts(&file) else { return Leftovers::None };
    debts.frozen |= std::mem::take(&mut debts.frozen_before);
    let mut watch = Watch { hands, clock, deadline: None, late: false, debts, file, _lock: None };
    if watch.clean_up(LEFTOVERS) { Leftovers::Cleared } else { Leftovers::Remain }
}

fn read_debts(file: &Path) -> Option<Debts> {
    let text = fs::read(file).ok()?;
    // A file that was torn by a power cut is of a host whose machines are all new.
    Some(serde_json::from_slice(&text).unwrap_or_default())
}

/// The file of debts beside the guard's lock.
fn debts_file(lock: &Path) -> PathBuf {
    lock.with_extension("debts")
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl<'a> Watch<'a> {
    /// Begins to watch, by the hands that `reach` gives.
    pub(super) fn begin(
        lock: &Path,
        clock: &'a dyn Clock,
        reach: impl FnOnce() -> io::Result<Box<dyn Hands + 'a>>,
    ) -> io::Result<Self> {
        let file = debts_file(lock);
        let lock = File::options().create(true).write(true).truncate(false).open(lock)?;
        flock(&lock, FlockOperation::LockShared)?;
        let hands = reach()?;
        // What could not be put right before is kept in mind, but is not this backup's.
        let before = read_debts(&file).is_some_and(|debts| debts.frozen || debts.frozen_before);
        let debts = Debts { frozen_before: before, ..Debts::default() };
        Ok(Self { hands, clock, deadline: None, late: false, debts, file, _lock: Some(lock) })
    }

    fn time_left(&self) -> Option<Duration> {
        let left = self.deadline?.saturating_sub(self.clock.monotonic());
        Some(left.max(Duration::from_millis(1)))
    }

    fn note(&mut self, order: Order) -> io::Result<bool> {
        let mut late = false;
        let debts = &mut self.debts;
        match order {
            Order::Script { path, arguments, timeout_ms } => {
                debts.script = Some((path, arguments, timeout_ms));
            }
            Order::ScriptRuns { pid } => debts.running = Some(pid),
            Order::ScriptDone => {
                debts.script = None;
                debts.running = None;
            }
            Order::Freeze { deadline_ms } => {
                let longest = Duration::from_millis(deadline_ms);
                self.deadline = Some(self.clock.monotonic().saturating_add(longest));
                debts.frozen = true;
            }
            Order::Thawed => {
                self.deadline = None;
                debts.frozen = false;
                debts.frozen_before = false;
                late = std::mem::take(&mut self.late);
            }
            Order::SwitchOff { run } => debts.switch_off = Some(run),
            Order::Job { socket, checkpoint, files, runs } => {
                debts.runs = runs;
                debts.socket = Some(socket);
                debts.files = files;
                debts.orphans = checkpoint.into_iter().collect();
            }
            Order::Committed { superseded } => debts.orphans = superseded,
            Order::Watch { .. } | Order::Done => {}
        }
        self.save()?;
        Ok(late)
    }

    /// Keeps the debts, before what makes them is done.
    fn save(&self) -> io::Result<()> {
        let new = self.file.with_extension("new");
        let saved = fs::write(&new, serde_json::to_vec(&self.debts)?)
            .and_then(|()| fs::rename(&new, &self.file));
        saved.map_err(|error| {
            fs::remove_file(&new).ok();
            let file = self.file.display();
            io::Error::new(error.kind(), format!("it cannot keep what it owes in {file}: {error}"))
        })
    }

    /// After the last order: whether the guest is owed a thaw or a script. The rest the backup has
    /// done itself.
    fn is_in_debt(&mut self) -> bool {
        let debts = &mut self.debts;
        debts.socket = None;
        debts.files.clear();
        debts.orphans.clear();
        debts.frozen || debts.script.is_some()
    }

    /// Forgets what is done; what could not be done by backups before this one stays in the file.
    fn end(&self) {
        if self.debts.frozen_before {
            self.save().ok();
        } else {
            fs::remove_file(&self.file).ok();
        }
    }

    /// Thaws, because the backup has not done so in time.
    fn time_is_over(&mut self) {
        if self.deadline.take().is_some() {
            self.late = true;
            // The backup may thaw at the same time: both only stop when the guest says it is so.
            self.thaw(PATIENCE);
        }
    }

    fn thaw(&mut self, patience: Duration) -> bool {
        let thawed = thaw_surely(&mut *self.hands, self.clock, patience);
        if let Err(error) = &thawed {
            tracing::error!(%error, debts = %self.file.display(), "the guest stays frozen");
        }
        thawed.is_ok()
    }

    /// Leaves the machine as it was before the backup. False if not all of it could be done in
    /// time: that is kept in the file, for the next backup.
    fn clean_up(&mut self, patience: Duration) -> bool {
        let clock = self.clock;
        let started = clock.monotonic();
        let since = || clock.monotonic().saturating_sub(started);
        let mut pause = Duration::from_millis(100);
        loop {
            // An agent that is dead must not keep the job from being ended.
            if self.debts.frozen && self.thaw(THAW.min(patience)) {
                self.debts.frozen = false;
            }
            let done = self.try_clean_up(since() < SCRIPT.min(patience));
            match done {
                Ok(()) if !self.debts.frozen && self.debts.script.is_none() => {
                    self.end();
                    return true;
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "cleaning up is tried again");
                }
            }
            self.save().ok();
            if since() > patience {
                return false;
            }
            clock.sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_secs(5));
        }
    }

    /// Each step, once done, is not done again.
    fn try_clean_up(&mut self, more_tries: bool) -> Result<(), HypervisorError> {
        let (hands, debts) = (&mut *self.hands, &mut self.debts);
        let found = hands.find()?;
        let is_on = found == Some(true);
        if found.is_some() {
            if let Some(socket) = &debts.socket {
                if !end_job_at(hands, self.clock, &socket.display().to_string())? {
                    return Err(still_runs());
                }
                debts.socket = None;
            }
            if is_on {
                hands.delete_checkpoints(&debts.orphans)?;
                if debts.runs {
                    hands.resume_halted()?;
                    debts.runs = false;
                }
            }
            // Those of a machine that is off are deleted by its next backup.
            debts.orphans.clear();
            if let Some(run) = debts.switch_off {
                hands.switch_off(run)?;
            }
        }
        for file in debts.files.drain(..) {
            // Most are gone with the job.
            fs::remove_dir_all(&file).or_else(|_| fs::remove_file(&file)).ok();
        }
        // While it is frozen, the agent runs nothing.
        if debts.frozen && is_on {
            return Ok(());
        }
        if let Some(script) = debts.script.take()
            && is_on
            && let Err(error) = hands.run_script(&script, debts.running)
        {
            tracing::warn!(%error, "the post script failed");
            if error.is_agents && more_tries {
                debts.script = Some(script);
            }
        }
        Ok(())
    }
}
