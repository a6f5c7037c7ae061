//! Better hints than the error catalog's: names from other programs, and causes that only this machine
//! shows.

use std::{error::Error, io};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use strongroom_base::{Coded, codes};
use strongroom_server::{ServerError, VARIABLES};

use crate::context::variable;

/// Commands of other programs, and what does the same here.
const COMMANDS: [(&[&str], &str); 19] = [
    (
        &["list", "ls", "snapshots", "snapshot", "points"],
        "`strongroom recoverypoint list` lists recovery points; `strongroom vm list`, `item list` \
         and `vault list` list machines, items and vaults",
    ),
    (
        &["init"],
        "`strongroom vault create` creates a vault, `strongroom vault key generate` its key",
    ),
    (
        &["forget"],
        "`strongroom recoverypoint forget --keep-daily N`; a server does it by policy: `strongroom \
         policy`",
    ),
    (&["prune", "gc", "compact"], "`strongroom vault reclaim` frees space that no point needs"),
    (
        &["check", "fsck"],
        "`strongroom vault verify` checks a vault, `strongroom vm check` machines",
    ),
    (
        &["umount"],
        "a mount ends with the `strongroom mount disks` that made it: Ctrl-C, or the system's `umount`",
    ),
    (&["version"], "`strongroom --version`"),
    (&["stats", "usage", "df", "du"], "`strongroom vault usage`"),
    (&["create", "save", "snapshot-create"], "`strongroom backup` makes a recovery point"),
    (&["extract", "recover-vm"], "`strongroom restore disks` or `strongroom restore vm`"),
    (&["info", "cat"], "`strongroom recoverypoint show` or `strongroom vault show`"),
    (&["diff"], "`strongroom recoverypoint diff`"),
    (&["delete", "rm", "remove"], "`strongroom recoverypoint delete`; see also `vault`, `item`"),
    (&["key", "passwd", "password"], "`strongroom vault key`"),
    (&["repo", "repository"], "`strongroom vault`"),
    (&["login", "connect"], "`strongroom context add NAME --server URL --sign-in USER`"),
    (&["copy", "sync", "replicate"], "`strongroom vault create --mirror DIR` keeps further copies"),
    (&["schedule", "cron"], "`strongroom serve` backs up by policy: `strongroom policy create`"),
    (
        &["undelete"],
        "`strongroom protection undelete`, `vault undelete`, `recoverypoint keep-until`",
    ),
];

/// Options of other programs, and what says the same here.
const OPTIONS: [(&[&str], &str); 13] = [
    (&["--json", "-j"], "`--output json`, or `-o json`"),
    (&["--query"], "`--output json | jq ...`, or `--output tsv | cut -f...`"),
    (&["--repo", "--repository", "-r"], "`--vault URL`, or STRONGROOM_VAULT"),
    (
        &["--password-file", "--password", "--password-command", "-p"],
        "`--passphrase-file FILE` or `--key-file FILE`",
    ),
    (&["--target", "-t"], "`--to DIR`"),
    (
        &["--force", "-f"],
        "`--yes` answers the question of a command that removes or stops something",
    ),
    (&["--snapshot", "--point", "--rp-name"], "`--recovery-point latest|ID|TIME`"),
    (&["--item-name"], "`--item NAME`"),
    (&["--vm-name"], "`--vm NAME`"),
    (&["--policy-name"], "`--policy NAME`, or the NAME alone"),
    (
        &["--vault"],
        "`--vault-name NAME` for a vault of the service; for a vault directly see --help",
    ),
    (&["--no-wait"], "nothing: without `--wait` a command returns as soon as its job has begun"),
    (&["--tags"], "`--tag KEY=VALUE`, as often as needed"),
];

/// The equivalent of another program's command or option.
pub(crate) fn of_habit(error: &clap::Error) -> Option<String> {
    let (kind, table): (_, &[(&[&str], &str)]) = match error.kind() {
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, &COMMANDS),
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, &OPTIONS),
        _ => return None,
    };
    let Some(ContextValue::String(word)) = error.get(kind) else { return None };
    // An option may come with its value, a short one with others.
    let word = word.split('=').next().unwrap_or(word);
    let (_, hint) = table.iter().find(|(words, _)| words.contains(&word))?;
    Some(format!("here that is: {hint}"))
}

/// Variables in which other programs look for a passphrase, and ours does not.
const PASSPHRASES: [&str; 4] =
    ["STRONGROOM_PASSPHRASE", "RESTIC_PASSWORD", "BORG_PASSPHRASE", "KOPIA_PASSWORD"];
/// Variables in which other programs look for a repository.
const REPOSITORIES: [&str; 3] = ["RESTIC_REPOSITORY", "BORG_REPO", "PBS_REPOSITORY"];

/// A better hint than the catalog's, from the cause of an error or from this process's surroundings.
pub(crate) fn of_cause(error: &(dyn Coded + Send + Sync + 'static)) -> Option<String> {
    let code = error.code();
    let is_set = |name: &&str| variable(name).is_some();
    if code == &codes::KEY_MISSING
        && let Some(name) = PASSPHRASES.into_iter().find(is_set)
    {
        return Some(format!(
            "{name} is not read, since other programs may see it: write the passphrase to a file \
             that only you can read, and name the file with --passphrase-file or STRONGROOM_PASSPHRASE_FILE."
        ));
    }
    if code == &codes::VAULT_NOT_GIVEN
        && let Some(name) = REPOSITORIES.into_iter().find(is_set)
    {
        return Some(format!("{name} is not read: give --vault, or set STRONGROOM_VAULT."));
    }
    // The catalog's hint speaks of files.
    if let Some(ServerError::Config { place, .. }) =
        sources(error).find_map(|error| error.downcast_ref::<ServerError>())
    {
        if place.starts_with(VARIABLES) {
            return Some(format!("Correct the variable {place}, or unset it."));
        }
        if place.starts_with("--") {
            return Some(format!("Correct the option {place}."));
        }
    }
    let io = io_kind(error);
    if io == Some(io::ErrorKind::AddrInUse) {
        return Some(
            "Stop the program that listens there (`ss -ltnp` names it), or set another `listen`."
                .to_owned(),
        );
    }
    if code == &codes::KEY_UNREADABLE && io == Some(io::ErrorKind::AlreadyExists) {
        return Some(
            "The key file exists already, and Strongroom never overwrites it. Name another file."
                .into(),
        );
    }
    if code == &codes::LOCAL_IO && io == Some(io::ErrorKind::AlreadyExists) {
        return Some(
            "The file exists already, and is not overwritten: name another one, or remove it first."
                .to_owned(),
        );
    }
    if code == &codes::STORAGE_IN_USE {
        return Some(
            "A server that was just started or stopped has it for a moment: repeat the command. Otherwise \
             `ps -C strongroom -o pid,args` shows who serves the folder; one of another user, or of an older \
             version, takes no commands: run the command as that user, or stop it first."
                .to_owned(),
        );
    }
    let words = chain(error);
    if code == &codes::STORE_DENIED && words.contains("the folder") {
        return Some(
            "Run it as the owner of the folder, or give this user rights on it: `ls -ld` of the \
             path, and of the folders above it, shows whose they are."
                .to_owned(),
        );
    }
    if words.contains("authentication unavailable") || words.contains("authentication cancelled") {
        return Some(
            "Run it as root, or add this user to the group libvirt (`usermod -aG libvirt USER`, \
             then sign in again); `--connect qemu:///session` uses the user's own machines."
                .to_owned(),
        );
    }
    if words.contains("invalid HTTP version") {
        return Some("The server speaks HTTPS: write https:// in its URL.".to_owned());
    }
    if words.contains("Failed to get") && words.contains("lock") {
        return Some(
            "A program has the image open, perhaps a running machine: `strongroom backup --vm \
             NAME` backs up a machine while it runs."
                .to_owned(),
        );
    }
    None
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
}

/// The kind of the first error of the operating system among the causes.
fn io_kind(error: &(dyn Coded + Send + Sync + 'static)) -> Option<io::ErrorKind> {
    sources(error).find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn chain(error: &(dyn Coded + Send + Sync + 'static)) -> String {
    sources(error).map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, error::FaceError};

    #[test]
    fn words_of_other_programs_get_a_hint() {
        for (line, said) in [
            ("snapshots", "recoverypoint list"),
            ("list", "vm list"),
            ("init", "vault create"),
            ("forget --keep-daily 7", "recoverypoint forget"),
            ("prune", "vault reclaim"),
            ("check", "vault verify"),
            ("umount /mnt", "mount disks"),
            ("version", "--version"),
            ("vault prune", "vault reclaim"),
            ("-r /backup recoverypoint list", "--vault URL"),
            ("recoverypoint list --json", "-o json"),
            ("recoverypoint list --repo=/x", "--vault URL"),
            ("item list --query x", "jq"),
            ("restore disks --target /x", "--to"),
            ("vault delete main --force", "--yes"),
            ("protection backup-now --item-name web", "--item NAME"),
        ] {
            let words = std::iter::once("strongroom").chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line);
            let hint = of_habit(&error).unwrap_or_default();
            assert!(hint.contains(said), "{line}: {hint:?} {error}");
        }
        // None of them has come to mean something here in the meantime.
        let error = Cli::try_parse_from(["strongroom", "nonsense"]).expect_err("nonsense");
        assert_eq!(of_habit(&error), None);
    }

    #[test]
    fn no_command_of_ours_is_explained_away() {
        let ours = <Cli as clap::CommandFactory>::command();
        for name in ours.get_subcommands().map(clap::Command::get_name) {
            assert!(COMMANDS.iter().all(|(words, _)| !words.contains(&name)), "{name}");
        }
    }

    #[test]
    fn causes_say_what_to_do() {
        let local = |kind| FaceError::Local {
            path: "/x".into(),
            action: "read",
            source: io::Error::from(kind),
        };
        let hint = of_cause(&local(io::ErrorKind::AddrInUse));
        assert!(hint.is_some_and(|hint| hint.contains("ss -ltnp")));
        assert_eq!(of_cause(&local(io::ErrorKind::NotFound)), None);
        let hint = of_cause(&local(io::ErrorKind::AlreadyExists));
        assert!(hint.is_some_and(|hint| hint.contains("name another one")));
        let used = strongroom_storage::StorageError::InUse { path: "/x".into() };
        let hint = of_cause(&used);
        assert!(hint.is_some_and(|hint| hint.contains("ps -C strongroom")));
        for (place, said) in [
            ("STRONGROOM_SERVER_JOBS", Some("the variable STRONGROOM_SERVER_JOBS, or unset it")),
            ("--listen", Some("the option --listen")),
            ("/etc/strongroom/server.toml", None),
        ] {
            let error = ServerError::Config { place: place.to_owned(), reason: String::new() };
            let hint = of_cause(&error);
            assert_eq!(hint.is_some(), said.is_some(), "{hint:?}");
            assert!(said.is_none_or(|said| hint.unwrap_or_default().contains(said)), "{place}");
        }
    }
}
