//! The simulator finds broken protocols: with each of these stores it reports lost data (or a
//! point that cannot be) within a bounded number of seeds.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it found"
)]

use strongroom_sim::{Sabotage, explore};

/// Seeds within which each sabotage must be noticed.
const SEEDS: u64 = 2_000;

fn is_noticed(sabotage: Sabotage) {
    let explored = explore(0..SEEDS, sabotage, false);
    let first = explored.failures.first().and_then(|outcome| outcome.failure.as_deref());
    let Some(failure) = first else { panic!("{sabotage:?} was not noticed") };
    // Not by some side effect, but as what it is.
    let loss = ["is lost", "does not exist", "has vanished", "is back", "never would"];
    assert!(loss.iter().any(|word| failure.contains(word)), "{sabotage:?}: {failure}");
    println!("{sabotage:?}: noticed after {} seeds: {failure}", explored.runs);
}

#[test]
fn writers_that_do_not_see_condemnations() {
    is_noticed(Sabotage::WritersSeeNoCondemnations);
}

#[test]
fn reclaims_that_do_not_see_writers() {
    is_noticed(Sabotage::ReclaimsSeeNoWriters);
}

#[test]
fn reclaims_that_see_old_points_only() {
    is_noticed(Sabotage::ReclaimsSeeOldPoints);
}

#[test]
fn reclaims_that_do_not_see_each_other() {
    is_noticed(Sabotage::ReclaimsSeeNoCondemnations);
}

#[test]
fn create_only_puts_that_overwrite() {
    is_noticed(Sabotage::PutsOverwrite);
}

#[test]
fn packs_that_vanish_after_their_condemnation() {
    is_noticed(Sabotage::PacksVanishLate);
}

#[test]
fn empty_manifests_that_nobody_sees() {
    is_noticed(Sabotage::EmptyPointsAreOverlooked);
}

#[test]
fn packs_that_were_acknowledged_and_not_written() {
    is_noticed(Sabotage::PutsAreForgotten);
}

/// It takes a writer that waits for its list of packs while a reclaim condemns one and another writer
/// begins. So there is a world in which that is frequent; without the fault it loses nothing.
#[test]
fn writers_that_share_what_one_of_them_saw() {
    is_noticed(Sabotage::WritersShareTheirView);
    let explored = explore(0..SEEDS / 4, Sabotage::WritersLookSlowly, false);
    let failure = explored.failures.first().and_then(|outcome| outcome.failure.as_deref());
    assert_eq!(failure, None, "seed {:?}", explored.failures.first().map(|outcome| outcome.seed));
}
