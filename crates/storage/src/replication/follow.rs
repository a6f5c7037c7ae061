//! The secondary: it asks for records, takes them while it asks for the next ones, and is resynchronized when it is too
//! far behind.

use std::{sync::Arc, time::Duration};

use blobs::{Refusal, Role, TakeError};
use bytes::Bytes;
use strongroom_base::lock;
use strongroom_blobs as blobs;
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Following, Replication,
    peer::{Link, PeerError, Shipped, Wanted},
    roles,
    wire::Said,
};

/// How long the primary waits for records before it answers that there are none.
const WAIT: Duration = Duration::from_secs(1);
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// After this time the other server is asked by a new link, so that it learns of a new certificate of this one.
const RENEWED: Duration = Duration::from_mins(10);
/// How long a question of a resynchronization is repeated: the primary keeps the moment a little longer.
const PATIENCE: Duration = Duration::from_secs(45);

/// What comes after a round.
enum Next {
    /// Another one, at once.
    Again,
    /// Another one, after a pause.
    Later,
}

/// A task that ends when this is dropped.
struct Ended(JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the primary as long as this server is a secondary.
pub(super) async fn follow(this: &Arc<Replication>) {
    let mut pause = FIRST_PAUSE;
    while this.role() == Role::Secondary {
        match round(this).await {
            Next::Again => pause = FIRST_PAUSE,
            Next::Later => {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LAST_PAUSE);
            }
        }
    }
}

async fn round(this: &Arc<Replication>) -> Next {
    let link = match this.link() {
        Ok(link) => link,
        Err(error) => return fail(this, &error),
    };
    let discards = lock(&this.pair).discard;
    if discards {
        return resync(this, link, false).await;
    }
    let (standing, position) = {
        // A batch that is being taken for the round before is finished first.
        let _work = this.work.lock().await;
        (this.store.standing(), this.store.position())
    };
    let (sender, mut fetched) = mpsc::channel(1);
    let fetching = fetch(Arc::clone(this), link.clone(), position, standing.epoch, sender);
    let _fetching = Ended(tokio::spawn(fetching));
    let mut next = Next::Later;
    while let Some(shipped) = fetched.recv().await {
        match shipped {
            Ok(shipped) => match take(this, shipped).await {
                Ok(true) => next = Next::Again,
                Ok(false) => return Next::Again,
                Err(TakeError::Refused(Refusal::Damaged { .. })) => {
                    tracing::error!("a block of this server is damaged: it is fetched again");
                    return resync(this, link, true).await;
                }
                Err(error) => {
                    let reason = said(&error);
                    tracing::warn!(reason, "records of the primary cannot be taken");
                    this.follows(Following::Broken(reason));
                    return Next::Later;
                }
            },
            Err(PeerError::Said { said: Said::TooFarBehind, .. }) => {
                return resync(this, link, false).await;
            }
            Err(PeerError::Said { said: Said::Ahead, .. }) => {
                if lock(&this.now).following != Following::Ahead {
                    tracing::error!("the primary lacks records that this server has");
                }
                this.follows(Following::Ahead);
                return Next::Later;
            }
            Err(error) => {
                fail(this, &error);
                return next;
            }
        }
    }
    Next::Again
}

/// Notes why the other server cannot be followed.
fn fail(this: &Replication, error: &PeerError) -> Next {
    this.miss(error);
    let following = Following::Broken(roles::with_hint(error));
    let is_new = lock(&this.now).following != following;
    if is_new {
        tracing::warn!(%error, "the primary is not followed");
    }
    this.follows(following);
    Next::Later
}

/// Fetches batches one after another, each while the one before is taken.
async fn fetch(
    this: Arc<Replication>,
    link: Link,
    mut from: blobs::Position,
    epoch: u64,
    sender: mpsc::Sender<Result<Shipped, PeerError>>,
) {
    let begun = this.clock.monotonic();
    while this.clock.monotonic().saturating_sub(begun) < RENEWED {
        let (durable, synced) = (this.store.position().next_record, lock(&this.now).synced.time());
        let shipped = link.records(&Wanted { from, epoch, durable, synced, wait: WAIT }).await;
        let is_last = match &shipped {
            Ok(shipped) => {
                from = shipped.end;
                false
            }
            Err(_) => true,
        };
        if sender.send(shipped).await.is_err() || is_last {
            return;
        }
    }
}

/// Takes a batch; it is durable and applied then. False if a verification has taken the records meanwhile.
async fn take(this: &Arc<Replication>, shipped: Shipped) -> Result<bool, TakeError> {
    let Shipped { from, batch, end: _, clock, position, behind, is_fenced } = shipped;
    this.hear();
    if is_fenced == Some(false) && lock(&this.pair).failing_over.is_some() {
        let forgotten = this.change_pair(|pair| pair.failing_over = None);
        forgotten.map_err(|error| {
            tracing::error!(%error, "the end of a failover cannot be noted");
            TakeError::Store(Arc::new(blobs::StoreError::Ended))
        })?;
    }
    {
        let mut now = lock(&this.now);
        now.following = Following::Records;
        now.behind = behind;
        now.primary_is_fenced = is_fenced;
        now.synced.hear(clock, position);
    }
    if let Some(batch) = batch {
        let work = Arc::clone(&this.work).lock_owned().await;
        if this.store.position().next_record > from.next_record {
            return Ok(false);
        }
        let store = Arc::clone(&this.store);
        let taking = tokio::task::spawn_blocking(move || {
            let _work = work;
            store.take(&batch)
        });
        taking.await.map_err(|_| TakeError::Store(Arc::new(blobs::StoreError::Ended)))??;
    }
    let reached = this.store.position();
    lock(&this.now).synced.reach(reached);
    Ok(true)
}

/// An error with its causes.
pub(super) fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        // An error that says what its cause says is not repeated.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// Brings this server to the state of the primary, whatever it has; only what differs moves.
async fn resync(this: &Arc<Replication>, link: Link, thorough: bool) -> Next {
    tracing::info!("this server is resynchronized");
    this.follows(Following::Bootstrap);
    lock(&this.now).resync = Some(blobs::ResyncProgress::default());
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let work = Arc::clone(&this.work).lock_owned().await;
    let (here, runtime) = (Arc::clone(this), Handle::current());
    let working = tokio::task::spawn_blocking(move || {
        let _work = work;
        let mut session = None;
        let mut ask = |question: Bytes| {
            runtime.block_on(async {
                tokio::select! {
                    answer = ask(&link, &mut session, question) => answer.inspect_err(|error| here.miss(error)),
                    () = stop.cancelled() => Err(PeerError::Unreachable("the work was ended".to_owned())),
                }
            })
        };
        here.store.resync(thorough, &mut ask, &mut |progress| {
            here.hear();
            lock(&here.now).resync = Some(progress);
            !stop.is_cancelled()
        })
    });
    match working.await {
        Ok(Ok(position)) => {
            tracing::info!("this server is resynchronized");
            {
                let mut now = lock(&this.now);
                now.synced.restart(position);
            }
            let kept = this.change_pair(|pair| pair.discard = false);
            if let Err(error) = kept {
                tracing::error!(%error, "the end of the resynchronization cannot be noted");
            }
            Next::Again
        }
        Ok(Err(error)) => {
            let reason = said(&error);
            tracing::warn!(reason, "this server cannot be resynchronized yet");
            this.follows(Following::Broken(reason));
            Next::Later
        }
        Err(error) => {
            this.follows(Following::Broken(error.to_string()));
            Next::Later
        }
    }
}

/// Asks a question, and again while the network fails. The moment that is compared is the same all the time.
async fn ask(
    link: &Link,
    session: &mut Option<String>,
    question: Bytes,
) -> Result<Bytes, PeerError> {
    let tried = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match link.resync(session.as_deref(), question.clone()).await {
                Ok((answer, id)) => {
                    *session = id.or_else(|| session.take());
                    return Ok(answer);
                }
                Err(PeerError::Unreachable(reason)) => {
                    tracing::debug!(reason, "a question is repeated");
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(LAST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    };
    tokio::time::timeout(PATIENCE, tried)
        .await
        .unwrap_or_else(|_| Err(PeerError::Unreachable("it does not answer".to_owned())))
}
