//! What the service costs when nothing happens.

use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::Rounds;

use crate::world::World;

on_both_databases! {
    an_idle_server_writes_twice_in_thirty_seconds,
    what_is_due_is_begun_by_an_idle_server,
    the_trusted_time_only_lags_after_a_crash,
    a_house_in_which_nothing_is_due_is_not_written_to,
}

async fn rounds(world: &World, rounds: &mut Rounds, count: u32) {
    for _ in 0..count {
        world.control.tick(rounds).await.expect("a round");
        rounds.settle().await;
        world.pass(1);
    }
}

async fn an_idle_server_writes_twice_in_thirty_seconds(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.save_every_minutes = 60).await;
    world.protected("a").await;
    world.backup("a").await;
    let mut state = Rounds::default();
    rounds(&world, &mut state, 400).await;
    for _ in 0..4 {
        let before = world.control.pulse().writes().0;
        rounds(&world, &mut state, 30).await;
        let writes = world.control.pulse().writes().0 - before;
        assert!(writes <= 2, "{writes} commits in 30 s");
    }
}

async fn what_is_due_is_begun_by_an_idle_server(bed: Bed) {
    let world = World::new(bed).await;
    let next = world.protected("a").await.next_backup.expect("a next backup");
    let mut state = Rounds::default();
    rounds(&world, &mut state, 5).await;
    world.pass(next.duration_since(world.now()).as_secs() - 3);
    // Nothing is asked of the catalog from second to second, and the backup begins to the second.
    rounds(&world, &mut state, 3).await;
    assert_eq!(world.shared.outside().backups_made, 0);
    rounds(&world, &mut state, 2).await;
    assert_eq!(world.shared.outside().backups_made, 1);
    // What somebody asks for begins at the next round.
    let request = strongroom_api::BackupNow::default();
    world.control.backup_now(&world.admin, "a", request).await.expect("begins");
    rounds(&world, &mut state, 1).await;
    assert_eq!(world.shared.outside().backups_made, 2);
}

async fn the_trusted_time_only_lags_after_a_crash(bed: Bed) {
    let mut world = World::new(bed).await;
    let mut state = Rounds::default();
    rounds(&world, &mut state, 59).await;
    // The clock jumps and the server dies before it has written anything down.
    let before = world.now();
    world.jump(400 * crate::world::DAY);
    world.restart().await;
    rounds(&world, &mut Rounds::default(), 1).await;
    let status = world.control.status(&world.admin).await.expect("a status");
    assert!(status.server.iter().any(|it| it.code.as_str() == "server.clock"), "{status:?}");
    // Deleted now, it goes after fourteen days of the time that has really passed.
    let stop = strongroom_api::StopProtection { mode: strongroom_api::StopMode::DeleteData };
    world.protected("a").await;
    world.control.stop_protection(&world.admin, "a", stop).await.expect("deletes");
    let after = world.item("a").await.purge_after.expect("a time");
    let days = after.duration_since(before).as_hours() / 24;
    assert_eq!(days, 14, "{after}");
}

async fn a_house_in_which_nothing_is_due_is_not_written_to(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("a").await;
    world.days(3).await;
    let before = world.control.pulse().writes().0;
    world.pass(60);
    world.control.keep_house().await.expect("keeps house");
    assert_eq!(world.control.pulse().writes().0, before);
}

/// How long the house takes if all points are to be judged, as it was each time before items knew when
/// something is due, and if nothing is due.
#[allow(clippy::disallowed_methods, reason = "what is measured takes real time")]
async fn house(items: u64, each: u64) -> [std::time::Duration; 2] {
    let world = World::new(Bed::sqlite().expect("a folder")).await;
    for number in 0..items {
        let name = format!("vm{number}");
        world.protected(&name).await;
        world.backup(&name).await;
        crate::saved::multiply(&world, &name, each).await;
    }
    // Once, for what is written down the first time.
    world.control.keep_house().await.expect("keeps house");
    let tags = Some([("judge".to_owned(), "all".to_owned())].into());
    let change = strongroom_api::VaultUpdate { tags, ..Default::default() };
    world.control.update_vault(&world.admin, "main", None, change).await.expect("changes");
    let mut times = [std::time::Duration::ZERO; 2];
    for time in &mut times {
        let begun = std::time::Instant::now();
        world.control.keep_house().await.expect("keeps house");
        *time = begun.elapsed();
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_house_in_which_nothing_is_due_costs_little() {
    let [all, none] = house(4, 2500).await;
    assert!(none * 5 < all, "{none:?} of {all:?}");
}

/// Takes minutes, so only with `STRONGROOM_LONG=1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_house_with_a_million_points_costs_a_hundredth() {
    if std::env::var_os("STRONGROOM_LONG").is_none() {
        return;
    }
    let [all, none] = house(100, 10_000).await;
    println!("all points: {all:?}, nothing due: {none:?}");
    assert!(none * 100 < all, "{none:?} of {all:?}");
}
