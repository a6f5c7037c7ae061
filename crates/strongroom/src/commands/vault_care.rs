//! `vault usage|verify|reclaim|rebuild-index`: looking after a vault.

use std::time::Duration;

use clap::Args;
use strongroom_vault::{ReclaimOptions, ReclaimReport, reclaim};

use crate::{
    args::{OpenArgs, WorkArgs},
    context::{self, Context},
    error::{FaceError, Failure},
    human,
    open::open_vault,
    out::Show,
    values,
};

/// Show how much a vault holds: in all and for each item
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault usage
  strongroom vault usage --output json")]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    open: OpenArgs,
}

impl UsageArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        open_vault(context, &self.open, None)?;
        Err(not_yet("vault usage"))
    }
}

/// Check that what a vault holds is what was written
///
/// Without options everything that recovery points need is read, decrypted, decompressed and
/// compared with its digest. --blind compares every object with its name only, which needs no
/// key. --sample checks a random part. --repair replaces damaged and missing objects by good
/// copies, where a mirror has one.
///
/// Ends with exit code 6 if anything is damaged; the recovery points that need it are listed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault verify
  strongroom vault verify --sample 5 --limit-rate 50M
  strongroom vault verify --blind --vault /backup/vault
  strongroom vault verify --repair")]
pub(crate) struct VerifyArgs {
    /// Compare objects with their names only; needs no key
    #[arg(long)]
    blind: bool,

    /// Check a random part only: a whole percentage
    #[arg(long, value_name = "PERCENT", value_parser = values::percent)]
    sample: Option<u8>,

    /// Replace damaged and missing objects by good copies of a mirror
    #[arg(long)]
    repair: bool,

    /// Go on where an interrupted verify of this vault stopped
    #[arg(long, conflicts_with = "sample")]
    resume: bool,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

impl VerifyArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let limit = context.limit_rate(&self.work);
        let threads = context.threads(&self.work);
        tracing::debug!(?limit, threads, self.blind, self.repair, self.resume, sample = ?self.sample);
        Err(not_yet("vault verify"))
    }
}

/// Free the space that no recovery point needs
///
/// Backups may run meanwhile. Objects that nothing needs are condemned first and deleted when
/// every backup that could still use them has ended. Objects that are mostly unneeded, and small
/// ones, are packed together.
///
/// Ends with exit code 7 if backups that started earlier are still running after --wait: run it
/// again later, it goes on where it stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault reclaim --dry-run
  strongroom vault reclaim --wait 2h")]
pub(crate) struct ReclaimArgs {
    /// Say what would be freed, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Wait at most so long for running backups; 0 to not wait
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "1h")]
    wait: Duration,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

impl ReclaimArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let vault = open_vault(context, &self.open, context.limit_rate(&self.work))?;
        let options = ReclaimOptions {
            dry_run: self.dry_run,
            wait: self.wait,
            threads: context.threads(&self.work),
            host: context::host(),
            ..ReclaimOptions::default()
        };
        context.out.say("Looking for what no recovery point needs");
        let report = reclaim(&vault, &options, &context.cancel)?;
        context.out.result(&report)?;
        if report.waiting_for.is_empty() {
            return Ok(());
        }
        Err(FaceError::BackupsRunning(report.waiting_for.join(", ")).into())
    }
}

/// Rebuild a vault's index from its packs
///
/// The index only saves time: it can always be made again from what the packs say about
/// themselves. Needed after index objects were lost or damaged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault rebuild-index")]
pub(crate) struct RebuildIndexArgs {
    #[command(flatten)]
    open: OpenArgs,
}

impl RebuildIndexArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        open_vault(context, &self.open, None)?;
        Err(not_yet("vault rebuild-index"))
    }
}

impl Show for ReclaimReport {
    fn show(&self) -> String {
        let (freed, removed) = if self.dry_run {
            ("Could be freed", "Packs to be removed")
        } else {
            ("Freed", "Packs removed")
        };
        let could_free = self.pack_bytes.saturating_sub(self.live_bytes);
        let freed_bytes = if self.dry_run { could_free } else { self.freed_bytes };
        let to_remove = self.packs_dead.saturating_add(self.packs_compacted);
        let packs_removed = if self.dry_run { to_remove } else { self.packs_removed };
        human::facts(&[
            (freed, human::bytes(freed_bytes)),
            (removed, packs_removed.to_string()),
            ("Packs rewritten", self.packs_compacted.to_string()),
            ("Deleted points cleared", self.points_removed.to_string()),
            ("Held before", human::bytes(self.pack_bytes)),
            ("Needed of that", human::bytes(self.live_bytes)),
        ])
    }
}

fn not_yet(what: &str) -> Failure {
    FaceError::Bug(format!("{what} is not there yet")).into()
}
