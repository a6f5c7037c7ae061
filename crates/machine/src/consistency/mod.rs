//! Bringing a guest into a consistent state around one instant, and proving it.
//!
//! ```text
//!  pre script ─▶ freeze ─▶ the instant (QEMU's transaction) ─▶ thaw ─▶ checked ─▶ post script
//!      application ▲            file system ▲                                crash: nothing of it
//! ```
//!
//! The label of a point is what was proved here. Each failed step lowers the label by one kind, or
//! fails the backup if that kind is required.

mod scripts;

use std::time::Duration;

use strongroom_base::Clock;
use strongroom_format::Consistency;
use strongroom_hypervisor::{
    HypervisorError, State,
    agent::{self, Agent, FreezeStatus, QUICK},
};

use self::scripts::{Script, Scripts};
pub(crate) use self::scripts::{ScriptFailure, run_script};
use crate::{
    MachineError,
    error::Result,
    guard::{Guard, Hands, thaw_surely},
};

/// How long a backup itself tries to thaw before it fails; its guard continues.
const THAW: Duration = Duration::from_mins(1);

/// The same while QEMU's job runs: for so long libvirt 9 does not see an agent that comes back, so
/// the job is better ended soon.
const THAW_IN_JOB: Duration = Duration::from_secs(10);

/// How long the guest may write out its buffers before it is frozen anyway.
const SYNC: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The best kind that is tried.
    pub consistency: Consistency,
    /// Whether less is a failure.
    pub required: bool,
    /// How long freezing may take: hooks in the guest flush databases meanwhile.
    pub freeze_timeout: Duration,
    /// How long the guest may stay frozen after that.
    pub frozen_at_most: Duration,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            consistency: Consistency::Application,
            required: false,
            freeze_timeout: Duration::from_secs(30),
            frozen_at_most: Duration::from_secs(5),
        }
    }
}

/// What was proved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proof {
    /// The kind.
    pub(crate) consistency: Consistency,
    /// The best that the guest can have as it is set up, where that is less than what was asked for.
    pub(crate) best: Option<Consistency>,
    /// Each step and its answer.
    pub(crate) evidence: Vec<String>,
    /// From the freeze command to the answer to the thaw command.
    pub(crate) frozen: Option<Duration>,
}

/// The kind in the words of people.
pub(crate) const fn name(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Application => "application consistent",
        Consistency::FileSystem => "file system consistent",
        Consistency::Crash => "crash consistent",
        Consistency::Unknown => "of unknown consistency",
    }
}

/// A machine whose instant is to be taken.
pub(crate) struct Subject<'a> {
    /// What errors call it.
    pub(crate) name: &'a str,
    pub(crate) state: State,
    pub(crate) guest: &'a dyn Agent,
    /// What thaws it, whatever has died.
    pub(crate) hands: &'a mut dyn Hands,
}

/// A machine around its instant.
pub(crate) struct Instant<'a> {
    machine: Subject<'a>,
    guard: &'a mut Guard,
    clock: &'a dyn Clock,
    wish: Wish,
    proof: Proof,
}

impl<'a> Instant<'a> {
    pub(crate) const fn new(
        machine: Subject<'a>,
        guard: &'a mut Guard,
        clock: &'a dyn Clock,
        wish: Wish,
    ) -> Self {
        let consistency = wish.consistency;
        let proof = Proof { consistency, best: None, evidence: Vec::new(), frozen: None };
        Self { machine, guard, clock, wish, proof }
    }

    /// Runs `at` in as consistent a state as can be had, and says which that was. Whatever happens,
    /// the guest is thawed and the post script was run when this returns.
    pub(crate) fn run<T>(mut self, at: impl FnOnce() -> Result<T>) -> Result<(T, Proof)> {
        self.prepare()?;
        let scripts = self.pre_script()?;
        let freezes = self.proof.consistency != Consistency::Crash
            && scripts.as_ref().is_none_or(|scripts| scripts.freeze);
        let value = if freezes {
            self.frozen(at)
        } else {
            self.not_frozen(scripts.as_ref()).and_then(|()| at())
        };
        let post = scripts.map_or(Ok(()), |scripts| self.post_script(&scripts));
        let value = value?;
        post?;
        Ok((value, self.proof))
    }

    fn note(&mut self, words: String) {
        tracing::info!(machine = %self.machine.name, "{words}");
        self.proof.evidence.push(words);
    }

    /// What the label can be if nothing is frozen.
    fn not_frozen(&mut self, scripts: Option<&Scripts>) -> Result<()> {
        let Some(scripts) = scripts else { return Ok(()) };
        let config = scripts.config;
        self.note(format!("nothing was frozen: {config} says so (fsFreezeEnabled)"));
        if self.proof.consistency == Consistency::FileSystem {
            let reason = "neither a script nor a freeze has prepared the guest".to_owned();
            self.fall_to(Consistency::Crash, reason)?;
        }
        Ok(())
    }

    /// Takes the label down, or fails where that is not allowed.
    fn fall_to(&mut self, kind: Consistency, reason: String) -> Result<()> {
        self.note(reason.clone());
        if self.wish.required && self.wish.consistency != kind {
            return Err(MachineError::Consistency {
                machine: self.machine.name.to_owned(),
                wanted: name(self.wish.consistency),
                reason,
            });
        }
        self.proof.consistency = kind;
        Ok(())
    }

    /// Finds out whether the guest can be asked at all.
    fn prepare(&mut self) -> Result<()> {
        if self.wish.consistency == Consistency::Crash {
            self.note("no consistency was asked for: the guest was not disturbed".to_owned());
            return Ok(());
        }
        if self.machine.state != State::Running {
            let state = self.machine.state.name();
            return self.fall_to(Consistency::Crash, format!("the machine was {state}"));
        }
        let guest = self.machine.guest;
        let started = self.clock.monotonic();
        let info = match agent::info(guest) {
            Ok(info) => info,
            Err(error) if error.is_lost() => return Err(error.into()),
            Err(error) => {
                return self
                    .fall_to(Consistency::Crash, format!("the agent did not answer: {error}"));
            }
        };
        let took = self.since(started);
        self.note(format!("agent {} answered in {took}", info.version));
        let may_freeze = info.commands.iter().any(|command| command == "guest-fsfreeze-freeze");
        match agent::freeze_status(guest) {
            Ok(FreezeStatus::Thawed) if may_freeze => Ok(()),
            Ok(FreezeStatus::Thawed) => {
                let reason = "the agent may not freeze file systems".to_owned();
                self.fall_to(Consistency::Crash, reason)
            }
            // Frozen, it says of every other command that it may not.
            Ok(FreezeStatus::Frozen) => Err(MachineError::Busy {
                machine: self.machine.name.to_owned(),
                reason: "another program has frozen its file systems (virsh domfsthaw thaws them)"
                    .to_owned(),
            }),
            Err(error) => self
                .fall_to(Consistency::Crash, format!("the agent did not say its state: {error}")),
        }
    }

    /// Runs the pre script, where an application-consistent state is wanted and the guest has
    /// scripts. What it returns is owed the post script.
    fn pre_script(&mut self) -> Result<Option<Scripts>> {
        if self.proof.consistency != Consistency::Application {
            return Ok(None);
        }
        let guest = self.machine.guest;
        // On Windows, freezing is a snapshot by VSS, whose writers prepare the applications.
        if agent::os_id(guest).is_ok_and(|id| id == "mswindows") {
            self.note(
                "Windows: VSS writers prepare the applications when file systems freeze".to_owned(),
            );
            return Ok(None);
        }
        let scripts = match scripts::load(guest) {
            Ok(Some(scripts)) => scripts,
            Ok(None) => {
                let reason = "the guest has no pre and post scripts".to_owned();
                self.fall_to(Consistency::FileSystem, reason)?;
                self.proof.best = Some(Consistency::FileSystem);
                return Ok(None);
            }
            Err(failure) => {
                self.fall_to(Consistency::FileSystem, failure.to_string())?;
                return Ok(None);
            }
        };
        self.guard.register_script(
            &scripts.post.path,
            &scripts.post.parameters,
            scripts.post.timeout,
        )?;
        let started = self.clock.monotonic();
        let guard = &mut *self.guard;
        match scripts::run(guest, &scripts.pre, &mut |pid| guard.script_runs(pid)) {
            Ok(tries) => {
                let words = self.done(&scripts.pre, tries, started);
                self.note(words);
                Ok(Some(scripts))
            }
            Err(failure) if scripts.continue_on_failure => {
                match self.fall_to(Consistency::FileSystem, failure.to_string()) {
                    Ok(()) => Ok(Some(scripts)),
                    Err(error) => self.post_script(&scripts).and(Err(error)),
                }
            }
            Err(failure) => {
                // The post script puts right what the pre script began.
                if let Err(error) = self.post_script(&scripts) {
                    tracing::warn!(%error, machine = %self.machine.name, "after a failed pre script");
                }
                Err(self.script_error("pre", failure.to_string()))
            }
        }
    }

    fn post_script(&mut self, scripts: &Scripts) -> Result<()> {
        let guest = self.machine.guest;
        let started = self.clock.monotonic();
        let guard = &mut *self.guard;
        let result = scripts::run(guest, &scripts.post, &mut |pid| guard.script_runs(pid));
        if result.as_ref().is_err_and(|failure| failure.is_agents) {
            self.note("the post script is left to the guard".to_owned());
        } else {
            self.guard.script_done()?;
        }
        match result {
            Ok(tries) => {
                let words = self.done(&scripts.post, tries, started);
                self.note(words);
                Ok(())
            }
            Err(failure) if scripts.continue_on_failure => {
                let less = match self.proof.consistency {
                    Consistency::Application if scripts.freeze => Consistency::FileSystem,
                    Consistency::Application => Consistency::Crash,
                    other => other,
                };
                self.fall_to(less, failure.to_string())
            }
            Err(failure) => Err(self.script_error("post", failure.to_string())),
        }
    }

    fn script_error(&self, script: &'static str, reason: String) -> MachineError {
        MachineError::Script { machine: self.machine.name.to_owned(), script, reason }
    }

    /// Runs `at` while the guest's file systems are frozen.
    fn frozen<T>(&mut self, at: impl FnOnce() -> Result<T>) -> Result<T> {
        let guest = self.machine.guest;
        let wish = self.wish;
        // What is written out now need not be while the guest is frozen. Where that cannot be asked
        // for, freezing does it all.
        let started = self.clock.monotonic();
        match agent::run(guest, "sync", &[], SYNC.min(wish.freeze_timeout)) {
            Ok(Some(_)) => {
                let took = self.since(started);
                self.note(format!("wrote out its buffers in {took}"));
            }
            Ok(None) => self.note("writing out its buffers takes long".to_owned()),
            Err(error) => tracing::debug!(%error, "no sync before freezing"),
        }
        self.guard.freeze(wish.freeze_timeout.saturating_add(wish.frozen_at_most))?;
        let started = self.clock.monotonic();
        let count = match agent::freeze(guest, wish.freeze_timeout) {
            Ok(count) => count,
            Err(error) => {
                // It may freeze later all the same.
                self.thaw(THAW)?;
                self.guard.thawed()?;
                if error.is_lost() {
                    return Err(error.into());
                }
                self.fall_to(Consistency::Crash, format!("freezing failed: {error}"))?;
                return at();
            }
        };
        if let Err(error) = self.guard.freeze(wish.frozen_at_most) {
            // The guard has died: nobody but us can thaw.
            self.thaw(THAW)?;
            return Err(error);
        }
        let frozen = self.clock.monotonic();
        let value = at();
        let instant = self.clock.monotonic();
        let thawed = agent::thaw(guest, QUICK);
        let end = self.clock.monotonic();
        self.thaw(THAW_IN_JOB)?;
        let late = self.guard.thawed()?;
        // Only now there is time for words.
        let span = |from: Duration, to: Duration| seconds(to.saturating_sub(from));
        self.proof.frozen = Some(end.saturating_sub(started));
        self.note(format!("froze {count} file systems in {}", span(started, frozen)));
        self.note(format!("QEMU's transaction took {}", span(frozen, instant)));
        let value = value?;
        match thawed {
            _ if late => {
                let reason = "the guest was thawed before the transaction had ended".to_owned();
                self.fall_to(Consistency::Crash, reason)?;
            }
            Ok(thawed) if thawed < count => {
                let reason = format!(
                    "only {thawed} file systems were still frozen after the transaction: somebody \
                     else has thawed the rest"
                );
                self.fall_to(Consistency::Crash, reason)?;
            }
            Ok(count) => self.note(format!(
                "thawed {count} file systems in {}; the agent says they are thawed",
                span(instant, end)
            )),
            // After the instant, so what was frozen then was frozen; it is thawed by now.
            Err(error) if self.is_windows_timeout(&error) => {
                self.fall_to(Consistency::Crash, format!("VSS gave up: {error}"))?;
            }
            Err(error) => self.note(format!("thawed at the second try; the first: {error}")),
        }
        self.note(format!("frozen for {} in all", span(started, end)));
        if count == 0 {
            let reason = "the guest has no file system that can be frozen".to_owned();
            self.fall_to(Consistency::Crash, reason)?;
        }
        Ok(value)
    }

    /// VSS ends a freeze by itself after 10 s, and then thawing is an error.
    fn is_windows_timeout(&self, error: &HypervisorError) -> bool {
        let guest = self.machine.guest;
        !error.is_connection() && agent::os_id(guest).is_ok_and(|id| id == "mswindows")
    }

    fn thaw(&mut self, patience: Duration) -> Result<()> {
        thaw_surely(self.machine.hands, self.clock, patience).map_err(|error| {
            MachineError::NotThawed {
                machine: self.machine.name.to_owned(),
                reason: error.to_string(),
            }
        })
    }

    fn since(&self, started: Duration) -> String {
        seconds(self.clock.monotonic().saturating_sub(started))
    }

    fn done(&self, script: &Script, tries: u32, started: Duration) -> String {
        let again = if tries > 1 { format!(" at try {tries}") } else { String::new() };
        let took = self.since(started);
        format!("{} script {} succeeded{again} in {took}", script.kind, script.path)
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.3} s", span.as_secs_f64())
}
