//! Ctrl-C, `kill` and a terminal that closes: the first signal asks the work to stop, the second ends the program, or asks
//! the work to stop at once where that must still clean up.

use std::{
    fs, process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};
use strongroom_base::{Cancel, Kind, start_thread};

use crate::out::tell;

/// What a command wants of signals besides being stopped by them. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopping(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Adds signals. None if none are handled.
    handle: OnceLock<Handle>,
    /// Whether the command ends itself at the second signal.
    ends_itself: AtomicBool,
    /// Whether there was a second.
    is_urgent: AtomicBool,
}

impl Stopping {
    /// From now on a terminal that closes (SIGHUP) stops the command as SIGTERM does: it has files or a mount that must not
    /// stay. Where SIGHUP is ignored, as under `nohup`, it still is.
    pub(crate) fn with_terminal(&self) {
        if is_ignored(SIGHUP) {
            return;
        }
        let added = self.0.handle.get().map(|handle| handle.add_signal(SIGHUP));
        if let Some(Err(error)) = added {
            tracing::warn!(%error, "a terminal that closes ends the command at once");
        }
    }

    /// From now on the second signal does not end the program: the command looks at [`Self::is_urgent`], and ends itself.
    pub(crate) fn ends_itself(&self) {
        self.0.ends_itself.store(true, Ordering::SeqCst);
    }

    /// Whether the command is to stop at once.
    pub(crate) fn is_urgent(&self) -> bool {
        self.0.is_urgent.load(Ordering::SeqCst)
    }
}

/// Raises `cancel` at the first SIGINT or SIGTERM, and exits at the second unless the command ends itself.
///
/// SIGHUP keeps its meaning unless a command asks for it ([`Stopping::with_terminal`]), so that `nohup` works; and a program
/// that is ended hard at any moment has lost nothing that was published.
pub(crate) fn watch(cancel: Cancel, stopping: &Stopping) {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else {
        tracing::warn!("signals cannot be handled; Ctrl-C ends the program at once");
        return;
    };
    let state = Arc::clone(&stopping.0);
    // It is watched once.
    let _set = state.handle.set(signals.handle()).is_ok();
    start_thread("signals", move || {
        for signal in signals.forever() {
            if !cancel.is_cancelled() {
                cancel.cancel();
                tell("\nStopping; once more to stop at once.\n");
            } else if signal == SIGHUP {
                // The shell and the kernel each send one when a terminal closes.
            } else if state.ends_itself.load(Ordering::SeqCst) {
                state.is_urgent.store(true, Ordering::SeqCst);
            } else {
                process::exit(i32::from(Kind::Interrupted.exit_code()));
            }
        }
    });
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| has_ignored(&status, signal))
}

/// Whether the status of a process (proc(5)) has a signal among those that it ignores.
fn has_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let place = u32::try_from(signal).ok().and_then(|signal| signal.checked_sub(1));
    place.and_then(|place| mask.checked_shr(place)).is_some_and(|rest| rest & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_ignores_is_seen() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(has_ignored(status, SIGHUP) && !has_ignored(status, SIGTERM));
        assert!(!has_ignored("Name:\tx\n", SIGHUP) && !has_ignored("SigIgn:\tno\n", SIGHUP));
        assert!(!has_ignored(status, 0) && !has_ignored(status, 99));
    }
}
