//! Crashes at every step, damage to every byte, forgers, and two changes at once.

use strongroom_format::secret::MasterKey;
use strongroom_objects::{Faults, Faulty, Put};

use super::*;

type Step = fn(&Lab, &dyn ObjectStore, &mut KeyRing) -> Result<(), KeyError>;

fn add(lab: &Lab, store: &dyn ObjectStore, ring: &mut KeyRing) -> Result<(), KeyError> {
    ring.add_slot(store, &lab.key("new"), "new", CLOCK, CHANCE).map(|_| ())
}

fn remove(lab: &Lab, store: &dyn ObjectStore, ring: &mut KeyRing) -> Result<(), KeyError> {
    // Whichever slot opens with the key of bob; none if that is done already.
    match lab.open(store, &lab.key("bob")) {
        Ok(bob) => ring.remove_slot(store, bob.slot(), CLOCK, CHANCE),
        Err(KeyError::Wrong { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn exchange(lab: &Lab, store: &dyn ObjectStore, ring: &mut KeyRing) -> Result<(), KeyError> {
    match lab.open(store, &lab.key("bob")) {
        Ok(bob) => {
            ring.rotate_slot(store, bob.slot(), &lab.key("new"), "", CLOCK, CHANCE).map(|_| ())
        }
        Err(KeyError::Wrong { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn rotate(_: &Lab, store: &dyn ObjectStore, ring: &mut KeyRing) -> Result<(), KeyError> {
    ring.rotate_master(store, CLOCK, CHANCE).map(|_| ())
}

/// No object that no ring needs, and every copy there is.
fn assert_tidy(store: &dyn ObjectStore, ring: &mut KeyRing, context: &str) {
    let check = ring.check(store, false).expect("checks");
    assert_eq!((check.repairable, check.lost), (vec![], vec![]), "{context}");
    assert_eq!(objects(store).len(), check.objects, "{context}: leftovers");
}

/// Runs `step` with a crash at its n-th operation on the store, for every n.
fn crash_everywhere(name: &str, step: Step) {
    for seed in 0..2 {
        for crash_at in 0.. {
            let context = format!("{name}, crash at {crash_at}, seed {seed}");
            let (lab, store) = (Lab::new(), Lab::store());
            let mut ring = lab.create(&store, &lab.key("alice"));
            ring.add_slot(&store, &lab.key("bob"), "bob", CLOCK, CHANCE).expect("adds");
            let old = probe(&ring);

            let faults = Faults { seed, crash_at: Some(crash_at), ..Faults::default() };
            let faulty = Faulty::new(store, SystemClock, faults);
            let result = step(&lab, &faulty, &mut ring);
            let store = faulty.inner();
            // Copies and leftovers may be missed without harm, so a crash may end in success.
            let ended = result.is_ok() && faulty.count() <= crash_at;

            let mut alice = lab.open(store, &lab.key("alice")).expect(&context);
            assert!(probe(&alice).starts_with(&old), "{context}");
            for info in list_slots(store, lab.vault).expect("lists") {
                assert!(info.head.is_some(), "{context}: a slot without its object");
            }
            step(&lab, store, &mut alice).expect(&context);
            let mut again = lab.open(store, &lab.key("alice")).expect(&context);
            again.rotate_master(store, CLOCK, CHANCE).expect(&context);
            assert_tidy(store, &mut again, &context);
            for info in list_slots(store, lab.vault).expect("lists") {
                let head = info.head.expect("whole");
                let key = if head.label == "first" { "alice" } else { head.label.as_str() };
                let key = if key.is_empty() { "new" } else { key };
                let opened = lab.open(store, &lab.key(key)).expect(&context);
                assert_eq!(probe(&opened), probe(&again), "{context}");
            }
            if ended {
                assert!(crash_at > 3, "{context}: the step did nothing");
                break;
            }
        }
    }
}

#[test]
fn adding_survives_every_crash() {
    crash_everywhere("add", add);
}

#[test]
fn removing_survives_every_crash() {
    crash_everywhere("remove", remove);
}

#[test]
fn exchanging_survives_every_crash() {
    crash_everywhere("exchange", exchange);
}

#[test]
fn rotating_survives_every_crash() {
    crash_everywhere("rotate", rotate);
}

#[test]
fn creating_survives_every_crash() {
    for crash_at in 0.. {
        let lab = Lab::new();
        let faults = Faults { crash_at: Some(crash_at), ..Faults::default() };
        let faulty = Faulty::new(Lab::store(), SystemClock, faults);
        let source = lab.key("key");
        let made = KeyRing::create(&faulty, lab.vault, &source, "", CLOCK, CHANCE);
        if made.is_ok() {
            assert!(crash_at >= 4);
            break;
        }
        // The next attempt has another id and is not hindered.
        let store = faulty.inner();
        let vault = VaultId::generate(CLOCK, CHANCE);
        KeyRing::create(store, vault, &source, "", CLOCK, CHANCE).expect("creates");
        KeyRing::open(store, vault, &source).expect("opens");
    }
}

/// Every single-bit change, cut and extension of an object, sampled.
fn damages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(), [bytes, b" "].concat(), bytes[..bytes.len() - 1].to_vec()];
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (at % 8);
        all.push(damaged);
    }
    all
}

fn replace(store: &dyn ObjectStore, key: &Key, bytes: &[u8]) {
    store.delete(key).expect("deletes");
    assert_eq!(store.put_new(key, bytes).expect("puts"), Put::Created);
}

/// Two slots, two master keys, three generations.
fn grown(lab: &Lab, store: &dyn ObjectStore) -> KeyRing {
    let mut ring = lab.create(store, &lab.key("alice"));
    ring.add_slot(store, &lab.key("bob"), "bob", CLOCK, CHANCE).expect("adds");
    ring.rotate_master(store, CLOCK, CHANCE).expect("rotates");
    ring
}

#[test]
fn damage_to_any_byte_is_noticed_and_healed_from_the_copy() {
    let (lab, store) = (Lab::new(), Lab::store());
    let ring = grown(&lab, &store);
    let (alice, bob) = (lab.key("alice"), lab.key("bob"));
    let all = objects(&store);
    assert_eq!(all.len(), 10);
    for (key, bytes) in &all {
        for (at, damaged) in damages(bytes).into_iter().enumerate() {
            replace(&store, key, &damaged);
            // Everything still works, on the strength of the other copy. (Sampled: it is slow.)
            if at % 16 == 0 {
                for source in [&alice, &bob] {
                    let mut opened = lab.open(&store, source).expect("opens from the copy");
                    assert_eq!(probe(&opened), probe(&ring));
                    let check = opened.check(&store, false).expect("checks");
                    assert_eq!((check.repairable, check.lost.len()), (vec![key.clone()], 0));
                }
            }
        }
        let mut opened = lab.open(&store, &alice).expect("opens");
        opened.check(&store, true).expect("repairs");
        assert_eq!(objects(&store), all);
    }
}

#[test]
fn damage_to_both_copies_is_an_error_that_names_the_object() {
    let (lab, store) = (Lab::new(), Lab::store());
    grown(&lab, &store);
    let (alice, bob) = (lab.key("alice"), lab.key("bob"));
    let all = objects(&store);
    for (copy, bytes) in all.iter().filter(|(key, _)| key.as_str().contains("/copies/")) {
        let main = Key::new(copy.as_str().replace("/copies/", "/")).expect("name");
        for damaged in damages(bytes) {
            replace(&store, &main, &damaged);
            replace(&store, copy, &damaged);
            let results = [lab.open(&store, &alice), lab.open(&store, &bob)];
            let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
            // A ring is everybody's, a slot is one's own.
            assert_eq!(errors.len(), if main.as_str().contains("/rings/") { 2 } else { 1 });
            for error in errors {
                let named = matches!(&error, KeyError::Damaged { key, .. } if *key == main);
                // A flipped bit in the newest ring can damage what it says of a slot.
                let slot = main.as_str().ends_with("3.json")
                    && matches!(&error, KeyError::Damaged { .. } | KeyError::Removed { .. });
                assert!(named || slot, "{main}: {error:?}");
            }
        }
        replace(&store, &main, bytes);
        replace(&store, copy, bytes);
    }
    assert_eq!(objects(&store), all);
}

#[test]
fn missing_objects_are_noticed() {
    let (lab, store) = (Lab::new(), Lab::store());
    grown(&lab, &store);
    for (copy, bytes) in objects(&store) {
        let Some(main) =
            copy.as_str().contains("/copies/").then(|| copy.as_str().replace("/copies/", "/"))
        else {
            continue;
        };
        let main = Key::new(main).expect("name");
        store.delete(&main).expect("deletes");
        lab.open(&store, &lab.key("alice")).expect("opens from the copy");
        store.delete(&copy).expect("deletes");
        let failed = lab.open(&store, &lab.key("alice")).is_err();
        let newest = main.as_str().ends_with("3.json");
        let bobs = lab.open(&store, &lab.key("bob")).is_err();
        // Without any trace of the newest ring, the one before it is the newest.
        assert!(newest || failed || bobs, "{main}");
        store.put_new(&main, &bytes).expect("puts");
        store.put_new(&copy, &bytes).expect("puts");
    }
}

/// Somebody who can write to the store, but has no key, makes a ring of their own with the
/// slots' public keys and a master key that they know.
#[test]
fn a_ring_by_somebody_without_keys_is_refused() {
    let (lab, store) = (Lab::new(), Lab::store());
    let ring = grown(&lab, &store);
    let forged = (KeyId::generate(CLOCK, CHANCE), MasterKey::generate(CHANCE));
    let mut draft = ring.state.draft();
    draft.keys = vec![forged];
    let forgery = draft.seal(lab.vault, None, CLOCK.now(), CHANCE).expect("seals");
    // As the vault's first and only ring, all real ones deleted.
    for (key, _) in objects(&store) {
        if key.as_str().contains("/rings/") {
            store.delete(&key).expect("deletes");
        }
    }
    let first = super::super::objects::ring(lab.vault, 1).expect("name");
    store.put_new(&first.main, &forgery.encode().expect("encodes")).expect("puts");
    assert_eq!(lab.code(&store, &lab.key("alice")), &codes::STORE_CORRUPT);
}

/// Somebody who once had a slot, and kept the first master key, cannot make a ring that goes on
/// from one whose master key they never had: neither with a slot of theirs nor a known key.
#[test]
fn a_ring_by_somebody_with_an_old_key_is_refused() {
    let (lab, store) = (Lab::new(), Lab::store());
    let ring = grown(&lab, &store);
    let mut stale = ring.state.clone();
    stale.keys.pop();
    let mut draft = stale.draft();
    for keys in [
        vec![stale.keys[0].clone()],
        vec![stale.keys[0].clone(), (ring.current().0, MasterKey::generate(CHANCE))],
        vec![stale.keys[0].clone(), (KeyId::generate(CLOCK, CHANCE), MasterKey::generate(CHANCE))],
    ] {
        draft.keys = keys;
        let forgery = draft.seal(lab.vault, Some(&stale), CLOCK.now(), CHANCE).expect("seals");
        let pair = super::super::objects::ring(lab.vault, 4).expect("name");
        store.put_new(&pair.main, &forgery.encode().expect("encodes")).expect("puts");
        assert_eq!(lab.code(&store, &lab.key("alice")), &codes::STORE_CORRUPT);
        let mut opened = ring_copy(&ring);
        assert!(matches!(opened.refresh(&store), Err(KeyError::Damaged { .. })));
        store.delete(&pair.main).expect("deletes");
    }
}

fn ring_copy(ring: &KeyRing) -> KeyRing {
    KeyRing { holder: ring.holder.clone(), state: ring.state.clone() }
}

#[test]
fn keys_of_another_vault_do_not_fit() {
    let (lab, store) = (Lab::new(), Lab::store());
    grown(&lab, &store);
    let other = VaultId::generate(CLOCK, CHANCE);
    for (key, bytes) in objects(&store) {
        let name = key.as_str().replace(&lab.vault.to_string(), &other.to_string());
        store.put_new(&Key::new(name).expect("name"), &bytes).expect("puts");
    }
    let error = KeyRing::open(&store, other, &lab.key("alice")).expect_err("moved");
    assert_eq!(error.code(), &codes::STORE_CORRUPT);
}

#[test]
fn changes_at_once_all_come_about() {
    let (lab, store) = (Lab::new(), Lab::store());
    let source = lab.key("alice");
    lab.create(&store, &source);
    for name in ["a", "b", "c", "d"] {
        lab.key(name);
    }
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let (lab, store, source) = (&lab, &store, &source);
            scope.spawn(move || {
                let mut ring = lab.open(store, source).expect("opens");
                ring.add_slot(store, &lab.key(name), name, CLOCK, CHANCE).expect("adds");
                ring.rotate_master(store, CLOCK, CHANCE).expect("rotates");
            });
        }
    });
    let mut ring = lab.open(&store, &source).expect("opens");
    assert_eq!((ring.ids().count(), ring.generation()), (5, 9));
    for name in ["a", "b", "c", "d"] {
        assert_eq!(probe(&lab.open(&store, &lab.key(name)).expect("opens")), probe(&ring));
    }
    ring.rotate_master(&store, CLOCK, CHANCE).expect("rotates");
    assert_tidy(&store, &mut ring, "after all");
}

/// A process adds a slot; before it commits, another one takes the slot's object for a leftover
/// and removes it.
#[test]
fn a_slot_that_was_swept_while_being_added_is_made_again() {
    struct Meddler<'a> {
        lab: &'a Lab,
        store: &'a dyn ObjectStore,
        done: std::sync::atomic::AtomicBool,
    }
    impl ObjectStore for Meddler<'_> {
        fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, strongroom_objects::StoreError> {
            let put = self.store.put_new(key, body)?;
            if key.as_str().contains("/slots/") && !self.done.swap(true, Ordering::Relaxed) {
                let mut other = self.lab.open(self.store, &self.lab.key("alice")).expect("opens");
                other.rotate_master(self.store, CLOCK, CHANCE).expect("rotates");
            }
            Ok(put)
        }
        fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, strongroom_objects::StoreError> {
            self.store.get(key, max_len)
        }
        fn get_range(
            &self,
            key: &Key,
            range: strongroom_base::ByteRange,
        ) -> Result<Vec<u8>, strongroom_objects::StoreError> {
            self.store.get_range(key, range)
        }
        fn list(
            &self,
            prefix: &str,
            visit: &mut dyn FnMut(strongroom_objects::Entry) -> std::ops::ControlFlow<()>,
        ) -> Result<(), strongroom_objects::StoreError> {
            self.store.list(prefix, visit)
        }
        fn delete(&self, key: &Key) -> Result<(), strongroom_objects::StoreError> {
            self.store.delete(key)
        }
        fn heal(
            &self,
            key: &Key,
            check: &dyn Fn(&[u8]) -> bool,
        ) -> Result<strongroom_objects::Heal, strongroom_objects::StoreError> {
            self.store.heal(key, check)
        }
        fn replace(&self, key: &Key, body: &[u8]) -> Result<(), strongroom_objects::StoreError> {
            self.store.replace(key, body)
        }
        fn name(&self) -> String {
            self.store.name()
        }
        fn is_local(&self) -> bool {
            true
        }
    }
    let (lab, store) = (Lab::new(), Lab::store());
    let mut ring = lab.create(&store, &lab.key("alice"));
    let meddler = Meddler { lab: &lab, store: &store, done: false.into() };
    ring.add_slot(&meddler, &lab.key("bob"), "bob", CLOCK, CHANCE).expect("adds");
    assert_eq!(probe(&lab.open(&store, &lab.key("bob")).expect("opens")), probe(&ring));
    assert_tidy(&store, &mut ring, "after all");
}

#[test]
fn rings_and_slots_as_they_were_written_in_version_1_open_for_ever() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/keys-v1");
    let vault = VaultId::from_bytes([0x11; 16]);
    let source = KeySource::File(PathBuf::from(format!("{golden}/key")));
    let store = Lab::store();
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        let chance = Counted(AtomicU64::new(0));
        let mut ring =
            KeyRing::create(&store, vault, &source, "golden", CLOCK, &chance).expect("creates");
        let phrase = KeySource::Passphrase(PathBuf::from(format!("{golden}/passphrase")));
        ring.add_slot(&store, &phrase, "phrase", CLOCK, &chance).expect("adds");
        ring.rotate_master(&store, CLOCK, &chance).expect("rotates");
        // Slots have new names each time.
        fs::remove_dir_all(format!("{golden}/keys")).ok();
        for (key, bytes) in objects(&store) {
            let path = PathBuf::from(format!("{golden}/{key}"));
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, bytes).expect("writes");
        }
    }
    let store =
        strongroom_objects::Folder::open(golden.as_ref(), Arc::new(SystemEntropy)).expect("folder");
    for source in [source, KeySource::Passphrase(PathBuf::from(format!("{golden}/passphrase")))] {
        let ring = KeyRing::open(&store, vault, &source).expect("opens");
        let keys: Vec<_> = probe(&ring)
            .into_iter()
            .map(|(_, key)| strongroom_base::Digest::new(key).to_string())
            .collect();
        assert_eq!(
            keys,
            [
                "673c0cf1a7f84f3ecbb3e2554fd7546d8400e4e0a55946cb3bb716165f70c71f",
                "742fc98bd021ab848de663a4499ccadc709aaf44a941ba6ffc53faa6052d1059"
            ]
        );
    }
}
