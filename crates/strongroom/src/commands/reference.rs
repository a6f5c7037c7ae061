//! `completions`, `man`: what the program says about itself.

use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, env::Shells};

use crate::{
    cli::Cli,
    context::Context,
    error::{FaceError, Failure},
    out,
};

/// The variable by which a shell asks what a line could go on with.
pub(crate) const COMPLETE: &str = "STRONGROOM_COMPLETE";

/// Print a completion script for a shell
///
/// Commands and options are completed, and, with a server, the names of vaults, hosts, items,
/// policies, jobs and contexts. The script asks the program, so it belongs to this version: make it
/// anew with each.
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
    /// Folder to write one page a command to; it is made if it does not exist
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

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(FaceError::Output)?;
    Ok(page)
}
