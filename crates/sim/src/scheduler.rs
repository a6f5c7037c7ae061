//! Who runs next: one baton, handed on by a seeded generator.
//!
//! ```text
//!  actor (own thread) ──store operation──▶ step: time passes, the baton is handed on
//!                                          │ wait until it comes back (or a pause has ended)
//!  the operation takes effect ◀────────────┘
//! ```
//!
//! Invariants: of the actors of one run at most one is not waiting, so that everything between two
//! steps is atomic and one seed is one interleaving. Time passes only in steps; when everybody
//! sleeps it jumps to the actor that wakes first.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use strongroom_base::lock;

use crate::rng::Rng;

/// The number of an actor in its run.
pub(crate) type ActorId = usize;

/// Steps after which a run is hopeless.
const MAX_STEPS: u64 = 60_000;

/// How the next actor is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Policy {
    /// The running actor continues, except once in this number of steps; then any actor.
    Random(u64),
    /// The actor of the highest rank continues; once in this number of steps it falls to the lowest.
    Ranks(u64),
}

struct Slot {
    wake: Duration,
    done: bool,
    rank: u64,
    baton: Arc<Condvar>,
}

struct State {
    rng: Rng,
    policy: Policy,
    tick: u64,
    now: Duration,
    running: Option<ActorId>,
    actors: Vec<Slot>,
    steps: u64,
    lowest: u64,
}

/// The scheduler of one run, and its clock and chance.
pub(crate) struct Scheduler {
    state: Mutex<State>,
    finished: Condvar,
}

impl Scheduler {
    /// `tick`: the most milliseconds that a step takes.
    pub(crate) fn new(mut rng: Rng, policy: Policy, tick: u64) -> Self {
        let rng = Rng::new(rng.next());
        let state = State {
            rng,
            policy,
            tick,
            now: Duration::ZERO,
            running: None,
            actors: Vec::new(),
            steps: 0,
            lowest: u64::MAX / 2,
        };
        Self { state: Mutex::new(state), finished: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Chance, in the order of the interleaving.
    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.state().rng)
    }

    /// Simulated time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.state().now
    }

    /// Steps taken so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Whether the run has taken more steps than one that ends by itself.
    pub(crate) fn is_endless(&self) -> bool {
        self.state().steps > MAX_STEPS
    }

    /// Lets time pass while no actor runs.
    pub(crate) fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now = state.now.saturating_add(by);
    }

    /// Adds an actor. All are added before [`Self::start`].
    pub(crate) fn join(&self) -> ActorId {
        let mut state = self.state();
        let rank = state.rng.below(u64::MAX / 2).saturating_add(u64::MAX / 2);
        let (wake, baton) = (state.now, Arc::new(Condvar::new()));
        state.actors.push(Slot { wake, done: false, rank, baton });
        state.actors.len().saturating_sub(1)
    }

    /// Lets the actors run and waits until all have left.
    pub(crate) fn start(&self) {
        let mut state = self.state();
        hand_on(&mut state, None);
        while state.running.is_some() {
            state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// An actor waits for its first turn.
    pub(crate) fn enter(&self, me: ActorId) {
        wait(self.state(), me);
    }

    /// Hands the baton on and waits until it is the actor's turn again, at the earliest after
    /// `pause`.
    pub(crate) fn step(&self, me: ActorId, pause: Duration) {
        let mut state = self.state();
        state.steps = state.steps.saturating_add(1);
        let tick = state.tick;
        let took = state.rng.between(1, tick);
        state.now = state.now.saturating_add(Duration::from_millis(took));
        let wake = state.now.saturating_add(pause);
        if let Some(slot) = state.actors.get_mut(me) {
            slot.wake = wake;
        }
        hand_on(&mut state, Some(me));
        wait(state, me);
    }

    /// An actor has finished.
    pub(crate) fn leave(&self, me: ActorId) {
        let mut state = self.state();
        if let Some(slot) = state.actors.get_mut(me) {
            slot.done = true;
        }
        hand_on(&mut state, None);
        if state.running.is_none() {
            self.finished.notify_all();
        }
    }
}

/// Waits for the baton.
fn wait(mut state: MutexGuard<'_, State>, me: ActorId) {
    let Some(baton) = state.actors.get(me).map(|slot| Arc::clone(&slot.baton)) else { return };
    while state.running != Some(me) {
        state = baton.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Chooses who runs next and wakes it.
fn hand_on(state: &mut State, from: Option<ActorId>) {
    let awake = |state: &State| -> Vec<ActorId> {
        let all = state.actors.iter().enumerate();
        all.filter(|(_, slot)| !slot.done && slot.wake <= state.now).map(|(id, _)| id).collect()
    };
    let mut ready = awake(state);
    if ready.is_empty() {
        let asleep = state.actors.iter().filter(|slot| !slot.done);
        if let Some(next) = asleep.map(|slot| slot.wake).min() {
            state.now = next;
            ready = awake(state);
        }
    }
    let next = match state.policy {
        Policy::Random(change) => match from.filter(|me| ready.contains(me)) {
            Some(me) if !state.rng.once_in(change) => Some(me),
            _ => state.rng.pick(&ready).copied(),
        },
        Policy::Ranks(change) => {
            if let Some(me) = from
                && state.rng.once_in(change)
            {
                state.lowest = state.lowest.saturating_sub(1);
                let lowest = state.lowest;
                if let Some(slot) = state.actors.get_mut(me) {
                    slot.rank = lowest;
                }
            }
            let rank = |id: &ActorId| state.actors.get(*id).map_or(0, |slot| slot.rank);
            ready.iter().copied().max_by_key(rank)
        }
    };
    state.running = next;
    if next != from
        && let Some(slot) = next.and_then(|id| state.actors.get(id))
    {
        slot.baton.notify_all();
    }
}
