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
                continue;
            }
            commands.push(line.to_owned());
        }
        continued = commands.last().is_some_and(|line| line.ends_with('\\'));
    }
    commands
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

#[test]
fn commands_are_found_in_pages() {
    let page = "strongroom no\n```console\n# strongroom vault create --vault a \\\n    --key-file b\nls\n```\n\
                ```\n$ strongroom status | less\nstrongroom vault [OPTIONS]\n```\n";
    let found = commands(page);
    assert_eq!(
        found,
        [
            "strongroom vault create --vault a --key-file b",
            "strongroom status | less",
            "strongroom vault [OPTIONS]"
        ]
    );
    assert_eq!(words(&found[1]), ["strongroom", "status"]);
    assert!(is_usage(&words(&found[2])));
}
