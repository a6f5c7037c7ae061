//! `status` and `server`: how things are.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use strongroom_api::{Status, VaultStatus};
use strongroom_server::{CatalogCopy, NewToken, OwnerToken};

use crate::{
    columns::{Cell, Columns, row},
    commands::serve::{ServerArgs, this_host},
    context::Context,
    error::Failure,
    human,
    out::Show,
    values,
};

use super::{common::words, restore::owed};

/// Show the state of the service on one screen
///
/// The screen shows protected items by state, the jobs of the last 24 hours by outcome, the items
/// whose backups fail and the reason, what the vaults hold, and the number of alerts. It includes
/// only objects that you may see.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom status
  strongroom status --output json")]
pub(crate) struct StatusArgs {}

impl StatusArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        context.out.result(&Shown { server: client.server().to_owned(), status: client.status()? })
    }
}

/// The status and whose it is.
struct Shown {
    server: String,
    status: Status,
}

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.status.serialize(serializer)
    }
}

/// `3 protected, 1 protection error`.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    let counted = counts.iter().filter(|(_, number)| **number > 0);
    let counted: Vec<String> =
        counted.map(|(name, number)| format!("{number} {}", words(name))).collect();
    if counted.is_empty() { "none".to_owned() } else { counted.join(", ") }
}

/// A new host has not been contacted yet, so its state is unknown.
fn host_counts(hosts: &BTreeMap<String, u64>) -> String {
    let text = counts(hosts);
    match hosts.get("new") {
        Some(new) if *new > 0 => format!("{text} (new: not asked yet, `strongroom host discover`)"),
        _ => text,
    }
}

impl Shown {
    fn next(&self) -> String {
        let next = self.status.next_backup.as_ref();
        next.map_or_else(
            || "none is planned".to_owned(),
            |next| format!("{}, {}", human::time(next.time), next.item),
        )
    }
}

/// The last verification of a vault, or its damage.
fn verified(vault: &VaultStatus) -> Cell {
    let Some(verified) = &vault.verified else { return "never".into() };
    if verified.damaged_objects > 0 || verified.damaged_points > 0 {
        return "damaged".into();
    }
    verified.structure.into()
}

impl Show for Shown {
    fn show(&self) -> String {
        let Status { items, jobs_24_hours, alerts, hosts, failing, behind, vaults, .. } =
            &self.status;
        let up = u32::try_from(self.status.uptime_seconds).unwrap_or(u32::MAX);
        let up = human::seconds(f64::from(up));
        let (running, queued) = (self.status.jobs_running, self.status.jobs_queued);
        let mut text = human::facts(&[
            ("Server", format!("{} {}, up {up}", self.server, self.status.version)),
            ("Items", counts(items)),
            ("Jobs of the last 24 h", counts(jobs_24_hours)),
            ("Jobs now", format!("{running} at work, {queued} waiting")),
            ("Next backup", self.next()),
            ("Alerts", counts(alerts)),
            ("Hosts", host_counts(hosts)),
        ]);
        for error in &self.status.server {
            let (what, hint) = (human::printable(&error.message), human::printable(&error.hint));
            writeln!(text, "\nThe server: {what}\n  {hint}").ok();
        }
        for open in &self.status.open_restores {
            writeln!(text, "\n{}", owed(&open.item, &open.replaced)).ok();
        }
        if self.status.unscheduled > 0 {
            let count = self.status.unscheduled;
            writeln!(
                text,
                "\nWithout a policy, so without scheduled backups: {}\n  \
                 `strongroom item list` shows them; `strongroom item set-policy` gives them one",
                human::count(count, "item")
            )
            .ok();
        }
        if !behind.is_empty() {
            let rows = behind.iter().map(|item| {
                let job = item.job.map(|job| job.to_string());
                row![&item.name, item.newest_point, item.due, job]
            });
            let head = ["ITEM BEHIND ITS POLICY", "NEWEST POINT", "NEWER ONE DUE", "JOB"];
            write!(text, "\n{}", Columns::new(head, rows).to_text()).ok();
        }
        if !failing.is_empty() {
            let rows = failing.iter().map(|item| {
                let why = item.error.as_ref().map(|error| error.message.clone());
                row![&item.name, words(item.state), item.failures, item.last_backup, why]
            });
            let head = ["FAILING ITEM", "STATE", "FAILURES", "LAST BACKUP", "WHY"];
            write!(text, "\n{}", Columns::new(head, rows).to_text()).ok();
        }
        if !vaults.is_empty() {
            let rows = vaults.iter().map(|vault| {
                row![
                    &vault.name,
                    vault.items,
                    vault.recovery_points,
                    vault.stored_bytes.map_or(Cell::None, Cell::Bytes),
                    vault.free_bytes.map_or(Cell::None, Cell::Bytes),
                    verified(vault),
                    vault.error.as_ref().map_or("ok", |error| error.message.as_str()),
                ]
            });
            let head = ["VAULT", "ITEMS", "POINTS", "STORED", "FREE", "VERIFIED", "STATE"];
            write!(text, "\n{}", Columns::new(head, rows).to_text()).ok();
        }
        text
    }
}

/// `server ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    ConfirmClock(ConfirmClockArgs),
    NewToken(NewTokenArgs),
    DumpCatalog(DumpCatalogArgs),
    LoadCatalog(LoadCatalogArgs),
}

impl ServerCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::ConfirmClock(args) => args.run(context),
            Self::NewToken(args) => args.run(context),
            Self::DumpCatalog(args) => args.run(context),
            Self::LoadCatalog(args) => args.run(context),
        }
    }

    /// The server of this machine, if the command works on it.
    pub(crate) fn server(&mut self) -> Option<&mut ServerArgs> {
        match self {
            Self::ConfirmClock(_) => None,
            Self::NewToken(args) => Some(&mut args.server),
            Self::DumpCatalog(args) => Some(&mut args.server),
            Self::LoadCatalog(args) => Some(&mut args.server),
        }
    }
}

/// Confirm that the server's clock is right after it has jumped
///
/// Until then the server deletes nothing that may not have expired. Check the clock first: the time
/// that you confirm counts as time that has passed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom server confirm-clock")]
pub(crate) struct ConfirmClockArgs {}

/// That it was done.
#[derive(Debug, Serialize)]
struct Confirmed {
    confirmed: bool,
}

impl Show for Confirmed {
    fn show(&self) -> String {
        "The server's clock is confirmed\n".to_owned()
    }
}

impl ConfirmClockArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        context.client()?.confirm_clock()?;
        context.out.result(&Confirmed { confirmed: true })
    }
}

/// Create a token for an administrator, as the owner of the server's folder
///
/// Use it when nobody can sign in any more. The token is for the user `admin`, whom the command
/// creates, enables and gives all rights if necessary, or for another vault admin of the server.
/// Run the command on the server's own machine, as the user who owns the server's folder or as
/// root, whether the server runs or not. The audit log records it. The command prints the secret
/// once. Here --config names the server's own file, as for `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom server new-token > token
  strongroom server new-token --config /etc/strongroom/server.toml --hours 1
  strongroom server new-token --user ann")]
pub(crate) struct NewTokenArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// The user, a vault admin of the server [default: admin]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    user: Option<String>,

    /// Hours until the token expires: 1 to 8784
    #[arg(long, value_name = "HOURS", default_value_t = 12,
        value_parser = clap::value_parser!(u32).range(1..=8784))]
    hours: u32,
}

/// A token that was made.
#[derive(Debug, Serialize)]
struct Made {
    user: String,
    secret: String,
    expires: jiff::Timestamp,
}

impl Show for Made {
    fn show(&self) -> String {
        format!("{}\n", self.secret)
    }
}

impl NewTokenArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let order = NewToken {
            config: self.server.load()?,
            here: this_host()?,
            user: self.user,
            hours: self.hours,
            by: format!("uid {}", rustix::process::getuid().as_raw()),
        };
        let OwnerToken { user, secret, expires } = strongroom_server::new_token(&order)?;
        context.out.say(&format!("A token for {user}, which ends {}.", human::time(expires)));
        context.out.result(&Made { user, secret, expires })
    }
}

/// Copy the server's catalog to a file, while the server runs or not
///
/// The copy is a text file with the state of one moment: vaults, items, policies, jobs, users and the
/// audit log. `strongroom server load-catalog` makes a catalog of it, in SQLite or PostgreSQL. The copy
/// has neither backup data nor the keys in the server's folder, but the hashes of passwords and
/// tokens: protect it like the catalog. Run the command on the server's own machine, as the user who
/// owns the server's folder or as root. Here --config names the server's own file, as for `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom server dump-catalog /backup/catalog.jsonl
  strongroom server dump-catalog --config /etc/strongroom/server.toml catalog.jsonl")]
pub(crate) struct DumpCatalogArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// The file to create; an existing file is never replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// That it was copied.
#[derive(Debug, Serialize)]
struct Dumped {
    file: PathBuf,
    size_bytes: u64,
}

impl Show for Dumped {
    fn show(&self) -> String {
        let size = human::bytes(self.size_bytes);
        format!("The catalog is copied to {} ({size})\n", self.file.display())
    }
}

impl DumpCatalogArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let Self { server, file } = self;
        strongroom_server::dump_catalog(&server.load()?, &file)?;
        let size_bytes = std::fs::metadata(&file).map(|found| found.len()).unwrap_or_default();
        context.out.result(&Dumped { file, size_bytes })
    }
}

/// Make the server's catalog of a copy
///
/// The catalog is the one that the server's configuration names, SQLite or PostgreSQL, whatever the
/// copy was made from. It must be empty, and the server must not run. The command checks the whole
/// copy first, and loads all of it or nothing. A copy of an earlier version is upgraded. The keys and
/// vaults in the server's folder are not part of the copy: keep them, or copy them yourself. Run the
/// command on the server's own machine. Here --config names the server's own file, as for `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom server load-catalog /backup/catalog.jsonl
  STRONGROOM_SERVER_CATALOG=postgres://strongroom@db/strongroom \
    strongroom server load-catalog catalog.jsonl")]
pub(crate) struct LoadCatalogArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// The copy
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What was loaded.
#[derive(Debug, Serialize)]
struct Loaded {
    documents: u64,
    audit_records: u64,
    audit_intact: bool,
}

impl Show for Loaded {
    fn show(&self) -> String {
        let Self { documents, audit_records, audit_intact } = self;
        let chain = if *audit_intact { "intact" } else { "broken: `strongroom audit verify`" };
        format!(
            "The catalog is loaded: {documents} documents, {audit_records} audit records (the log is {chain})\n"
        )
    }
}

impl LoadCatalogArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let CatalogCopy { documents, audit_records, audit_intact } =
            strongroom_server::load_catalog(&self.server.load()?, &self.file)?;
        context.out.result(&Loaded { documents, audit_records, audit_intact })
    }
}

#[cfg(test)]
mod tests {
    use strongroom_api::ErrorBody;
    use strongroom_base::codes;

    use super::*;

    fn shown(status: &serde_json::Value) -> String {
        let status = serde_json::from_value(status.clone()).expect("a status");
        Shown { server: "https://backup:8443".to_owned(), status }.show()
    }

    #[test]
    fn every_line_says_what_there_is_to_know() {
        let id = "01JD3W6E0ZGQ6Q0PZ2R3V9M5TB";
        let mut status = serde_json::json!({
            "time": "2026-11-28T16:00:00Z", "version": "0.1.0", "uptime_seconds": 7500,
            "items": { "protected": 3, "initial_backup_pending": 1, "soft_deleted": 0 },
            "jobs_24_hours": { "completed": 5, "completed_with_warnings": 1 },
            "next_backup": { "time": "2026-11-29T01:00:00Z", "item": "web01" },
            "jobs_running": 1, "jobs_queued": 2, "failing": [],
            "behind": [{ "item": id, "name": "db01", "vault": id, "due": "2026-11-28T02:00:00Z" }],
            "unscheduled": 1, "alerts": {}, "hosts": { "new": 2 },
            "vaults": [{ "id": id, "name": "main", "url": "/backup", "items": 4,
                "recovery_points": 12, "stored_bytes": 3_221_225_472_u64 }],
            "server": [ErrorBody::new(&codes::SERVER_CLOCK, "the clock is 2 h 05 min ahead of what has passed")],
        });
        let text = shown(&status);
        let next = human::time("2026-11-29T01:00:00Z".parse().expect("a moment"));
        for words in [
            "up 2 h 05 min",
            "1 initial backup pending, 3 protected\n",
            "5 completed, 1 completed with warnings",
            "1 at work, 2 waiting",
            &next,
            "web01",
            "Alerts                 none",
            "2 new (new: not asked yet, `strongroom host discover`)",
            "The server: the clock is 2 h 05 min ahead of what has passed\n  Set the clock right",
            "without scheduled backups: 1 item\n",
            "ITEM BEHIND ITS POLICY",
            "db01",
            "3 GiB",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
        status["unscheduled"] = 2.into();
        assert!(shown(&status).contains("without scheduled backups: 2 items\n"));
    }
}
