//! Leases over time.

use super::*;

const NOW: Ticks = Ticks(1_000_000 * Ticks::SECOND);

fn id(text: &str) -> LeaseId {
    LeaseId(text.to_owned())
}

fn act(
    lease: Option<&Lease>,
    action: &LeaseAction,
    seconds: u64,
) -> Result<(Option<Lease>, LeaseDone), Refusal> {
    Lease::act(lease, action, NOW.plus_seconds(seconds), || id("made"))
}

fn acquire(name: Option<&str>, duration: Option<u64>) -> LeaseAction {
    LeaseAction::Acquire { id: name.map(id), duration }
}

fn leased(duration: Option<u64>) -> Lease {
    act(None, &acquire(Some("one"), duration), 0).expect("free").0.expect("a lease")
}

#[test]
fn a_lease_excludes_others_until_it_expires() {
    let lease = leased(Some(15));
    assert_eq!(
        act(Some(&lease), &acquire(Some("two"), None), 14),
        Err(Refusal::LeaseAlreadyPresent)
    );
    assert_eq!(
        Lease::admits(Some(&lease), None, NOW.plus_seconds(14)),
        Err(Refusal::LeaseIdMissing)
    );
    assert_eq!(Lease::admits(Some(&lease), Some(&id("two")), NOW), Err(Refusal::LeaseIdMismatch));
    assert_eq!(Lease::admits(Some(&lease), Some(&id("one")), NOW), Ok(()));
    assert_eq!(Lease::state(Some(&lease), NOW.plus_seconds(15)), LeaseState::Expired);
    assert_eq!(
        Lease::admits(Some(&lease), Some(&id("one")), NOW.plus_seconds(15)),
        Err(Refusal::LeaseLost)
    );
    assert!(act(Some(&lease), &acquire(Some("two"), None), 15).is_ok());
    let renewed = act(Some(&lease), &LeaseAction::Renew { id: id("one") }, 20).expect("renews").0;
    assert_eq!(Lease::state(renewed.as_ref(), NOW.plus_seconds(34)), LeaseState::Leased);
}

#[test]
fn durations_and_periods_have_limits() {
    for seconds in [0, 14, 61] {
        assert_eq!(act(None, &acquire(None, Some(seconds)), 0), Err(Refusal::LeaseDuration));
    }
    let made = act(None, &acquire(None, None), 0).expect("infinite").1;
    assert_eq!(made.id, Some(id("made")));
    let break_61 = LeaseAction::Break { period: Some(61) };
    assert_eq!(act(Some(&leased(None)), &break_61, 0), Err(Refusal::LeaseBreakPeriod));
}

#[test]
fn a_break_waits_for_its_period_and_comes_only_sooner() {
    let lease = leased(None);
    let (broken, done) =
        act(Some(&lease), &LeaseAction::Break { period: Some(30) }, 0).expect("breaks");
    assert_eq!(done.remaining, Some(30));
    let broken = broken.expect("stays");
    assert_eq!(Lease::state(Some(&broken), NOW.plus_seconds(29)), LeaseState::Breaking);
    assert_eq!(Lease::state(Some(&broken), NOW.plus_seconds(30)), LeaseState::Broken);
    assert_eq!(
        act(Some(&broken), &acquire(Some("one"), None), 1),
        Err(Refusal::LeaseIsBreakingAndCannotBeAcquired)
    );
    assert_eq!(
        act(Some(&broken), &LeaseAction::Renew { id: id("one") }, 1),
        Err(Refusal::LeaseIsBrokenAndCannotBeRenewed)
    );
    let later = act(Some(&broken), &LeaseAction::Break { period: Some(60) }, 10).expect("breaks");
    assert_eq!(later.1.remaining, Some(20));
    let sooner = act(Some(&broken), &LeaseAction::Break { period: Some(0) }, 10).expect("breaks");
    assert_eq!(Lease::state(sooner.0.as_ref(), NOW.plus_seconds(10)), LeaseState::Broken);
    // Without a period: the rest of the lease, or nothing of an infinite one.
    let at_once = act(Some(&lease), &LeaseAction::Break { period: None }, 0).expect("breaks");
    assert_eq!(at_once.1.remaining, Some(0));
    let rest = act(Some(&leased(Some(60))), &LeaseAction::Break { period: None }, 20);
    assert_eq!(rest.expect("breaks").1.remaining, Some(40));
}

#[test]
fn only_its_holder_changes_or_releases_it() {
    let lease = leased(None);
    let other = LeaseAction::Release { id: id("two") };
    assert_eq!(act(Some(&lease), &other, 0), Err(Refusal::LeaseIdMismatchWithLease));
    let change = LeaseAction::Change { id: id("one"), to: id("two") };
    let changed = act(Some(&lease), &change, 0).expect("changes").0.expect("stays");
    assert_eq!(changed.id, id("two"));
    // A repeated change finds its result.
    assert!(act(Some(&changed), &change, 0).is_ok());
    assert_eq!(act(Some(&changed), &other, 0).expect("releases").0, None);
    assert_eq!(act(None, &change, 0), Err(Refusal::LeaseNotPresentWithLease));
}
