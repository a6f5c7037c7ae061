//! What handlers take from a request: names in the path, parameters, bodies, conditions.
//!
//! Whatever does not parse, and whatever nobody knows, is refused in the API's own words.

use std::{convert::Infallible, net::IpAddr};

use axum::{
    RequestExt as _,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{header, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};
use strongroom_base::{codes, message};
use strongroom_control::{PageRequest, rights::Caller};
use strongroom_http::{BodyError, Guest, read_body};
use utoipa::IntoParams;

use crate::{
    answer::{Done, Failure},
    state::App,
};

/// The largest body.
pub(crate) const BODY_LIMIT: usize = 1 << 20;

/// The names in a path.
pub(crate) struct Names<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Names<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Done<Self> {
        match axum::extract::Path::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(names)) => Ok(Self(names)),
            Err(refusal) => {
                let words: axum::extract::rejection::PathRejection = refusal;
                Err(Failure::from(message!(
                    REQUEST_INVALID,
                    "the path: {reason}",
                    reason = words.body_text()
                )))
            }
        }
    }
}

/// The parameters behind the question mark.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Done<Self> {
        let found = axum::extract::Query::try_from_uri(&parts.uri);
        match found {
            Ok(axum::extract::Query(params)) => Ok(Self(params)),
            Err(refusal) => {
                let words: axum::extract::rejection::QueryRejection = refusal;
                Err(Failure::from(message!(
                    REQUEST_INVALID,
                    "the parameters: {reason}",
                    reason = words.body_text()
                )))
            }
        }
    }
}

/// No parameters at all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

/// The part of a list that is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// Maximum number of entries on a page: 1 to 1000; 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next_page_token` of the page before.
    page_token: Option<String>,
}

impl PageParams {
    /// As the service takes it.
    pub(crate) fn page(self) -> Done<PageRequest> {
        page(self.limit, self.page_token)
    }
}

/// A number that the catalog can have: of those with a sign.
pub(crate) fn number(name: &str, number: Option<u64>) -> Done<Option<u64>> {
    match number {
        Some(number) if i64::try_from(number).is_err() => Err(Failure::from(message!(
            REQUEST_INVALID,
            "the parameters: {name} is larger than any number",
            name
        ))),
        number => Ok(number),
    }
}

/// The part of a list that is asked for.
pub(crate) fn page(limit: Option<u16>, token: Option<String>) -> Done<PageRequest> {
    let limit = match limit {
        None => None,
        Some(limit @ 1..=1000) => Some(usize::from(limit)),
        Some(limit) => {
            return Err(Failure::from(message!(
                REQUEST_INVALID,
                "the parameters: limit is {limit}, not 1 to 1000",
                limit
            )));
        }
    };
    Ok(PageRequest { limit, token })
}

/// A body of JSON.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> FromRequest<App> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &App) -> Done<Self> {
        let json = is_json(&request);
        let bytes = read(request).await?;
        if !json {
            let code = &codes::REQUEST_MEDIA_TYPE;
            return Err(Failure::new(code, code.meaning));
        }
        Ok(Self(parse(&bytes)?))
    }
}

/// A body of JSON that may be left out.
pub(crate) struct BodyOrNone<T>(pub(crate) T);

impl<T: DeserializeOwned + Default + 'static> FromRequest<App> for BodyOrNone<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Done<Self> {
        let typed = request.headers().contains_key(header::CONTENT_TYPE);
        let (parts, body) = request.into_parts();
        let bytes = read(Request::from_parts(parts.clone(), body)).await?;
        if bytes.is_empty() && !typed {
            return Ok(Self(T::default()));
        }
        let again = Request::from_parts(parts, bytes.into());
        Ok(Self(Body::from_request(again, app).await?.0))
    }
}

fn is_json(request: &Request) -> bool {
    let value = request.headers().get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Reads a body, if it is not too large.
pub(crate) async fn read(request: Request) -> Done<Bytes> {
    let body = request.with_limited_body().into_body();
    read_body(body, BODY_LIMIT).await.map_err(|error| match error {
        BodyError::TooLarge => {
            let code = &codes::REQUEST_TOO_LARGE;
            Failure::new(code, "the request's body is larger than 1 MiB")
        }
        BodyError::BrokeOff => Failure::invalid("the request's body broke off"),
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Done<T> {
    let wrong = |error: serde_json::Error| {
        Failure::from(message!(REQUEST_INVALID, "the body: {reason}", reason = error.to_string()))
    };
    // No database keeps this character.
    if bytes.windows(6).any(|part| part == b"\\u0000") {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(wrong)?;
        if has_nul(&value) {
            return Err(Failure::invalid("the body: a text has the character U+0000"));
        }
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

fn has_nul(value: &serde_json::Value) -> bool {
    use serde_json::Value as V;
    match value {
        V::String(text) => text.contains('\0'),
        V::Array(values) => values.iter().any(has_nul),
        V::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        V::Null | V::Bool(_) | V::Number(_) => false,
    }
}

/// The version that a change expects, if it says so.
pub(crate) struct IfMatch(pub(crate) Option<u64>);

impl FromRequestParts<App> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Done<Self> {
        let mut values = parts.headers.get_all(header::IF_MATCH).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default();
        if text == "*" && values.next().is_none() {
            return Ok(Self(None));
        }
        let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let version = number.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match (version.and_then(|text| text.parse().ok()), values.next()) {
            (Some(version), None) => Ok(Self(Some(version))),
            _ => Err(Failure::invalid("If-Match is not one ETag as the API gave it")),
        }
    }
}

/// The caller that the request's token belongs to.
pub(crate) struct Who(pub(crate) Caller);

impl FromRequestParts<App> for Who {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Done<Self> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller
            .map(Self)
            .ok_or_else(|| Failure::new(&codes::AUTH_REQUIRED, codes::AUTH_REQUIRED.meaning))
    }
}

/// The address that a request comes from, if it came over a connection: as the connection says, or
/// a proxy that is believed.
pub(crate) struct Origin(pub(crate) Option<IpAddr>);

impl FromRequestParts<App> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        let guest = parts.extensions.get::<Guest>();
        Ok(Self(guest.map(|guest| guest.origin(&parts.headers))))
    }
}

/// The secret that was sent.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl FromRequestParts<App> for Secret {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Done<Self> {
        bearer(&parts.headers)
    }
}

/// The token in a request's head.
pub(crate) fn bearer(headers: &header::HeaderMap) -> Done<Secret> {
    let none = || Failure::new(&codes::AUTH_REQUIRED, codes::AUTH_REQUIRED.meaning);
    let value = headers.get(header::AUTHORIZATION).ok_or_else(none)?;
    let text = value.to_str().map_err(|_| none())?;
    let (scheme, secret) = text.split_once(' ').ok_or_else(none)?;
    if !scheme.eq_ignore_ascii_case("bearer") || secret.trim().is_empty() {
        return Err(none());
    }
    Ok(Secret(secret.trim().to_owned()))
}
