//! What a token sees that is limited to a vault, an item or a host: in each figure of the status, and in
//! each list, its share of what there is and no more.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use strongroom_api::{
    self as api, AlertState, BackupNow, HostCreate, JobState, ProtectionState, Role, Scope, Trigger,
};
use strongroom_base::{ItemId, VaultId, codes};
use strongroom_catalog::{
    Stored,
    testing::{Bed, on_both_databases},
};
use strongroom_control::{
    AlertFilter, ItemFilter, PageRequest,
    jobs::JobFilter,
    model::{ItemDoc, JobDoc},
    rights::{Caller, Grant, Sight},
};

use crate::world::{DAY, World, source};

on_both_databases! { each_figure_has_what_may_be_seen }

const ALL: PageRequest = PageRequest { limit: Some(1000), token: None };

/// The items `a` and `b` in `main`, `c` and `d` in `other`: all are late and failing, `b` and `d` have a
/// restore to be decided on, `b` and `d` no policy; some jobs wait, some are at work.
async fn scene(bed: Bed) -> World {
    let world = World::new(bed).await;
    let (control, admin) = (&world.control, &world.admin);
    world.vault("other").await;
    let host = HostCreate {
        name: "there".to_owned(),
        connect: None,
        max_jobs: None,
        snapshot_vault: None,
    };
    control.create_host(admin, host).await.expect("a host");
    for (name, vault) in [("a", "main"), ("b", "main"), ("c", "other"), ("d", "other")] {
        world.machine(name);
        let protect = api::Protect {
            vault: vault.to_owned(),
            host: "here".to_owned(),
            policy: None,
            sources: vec![source(name)],
            backup_now: false,
        };
        control.protect(admin, protect).await.expect("begins");
        control.settle().await.expect("settles");
        world.backup(name).await;
    }
    for name in ["b", "d"] {
        let replace = api::Restore::Replace(api::RestoreReplace::default());
        control.restore(admin, name, "latest", replace).await.expect("begins");
        control.settle().await.expect("settles");
    }
    world.shared.outside().validation_fails = Some(&codes::STORE_CORRUPT);
    world.days(2).await;
    for name in ["b", "d"] {
        let id = world.item(name).await.id.to_string();
        let mut tx = control.catalog().write().await.expect("begins");
        let found = tx.get::<ItemDoc>(&id).await.expect("reads").expect("there");
        let Stored { mut doc, version } = found;
        doc.item.policy = None;
        tx.update(&doc, version).await.expect("updates");
        tx.commit().await.expect("commits");
    }
    for name in ["a", "b", "c", "d"] {
        let begun = control.backup_now(admin, name, BackupNow::default()).await.expect("begins");
        if matches!(name, "b" | "d") {
            let mut tx = control.catalog().write().await.expect("begins");
            let found = tx.get::<JobDoc>(&begun.to_string()).await.expect("reads");
            let Stored { mut doc, version } = found.expect("there");
            doc.job.state = JobState::InProgress;
            tx.update(&doc, version).await.expect("updates");
            tx.commit().await.expect("commits");
        }
    }
    control.discover(admin, "there").await.expect("begins");
    world
}

fn counted<T>(of: &[T], word: impl Fn(&T) -> &'static str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for one in of {
        *found.entry(word(one).to_owned()).or_default() += 1;
    }
    found
}

fn count<T>(of: &[T], is: impl Fn(&T) -> bool) -> u64 {
    of.iter().filter(|one| is(one)).map(|_| 1).sum()
}

/// Whether somebody sees what is of a vault and an item.
type Sees<'a> = &'a dyn Fn(Option<VaultId>, Option<ItemId>) -> bool;

/// All that there is, as the service itself sees it.
struct All {
    items: Vec<api::Item>,
    jobs: Vec<api::Job>,
    alerts: Vec<api::Alert>,
    status: api::Status,
}

impl All {
    async fn of(world: &World) -> Self {
        let (control, admin) = (&world.control, &world.admin);
        let items = control.items(admin, &ItemFilter::default(), &ALL).await.expect("items");
        let jobs = control.jobs(admin, &JobFilter::default(), &ALL).await.expect("jobs");
        assert!(jobs.next_page_token.is_none() && items.next_page_token.is_none());
        Self {
            items: items.items,
            jobs: jobs.items,
            alerts: world.alerts().await,
            status: control.status(admin).await.expect("a status"),
        }
    }

    /// The same, as somebody is to see it.
    fn seen(&self, world: &World, sees: Sees<'_>) -> Self {
        let seen = |item: &&api::Item| sees(Some(item.vault), Some(item.id));
        let items: Vec<_> = self.items.iter().filter(seen).cloned().collect();
        let jobs: Vec<_> =
            self.jobs.iter().filter(|job| sees(job.vault, job.item)).cloned().collect();
        let alerts: Vec<_> =
            self.alerts.iter().filter(|alert| sees(alert.vault, alert.item)).cloned().collect();
        let named = |name: &str| items.iter().any(|item| item.name == name);
        let day = world.now().checked_sub(SignedDuration::from_hours(24)).expect("a time");
        let recent = |job: &&api::Job| job.created >= day && job.trigger != Trigger::System;
        let recent: Vec<_> = jobs.iter().filter(recent).collect();
        let firing = |alert: &&api::Alert| alert.state == AlertState::Firing;
        let firing: Vec<_> = alerts.iter().filter(firing).collect();
        let work =
            |job: &api::Job| matches!(job.state, JobState::InProgress | JobState::Cancelling);
        let next = items.iter().filter(|item| item.next_backup.is_some());
        let next = next.min_by_key(|item| (item.next_backup, item.id.to_string()));
        let mut status = self.status.clone();
        status.items = counted(&items, |item| item.state.name());
        status.jobs_24_hours = counted(&recent, |job| job.state.name());
        status.jobs_running = count(&jobs, work);
        status.jobs_queued = count(&jobs, |job| job.state == JobState::Queued);
        status.alerts = counted(&firing, |alert| alert.severity.name());
        status.unscheduled = count(&items, |item| item.policy.is_none());
        status.next_backup = next.map(|item| api::NextBackup {
            time: item.next_backup.expect("a time"),
            item: item.name.clone(),
        });
        status.failing.retain(|item| named(&item.name));
        status.behind.retain(|item| named(&item.name));
        status.open_restores.retain(|restore| named(&restore.item));
        status.vaults.retain(|vault| sees(Some(vault.id), None));
        Self { items, jobs, alerts, status }
    }
}

async fn each_figure_has_what_may_be_seen(bed: Bed) {
    let world = scene(bed).await;
    let control = &world.control;
    let all = All::of(&world).await;
    assert!(all.items.iter().all(|item| item.state == ProtectionState::ProtectionError));
    let (a, c) = (world.item("a").await, world.item("c").await);
    let here = control.host(&world.admin, "here").await.expect("a host").value.id;
    let limited = |scope| {
        let limit = Grant { role: Role::Reader, scope };
        Caller { limit, ..world.admin.clone() }
    };
    let reader = |scope| Grant { role: Role::Reader, scope };
    let both = Caller {
        grants: vec![reader(Scope::Vault(a.vault)), reader(Scope::Item(c.id))],
        ..world.admin.clone()
    };
    let in_main = |vault: Option<VaultId>, _: Option<ItemId>| vault == Some(a.vault);
    let of_a = |_: Option<VaultId>, item: Option<ItemId>| item == Some(a.id);
    let either =
        |vault: Option<VaultId>, item: Option<ItemId>| vault == Some(a.vault) || item == Some(c.id);
    let nothing = |_: Option<VaultId>, _: Option<ItemId>| false;
    let everything = |_: Option<VaultId>, _: Option<ItemId>| true;
    let rows: [(_, _, Sees<'_>, u64); 5] = [
        ("everywhere", limited(Scope::Server), &everything, 2),
        ("main", limited(Scope::Vault(a.vault)), &in_main, 0),
        ("a", limited(Scope::Item(a.id)), &of_a, 0),
        ("main and c", both, &either, 0),
        ("here", limited(Scope::Host(here)), &nothing, 1),
    ];
    for (name, caller, sees, hosts) in rows {
        let expected = all.seen(&world, sees);
        let mut status = control.status(&caller).await.expect("a status");
        assert_eq!(status.hosts.values().sum::<u64>(), hosts, "{name}");
        status.hosts.clone_from(&expected.status.hosts);
        assert_eq!(status, expected.status, "{name}");
        let items = control.items(&caller, &ItemFilter::default(), &ALL).await.expect("items");
        assert_eq!(items.items, expected.items, "{name}");
        let jobs = control.jobs(&caller, &JobFilter::default(), &ALL).await.expect("jobs");
        assert_eq!(jobs.items, expected.jobs, "{name}");
        let alerts = control.alerts(&caller, &AlertFilter::default(), &ALL).await.expect("alerts");
        assert_eq!(alerts.items, expected.alerts, "{name}");
        // A page is as long as was asked for, if there is so much.
        let at = PageRequest { limit: Some(1), token: None };
        let page =
            control.alerts(&caller, &AlertFilter::default(), &at).await.expect("alerts").items;
        assert_eq!(page.len(), expected.alerts.len().min(1), "{name}");
        // The test itself: whoever sees an item sees some of everything.
        if caller.sight() != (Sight::Some { vaults: vec![], items: vec![] }) {
            let status = &expected.status;
            assert!(status.jobs_running + status.jobs_queued > 0, "{name}: {status:?}");
            assert!(!status.jobs_24_hours.is_empty() && !status.alerts.is_empty(), "{name}");
            assert!(!status.failing.is_empty() && !status.behind.is_empty(), "{name}");
        }
    }
    // That the clock is wrong is for those who see the server.
    world.jump(400 * DAY);
    control.settle().await.expect("settles");
    for (scope, told) in [(Scope::Server, true), (Scope::Item(a.id), false)] {
        let status = control.status(&limited(scope)).await.expect("a status");
        let clock = status.server.iter().any(|error| error.code == codes::SERVER_CLOCK);
        assert_eq!(clock, told, "{scope:?}");
    }
}
