//! Where words go: results to standard output, the story to standard error.

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    columns::Columns,
    error::{FaceError, Failure},
    tree::Node,
};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Tables and sentences for people.
    #[default]
    Table,
    /// One JSON object for programs; its fields are documented in docs/use/json.md.
    Json,
    /// Bare values with tabs between them, a line for each row of the table, for scripts.
    Tsv,
    /// The same object as YAML.
    Yaml,
}

/// A result that people can read.
pub(crate) trait Show {
    /// Its text, with a line break at the end unless it is empty.
    fn show(&self) -> String;

    /// The table in it, if it is mainly one.
    fn columns(&self) -> Option<Columns> {
        None
    }
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
            Format::Json => print(
                &(serde_json::to_string_pretty(result).map_err(|error| no_json(&error))? + "\n"),
            ),
            Format::Tsv => match result.columns() {
                Some(columns) => print(&columns.to_tsv()),
                None => print(&Node::of(result).map_err(|error| no_json(&error))?.to_tsv()),
            },
            Format::Yaml => print(&Node::of(result).map_err(|error| no_json(&error))?.to_yaml()),
        }
    }

    /// Whether people read the result, so that names are worth finding out.
    pub(crate) fn shows_names(self) -> bool {
        matches!(self.format, Format::Table | Format::Tsv)
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
            Format::Table | Format::Tsv => tell(&failure.to_text()),
            Format::Json => tell(&(failure.to_json() + "\n")),
            Format::Yaml => match serde_json::from_str::<Node>(&failure.to_json()) {
                Ok(error) => tell(&error.to_yaml()),
                Err(_) => tell(&failure.to_text()),
            },
        }
    }
}

fn no_json(error: &serde_json::Error) -> FaceError {
    FaceError::Bug(format!("a result is not JSON: {error}"))
}

/// Writes to standard output. That a reader has gone away (`| head`) is its good right.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same of bytes.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
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
