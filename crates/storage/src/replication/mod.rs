//! Geo-redundancy between two servers: the store of one is followed by that of the other.
//!
//! ```text
//!  primary                                          secondary
//!  face: records, resync, fence, state  ◀── HTTP ── peer ◀── follow: fetch ─▶ Store::take
//!  lead: tells an old primary its epoch                      failover: fence there, drain, promote
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `pair` | the other server and the secret, in a file; invitations |
//! | `wire` | paths, headers, codes and bodies of the protocol |
//! | `peer` | asking the other server |
//! | `face` | answering the other server |
//! | `synced` | the Last Sync Time |
//! | `follow` | the secondary: records, resynchronizations |
//! | `roles` | what a server does in each part that it plays |
//! | `verify` | both servers compared by strong digests |
//! | `manage` | what commands do: invite, join, fail over, return, remove |
//!
//! Which part a server plays is known by the store, and is durable there. Everything that comes from the other server is
//! checked before it is used.

mod face;
mod follow;
mod manage;
mod pair;
mod peer;
mod roles;
mod synced;
mod verify;
mod wire;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use azure::{GeoStatus, ServiceStats};
use blobs::{Position, ResyncProgress, Role, Store};
use jiff::Timestamp;
use strongroom_azure as azure;
use strongroom_base::{Clock, Entropy, lock};
use strongroom_blobs as blobs;
use strongroom_http::CertificateFiles;
use tokio::sync::watch;

use crate::StorageError;

pub(crate) use face::answer;
pub use manage::join;
pub use manage::{
    FailoverProgress, FailoverShown, FailoverStep, InvitationShown, PairState, ReplicationShown,
    ResyncShown,
};
pub(crate) use manage::{change_redundancy, execute, redundancy_of_new};
pub(crate) use pair::Secret;
pub(crate) use roles::{keep, not_primary, refuse};
pub use verify::{DifferenceIn, DifferenceShown, VerificationShown, VerificationState};

use pair::{Pair, Peer};
use peer::{Link, PeerError};
use synced::Synced;

/// After how long without a word the other server counts as gone.
const GONE: Duration = Duration::from_secs(15);
/// A secondary whose Last Sync Time is older than this, by the primary's clock, catches up.
const BEHIND: Duration = Duration::from_secs(10);

/// How a secondary follows, or why it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Following {
    /// It has not asked yet.
    #[default]
    Begins,
    /// It takes records.
    Records,
    /// It is resynchronized.
    Bootstrap,
    /// The other server does not answer, or the batch cannot be taken; it is tried again.
    Broken(String),
    /// The primary lacks records that this server has.
    Ahead,
}

/// What a primary knows of its secondary.
#[derive(Clone, Debug, Default)]
struct Secondary {
    /// When it asked last, by the monotonic clock.
    asked: Option<Duration>,
    /// The records before this one are durable there.
    durable: u64,
    /// Its Last Sync Time.
    synced: Option<Timestamp>,
}

/// What is in motion; it is known to this process only.
#[derive(Debug, Default)]
struct Now {
    following: Following,
    synced: Synced,
    /// When the other server gave a good answer last, by the monotonic clock.
    heard: Option<Duration>,
    /// When the other server asked or answered last.
    seen: Option<Timestamp>,
    /// Whether the other server has answered last that it does not know this one.
    is_stranger: bool,
    /// Whether the primary said last that it is fenced; none if this server has not heard it yet.
    primary_is_fenced: Option<bool>,
    secondary: Secondary,
    /// Why a server that waits or is fenced cannot continue by itself.
    reason: Option<String>,
    /// How many records a fenced server has that the primary lacks.
    discard: Option<u64>,
    /// About how many bytes of the primary's journal this server lacks.
    behind: Option<u64>,
    /// How far the last resynchronization is or was.
    resync: Option<ResyncProgress>,
    /// The last verification.
    verification: Option<VerificationShown>,
    /// Which certificate of this server the other one has seen.
    announced: Option<String>,
}

/// Geo-redundancy at one server.
pub(crate) struct Replication {
    store: Arc<Store>,
    data_dir: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pair: Mutex<Pair>,
    now: Mutex<Now>,
    /// What ships records to the secondary.
    shipping: Mutex<Option<blobs::Shipper>>,
    /// The resynchronization of the secondary.
    session: Mutex<Option<face::Session>>,
    /// The moment that the secondary compares itself with.
    comparison: Mutex<Option<face::Session>>,
    /// Held while a batch is taken, or a resynchronization or a promotion is at work.
    work: Arc<tokio::sync::Mutex<()>>,
    /// Raised when the part of the server, or what it knows of the other one, has changed.
    changed: watch::Sender<u64>,
}

impl Replication {
    pub(crate) fn open(
        store: Arc<Store>,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StorageError> {
        let pair = Pair::load(data_dir)?;
        // What is given up was never in the primary's history.
        let known = if pair.discard { Position::default() } else { store.position() };
        let synced = Synced::new(known);
        Ok(Self {
            store,
            data_dir: data_dir.to_owned(),
            clock,
            entropy,
            pair: Mutex::new(pair),
            now: Mutex::new(Now { synced, ..Now::default() }),
            shipping: Mutex::default(),
            session: Mutex::default(),
            comparison: Mutex::default(),
            work: Arc::default(),
            changed: watch::Sender::new(0),
        })
    }

    /// The part of this server.
    pub(crate) fn role(&self) -> Role {
        self.store.standing().role
    }

    /// Whether this server is a secondary whose state is still the one that its operator has given up.
    pub(crate) fn is_discarding(&self) -> bool {
        self.role() == Role::Secondary && lock(&self.pair).discard
    }

    /// How the secondary stands that this server is; none if it is something else.
    pub(crate) fn stats(&self) -> Option<ServiceStats> {
        if self.role() != Role::Secondary {
            return None;
        }
        let now = lock(&self.now);
        let status = match now.following {
            Following::Bootstrap => GeoStatus::Bootstrap,
            Following::Records if self.is_heard(&now) => GeoStatus::Live,
            _ => GeoStatus::Unavailable,
        };
        let is_whole = status != GeoStatus::Bootstrap;
        Some(ServiceStats { status, last_sync: now.synced.time().filter(|_| is_whole) })
    }

    /// Where the other server is, for connection strings.
    pub(crate) fn peer_url(&self) -> Option<String> {
        lock(&self.pair).peer.as_ref().map(|peer| peer.url.clone())
    }

    fn is_heard(&self, now: &Now) -> bool {
        now.heard.is_some_and(|heard| self.clock.monotonic().saturating_sub(heard) < GONE)
    }

    /// Notes a good answer of the other server.
    fn hear(&self) {
        lock(&self.now).heard = Some(self.clock.monotonic());
        self.meet();
    }

    /// Notes that the other server is there, and knows this one.
    fn meet(&self) {
        let mut now = lock(&self.now);
        now.seen = Some(self.clock.now());
        now.is_stranger = false;
    }

    /// Notes that the other server does not know this one, if that is what its answer says.
    fn miss(&self, error: &PeerError) {
        if matches!(error, PeerError::Stranger(_)) {
            lock(&self.now).is_stranger = true;
        }
    }

    fn follows(&self, following: Following) {
        lock(&self.now).following = following;
    }

    /// Changes what is known of the other server; it is durable then.
    fn change_pair<T>(&self, change: impl FnOnce(&mut Pair) -> T) -> Result<T, StorageError> {
        let mut pair = lock(&self.pair);
        let mut changed = pair.clone();
        let result = change(&mut changed);
        changed.keep(&self.data_dir)?;
        *pair = changed;
        Ok(result)
    }

    /// Begins again with what is known now.
    fn signal(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn peer(&self) -> Option<Peer> {
        lock(&self.pair).peer.clone()
    }

    /// The fingerprint of the certificate that this server shows, if it has one.
    fn own_fingerprint(&self) -> Option<String> {
        CertificateFiles::own(&self.data_dir).facts().ok().map(|facts| facts.fingerprint)
    }

    /// The way to the other server.
    fn link(&self) -> Result<Link, PeerError> {
        let pair = lock(&self.pair).clone();
        let Some(peer) = &pair.peer else {
            return Err(PeerError::Unreachable("no other server is known".to_owned()));
        };
        Link::to(peer, pair.url.clone(), self.own_fingerprint())
    }

    /// Records that one position has more than another.
    fn beyond(more: Position, less: Position) -> u64 {
        more.next_record.saturating_sub(less.next_record)
    }
}
