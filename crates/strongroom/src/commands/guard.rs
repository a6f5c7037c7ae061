//! `vm-guard`: what a backup of a machine starts beside itself. Not for people.

use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::Arc,
};

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use strongroom_base::Clock;

use crate::{
    context::Context,
    error::{FaceError, Failure},
};

/// Watches over a machine for a backup, and leaves it unharmed if the backup dies
///
/// Started by `backup --vm`; it talks to it over its standard input.
#[derive(Debug, Args)]
pub(crate) struct GuardArgs {}

impl GuardArgs {
    #[allow(clippy::unused_self, reason = "as every command")]
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let failed = |source| FaceError::Local {
            path: "standard input".into(),
            action: "be a guard over",
            source,
        };
        // What ends the backup must not end its guard.
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            let ignored = Arc::default();
            signal_hook::flag::register(signal, ignored).map_err(failed)?;
        }
        let clock: Arc<dyn Clock> = Arc::new(context.clock);
        let stream = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(strongroom_machine::guard::serve(&UnixStream::from(stream), &clock).map_err(failed)?)
    }
}
