//! What everybody who carries orders out must do, as a suite that each implementation and each fake runs.
//!
//! A test tool (feature `testing`): it makes vaults and restores disks where its [`World`] says.

mod hosts;
mod machines;
mod vaults;

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use strongroom_api::{
    BlobPlace, ConsistencyWanted, DiskSelection, ErrorBody, KeyReference, Source, TaskName,
    TaskState,
};
use strongroom_base::{Cancel, Code, JobId, PointId, SystemClock, SystemEntropy, lock};

use crate::{
    Agent, BackupDone, BackupOrder, Keeper, OrderId, Result, TaskEvent, Tier, VaultAccess,
    VaultFacts, VaultMake, Watch,
};

/// What an implementation did wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

type Checked = std::result::Result<(), Failure>;

impl From<Box<ErrorBody>> for Failure {
    fn from(error: Box<ErrorBody>) -> Self {
        Self(format!("unexpected error: {error:?}"))
    }
}

/// What the suite needs of the world in which orders are carried out.
pub trait World {
    /// Who works on the host.
    fn agent(&self) -> &dyn Agent;

    /// Who works on vaults.
    fn keeper(&self) -> &dyn Keeper;

    /// Where a vault of this name can be; nothing is there before the suite makes one.
    fn place(&self, name: &str) -> String;

    /// A file for a key of this name, which the keeper can make.
    fn key(&self, name: &str) -> String;

    /// A disk by path with the content of a generation. It has one path in all of them.
    fn disk(&self, name: &str, generation: u8) -> String;

    /// A path of a disk that is not there.
    fn missing_disk(&self) -> String;

    /// Page blobs with the content of a generation, named alike in all of them; none if the host reaches no accounts.
    fn blobs(&self, generation: u8) -> Option<Source> {
        let _ = generation;
        None
    }

    /// A blob that can be backed up to another; none if the host reaches no accounts.
    fn incremental_backup(&self) -> Option<[BlobPlace; 2]> {
        None
    }

    /// A page blob that is not there.
    fn missing_blob(&self) -> String {
        "account/container/none".to_owned()
    }

    /// A folder of this name to restore to; for a machine's disks it must be there.
    fn target(&self, name: &str) -> String;

    /// A machine of the host; none if it has none.
    fn machine(&self) -> Option<Source>;

    /// The time by which locks are judged.
    fn now(&self) -> Timestamp;
}

/// Runs the suite, without what takes a machine. The world must be unused.
pub fn check(world: &dyn World) -> Checked {
    let suite = Suite { world };
    suite.vaults()?;
    suite.points()?;
    suite.locks_and_reclaim()?;
    suite.kept_objects()?;
    suite.keys()?;
    suite.unknown_vaults()?;
    suite.hosts()?;
    suite.backups()?;
    suite.refused_backups()?;
    suite.blobs()?;
    suite.incremental_backups()?;
    suite.transfers()?;
    suite.restores()
}

/// Runs what takes a machine. The world must have one.
pub fn check_machine(world: &dyn World) -> Checked {
    Suite { world }.machine()
}

/// Who runs it.
struct Suite<'a> {
    world: &'a dyn World,
}

/// The item of the suite's points.
const ITEM: &str = "conformance";

impl Suite<'_> {
    fn agent(&self) -> &dyn Agent {
        self.world.agent()
    }

    fn keeper(&self) -> &dyn Keeper {
        self.world.keeper()
    }

    #[allow(clippy::unused_self, reason = "reads like its neighbours")]
    fn same<T: PartialEq<U> + Debug + ?Sized, U: Debug + ?Sized>(
        &self,
        have: &T,
        want: &U,
        what: &str,
    ) -> Checked {
        if have == want {
            return Ok(());
        }
        Err(Failure(format!("{what}: {have:?} is not {want:?}")))
    }

    fn holds(&self, condition: bool, what: &str) -> Checked {
        self.same(&condition, &true, what)
    }

    /// It fails with this code.
    #[allow(clippy::unused_self, reason = "reads like its neighbours")]
    fn fails<T: Debug>(&self, done: Result<T>, code: &Code, what: &str) -> Checked {
        match done {
            Err(error) if error.code == *code => Ok(()),
            other => Err(Failure(format!("{what}: {other:?} is not the error {}", code.name))),
        }
    }

    /// An order that is given once.
    fn once() -> OrderId {
        OrderId::once(&SystemClock, &SystemEntropy)
    }

    fn job() -> JobId {
        JobId::generate(&SystemClock, &SystemEntropy)
    }

    fn stranger() -> PointId {
        PointId::generate(&SystemClock, &SystemEntropy)
    }

    fn access(&self, name: &str) -> VaultAccess {
        let key = KeyReference::File(self.world.key(name));
        VaultAccess { url: self.world.place(name), key }
    }

    fn make(&self, name: &str) -> Result<VaultFacts> {
        let VaultAccess { url, key } = self.access(name);
        let make =
            VaultMake { url, key, mirrors: Vec::new(), make_key: true, single_writer: false };
        self.keeper().make(&make)
    }

    /// A vault that is there.
    fn vault(&self, name: &str) -> Result<VaultAccess> {
        self.make(name)?;
        Ok(self.access(name))
    }

    /// Backs up the disk `a` with the content of a generation.
    fn backup_order(&self, vault: &VaultAccess, generation: u8) -> BackupOrder {
        let path = self.world.disk("a", generation);
        BackupOrder {
            job: Self::job(),
            vault: vault.clone(),
            tier: Tier::Vault,
            item: ITEM.to_owned(),
            source: Source::Disks { disks: [("a".to_owned(), path)].into() },
            disks: DiskSelection::All,
            consistency: ConsistencyWanted::Crash,
            consistency_required: false,
            full_compare_every: 0,
            scratch_dir: None,
            limit_rate: None,
            tags: [("why".to_owned(), "conformance".to_owned())].into(),
            locked_until: None,
        }
    }

    fn backup(&self, vault: &VaultAccess, generation: u8) -> Result<BackupDone> {
        self.agent().backup(&self.backup_order(vault, generation), &Watch::silent())
    }

    /// The points of the vault's item, oldest first.
    fn listed(&self, vault: &VaultAccess) -> Result<Vec<PointId>> {
        let (points, damaged) = self.keeper().points(vault, Some(ITEM))?;
        match damaged.into_iter().next() {
            Some(error) => Err(Box::new(error)),
            None => Ok(points.into_iter().map(|point| point.id).collect()),
        }
    }

    /// The order was to be left before it began.
    fn cancelled() -> Watch {
        let watch = Watch::silent();
        watch.cancel.cancel();
        watch
    }
}

/// What is heard of an order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<TaskEvent>>>);

impl Heard {
    fn watch(&self) -> Watch {
        let heard = self.clone();
        Watch::new(Cancel::new(), move |event| {
            lock(&heard.0).push(event);
        })
    }

    /// The parts that came to their end, in order; each must have begun.
    fn completed(&self) -> std::result::Result<Vec<TaskName>, Failure> {
        let events = std::mem::take(&mut *lock(&self.0));
        let mut begun: Vec<&TaskName> = Vec::new();
        let mut done = Vec::new();
        for event in &events {
            match event.state {
                TaskState::InProgress => begun.push(&event.task),
                TaskState::Completed => done.push(event.task.clone()),
                state => return Err(Failure(format!("{} was told to be {state}", event.task))),
            }
        }
        if begun.is_empty() {
            return Err(Failure(format!("no event said that something had begun: {events:?}")));
        }
        Ok(done)
    }
}
