//! A host: libvirt, a machine in QEMU, and the agent of its guest, each of which fails at times.
//!
//! The agent does one command after the other, also those that nobody waits for any more: a freeze that was
//! given up happens when the agent comes back.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};
use strongroom_base::Clock;
use strongroom_hypervisor::{HypervisorError, agent::Agent, agent::QUICK};

use super::{
    super::{hands, hands::Hands, hands::Jobs, serve::Script},
    Sabotage,
    stage::{Actor, Stage, StageClock},
};
use crate::consistency::ScriptFailure;

/// A stretch of time.
pub(super) type Span = (Duration, Duration);

/// When what is out of order.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) libvirt_is_down: Vec<Span>,
    /// One call to libvirt in this number fails all the same; none if it is 0.
    pub(super) lost_calls: u64,
    pub(super) agent_hangs: Vec<Span>,
    pub(super) qemu_dies: Option<Duration>,
    /// QEMU does not let anybody else talk to the agent.
    pub(super) no_socket: bool,
    /// How long freezing takes, and QEMU's transaction.
    pub(super) freezing: Duration,
    pub(super) transaction: Duration,
    /// The transaction fails.
    pub(super) no_job: bool,
    /// How long the job takes to end.
    pub(super) ending: Duration,
    /// Its space runs out at this time, if the job is still there.
    pub(super) halts: Option<Duration>,
}

/// The commands that the agent has received and will carry out.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    Freeze,
    Thaw,
}

/// What is true of the machine.
#[derive(Default)]
pub(super) struct Truth {
    pending: Vec<(Duration, Effect)>,
    /// The agent is at work until then.
    busy: Duration,
    frozen: Option<Duration>,
    /// From when to when it was frozen.
    pub(super) spans: Vec<Span>,
    job: Option<Duration>,
    pub(super) halted: bool,
    has_halted: bool,
    pub(super) checkpoint: bool,
    /// Whether it was frozen at the instant.
    pub(super) instant: Option<bool>,
}

pub(super) struct Host {
    pub(super) stage: Arc<Stage>,
    pub(super) plan: Plan,
    pub(super) sabotage: Option<Sabotage>,
    truth: Mutex<Truth>,
}

fn within(spans: &[Span], at: Duration) -> Option<Duration> {
    spans.iter().find(|(from, to)| *from <= at && at < *to).map(|(_, to)| *to)
}

impl Host {
    pub(super) fn new(stage: &Arc<Stage>, plan: Plan, sabotage: Option<Sabotage>) -> Arc<Self> {
        let truth = Mutex::default();
        Arc::new(Self { stage: Arc::clone(stage), plan, sabotage, truth })
    }

    /// What is true by now.
    pub(super) fn truth(&self) -> MutexGuard<'_, Truth> {
        let now = self.stage.now();
        let mut truth = self.truth.lock().expect("nobody panics with it");
        let dies = self.plan.qemu_dies.filter(|dies| *dies <= now);
        let mut pending = std::mem::take(&mut truth.pending);
        pending.sort_by_key(|(at, _)| *at);
        for (at, effect) in pending {
            if at > now {
                truth.pending.push((at, effect));
            } else if dies.is_none_or(|dies| at < dies) {
                match effect {
                    Effect::Freeze => drop(truth.frozen.get_or_insert(at)),
                    Effect::Thaw => truth.thawed(at),
                }
            }
        }
        if let Some(dies) = dies {
            truth.thawed(dies);
            truth.job = None;
            truth.halted = false;
        }
        if truth.job.is_some_and(|end| end <= now) {
            truth.job = None;
        }
        if self.plan.halts.is_some_and(|at| at <= now) && truth.job.is_some() && !truth.has_halted {
            (truth.halted, truth.has_halted) = (true, true);
        }
        truth
    }

    pub(super) fn is_on(&self) -> bool {
        self.plan.qemu_dies.is_none_or(|dies| self.stage.now() < dies)
    }

    pub(super) fn libvirt_is_down(&self, at: Duration) -> bool {
        within(&self.plan.libvirt_is_down, at).is_some()
    }

    /// Whether somebody who lives could thaw the guest at that time.
    pub(super) fn is_in_reach(&self, at: Duration) -> bool {
        within(&self.plan.agent_hangs, at).is_none()
            && (!self.libvirt_is_down(at) || !self.plan.no_socket)
    }

    /// Whether there is a job that nobody has ended.
    pub(super) fn has_job(&self) -> bool {
        self.truth().job == Some(Duration::MAX)
    }

    /// QEMU's transaction, after which there is a job.
    pub(super) fn transaction(&self, me: Actor) -> Result<(), HypervisorError> {
        self.call(me)?;
        let half = self.plan.transaction / 2;
        self.stage.wait(me, Some(self.stage.now() + half));
        if self.plan.no_job || !self.is_on() {
            return Err(lost("beginning a job"));
        }
        {
            let mut truth = self.truth();
            truth.instant = Some(truth.frozen.is_some());
            truth.job = Some(Duration::MAX);
            truth.checkpoint = true;
        }
        self.stage.wait(me, Some(self.stage.now() + half));
        self.call(me)
    }

    /// A call to libvirt.
    pub(super) fn call(&self, me: Actor) -> Result<(), HypervisorError> {
        self.stage.step(me);
        let is_lost = self.plan.lost_calls > 0
            && self.stage.now() < Duration::from_mins(4)
            && self.stage.roll(self.plan.lost_calls) == 0;
        let is_down = self.libvirt_is_down(self.stage.now());
        if is_down || is_lost { Err(lost("calling")) } else { Ok(()) }
    }

    /// Sends a command to the agent and waits for its answer.
    fn command(
        &self,
        me: Actor,
        name: &str,
        timeout: Duration,
        by_libvirt: bool,
    ) -> Result<Value, HypervisorError> {
        let sent = self.stage.now();
        let mut truth = self.truth();
        let mut begins = truth.busy.max(sent);
        while let Some(end) = within(&self.plan.agent_hangs, begins) {
            begins = end;
        }
        let effect = match name {
            "guest-fsfreeze-freeze" => Some(Effect::Freeze),
            "guest-fsfreeze-thaw" => Some(Effect::Thaw),
            _ => None,
        };
        let takes =
            if effect == Some(Effect::Freeze) { self.plan.freezing } else { self.stage.span(30) };
        let done = begins + takes;
        truth.busy = done;
        let before = truth.pending.iter().max_by_key(|(at, _)| *at);
        let was_frozen =
            before.map_or(truth.frozen.is_some(), |(_, effect)| *effect == Effect::Freeze);
        truth.pending.extend(effect.map(|effect| (done, effect)));
        drop(truth);
        let gone = self.plan.libvirt_is_down.iter().filter(|(from, _)| by_libvirt && *from > sent);
        let gone = gone.map(|(from, _)| *from).min().unwrap_or(Duration::MAX);
        let late = sent + timeout;
        self.stage.wait(me, Some(done.min(late).min(gone)));
        let refused = |reason: &str| HypervisorError::Agent {
            command: name.to_owned(),
            reason: reason.to_owned(),
        };
        if !self.is_on() {
            return Err(refused("the machine is off"));
        }
        if gone <= done.min(late) {
            return Err(lost("talking to the guest agent"));
        }
        if late < done {
            return Err(refused("it does not answer"));
        }
        let is_frozen = self.truth().frozen.is_some();
        match name {
            "guest-info" => Ok(json!({ "version": "1", "supported_commands":
                [{ "name": "guest-fsfreeze-freeze", "enabled": true }] })),
            "guest-fsfreeze-status" => Ok(json!(if is_frozen { "frozen" } else { "thawed" })),
            "guest-fsfreeze-freeze" => Ok(json!(2)),
            "guest-fsfreeze-thaw" => Ok(json!(if was_frozen { 2 } else { 0 })),
            _ => Err(refused("not known")),
        }
    }
}

impl Truth {
    fn thawed(&mut self, at: Duration) {
        self.spans.extend(self.frozen.take().map(|from| (from, at)));
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }
}

fn lost(action: &'static str) -> HypervisorError {
    HypervisorError::Lost { action, source: io::ErrorKind::ConnectionReset.into() }
}

/// The agent, by way of libvirt or of the socket.
pub(super) struct SimAgent {
    host: Arc<Host>,
    me: Actor,
    by_libvirt: bool,
    clock: StageClock,
}

impl SimAgent {
    pub(super) fn new(host: &Arc<Host>, me: Actor, by_libvirt: bool) -> Self {
        let clock = StageClock(Arc::clone(&host.stage), me);
        Self { host: Arc::clone(host), me, by_libvirt, clock }
    }
}

impl Agent for SimAgent {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn command(&self, name: &str, _: Value, timeout: Duration) -> Result<Value, HypervisorError> {
        if self.by_libvirt {
            self.host.call(self.me)?;
        } else {
            self.host.stage.step(self.me);
        }
        self.host.command(self.me, name, timeout, self.by_libvirt)
    }
}

/// What an actor does to the machine.
pub(super) struct SimHands {
    pub(super) host: Arc<Host>,
    pub(super) me: Actor,
}

impl SimHands {
    fn agent(&self, by_libvirt: bool) -> SimAgent {
        SimAgent::new(&self.host, self.me, by_libvirt)
    }
}

impl Jobs for SimHands {
    fn serves_at(&mut self, _: &str) -> Result<bool, HypervisorError> {
        match self.host.call(self.me) {
            Err(_) if self.host.sabotage == Some(Sabotage::UnknownJobsAreNone) => Ok(false),
            called => called.map(|()| self.host.truth().job.is_some()),
        }
    }

    fn end(&mut self) -> Result<(), HypervisorError> {
        self.host.call(self.me)?;
        let end = self.host.stage.now() + self.host.plan.ending;
        let mut truth = self.host.truth();
        truth.job = truth.job.map(|known| known.min(end));
        Ok(())
    }
}

impl Hands for SimHands {
    fn thaw(&mut self) -> Result<bool, HypervisorError> {
        let by_libvirt = match self.find() {
            Ok(Some(true)) => hands::thaw(&self.agent(true)),
            Ok(_) => return Ok(true),
            Err(error) => Err(error),
        };
        let thawed = match by_libvirt {
            Err(error) if error.is_connection() && !self.host.plan.no_socket => {
                // Where libvirt is alive, QEMU has no second place at its socket.
                if self.host.libvirt_is_down(self.host.stage.now()) {
                    hands::thaw(&self.agent(false))
                } else {
                    Err(error)
                }
            }
            other => other,
        };
        match thawed {
            Err(_) if self.host.sabotage == Some(Sabotage::ThawIsNotRepeated) => Ok(true),
            other => other,
        }
    }

    fn find(&mut self) -> Result<Option<bool>, HypervisorError> {
        self.host.call(self.me)?;
        Ok(Some(self.host.is_on()))
    }

    fn delete_checkpoints(&mut self, names: &[String]) -> Result<(), HypervisorError> {
        self.host.call(self.me)?;
        if !names.is_empty() {
            self.host.truth().checkpoint = false;
        }
        Ok(())
    }

    fn resume_halted(&mut self) -> Result<(), HypervisorError> {
        self.host.call(self.me)?;
        self.host.truth().halted = false;
        Ok(())
    }

    fn switch_off(&mut self, _: i32) -> Result<(), HypervisorError> {
        self.host.call(self.me)
    }

    fn run_script(&mut self, _: &Script, _: Option<u64>) -> Result<(), ScriptFailure> {
        Ok(())
    }
}

/// How long a thaw that nothing hinders may take, all tries of all commands included.
pub(super) const QUICKLY: Duration = QUICK.saturating_mul(3);
