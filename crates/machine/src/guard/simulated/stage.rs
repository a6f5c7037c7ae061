//! Who runs next, and what time it is: one baton among a few threads, handed on by a seed.
//!
//! Of the actors of a run at most one is not waiting, so that one seed is one interleaving. Time passes only
//! while actors wait: it jumps to the actor that wakes first. An actor that is killed dies at its time, wherever it
//! is, as a process does.

use std::{
    panic::resume_unwind,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use jiff::Timestamp;
use strongroom_base::{Clock, SplitMix64};

/// The number of an actor in its run.
pub(super) type Actor = usize;

/// How a thread ends that was killed.
pub(super) struct Killed;

#[derive(Default)]
struct Slot {
    /// When it wakes; none if only somebody else wakes it.
    wake: Option<Duration>,
    kill: Option<Duration>,
    done: bool,
}

struct State {
    dice: SplitMix64,
    now: Duration,
    running: Option<Actor>,
    actors: Vec<Slot>,
    steps: u32,
}

/// The stage of one run.
pub(super) struct Stage {
    state: Mutex<State>,
    turn: Condvar,
}

impl Stage {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let dice = SplitMix64::new(seed);
        let state =
            State { dice, now: Duration::ZERO, running: None, actors: Vec::new(), steps: 0 };
        Arc::new(Self { state: Mutex::new(state), turn: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    pub(super) fn now(&self) -> Duration {
        self.state().now
    }

    /// A number below `end`.
    pub(super) fn roll(&self, end: u64) -> u64 {
        self.state().dice.below(end)
    }

    /// Up to this number of milliseconds.
    pub(super) fn span(&self, most: u64) -> Duration {
        Duration::from_millis(self.roll(most + 1))
    }

    /// An actor more, which begins at `begin` and dies at `kill`, if ever.
    pub(super) fn enter(&self, begin: Duration, kill: Option<Duration>) -> Actor {
        let mut state = self.state();
        state.actors.push(Slot { wake: Some(begin), kill, done: false });
        state.actors.len() - 1
    }

    /// Hands the baton to the actor that is first. All actors have entered.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        Self::choose(&mut state);
        self.turn.notify_all();
    }

    /// Waits until it is this actor's turn for the first time.
    pub(super) fn appear(&self, me: Actor) {
        let state = self.turn.wait_while(self.state(), |state| state.running != Some(me));
        let dies = state.expect("nobody panics with it").is_dead(me);
        if dies {
            resume_unwind(Box::new(Killed));
        }
    }

    /// Lets others run until that time; without one, until somebody wakes this actor.
    pub(super) fn wait(&self, me: Actor, until: Option<Duration>) {
        let mut state = self.state();
        let now = state.now;
        state.actors[me].wake = until.map(|until| until.max(now));
        Self::choose(&mut state);
        self.turn.notify_all();
        drop(state);
        self.appear(me);
    }

    /// Time for a call or a thought.
    pub(super) fn step(&self, me: Actor) {
        let until = self.now() + self.span(20);
        self.wait(me, Some(until));
    }

    /// Wakes an actor that waits.
    pub(super) fn wake(&self, actor: Actor) {
        let mut state = self.state();
        let now = state.now;
        let slot = &mut state.actors[actor];
        slot.wake = Some(slot.wake.map_or(now, |wake| wake.min(now)));
    }

    /// The actor's thread ends.
    pub(super) fn leave(&self, me: Actor) {
        let mut state = self.state();
        state.actors[me].done = true;
        Self::choose(&mut state);
        self.turn.notify_all();
    }

    fn choose(state: &mut State) {
        state.steps += 1;
        assert!(state.steps < 2_000_000, "it never ends");
        let due = |slot: &Slot| match (slot.wake, slot.kill) {
            _ if slot.done => None,
            (Some(wake), Some(kill)) => Some(wake.min(kill)),
            (wake, kill) => wake.or(kill),
        };
        let first = state.actors.iter().filter_map(due).min();
        let at = |actor: &Actor| due(&state.actors[*actor]) == first;
        let firsts: Vec<Actor> =
            (0..state.actors.len()).filter(|actor| first.is_some() && at(actor)).collect();
        let count = u64::try_from(firsts.len()).expect("a few");
        let lot = usize::try_from(state.dice.below(count)).expect("a few");
        state.running = firsts.get(lot).copied();
        state.now = first.map_or(state.now, |first| first.max(state.now));
        let all_done = state.actors.iter().all(|slot| slot.done);
        assert!(state.running.is_some() || all_done, "everybody waits for somebody else");
    }
}

impl State {
    fn is_dead(&self, me: Actor) -> bool {
        self.actors[me].kill.is_some_and(|kill| kill <= self.now)
    }
}

/// The clock of an actor.
pub(super) struct StageClock(pub(super) Arc<Stage>, pub(super) Actor);

impl Clock for StageClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("a time") + self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.now()
    }

    fn sleep(&self, duration: Duration) {
        self.0.wait(self.1, Some(self.0.now() + duration));
    }
}
