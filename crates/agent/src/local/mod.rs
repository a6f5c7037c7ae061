//! The agent of the host that the program itself runs on.

mod at_work;
mod backup;
mod begun;
pub(crate) mod boot;
mod incremental;
mod restore;
pub(crate) mod sources;
mod transfer;

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use strongroom_api::{
    BlobAccess, Check, ErrorBody, ProtectableDisk, ProtectableItem, Report, RestoreDecision,
};
use strongroom_base::{HostId, codes, message};
use strongroom_disk::Within;
use strongroom_files::ReaderCommand;
use strongroom_hypervisor::{ConnectUri, Connection, Settings};
use strongroom_machine::{
    DiscoveredMachine, MachineError, Places,
    guard::GuardCommand,
    restore::{Decision, finish},
};
use strongroom_orders::{
    Agent, BackupDone, BackupOrder, BootDone, BootOrder, CheckOrder, DrillDone, DrillOrder,
    FinishDone, FinishOrder, HostFacts, IncrementalDone, IncrementalOrder, ORDERS_VERSION,
    RestoreDone, RestoreOrder, Result, TransferOrder, Watch,
};

use self::at_work::AtWork;
use crate::{
    Vaults,
    accounts::{Accounts, ServedAccounts},
    error::body,
};

/// What an agent must know of its host; nothing of it is looked for in the environment.
#[derive(Clone, Debug)]
pub struct LocalHost {
    /// The host's name, for recovery points.
    pub name: String,
    /// Its libvirt; none if only disks are protected.
    pub connect: Option<ConnectUri>,
    /// What a connection needs to know of our surroundings.
    pub settings: Settings,
    /// Where things are.
    pub places: Places,
    /// How a guard is started.
    pub guard: GuardCommand,
    /// Where it is noted which restores were begun; survives a start of the host.
    pub notes: PathBuf,
    /// What may be backed up by path, and no link leads out of; none: anything.
    pub disks: Option<Within>,
    /// Below what disks may be restored to, and no link leads out of; none: anywhere.
    pub targets: Option<Within>,
    /// Folders whose files images by path may refer to as backing or data files.
    pub allow_backing: Vec<PathBuf>,
    /// Folder for what machines write that are booted to verify a recovery point; libvirt's QEMU must reach it.
    pub boots: PathBuf,
    /// How the process that reads file systems is started; none: file systems are not looked at.
    pub file_reader: Option<ReaderCommand>,
    /// Threads for hashing and compressing.
    pub threads: usize,
}

/// The agent of this host.
///
/// Orders block, and several may be given at once, on different threads; one that is given again while it is
/// at work waits for its end. An order that is cancelled
/// ends soon, with the error `interrupted`, and leaves machines and disks as [`Agent`] says. A
/// part that an order was at when it failed gets no event of its end: the error says so.
#[derive(Debug)]
pub struct LocalAgent {
    host: LocalHost,
    vaults: Arc<Vaults>,
    accounts: Option<Arc<dyn ServedAccounts>>,
    at_work: AtWork,
}

impl LocalAgent {
    /// An agent for a host; it shares open vaults with others.
    pub fn new(host: LocalHost, vaults: Arc<Vaults>) -> Self {
        Self { host, vaults, accounts: None, at_work: AtWork::default() }
    }

    /// The same with the storage accounts that the host serves.
    #[must_use]
    pub fn serving(self, accounts: Option<Arc<dyn ServedAccounts>>) -> Self {
        Self { accounts, ..self }
    }

    /// Storage accounts as an order reaches them.
    fn accounts<'a>(&'a self, access: Option<&'a BlobAccess>) -> Accounts<'a> {
        Accounts {
            served: self.accounts.as_deref(),
            access,
            clock: Arc::clone(&self.host.settings.clock),
            entropy: self.vaults.options().entropy,
        }
    }

    /// A connection of its own: calls on one wait for each other.
    fn connect(&self) -> Result<Connection> {
        match &self.host.connect {
            Some(uri) => Connection::open(uri, &self.host.settings).map_err(body),
            None => Err(Box::new(ErrorBody::from(message!(
                HOST_LACKS,
                "{host} was given no libvirt, so only disks can be protected",
                host = self.host.name
            )))),
        }
    }
}

impl Agent for LocalAgent {
    fn hello(&self) -> Result<HostFacts> {
        let mut facts = HostFacts {
            host: self.host.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            orders: ORDERS_VERSION,
            libvirt: None,
            qemu: None,
        };
        if self.host.connect.is_some() {
            let (libvirt, qemu) = self.connect()?.versions().map_err(body)?;
            facts.libvirt = Some(version(libvirt));
            facts.qemu = Some(version(qemu));
        }
        Ok(facts)
    }

    fn discover(&self, _watch: &Watch) -> Result<Vec<ProtectableItem>> {
        if self.host.connect.is_none() {
            return Ok(Vec::new());
        }
        let machines = strongroom_machine::discover(&self.connect()?).map_err(body)?;
        let now = self.host.settings.clock.now();
        Ok(machines.into_iter().map(|machine| found(machine, now)).collect())
    }

    fn check(&self, order: &CheckOrder) -> Result<Check> {
        sources::of(&order.source).check(self)
    }

    fn backup(&self, order: &BackupOrder, watch: &Watch) -> Result<BackupDone> {
        let _turn = self.at_work.begin(order.id(), &watch.cancel)?;
        self.back_up(order, watch)
    }

    fn transfer(&self, order: &TransferOrder, watch: &Watch) -> Result<BackupDone> {
        let _turn = self.at_work.begin(order.order.clone(), &watch.cancel)?;
        self.copy(order, watch)
    }

    fn incremental_backup(
        &self,
        order: &IncrementalOrder,
        watch: &Watch,
    ) -> Result<IncrementalDone> {
        let _turn = self.at_work.begin(order.order.clone(), &watch.cancel)?;
        if watch.cancel.is_cancelled() {
            return Err(Box::new(ErrorBody::new(
                &codes::INTERRUPTED,
                "it was stopped before it began",
            )));
        }
        self.make_incremental_backup(order, watch)
    }

    fn restore(&self, order: &RestoreOrder, watch: &Watch) -> Result<RestoreDone> {
        let _turn = self.at_work.begin(order.id(), &watch.cancel)?;
        self.bring_back(order, watch)
    }

    fn verify_boot(&self, order: &BootOrder, watch: &Watch) -> Result<BootDone> {
        let _turn = self.at_work.begin(order.id(), &watch.cancel)?;
        self.boot(order, watch)
    }

    fn drill(&self, order: &DrillOrder, watch: &Watch) -> Result<DrillDone> {
        let _turn = self.at_work.begin(order.id(), &watch.cancel)?;
        self.drill_now(order, watch)
    }

    fn finish(&self, order: &FinishOrder) -> Result<FinishDone> {
        let decision = match order.decision {
            RestoreDecision::Accept => Decision::Accept,
            RestoreDecision::Undo => Decision::Undo,
        };
        let places = &self.host.places;
        let entropy = self.vaults.options().entropy;
        finished(finish(&self.connect()?, places, &order.machine, decision, &*entropy))
    }
}

/// What becomes of an order to finish. That there is nothing to decide is its end too; any other failure
/// leaves it to be decided still.
fn finished(done: Result<impl Into<Report>, MachineError>) -> Result<FinishDone> {
    match done {
        Ok(report) => Ok(FinishDone::Finished(report.into())),
        Err(MachineError::NotReplaced { .. }) => Ok(FinishDone::DecidedBefore),
        Err(error) => Err(body(error)),
    }
}

/// libvirt's numbers: major × 1,000,000 + minor × 1,000 + release.
fn version(number: u64) -> String {
    let part = |unit: u64| number.checked_div(unit).unwrap_or(0) % 1000;
    format!("{}.{}.{}", part(1_000_000), part(1000), part(1))
}

fn found(machine: DiscoveredMachine, now: Timestamp) -> ProtectableItem {
    let disks = machine.disks.into_iter().map(|disk| ProtectableDisk {
        name: disk.name,
        source: disk.source,
        format: disk.format,
        size_bytes: disk.size_bytes,
        tracks_changes: disk.tracks_changes,
        os_disk: disk.os_disk,
        left_out: disk.left_out,
    });
    ProtectableItem {
        host: HostId::from_bytes([0; 16]),
        name: machine.name,
        uuid: machine.uuid,
        state: machine.state.to_owned(),
        agent: machine.agent.to_owned(),
        firmware: machine.firmware.to_owned(),
        manager: machine.manager,
        disks: disks.collect(),
        protected_by: None,
        discovered: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strongroom_orders::FinishDone as D;

    #[test]
    fn only_a_decision_that_was_made_ends_an_order_to_finish() {
        let machine = || "web".to_owned();
        let done = |error| finished(Err::<Report, _>(error));
        assert_eq!(done(MachineError::NotReplaced { machine: machine() }), Ok(D::DecidedBefore));
        // As of a host that is reached over ssh: it has done nothing.
        let reason = "a machine is restored on the host that runs it".to_owned();
        let error = done(MachineError::Unsupported { machine: machine(), reason });
        assert_eq!(error.expect_err("it waits still").code.as_str(), "vm.unsupported");
        assert_eq!(finished(Ok(Report::default())), Ok(D::Finished(Report::default())));
    }

    #[test]
    fn versions() {
        assert_eq!(version(9_000_000), "9.0.0");
        assert_eq!(version(10_002_013), "10.2.13");
    }
}
