//! Traces, as a real receiver of OTLP over HTTP gets them: request, job, task, and whoever asked.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, http::Method, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as Any,
    trace::v1::Span,
};
use prost::Message as _;
use serde_json::json;
use strongroom_server::ServerConfig;
use strongroom_testing::eventually;
use tokio::runtime::Runtime;

use crate::bed::Bed;

type Spans = Arc<Mutex<Vec<Span>>>;

/// What receives spans, and where it does.
fn receiver(runtime: &Runtime) -> (Spans, String) {
    let spans = Spans::default();
    let take = async |State(spans): State<Spans>, body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
        let found = request.resource_spans.into_iter().flat_map(|it| it.scope_spans);
        spans.lock().expect("locks").extend(found.flat_map(|it| it.spans));
    };
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("binds");
    let url = format!("http://{}/v1/traces", listener.local_addr().expect("an address"));
    runtime.spawn(async move { axum::serve(listener, router).await });
    (spans, url)
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|it| it.key == name)?.value.clone()?.value?;
    Some(match value {
        Any::StringValue(text) => text,
        Any::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_trace_goes_from_who_asks_to_the_tasks_of_the_job() {
    let runtime = Runtime::new().expect("a runtime");
    let (spans, url) = receiver(&runtime);
    // Of lines only errors: spans are sent whatever is logged.
    let config = ServerConfig {
        traces_url: Some(url),
        log_level: "error".to_owned(),
        ..ServerConfig::default()
    };
    let logging = strongroom_server::log(&config, false).expect("logs");
    let mut bed = Bed::new();
    bed.protected("web", 200);
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let header = format!("00-{trace}-{parent}-01");
    let body = json!({});
    let headers = [("traceparent", header.as_str())];
    let path = "/items/web/backup";
    let begun = bed.send(bed.request(&bed.token, Method::POST, path, &headers, Some(&body)));
    let begun = begun.good(202);
    bed.ended(&begun);
    bed.stop();
    drop(logging);
    let found = eventually("spans", || {
        let spans = spans.lock().expect("locks").clone();
        let of_trace = spans.into_iter().filter(|span| hex(&span.trace_id) == trace);
        let of_trace: Vec<Span> = of_trace.collect();
        of_trace.iter().any(|span| span.name == "job").then_some(of_trace)
    });
    let named = |name: &str| found.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let (requests, jobs, tasks) = (named("request"), named("job"), named("task"));
    assert_eq!((requests.len(), jobs.len()), (1, 1), "{found:?}");
    assert_eq!(hex(&requests[0].parent_span_id), parent);
    assert_eq!(attribute(requests[0], "http.route").as_deref(), Some("/v1/items/{item}/backup"));
    assert_eq!(attribute(requests[0], "http.response.status_code").as_deref(), Some("202"));
    assert_eq!(jobs[0].parent_span_id, requests[0].span_id);
    assert_eq!(attribute(jobs[0], "job").as_deref(), begun["job"].as_str());
    let mut parts: Vec<_> = tasks.iter().filter_map(|span| attribute(span, "task")).collect();
    parts.sort_unstable();
    assert_eq!(parts, ["snapshot", "transfer", "validate"]);
    assert!(tasks.iter().all(|task| task.parent_span_id == jobs[0].span_id), "{tasks:?}");
    // A request of nobody's trace begins its own.
    let all = spans.lock().expect("locks").clone();
    let own = all.iter().any(|span| span.name == "request" && span.parent_span_id.is_empty());
    assert!(own, "{all:?}");
    let text = format!("{all:?}");
    assert!(!text.contains("srt_"), "a token is in the spans");
}
