//! `backup`: a new recovery point of an item.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use strongroom_disk::{ChangedRanges, DiskError, OpenOptions, open_source};
use strongroom_engine::{BackupDisk, BackupReport, BackupRequest, BlobDisks, CleanCheck, Deltas};
use strongroom_format::Consistency;

use super::{
    backup_blobs::{self, BlobAccountArgs},
    backup_vm::{Common, VmArgs},
    recoverypoint::point_of_ids,
};
use crate::{
    args::{OpenArgs, WorkArgs},
    complete,
    context::{self, Context},
    error::{FaceError, Failure},
    human,
    open::{open_vault, warn_of_clocks},
    out::Show,
    suspect,
    values::{self, IdRange, NamedDisk, NamedSource},
};

/// Back up a machine, or the disks of an item: a new recovery point
///
/// --vm backs up a libvirt machine, running or off: all its disks at one instant, with the best
/// consistency that can be proved, and everything that a rebuild needs. QEMU reports what has
/// changed since the last recovery point. --disk backs up disks that do not change during the
/// backup: disks of stopped machines, or snapshots.
///
/// The first backup of an item reads everything. Later ones store only what the vault does not
/// have. They learn what changed from --changed-ranges, from the dirty bitmap of an NBD source, or
/// by reading the whole disk and comparing digests. They skip free space where the source reports
/// it, and read all disks at the same time.
///
/// A disk is a path of a raw file or block device, of a qcow2, vhd, vhdx or vmdk image, or an NBD
/// URL: nbd://HOST/EXPORT, nbds://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH. If the file's name
/// does not show the format, write the format before the path: raw:PATH, qcow2:PATH.
///
/// A disk is also a page blob of a storage account: blob:ACCOUNT/CONTAINER/BLOB. The backup takes a snapshot, reads what has
/// changed since the snapshot of the last recovery point, and deletes that older snapshot. Blobs of accounts that this
/// machine serves get their snapshots at the same moment.
///
/// An interrupted backup leaves only blocks behind, which the next backup reuses. Disks given with
/// --disk must not change during the backup: take a snapshot, or stop the programs that use them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom backup --vm web01
  strongroom backup --vm db01 --consistency application --require --exclude-disks vdc
  strongroom backup --item web01 --disk system=/var/lib/libvirt/images/web01.qcow2
  strongroom backup --item db --disk system=/dev/vg0/db-snap --disk data=/dev/vg0/data-snap \\
      --tag reason=before-upgrade
  strongroom backup --item web01 --disk system=web01.img --changed-ranges today.txt
  strongroom backup --item db --disk 'data=nbd+unix:///sda?socket=/run/db.sock'
  strongroom backup --item web01 --disk system=blob:disks/vms/web01.vhd")]
pub(crate) struct BackupArgs {
    /// The item: the name of this set of disks [default with --vm: the machine's name]
    #[arg(long, value_name = "NAME", value_parser = values::name, add = complete::items_of_vaults())]
    item: Option<String>,

    /// A disk: its name within the item, and its path or URL; may be repeated
    #[arg(long = "disk", value_name = "NAME=DISK")]
    disks: Vec<NamedSource>,

    /// File that says what changed since the parent point: lines of `DISK OFFSET LENGTH` in bytes
    ///
    /// The backup takes all other parts of the disks that the file names from the parent point,
    /// without reading them. It reads a disk whole that the file does not name. Lines may
    /// come in any order and overlap. `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    changed_ranges: Option<PathBuf>,

    /// How to verify blocks that --changed-ranges or a dirty bitmap reports as unchanged
    ///
    /// If a block has changed all the same, the recovery point has its new content, and counts and
    /// notes the difference.
    #[arg(long, value_enum, value_name = "HOW", default_value = "sample")]
    check_clean: CheckCleanChoice,

    /// The point that the changed ranges refer to [default: the item's newest]
    #[arg(long, value_name = "ID", value_parser = values::point_ids)]
    parent: Option<IdRange>,

    /// A tag for the recovery point; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = values::tag)]
    tags: Vec<(String, String)>,

    /// Record unreadable parts of a disk as zeros, and list them on the point, instead of failing;
    /// the exit code is then 7
    #[arg(long)]
    skip_bad_blocks: bool,

    /// Folder whose files images may refer to as backing or data files; may be repeated
    #[arg(long, value_name = "DIR")]
    allow_backing: Vec<PathBuf>,

    /// Back up a disk although others may write to it; the recovery point's consistency is
    /// `unknown`
    ///
    /// By default a disk is refused that is mounted, held by another device, or open for writing by
    /// another process: its parts would be of different moments.
    #[arg(long)]
    allow_busy: bool,

    /// Whether to store changed blocks as differences to their previous version
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    deltas: DeltasChoice,

    #[command(flatten)]
    vm: VmArgs,

    #[command(flatten)]
    blobs: BlobAccountArgs,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

/// `--check-clean`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CheckCleanChoice {
    /// Compare a few random blocks (one in 1000, 64 to 4096 of them) first; if one has changed, read
    /// and compare the whole disk
    Sample,
    /// Read and compare the whole disk
    All,
    /// Compare nothing, and rely on the report
    None,
}

impl From<CheckCleanChoice> for CleanCheck {
    fn from(choice: CheckCleanChoice) -> Self {
        match choice {
            CheckCleanChoice::Sample => Self::SAMPLE,
            CheckCleanChoice::All => Self::All,
            CheckCleanChoice::None => Self::Trust,
        }
    }
}

/// `--deltas`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeltasChoice {
    /// Where the previous version can be read cheaply: from a local vault
    Auto,
    /// From any vault: saves space, costs reading
    Always,
    /// Never
    Never,
}

impl From<DeltasChoice> for Deltas {
    fn from(choice: DeltasChoice) -> Self {
        match choice {
            DeltasChoice::Auto => Self::Auto,
            DeltasChoice::Always => Self::Always,
            DeltasChoice::Never => Self::Never,
        }
    }
}

impl BackupArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.vm.vm.is_some() {
            return self.run_vm(context);
        }
        if self.item.is_none() || self.disks.is_empty() {
            return Err(Failure::usage(
                "no source is given: use --vm NAME for a libvirt machine, or --item NAME and --disk NAME=DISK for disks",
            ));
        }
        let mut names = std::collections::BTreeSet::new();
        if let Some(name) =
            self.disks.iter().map(NamedSource::name).find(|name| !names.insert(*name))
        {
            return Err(Failure::usage(format!("--disk names disk {name} twice")));
        }
        let vault = open_vault(context, &self.open, None)?;
        let parent = match (self.parent, &self.item) {
            (Some(ids), Some(item)) => Some(point_of_ids(&vault, item, ids)?),
            _ => None,
        };
        let item = self.item.clone().unwrap_or_default();
        let blobs = backup_blobs::take(context, &self.blobs, &vault, &item, &self.disks, parent)?;
        let done = self.request(context, &blobs).and_then(|request| {
            context.watched(|progress| -> Result<_, Failure> {
                Ok(strongroom_engine::backup(&vault, &request, progress, &context.cancel)?)
            })
        });
        let report = done.inspect_err(|_| backup_blobs::warn(context, &blobs.give_up()))?;
        backup_blobs::warn(context, &blobs.keep_newest());
        context.out.result(&report)?;
        warn_of_clocks(context, &vault, &report)?;
        suspect::warn(context, report.suspicion.as_ref());
        let skipped = report.disks.iter().flat_map(|disk| &disk.skipped);
        let skipped = skipped.map(|range| range.length).fold(0, u64::saturating_add);
        if skipped > 0 {
            return Err(FaceError::Skipped(human::bytes(skipped)).into());
        }
        Ok(())
    }

    /// Backs up a machine.
    fn run_vm(self, context: &Context) -> Result<(), Failure> {
        let common = Common {
            item: self.item,
            tags: tags(self.tags)?,
            clean: self.check_clean.into(),
            skip_bad_blocks: self.skip_bad_blocks,
            deltas: self.deltas.into(),
            threads: context.threads(&self.work),
            limit_rate: context.limit_rate(&self.work),
        };
        self.vm.run(context, &self.open, common)
    }

    /// Opens the disks and reads the ranges file.
    fn request(self, context: &Context, blobs: &BlobDisks) -> Result<BackupRequest, Failure> {
        let mut disks: Vec<BackupDisk> = Vec::new();
        let mut doubts = Vec::new();
        if let Some((Consistency::Unknown, evidence)) = blobs.consistency() {
            doubts.push(evidence);
        }
        let options = OpenOptions { allow_backing: self.allow_backing, ..OpenOptions::default() };
        for source in self.disks {
            let NamedDisk { name, disk } = match source {
                NamedSource::Disk(disk) => disk,
                NamedSource::Blob { name, .. } => {
                    disks.push(blobs.disk(&name, self.check_clean.into())?);
                    continue;
                }
            };
            let source = match open_source(&disk, &options) {
                Err(DiskError::Busy { disk: place, reason }) if self.allow_busy => {
                    doubts.push(format!("disk {name} ({place}) was read while in use: {reason}"));
                    open_source(&disk, &OpenOptions { even_if_in_use: true, ..options.clone() })?
                }
                other => other?,
            };
            let source = Arc::from(source);
            let clean = self.check_clean.into();
            disks.push(BackupDisk { clean, ..BackupDisk::new(name, disk.location(), source) });
        }
        if let Some(file) = &self.changed_ranges {
            read_ranges(file, &mut disks)?;
        }
        Ok(BackupRequest {
            tags: tags(self.tags)?,
            consistency: if doubts.is_empty() { Consistency::Crash } else { Consistency::Unknown },
            evidence: doubts,
            parent: blobs.parent(),
            skip_bad_blocks: self.skip_bad_blocks,
            deltas: self.deltas.into(),
            threads: context.threads(&self.work),
            limit_rate: context.limit_rate(&self.work),
            ..BackupRequest::new(self.item.unwrap_or_default(), context::host(), disks)
        })
    }
}

fn tags(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut tags = BTreeMap::new();
    for (key, value) in given {
        if tags.contains_key(&key) {
            return Err(Failure::usage(format!("--tag names {key} twice")));
        }
        tags.insert(key, value);
    }
    Ok(tags)
}

/// Reads the ranges file (`-` is standard input). What it says of disks that are not backed up is
/// more likely a slip of a name than meant.
fn read_ranges(file: &Path, disks: &mut [BackupDisk]) -> Result<(), Failure> {
    let ranges = if file == Path::new("-") {
        ChangedRanges::read("standard input", io::stdin().lock())?
    } else {
        ChangedRanges::open(file)?
    };
    if let Some(name) = ranges.disks().find(|name| disks.iter().all(|disk| disk.name != *name)) {
        let file = file.display();
        return Err(Failure::usage(format!("{file} names disk {name}, which no --disk does")));
    }
    for disk in disks {
        disk.changed = ranges.check(&disk.name, disk.source.size())?.cloned();
    }
    Ok(())
}

impl Show for BackupReport {
    fn show(&self) -> String {
        let rows = self.disks.iter().map(|disk| {
            [
                disk.name.clone(),
                human::bytes(disk.size_bytes),
                disk.allocated_bytes.map(human::bytes).unwrap_or_default(),
                human::bytes(disk.read_bytes),
                human::bytes(disk.changed_bytes),
                human::bytes(disk.deduplicated_bytes),
                human::bytes(disk.stored_bytes),
                human::seconds(disk.seconds),
            ]
        });
        let head = ["DISK", "SIZE", "ALLOCATED", "READ", "CHANGED", "DUPLICATE", "STORED", "TIME"];
        let mut text = format!(
            "Recovery point {id} of {item}, {time}\n{table}",
            id = self.recovery_point,
            item = self.item,
            time = human::time(self.time),
            table = human::table(head, &[1, 2, 3, 4, 5, 6, 7], rows),
        );
        for disk in &self.disks {
            for note in &disk.notes {
                writeln!(text, "Disk {}: {note}", disk.name).ok();
            }
            for skipped in &disk.skipped {
                writeln!(
                    text,
                    "Not readable, recorded as zeros: {} at offset {} of {}",
                    human::bytes(skipped.length),
                    skipped.offset,
                    disk.name
                )
                .ok();
            }
        }
        text + &format!(
            "{} added to the vault in {}\n",
            human::bytes(self.stored_bytes),
            human::seconds(self.seconds)
        )
    }
}
