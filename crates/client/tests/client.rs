//! The client against a server that says whatever a test wants.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails says so by panicking"
)]

mod fake;

use std::{sync::Arc, time::Duration};

use fake::{Answer, Fake, Seen};
use strongroom_api::{Item, ItemUpdate, Job, VaultUpdate};
use strongroom_base::{Cancel, Coded as _, SystemEntropy};
use strongroom_client::{Client, ClientError, Fingerprint, ItemQuery, OfVault, Options, Trust};

const ID: &str = "01JD3W6E0ZGQ6Q0PZ2R3V9M5TB";

fn options(server: &str) -> Options {
    Options {
        server: server.to_owned(),
        token: Some("srt_secret".to_owned()),
        trust: Trust::System,
        entropy: Arc::new(SystemEntropy),
        hurry: None,
    }
}

fn client(fake: &Fake) -> Client {
    Client::new(options(&fake.url)).expect("a client")
}

fn begun() -> Answer {
    Answer::json(202, &format!(r#"{{"job":"{ID}","link":"/v1/jobs/{ID}"}}"#))
}

fn job(state: &str) -> String {
    format!(
        r#"{{"id":"{ID}","kind":"backup","state":"{state}","trigger":"on_demand",
            "requested_by":"ann","subject":"web01","tasks":[],"attempt":1,
            "created":"2026-11-22T18:00:00Z"}}"#
    )
    .replace('\n', "")
}

#[test]
fn requests_say_who_asks_and_have_a_key_of_their_own() {
    let fake = Fake::serve(|_| begun());
    let client = client(&fake);
    client.begin("my vault/..", OfVault::Measure).expect("begun");
    client.begin("v", OfVault::SaveCatalog).expect("begun");
    let seen = fake.seen();
    assert_eq!(seen[0].line, "POST /v1/vaults/my%20vault%2F../measure HTTP/1.1");
    assert_eq!(seen[1].line, "POST /v1/vaults/v/save-catalog HTTP/1.1");
    assert_eq!(seen[0].header("authorization"), "Bearer srt_secret");
    let keys: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert!(keys.iter().all(|key| key.len() == 32) && keys[0] != keys[1], "{keys:?}");
}

#[test]
fn names_that_would_be_steps_are_not_sent() {
    let fake = Fake::serve(|_| begun());
    for name in ["", ".", ".."] {
        assert!(client(&fake).begin(name, OfVault::Measure).is_err(), "{name:?}");
    }
    assert!(fake.seen().is_empty());
}

#[test]
fn what_may_be_sent_twice_is_sent_again_with_the_same_key() {
    let fake = Fake::serve(|number| match number {
        0 => Answer::json(502, "no JSON"),
        1 => Answer::nothing(),
        _ => begun(),
    });
    client(&fake).begin("v", OfVault::Measure).expect("begun at last");
    let seen = fake.seen();
    let keys: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert!(keys.len() == 3 && keys[0] == keys[1] && keys[1] == keys[2], "{keys:?}");
}

#[test]
fn what_must_not_be_sent_twice_is_not() {
    let fake = Fake::serve(|_| Answer::nothing());
    let client = client(&fake);
    let change = VaultUpdate { name: Some("x".to_owned()), ..VaultUpdate::default() };
    let error = client.update_vault("v", &change).expect_err("no answer");
    assert_eq!(error.code().name, "server.unavailable");
    assert_eq!(fake.seen().len(), 1);
    client.delete_vault("v").expect_err("no answer");
    assert_eq!(fake.seen().len(), 2);
}

#[test]
fn errors_of_the_server_come_as_they_are() {
    let body = r#"{"error":{"code":"item.unknown","kind":"not_found","message":"no item x","hint":"h",
        "fault":"caller","retryable":false,"doc":"d","request_id":"r"}}"#;
    let fake = Fake::serve(move |_| Answer::json(404, body));
    let error = client(&fake).item("x").expect_err("unknown");
    assert_eq!((error.code().name, error.to_string()), ("item.unknown", "no item x".to_owned()));
    assert_eq!(error.answer().and_then(|body| body.request_id.as_deref()), Some("r"));
    assert_eq!(fake.seen().len(), 1, "an answer is not asked for again");

    let newer = body.replace("item.unknown", "item.from_the_future");
    let fake = Fake::serve(move |_| Answer::json(404, &newer));
    let error = client(&fake).item("x").expect_err("unknown");
    assert_eq!(error.code().kind.name(), "not_found");
}

#[test]
fn what_is_no_server_of_ours_is_said_to_be_none() {
    for answer in [
        Answer::json(200, "<html>hello</html>"),
        Answer::json(404, "<html>not found</html>"),
        Answer::json(200, "{}"),
        Answer::redirect("http://127.0.0.1:1/v1/items/x"),
    ] {
        let fake = Fake::serve(move |_| answer.clone());
        let error = client(&fake).item("x").expect_err("senseless");
        assert_eq!(error.code().name, "server.protocol", "{error}");
        assert_eq!(fake.seen().len(), 1);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = format!("http://{}", port.local_addr().expect("an address"));
    drop(port);
    let error = Client::new(options(&closed)).expect("a client").item("x").expect_err("closed");
    assert_eq!(error.code().name, "server.unavailable");
}

#[test]
fn lists_are_read_page_by_page_and_only_as_far_as_needed() {
    let fake = Fake::serve(|number| {
        let token =
            if number < 2 { format!(r#","next_page_token":"t{number}""#) } else { String::new() };
        let entries = if number == 1 { "" } else { "1,2" };
        Answer::json(200, &format!(r#"{{"items":[{}]{token}}}"#, items(entries)))
    });
    let found: Vec<Item> = client(&fake).items(ItemQuery::default()).all().expect("a list");
    assert_eq!(found.len(), 4);
    let lines: Vec<String> = fake.seen().into_iter().map(|seen: Seen| seen.line).collect();
    assert_eq!(lines[1], "GET /v1/items?limit=500&page_token=t0 HTTP/1.1");

    let fake = Fake::serve(|number| {
        Answer::json(
            200,
            &format!(r#"{{"items":[{}],"next_page_token":"{number}"}}"#, items("1,2")),
        )
    });
    let which = ItemQuery { name: Some("a&b".to_owned()), ..ItemQuery::default() };
    assert_eq!(client(&fake).items(which).up_to(Some(3)).expect("some").len(), 3);
    assert_eq!(fake.seen().len(), 2);
    assert!(fake.seen()[0].line.contains("name=a%26b"), "{}", fake.seen()[0].line);

    let fake = Fake::serve(|_| Answer::json(200, r#"{"items":[],"next_page_token":"same"}"#));
    let error = client(&fake).items(ItemQuery::default()).all().expect_err("endless");
    assert_eq!(error.code().name, "server.protocol");
}

fn items(which: &str) -> String {
    let item = format!(
        r#"{{"id":"{ID}","name":"a","vault":"{ID}","host":"{ID}","source":{{"kind":"disks",
            "disks":{{}}}},"state":"protected","created":"2026-11-22T18:00:00Z"}}"#
    );
    which
        .split(',')
        .filter(|one| !one.is_empty())
        .map(|_| item.clone())
        .collect::<Vec<_>>()
        .join(",")
}

#[test]
fn a_job_is_followed_by_its_events() {
    let fake = Fake::serve(|number| match number {
        0 => Answer::json(200, &job("queued")),
        _ => Answer::events(&format!(
            ": hello\n\nevent: job\ndata: {}\n\nevent: job\ndata: {}\n\n",
            job("in_progress"),
            job("completed")
        )),
    });
    let mut states = Vec::new();
    let seen = &mut |job: &Job| states.push(job.state.to_string());
    let ended = client(&fake).wait(ID, &Cancel::new(), seen).expect("ended");
    assert_eq!(ended.state.name(), "completed");
    assert_eq!(states, ["queued", "in_progress", "completed"]);
    assert!(fake.seen()[1].line.contains("/events"));
}

#[test]
fn a_job_is_asked_for_where_events_break_off() {
    let fake = Fake::serve(|number| match number {
        0 => Answer::json(200, &job("in_progress")),
        1 => Answer::events(&format!("data: {}\n\ndata: {{", job("in_progress"))),
        2 => Answer::json(
            503,
            r#"{"error":{"code":"server.stopping","kind":"unavailable",
            "message":"m","hint":"h","fault":"environment","retryable":true,"doc":"d"}}"#,
        ),
        _ => Answer::json(200, &job("failed")),
    });
    let ended = client(&fake).wait(ID, &Cancel::new(), &mut |_| ()).expect("ended");
    assert_eq!(ended.state.name(), "failed");
}

#[test]
fn waiting_stops_when_the_caller_wants() {
    let fake = Fake::serve(|number| match number {
        0 => Answer::json(200, &job("in_progress")),
        _ => Answer::events_that_stay(),
    });
    let cancel = Cancel::new();
    let later = cancel.clone();
    let thread = std::thread::spawn(move || {
        #[allow(clippy::disallowed_methods, reason = "a test")]
        std::thread::sleep(Duration::from_millis(300));
        later.cancel();
    });
    let error = client(&fake).wait(ID, &cancel, &mut |_| ()).expect_err("stopped");
    assert!(matches!(error, ClientError::Interrupted));
    thread.join().expect("ended");
}

#[test]
fn who_is_in_a_hurry_asks_once() {
    let fake = Fake::serve(|_| Answer::nothing());
    let hurry = Some(Duration::from_millis(500));
    let client = Client::new(Options { hurry, ..options(&fake.url) }).expect("a client");
    client.item("x").expect_err("no answer");
    assert_eq!(fake.seen().len(), 1);
    assert!(client.update_item("x", &ItemUpdate::default()).is_err());
}

#[test]
fn a_certificate_is_trusted_by_its_fingerprint_or_authority_and_not_else() {
    let (fake, fingerprint, pem) = Fake::serve_tls(|_| Answer::json(200, &job("completed")));
    let with = |trust| Client::new(Options { trust, ..options(&fake.url) }).expect("a client");
    let right: Fingerprint = fingerprint.parse().expect("a fingerprint");
    with(Trust::Fingerprint(right)).job(ID).expect("trusted");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).expect("written");
    with(Trust::CaFile(file)).job(ID).expect("trusted");

    let wrong: Fingerprint = "00".repeat(32).parse().expect("a fingerprint");
    for trust in [Trust::Fingerprint(wrong), Trust::System] {
        let error = with(trust).job(ID).expect_err("not trusted");
        assert_eq!(error.code().name, "server.untrusted", "{error}");
        assert!(error.to_string().contains(&fingerprint), "{error}");
    }
    let heard = fake.seen().len();
    assert_eq!(heard, 2, "no token is sent to who is not trusted");
}
