//! The agents of hosts whose libvirt is on this machine: this process itself.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use strongroom_api::{self as api, ErrorBody};
use strongroom_base::{HostId, codes, lock, message};
use strongroom_disk::Within;
use strongroom_files::ReaderCommand;
use strongroom_hypervisor::{ConnectUri, HypervisorError, Route, Scope, Settings};
use strongroom_keys::ModuleCommand;
use strongroom_machine::{Places, guard::GuardCommand};
use strongroom_orders::{Agent, Agents, Result};

use crate::{LocalAgent, LocalHost, ServedAccounts, Vaults};

/// What the program knows of the machine that it runs on.
#[derive(Clone, Debug)]
pub struct ThisHost {
    /// Its name.
    pub name: String,
    /// What a connection to libvirt needs to know of our surroundings.
    pub settings: Settings,
    /// Where things are, for machines of libvirt's system daemon.
    pub system_places: Places,
    /// Where things are, for machines of the user's own daemon.
    pub session_places: Places,
    /// How a guard is started.
    pub guard: GuardCommand,
    /// How the process of a token's module is started.
    pub module: ModuleCommand,
    /// How the process that reads file systems is started.
    pub file_reader: ReaderCommand,
    /// Its libvirt, if one is to be used.
    pub connect: Option<String>,
    /// The storage accounts that it serves, if it serves any.
    pub accounts: Option<Arc<dyn ServedAccounts>>,
}

impl ThisHost {
    /// An agent that looks at this machine and shares no vaults with others.
    pub fn agent(&self) -> LocalAgent {
        let host = LocalHost {
            name: self.name.clone(),
            connect: self.connect.as_deref().and_then(|text| text.parse().ok()),
            settings: self.settings.clone(),
            places: self.system_places.clone(),
            guard: self.guard.clone(),
            notes: self.system_places.run.clone(),
            disks: None,
            targets: None,
            allow_backing: Vec::new(),
            boots: self.system_places.run.clone(),
            file_reader: None,
            threads: 1,
        };
        LocalAgent::new(host, Arc::new(Vaults::new(None))).serving(self.accounts.clone())
    }
}

/// What agents may touch here.
#[derive(Debug)]
pub struct Folders {
    /// What may be backed up by path.
    pub disks: Vec<PathBuf>,
    /// Below what may be restored to.
    pub targets: Vec<PathBuf>,
    /// Where begun restores are noted.
    pub notes: PathBuf,
    /// For what machines write that are booted to verify a recovery point.
    pub boots: PathBuf,
}

/// An agent, and what it was made for.
type Known = (Option<String>, Arc<LocalAgent>);

/// Gives hosts their agents.
#[derive(Debug)]
pub struct LocalAgents {
    here: ThisHost,
    vaults: Arc<Vaults>,
    folders: Folders,
    sockets: Vec<PathBuf>,
    threads: usize,
    known: Mutex<HashMap<HostId, Known>>,
}

impl LocalAgents {
    /// Agents that share open vaults with others.
    pub fn new(
        here: ThisHost,
        vaults: Arc<Vaults>,
        folders: Folders,
        sockets: Vec<PathBuf>,
        threads: usize,
    ) -> Self {
        Self { here, vaults, folders, sockets, threads, known: Mutex::default() }
    }
}

impl Agents for LocalAgents {
    fn agent(&self, host: &api::Host) -> Result<Arc<dyn Agent>> {
        let mut known = lock(&self.known);
        if let Some((connect, agent)) = known.get(&host.id)
            && *connect == host.connect
        {
            return Ok(agent.clone());
        }
        let connect = host.connect.as_deref().map(|text| local(text, &self.sockets)).transpose()?;
        let session = connect.as_ref().is_some_and(|uri| uri.scope == Scope::Session);
        let places = if session { &self.here.session_places } else { &self.here.system_places };
        let agent = LocalAgent::new(
            LocalHost {
                name: host.name.clone(),
                connect,
                settings: Settings { trusted_daemons_only: true, ..self.here.settings.clone() },
                places: places.clone(),
                guard: self.here.guard.clone(),
                notes: self.folders.notes.clone(),
                disks: Some(Within::new(self.folders.disks.clone())),
                targets: Some(Within::new(self.folders.targets.clone())),
                allow_backing: self.folders.disks.clone(),
                boots: self.folders.boots.clone(),
                file_reader: Some(self.here.file_reader.clone()),
                threads: self.threads,
            },
            Arc::clone(&self.vaults),
        )
        .serving(self.here.accounts.clone());
        let agent = Arc::new(agent);
        known.insert(host.id, (host.connect.clone(), agent.clone()));
        Ok(agent)
    }
}

/// An address of libvirt on this machine, at one of the sockets that the operator has named if it names
/// one.
fn local(text: &str, sockets: &[PathBuf]) -> Result<ConnectUri> {
    let uri: ConnectUri = text.parse().map_err(|error| {
        let error: HypervisorError = error;
        Box::new(ErrorBody::of(&error))
    })?;
    if let Route::Local { socket } = &uri.route {
        if socket.as_ref().is_none_or(|socket| sockets.contains(socket)) {
            return Ok(uri);
        }
        let message = message!(
            HOST_SOCKET,
            "{uri} is no socket that the server's configuration allows (libvirt_sockets)",
            uri = uri.to_string()
        );
        return Err(Box::new(ErrorBody::from(message)));
    }
    let message =
        "agents on further hosts come later: only the libvirt of this machine can be used";
    Err(Box::new(ErrorBody::new(&codes::FEATURE_MISSING, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_the_configuration_are_used() {
        let named = [PathBuf::from("/run/other/libvirt-sock")];
        for good in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///session?socket=/run/other/libvirt-sock",
        ] {
            local(good, &named).expect(good);
        }
        for (bad, code) in [
            ("qemu+unix:///session?socket=/home/mallory/libvirt-sock", "host.socket"),
            ("qemu+unix:///system?socket=/run/other/../other/libvirt-sock", "host.socket"),
            ("qemu+ssh://kvm2/system", "feature.missing"),
        ] {
            assert_eq!(local(bad, &named).expect_err(bad).code.as_str(), code);
        }
    }
}
