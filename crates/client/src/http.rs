//! Requests: tokens, idempotency keys, tries, errors.

use std::{error::Error, fmt::Write as _, io, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{
    Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use serde::{Serialize, de::DeserializeOwned};
use strongroom_api::ErrorAnswer;
use strongroom_base::{Entropy, EntropyExt as _, lock};
use tokio::runtime::Runtime;
use url::Url;

use crate::{
    ClientError, Trust,
    trust::{Refused, tls},
};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the server may say nothing while it answers. Checks of machines take their time.
const SILENCE: Duration = Duration::from_mins(2);
/// The pauses before further tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];
/// A longer answer is not valid.
const MAX_ANSWER: usize = 64 << 20;

/// How a server is reached.
#[derive(Clone)]
pub struct Options {
    /// Its URL: `https://HOST:PORT`, or `http://` on the same machine.
    pub server: String,
    /// What says who asks; none before signing in.
    pub token: Option<String>,
    /// Whose certificate is believed.
    pub trust: Trust,
    /// Where idempotency keys come from.
    pub entropy: Arc<dyn Entropy>,
    /// If this is set, a request takes at most so long and is tried once, for those who would rather
    /// have no answer than a late one.
    pub hurry: Option<Duration>,
}

/// A client of a server.
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) runtime: Runtime,
    base: Url,
    token: Option<HeaderValue>,
    entropy: Arc<dyn Entropy>,
    refused: Refused,
    hurry: Option<Duration>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// The URL of a server, checked: a token is sent to it.
fn base_url(text: &str) -> Result<Url, ClientError> {
    let wrong = |reason| ClientError::Url {
        url: text.rsplit('@').next().unwrap_or_default().chars().take(200).collect(),
        reason,
    };
    let mut url = Url::parse(text).map_err(|_| wrong("write https://HOST:PORT"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a name and a password do not belong into it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it ends with the path"));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_here(&url) => {}
        "http" => {
            return Err(wrong(
                "without TLS the token could be read on the way, so http:// is for this machine only",
            ));
        }
        _ => return Err(wrong("write https://HOST:PORT")),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

/// What is sent with a request.
pub(crate) struct Sent<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a [&'a str],
    pub(crate) query: &'a [(&'a str, String)],
    pub(crate) body: Option<Vec<u8>>,
}

impl Client {
    /// A client; nothing is sent yet.
    pub fn new(options: Options) -> Result<Self, ClientError> {
        let base = base_url(&options.server)?;
        let refused = Refused::default();
        let settings = |error: &dyn Error| ClientError::Settings(format!("the client: {error}"));
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            // A token must not follow a redirection to somebody else.
            .redirect(redirect::Policy::none())
            .connect_timeout(options.hurry.unwrap_or(CONNECT))
            .read_timeout(options.hurry.unwrap_or(SILENCE))
            .tls_backend_preconfigured(tls(&options.trust, refused.clone())?);
        if is_here(&base) {
            http = http.no_proxy();
        }
        let token = options.token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|_| ClientError::Token)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            http: http.build().map_err(|error| settings(&error))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| settings(&error))?,
            base,
            token: token.transpose()?,
            entropy: options.entropy,
            refused,
            hurry: options.hurry,
        })
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, ClientError> {
        self.answer(&Sent { method: Method::GET, path, query, body: None })
    }

    /// Sends something new. It has an idempotency key, so it happens once even if it is sent twice.
    pub(crate) fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &B,
    ) -> Result<T, ClientError> {
        let body = Some(json(body)?);
        self.answer(&Sent { method: Method::POST, path, query: &[], body })
    }

    /// Asks for something to be done that needs no words.
    pub(crate) fn post_empty<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ClientError> {
        self.answer(&Sent { method: Method::POST, path, query: &[], body: None })
    }

    pub(crate) fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &B,
    ) -> Result<T, ClientError> {
        let body = Some(json(body)?);
        self.answer(&Sent { method: Method::PATCH, path, query: &[], body })
    }

    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ClientError> {
        self.answer(&Sent { method: Method::DELETE, path, query: &[], body: None })
    }

    fn answer<T: DeserializeOwned>(&self, sent: &Sent<'_>) -> Result<T, ClientError> {
        let bytes = self.bytes(sent)?;
        // An answer without words stands for `null`.
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|error| self.senseless(format!("{error}")))
    }

    pub(crate) fn bytes(&self, sent: &Sent<'_>) -> Result<Vec<u8>, ClientError> {
        self.runtime.block_on(async {
            let response = self.send(sent).await?;
            self.body(response).await
        })
    }

    /// Sends, again if that does no harm and helps, until there is an answer that is no error.
    pub(crate) async fn send(&self, sent: &Sent<'_>) -> Result<Response, ClientError> {
        let key = (sent.method == Method::POST).then(|| self.idempotency_key());
        let repeatable = self.hurry.is_none() && (sent.method == Method::GET || key.is_some());
        let mut pauses = PAUSES.iter();
        loop {
            let request = self.request(sent, key.as_deref())?;
            let failure = match self.http.execute(request).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let passing = matches!(
                        response.status(),
                        StatusCode::BAD_GATEWAY
                            | StatusCode::SERVICE_UNAVAILABLE
                            | StatusCode::GATEWAY_TIMEOUT
                    );
                    let failure = self.failed(response).await;
                    if !passing {
                        return Err(failure);
                    }
                    failure
                }
                Err(error) => match self.unreached(error) {
                    failure @ ClientError::Unavailable { .. } => failure,
                    failure => return Err(failure),
                },
            };
            match pauses.next() {
                Some(pause) if repeatable => {
                    tracing::info!("{failure}; trying again");
                    tokio::time::sleep(*pause).await;
                }
                _ => return Err(failure),
            }
        }
    }

    fn idempotency_key(&self) -> String {
        let bytes: [u8; 16] = self.entropy.array();
        bytes.iter().fold(String::new(), |mut key, byte| {
            write!(key, "{byte:02x}").ok();
            key
        })
    }

    fn request(&self, sent: &Sent<'_>, key: Option<&str>) -> Result<Request, ClientError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1");
            for segment in sent.path {
                // These would be taken for steps along the path, not for names.
                if matches!(*segment, "" | "." | "..") {
                    return Err(ClientError::Settings(format!("{segment:?} is not a name")));
                }
                segments.push(segment);
            }
        }
        if !sent.query.is_empty() {
            url.query_pairs_mut().extend_pairs(sent.query);
        }
        let mut request = Request::new(sent.method.clone(), url);
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        if let Some(key) = key.and_then(|key| HeaderValue::from_str(key).ok()) {
            headers.insert("idempotency-key", key);
        }
        if let Some(body) = &sent.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.clone().into());
        }
        if let Some(hurry) = self.hurry {
            *request.timeout_mut() = Some(hurry);
        }
        Ok(request)
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreached(error))? {
            if bytes.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(self.senseless("the answer does not end".to_owned()));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// What an answer says that is an error.
    async fn failed(&self, response: Response) -> ClientError {
        let status = response.status();
        let text = is_json(response.headers());
        let bytes = match self.body(response).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        match serde_json::from_slice::<ErrorAnswer>(&bytes) {
            Ok(answer) => ClientError::Answer(Box::new(answer.error)),
            Err(_)
                if status == StatusCode::BAD_GATEWAY || status == StatusCode::GATEWAY_TIMEOUT =>
            {
                // A proxy in front of the server says that there is none.
                let source = format!("a proxy answered {status}").into();
                ClientError::Unavailable { server: self.server().to_owned(), source }
            }
            Err(_) => {
                let what = if text { "JSON that is no error of the API" } else { "no JSON" };
                self.senseless(format!("status {status}, and {what}"))
            }
        }
    }

    /// What it means that a request had no answer.
    pub(crate) fn unreached(&self, error: reqwest::Error) -> ClientError {
        let server = self.server().to_owned();
        // The URL may have names in it that are nobody else's business, and is known anyway.
        let error = error.without_url();
        let distrust = tls_error(&error).map(ToString::to_string);
        match distrust {
            Some(reason) => {
                let refused = *lock(&self.refused);
                let reason = match refused {
                    Some(shown) => format!(
                        "its certificate has the SHA-256 fingerprint {shown} and was refused \
                         ({reason})"
                    ),
                    None => reason,
                };
                ClientError::Untrusted { server, reason }
            }
            None => ClientError::Unavailable { server, source: Box::new(error) },
        }
    }

    pub(crate) fn senseless(&self, reason: String) -> ClientError {
        ClientError::Protocol { server: self.server().to_owned(), reason }
    }
}

fn json<B: Serialize>(body: &B) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|error| ClientError::Settings(format!("a request: {error}")))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

/// The certificate's fault among the causes of an error.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return matches!(tls, rustls::Error::InvalidCertificate(_)).then_some(tls);
        }
        // An I/O error hides the error that it was made of from `source`.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => {
                let inner: &(dyn Error + 'static) = inner;
                Some(inner)
            }
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_only_where_they_are_safe() {
        for good in [
            "https://host",
            "https://host:8443/",
            "http://127.0.0.1:80",
            "http://[::1]:1",
            "http://localhost",
        ] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in
            ["host:80", "http://host", "ftp://host", "https://u:secret@host", "https://h?x", ""]
        {
            let error = base_url(bad).expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(base_url("https://h/below").expect("a URL").as_str(), "https://h/below/");
    }
}
