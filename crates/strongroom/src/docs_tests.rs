//! Every command that a page or a help text shows is one that the program takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory as _, error::ErrorKind};

use crate::cli::Cli;

/// All pages that people write or read: README, docs, and the units and examples of the packaging.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of docs") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// The calls of the program in a line that something else runs: cron at a time and as a user, or systemd.
fn scheduled(line: &str) -> Vec<String> {
    let after_time = line.split_once(" root ").filter(|(time, _)| time.split(' ').count() == 5);
    let command = line.strip_prefix("ExecStart=").or(after_time.map(|(_, command)| command));
    let calls = command.into_iter().flat_map(|command| command.split(" && "));
    calls.map(str::to_owned).collect()
}

/// The lines in fenced blocks of a page that call the program, with continued lines joined.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let (mut fenced, mut continued) = (false, false);
    for line in page.lines().map(str::trim) {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if !fenced {
            continue;
        }
        if continued {
            let last: &mut String = commands.last_mut().expect("a line that goes on");
            last.truncate(last.len() - 1);
            last.push_str(line);
        } else {
            let line = line.strip_prefix("# ").or(line.strip_prefix("$ ")).unwrap_or(line);
            if !line.starts_with("strongroom ") {
                commands.extend(scheduled(line));
                continue;
            }
            commands.push(line.to_owned());
        }
        continued = commands.last().is_some_and(|line| line.ends_with('\\'));
    }
    commands
}

/// What a page's prose puts between backticks and begins with the program's name.
fn mentions(page: &str) -> Vec<&str> {
    let prose = page.split("```").step_by(2);
    let code = prose.flat_map(|text| text.split('`').skip(1).step_by(2));
    // Names of versions, such as `strongroom key ring 1`, are no calls.
    let is_call = |code: &&str| code.starts_with("strongroom ") && !code.ends_with(" 1");
    code.filter(is_call).collect()
}

/// The words of the program's first call in a line of shell.
fn words(line: &str) -> Vec<String> {
    let words = shlex::split(line).unwrap_or_else(|| panic!("an open quote: {line}"));
    let ends =
        |word: &String| ["|", "||", "&&", ";", ">", ">>", "2>", "<", "&"].contains(&word.as_str());
    words.into_iter().take_while(|word| !ends(word)).collect()
}

/// A usage such as `strongroom vault create [OPTIONS]`, or a line with a placeholder such as ID: no call.
fn is_usage(words: &[String]) -> bool {
    let placeholder = |word: &String| {
        word.starts_with(['[', '<'])
            || word.ends_with("...")
            || (word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    words.iter().any(placeholder)
}

/// The comment of a line of shell, which a prompt of root does not begin.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim();
    let line = line.strip_prefix("# ").unwrap_or(line);
    line.split_once(" # ").map(|(_, comment)| comment)
}

#[test]
fn no_comment_of_a_command_hides_another_command() {
    let is_hidden = |line: &&str| {
        let padded = |text: &str| format!(" {text} ").contains(" strongroom ");
        comment(line).is_some_and(padded)
    };
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        let blocks = text.split("```").skip(1).step_by(2);
        let hidden = blocks.flat_map(str::lines).filter(is_hidden);
        wrong.extend(hidden.map(|line| format!("{}: {line}", page.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(is_hidden(&"strongroom vm check # what it finds strongroom backup --vm web01"));
    assert!(is_hidden(&"# strongroom vm list  # strongroom vm check"));
    assert!(!is_hidden(&"# strongroom vm list  # those of Strongroom"));
}

#[test]
fn every_command_of_the_docs_is_taken() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for line in commands(&text) {
            let words = words(&line);
            if is_usage(&words) {
                continue;
            }
            count += 1;
            match Cli::command().try_get_matches_from(&words) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
                Err(error) => wrong.push(format!("{}: {line}\n{error}", page.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 250, "only {count} commands were found");
}

/// Prose may leave out what a command requires, but must not name one, or an option, that does not exist.
#[test]
fn every_command_in_prose_exists() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for mention in mentions(&text) {
            let words = words(&mention.replace('\n', " "));
            if is_usage(&words) {
                continue;
            }
            count += 1;
            let taken = Cli::command().try_get_matches_from(&words);
            let kind = taken.err().map(|error| error.kind());
            if matches!(kind, Some(ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument)) {
                wrong.push(format!("{}: `{mention}`", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "only {count} commands were found");
}

/// What the script shows a newcomer.
#[test]
fn every_command_of_the_quickstart_is_taken() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/quickstart");
    let script = fs::read_to_string(script).expect("the script").replace("\\\n", " ");
    let calls = script.lines().map(str::trim).filter_map(|line| {
        let call = line.strip_prefix("run ").unwrap_or(line);
        call.strip_prefix("./strongroom ")
    });
    let mut count = 0;
    for call in calls {
        let call = format!("strongroom {call}").replace("$(point 1)", "latest");
        let call = call.split("     (").next().expect("a call").replace('|', " | ");
        let taken = Cli::command().try_get_matches_from(words(&call));
        assert!(
            taken.is_ok(),
            "{call}\n{}",
            taken.err().map(|e| e.to_string()).unwrap_or_default()
        );
        count += 1;
    }
    assert!(count > 20, "only {count} calls were found");
}

#[test]
fn commands_are_found_in_pages() {
    let page = "strongroom no\n```console\n# strongroom vault create --vault a \\\n    --key-file b\nls\n```\n\
                ```\n$ strongroom status | less\nstrongroom vault [OPTIONS]\n```\n\
                ```cron\n5 2 * * * root strongroom vault reclaim && strongroom vault verify\n```\n\
                ```ini\nExecStart=strongroom status\n```\nSee `strongroom vault key`.\n";
    let found = commands(page);
    assert_eq!(
        found,
        [
            "strongroom vault create --vault a --key-file b",
            "strongroom status | less",
            "strongroom vault [OPTIONS]",
            "strongroom vault reclaim",
            "strongroom vault verify",
            "strongroom status",
        ]
    );
    assert_eq!(words(&found[1]), ["strongroom", "status"]);
    assert!(is_usage(&words(&found[2])));
    assert_eq!(mentions(page), ["strongroom vault key"]);
}
