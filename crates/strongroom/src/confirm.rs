//! Asking before something is taken away: `--yes`, `--dry-run`, and a question on a terminal.

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use strongroom_base::start_thread;

use crate::{
    context::Context,
    error::{FaceError, Failure},
    human,
    out::{Show, tell},
};

/// How often a question looks whether it should stop waiting for its answer.
const LOOK: Duration = Duration::from_millis(50);

/// The option of commands that ask before they take something away.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Confirmation")]
pub(crate) struct YesArgs {
    /// Do it without a question; needed where there is no terminal to ask on
    #[arg(long, short)]
    yes: bool,
}

/// The same with a dry run.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Confirmation")]
pub(crate) struct ConfirmArgs {
    #[command(flatten)]
    yes: YesArgs,

    /// Show what would be done, and do nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// What a command is about to take away. As JSON: what `--dry-run` prints.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    dry_run: bool,
    action: String,
    consequences: Vec<String>,
    #[serde(skip)]
    asks: bool,
}

impl Plan {
    /// A plan; the action is an imperative without a full stop: `Delete the user ann`.
    pub(crate) fn new(action: impl Into<String>) -> Self {
        Self { dry_run: true, action: action.into(), consequences: Vec::new(), asks: true }
    }

    /// Adds what comes of it, as a sentence without a full stop.
    pub(crate) fn with(mut self, consequence: impl Into<String>) -> Self {
        self.consequences.push(consequence.into());
        self
    }

    /// The same of an action that takes nothing away: it is done without a question.
    pub(crate) fn without_question(self) -> Self {
        Self { asks: false, ..self }
    }

    fn text(&self) -> String {
        let lines = self.consequences.iter().map(|line| format!("  {line}\n"));
        human::printable(&format!("{}\n{}", self.action, lines.collect::<String>()))
    }
}

impl Show for Plan {
    fn show(&self) -> String {
        self.text() + "Nothing was changed: this was a dry run.\n"
    }
}

impl ConfirmArgs {
    /// Whether the command should continue. With `--dry-run` it should not, and the plan is printed.
    pub(crate) fn go(self, context: &Context, plan: &Plan) -> Result<bool, Failure> {
        if self.dry_run {
            context.out.result(plan)?;
            return Ok(false);
        }
        self.yes.ask(context, plan).map(|()| true)
    }

    /// Whether nothing is to be changed: for commands whose dry run says more than a plan.
    pub(crate) fn is_dry_run(self) -> bool {
        self.dry_run
    }

    /// Whether the plan is worth finding out: it is shown to nobody with `--yes`.
    pub(crate) fn wants_plan(self) -> bool {
        !self.yes.yes
    }
}

impl YesArgs {
    /// Returns if the command should continue; a refusal is a failure.
    pub(crate) fn ask(self, context: &Context, plan: &Plan) -> Result<(), Failure> {
        if self.yes || !plan.asks {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let mut going = vec![plan.action.clone()];
            going.extend(plan.consequences.iter().cloned());
            let words = format!(
                "this needs your consent, but there is no terminal to ask on: {}",
                going.join("; ")
            );
            return Err(Failure::usage(words)
                .with_hint("Give --yes to do it without a question. Nothing was changed."));
        }
        tell(&format!("{}Go on? [y/N] ", plan.text()));
        if context.cancel.is_cancelled() || !is_yes(&answer(context)?) {
            return Err(Failure::from(FaceError::Declined).with_hint("Nothing was changed."));
        }
        Ok(())
    }
}

/// Reads a line, unless the user stops the program first: a read that waits does not notice that.
fn answer(context: &Context) -> Result<String, Failure> {
    let (send, receive) = channel();
    start_thread("answer", move || {
        let mut line = String::new();
        // Nobody waits for the answer any more if this fails.
        send.send(io::stdin().read_line(&mut line).map(|_| line)).ok();
    });
    loop {
        match receive.recv_timeout(LOOK) {
            Ok(line) => {
                let failed =
                    |source| FaceError::Local { path: "/dev/tty".into(), action: "read", source };
                return Ok(line.map_err(failed)?);
            }
            Err(RecvTimeoutError::Timeout) if !context.cancel.is_cancelled() => {}
            Err(_) => return Ok(String::new()),
        }
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes(" Yes\r\n"));
        assert!(!is_yes("") && !is_yes("\n") && !is_yes("n\n") && !is_yes("yess\n"));
    }

    #[test]
    fn a_plan_in_words() {
        let plan = Plan::new("Delete the user ann").with("her 2 tokens end at once");
        assert_eq!(plan.text(), "Delete the user ann\n  her 2 tokens end at once\n");
        assert!(plan.show().ends_with("this was a dry run.\n"));
    }
}
