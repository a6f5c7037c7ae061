//! Asking the other server.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use strongroom_blobs::Position;
use strongroom_client::Fingerprint;

use super::{
    Secret,
    pair::Peer,
    wire::{self, JoinAnswer, JoinQuestion, Reason, Said, State},
};
use crate::numbers::wide;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the other server may say nothing: longer than it waits for records.
const SILENCE: Duration = Duration::from_secs(8);
/// How long the other server may work on an answer to a resynchronization.
const WORK: Duration = Duration::from_mins(1);

/// The name of the part of a server that takes no changes any more.
const FENCED: &str = "fenced";

/// Why the other server gave no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// It cannot be reached, or broke off.
    #[error("the other server cannot be reached: {0}")]
    Unreachable(String),
    /// It does not know this server.
    #[error(
        "the other server does not know this one (status {0}): the pair was ended there, or the URL is that of another server"
    )]
    Stranger(u16),
    /// It has answered with a code.
    #[error("the other server refuses it ({}): {reason}", said.name())]
    Said { said: Said, reason: String },
    /// Its answer is not valid.
    #[error("the other server's answer is not valid: {0}")]
    Invalid(&'static str),
}

/// The records behind a position.
pub(crate) struct Shipped {
    /// Where it begins.
    pub(crate) from: Position,
    /// None if there is nothing new.
    pub(crate) batch: Option<Bytes>,
    /// Where the next batch begins.
    pub(crate) end: Position,
    /// About how many bytes of the journal were not sent yet.
    pub(crate) behind: Option<u64>,
    /// Whether the primary is fenced, if it says which part it plays.
    pub(crate) is_fenced: Option<bool>,
    /// The primary's clock, and where it stood then.
    pub(crate) clock: Timestamp,
    pub(crate) position: Position,
}

/// What a secondary asks for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) from: Position,
    pub(crate) epoch: u64,
    /// The records before this one are durable here.
    pub(crate) durable: u64,
    pub(crate) synced: Option<Timestamp>,
    pub(crate) wait: Duration,
}

/// The way to the other server.
#[derive(Clone)]
pub(crate) struct Link {
    client: reqwest::Client,
    url: String,
    secret: Secret,
    /// What this server says of itself.
    own_url: Option<String>,
    own_fingerprint: Option<String>,
}

impl Link {
    /// Nothing is sent yet.
    pub(crate) fn new(
        url: &str,
        fingerprint: Option<&str>,
        secret: &Secret,
        own_url: Option<String>,
        own_fingerprint: Option<String>,
    ) -> Result<Self, PeerError> {
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .user_agent(concat!("strongroom-replication/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("https:") {
            let only = fingerprint.and_then(|text| text.parse::<Fingerprint>().ok());
            let only = only.ok_or_else(|| {
                PeerError::Unreachable(
                    "the fingerprint of its certificate is not known yet".to_owned(),
                )
            })?;
            let tls = strongroom_client::pinned(only)
                .map_err(|error| PeerError::Unreachable(error.to_string()))?;
            client = client.tls_backend_preconfigured(tls);
        }
        let client = client.build().map_err(|error| unreachable_because(&error))?;
        let (url, secret) = (url.to_owned(), secret.clone());
        Ok(Self { client, url, secret, own_url, own_fingerprint })
    }

    /// The way to a server of a pair.
    pub(crate) fn to(
        peer: &Peer,
        own_url: Option<String>,
        own_fingerprint: Option<String>,
    ) -> Result<Self, PeerError> {
        Self::new(&peer.url, peer.fingerprint.as_deref(), &peer.secret, own_url, own_fingerprint)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
        silence: Duration,
    ) -> Result<Response, PeerError> {
        let url = format!("{}{}{path}", self.url, wire::PREFIX);
        let mut request =
            self.client.request(method, url).bearer_auth(self.secret.text()).body(body);
        let own = [(wire::URL, &self.own_url), (wire::FINGERPRINT, &self.own_fingerprint)];
        for (name, value) in own {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = tokio::time::timeout(silence, request.send()).await;
        let answer = answer.map_err(|_| silent())?.map_err(|error| unreachable_because(&error))?;
        let said = header(&answer, wire::CODE).and_then(Said::of);
        match said {
            Some(Said::Done) => Ok(answer),
            Some(said) => {
                let reason = body_of(answer, wide(wire::MAX_QUESTION), silence).await.ok();
                let reason = reason.and_then(|body| serde_json::from_slice::<Reason>(&body).ok());
                let reason =
                    reason.map_or_else(String::new, |it| it.reason.chars().take(300).collect());
                Err(PeerError::Said { said, reason })
            }
            None if answer.status().is_server_error() => {
                Err(PeerError::Unreachable(format!("status {}", answer.status().as_u16())))
            }
            None => Err(PeerError::Stranger(answer.status().as_u16())),
        }
    }

    async fn document<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, PeerError> {
        let answer = self.ask(method, path, &[], body, SILENCE).await?;
        let body = body_of(answer, wide(wire::MAX_QUESTION), SILENCE).await?;
        serde_json::from_slice(&body).map_err(|_| PeerError::Invalid("a document"))
    }

    /// How it stands.
    pub(crate) async fn state(&self) -> Result<State, PeerError> {
        self.document(Method::GET, "state", Bytes::new()).await
    }

    /// Fences it: it takes no changes from now on.
    pub(crate) async fn fence(&self, epoch: u64) -> Result<State, PeerError> {
        self.document(Method::POST, &format!("fence?epoch={epoch}"), Bytes::new()).await
    }

    /// Asks to become its secondary.
    pub(crate) async fn join(&self, question: &JoinQuestion) -> Result<JoinAnswer, PeerError> {
        let body = serde_json::to_vec(question).map_err(|_| PeerError::Invalid("a document"))?;
        self.document(Method::POST, "join", body.into()).await
    }

    /// Records, perhaps none after a wait.
    pub(crate) async fn records(&self, wanted: &Wanted) -> Result<Shipped, PeerError> {
        let Wanted { from, epoch, durable, synced, wait } = wanted;
        let path = format!(
            "records?at={}&epoch={epoch}&durable={durable}&wait={}",
            wire::position_text(*from),
            wait.as_millis()
        );
        let synced: Vec<_> = synced.map(|at| (wire::SYNCED, at.to_string())).into_iter().collect();
        let silence = SILENCE.saturating_add(*wait);
        let answer = self.ask(Method::GET, &path, &synced, Bytes::new(), silence).await?;
        let place = |name: &str| header(&answer, name).and_then(wire::position_of);
        let clock = header(&answer, wire::CLOCK).and_then(|text| text.parse().ok());
        let facts = (clock, place(wire::POSITION), place(wire::END));
        let (Some(clock), Some(position), Some(end)) = facts else {
            return Err(PeerError::Invalid("the headers of records"));
        };
        let behind = header(&answer, wire::BEHIND).and_then(|text| text.parse().ok());
        let is_fenced = header(&answer, wire::ROLE).map(|role| role == FENCED);
        let batch = body_of(answer, wire::MAX_ANSWER, SILENCE).await?;
        if end.next_record < from.next_record {
            return Err(PeerError::Invalid("the end of a batch"));
        }
        let batch = (end != *from).then_some(batch);
        Ok(Shipped { from: *from, batch, end, behind, is_fenced, clock, position })
    }

    /// Asks a question of a resynchronization; without a session one begins. The session is in the answer.
    pub(crate) async fn resync(
        &self,
        session: Option<&str>,
        question: Bytes,
    ) -> Result<(Bytes, Option<String>), PeerError> {
        self.converse("resync", session, question).await
    }

    /// Asks a question of a comparison; without a session one begins. The session is in the answer.
    pub(crate) async fn compare(
        &self,
        session: Option<&str>,
        question: Bytes,
    ) -> Result<(Bytes, Option<String>), PeerError> {
        self.converse("compare", session, question).await
    }

    async fn converse(
        &self,
        path: &str,
        session: Option<&str>,
        question: Bytes,
    ) -> Result<(Bytes, Option<String>), PeerError> {
        let path = match session {
            Some(session) => format!("{path}?session={session}"),
            None => path.to_owned(),
        };
        let answer = self.ask(Method::POST, &path, &[], question, WORK).await?;
        let session = header(&answer, wire::SESSION).map(str::to_owned);
        let is_id = |it: &String| {
            it.len() <= 64 && it.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let session = session.filter(is_id);
        Ok((body_of(answer, wire::MAX_ANSWER, SILENCE).await?, session))
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

fn silent() -> PeerError {
    PeerError::Unreachable("it does not answer in time".to_owned())
}

fn unreachable_because(error: &reqwest::Error) -> PeerError {
    // The innermost cause says most; the URL is known.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    PeerError::Unreachable(cause.to_string())
}

/// A body of at most this number of bytes.
async fn body_of(mut answer: Response, limit: u64, silence: Duration) -> Result<Bytes, PeerError> {
    if answer.content_length().is_some_and(|length| length > limit) {
        return Err(PeerError::Invalid("it is too long"));
    }
    let mut body = BytesMut::new();
    loop {
        let chunk = tokio::time::timeout(silence, answer.chunk()).await.map_err(|_| silent())?;
        match chunk.map_err(|error| unreachable_because(&error))? {
            None => return Ok(body.freeze()),
            Some(bytes) if wide(body.len()).saturating_add(wide(bytes.len())) > limit => {
                return Err(PeerError::Invalid("it is too long"));
            }
            Some(bytes) => body.extend_from_slice(&bytes),
        }
    }
}
