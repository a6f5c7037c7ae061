//! Errors of work on machines.

use std::io;

use strongroom_base::{Code, Coded, Params, codes, params, words};
use strongroom_disk::DiskError;
use strongroom_engine::EngineError;
use strongroom_hypervisor::HypervisorError;
use strongroom_vault::VaultError;

use crate::restore::MachineRestoreReport;

/// A result of this crate.
pub(crate) type Result<T> = std::result::Result<T, MachineError>;

/// Why a machine was not backed up or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// libvirt.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The engine.
    #[error(transparent)]
    Engine(Box<EngineError>),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Another operation is in the way.
    #[error("{machine} is busy: {reason}")]
    Busy {
        /// The machine.
        machine: String,
        /// With what.
        reason: String,
    },
    /// The machine is not in a state for this.
    #[error("{machine} is {state}: {reason}")]
    State {
        /// The machine.
        machine: String,
        /// What it is doing.
        state: &'static str,
        /// Why that is in the way.
        reason: String,
    },
    /// The machine, or a part of it, cannot be backed up or restored like this.
    #[error("{machine}: {reason}")]
    Unsupported {
        /// The machine.
        machine: String,
        /// Why.
        reason: String,
    },
    /// No restore that has replaced the machine's disks is to be decided on.
    #[error("{machine}: no replacement of its disks waits for a decision")]
    NotReplaced {
        /// The machine.
        machine: String,
    },
    /// What was asked for contradicts itself, or lacks something.
    #[error("{reason}")]
    Choice {
        /// In which way.
        reason: String,
    },
    /// Somebody else's machine.
    #[error("{machine} is managed by {manager}")]
    Managed {
        /// The machine.
        machine: String,
        /// Whose.
        manager: String,
    },
    /// The consistency that was required could not be had.
    #[error("{machine} did not reach the required consistency ({wanted}): {reason}")]
    Consistency {
        /// The machine.
        machine: String,
        /// What was required.
        wanted: &'static str,
        /// What failed.
        reason: String,
    },
    /// The guest may be frozen.
    #[error("{machine}: its file systems could not be thawed: {reason}")]
    NotThawed {
        /// The machine.
        machine: String,
        /// Why not.
        reason: String,
    },
    /// A script that may not fail has failed.
    #[error("{machine}: the {script} script failed: {reason}")]
    Script {
        /// The machine.
        machine: String,
        /// `pre` or `post`.
        script: &'static str,
        /// How.
        reason: String,
    },
    /// No room for what the guest overwrites.
    #[error("{machine}: scratch space in {folder}: {reason}")]
    Scratch {
        /// The machine.
        machine: String,
        /// Where.
        folder: String,
        /// What ran out.
        reason: String,
    },
    /// It changed while it was backed up.
    #[error("{machine} changed during the backup: {reason}")]
    Changed {
        /// The machine.
        machine: String,
        /// How.
        reason: String,
    },
    /// The host lacks what the machine needs.
    #[error("{host} cannot run {machine}: {reason}")]
    HostLacks {
        /// The host.
        host: String,
        /// The machine.
        machine: String,
        /// What is missing, all of it.
        reason: String,
    },
    /// The item has points of another machine.
    #[error(
        "item {item} of the vault belongs to another machine, {machine} ({uuid}): name another item with --item, or this item if it is the same machine, created again"
    )]
    Taken {
        /// The item.
        item: String,
        /// The other machine's name.
        machine: String,
        /// Its UUID.
        uuid: String,
    },
    /// There is a machine of that name or identity already.
    #[error("the host {host} already has a machine {name}")]
    Exists {
        /// The host.
        host: String,
        /// Name or UUID.
        name: String,
    },
    /// No room for what is restored.
    #[error("{machine}: {folder} has {} free, {} are needed", words::bytes(*free), words::bytes(*needed))]
    NoRoom {
        /// The machine.
        machine: String,
        /// Where.
        folder: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// A file is in the way.
    #[error("{machine}: {path} exists already")]
    InTheWay {
        /// The machine.
        machine: String,
        /// The file.
        path: String,
    },
    /// An earlier restore has not come to its end.
    #[error("{machine}: {reason} (noted in {note})")]
    Unfinished {
        /// The machine.
        machine: String,
        /// Which restore.
        reason: String,
        /// The file that says so.
        note: String,
    },
    /// libvirt does not take the machine whose disks are restored.
    #[error(
        "the disks of {machine} are restored, but libvirt does not accept its description, which is in {description}"
    )]
    NotDefined {
        /// The machine.
        machine: String,
        /// A file with the description.
        description: String,
        /// Why.
        source: Box<HypervisorError>,
    },
    /// A machine that was restored does not start.
    #[error("{} is restored, but does not start", report.machine)]
    NotStarted {
        /// What was restored.
        report: Box<MachineRestoreReport>,
        /// Why.
        source: Box<HypervisorError>,
    },
    /// An instant restore was stopped on request.
    #[error("stopped on request: {machine} is paused until its restore continues")]
    Held {
        /// The machine.
        machine: String,
    },
    /// A recovery point is not of a machine, or its configuration cannot be read.
    #[error("recovery point {point}: {reason}")]
    Configuration {
        /// The point.
        point: String,
        /// Why.
        reason: String,
    },
    /// A local file or process of ours failed.
    #[error("cannot {action} {path}")]
    Local {
        /// The verb.
        action: &'static str,
        /// The path or program.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// Stopped on request.
    #[error("stopped on request")]
    Interrupted,
}

impl MachineError {
    /// Whether the vault failed, which nothing that happens to the machine can cause.
    pub(crate) fn is_of_vault(&self) -> bool {
        match self {
            Self::Vault(_) => true,
            Self::Engine(error) => !error.is_of_disk(),
            _ => false,
        }
    }
}

impl From<EngineError> for MachineError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Interrupted => Self::Interrupted,
            error => Self::Engine(Box::new(error)),
        }
    }
}

impl Coded for MachineError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Hypervisor(error) => error.code(),
            Self::Disk(error) => error.code(),
            Self::Engine(error) => error.code(),
            Self::Vault(error) => error.code(),
            Self::Choice { .. } => &codes::USAGE_INVALID,
            Self::Busy { .. } => &codes::VM_BUSY,
            Self::State { .. } => &codes::VM_STATE,
            Self::Unsupported { .. } | Self::NotReplaced { .. } => &codes::VM_UNSUPPORTED,
            Self::Managed { .. } => &codes::VM_OTHER_MANAGER,
            Self::Consistency { .. } => &codes::VM_CONSISTENCY,
            Self::NotThawed { .. } => &codes::VM_NOT_THAWED,
            Self::Script { .. } => &codes::VM_SCRIPT,
            Self::Scratch { .. } => &codes::VM_SCRATCH,
            Self::Changed { .. } => &codes::VM_CHANGED,
            Self::HostLacks { .. } => &codes::HOST_LACKS,
            Self::Exists { .. } => &codes::VM_EXISTS,
            Self::Taken { .. } => &codes::ITEM_EXISTS,
            Self::NoRoom { .. } => &codes::DISK_FULL,
            Self::InTheWay { .. } => &codes::DISK_NOT_EMPTY,
            Self::Unfinished { .. } => &codes::RESTORE_UNFINISHED,
            Self::NotDefined { .. } => &codes::RESTORE_NOT_DEFINED,
            Self::NotStarted { .. } => &codes::RESTORE_NOT_STARTED,
            Self::Held { .. } => &codes::RESTORE_PAUSED,
            Self::Configuration { .. } => &codes::POINT_NO_MACHINE,
            Self::Local { .. } => &codes::LOCAL_IO,
            Self::Interrupted => &codes::INTERRUPTED,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Hypervisor(error) => error.params(),
            Self::Disk(error) => error.params(),
            Self::Engine(error) => error.params(),
            Self::Vault(error) => error.params(),
            Self::Busy { machine, reason } => params!(VM_BUSY: machine, reason),
            Self::State { machine, state, reason } => params!(VM_STATE: machine, state, reason),
            Self::Unsupported { machine, reason } => params!(VM_UNSUPPORTED: machine, reason),
            Self::NotReplaced { machine } => params!(VM_UNSUPPORTED: machine),
            Self::Choice { reason } => params!(USAGE_INVALID: reason),
            Self::Managed { machine, manager } => params!(VM_OTHER_MANAGER: machine, manager),
            Self::Consistency { machine, wanted, reason } => {
                params!(VM_CONSISTENCY: machine, wanted, reason)
            }
            Self::NotThawed { machine, reason } => params!(VM_NOT_THAWED: machine, reason),
            Self::Script { machine, script, reason } => params!(VM_SCRIPT: machine, script, reason),
            Self::Scratch { machine, folder, reason } => {
                params!(VM_SCRATCH: machine, folder, reason)
            }
            Self::Changed { machine, reason } => params!(VM_CHANGED: machine, reason),
            Self::HostLacks { host, machine, reason } => params!(HOST_LACKS: host, machine, reason),
            Self::Taken { item, machine, uuid } => params!(ITEM_EXISTS: item, machine, uuid),
            Self::Exists { host, name } => params!(VM_EXISTS: host, name),
            Self::NoRoom { machine, folder, needed, free } => {
                params!(DISK_FULL: machine, folder, needed, free)
            }
            Self::InTheWay { machine, path } => params!(DISK_NOT_EMPTY: machine, path),
            Self::Unfinished { machine, reason, note } => {
                params!(RESTORE_UNFINISHED: machine, reason, note)
            }
            Self::NotDefined { machine, description, source: _ } => {
                params!(RESTORE_NOT_DEFINED: machine, description)
            }
            Self::NotStarted { report, source: _ } => {
                params!(RESTORE_NOT_STARTED: machine = report.machine)
            }
            Self::Held { machine } => params!(RESTORE_PAUSED: machine),
            Self::Configuration { point, reason } => params!(POINT_NO_MACHINE: point, reason),
            Self::Local { action, path, source: _ } => params!(LOCAL_IO: action, path),
            Self::Interrupted => Params::none(),
        }
    }
}
