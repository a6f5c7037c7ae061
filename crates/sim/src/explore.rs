//! Many seeds on all processors.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use strongroom_base::lock;

use crate::{Outcome, Sabotage, simulate};

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Explored {
    /// Runs that were finished.
    pub runs: u64,
    /// Steps of all runs.
    pub steps: u64,
    /// Recovery points that were published.
    pub published: u64,
    /// Runs that failed, by seed.
    pub failures: Vec<Outcome>,
}

/// Runs all seeds, or until one fails unless `keep_going`.
pub fn explore(seeds: Range<u64>, sabotage: Sabotage, keep_going: bool) -> Explored {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let explored = Mutex::new(Explored::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = simulate(seed, sabotage);
            let mut explored = lock(&explored);
            explored.runs = explored.runs.saturating_add(1);
            explored.steps = explored.steps.saturating_add(outcome.steps);
            explored.published = explored.published.saturating_add(outcome.published);
            if outcome.failure.is_some() {
                stop.store(!keep_going, Ordering::Relaxed);
                explored.failures.push(outcome);
            }
        }
    };
    std::thread::scope(|scope| {
        // More than processors: the threads of a run mostly wait for each other.
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..threads.saturating_mul(2) {
            scope.spawn(work);
        }
    });
    let mut explored = explored.into_inner().unwrap_or_else(PoisonError::into_inner);
    explored.failures.sort_by_key(|outcome| outcome.seed);
    explored
}
