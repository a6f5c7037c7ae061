//! The model under loss, rot and return of copies: while one copy is healthy no acknowledged change is lost or wrong,
//! and nothing wrong is ever read.
//!
//! A seed that fails is run alone with `STRONGROOM_SEED`. With `STRONGROOM_LONG` there are many more.

use std::{fs, os::unix::fs::FileExt as _, path::Path};

use crate::{
    model::{World, is_whole},
    redundancy::{is_whole as are_whole, wait},
};

/// What happens to copies besides one.
impl World {
    fn number(&mut self, end: u64) -> usize {
        usize::try_from(self.below(end.max(1))).expect("small")
    }

    /// Changes bits of a file where it is, as a disk does.
    fn flip(&mut self, path: &Path, flips: u64) {
        let options = fs::OpenOptions::new().read(true).write(true).open(path);
        let Ok(file) = options else { return };
        let len = file.metadata().expect("its length").len();
        for _ in 0..flips {
            let at = self.below(len.max(1));
            let mut byte = [0];
            if file.read_exact_at(&mut byte, at).is_ok() {
                byte[0] ^= 1 << self.below(8);
                file.write_all_at(&byte, at).expect("writes");
            }
        }
    }

    fn flip_one_of(&mut self, folder: &Path, flips: u64) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut all: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        all.sort();
        if !all.is_empty() {
            let index = self.number(u64::try_from(all.len()).expect("small"));
            self.flip(&all[index], flips);
        }
    }

    fn hurt(&mut self, copy: u64) {
        let folder = self.folder(copy);
        let harm = self.below(8);
        println!("harm {harm} to copy {copy}");
        match harm {
            0 | 1 => {
                for _ in 0..5 {
                    self.flip_one_of(&folder.join("data"), 20);
                }
            }
            2 => self.flip_one_of(&folder.join("journal"), 3),
            3 => self.flip(&folder.join("state.redb"), 40),
            4 => self.flip(&folder.join("state.sums"), 3),
            5 => self.flip(&folder.join("copies.json"), 1),
            6 => {
                // It may come back as it was.
                let attic = self.root.path().join(format!("attic-{copy}"));
                drop(fs::remove_dir_all(&attic));
                if folder.exists() {
                    fs::rename(&folder, attic).expect("moves");
                }
            }
            _ => drop(fs::remove_dir_all(&folder)),
        }
    }

    /// Makes all copies whole again, in one of the ways that an owner has.
    fn heal(&mut self) {
        self.store().scrub();
        for copy in 0..self.copies {
            let folder = self.folder(copy);
            let attic = self.root.path().join(format!("attic-{copy}"));
            self.store().checkpoint();
            if is_whole(self.store(), &folder) && folder.join("state.redb").exists() {
                continue;
            }
            wait(self.store(), "it is left out", |store| {
                !is_whole(store, &folder) || folder.join("state.redb").exists()
            });
            if !folder.exists() && attic.exists() {
                fs::rename(&attic, &folder).expect("moves back");
            }
            if !folder.join("copies.json").exists() || self.below(4) == 0 {
                // A disk that was replaced.
                drop(fs::remove_dir_all(&folder));
            }
            if let Err(error) = self.store().add_copy(&folder) {
                // What cannot be used any more is removed first; it may have come back meanwhile.
                if !is_whole(self.store(), &folder) {
                    drop(fs::remove_dir_all(&folder));
                    let added = self.store().add_copy(&folder);
                    added.unwrap_or_else(|second| panic!("{error:?}, then {second:?}"));
                }
            }
            drop(fs::remove_dir_all(&attic));
        }
        // Copies that were lost before a crash had other paths.
        let folders: Vec<_> = (0..self.copies).map(|copy| self.folder(copy)).collect();
        for copy in self.store().status().copies {
            if !folders.contains(&copy.path) {
                self.store().remove_copy(&copy.path).expect("is removed");
            }
        }
        wait(self.store(), "all are whole", are_whole);
        self.store().scrub();
        wait(self.store(), "all stay whole", are_whole);
        self.checkpoint();
    }
}

fn run(seed: u64, copies: u64, rounds: u64) {
    println!("STRONGROOM_SEED={seed}");
    let mut world = World::new(seed, copies);
    for _ in 0..rounds {
        for _ in 0..20 {
            world.step();
        }
        let survivor = world.below(copies);
        for copy in (0..copies).filter(|copy| *copy != survivor) {
            if world.below(4) > 0 {
                world.hurt(copy);
            }
        }
        for step in 0..24 {
            world.step();
            if step % 8 == 7 {
                world.check();
            }
        }
        world.heal();
        world.check();
    }
    assert_eq!(world.store().status().findings.lost, 0);
    world.empty();
}

#[test]
fn no_change_is_lost_while_one_copy_is_healthy() {
    if let Some(seed) = std::env::var_os("STRONGROOM_SEED") {
        let seed = seed.to_str().and_then(|seed| seed.parse().ok()).expect("a number");
        return run(seed, 2 + seed % 2, 10);
    }
    let is_long = std::env::var_os("STRONGROOM_LONG").is_some();
    for seed in 0..if is_long { 1000 } else { 8 } {
        run(seed, 2 + seed % 2, 10);
    }
}
