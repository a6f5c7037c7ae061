//! Answering the other server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts},
};
use blobs::{Position, ResyncSource, Role, ShipError, Store, StoreError};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use strongroom_base::lock;
use strongroom_blobs as blobs;
use strongroom_client::Fingerprint;
use strongroom_http::{Guest, read_body};

use super::{
    Replication,
    pair::{self, Peer},
    wire::{self, JoinAnswer, JoinQuestion, Reason, Said, State},
};
use crate::StorageError;

/// How long a resynchronization is kept without a question.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// A resynchronization of the other server. The moment that it is of is kept until this is dropped.
pub(super) struct Session {
    id: String,
    source: ResyncSource,
    /// When the last question came, by the monotonic clock.
    asked: Duration,
}

/// A refusal, with what the other server's log says of it.
type Refused = (Said, String);

/// Who asks.
enum Caller {
    /// The other server of the pair.
    Peer,
    /// A server with an invitation.
    Invited,
}

/// Answers a request below the prefix. None if it does not come from the other server: then it is a bad request like any
/// other.
pub(crate) async fn answer(
    replication: &Arc<Replication>,
    guest: Option<&Guest>,
    head: &Parts,
    body: Body,
) -> Result<Response<Body>, Body> {
    let Some(path) = head.uri.path().strip_prefix(wire::PREFIX) else { return Err(body) };
    let Some(caller) = replication.caller(&head.headers) else { return Err(body) };
    if let Some(guest) = guest {
        guest.mark_known();
    }
    let answered = match read_body(body, wire::MAX_QUESTION).await {
        Err(error) => Err((Said::Invalid, error.to_string())),
        Ok(body) => dispatch(replication, &caller, path, head, body).await,
    };
    Ok(answered.unwrap_or_else(|(said, reason)| {
        tracing::debug!(path, code = said.name(), reason, "the other server is refused");
        document(said, &Reason { reason })
    }))
}

async fn dispatch(
    replication: &Arc<Replication>,
    caller: &Caller,
    path: &str,
    head: &Parts,
    body: Bytes,
) -> Result<Response<Body>, Refused> {
    let query = head.uri.query().unwrap_or_default();
    let query = Query(query.split('&').filter_map(|pair| pair.split_once('=')).collect());
    let this = Arc::clone(replication);
    if matches!(caller, Caller::Peer) {
        replication.meet();
    }
    let synced = text(&head.headers, wire::SYNCED).and_then(|text| text.parse().ok());
    match (caller, &head.method, path) {
        (Caller::Invited, &Method::POST, "join") => blocking(move || this.join(&body)).await,
        (Caller::Peer, &Method::GET, "state") => {
            replication.learn(&head.headers);
            blocking(move || Ok(document(Said::Done, &this.state()))).await
        }
        (Caller::Peer, &Method::POST, "fence") => {
            replication.learn(&head.headers);
            let epoch = query.number("epoch")?;
            blocking(move || this.be_fenced(epoch)).await
        }
        (Caller::Peer, &Method::GET, "records") => {
            replication.learn(&head.headers);
            let asked = Asked {
                from: query.position("at")?,
                epoch: query.number("epoch")?,
                durable: query.number("durable")?,
                wait: Duration::from_millis(query.number("wait")?.min(wire::MAX_WAIT)),
                synced,
            };
            blocking(move || this.ship(&asked)).await
        }
        (Caller::Peer, &Method::POST, "resync") => {
            let session = query.0.get("session").map(|id| (*id).to_owned());
            blocking(move || this.resync(session, &body)).await
        }
        (Caller::Peer, &Method::POST, "compare") => {
            let session = query.0.get("session").map(|id| (*id).to_owned());
            blocking(move || this.compare(session, &body)).await
        }
        _ => Err((Said::Invalid, "there is no such request".to_owned())),
    }
}

/// A request for records.
struct Asked {
    from: Position,
    epoch: u64,
    durable: u64,
    wait: Duration,
    synced: Option<Timestamp>,
}

/// A query without escapes: it has numbers and ids.
struct Query<'a>(HashMap<&'a str, &'a str>);

impl Query<'_> {
    fn position(&self, name: &str) -> Result<Position, Refused> {
        let value = self.0.get(name).and_then(|text| wire::position_of(text));
        value.ok_or_else(|| (Said::Invalid, format!("{name} is not a position")))
    }

    fn number(&self, name: &str) -> Result<u64, Refused> {
        let value = self.0.get(name).and_then(|text| text.parse().ok());
        value.ok_or_else(|| (Said::Invalid, format!("{name} is not a number")))
    }
}

/// Works on a thread that may wait for the disk.
async fn blocking(
    work: impl FnOnce() -> Result<Response<Body>, Refused> + Send + 'static,
) -> Result<Response<Body>, Refused> {
    let failed = |error: tokio::task::JoinError| (Said::Failed, error.to_string());
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn failed(error: &impl std::error::Error) -> Refused {
    tracing::error!(%error, "the other server cannot be answered");
    (Said::Failed, error.to_string())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn with(said: Said, facts: &[(&'static str, String)], body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(said.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(wire::CODE, HeaderValue::from_static(said.name()));
    for (name, value) in facts {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(*name, value);
        }
    }
    response
}

fn document(said: Said, document: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(document).unwrap_or_default();
    with(said, &[(header::CONTENT_TYPE.as_str(), "application/json".to_owned())], body.into())
}

impl Replication {
    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let token = text(headers, header::AUTHORIZATION.as_str())?.strip_prefix("Bearer ")?;
        let pair = lock(&self.pair);
        if pair.peer.as_ref().is_some_and(|peer| peer.secret.is(token)) {
            return Some(Caller::Peer);
        }
        let invited = pair.invited.as_ref().filter(|invited| invited.secret.is(token))?;
        (self.clock.now() < invited.expires).then_some(Caller::Invited)
    }

    /// The other server says where it is and which certificate it shows; and it has the secret of the pair.
    fn learn(&self, headers: &HeaderMap) {
        let Some(known) = self.peer() else { return };
        let url = text(headers, wire::URL).and_then(|url| pair::check_url(url).ok());
        let url = url.unwrap_or_else(|| known.url.clone());
        let fingerprint = text(headers, wire::FINGERPRINT)
            .filter(|text| text.parse::<Fingerprint>().is_ok())
            .map(str::to_owned)
            .or_else(|| known.fingerprint.clone());
        if known.is_known && known.url == url && known.fingerprint == fingerprint {
            return;
        }
        tracing::info!(url, fingerprint, "the other server has said where it is");
        let kept = self.change_pair(|pair| {
            pair.invited = None;
            if let Some(peer) = &mut pair.peer {
                *peer = Peer { url, fingerprint, is_known: true, ..peer.clone() };
            }
        });
        match kept {
            Ok(()) => self.signal(),
            Err(error) => tracing::error!(%error, "what the other server says cannot be kept"),
        }
    }

    fn state(&self) -> State {
        let clock = self.clock.now();
        let standing = self.store.standing();
        State {
            store: self.store.id(),
            role: standing.role,
            epoch: standing.epoch,
            clock,
            position: self.store.position(),
            begin: lock(&self.pair).begin.filter(|begin| begin.epoch == standing.epoch),
        }
    }

    fn be_fenced(&self, epoch: u64) -> Result<Response<Body>, Refused> {
        if self.store.standing().role == Role::Alone {
            return Err((Said::WrongRole, "this server has no other one".to_owned()));
        }
        let before = self.store.standing();
        let standing = self.store.fence(epoch).map_err(|error| failed(&error))?;
        if standing != before {
            tracing::warn!(
                epoch,
                "the other server becomes the primary: this one takes no changes any more"
            );
            self.signal();
        }
        Ok(document(Said::Done, &self.state()))
    }

    fn ship(&self, asked: &Asked) -> Result<Response<Body>, Refused> {
        let standing = self.store.standing();
        match standing.role {
            Role::Primary if standing.epoch == asked.epoch => {}
            // The rest of what it answered before it was fenced.
            Role::Fenced if asked.epoch <= standing.epoch => {}
            Role::Primary | Role::Fenced => {
                return Err((Said::WrongEpoch, format!("the epoch here is {}", standing.epoch)));
            }
            role => {
                return Err((
                    Said::WrongRole,
                    format!("this server is {}", super::manage::role(role)),
                ));
            }
        }
        {
            let secondary = &mut lock(&self.now).secondary;
            secondary.asked = Some(self.clock.monotonic());
            (secondary.durable, secondary.synced) = (asked.durable, asked.synced);
        }
        // Who asks for records is not being resynchronized any more.
        *lock(&self.session) = None;
        if !asked.wait.is_zero() {
            self.store.wait_beyond(asked.from.next_record, asked.wait);
        }
        // What was answered before this moment lies before the position.
        let clock = self.clock.now();
        let position = self.store.position();
        let mut shipping = lock(&self.shipping);
        let refused = |error: ShipError| match error {
            ShipError::TooFarBehind => (Said::TooFarBehind, error.to_string()),
            ShipError::Ahead => (Said::Ahead, error.to_string()),
            ShipError::Store(error) => failed(&error),
        };
        let mut shipper = match shipping.take().filter(|it| it.position() == asked.from) {
            Some(shipper) => shipper,
            None => self.store.shipper(asked.from).map_err(refused)?,
        };
        shipper.release(asked.durable.min(asked.from.next_record));
        let batch = shipper.next(wire::BATCH).map_err(refused)?;
        let end = shipper.position();
        let behind = if position.next_record > end.next_record {
            self.store.bytes_from(end.next_record)
        } else {
            0
        };
        *shipping = Some(shipper);
        let facts = [
            (wire::CLOCK, clock.to_string()),
            (wire::POSITION, wire::position_text(position)),
            (wire::END, wire::position_text(end)),
            (wire::BEHIND, behind.to_string()),
            (wire::ROLE, standing.role.to_string()),
        ];
        Ok(with(Said::Done, &facts, batch))
    }

    fn resync(&self, session: Option<String>, question: &[u8]) -> Result<Response<Body>, Refused> {
        if !matches!(self.store.standing().role, Role::Primary | Role::Fenced) {
            return Err((Said::WrongRole, "this server is not the primary".to_owned()));
        }
        lock(&self.now).secondary.asked = Some(self.clock.monotonic());
        self.converse(&self.session, session, question, Store::resync_source)
    }

    /// The secondary compares itself with a moment, and follows meanwhile.
    fn compare(&self, session: Option<String>, question: &[u8]) -> Result<Response<Body>, Refused> {
        if !matches!(self.store.standing().role, Role::Primary | Role::Fenced) {
            return Err((Said::WrongRole, "this server is not the primary".to_owned()));
        }
        self.converse(&self.comparison, session, question, Store::comparison_source)
    }

    /// Answers a question about a moment, which is kept for the next one; without a session another moment begins.
    fn converse(
        &self,
        open: &Mutex<Option<Session>>,
        session: Option<String>,
        question: &[u8],
        begin: fn(&Store) -> Result<ResyncSource, StoreError>,
    ) -> Result<Response<Body>, Refused> {
        let mut open = lock(open);
        let now = self.clock.monotonic();
        let mut current = match (open.take(), session) {
            (_, None) => {
                let source = begin(&self.store).map_err(|error| failed(&error))?;
                let id = super::Secret::new(&*self.entropy).text().to_owned();
                Session { id, source, asked: now }
            }
            (Some(current), Some(id)) if current.id == id => Session { asked: now, ..current },
            (other, Some(_)) => {
                *open = other;
                return Err((Said::SessionGone, "the moment is not kept any more".to_owned()));
            }
        };
        let Some(answer) = current.source.answer(question) else {
            return Err((Said::SessionGone, "the question cannot be answered".to_owned()));
        };
        let facts = [(wire::SESSION, current.id.clone())];
        *open = Some(Session { asked: self.clock.monotonic(), ..current });
        Ok(with(Said::Done, &facts, answer))
    }

    /// Ends a resynchronization that nobody continues, and says whether there is one.
    pub(super) fn tidy(&self) -> bool {
        let mut open = lock(&self.session);
        let now = self.clock.monotonic();
        let is_forgotten = |it: &Session| now.saturating_sub(it.asked) > FORGOTTEN;
        let mut comparison = lock(&self.comparison);
        if comparison.as_ref().is_some_and(is_forgotten) {
            *comparison = None;
        }
        if open.as_ref().is_some_and(is_forgotten) {
            tracing::warn!("a resynchronization is ended: the other server does not continue it");
            *open = None;
        }
        open.is_some()
    }

    /// Another server joins by an invitation. It may ask again while it has not used the secret that it got.
    fn join(&self, body: &[u8]) -> Result<Response<Body>, Refused> {
        let invalid = |reason: &str| (Said::Invalid, reason.to_owned());
        let question: JoinQuestion =
            serde_json::from_slice(body).map_err(|_| invalid("the question cannot be read"))?;
        let url = pair::check_url(&question.url).map_err(invalid)?;
        if question.store != self.store.id() {
            return Err(invalid("the invitation is to another store"));
        }
        let known = self.peer();
        let is_again = known.as_ref().is_some_and(|peer| !peer.is_known && peer.url == url);
        if !matches!(self.role(), Role::Alone | Role::Primary) || known.is_some() && !is_again {
            return Err((Said::WrongRole, "this server has another one already".to_owned()));
        }
        let bad = |error: StorageError| failed(&error);
        let peer = if let Some(peer) = known {
            peer
        } else {
            let secret = super::Secret::new(&*self.entropy);
            let peer = Peer { url, fingerprint: None, secret, is_known: false, fenced: 0 };
            // If this server is killed now, the other one joins again and gets the same secret.
            self.change_pair(|pair| pair.peer = Some(peer.clone())).map_err(bad)?;
            peer
        };
        if self.role() == Role::Alone {
            self.store.pair(true).map_err(|error| failed(&error))?;
        }
        let accounts =
            super::manage::make_redundant(&self.store).map_err(|reason| (Said::Failed, reason))?;
        tracing::info!(url = peer.url, "another server has joined as the secondary");
        let epoch = self.store.standing().epoch;
        self.signal();
        Ok(document(Said::Done, &JoinAnswer { epoch, secret: peer.secret, accounts }))
    }
}
