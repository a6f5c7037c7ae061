//! `audit`: who did what.

use clap::{Args, Subcommand};
use strongroom_api::{AuditVerified, ErrorBody};
use strongroom_base::message;

use crate::{
    columns::{Columns, row},
    context::Context,
    error::{FaceError, Failure},
    human, out,
};

use super::common::{Listed, Thing};

/// `audit ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    List(ListArgs),
    Export(ExportArgs),
    Verify(VerifyArgs),
}

impl AuditCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Export(args) => args.run(context),
            Self::Verify(args) => args.run(context),
        }
    }
}

/// List the latest changes and who made them, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit list
  strongroom audit list --limit 20 --before 1000")]
pub(crate) struct ListArgs {
    /// Maximum number of entries, up to 1000
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    /// Only entries with a lower number than this
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
}

impl ListArgs {
    #[allow(clippy::needless_pass_by_value, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let entries = context.client()?.audit(self.before, self.limit)?;
        if let Some(last) = entries.last().filter(|last| last.seq > 1) {
            context.out.say(&format!("--before {} shows older entries.", last.seq));
        }
        let rows = entries.iter().map(|entry| {
            row![entry.seq, entry.time, &entry.actor, &entry.action, &entry.target, &entry.outcome]
        });
        let columns = Columns::new(["SEQ", "TIME", "WHO", "OPERATION", "TARGET", "OUTCOME"], rows);
        context.out.result(&Listed::new("entries", entries, columns))
    }
}

/// Print the audit log as lines of JSON, the oldest entry first
///
/// Keep the output in another place: with it, `strongroom audit verify` shows whether somebody has
/// changed the log since.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit export > audit.jsonl
  strongroom audit export --from 1001 >> audit.jsonl")]
pub(crate) struct ExportArgs {
    /// Begin with the entry of this number
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    from: u64,
}

impl ExportArgs {
    #[allow(clippy::needless_pass_by_value, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        client.export_audit(self.from, out::print_bytes)
    }
}

/// Check that the audit log is unchanged
///
/// --seq and --hash of an entry that you have kept elsewhere also reveal a log that was cut off or
/// rewritten. The exit code is 6 if the log is not whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit verify
  strongroom audit verify --seq 1000 \\
      --hash 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
pub(crate) struct VerifyArgs {
    /// The number of an entry that you have kept elsewhere
    #[arg(long, value_name = "SEQ", requires = "hash")]
    seq: Option<u64>,

    /// The hash of this entry
    #[arg(long, value_name = "HASH", requires = "seq")]
    hash: Option<String>,
}

impl VerifyArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let seen = self.seq.zip(self.hash.as_deref());
        let verified = context.client()?.verify_audit(seen)?;
        let (intact, broken) = (verified.intact, verified.broken_at);
        context.out.result(&Thing::new(verified, shown))?;
        if intact {
            return Ok(());
        }
        let place = broken.map(|seq| format!(" from entry {seq} on")).unwrap_or_default();
        let message =
            message!(AUDIT_BROKEN, "the audit log is not as it was written{place}", place);
        let body = ErrorBody::from(message);
        Err(FaceError::Answered(Box::new(body)).into())
    }
}

fn shown(verified: &AuditVerified) -> String {
    let mut facts = vec![
        ("Whole", if verified.intact { "yes" } else { "no" }.to_owned()),
        ("Entries", verified.entries.to_string()),
        ("Hash of the last", verified.head.clone()),
    ];
    facts.extend(verified.broken_at.map(|seq| ("Broken at", seq.to_string())));
    human::facts(&facts)
}
