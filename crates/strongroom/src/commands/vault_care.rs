//! `vault usage|verify|reclaim|rebuild-index`: looking after a vault.

use std::{sync::Mutex, time::Duration};

use clap::Args;
use jiff::Timestamp;
use strongroom_base::{PointId, Stage, Things, lock};
use strongroom_client::OfVault;
use strongroom_engine::Progress;
use strongroom_vault::{
    Notes, RebuildReport, ReclaimOptions, ReclaimProgress, ReclaimReport, UsageOptions,
    UsageReport, Vault, VaultError, WhyHeld, reclaim_watched,
};
use strongroom_verify::{
    DamagedDisk, ObjectKind, VerifyMode, VerifyOptions, VerifyProgress, VerifyReport, verify,
    verify_blind,
};

use crate::{
    args::{OpenArgs, WorkArgs},
    complete,
    context::{self, Context},
    error::{FaceError, Failure},
    human,
    open::{OpenStore, open_store, open_vault, vault_options},
    out::Show,
    values,
};

use super::{service::vault as service, vault::direct_only};

/// Show how much a vault holds: in all and for each item
///
/// With NAME it shows the service's last measurement, with the growth.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault usage
  strongroom vault usage main
  strongroom vault usage --content --output json")]
pub(crate) struct UsageArgs {
    /// A vault of the service: its name or id
    #[arg(value_name = "NAME", conflicts_with = "content", add = complete::vaults())]
    name: Option<String>,

    /// Also show what each item uses alone, what it shares, and what reclaim could free; reads the
    /// trees of all recovery points
    #[arg(long)]
    content: bool,

    #[command(flatten)]
    open: OpenArgs,
}

impl UsageArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(name) = self.name {
            direct_only(&self.open)?;
            return service::usage(context, &name);
        }
        let vault = open_vault(context, &self.open, None)?;
        let options = UsageOptions { content: self.content };
        context.out.result(&vault.usage(options, &context.cancel)?)
    }
}

/// Check that a vault holds what was written
///
/// Without options the command reads, decrypts and decompresses everything that recovery points
/// need, and compares it with its digest. --blind compares every object only with its name, which
/// needs no key. --sample checks a random part. --repair replaces damaged and missing objects by
/// good copies from a mirror. If no mirror has a good copy, later backups no longer rely on the
/// damaged object and store its content again. Where the disks still have the content, this repairs
/// older recovery points, too. `vault reclaim` removes the damaged object when nothing needs it.
///
/// The exit code is 6 if anything is damaged; the report lists the recovery points that need it.
///
/// With NAME the service verifies all of its vault now, repairs what a good copy can repair, and
/// raises an alert if anything is damaged. By itself it checks every vault each day, and reads all
/// of it within 30 days (`verify_every_hours` and `verify_all_days` in docs/operate/server.md).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault verify
  strongroom vault verify main --wait
  strongroom vault verify --sample 5 --limit-rate 50M
  strongroom vault verify --blind --vault /backup/vault
  strongroom vault verify --repair")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct VerifyArgs {
    /// Verify a vault of the service: its name or id
    #[arg(value_name = "NAME", conflicts_with_all = ["blind", "sample", "repair", "resume"],
        add = complete::vaults())]
    name: Option<String>,

    /// With NAME: wait until the job has ended
    #[arg(long, requires = "name")]
    wait: bool,

    /// Compare objects only with their names; needs no key
    #[arg(long)]
    blind: bool,

    /// Check only a random part of the packs
    #[arg(long, value_name = "PERCENT", value_parser = values::percent)]
    sample: Option<f64>,

    /// Replace damaged and missing objects by good copies from a mirror; without a good copy, let
    /// later backups store their content again
    #[arg(long)]
    repair: bool,

    /// Continue where an interrupted verify of this vault stopped
    #[arg(long, conflicts_with = "sample")]
    resume: bool,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

impl VerifyArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(name) = self.name {
            direct_only(&self.open)?;
            return service::begin(context, &name, OfVault::Verify, self.wait);
        }
        let options = VerifyOptions {
            mode: if self.blind { VerifyMode::Blind } else { VerifyMode::Full },
            sample: self.sample,
            repair: self.repair,
            limit_rate: context.limit_rate(&self.work),
            threads: context.threads(&self.work).min(64),
            resume: self.resume,
            host: context::host(),
        };
        let report = if self.blind {
            let OpenStore { store, .. } = open_store(context, &self.open.vault)?;
            let vault_options = vault_options(context, self.open.cache_dir.as_ref());
            context.watched(|progress| {
                let seen = Seen::new(progress);
                let hears = |now| seen.verify(now);
                verify_blind(&store, &vault_options, &options, &hears, &context.cancel)
            })
        } else {
            let vault = open_vault(context, &self.open, None)?;
            context.watched(|progress| {
                let seen = Seen::new(progress);
                verify(&vault, &options, &|now| seen.verify(now), &context.cancel)
            })
        }?;
        context.out.result(&report)?;
        if report.interrupted {
            return Err(VaultError::Interrupted.into());
        }
        if report.clean {
            return Ok(());
        }
        if report.undecided && report.damaged_objects == report.repaired_objects {
            return Err(Failure::from(VaultError::ConcurrentReclaim).with_hint(
                "A reclaim moved data during the verification, so it could not check all recovery points: run `strongroom vault verify` again.",
            ));
        }
        let failure = Failure::from(FaceError::Damaged(damage(&report)));
        Err(match hint(&report) {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        })
    }
}

/// The remedy, if it is not a repair from a mirror.
fn hint(report: &VerifyReport) -> Option<&'static str> {
    let mut unrepaired = report.damaged.iter().filter(|object| !object.repaired);
    let all_named = u64::try_from(report.damaged.len()) == Ok(report.damaged_objects);
    let only_index = all_named
        && unrepaired.all(|object| object.kind == ObjectKind::Index)
        && report.damaged_recovery_points == 0
        && report.absent_copies.is_empty();
    only_index.then_some(
        "Run `strongroom vault rebuild-index`: nothing else is damaged, and this rebuilds the index from the packs.",
    )
}

fn verdict(report: &VerifyReport) -> &'static str {
    match report {
        VerifyReport { clean: true, .. } => "sound",
        VerifyReport { undecided: true, .. } => "not decided: run it again",
        _ => "not sound",
    }
}

/// The findings of a verify, in one line.
fn damage(report: &VerifyReport) -> String {
    let mut found = vec![format!(
        "{} not as written, {} repaired",
        human::count(report.damaged_objects, "object"),
        report.repaired_objects
    )];
    if report.damaged_recovery_points > 0 {
        let points = human::count(report.damaged_recovery_points, "recovery point");
        found.push(format!("{points} not whole"));
    }
    if report.index_incomplete {
        found.push("recovery points need objects that are not in the index".to_owned());
    }
    if !report.absent_copies.is_empty() {
        found.push(format!("away: {}", report.absent_copies.join(", ")));
    }
    found.join("; ")
}

/// Passes the progress of a vault, from several threads, to the display.
struct Seen<'p> {
    progress: &'p Progress,
    last: Mutex<(u64, u64)>,
}

impl<'p> Seen<'p> {
    fn new(progress: &'p Progress) -> Self {
        Self { progress, last: Mutex::default() }
    }

    fn verify(&self, now: VerifyProgress) {
        self.progress.set_stage(now.stage);
        self.bytes(now.bytes_done, now.bytes_total);
    }

    /// Takes absolute figures, which may come in any order.
    fn bytes(&self, done: u64, total: u64) {
        let mut last = lock(&self.last);
        self.progress.advance(done.saturating_sub(last.0));
        self.progress.add_total(total.saturating_sub(last.1));
        *last = (done.max(last.0), total.max(last.1));
    }
}

impl Show for VerifyReport {
    fn show(&self) -> String {
        let mut facts = vec![
            ("Verdict", verdict(self).to_owned()),
            ("Mode", self.mode.name().to_owned()),
            ("Packs checked", format!("{} of {}", self.verified_packs, self.packs)),
        ];
        if self.resumed_packs > 0 {
            facts.push(("Checked before", self.resumed_packs.to_string()));
        }
        facts.extend([
            ("Records checked", self.verified_records.to_string()),
            ("Other objects", self.metadata_objects.to_string()),
            ("Recovery points", self.recovery_points.to_string()),
            ("Read", human::bytes(self.read_bytes)),
            ("Time", human::seconds(self.seconds)),
        ]);
        if self.distrusted_packs > 0 {
            facts.push(("No longer relied on", self.distrusted_packs.to_string()));
        }
        if self.unindexed_packs > 0 {
            let text = format!("{}; run `strongroom vault rebuild-index`", self.unindexed_packs);
            facts.push(("Not in the index", text));
        }
        facts.extend(self.absent_copies.iter().map(|copy| ("Copy away", copy.clone())));
        let mut text = human::facts(&facts);
        if !self.damaged.is_empty() {
            let rows = self.damaged.iter().flat_map(|damaged| {
                damaged.copies.iter().map(|copy| {
                    let repaired = if damaged.repaired { "yes" } else { "no" };
                    [
                        damaged.object.clone(),
                        copy.copy.clone(),
                        copy.reason.clone(),
                        repaired.to_owned(),
                    ]
                })
            });
            text.push('\n');
            text += &human::table(["OBJECT", "COPY", "WHAT IS WRONG", "REPAIRED"], &[], rows);
        }
        if !self.failed_repairs.is_empty() {
            let rows = self
                .failed_repairs
                .iter()
                .map(|failed| [failed.copy.clone(), failed.code.clone(), failed.reason.clone()]);
            text.push('\n');
            text += &human::table(["NOT REPAIRED", "CODE", "WHY"], &[], rows);
        }
        if !self.damaged_points.is_empty() {
            let rows = self.damaged_points.iter().flat_map(|point| {
                let row = |what: &str, lost: String| {
                    let item = point.item.clone().unwrap_or_default();
                    [item, point.recovery_point.to_string(), what.to_owned(), lost]
                };
                let lost = |disk: &DamagedDisk| row(&disk.disk, human::bytes(disk.lost_bytes));
                let mut rows: Vec<_> = point.disks.iter().map(lost).collect();
                if point.configuration_lost {
                    rows.push(row("its configuration", String::new()));
                }
                if rows.is_empty() { vec![row("", String::new())] } else { rows }
            });
            text.push('\n');
            text += &human::table(["ITEM", "RECOVERY POINT", "DISK", "LOST"], &[3], rows);
        }
        text
    }
}

/// Free the space that no recovery point needs
///
/// Backups may run at the same time. Reclaim first condemns the objects that nothing needs, and
/// deletes them when every backup that could still use them has ended. It packs objects together
/// that are small or mostly unneeded.
///
/// Reclaim removes deleted recovery points for good, and names them first. It keeps locked points,
/// and with --respect-notes-after also recently deleted points. In a vault of a service this
/// command also removes points that somebody else with the key has deleted, not the service.
///
/// The exit code is 7 if backups that started earlier are still running after --wait: run the
/// command again later, and it continues where it stopped.
///
/// With NAME the service runs the reclaim, as it also does by itself; --wait then waits for the
/// job.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault reclaim --dry-run
  strongroom vault reclaim --wait 2h --respect-notes-after 7d
  strongroom vault reclaim --recompress
  strongroom vault reclaim main --wait")]
pub(crate) struct ReclaimArgs {
    /// Reclaim in a vault of the service: its name or id
    #[arg(value_name = "NAME", conflicts_with = "dry_run", add = complete::vaults())]
    name: Option<String>,

    /// Show what would be freed; change nothing
    #[arg(long)]
    dry_run: bool,

    /// First compress the needed data again, more slowly and more tightly: at most 64 GiB; the next run
    /// continues. Backups may run at the same time. The vault needs space for old and new packs until
    /// the old ones are removed. Afterwards, programs before vault format 2 cannot read the vault
    #[arg(long, conflicts_with = "name")]
    recompress: bool,

    /// Keep deleted recovery points whose deletion note is younger than this, by the store's clock:
    /// this leaves time to notice that somebody else has deleted them
    #[arg(long, value_name = "DURATION", value_parser = values::duration, conflicts_with = "name")]
    respect_notes_after: Option<Duration>,

    /// Maximum time to wait for running backups; 0 does not wait [default: 1h]. With NAME: wait for
    /// the job
    #[arg(long, value_name = "DURATION", value_parser = values::duration, num_args = 0..=1,
        default_missing_value = "1h")]
    wait: Option<Duration>,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

impl ReclaimArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(name) = self.name {
            direct_only(&self.open)?;
            return service::begin(context, &name, OfVault::Reclaim, self.wait.is_some());
        }
        let vault = open_vault(context, &self.open, context.limit_rate(&self.work))?;
        let options = ReclaimOptions {
            dry_run: self.dry_run,
            wait: self.wait.unwrap_or(Duration::from_hours(1)),
            threads: context.threads(&self.work),
            host: context::host(),
            notes: Notes::OlderThan(self.respect_notes_after.unwrap_or_default()),
            recompress: self.recompress.then_some(ReclaimOptions::RECOMPRESS),
            ..ReclaimOptions::default()
        };
        if !self.dry_run {
            announce(context, &vault, &options)?;
        }
        context.out.say("Searching for data that no recovery point needs");
        let report = context.watched(|progress| {
            let hears = |now: ReclaimProgress| {
                progress.count(now.stage, now.things, now.done, now.total);
            };
            reclaim_watched(&vault, &options, &hears, &context.cancel)
        });
        let report = report.map_err(reclaim_failed)?;
        context.out.result(&report)?;
        if report.waiting_for.is_empty() {
            return Ok(());
        }
        Err(FaceError::BackupsRunning(report.waiting_for.join(", ")).into())
    }
}

/// Names the deleted points that reclaim will remove, before it removes anything.
fn announce(context: &Context, vault: &Vault, options: &ReclaimOptions) -> Result<(), Failure> {
    let noted = vault.noted_points(&options.notes, options.now)?;
    for point in &noted.due {
        let words = point_words(point.recovery_point, point.item.as_deref(), point.time);
        context.out.say(&format!("Removing recovery point {words}, which was deleted"));
    }
    Ok(())
}

fn point_words(id: PointId, item: Option<&str>, time: Option<Timestamp>) -> String {
    let item = item.unwrap_or("an item that cannot be read");
    let time = time.map_or_else(String::new, |time| format!(" of {}", human::time(time)));
    format!("{id} of {item}{time}")
}

/// Rebuild a vault's index from its packs
///
/// The index is a cache: this command can always rebuild it from the packs. Use it after index
/// objects were lost or damaged.
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
        let vault = open_vault(context, &self.open, None)?;
        context.out.say("Reading the trailer of every pack");
        let report = context.watched(|progress| {
            let hears = |done, total| progress.count(Stage::Reading, Things::Packs, done, total);
            vault.rebuild_index(&hears, &context.cancel)
        })?;
        context.out.result(&report)
    }
}

/// Gives the remedy for a condemnation that is unreadable, like its copy.
fn reclaim_failed(error: VaultError) -> Failure {
    let unreadable = matches!(
        &error,
        VaultError::Object { object, .. } | VaultError::UnknownKey { object, .. }
            if object.starts_with("condemned/")
    );
    let failure = Failure::from(error);
    if !unreadable {
        return failure;
    }
    failure.with_hint(
        "Run `strongroom vault verify --repair`, which takes a good copy from a mirror. Without one, \
         be sure that no reclaim of this vault runs or is suspended anywhere, then delete the object \
         and its copy below condemned/copies/.",
    )
}

impl Show for RebuildReport {
    fn show(&self) -> String {
        let mut text = human::facts(&[
            ("Packs in the index", self.packs.to_string()),
            ("Records", self.records.to_string()),
            ("Index objects written", self.index_objects_written.to_string()),
            ("Index objects removed", self.index_objects_removed.to_string()),
            ("Packs not readable", self.unreadable_packs.to_string()),
            ("Time", human::seconds(self.seconds)),
        ]);
        if !self.unreadable.is_empty() {
            let rows =
                self.unreadable.iter().map(|pack| [pack.object.clone(), pack.reason.clone()]);
            text.push('\n');
            text += &human::table(["PACK", "WHAT IS WRONG"], &[], rows);
        }
        text
    }
}

impl Show for UsageReport {
    fn show(&self) -> String {
        let packs = |number: u64, bytes: u64| {
            format!("{} in {}", human::bytes(bytes), human::count(number, "object"))
        };
        let mut facts = vec![
            ("Vault", self.vault.to_string()),
            ("Recovery points", self.recovery_points.to_string()),
            ("Disks protected", human::bytes(self.protected_bytes)),
            ("Held in all", human::bytes(self.total_bytes)),
            ("  blocks", packs(self.data_packs, self.data_pack_bytes)),
            ("  tree nodes", packs(self.node_packs, self.node_pack_bytes)),
            ("  index", packs(self.index_objects, self.index_bytes)),
            ("  other", packs(self.other_objects, self.other_bytes)),
        ];
        if self.condemned_packs > 0 {
            facts.push(("About to go", packs(self.condemned_packs, self.condemned_bytes)));
        }
        if self.damaged_recovery_points > 0 {
            let text = format!("{}; run `strongroom vault verify`", self.damaged_recovery_points);
            facts.push(("Damaged points", text));
        }
        if self.deleted_recovery_points > 0 {
            facts.push(("Deleted points", self.deleted_recovery_points.to_string()));
        }
        if let Some(content) = self.content {
            facts.extend([
                ("Needed by one item", human::bytes(content.unique_bytes)),
                ("Needed by several", human::bytes(content.shared_bytes)),
                ("Reclaim could free", human::bytes(content.reclaimable_bytes)),
            ]);
        }
        let mut text = human::facts(&facts);
        if self.items.is_empty() {
            return text;
        }
        let rows = self.items.iter().map(|item| {
            let either = |bytes: Option<u64>| bytes.map_or("?".to_owned(), human::bytes);
            [
                item.item.clone(),
                item.recovery_points.to_string(),
                human::time(item.oldest),
                human::time(item.newest),
                human::bytes(item.protected_bytes),
                human::bytes(item.added_bytes),
                either(item.unique_bytes),
                either(item.shared_bytes),
            ]
        });
        let head = ["ITEM", "POINTS", "OLDEST", "NEWEST", "PROTECTED", "ADDED", "ALONE", "SHARED"];
        text.push('\n');
        text + &human::table(head, &[1, 4, 5, 6, 7], rows)
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
        let mut facts = vec![
            (freed, human::bytes(freed_bytes)),
            (removed, packs_removed.to_string()),
            ("Packs rewritten", self.packs_compacted.to_string()),
            ("Deleted points cleared", self.points_removed.to_string()),
            ("Held before", human::bytes(self.pack_bytes)),
            ("Needed of that", human::bytes(self.live_bytes)),
        ];
        if self.recompressed_bytes > 0 {
            let before = human::bytes(self.recompressed_bytes);
            facts.push(if self.dry_run {
                ("To be recompressed", before)
            } else {
                let after = human::bytes(self.recompressed_to_bytes);
                ("Recompressed", format!("{before} to {after}"))
            });
        }
        if self.recompression_left_bytes > 0 {
            let left = human::bytes(self.recompression_left_bytes);
            facts.push(("For the next recompression", left));
        }
        facts.extend(self.gave_up.iter().map(|who| ("Gave up", who.clone())));
        if let Some(seconds) = self.clock_ahead_seconds {
            let way = if seconds < 0 { "behind" } else { "ahead of" };
            let off = human::seconds(Duration::from_secs(seconds.unsigned_abs()).as_secs_f64());
            let words = format!("{off} {way} the store's, by which ages are reckoned");
            facts.push(("This host's clock", words));
        }
        let going = if self.dry_run { "To be removed" } else { "Removed" };
        facts.extend(self.removed.iter().map(|point| {
            (going, point_words(point.recovery_point, point.item.as_deref(), point.time))
        }));
        facts.extend(self.held.iter().map(|held| {
            let why = match held.why {
                WhyHeld::Locked => "locked",
                WhyHeld::Young => "deleted lately",
                WhyHeld::NotGivenUp => "not given up by its service",
            };
            let until = held
                .until
                .map_or_else(String::new, |until| format!(" until {}", human::time(until)));
            let point = point_words(held.recovery_point, held.item.as_deref(), held.time);
            ("Stays although deleted", format!("{point}: {why}{until}"))
        }));
        human::facts(&facts)
    }
}
