//! `recoverypoint`: what is in a vault.

use clap::{Args, Subcommand};

use crate::{
    args::OpenArgs,
    context::{self, Context},
    error::Failure,
    open::open_vault,
    values::{self, Point},
    views::{PointDeleted, PointList, PointShown, PointView},
};


/// `recoverypoint ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum RecoverypointCommand {
    List(ListArgs),
    Show(ShowArgs),
    Diff(DiffArgs),
    Delete(DeleteArgs),
}

impl RecoverypointCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Diff(args) => args.run(context),
            Self::Delete(args) => args.run(context),
        }
    }
}

/// Which item and point.
#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    /// The item
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    pub(crate) item: String,

    /// The recovery point: `latest`, its id, or a time, which selects the newest point at or
    /// before it
    ///
    /// A time is 2026-11-22T18:00:00Z (RFC 3339), or in the local time zone "2026-11-22 18:00", or
    /// a date alone, which means the end of that day.
    #[arg(long, value_name = "latest|ID|TIME")]
    pub(crate) recovery_point: Point,
}

/// List the recovery points of an item, or of all items, oldest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint list
  strongroom recoverypoint list --item web01 --output json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    open: OpenArgs,

    /// The item [default: all]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    item: Option<String>,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vault = open_vault(context, &self.open, None)?;
        let points = vault.points(self.item.as_deref())?;
        let recovery_points = points.into_iter().map(PointView::from).collect();
        context.out.result(&PointList { recovery_points })
    }
}

/// Show everything about a recovery point
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint show --item web01 --recovery-point latest
  strongroom recoverypoint show --item web01 --recovery-point \"2026-11-22 18:00\"")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    point: PointArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        context.out.result(&PointShown { recovery_point: point.into() })
    }
}

/// Show what differs between two recovery points of an item
///
/// Bytes are counted in blocks of 64 KiB. The cost follows the difference, not the size of the
/// disks. --output json lists the changed ranges.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint diff --item web01 --from 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB
  strongroom recoverypoint diff --item web01 --from 2026-11-01 --recovery-point 2026-11-08")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    open: OpenArgs,

    /// The item
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    item: String,

    /// The older point: `latest`, an id or a time
    #[arg(long, value_name = "latest|ID|TIME")]
    from: Point,

    /// The newer point
    #[arg(long, value_name = "latest|ID|TIME", default_value = "latest")]
    recovery_point: Point,
}

impl DiffArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        open(context, &self.open)?;
        tracing::debug!(self.item, ?self.from, ?self.recovery_point);
        Err(not_yet("recoverypoint diff"))
    }
}

/// Delete a recovery point
///
/// Other points are not affected. Its space becomes free at the next `vault reclaim`. There is no
/// way back, so the point is named by its id.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint delete --item web01 --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    open: OpenArgs,

    /// The item
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    item: String,

    /// The recovery point's id
    #[arg(long, value_name = "ID", value_parser = values::point_id)]
    recovery_point: strongroom_base::PointId,
}

impl DeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vault = open_vault(context, &self.open, None)?;
        vault.delete_point(&self.item, self.recovery_point, &context::host())?;
        context.out.result(&PointDeleted { item: self.item, deleted: self.recovery_point })
    }
}
