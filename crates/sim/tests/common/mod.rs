//! Running many seeds on all processors.

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use strongroom_sim::{Outcome, Sabotage, simulate};

/// What many runs came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    pub(crate) steps: u64,
    pub(crate) published: u64,
}

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

/// Runs seeds until one fails, or all; gives the failure of the lowest seed.
pub(crate) fn run_seeds(
    seeds: Range<u64>,
    sabotage: Sabotage,
    all: bool,
) -> (Option<Outcome>, Total) {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let result = Mutex::new((None::<Outcome>, Total::default()));
    std::thread::scope(|scope| {
        // More than processors: the threads of a run mostly wait for each other.
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) * 2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = simulate(seed, sabotage);
                    let mut result = result.lock().expect("sane");
                    result.1.steps += outcome.steps;
                    result.1.published += u64::try_from(outcome.published).expect("small");
                    if let Some(failure) = &outcome.failure {
                        if all {
                            println!("sim: seed {seed}: {failure}");
                        }
                        stop.store(!all, Ordering::Relaxed);
                        if result.0.as_ref().is_none_or(|first| first.seed > seed) {
                            result.0 = Some(outcome);
                        }
                    }
                }
            });
        }
    });
    result.into_inner().expect("sane")
}
