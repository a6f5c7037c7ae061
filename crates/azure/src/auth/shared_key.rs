//! `SharedKey` and `SharedKeyLite`: a request signed by an account's key.

use std::{cmp::Ordering, fmt};

use jiff::SignedDuration;

use super::{AccountKey, Caller, key::parse_signature};
use crate::{
    AccountName, Code, Headers, Method, Query, Refusal, Request, Version, headers::SIGNED,
    time::parse_http_date,
};

/// How far the date of a request may be from the service's moment.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(15);
/// The version since which the length of an empty body is signed as empty.
const EMPTY_LENGTH: Version = Version::new(2015, 2, 21);

/// The header `Authorization`.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey {
    account: String,
    signature: Vec<u8>,
    is_lite: bool,
}

/// Without the signature.
impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("account", &self.account).finish_non_exhaustive()
    }
}

impl SharedKey {
    pub(super) fn parse(value: &str) -> Result<Self, Refusal> {
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        let is_lite = match scheme.to_ascii_lowercase().as_str() {
            "sharedkey" => false,
            "sharedkeylite" => true,
            "bearer" => return Err(Code::TokenNotAccepted.into()),
            _ => return Err(Code::InvalidAuthenticationInfo.into()),
        };
        let bad = || Refusal::new(Code::InvalidAuthenticationInfo);
        let (account, signature) = rest.trim().split_once(':').ok_or_else(bad)?;
        Ok(Self {
            account: account.to_owned(),
            signature: parse_signature(signature).ok_or_else(bad)?,
            is_lite,
        })
    }

    pub(super) fn verify(
        &self,
        request: &Request,
        keys: &[AccountKey],
        caller: &Caller,
    ) -> Result<(), Refusal> {
        let account = request.address.account.as_str();
        let secondary = format!("{account}-secondary");
        if self.account != account && self.account != secondary {
            return Err(Refusal::authentication(
                "The account of the signature is not the account of the request.",
            ));
        }
        let date = request.headers.get("x-ms-date").or_else(|| request.headers.get("date"));
        let date = date.and_then(parse_http_date).ok_or_else(|| {
            Refusal::authentication(
                "The request has no date in x-ms-date or Date, or it is not a date.",
            )
        })?;
        if caller.moment.duration_since(date).abs() > MAX_SKEW {
            return Err(Refusal::authentication(
                "The date in the request is too far from the service's time.",
            ));
        }
        let texts = self.texts(request);
        let proved =
            texts.iter().any(|text| keys.iter().any(|key| key.verifies(text, &self.signature)));
        if proved {
            return Ok(());
        }
        let shown = texts.first().map(|text| text.escape_debug().to_string()).unwrap_or_default();
        Err(Refusal::authentication(format!(
            "The MAC signature found in the HTTP request is not the same as any computed signature. \
             Server used following string to sign: '{shown}'."
        )))
    }

    /// What clients sign, in all the ways in which they do: headers in the order of bytes or of a culture; the
    /// secondary by its own name or by the account's, before the path and in it.
    fn texts(&self, request: &Request) -> Vec<String> {
        let account = request.address.account.as_str();
        let secondary = format!("{account}-secondary");
        let path = request.address.path.as_str();
        let mut resources = vec![format!("/{account}{path}")];
        if request.address.is_secondary {
            resources.push(format!("/{secondary}{path}"));
            if request.address.is_path_style
                && let Some(rest) = path.strip_prefix(&format!("/{secondary}"))
            {
                resources.push(format!("/{account}/{account}{rest}"));
            }
            if !request.address.is_path_style {
                resources.push(format!("/{account}/{secondary}{path}"));
            }
        }
        let headers = canonical_headers(&request.headers, Ord::cmp);
        let by_culture = canonical_headers(&request.headers, culture_order);
        let head = if self.is_lite { lite_head } else { head };
        let head = head(request.method, &request.headers, request.version);
        let query = if self.is_lite {
            canonical_comp(&request.query)
        } else {
            canonical_query(&request.query)
        };
        let mut texts = Vec::new();
        for resource in resources {
            texts.push(format!("{head}{headers}{resource}{query}"));
            if by_culture != headers {
                texts.push(format!("{head}{by_culture}{resource}{query}"));
            }
        }
        texts
    }
}

/// The value of `Authorization` for a request that we send: its method, the path and the query of its URL as they are
/// sent, and its headers, with `x-ms-date` and `x-ms-version`.
pub fn sign_request(
    account: &AccountName,
    key: &AccountKey,
    method: Method,
    target: &str,
    headers: &Headers,
) -> Result<String, Refusal> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = canonical_query(&Query::parse(query)?);
    let version = headers.get("x-ms-version").map_or(Ok(Version::OURS), Version::from_header)?;
    let head = head(method, headers, version);
    let headers = canonical_headers(headers, Ord::cmp);
    let text = format!("{head}{headers}/{account}{path}{query}");
    Ok(format!("SharedKey {account}:{}", key.sign(&text)))
}

/// Method and standard headers of `SharedKey`, each with its line's end.
fn head(method: Method, headers: &Headers, version: Version) -> String {
    let mut text = format!("{}\n", method.name());
    for name in SIGNED {
        let value = match (name, headers.get(name).unwrap_or_default()) {
            ("date", _) if headers.get("x-ms-date").is_some() => "",
            ("content-length", "0") if version >= EMPTY_LENGTH => "",
            (_, value) => value,
        };
        text.push_str(value);
        text.push('\n');
    }
    text
}

/// Method and standard headers of `SharedKeyLite`.
fn lite_head(method: Method, headers: &Headers, _: Version) -> String {
    let value = |name| headers.get(name).unwrap_or_default();
    let date = if headers.get("x-ms-date").is_some() { "" } else { value("date") };
    format!("{}\n{}\n{}\n{date}\n", method.name(), value("content-md5"), value("content-type"))
}

/// The headers `x-ms-*` as lines, in this order of names.
fn canonical_headers(headers: &Headers, order: impl Fn(&str, &str) -> Ordering) -> String {
    let mut own: Vec<_> = headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    own.sort_by(|(a, _), (b, _)| order(a, b));
    own.iter().fold(String::new(), |mut text, (name, value)| {
        text.push_str(name);
        text.push(':');
        text.push_str(value);
        text.push('\n');
        text
    })
}

/// Every parameter as a line, sorted.
fn canonical_query(query: &Query) -> String {
    let mut pairs: Vec<_> = query.iter().collect();
    pairs.sort_unstable();
    pairs.iter().fold(String::new(), |text, (name, value)| format!("{text}\n{name}:{value}"))
}

/// The one parameter of `SharedKeyLite`.
fn canonical_comp(query: &Query) -> String {
    query.get("comp").map(|comp| format!("?comp={comp}")).unwrap_or_default()
}

/// The order of header names by the culture that .NET, and with it the service, has sorted by: punctuation before
/// digits before letters, and hyphens only count between names that are the same without them.
pub(super) fn culture_order(a: &str, b: &str) -> Ordering {
    let weights = |text: &str| -> Vec<(usize, char)> {
        let punctuation = "!#$%&*.^_`|~+";
        text.chars()
            .filter(|c| !matches!(c, '-' | '\''))
            .map(|c| (punctuation.find(c).unwrap_or(if c.is_ascii_digit() { 100 } else { 101 }), c))
            .collect()
    };
    let first_hyphen = || {
        let differing = a.bytes().zip(b.bytes()).find(|(x, y)| x != y);
        match differing {
            Some((b'-', _)) => Ordering::Greater,
            Some((_, b'-')) => Ordering::Less,
            _ => a.len().cmp(&b.len()),
        }
    };
    weights(a).cmp(&weights(b)).then_with(first_hyphen)
}
