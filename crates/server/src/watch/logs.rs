//! Logs: lines on standard error, each with the ids of the request or job that it is of.
//!
//! Ids are fields of spans; in JSON they are in `spans`, from the outermost in. Secrets are never
//! logged: neither bodies nor headers nor the parameters of a request are.

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use super::traces;
use crate::{
    config::{LogFormat, ServerConfig},
    error::ServerError,
};

/// What logs, until it is dropped: then what is not sent yet is sent.
#[must_use]
pub struct Logging(Option<SdkTracerProvider>);

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// Sends log lines to standard error, and spans to where the configuration says; for the whole
/// process, once.
pub fn log(config: &ServerConfig, with_colours: bool) -> Result<Logging, ServerError> {
    let wrong = |key: &str, reason: String| ServerError::Config { place: key.to_owned(), reason };
    let filter = EnvFilter::try_new(&config.log_level);
    let filter = filter.map_err(|error| wrong("log_level", error.to_string()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => lines.with_ansi(with_colours).with_filter(filter).boxed(),
    };
    let provider = traces::provider(config).map_err(|reason| wrong("traces_url", reason))?;
    let spans = provider.as_ref().map(traces::layer);
    let layered = Registry::default().with(lines).with(spans);
    layered.try_init().map_err(|error| ServerError::Bug(format!("logs are set twice: {error}")))?;
    Ok(Logging(provider))
}
