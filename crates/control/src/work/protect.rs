//! Discovery and protection: what a host has, and items for what was chosen of it.
//!
//! This module owns these two jobs. The state of an item is the matter of `items`.

use std::{collections::BTreeSet, sync::Arc};

use jiff::SignedDuration;
use strongroom_api::{
    self as api, Discovered, ErrorBody, Host, HostState, JobKind, Level, Protect, ProtectSource,
    ProtectableItem, Protected, ProtectedSource, TaskName, TaskState, Trigger, Verdict,
};
use strongroom_base::{Cancel, Code, HostId, JobId, VaultId, codes, message, words};
use strongroom_catalog::{Filter, Query, Stored};
use strongroom_orders::{Agent, CheckOrder, HostFacts, ORDERS_VERSION, OrderId, Watch};

use super::outcome::{JobEvents, Outcome};
use crate::{
    error::ControlError,
    items::NewItem,
    jobs::Event,
    lookup::named,
    model::{HostDoc, ItemDoc, MachineDoc, Spec},
    service::Control,
    sources,
};

/// What libvirt fails with if the host cannot be worked with at all.
const AWAY: [&Code; 3] = [&codes::HOST_UNAVAILABLE, &codes::HOST_DENIED, &codes::HOST_PROTOCOL];

/// Refuses a host whose version of orders the service does not know: it would not understand what that host says.
fn check_orders(facts: &HostFacts) -> Result<(), Box<ErrorBody>> {
    if (1..=ORDERS_VERSION).contains(&facts.orders) {
        return Ok(());
    }
    let message = message!(
        HOST_VERSION,
        "the host {host} has version {found} of orders, and this service knows 1 to {known}",
        host = facts.host,
        found = facts.orders,
        known = ORDERS_VERSION
    );
    Err(Box::new(ErrorBody::from(message)))
}

/// How often it is written down that a host answers.
const SEEN_EVERY: SignedDuration = SignedDuration::from_mins(5);

impl Control {
    pub(super) async fn do_discover(&self, host: HostId, watch: &Watch) -> Outcome {
        watch.task(TaskName::Discover, TaskState::InProgress, None);
        let found = self.discover_now(host, watch).await?;
        let machines = found.iter().map(|machine| machine.name.clone()).collect();
        let detail = words::count_of(found.len(), "machine");
        watch.task(TaskName::Discover, TaskState::Completed, Some(detail));
        Ok(Some(Discovered { machines }.into()))
    }

    /// The agent of a host, for orders; not of one that was refused for its version.
    pub(super) fn agent(&self, host: &Host) -> Result<Arc<dyn Agent>, Box<ErrorBody>> {
        match &host.error {
            Some(error) if error.code == codes::HOST_VERSION => Err(Box::new(error.clone())),
            _ => self.agents.agent(host),
        }
    }

    /// Asks a host what it has, and writes it down; or that it does not answer.
    async fn discover_now(
        &self,
        host: HostId,
        watch: &Watch,
    ) -> Result<Vec<ProtectableItem>, Box<ErrorBody>> {
        let read = in_read!(self, tx => { named::<HostDoc>(tx, host).await });
        let host = read?.doc.host;
        let agent = self.agents.agent(&host)?;
        let follow = watch.clone();
        let found = Self::blocking(move || {
            check_orders(&agent.hello()?)?;
            agent.discover(&follow)
        })
        .await;
        self.host_answered(host.id, found.as_ref().err().map(|error| (**error).clone())).await?;
        let mut found = found?;
        let now = self.now();
        in_write!(self, tx => {
            let on_host = Filter::all().eq("host", host.id.to_string());
            let seen: BTreeSet<String> =
                found.iter().map(|machine| machine.uuid.clone()).collect();
            for machine in &mut found {
                machine.host = host.id;
                machine.discovered = now;
                let key = format!("{}/{}", host.id, machine.uuid);
                let by = Query::new(Filter::all().eq("source", key)).limit(1);
                let item = tx.first::<ItemDoc>(&by).await?;
                machine.protected_by = item.map(|stored| stored.doc.item.id);
                tx.put(&MachineDoc { machine: machine.clone() }).await?;
            }
            let mut token = None;
            loop {
                let query = Query::new(on_host.clone()).limit(500).after(token);
                let page = tx.list::<MachineDoc>(&query).await?;
                for Stored { doc, version } in page.items {
                    if !seen.contains(&doc.machine.uuid) {
                        let id = MachineDoc::id_of(host.id, &doc.machine.uuid);
                        tx.delete::<MachineDoc>(&id, version).await?;
                    }
                }
                match page.next {
                    Some(next) => token = Some(next),
                    None => break,
                }
            }
            let Stored { mut doc, version } = named::<HostDoc>(tx, host.id).await?;
            doc.host.machines = u64::try_from(seen.len()).unwrap_or(u64::MAX);
            tx.update(&doc, version).await?;
            Ok(())
        })?;
        Ok(found)
    }

    async fn host_answered(
        &self,
        host: HostId,
        error: Option<ErrorBody>,
    ) -> Result<(), ControlError> {
        let now = self.now();
        in_write!(self, tx => {
            let Stored { mut doc, version } = named::<HostDoc>(tx, host).await?;
            match &error {
                None => {
                    doc.host.state = HostState::Online;
                    doc.host.seen = Some(now);
                }
                Some(_) => doc.host.state = HostState::Unreachable,
            }
            doc.host.error.clone_from(&error);
            tx.update(&doc, version).await?;
            Ok(())
        })
    }

    /// What a job says of its host: that it answers, or that it does not.
    pub(super) async fn host_seen(&self, job: &api::Job, outcome: &Outcome) {
        let Some(host) = job.host else { return };
        let seen = match outcome {
            Ok(_) => self.host_has_worked(host, job).await,
            Err(error) if error.code.known().is_some_and(|code| AWAY.contains(&code)) => {
                self.host_answered(host, Some((**error).clone())).await
            }
            Err(_) => Ok(()),
        };
        if let Err(error) = seen {
            tracing::warn!(%host, %error, "it cannot be written down whether a host answers");
        }
    }

    /// A job went well. If it was one that asks libvirt, or the host has none, the host answers.
    async fn host_has_worked(&self, host: HostId, job: &api::Job) -> Result<(), ControlError> {
        if !matches!(job.kind, JobKind::Backup | JobKind::Restore) {
            return Ok(());
        }
        let (known, asks) = in_read!(self, tx => {
            let known = named::<HostDoc>(tx, host).await?.doc.host;
            let is_machine = match job.item {
                Some(item) => tx.get::<ItemDoc>(&item.to_string()).await?.is_some_and(|found| {
                    sources::machine_uuid(&found.doc.item.source).is_some()
                }),
                None => false,
            };
            let asks = known.connect.is_none() || (is_machine && job.kind == JobKind::Backup);
            Ok((known, asks))
        })?;
        let lately = known.seen.is_some_and(|seen| self.now().duration_since(seen) < SEEN_EVERY);
        if !asks || (known.state == HostState::Online && lately) {
            return Ok(());
        }
        self.host_answered(host, None).await
    }

    pub(super) async fn do_protect(
        &self,
        job: JobId,
        (vault, host): (VaultId, HostId),
        request: &Protect,
        events: &JobEvents,
        cancel: &Cancel,
    ) -> Outcome {
        let watch = events.watch(cancel);
        let is_discovered = |source| Ok(sources::wanted(source)?.is_discovered());
        let asks: Result<Vec<bool>, ControlError> =
            request.sources.iter().map(is_discovered).collect();
        let machines =
            if asks?.contains(&true) { self.discover_now(host, &watch).await? } else { Vec::new() };
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for source in &request.sources {
            if cancel.is_cancelled() {
                let code = &codes::JOB_CANCELLED;
                return Err(Box::new(ErrorBody::new(code, code.meaning)));
            }
            let name = TaskName::from(source_name(source)?);
            let task = |state, detail| {
                events.send(Event::Task { name: name.clone(), state, detail });
            };
            task(TaskState::InProgress, None);
            match self.protect_one(job, (vault, host), request, source, &machines).await {
                Ok((item, words)) => {
                    task(TaskState::Completed, Some(words));
                    done.push(ProtectedSource { item: item.id, name: item.name });
                }
                Err(error) => {
                    task(TaskState::Failed, Some(error.message.clone()));
                    failed.push(*error);
                }
            }
        }
        self.wake.notify_one();
        match failed.into_iter().next() {
            // If none could be protected, the first says why.
            Some(error) if done.is_empty() => Err(Box::new(error)),
            _ => Ok(Some(Protected { items: done }.into())),
        }
    }

    async fn protect_one(
        &self,
        job: JobId,
        (vault, host): (VaultId, HostId),
        request: &Protect,
        source: &ProtectSource,
        machines: &[ProtectableItem],
    ) -> Result<(api::Item, String), Box<ErrorBody>> {
        let found = sources::wanted(source)?.find(source, machines, &*self.places)?;
        let what = found.source;
        let name = source.name.clone().unwrap_or(found.name);
        let read = in_read!(self, tx => { named::<HostDoc>(tx, host).await });
        let agent = self.agents.agent(&read?.doc.host)?;
        let order = OrderId::of_job(job, format_args!("check/{name}"));
        let order = CheckOrder { order, source: what.clone() };
        let check = Self::blocking(move || agent.check(&order)).await?;
        let findings = |level: Level| -> Vec<&str> {
            let of = check.findings.iter().filter(|finding| finding.level == level);
            of.map(|finding| finding.what.as_str()).collect()
        };
        if check.verdict == Verdict::Red {
            let message = message!(
                VM_NOT_READY,
                "{name} cannot be backed up: {reasons}",
                name,
                reasons = findings(Level::Red).join("; ")
            );
            return Err(Box::new(ErrorBody::from(message)));
        }
        // It is protected all the same: this is said, and is no warning of the job.
        let amber = findings(Level::Amber).join("; ");
        let backup_now = request.backup_now;
        let (doc, made) = in_write!(self, tx => {
            let (source, disks) = (what.clone(), &source.disks);
            let new = NewItem { vault, host, request, name: &name, source, disks };
            let (mut doc, made) = self.add_item(tx, new).await?;
            if made && backup_now {
                let spec =
                    Spec::Backup { item: doc.item.id, occurrence: None, retain_until: None };
                self.begin_for_item(tx, &mut doc, 1, spec, Trigger::OnDemand, "system")
                    .await?;
            }
            Ok((doc, made))
        })?;
        let words = if made { "protected" } else { "was protected already" };
        let words = if amber.is_empty() {
            words.to_owned()
        } else {
            format!("{words}; to be known: {amber}")
        };
        Ok((doc.item, words))
    }
}

/// What a source is called until it is found.
fn source_name(source: &ProtectSource) -> Result<String, ControlError> {
    match &source.name {
        Some(name) => Ok(name.clone()),
        None => Ok(sources::wanted(source)?.called(source)),
    }
}
