//! The page `/metrics` of a real server: exactly what its documentation says, in the format of
//! `OpenMetrics`, without secrets.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use serde_json::json;
use strongroom_catalog::testing::{Postgres, Settings};
use strongroom_server::{MailConfig, MailTls, Metrics};
use strongroom_testing::{eventually, free_port};

use crate::{
    bed::Bed,
    sinks::{MailSink, lab_python},
};

/// What a plain HTTP server answers: its head and its body.
pub(crate) fn ask(port: u16, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("reads");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// The names, kinds and labels of a page, as the parser of the format's makers reads it.
fn parsed(page: &str) -> BTreeSet<(String, String, Vec<String>)> {
    let script = "\
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
found = []
for family in text_string_to_metric_families(sys.stdin.read()):
    labels = sorted({label for sample in family.samples for label in sample.labels} - {'le'})
    name = family.name + ('_total' if family.type == 'counter' else '')
    assert family.samples, name
    found.append([name, family.type, labels])
print(json.dumps(found))
";
    let mut python = Command::new(lab_python())
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    python.stdin.take().expect("piped").write_all(page.as_bytes()).expect("writes");
    let out = python.wait_with_output().expect("python ends");
    assert!(out.status.success(), "the page is not of the format:\n{page}");
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn value(page: &str, of: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(of) && !line.starts_with('#'))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn the_page_has_what_the_table_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let sink = MailSink::start(folder.path(), &[]);
    let port = free_port();
    let bed = Bed::with(|config| {
        config.metrics_listen = Some(SocketAddr::from(([127, 0, 0, 1], port)));
        config.alert_bundle_seconds = 0;
        config.storage_listen = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
        config.mail = vec![MailConfig {
            name: "ops".to_owned(),
            server: format!("127.0.0.1:{}", sink.port),
            tls: MailTls::None,
            from: "a@example.net".to_owned(),
            to: vec!["b@example.net".to_owned()],
            ..MailConfig::default()
        }];
    });
    bed.protected("web", 300);
    let begun = bed.post("/items/web/backup", &json!({})).good(202);
    assert_eq!(bed.ended(&begun)["state"], "completed");
    let measured = bed.post("/vaults/main/measure", &json!({})).good(202);
    bed.ended(&measured);
    let verified = bed.post("/vaults/main/verify", &json!({})).good(202);
    assert_eq!(bed.ended(&verified)["state"], "completed");
    // Of deleted items nobody asks how old their points are.
    let stalest = "strongroom_vault_stalest_item_timestamp_seconds";
    let (_, before) = eventually("the item's age", || {
        let answer = ask(port, "/metrics");
        answer.1.contains(stalest).then_some(answer)
    });
    let delete = json!({ "mode": "delete_data" });
    bed.post("/items/web/stop", &delete).good(200);
    sink.wait(1);
    bed.get("/nothing-here");
    let (head, page) = eventually("the mail's confirmation", || {
        let (head, page) = ask(port, "/metrics");
        page.contains("outcome=\"delivered\"").then_some((head, page))
    });
    assert!(head.contains("application/openmetrics-text"), "{head}");
    let mut shown = parsed(&page);
    shown.extend(parsed(&before).into_iter().filter(|metric| metric.0 == stalest));
    let table = Metrics::ALL.iter().map(|metric| {
        let mut labels: Vec<String> = metric.labels.iter().map(|&label| label.to_owned()).collect();
        labels.sort_unstable();
        (metric.name.to_owned(), metric.kind.to_owned(), labels)
    });
    assert_eq!(shown, table.collect());
    for (of, expected) in [
        ("strongroom_items{vault=\"main\",state=\"soft_deleted\"}", 1.0),
        ("strongroom_recovery_points{vault=\"main\",state=\"restorable\"}", 1.0),
        ("strongroom_jobs_ended_total{kind=\"backup\",outcome=\"completed\"}", 1.0),
        ("strongroom_job_duration_seconds_count{kind=\"backup\",outcome=\"completed\"}", 1.0),
        ("strongroom_backup_read_bytes_total", 300.0 * 1024.0),
        ("strongroom_alerts_firing{severity=\"critical\"}", 1.0),
        ("strongroom_catalog_up", 1.0),
        ("strongroom_storage_up", 1.0),
        ("strongroom_storage_role{role=\"primary\"}", 1.0),
        ("strongroom_storage_role{role=\"fenced\"}", 0.0),
        ("strongroom_storage_replication_state{state=\"catching_up\"}", 1.0),
        ("strongroom_storage_epoch", 3.0),
        ("strongroom_storage_lag_changes", 4.0),
        ("strongroom_storage_lag_bytes", 5.0),
        ("strongroom_storage_lag_seconds", 6.0),
        ("strongroom_alert_deliveries_total{channel=\"ops\",outcome=\"delivered\"}", 1.0),
        ("strongroom_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"}", 1.0),
    ] {
        assert_eq!(value(&page, of), Some(expected), "{of}\n{page}");
    }
    let route = "strongroom_http_requests_total{method=\"POST\",route=\"/v1/items/{item}/backup\"";
    assert!(page.contains(route), "{page}");
    let age = value(&page, "strongroom_scheduler_round_age_seconds");
    assert!(age.is_some_and(|age| age < 30.0), "{page}");
    assert!(value(&page, "strongroom_backup_stored_bytes_total") > Some(1000.0), "{page}");
    assert!(!page.contains("srt_") && !page.contains("example.net"), "{page}");
    // Only this is there.
    assert!(ask(port, "/v1/vaults").0.starts_with("HTTP/1.1 404"));
    assert_eq!(ask(port, "/healthz").1, "ok\n");
}

#[test]
fn readiness_says_what_is_missing_and_no_more() {
    let port = free_port();
    let database = Postgres::start(Settings::default()).expect("PostgreSQL");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let url = runtime.block_on(database.database()).expect("a database").to_string();
    let bed = Bed::with(|config| {
        config.metrics_listen = Some(SocketAddr::from(([127, 0, 0, 1], port)));
        config.catalog = Some(url);
    });
    let (head, body) = ask(port, "/readyz");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "{\"reasons\":[],\"status\":\"ready\"}");
    assert_eq!(bed.by("", axum::http::Method::GET, "/ready").status, 200);
    // A vault that cannot be reached is no reason.
    bed.post("/vaults", &json!({ "name": "main" })).good(201);
    std::fs::remove_dir_all(bed.path("data/vaults/main")).expect("removes");
    assert!(ask(port, "/readyz").0.starts_with("HTTP/1.1 200"));
    // A catalog that is not there is one.
    drop(database);
    let (head, body) = eventually("an answer", || {
        let (head, body) = ask(port, "/readyz");
        head.starts_with("HTTP/1.1 503").then_some((head, body))
    });
    assert_eq!(body, "{\"reasons\":[\"catalog\"],\"status\":\"not_ready\"}", "{head}");
    let answer = bed.by("", axum::http::Method::GET, "/ready");
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "server.not_ready".to_owned()));
    // The page is there still, and says so.
    let (_, page) = ask(port, "/metrics");
    assert_eq!(value(&page, "strongroom_catalog_up"), Some(0.0), "{page}");
}
