//! Jobs as the service keeps them: begun, listed, changed by events, cancelled.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use strongroom_api::{
    self as api, ErrorBody, Job, JobKind, JobState, ProtectionState, StopMode, Stopped, Task,
    TaskName, TaskState, Trigger,
};
use strongroom_base::{Fault, JobId, codes, message};
use strongroom_catalog::{Filter, Query, Stored, Tx};

use super::{Event, Retry, on};
use crate::{
    access::seen::seen,
    alerts::{self, Happening, Rule},
    audit,
    cause::Cause,
    error::{ControlError, Result},
    lookup::{cut, policy_of},
    model::{ItemDoc, JobDoc, Spec},
    once,
    page::{PageRequest, page},
    rights::{Caller, Operation, Target},
    service::Control,
};

/// Which jobs a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only those of this kind.
    pub kind: Option<JobKind>,
    /// Only those of this vault: its name or id.
    pub vault: Option<String>,
    /// Only those of this item: its name or id.
    pub item: Option<String>,
    /// Only those created at this time or later.
    pub since: Option<jiff::Timestamp>,
    /// Only those created before this time.
    pub until: Option<jiff::Timestamp>,
}

impl Spec {
    /// What the job is called.
    pub(crate) const fn kind(&self) -> JobKind {
        match self {
            Self::Discover { .. } => JobKind::Discover,
            Self::Protect { .. } => JobKind::ConfigureProtection,
            Self::Backup { .. } => JobKind::Backup,
            Self::Restore { .. } => JobKind::Restore,
            Self::FinishRestore { .. } => JobKind::FinishRestore,
            Self::VerifyBoot { .. } => JobKind::VerifyBoot,
            Self::Drill { .. } => JobKind::Drill,
            Self::DeleteData { .. } => JobKind::DeleteBackupData,
            Self::Expire { .. } => JobKind::Expire,
            Self::Reclaim { .. } => JobKind::Reclaim,
            Self::Verify { .. } => JobKind::Verify,
            Self::Measure { .. } => JobKind::MeasureUsage,
            Self::RotateKey { .. } => JobKind::RotateKey,
            Self::SaveCatalog { .. } => JobKind::SaveCatalog,
            Self::Record => JobKind::DisableProtection,
        }
    }

    fn tasks(&self) -> &'static [TaskName] {
        match self {
            Self::Backup { .. } => &[TaskName::Snapshot, TaskName::Transfer, TaskName::Validate],
            Self::Restore { .. } => &[TaskName::Prepare, TaskName::Restore],
            Self::FinishRestore { .. } => &[TaskName::Finish],
            Self::VerifyBoot { .. } => &[TaskName::Boot],
            Self::Drill { .. } => &[TaskName::Drill],
            Self::Discover { .. } => &[TaskName::Discover],
            Self::DeleteData { .. } | Self::Expire { .. } => &[TaskName::Delete],
            Self::Reclaim { .. } => &[TaskName::Reclaim],
            Self::Verify { .. } => &[TaskName::Verify],
            Self::Measure { .. } => &[TaskName::Measure],
            Self::RotateKey { .. } => &[TaskName::Rotate],
            Self::SaveCatalog { .. } => &[TaskName::Save],
            // One for each source.
            Self::Protect { .. } | Self::Record => &[],
        }
    }

    /// How often it is tried again.
    pub(crate) const fn retry(&self) -> Retry {
        match self {
            Self::Backup { .. } | Self::DeleteData { .. } | Self::Expire { .. } => Retry::USUAL,
            _ => Retry::NEVER,
        }
    }
}

/// A part of a job that comes later.
pub(crate) fn pending(name: TaskName) -> Task {
    Task { name, state: TaskState::Pending, started: None, ended: None, detail: None }
}

/// Whether a failure is the answer to somebody who waits for it, and nothing that others should look at:
/// what was asked for cannot be, as with a misspelt name. A restore is looked at in any case.
fn answers_a_person(job: &Job) -> bool {
    let by_caller = |error: &ErrorBody| error.fault == Fault::Caller;
    job.trigger == Trigger::OnDemand
        && match job.kind {
            JobKind::Discover | JobKind::ConfigureProtection => true,
            JobKind::Restore | JobKind::Backup => false,
            _ => job.error.as_ref().is_some_and(by_caller),
        }
}

fn no_job(id: &str) -> ControlError {
    ControlError::from(message!(JOB_NOT_FOUND, "there is no job {job:?}", job = cut(id)))
}

impl Control {
    /// A job that waits, not yet written down.
    pub(crate) fn new_job(&self, spec: Spec, subject: &str, trigger: Trigger, by: &str) -> JobDoc {
        let (vault, item, host) = match &spec {
            Spec::Discover { host } => (None, None, Some(*host)),
            Spec::Protect { vault, host, .. } | Spec::Drill { vault, host, .. } => {
                (Some(*vault), None, Some(*host))
            }
            Spec::Restore { item, host, .. } => (None, Some(*item), Some(*host)),
            Spec::Backup { item, .. }
            | Spec::FinishRestore { item, .. }
            | Spec::VerifyBoot { item, .. }
            | Spec::DeleteData { item } => (None, Some(*item), None),
            Spec::Expire { vault }
            | Spec::Reclaim { vault }
            | Spec::Verify { vault, .. }
            | Spec::Measure { vault }
            | Spec::RotateKey { vault, .. }
            | Spec::SaveCatalog { vault } => (Some(*vault), None, None),
            Spec::Record => (None, None, None),
        };
        let job = Job {
            id: JobId::generate(&*self.clock, &*self.entropy),
            kind: spec.kind(),
            state: JobState::Queued,
            trigger,
            requested_by: by.to_owned(),
            subject: subject.to_owned(),
            vault,
            item,
            host,
            tasks: spec.tasks().iter().map(|name| pending(name.clone())).collect(),
            progress: None,
            warnings: Vec::new(),
            error: None,
            attempt: 0,
            interruptions: 0,
            max_tries: spec.retry().attempts,
            created: self.now(),
            not_before: None,
            started: None,
            ended: None,
            recovery_point: None,
            report: None,
        };
        JobDoc { job, spec, cause: Cause::current() }
    }

    /// Writes a job down; it is begun when its turn comes.
    pub(crate) async fn begin(&self, tx: &mut Tx, job: JobDoc) -> Result<JobId> {
        tx.insert(&job).await?;
        let id = job.job.id;
        once::began(id);
        Ok(id)
    }

    /// Writes down a job that works on an item, which is no other's meanwhile.
    pub(crate) async fn begin_for_item(
        &self,
        tx: &mut Tx,
        doc: &mut ItemDoc,
        version: u64,
        spec: Spec,
        trigger: Trigger,
        by: &str,
    ) -> Result<JobId> {
        let mut job = self.new_job(spec, &doc.item.name, trigger, by);
        job.job.vault = Some(doc.item.vault);
        job.job.host = job.job.host.or(Some(doc.item.host));
        doc.item.job = Some(job.job.id);
        tx.update(doc, version).await?;
        self.begin(tx, job).await
    }

    /// Begins a job of the service's own in a vault, unless one of the kind is there.
    pub(crate) async fn begin_once(
        &self,
        kind: JobKind,
        vault: &api::Vault,
        spec: Spec,
    ) -> Result<bool> {
        in_write!(self, tx => {
            let open = Filter::all()
                .eq("kind", kind.name())
                .eq("vault", vault.id.to_string())
                .is_null("ended");
            if tx.count::<JobDoc>(&open).await? > 0 {
                return Ok(false);
            }
            let job = self.new_job(spec.clone(), &vault.name, Trigger::System, "system");
            self.begin(tx, job).await?;
            Ok(true)
        })
    }

    /// Deletes the data of an expired item.
    pub(crate) async fn begin_item_purge(&self, item: strongroom_base::ItemId) -> Result<()> {
        in_write!(self, tx => {
            let Some(Stored { mut doc, version }) =
                tx.get::<ItemDoc>(&item.to_string()).await?
            else {
                return Ok(());
            };
            if doc.item.job.is_some() || doc.item.state != ProtectionState::SoftDeleted {
                return Ok(());
            }
            let spec = Spec::DeleteData { item };
            self.begin_for_item(tx, &mut doc, version, spec, Trigger::System, "system").await?;
            Ok(())
        })
    }

    /// A job for the record of what was done at once.
    pub(crate) async fn record_job(
        &self,
        tx: &mut Tx,
        item: &api::Item,
        mode: &StopMode,
        by: &str,
    ) -> Result<()> {
        let mut job = self.new_job(Spec::Record, &item.name, Trigger::OnDemand, by);
        let now = job.job.created;
        job.job.state = JobState::Completed;
        job.job.vault = Some(item.vault);
        job.job.item = Some(item.id);
        job.job.host = Some(item.host);
        job.job.started = Some(now);
        job.job.ended = Some(now);
        job.job.report = Some(Stopped { mode: *mode }.into());
        tx.insert(&job).await?;
        Ok(())
    }

    /// Jobs that the caller sees, the newest first.
    pub async fn jobs(
        &self,
        caller: &Caller,
        which: &JobFilter,
        at: &PageRequest,
    ) -> Result<api::Page<Job>> {
        let mut filter = seen::<JobDoc>(&caller.sight());
        if let Some(state) = which.state {
            filter = filter.eq("state", state.name());
        }
        if let Some(kind) = which.kind {
            filter = filter.eq("kind", kind.name());
        }
        if let Some(vault) = &which.vault {
            filter = filter.eq("vault", self.vault(caller, vault).await?.value.id.to_string());
        }
        if let Some(item) = &which.item {
            filter = filter.eq("item", self.item(caller, item).await?.value.id.to_string());
        }
        if let Some(since) = which.since {
            filter = filter.ge("created", since);
        }
        if let Some(until) = which.until {
            filter = filter.lt("created", until);
        }
        let query = at.of(Query::new(filter).descending("created"));
        let found = self.catalog.list::<JobDoc>(&query).await?;
        Ok(page(found, |stored| self.as_it_is(stored.doc.job)))
    }

    /// A job.
    pub async fn job(&self, caller: &Caller, id: &str) -> Result<Job> {
        let Ok(parsed) = id.parse::<JobId>() else { return Err(no_job(id)) };
        let stored = self.catalog.get::<JobDoc>(&parsed.to_string()).await?;
        let job = self.as_it_is(stored.ok_or_else(|| no_job(id))?.doc.job);
        let target = Target::of(&job);
        let view = match target {
            Target::Server => Operation::ViewServer,
            Target::Host(_) => Operation::ViewHost,
            Target::Vault(_) => Operation::ViewVault,
            Target::Item(..) => Operation::ViewItem,
        };
        self.check(caller, view, target, || no_job(id))?;
        Ok(job)
    }

    /// Cancels a job.
    pub async fn cancel_job(&self, caller: &Caller, id: &str) -> Result<Job> {
        let job = self.job(caller, id).await?;
        self.check(caller, Operation::CancelJob, Target::of(&job), || no_job(id))?;
        if job.state.is_final() {
            let message =
                message!(JOB_FINISHED, "the job is {state} already", state = job.state.in_words());
            return Err(ControlError::from(message));
        }
        let event = Event::CancelAsked { by: caller.name.clone() };
        let changed = self.apply_event(job.id, event).await?;
        self.drivers.cancel(job.id);
        in_write!(self, tx => {
            audit::record(tx, caller, Operation::CancelJob, id, json!({})).await
        })?;
        Ok(changed.unwrap_or(job))
    }

    /// Applies an event to a job, and writes down what becomes of it; none if the event does not fit its state.
    pub(crate) async fn apply_event(&self, id: JobId, event: Event) -> Result<Option<Job>> {
        Ok(self.apply_event_doc(id, event).await?.map(|doc| doc.job))
    }

    /// The same, with what the job is to do.
    pub(crate) async fn apply_event_doc(&self, id: JobId, event: Event) -> Result<Option<JobDoc>> {
        let now = self.now();
        let changed = in_write!(self, tx => {
            let Some(Stored { mut doc, version }) = tx.get::<JobDoc>(&id.to_string()).await?
            else {
                return Ok(None);
            };
            let retry = doc.spec.retry();
            // How far it has come is written down with whatever else is.
            if let Some(progress) = self.progress_of(id)
                && let Some(job) = on(&doc.job, Event::Progress(progress), &retry, now)
            {
                doc.job = job;
            }
            let Some(next) = on(&doc.job, event.clone(), &retry, now) else { return Ok(None) };
            let ends = next.state.is_final();
            doc.job = next;
            tx.update(&doc, version).await?;
            if ends {
                self.ended(tx, &doc).await?;
            }
            Ok(Some(doc))
        })?;
        if let Some(JobDoc { job, .. }) = &changed {
            if !matches!(job.state, JobState::InProgress | JobState::Cancelling) {
                self.forget_progress(id);
            }
            // That nobody listens is no error.
            let _listeners = self.job_events.send(job.clone()).unwrap_or(0);
            // There is a new point, or the host is free for the next one.
            if job.state.is_final()
                && matches!(job.kind, JobKind::Backup | JobKind::VerifyBoot | JobKind::Drill)
            {
                self.boots_due.store(true, Relaxed);
            }
            if job.state.is_final() || job.state == JobState::Queued {
                self.wake.notify_one();
            }
        }
        Ok(changed)
    }

    /// A job has ended: its item is free again, and knows how it went.
    async fn ended(&self, tx: &mut Tx, doc: &JobDoc) -> Result<()> {
        let job = &doc.job;
        let now = self.now();
        let item = match job.item {
            Some(item) => tx.get::<ItemDoc>(&item.to_string()).await?,
            None => None,
        };
        if let Some(Stored { doc: mut item, version }) = item {
            if item.item.job == Some(job.id) {
                item.item.job = None;
            }
            if job.kind == JobKind::Backup {
                self.backed_up(tx, &mut item, job).await?;
            }
            tx.update(&item, version).await?;
        }
        if job.state == JobState::Failed && job.kind != JobKind::Backup && !answers_a_person(job) {
            let rule = match job.kind {
                JobKind::Restore => Rule::RestoreFailed,
                _ => Rule::JobFailed,
            };
            let what = Happening {
                rule,
                title: format!("{} of {} failed", job.kind.noun(), job.subject),
                error: job.error.clone(),
                subject: &job.subject,
                vault: job.vault,
                item: job.item,
                job: Some(job.id),
            };
            alerts::raise(self, tx, what, now).await?;
        }
        Ok(())
    }

    /// What a backup's end says of its item.
    async fn backed_up(&self, tx: &mut Tx, doc: &mut ItemDoc, job: &Job) -> Result<()> {
        let now = self.now();
        if !doc.is_active() {
            return Ok(());
        }
        let missing = |error: &ErrorBody| error.code == codes::SOURCE_MISSING;
        match job.state {
            JobState::Completed | JobState::CompletedWithWarnings => {
                doc.item.state = ProtectionState::Protected;
                doc.item.error = None;
                doc.item.failures = 0;
                for rule in [Rule::BackupFailed, Rule::SourceMissing, Rule::RpoMissed] {
                    alerts::resolve(tx, rule, &doc.item, now).await?;
                }
            }
            JobState::Failed => {
                doc.item.error.clone_from(&job.error);
                doc.item.failures = doc.item.failures.saturating_add(1);
                let gone = job.error.as_ref().is_some_and(missing);
                let was_gone = doc.item.state == ProtectionState::SourceMissing;
                doc.item.state = if gone {
                    ProtectionState::SourceMissing
                } else {
                    ProtectionState::ProtectionError
                };
                let (rule, title) = if gone {
                    let title = format!("the source of {} is missing", doc.item.name);
                    (Rule::SourceMissing, title)
                } else {
                    let title = format!("the backup of {} failed", doc.item.name);
                    (Rule::BackupFailed, title)
                };
                if !(gone && was_gone) {
                    let what = Happening {
                        rule,
                        title,
                        error: job.error.clone(),
                        subject: &doc.item.name,
                        vault: job.vault,
                        item: job.item,
                        job: Some(job.id),
                    };
                    alerts::raise(self, tx, what, now).await?;
                }
            }
            _ => {}
        }
        // What is due meanwhile is due still; nothing is planned for what has no policy.
        if policy_of(tx, &doc.item).await?.is_none() {
            doc.item.next_backup = None;
        }
        Ok(())
    }
}

/// The jobs that wait or run.
pub(crate) fn open_jobs() -> Query {
    let open = [JobState::Queued, JobState::InProgress, JobState::Cancelling].map(JobState::name);
    Query::new(Filter::all().one_of("state", open)).limit(1000)
}

/// The jobs that wait for their turn.
pub(crate) fn queued_jobs() -> Query {
    Query::new(Filter::all().eq("state", JobState::Queued.name())).limit(1000)
}
