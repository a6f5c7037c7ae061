//! The check whether and how well a machine can be backed up, and what would improve it.
//!
//! No findings means: no obstacle.

mod disks;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    DirectBoot, Finding, ImageInfo, JobKind,
    Level::{self, Amber, Info, Red},
    Machine, State, TpmBackend,
};

/// What is to be put into the description of a machine, for its agent.
const CHANNEL: &str =
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";

/// What the agent must be able to do for file systems to be at rest.
const FREEZE: [&str; 3] = ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"];

/// Versions of libvirt: with backups at all, with the whole of them, with them ready for use.
const LIBVIRT: [u64; 3] = [6_000_000, 7_002_000, 7_006_000];

/// Versions of QEMU, likewise.
const QEMU: [u64; 3] = [4_002_000, 4_002_000, 6_001_000];

/// What is known of a machine beside its description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is doing.
    pub state: State,
    /// Whether it stays when it is shut down.
    pub is_persistent: bool,
    /// Its agent.
    pub agent: AgentState,
    /// The version of libvirt: major × 1,000,000 + minor × 1,000 + release.
    pub libvirt: u64,
    /// The version of QEMU, likewise.
    pub qemu: u64,
    /// What is known of its disks, by target.
    pub disks: BTreeMap<String, DiskFacts>,
    /// Targets of disks that are not to be backed up.
    pub left_out: BTreeSet<String>,
    /// Free bytes where QEMU keeps what the guest overwrites during a backup.
    pub scratch_free: Option<u64>,
    /// Its checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// Its snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Targets of disks that block jobs are at work on.
    pub block_jobs: BTreeSet<String>,
    /// What libvirt is doing with it, if that is not ours.
    pub job: JobKind,
    /// Whether it may be backed up though another manager owns it.
    pub may_be_managed: bool,
}

/// What is known of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// It answers.
    Connected {
        /// Its version.
        version: String,
        /// The commands that it obeys.
        commands: Vec<String>,
    },
    /// It does not answer.
    NotAnswering,
    /// The machine has no channel for it.
    NoChannel,
    /// The machine does not run.
    Off,
}

/// What is known of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFacts {
    /// Its image and those under it, the top first, as `qemu-img` sees them; none if it could not
    /// look.
    pub chain: Vec<ImageInfo>,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// Whether we made it.
    pub is_ours: bool,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Whether it is in the machine's own images; in others under them if not.
    pub is_internal: bool,
}

impl Facts {
    /// What stands in the way of backups of `machine`, the worst first.
    pub fn check(&self, machine: &Machine) -> Vec<Finding> {
        let mut check = Check { machine, facts: self, found: Vec::new() };
        check.owner();
        check.versions();
        check.jobs();
        check.agent();
        check.disks();
        check.scratch();
        check.history();
        check.beside_disks();
        check.found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        check.found
    }
}

struct Check<'a> {
    machine: &'a Machine,
    facts: &'a Facts,
    found: Vec<Finding>,
}

impl Check<'_> {
    fn find(
        &mut self,
        level: Level,
        id: &'static str,
        what: impl Into<String>,
        what_to_do: impl Into<String>,
    ) {
        self.found.push(Finding::new(level, id, what, what_to_do));
    }

    fn owner(&mut self) {
        if let Some(manager) = self.machine.manager {
            let level = if self.facts.may_be_managed { Amber } else { Red };
            let what = format!("{manager} owns the machine, and creates it again at each start");
            let what_to_do = "use its own backup; or allow this one, and after a restore register \
                 the machine there by hand";
            self.find(level, "machine.managed", what, what_to_do);
        }
        if !self.facts.is_persistent {
            let what = "the machine is transient: it and its checkpoints vanish when it ends";
            let what_to_do = "define it (virsh define); else the first backup after each start \
                 reads all of it";
            self.find(Amber, "machine.transient", what, what_to_do);
        }
    }

    fn versions(&mut self) {
        for (name, version, [first, whole, ready]) in
            [("libvirt", self.facts.libvirt, LIBVIRT), ("QEMU", self.facts.qemu, QEMU)]
        {
            let said = format!("{name} {}", words(version));
            let what_to_do = format!("update {name} to {} or newer", words(ready));
            let is_active = self.facts.state.is_active();
            if version < first && is_active {
                let what = format!("{said} cannot back up a running machine");
                let what_to_do = format!("{what_to_do}, or back the machine up while it is off");
                self.find(Red, "host.version", what, what_to_do);
            } else if version < whole {
                let what = format!("{said} supports only a part of what backups need");
                self.find(Amber, "host.version", what, what_to_do);
            } else if version < ready {
                let what = format!("{said} has incremental backups only as a trial");
                self.find(Amber, "host.version", what, what_to_do);
            }
        }
    }

    fn jobs(&mut self) {
        let what = match self.facts.job {
            JobKind::None => return,
            JobKind::Backup => "another program's backup of the machine is running",
            JobKind::Migration => "the machine is moving to another host",
            JobKind::Other => "libvirt is at work on the machine (a snapshot, dump or save)",
        };
        self.find(Red, "machine.busy", what, "wait until it has ended (virsh domjobinfo)");
    }

    fn agent(&mut self) {
        let no_rest = "so the file systems cannot be brought to rest";
        match &self.facts.agent {
            AgentState::NoChannel => {
                let what = format!("the machine has no channel for the guest agent, {no_rest}");
                let what_to_do = format!(
                    "add {CHANNEL} to its devices (virsh edit), install qemu-guest-agent in the guest and restart the machine"
                );
                self.find(Amber, "agent.no_channel", what, what_to_do);
            }
            AgentState::NotAnswering => {
                let what = format!("the guest agent does not answer, {no_rest}");
                let what_to_do = "install and start qemu-guest-agent in the guest";
                self.find(Amber, "agent.silent", what, what_to_do);
            }
            AgentState::Connected { commands, .. } => {
                let lacks = FREEZE.iter().filter(|name| !commands.iter().any(|one| one == *name));
                let lacks: Vec<&str> = lacks.copied().collect();
                if !lacks.is_empty() {
                    let what = format!("the guest agent may not {}, {no_rest}", lacks.join(", "));
                    let what_to_do = "allow it in the guest (block-rpcs and allow-rpcs in \
                         qemu-ga.conf, BLACKLIST_RPC in /etc/sysconfig/qemu-ga)";
                    self.find(Amber, "agent.blocked", what, what_to_do);
                }
            }
            AgentState::Off => {}
        }
        if self.facts.state == State::Paused {
            let what = format!("the machine is paused, {no_rest}");
            self.find(Amber, "machine.paused", what, "resume it (virsh resume)");
        }
    }

    /// What the guest overwrites during a backup is kept as it was until it is read. How much that
    /// is nobody can know before; at worst it is all.
    fn scratch(&mut self) {
        const LITTLE: u64 = 256 << 20;
        let (Some(free), true) = (self.facts.scratch_free, self.facts.state.is_active()) else {
            return;
        };
        let tops =
            self.protected().filter_map(|disk| self.facts.disks.get(&disk.target)?.chain.first());
        let size = tops.fold(0_u64, |sum, image| sum.saturating_add(image.virtual_size));
        let (mib, what_to_do) = (free >> 20, "make room, or name another folder for it");
        if free < LITTLE.min(size) {
            let what = format!(
                "only {mib} MiB are free for blocks that the guest overwrites during the backup"
            );
            self.find(Red, "scratch.full", what, what_to_do);
        } else if free < size / 10 {
            let what = format!(
                "{mib} MiB are free for blocks that the guest overwrites during the backup, less than a tenth of its disks: a busy guest can end the backup"
            );
            self.find(Amber, "scratch.small", what, what_to_do);
        }
    }

    fn history(&mut self) {
        let foreign = self.facts.checkpoints.iter().filter(|one| !one.is_ours);
        let foreign: Vec<&str> = foreign.map(|one| one.name.as_str()).collect();
        if !foreign.is_empty() {
            let what = format!("another program has checkpoints here: {}", foreign.join(", "));
            let what_to_do = "let only one program make incremental backups of a machine; when \
                 the other is gone, virsh checkpoint-delete";
            self.find(Amber, "checkpoints.foreign", what, what_to_do);
        }
        for is_internal in [true, false] {
            let snapshots =
                self.facts.snapshots.iter().filter(|one| one.is_internal == is_internal);
            let names: Vec<&str> = snapshots.map(|one| one.name.as_str()).collect();
            if names.is_empty() {
                continue;
            }
            let kind = if is_internal { "internal" } else { "external" };
            let what =
                format!("it has {kind} snapshots, which no backup has: {}", names.join(", "));
            let mut what_to_do = "delete those that are no longer needed (virsh snapshot-delete); \
                 after a revert the next backup reads all of the disk"
                .to_owned();
            if is_internal {
                let name = &self.machine.name;
                what_to_do = format!(
                    "{what_to_do}. From the first backup on there is a checkpoint: while it exists, going back \
                     to a snapshot (virsh snapshot-revert) fails, and a machine that runs is off \
                     then. First: strongroom vm checkpoints '{name}' --delete"
                );
            }
            self.find(Amber, "snapshots", what, what_to_do);
        }
    }

    /// What a machine has that is in no disk.
    fn beside_disks(&mut self) {
        let machine = self.machine;
        let paths: Vec<&str> = machine.direct_boot.iter().flat_map(DirectBoot::paths).collect();
        if !paths.is_empty() {
            let what = format!("it starts from files of the host: {}", paths.join(", "));
            let what_to_do = "they are in no disk: keep them, a restored machine needs them";
            self.find(Amber, "machine.kernel", what, what_to_do);
        }
        if !machine.host_devices.is_empty() {
            let names: Vec<String> = machine.host_devices.iter().map(ToString::to_string).collect();
            let what = format!("it has devices of the host: {}", names.join(", "));
            let what_to_do = "a restore needs a host that has them, or leaves them out";
            self.find(Amber, "machine.host_devices", what, what_to_do);
        }
        let folders = machine.filesystems.iter().filter_map(|one| one.source.clone());
        let shared: Vec<String> = folders.chain(machine.lasting_memory.iter().cloned()).collect();
        if !shared.is_empty() {
            let what = format!("no backup has its content of {}", shared.join(", "));
            self.find(Amber, "machine.shared", what, "back it up with the host's files");
        }
        if let Some(kind) = &machine.launch_security {
            let what = format!("its memory is encrypted by {kind}");
            let what_to_do = "a restore needs a processor of the same kind";
            self.find(Amber, "machine.launch_security", what, what_to_do);
        }
        match machine.tpm.as_ref().map(|tpm| &tpm.backend) {
            Some(TpmBackend::Emulator { .. }) => {
                let what = "it has a TPM, whose state is backed up with it";
                let what_to_do = "keep recovery keys (BitLocker, LUKS) all the same: a guest may treat a restored TPM as another one";
                self.find(Info, "machine.tpm", what, what_to_do);
            }
            Some(_) => {
                let what = "its TPM is not QEMU's own, and no backup has its content";
                let what_to_do = "keep recovery keys (BitLocker, LUKS)";
                self.find(Amber, "machine.tpm", what, what_to_do);
            }
            None => {}
        }
    }
}

/// A version, as people write it.
fn words(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}

#[cfg(test)]
mod tests;
