//! The simulator finds broken protocols: with each of these stores it reports lost data (or a
//! point that cannot be) within a bounded number of seeds.

mod common;

use common::run_seeds;
use strongroom_sim::Sabotage;

/// Seeds within which each sabotage must be noticed.
const SEEDS: u64 = 1_500;

fn is_noticed(sabotage: Sabotage) {
    let (found, _) = run_seeds(0..SEEDS, sabotage, false);
    let outcome = found.unwrap_or_else(|| panic!("{sabotage:?} was not noticed"));
    let failure = outcome.failure.unwrap_or_default();
    println!("{sabotage:?}: seed {}: {failure}", outcome.seed);
    let loss = ["is lost", "does not exist", "has vanished", "is back", "never would"];
    assert!(loss.iter().any(|word| failure.contains(word)), "{sabotage:?}: {failure}");
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
fn packs_that_were_acknowledged_and_not_written() {
    is_noticed(Sabotage::PutsAreForgotten);
}
