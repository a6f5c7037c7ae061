//! The protocol of writers and reclaim under thousands of interleavings.
//!
//! `STRONGROOM_SIM_SEEDS=n` runs n seeds instead, `STRONGROOM_SIM_FROM=n` begins with another one;
//! `STRONGROOM_SIM_SEED=s` replays one and prints its trace. All failing seeds are named; the trace
//! is that of the lowest.
#![allow(clippy::panic, reason = "a test fails by panicking")]

use strongroom_sim::{Sabotage, explore, simulate};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

#[test]
fn no_interleaving_loses_data() {
    if let Some(seed) = number("STRONGROOM_SIM_SEED") {
        let outcome = simulate(seed, Sabotage::None);
        println!("{outcome}");
        assert_eq!(outcome.failure, None);
        return;
    }
    let from = number("STRONGROOM_SIM_FROM").unwrap_or(0);
    let seeds = number("STRONGROOM_SIM_SEEDS").unwrap_or(2_000);
    let explored = explore(from..from.saturating_add(seeds), Sabotage::None, true);
    println!("{seeds} seeds, {} steps, {} points", explored.steps, explored.published);
    if let Some(first) = explored.failures.first() {
        println!("{first}");
        for failed in &explored.failures {
            println!("sim: seed {}: {}", failed.seed, failed.failure.as_deref().unwrap_or(""));
        }
        panic!("{} of {seeds} seeds fail", explored.failures.len());
    }
    assert!(explored.published > explored.runs, "the runs did too little");
}

#[test]
fn a_seed_is_an_interleaving() {
    for seed in 0..20 {
        let (one, two) = (simulate(seed, Sabotage::None), simulate(seed, Sabotage::None));
        let differ = one.trace.iter().zip(&two.trace).find(|(one, two)| one != two);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!(one.trace.len(), two.trace.len(), "seed {seed}");
    }
}
