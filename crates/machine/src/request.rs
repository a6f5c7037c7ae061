//! Requests for backups of machines.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use strongroom_engine::{CleanCheck, Deltas};
use strongroom_hypervisor::{DiskChoice, Machine};

use crate::{Wish, guard::GuardCommand};

/// Where things are on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// For locks and sockets: `/run/strongroom`, or below a user's `XDG_RUNTIME_DIR`.
    pub run: PathBuf,
    /// Where libvirt keeps the state of emulated TPMs.
    pub swtpm: PathBuf,
    /// Where libvirt keeps the variables of firmware that it has chosen itself.
    pub nvram: PathBuf,
}

impl Places {
    /// For machines of the host's own daemon.
    pub fn of_system() -> Self {
        Self {
            run: PathBuf::from("/run/strongroom"),
            swtpm: PathBuf::from("/var/lib/libvirt/swtpm"),
            nvram: PathBuf::from("/var/lib/libvirt/qemu/nvram"),
        }
    }

    /// For machines of one user's daemon: below the user's `XDG_RUNTIME_DIR` and `XDG_CONFIG_HOME`.
    pub fn of_session(runtime: &Path, config: &Path) -> Self {
        Self {
            run: runtime.join("strongroom"),
            swtpm: config.join("libvirt/qemu/swtpm"),
            nvram: config.join("libvirt/qemu/nvram"),
        }
    }

    /// The file of a machine's firmware variables; none if it can have none. libvirt 9 names it
    /// only in the description of a machine that runs, if it has chosen the firmware itself.
    pub(crate) fn nvram_of(&self, machine: &Machine) -> Option<PathBuf> {
        let firmware = &machine.firmware;
        if let Some(path) = firmware.nvram.as_ref().and_then(|nvram| nvram.path.as_ref()) {
            return Some(PathBuf::from(path));
        }
        let usual = self.nvram.join(format!("{}_VARS.fd", machine.name));
        (firmware.is_uefi && firmware.is_chosen_by_libvirt && usual.exists()).then_some(usual)
    }
}

/// What a backup keeps of disks that QEMU encrypts on the host (LUKS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncryptedDisks {
    /// What the guest sees, and the secrets, so that they can be restored as encrypted as they were.
    #[default]
    Decrypted,
    /// The images as they lie on the host, and no secret. Only while the machine is off: see
    /// `docs/decisions/0012-encrypted-disks.md`.
    Ciphertext,
}

/// A backup of a machine.
#[derive(Clone, Debug)]
pub struct MachineBackup {
    /// Its name or UUID.
    pub machine: String,
    /// The item whose point it becomes; the machine's name if not given.
    pub item: Option<String>,
    /// Which disks.
    pub disks: DiskChoice,
    /// How to keep disks that are encrypted on the host.
    pub encrypted_disks: EncryptedDisks,
    /// Which consistency.
    pub wish: Wish,
    /// Whether a machine that is off, with disks that only QEMU can read, is started for the backup
    /// with its processors standing still.
    pub start_paused: bool,
    /// Whether a machine is touched that another manager owns.
    pub allow_managed: bool,
    /// Whether a disk is believed to be unchanged where its bitmap says so.
    pub clean: CleanCheck,
    /// All of a disk is read and compared at least once in this number of backups; 0: only where
    /// needed.
    pub full_compare_every: u32,
    /// Folder for what the guest overwrites meanwhile; if not given, beside the first disk's image.
    pub scratch_dir: Option<PathBuf>,
    /// Maximum bytes for that; the default is the free space less a reserve.
    pub scratch_limit: Option<u64>,
    /// Labels for the point.
    pub tags: BTreeMap<String, String>,
    /// Until when nobody may delete the point.
    pub locked_until: Option<Timestamp>,
    /// Name of this host, for the point.
    pub host: String,
    /// Record unreadable parts as zeros instead of failing.
    pub skip_bad_blocks: bool,
    /// Deltas.
    pub deltas: Deltas,
    /// Threads for hashing and compressing.
    pub threads: usize,
    /// Bytes a second to read from the machine's disks at most.
    pub limit_rate: Option<u64>,
    /// Where things are.
    pub places: Places,
    /// How a guard is started.
    pub guard: GuardCommand,
}
