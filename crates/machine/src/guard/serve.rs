//! The guard's own side.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
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
use crate::{backup::switch_off, orphans};

/// How long the guard tries to thaw and to clean up. A libvirt that is being upgraded comes back in
/// this time; a guest whose agent is dead does not come back by trying longer.
const PATIENCE: Duration = Duration::from_hours(1);

/// How long a backup tries to clean up what an earlier one and its guard have left.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// What is to be put right if the backup dies. It is kept in a file as well, for the case that the
/// guard dies too.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Debts {
    /// The guest may be frozen.
    frozen: bool,
    /// A script that the guest is owed: path, arguments and milliseconds.
    script: Option<(String, Vec<String>, u64)>,
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

/// Does a guard's work: reads orders from `stream` and answers them, until it is told that all is
/// done or until whoever gives orders has died; then it cleans up.
pub fn serve(stream: &UnixStream) -> io::Result<()> {
    let mut orders = BufReader::new(stream.try_clone()?);
    let mut watch: Option<Watch> = None;
    loop {
        let left = watch.as_ref().and_then(Watch::time_left);
        stream.set_read_timeout(left)?;
        let mut line = String::new();
        match orders.read_line(&mut line) {
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
        let order: Order = serde_json::from_str(&line)?;
        if matches!(order, Order::Done) {
            if let Some(watch) = watch.take() {
                fs::remove_file(&watch.file).ok();
            }
            answer(stream, false)?;
            break;
        }
        let late = match (&mut watch, order) {
            (None, Order::Watch { uri, runtime_dir, cache_dir, is_root, machine, lock }) => {
                let settings = Settings { runtime_dir, cache_dir, is_root };
                watch = Some(Watch::begin(&uri, settings, &machine, &lock)?);
                false
            }
            (Some(watch), order) => watch.note(order)?,
            (None, _) => return Err(io::Error::other("the first order names no machine")),
        };
        // If nobody reads it any more, the next read says so.
        answer(stream, late).ok();
    }
    if let Some(mut watch) = watch {
        watch.clean_up(PATIENCE);
    }
    Ok(())
}

/// Does what a guard that died itself has left to do. True if there was something.
pub(crate) fn clear_leftovers(connection: &Connection, machine: Uuid, lock: &Path) -> bool {
    let file = debts_file(lock);
    let Ok(text) = fs::read(&file) else { return false };
    // A file that was torn by a power cut is of a host whose machines are all new.
    let debts: Debts = serde_json::from_slice(&text).unwrap_or_default();
    let mut watch = Watch {
        uri: connection.uri().clone(),
        settings: connection.settings().clone(),
        machine,
        connection: None,
        deadline: None,
        late: false,
        debts,
        file,
        _lock: None,
    };
    watch.clean_up(LEFTOVERS);
    true
}

/// The file of debts beside the guard's lock.
fn debts_file(lock: &Path) -> PathBuf {
    lock.with_extension("debts")
}

fn answer(mut stream: &UnixStream, late: bool) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer { late })?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Watch {
    fn begin(uri: &str, settings: Settings, machine: &str, lock: &Path) -> io::Result<Self> {
        let file = debts_file(lock);
        let lock = File::options().create(true).write(true).truncate(false).open(lock)?;
        flock(&lock, FlockOperation::LockShared)?;
        let uri: ConnectUri = uri.parse().map_err(io::Error::other)?;
        let machine = machine.parse().map_err(io::Error::other)?;
        let connection = Connection::open(&uri, &settings).map_err(io::Error::other)?;
        Ok(Self {
            uri,
            settings,
            machine,
            connection: Some(connection),
            deadline: None,
            late: false,
            debts: Debts::default(),
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
            Order::ScriptDone => debts.script = None,
            Order::Freeze { deadline_ms } => {
                let longest = Duration::from_millis(deadline_ms);
                self.deadline = Some(SystemClock.monotonic().saturating_add(longest));
                self.late = false;
                debts.frozen = true;
            }
            Order::Thawed => {
                self.deadline = None;
                debts.frozen = false;
                late = std::mem::take(&mut self.late);
            }
            Order::SwitchOff { run } => debts.switch_off = Some(run),
            Order::Job { socket, checkpoint, files } => {
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
        fs::write(&new, serde_json::to_vec(&self.debts)?)?;
        fs::rename(&new, &self.file)
    }

    /// Thaws, because the backup has not done so in time.
    fn time_is_over(&mut self) {
        if self.deadline.take().is_some() {
            self.late = true;
            // The backup may thaw at the same time: both only stop when the guest says it is so.
            self.thaw(PATIENCE);
        }
    }

    fn thaw(&mut self, patience: Duration) {
        let (uri, settings) = (self.uri.clone(), self.settings.clone());
        let open = move || Connection::open(&uri, &settings);
        if let Err(error) = thaw_surely(&mut self.connection, &open, self.machine, patience) {
            tracing::error!(%error, machine = %self.machine, "the guest stays frozen");
        }
    }

    /// Leaves the machine as it was before the backup.
    fn clean_up(&mut self, patience: Duration) {
        if self.debts.frozen {
            self.thaw(patience);
        }
        let started = SystemClock.monotonic();
        let mut pause = Duration::from_millis(100);
        while let Err(error) = self.try_clean_up() {
            tracing::warn!(%error, machine = %self.machine, "cleaning up is tried again");
            if self.connection.as_ref().is_some_and(Connection::is_broken) {
                self.connection = None;
            }
            if SystemClock.monotonic().saturating_sub(started) > patience {
                // What is kept in the file is done before the next backup.
                return;
            }
            SystemClock.sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_secs(5));
        }
        fs::remove_file(&self.file).ok();
    }

    /// Each step, once done, is not done again.
    fn try_clean_up(&mut self) -> Result<(), HypervisorError> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.uri, &self.settings)?);
        }
        let Some(connection) = &self.connection else { return Ok(()) };
        if let Some(domain) = connection.domain_by_uuid(self.machine)? {
            let is_active = connection.state(&domain)?.is_active();
            if let Some((path, arguments, timeout)) = self.debts.script.take()
                && is_active
            {
                let guest = GuestAgent::new(connection, &domain);
                let timeout = Duration::from_millis(timeout);
                let ran = crate::consistency::run_script(&guest, &path, &arguments, timeout);
                if let Err(error) = ran {
                    tracing::warn!(%error, "the post script failed");
                }
            }
            if let Some(socket) = &self.debts.socket {
                end_job_at(connection, &domain, &socket.display().to_string())?;
                self.debts.socket = None;
            }
            if is_active {
                delete_checkpoints(connection, &domain, &self.debts.orphans)?;
            }
            // Those of a machine that is off are deleted by its next backup.
            self.debts.orphans.clear();
            switch_off(connection, self.machine, self.debts.switch_off)?;
        }
        for file in self.debts.files.drain(..) {
            // Most are gone with the job.
            fs::remove_dir_all(&file).or_else(|_| fs::remove_file(&file)).ok();
        }
        Ok(())
    }
}

/// Ends the job that serves at `socket`, and no other.
pub(crate) fn end_job_at(
    connection: &Connection,
    domain: &Domain,
    socket: &str,
) -> Result<(), HypervisorError> {
    match connection.backup_xml(domain)? {
        Some(xml) if xml.contains(socket) => connection.end_job(domain),
        _ => Ok(()),
    }
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
