//! Rot: objects of every kind, in every copy, are flipped, cut, emptied, zeroed, grown and lost. No restore
//! is ever wrong, damage is named, a mirror heals, and a reclaim takes nothing that the object would have
//! held once it is back.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{Chance, figures, many, world::World};
use crate::{harness::Lab, killed::run_until};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Flipped,
    Cut,
    Emptied,
    Zeroed,
    Grown,
    Lost,
}

const MANNERS: [Manner; 6] =
    [Manner::Flipped, Manner::Cut, Manner::Emptied, Manner::Zeroed, Manner::Grown, Manner::Lost];

#[derive(Default, Debug)]
struct Rots {
    cases: u64,
    /// Cases by kind of object.
    kinds: BTreeMap<String, u64>,
    restores: u64,
    /// Restores that were refused, with an error that says why.
    refused: u64,
    healed: u64,
}

/// What kind of object a file of a vault is.
fn kind(file: &Path, vault: &Path) -> String {
    let name = file.strip_prefix(vault).expect("inside the vault").to_string_lossy().into_owned();
    let mut parts: Vec<_> = name.split('/').collect();
    parts.pop();
    // Ids and hashes are no part of the kind.
    let parts: Vec<_> =
        parts.into_iter().filter(|part| part.len() < 20 && part.len() > 2).collect();
    if parts.is_empty() { "strongroom.json".to_owned() } else { parts.join("/") }
}

fn damage(file: &Path, manner: Manner, chance: &mut Chance) {
    let mut bytes = fs::read(file).expect("readable");
    match manner {
        Manner::Flipped => {
            let at = chance.index(bytes.len());
            bytes[at] ^= 1 << chance.below(8);
        }
        Manner::Cut => bytes.truncate(chance.index(bytes.len())),
        Manner::Emptied => bytes.clear(),
        Manner::Zeroed => bytes.fill(0),
        Manner::Grown => {
            let more = 1 + chance.below(100);
            bytes.extend(chance.bytes(more));
        }
        Manner::Lost => {}
    }
    fs::remove_file(file).expect("removed");
    if manner != Manner::Lost {
        fs::write(file, bytes).expect("written");
    }
}

/// A vault that has objects of every kind: points, a deletion note, and what a killed backup and a killed
/// reclaim leave behind.
fn world(chance: &mut Chance, mirrored: bool) -> World {
    let mut world = World::new(chance, mirrored);
    for item in ["web", "db", "web", "web", "db"] {
        world.backed_up(item, chance);
    }
    let left = |lab: &Lab, words: &str, folder: &str| {
        for step in 1..60 {
            run_until(lab, words, "renameat2", step);
            if !lab.files(&format!("vault/{folder}")).is_empty() {
                return;
            }
        }
        panic!("{words} leaves nothing in {folder}");
    };
    let point = world.oldest_of_many("web", 2).expect("it has three");
    world.give_up(&point);
    world.lab.ok(&World::delete(&point));
    left(&world.lab, "vault reclaim --wait 0s", "condemned");
    left(&world.lab, &World::backup("db"), "writers");
    world.look();
    world.keep();
    world
}

/// One object of one copy is damaged, and everything is tried.
fn case(world: &mut World, number: usize, copy: &str, chance: &mut Chance, rots: &mut Rots) {
    world.put_back();
    let vault = world.lab.path(copy);
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (file, _) in world.lab.files(copy) {
        // What a killed program had not put yet is no object.
        if file.starts_with(vault.join(".tmp")) {
            continue;
        }
        kinds.entry(kind(&file, &vault)).or_default().push(file);
    }
    let kinds: Vec<_> = kinds.into_iter().collect();
    let (kind, files) = &kinds[number % kinds.len()];
    let manner = MANNERS[(number / kinds.len()) % MANNERS.len()];
    let file = chance.one_of(files).clone();
    let good = fs::read(&file).expect("readable");
    damage(&file, manner, chance);
    let what = format!("{copy}: {kind} {manner:?} ({})", file.display());
    *rots.kinds.entry(kind.clone()).or_default() += 1;
    rots.cases += 1;

    let mut whole = true;
    for (point, bytes) in &world.points {
        let (run, restored) = world.restored(point, "");
        assert!(run.code >= 0 && run.code != 101, "{what}: {point:?}: {}", run.stderr);
        if run.code == 0 {
            assert!(
                restored.as_ref() == Some(bytes.as_ref()),
                "{what}: {point:?} is restored wrong"
            );
            rots.restores += 1;
        } else {
            assert!(run.stderr.contains("Code: "), "{what}: {}", run.stderr);
            assert!(!world.mirrored, "{what}: a good copy is there: {}", run.stderr);
            whole = false;
            rots.refused += 1;
        }
    }
    let verify = world.lab.run("vault verify");
    assert!([0, 3, 6, 8].contains(&verify.code), "{what}: {}{}", verify.stdout, verify.stderr);
    // Who takes a manifest away has deleted the point, as far as the vault can tell.
    let is_deleted = kind == "points" && manner == Manner::Lost;
    assert!(
        whole || is_deleted || verify.code != 0,
        "{what}: a restore fails and verify is content"
    );

    if world.mirrored {
        healed(world, &what, rots);
    } else {
        // A reclaim takes nothing that may be needed: once the object is back, all is.
        world.lab.run("vault reclaim --wait 0s");
        if is_deleted {
            return;
        }
        if ["points", "packs/data", "packs/node", "strongroom.json"].contains(&kind.as_str())
            || kind.starts_with("keys")
        {
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(&file, good).expect("written");
        }
        restored_all(world, &what, rots);
    }
}

fn restored_all(world: &World, what: &str, rots: &mut Rots) {
    for (point, bytes) in &world.points {
        let (run, restored) = world.restored(point, "");
        assert_eq!(run.code, 0, "{what}: {point:?}: {}", run.stderr);
        assert!(restored.as_ref() == Some(bytes.as_ref()), "{what}: {point:?} is restored wrong");
        rots.restores += 1;
    }
}

/// A repair makes both copies good again, and a reclaim then takes nothing.
fn healed(world: &World, what: &str, rots: &mut Rots) {
    let mut repair = world.lab.run("vault verify --repair");
    if repair.code == 6 {
        // What is condemned or deleted is not brought back: the reclaim that goes on with its end removes it.
        let first = (repair.stdout, repair.stderr);
        let reclaim = world.lab.run("vault reclaim --wait 0s");
        assert_eq!(reclaim.code, 0, "{what}: {first:?}: {}", reclaim.stderr);
        repair = world.lab.run("vault verify --repair");
    }
    assert_eq!(repair.code, 0, "{what}: {}{}", repair.stdout, repair.stderr);
    let verify = world.lab.run("vault verify");
    assert_eq!(verify.code, 0, "{what}: {}{}", verify.stdout, verify.stderr);
    world.lab.ok("vault reclaim --wait 0s");
    restored_all(world, what, rots);
    rots.healed += 1;
}

fn gauntlet(part: u64, mirrored: bool, cases: u64) {
    let cases = usize::try_from(cases).expect("fits");
    let mut chance = Chance::new(part);
    let mut world = world(&mut chance, mirrored);
    let copies = world.copies();
    let mut rots = Rots::default();
    // A short run begins at a random case, so that another seed tries others.
    let first = chance.index(1000);
    for number in 0..cases {
        let copy = copies[number % copies.len()];
        case(&mut world, first + number / copies.len(), copy, &mut chance, &mut rots);
    }
    // The control: nothing is damaged, and nobody says so.
    world.put_back();
    for words in ["recoverypoint list", "vault verify", "vault reclaim --wait 0s", "vault verify"] {
        world.lab.ok(words);
    }
    figures(&format!(
        "{}: {rots:?}; 0 restored wrong, 0 lost, 0 false alarms",
        if mirrored { "rot, mirror" } else { "rot, one folder" }
    ));
}

#[test]
fn rot_in_one_folder_is_named_and_costs_nothing_else() {
    gauntlet(3, false, many(24, 300));
}

#[test]
fn rot_in_either_copy_of_a_mirror_heals() {
    gauntlet(4, true, many(24, 200));
}
