//! Where words go: results to standard output, the story to standard error.

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::{FaceError, Failure};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Tables and sentences for people.
    #[default]
    Table,
    /// One JSON object for programs; its fields are documented in docs/json.md.
    Json,
}

/// A result that people can read.
pub(crate) trait Show {
    /// Its text, with a line break at the end unless it is empty.
    fn show(&self) -> String;
}

/// Prints results and the story.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    format: Format,
    quiet: bool,
}

impl Out {
    /// A printer.
    pub(crate) fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet }
    }

    /// Prints the result of a command.
    pub(crate) fn result<T: Serialize + Show>(self, result: &T) -> Result<(), Failure> {
        match self.format {
            Format::Table => print(&result.show()),
            Format::Json => {
                let json = serde_json::to_string_pretty(result)
                    .map_err(|error| FaceError::Bug(format!("a result is not JSON: {error}")))?;
                print(&(json + "\n"))
            }
        }
    }

    /// Tells people what happens; says nothing if they asked for quiet.
    pub(crate) fn say(self, words: &str) {
        if !self.quiet {
            tell(&format!("{words}\n"));
        }
    }

    /// Tells of a failure.
    pub(crate) fn failure(self, failure: &Failure) {
        match self.format {
            Format::Table => tell(&failure.to_text()),
            Format::Json => tell(&(failure.to_json() + "\n")),
        }
    }
}

/// Writes to standard output. That a reader has gone away (`| head`) is its good right.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(FaceError::Output(error).into())
        }
        _ => Ok(()),
    }
}

/// Writes to standard error; there is nobody left to tell if that fails.
pub(crate) fn tell(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).ok();
}
