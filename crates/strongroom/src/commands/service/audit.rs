//! `audit`: who did what.

use clap::{Args, Subcommand};
use serde_json::Value;
use strongroom_api::{AuditEntry, AuditVerified, ErrorBody};
use strongroom_base::message;

use crate::{
    columns::{Columns, row},
    context::Context,
    error::{FaceError, Failure},
    human::{self, printable},
    out,
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
///
/// Of files of recovery points that were listed or downloaded it shows the item and the recovery point (TARGET), and which
/// files (FILES).
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
            let AuditEntry { seq, time, actor, action, target, outcome, .. } = entry;
            row![*seq, *time, actor, action, target, outcome, files(&entry.detail)]
        });
        let head = ["SEQ", "TIME", "WHO", "OPERATION", "TARGET", "OUTCOME", "FILES"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("entries", entries, columns))
    }
}

/// Which files of the recovery point an entry is about, as its detail says: a path, with the volume if one was named.
fn files(detail: &Value) -> Option<String> {
    let text = |name: &str| detail.get(name).and_then(Value::as_str);
    text("recovery_point")?;
    let place =
        match (text("volume"), text("disk"), detail.get("partition").and_then(Value::as_u64)) {
            (Some(volume), ..) => Some(format!("volume {volume}")),
            (None, Some(disk), Some(number)) => Some(format!("disk {disk}, partition {number}")),
            (None, Some(disk), None) => Some(format!("disk {disk}")),
            (None, None, Some(number)) => Some(format!("partition {number}")),
            (None, None, None) => None,
        };
    let what = text("what").unwrap_or("file");
    let named = [place, text("path").map(printable)].into_iter().flatten().collect::<Vec<_>>();
    Some(if named.is_empty() { what.to_owned() } else { format!("{what} of {}", named.join(": ")) })
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_named_by_their_volume_and_path() {
        let of = |more: Value| {
            let mut detail = json!({ "what": "tar", "item": "web", "recovery_point": "01M" });
            let more = more.as_object().cloned().unwrap_or_default();
            detail.as_object_mut().expect("an object").extend(more);
            files(&detail).expect("of files")
        };
        assert_eq!(of(json!({ "path": "/etc" })), "tar of /etc");
        let named = json!({ "path": "/etc", "disk": "vda", "partition": 2 });
        assert_eq!(of(named), "tar of disk vda, partition 2: /etc");
        assert_eq!(of(json!({ "volume": "vg/root", "path": "/" })), "tar of volume vg/root: /");
        assert_eq!(of(json!({ "what": "volumes" })), "volumes");
        assert_eq!(files(&json!({ "path": "/etc" })), None);
        assert_eq!(files(&Value::Null), None);
    }
}
