//! Copies of the whole catalog.

use std::{future::poll_fn, path::Path, sync::Arc, task::Poll};

use serde_json::json;
use strongroom_base::{Coded as _, SystemClock, SystemEntropy, codes};
use strongroom_catalog::{
    AuditRecord, Catalog, CatalogUrl, Error, Load, Query, Result,
    testing::{Bed, on_both_databases},
};

use crate::audit::{head, unlocked};
use crate::world::{FIRST, Job, SCHEMA, User, job, user};

on_both_databases! {
    a_copy_becomes_the_same_catalog, damaged_copies_are_refused, copies_of_earlier_versions_load,
    a_broken_audit_log_is_kept_and_said_to_be, a_copy_that_is_cut_off_has_no_name,
}

async fn fill(catalog: &Catalog) {
    let mut tx = catalog.write().await.expect("begins");
    for number in 0..450 {
        let host = (number % 2 == 0).then(|| format!("h{}", number % 7));
        let note = "\"\\\n\0ä".repeat(number % 3);
        tx.insert(&Job { host, note, ..job(format!("{number}")) }).await.expect("inserts");
    }
    tx.put(&job("3")).await.expect("puts");
    tx.insert(&user("1", Some("t"), "ada", Some(-1))).await.expect("inserts");
    for _ in 0..3 {
        let detail = json!({"a": [1, 2.50, null]});
        let (actor, action, target, outcome) = ("ada", "x", "y", "ok");
        let record = AuditRecord { actor, action, target, outcome, detail: &detail };
        tx.audit(record).await.expect("records");
    }
    let day = std::time::Duration::from_hours(24);
    tx.acquire_lease("x", "a", day).await.expect("asks").expect("free");
    tx.commit().await.expect("commits");
}

async fn lines(catalog: &Catalog) -> Vec<String> {
    let mut dump = catalog.dump().await.expect("begins");
    let mut text = String::new();
    while let Some(some) = dump.next().await.expect("reads") {
        text.push_str(&some);
    }
    assert!(text.ends_with('\n'));
    text.split_inclusive('\n').map(str::to_owned).collect()
}

async fn load(url: &CatalogUrl, lines: &[String]) -> Result<Catalog> {
    let mut load = Load::begin(url, &SCHEMA, Arc::new(SystemClock)).await?;
    for line in lines {
        load.line(line.as_bytes()).await?;
    }
    Ok(load.finish().await?.0)
}

/// The process ends in the middle of a copy: nothing passes for one, and the next can be made.
async fn a_copy_that_is_cut_off_has_no_name(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("copy");
    let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
    let mut copying = Box::pin(catalog.backup_to(&path, &SystemEntropy));
    poll_fn(|context| match copying.as_mut().poll(context) {
        Poll::Ready(done) => panic!("it was not cut off: {done:?}"),
        Poll::Pending if files() > 0 => Poll::Ready(()),
        Poll::Pending => Poll::Pending,
    })
    .await;
    drop(copying);
    assert!(!path.exists());
    assert_eq!(files(), 1);
    catalog.backup_to(&path, &SystemEntropy).await.expect("copies");
    assert_eq!(files(), 2, "the copy, and what was cut off");
    from_file(&Bed::sqlite().expect("a folder").url, &path).await.expect("loads");
}

/// From one database to the other, and back.
async fn a_copy_becomes_the_same_catalog(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("copy");
    catalog.backup_to(&path, &SystemEntropy).await.expect("copies");
    catalog.backup_to(&path, &SystemEntropy).await.expect_err("nothing is overwritten");
    let other = if bed.url.is_shared() {
        Bed::sqlite().expect("a folder")
    } else {
        Bed::postgres().await.expect("PostgreSQL")
    };
    let (copy, dumped) = from_file(&other.url, &path).await.expect("loads");
    assert_eq!(dumped.documents.into_values().collect::<Vec<_>>(), [450, 1]);
    let head = head(&catalog).await;
    assert_eq!((dumped.chain.head, dumped.chain.broken), (head, None));
    let same = copy.verify_chain(&[head]).await.expect("reads");
    assert_eq!((same.head, same.broken), (head, None));
    for query in [Query::default().limit(1000), Query::default().descending("host").limit(1000)] {
        let there = copy.list::<Job>(&query).await.expect("lists");
        assert_eq!(there, catalog.list::<Job>(&query).await.expect("lists"));
    }
    assert_eq!(copy.get::<Job>("3").await.expect("reads").expect("there").version, 2);
    assert!(copy.get::<User>("1").await.expect("reads").is_some());
    let day = std::time::Duration::from_hours(24);
    let lease = copy.acquire_lease("x", "b", day).await.expect("asks").expect("free");
    assert_eq!(lease.epoch, 2, "epochs go on");
    assert_eq!(lines(&copy).await[1..452], lines(&catalog).await[1..452]);

    // A catalog is never overwritten.
    copy.close().await;
    let error = from_file(&other.url, &path).await.expect_err("not empty");
    assert!(matches!(error, Error::NotEmpty), "{error:?}");
}

async fn from_file(url: &CatalogUrl, path: &Path) -> Result<(Catalog, strongroom_catalog::Dumped)> {
    Catalog::restore_from(url, &SCHEMA, Arc::new(SystemClock), path).await
}

async fn damaged_copies_are_refused(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog).await;
    let good = lines(&catalog).await;
    let shared = bed.url.is_shared();
    drop(catalog);
    let target = if shared {
        Bed::postgres().await.expect("PostgreSQL")
    } else {
        Bed::sqlite().expect("a folder")
    };
    let mut damaged = Vec::new();
    for at in [0, 1, 451, good.len() - 2, good.len() - 1] {
        let mut bad = good.clone();
        bad.remove(at);
        damaged.push(bad);
        let mut bad = good.clone();
        bad.insert(at, good[at].clone());
        damaged.push(bad);
    }
    damaged.push(good[..300].to_vec());
    damaged.push(Vec::new());
    let mut bad = good.clone();
    bad.push(good[1].clone());
    damaged.push(bad);
    for (from, to) in [
        ("\"table\":\"jobs\"", "\"table\":\"catalog_audit\""),
        ("\"table\":\"jobs\"", "\"table\":\"jobs\\\" (id) VALUES (1); --\""),
        ("\"table\":\"jobs\"", "\"table\":\"nothing\""),
        ("\"bytes\":0", "\"bytes\":1"),
        ("\"state\":\"new\"", "\"state\":7"),
        ("\"columns\":{\"bytes\":0", "\"columns\":{\"body\":\"\",\"bytes\":0"),
        ("\"id\":\"0\"", "\"id\":\"\\u0000\""),
        ("\"version\":1", "\"version\":18446744073709551615"),
    ] {
        let mut bad = good.clone();
        assert!(bad[1].contains(from), "{from} in {}", bad[1]);
        bad[1] = bad[1].replace(from, to);
        damaged.push(bad);
    }
    for bad in damaged {
        load(&target.url, &bad).await.expect_err("damaged");
    }
    let mut newer = good.clone();
    newer[0] = newer[0].replace("\"schema\":3", "\"schema\":4");
    let error = load(&target.url, &newer).await.expect_err("newer");
    assert_eq!(error.code(), &codes::CATALOG_SCHEMA);
    // After all of that there is nothing yet.
    load(&target.url, &good).await.expect("loads");
}

async fn a_broken_audit_log_is_kept_and_said_to_be(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog).await;
    bed.run_sql(&unlocked(&bed, "UPDATE catalog_audit SET actor = 'eve' WHERE seq = 2"))
        .await
        .expect("runs");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("copy");
    catalog.backup_to(&path, &SystemEntropy).await.expect("copies");
    let other = Bed::sqlite().expect("a folder");
    let (copy, dumped) = from_file(&other.url, &path).await.expect("loads");
    assert_eq!(dumped.chain.head.seq, 1);
    let broken = dumped.chain.broken.as_ref().map(|broken| broken.seq);
    assert_eq!(broken, Some(2));
    assert_eq!(copy.verify_chain(&[]).await.expect("reads"), dumped.chain);
    assert_eq!(head(&copy).await.seq, 3, "the records after it are there");
}

async fn copies_of_earlier_versions_load(bed: Bed) {
    // The only document of a program of version 1.
    let mut copy = vec![
        r#"{"header":{"format":1,"schema":1,"time":0}}"#.to_owned() + "\n",
        concat!(
            r#"{"document":{"table":"jobs","id":"a","version":4,"columns":{"state":"new","#,
            r#""host":null,"started":9},"body":{"id":"a","state":"new","kib":2}}}"#,
            "\n"
        )
        .to_owned(),
    ];
    let hash = blake3::hash(copy.concat().as_bytes()).to_hex();
    copy.push(format!("{{\"end\":{{\"lines\":2,\"hash\":\"{hash}\"}}}}\n"));
    let catalog = load(&bed.url, &copy).await.expect("loads");
    let a = catalog.get::<Job>("a").await.expect("reads").expect("there");
    assert_eq!((a.doc.bytes, a.version), (2048, 4));
    assert_eq!(catalog.check().await.expect("sound").schema, 3);
    assert_eq!(FIRST.version(), 1);
}
