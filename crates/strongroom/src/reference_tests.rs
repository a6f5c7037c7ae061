//! Pages that are made from the program stay what the program says.
//!
//! `STRONGROOM_BLESS=1 cargo test -p strongroom` writes them.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use clap::{CommandFactory as _, Parser as _};

use strongroom_base::CATALOG;

use crate::{cli::Cli, commands::errors, human::one_final_newline};

/// The page docs/use/cli.md.
fn cli_markdown() -> String {
    let mut text = "\
# Commands

The long help of every command, as `strongroom COMMAND --help` prints it; the global options, which
every command has, are shown once, with `strongroom` itself. This page is made from the program; a test
keeps it current. What the commands print with `--output json` is in [json.md](json.md), what their
errors mean in [errors.md](errors.md).

"
    .to_owned();
    let mut command = Cli::command().disable_help_subcommand(true).term_width(98);
    command.build();
    text.push_str("| command | |\n|---|---|\n");
    contents(&command, "", &mut text);
    text.push('\n');
    section(&command, "", &mut text);
    one_final_newline(&text)
}

/// A line for each command, with a link to its section.
fn contents(command: &clap::Command, prefix: &str, text: &mut String) {
    let name = format!("{prefix}{}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(text, "| [`{name}`](#{}) | {about} |", name.replace(' ', "-")).expect("writes");
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        contents(below, &format!("{name} "), text);
    }
}

/// Help without the options that every command has.
fn own_help(help: &str) -> String {
    let Some((before, global)) = help.split_once("\nGlobal options:\n") else {
        return help.to_owned();
    };
    let after = global.split("\n\n").skip_while(|part| part.starts_with(' '));
    let after: Vec<&str> = after.collect();
    format!("{}\n\n{}", before.trim_end(), after.join("\n\n"))
}

fn section(command: &clap::Command, prefix: &str, text: &mut String) {
    let name = format!("{prefix}{}", command.get_name());
    let help = command.clone().bin_name(&name).render_long_help().to_string();
    let help = if prefix.is_empty() { help } else { own_help(&help) };
    let help: String = help.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    write!(text, "## {name}\n\n```text\n{}\n```\n\n", help.trim_end()).expect("writes");
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(below, &format!("{name} "), text);
    }
}

fn assert_current(page: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        fs::write(&file, text).expect("writes");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == text,
        "docs/{page} is not what the program says; see `git diff` after \
         STRONGROOM_BLESS=1 cargo test -p strongroom reference"
    );
}

#[test]
fn cli_page_is_current() {
    assert_current("use/cli.md", &cli_markdown());
}

#[test]
fn errors_page_is_current() {
    assert_current("use/errors.md", &errors::index());
}

#[test]
fn every_error_has_a_current_page_and_no_page_is_left_over() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("a folder");
    }
    let file = |name: &str| format!("{name}.md");
    for code in CATALOG {
        assert_current(&format!("errors/{}", file(code.name)), &errors::page(code));
    }
    let found = fs::read_dir(&folder).expect("docs/errors");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let found: BTreeSet<String> = found.map(|entry| name(entry.expect("a page"))).collect();
    let wanted: BTreeSet<String> = CATALOG.iter().map(|code| file(code.name)).collect();
    assert_eq!(found, wanted);
}

#[test]
fn command_tree_is_sound() {
    Cli::command().debug_assert();
}

/// Commands and options that take something away for which there is no way back.
const TAKING: [&str; 13] = [
    "delete",
    "remove",
    "revoke",
    "disable",
    "accept",
    "undo",
    "forget",
    "keep-until",
    "reclaim",
    "replace",
    "in-place",
    "delete-backup-data",
    "damaged",
];

/// Such as do not ask, and why.
const UNASKED: [(&str, &str); 2] = [
    ("strongroom context remove", "the context is made again by signing in"),
    ("strongroom vault reclaim", "it frees what was deleted before, which was asked about then"),
];

#[test]
fn what_takes_something_away_asks_before() {
    fn look(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        let own = path.rsplit(' ').next().unwrap_or_default();
        let mut options = command.get_arguments().filter_map(clap::Arg::get_long);
        let takes = TAKING.contains(&own) || options.any(|option| TAKING.contains(&option));
        let asks = command.get_arguments().any(|argument| argument.get_long() == Some("yes"));
        let is_leaf = command.get_subcommands().next().is_none();
        if is_leaf && takes && !asks {
            found.insert(path.to_owned());
        }
        for below in command.get_subcommands() {
            look(below, &format!("{path} {}", below.get_name()), found);
        }
    }
    let mut unasked = BTreeSet::new();
    look(&Cli::command().disable_help_subcommand(true), "strongroom", &mut unasked);
    let known: BTreeSet<String> = UNASKED.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(unasked, known);
}

/// The commands that a help text shows below `Examples:`, as arguments.
fn examples(help: &str) -> Vec<Vec<String>> {
    let examples = help.split("Examples:\n").nth(1).unwrap_or_default();
    let examples = examples.split("\n\n").next().unwrap_or_default().replace("\\\n", " ");
    let commands = examples.lines().filter(|line| line.trim().starts_with("strongroom "));
    commands.map(|line| words(line.split(['|', '>']).next().unwrap_or_default())).collect()
}

/// Splits as a shell would, as far as the examples go.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.trim().chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.push(String::new()),
            _ => words.last_mut().expect("one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_has_examples_of_itself_that_parse() {
    fn check(command: &clap::Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = examples(&help);
        for example in &examples {
            if let Err(error) = Cli::try_parse_from(example) {
                panic!("{example:?}: {error}");
            }
        }
        let shown = |command: &&clap::Command| !command.is_hide_set();
        let mut below = command.get_subcommands().filter(shown).peekable();
        if below.peek().is_none() {
            let own = |example: &Vec<String>| example.join(" ").starts_with(path);
            assert!(examples.iter().any(own), "{path} has no example of itself");
        }
        below.for_each(|below| check(below, &format!("{path} {}", below.get_name())));
    }
    check(&Cli::command().disable_help_subcommand(true), "strongroom");
}
