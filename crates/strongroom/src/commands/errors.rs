//! `errors`: the catalog of error codes, for people, for scripts, and as pages of the documentation.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use strongroom_base::{CATALOG, Code, Fault, Kind};
use strongroom_server::status_of;

use crate::{
    columns::{Columns, row},
    context::Context,
    error::{FaceError, Failure},
    human,
    near::near,
    out::{self, Show},
};

/// List all error codes: their meaning and what to do
///
/// Every error that Strongroom reports has one of these codes. A code never changes its meaning.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  strongroom errors
  strongroom errors --output json"
)]
pub(crate) struct ErrorsArgs {
    /// Print them as the Markdown page docs/use/errors.md
    #[arg(long, conflicts_with = "output")]
    markdown: bool,

    #[command(subcommand)]
    command: Option<ErrorsCommand>,
}

/// `errors ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ErrorsCommand {
    Show(ShowArgs),
}

/// Show the meaning of an error code and what to do
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom errors show vm.agent
  strongroom errors show UserErrorGuestAgentStatusUnavailable")]
pub(crate) struct ShowArgs {
    /// The code, or Azure Backup's name for the same error
    #[arg(value_name = "CODE")]
    code: String,
}

/// The catalog; see `docs/use/json.md`.
#[derive(Serialize)]
struct Catalog {
    errors: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    code: &'static str,
    kind: Kind,
    exit_code: u8,
    status: u16,
    fault: Fault,
    retryable: bool,
    meaning: &'static str,
    hint: &'static str,
    params: &'static [&'static str],
    azure: &'static [&'static str],
}

impl From<&'static Code> for Entry {
    fn from(code: &'static Code) -> Self {
        Self {
            code: code.name,
            kind: code.kind,
            exit_code: code.kind.exit_code(),
            status: status_of(code).as_u16(),
            fault: code.fault(),
            retryable: code.is_retryable(),
            meaning: code.meaning,
            hint: code.hint,
            params: code.params(),
            azure: code.azure(),
        }
    }
}

impl Show for Catalog {
    fn show(&self) -> String {
        let mut text = String::new();
        for Entry { code, kind, exit_code, meaning, hint, .. } in &self.errors {
            let kind = kind.name();
            write!(text, "{code} ({kind}, exit code {exit_code})\n  {meaning}\n  {hint}\n").ok();
        }
        text
    }

    fn columns(&self) -> Option<Columns> {
        let rows = self.errors.iter().map(|entry| {
            let Entry { code, kind, exit_code, meaning, hint, .. } = *entry;
            row![code, kind.name(), u32::from(exit_code), meaning, hint]
        });
        Some(Columns::new(["CODE", "KIND", "EXIT CODE", "MEANING", "HINT"], rows))
    }
}

/// One entry, on its own.
struct Shown(&'static Code);

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Entry::from(self.0).serialize(serializer)
    }
}

impl Show for Shown {
    fn show(&self) -> String {
        let mut text = format!("{}\n\n{}\n{}\n\n", self.0.name, self.0.meaning, self.0.hint);
        for (name, value) in facts(self.0) {
            writeln!(text, "{name:<30}{}", value.replace('`', "")).ok();
        }
        text
    }
}

/// The facts about a code besides its sentences.
fn facts(code: &Code) -> Vec<(&'static str, String)> {
    let who = match code.fault() {
        Fault::Caller => "the caller: with another request, or with other rights",
        Fault::Environment => "the operator of the hosts, guests, networks and stores",
        Fault::Storage => "nobody: stored bytes have changed",
        Fault::Strongroom => "the makers of Strongroom",
    };
    let again = if code.is_retryable() { "yes" } else { "no" };
    let mut facts = vec![
        ("Kind", format!("`{}`", code.kind.name())),
        ("Exit code", code.kind.exit_code().to_string()),
        ("HTTP status", status_of(code).as_u16().to_string()),
        ("Who can remove the cause", who.to_owned()),
        ("May succeed later, unchanged", again.to_owned()),
    ];
    if !code.params().is_empty() {
        let names: Vec<String> = code.params().iter().map(|name| format!("`{name}`")).collect();
        facts.push(("Parameters", names.join(", ")));
    }
    if !code.problems().is_empty() {
        let of = |(name, meaning): &(&str, &str)| format!("`{name}`: {meaning}");
        let problems: Vec<String> = code.problems().iter().map(of).collect();
        facts.push(("Values of problem", problems.join("; ")));
    }
    if !code.azure().is_empty() {
        let names: Vec<String> = code.azure().iter().map(|name| format!("`{name}`")).collect();
        facts.push(("Azure Backup's name", names.join(", ")));
    }
    facts
}

fn find(name: &str) -> Result<&'static Code, Failure> {
    let is = |code: &&&Code| code.name == name || code.azure().contains(&name);
    CATALOG.iter().find(is).copied().ok_or_else(|| {
        let names = CATALOG.iter().flat_map(|code| std::iter::once(&code.name).chain(code.azure()));
        let failure = Failure::from(FaceError::NoCode(name.to_owned()));
        match near(name, names.copied()).as_slice() {
            [] => failure,
            near => failure.with_hint(format!(
                "Is it {}? `strongroom errors` lists all codes.",
                near.join(", or ")
            )),
        }
    })
}

impl ErrorsArgs {
    pub(crate) fn run(&self, context: &Context) -> Result<(), Failure> {
        if let Some(ErrorsCommand::Show(args)) = &self.command {
            return context.out.result(&Shown(find(&args.code)?));
        }
        if self.markdown {
            return out::print(&index());
        }
        context.out.result(&Catalog { errors: CATALOG.iter().copied().map(Entry::from).collect() })
    }
}

/// The page docs/use/errors.md.
pub(crate) fn index() -> String {
    let mut text = "\
# Errors

Every error that Strongroom reports has a code. Scripts may rely on codes: a code never
changes its meaning and is never reused for another error. The kind says what the caller can
do about it and decides the exit code. Commands print an error on standard error, as text or, with
`--output json`, as an object (see [json.md](json.md#errors)); the API returns the same object.

Each code has a page: what has happened, what to do, who can remove the cause, whether the same request
may succeed later, the names of the values in its messages (`params`), and Azure Backup's name for it. Where several messages of a code have the same values,
the parameter `problem` says by a word which of them it is, and the page lists these words. `strongroom errors show CODE` prints the same, and takes
Azure's names too; `GET /v1/errors` returns all codes.

`strongroom errors --markdown` generates this page; a test keeps it and the pages current.

| code | kind | exit code | HTTP status | what has happened |
|---|---|---|---|---|
"
    .to_owned();
    for code in CATALOG {
        let Code { name, kind, meaning, .. } = code;
        let (kind, exit, status) = (kind.name(), kind.exit_code(), status_of(code).as_u16());
        writeln!(
            text,
            "| [{name}](../errors/{name}.md) | `{kind}` | {exit} | {status} | {meaning} |"
        )
        .ok();
    }
    human::one_final_newline(&text)
}

/// The page of a code, docs/errors/CODE.md.
#[cfg(test)]
pub(crate) fn page(code: &Code) -> String {
    let Code { name, meaning, hint, .. } = code;
    let mut text = format!(
        "# {name}\n\n{meaning}\n\n## What to do\n\n{hint}\n\n## For programs\n\n| | |\n|---|---|\n"
    );
    for (name, value) in facts(code) {
        writeln!(text, "| {name} | {value} |").ok();
    }
    text += "\nAll codes: [errors.md](../use/errors.md). This page is generated from the program; a test keeps it current.\n";
    text
}
