//! What a server does in each part that it plays, from its start to its end.

use std::{sync::Arc, time::Duration};

use azure::Code;
use blobs::{Position, Role};
use strongroom_azure as azure;
use strongroom_base::lock;
use strongroom_blobs as blobs;
use tokio::sync::watch;

use super::{
    Replication, follow,
    manage::role,
    peer::{PeerError, Wanted},
    wire::{Said, State},
};
use crate::{StorageError, storage::Storage};

/// How often a primary that waits asks the other server.
const ASKS: Duration = Duration::from_secs(1);
/// How often a primary looks after the other server.
const LOOKS: Duration = Duration::from_secs(5);

/// Refuses what this server does not do in the part that it plays.
pub(crate) fn refuse(storage: &Storage, request: &azure::Request) -> Result<(), azure::Refusal> {
    let is_write = request.operation.is_write();
    match storage.replication.role() {
        Role::Secondary if !request.address.is_secondary => {
            Err(azure::Refusal::new(Code::AccountIsDisabled).with(
                "Reason",
                format!(
                    "This server is the secondary of the account: read it as {}-secondary if its redundancy is RA-GRS.",
                    request.address.account
                ),
            ))
        }
        Role::Secondary if storage.replication.is_discarding() && !asks_for_stats(request) => {
            Err(azure::Refusal::new(Code::ServerBusy).with(
                "Reason",
                "This server gives its own changes up, and does not have the primary's state yet.",
            ))
        }
        role @ (Role::Waiting | Role::Fenced) if is_write => Err(not_primary(role)),
        Role::Alone | Role::Primary | Role::Secondary | Role::Waiting | Role::Fenced => Ok(()),
    }
}

const fn asks_for_stats(request: &azure::Request) -> bool {
    matches!(request.operation, azure::Operation::Account(azure::AccountOperation::GetStats))
}

/// A change is refused by a server that is not the primary.
pub(crate) fn not_primary(role: Role) -> azure::Refusal {
    let (code, reason) = match role {
        Role::Waiting => (
            Code::ServerBusy,
            "The server has started and waits for its secondary to say that it is still the primary; see `storage replication show`.",
        ),
        Role::Fenced => (
            Code::AccountIsDisabled,
            "The other server is the primary of the account now: write there; see `storage replication show`.",
        ),
        Role::Alone | Role::Primary | Role::Secondary => (
            Code::AccountIsDisabled,
            "This server is the secondary of the account: write to the primary.",
        ),
    };
    azure::Refusal::new(code).with("Reason", reason)
}

/// Does what the part of the server needs until it is stopped. Copies in the background run while it takes changes;
/// `works` says whether they run at the beginning.
pub(crate) async fn keep(storage: Arc<Storage>, mut works: bool, mut stop: watch::Receiver<bool>) {
    let this = Arc::clone(&storage.replication);
    let mut changed = this.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let role = this.role();
        let may_work = role.decides();
        if may_work && !works {
            tracing::info!("this server takes changes");
            storage.resume_copies().await;
        }
        if !may_work && works {
            tracing::warn!(
                "this server takes no changes: its part is {}",
                super::manage::role(role)
            );
            storage.copies.pause();
        }
        works = may_work;
        if role == Role::Primary {
            end_copies(&storage).await;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = changed.changed() => {}
            () = play(&this, role) => {}
        }
    }
}

async fn play(this: &Arc<Replication>, role: Role) {
    match role {
        Role::Alone => std::future::pending().await,
        Role::Primary => lead(this).await,
        Role::Secondary => follow::follow(this).await,
        Role::Waiting => {
            while this.role() == Role::Waiting {
                if let Err(error) = confirm_by_peer(this).await {
                    tracing::error!(%error, "the part of this server cannot be changed");
                }
                if this.role() == Role::Waiting {
                    tokio::time::sleep(ASKS).await;
                }
            }
        }
        Role::Fenced => {
            while this.role() == Role::Fenced {
                if let Err(error) = return_to_pair(this).await {
                    tracing::error!(%error, "the part of this server cannot be changed");
                }
                if this.role() == Role::Fenced {
                    tokio::time::sleep(ASKS).await;
                }
            }
        }
    }
}

/// Ends copies that began at the server that was the primary before: what they need was kept there only.
async fn end_copies(storage: &Arc<Storage>) {
    let this = &storage.replication;
    if !lock(&this.pair).end_copies {
        return;
    }
    if storage.end_unknown_copies().await
        && let Err(error) = this.change_pair(|pair| pair.end_copies = false)
    {
        tracing::error!(%error, "the end of copies cannot be noted");
    }
}

/// Notes why a server cannot continue by itself; the log has it once.
fn note(this: &Replication, reason: Option<String>) {
    let mut now = lock(&this.now);
    if now.reason != reason {
        if let Some(reason) = &reason {
            tracing::warn!(reason, "the pair of servers does not continue by itself");
        }
        now.reason = reason;
    }
}

/// Asks how the other server stands.
async fn ask(this: &Replication) -> Result<State, PeerError> {
    let state = this.link()?.state().await.inspect_err(|error| this.miss(error))?;
    if state.store != this.store.id() {
        return Err(PeerError::Invalid("it has another store"));
    }
    this.hear();
    lock(&this.now).announced = this.own_fingerprint();
    Ok(state)
}

/// Changes the part of this server on a thread that may wait for the disk.
async fn change(
    this: &Arc<Replication>,
    change: impl FnOnce(&blobs::Store) -> Result<blobs::Standing, blobs::StoreError> + Send + 'static,
) -> Result<(), StorageError> {
    let store = Arc::clone(&this.store);
    let changed = tokio::task::spawn_blocking(move || change(&store)).await;
    changed.map_err(|_| StorageError::Bug("changing the part of a server panicked"))??;
    this.signal();
    Ok(())
}

/// A primary that was opened asks whether the other server has become the primary meanwhile.
pub(super) async fn confirm_by_peer(this: &Arc<Replication>) -> Result<(), StorageError> {
    let standing = this.store.standing();
    if this.peer().is_some_and(|peer| !peer.is_known) {
        // It has never asked for anything: there is no other server yet that could have been promoted.
        note(this, None);
        return change(this, blobs::Store::confirm).await;
    }
    match ask(this).await {
        Err(error) => {
            note(this, Some(with_hint(&error)));
            Ok(())
        }
        Ok(state) if state.epoch > standing.epoch => {
            note(this, None);
            tracing::warn!(epoch = state.epoch, "the other server has become the primary");
            change(this, move |store| store.fence(state.epoch)).await
        }
        Ok(state) if state.epoch == standing.epoch && state.role == Role::Primary => {
            let reason =
                "both servers are primaries of the same epoch: end the pair at one of them";
            note(this, Some(reason.to_owned()));
            Ok(())
        }
        Ok(_) => {
            note(this, None);
            change(this, blobs::Store::confirm).await
        }
    }
}

/// A primary: it tells an old primary that it is one no more, until that has acknowledged it; it says when its
/// certificate has changed; and it asks a secondary that does not ask any more whether it still is one.
async fn lead(this: &Arc<Replication>) {
    loop {
        this.tidy();
        let standing = this.store.standing();
        if standing.role != Role::Primary {
            return;
        }
        let must_fence =
            this.peer().filter(|peer| standing.epoch > 1 && peer.fenced < standing.epoch);
        let announced = lock(&this.now).announced.clone();
        if must_fence.is_some() {
            let told = match this.link() {
                Ok(link) => link.fence(standing.epoch).await.inspect_err(|error| this.miss(error)),
                Err(error) => Err(error),
            };
            if told.is_ok() {
                this.hear();
            }
            match told {
                Ok(state) if state.epoch <= standing.epoch && !state.role.decides() => {
                    tracing::info!("the old primary takes no changes any more");
                    note(this, None);
                    let kept = this.change_pair(|pair| {
                        if let Some(peer) = &mut pair.peer {
                            peer.fenced = standing.epoch;
                        }
                    });
                    if let Err(error) = kept {
                        tracing::error!(%error, "the end of the old primary cannot be noted");
                    }
                }
                Ok(state) if state.epoch > standing.epoch => step_back(this, state.epoch).await,
                Ok(_) => note(this, Some("the old primary still takes changes".to_owned())),
                Err(error) => {
                    let error = with_hint(&error);
                    note(this, Some(format!("the old primary is not fenced yet: {error}")));
                }
            }
        } else if this.peer().is_some_and(|peer| peer.is_known)
            && (announced != this.own_fingerprint() || this.is_silent())
        {
            match ask(this).await {
                Ok(state) if state.role == Role::Primary && state.epoch > standing.epoch => {
                    step_back(this, state.epoch).await;
                }
                Ok(_) => note(this, None),
                Err(error) if this.is_silent() => note(this, Some(with_hint(&error))),
                Err(_) => {}
            }
        } else {
            note(this, None);
        }
        tokio::time::sleep(if must_fence.is_some() { ASKS } else { LOOKS }).await;
    }
}

/// An error of the other server, and what to do if that one does not know this server.
pub(super) fn with_hint(error: &PeerError) -> String {
    match error {
        PeerError::Stranger(_) => format!(
            "{error}. `storage replication remove` ends the pair here, `storage replication update --peer-url` corrects \
             the URL"
        ),
        _ => error.to_string(),
    }
}

async fn step_back(this: &Arc<Replication>, epoch: u64) {
    if let Err(error) = change(this, move |store| store.fence(epoch)).await {
        tracing::error!(%error, "the part of this server cannot be changed");
    }
}

/// A fenced server becomes the secondary of the new primary if it has nothing that the primary lacks, or if its operator
/// gives that up.
pub(super) async fn return_to_pair(this: &Arc<Replication>) -> Result<(), StorageError> {
    let standing = this.store.standing();
    let state = match ask(this).await {
        Ok(state) => state,
        Err(error) => {
            note(this, Some(with_hint(&error)));
            return Ok(());
        }
    };
    if state.role != Role::Primary || state.epoch < standing.epoch {
        let reason = format!(
            "a failover was begun and not ended. Done: this server takes no changes any more. Left: the promotion of \
             the other server, which is {}. `storage account failover` there completes it; `storage replication remove` \
             here ends the pair instead",
            role(state.role)
        );
        note(this, Some(reason));
        return Ok(());
    }
    let mine = this.store.position();
    let fits = fits(this, &state, mine).await;
    let (fits, lost) = match fits {
        Ok(answer) => answer,
        Err(error) => {
            note(this, Some(error.to_string()));
            return Ok(());
        }
    };
    lock(&this.now).discard = lost;
    if !fits && !lock(&this.pair).discard {
        let records = match lost {
            Some(lost) => format!("{lost} records"),
            None => "records".to_owned(),
        };
        note(
            this,
            Some(format!(
                "this server may have {records} that the new primary lacks: see `storage replication rejoin --discard`"
            )),
        );
        return Ok(());
    }
    note(this, None);
    {
        let mut now = lock(&this.now);
        (now.discard, now.following) = (None, super::Following::Begins);
        now.synced.restart(if fits { mine } else { Position::default() });
    }
    tracing::info!(epoch = state.epoch, "this server becomes the secondary");
    change(this, move |store| store.follow(state.epoch)).await
}

/// Whether all that this server has is in the primary's history; if not, how many records are its own, where that is known.
async fn fits(
    this: &Replication,
    state: &State,
    mine: Position,
) -> Result<(bool, Option<u64>), PeerError> {
    if let Some(begin) = &state.begin {
        let place = |at: &Position| (at.next_record, at.stamp);
        if place(&mine) == place(&begin.position) {
            return Ok((true, None));
        }
        if mine.next_record >= begin.position.next_record {
            let lost = Replication::beyond(mine, begin.position).max(1);
            return Ok((false, Some(lost)));
        }
    }
    let wanted = Wanted {
        from: mine,
        epoch: state.epoch,
        durable: mine.next_record,
        synced: None,
        wait: Duration::ZERO,
    };
    match this.link()?.records(&wanted).await {
        Ok(_) => Ok((true, None)),
        Err(PeerError::Said { said: Said::TooFarBehind | Said::Ahead, .. }) => Ok((false, None)),
        Err(error) => Err(error),
    }
}
