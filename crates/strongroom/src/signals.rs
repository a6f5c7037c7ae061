//! Ctrl-C and `kill`: the first asks the work to stop, the second ends the program.

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use strongroom_base::{Cancel, Kind, start_thread};

use crate::out::tell;

/// Raises `cancel` at the first SIGINT or SIGTERM and exits at the second.
///
/// SIGHUP keeps its meaning, so that `nohup` works; and a program that is ended hard at any
/// moment has lost nothing that was published.
pub(crate) fn watch(cancel: Cancel) {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else {
        tracing::warn!("signals cannot be handled; Ctrl-C ends the program at once");
        return;
    };
    start_thread("signals", move || {
        for _ in signals.forever() {
            if cancel.is_cancelled() {
                std::process::exit(i32::from(Kind::Interrupted.exit_code()));
            }
            cancel.cancel();
            tell("\nStopping; once more to stop at once.\n");
        }
    });
}
