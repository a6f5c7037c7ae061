//! `backup --vm`: a machine.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use strongroom_engine::{CleanCheck, Deltas};
use strongroom_format::Consistency;
use strongroom_hypervisor::DiskChoice;
use strongroom_machine::{EncryptedDisks, MachineBackup, MachineBackupReport, Wish};

use crate::{
    args::OpenArgs,
    complete,
    context::{self, Context},
    error::{FaceError, Failure},
    hosts::{self, ConnectArgs},
    human,
    open::{open_vault, warn_of_clocks},
    out::Show,
    suspect, values,
};

/// Options that only `backup --vm` has.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct VmArgs {
    /// The machine: its name or UUID
    #[arg(long, value_name = "NAME", add = complete::machines(),
        conflicts_with_all = ["disks", "changed_ranges", "parent", "allow_backing", "allow_busy"])]
    pub(crate) vm: Option<String>,

    #[command(flatten)]
    connect: ConnectArgs,

    /// Back up only these disks: targets (vda), serial numbers or paths
    #[arg(long, value_name = "DISK,...", value_delimiter = ',', requires = "vm", group = "choice")]
    include_disks: Vec<String>,

    /// Back up all disks except these
    #[arg(long, value_name = "DISK,...", value_delimiter = ',', requires = "vm", group = "choice")]
    exclude_disks: Vec<String>,

    /// Back up only the disk that the machine starts from
    #[arg(long, requires = "vm", group = "choice")]
    os_disk_only: bool,

    /// How to keep disks that QEMU encrypts on the host (LUKS)
    #[arg(long, value_enum, value_name = "HOW", default_value = "decrypted", requires = "vm")]
    encrypted_disks: EncryptedChoice,

    /// The best consistency to try for; the recovery point records the consistency that was proved
    #[arg(long, value_enum, value_name = "KIND", default_value = "application", requires = "vm")]
    consistency: ConsistencyChoice,

    /// Fail if the requested consistency is not reached
    #[arg(long, requires = "vm")]
    require: bool,

    /// How long freezing the guest's file systems may take, with all its hooks
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "30s", requires = "vm")]
    freeze_timeout: Duration,

    /// Read and compare all of each disk at least once in N backups (0: only where needed)
    #[arg(long, value_name = "N", default_value_t = 30, requires = "vm")]
    full_compare_every: u32,

    /// Folder for the scratch files with blocks that the guest overwrites during the backup; it
    /// should be as fast as the guest's disks [default: beside the first disk's image]
    #[arg(long, value_name = "DIR", requires = "vm")]
    scratch_dir: Option<PathBuf>,

    /// Maximum size of the scratch files; the backup stops before it harms the guest [default: the
    /// free space less a reserve]
    #[arg(long, value_name = "SIZE", value_parser = values::size, requires = "vm")]
    scratch_limit: Option<u64>,

    /// If the machine is off and has disks that only QEMU can read (encrypted, or on a server),
    /// start it for the backup with its processors paused
    #[arg(long, requires = "vm")]
    start_paused: bool,

    /// Back up the machine although another manager (OpenStack, oVirt, ...) owns it
    #[arg(long, requires = "vm")]
    allow_managed: bool,
}

/// `--encrypted-disks`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum EncryptedChoice {
    /// What the guest sees, and the secrets; the vault is encrypted with its own keys
    Decrypted,
    /// The encrypted images as they lie on the host, and no secrets; only while the machine is off
    Ciphertext,
}

/// `--consistency`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConsistencyChoice {
    /// Applications are prepared: by the guest's pre and post scripts, on Windows by VSS
    Application,
    /// File systems are frozen by the guest agent
    #[value(name = "file_system", aliases = ["filesystem", "file-system"])]
    FileSystem,
    /// As after a power cut
    Crash,
}

/// What `backup` takes for machines and for disks alike.
pub(crate) struct Common {
    pub(crate) item: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) clean: CleanCheck,
    pub(crate) skip_bad_blocks: bool,
    pub(crate) deltas: Deltas,
    pub(crate) threads: usize,
    pub(crate) limit_rate: Option<u64>,
}

impl VmArgs {
    pub(crate) fn run(
        self,
        context: &Context,
        open: &OpenArgs,
        common: Common,
    ) -> Result<(), Failure> {
        let connection = self.connect.open()?;
        let vault = open_vault(context, open, None)?;
        let places = hosts::places(connection.uri().scope);
        let request = MachineBackup {
            disks: self.choice(),
            encrypted_disks: match self.encrypted_disks {
                EncryptedChoice::Decrypted => EncryptedDisks::Decrypted,
                EncryptedChoice::Ciphertext => EncryptedDisks::Ciphertext,
            },
            wish: Wish {
                consistency: match self.consistency {
                    ConsistencyChoice::Application => Consistency::Application,
                    ConsistencyChoice::FileSystem => Consistency::FileSystem,
                    ConsistencyChoice::Crash => Consistency::Crash,
                },
                required: self.require,
                freeze_timeout: self.freeze_timeout,
                ..Wish::default()
            },
            machine: self.vm.unwrap_or_default(),
            item: common.item,
            start_paused: self.start_paused,
            allow_managed: self.allow_managed,
            clean: common.clean,
            full_compare_every: self.full_compare_every,
            scratch_dir: self.scratch_dir,
            scratch_limit: self.scratch_limit,
            tags: common.tags,
            locked_until: None,
            host: context::host(),
            skip_bad_blocks: common.skip_bad_blocks,
            deltas: common.deltas,
            threads: common.threads,
            limit_rate: common.limit_rate,
            places,
            guard: hosts::guard()?,
        };
        let report = context.watched(|progress| {
            strongroom_machine::backup(&vault, &connection, &request, progress, &context.cancel)
        })?;
        context.out.result(&report)?;
        warn_of_clocks(context, &vault, &report.point)?;
        suspect::warn(context, report.point.suspicion.as_ref());
        let skipped = report.point.disks.iter().flat_map(|disk| &disk.skipped);
        let skipped = skipped.map(|range| range.length).fold(0, u64::saturating_add);
        if skipped > 0 {
            return Err(FaceError::Skipped(human::bytes(skipped)).into());
        }
        Ok(())
    }

    fn choice(&self) -> DiskChoice {
        if self.os_disk_only {
            DiskChoice::OsOnly
        } else if !self.include_disks.is_empty() {
            DiskChoice::Include(self.include_disks.clone())
        } else if !self.exclude_disks.is_empty() {
            DiskChoice::Exclude(self.exclude_disks.clone())
        } else {
            DiskChoice::All
        }
    }
}

impl Show for MachineBackupReport {
    fn show(&self) -> String {
        let mut text = self.point.show();
        let kind = crate::views::consistency(self.consistency);
        writeln!(text, "Consistency: {kind}").ok();
        for step in &self.evidence {
            writeln!(text, "  {step}").ok();
        }
        for note in &self.notes {
            writeln!(text, "Note: {note}").ok();
        }
        text
    }
}
