//! Errors of libvirt, QEMU and machine descriptions.

use std::io;

use strongroom_base::{Code, Coded, Params, codes, params};

use crate::Machine;

/// A result of this crate.
pub(crate) type Result<T> = std::result::Result<T, HypervisorError>;

/// Why something asked of a hypervisor was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// A connection URI that is not understood.
    #[error("{uri:?} is not a libvirt URI: {reason}")]
    Uri {
        /// What was given.
        uri: String,
        /// Why.
        reason: String,
    },
    /// The daemon cannot be reached.
    #[error("cannot connect to {uri}")]
    Connect {
        /// Which libvirt.
        uri: String,
        /// The cause.
        source: io::Error,
    },
    /// The daemon wants to know who we are, in a way that we do not speak.
    #[error("{uri} refuses the connection: {reason}")]
    Refused {
        /// Which libvirt.
        uri: String,
        /// Why.
        reason: String,
    },
    /// The connection broke during a call.
    #[error("the connection to libvirt broke while {action}")]
    Lost {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// No answer in time.
    #[error("libvirt did not answer within {seconds} s while {action}")]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// An answer that is not valid.
    #[error("libvirt's answer while {action} is not valid: {reason}")]
    Protocol {
        /// What was being done.
        action: &'static str,
        /// Why.
        reason: String,
    },
    /// libvirt refused or failed.
    #[error("libvirt: {message} (while {action})")]
    Libvirt {
        /// What was being done.
        action: &'static str,
        /// libvirt's error number (`virErrorNumber`).
        number: i32,
        /// libvirt's words.
        message: String,
    },
    /// There is no machine of this name.
    #[error("{uri} has no machine {name:?}")]
    NoDomain {
        /// Which libvirt.
        uri: String,
        /// Name or UUID.
        name: String,
    },
    /// A machine's or host's description cannot be used.
    #[error("the description of {what} cannot be used: {reason}")]
    Xml {
        /// Of what.
        what: String,
        /// Why.
        reason: String,
    },
    /// A machine has no disk of this name.
    #[error("machine {machine:?} has no disk {disk:?}; it has {has}")]
    NoDisk {
        /// The machine.
        machine: String,
        /// What was asked for.
        disk: String,
        /// What there is.
        has: String,
    },
    /// A disk was chosen that cannot be backed up.
    #[error("disk {disk:?} of machine {machine:?} cannot be backed up: it is {reason}")]
    DiskNotProtected {
        /// The machine.
        machine: String,
        /// The disk.
        disk: String,
        /// Why.
        reason: String,
    },
    /// A mapping of networks that is not understood.
    #[error(
        "{text:?} is not a network mapping: write network=OLD:NEW, bridge=OLD:NEW or network=OLD:bridge=NEW"
    )]
    Mapping {
        /// What was given.
        text: String,
    },
    /// Nothing is left to be backed up.
    #[error("machine {machine:?} has no disk to back up")]
    NoDisks {
        /// The machine.
        machine: String,
    },
    /// The guest's agent did not do what it was asked.
    #[error("the guest agent refused {command}: {reason}")]
    Agent {
        /// The agent's command.
        command: String,
        /// What it or libvirt said.
        reason: String,
    },
}

/// The libvirt error numbers (`virErrorNumber`, virterror.h) that this crate distinguishes.
pub(crate) mod number {
    pub(crate) const OPERATION_DENIED: i32 = 29;
    pub(crate) const NO_DOMAIN: i32 = 42;
    pub(crate) const AUTH_FAILED: i32 = 45;
    pub(crate) const NO_STORAGE_POOL: i32 = 49;
    pub(crate) const NO_STORAGE_VOL: i32 = 50;
    pub(crate) const OPERATION_INVALID: i32 = 55;
    pub(crate) const NO_SECRET: i32 = 66;
    pub(crate) const CONFIG_UNSUPPORTED: i32 = 67;
    pub(crate) const OPERATION_TIMEOUT: i32 = 68;
    pub(crate) const AUTH_CANCELLED: i32 = 79;
    pub(crate) const OPERATION_UNSUPPORTED: i32 = 84;
    pub(crate) const AGENT_UNRESPONSIVE: i32 = 86;
    pub(crate) const ACCESS_DENIED: i32 = 88;
    pub(crate) const AUTH_UNAVAILABLE: i32 = 94;
    pub(crate) const AGENT_UNSYNCED: i32 = 97;
    pub(crate) const NO_DOMAIN_CHECKPOINT: i32 = 103;
    pub(crate) const NO_DOMAIN_BACKUP: i32 = 104;
    pub(crate) const CHECKPOINT_INCONSISTENT: i32 = 109;
    pub(crate) const AGENT_COMMAND_TIMEOUT: i32 = 112;
    pub(crate) const AGENT_COMMAND_FAILED: i32 = 113;
}

impl HypervisorError {
    /// The error for a disk that a machine does not have; it says which it has.
    pub(crate) fn no_disk(machine: &Machine, disk: &str) -> Self {
        let disks = machine.disks.iter().map(|disk| format!("{} ({})", disk.target, disk.source));
        Self::NoDisk {
            machine: machine.name.clone(),
            disk: disk.to_owned(),
            has: disks.collect::<Vec<_>>().join(", "),
        }
    }

    /// libvirt's error number, if libvirt refused.
    pub const fn number(&self) -> Option<i32> {
        match self {
            Self::Libvirt { number, .. } => Some(*number),
            _ => None,
        }
    }

    /// Whether the machine, checkpoint, job or secret does not exist.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::NoDomain { .. })
            || matches!(
                self.number(),
                Some(
                    number::NO_DOMAIN
                        | number::NO_DOMAIN_CHECKPOINT
                        | number::NO_DOMAIN_BACKUP
                        | number::NO_SECRET
                )
            )
    }

    /// Whether libvirt itself is not there (any more): what was asked for may work when it is back.
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Lost { .. } | Self::Timeout { .. })
    }

    /// Whether libvirt has gone, as when it is restarted: unlike an answer that does not come, that
    /// is worth another try.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Lost { .. })
    }

    /// Whether a checkpoint's bitmap is missing, broken or was left inconsistent by a crash.
    pub fn is_bad_checkpoint(&self) -> bool {
        match self {
            Self::Libvirt { number: number::CHECKPOINT_INCONSISTENT, .. } => true,
            // libvirt 9 says it only in words, of several kinds.
            Self::Libvirt { message, .. } => {
                message.contains("missing or broken bitmap")
                    || message.contains("inconsistent bitmap")
                    || (message.contains("bitmap") && message.contains("not found"))
                    || (message.contains("checkpoint") && message.contains("not found"))
                    // It went with the image that it was in.
                    || (message.contains("bitmap") && message.contains("not found"))
            }
            _ => false,
        }
    }

    /// Whether a disk cannot hold the bitmap of a checkpoint.
    pub fn is_no_place_for_bitmaps(&self) -> bool {
        matches!(self, Self::Libvirt { message, .. } if message.contains("Can't make bitmap"))
    }

    /// Whether libvirt found a checkpoint that was just being made or deleted.
    pub fn is_half_made(&self) -> bool {
        matches!(self, Self::Libvirt { message, .. }
            if message.contains("virGetDomainCheckpoint must not be NULL"))
    }

    /// Whether another operation on the machine is in the way.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Libvirt { number: number::OPERATION_TIMEOUT, .. } => true,
            Self::Libvirt { message, .. } => {
                message.contains("state change lock")
                    || message.contains("another job")
                    || message.contains("backup job already active")
                    || message.contains("already in active block job")
                    || message.contains("block copy")
            }
            _ => false,
        }
    }
}

impl Coded for HypervisorError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Uri { .. } => &codes::URL_INVALID,
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                &codes::HOST_DENIED
            }
            Self::Connect { .. } | Self::Lost { .. } | Self::Timeout { .. } => {
                &codes::HOST_UNAVAILABLE
            }
            Self::Refused { .. } => &codes::HOST_DENIED,
            Self::Protocol { .. } => &codes::HOST_PROTOCOL,
            Self::NoDomain { .. } => &codes::VM_NOT_FOUND,
            Self::Mapping { .. } => &codes::USAGE_INVALID,
            Self::NoDisk { .. } => &codes::VM_DISK_NOT_FOUND,
            Self::Xml { .. } | Self::DiskNotProtected { .. } | Self::NoDisks { .. } => {
                &codes::VM_UNSUPPORTED
            }
            Self::Agent { .. } => &codes::VM_AGENT,
            Self::Libvirt { number, .. } => match *number {
                number::NO_DOMAIN => &codes::VM_NOT_FOUND,
                number::OPERATION_DENIED
                | number::AUTH_FAILED
                | number::AUTH_CANCELLED
                | number::AUTH_UNAVAILABLE
                | number::ACCESS_DENIED => &codes::HOST_DENIED,
                number::AGENT_UNRESPONSIVE
                | number::AGENT_UNSYNCED
                | number::AGENT_COMMAND_TIMEOUT
                | number::AGENT_COMMAND_FAILED => &codes::VM_AGENT,
                number::CONFIG_UNSUPPORTED | number::OPERATION_UNSUPPORTED => {
                    &codes::VM_UNSUPPORTED
                }
                number::OPERATION_INVALID => &codes::VM_STATE,
                _ if self.is_busy() => &codes::VM_BUSY,
                _ => &codes::VM_OPERATION,
            },
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Uri { uri, reason } => params!(URL_INVALID: uri, reason),
            Self::Connect { uri, source: _ } => params!(HOST_DENIED | HOST_UNAVAILABLE: uri),
            Self::Refused { uri, reason } => params!(HOST_DENIED: uri, reason),
            Self::Lost { action, source: _ } => params!(HOST_UNAVAILABLE: action),
            Self::Timeout { action, seconds } => params!(HOST_UNAVAILABLE: action, seconds),
            Self::Protocol { action, reason } => params!(HOST_PROTOCOL: action, reason),
            Self::Libvirt { action, number: _, message } => {
                params!(VM_NOT_FOUND | HOST_DENIED | VM_AGENT | VM_UNSUPPORTED | VM_STATE | VM_BUSY | VM_OPERATION: action, message)
            }
            Self::NoDomain { uri, name } => params!(VM_NOT_FOUND: uri, name),
            Self::Xml { what, reason } => params!(VM_UNSUPPORTED: what, reason),
            Self::NoDisk { machine, disk, has } => params!(VM_DISK_NOT_FOUND: machine, disk, has),
            Self::DiskNotProtected { machine, disk, reason } => {
                params!(VM_UNSUPPORTED: machine, disk, reason)
            }
            Self::Mapping { text } => params!(USAGE_INVALID: text),
            Self::NoDisks { machine } => params!(VM_UNSUPPORTED: machine),
            Self::Agent { command, reason } => params!(VM_AGENT: command, reason),
        }
    }
}
