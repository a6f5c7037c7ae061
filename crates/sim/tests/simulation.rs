//! The protocol of writers and reclaim under thousands of interleavings.
//!
//! `STRONGROOM_SIM_SEEDS=n` runs n seeds instead; `STRONGROOM_SIM_SEED=s` replays one and prints
//! its trace.

mod common;

use common::{number, run_seeds};
use strongroom_sim::{Sabotage, simulate};

#[test]
fn no_interleaving_loses_data() {
    if let Some(seed) = number("STRONGROOM_SIM_SEED") {
        let outcome = simulate(seed, Sabotage::None);
        println!("{outcome}");
        assert_eq!(outcome.failure, None);
        return;
    }
    let seeds = number("STRONGROOM_SIM_SEEDS").unwrap_or(2_000);
    let (first, total) =
        run_seeds(0..seeds, Sabotage::None, number("STRONGROOM_SIM_ALL").is_some());
    println!("{seeds} seeds, {} steps, {} points", total.steps, total.published);
    if let Some(outcome) = first {
        panic!("{outcome}");
    }
    assert!(total.published > seeds, "the runs did too little");
}

#[test]
fn a_seed_is_an_interleaving() {
    for seed in 0..number("STRONGROOM_SIM_SEEDS").unwrap_or(40) {
        let (one, two) = (simulate(seed, Sabotage::None), simulate(seed, Sabotage::None));
        let differ = one.trace.iter().zip(&two.trace).find(|(one, two)| one != two);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!(one.trace.len(), two.trace.len(), "seed {seed}");
    }
}
