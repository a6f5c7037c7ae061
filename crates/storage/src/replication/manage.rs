//! What commands do: invite and join, show, fail over, return, confirm, remove.

use std::{fs, path::Path, sync::Arc, time::Duration};

use blobs::{
    Account, AccountChange, Change, Position, ReadError, Redundancy, Role, Store, StoreError,
    StoreId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_azure as azure;
use strongroom_base::{Clock, Entropy, lock};
use strongroom_blobs as blobs;

use super::{
    BEHIND, Following, Replication,
    pair::{self, Invitation, Pair, Peer},
    peer::{Link, PeerError},
    roles,
    verify::{self, VerificationShown},
    wire::{Begin, JoinQuestion},
};
use crate::{
    CopyFolders, StorageError,
    admin::{Command, RefusedKind, Reply},
    storage::{open_store, store_folder},
};

/// How long the rest of the primary's records may make no progress in a planned failover.
const STALLED: Duration = Duration::from_secs(30);
/// After this time a secondary that has not asked again is not in step if there are changes that it lacks.
const SILENT: Duration = Duration::from_secs(3);
/// How often a failover looks.
const LOOKS: Duration = Duration::from_millis(50);

/// How a pair of servers stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairState {
    /// There is no other server.
    Unpaired,
    /// The secondary is in step.
    Live,
    /// The secondary gets its first state, or is resynchronized.
    Bootstrap,
    /// The secondary takes records, and is behind.
    CatchingUp,
    /// The other server does not answer, or its records cannot be taken.
    Unavailable,
    /// The other server has become the primary.
    Fenced,
    /// The primary does not know yet whether it still is.
    Waiting,
    /// The primary lacks records that the secondary has.
    Ahead,
    /// The other server does not know this one: the pair was ended there.
    Removed,
}

/// A step of a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverStep {
    /// The old primary takes no changes any more.
    OldPrimaryFenced,
    /// The secondary has fetched the rest of the old primary's changes.
    ChangesFetched,
    /// The secondary is the primary.
    Promoted,
}

/// A failover that is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverProgress {
    /// The epoch that it begins.
    pub epoch: u64,
    /// What is done.
    pub done: Vec<FailoverStep>,
    /// What is left.
    pub left: Vec<FailoverStep>,
    /// The command that completes it, at this server; none if it is completed by itself.
    pub command: Option<String>,
}

/// How far the resynchronization is or was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncShown {
    /// Rows of blocks that were compared.
    pub compared_rows: u64,
    /// Rows of blocks that there are.
    pub rows: u64,
    /// Bytes of blocks that came from the other server.
    pub fetched_bytes: u64,
}

/// How far the secondary is behind.
#[derive(Clone, Copy)]
struct Lag {
    records: Option<u64>,
    bytes: Option<u64>,
    seconds: Option<u64>,
}

/// How geo-redundancy stands at a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationShown {
    /// The part of this server: `alone`, `primary`, `waiting`, `secondary`, `fenced`.
    pub role: Role,
    /// How the pair stands.
    pub state: PairState,
    /// Which failover the pair is at: each begins an epoch.
    pub epoch: u64,
    /// The id of the store, which both servers share.
    pub store: String,
    /// Where the other server reaches this one.
    pub url: Option<String>,
    /// Where the other server is.
    pub peer_url: Option<String>,
    /// The fingerprint of its certificate; none without TLS, or if it is not known yet.
    pub peer_fingerprint: Option<String>,
    /// Changes in the life of the store.
    pub records: u64,
    /// All writes that the primary answered before this moment are at the secondary.
    pub last_sync_time: Option<Timestamp>,
    /// Changes that the secondary lacks, as far as this server knows.
    pub lag_records: Option<u64>,
    /// About how many bytes of the primary's journal these are.
    pub lag_bytes: Option<u64>,
    /// How old the Last Sync Time is by the primary's clock, in seconds.
    pub lag_seconds: Option<u64>,
    /// When the other server asked or answered last, since this process was started.
    pub peer_seen: Option<Timestamp>,
    /// A failover that is not complete.
    pub failover: Option<FailoverProgress>,
    /// The last resynchronization since this process was started.
    pub resync: ResyncShown,
    /// The last verification of this server since the process was started.
    pub verification: Option<VerificationShown>,
    /// How many changes a fenced server has that the primary lacks, where that is known.
    pub discard_records: Option<u64>,
    /// Why it does not continue by itself.
    pub reason: Option<String>,
}

/// An invitation. The text is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationShown {
    /// One line, with a secret.
    pub invitation: String,
    /// Until when it is valid.
    pub expires: Timestamp,
}

impl std::fmt::Debug for InvitationShown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvitationShown").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverShown {
    /// The epoch that it began.
    pub epoch: u64,
    /// Whether the old primary was asked, so that nothing is lost.
    pub planned: bool,
    /// All writes that the old primary answered before this moment are here.
    pub last_sync_time: Option<Timestamp>,
    /// Changes of the old primary that are known to be lost; there may be more.
    pub lost_records: u64,
    /// Whether the old primary has said that it takes no changes any more. If not, it is asked until it does.
    pub old_primary_fenced: bool,
}

/// A part, in words.
pub(super) const fn role(role: Role) -> &'static str {
    match role {
        Role::Alone => "alone",
        Role::Primary => "the primary",
        Role::Waiting => "a primary that waits",
        Role::Secondary => "the secondary",
        Role::Fenced => "fenced",
    }
}

fn invalid(reason: impl Into<String>) -> Reply {
    Reply::refused(RefusedKind::InvalidReplication, reason)
}

impl From<StorageError> for Reply {
    fn from(error: StorageError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        Self::refused(RefusedKind::Failed, text)
    }
}

impl From<PeerError> for Reply {
    fn from(error: PeerError) -> Self {
        Self::refused(RefusedKind::PeerUnavailable, error.to_string())
    }
}

/// Carries a command on the pair out. While nobody serves, nobody follows the primary either: a failover does so itself.
pub(crate) async fn execute(this: &Arc<Replication>, command: &Command, is_served: bool) -> Reply {
    let done = match command {
        Command::ReplicationInvite { url } => this.invite(url),
        Command::ReplicationShow => Ok(Reply::Replication(Box::new(this.show()))),
        Command::ReplicationUpdate { url, peer_url } => {
            this.update(url.as_deref(), peer_url.as_deref())
        }
        Command::ReplicationConfirm => this.confirm().await,
        Command::ReplicationRejoin { discard } => this.rejoin(*discard).await,
        Command::ReplicationRemove => this.remove().await,
        Command::ReplicationVerify { rate } => verify::begin(this, *rate, is_served)
            .map(|()| Reply::Replication(Box::new(this.show()))),
        Command::Failover { accept_loss } => fail_over(this, *accept_loss, is_served).await,
        _ => Err(Reply::refused(RefusedKind::Failed, "the command is not about the pair")),
    };
    done.unwrap_or_else(|refused| refused)
}

impl Replication {
    fn show(&self) -> ReplicationShown {
        let standing = self.store.standing();
        let position = self.store.position();
        let is_resynchronized = self.tidy();
        let pair = lock(&self.pair).clone();
        let now = lock(&self.now);
        let (state, synced, lag) =
            self.stands(&now, standing.role, position, is_resynchronized, pair.discard);
        let reason = match (&now.following, standing.role) {
            (Following::Broken(reason), Role::Secondary) => Some(reason.clone()),
            (_, Role::Secondary) => None,
            _ => now.reason.clone(),
        };
        let failover = failover_progress(standing, &pair, now.primary_is_fenced);
        let peer = pair.peer;
        ReplicationShown {
            role: standing.role,
            state,
            epoch: standing.epoch,
            store: self.store.id().into(),
            url: pair.url,
            peer_url: peer.as_ref().map(|peer| peer.url.clone()),
            peer_fingerprint: peer.and_then(|peer| peer.fingerprint),
            records: position.next_record.saturating_sub(1),
            last_sync_time: synced,
            lag_records: lag.and_then(|lag| lag.records),
            lag_bytes: lag.and_then(|lag| lag.bytes),
            lag_seconds: lag.and_then(|lag| lag.seconds),
            peer_seen: now.seen.filter(|_| standing.role != Role::Alone),
            failover,
            resync: now.resync.map_or_else(ResyncShown::default, |it| ResyncShown {
                compared_rows: it.compared,
                rows: it.rows,
                fetched_bytes: it.fetched,
            }),
            verification: now.verification.clone(),
            discard_records: now.discard,
            reason,
        }
    }

    /// How the pair stands, the Last Sync Time, and what the secondary lacks.
    fn stands(
        &self,
        now: &super::Now,
        role: Role,
        position: Position,
        is_resynchronized: bool,
        is_discarding: bool,
    ) -> (PairState, Option<Timestamp>, Option<Lag>) {
        let clock = self.clock.monotonic();
        let since = |synced: Option<Timestamp>, at: Timestamp| {
            synced.map(|synced| u64::try_from(at.duration_since(synced).as_secs()).unwrap_or(0))
        };
        match role {
            Role::Alone => (PairState::Unpaired, None, None),
            Role::Waiting => (PairState::Waiting, None, None),
            Role::Fenced => (PairState::Fenced, None, None),
            Role::Primary => {
                let secondary = &now.secondary;
                let asked =
                    secondary.asked.is_some_and(|at| clock.saturating_sub(at) < super::GONE);
                let seconds = since(secondary.synced, self.clock.now());
                let records = position.next_record.saturating_sub(secondary.durable);
                let silent = secondary.asked.map(|at| clock.saturating_sub(at));
                let is_behind = silent.is_none_or(|silent| silent > SILENT)
                    || seconds.is_none_or(|seconds| seconds > BEHIND.as_secs());
                let state = match (is_resynchronized, asked) {
                    _ if now.is_stranger => PairState::Removed,
                    (true, _) => PairState::Bootstrap,
                    (_, false) => PairState::Unavailable,
                    _ if is_behind && records > 0 => PairState::CatchingUp,
                    _ => PairState::Live,
                };
                let bytes = match records {
                    0 => 0,
                    _ => self.store.bytes_from(secondary.durable),
                };
                let lag = secondary.asked.map(|_| Lag {
                    records: Some(records),
                    bytes: Some(bytes),
                    seconds,
                });
                (state, secondary.synced, lag)
            }
            Role::Secondary if is_discarding => (PairState::Bootstrap, None, None),
            Role::Secondary => {
                let synced = now.synced.time();
                let is_current = now.following == Following::Records && self.is_heard(now);
                let primary = now.synced.primary().filter(|_| is_current);
                let lag = primary.map(|(clock, there)| Lag {
                    records: Some(Self::beyond(there, position)),
                    bytes: now.behind,
                    seconds: since(synced, clock),
                });
                // Without a word of the primary it is only known how old this state is.
                let lag = lag.or_else(|| {
                    let seconds = since(synced, self.clock.now());
                    synced.map(|_| Lag { records: None, bytes: None, seconds })
                });
                let is_behind = lag.as_ref().is_none_or(|lag| {
                    lag.records.is_none_or(|records| records > 0)
                        && lag.seconds.is_none_or(|seconds| seconds > BEHIND.as_secs())
                });
                let state = match &now.following {
                    Following::Bootstrap => PairState::Bootstrap,
                    Following::Ahead => PairState::Ahead,
                    Following::Broken(_) if now.is_stranger => PairState::Removed,
                    Following::Begins | Following::Broken(_) => PairState::Unavailable,
                    Following::Records if !self.is_heard(now) => PairState::Unavailable,
                    Following::Records if is_behind => PairState::CatchingUp,
                    Following::Records => PairState::Live,
                };
                (state, synced, lag)
            }
        }
    }

    fn invite(&self, url: &str) -> Result<Reply, Reply> {
        let url = pair::check_url(url).map_err(invalid)?;
        if self.role() != Role::Alone && self.peer().is_some() {
            return Err(invalid(
                "this server has another one already: `storage replication remove` ends the pair",
            ));
        }
        if !matches!(self.role(), Role::Alone | Role::Primary) {
            return Err(invalid(format!("this server is {}", role(self.role()))));
        }
        let fingerprint = if url.starts_with("https:") {
            let own = self.own_fingerprint();
            Some(own.ok_or_else(|| {
                invalid("this server has no certificate yet: serve the accounts with TLS first")
            })?)
        } else {
            None
        };
        let invited = self.change_pair(|pair| {
            pair.peer = None;
            pair.invite(&url, self.clock.now(), &*self.entropy)
        })?;
        let invitation =
            Invitation { url, fingerprint, secret: invited.secret, store: self.store.id() };
        Ok(Reply::Invitation(InvitationShown {
            invitation: invitation.to_text(),
            expires: invited.expires,
        }))
    }

    /// Whether the secondary of this primary has not asked for a while.
    pub(super) fn is_silent(&self) -> bool {
        let clock = self.clock.monotonic();
        let asked = lock(&self.now).secondary.asked;
        asked.is_none_or(|at| clock.saturating_sub(at) > SILENT)
    }

    /// Notes that a server is reached elsewhere now. The other one learns this server's URL with the next request.
    fn update(&self, url: Option<&str>, peer_url: Option<&str>) -> Result<Reply, Reply> {
        if self.peer().is_none() {
            return Err(invalid("this server has no other one"));
        }
        let url = url.map(pair::check_url).transpose().map_err(invalid)?;
        let peer_url = peer_url.map(pair::check_url).transpose().map_err(invalid)?;
        let tls = |url: &str| url.starts_with("https:");
        if let (Some(new), Some(peer)) = (&peer_url, self.peer())
            && tls(new) != tls(&peer.url)
        {
            return Err(invalid("the other server was joined with or without TLS, and stays so"));
        }
        self.change_pair(|pair| {
            if url.is_some() {
                pair.url = url;
            }
            if let (Some(url), Some(peer)) = (peer_url, &mut pair.peer) {
                peer.url = url;
            }
        })?;
        self.signal();
        Ok(Reply::Replication(Box::new(self.show())))
    }

    async fn confirm(self: &Arc<Self>) -> Result<Reply, Reply> {
        if self.role() != Role::Waiting {
            return Err(invalid(format!("this server is {}: it does not wait", role(self.role()))));
        }
        self.change_role(Store::confirm).await?;
        lock(&self.now).reason = None;
        tracing::warn!("the operator says that this server is the primary");
        Ok(Reply::Replication(Box::new(self.show())))
    }

    async fn change_role(
        self: &Arc<Self>,
        change: impl FnOnce(&Store) -> Result<blobs::Standing, StoreError> + Send + 'static,
    ) -> Result<blobs::Standing, Reply> {
        let store = Arc::clone(&self.store);
        let changed = tokio::task::spawn_blocking(move || change(&store)).await;
        let changed =
            changed.map_err(|_| Reply::refused(RefusedKind::Failed, "a task panicked"))?;
        self.signal();
        Ok(changed?)
    }

    async fn rejoin(self: &Arc<Self>, discard: bool) -> Result<Reply, Reply> {
        let is_ahead = lock(&self.now).following == Following::Ahead;
        match self.role() {
            Role::Fenced => {}
            Role::Secondary if is_ahead && discard => {
                self.change_pair(|pair| pair.discard = true)?;
                lock(&self.now).synced.restart(Position::default());
                self.signal();
                return Ok(Reply::Replication(Box::new(self.show())));
            }
            part => {
                return Err(invalid(format!("this server is {}: it need not return", role(part))));
            }
        }
        if discard {
            self.change_pair(|pair| pair.discard = true)?;
        }
        roles::return_to_pair(self).await?;
        if self.role() == Role::Fenced {
            let reason = lock(&self.now).reason.clone().unwrap_or_default();
            return Err(Reply::refused(RefusedKind::Diverged, reason));
        }
        Ok(Reply::Replication(Box::new(self.show())))
    }

    async fn remove(self: &Arc<Self>) -> Result<Reply, Reply> {
        if self.role() != Role::Alone {
            self.change_role(|store| store.pair(false)).await?;
        }
        *lock(&self.shipping) = None;
        *lock(&self.session) = None;
        *lock(&self.comparison) = None;
        Pair::forget(&self.data_dir)?;
        *lock(&self.pair) = Pair::default();
        *lock(&self.now) = super::Now::default();
        let store = Arc::clone(&self.store);
        let changed = tokio::task::spawn_blocking(move || set_all(&store, Redundancy::Lrs)).await;
        changed
            .map_err(|_| Reply::refused(RefusedKind::Failed, "a task panicked"))?
            .map_err(|reason| Reply::refused(RefusedKind::Failed, reason))?;
        self.signal();
        Ok(Reply::Replication(Box::new(self.show())))
    }
}

/// The secondary becomes the primary. If the primary answers, it is fenced first and the rest of its records is fetched.
async fn fail_over(
    this: &Arc<Replication>,
    accept_loss: bool,
    is_served: bool,
) -> Result<Reply, Reply> {
    let standing = this.store.standing();
    if standing.role != Role::Secondary {
        let progress = failover_progress(standing, &lock(&this.pair), None);
        let more = progress.map_or_else(String::new, |progress| {
            format!(
                ". The failover to epoch {} has promoted it; the old primary is fenced as soon as it answers",
                progress.epoch
            )
        });
        return Err(invalid(format!(
            "this server is {}: a failover is for the secondary{more}",
            role(standing.role)
        )));
    }
    let epoch = standing.epoch.saturating_add(1);
    let asked = async {
        let link = this.link()?;
        let state = link.state().await?;
        if state.store != this.store.id() {
            return Err(PeerError::Invalid("it has another store"));
        }
        link.fence(epoch).await
    };
    let asked = asked.await.map_err(|error| error.to_string());
    let drained = match asked {
        Ok(state) => {
            this.change_pair(|pair| pair.failing_over = Some(epoch))?;
            tracing::warn!(
                epoch,
                "the primary takes no changes any more: the rest of its records is fetched"
            );
            drain(this, state.position, is_served).await
        }
        Err(reason) => Err(reason),
    };
    let is_planned = drained.is_ok();
    if let Err(reason) = drained
        && !accept_loss
    {
        return Err(Reply::refused(RefusedKind::Loses, loss(this, &reason)));
    }
    let position = {
        let _work = this.work.lock().await;
        let position = this.store.position();
        // Without the promotion this means nothing: it is of another epoch.
        this.change_pair(|pair| {
            pair.begin = Some(Begin { epoch, position });
            pair.end_copies = true;
            pair.discard = false;
            pair.failing_over = None;
            if let Some(peer) = &mut pair.peer
                && is_planned
            {
                peer.fenced = epoch;
            }
        })?;
        this.change_role(Store::promote).await?;
        position
    };
    let now = lock(&this.now);
    let lost = now.synced.primary().map_or(0, |(_, there)| Replication::beyond(there, position));
    let shown = FailoverShown {
        epoch: this.store.standing().epoch,
        planned: is_planned,
        last_sync_time: now.synced.time(),
        lost_records: if is_planned { 0 } else { lost },
        old_primary_fenced: is_planned,
    };
    tracing::warn!(epoch, is_planned, "this server is the primary now");
    Ok(Reply::FailedOver(shown))
}

/// What a failover would lose, for its operator.
fn loss(this: &Replication, reason: &str) -> String {
    let now = lock(&this.now);
    let is_discarding = this.is_discarding();
    let synced = match now.synced.time() {
        None if is_discarding => {
            "this server has the changes that it was to give up, and nothing that the primary has written instead".to_owned()
        }
        Some(time) => format!("writes after {} may be lost", time.strftime("%Y-%m-%dT%H:%M:%SZ")),
        None => "this server was never in step with it".to_owned(),
    };
    let missing = now.synced.primary().map_or_else(String::new, |(_, there)| {
        match Replication::beyond(there, this.store.position()) {
            0 => String::new(),
            records => format!("; {records} changes are known to be missing"),
        }
    });
    let progress = match lock(&this.pair).failing_over {
        Some(_) => {
            ". Done: the primary takes no changes any more. Left: the rest of its changes, and the promotion of this \
             server; `storage account failover` completes both"
        }
        None => "",
    };
    format!(
        "the primary gives no answer that lets nothing be lost ({reason}): {synced}{missing}{progress}"
    )
}

/// A failover that has begun and is not complete, as far as this server knows.
fn failover_progress(
    standing: blobs::Standing,
    pair: &Pair,
    primary_is_fenced: Option<bool>,
) -> Option<FailoverProgress> {
    use FailoverStep::{ChangesFetched, OldPrimaryFenced, Promoted};
    let begun = pair.begin.is_some_and(|begin| begin.epoch == standing.epoch);
    let fenced = pair.peer.as_ref().map_or(u64::MAX, |peer| peer.fenced);
    let is_fenced = primary_is_fenced.unwrap_or(pair.failing_over.is_some());
    match standing.role {
        Role::Secondary if is_fenced => Some(FailoverProgress {
            epoch: standing.epoch.saturating_add(1),
            done: vec![OldPrimaryFenced],
            left: vec![ChangesFetched, Promoted],
            command: Some("strongroom storage account failover".to_owned()),
        }),
        Role::Primary if begun && fenced < standing.epoch => Some(FailoverProgress {
            epoch: standing.epoch,
            done: vec![Promoted],
            left: vec![OldPrimaryFenced],
            command: None,
        }),
        _ => None,
    }
}

/// Waits until this server has all records up to a position of the fenced primary.
async fn drain(this: &Arc<Replication>, target: Position, is_served: bool) -> Result<(), String> {
    let _following = (!is_served).then(|| {
        let this = Arc::clone(this);
        let following = tokio::spawn(async move { super::follow::follow(&this).await });
        tokio_util::task::AbortOnDropHandle::new(following)
    });
    this.signal();
    let mut last = (this.store.position(), lock(&this.now).resync);
    let mut moved = this.clock.monotonic();
    loop {
        let mine = this.store.position();
        let is_there = (mine.next_record, mine.stamp) == (target.next_record, target.stamp);
        if is_there && lock(&this.now).following != Following::Bootstrap {
            lock(&this.now).synced.reach(mine);
            return Ok(());
        }
        if mine.next_record > target.next_record {
            return Err("this server has records that the primary lacks".to_owned());
        }
        let current = (mine, lock(&this.now).resync);
        if current != last {
            (last, moved) = (current, this.clock.monotonic());
        }
        if this.clock.monotonic().saturating_sub(moved) > STALLED {
            let why = match &lock(&this.now).following {
                Following::Broken(reason) => format!(": {reason}"),
                _ => String::new(),
            };
            return Err(format!("the rest of its records cannot be fetched{why}"));
        }
        tokio::time::sleep(LOOKS).await;
    }
}

fn accounts(store: &Store) -> Result<Vec<(String, Account)>, String> {
    let view = store.view().map_err(|error| error.to_string())?;
    view.accounts().map_err(|error| error.to_string())
}

/// Gives all accounts a redundancy that lack it, and says which.
fn set_all(store: &Store, redundancy: Redundancy) -> Result<Vec<String>, String> {
    let mut changed = Vec::new();
    for (name, account) in accounts(store)? {
        let is_right = match redundancy {
            Redundancy::Lrs => account.redundancy == Redundancy::Lrs,
            Redundancy::Grs | Redundancy::RaGrs => account.redundancy != Redundancy::Lrs,
        };
        if is_right {
            continue;
        }
        let change = AccountChange::SetRedundancy(redundancy);
        let change = Change::Account { name: name.clone(), change };
        store.apply(change).map_err(|error| error.to_string())?;
        changed.push(name);
    }
    Ok(changed)
}

/// Makes the accounts of a store geo-redundant that are not, and says which.
pub(super) fn make_redundant(store: &Store) -> Result<Vec<String>, String> {
    set_all(store, Redundancy::Grs)
}

/// Whether a store is at two servers.
fn has_pair(store: &Store) -> bool {
    store.standing().role != Role::Alone
}

/// The redundancy of a new account: what is asked for, if the store can give it.
pub(crate) fn redundancy_of_new(
    store: &Store,
    asked: Option<Redundancy>,
) -> Result<Redundancy, Reply> {
    let is_pair = has_pair(store);
    let usual = if is_pair { Redundancy::Grs } else { Redundancy::Lrs };
    let asked = asked.unwrap_or(usual);
    match (is_pair, asked) {
        (true, Redundancy::Lrs) => Err(Reply::refused(
            RefusedKind::InvalidReplication,
            "the store is at two servers, with all its accounts: the redundancy is grs or ra-grs",
        )),
        (false, Redundancy::Grs | Redundancy::RaGrs) => Err(Reply::refused(
            RefusedKind::InvalidReplication,
            "the store is at one server: `storage replication invite` and `join` give it a second one",
        )),
        (_, redundancy) => Ok(redundancy),
    }
}

/// Changes the redundancy of an account.
pub(crate) fn change_redundancy(
    store: &Store,
    name: &str,
    redundancy: Redundancy,
) -> Result<(), Reply> {
    store.view().map_err(ReadError::State)?.account(name)?;
    let redundancy = redundancy_of_new(store, Some(redundancy))?;
    let change = AccountChange::SetRedundancy(redundancy);
    store.apply(Change::Account { name: name.to_owned(), change })?;
    Ok(())
}

/// Makes the folder of data, which has no accounts, a secondary of the server that gave the invitation. Returns which
/// accounts became geo-redundant there, and how the pair stands here.
pub fn join(
    data_dir: &Path,
    url: &str,
    invitation: &str,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Vec<String>, ReplicationShown), StorageError> {
    let refuse = |message: &str| StorageError::Refused {
        kind: RefusedKind::InvalidReplication,
        message: message.to_owned(),
    };
    let url = pair::check_url(url).map_err(refuse)?;
    let invitation = Invitation::parse(invitation).map_err(refuse)?;
    if url == invitation.url {
        return Err(refuse("the URL is that of the server that gave the invitation"));
    }
    let is_empty = make_room(data_dir, invitation.store, clock, entropy)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StorageError::local("start threads for", data_dir))?;
    let unavailable = |error: PeerError| StorageError::Refused {
        kind: RefusedKind::PeerUnavailable,
        message: error.to_string(),
    };
    let Invitation { url: theirs, fingerprint, secret, store } = invitation;
    let question = JoinQuestion { url: url.clone(), store };
    let joined = runtime.block_on(async {
        let link = Link::new(&theirs, fingerprint.as_deref(), &secret, Some(url.clone()), None)?;
        link.join(&question).await
    });
    let mut answer = joined.map_err(unavailable)?;
    answer.accounts.retain(|name| azure::AccountName::new(name).is_ok());
    let epoch = answer.epoch;
    let peer = Peer { url: theirs, fingerprint, secret: answer.secret, is_known: true, fenced: 0 };
    let pair = Pair { url: Some(url), peer: Some(peer), ..Pair::default() };
    // Without the store the file means nothing: joining again replaces it.
    pair.keep(data_dir)?;
    let folder = store_folder(data_dir);
    if is_empty {
        let options = blobs::Options::new(Arc::clone(clock), Arc::clone(entropy));
        Store::create_secondary(&folder, &options, store, epoch)?;
    }
    let store = open_store(data_dir, false, &CopyFolders::default(), clock, entropy)?;
    let (clock, entropy) = (Arc::clone(clock), Arc::clone(entropy));
    let replication = Replication::open(Arc::new(store), data_dir, clock, entropy)?;
    Ok((answer.accounts, replication.show()))
}

/// Makes sure that the folder has no accounts, and removes an empty store. False if there is a secondary of this store
/// already, because joining was interrupted.
fn make_room(
    data_dir: &Path,
    store: StoreId,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<bool, StorageError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.map_err(StorageError::local("create", data_dir))?;
    let folder = store_folder(data_dir);
    let found = match open_store(data_dir, false, &CopyFolders::default(), clock, entropy) {
        Ok(found) => found,
        Err(StorageError::NoStore { .. }) => return Ok(true),
        Err(error) => return Err(error),
    };
    let refuse = |message: &str| StorageError::Refused {
        kind: RefusedKind::InvalidReplication,
        message: message.to_owned(),
    };
    let failed = |message: String| StorageError::Refused { kind: RefusedKind::Failed, message };
    match found.standing().role {
        Role::Secondary if found.id() == store && found.position().next_record <= 1 => {
            return Ok(false);
        }
        Role::Alone => {}
        _ => return Err(refuse("the folder belongs to a pair of servers already")),
    }
    if !accounts(&found).map_err(failed)?.is_empty() {
        return Err(refuse(
            "the folder has storage accounts: the secondary begins with an empty one",
        ));
    }
    if found.status().copies.len() > 1 {
        return Err(refuse("the folder has copies on other disks: remove them first"));
    }
    drop(found);
    // It has no accounts, so nothing is lost.
    fs::remove_dir_all(&folder).map_err(StorageError::local("delete", &folder))?;
    Ok(true)
}
