//! Restores: machines, disks, and the disks of machines that are there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_api::{
    DiskFormat, ErrorBody, PowerAfter, Restore, RestoreDisks, RestoreMachine, RestoreReplace,
    RestoredBefore, StopFirst, TaskName, TaskState,
};
use strongroom_base::message;
use strongroom_disk::{DiskSpec, ImageFormat};
use strongroom_format::Manifest;
use strongroom_hypervisor::Connection;
use strongroom_machine::{
    MachineBackup, MachineError,
    restore::{
        self, DisksRestore, Identity, MachineRestore, MachineRestoreReport, Placement, Power,
        Replace, Stop, Storage,
    },
};
use strongroom_orders::{PointFacts, RestoreDone, RestoreOrder, Result, Watch};
use strongroom_vault::Vault;

use super::{LocalAgent, backup::JOB, begun::Begun, sources};
use crate::{
    error::{body, of_source},
    facts::{point_facts, warning},
};

/// An order with all that it needs.
struct Work<'a> {
    agent: &'a LocalAgent,
    order: &'a RestoreOrder,
    vault: Arc<Vault>,
    point: Manifest,
    watch: &'a Watch,
}

impl LocalAgent {
    /// Restores a machine or disks.
    pub(super) fn bring_back(&self, order: &RestoreOrder, watch: &Watch) -> Result<RestoreDone> {
        watch.task(TaskName::Prepare, TaskState::InProgress, None);
        let open = self.vaults.open(&order.vault).map_err(body)?;
        let vault = Arc::clone(&open.vault);
        let point = vault.restorable_point(&order.item, order.point).map_err(body)?;
        let work = Work { agent: self, order, vault, point, watch };
        let mut done = match &order.restore {
            Restore::Machine(wanted) => work.machine(wanted),
            Restore::Disks(wanted) => work.disks(wanted),
            Restore::Replace(wanted) => work.replace(wanted),
        }?;
        done.warnings.extend(open.warnings.iter().map(warning));
        watch.task(TaskName::Restore, TaskState::Completed, None);
        Ok(done)
    }
}

impl Work<'_> {
    /// All is there: what follows writes.
    fn prepared(&self) {
        self.watch.task(TaskName::Prepare, TaskState::Completed, None);
        self.watch.task(TaskName::Restore, TaskState::InProgress, None);
    }

    fn disks(&self, wanted: &RestoreDisks) -> Result<RestoreDone> {
        let host = &self.agent.host;
        let request = DisksRestore {
            folder: wanted.folder.as_ref().map(PathBuf::from),
            named: wanted.targets.iter().map(target).collect(),
            disks: wanted.disks.clone(),
            format: wanted.format.map(image_format),
            in_place: wanted.in_place,
            within: host.targets.clone(),
            template: Some(host.places.swtpm.clone()),
            threads: host.threads,
            limit_rate: self.order.limit_rate,
        };
        let prepared = restore::prepare_disks(&self.vault, &self.point, request).map_err(body)?;
        self.prepared();
        let report = prepared.run(&self.watch.progress, &self.watch.cancel).map_err(body)?;
        Ok(RestoreDone { warnings: Vec::new(), safety_point: None, report: report.into() })
    }

    fn machine(&self, wanted: &RestoreMachine) -> Result<RestoreDone> {
        let connection = self.agent.connect()?;
        let request = self.new_machine(wanted)?;
        let configuration = restore::configuration(&self.vault, &self.point).map_err(body)?;
        let name = request.name.clone().unwrap_or(configuration.record.name);
        let (progress, cancel) = (&self.watch.progress, &self.watch.cancel);
        let restore = || {
            let how = if wanted.instant { restore::instant } else { restore::restore };
            how(&self.vault, &connection, &self.point, &request, progress, cancel)
        };
        let all = wanted.disks.is_empty();
        if wanted.dry_run {
            self.prepared();
            return Ok(self.machine_done(restore().map_err(body)?, all, None));
        }
        let begun = Begun::of(&self.agent.host.notes, self.order.job);
        match connection.domain(&name) {
            // It runs already, and its restore continues.
            Ok(_)
                if wanted.instant
                    && restore::find_instant(&connection, &name).map_err(body)?.is_some() =>
            {
                begun.write(&*self.agent.host.settings.clock)?;
            }
            Ok(_) => {}
            Err(error) if error.is_missing() => begun.write(&*self.agent.host.settings.clock)?,
            Err(error) => return Err(body(error)),
        }
        self.prepared();
        match restore() {
            Ok(report) => Ok(self.machine_done(report, all, None)),
            Err(MachineError::Exists { .. }) if begun.again && connection.domain(&name).is_ok() => {
                self.done_before(&connection, &name, request.power, None)
            }
            Err(error) => {
                begun.forget();
                Err(body(error))
            }
        }
    }

    fn replace(&self, wanted: &RestoreReplace) -> Result<RestoreDone> {
        let connection = self.agent.connect()?;
        let machine = match &wanted.machine {
            Some(machine) => machine.clone(),
            None => sources::of(&self.order.source).machine()?.to_owned(),
        };
        let request = MachineRestore {
            disks: wanted.disks.clone(),
            storage: self.placements(&wanted.storage_dirs, &BTreeMap::new())?,
            power: power(wanted.power),
            ..self.empty()
        };
        let safety = (!wanted.no_safety_point).then(|| Box::new(self.safety_point()));
        let replace = Replace { machine: Some(machine.clone()), stop: stop(wanted.stop), safety };
        let begun = Begun::of(&self.agent.host.notes, self.order.job);
        let all = wanted.disks.is_empty();
        match self.look(&connection, &request, &replace) {
            Ok(plan) if wanted.dry_run => {
                self.prepared();
                return Ok(self.machine_done(plan, all, None));
            }
            Ok(_) => {}
            Err(MachineError::Unfinished { .. }) if begun.again => {
                let safety = self.made_safety_point()?;
                return self.done_before(&connection, &machine, request.power, safety);
            }
            Err(error) => {
                begun.forget();
                return Err(self.of_source(wanted, error));
            }
        }
        begun.write(&*self.agent.host.settings.clock)?;
        self.prepared();
        let (progress, cancel) = (&self.watch.progress, &self.watch.cancel);
        let replaced = restore::replace(
            &self.vault,
            &connection,
            &self.point,
            &request,
            &replace,
            progress,
            cancel,
        );
        match replaced {
            Ok(report) => {
                let safety = report.safety_point;
                let safety = safety.map(|id| self.vault.point(&self.order.item, id));
                let safety = safety.transpose().map_err(body)?;
                Ok(self.machine_done(report, all, safety.as_ref().map(point_facts)))
            }
            Err(error) => {
                begun.forget();
                Err(self.of_source(wanted, error))
            }
        }
    }

    /// How the disks of a machine would be replaced; nothing is done.
    fn look(
        &self,
        connection: &Connection,
        request: &MachineRestore,
        replace: &Replace,
    ) -> Result<MachineRestoreReport, MachineError> {
        let request = MachineRestore { dry_run: true, ..request.clone() };
        let begun = Begun::of(&self.agent.host.notes, self.order.job);
        // If an earlier run has come to its end, the machine may run again.
        let stop = if begun.again { Stop::PowerOff } else { replace.stop };
        let replace = Replace { stop, safety: None, ..replace.clone() };
        let (progress, cancel) = (&self.watch.progress, &self.watch.cancel);
        restore::replace(&self.vault, connection, &self.point, &request, &replace, progress, cancel)
    }

    /// The machine that the item protects is its source; another is not.
    fn of_source(&self, wanted: &RestoreReplace, error: MachineError) -> Box<ErrorBody> {
        match wanted.machine {
            None => of_source(&*sources::of(&self.order.source), error),
            Some(_) => body(error),
        }
    }

    /// How the state before a replacement is backed up.
    fn safety_point(&self) -> MachineBackup {
        let tag = |key: &str, value: String| (key.to_owned(), value);
        MachineBackup {
            start_paused: true,
            tags: [
                tag("reason", "before-restore".to_owned()),
                tag(JOB, self.order.job.to_string()),
            ]
            .into(),
            limit_rate: self.order.limit_rate,
            ..self.agent.machine_backup("")
        }
    }

    /// The safety point that an earlier run of the order has made.
    fn made_safety_point(&self) -> Result<Option<PointFacts>> {
        let job = self.order.job.to_string();
        let is_it = |point: &Manifest| point.tags.get(JOB) == Some(&job);
        let found = self.vault.find_point(&self.order.item, 0, is_it).map_err(body)?;
        Ok(found.as_ref().map(point_facts))
    }

    /// An earlier run of the order has come to its end, except perhaps for the start of the machine.
    fn done_before(
        &self,
        connection: &Connection,
        machine: &str,
        power: Power,
        safety_point: Option<PointFacts>,
    ) -> Result<RestoreDone> {
        let domain = connection.domain(machine).map_err(body)?;
        let state = connection.state(&domain).map_err(body)?;
        if power != Power::Off && !state.is_active() {
            connection.start(&domain, power == Power::Paused).map_err(body)?;
        }
        let report = RestoredBefore {
            recovery_point: self.point.id,
            item: self.point.item.clone(),
            machine: domain.name,
            uuid: domain.uuid.to_string(),
            host: connection.uri().to_string(),
            safety_point: safety_point.as_ref().map(|point| point.id),
            done_before: true,
        };
        Ok(RestoreDone { warnings: Vec::new(), safety_point, report: report.into() })
    }

    /// A machine is restored; `all` of its disks were asked for.
    fn machine_done(
        &self,
        report: MachineRestoreReport,
        all: bool,
        safety_point: Option<PointFacts>,
    ) -> RestoreDone {
        // That it has no disks that nobody asked for is no news.
        let left = report
            .left_behind
            .iter()
            .filter(|left| all || !self.point.disks.iter().any(|disk| disk.name == left.name));
        let warnings = left.map(|left| {
            let message = message!(
                RESTORE_DIFFERS,
                "{disk}: {reason}",
                disk = left.name,
                reason = left.reason
            );
            ErrorBody::from(message)
        });
        let warnings = warnings.collect();
        RestoreDone { warnings, safety_point, report: report.into() }
    }

    fn new_machine(&self, wanted: &RestoreMachine) -> Result<MachineRestore> {
        let networks = wanted.networks.iter().map(|text| text.parse());
        Ok(MachineRestore {
            disks: wanted.disks.clone(),
            name: wanted.name.clone(),
            identity: if wanted.same_identity { Identity::Same } else { Identity::New },
            storage: self.placements(&wanted.storage_dirs, &wanted.pools)?,
            format: wanted.format.map(image_format),
            networks: networks.collect::<Result<_, _>>().map_err(body)?,
            links_down: wanted.links_down,
            machine_type: wanted.machine_type.clone(),
            cpu: wanted.cpu.clone(),
            with_secrets: wanted.with_secrets,
            power: match power(wanted.power) {
                Power::Off if wanted.instant => Power::Start,
                power => power,
            },
            dry_run: wanted.dry_run,
            ..self.empty()
        })
    }

    /// Where disks go, as far as their folders are where they are said to be. libvirt gets their names.
    fn placements(
        &self,
        folders: &BTreeMap<String, String>,
        pools: &BTreeMap<String, String>,
    ) -> Result<Vec<Placement>> {
        if let Some(within) = &self.agent.host.targets {
            for folder in folders.values() {
                within.check_folder(Path::new(folder)).map_err(body)?;
            }
        }
        placements(folders, pools)
    }

    /// A restore of which nothing is said.
    fn empty(&self) -> MachineRestore {
        let host = &self.agent.host;
        MachineRestore {
            disks: Vec::new(),
            name: None,
            identity: Identity::New,
            storage: Vec::new(),
            format: None,
            networks: Vec::new(),
            links_down: false,
            machine_type: None,
            cpu: None,
            with_secrets: false,
            autostart: None,
            power: Power::Off,
            dry_run: false,
            threads: host.threads,
            limit_rate: self.order.limit_rate,
            places: host.places.clone(),
        }
    }
}

/// A path, whatever it looks like: it was allowed as one.
fn target((disk, path): (&String, &String)) -> (String, DiskSpec) {
    (disk.clone(), DiskSpec::from_path(path))
}

/// Where disks go, each said once. `*` is all others.
fn placements(
    folders: &BTreeMap<String, String>,
    pools: &BTreeMap<String, String>,
) -> Result<Vec<Placement>> {
    if let Some(twice) = folders.keys().find(|disk| pools.contains_key(*disk)) {
        let message = message!(
            REQUEST_INVALID,
            "disk {disk} has a folder and a pool; give one of them",
            disk = twice
        );
        return Err(Box::new(ErrorBody::from(message)));
    }
    let place = |disk: &String, storage| {
        let disk = (disk != "*").then(|| disk.clone());
        Placement { disk, storage }
    };
    let folders = folders.iter().map(|(disk, at)| place(disk, Storage::Folder(PathBuf::from(at))));
    let pools = pools.iter().map(|(disk, pool)| place(disk, Storage::Pool(pool.clone())));
    Ok(folders.chain(pools).collect())
}

const fn image_format(format: DiskFormat) -> ImageFormat {
    match format {
        DiskFormat::Raw => ImageFormat::Raw,
        DiskFormat::Qcow2 => ImageFormat::Qcow2,
    }
}

const fn power(after: Option<PowerAfter>) -> Power {
    match after {
        None | Some(PowerAfter::Off) => Power::Off,
        Some(PowerAfter::Start) => Power::Start,
        Some(PowerAfter::Paused) => Power::Paused,
    }
}

const fn stop(first: Option<StopFirst>) -> Stop {
    match first {
        None | Some(StopFirst::Refuse) => Stop::Refuse,
        Some(StopFirst::ShutDown) => Stop::ShutDown,
        Some(StopFirst::PowerOff) => Stop::PowerOff,
    }
}
