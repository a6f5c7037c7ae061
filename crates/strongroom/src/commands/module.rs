//! `pkcs11-module`: the process that loads a token's module. Not for people.

use std::os::{fd::AsFd as _, unix::net::UnixStream};

use clap::Args;

use crate::{
    context::Context,
    error::{FaceError, Failure},
};

/// Loads a token's module for a command that needs a key in the token
///
/// Started by whatever opens a vault with such a key; it talks to it over its standard input.
#[derive(Debug, Args)]
pub(crate) struct ModuleArgs {}

impl ModuleArgs {
    #[allow(clippy::unused_self, reason = "as every command")]
    pub(crate) fn run(self, _context: &Context) -> Result<(), Failure> {
        let failed = |source| FaceError::Local {
            path: "standard input".into(),
            action: "be the process of a module over",
            source,
        };
        let stream = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(strongroom_keys::serve_module(UnixStream::from(stream)).map_err(failed)?)
    }
}
