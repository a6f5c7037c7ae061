use std::collections::BTreeSet;

use strongroom_base::{Coded, SystemClock, codes};

use super::*;
use crate::{
    Faults, Faulty, Memory,
    conformance::{self, Extent},
};

type Leg = Arc<Faulty<Memory>>;

fn leg() -> Leg {
    Arc::new(Faulty::new(Memory::default(), SystemClock, Faults::default()))
}

fn mirror<const N: usize>() -> (Mirror, [Leg; N]) {
    let legs = [(); N].map(|()| leg());
    let stores = legs.iter().map(store).collect();
    (Mirror::new(stores, Vec::new()), legs)
}

/// The same copies, seen by a process that has not met any failure yet.
fn seen_afresh<const N: usize>(legs: &[Leg; N]) -> Mirror {
    let stores = legs.iter().map(store).collect();
    Mirror::new(stores, Vec::new())
}

fn store(leg: &Leg) -> Arc<dyn ObjectStore> {
    Arc::<Faulty<Memory>>::clone(leg)
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

fn held(leg: &Leg, name: &str) -> Option<Vec<u8>> {
    leg.inner().get(&key(name), MAX_OBJECT_LEN).ok()
}

fn down() -> Faults {
    Faults { crash_at: Some(0), ..Faults::default() }
}

fn keys(store: &dyn ObjectStore) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut visit = |entry: Entry| {
        assert!(keys.insert(entry.key.as_str().to_owned()), "{entry:?} is listed twice");
        ControlFlow::Continue(())
    };
    store.list("", &mut visit).expect("a list");
    keys
}

#[test]
fn conforms() {
    let (mirror, legs) = mirror::<3>();
    conformance::check(&mirror, "suite/", Extent { large: 1 << 20, ..Extent::default() })
        .expect("a store");
    assert!(mirror.degraded().is_empty());
    assert!(legs.iter().all(|leg| keys(leg.inner()).is_empty()));
}

#[test]
fn a_put_is_on_every_copy() {
    let (mirror, legs) = mirror::<3>();
    assert_eq!(mirror.put_new(&key("a"), b"body").expect("a put"), Put::Created);
    assert!(legs.iter().all(|leg| held(leg, "a").as_deref() == Some(b"body")));
}

#[test]
fn a_failing_copy_is_degraded_and_the_others_go_on() {
    for broken in 0..2 {
        let (mirror, legs) = mirror::<2>();
        legs[broken].set(Faults { capacity: Some(0), ..Faults::default() });
        assert_eq!(mirror.put_new(&key("a"), b"body").expect("a put"), Put::Created);
        assert_eq!(mirror.degraded().len(), 1);
        assert_eq!(held(&legs[1 - broken], "a").as_deref(), Some(b"body".as_slice()));
        // It is not written again, even when it could be.
        legs[broken].set(Faults::default());
        mirror.put_new(&key("b"), b"body").expect("a put");
        assert_eq!(held(&legs[broken], "b"), None);
        // A later run finds what is missing and completes it.
        let later = seen_afresh(&legs);
        for name in ["a", "b"] {
            assert_eq!(later.get(&key(name), 9).expect("a get"), b"body");
        }
        assert_eq!(later.heal(&key("a"), &|body| body == b"body").expect("it"), {
            if broken == 0 { Heal::Healthy } else { Heal::Repaired }
        });
    }
}

#[test]
fn without_any_copy_a_put_fails_with_the_cause() {
    let (mirror, legs) = mirror::<2>();
    for leg in &legs {
        leg.set(Faults { capacity: Some(0), ..Faults::default() });
    }
    let error = mirror.put_new(&key("a"), b"body").expect_err("no room anywhere");
    assert_eq!(error.code(), &codes::STORE_FULL);
    let error = mirror.put_new(&key("a"), b"body").expect_err("no copy left");
    assert_eq!(error.code(), &codes::STORE_UNAVAILABLE);
}

#[test]
fn a_missing_copy_is_served_by_another_and_rebuilt() {
    let (mirror, legs) = mirror::<2>();
    let body: Vec<u8> = (0..=255).collect();
    mirror.put_new(&key("a"), &body).expect("a put");
    mirror.put_new(&key("b"), &body).expect("a put");
    for name in ["a", "b"] {
        legs[0].inner().delete(&key(name)).expect("lost");
    }
    assert_eq!(mirror.get(&key("a"), 256).expect("a get"), body);
    let part = mirror.get_range(&key("b"), ByteRange::between(10, 20)).expect("a range");
    assert_eq!(part, &body[10..20]);
    for name in ["a", "b"] {
        assert_eq!(held(&legs[0], name).as_deref(), Some(body.as_slice()));
    }
}

#[test]
fn a_short_or_failing_copy_is_passed_over_and_kept_for_heal() {
    let (mirror, legs) = mirror::<2>();
    mirror.put_new(&key("a"), b"0123456789").expect("a put");
    legs[0].inner().replace(&key("a"), b"012").expect("cut");
    let part = mirror.get_range(&key("a"), ByteRange::between(5, 9)).expect("a range");
    assert_eq!(part, b"5678");
    assert_eq!(held(&legs[0], "a").as_deref(), Some(b"012".as_slice()));
    legs[0].set(down());
    assert_eq!(mirror.get(&key("a"), 10).expect("a get"), b"0123456789");
    // Neither copy can answer: that is not the same as missing.
    legs[1].inner().delete(&key("a")).expect("lost");
    let error = mirror.get(&key("a"), 10).expect_err("unknown");
    assert_eq!(error.code(), &codes::STORE_UNAVAILABLE);
}

#[test]
fn heal_repairs_missing_and_rotten_copies() {
    let good = |body: &[u8]| body == b"good";
    let (mirror, legs) = mirror::<3>();
    mirror.put_new(&key("a"), b"good").expect("a put");
    assert_eq!(mirror.heal(&key("a"), &good).expect("it"), Heal::Healthy);
    legs[0].inner().replace(&key("a"), b"rot").expect("it");
    legs[2].inner().delete(&key("a")).expect("it");
    assert_eq!(mirror.heal(&key("a"), &good).expect("it"), Heal::Repaired);
    assert!(legs.iter().all(|leg| held(leg, "a").as_deref() == Some(b"good")));
    for leg in &legs {
        leg.inner().replace(&key("a"), b"rot").expect("it");
    }
    assert_eq!(mirror.heal(&key("a"), &good).expect("it"), Heal::Lost);
    assert_eq!(mirror.heal(&key("none"), &good).expect("it"), Heal::Lost);
    // The copy that cannot be read may be the good one.
    legs[1].set(down());
    mirror.heal(&key("a"), &good).expect_err("unknown");
}

#[test]
fn an_empty_copy_is_a_bad_one_wherever_it_is() {
    for empty in 0..2 {
        let (mirror, legs) = mirror::<2>();
        legs[1 - empty].inner().put_new(&key("a"), b"body").expect("it");
        legs[empty].inner().put_new(&key("a"), b"").expect("it");
        assert_eq!(mirror.put_new(&key("a"), b"body").expect("a put"), Put::Exists);
        assert_eq!(mirror.heal(&key("a"), &|body| body == b"body").expect("it"), Heal::Repaired);
        assert!(legs.iter().all(|leg| held(leg, "a").as_deref() == Some(b"body")));
    }
}

#[test]
fn what_only_the_second_copy_has_still_exists() {
    let (mirror, legs) = mirror::<2>();
    // Of an empty object nobody knows whether it was cut.
    legs[1].inner().put_new(&key("empty"), b"").expect("it");
    assert_eq!(mirror.put_new(&key("empty"), b"manifest").expect("it"), Put::Exists);
    assert_eq!(held(&legs[0], "empty"), None);
    legs[1].inner().put_new(&key("pack"), b"pack").expect("it");
    assert_eq!(mirror.put_new(&key("pack"), b"pack").expect("it"), Put::Exists);
    assert!(legs.iter().all(|leg| held(leg, "pack").as_deref() == Some(b"pack")));
    // Of unknown bytes nobody knows whether they are good: they are not spread.
    legs[1].inner().put_new(&key("rot"), b"rot").expect("it");
    assert_eq!(mirror.put_new(&key("rot"), b"good").expect("it"), Put::Exists);
    assert_eq!(held(&legs[0], "rot"), None);
}

/// A store whose first look misses what another process puts just then.
struct Blind(Leg);

impl ObjectStore for Blind {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.0.put_new(key, body)
    }
    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        if self.0.operations().gets == 0 {
            self.0.get(key, max_len).ok();
            return Err(StoreError::Missing { key: key.clone(), store: self.name() });
        }
        self.0.get(key, max_len)
    }
    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.0.get_range(key, range)
    }
    fn list(&self, p: &str, v: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.0.list(p, v)
    }
    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.0.delete(key)
    }
    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.0.replace(key, body)
    }
    fn name(&self) -> String {
        "blind".to_owned()
    }
    fn is_local(&self) -> bool {
        true
    }
}

#[test]
fn in_a_race_across_copies_nothing_is_overwritten() {
    for (ours, theirs, put) in [
        (b"manifest".as_slice(), b"void".as_slice(), Put::Exists),
        (b"void", b"manifest", Put::Exists),
        (b"manifest", b"", Put::Exists),
        (b"void", b"void", Put::Created),
    ] {
        let legs = [leg(), leg()];
        let second: Arc<dyn ObjectStore> = Arc::new(Blind(Arc::clone(&legs[1])));
        let mirror = Mirror::new(vec![store(&legs[0]), second], vec![]);
        legs[1].inner().put_new(&key("p"), theirs).expect("it");
        assert_eq!(mirror.put_new(&key("p"), ours).expect("a put"), put);
        assert_eq!(held(&legs[0], "p").as_deref(), Some(ours));
        assert_eq!(held(&legs[1], "p").as_deref(), Some(theirs));
    }
}

#[test]
fn nothing_is_deleted_while_a_copy_is_away() {
    let (mut mirror, legs) = mirror::<2>();
    mirror.put_new(&key("a"), b"body").expect("a put");
    legs[1].set(Faults { read_only: true, ..Faults::default() });
    mirror.delete(&key("a")).expect_err("one copy refused");
    assert_eq!(held(&legs[0], "a").as_deref(), Some(b"body".as_slice()));
    legs[1].set(Faults::default());
    mirror.delete(&key("a")).expect_err("it is degraded now");
    let later = seen_afresh(&legs);
    later.delete(&key("a")).expect("a delete");
    assert!(keys(&later).is_empty());

    mirror = Mirror::new(vec![store(&legs[0])], vec!["gone".into()]);
    assert_eq!(mirror.degraded(), ["gone"]);
    mirror.put_new(&key("b"), b"body").expect("a put");
    mirror.delete(&key("b")).expect_err("a copy is absent");
}

#[test]
fn lists_are_the_union_and_survive_a_copy() {
    let (mirror, legs) = mirror::<2>();
    mirror.put_new(&key("both"), b"1").expect("it");
    legs[0].inner().put_new(&key("left"), b"1").expect("it");
    legs[1].inner().put_new(&key("right"), b"1").expect("it");
    let all = ["both", "left", "right"].map(str::to_owned);
    assert_eq!(keys(&mirror), BTreeSet::from(all));
    legs[0].set(down());
    assert_eq!(keys(&mirror).len(), 2);
    assert_eq!(mirror.degraded().len(), 1);
    legs[1].set(down());
    mirror.list("", &mut |_| ControlFlow::Continue(())).expect_err("no copy answers");
}

/// Whatever fails when, in one run after the other: what was acknowledged is there, and what was
/// deleted does not come back.
#[test]
fn acknowledged_puts_and_deletes_survive_failing_copies() {
    for seed in 0..300 {
        let legs = [leg(), leg(), leg()];
        let mut present = BTreeSet::new();
        let mut unknown = BTreeSet::new();
        let mut deleted = BTreeSet::new();
        for run in 0..4_u64 {
            // Each run is a process of its own; in each another copy has the most trouble.
            let mirror = seen_afresh(&legs);
            for (nth, leg) in (0..).zip(&legs) {
                let fail_one_in = if (nth + run + seed) % 3 == 0 { 4 } else { 40 };
                leg.set(Faults { seed: seed * 31 + nth, fail_one_in, ..Faults::default() });
            }
            for nth in 0..12 {
                let name = format!("d/{run}-{nth}");
                match mirror.put_new(&key(&name), name.as_bytes()) {
                    Ok(Put::Created) => present.insert(name),
                    Ok(Put::Exists) | Err(_) => unknown.insert(name),
                };
                let old = present.iter().nth(nth).cloned().unwrap_or_default();
                if nth % 4 == 3 && !old.is_empty() {
                    present.remove(&old);
                    match mirror.delete(&key(&old)) {
                        Ok(()) => deleted.insert(old),
                        Err(_) => unknown.insert(old),
                    };
                }
                if let Some(name) = present.iter().nth(nth / 2)
                    && let Ok(body) = mirror.get(&key(name), 100)
                {
                    assert_eq!(body, name.as_bytes(), "seed {seed}");
                }
            }
        }
        for leg in &legs {
            leg.set(Faults::default());
        }
        let mirror = seen_afresh(&legs);
        let listed = keys(&mirror);
        for name in &present {
            assert!(listed.contains(name), "seed {seed}: {name} is not listed");
            let body = mirror.get(&key(name), 100);
            assert_eq!(body.ok().as_deref(), Some(name.as_bytes()), "seed {seed}: {name}");
            let good = |body: &[u8]| body == name.as_bytes();
            mirror.heal(&key(name), &good).expect("a heal");
            assert!(legs.iter().all(|leg| held(leg, name).is_some_and(|body| good(&body))));
        }
        for name in &deleted {
            assert!(!listed.contains(name), "seed {seed}: {name} came back");
        }
        assert!(!present.is_empty(), "seed {seed} did nothing");
    }
}
