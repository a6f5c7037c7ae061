//! The model at two servers: batches, crashes, resynchronizations that are ended early, failovers with and without loss.
//! The secondary is always a state that the primary had; nothing that it has taken is lost or wrong.
//!
//! A seed that fails is run alone with `STRONGROOM_SEED`. With `STRONGROOM_LONG` there are many more.

use std::{convert::Infallible, path::PathBuf};

use strongroom_blobs::{Position, ResyncError, Role, ShipError, Standing, Store};

use crate::{
    model::{Known, World},
    tools::copy_folder,
};

/// A primary in a world, and its secondary.
struct Pair {
    world: World,
    secondary: Option<Store>,
    folder: PathBuf,
    /// What the primary had at positions that the secondary may have reached.
    history: Vec<(Position, Known)>,
    servers: u64,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, 1);
        world.store().pair(true).expect("is paired");
        let options = world.options();
        let folder = world.root.path().join("server-0");
        let (id, epoch) = (world.store().id(), world.store().standing().epoch);
        Store::create_secondary(&folder, &options, id, epoch).expect("creates");
        let secondary = Some(Store::open(&folder, options).expect("opens"));
        Self { world, secondary, folder, history: Vec::new(), servers: 1 }
    }

    fn secondary(&self) -> &Store {
        self.secondary.as_ref().expect("is open")
    }

    fn open_secondary(&mut self) {
        let options = self.world.options();
        self.secondary = Some(Store::open(&self.folder, options).expect("opens"));
    }

    /// What a killed process leaves.
    fn crash_secondary(&mut self) {
        let folder = self.world.root.path().join(format!("server-{}", self.servers));
        self.servers += 1;
        copy_folder(&self.folder, &folder);
        self.secondary = None;
        std::fs::remove_dir_all(&self.folder).expect("removes");
        self.folder = folder;
        self.open_secondary();
        self.check();
    }

    /// Sends what the primary has, or some of it.
    fn send(&mut self, batches: u64, most: usize) {
        // Later background work changes nothing that is seen.
        let known = self.world.known();
        let end = self.world.store().position();
        self.history.push((end, known));
        let position = self.secondary().position();
        let mut shipper = match self.world.store().shipper(position) {
            Ok(shipper) => shipper,
            Err(ShipError::TooFarBehind | ShipError::Ahead) => return self.resync(),
            Err(error) => panic!("{error:?}"),
        };
        for _ in 0..batches {
            let batch = match shipper.next(most) {
                Ok(batch) => batch,
                Err(ShipError::TooFarBehind) => return self.resync(),
                Err(error) => panic!("{error:?}"),
            };
            let position = self.secondary().take(&batch).expect("takes");
            assert_eq!(position, shipper.position());
            if position.next_record >= end.next_record {
                return self.check();
            }
        }
    }

    /// What the secondary should have, if it stands at one of the positions whose state is known.
    fn expected(&self) -> Option<Known> {
        let position = self.secondary().position();
        let at = |(known, _): &&(Position, Known)| known.next_record == position.next_record;
        self.history.iter().rev().find(at).map(|(_, known)| known.clone())
    }

    fn check(&mut self) {
        let view = self.secondary().view().expect("a view");
        if let Some(known) = self.expected() {
            self.world.check_view(&view, &known);
        }
        assert_eq!(self.secondary().standing().role, Role::Secondary);
    }

    /// Resynchronizes, with writers at the primary, and now and then ended early.
    fn resync(&mut self) {
        loop {
            let thorough = self.world.below(4) == 0;
            let mut left = match self.world.below(3) {
                0 => self.world.below(12),
                _ => u64::MAX,
            };
            let before = self.secondary().position();
            let mut source = self.world.store().resync_source().expect("a moment");
            let secondary = self.secondary.take().expect("is open");
            let world = &mut self.world;
            let mut ask = |question: bytes::Bytes| {
                if world.below(2) == 0 {
                    world.calm_step();
                }
                Ok::<_, Infallible>(source.answer(&question).expect("an answer"))
            };
            let mut progress = |_| {
                left = left.saturating_sub(1);
                left > 0
            };
            let done = secondary.resync(thorough, &mut ask, &mut progress);
            self.secondary = Some(secondary);
            match done {
                Ok(position) => {
                    drop(source);
                    let end = self.world.store().position();
                    let changed = self.world.known();
                    // What was written while it ran has come, too.
                    self.history.push((end, changed));
                    assert!(position.next_record <= end.next_record);
                    return self.check();
                }
                Err(ResyncError::Cancelled) => {
                    assert_eq!(self.secondary().position(), before, "is what it was");
                    self.check();
                    if self.world.below(2) == 0 {
                        self.crash_secondary();
                    }
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// The secondary becomes the primary; the other one is fenced and follows.
    fn fail_over(&mut self, is_planned: bool) {
        if is_planned {
            let epoch = self.world.store().standing().epoch + 1;
            self.world.store().fence(epoch).expect("is fenced");
            let known = self.world.known();
            self.history.push((self.world.store().position(), known));
            let mut shipper = match self.world.store().shipper(self.secondary().position()) {
                Ok(shipper) => shipper,
                Err(ShipError::TooFarBehind) => return self.resume(epoch),
                Err(error) => panic!("{error:?}"),
            };
            let batch = match shipper.next(usize::MAX) {
                Ok(batch) => batch,
                Err(ShipError::TooFarBehind) => return self.resume(epoch),
                Err(error) => panic!("{error:?}"),
            };
            self.secondary().take(&batch).expect("takes");
            assert_eq!(self.secondary().position(), self.world.store().position());
        }
        let Some(known) = self.expected() else { return };
        let Standing { role, epoch, .. } = self.secondary().promote().expect("is promoted");
        assert_eq!(role, Role::Primary);
        let begin = self.secondary().position().next_record;
        self.secondary = None;
        let old = self.world.close();
        let folder = self.world.root.path().join(format!("server-{}", self.servers));
        self.servers += 1;
        std::fs::rename(old, &folder).expect("moves");
        let new = std::mem::replace(&mut self.folder, folder);
        self.world.continue_with(&new, &known);
        self.history.clear();
        self.history.push((self.world.store().position(), known));
        self.open_secondary();
        let fenced = self.secondary().fence(epoch).expect("is fenced");
        assert_eq!(fenced.role, Role::Fenced);
        self.secondary().follow(epoch).expect("follows");
        let position = self.secondary().position();
        if position.next_record > begin {
            // Its own records are discarded.
            let shipped = self.world.store().shipper(position).map(drop);
            assert!(
                matches!(shipped, Err(ShipError::Ahead | ShipError::TooFarBehind)),
                "{shipped:?}"
            );
            self.resync();
        } else {
            let shipped = self.world.store().shipper(position).map(drop);
            if is_planned {
                shipped.expect("continues where it stands");
            } else if shipped.is_err() {
                // It had begun an era that the other one does not know.
                self.resync();
            }
        }
    }

    /// A planned failover that cannot be: the fenced server is the primary again, as its owner says.
    fn resume(&mut self, _epoch: u64) {
        self.world.store().pair(false).expect("is alone");
        self.world.store().pair(true).expect("is paired again");
        let epoch = self.world.store().standing().epoch;
        self.secondary().follow(epoch).expect("follows");
    }
}

fn run(seed: u64, rounds: u64) {
    println!("STRONGROOM_SEED={seed}");
    let mut pair = Pair::new(seed);
    for _ in 0..rounds {
        for _ in 0..pair.world.below(12) {
            pair.world.step();
        }
        match pair.world.below(20) {
            0..8 => pair.send(u64::MAX, usize::MAX),
            8..11 => pair.send(2, 2000),
            11..13 => {
                pair.secondary = None;
                pair.open_secondary();
                pair.check();
            }
            13 => pair.secondary().checkpoint(),
            14 => pair.crash_secondary(),
            15 => pair.resync(),
            16 | 17 => pair.fail_over(true),
            18 => pair.fail_over(false),
            _ => {}
        }
    }
    pair.send(u64::MAX, usize::MAX);
    pair.check();
    pair.world.check();
    pair.world.empty();
    pair.send(u64::MAX, usize::MAX);
    pair.secondary().settle();
    let left = std::fs::read_dir(pair.folder.join("data")).expect("a folder").count();
    assert_eq!(left, 0, "data files of the secondary with seed {seed}");
}

#[test]
fn the_secondary_is_always_a_state_that_the_primary_had() {
    if let Some(seed) = std::env::var_os("STRONGROOM_SEED") {
        let seed = seed.to_str().and_then(|seed| seed.parse().ok()).expect("a number");
        return run(seed, 120);
    }
    let is_long = std::env::var_os("STRONGROOM_LONG").is_some();
    for seed in 0..if is_long { 2000 } else { 10 } {
        run(seed, 120);
    }
}
