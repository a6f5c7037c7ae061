//! `storage replication ...`, `storage account failover`: the storage accounts at two servers.

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand};
use serde::Serialize;
use strongroom_api::{
    StorageAccount, StorageAccountRedundancy, StorageFailedOver, StoragePairState,
    StorageReplication, StorageRole,
};
use strongroom_base::{Clock, Entropy};
use strongroom_storage::{
    DifferenceIn, FailoverProgress, FailoverStep, PairState, ReplicationShown, StorageError,
    VerificationShown, VerificationState,
    admin::{Command, RefusedKind, Reply},
    join,
};

use super::{Copies, DataArgs, accounts::Accounts, other_answer, redundancy, show_account};
use crate::{
    commands::service::common::Thing,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::{FaceError, Failure},
    human,
    out::Show,
    values,
};

/// `storage replication ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplicationCommand {
    Invite(InviteArgs),
    Join(JoinArgs),
    Show(ShowArgs),
    Update(UpdatePairArgs),
    Confirm(OperatorArgs),
    Rejoin(RejoinArgs),
    Remove(RemoveArgs),
    Verify(VerifyArgs),
}

impl ReplicationCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Invite(args) => args.run(context),
            Self::Join(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Update(args) => args.run(context),
            Self::Confirm(args) => args.run(context),
            Self::Rejoin(args) => args.run(context),
            Self::Remove(args) => args.run(context),
            Self::Verify(args) => args.run(context),
        }
    }
}

fn state(state: PairState) -> &'static str {
    match state {
        PairState::Unpaired => "no other server",
        PairState::Live => "in step",
        PairState::Bootstrap => "the secondary gets its state",
        PairState::CatchingUp => "the secondary catches up",
        PairState::Unavailable => "the other server is not in contact",
        PairState::Fenced => "takes no changes: the other server is the primary, or becomes it",
        PairState::Waiting => "waits for the other server to confirm that this one is the primary",
        PairState::Ahead => "the primary lacks changes that this server has",
        PairState::Removed => "the other server does not know this one: the pair was ended there",
    }
}

fn role(shown: &ReplicationShown) -> String {
    // The names are those of the JSON.
    serde_json::to_value(shown.role)
        .ok()
        .and_then(|role| role.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn facts(shown: &ReplicationShown) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Part of this server", role(shown)),
        ("State", state(shown.state).to_owned()),
        ("Epoch", shown.epoch.to_string()),
        ("Changes recorded", shown.records.to_string()),
    ];
    facts.extend(shown.url.iter().map(|url| ("This server", url.clone())));
    facts.extend(shown.peer_url.iter().map(|url| ("Other server", url.clone())));
    let fingerprint = shown.peer_fingerprint.clone();
    facts.extend(fingerprint.map(|text| ("Its certificate's SHA-256 fingerprint", text)));
    facts.extend(shown.peer_seen.map(|time| ("Last contact", human::second(time))));
    facts.extend(shown.last_sync_time.map(|time| ("Last Sync Time", human::second(time))));
    let seconds = shown.lag_seconds.map_or_else(String::new, |seconds| format!(", {seconds} s"));
    if let Some(records) = shown.lag_records {
        let bytes =
            shown.lag_bytes.map_or_else(String::new, |it| format!(", {}", human::bytes(it)));
        facts.push(("Behind by", format!("{records} changes{bytes}{seconds}")));
    } else if shown.lag_seconds.is_some() {
        facts.push(("Behind by", format!("a number of changes that is not known{seconds}")));
    }
    let resync = shown.resync;
    if resync.rows > 0 {
        facts.push((
            "Resynchronization",
            format!(
                "{} of {} blocks compared, {} fetched",
                resync.compared_rows,
                resync.rows,
                human::bytes(resync.fetched_bytes)
            ),
        ));
    }
    facts.extend(shown.failover.as_ref().map(|it| ("Failover", unfinished(it))));
    facts.extend(shown.verification.iter().map(|it| ("Verification", verification(it))));
    let discard = shown.discard_records.map(|records| records.to_string());
    facts.extend(discard.map(|records| ("Changes that the primary lacks", records)));
    facts.extend(shown.reason.iter().map(|reason| ("Reason", reason.clone())));
    facts
}

/// A verification, in one line.
fn verification(shown: &VerificationShown) -> String {
    let state = match shown.state {
        VerificationState::Running => "runs".to_owned(),
        VerificationState::Completed => "complete".to_owned(),
        VerificationState::Failed => {
            format!("ended early: {}", shown.reason.as_deref().unwrap_or_default())
        }
    };
    format!(
        "{state}; {} of {} blocks and {} compared, {} passed over, {}",
        shown.blocks,
        shown.of_blocks,
        human::bytes(shown.bytes),
        human::count(shown.passed_over, "piece"),
        human::count(shown.difference_count, "difference")
    )
}

const fn step(step: FailoverStep) -> &'static str {
    match step {
        FailoverStep::OldPrimaryFenced => "the old primary takes no changes any more",
        FailoverStep::ChangesFetched => "the rest of its changes is fetched",
        FailoverStep::Promoted => "the secondary is promoted",
    }
}

/// A failover that is not complete: what is done, what is left, and what completes it.
fn unfinished(progress: &FailoverProgress) -> String {
    let words =
        |steps: &[FailoverStep]| steps.iter().map(|it| step(*it)).collect::<Vec<_>>().join(", ");
    let FailoverProgress { epoch, done, left, command } = progress;
    let how = match command {
        Some(command) => format!("`{command}` completes it"),
        None => "it is completed as soon as the old primary answers".to_owned(),
    };
    format!("not complete: epoch {epoch}. Done: {}. Left: {}; {how}", words(done), words(left))
}

fn show(context: &Context, reply: Reply) -> Result<(), Failure> {
    let Reply::Replication(shown) = reply else { return Err(other_answer()) };
    context.out.result(&Thing::new(*shown, |shown| human::facts(&facts(shown))))
}

/// Invite another server, which becomes the secondary of these storage accounts
///
/// The command prints an invitation, one line of text with a secret, which `storage replication join` takes at the other
/// server. It is valid once, for an hour. Nothing changes before the other server joins; then all accounts become
/// geo-redundant (grs). The accounts are served meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication invite --url https://a.example:10000 --file invitation
  strongroom storage replication invite --url https://a.example:10000 --data-dir /srv/storage")]
pub(crate) struct InviteArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Where the other server reaches this one: https://HOST:PORT, or http:// on a loopback address
    #[arg(long, value_name = "URL")]
    url: String,

    /// Write the invitation to this file, which only you can read, and not to standard output
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// An invitation, as it is printed.
#[derive(Serialize)]
struct Given {
    invitation: Option<String>,
    file: Option<PathBuf>,
    expires: jiff::Timestamp,
}

impl Show for Given {
    fn show(&self) -> String {
        match (&self.invitation, &self.file) {
            (Some(invitation), _) => format!("{invitation}\n"),
            (None, file) => human::facts(&[
                (
                    "Invitation",
                    file.as_ref().map_or_else(String::new, |it| it.display().to_string()),
                ),
                ("Valid until", human::time(self.expires)),
            ]),
        }
    }
}

impl InviteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| FaceError::Local { path, action: "write", source }
        };
        // A file that cannot be written is found before a secret is made.
        let file = match &self.file {
            None => None,
            Some(path) => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                Some(options.open(path).map_err(failed(path))?)
            }
        };
        let reply = self.data.ask(context, &Command::ReplicationInvite { url: self.url });
        let reply = reply.inspect_err(|_| {
            if let Some(path) = &self.file {
                std::fs::remove_file(path).ok();
            }
        })?;
        let Reply::Invitation(given) = reply else { return Err(other_answer()) };
        let mut shown =
            Given { invitation: Some(given.invitation), file: None, expires: given.expires };
        if let (Some(mut file), Some(path)) = (file, self.file) {
            let text = shown.invitation.take().unwrap_or_default();
            writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(failed(&path))?;
            shown.file = Some(path);
        }
        context.out.result(&shown)
    }
}

/// Make this server the secondary of another server's storage accounts
///
/// The folder must have no storage accounts, and nobody may serve it. Afterwards `storage serve` on the folder follows the
/// other server. The other server must be served while the command runs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication join --url https://b.example:10000 --invitation-file invitation
  strongroom storage replication join --url https://b.example:10000 --invitation-file -")]
pub(crate) struct JoinArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Where the other server reaches this one: https://HOST:PORT, or http:// on a loopback address
    #[arg(long, value_name = "URL")]
    url: String,

    /// File with the invitation; `-` is standard input
    #[arg(long, value_name = "FILE")]
    invitation_file: PathBuf,
}

/// What joining has done.
#[derive(Serialize)]
struct Joined {
    accounts: Vec<String>,
    #[serde(flatten)]
    replication: ReplicationShown,
}

impl Show for Joined {
    fn show(&self) -> String {
        let mut shown = facts(&self.replication);
        let accounts =
            if self.accounts.is_empty() { "none".to_owned() } else { self.accounts.join(", ") };
        shown.push(("Accounts that became geo-redundant", accounts));
        human::facts(&shown)
    }
}

impl JoinArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let path = &self.invitation_file;
        let read = |source| FaceError::Local { path: path.clone(), action: "read", source };
        let text = if path.as_os_str() == "-" {
            io::read_to_string(io::Read::take(io::stdin().lock(), 64 << 10)).map_err(read)?
        } else {
            std::fs::read_to_string(path).map_err(read)?
        };
        let clock: Arc<dyn Clock> = Arc::new(context.clock);
        let entropy: Arc<dyn Entropy> = Arc::new(context.entropy);
        let (accounts, replication) =
            join(&self.data.folder()?, &self.url, &text, &clock, &entropy)?;
        context.out.result(&Joined { accounts, replication })
    }
}

/// Show how the storage accounts stand at both servers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication show
  strongroom storage replication show --data-dir /srv/storage --output json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    data: DataArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        show(context, self.data.ask(context, &Command::ReplicationShow)?)
    }
}

/// Note that one of the two servers is reached at another URL now
///
/// Run it at each server for the URL of the other one. A server also learns the other one's URL when that one asks it: often
/// one of the two commands is enough.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication update --url https://a2.example:10000
  strongroom storage replication update --peer-url https://a2.example:10000")]
pub(crate) struct UpdatePairArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Where the other server reaches this one
    #[arg(long, value_name = "URL", required_unless_present = "peer_url")]
    url: Option<String>,

    /// Where this server reaches the other one
    #[arg(long, value_name = "URL")]
    peer_url: Option<String>,
}

impl UpdatePairArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let command = Command::ReplicationUpdate { url: self.url, peer_url: self.peer_url };
        show(context, self.data.ask(context, &command)?)
    }
}

/// Say that this server, which waits for the other one, is the primary
///
/// A primary that was started takes no changes before the other server has said that it was not promoted meanwhile. If the
/// other server is lost, or cannot be reached for long, say so by this command. If the other server was promoted all the
/// same, both take changes then, and those of one of them are lost.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication confirm
  strongroom storage replication confirm --yes --data-dir /srv/storage")]
pub(crate) struct OperatorArgs {
    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl OperatorArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let plan = Plan::new("Let this server take changes as the primary")
            .with("If the other server was promoted, changes of one of them will be lost");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        show(context, self.data.ask(context, &Command::ReplicationConfirm)?)
    }
}

/// Let this server, which was the primary, become the secondary of the new one
///
/// This happens by itself after a planned failover. After another one this server may have changes that the new primary
/// lacks; `storage replication show` says how many. They are given up with --discard. Only what differs is copied.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication rejoin
  strongroom storage replication rejoin --discard --yes")]
pub(crate) struct RejoinArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Give up changes that only this server has
    #[arg(long)]
    discard: bool,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl RejoinArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if self.discard {
            let Reply::Replication(shown) = self.data.ask(context, &Command::ReplicationShow)?
            else {
                return Err(other_answer());
            };
            let lost = match shown.discard_records {
                Some(records) => format!("{records} changes that only this server has are lost"),
                None => "All changes that only this server has are lost".to_owned(),
            };
            let plan = Plan::new("Make this server the secondary").with(lost);
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        show(
            context,
            self.data.ask(context, &Command::ReplicationRejoin { discard: self.discard })?,
        )
    }
}

/// End the pair of servers at this one
///
/// The server keeps what it has, takes changes as if there never was another one, and its accounts become locally redundant
/// (lrs). Run the command at the other server as well, or give that one up.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication remove
  strongroom storage replication remove --yes --data-dir /srv/storage")]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl RemoveArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let Reply::Replication(stands) = self.data.ask(context, &Command::ReplicationShow)? else {
            return Err(other_answer());
        };
        if stands.state == PairState::Unpaired && stands.peer_url.is_none() {
            let message = "this server has no other one".to_owned();
            let kind = RefusedKind::InvalidReplication;
            return Err(StorageError::Refused { kind, message }.into());
        }
        let plan = Plan::new("End the pair of servers at this one")
            .with("Changes are no longer kept at a second server")
            .with("To be a pair again, one of them begins with an empty folder");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        show(context, self.data.ask(context, &Command::ReplicationRemove)?)
    }
}

/// Compare this server, the secondary, with the primary by strong digests
///
/// All content of all blobs and snapshots is read at both servers, at the same position, and compared by BLAKE3 digests;
/// names and maps as well. The servers work meanwhile, and nothing is changed. What is written while a block is compared is
/// passed over. The work is done by the process that serves the accounts: `storage replication show` has how far it is, and
/// what it has found. With --wait the exit code is 6 if the servers differ.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage replication verify
  strongroom storage replication verify --wait --limit-rate 200M --data-dir /srv/storage")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Compare this number of bytes a second at most, at least 1M
    #[arg(long, value_name = "RATE", value_parser = values::rate, default_value = "64M")]
    limit_rate: u64,

    /// Wait until everything is compared
    #[arg(long)]
    wait: bool,
}

/// How often it is looked whether a verification has ended.
const LOOKS: Duration = Duration::from_millis(500);

/// A verification, as it is printed.
#[derive(Serialize)]
struct Verified {
    verification: VerificationShown,
}

impl Show for Verified {
    fn show(&self) -> String {
        let mut text = format!("{}\n", verification(&self.verification));
        for difference in &self.verification.differences {
            let what = match difference.kind {
                DifferenceIn::Content => "content",
                DifferenceIn::Map => "map",
                DifferenceIn::State => "names or properties",
            };
            match &difference.blob {
                Some(blob) => writeln!(
                    text,
                    "  {what} of {blob}: {} bytes at {}",
                    difference.length, difference.offset
                ),
                None => writeln!(text, "  {what}: of no blob that is there"),
            }
            .ok();
        }
        text
    }
}

impl VerifyArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let mut reply =
            self.data.ask(context, &Command::ReplicationVerify { rate: self.limit_rate })?;
        loop {
            let Reply::Replication(shown) = reply else { return Err(other_answer()) };
            let Some(verification) = shown.verification else { return Err(other_answer()) };
            let is_running = verification.state == VerificationState::Running;
            if !is_running || !self.wait {
                let failure = failure_of(&verification);
                context.out.result(&Verified { verification })?;
                return failure.map_or(Ok(()), |failure| Err(failure.into()));
            }
            if context.cancel.is_cancelled() {
                context.out.say("The verification continues; see `storage replication show`.");
                return Ok(());
            }
            context.clock.sleep(LOOKS);
            reply = self.data.ask(context, &Command::ReplicationShow)?;
        }
    }
}

/// What a verification has found, as an error.
fn failure_of(verification: &VerificationShown) -> Option<StorageError> {
    let refused = |kind, message: String| Some(StorageError::Refused { kind, message });
    if verification.difference_count > 0 {
        let count = human::count(verification.difference_count, "difference");
        let message = format!(
            "this server differs from the primary: {count}. Move its folder away, and join the primary again"
        );
        return refused(RefusedKind::Differs, message);
    }
    match verification.state {
        VerificationState::Failed => {
            let reason = verification.reason.as_deref().unwrap_or_default();
            let message = format!("the servers were not compared to the end: {reason}");
            refused(RefusedKind::PeerUnavailable, message)
        }
        VerificationState::Running | VerificationState::Completed => None,
    }
}

/// Make this server, the secondary, the primary of all storage accounts
///
/// If the primary answers, it takes no changes any more, the rest of its changes is fetched, and nothing is lost. If it does
/// not answer, the command is refused and says from which moment on changes would be lost; --accept-loss does it all the
/// same. Run it at the server of the secondary. All accounts of the server fail over together.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account failover
  strongroom storage account failover --accept-loss --yes --data-dir /srv/storage")]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Also if the primary does not answer: changes after the Last Sync Time are lost
    #[arg(long)]
    accept_loss: bool,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl FailoverArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let accounts = Accounts::of(context, self.data)?;
        let stands = accounts.replication()?;
        let mut plan = Plan::new("Make this server the primary of all its storage accounts");
        match (stands.role, stands.state, self.accept_loss) {
            (StorageRole::Secondary, StoragePairState::Live | StoragePairState::CatchingUp, _) => {
                plan = plan.with("The other server takes no changes any more");
            }
            (StorageRole::Secondary, _, true) => {
                plan = plan.with(
                    "If the other server does not answer, its changes after the Last Sync Time are lost",
                );
            }
            (StorageRole::Secondary, _, false) => {
                plan = plan.with("If the other server does not answer, this is refused");
            }
            (role, ..) => {
                let more = stands.failover.map_or_else(String::new, |progress| {
                    format!(
                        ". The failover to epoch {} has promoted it; the old primary is fenced as soon as it answers",
                        progress.epoch
                    )
                });
                let message =
                    format!("this server is {role}: a failover is for the secondary{more}");
                let kind = RefusedKind::InvalidReplication;
                return Err(StorageError::Refused { kind, message }.into());
            }
        }
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        let shown = accounts.fail_over(self.accept_loss)?;
        context.out.result(&Thing::new(shown, |shown: &StorageFailedOver| {
            let kind =
                if shown.planned { "planned: nothing is lost" } else { "without the old primary" };
            let mut facts = vec![
                ("This server is now", "the primary".to_owned()),
                ("Failover", kind.to_owned()),
            ];
            facts.extend(shown.last_sync_time.map(|time| ("Last Sync Time", human::second(time))));
            let lost = match (shown.planned, shown.lost_records) {
                (true, _) => "0".to_owned(),
                (false, 0) => "not known; see the Last Sync Time".to_owned(),
                (false, records) => format!("at least {records}"),
            };
            facts.push(("Changes lost", lost));
            let old = if shown.old_primary_fenced {
                "takes no changes any more"
            } else {
                "is not fenced yet: that is done as soon as it answers. What it takes until then is given up"
            };
            facts.push(("Old primary", old.to_owned()));
            human::facts(&facts)
        }))
    }
}

/// Show the redundancy of storage accounts, and how they stand at both servers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account replication
  strongroom storage account replication disks --output json")]
pub(crate) struct AccountReplicationArgs {
    /// The account; all without it
    name: Option<String>,

    #[command(flatten)]
    data: DataArgs,
}

/// Accounts and the pair.
#[derive(Serialize)]
struct OfAccounts {
    accounts: Vec<OfAccount>,
    #[serde(flatten)]
    replication: ReplicationShown,
}

#[derive(Serialize)]
struct OfAccount {
    name: String,
    redundancy: StorageAccountRedundancy,
}

impl Show for OfAccounts {
    fn show(&self) -> String {
        let mut shown = account_facts(&self.accounts);
        shown.extend(facts(&self.replication));
        human::facts(&shown)
    }
}

/// The same of a server.
#[derive(Serialize)]
struct AtServer {
    accounts: Vec<OfAccount>,
    #[serde(flatten)]
    replication: StorageReplication,
}

impl Show for AtServer {
    fn show(&self) -> String {
        let StorageReplication { role, state, epoch, .. } = &self.replication;
        let mut shown = account_facts(&self.accounts);
        shown.push(("Part of the server", role.to_string()));
        shown.push(("State", state.to_string()));
        shown.push(("Epoch", epoch.to_string()));
        let replication = &self.replication;
        shown.extend(replication.peer_url.iter().map(|url| ("Other server", url.clone())));
        let synced = replication.last_sync_time;
        shown.extend(synced.map(|time| ("Last Sync Time", human::second(time))));
        let behind = replication.lag_records.map(|records| format!("{records} changes"));
        shown.extend(behind.map(|behind| ("Behind by", behind)));
        let contact = replication.peer_seen;
        shown.extend(contact.map(|time| ("Last contact", human::second(time))));
        if let Some(progress) = &replication.failover {
            shown.push(("Failover", format!("to epoch {} is not complete", progress.epoch)));
        }
        shown.extend(replication.reason.iter().map(|reason| ("Reason", reason.clone())));
        human::facts(&shown)
    }
}

fn account_facts(accounts: &[OfAccount]) -> Vec<(&'static str, String)> {
    let fact = |account: &OfAccount| {
        ("Account", format!("{}: {}", account.name, redundancy(account.redundancy)))
    };
    accounts.iter().map(fact).collect()
}

impl AccountReplicationArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let accounts = Accounts::of(context, self.data.clone())?;
        let found = match self.name {
            Some(name) => vec![accounts.show(&name)?],
            None => accounts.list()?,
        };
        let of = |account: StorageAccount| OfAccount {
            name: account.name,
            redundancy: account.redundancy,
        };
        let found = found.into_iter().map(of).collect();
        if matches!(accounts, Accounts::Server(_)) {
            let replication = accounts.replication()?;
            return context.out.result(&AtServer { accounts: found, replication });
        }
        let Reply::Replication(replication) = self.data.ask(context, &Command::ReplicationShow)?
        else {
            return Err(other_answer());
        };
        context.out.result(&OfAccounts { accounts: found, replication: *replication })
    }
}

/// Change the redundancy of a storage account
///
/// The accounts of a pair of servers are all at both of them: grs, or ra-grs if clients may read the secondary.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account update disks --redundancy ra-grs")]
pub(crate) struct UpdateArgs {
    /// The account
    name: String,

    #[command(flatten)]
    data: DataArgs,

    /// Where its data is kept from now on
    #[arg(long, value_enum)]
    redundancy: Copies,
}

impl UpdateArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let accounts = Accounts::of(context, self.data)?;
        show_account(context, accounts.set_redundancy(&self.name, self.redundancy.of_api())?)
    }
}
