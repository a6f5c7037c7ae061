//! Lists in pages.

use std::collections::BTreeSet;

use strongroom_base::{Coded as _, codes};
use strongroom_catalog::{
    Catalog, Error, Filter, PageToken, Query,
    testing::{Bed, on_both_databases},
};

use crate::world::{Job, SCHEMA, User, job, user};

on_both_databases! {
    pages_follow_each_other, nothing_is_skipped_or_repeated_while_others_write,
    tokens_of_other_lists_are_refused, nonsense_is_refused, raw_lists_have_the_same,
}

async fn fill(catalog: &Catalog, count: i64) {
    let mut tx = catalog.write().await.expect("begins");
    for number in 0..count {
        let started = (number % 3 > 0).then_some(number / 7);
        let job = Job { started, bytes: number % 5, ..job(format!("{number:03}")) };
        tx.insert(&job).await.expect("inserts");
    }
    tx.commit().await.expect("commits");
}

/// All ids of a list, page by page.
async fn walk(catalog: &Catalog, query: Query) -> Vec<String> {
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let page = catalog.list::<Job>(&query.clone().after(after)).await.expect("lists");
        ids.extend(page.items.into_iter().map(|stored| stored.doc.id));
        match page.next {
            // As a client sends it back.
            Some(token) => after = Some(PageToken::new(token.to_string())),
            None => return ids,
        }
    }
}

async fn pages_follow_each_other(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog, 60).await;
    for column in ["id", "started", "bytes", "state", "host"] {
        let ascending = Query::default().ascending(column);
        let descending = Query::default().descending(column);
        let whole = walk(&catalog, ascending.clone()).await;
        assert_eq!(whole.len(), 60, "{column}");
        let mut backwards = walk(&catalog, descending.clone()).await;
        backwards.reverse();
        assert_eq!(whole, backwards, "{column}");
        for limit in [1, 7, 19, 20, 59, 60] {
            assert_eq!(walk(&catalog, ascending.clone().limit(limit)).await, whole, "{column}");
            let mut backwards = walk(&catalog, descending.clone().limit(limit)).await;
            backwards.reverse();
            assert_eq!(backwards, whole, "{column} {limit}");
        }
    }
    let page = catalog.list::<Job>(&Query::default().limit(60)).await.expect("lists");
    assert_eq!(page.next, None, "there is no empty last page");
}

async fn nothing_is_skipped_or_repeated_while_others_write(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog, 200).await;
    let writer = {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            for number in 0..300_i64 {
                let mut tx = catalog.write().await.expect("begins");
                let id = format!("{:03}+", (number * 37) % 200);
                let started = (number % 2 == 0).then_some(number % 30);
                let new = Job { started, bytes: number % 5, ..job(id.as_str()) };
                tx.put(&new).await.expect("puts");
                if number % 3 == 0 {
                    tx.delete::<Job>(&id, None).await.expect("deletes");
                }
                tx.commit().await.expect("commits");
            }
        })
    };
    let mut rounds = 0;
    while !writer.is_finished() || rounds == 0 {
        for query in [
            Query::default(),
            Query::default().ascending("started"),
            Query::default().descending("started"),
            Query::default().descending("bytes"),
        ] {
            let ids = walk(&catalog, query.limit(7)).await;
            let old: Vec<_> = ids.iter().filter(|id| !id.ends_with('+')).collect();
            let different: BTreeSet<_> = old.iter().collect();
            assert_eq!((old.len(), different.len()), (200, 200));
            rounds += 1;
        }
    }
    writer.await.expect("writes");
}

async fn tokens_of_other_lists_are_refused(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog, 30).await;
    let mut tx = catalog.write().await.expect("begins");
    for id in ["a", "b"] {
        tx.insert(&user(id, None, id, None)).await.expect("inserts");
    }
    tx.commit().await.expect("commits");
    let query = Query::default().ascending("started").limit(1);
    let token = catalog.list::<Job>(&query).await.expect("lists").next.expect("more");
    let refused = |error: Error| {
        assert_eq!(error.code(), &codes::CATALOG_QUERY, "{error:?}");
        assert!(error.to_string().contains("not one of a list in this order"), "{error}");
    };
    for other in [
        Query::default(),
        Query::default().descending("started"),
        Query::default().ascending("bytes"),
    ] {
        refused(catalog.list::<Job>(&other.after(token.clone())).await.expect_err("refused"));
    }
    let users = Query::default().ascending("name").limit(1);
    let users = catalog.list::<User>(&users).await.expect("lists").next;
    refused(catalog.list::<Job>(&query.clone().after(users)).await.expect_err("refused"));
    let text = token.to_string();
    let half = text.get(..text.len() / 2).expect("ASCII").to_owned();
    // A value of another type; a null where there is none; not base64; too long.
    let forged =
        ["WyJqb2JzIiwic3RhcnRlZCIsZmFsc2UsIngiLCIxIl0", "!", "", &"A".repeat(100_000), &half];
    for text in forged {
        let query = query.clone().after(PageToken::new(text));
        refused(catalog.list::<Job>(&query).await.expect_err("refused"));
    }
    // Another size of the page, and another filter, are the same order.
    let query = query.limit(5).after(token);
    assert_eq!(catalog.list::<Job>(&query).await.expect("lists").items.len(), 5);
}

async fn nonsense_is_refused(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    for query in [
        Query::default().limit(0),
        Query::default().limit(1001),
        Query::default().ascending("body"),
        Query::default().ascending("1; DROP TABLE jobs"),
        Filter::all().eq("nothing", 1_i64).into(),
        Filter::all().eq("state", 1_i64).into(),
        Filter::all().eq("bytes", "1").into(),
        Filter::all().eq("host", None::<&str>).into(),
        Filter::all().prefix("bytes", "1").into(),
        Filter::all().eq("state", "\0").into(),
        Filter::all().one_of("state", vec!["x"; 1001]).into(),
    ] {
        let error = catalog.list::<Job>(&query).await.expect_err("refused");
        assert_eq!(error.code(), &codes::CATALOG_QUERY, "{query:?}");
    }
    let none = Filter::all().one_of("state", Vec::<String>::new());
    assert!(catalog.list::<Job>(&none.into()).await.expect("lists").items.is_empty());
}

async fn raw_lists_have_the_same(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    fill(&catalog, 10).await;
    let query = Query::default().descending("bytes").limit(4);
    let mut tx = catalog.read().await.expect("begins");
    let page = tx.list::<Job>(&query).await.expect("lists");
    let raw = tx.list_raw::<Job>(&query).await.expect("lists");
    assert_eq!(page.next, raw.next);
    for (stored, raw) in page.items.iter().zip(&raw.items) {
        assert_eq!((&stored.doc.id, stored.version), (&raw.id, raw.version));
        assert_eq!(serde_json::from_str::<Job>(&raw.body).expect("JSON"), stored.doc);
    }
    let first = tx.first::<Job>(&query).await.expect("reads");
    assert_eq!(first.as_ref(), page.items.first());
}
