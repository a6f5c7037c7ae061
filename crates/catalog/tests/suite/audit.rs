//! The audit chain, and what is noticed of tampering with it.

use std::ops::ControlFlow;

use serde_json::json;
use strongroom_base::Digest;
use strongroom_catalog::{
    AuditHead, AuditQuery, AuditRecord, Catalog, ChainFault, Tx,
    testing::{Bed, on_both_databases},
};

use crate::world::{Job, SCHEMA, job};

on_both_databases! {
    records_are_of_their_transaction, tampering_is_noticed, a_new_chain_is_noticed_by_an_anchor,
    records_are_listed_and_exported, the_chain_is_only_added_to, writers_make_one_chain,
}

async fn record(tx: &mut Tx, action: &str, target: &str) -> AuditHead {
    let detail = json!({"quote": "\"ä\"", "nul": "\0", "number": 1.5});
    let record = AuditRecord { actor: "ada", action, target, outcome: "ok", detail: &detail };
    tx.audit(record).await.expect("records")
}

/// Adds records in a transaction of their own; the heads after each.
async fn records(catalog: &Catalog, count: u64) -> Vec<AuditHead> {
    let mut tx = catalog.write().await.expect("begins");
    let mut heads = Vec::new();
    for number in 0..count {
        let action = if number % 2 == 0 { "even" } else { "odd" };
        heads.push(record(&mut tx, action, &format!("job/{number}")).await);
    }
    tx.commit().await.expect("commits");
    heads
}

/// The head of the chain.
pub(crate) async fn head(catalog: &Catalog) -> AuditHead {
    let mut tx = catalog.read().await.expect("begins");
    tx.audit_head().await.expect("reads")
}

async fn records_are_of_their_transaction(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    assert_eq!(head(&catalog).await, AuditHead::EMPTY);
    let report = catalog.verify_chain(&[AuditHead::EMPTY]).await.expect("reads");
    assert_eq!((report.head, report.broken), (AuditHead::EMPTY, None));
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    record(&mut tx, "job.create", "job/a").await;
    drop(tx);
    assert_eq!(head(&catalog).await, AuditHead::EMPTY);
    assert_eq!(catalog.get::<Job>("a").await.expect("reads"), None);

    let heads = records(&catalog, 2500).await;
    assert_eq!(head(&catalog).await, heads[2499]);
    let anchors = [heads[2499], heads[0], heads[1000]];
    let report = catalog.verify_chain(&anchors).await.expect("reads");
    assert_eq!((report.head, report.broken), (heads[2499], None));
}

/// Lets SQL change what only ever grows.
pub(crate) fn unlocked(bed: &Bed, sql: &str) -> String {
    if bed.url.is_shared() {
        format!("ALTER TABLE catalog_audit DISABLE TRIGGER USER; {sql}")
    } else {
        let drop = "DROP TRIGGER IF EXISTS catalog_audit__no_";
        format!("{drop}update; {drop}delete; {sql}")
    }
}

async fn tampering_is_noticed(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let heads = records(&catalog, 9).await;
    let copy = "CREATE TABLE copy AS SELECT * FROM catalog_audit";
    bed.run_sql(copy).await.expect("runs");
    let tables = "DELETE FROM catalog_audit; INSERT INTO catalog_audit SELECT * FROM copy;";
    for (sql, seq, what) in [
        ("UPDATE catalog_audit SET actor = 'eve' WHERE seq = 5", 5, ChainFault::Altered),
        ("UPDATE catalog_audit SET time = time + 1 WHERE seq = 5", 5, ChainFault::Altered),
        (
            "UPDATE catalog_audit SET action = '', target = 'evenjob/4' WHERE seq = 5",
            5,
            ChainFault::Altered,
        ),
        ("UPDATE catalog_audit SET outcome = 'denied' WHERE seq = 9", 9, ChainFault::Altered),
        ("UPDATE catalog_audit SET detail = '{}' WHERE seq = 1", 1, ChainFault::Altered),
        ("UPDATE catalog_audit SET detail = '{' WHERE seq = 1", 1, ChainFault::Altered),
        ("UPDATE catalog_audit SET hash = 'x' WHERE seq = 5", 5, ChainFault::Altered),
        ("UPDATE catalog_audit SET hash = prev_hash WHERE seq = 5", 5, ChainFault::Altered),
        ("UPDATE catalog_audit SET prev_hash = hash WHERE seq = 5", 5, ChainFault::Unlinked),
        ("DELETE FROM catalog_audit WHERE seq = 5", 5, ChainFault::Missing),
        ("DELETE FROM catalog_audit WHERE seq = 1", 1, ChainFault::Missing),
        (
            "DELETE FROM catalog_audit WHERE seq = 5; \
             UPDATE catalog_audit SET seq = 5 WHERE seq = 9",
            5,
            ChainFault::Unlinked,
        ),
        (
            "INSERT INTO catalog_audit SELECT 0, time, actor, action, target, outcome, detail, \
             prev_hash, hash FROM copy WHERE seq = 1",
            1,
            ChainFault::Missing,
        ),
        ("DELETE FROM catalog_audit WHERE seq > 7", 8, ChainFault::CutOff),
        ("DELETE FROM catalog_audit", 1, ChainFault::CutOff),
    ] {
        bed.run_sql(&unlocked(&bed, &format!("{tables} {sql}"))).await.expect("runs");
        let report = catalog.verify_chain(&[heads[8]]).await.expect("reads");
        let broken = report.broken.expect("noticed");
        assert_eq!((broken.seq, broken.what), (seq, what), "{sql}");
        assert_eq!(report.head.seq, seq - 1, "{sql}");
    }
    // Without an anchor a shorter chain is as good as any.
    bed.run_sql(&unlocked(&bed, &format!("{tables} DELETE FROM catalog_audit WHERE seq > 7")))
        .await
        .expect("runs");
    let report = catalog.verify_chain(&[heads[2]]).await.expect("reads");
    assert_eq!((report.head, report.broken), (heads[6], None));
}

async fn a_new_chain_is_noticed_by_an_anchor(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let heads = records(&catalog, 5).await;
    bed.run_sql(&unlocked(&bed, "DELETE FROM catalog_audit")).await.expect("runs");
    let mut tx = catalog.write().await.expect("begins");
    for _ in 0..6 {
        record(&mut tx, "nothing", "at all").await;
    }
    tx.commit().await.expect("commits");
    assert_eq!(catalog.verify_chain(&[]).await.expect("reads").broken, None);
    let broken = catalog.verify_chain(&heads[2..=2]).await.expect("reads").broken.expect("noticed");
    assert_eq!((broken.seq, broken.what), (3, ChainFault::NotAnchored));
}

async fn records_are_listed_and_exported(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let heads = records(&catalog, 2200).await;
    let mut tx = catalog.read().await.expect("begins");
    let all = AuditQuery { limit: 3, ..AuditQuery::default() };
    let page = tx.audit_list(&all).await.expect("lists");
    assert_eq!(page.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2200, 2199, 2198]);
    let odd = AuditQuery {
        actor: Some("ada".to_owned()),
        action: Some("odd".to_owned()),
        outcome: Some("ok".to_owned()),
        before: Some(2198),
        from: Some(0),
        until: Some(i64::MAX),
        ..all.clone()
    };
    let page = tx.audit_list(&odd).await.expect("lists");
    assert_eq!(page.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2196, 2194, 2192]);
    let one = AuditQuery { target: Some("job/7".to_owned()), ..all.clone() };
    let page = tx.audit_list(&one).await.expect("lists");
    assert_eq!(page[0].head(), heads[7]);
    let none = AuditQuery { actor: Some("\0".to_owned()), ..all.clone() };
    assert!(tx.audit_list(&none).await.expect("lists").is_empty());
    tx.audit_list(&AuditQuery { limit: 0, ..all }).await.expect_err("no page");

    let mut lines = Vec::new();
    tx.audit_export(5..=2100, |entry| {
        lines.push(serde_json::to_string(&entry).expect("JSON"));
        ControlFlow::Continue(())
    })
    .await
    .expect("exports");
    assert_eq!(lines.len(), 2096);
    // Whoever has the lines can check them without the catalog.
    let mut before = heads[3].hash;
    for line in &lines {
        let entry: strongroom_catalog::AuditEntry = serde_json::from_str(line).expect("JSON");
        assert_eq!((entry.prev_hash, entry.hash), (before, entry.expected_hash()));
        before = entry.hash;
    }
    assert_eq!(before, heads[2099].hash);
    assert_ne!(before, Digest::HOLE);
    let mut some = 0;
    tx.audit_export(0..=u64::MAX, |_| {
        some += 1;
        if some == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await
    .expect("exports");
    assert_eq!(some, 10);
}

async fn the_chain_is_only_added_to(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    records(&catalog, 2).await;
    for sql in ["DELETE FROM catalog_audit", "UPDATE catalog_audit SET actor = 'eve'"] {
        bed.run_sql(sql).await.expect_err("refused");
    }
}

async fn writers_make_one_chain(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let tasks = (0..8).map(|_| {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                records(&catalog, 2).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("records");
    }
    let report = catalog.verify_chain(&[]).await.expect("reads");
    assert_eq!((report.head.seq, report.broken), (160, None));
}
