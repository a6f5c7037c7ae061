//! Notices of alerts: each once, together, by all channels, whatever fails; and two days before
//! something is gone for good.

use std::sync::{Arc, Mutex, MutexGuard};

use strongroom_api::{
    Alert, AlertState, AlertTest, Notice, Severity, StopMode, StopProtection, VaultUpdate,
};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::notify::{Channel, Sending, Undelivered};

use crate::world::{DAY, HOUR, World, refusal};

on_both_databases! {
    each_alert_is_sent_once_and_once_when_it_is_over,
    a_storm_is_one_notice,
    only_what_is_bad_enough_is_sent,
    what_fails_is_tried_again_with_the_same_id,
    what_is_refused_is_given_up_and_seen,
    a_day_without_success_is_given_up,
    a_server_that_dies_while_it_sends_sends_again,
    channels_are_tried,
    deletion_is_announced_two_days_before,
    what_is_brought_back_is_not_purged_soon,
    what_is_over_stays_over,
}

/// A channel in memory.
struct Sink {
    name: &'static str,
    least: Severity,
    state: Mutex<SinkState>,
}

#[derive(Default)]
struct SinkState {
    fails: Option<Undelivered>,
    hangs: bool,
    tried: Vec<Notice>,
    got: Vec<Notice>,
}

impl Sink {
    fn new(name: &'static str, least: Severity) -> Arc<Self> {
        Arc::new(Self { name, least, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock().expect("locks")
    }

    /// What has arrived since it was asked last.
    fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut self.state().got)
    }
}

impl Channel for Sink {
    fn name(&self) -> &str {
        self.name
    }

    fn kind(&self) -> &'static str {
        "sink"
    }

    fn least(&self) -> Severity {
        self.least
    }

    fn send<'a>(&'a self, notice: &'a Notice) -> Sending<'a> {
        Box::pin(async move {
            let hangs = {
                let mut state = self.state();
                state.tried.push(notice.clone());
                if let Some(error) = &state.fails {
                    return Err(error.clone());
                }
                state.got.push(notice.clone());
                state.hangs
            };
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

async fn with(bed: Bed, sinks: &[&Arc<Sink>]) -> World {
    let channel = |sink: &&Arc<Sink>| -> Arc<dyn Channel> { Arc::<Sink>::clone(sink) };
    World::with_channels(bed, sinks.iter().map(channel).collect()).await
}

fn said(notices: &[Notice]) -> Vec<Vec<(String, AlertState)>> {
    let of = |alert: &Alert| (alert.rule.clone(), alert.state);
    notices.iter().map(|notice| notice.alerts.iter().map(of).collect()).collect()
}

async fn fail(world: &World, name: &str) {
    world.shared.outside().backups_fail.push_back(Some(&codes::KEY_WRONG));
    world.backup(name).await;
}

async fn send(world: &World) {
    world.control.send_alerts().await.expect("sends");
}

async fn each_alert_is_sent_once_and_once_when_it_is_over(bed: Bed) {
    let (mail, hook) = (Sink::new("mail", Severity::Warning), Sink::new("hook", Severity::Error));
    let world = with(bed, &[&mail, &hook]).await;
    world.protected("web").await;
    send(&world).await;
    assert!(mail.take().is_empty());
    // Three nights.
    for _ in 0..3 {
        fail(&world, "web").await;
        send(&world).await;
        world.pass(HOUR);
    }
    let firing = vec![vec![("backup_failed".to_owned(), AlertState::Firing)]];
    assert_eq!(said(&mail.take()), firing);
    assert_eq!(said(&hook.take()), firing);
    world.backup("web").await;
    send(&world).await;
    send(&world).await;
    let resolved = vec![vec![("backup_failed".to_owned(), AlertState::Resolved)]];
    assert_eq!(said(&mail.take()), resolved);
    assert_eq!(said(&hook.take()), resolved);
    // What comes and goes before it was sent is not sent.
    fail(&world, "web").await;
    world.backup("web").await;
    send(&world).await;
    assert!(mail.take().is_empty());
}

async fn a_storm_is_one_notice(bed: Bed) {
    let mail = Sink::new("mail", Severity::Warning);
    let world = with(bed, &[&mail]).await;
    for number in 0..8 {
        let name = format!("vm{number}");
        world.protected(&name).await;
        fail(&world, &name).await;
    }
    send(&world).await;
    let notices = mail.take();
    assert_eq!((notices.len(), notices[0].alerts.len()), (1, 8));
}

async fn only_what_is_bad_enough_is_sent(bed: Bed) {
    let mail = Sink::new("mail", Severity::Error);
    let world = with(bed, &[&mail]).await;
    let uuid = world.machine("web");
    world.protected("web").await;
    world.shared.outside().machines.remove(&uuid);
    world.backup("web").await;
    assert_eq!(world.alerts().await[0].rule, "source_missing");
    send(&world).await;
    assert!(mail.state().tried.is_empty());
}

async fn what_fails_is_tried_again_with_the_same_id(bed: Bed) {
    let (mail, hook) = (Sink::new("mail", Severity::Error), Sink::new("hook", Severity::Error));
    let world = with(bed, &[&mail, &hook]).await;
    mail.state().fails = Some(Undelivered::passing("nobody is there"));
    world.protected("web").await;
    fail(&world, "web").await;
    send(&world).await;
    assert_eq!(hook.take().len(), 1, "one channel does not wait for another");
    // Not before its time.
    send(&world).await;
    assert_eq!(mail.state().tried.len(), 1);
    // What comes meanwhile is gathered in one more notice.
    for name in ["a", "b"] {
        world.pass(1);
        world.protected(name).await;
        fail(&world, name).await;
        send(&world).await;
    }
    for _ in 0..3 {
        world.pass(600);
        send(&world).await;
    }
    assert_eq!(mail.state().tried.len(), 4);
    let status = world.control.status(&world.admin).await.expect("a status");
    assert_eq!(status.server[0].code.as_str(), "alert.undelivered");
    assert!(status.server[0].message.contains("nobody is there"), "{:?}", status.server);
    let own =
        |alert: &Alert| alert.rule == "alert_undelivered" && alert.state == AlertState::Firing;
    assert_eq!(world.alerts().await.iter().filter(|alert| own(alert)).count(), 1);
    mail.state().fails = None;
    world.pass(HOUR);
    send(&world).await;
    send(&world).await;
    let tried: Vec<_> = mail.state().tried.iter().map(|notice| notice.id).collect();
    assert!(tried[..5].iter().all(|id| *id == tried[0]), "{tried:?}");
    let got = mail.take();
    let counts: Vec<usize> = got.iter().map(|notice| notice.alerts.len()).collect();
    assert_eq!(counts, [1, 2], "{got:?}");
    assert!(world.control.status(&world.admin).await.expect("a status").server.is_empty());
    // It was sent through the other channel, not through the failing one.
    let sent = said(&hook.take()).concat();
    assert!(sent.contains(&("alert_undelivered".to_owned(), AlertState::Firing)), "{sent:?}");
    assert!(sent.contains(&("alert_undelivered".to_owned(), AlertState::Resolved)), "{sent:?}");
    assert!(!said(&got).concat().iter().any(|(rule, _)| rule == "alert_undelivered"));
}

async fn what_is_refused_is_given_up_and_seen(bed: Bed) {
    let mail = Sink::new("mail", Severity::Error);
    let world = with(bed, &[&mail]).await;
    mail.state().fails = Some(Undelivered::refused("550 no such user"));
    world.protected("web").await;
    fail(&world, "web").await;
    for _ in 0..3 {
        send(&world).await;
        world.pass(DAY);
    }
    assert_eq!(mail.state().tried.len(), 1);
    let status = world.control.status(&world.admin).await.expect("a status");
    assert!(status.server[0].message.contains("1 given up): 550"), "{:?}", status.server);
    let alerts = world.alerts().await;
    assert!(alerts.iter().any(|alert| alert.rule == "alert_undelivered"), "{alerts:?}");
    assert_eq!(world.control.notices().await.expect("notices"), [("mail".to_owned(), 0, 1)]);
    // The next that arrives shows that all is well.
    mail.state().fails = None;
    world.protected("db").await;
    fail(&world, "db").await;
    send(&world).await;
    assert_eq!(mail.take().len(), 1);
    assert_eq!(world.control.notices().await.expect("notices"), [("mail".to_owned(), 0, 0)]);
}

async fn a_day_without_success_is_given_up(bed: Bed) {
    let mail = Sink::new("mail", Severity::Error);
    let world = with(bed, &[&mail]).await;
    mail.state().fails = Some(Undelivered::passing("it is full"));
    world.protected("web").await;
    fail(&world, "web").await;
    for _ in 0..30 {
        send(&world).await;
        world.pass(HOUR);
    }
    // At once, and each hour up to the day's end.
    assert_eq!(mail.state().tried.len(), 25);
    assert_eq!(world.control.notices().await.expect("notices"), [("mail".to_owned(), 0, 1)]);
}

async fn a_server_that_dies_while_it_sends_sends_again(bed: Bed) {
    let mail = Sink::new("mail", Severity::Error);
    let mut world = with(bed, &[&mail]).await;
    world.protected("web").await;
    fail(&world, "web").await;
    mail.state().hangs = true;
    // It has arrived, but the server dies before it knows.
    let control = Arc::clone(&world.control);
    let notices = tokio::spawn(async move { control.send_alerts().await });
    while mail.state().tried.is_empty() {
        tokio::task::yield_now().await;
    }
    notices.abort();
    assert!(notices.await.expect_err("it was aborted").is_cancelled());
    mail.state().hangs = false;
    world.restart().await;
    world.pass(60);
    send(&world).await;
    let got = mail.take();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0], got[1], "the same notice, with the same id");
    world.pass(HOUR);
    send(&world).await;
    assert!(mail.take().is_empty());
}

async fn channels_are_tried(bed: Bed) {
    let (mail, hook) = (Sink::new("mail", Severity::Critical), Sink::new("hook", Severity::Error));
    let world = with(bed, &[&mail, &hook]).await;
    hook.state().fails = Some(Undelivered::passing("nobody is there"));
    let all = AlertTest::default();
    let tried = world.control.test_alerts(&world.admin, all).await.expect("tries");
    let names: Vec<_> = tried.iter().map(|tried| tried.channel.as_str()).collect();
    assert_eq!(names, ["mail", "hook"]);
    assert_eq!(tried[0].error, None);
    assert_eq!(tried[1].error.as_ref().expect("why").message, "nobody is there");
    assert!(mail.take()[0].test);
    let one = AlertTest { channel: Some("mail".to_owned()) };
    assert_eq!(world.control.test_alerts(&world.admin, one).await.expect("tries").len(), 1);
    let none = AlertTest { channel: Some("pigeon".to_owned()) };
    assert_eq!(refusal(world.control.test_alerts(&world.admin, none).await), "alert.no_channel");
    // No alert comes of it.
    assert!(world.alerts().await.is_empty());
}

async fn firing(world: &World, rule: &str) -> usize {
    let alerts = world.alerts().await;
    let firing = |alert: &&Alert| alert.rule == rule && alert.state == AlertState::Firing;
    alerts.iter().filter(firing).count()
}

async fn deletion_is_announced_two_days_before(bed: Bed) {
    let mail = Sink::new("mail", Severity::Critical);
    let world = with(bed, &[&mail]).await;
    world.protected("web").await;
    world.days(2).await;
    let delete = StopProtection { mode: StopMode::DeleteData };
    world.control.stop_protection(&world.admin, "web", delete).await.expect("deletes");
    send(&world).await;
    assert_eq!(said(&mail.take()).concat().len(), 1);
    world.days(11).await;
    send(&world).await;
    assert!(mail.take().is_empty(), "three days before");
    world.days(2).await;
    world.settle().await;
    send(&world).await;
    let sent = mail.take();
    assert_eq!(said(&sent), [[("purge_soon".to_owned(), AlertState::Firing)]]);
    assert!(sent[0].alerts[0].title.contains("web"), "{sent:?}");
    assert_eq!(sent[0].alerts[0].count, 1, "{sent:?}");
    world.days(3).await;
    world.settle().await;
    assert_eq!(world.stored(), 0);
    send(&world).await;
    let mut sent = said(&mail.take()).concat();
    sent.sort_unstable();
    let expected = [
        ("purge_soon".to_owned(), AlertState::Resolved),
        ("purged".to_owned(), AlertState::Firing),
    ];
    assert_eq!(sent, expected);
    // A vault goes with the same warning.
    world.vault("other").await;
    world.control.delete_vault(&world.admin, "other", None).await.expect("deletes");
    world.days(13).await;
    assert_eq!(firing(&world, "purge_soon").await, 1);
    world.days(2).await;
    world.settle().await;
    assert_eq!((firing(&world, "purge_soon").await, firing(&world, "purged").await), (0, 2));
}

async fn what_is_brought_back_is_not_purged_soon(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.days(3).await;
    // A single point that was deleted, and then the item with the rest.
    let point = world.points("web").await[0].id.to_string();
    world.control.delete_point(&world.admin, "web", &point, None).await.expect("deletes");
    world.days(13).await;
    assert_eq!(firing(&world, "purge_soon").await, 1);
    world.days(2).await;
    world.settle().await;
    assert_eq!((firing(&world, "purge_soon").await, firing(&world, "purged").await), (0, 1));
    let delete = StopProtection { mode: StopMode::DeleteData };
    world.control.stop_protection(&world.admin, "web", delete).await.expect("deletes");
    world.days(13).await;
    assert_eq!(firing(&world, "purge_soon").await, 1);
    world.control.undelete_item(&world.admin, "web").await.expect("brings back");
    world.settle().await;
    assert_eq!(firing(&world, "purge_soon").await, 0);
    // Without soft delete there is nothing to warn of.
    let off: VaultUpdate = serde_json::from_value(serde_json::json!({
        "soft_delete": { "state": "disabled", "retention_days": 14 } }))
    .expect("a change");
    world.control.update_vault(&world.admin, "main", None, off).await.expect("changes");
    let delete = StopProtection { mode: StopMode::DeleteData };
    world.control.stop_protection(&world.admin, "web", delete).await.expect("deletes");
    world.settle().await;
    assert_eq!((firing(&world, "purge_soon").await, world.stored()), (0, 0));
}

async fn what_is_over_stays_over(bed: Bed) {
    let mail = Sink::new("mail", Severity::Error);
    let world = with(bed, &[&mail]).await;
    world.protected("web").await;
    fail(&world, "web").await;
    send(&world).await;
    let id = world.alerts().await[0].id;
    let set = |state| world.control.set_alert(&world.admin, id, state);
    for state in [AlertState::Resolved, AlertState::Resolved, AlertState::Acknowledged] {
        assert_eq!(set(state).await.expect("sets").state, AlertState::Resolved);
    }
    send(&world).await;
    assert_eq!(said(&mail.take()).concat().len(), 2, "raised, and over once");
}
