//! Requests to a blob service: signed, sent, tried again, and what an answer says.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use strongroom_azure::{
    Checksum, ChecksumKind, ConnectionString, Failure, Headers, Method, Refusal, Resource, Secret,
    crc64, md5,
};
use strongroom_base::{Cancel, Clock, Entropy, EntropyExt as _};
use tokio::runtime::Runtime;

use crate::{
    Refused, StorageClientError, Trust,
    trust::{certificates, distrust, is_here},
};

/// How long a pause lasts after the work was stopped.
const NAP: Duration = Duration::from_millis(200);
/// The longest answer that is XML.
const MAX_XML: usize = 64 << 20;
/// The longest answer that says why something failed.
const MAX_FAILURE: usize = 64 << 10;

/// How long the client waits, and how often it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How often a request is sent at most.
    pub tries: u32,
    /// The pause before the second try; each further one is twice as long, and at most ten seconds.
    pub pause: Duration,
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// How long the service may say nothing.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 6,
            pause: Duration::from_millis(500),
            connect: Duration::from_secs(10),
            silence: Duration::from_mins(2),
        }
    }
}

/// How a service is reached.
#[derive(Clone)]
pub struct Options {
    /// The account, with what grants access to it.
    pub connection: ConnectionString,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// How long the client waits, and how often it tries.
    pub patience: Patience,
    /// The time: requests are dated.
    pub clock: Arc<dyn Clock>,
    /// Chance: ids of leases and runs, pauses.
    pub entropy: Arc<dyn Entropy>,
    /// Ends requests that are under way, and pauses. What is asked for afterwards is sent once: a lease is released.
    pub cancel: Cancel,
}

impl Options {
    /// With the system's trust and the default patience.
    pub fn new(
        connection: ConnectionString,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            connection,
            trust: Trust::default(),
            patience: Patience::default(),
            clock,
            entropy,
            cancel: Cancel::new(),
        }
    }
}

/// A client of one account. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    runtime: Arc<Runtime>,
    pub(crate) connection: ConnectionString,
    patience: Patience,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    cancel: Cancel,
    is_azurite: Arc<AtomicBool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

/// A request before it is signed.
pub(crate) struct Sent<'a> {
    action: &'static str,
    method: Method,
    resource: &'a Resource,
    query: Vec<(&'static str, String)>,
    headers: Vec<(String, String)>,
    body: Bytes,
    has_checksum: bool,
    is_repeatable: bool,
    limit: usize,
}

impl<'a> Sent<'a> {
    /// A request that may be sent again without harm. `action` is a verb with its object, for messages.
    pub(crate) const fn new(action: &'static str, method: Method, resource: &'a Resource) -> Self {
        Self {
            action,
            method,
            resource,
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            has_checksum: false,
            is_repeatable: true,
            limit: MAX_XML,
        }
    }

    /// It is sent again only if it was certainly not carried out.
    #[must_use]
    pub(crate) const fn once(mut self) -> Self {
        self.is_repeatable = false;
        self
    }

    #[must_use]
    pub(crate) fn query(mut self, name: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    #[must_use]
    pub(crate) fn maybe_query(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, &value),
            None => self,
        }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    #[must_use]
    pub(crate) fn maybe(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.header(name, &value),
            None => self,
        }
    }

    #[must_use]
    pub(crate) fn headers(mut self, headers: impl IntoIterator<Item = (String, String)>) -> Self {
        self.headers.extend(headers);
        self
    }

    /// A body whose checksum the service checks.
    #[must_use]
    pub(crate) fn content(self, body: Bytes) -> Self {
        Self { body, has_checksum: true, ..self }
    }

    /// A body that is XML.
    #[must_use]
    pub(crate) fn xml(self, body: Vec<u8>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The longest answer.
    #[must_use]
    pub(crate) const fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
}

/// An answer that says yes.
pub(crate) struct Received {
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

impl Client {
    /// A client; nothing is sent yet.
    pub fn new(options: Options) -> Result<Self, StorageClientError> {
        let Options { connection, trust, patience, clock, entropy, cancel } = options;
        let failed = |error: &dyn Error| {
            StorageClientError::Settings(format!("the HTTP client cannot be made: {error}"))
        };
        let is_here = is_here(&connection.primary.authority);
        if matches!(connection.secret, Secret::Sas(_)) && !connection.primary.is_https && !is_here {
            return Err(StorageClientError::Settings(
                "without TLS a shared access signature could be read on the way: use https://"
                    .to_owned(),
            ));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            // A signature must not follow a redirection to somebody else.
            .redirect(redirect::Policy::none())
            .connect_timeout(patience.connect)
            .read_timeout(patience.silence);
        if is_here {
            http = http.no_proxy();
        }
        if let Trust::CaFile(file) = &trust {
            http = http.tls_certs_only(certificates(file)?);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("blob-client")
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            http: http.build().map_err(|error| failed(&error))?,
            runtime: Arc::new(runtime),
            connection,
            patience,
            clock,
            entropy,
            cancel,
            is_azurite: Arc::default(),
        })
    }

    /// The endpoint of the account.
    pub fn endpoint(&self) -> String {
        self.connection.primary.to_string()
    }

    /// The name of the account; of an endpoint that does not show it, the host.
    pub fn account(&self) -> &str {
        let account = self.connection.account.as_ref();
        account.map_or(self.connection.primary.authority.as_str(), |account| account.as_str())
    }

    /// Whether the last answer came from Azurite, whose lists of differences are not differences, and which knows no
    /// CRC-64.
    pub fn is_azurite(&self) -> bool {
        self.is_azurite.load(Ordering::Relaxed)
    }

    /// Sends a request, again if that helps and does no harm.
    pub(crate) fn send(&self, sent: &Sent<'_>) -> Result<Received, StorageClientError> {
        let mut tries = 1;
        loop {
            let failure = match self.runtime.block_on(self.attempt_or_cancel(sent)) {
                Ok(received) => return Ok(received),
                Err(failure) => failure,
            };
            let is_passing = match &failure {
                StorageClientError::Unavailable { .. } => true,
                StorageClientError::Refused(refused) => refused.failure.is_transient(),
                _ => false,
            };
            let is_harmless = sent.is_repeatable || !failure.may_be_done();
            let is_over = tries >= self.patience.tries || self.cancel.is_cancelled();
            if !is_passing || !is_harmless || is_over {
                return Err(failure);
            }
            tracing::info!("{failure}; trying again");
            self.sleep(self.pause(tries))?;
            tries += 1;
        }
    }

    /// Sleeps, unless the work is stopped.
    pub(crate) fn sleep(&self, pause: Duration) -> Result<(), StorageClientError> {
        let until = self.clock.monotonic().saturating_add(pause);
        loop {
            let left = until.saturating_sub(self.clock.monotonic());
            if self.cancel.is_cancelled() {
                return Err(StorageClientError::Interrupted);
            }
            if left.is_zero() {
                return Ok(());
            }
            self.clock.sleep(left.min(NAP));
        }
    }

    async fn attempt_or_cancel(&self, sent: &Sent<'_>) -> Result<Received, StorageClientError> {
        if self.cancel.is_cancelled() {
            return self.attempt(sent).await;
        }
        tokio::select! {
            result = self.attempt(sent) => result,
            () = self.cancel.cancelled() => Err(StorageClientError::Interrupted),
        }
    }

    /// The pause after this many tries, with chance in it so that clients do not come back together.
    fn pause(&self, tries: u32) -> Duration {
        let doubled = self.patience.pause.saturating_mul(1 << tries.saturating_sub(1).min(8));
        let [chance] = self.entropy.array();
        doubled.min(Duration::from_secs(10)).mul_f64(0.75 + f64::from(chance) / 512.0)
    }

    async fn attempt(&self, sent: &Sent<'_>) -> Result<Received, StorageClientError> {
        let request = self.request(sent)?;
        let mut response =
            self.http.execute(request).await.map_err(|error| self.unreached(sent, error))?;
        let status = response.status();
        let headers = self.headers(response.headers())?;
        let limit = if status.is_success() { sent.limit } else { MAX_FAILURE };
        let mut body = BytesMut::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.unreached(sent, error))?
        {
            if body.len().saturating_add(chunk.len()) > limit {
                return Err(self.senseless("the answer is longer than was asked for"));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Received { headers, body: body.freeze() });
        }
        Err(StorageClientError::Refused(Box::new(Refused {
            action: sent.action,
            resource: self.shown(sent.resource),
            failure: Failure::parse(status.as_u16(), &headers, &body),
            request_id: headers.get("x-ms-request-id").map(str::to_owned),
        })))
    }

    fn request(&self, sent: &Sent<'_>) -> Result<reqwest::Request, StorageClientError> {
        let mut headers = sent.headers.clone();
        if sent.method == Method::Put {
            headers.push(("content-length".to_owned(), sent.body.len().to_string()));
        }
        if sent.has_checksum {
            headers.push(self.checksum_header(&sent.body));
        }
        let query: Vec<(&str, &str)> =
            sent.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let prepared = self
            .connection
            .prepare(
                &self.connection.primary,
                sent.method,
                sent.resource,
                &query,
                headers,
                self.clock.now(),
            )
            .map_err(|refusal| refused_here(&refusal))?;
        let url = reqwest::Url::parse(&prepared.url)
            .map_err(|_| StorageClientError::Settings("the endpoint is not a URL".to_owned()))?;
        let method = match sent.method {
            Method::Get => reqwest::Method::GET,
            Method::Head => reqwest::Method::HEAD,
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
            Method::Post => reqwest::Method::POST,
            Method::Options => reqwest::Method::OPTIONS,
        };
        let mut request = reqwest::Request::new(method, url);
        for (name, value) in &prepared.headers {
            let pair =
                HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            let (header, mut value) = pair.ok_or_else(|| {
                StorageClientError::Settings(format!("a value cannot be sent in the header {name}"))
            })?;
            value.set_sensitive(name == "authorization" || name == "x-ms-copy-source");
            request.headers_mut().append(header, value);
        }
        if !sent.body.is_empty() {
            *request.body_mut() = Some(sent.body.clone().into());
        }
        Ok(request)
    }

    /// The kind of checksum that the service knows.
    pub(crate) fn checksum_kind(&self) -> ChecksumKind {
        if self.is_azurite() { ChecksumKind::Md5 } else { ChecksumKind::Crc64 }
    }

    /// The checksum of a request's body, as a header.
    fn checksum_header(&self, body: &[u8]) -> (String, String) {
        let checksum = match self.checksum_kind() {
            ChecksumKind::Md5 => Checksum::Md5(md5(body)),
            ChecksumKind::Crc64 => Checksum::Crc64(crc64(body)),
        };
        let (name, value) = checksum.to_header();
        (name.to_owned(), value)
    }

    fn headers(&self, fields: &HeaderMap) -> Result<Headers, StorageClientError> {
        let pairs = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let headers = Headers::new(pairs).map_err(|refusal| self.bad_answer(&refusal))?;
        if let Some(server) = headers.get("server") {
            self.is_azurite.store(server.starts_with("Azurite"), Ordering::Relaxed);
        }
        Ok(headers)
    }

    /// A container or blob in messages.
    pub(crate) fn shown(&self, resource: &Resource) -> String {
        match resource {
            Resource::Account => self.endpoint(),
            Resource::Container(name) => name.to_string(),
            Resource::Blob(path) => path.to_string(),
        }
    }

    /// What it means that a request had no answer.
    fn unreached(&self, sent: &Sent<'_>, error: reqwest::Error) -> StorageClientError {
        let is_undone = error.is_connect() || error.is_builder();
        // Its URL may have a signature.
        let error = error.without_url();
        if let Some(reason) = distrust(&error) {
            return StorageClientError::Untrusted { endpoint: self.endpoint(), reason };
        }
        StorageClientError::Unavailable {
            action: sent.action,
            resource: self.shown(sent.resource),
            endpoint: self.endpoint(),
            is_undone,
            source: Box::new(error),
        }
    }

    pub(crate) fn senseless(&self, reason: impl Into<String>) -> StorageClientError {
        StorageClientError::Protocol { endpoint: self.endpoint(), reason: reason.into() }
    }

    /// What it means that an answer cannot be read.
    pub(crate) fn bad_answer(&self, refusal: &Refusal) -> StorageClientError {
        let details: Vec<_> = refusal.details().iter().map(|(_, value)| value.as_str()).collect();
        self.senseless(format!("{} {}", refusal.code(), details.join(" ")).trim_end())
    }
}

/// What it means that a request cannot be written.
fn refused_here(refusal: &Refusal) -> StorageClientError {
    StorageClientError::Settings(format!("the request cannot be made: {}", refusal.code()))
}

#[cfg(test)]
mod tests {
    use strongroom_base::{SystemClock, SystemEntropy};

    use super::*;
    use crate::Location;

    fn client(text: &str) -> Result<Client, StorageClientError> {
        let connection = Location::parse(text)?.connection;
        Client::new(Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy)))
    }

    #[test]
    fn a_signature_in_a_url_goes_over_tls_or_stays_here() {
        assert!(client("http://example.org/acct?sv=1&sig=x").is_err());
        assert!(client("https://example.org/acct?sv=1&sig=x").is_ok());
        assert!(client("http://127.0.0.1:1/acct?sv=1&sig=x").is_ok());
        assert!(client("http://acct.blob.localhost:1?sv=1&sig=x").is_ok());
    }

    #[test]
    fn pauses_grow_and_end() {
        let client = client("http://127.0.0.1:1/acct?sv=1&sig=x").expect("a client");
        assert!((375..=500 * 5 / 4).contains(&client.pause(1).as_millis()));
        assert!(client.pause(3) > client.pause(1));
        assert!(client.pause(60) <= Duration::from_secs(13));
    }

    #[test]
    fn a_request_that_waits_is_cancelled() {
        // It accepts connections, and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = silent.local_addr().expect("an address");
        let location = Location::parse(&format!("http://{address}/acct?sv=1&sig=x"));
        let connection = location.expect("a location").connection;
        let options = Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy));
        let cancel = options.cancel.clone();
        let client = Client::new(options).expect("a client");
        let stopping = strongroom_base::start_thread("stops", move || {
            SystemClock.sleep(Duration::from_millis(100));
            cancel.cancel();
        });
        let sent = Sent::new("list", Method::Get, &Resource::Account);
        let stopped = client.send(&sent).err().expect("is stopped");
        assert!(matches!(stopped, StorageClientError::Interrupted), "{stopped:?}");
        stopping.join().expect("ends");
        assert!(client.sleep(Duration::from_hours(1)).is_err());
    }

    #[test]
    fn nobody_there_is_said_without_the_signature() {
        let mut client = client("http://127.0.0.1:1/acct?sv=1&sig=hidden").expect("a client");
        client.patience.tries = 1;
        let sent = Sent::new("list", Method::Get, &Resource::Account);
        let error = client.send(&sent).err().expect("nobody is there");
        assert!(!error.may_be_done(), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("hidden"), "{error:?}");
    }
}
