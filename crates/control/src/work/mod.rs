//! The work: begins jobs when their turn comes, follows them, and writes down how they go.
//!
//! ```text
//!  tick: schedules ─▶ queue ─▶ choose ─▶ the owner: one task each ─▶ agent or keeper, on a thread
//!                                            ▲                        │ events
//!                                            └── event: write down ◀───┘
//! ```
//!
//! A job is written down as begun before anything is done, and its end before its item is free. What is
//! at work in the catalog and has no driver is interrupted, and is queued again: after
//! a crash, and whenever the catalog and this process disagree. All orders can be given again.
//!
//! This part owns the way from a job to orders and from their events to the job. It must not know when a job is due,
//! who may begin it, or how an order is carried out.

mod attention;
mod backup;
mod boot;
mod compare;
mod drill;
pub(crate) mod drivers;
mod finish;
mod house;
mod incremental;
mod known;
mod outcome;
pub(crate) mod progress;
mod protect;
mod restore;
mod span;
mod transfer;
mod verify;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::SignedDuration;
use strongroom_api::{self as api, ErrorBody, JobState};
use strongroom_base::{Cancel, JobId, Things, VaultId, codes, message};
use strongroom_catalog::{Filter, Query, Stored};
use strongroom_orders::Watch;
use tokio::sync::{mpsc, watch};
use tracing::Instrument as _;

use self::{
    drivers::Owner,
    outcome::{JobEvents, Outcome},
};

use crate::{
    error::Result,
    jobs::{Claim, Event, Waiting, choose, service::queued_jobs},
    model::{HostDoc, JobDoc, Spec, VaultDoc},
    service::Control,
};

/// How often the clock is looked at if nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How often retention and the house are looked after.
const HOUSE: SignedDuration = SignedDuration::from_mins(5);

/// How often it is looked how the storage accounts stand.
const STORAGE: SignedDuration = SignedDuration::from_secs(15);

/// How often it is looked whether a recovery point is to be booted, at most.
const BOOTS: SignedDuration = SignedDuration::from_secs(15);

/// How often it is looked how far a job has come.
const PROGRESS: Duration = Duration::from_secs(2);

/// How many seconds a job waits for a key that is being changed.
const ROTATION: u32 = 60;

/// How often it is tried to write down how a job went while the server stops.
const LAST_NOTES: u32 = 5;

/// What one round of the work leaves for the next. For tests, which begin rounds themselves.
#[derive(Default)]
pub struct Rounds {
    owner: Option<Owner>,
    looks: Looks,
}

/// When what was looked after last.
#[derive(Debug, Default)]
struct Looks {
    attention: attention::Attention,
    /// The house.
    house: Option<jiff::Timestamp>,
    /// The storage accounts.
    storage: Option<jiff::Timestamp>,
    /// Recovery points that are to be booted.
    boots: Option<jiff::Timestamp>,
}

impl Rounds {
    /// Waits for all jobs that were begun.
    pub async fn settle(&mut self) {
        if let Some(owner) = &mut self.owner {
            owner.until_idle().await;
        }
    }
}

impl Control {
    /// Runs the service until it is to stop. Jobs that are at work then are stopped, and
    /// waited for; they wait for the next start, and continue then as if nothing had happened.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<()> {
        self.recover().await?;
        let notices = tokio::spawn(Arc::clone(&self).keep_notifying(stop.clone()));
        let mut owner = Owner::new(&self.drivers);
        let rounds = async {
            let mut looks = Looks::default();
            while !*stop.borrow() {
                if self.look_after(&mut looks).await.is_ok() {
                    self.pulse.round_ended(self.clock.monotonic());
                }
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = self.drivers.freed.notified() => {}
                    () = tokio::time::sleep(TICK) => {}
                    _ = stop.changed() => {}
                }
            }
        };
        Box::pin(owner.beside(rounds)).await;
        // First this, so that none of them is taken for one that failed.
        self.stopping.store(true, Relaxed);
        self.drivers.stop();
        owner.until_idle().await;
        self.look_at(self.record_failed_sign_ins(true).await).ok();
        self.look_at(self.write_down_uses(true).await).ok();
        if let Err(error) = notices.await {
            tracing::error!(%error, "sending alerts ended early");
        }
        Ok(())
    }

    /// Does what is due now, and asks the catalog nothing if nothing can be. For tests, which have a clock
    /// of their own.
    pub async fn tick(self: &Arc<Self>, rounds: &mut Rounds) -> Result<()> {
        let owner = rounds.owner.get_or_insert_with(|| Owner::new(&self.drivers));
        Box::pin(owner.beside(self.look_after(&mut rounds.looks))).await
    }

    /// Does what is due now.
    async fn look_after(self: &Arc<Self>, looks: &mut Looks) -> Result<()> {
        let now = self.now();
        let mut outcome = self.look_at(self.advance_time().await);
        outcome = self.look_at(self.save_unsaved().await).and(outcome);
        outcome = self.look_at(self.record_failed_sign_ins(false).await).and(outcome);
        // Before anything is asked: what changes meanwhile is looked at again.
        let seen = self.seen();
        if looks.attention.is_due(seen, now) {
            let (_, begun) = self.round().await;
            match begun {
                Ok(()) => {
                    let next = self.next_time(now).await;
                    match next {
                        Ok(next) => looks.attention.looked(seen, now, next),
                        Err(error) => outcome = self.look_at(Err(error)).and(outcome),
                    }
                }
                // What failed is looked at again with the next tick.
                Err(error) => outcome = Err(error),
            }
        }
        if looks.storage.is_none_or(|last| now.duration_since(last).abs() >= STORAGE) {
            looks.storage = Some(now);
            outcome = self.look_at(self.alert_of_storage().await).and(outcome);
        }
        let is_time = looks.boots.is_none_or(|last| now.duration_since(last).abs() >= BOOTS);
        if is_time && self.boots_due.swap(false, Relaxed) {
            looks.boots = Some(now);
            outcome = self.look_at(self.begin_boot_verifications().await.map(drop)).and(outcome);
        }
        if looks.house.is_none_or(|house| now.duration_since(house).abs() >= HOUSE) {
            looks.house = Some(now);
            outcome = self.look_at(self.keep_house().await).and(outcome);
        }
        outcome
    }

    /// One round of the scheduler. Each part is tried, whatever became of those before it: how many jobs were
    /// begun, and the last failure.
    async fn round(self: &Arc<Self>) -> (u64, Result<()>) {
        let mut outcome = self.look_at(self.recover().await);
        outcome = self.look_at(self.advance_time().await).and(outcome);
        outcome = self.look_at(self.begin_scheduled().await.map(drop)).and(outcome);
        let (begun, dispatched) = self.dispatch().await;
        (begun, self.look_at(dispatched).and(outcome))
    }

    /// Says in the log what a part of a round failed with.
    #[allow(clippy::unused_self, reason = "a step of the service")]
    fn look_at(&self, outcome: Result<()>) -> Result<()> {
        if let Err(error) = &outcome {
            let body = error.body();
            tracing::error!(error = %body.message, code = body.code.as_str(), "the service cannot do its work");
        }
        outcome
    }

    /// Brings the catalog and this process to agree on what is at work. A job that nobody drives was
    /// interrupted: the server died, or could not write down that it had begun or how it ended. One
    /// that somebody cancelled, and whose driver does not know it yet, is cancelled now.
    pub async fn recover(&self) -> Result<()> {
        let mut token = None;
        loop {
            let at_work = [JobState::InProgress, JobState::Cancelling].map(JobState::name);
            let query = Query::new(Filter::all().one_of("state", at_work)).limit(200).after(token);
            let page = self.catalog.list::<JobDoc>(&query).await?;
            for Stored { doc, .. } in page.items {
                // Read after the catalog, so that none is missed which has just begun.
                if self.drivers.at_work().contains_key(&doc.job.id) {
                    if doc.job.state == JobState::Cancelling {
                        self.drivers.cancel(doc.job.id);
                    }
                } else {
                    tracing::info!(job = %doc.job.id, kind = %doc.job.kind, "a job was interrupted");
                    self.apply_event(doc.job.id, Event::Interrupted).await?;
                }
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Schedules, retention, housekeeping: what is due now. For tests and the simulator, which have
    /// a clock of their own.
    pub async fn keep_house(&self) -> Result<()> {
        self.retain().await?;
        self.alert_of_purges().await?;
        self.alert_of_promises().await?;
        self.alert_of_storage().await?;
        self.alert_of_verification().await?;
        self.alert_of_open_restores().await?;
        self.write_down_uses(false).await?;
        self.begin_boot_verifications().await?;
        self.begin_drills().await?;
        self.begin_housekeeping().await?;
        self.forget_old().await
    }

    /// Does all that is due now, with all that comes of it: how many jobs were begun. For callers that have
    /// a clock of their own.
    pub async fn settle(self: &Arc<Self>) -> Result<u64> {
        let mut begun = 0_u64;
        loop {
            let mut owner = Owner::new(&self.drivers);
            let round = async {
                let saved = self.look_at(self.save_unsaved().await);
                let (driven, outcome) = self.round().await;
                (driven, outcome.and(saved))
            };
            let (driven, outcome) = Box::pin(owner.beside(round)).await;
            owner.until_idle().await;
            outcome?;
            if driven == 0 {
                return Ok(begun);
            }
            begun = begun.saturating_add(driven);
        }
    }

    /// Begins the jobs whose turn it is: how many, and the last failure.
    async fn dispatch(self: &Arc<Self>) -> (u64, Result<()>) {
        let next = async { self.next_jobs(&self.stores().await?).await };
        let next = match next.await {
            Ok(next) => next,
            Err(error) => return (0, Err(error)),
        };
        let (mut begun, mut outcome) = (0_u64, Ok(()));
        for (id, claim) in next {
            let Some(place) = self.drivers.take(id, claim).await else { continue };
            // Written down first. One that was cancelled meanwhile is not begun; one of which it is
            // not known whether it was written down has no place, and is looked after by `recover`.
            match self.apply_event_doc(id, Event::Started).await {
                Ok(Some(doc)) => {
                    begun = begun.saturating_add(1);
                    let cancel = place.cancel.clone();
                    let work = Box::pin(Arc::clone(self).drive(doc, cancel));
                    let control = Arc::clone(self);
                    let broke = move |error| -> drivers::Work {
                        Box::pin(async move { control.broke(id, error).await })
                    };
                    place.drive(work, Box::new(broke));
                }
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        (begun, outcome)
    }

    /// The task of a job has panicked, and could not say so itself.
    async fn broke(&self, id: JobId, error: String) {
        let message = message!(BUG, "the task of the job ended unexpectedly: {error}", error);
        self.note(id, Event::Broke { error: message.into() }).await;
    }

    /// Which store each vault is in.
    async fn stores(&self) -> Result<Stores> {
        let vaults = self.catalog.list::<VaultDoc>(&Query::default().limit(1000)).await?.items;
        let store = |doc: VaultDoc| (doc.vault.id, store_of(&doc.vault.url));
        Ok(vaults.into_iter().map(|stored| store(stored.doc)).collect())
    }

    /// The jobs whose turn it is, and what they take.
    async fn next_jobs(&self, stores: &Stores) -> Result<Vec<(JobId, Claim)>> {
        let now = self.now();
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut token = None;
        // All of them: those that come first may be of a host that is busy.
        loop {
            let page = self.catalog.list::<JobDoc>(&queued_jobs().after(token)).await?;
            let ripe = page.items.iter().map(|stored| &stored.doc.job);
            let ripe = ripe.filter(|job| job.not_before.is_none_or(|time| time <= now));
            // The driver of one that is tried again may not have let go of it yet.
            let driven = self.drivers.at_work();
            let ripe = ripe.filter(|job| !driven.contains_key(&job.id));
            waiting.extend(ripe.map(|job| Waiting {
                id: job.id,
                trigger: job.trigger,
                claim: claim(job, stores),
                since: job.not_before.unwrap_or(job.created).max(job.created),
            }));
            match page.next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let running: Vec<Claim> = self.drivers.at_work().values().copied().collect();
        let mut limits = self.settings.limits.clone();
        let hosts = self.catalog.list::<HostDoc>(&Query::default().limit(1000)).await?.items;
        for Stored { doc: HostDoc { host }, .. } in hosts {
            limits.hosts.entry(host.id).or_insert(host.max_jobs);
        }
        let claims: HashMap<JobId, Claim> = waiting.iter().map(|it| (it.id, it.claim)).collect();
        let chosen = choose(&waiting, &running, &limits).into_iter();
        Ok(chosen.filter_map(|id| Some((id, *claims.get(&id)?))).collect())
    }

    /// Does a job from its beginning to its end.
    async fn drive(self: Arc<Self>, doc: JobDoc, cancel: Cancel) {
        let span = span::of(&doc, self.adopt);
        Box::pin(self.live(doc, &cancel)).instrument(span).await;
    }

    async fn live(self: Arc<Self>, doc: JobDoc, cancel: &Cancel) {
        let id = doc.job.id;
        tracing::info!(subject = doc.job.subject, attempt = doc.job.attempt, "a job begins");
        let (sender, mut sent) = mpsc::unbounded_channel();
        let events = JobEvents(sender);
        let work = async {
            let job = doc.job.clone();
            let outcome = self.perform(doc, &events, cancel).await;
            self.host_seen(&job, &outcome).await;
            let event = match outcome {
                Ok(report) => Event::Finished { report },
                // Whatever it failed with: it was not left to end.
                Err(_) if self.stopping.load(Relaxed) && cancel.is_cancelled() => {
                    tracing::info!("a job is stopped, and resumes at the next start");
                    Event::Stopped
                }
                Err(error) => {
                    let ErrorBody { code, message, .. } = &*error;
                    tracing::warn!(code = code.as_str(), error = message, "a job failed");
                    Event::Broke { error: *error }
                }
            };
            events.send(event);
        };
        // Beside the work, not in its pauses: it may pause in the middle of a change of the catalog.
        let notes = async {
            let mut tasks = span::Tasks::default();
            while let Some(event) = sent.recv().await {
                tasks.hear(&event);
                let is_last =
                    matches!(event, Event::Finished { .. } | Event::Broke { .. } | Event::Stopped);
                match event {
                    Event::Progress(progress) => self.progressed(id, progress).await,
                    Event::Result(progress) => self.has_result(id, progress),
                    event => self.note(id, event).await,
                }
                if is_last {
                    break;
                }
            }
        };
        tokio::join!(work, notes);
        tracing::info!("a job has ended");
    }

    /// Writes down an event of a job. While the catalog cannot be written, the job waits; if the server
    /// stops meanwhile, its next start finds a job that nobody drives.
    async fn note(&self, id: JobId, event: Event) {
        let mut pause = Duration::from_millis(100);
        let mut last_tries = 0_u32;
        loop {
            let error = match self.apply_event(id, event.clone()).await {
                Ok(_) => return,
                Err(error) => error.body(),
            };
            let (code, words) = (error.code.as_str(), &error.message);
            tracing::error!(code, error = words, "a job's state cannot be written down");
            if !error.retryable || last_tries >= LAST_NOTES {
                return;
            }
            if self.stopping.load(Relaxed) {
                last_tries = last_tries.saturating_add(1);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(Duration::from_secs(10));
        }
    }

    /// Does a job. If the vault's key was changed between its being read here and being used there, once
    /// more with the new one.
    async fn perform(
        self: &Arc<Self>,
        doc: JobDoc,
        events: &JobEvents,
        cancel: &Cancel,
    ) -> Outcome {
        let Some(vault) = doc.job.vault.filter(|_| doc.job.kind != api::JobKind::RotateKey) else {
            return self.perform_once(doc, events, cancel).await;
        };
        let before = self.work_vault(vault).await?.vault.encryption;
        let outcome = self.perform_once(doc.clone(), events, cancel).await;
        match &outcome {
            Err(error)
                if error.code == codes::KEY_WRONG
                    && self.key_has_changed(vault, &before, cancel).await? =>
            {
                self.perform_once(doc, events, cancel).await
            }
            _ => outcome,
        }
    }

    /// Whether a vault has another key than before; waits for one that is being changed.
    async fn key_has_changed(
        &self,
        vault: VaultId,
        before: &api::Encryption,
        cancel: &Cancel,
    ) -> Result<bool, Box<ErrorBody>> {
        let rotating = Filter::all()
            .eq("kind", api::JobKind::RotateKey.name())
            .eq("vault", vault.to_string())
            .is_null("ended");
        for _ in 0..ROTATION {
            let counted = in_read!(self, tx => { Ok(tx.count::<JobDoc>(&rotating).await?) });
            let is_rotating = counted? > 0;
            if self.work_vault(vault).await?.vault.encryption != *before {
                return Ok(true);
            }
            if !is_rotating || cancel.is_cancelled() {
                return Ok(false);
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(false)
    }

    async fn perform_once(
        self: &Arc<Self>,
        doc: JobDoc,
        events: &JobEvents,
        cancel: &Cancel,
    ) -> Outcome {
        let job = doc.job.id;
        let watch = events.watch(cancel);
        let followed = self.follow(&watch, events);
        let work = async {
            match doc.spec {
                Spec::Discover { host } => self.do_discover(host, &watch).await,
                Spec::Protect { vault, host, request } => {
                    self.do_protect(job, (vault, host), &request, events, cancel).await
                }
                Spec::Backup { item, occurrence, retain_until } => {
                    let order = known::Wanted { job: &doc.job, item, occurrence, retain_until };
                    self.do_backup(order, events, &watch).await
                }
                Spec::Restore { item, point, host, restore } => {
                    self.do_restore(job, item, point, host, *restore, events, &watch).await
                }
                Spec::FinishRestore { item, decision } => {
                    self.do_finish_restore(job, item, decision, events, &watch).await
                }
                Spec::VerifyBoot { item, point, wanted } => {
                    self.do_verify_boot(&doc.job, (item, point), *wanted, events, &watch).await
                }
                Spec::Drill { vault, host, items, wanted } => {
                    self.do_drill(job, (vault, host), &items, *wanted, events, &watch).await
                }
                Spec::DeleteData { item } => self.do_delete_data(item, &watch).await,
                Spec::Expire { vault } => self.do_expire(vault, &watch).await,
                Spec::Reclaim { vault } => self.do_reclaim(job, vault, &watch).await,
                Spec::Verify { vault, all } => {
                    self.do_verify(job, vault, all, events, &watch).await
                }
                Spec::Measure { vault } => self.do_measure(vault, &watch).await,
                Spec::RotateKey { vault, key } => self.do_rotate_key(job, vault, key, &watch).await,
                Spec::SaveCatalog { vault } => self.do_save_catalog(vault, &watch).await,
                Spec::Record => Ok(None),
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = followed => Err(Box::new(ErrorBody::new(&codes::BUG, "following a job has ended"))),
        }
    }

    /// Tells how far a job has come, from time to time, for ever.
    async fn follow(&self, watch: &Watch, events: &JobEvents) {
        let (mut last, mut then) = (watch.progress.snapshot(), self.clock.monotonic());
        let mut rate = 0_u64;
        loop {
            tokio::time::sleep(PROGRESS).await;
            let (now, at) = (watch.progress.snapshot(), self.clock.monotonic());
            if now == last {
                continue;
            }
            let millis = u64::try_from(at.saturating_sub(then).as_millis()).unwrap_or(u64::MAX);
            let done = now.done_bytes.saturating_sub(last.done_bytes);
            let current = done.saturating_mul(1000).checked_div(millis).unwrap_or(0);
            rate = if rate == 0 {
                current
            } else {
                rate.saturating_mul(3).saturating_add(current) / 4
            };
            (last, then) = (now, at);
            if now.things != Things::Bytes {
                continue;
            }
            // As long as nobody knows how much there is to do, nothing is said.
            let total = now.total_bytes.max(now.done_bytes);
            if total == 0 {
                continue;
            }
            let left = total.saturating_sub(now.done_bytes);
            events.send(Event::Progress(api::Progress {
                done_bytes: now.done_bytes,
                total_bytes: total,
                stored_bytes: now.stored_bytes,
                bytes_per_second: rate,
                seconds_left: left.checked_div(rate),
            }));
        }
    }

    /// A vault, if it is known and not deleted.
    pub(crate) async fn active_vault(&self, id: VaultId) -> Result<Option<VaultDoc>> {
        let found = self.catalog.get::<VaultDoc>(&id.to_string()).await?;
        let active = |doc: &VaultDoc| doc.vault.state == api::VaultState::Active;
        Ok(found.map(|stored| stored.doc).filter(active))
    }

    /// A vault that a job works in.
    pub(crate) async fn work_vault(&self, vault: VaultId) -> Result<VaultDoc, Box<ErrorBody>> {
        let found = in_read!(self, tx => { crate::lookup::named::<VaultDoc>(tx, vault).await })?;
        Ok(found.doc)
    }
}

/// Which store each vault is in.
type Stores = HashMap<VaultId, u64>;

/// Vaults in one bucket, or below one folder, are in one store.
fn store_of(url: &str) -> u64 {
    let place = match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.split('/').next().unwrap_or("")),
        None => url.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned(),
    };
    let hash = blake3::hash(place.as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn claim(job: &api::Job, stores: &Stores) -> Claim {
    let store = job.vault.and_then(|vault| stores.get(&vault).copied());
    Claim { kind: job.kind, host: job.host, vault: job.vault, store }
}
