//! The guard's side: reads the backup's messages, watches the clock, cleans up.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use strongroom_base::{Clock as _, SystemClock};
use strongroom_hypervisor::{
    ConnectUri, Connection, Domain, HypervisorError, Settings, Uuid, agent::GuestAgent,
};

use super::{Answer, Order, thaw_surely};
use crate::{backup::switch_off, consistency::run_script, orphans};

/// How long the guard tries to thaw and to clean up. A libvirt that is being upgraded comes back in
/// this time; a guest whose agent is dead does not come back by trying longer.
const PATIENCE: Duration = Duration::from_hours(1);

/// How long a backup tries to clean up what an earlier one and its guard have left.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// How long the guard tries to run a script whose agent does not answer.
const SCRIPT: Duration = Duration::from_mins(2);

/// How long a job may take to end. Usually it is a moment; but when a guest restarts during a
/// backup, libvirt 9 waits twice for half a minute before it looks at what QEMU says.
const END: Duration = Duration::from_secs(75);

/// How long thawing is tried before everything else is.
const THAW: Duration = Duration::from_secs(10);

/// The most bytes of an order: scripts' arguments and paths of files are the longest in it.
const MAX_ORDER: u64 = 1 << 20;

/// What is to be put right if the backup dies. It is kept in a file as well, for the case that the
/// guard dies too.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Debts {
    /// The guest may be frozen.
    frozen: bool,
    /// It may be frozen by an earlier backup, which could not thaw it.
    frozen_before: bool,
    /// A script that the guest is owed: path, arguments and milliseconds.
    script: Option<(String, Vec<String>, u64)>,
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
struct Watch {
    uri: ConnectUri,
    settings: Settings,
    machine: Uuid,
    /// The socket of the guest's agent, if libvirt is dead.
    agent: Option<PathBuf>,
    /// A connection that was open before anything was frozen.
    connection: Option<Connection>,
    /// When the guest has to be thawed.
    deadline: Option<Duration>,
    /// Whether it was thawed because the time was over.
    late: bool,
    debts: Debts,
    /// Where the debts are kept.
    file: PathBuf,
    /// Held while the guard is at work.
    _lock: Option<File>,
}

/// Does a guard's work: reads orders from `stream` and answers them, until the backup reports that
/// all is done or dies; then it cleans up.
pub fn serve(stream: &UnixStream) -> io::Result<()> {
    let mut orders = BufReader::new(stream.try_clone()?);
    let mut watch: Option<Watch> = None;
    loop {
        let left = watch.as_ref().and_then(Watch::time_left);
        stream.set_read_timeout(left)?;
        let mut line = String::new();
        match (&mut orders).take(MAX_ORDER).read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {
                // A line comes in one piece: orders are short and written at once.
                if let Some(watch) = &mut watch {
                    watch.time_is_over();
                }
                continue;
            }
            Err(_) => break,
        }
        // Whoever gives orders that make no sense, or that cannot be kept, is as good as dead: what
        // was begun is put right.
        let Ok(order) = serde_json::from_str::<Order>(&line) else { break };
        if matches!(order, Order::Done) {
            let goes_on = watch.as_mut().is_some_and(Watch::is_in_debt);
            if !goes_on && let Some(watch) = watch.take() {
                watch.end();
            }
            answer(stream, &Answer { goes_on, ..Answer::default() }).ok();
            break;
        }
        let kept = match (&mut watch, order) {
            (None, Order::Watch { uri, runtime_dir, cache_dir, is_root, machine, agent, lock }) => {
                // Whoever gives the orders has talked to this daemon already.
                let trusted_daemons_only = false;
                let settings = Settings { runtime_dir, cache_dir, is_root, trusted_daemons_only };
                Watch::begin(&uri, settings, &machine, agent, &lock).map(|begun| {
                    watch = Some(begun);
                    false
                })
            }
            (Some(watch), order) => watch.note(order),
            (None, _) => Err(io::Error::other("the first order names no machine")),
        };
        let said = match &kept {
            Ok(late) => Answer { late: *late, ..Answer::default() },
            Err(error) => Answer { failed: Some(error.to_string()), ..Answer::default() },
        };
        // If nobody reads it any more, the next read says so.
        answer(stream, &said).ok();
        if kept.is_err() {
            break;
        }
    }
    if let Some(mut watch) = watch {
        watch.clean_up(PATIENCE);
    }
    Ok(())
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
    let file = debts_file(lock);
    let Some(mut debts) = read_debts(&file) else { return Leftovers::None };
    debts.frozen |= std::mem::take(&mut debts.frozen_before);
    let mut watch = Watch {
        uri: connection.uri().clone(),
        settings: connection.settings().clone(),
        machine,
        // Whoever comes here has libvirt.
        agent: None,
        connection: None,
        deadline: None,
        late: false,
        debts,
        file,
        _lock: None,
    };
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

fn answer(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Watch {
    fn begin(
        uri: &str,
        settings: Settings,
        machine: &str,
        agent: Option<PathBuf>,
        lock: &Path,
    ) -> io::Result<Self> {
        let file = debts_file(lock);
        let lock = File::options().create(true).write(true).truncate(false).open(lock)?;
        flock(&lock, FlockOperation::LockShared)?;
        let uri: ConnectUri = uri.parse().map_err(io::Error::other)?;
        let machine = machine.parse().map_err(io::Error::other)?;
        let connection = Connection::open(&uri, &settings).map_err(io::Error::other)?;
        // What could not be put right before is kept in mind, but is not this backup's.
        let before = read_debts(&file).is_some_and(|debts| debts.frozen || debts.frozen_before);
        Ok(Self {
            uri,
            settings,
            machine,
            agent,
            connection: Some(connection),
            deadline: None,
            late: false,
            debts: Debts { frozen_before: before, ..Debts::default() },
            file,
            _lock: Some(lock),
        })
    }

    fn time_left(&self) -> Option<Duration> {
        let left = self.deadline?.saturating_sub(SystemClock.monotonic());
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
                self.deadline = Some(SystemClock.monotonic().saturating_add(longest));
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
        let (uri, settings) = (self.uri.clone(), self.settings.clone());
        let open = move || Connection::open(&uri, &settings);
        let agent = self.agent.as_deref();
        match thaw_surely(&mut self.connection, &open, self.machine, agent, patience) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, machine = %self.machine, "the guest stays frozen");
                false
            }
        }
    }

    /// Leaves the machine as it was before the backup. False if not all of it could be done in
    /// time: that is kept in the file, for the next backup.
    fn clean_up(&mut self, patience: Duration) -> bool {
        let started = SystemClock.monotonic();
        let since = || SystemClock.monotonic().saturating_sub(started);
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
                    tracing::warn!(%error, machine = %self.machine, "cleaning up is tried again");
                }
            }
            self.save().ok();
            if since() > patience {
                return false;
            }
            SystemClock.sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_secs(5));
        }
    }

    /// Each step, once done, is not done again.
    fn try_clean_up(&mut self, more_tries: bool) -> Result<(), HypervisorError> {
        let connection = match &self.connection {
            Some(connection) => connection,
            None => self.connection.insert(Connection::open(&self.uri, &self.settings)?),
        };
        let debts = &mut self.debts;
        let domain = connection.domain_by_uuid(self.machine)?;
        let mut is_active = false;
        if let Some(domain) = &domain {
            is_active = connection.state(domain)?.is_active();
            if let Some(socket) = &debts.socket {
                end_job_at(connection, domain, &socket.display().to_string())?;
                debts.socket = None;
            }
            if is_active {
                delete_checkpoints(connection, domain, &debts.orphans)?;
                if std::mem::take(&mut debts.runs) {
                    resume_halted(connection, domain)?;
                }
            }
            // Those of a machine that is off are deleted by its next backup.
            debts.orphans.clear();
            switch_off(connection, self.machine, debts.switch_off)?;
        }
        for file in debts.files.drain(..) {
            // Most are gone with the job.
            fs::remove_dir_all(&file).or_else(|_| fs::remove_file(&file)).ok();
        }
        // While it is frozen, the agent runs nothing.
        if debts.frozen && is_active {
            return Ok(());
        }
        if let (Some(domain), Some((path, arguments, timeout))) = (&domain, debts.script.take())
            && is_active
        {
            let guest = GuestAgent::new(connection, domain);
            let time = Duration::from_millis(timeout);
            let ran = run_script(&guest, &path, &arguments, time, debts.running);
            if let Err(error) = ran {
                tracing::warn!(%error, "the post script failed");
                if error.is_agents && more_tries {
                    debts.script = Some((path, arguments, timeout));
                }
            }
        }
        Ok(())
    }
}

/// Lets a machine go on that stands still because space for its backup has run out.
pub(crate) fn resume_halted(
    connection: &Connection,
    domain: &Domain,
) -> Result<(), HypervisorError> {
    if connection.is_halted_by_a_write(domain)? {
        connection.resume(domain)?;
    }
    Ok(())
}

/// Ends the job that serves at `socket`, and no other, and waits until it has ended.
pub(crate) fn end_job_at(
    connection: &Connection,
    domain: &Domain,
    socket: &str,
) -> Result<(), HypervisorError> {
    let runs = || {
        let xml = connection.backup_xml(domain)?;
        Ok::<_, HypervisorError>(xml.is_some_and(|xml| xml.contains(socket)))
    };
    if !runs()? {
        return Ok(());
    }
    connection.end_job(domain)?;
    let deadline = SystemClock.monotonic().saturating_add(END);
    // libvirt only tells QEMU to end it.
    while runs()? && SystemClock.monotonic() < deadline {
        SystemClock.sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Deletes those of `names` that there are.
pub(crate) fn delete_checkpoints(
    connection: &Connection,
    domain: &Domain,
    names: &[String],
) -> Result<(), HypervisorError> {
    let known = connection.checkpoints(domain)?;
    for name in names.iter().filter(|name| known.contains(name)) {
        orphans::delete(connection, domain, name)?;
    }
    Ok(())
}
