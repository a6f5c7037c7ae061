//! Versions of the schema.

use strongroom_base::{Coded as _, codes};
use strongroom_catalog::{
    Dialect, Error, Filter, Query, Schema,
    testing::{Bed, on_both_databases},
};

use crate::world::{FIRST, FORGED, FORGOTTEN, JOBS, Job, MIGRATIONS, SCHEMA, USERS, User, user};

on_both_databases! {
    every_earlier_version_becomes_the_latest, a_later_version_is_left_alone,
    a_list_that_was_changed_is_refused, kinds_must_be_as_the_database_is,
    servers_that_start_at_once_upgrade_once, a_failed_upgrade_changes_nothing,
}

/// What a program of version 1 or 2 wrote.
const SEED: &str = "\
    INSERT INTO jobs (id, version, state, host, started, body) VALUES \
    ('a', 7, 'done', 'h', 5, '{\"id\":\"a\",\"state\":\"done\",\"host\":\"h\",\"started\":5,\"kib\":3}'), \
    ('b', 1, 'new', NULL, NULL, '{\"id\":\"b\",\"state\":\"new\",\"host\":null,\"started\":null,\"kib\":0}')";

async fn every_earlier_version_becomes_the_latest(bed: Bed) {
    let shared = bed.url.is_shared();
    for version in 1..=3 {
        let bed = if shared {
            Bed::postgres().await.expect("PostgreSQL")
        } else {
            Bed::sqlite().expect("a folder")
        };
        let last = SEED.replace("kib\":3", "bytes\":3072").replace("kib", "bytes");
        let last = format!("{last}; UPDATE jobs SET bytes = 3072 WHERE id = 'a'");
        let seed = if version < 3 { SEED } else { &last };
        bed.make_older(&SCHEMA, version, seed).await.expect("made");
        let catalog = bed.open(&SCHEMA).await.expect("upgrades");
        assert_eq!(catalog.check().await.expect("sound").schema, 3);
        let a = catalog.get::<Job>("a").await.expect("reads").expect("there");
        assert_eq!((a.doc.bytes, a.version), (3072, 7), "from version {version}");
        let query: Query = Filter::all().ge("bytes", 1).into();
        assert_eq!(catalog.list::<Job>(&query).await.expect("lists").items, [a]);
        let mut tx = catalog.write().await.expect("begins");
        assert_eq!(tx.count::<Job>(&Filter::all()).await.expect("counts"), 2);
        tx.insert(&user("1", None, "ada", None)).await.expect("inserts");
        assert!(tx.get::<User>("1").await.expect("reads").is_some());
    }
}

async fn a_later_version_is_left_alone(bed: Bed) {
    bed.open(&SCHEMA).await.expect("opens").close().await;
    let error = bed.open(&FIRST).await.expect_err("newer");
    assert!(matches!(error, Error::Newer { found: 3, known: 1 }), "{error:?}");
    assert_eq!(error.code(), &codes::CATALOG_SCHEMA);
    bed.open(&SCHEMA).await.expect("unharmed");
}

async fn a_list_that_was_changed_is_refused(bed: Bed) {
    bed.open(&FIRST).await.expect("opens").close().await;
    let error = bed.open(&FORGED).await.expect_err("another text");
    assert_eq!(error.code(), &codes::CATALOG_SCHEMA);
    assert!(error.to_string().contains("migration 1 (jobs)"), "{error}");
}

async fn kinds_must_be_as_the_database_is(bed: Bed) {
    let error = bed.open(&FORGOTTEN).await.expect_err("no such table");
    assert_eq!(error.code(), &codes::CATALOG_SCHEMA, "{error:?}");
    bed.run_sql("DROP INDEX jobs__bytes").await.expect("runs");
    let error = bed.open(&SCHEMA).await.expect_err("no such index");
    assert!(error.to_string().contains("the index jobs__bytes is missing"), "{error}");
}

async fn servers_that_start_at_once_upgrade_once(bed: Bed) {
    if !bed.url.is_shared() {
        // One of them gets the file, the others are told.
        let (first, second) = tokio::join!(bed.open(&SCHEMA), bed.open(&SCHEMA));
        let errors: Vec<_> = [first.err(), second.err()].into_iter().flatten().collect();
        assert!(matches!(errors.as_slice(), [Error::InUse { .. }]), "{errors:?}");
        return;
    }
    let servers = (0..5).map(|_| {
        let url = bed.url.clone();
        tokio::spawn(async move {
            let clock = std::sync::Arc::new(strongroom_base::SystemClock);
            strongroom_catalog::Catalog::open(&url, &SCHEMA, clock).await.expect("opens")
        })
    });
    for server in servers.collect::<Vec<_>>() {
        assert_eq!(server.await.expect("starts").check().await.expect("sound").schema, 3);
    }
}

/// A document that the third migration cannot change.
async fn a_failed_upgrade_changes_nothing(bed: Bed) {
    let seed = SEED.replace(r#","kib":0"#, "");
    bed.make_older(&SCHEMA, 1, &seed).await.expect("made");
    let error = bed.open(&SCHEMA).await.expect_err("cannot be changed");
    assert!(matches!(&error, Error::Corrupt { .. }), "{error:?}");
    // The second is done, the third is not; nothing of it is there.
    let repair = r#"UPDATE jobs SET body = '{"id":"b","state":"new","kib":1}' WHERE id = 'b'"#;
    bed.run_sql(repair).await.expect("runs");
    let catalog = bed.open(&SCHEMA).await.expect("upgrades");
    assert_eq!(catalog.get::<Job>("b").await.expect("reads").expect("there").doc.bytes, 1024);
}

/// The frozen texts were written with the help of the generator.
#[test]
fn the_generator_writes_what_was_frozen() {
    assert_eq!(USERS.ddl(Dialect::Sqlite), MIGRATIONS[1].sqlite);
    assert_eq!(
        USERS.ddl(Dialect::Postgres).replace("\"body\" TEXT", "\"body\" TEXT COLLATE \"C\""),
        MIGRATIONS[1].postgres
    );
    assert!(JOBS.ddl(Dialect::Sqlite).contains(r#"("host", "bytes", "id")"#));
    assert_eq!(Schema { kinds: &[], migrations: &[] }.version(), 0);
}
