//! Alerts by webhook: each notice is a POST of JSON, signed so that it can be believed.
//!
//! ```text
//!  strongroom-delivery: ID                      the same when it is sent again
//!  strongroom-signature: t=SECONDS,v1=HEX       HMAC-SHA256 over "SECONDS.BODY"
//! ```
//!
//! The time of sending is signed too, so that what somebody has recorded is not believed later.

use std::{fs, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use reqwest::{Certificate, Client, redirect::Policy};
use serde::Serialize;
use strongroom_api::{Notice, Severity};
use strongroom_base::Clock;
use strongroom_control::notify::{Channel, Sending, Undelivered};

use super::{channels::WebhookConfig, mail::words};

/// How long an answer may take.
const TIME: Duration = Duration::from_secs(15);

/// The least length of a secret.
const SECRET: usize = 16;

/// A URL that gets alerts.
pub(super) struct Webhook {
    config: WebhookConfig,
    host: String,
    clock: Arc<dyn Clock>,
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a> {
    /// The server's name.
    server: &'a str,
    /// Its version.
    version: &'a str,
    #[serde(flatten)]
    notice: &'a Notice,
}

impl Webhook {
    /// Of what was set.
    pub(super) fn new(config: &WebhookConfig, host: &str, clock: Arc<dyn Clock>) -> Self {
        Self { config: config.clone(), host: host.to_owned(), clock }
    }

    fn secret(&self) -> Result<hmac::Key, Undelivered> {
        let Some(file) = &self.config.secret_file else {
            return Err(Undelivered::passing("there is no secret_file"));
        };
        let secret = fs::read(file).map_err(|error| {
            Undelivered::passing(format!("cannot read {}: {error}", file.display()))
        })?;
        let secret = secret.trim_ascii_end();
        if secret.len() < SECRET {
            let shown = file.display();
            return Err(Undelivered::passing(format!("{shown} has less than {SECRET} bytes")));
        }
        Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn client(&self) -> Result<Client, Undelivered> {
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .timeout(TIME)
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &self.config.ca_file {
            let wrong = |error: String| {
                Undelivered::passing(format!("{} is of no use: {error}", file.display()))
            };
            let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
            let roots = Certificate::from_pem_bundle(&pem).map_err(|e| wrong(words(&e)))?;
            builder = builder.tls_certs_only(roots);
        }
        builder.build().map_err(|error| Undelivered::passing(words(&error)))
    }

    async fn post(&self, notice: &Notice) -> Result<(), Undelivered> {
        let version = env!("CARGO_PKG_VERSION");
        let body = serde_json::to_string(&Body { server: &self.host, version, notice })
            .map_err(|error| Undelivered::refused(format!("no JSON can be made: {error}")))?;
        let signature = signature(&self.secret()?, self.clock.now().as_second(), &body);
        let sent = self
            .client()?
            .post(&self.config.url)
            .header("content-type", "application/json")
            .header("strongroom-delivery", notice.id.to_string())
            .header("strongroom-signature", signature)
            .body(body)
            .send()
            .await;
        // The URL may hold a secret.
        let status =
            sent.map_err(|error| Undelivered::passing(words(&error.without_url())))?.status();
        match status.as_u16() {
            200..=299 => Ok(()),
            400 | 410 | 413 | 415 | 422 => {
                Err(Undelivered::refused(format!("the receiver answered {status}")))
            }
            _ => Err(Undelivered::passing(format!("the receiver answered {status}"))),
        }
    }
}

/// The header that proves who sent a body, and when.
fn signature(secret: &hmac::Key, seconds: i64, body: &str) -> String {
    use std::fmt::Write as _;
    let tag = hmac::sign(secret, format!("{seconds}.{body}").as_bytes());
    let mut text = format!("t={seconds},v1=");
    for byte in tag.as_ref() {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

impl Channel for Webhook {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn kind(&self) -> &'static str {
        "webhook"
    }

    fn least(&self) -> Severity {
        self.config.severity
    }

    fn send<'a>(&'a self, notice: &'a Notice) -> Sending<'a> {
        Box::pin(self.post(notice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef` says.
    #[test]
    fn signatures_are_those_of_openssl() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let expected = "9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23";
        assert_eq!(
            signature(&key, 1_700_000_000, "{\"a\":1}"),
            format!("t=1700000000,v1={expected}")
        );
    }
}
