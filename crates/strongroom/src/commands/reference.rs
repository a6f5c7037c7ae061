//! `completions`, `man`: what the program says about itself.

use std::{fs, io::Write as _, path::PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, env::Shells};

use crate::{
    cli::Cli,
    context::Context,
    error::{FaceError, Failure},
    out,
};

/// The variable by which a shell asks what can follow in a line.
pub(crate) const COMPLETE: &str = "STRONGROOM_COMPLETE";

/// Print a completion script for a shell
///
/// The script completes commands, options, and, with a server, the names of vaults, hosts, items,
/// policies, jobs and contexts. It calls this program and belongs to this version: print it again
/// after an upgrade.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom completions bash > /etc/bash_completion.d/strongroom
  strongroom completions zsh > ~/.zfunc/_strongroom
  strongroom completions fish > ~/.config/fish/completions/strongroom.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        let shells = Shells::builtins();
        let name = self.shell.to_string();
        let shell = shells
            .completer(&name)
            .ok_or_else(|| FaceError::Bug(format!("there is no completion for {name}")))?;
        let program = "strongroom";
        shell
            .write_registration(COMPLETE, program, program, program, &mut script)
            .map_err(FaceError::Output)?;
        out::print(&String::from_utf8_lossy(&script))
    }
}

/// Print the manual page, or write the pages of all commands to a folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom man | man -l -
  strongroom man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Folder for the pages, one for each command; it is created if it does not exist
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl ManArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut command = Cli::command().disable_help_subcommand(true);
        let Some(dir) = self.dir else {
            return out::print(&String::from_utf8_lossy(&page(command)?));
        };
        let failed = |path: PathBuf, action, source| FaceError::Local { path, action, source };
        fs::create_dir_all(&dir).map_err(|source| failed(dir.clone(), "make", source))?;
        command.build();
        let mut pages = Vec::new();
        pages_of(&command, "", &mut pages)?;
        let number = pages.len();
        for (name, page) in pages {
            let file = dir.join(name + ".1");
            fs::write(&file, page).map_err(|source| failed(file, "write", source))?;
        }
        context.out.say(&format!("{number} pages written to {}", dir.display()));
        Ok(())
    }
}

/// The pages of a command and of all below it, by name.
fn pages_of(
    command: &clap::Command,
    prefix: &str,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Failure> {
    let name = format!("{prefix}{}", command.get_name());
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages_of(below, &format!("{name}-"), pages)?;
    }
    pages.push((name.clone(), page(command.clone().display_name(name))?));
    Ok(())
}

/// A page: clap_mangen's sections for options and commands, with our own sections around them,
/// since clap_mangen fills examples into paragraphs.
fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let synopsis = command.clone().render_usage().to_string();
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let name = command.get_display_name().unwrap_or("strongroom").to_owned();
    let has_options = command.get_arguments().any(|argument| !argument.is_hide_set());
    let has_commands = command.has_subcommands();
    let server = name.contains("serve") || name.contains("doctor") || name.contains("recover");
    // The examples are a section of their own below.
    let man = clap_mangen::Man::new(command.after_help("").after_long_help(""));
    let mut page = Vec::new();
    let mut render = || -> std::io::Result<()> {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        verbatim(&mut page, "SYNOPSIS", synopsis.trim_start_matches("Usage:").trim())?;
        man.render_description_section(&mut page)?;
        if has_options {
            man.render_options_section(&mut page)?;
        }
        if has_commands {
            man.render_subcommands_section(&mut page)?;
        }
        if let Some((_, examples)) = help.split_once("Examples:\n") {
            verbatim(&mut page, "EXAMPLES", examples)?;
        }
        verbatim(&mut page, "ENVIRONMENT", ENVIRONMENT)?;
        verbatim(&mut page, "FILES", if server { SERVER_FILES } else { FILES })?;
        verbatim(&mut page, "EXIT STATUS", EXIT_STATUS)?;
        page.extend_from_slice(see_also(&name).as_bytes());
        Ok(())
    };
    render().map_err(FaceError::Output)?;
    Ok(page)
}

/// A section that is shown as it is written.
fn verbatim(page: &mut Vec<u8>, title: &str, text: &str) -> std::io::Result<()> {
    writeln!(page, ".SH \"{title}\"\n.nf")?;
    for line in text.lines() {
        // A point or apostrophe at its beginning would be a request, a backslash an escape.
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        writeln!(page, "\\&{line}")?;
    }
    writeln!(page, ".fi")
}

fn see_also(name: &str) -> String {
    let other = match name {
        "strongroom" => {
            "strongroom\\-backup (1), strongroom\\-restore (1), strongroom\\-vault (1), strongroom\\-serve (1)"
        }
        _ => "strongroom (1)",
    };
    format!(
        ".SH \"SEE ALSO\"\n{other}\n.PP\nAll documentation: /usr/share/doc/strongroom, or docs/ of the source.\n"
    )
}

const ENVIRONMENT: &str = "\
STRONGROOM_VAULT            the vault, as --vault
STRONGROOM_KEY_FILE         its key, as --key-file
STRONGROOM_PASSPHRASE_FILE  as --passphrase-file
STRONGROOM_PKCS11           as --pkcs11
STRONGROOM_CACHE_DIR        as --cache-dir
STRONGROOM_CONFIG           the configuration file, as --config
STRONGROOM_CONTEXT          the context, as --context
STRONGROOM_CONNECT          libvirt, as --connect; the default is LIBVIRT_DEFAULT_URI
STRONGROOM_SERVER           a server without a context, with STRONGROOM_TOKEN and
                            STRONGROOM_FINGERPRINT or STRONGROOM_CA_FILE
STRONGROOM_SERVER_KEY       each KEY of the server's configuration, for serve
STRONGROOM_LOG              the level of the log: warn, info, debug";

const FILES: &str = "\
~/.config/strongroom/config.toml    the user's configuration file
/etc/strongroom/config.toml         read if the user has none
~/.config/strongroom/contexts.toml  the known servers, with their tokens
~/.cache/strongroom                 a copy of vaults' indexes; may be deleted";

const SERVER_FILES: &str = "\
/etc/strongroom/server.toml  the server's configuration
/var/lib/strongroom          its catalog, keys and certificate (data_dir)
/run/strongroom              sockets and locks of backups at work";

/// The exit codes of `strongroom --help`.
const EXIT_STATUS: &str = "\
0    done
2    the request or the configuration is wrong
3    the named object does not exist
4    the present state does not allow it: the object exists, is in use, or has changed
5    a store, disk or tool does not answer or has no room; try again
6    stored data is damaged
7    done, except for a part that is listed
8    the key does not fit, or the rights are missing
70   a defect of Strongroom
130  stopped on request";

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(path: &[&str]) -> String {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut name = "strongroom".to_owned();
        for part in path {
            command = command.find_subcommand(part).expect("a command").clone();
            name = format!("{name}-{part}");
        }
        String::from_utf8(page(command.display_name(name)).expect("a page")).expect("text")
    }

    #[test]
    fn pages_have_the_sections_that_readers_look_for() {
        for path in [&[][..], &["backup"], &["restore", "vm"], &["serve"]] {
            let page = page_of(path);
            let sections =
                ["NAME", "SYNOPSIS", "EXAMPLES", "ENVIRONMENT", "FILES", "EXIT STATUS", "SEE ALSO"];
            for section in sections {
                assert!(
                    page.contains(&format!(".SH \"{section}\""))
                        || page.contains(&format!(".SH {section}\n")),
                    "{path:?} lacks {section}\n{page}"
                );
            }
            assert!(!page.contains("EXTRA"), "{path:?}");
        }
        assert!(page_of(&["serve"]).contains("/etc/strongroom/server.toml"));
    }

    #[test]
    fn examples_stay_as_they_are_written() {
        let page = page_of(&["restore", "vm"]);
        let examples = page.split(".SH \"EXAMPLES\"\n.nf\n").nth(1).expect("examples");
        let examples = examples.split(".fi").next().expect("an end");
        assert!(examples.lines().count() > 5 && examples.contains("\\e\n"), "{examples}");
        let synopsis = page.split("SYNOPSIS").nth(1).expect("it is there");
        assert!(synopsis.lines().nth(2).is_some_and(|line| line.contains("<NAME>")), "{synopsis}");
    }

    #[test]
    fn the_exit_codes_are_those_of_the_help() {
        let help =
            Cli::command().get_after_long_help().map(ToString::to_string).unwrap_or_default();
        for line in EXIT_STATUS.lines() {
            assert!(help.contains(line), "{line}");
        }
    }
}
