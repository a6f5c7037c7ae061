//! Schedules: every night once, also after the server was down.

use strongroom_api::{JobKind, JobState};
use strongroom_catalog::testing::{Bed, on_both_databases};

use crate::world::{DAY, HOUR, World};

on_both_databases! {
    every_day_once,
    a_week_of_downtime_is_one_backup_each_and_no_stampede,
    a_clock_that_jumps_makes_no_burst,
    another_schedule_counts_from_now,
}

async fn every_day_once(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.days(7).await;
    let jobs = world.jobs(JobKind::Backup).await;
    assert_eq!(jobs.len(), 7);
    assert!(jobs.iter().all(|job| job.state == JobState::Completed));
    assert_eq!(world.points("web").await.len(), 7);
}

async fn a_week_of_downtime_is_one_backup_each_and_no_stampede(bed: Bed) {
    let mut world = World::new(bed).await;
    for n in 0..20 {
        world.protected(&format!("m{n}")).await;
    }
    world.days(1).await;
    let before = world.jobs(JobKind::Backup).await.len();
    assert_eq!(before, 20);
    world.pass(7 * DAY);
    world.restart().await;
    world.control.settle().await.expect("settles");
    let at_once = world.jobs(JobKind::Backup).await.len() - before;
    assert!(at_once < 20, "all {at_once} at once");
    for _ in 0..12 {
        world.pass(HOUR / 2);
        world.control.settle().await.expect("settles");
    }
    let after = world.jobs(JobKind::Backup).await.len() - before;
    assert!((20..=40).contains(&after), "{after}");
}

async fn a_clock_that_jumps_makes_no_burst(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.days(3).await;
    let count = world.jobs(JobKind::Backup).await.len();
    world.jump(30 * DAY);
    world.days(1).await;
    let ahead = world.jobs(JobKind::Backup).await.len() - count;
    assert!((1..=2).contains(&ahead), "{ahead}");
    world.jump(-30 * DAY);
    world.days(3).await;
    let back = world.jobs(JobKind::Backup).await.len() - count - ahead;
    assert!((2..=4).contains(&back), "{back}");
}

async fn another_schedule_counts_from_now(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.days(1).await;
    let (control, admin) = (&world.control, &world.admin);
    let policy = control.policy(admin, "main", "default").await.expect("a policy").value;
    let mut rules = policy.rules;
    rules.schedule = serde_json::from_value(serde_json::json!({
        "daily": { "times": ["23:00"] }
    }))
    .expect("a schedule");
    rules.start_spread_minutes = 0;
    let change = strongroom_api::PolicyUpdate { rules: Some(rules), ..Default::default() };
    control.update_policy(admin, "main", "default", None, change).await.expect("changes");
    let next = world.item("web").await.next_backup.expect("planned");
    assert_eq!(next.to_string(), "2026-03-02T23:00:00Z");
}
