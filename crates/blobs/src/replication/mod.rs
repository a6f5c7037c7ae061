//! Geo-redundancy: the same store at a second server, a while behind.
//!
//! One server is the *primary*: it decides changes. The other one is the *secondary*: it takes the primary's records in
//! their order, so that it is at each moment a state that the primary had. A promotion begins a new *epoch*; the
//! server of an older epoch is *fenced*, and refuses changes until it follows the other one.
//!
//! ```text
//!  primary:    commit ─▶ journal ─▶ ship::Shipper ─▶ bytes of a batch     (the caller carries them)
//!  secondary:  bytes of a batch ─▶ Store::take ─▶ commit::take ─▶ journal ─▶ the same state
//!  far behind: resync::Source (rows and slots of one moment) ─▶ resync::Resync ─▶ a new state, then the batches behind it
//! ```
//!
//! It knows no networks: what goes from one server to the other is bytes, and the caller carries them.

mod compare;
mod resync;
mod role;
mod ship;
mod source;
pub(crate) mod switch;
mod tables;
mod wire;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use crossbeam_channel::bounded;

pub use self::{
    compare::{CompareProgress, Compared, Comparison, Difference, DifferenceKind},
    resync::{ResyncError, ResyncProgress},
    role::{Era, Position, Role, ServerId, Standing, StoreId},
    ship::{BadBatch, ShipError, Shipper, TakeError},
    source::ResyncSource,
};
pub(crate) use self::{resync::Session, role::has_history, ship::Batch};
use crate::{
    commit::{Message, ReplicationOrder, RoleOrder},
    journal::bytes_from,
    store::{self, Options, Store, StoreError},
};

impl Store {
    /// Makes an empty secondary of a store in a folder that is empty or does not exist, and its copies in the folders that
    /// the options name. It takes batches from record 1 on, or is resynchronized.
    pub fn create_secondary(
        folder: &Path,
        options: &Options,
        store: StoreId,
        epoch: u64,
    ) -> Result<(), StoreError> {
        let server = Some(ServerId::new(&*options.entropy));
        let standing = Standing { role: Role::Secondary, epoch, server };
        store::create(folder, options, store.0, Some(standing))
    }

    /// The id of the store, which both servers share.
    pub const fn id(&self) -> StoreId {
        self.id
    }

    /// Which part this server plays.
    pub fn standing(&self) -> Standing {
        self.hub.standing()
    }

    /// Where the store stands: all records before it are durable and applied.
    pub fn position(&self) -> Position {
        self.hub.position()
    }

    /// Makes a store that is alone the primary of two servers, with the next epoch; or ends that it has another server.
    pub fn pair(&self, is_paired: bool) -> Result<Standing, StoreError> {
        self.change_role(RoleOrder::Pair(is_paired))
    }

    /// The primary has learned that no other server has a later epoch: it takes changes from now on. A primary waits for
    /// this each time it is opened.
    pub fn confirm(&self) -> Result<Standing, StoreError> {
        self.change_role(RoleOrder::Confirm)
    }

    /// Another server was promoted to this epoch, or will be: this one refuses changes from now on, also after it was
    /// opened again. Changes that were submitted before are answered first. Nothing happens if its own epoch is as late,
    /// or if it is no primary.
    pub fn fence(&self, epoch: u64) -> Result<Standing, StoreError> {
        self.change_role(RoleOrder::Fence(epoch))
    }

    /// The secondary becomes the primary of the next epoch and takes changes.
    pub fn promote(&self) -> Result<Standing, StoreError> {
        self.change_role(RoleOrder::Promote)
    }

    /// A fenced server becomes the secondary of the server of this epoch, or a secondary learns of a later epoch. Its next
    /// batch must fit its position; otherwise it is to be resynchronized, which discards what the other one does not have.
    pub fn follow(&self, epoch: u64) -> Result<Standing, StoreError> {
        self.change_role(RoleOrder::Follow(epoch))
    }

    fn change_role(&self, order: RoleOrder) -> Result<Standing, StoreError> {
        let (sender, receiver) = bounded(1);
        self.ask(ReplicationOrder::Role(order, sender));
        receiver.recv().unwrap_or(Err(StoreError::Ended))
    }

    fn ask(&self, order: ReplicationOrder) {
        // The answer's receiver says when the committer has ended.
        drop(self.changes.send(Message::Replication(order)));
    }

    /// Waits until there are records behind `next`, or for a time; says where the store stands then.
    pub fn wait_beyond(&self, next: u64, time: Duration) -> Position {
        self.hub.wait_beyond(next, time)
    }

    /// About how many bytes the journal has from record `next` on: whole segments are counted.
    pub fn bytes_from(&self, next: u64) -> u64 {
        let lead = self.hub.leading();
        lead.and_then(|lead| bytes_from(&lead.journal(), next).ok()).unwrap_or(0)
    }

    /// The records behind a position of the secondary.
    pub fn shipper(&self, from: Position) -> Result<Shipper, ShipError> {
        Shipper::new(&self.hub, self.id, from)
    }

    /// Takes a batch, and returns where this store stands when it is durable and applied.
    pub fn take(&self, batch: &Bytes) -> Result<Position, TakeError> {
        self.take_batch(Batch::decode(batch)?)
    }

    fn take_batch(&self, batch: Batch) -> Result<Position, TakeError> {
        let (sender, receiver) = bounded(1);
        self.ask(ReplicationOrder::Take(batch, sender));
        receiver.recv().unwrap_or_else(|_| Err(Arc::new(StoreError::Ended).into()))
    }

    /// The state of this moment, for [`Store::resync`] at the other server.
    pub fn resync_source(&self) -> Result<ResyncSource, StoreError> {
        ResyncSource::new(&self.hub)
    }

    /// The state of this moment, for [`Store::begin_comparison`] at the other server, which follows meanwhile.
    pub fn comparison_source(&self) -> Result<ResyncSource, StoreError> {
        ResyncSource::of_now(&self.hub)
    }

    /// Brings this secondary to the state of the moment that the other server keeps; only what differs is asked for. `ask`
    /// carries a question to [`ResyncSource::answer`] there. Until the end the secondary is what it was before, also after a
    /// crash; what was fetched before a crash is not fetched again. `thorough` reads every block that is here, and
    /// fetches those that are damaged. It ends as soon as `progress` returns false.
    pub fn resync<E: std::error::Error + 'static>(
        &self,
        thorough: bool,
        ask: &mut dyn FnMut(Bytes) -> Result<Bytes, E>,
        progress: &mut dyn FnMut(ResyncProgress) -> bool,
    ) -> Result<Position, ResyncError<E>> {
        let (sender, receiver) = bounded(1);
        self.ask(ReplicationOrder::BeginResync(sender));
        let (of, session) = receiver.recv().unwrap_or(Err(StoreError::Ended))?;
        let built = resync::build(&of, &session, self.id, &self.options, thorough, ask, progress);
        let (built, error) = match built {
            Ok(built) => (Some(Box::new(built)), None),
            Err(error) => (None, Some(error)),
        };
        let (sender, receiver) = bounded(1);
        self.ask(ReplicationOrder::EndResync(session, built, sender));
        let ended = receiver.recv().unwrap_or(Err(StoreError::Ended));
        match error {
            Some(error) => Err(error),
            None => Ok(ended?),
        }
    }
}
