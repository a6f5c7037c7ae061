//! Hosts: added, changed, removed, and asked what they have.
//!
//! This module owns the documents of hosts. What a host can do is the matter of its agent, which is reached only
//! through orders.

use serde_json::json;
use strongroom_api::{
    self as api, Host, HostCreate, HostState, HostUpdate, ProtectableItem, Trigger,
};
use strongroom_base::{HostId, JobId, VaultId, codes, message, words};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_orders::CheckOrder;

use crate::{
    audit,
    error::{ControlError, Result},
    lookup::{check_active, check_name, cut, find_host, find_vault, no_vault},
    model::{HostDoc, ItemDoc, MachineDoc, Spec},
    page::{PageRequest, Versioned, check_version, page},
    retention::judge_all,
    rights::{Caller, Operation, Target},
    service::Control,
    sources,
};

impl From<Stored<HostDoc>> for Versioned<Host> {
    fn from(stored: Stored<HostDoc>) -> Self {
        Self { value: stored.doc.host, version: stored.version }
    }
}

/// The answer to a caller who may not see the host: there is none.
pub(crate) fn no_host(name: &str) -> ControlError {
    ControlError::from(message!(HOST_UNKNOWN, "there is no host {host:?}", host = cut(name)))
}

impl Control {
    /// The hosts that the caller sees, by name.
    pub async fn hosts(&self, caller: &Caller, at: &PageRequest) -> Result<api::Page<Host>> {
        let filter = match caller.hosts() {
            None => Filter::all(),
            Some(hosts) => Filter::all().one_of("id", hosts.iter().map(ToString::to_string)),
        };
        let query = at.of(Query::new(filter).ascending("name"));
        Ok(page(self.catalog.list::<HostDoc>(&query).await?, |stored| stored.doc.host))
    }

    /// A host by id or name.
    pub async fn host(&self, caller: &Caller, name: &str) -> Result<Versioned<Host>> {
        let found = in_read!(self, tx => { find_host(tx, name).await })?;
        let target = Target::Host(found.doc.host.id);
        self.check(caller, Operation::ViewHost, target, || no_host(name))?;
        Ok(found.into())
    }

    /// Makes a host known.
    pub async fn create_host(
        &self,
        caller: &Caller,
        request: HostCreate,
    ) -> Result<Versioned<Host>> {
        self.check(caller, Operation::CreateHost, Target::Server, || no_host(&request.name))?;
        check_name("the host's name", &request.name)?;
        let mut host = Host {
            id: HostId::generate(&*self.clock, &*self.entropy),
            name: request.name,
            connect: request.connect,
            state: HostState::New,
            seen: None,
            error: None,
            max_jobs: check_jobs(request.max_jobs.unwrap_or(2))?,
            snapshot_vault: None,
            machines: 0,
            created: self.now(),
        };
        // An address that cannot be is refused now and not tonight.
        self.agents.agent(&host)?;
        let (value, version) = in_write!(self, tx => {
            if let Some(vault) = request.snapshot_vault.as_deref() {
                host.snapshot_vault = self.snapshot_vault(tx, caller, vault).await?;
            }
            let doc = HostDoc { host: host.clone() };
            let version = tx.insert(&doc).await.map_err(name_taken)?;
            let (name, detail) = (&doc.host.name, json!(doc.host));
            audit::record(tx, caller, Operation::CreateHost, name, detail).await?;
            Ok((doc.host, version))
        })?;
        Ok(Versioned { value, version })
    }

    /// Changes a host.
    pub async fn update_host(
        &self,
        caller: &Caller,
        name: &str,
        expected: Option<u64>,
        change: HostUpdate,
    ) -> Result<Versioned<Host>> {
        self.check(caller, Operation::UpdateHost, Target::Server, || no_host(name))?;
        let max_jobs = change.max_jobs.map(check_jobs).transpose()?;
        in_write!(self, tx => {
            let Stored { mut doc, version } = find_host(tx, name).await?;
            check_version(version, expected)?;
            if let Some(connect) = &change.connect {
                doc.host.connect = Some(connect.clone());
                self.agents.agent(&doc.host)?;
            }
            doc.host.max_jobs = max_jobs.unwrap_or(doc.host.max_jobs);
            if let Some(vault) = change.snapshot_vault.as_deref() {
                doc.host.snapshot_vault = self.snapshot_vault(tx, caller, vault).await?;
                judge_all(tx, "host", doc.host.id).await?;
            }
            let version = tx.update(&doc, version).await?;
            let name = doc.host.name.clone();
            audit::record(tx, caller, Operation::UpdateHost, &name, json!(doc.host)).await?;
            Ok(Versioned { value: doc.host, version })
        })
    }

    /// The vault of a name, which recovery points are to go into first; none of no name. A caller who
    /// says so sends data there, so they must see the vault.
    async fn snapshot_vault(
        &self,
        tx: &mut ReadTx,
        caller: &Caller,
        name: &str,
    ) -> Result<Option<VaultId>> {
        if name.is_empty() {
            return Ok(None);
        }
        let vault = find_vault(tx, name).await?.doc.vault;
        self.check(caller, Operation::ViewVault, Target::Vault(vault.id), || no_vault(name))?;
        check_active(&vault)?;
        Ok(Some(vault.id))
    }

    /// Forgets a host on which nothing is protected.
    pub async fn delete_host(
        &self,
        caller: &Caller,
        name: &str,
        expected: Option<u64>,
    ) -> Result<()> {
        self.check(caller, Operation::DeleteHost, Target::Server, || no_host(name))?;
        in_write!(self, tx => {
            let Stored { doc, version } = find_host(tx, name).await?;
            check_version(version, expected)?;
            let on_host = Filter::all().eq("host", doc.host.id.to_string());
            let items = tx.count::<ItemDoc>(&on_host).await?;
            if items > 0 {
                let message = message!(HOST_IN_USE, "the host {host} has {items}", host = doc.host.name, items = items => words::count(items, "protected item"));
                return Err(ControlError::from(message));
            }
            tx.delete_all::<MachineDoc>(&on_host).await?;
            tx.delete::<HostDoc>(&doc.host.id.to_string(), version).await?;
            let name = &doc.host.name;
            audit::record(tx, caller, Operation::DeleteHost, name, json!({})).await
        })
    }

    /// What was found on a host last, by name.
    pub async fn protectable_items(
        &self,
        caller: &Caller,
        host: &str,
        at: &PageRequest,
    ) -> Result<api::Page<ProtectableItem>> {
        let host = self.host(caller, host).await?.value.id;
        let filter = Filter::all().eq("host", host.to_string());
        let query = at.of(Query::new(filter).ascending("name"));
        Ok(page(self.catalog.list::<MachineDoc>(&query).await?, |stored| stored.doc.machine))
    }

    /// Starts a new discovery of a host's machines.
    pub async fn discover(&self, caller: &Caller, host: &str) -> Result<JobId> {
        let begun = in_write!(self, tx => {
            let name = host;
            let host = find_host(tx, name).await?.doc.host;
            let target = Target::Host(host.id);
            self.check(caller, Operation::DiscoverHost, target, || no_host(name))?;
            let spec = Spec::Discover { host: host.id };
            let job = self.new_job(spec, &host.name, Trigger::OnDemand, &caller.name);
            let job = self.begin(tx, job).await?;
            audit::record(tx, caller, Operation::DiscoverHost, &host.name, json!({})).await?;
            Ok(job)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    /// What stands in the way of a machine's backup.
    pub async fn check_machine(
        &self,
        caller: &Caller,
        host: &str,
        machine: &str,
    ) -> Result<api::Check> {
        let host = self.host(caller, host).await?.value;
        let agent = self.agents.agent(&host)?;
        let source = sources::machine_called(machine.to_owned());
        let order = CheckOrder { order: self.order_once(), source };
        Ok(Self::blocking(move || agent.check(&order)).await?)
    }
}

fn check_jobs(jobs: u32) -> Result<u32> {
    if (1..=100).contains(&jobs) {
        return Ok(jobs);
    }
    let message =
        message!(REQUEST_INVALID, "{jobs} jobs at once on a host: it can be 1 to 100", jobs);
    Err(ControlError::from(message))
}

fn name_taken(error: strongroom_catalog::Error) -> ControlError {
    match error {
        strongroom_catalog::Error::Taken { .. } => {
            ControlError::refused(&codes::HOST_EXISTS, "there is a host of this name")
        }
        error => error.into(),
    }
}
