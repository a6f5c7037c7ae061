//! The check before a machine is protected: obstacles, and what to do about them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use serde::Serialize;
use strongroom_base::Coded as _;
use strongroom_disk::{inspect_source, open_source};
use strongroom_hypervisor::{
    AgentState, Checkpoint, Connection, DiskChoice, DiskFacts, Domain, Facts, Finding, Form,
    HypervisorError, Level, Machine, Snapshot, Source, State,
    agent::{self, GuestAgent},
};

use crate::{backup::select, image, layout, restore};

/// The beginning of the names of our checkpoints, of any vault.
pub(crate) const OURS: &str = "strongroom-";

/// What the findings of a machine come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is as good as it can be.
    Green,
    /// It works, but less well.
    Amber,
    /// It fails.
    Red,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Green => "green",
            Self::Amber => "amber",
            Self::Red => "red",
        })
    }
}

/// What was found of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The machine.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What it comes to.
    pub verdict: Verdict,
    /// What was found, the worst first.
    pub findings: Vec<FindingReport>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingReport {
    /// How bad it is.
    pub level: Level,
    /// Which kind of thing it is, for scripts.
    pub id: &'static str,
    /// What is the case.
    pub what: String,
    /// What to do about it.
    pub what_to_do: String,
}

impl From<Finding> for FindingReport {
    fn from(finding: Finding) -> Self {
        let Finding { level, id, what, what_to_do } = finding;
        Self { level, id, what, what_to_do }
    }
}

/// Checks a machine.
pub fn check(connection: &Connection, domain: &Domain) -> Result<Checked, HypervisorError> {
    let mut machine = Machine::parse(&connection.domain_xml(domain, Form::Present)?)?;
    connection.resolve_volumes(&mut machine);
    let facts = facts(connection, domain, &machine)?;
    let mut findings = facts.check(&machine);
    if connection.uri().is_local() {
        let off = match facts.state {
            State::Off => Ok(machine.clone()),
            _ => Machine::parse(&connection.domain_xml(domain, Form::Inactive)?).map(|mut off| {
                connection.resolve_volumes(&mut off);
                off
            }),
        }?;
        open(&off, facts.state == State::Off, &mut findings);
        findings.extend(open_decision(&off));
        findings.sort_by_key(|finding| Reverse(finding.level));
    }
    Ok(Checked {
        name: machine.name,
        uuid: machine.uuid.to_string(),
        verdict: match Finding::worst(&findings) {
            None | Some(Level::Info) => Verdict::Green,
            Some(Level::Amber) => Verdict::Amber,
            Some(Level::Red) => Verdict::Red,
        },
        findings: findings.into_iter().map(FindingReport::from).collect(),
    })
}

/// That a restore has replaced the machine's disks, and nobody has accepted or undone that.
fn open_decision(machine: &Machine) -> Option<Finding> {
    // What cannot be read there is no matter of a backup.
    let undecided = restore::undecided(machine).ok()??;
    let (name, disks) = (&machine.name, undecided.disks.join(", "));
    let (point, item) = (undecided.recovery_point, &undecided.item);
    let (what, what_to_do) = if undecided.is_done {
        (
            format!(
                "its disks {disks} are those of recovery point {point} of {item}, as layers over its old ones, and nobody has accepted or undone the restore"
            ),
            format!(
                "with the machine off, `strongroom restore accept --vm {name}` keeps them, `strongroom \
                 restore undo --vm {name}` brings the old ones back"
            ),
        )
    } else {
        (
            format!("a restore of its disks {disks} from {point} of {item} was interrupted"),
            format!("run it again, or `strongroom restore undo --vm {name}`"),
        )
    };
    Some(Finding::new(Level::Amber, "restore.open", what, what_to_do))
}

/// Does what a backup of the machine while it is off does before its first write: opens each image,
/// with all that is under it.
fn open(machine: &Machine, is_off: bool, findings: &mut Vec<Finding>) {
    let Ok(selection) = select(&DiskChoice::All, machine, true) else { return };
    let (level, when) = if is_off { (Level::Red, "") } else { (Level::Amber, "once it is off, ") };
    for disk in &selection.chosen {
        let name = format!("{when}disk {} ({})", disk.target, disk.source);
        let encrypted = disk.encryption.is_some().then(|| "it is encrypted".to_owned());
        if let Some(reason) = encrypted.or_else(|| layout::needs_qemu(disk)) {
            let what = format!("{name} can only be read by starting the machine: {reason}");
            let what_to_do = "back it up while the machine runs, or with --start-paused; encrypted \
                 disks also as they lie there, with --encrypted-disks ciphertext";
            findings.push(Finding::new(level, "disk.needs_qemu", what, what_to_do));
            continue;
        }
        let Ok((spec, layout)) = layout::of(disk) else { continue };
        let options = layout::options(layout);
        let opened = if is_off {
            open_source(&spec, &options).map(drop)
        } else {
            inspect_source(&spec, &options)
        };
        if let Err(error) = opened {
            let mut what = format!("{name} cannot be backed up: {error}");
            if let Some(source) = std::error::Error::source(&error) {
                what = format!("{what}: {source}");
            }
            findings.push(Finding::new(level, "disk.unreadable", what, error.code().hint));
        }
    }
}

fn facts(
    connection: &Connection,
    domain: &Domain,
    machine: &Machine,
) -> Result<Facts, HypervisorError> {
    let state = connection.state(domain)?;
    let (libvirt, qemu) = connection.versions()?;
    let checkpoint = |name: String| Checkpoint { is_ours: name.starts_with(OURS), name };
    let mut snapshots = Vec::new();
    for name in connection.snapshots(domain)? {
        let xml = connection.snapshot_xml(domain, &name)?;
        // A snapshot with external parts says so of each disk.
        snapshots.push(Snapshot { is_internal: !xml.contains("snapshot='external'"), name });
    }
    let is_local = connection.uri().is_local();
    let mut disks = BTreeMap::new();
    let mut block_jobs = BTreeSet::new();
    for disk in &machine.disks {
        if is_local && disk.source.path().is_some() {
            let chain = image::chain_of(disk);
            disks.insert(disk.target.clone(), DiskFacts { chain });
        }
        let job = connection.block_job(domain, &disk.target).ok().flatten();
        if disk.mirror.is_some() || job.is_some() {
            block_jobs.insert(disk.target.clone());
        }
    }
    Ok(Facts {
        state,
        is_persistent: connection.is_persistent(domain)?,
        agent: agent_state(connection, domain, machine, state),
        libvirt,
        qemu,
        disks,
        left_out: BTreeSet::new(),
        scratch_free: scratch_free(machine).filter(|_| is_local),
        checkpoints: connection.checkpoints(domain)?.into_iter().map(checkpoint).collect(),
        snapshots,
        block_jobs,
        job: connection.job(domain)?.kind,
        may_be_managed: false,
    })
}

fn agent_state(
    connection: &Connection,
    domain: &Domain,
    machine: &Machine,
    state: State,
) -> AgentState {
    if machine.agent.is_none() {
        return AgentState::NoChannel;
    }
    if !state.is_active() {
        return AgentState::Off;
    }
    match agent::info(&GuestAgent::new(connection, domain)) {
        Ok(info) => AgentState::Connected { version: info.version, commands: info.commands },
        Err(_) => AgentState::NotAnswering,
    }
}

/// Free bytes beside the first disk's image, where scratch files go if nothing else is said.
fn scratch_free(machine: &Machine) -> Option<u64> {
    let path = machine.disks.iter().find_map(|disk| match &disk.source {
        Source::File { path } => Path::new(path).parent(),
        _ => None,
    })?;
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
