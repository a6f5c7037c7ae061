//! Two servers on one PostgreSQL: one serves, the other stands by.

use std::sync::Arc;

use serde_json::{Value, json};
use strongroom_base::{Coded as _, codes};
use strongroom_catalog::testing::Bed as CatalogBed;

use strongroom_server::{dump_catalog, load_catalog};

use crate::bed::{Bed, config};

fn folder() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().expect("a folder"))
}

#[test]
fn a_second_server_stands_by_and_leaves_the_first_its_jobs() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let catalog = runtime.block_on(CatalogBed::postgres()).expect("PostgreSQL");
    let url = catalog.url.to_string();
    let mut first = Bed::with(|config| {
        config.catalog = Some(url.clone());
        config.limit_rate = Some("1M".to_owned());
    });
    first.protected("web", 6 << 10);
    let begun = first.post("/items/web/backup", &json!({})).good(202);
    let job = format!("/jobs/{}", begun["job"].as_str().expect("an id"));
    let at_work = |job: &Value| job["state"] == "in_progress";
    while !at_work(&first.get(&job).good(200)) {}

    let second = Bed::spawn(folder(), |config| config.catalog = Some(url.clone()));
    let words = second.hear();
    assert!(words.contains("stands by"), "{words}");
    let done = first.ended(&begun);
    assert_eq!((&done["state"], &done["attempt"]), (&json!("completed"), &json!(1)), "{done:#}");
    assert_eq!(done["interruptions"], 0);
    first.stop();
    // It takes over at once; nothing was left to it but the record.
    let mut second = second.wait();
    second.token.clone_from(&first.token);
    assert_eq!(second.get(&job).good(200)["state"], "completed");

    // Whoever is no longer the holder changes nothing any more, and ends.
    let steal =
        "UPDATE catalog_leases SET epoch = epoch + 1, owner = 'thief' WHERE name = 'server'";
    runtime.block_on(catalog.run_sql(steal)).expect("runs");
    let refused = second.post("/vaults", &json!({ "name": "late" }));
    assert_eq!(refused.code(), codes::CATALOG_LEASE_LOST.name);
    assert_eq!(second.failure().code(), &codes::CATALOG_LEASE_LOST);
}

#[test]
fn a_server_moves_from_sqlite_to_postgresql() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let catalog = runtime.block_on(CatalogBed::postgres()).expect("PostgreSQL");
    let dir = folder();
    let mut first = Bed::start(Arc::clone(&dir), |_| ());
    first.post("/vaults", &json!({ "name": "late" })).good(201);
    let vaults = first.get("/vaults").good(200);
    // Beside the server that runs.
    let (old, copy) = (config(&dir), dir.path().join("copy"));
    dump_catalog(&old, &copy).expect("copied");
    first.stop();
    let mut new = config(&dir);
    new.catalog = Some(catalog.url.to_string());
    let loaded = load_catalog(&new, &copy).expect("loaded");
    assert!(loaded.audit_intact && loaded.audit_records > 0, "{loaded:?}");
    let again = load_catalog(&new, &copy).expect_err("there is one");
    assert_eq!(again.code(), &codes::CATALOG_NOT_EMPTY);

    let url = catalog.url.to_string();
    let mut second = Bed::start(dir, |config| config.catalog = Some(url));
    second.token.clone_from(&first.token);
    assert_eq!(second.get("/vaults").good(200), vaults);
}
