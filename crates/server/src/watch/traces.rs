//! Traces: spans of requests, jobs and their tasks, sent as OTLP over HTTP.
//!
//! ```text
//!  traceparent of a request ─▶ request ─▶ job ─▶ task
//!                                 └─ written down with the job: it may run later, and elsewhere
//! ```
//!
//! Off unless an address is set. Nothing waits for it: spans that cannot be sent are dropped.

use std::time::Duration;

use axum::http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{Status, TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use crate::config::ServerConfig;

/// The header of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";

/// How long sending may take.
const TIME: Duration = Duration::from_secs(10);

/// Checks what was set.
pub(crate) fn check(url: Option<&str>, percent: u32) -> Result<(), String> {
    if percent > 100 {
        return Err("traces_percent is more than 100".to_owned());
    }
    let Some(url) = url else { return Ok(()) };
    let good = url.parse::<url::Url>().is_ok_and(|it| ["http", "https"].contains(&it.scheme()));
    if good { Ok(()) } else { Err("traces_url is not a URL with http or https".to_owned()) }
}

/// What sends spans; none if nobody wants them.
pub(super) fn provider(config: &ServerConfig) -> Result<Option<SdkTracerProvider>, String> {
    let Some(url) = &config.traces_url else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(TIME)
        .build()
        .map_err(|error| error.to_string())?;
    let share = f64::from(config.traces_percent) / 100.0;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
    let resource = Resource::builder()
        .with_service_name("strongroom")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build();
    Ok(Some(provider))
}

/// Hands our own spans on to what sends them; log lines are no business of it.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let ours = filter_fn(|meta| meta.is_span() && meta.target().starts_with("strongroom"));
    let tracer = provider.tracer("strongroom");
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(ours)
}

/// A request's headers, as the propagator reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}

/// One place in a trace, as text.
#[derive(Default)]
struct Parent(String);

impl Extractor for Parent {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(&self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

impl Injector for Parent {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = value;
        }
    }
}

/// Makes a request's span part of the client's trace, if it has one.
pub(crate) fn adopt_request(span: &Span, headers: &HeaderMap) {
    adopt_from(span, &Headers(headers));
}

/// Makes a span part of a trace that was written down.
pub(crate) fn adopt(span: &Span, parent: &str) {
    adopt_from(span, &Parent(parent.to_owned()));
}

fn adopt_from(span: &Span, parent: &dyn Extractor) {
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), parent);
    if context.span().span_context().is_valid() {
        // Without anybody who wants spans there is nothing to be part of.
        span.set_parent(context).ok();
    }
}

/// Where a span is in its trace, to be written down.
pub(crate) fn place_of(span: &Span) -> Option<String> {
    let mut parent = Parent::default();
    TraceContextPropagator::new().inject_context(&span.context(), &mut parent);
    Some(parent.0).filter(|text| !text.is_empty())
}

/// What a request was and how it was answered.
pub(crate) fn answered(span: &Span, method: &str, route: &str, status: u16) {
    span.set_attribute("otel.kind", "server");
    span.set_attribute("http.request.method", method.to_owned());
    span.set_attribute("http.route", route.to_owned());
    span.set_attribute("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
}
