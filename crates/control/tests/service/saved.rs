//! The copy of the catalog in the vault: every change reaches it, also one just before a crash.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_api::{
    DiskSelection, ItemUpdate, JobKind, PointUpdate, ProtectionState, ResumeProtection, StopMode,
    StopProtection, VaultUpdate,
};
use strongroom_catalog::testing::{Bed, on_both_databases};

use crate::world::{DAY, World};

on_both_databases! {
    a_change_just_before_a_crash_is_saved_after_it,
    what_nobody_changed_is_not_saved_again,
    a_save_that_is_cut_off_leaves_the_copy_before,
}

/// A service that knows nothing but the vault.
async fn recovered(world: &World) -> World {
    let new = World::new(Bed::sqlite().expect("a folder")).await;
    let store = {
        let outside = world.shared.outside();
        let old = &outside.stores["/vaults/main"];
        crate::outside::Store {
            id: old.id,
            points: old.points.clone(),
            saved: old.saved.clone(),
            ..crate::outside::Store::default()
        }
    };
    new.shared.outside().stores.insert("/vaults/old".to_owned(), store);
    new.vault("old").await;
    new
}

/// All that somebody may have changed.
async fn changeable(world: &World, vault: &str) -> serde_json::Value {
    let at = strongroom_control::PageRequest { limit: Some(1000), token: None };
    let (control, admin) = (&world.control, &world.admin);
    let mut items = Vec::new();
    let listed = control.items(admin, &strongroom_control::ItemFilter::default(), &at).await;
    for item in listed.expect("items").items {
        let points: Vec<_> = world.points(&item.name).await;
        let points = points.into_iter().map(|it| {
            serde_json::json!([it.id, it.state, it.retain_until, it.deleted, it.purge_after])
        });
        items.push(serde_json::json!([
            item.id,
            item.name,
            item.state,
            item.policy,
            item.disks,
            item.deleted,
            points.collect::<Vec<_>>(),
        ]));
    }
    let policies = control.policies(admin, vault, &at).await.expect("policies").items;
    let vault = control.vault(admin, vault).await.expect("a vault").value;
    serde_json::json!([items, policies, vault.tags, vault.soft_delete, vault.immutability])
}

async fn change(world: &World, number: usize) -> bool {
    let (control, admin) = (&world.control, &world.admin);
    let stop = |mode| StopProtection { mode };
    match number {
        0 => drop(
            control.stop_protection(admin, "a", stop(StopMode::RetainForever)).await.expect("0"),
        ),
        1 => drop(
            control.resume_protection(admin, "a", ResumeProtection::default()).await.expect("1"),
        ),
        2 => {
            let disks = DiskSelection::Exclude { disks: vec!["vdb".to_owned()] };
            let update = ItemUpdate { disks: Some(disks), ..ItemUpdate::default() };
            drop(control.update_item(admin, "a", None, update).await.expect("2"));
        }
        3 => {
            let tags: BTreeMap<_, _> = [("where".to_owned(), "cellar".to_owned())].into();
            let update = VaultUpdate { tags: Some(tags), ..VaultUpdate::default() };
            drop(control.update_vault(admin, "main", None, update).await.expect("3"));
        }
        4 => {
            let retain_until = Some("2031-01-01T00:00:00Z".parse().expect("a time"));
            let update = PointUpdate { retain_until };
            drop(control.update_point(admin, "a", "latest", None, update).await.expect("4"));
        }
        5 => {
            let oldest = world.points("a").await.pop().expect("a point").id.to_string();
            drop(control.delete_point(admin, "a", &oldest, None).await.expect("5"));
        }
        6 => drop(world.protected("b").await),
        7 => {
            drop(control.stop_protection(admin, "a", stop(StopMode::DeleteData)).await.expect("7"));
        }
        8 => drop(control.undelete_item(admin, "a").await.expect("8")),
        9 => {
            let policy = control.policy(admin, "main", "default").await.expect("a policy").value;
            let mut rules = policy.rules;
            rules.start_spread_minutes = 7;
            let update = strongroom_api::PolicyUpdate { rules: Some(rules), ..Default::default() };
            drop(control.update_policy(admin, "main", "default", None, update).await.expect("9"));
        }
        _ => return false,
    }
    true
}

async fn a_change_just_before_a_crash_is_saved_after_it(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.save_every_minutes = 60).await;
    world.protected("a").await;
    for _ in 0..2 {
        world.backup("a").await;
        world.pass(DAY);
    }
    world.settle().await;
    let mut number = 0;
    while change(&world, number).await {
        // Killed at once: nothing that is only in memory is left.
        world.restart().await;
        for seconds in [0, 11, 61] {
            world.pass(seconds);
            world.control.settle().await.expect("settles");
        }
        let wanted = changeable(&world, "main").await;
        let new = recovered(&world).await;
        assert_eq!(changeable(&new, "old").await, wanted, "change {number}");
        number += 1;
    }
    assert_eq!(number, 10);
    let item = recovered(&world).await.item("a").await;
    assert_eq!(item.state, ProtectionState::ProtectionStopped);
}

async fn what_nobody_changed_is_not_saved_again(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.save_every_minutes = 60).await;
    world.protected("a").await;
    world.backup("a").await;
    for seconds in [0, 11, 61, 3600] {
        world.pass(seconds);
        world.settle().await;
    }
    let saves = world.jobs(JobKind::SaveCatalog).await.len();
    let before = world.shared.outside().stores["/vaults/main"].saved.clone();
    assert!(before.len() >= 2, "a head and a chunk");
    let stop = StopProtection { mode: StopMode::RetainForever };
    // Nothing happens for most of a day.
    world.control.stop_protection(&world.admin, "a", stop).await.expect("stops");
    for _ in 0..20 {
        world.pass(3600);
        world.settle().await;
    }
    assert_eq!(world.jobs(JobKind::SaveCatalog).await.len(), saves + 1);
    // After a day it is, so that what was lost in the vault is there again.
    world.shared.outside().stores.get_mut("/vaults/main").expect("it").saved.clear();
    world.pass(5 * 3600);
    world.settle().await;
    assert_eq!(changeable(&recovered(&world).await, "old").await, changeable(&world, "main").await);
}

/// Chunks of the new copy are there, its head is not: the old head still has all of its chunks.
async fn a_save_that_is_cut_off_leaves_the_copy_before(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.save_every_minutes = 60).await;
    world.protected("a").await;
    world.settle().await;
    for seconds in [11, 61] {
        world.pass(seconds);
        world.control.settle().await.expect("settles");
    }
    let before = changeable(&world, "main").await;
    world.shared.outside().saves_left = Some(1);
    change(&world, 0).await;
    for seconds in [11, 61] {
        world.pass(seconds);
        world.control.settle().await.expect("settles");
    }
    assert_eq!(changeable(&recovered(&world).await, "old").await, before);
    // Failed, and tried again later.
    world.shared.outside().saves_left = None;
    world.pass(16 * 60);
    world.control.settle().await.expect("settles");
    let after = changeable(&world, "main").await;
    assert_ne!(after, before);
    assert_eq!(changeable(&recovered(&world).await, "old").await, after);
}

/// Copies points of an item so often by SQL that there are so many. They are of the same moment: a column that
/// says something else than its document would be put right with the next change, and move the point.
pub(crate) async fn multiply(world: &World, item: &str, count: u64) {
    let point = world.points(item).await.pop().expect("a point").id;
    let columns = "\"version\", \"vault\", \"item\", \"state\", \"kind\", \"expires\", \
                   \"purge_after\", \"snapshot\", \"snapshot_until\", \"stored_bytes\"";
    let salt: u32 = item.bytes().map(u32::from).sum();
    let id = format!("printf('01%06d%018d', {salt}, n.value)");
    world
        .elsewhere(&format!(
            "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {count}) \
             INSERT INTO points (\"id\", \"time\", {columns}, \"body\") \
             SELECT p.\"item\" || '/' || {id}, p.\"time\", {}, replace(p.\"body\", '{point}', {id}) \
             FROM points p, n WHERE p.\"id\" LIKE '%{point}'",
            columns.split(", ").map(|c| format!("p.{}", c.trim())).collect::<Vec<_>>().join(", "),
        ))
        .await;
}

/// The items and points of a chunk, as it has them.
fn documents(chunk: &serde_json::Value) -> Vec<String> {
    let of = |kind: &str| chunk[kind].as_array().cloned().unwrap_or_default();
    let (items, points) = (of("items"), of("points"));
    items.into_iter().chain(points).map(|document| document.to_string()).collect()
}

/// A million points of a hundred items, or some of it, are saved in pieces that a store takes, and a
/// change rewrites the one that each changed document is in.
async fn many_points(items: u64, each: u64) -> u64 {
    let mut world = World::new(Bed::sqlite().expect("a folder")).await;
    world.set(|settings| settings.save_every_minutes = 60).await;
    for number in 0..items {
        let name = format!("vm{number}");
        world.protected(&name).await;
        world.backup(&name).await;
        multiply(&world, &name, each).await;
    }
    let save = async || {
        let (control, admin) = (&world.control, &world.admin);
        control.begin_in_vault(admin, "main", JobKind::SaveCatalog).await.expect("begins");
        control.settle().await.expect("settles");
        world.shared.outside().stores["/vaults/main"].saved.clone()
    };
    let edit = async |year: u16| {
        let retain_until = Some(format!("{year}-01-01T00:00:00Z").parse().expect("a time"));
        let (control, update) = (&world.control, PointUpdate { retain_until });
        let edited = control.update_point(&world.admin, "vm0", "latest", None, update).await;
        edited.expect("it").value.id
    };
    let first = save().await;
    // Before the test looks into it, which takes more than saving.
    let high = high_water();
    let most = first.values().map(Vec::len).max().expect("some");
    assert!(most < 8 << 20, "an object has {most} bytes");
    let parse = |bytes: &Vec<u8>| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    let chunk_points = |bytes| parse(bytes)["points"].as_array().map_or(0, Vec::len);
    let points: usize = first.values().map(chunk_points).sum();
    assert_eq!(u64::try_from(points).expect("few"), items * (each + 1));
    // A change of one point changes that and its item: each new piece has one of them, or both.
    for year in 2032..2035 {
        let before = save().await;
        let point = edit(year).await.to_string();
        let item = world.item("vm0").await.id.to_string();
        let after = save().await;
        let new: Vec<_> = after.iter().filter(|(name, _)| !before.contains_key(*name)).collect();
        // Nothing else has changed.
        let known: BTreeSet<_> =
            before.values().flat_map(|bytes| documents(&parse(bytes))).collect();
        let now = after.values().flat_map(|bytes| documents(&parse(bytes)));
        let changed: Vec<_> = now.filter(|document| !known.contains(document)).collect();
        assert_eq!(changed.len(), 2, "{:?}", changed.iter().take(5).collect::<Vec<_>>());
        let (mut with_item, mut with_point) = (0, 0);
        for (name, bytes) in &new {
            let chunk = parse(bytes);
            let items = chunk["items"].as_array().expect("items");
            let points = chunk["points"].as_array().expect("points");
            let has_item = items.iter().any(|it| it["item"]["id"] == item.as_str());
            let has_point = points.iter().any(|it| it["id"] == point.as_str());
            assert!(has_item || has_point, "{name} is new, and neither is in it");
            with_item += u32::from(has_item);
            with_point += u32::from(has_point);
        }
        assert_eq!((with_item, with_point), (1, 1), "{} of {} are new", new.len(), after.len());
        assert_eq!(after.len(), before.len());
    }
    high
}

/// The most memory that this process has had so far, in KiB.
fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_points_are_saved() {
    many_points(2, 50_000).await;
}

/// Takes minutes, so only with `STRONGROOM_LONG=1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_points_are_saved_in_little_memory() {
    if std::env::var_os("STRONGROOM_LONG").is_none() {
        return;
    }
    let high = many_points(100, 10_000).await;
    println!("{high} KiB");
    // The copy itself lies in the memory of the test, about 500 MB.
    assert!(high < 1 << 20, "{high} KiB");
}
