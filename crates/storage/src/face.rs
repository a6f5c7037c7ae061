//! A request's way: read, authorized, carried out, answered.
//!
//! Every failure of one request is its own answer. A client that still sends a refused body is read to its end within
//! limits, because it does not look for an answer before.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, Request, Response, StatusCode, header},
};
use azure::{Answer, Caller, Code, Grant, Headers, Operation, Refusal, Repeated};
use jiff::Timestamp;
use strongroom_azure as azure;
use strongroom_blobs::{self as blobs, Redundancy};
use strongroom_http::Guest;

use crate::{
    bodies::Incoming,
    map::{self, Subject},
    replication,
    storage::{Failure, Storage},
};

/// What every answer calls the server.
const SERVER: &str = concat!("Strongroom-Blob/", env!("CARGO_PKG_VERSION"));

/// What a listener serves.
#[derive(Clone)]
struct Face {
    storage: Arc<Storage>,
    is_https: bool,
}

/// The router of storage accounts, for connections of HTTPS or of HTTP.
pub fn router(storage: Arc<Storage>, is_https: bool) -> Router {
    Router::new().fallback(serve).with_state(Face { storage, is_https })
}

/// An answer, with the content of a blob if it has any.
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) content: Option<Body>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, content: None }
    }
}

/// An authorized request, and everything that carrying it out needs.
pub(crate) struct Work<'a> {
    pub(crate) storage: &'a Arc<Storage>,
    pub(crate) request: &'a azure::Request,
    pub(crate) grant: Grant,
    pub(crate) account: Arc<blobs::Account>,
    pub(crate) caller: Caller,
    /// Host and port that the client has asked.
    pub(crate) authority: String,
}

impl Work<'_> {
    pub(crate) const fn now(&self) -> Timestamp {
        self.caller.moment
    }

    /// The URL of the account as this client reaches it, with a slash at its end.
    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.caller.is_https { "https" } else { "http" };
        let address = &self.request.address;
        let secondary = if address.is_secondary { "-secondary" } else { "" };
        if address.is_path_style {
            format!("{scheme}://{}/{}{secondary}/", self.authority, address.account)
        } else {
            format!("{scheme}://{}/", self.authority)
        }
    }

    pub(crate) fn container_name(&self, name: &azure::ContainerName) -> blobs::ContainerName {
        map::container_name(&self.request.address.account, name)
    }

    pub(crate) fn blob_name(&self, path: &azure::BlobPath) -> blobs::BlobName {
        map::blob_name(&self.request.address.account, path)
    }
}

async fn serve(
    State(face): State<Face>,
    guest: Option<Extension<Guest>>,
    request: Request<Body>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let known = guest.as_ref().map(|guest| &guest.0);
    let body = match replication::answer(&face.storage.replication, known, &head, body).await {
        Ok(answered) => return answered,
        Err(body) => body,
    };
    let waits = head
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let mut incoming = Incoming::new(body, waits);
    let id = face.storage.new_id();
    let moment = face.storage.now();
    let mut repeated = Repeated::of(head.method.as_str(), &Headers::default());
    let address = guest.as_ref().map(|guest| guest.origin(&head.headers));
    let caller = Caller { moment, address, is_https: face.is_https };
    let reply = match headers_of(&head) {
        Err(refusal) => Err(refusal),
        Ok(headers) => {
            repeated = Repeated::of(head.method.as_str(), &headers);
            carry(&face, &head, headers, caller, known, &mut repeated, &mut incoming).await
        }
    };
    match reply {
        Ok(Reply { answer, content }) => {
            respond(answer.repeat(&repeated, &id, moment), content, repeated.is_head)
        }
        Err(refusal) => {
            if refusal.code().status() >= 500 {
                tracing::warn!(request = %id, %refusal, "a request failed");
            }
            incoming.drain().await;
            respond(Answer::refused(&refusal, &repeated, &id, moment), None, repeated.is_head)
        }
    }
}

/// The headers of a request. In HTTP/2 the host is in the target.
fn headers_of(head: &axum::http::request::Parts) -> Result<Headers, Refusal> {
    let authority = head.uri.authority().map(axum::http::uri::Authority::as_str);
    let fields = head
        .headers
        .iter()
        .filter(|(name, _)| authority.is_none() || *name != header::HOST)
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    Headers::new(fields.chain(authority.map(|host| ("host", host.as_bytes()))))
}

async fn carry(
    face: &Face,
    head: &axum::http::request::Parts,
    headers: Headers,
    caller: Caller,
    guest: Option<&Guest>,
    repeated: &mut Repeated,
    incoming: &mut Incoming,
) -> Result<Reply, Refusal> {
    let storage = &face.storage;
    let authority = headers.get("host").unwrap_or_default().to_ascii_lowercase();
    let target = head.uri.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str);
    let request = azure::Request::parse(head.method.as_str(), target, headers, &storage.suffixes)?;
    *repeated = Repeated::from(&request);
    let (grant, account) = authorize(storage, &request, &caller).await?;
    if let Some(guest) = guest {
        guest.mark_known();
    }
    let work = Work { storage, request: &request, grant, account, caller, authority };
    match &request.operation {
        Operation::Account(operation) => work.account(operation, incoming).await,
        Operation::Container(name, operation) => work.container(name, operation, incoming).await,
        Operation::Blob(path, operation) => work.blob(path, operation, incoming).await,
    }
}

/// Proves the right of a request, with the account that it is about.
pub(crate) async fn authorize(
    storage: &Storage,
    request: &azure::Request,
    caller: &Caller,
) -> Result<(Grant, Arc<blobs::Account>), Refusal> {
    let address = &request.address;
    let account = storage.account(address.account.as_str()).await;
    let account = account.map_err(|failure| map::failure(&failure, Subject::Container))?;
    let policy = stored_policy(storage, request).await?;
    let grant = request.authorize(&map::keys(&account), policy.as_ref(), caller)?;
    if grant == Grant::Anonymous {
        return Err(Code::NoAuthenticationInformation.into());
    }
    let is_readable =
        account.redundancy == Redundancy::RaGrs && storage.secondary_stats().is_some();
    if address.is_secondary && !is_readable {
        return Err(Code::SecondaryReadDisabled.into());
    }
    replication::refuse(storage, request)?;
    Ok((grant, account))
}

/// The stored access policy that a request's signature refers to.
async fn stored_policy(
    storage: &Storage,
    request: &azure::Request,
) -> Result<Option<azure::StoredPolicy>, Refusal> {
    let Some(id) = request.policy_id() else { return Ok(None) };
    let container = match request.resource() {
        azure::Resource::Account => return Ok(None),
        azure::Resource::Container(container) => container,
        azure::Resource::Blob(path) => &path.container,
    };
    let name = map::container_name(&request.address.account, container);
    match storage.look(move |view| view.container(&name)).await {
        Ok(container) => {
            let policies = map::policies_shown(&container.policies);
            Ok(policies.into_iter().find(|policy| policy.id == id))
        }
        // Who cannot prove a right does not learn what exists.
        Err(Failure::Refused(blobs::Refusal::ContainerNotFound)) => Ok(None),
        Err(failure) => Err(map::failure(&failure, Subject::Container)),
    }
}

/// An answer for HTTP.
fn respond(answer: Answer, content: Option<Body>, is_head: bool) -> Response<Body> {
    let Answer { status, headers, body } = answer;
    let mut response = Response::new(Body::empty());
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    for (name, value) in headers {
        let field = HeaderName::from_bytes(name.as_bytes()).ok();
        // Control characters cannot come in, so that none can be lost here.
        if let Some((name, value)) = field.zip(HeaderValue::from_str(&value).ok()) {
            fields.append(name, value);
        }
    }
    fields.insert(header::SERVER, HeaderValue::from_static(SERVER));
    match content {
        Some(content) if !is_head => *response.body_mut() = content,
        Some(_) => {}
        None if is_head => {}
        None => {
            if !body.is_empty() || !(status == 204 || status == 304) {
                fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            }
            *response.body_mut() = Body::from(body);
        }
    }
    response
}
