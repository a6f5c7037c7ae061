//! Requests: who asks, what is wrong with them, how they are answered again.

use axum::http::Method;
use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use strongroom_catalog::{Catalog, Query};
use strongroom_control::model::{RequestDoc, SCHEMA};

use crate::bed::Bed;

#[test]
fn what_is_wrong_is_said_in_the_apis_words() {
    let bed = Bed::new();
    let health = bed.by("", Method::GET, "/health");
    assert_eq!(health.header("x-content-type-options"), "nosniff");
    assert_eq!(health.header("cache-control"), "no-store");
    health.good(200);
    bed.by("", Method::GET, "/ready").good(200);
    for (token, method, path, status, code) in [
        ("", Method::GET, "/vaults", 401, "auth.required"),
        ("srt_nonsense", Method::GET, "/vaults", 401, "auth.token"),
        ("x", Method::GET, "/nothing", 404, "request.not_found"),
        ("", Method::GET, "/jobs/events", 401, "auth.required"),
        ("", Method::PUT, "/vaults", 405, "request.method"),
        ("", Method::GET, "/health?x=1", 400, "request.invalid"),
    ] {
        let answer = bed.by(token, method, path);
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{path}");
    }
    assert_eq!(bed.by("", Method::PUT, "/vaults").header("allow"), "GET,HEAD,POST");
    assert_eq!(bed.by("", Method::GET, "/vaults").header("www-authenticate"), "Bearer");
    for (path, status, code) in [
        ("/vaults?limit=0", 400, "request.invalid"),
        ("/vaults?limit=1001", 400, "request.invalid"),
        ("/vaults?limit=x", 400, "request.invalid"),
        ("/vaults?limit=1&limit=2", 400, "request.invalid"),
        ("/vaults?colour=red", 400, "request.invalid"),
        ("/vaults?page_token=nonsense", 400, "request.page_token"),
        ("/vaults/%00", 400, "request.invalid"),
        ("/vaults/%ff", 400, "request.invalid"),
        ("/vaults/none", 404, "vault.unknown"),
        ("/jobs?state=dead", 400, "request.invalid"),
        ("/audit?before=1&page_token=1", 400, "request.invalid"),
        ("/audit/verify?seq=1", 400, "request.invalid"),
    ] {
        let answer = bed.get(path);
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{path}");
    }
}

#[test]
fn bodies_are_json_of_the_right_form_and_size() {
    let bed = Bed::new();
    let post = |kind: &str, body: Vec<u8>| {
        let mut request = bed.request(&bed.token, Method::POST, "/vaults", &[], None);
        if !kind.is_empty() {
            request.headers_mut().insert("content-type", kind.parse().expect("a value"));
        }
        *request.body_mut() = Full::new(Bytes::from(body));
        let answer = bed.send(request);
        (answer.status.as_u16(), answer.code())
    };
    let json = "application/json";
    let wrong = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(post("", b"{}".into()), wrong(415, "request.media_type"));
    assert_eq!(post("text/plain", b"{}".into()), wrong(415, "request.media_type"));
    assert_eq!(post(json, b"{".into()), wrong(400, "request.invalid"));
    assert_eq!(post(json, b"".into()), wrong(400, "request.invalid"));
    let unknown = br#"{"name": "x", "colour": "red"}"#;
    assert_eq!(post(json, unknown.into()), wrong(400, "request.invalid"));
    assert_eq!(post(json, br#"{"name": "a\u0000"}"#.into()), wrong(400, "request.invalid"));
    assert_eq!(post(json, vec![b' '; (1 << 20) + 1]), wrong(413, "request.too_large"));
    assert_eq!(post(json, "[".repeat(100_000).into()), wrong(400, "request.invalid"));
}

#[test]
fn changes_name_the_version_that_they_expect() {
    let bed = Bed::new();
    let made = bed.post("/vaults", &json!({ "name": "main" }));
    let tag = made.header("etag").to_owned();
    let place = made.header("location").to_owned();
    let vault = made.good(201);
    assert_eq!(place, format!("/v1/vaults/{}", vault["id"].as_str().expect("an id")));
    assert_eq!(bed.get("/vaults/main").header("etag"), tag);
    let patch = |tag: &str, body: &Value| {
        let headers = [("if-match", tag)];
        bed.send(bed.request(&bed.token, Method::PATCH, "/vaults/main", &headers, Some(body)))
    };
    let label = json!({ "tags": { "a": "b" } });
    let changed = patch(&tag, &label);
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(changed.good(200)["tags"]["a"], "b");
    let answer = patch(&tag, &label);
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (412, "request.changed"));
    patch("*", &label).good(200);
    assert_eq!(patch("W/\"1\"", &label).status, 400);
    assert_eq!(patch("\"1\", \"2\"", &label).status, 400);
}

#[test]
fn lists_come_in_pages() {
    let bed = Bed::new();
    for number in 0..5 {
        let user = json!({ "name": format!("user{number}"), "password": "0123456789ab" });
        bed.post("/users", &user).good(201);
    }
    let mut names = Vec::new();
    let mut path = "/users?limit=2".to_owned();
    loop {
        let page = bed.get(&path).good(200);
        let items = page["items"].as_array().expect("a list").clone();
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()));
        let Some(token) = page["next_page_token"].as_str() else { break };
        path = format!("/users?limit=2&page_token={token}");
    }
    assert_eq!(names, ["admin", "user0", "user1", "user2", "user3", "user4"]);
    // A token of one list is of no use in another.
    let token =
        bed.get("/users?limit=2").json()["next_page_token"].as_str().expect("one").to_owned();
    assert_eq!(bed.get(&format!("/vaults?page_token={token}")).code(), "request.page_token");
    let mut seen = Vec::new();
    let mut path = "/audit?limit=3".to_owned();
    loop {
        let page = bed.get(&path).good(200);
        let items = page["items"].as_array().expect("a list").clone();
        seen.extend(items.iter().map(|entry| entry["seq"].as_u64().expect("a number")));
        let Some(token) = page["next_page_token"].as_str() else { break };
        path = format!("/audit?limit=3&page_token={token}");
    }
    let count = u64::try_from(seen.len()).expect("few");
    let all: Vec<u64> = (1..=count).rev().collect();
    assert_eq!(seen, all);
    let export = bed.get("/audit/export");
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines = String::from_utf8(export.body.to_vec()).expect("text");
    let seqs = lines.lines().map(|line| {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        entry["seq"].as_u64().expect("a number")
    });
    assert_eq!(seqs.collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>());
    assert_eq!(bed.get("/audit/verify").good(200)["intact"], true);
}

#[test]
fn a_request_with_a_key_is_carried_out_once() {
    let mut bed = Bed::new();
    let post = |bed: &Bed, path: &str, key: &str, body: &Value| {
        let headers = [("idempotency-key", key)];
        bed.send(bed.request(&bed.token, Method::POST, path, &headers, Some(body)))
    };
    let vault = json!({ "name": "main", "tags": { "b": "1", "a": "2" } });
    let first = post(&bed, "/vaults", "one", &vault);
    assert_eq!(first.status, 201);
    let again = |bed: &Bed| {
        let again = post(bed, "/vaults", "one", &vault);
        assert_eq!(again.header("idempotency-replayed"), "true");
        for name in ["etag", "location", "content-type"] {
            assert_eq!(again.header(name), first.header(name));
        }
        assert_eq!((again.status, &again.body), (first.status, &first.body));
    };
    again(&bed);
    bed = bed.restart();
    again(&bed);
    let other = post(&bed, "/vaults", "one", &json!({ "name": "other" }));
    assert_eq!((other.status.as_u16(), other.code().as_str()), (409, "request.key_reused"));
    // What was refused has not happened, and may be sent again.
    let wrong = json!({ "name": "main" });
    assert_eq!(post(&bed, "/vaults", "two", &wrong).code(), "vault.name_taken");
    post(&bed, "/vaults", "two", &json!({ "name": "second" })).good(201);
    for key in ["", "a b", "ä"] {
        let mut request = bed.request(&bed.token, Method::POST, "/vaults", &[], Some(&vault));
        let value = axum::http::HeaderValue::from_bytes(key.as_bytes()).expect("a value");
        request.headers_mut().insert("idempotency-key", value);
        assert_eq!(bed.send(request).code(), "request.invalid", "{key}");
    }
    // A secret is answered once.
    let token = json!({ "name": "script" });
    assert!(post(&bed, "/tokens", "three", &token).good(201)["secret"].is_string());
    assert_eq!(post(&bed, "/tokens", "three", &token).code(), "request.answered");
    let tokens = bed.get("/tokens").good(200);
    let named = |it: &&Value| it["name"] == "script";
    assert_eq!(tokens["items"].as_array().expect("a list").iter().filter(named).count(), 1);
    // Many at once: one is carried out, and the others are told so.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let user = json!({ "name": "ann", "password": "0123456789ab" });
        let send = |_| {
            let (bed, user) = (&bed, user.clone());
            scope.spawn(move || post(bed, "/users", "four", &user).status.as_u16())
        };
        let threads: Vec<_> = (0..8).map(send).collect();
        threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
    });
    assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&201));
    // The catalog keeps neither the token nor anything of the password.
    bed.stop();
    let kept = std::fs::read(bed.path("data/catalog.sqlite")).expect("reads");
    let holds = |text: &str| kept.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("admin") && !holds("srt_") && !holds("0123456789ab"));
}

/// As a server leaves it that dies after a change and before its answer is written down.
#[test]
fn what_was_carried_out_and_not_answered_is_not_carried_out_again() {
    let mut bed = Bed::new();
    bed.protected("web", 100);
    let post = |bed: &Bed, path: &str, key: &str, body: &Value| {
        let headers = [("idempotency-key", key)];
        bed.send(bed.request(&bed.token, Method::POST, path, &headers, Some(body)))
    };
    let backup = post(&bed, "/items/web/backup", "job", &json!({}));
    bed.ended(&backup.json());
    post(&bed, "/tokens", "no-job", &json!({ "name": "script" })).good(201);
    bed.stop();
    bed.runtime.block_on(async {
        let url = format!("sqlite:{}", bed.path("data/catalog.sqlite")).parse().expect("a URL");
        let clock = std::sync::Arc::new(strongroom_base::SystemClock);
        let catalog = Catalog::open(&url, &SCHEMA, clock).await.expect("opens");
        let kept = catalog.list::<RequestDoc>(&Query::default()).await.expect("lists").items;
        assert_eq!(kept.len(), 2);
        let mut tx = catalog.write().await.expect("writes");
        for mut kept in kept {
            assert!(kept.doc.carried_out);
            kept.doc.answer.clear();
            tx.put(&kept.doc).await.expect("writes");
        }
        tx.commit().await.expect("commits");
        catalog.close().await;
    });
    bed = bed.restart();
    let again = post(&bed, "/items/web/backup", "job", &json!({}));
    assert_eq!(again.header("idempotency-replayed"), "true", "{again:?}");
    for name in ["location", "content-type"] {
        assert_eq!(again.header(name), backup.header(name));
    }
    assert_eq!((again.status, &again.body), (backup.status, &backup.body));
    let jobs = bed.get("/jobs?kind=backup").good(200);
    assert_eq!(jobs["items"].as_array().expect("a list").len(), 1);
    let token = post(&bed, "/tokens", "no-job", &json!({ "name": "script" }));
    assert_eq!(token.code(), "request.answered");
}

#[test]
fn signing_in_is_slowed_down() {
    let bed = Bed::new();
    let user = json!({ "name": "ann", "password": "a good password" });
    bed.post("/users", &user).good(201);
    let sign_in = |password: &str| {
        let body = json!({ "name": "ann", "password": password });
        bed.send(bed.request("", Method::POST, "/sign-in", &[], Some(&body)))
    };
    let token = sign_in("a good password").good(200)["secret"].as_str().expect("one").to_owned();
    assert_eq!(bed.by(&token, Method::GET, "/me").good(200)["user"]["name"], "ann");
    let mut answer = sign_in("wrong");
    for _ in 0..10 {
        if answer.status == 429 {
            break;
        }
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "auth.failed"));
        answer = sign_in("wrong");
    }
    assert_eq!(answer.code(), "auth.rate");
    assert!(answer.header("retry-after").parse::<u64>().expect("seconds") >= 1);
}

#[test]
fn one_stranger_behind_a_proxy_slows_no_other() {
    const PASSWORD: &str = "0123456789ab";
    let sign_in = |bed: &Bed, from: &str, password: &str| {
        let body = json!({ "name": "ann", "password": password });
        // What stands before the last entry is of whoever asks.
        let forwarded = format!("203.0.113.9, {from}");
        let headers = [("x-forwarded-for", forwarded.as_str()), ("forwarded", "for=203.0.113.8")];
        bed.send(bed.request("", Method::POST, "/sign-in", &headers, Some(&body)))
    };
    // How many wrong passwords are answered before one has to wait.
    let guess = |bed: &Bed, from: &dyn Fn(u8) -> String| {
        let limited = |n: &u8| sign_in(bed, &from(*n), "a wrong password").code() == "auth.rate";
        (0..16).find(limited)
    };
    let user = json!({ "name": "ann", "password": PASSWORD });
    let bed = Bed::with(|config| config.trusted_proxies = vec![[127, 0, 0, 1].into()]);
    bed.post("/users", &user).good(201);
    assert!(guess(&bed, &|_| "192.0.2.1".to_owned()) >= Some(5));
    sign_in(&bed, "192.0.2.2", PASSWORD).good(200);
    // Of who is not named nothing is believed.
    let bed = Bed::new();
    bed.post("/users", &user).good(201);
    assert!(guess(&bed, &|n| format!("192.0.2.{n}")).is_some(), "each counts as another");
    assert_eq!(sign_in(&bed, "192.0.2.99", PASSWORD).code(), "auth.rate");
}
