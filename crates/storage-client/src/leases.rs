//! Leases on blobs, and one that is held while work lasts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use strongroom_azure::{BlobPath, Code, LeaseAction, LeaseDuration, LeaseId, Method, Resource};
use strongroom_base::{EntropyExt as _, start_thread};

use crate::{Client, StorageClientError, http::Sent};

/// How long a lease lasts if nobody renews it.
const SECONDS: u8 = 60;
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(15);
/// How often it is asked for while another client has one.
const ASK_AGAIN: Duration = Duration::from_secs(3);

impl Client {
    /// Acts on the lease of a blob; the id that it has then, if it has one.
    pub fn lease(
        &self,
        path: &BlobPath,
        action: LeaseAction,
    ) -> Result<Option<LeaseId>, StorageClientError> {
        let resource = Resource::Blob(path.clone());
        let sent = |action: &'static str, name: &str| {
            Sent::new(action, Method::Put, &resource)
                .query("comp", "lease")
                .header("x-ms-lease-action", name)
        };
        let sent = match action {
            LeaseAction::Acquire { duration, proposed } => {
                let seconds = match duration {
                    LeaseDuration::Infinite => -1,
                    LeaseDuration::Seconds(seconds) => i16::from(seconds),
                };
                // With an id, a repeated request takes the lease that the first one took.
                let sent = sent("acquire a lease on", "acquire")
                    .header("x-ms-lease-duration", &seconds)
                    .maybe("x-ms-proposed-lease-id", proposed);
                if proposed.is_none() { sent.once() } else { sent }
            }
            LeaseAction::Renew(id) => {
                sent("renew the lease on", "renew").header("x-ms-lease-id", &id)
            }
            LeaseAction::Change { id, proposed } => sent("change the lease on", "change")
                .header("x-ms-lease-id", &id)
                .header("x-ms-proposed-lease-id", &proposed),
            LeaseAction::Release(id) => {
                sent("release the lease on", "release").header("x-ms-lease-id", &id).once()
            }
            LeaseAction::Break { period_seconds } => sent("break the lease on", "break")
                .maybe("x-ms-lease-break-period", period_seconds)
                .once(),
        };
        let received = self.send(&sent)?;
        Ok(received.headers.get("x-ms-lease-id").and_then(|id| id.parse().ok()))
    }

    /// Takes a lease on a blob and renews it until it is dropped. If another client has one, waits so long for its end:
    /// the lease of a client that was killed ends after a minute.
    pub fn hold(&self, path: &BlobPath, wait: Duration) -> Result<Held, StorageClientError> {
        let id = LeaseId::from_bytes(self.entropy.array());
        let duration = LeaseDuration::Seconds(SECONDS);
        let until = self.clock.monotonic().saturating_add(wait);
        loop {
            match self.lease(path, LeaseAction::Acquire { duration, proposed: Some(id) }) {
                Ok(_) => break,
                Err(error)
                    if error.service() == Some(Code::LeaseAlreadyPresent)
                        && self.clock.monotonic() < until =>
                {
                    self.clock.sleep(ASK_AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
        let (stop, stopped) = bounded::<()>(0);
        let lost = Arc::new(AtomicBool::new(false));
        let (client, of, is_lost) = (self.clone(), path.clone(), Arc::clone(&lost));
        let renewing = start_thread("renew-lease", move || {
            while stopped.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = client.lease(&of, LeaseAction::Renew(id)) {
                    tracing::warn!("{error}");
                    // Of other failures the next attempt tells whether the lease is still there.
                    if error.refused().is_some_and(|refused| !refused.failure.is_transient()) {
                        is_lost.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            }
        });
        Ok(Held {
            client: self.clone(),
            path: path.clone(),
            id,
            lost,
            stop: Some(stop),
            renewing: Some(renewing),
        })
    }
}

/// A lease that is renewed, and released when this is dropped.
#[derive(Debug)]
pub struct Held {
    client: Client,
    path: BlobPath,
    id: LeaseId,
    lost: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    renewing: Option<std::thread::JoinHandle<()>>,
}

impl Held {
    /// Its id, which every write must give.
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// Fails if the lease is known to be lost.
    pub fn check(&self) -> Result<(), StorageClientError> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(StorageClientError::LeaseLost { resource: self.path.to_string() });
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(renewing) = self.renewing.take() {
            renewing.join().ok();
        }
        if let Err(error) = self.client.lease(&self.path, LeaseAction::Release(self.id)) {
            // It ends by itself.
            tracing::debug!("{error}");
        }
    }
}
