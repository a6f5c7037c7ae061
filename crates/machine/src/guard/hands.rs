//! What leaves a machine unharmed: thawing its guest, ending its backup job, and the rest. By libvirt, and
//! by the socket that QEMU has for the agent; in tests by a simulated host.

use std::{path::PathBuf, sync::Arc, time::Duration};

use strongroom_base::Clock;
use strongroom_hypervisor::{
    AgentSocket, ConnectUri, Connection, Domain, HypervisorError, Settings, Uuid,
    agent::{self, Agent, FreezeStatus, GuestAgent, QUICK},
};

use super::serve::Script;
use crate::{backup::switch_off, consistency, orphans};

/// How long a job may take to end. Usually it is a moment; but when a guest restarts during a
/// backup, libvirt 9 waits twice for half a minute before it looks at what QEMU says.
const END: Duration = Duration::from_secs(75);

/// The backup jobs of a machine.
pub(crate) trait Jobs {
    /// Whether the job that runs serves at this socket.
    fn serves_at(&mut self, socket: &str) -> Result<bool, HypervisorError>;

    /// Tells the job that runs to end.
    fn end(&mut self) -> Result<(), HypervisorError>;
}

/// All that a guard does to a machine. Each may fail, and is then tried again.
pub(crate) trait Hands: Jobs {
    /// One try to thaw: true if it is known that nothing is frozen.
    fn thaw(&mut self) -> Result<bool, HypervisorError>;

    /// Looks for the machine: whether it is on; none if there is none. The other hands are for the machine
    /// that was found.
    fn find(&mut self) -> Result<Option<bool>, HypervisorError>;

    /// Deletes those checkpoints of these names that there are.
    fn delete_checkpoints(&mut self, names: &[String]) -> Result<(), HypervisorError>;

    /// Resumes a machine that stands still because space for its backup has run out.
    fn resume_halted(&mut self) -> Result<(), HypervisorError>;

    /// Switches the machine off, if this is still the run that was started for the backup.
    fn switch_off(&mut self, run: i32) -> Result<(), HypervisorError>;

    /// Runs a script in the guest; a script that runs there as the process `running` is killed before. The
    /// error says whether the agent failed, so that nobody knows what the script did.
    fn run_script(
        &mut self,
        script: &Script,
        running: Option<u64>,
    ) -> Result<(), consistency::ScriptFailure>;
}

/// Ends the job that serves at `socket`, and no other, and waits until it has ended. False if it has not
/// ended in time.
pub(crate) fn end_job_at(
    jobs: &mut dyn Jobs,
    clock: &dyn Clock,
    socket: &str,
) -> Result<bool, HypervisorError> {
    if !jobs.serves_at(socket)? {
        return Ok(true);
    }
    jobs.end()?;
    let deadline = clock.monotonic().saturating_add(END);
    // libvirt only tells QEMU to end it.
    while jobs.serves_at(socket)? {
        if clock.monotonic() >= deadline {
            return Ok(false);
        }
        clock.sleep(Duration::from_millis(10));
    }
    Ok(true)
}

/// The error of a job that has not ended in time.
pub(crate) fn still_runs() -> HypervisorError {
    HypervisorError::Timeout { action: "ending the backup job", seconds: END.as_secs() }
}

/// The jobs of a machine, over a connection that is open.
#[derive(Clone, Copy)]
pub(crate) struct JobsOf<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) domain: &'a Domain,
}

impl Jobs for JobsOf<'_> {
    fn serves_at(&mut self, socket: &str) -> Result<bool, HypervisorError> {
        let xml = self.connection.backup_xml(self.domain)?;
        Ok(xml.is_some_and(|xml| xml.contains(socket)))
    }

    fn end(&mut self) -> Result<(), HypervisorError> {
        self.connection.end_job(self.domain)
    }
}

/// Resumes a machine that stands still because space for its backup has run out.
pub(crate) fn resume_halted(
    connection: &Connection,
    domain: &Domain,
) -> Result<(), HypervisorError> {
    if connection.is_halted_by_an_error(domain)? {
        connection.resume(domain)?;
    }
    Ok(())
}

/// A machine of a libvirt.
pub(crate) struct Libvirt {
    uri: ConnectUri,
    settings: Settings,
    machine: Uuid,
    /// The socket of the guest's agent, if libvirt is dead.
    agent: Option<PathBuf>,
    connection: Option<Connection>,
    domain: Option<Domain>,
}

impl Libvirt {
    /// The machine, over a connection that is opened when it is needed, unless one is given.
    pub(crate) fn new(
        (uri, settings): (ConnectUri, Settings),
        machine: Uuid,
        agent: Option<PathBuf>,
        connection: Option<Connection>,
    ) -> Self {
        Self { uri, settings, machine, agent, connection, domain: None }
    }

    fn open(&mut self) -> Result<&Connection, HypervisorError> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(Connection::open(&self.uri, &self.settings)?)),
        }
    }

    /// The connection and the machine that was found last.
    fn found(&mut self) -> Result<(&Connection, &Domain), HypervisorError> {
        self.open()?;
        match (&self.connection, &self.domain) {
            (Some(connection), Some(domain)) => Ok((connection, domain)),
            _ => Err(HypervisorError::NoDomain {
                uri: self.uri.to_string(),
                name: self.machine.to_string(),
            }),
        }
    }

    fn thaw_through_libvirt(&mut self) -> Result<bool, HypervisorError> {
        if self.find()? != Some(true) {
            return Ok(true);
        }
        let (connection, domain) = self.found()?;
        thaw(&GuestAgent::new(connection, domain))
    }

    /// Thaws without libvirt. Where that is alive, QEMU does not let us talk to the agent.
    fn thaw_over_socket(&self) -> bool {
        let Some(socket) = &self.agent else { return false };
        let thawed = AgentSocket::open(socket, QUICK, Arc::clone(&self.settings.clock))
            .and_then(|agent| thaw(&agent));
        if let Err(error) = &thawed {
            tracing::debug!(%error, "not thawed without libvirt");
        }
        thawed.unwrap_or(false)
    }
}

/// True if the agent says that it is thawed.
pub(super) fn thaw(guest: &dyn Agent) -> Result<bool, HypervisorError> {
    if agent::freeze_status(guest)? == FreezeStatus::Thawed {
        return Ok(true);
    }
    agent::thaw(guest, QUICK)?;
    Ok(agent::freeze_status(guest)? == FreezeStatus::Thawed)
}

impl Jobs for Libvirt {
    fn serves_at(&mut self, socket: &str) -> Result<bool, HypervisorError> {
        let (connection, domain) = self.found()?;
        JobsOf { connection, domain }.serves_at(socket)
    }

    fn end(&mut self) -> Result<(), HypervisorError> {
        let (connection, domain) = self.found()?;
        JobsOf { connection, domain }.end()
    }
}

impl Hands for Libvirt {
    fn thaw(&mut self) -> Result<bool, HypervisorError> {
        // One that is started when somebody connects may keep us waiting for long.
        let is_dead = self.connection.as_ref().is_some_and(Connection::has_ended);
        if is_dead && self.thaw_over_socket() {
            return Ok(true);
        }
        match self.thaw_through_libvirt() {
            Err(error) if error.is_connection() && self.thaw_over_socket() => Ok(true),
            other => other,
        }
    }

    fn find(&mut self) -> Result<Option<bool>, HypervisorError> {
        let machine = self.machine;
        let connection = self.open()?;
        let domain = connection.domain_by_uuid(machine)?;
        let is_on = match &domain {
            Some(domain) => Some(connection.state(domain)?.is_active()),
            None => None,
        };
        self.domain = domain;
        Ok(is_on)
    }

    fn delete_checkpoints(&mut self, names: &[String]) -> Result<(), HypervisorError> {
        let (connection, domain) = self.found()?;
        let known = connection.checkpoints(domain)?;
        for name in names.iter().filter(|name| known.contains(name)) {
            orphans::delete(connection, domain, name)?;
        }
        Ok(())
    }

    fn resume_halted(&mut self) -> Result<(), HypervisorError> {
        let (connection, domain) = self.found()?;
        resume_halted(connection, domain)
    }

    fn switch_off(&mut self, run: i32) -> Result<(), HypervisorError> {
        let machine = self.machine;
        switch_off(self.open()?, machine, Some(run))
    }

    fn run_script(
        &mut self,
        script: &Script,
        running: Option<u64>,
    ) -> Result<(), consistency::ScriptFailure> {
        let found = self.found().map_err(|error| consistency::ScriptFailure::of_agent(&error))?;
        let guest = GuestAgent::new(found.0, found.1);
        let time = Duration::from_millis(script.2);
        consistency::run_script(&guest, &script.0, &script.1, time, running)
    }
}
