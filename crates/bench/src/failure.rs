//! The one error of these programs: a sentence for the person who runs them.

use std::{error, fmt, io, path::Path, process::ExitCode};

/// What went wrong, and with which file or program.
#[derive(Debug)]
pub struct Failure(String);

/// A result that fails with a [`Failure`].
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// A failure of an operation on `path`.
    pub fn at(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| Self(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Failure {}

macro_rules! from {
    ($($source:ty),*) => {$(
        impl From<$source> for Failure {
            fn from(error: $source) -> Self {
                Self(error.to_string())
            }
        }
    )*};
}
from!(
    io::Error,
    rustix::io::Errno,
    serde_json::Error,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    strongroom_catalog::Error
);

/// Ends a program: prints a failure to standard error.
pub fn finish(program: &str, outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing better can be done when standard error is gone.
            drop(io::Write::write_fmt(&mut io::stderr(), format_args!("{program}: {failure}\n")));
            ExitCode::FAILURE
        }
    }
}
