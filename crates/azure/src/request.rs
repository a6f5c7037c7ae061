//! A request of a client: read whole, before anything is done.

use crate::{
    Address, Body, Code, Credentials, Headers, Method, Operation, Query, Refusal, Resource,
    Suffixes, Version, operation::Parts,
};

/// The longest id that a client may give a request.
const MAX_CLIENT_REQUEST_ID: usize = 1024;

/// A request: what it addresses, what it asks for, and by what right.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The version that the client speaks, and that the answer repeats.
    pub version: Version,
    /// The account and what is addressed in it.
    pub address: Address,
    /// What is asked for.
    pub operation: Operation,
    /// What the client shows of its right.
    pub credentials: Credentials,
    pub(crate) headers: Headers,
    pub(crate) query: Query,
}

impl Request {
    /// Reads a request: its method, its target as it was sent, and its headers, `Host` among them.
    pub fn parse(
        method: &str,
        target: &str,
        headers: Headers,
        suffixes: &Suffixes,
    ) -> Result<Self, Refusal> {
        Self::read(None, method, target, headers, suffixes)
    }

    /// Reads a request in a batch, which has the version of the batch.
    pub(crate) fn parse_part(
        version: Version,
        method: &str,
        target: &str,
        headers: Headers,
        suffixes: &Suffixes,
    ) -> Result<Self, Refusal> {
        Self::read(Some(version), method, target, headers, suffixes)
    }

    fn read(
        of_batch: Option<Version>,
        method: &str,
        target: &str,
        headers: Headers,
        suffixes: &Suffixes,
    ) -> Result<Self, Refusal> {
        let method = Method::parse(method)?;
        let (address, query) = Address::parse(target, headers.get("host"), suffixes)?;
        let version = match of_batch {
            Some(version) => version,
            None => version(&headers, &query)?,
        };
        client_request_id(&headers)?;
        let parts = Parts {
            method,
            version,
            headers: &headers,
            query: &query,
            is_secondary: address.is_secondary,
        };
        let operation = Operation::parse(&parts, &address.resource)?;
        let credentials = Credentials::parse(&headers, &query)?;
        Ok(Self { method, version, address, operation, credentials, headers, query })
    }

    /// The body, if the operation takes one.
    pub fn body(&self) -> Option<&Body> {
        self.operation.body()
    }

    /// Whether the answer has no body: `HEAD`.
    pub fn is_head(&self) -> bool {
        self.method == Method::Head
    }

    /// Every header, for what is not part of the dialect.
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The resource that is addressed.
    pub const fn resource(&self) -> &Resource {
        &self.address.resource
    }
}

/// The version of a request: of its header, or of the parameter that stands for it, or of its SAS.
fn version(headers: &Headers, query: &Query) -> Result<Version, Refusal> {
    if let Some(value) = headers.get("x-ms-version") {
        return Version::from_header(value);
    }
    for name in ["api-version", "sv"] {
        if let Some(value) = query.get(name) {
            return Version::from_query(name, value);
        }
    }
    Ok(Version::OLDEST)
}

fn client_request_id(headers: &Headers) -> Result<Option<&str>, Refusal> {
    let id = headers.get("x-ms-client-request-id");
    if id.is_some_and(|id| id.len() > MAX_CLIENT_REQUEST_ID) {
        return Err(
            Refusal::new(Code::InvalidHeaderValue).with("HeaderName", "x-ms-client-request-id")
        );
    }
    Ok(id)
}

/// What every answer repeats of its request. It is there also for a request that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// The version.
    pub version: Version,
    /// The id that the client has given the request.
    pub client_request_id: Option<String>,
    /// Whether the answer has no body.
    pub is_head: bool,
}

impl Repeated {
    /// Reads what can be read.
    pub fn of(method: &str, headers: &Headers) -> Self {
        let version = headers.get("x-ms-version").and_then(|value| value.parse().ok());
        Self {
            version: version.unwrap_or(Version::OLDEST),
            client_request_id: client_request_id(headers).ok().flatten().map(str::to_owned),
            is_head: method == "HEAD",
        }
    }
}

impl From<&Request> for Repeated {
    fn from(request: &Request) -> Self {
        Self { version: request.version, ..Self::of(request.method.name(), &request.headers) }
    }
}
