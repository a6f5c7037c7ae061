//! `job`: what the service does, has done and will do.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use strongroom_api::{Job, JobKind, JobState, Report};
use strongroom_client::{Client, JobQuery};

use crate::{
    columns::{Cell, Columns, row},
    complete,
    context::Context,
    error::Failure,
    human, moments,
};

use super::{
    common::{Listed, Thing, cut, find_id, one_of, words},
    restore::report_text,
};

/// `job ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    List(ListArgs),
    Show(ShowArgs),
    Wait(WaitArgs),
    #[command(visible_alias = "stop")]
    Cancel(CancelArgs),
}

impl JobCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Wait(args) => args.run(context),
            Self::Cancel(args) => args.run(context),
        }
    }
}

/// List jobs, the newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom job list
  strongroom job list --state failed --since 2026-11-22
  strongroom job list --since yesterday --until \"2h ago\"
  strongroom job list --item web01 --kind backup --limit 10")]
pub(crate) struct ListArgs {
    /// Only jobs in this state
    #[arg(long, value_name = "STATE", value_parser = one_of!(JobState))]
    state: Option<JobState>,

    /// Only jobs of this kind
    #[arg(long, value_name = "KIND", value_parser = one_of!(JobKind))]
    kind: Option<JobKind>,

    /// Only jobs of this vault
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: Option<String>,

    /// Only jobs of this item
    #[arg(long, value_name = "NAME", add = complete::items())]
    item: Option<String>,

    /// Only jobs that began at this time or later: yesterday, 2d, "2h ago"
    #[arg(long, value_name = "TIME", value_parser = moments::since)]
    since: Option<Timestamp>,

    /// Only jobs that began before this time
    #[arg(long, value_name = "TIME", value_parser = moments::until)]
    until: Option<Timestamp>,

    /// Maximum number of jobs; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let which = JobQuery {
            state: self.state,
            kind: self.kind,
            vault: self.vault_name,
            item: self.item,
            since: self.since.map(|moment| moment.to_string()),
            until: self.until.map(|moment| moment.to_string()),
        };
        let jobs = cut(context, self.limit, "jobs", |limit| {
            context.client()?.jobs(which).up_to(limit).map_err(Failure::from)
        })?;
        let head = ["JOB", "KIND", "SUBJECT", "STATE", "BEGUN", "TOOK", "WRITTEN", "ERROR"];
        let columns = Columns::new(head, jobs.iter().map(job_row));
        context.out.result(&Listed::new("jobs", jobs, columns))
    }
}

/// `2 of 3`, once it matters.
pub(crate) fn tries(job: &Job) -> Option<String> {
    let now = job.current_try();
    let again = now > 1 || (now == 1 && job.state == JobState::Queued);
    again.then(|| format!("{now} of {}", job.max_tries.max(now)))
}

/// The job whose id has this beginning.
fn find_job(client: &Client, id: &str) -> Result<String, Failure> {
    find_id("jobs", id, client.jobs(JobQuery::default()), |job| job.id.to_string())
}

fn took(job: &Job) -> Option<String> {
    let (began, ended) = (job.started?, job.ended?);
    Some(human::seconds(ended.duration_since(began).as_secs_f64()))
}

fn job_row(job: &Job) -> [Cell; 8] {
    row![
        Cell::id(job.id),
        words(job.kind),
        &job.subject,
        words(job.state),
        job.started.unwrap_or(job.created),
        took(job),
        job.progress.map_or(Cell::None, |progress| Cell::Bytes(progress.stored_bytes)),
        job.error.as_ref().map(|error| error.code.to_string()),
    ]
}

impl crate::out::Show for Job {
    fn show(&self) -> String {
        let mut facts = vec![
            ("Job", self.id.to_string()),
            ("Kind", words(self.kind)),
            ("Subject", self.subject.clone()),
            ("State", words(self.state)),
            ("Begun by", format!("{} ({})", self.requested_by, words(self.trigger))),
            ("Created", human::time(self.created)),
        ];
        let mut fact =
            |label, value: Option<String>| facts.extend(value.map(|value| (label, value)));
        let again = self.error.is_some() && self.state == JobState::Queued;
        fact(if again { "Next try" } else { "Not before" }, self.not_before.map(human::time));
        fact("Begun", self.started.map(human::time));
        fact("Ended", self.ended.map(human::time));
        fact("Took", took(self));
        fact("Try", tries(self));
        let interruptions = Some(self.interruptions).filter(|count| *count > 0);
        fact("Interrupted", interruptions.map(|count| human::count(count.into(), "time")));
        let is_final = self.state.is_final();
        if let Some(now) = self.progress.filter(|now| is_final || now.total_bytes > 0) {
            let (done, total) = (human::bytes(now.done_bytes), human::bytes(now.total_bytes));
            fact("Gone through", (now.total_bytes > 0).then(|| format!("{done} of {total}")));
            fact("Written", Some(human::bytes(now.stored_bytes)));
            if !is_final {
                fact("Rate", Some(format!("{}/s", human::bytes(now.bytes_per_second))));
                let left = now.seconds_left.map(|left| u32::try_from(left).unwrap_or(u32::MAX));
                fact("Left", left.map(|left| human::seconds(f64::from(left))));
            }
        }
        fact("Recovery point", self.recovery_point.map(|point| point.to_string()));
        facts.extend(self.warnings.iter().map(|warning| ("Warning", warning.message.clone())));
        if let Some(error) = &self.error {
            facts.push(("Error", error.message.clone()));
            facts.push(("What to do", error.hint.clone()));
            facts.push(("Code", error.code.to_string()));
        }
        let mut text = human::facts(&facts);
        if !self.tasks.is_empty() {
            let rows = self.tasks.iter().map(|task| {
                row![
                    words(&task.name),
                    words(task.state),
                    task.started.map_or(Cell::None, Cell::Second),
                    task.detail.clone(),
                ]
            });
            let tasks = Columns::new(["TASK", "STATE", "BEGUN", "DETAIL"], rows);
            write!(text, "\n{}", tasks.to_text()).ok();
        }
        if let (JobKind::Restore, Some(report)) = (self.kind, &self.report) {
            let result = report_text(&self.subject, report);
            if !result.is_empty() {
                write!(text, "\n{result}").ok();
            }
        }
        if let Some(Report::Drill(report)) = &self.report {
            write!(text, "\n{}", report.show()).ok();
        }
        if let Some(Report::Boot(report)) = &self.report {
            write!(text, "\n{}", report.show()).ok();
        }
        text
    }
}

/// Show a job
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom job show 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB")]
pub(crate) struct ShowArgs {
    /// The job's id, or a unique beginning of it
    #[arg(value_name = "ID", add = complete::jobs())]
    id: String,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        context.out.result(&client.job(&find_job(&client, &self.id)?)?)
    }
}

/// Wait until a job has ended, and show its progress
///
/// The exit code is the job's: 0 if it is done, 7 if it is done with warnings, 130 if it was
/// cancelled, and the exit code of its error if it failed. If you stop this command, the job
/// continues.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom job wait 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB")]
pub(crate) struct WaitArgs {
    /// The job's id, or a unique beginning of it
    #[arg(value_name = "ID", add = complete::jobs())]
    id: String,
}

impl WaitArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let id = find_job(&client, &self.id)?;
        context.wait_for(&client, &id)
    }
}

/// Cancel a job
///
/// The job cleans up first: `strongroom job wait` reports when it is cancelled.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom job cancel 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB")]
pub(crate) struct CancelArgs {
    /// The job's id, or a unique beginning of it
    #[arg(value_name = "ID", add = complete::jobs())]
    id: String,
}

impl CancelArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let job = client.cancel_job(&find_job(&client, &self.id)?)?;
        context
            .out
            .result(&Thing::new(job, |job| format!("The job {} is {}\n", job.id, words(job.state))))
    }
}
