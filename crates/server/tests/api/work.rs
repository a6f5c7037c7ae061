//! The whole way: a vault, an item, a backup that is followed, a restore that is compared.

use std::{fs, time::Duration};

use axum::http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use strongroom_catalog::testing::Bed as CatalogBed;

use crate::bed::Bed;

/// Events of a stream until it ends, or until enough were read.
fn events(bed: &Bed, token: &str, path: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let answer = bed.open(bed.request(token, Method::GET, path, &[], None));
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let (mut text, mut found) = (String::new(), Vec::new());
    bed.runtime.block_on(async {
        loop {
            let frame = tokio::time::timeout(Duration::from_mins(1), body.frame()).await;
            let Some(Ok(frame)) = frame.expect("in time") else { return };
            let Ok(data) = frame.into_data() else { continue };
            text.push_str(std::str::from_utf8(&data).expect("text"));
            while let Some((event, rest)) = text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                if let Some(data) = data {
                    assert!(event.contains("event: job"), "{event}");
                    found.push(serde_json::from_str(data).expect("JSON"));
                }
                let read = text.len() - rest.len();
                text.drain(..read);
            }
            if enough(&found) {
                return;
            }
        }
    });
    found
}

fn whole_way(bed: &Bed) {
    let item = bed.protected("web", 3000);
    assert_eq!(item["state"], "initial_backup_pending");
    let begun = bed.post("/items/web/backup", &json!({}));
    assert_eq!(begun.header("location"), begun.json()["link"]);
    let begun = begun.good(202);
    let link = begun["link"].as_str().expect("a link").trim_start_matches("/v1").to_owned();
    let told = events(bed, &bed.token, &format!("{link}/events"), |_| false);
    let (first, last) = (told.first().expect("one"), told.last().expect("one"));
    assert_eq!(first["id"], begun["job"]);
    assert_eq!(last["state"], "completed", "{last}");
    assert_eq!(told.iter().filter(|job| !job["ended"].is_null()).count(), 1);
    // Followed after its end, it is told once.
    assert_eq!(events(bed, &bed.token, &format!("{link}/events"), |_| false).len(), 1);
    let point = bed.get("/items/web/recovery-points/latest").good(200);
    assert_eq!(point["state"], "restorable");
    assert_eq!(point["id"], last["recovery_point"]);
    let restore = json!({ "mode": "disks", "folder": bed.path("restored/web") });
    let begun = bed.post("/items/web/recovery-points/latest/restore", &restore).good(202);
    let ended = bed.ended(&begun);
    assert_eq!(ended["state"], "completed", "{ended}");
    let source = fs::read(bed.path("disks/web")).expect("reads");
    let restored = fs::read_dir(bed.path("restored/web")).expect("a folder").next();
    let restored = restored.expect("a disk").expect("a disk").path();
    assert!(fs::read(restored).expect("reads") == source);
    let usage = bed.ended(&bed.post("/vaults/main/measure", &json!({})).good(202));
    assert_eq!(usage["state"], "completed", "{usage}");
    assert_eq!(bed.get("/vaults/main/usage").good(200)["recovery_points"], 1);
    let status = bed.get("/status").good(200);
    assert_eq!(status["items"]["protected"], 1, "{status}");
}

#[test]
fn a_disk_is_backed_up_and_restored() {
    whole_way(&Bed::new());
}

#[test]
fn the_same_on_postgresql() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let catalog = runtime.block_on(CatalogBed::postgres()).expect("PostgreSQL");
    let url = catalog.url.to_string();
    whole_way(&Bed::with(|config| config.catalog = Some(url)));
}

#[test]
fn who_follows_all_jobs_sees_those_that_may_be_seen() {
    let bed = Bed::new();
    bed.protected("web", 100);
    bed.post("/users", &json!({ "name": "ann", "password": "0123456789ab" })).good(201);
    let own = bed.post("/vaults", &json!({ "name": "anns" })).good(201);
    let scope = json!({ "kind": "vault", "id": own["id"] });
    let right = json!({ "user": "ann", "role": "reader", "scope": scope });
    bed.post("/assignments", &right).good(201);
    let body = json!({ "name": "ann", "password": "0123456789ab" });
    let signed = bed.send(bed.request("", Method::POST, "/sign-in", &[], Some(&body))).good(200);
    let ann = signed["secret"].as_str().expect("a secret");
    let (seen, all) = std::thread::scope(|scope| {
        let done = |vault: Value| {
            move |told: &[Value]| {
                told.iter().any(|job| {
                    job["vault"] == vault
                        && job["kind"] == "measure_usage"
                        && !job["ended"].is_null()
                })
            }
        };
        let (hers, ours) = (done(own["id"].clone()), done(own["id"].clone()));
        let seen = scope.spawn(|| events(&bed, ann, "/jobs/events", hers));
        let all = scope.spawn(|| events(&bed, &bed.token, "/jobs/events", ours));
        std::thread::sleep(Duration::from_millis(500));
        bed.ended(&bed.post("/items/web/backup", &json!({})).good(202));
        bed.ended(&bed.post("/vaults/anns/measure", &json!({})).good(202));
        (seen.join().expect("ends"), all.join().expect("ends"))
    });
    assert!(seen.iter().all(|job| job["vault"] == own["id"]), "{seen:?}");
    assert!(all.iter().any(|job| job["kind"] == "backup"));
    // A stream ends when the server stops, and the server does not wait for who listens.
    let mut bed = bed;
    let open = bed.open(bed.request(&bed.token, Method::GET, "/jobs/events", &[], None));
    let start = std::time::Instant::now();
    bed.stop();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop(open);
}

#[test]
fn a_second_server_is_refused_the_folder() {
    let bed = Bed::new();
    assert!(bed.words.contains("first start") && bed.words.contains("--fingerprint"));
    let dir = bed.dir.clone();
    let second = std::panic::catch_unwind(|| Bed::start(dir, |_| {}));
    let words = second.err().expect("it does not start");
    let words = words.downcast_ref::<String>().expect("words").clone();
    assert!(words.contains("Running"), "{words}");
    let bed = bed.restart();
    assert!(!bed.words.contains("srt_"), "{}", bed.words);
    bed.get("/me").good(200);
    let host = bed.get("/hosts").good(200);
    assert_eq!(host["items"].as_array().expect("a list").len(), 1);
}
