//! Requests that bear an idempotency key are carried out once, and answered the same again.
//!
//! A request is written down before it is carried out, that it was is written down with what it
//! changes ([`once`]), and its answer when it has succeeded; a request that was refused has changed
//! nothing and is forgotten. Answers with secrets are not kept: such a request, repeated, gets the answer
//! that it was done. So does a request that the server died before answering, unless it
//! began a job: that is answered as it would have been. Entries are of one caller: the same key of
//! somebody else is another. They are forgotten after a day ([`Control`] does so).

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strongroom_base::codes;
use strongroom_catalog::{Error, Filter, Query, Stored};
use strongroom_control::{Control, model::RequestDoc, once, rights::Caller};

use crate::answer::{Begun, Done, Failure, HasSecret};

/// The header with the key.
pub(crate) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer is one that was given before.
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request, if it has one.
pub(crate) fn key_of(headers: &HeaderMap) -> Done<Option<String>> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let good = |byte: u8| byte.is_ascii_graphic();
    if values.next().is_some() || key.is_empty() || key.len() > 200 || !key.bytes().all(good) {
        return Err(Failure::invalid("Idempotency-Key is not 1 to 200 visible ASCII characters"));
    }
    Ok(Some(key.to_owned()))
}

/// What makes two requests the same. Passwords do not count: even their hash is not kept.
fn fingerprint(parts: &Parts, body: &Bytes) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(parts.method.as_str().as_bytes());
    hasher.update(b" ");
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    hasher.update(target.as_bytes());
    hasher.update(b"\n");
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) => {
            if let Some(map) = value.as_object_mut() {
                map.remove("password");
                map.remove("current_password");
            }
            hasher.update(value.to_string().as_bytes())
        }
        Err(_) => hasher.update(body),
    };
    hasher.finalize().to_hex().to_string()
}

/// The answer to a request, as it is kept with it.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// The status.
    status: u16,
    /// The headers that count.
    headers: Vec<(String, String)>,
    /// The body; empty if it has a secret, which is not kept.
    body: String,
}

impl Answer {
    /// The answer to a request; none while it is worked on.
    fn of(doc: &RequestDoc) -> Option<Self> {
        serde_json::from_value(Value::Object(doc.answer.clone())).ok()
    }

    /// Keeps it with its request.
    fn keep(&self, doc: &mut RequestDoc) {
        if let Ok(Value::Object(answer)) = serde_json::to_value(self) {
            doc.answer = answer;
        }
    }
}

/// A request with a key that is being carried out.
pub(crate) struct Open {
    doc: RequestDoc,
}

/// What is known of a request with a key.
pub(crate) enum Known {
    /// It is new.
    New(Open),
    /// It was answered so.
    Answered(Response),
}

/// Writes a request down, unless it is there.
pub(crate) async fn begin(
    control: &Control,
    caller: &Caller,
    key: &str,
    parts: &Parts,
    body: &Bytes,
) -> Done<Known> {
    let user = caller.user.map(|user| user.to_string()).unwrap_or_default();
    let doc = RequestDoc {
        key: format!("{user}/{key}"),
        request: fingerprint(parts, body),
        carried_out: false,
        job: None,
        time: control.now(),
        answer: Map::new(),
    };
    let mut tx = control.catalog().write().await?;
    match tx.insert(&doc).await {
        Ok(_) => {
            tx.commit().await?;
            return Ok(Known::New(Open { doc }));
        }
        Err(Error::Exists { .. } | Error::Taken { .. }) => drop(tx),
        Err(error) => return Err(error.into()),
    }
    let Some(found) = control.catalog().get::<RequestDoc>(&doc.key).await? else {
        // It has just been refused and forgotten.
        let code = &codes::REQUEST_IN_PROGRESS;
        return Err(Failure::new(code, code.meaning));
    };
    answered(&found.doc, &doc.request).map(Known::Answered)
}

fn answered(doc: &RequestDoc, request: &str) -> Done<Response> {
    if doc.request != request {
        let code = &codes::REQUEST_KEY_REUSED;
        return Err(Failure::new(code, code.meaning));
    }
    let answer = Answer::of(doc);
    let status = answer.as_ref().and_then(|answer| StatusCode::from_u16(answer.status).ok());
    let (Some(kept), Some(status)) = (answer, status) else {
        let code = &codes::REQUEST_IN_PROGRESS;
        return Err(Failure::new(code, code.meaning));
    };
    if kept.body.is_empty() && status != StatusCode::NO_CONTENT {
        let code = &codes::REQUEST_ANSWERED;
        return Err(Failure::new(code, code.meaning));
    }
    let mut answer = (status, kept.body).into_response();
    answer.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in &kept.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer.headers_mut().insert(REPLAYED.clone(), HeaderValue::from_static("true"));
    Ok(answer)
}

impl Open {
    /// Carries the request out, and writes its answer down if it was.
    pub(crate) async fn carry_out(
        self,
        control: &Control,
        work: impl Future<Output = Response>,
    ) -> Response {
        let answer = once(self.doc.key.clone(), work).await;
        let (parts, body) = answer.into_parts();
        // It is ours, in memory, and short.
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
        if let Err(error) = self.write(control, &parts, &body).await {
            // It was done. If it is sent again, it is said to be in progress.
            tracing::error!(code = error.code().as_str(), "an answer cannot be written down");
        }
        Response::from_parts(parts, Body::from(body))
    }

    async fn write(
        self,
        control: &Control,
        parts: &axum::http::response::Parts,
        body: &Bytes,
    ) -> Done<()> {
        let mut tx = control.catalog().write().await?;
        let kept = tx.get::<RequestDoc>(&self.doc.key).await?;
        // It has the job that was begun. After a day it is forgotten.
        let Some(Stored { mut doc, version }) = kept else { return Ok(()) };
        if parts.status.is_success() {
            let headers = [header::CONTENT_TYPE, header::ETAG, header::LOCATION].into_iter();
            let headers = headers.filter_map(|name| {
                let value = parts.headers.get(&name)?.to_str().ok()?;
                Some((name.to_string(), value.to_owned()))
            });
            let has_secret = parts.extensions.get::<HasSecret>().is_some();
            let body = if has_secret { "".into() } else { String::from_utf8_lossy(body) };
            let answer = Answer {
                status: parts.status.as_u16(),
                headers: headers.collect(),
                body: body.into_owned(),
            };
            answer.keep(&mut doc);
            doc.carried_out = true;
            tx.update(&doc, version).await?;
        } else {
            tx.delete::<RequestDoc>(&doc.key, version).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Ends the requests that an earlier process did not: what was not carried out is forgotten.
pub(crate) async fn end_open(control: &Control) -> Done<()> {
    let mut token = None;
    loop {
        let query = Query::new(Filter::all()).limit(1000).after(token);
        let page = control.catalog().list::<RequestDoc>(&query).await?;
        let mut tx = control.catalog().write().await?;
        for open in page.items.into_iter().filter(|stored| Answer::of(&stored.doc).is_none()) {
            if open.doc.carried_out {
                tx.update(&unanswered(open.doc), open.version).await?;
            } else {
                tx.delete::<RequestDoc>(&open.doc.key, None).await?;
            }
        }
        tx.commit().await?;
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(()),
        }
    }
}

/// A request that was carried out and not answered: a job that it began is its answer, and all else
/// is answered like a secret that is not kept.
fn unanswered(mut doc: RequestDoc) -> RequestDoc {
    let answer = if let Some(job) = doc.job {
        let begun = Begun(job).body();
        Answer {
            status: StatusCode::ACCEPTED.as_u16(),
            headers: vec![
                (header::CONTENT_TYPE.to_string(), "application/json".to_owned()),
                (header::LOCATION.to_string(), begun.link.clone()),
            ],
            body: serde_json::to_string(&begun).unwrap_or_default(),
        }
    } else {
        Answer { status: StatusCode::OK.as_u16(), headers: Vec::new(), body: String::new() }
    };
    answer.keep(&mut doc);
    doc
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_at_work_is_said_to_be_and_not_begun_again() {
        let doc = RequestDoc {
            key: "user/key".to_owned(),
            request: "hash".to_owned(),
            carried_out: true,
            job: None,
            time: Timestamp::UNIX_EPOCH,
            answer: Map::new(),
        };
        let code = |doc, request| answered(&doc, request).expect_err("refused").code().to_string();
        assert_eq!(code(doc.clone(), "hash"), codes::REQUEST_IN_PROGRESS.name);
        assert_eq!(code(doc.clone(), "other"), codes::REQUEST_KEY_REUSED.name);
        assert_eq!(code(unanswered(doc), "hash"), codes::REQUEST_ANSWERED.name);
    }
}
