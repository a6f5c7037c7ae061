//! `recoverypoint`: what is in a vault.

use clap::{Args, Subcommand};
use strongroom_base::{Clock as _, Coded as _, PointId, codes};
use strongroom_engine::{DiffReport, EngineError, PointSelector, diff_points, select_point};
use strongroom_format::Manifest;
use strongroom_vault::{Vault, VaultError};

use crate::{
    args::OpenArgs,
    complete,
    confirm::{ConfirmArgs, Plan},
    context::{self, Context},
    error::{FaceError, Failure},
    human,
    near::near,
    open::open_vault,
    out::Show,
    values::{self, IdRange, Point},
    views::{PointDeleted, PointList, PointShown, PointView, all_readable},
};

use super::{
    forget::ForgetArgs,
    service::point::{self as service, KeepUntilArgs},
    verify::{add_boots, newest_booted},
};

/// `recoverypoint ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum RecoverypointCommand {
    List(ListArgs),
    Show(ShowArgs),
    Diff(DiffArgs),
    KeepUntil(KeepUntilArgs),
    Delete(DeleteArgs),
    Forget(ForgetArgs),
}

impl RecoverypointCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Diff(args) => args.run(context),
            Self::KeepUntil(args) => args.run(context),
            Self::Delete(args) => args.run(context),
            Self::Forget(args) => args.run(context),
        }
    }
}

/// Which item and point.
#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    /// The item
    #[arg(long, value_name = "NAME", value_parser = values::name, add = complete::items_of_any())]
    pub(crate) item: String,

    #[command(flatten)]
    pub(crate) of: OfServiceArgs,

    /// The recovery point: `latest`, its id or the beginning of its id, or a time, which selects
    /// the newest point at or before it
    ///
    /// `booted` is the newest point from which `strongroom verify boot` has booted the machine.
    ///
    /// A time is 2026-11-22T18:00:00Z (RFC 3339); or in the local time zone "2026-11-22 18:00", or
    /// a day (2026-11-22, today, yesterday), which means its end; or an age: 90s, 30min and 2h by
    /// the clock, 2d and 3w by the calendar, the same time of day. "2h ago" is the same as 2h.
    #[arg(long, value_name = "latest|ID|TIME", add = complete::points())]
    pub(crate) recovery_point: Point,
}

/// Which vault of the service.
#[derive(Debug, Args)]
pub(crate) struct OfServiceArgs {
    /// With a server: the item's vault, if several have an item of this name
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    pub(crate) vault_name: Option<String>,
}

impl OfServiceArgs {
    /// The name of the vault.
    pub(crate) fn vault(&self) -> Option<&str> {
        self.vault_name.as_deref()
    }

    /// Whether the command works on a vault directly.
    pub(crate) fn is_direct(&self, context: &Context, open: &OpenArgs) -> Result<bool, Failure> {
        let direct = context.is_direct(open)?;
        match (direct, &self.vault_name) {
            (true, Some(_)) => Err(FaceError::NoServer.into()),
            (direct, _) => Ok(direct),
        }
    }
}

impl PointArgs {
    /// Finds it, for a command that does not use a server.
    pub(crate) fn find_directly(&self, vault: &Vault) -> Result<Manifest, Failure> {
        match self.of.vault() {
            Some(_) => Err(Failure::usage(
                "--vault-name names a vault of a server; this command works on a vault directly",
            )),
            None => self.find(vault),
        }
    }

    /// Finds it.
    pub(crate) fn find(&self, vault: &Vault) -> Result<Manifest, Failure> {
        find(vault, &self.item, self.recovery_point)
    }
}

/// The one recovery point of an item whose id begins so.
pub(crate) fn point_of_ids(vault: &Vault, item: &str, ids: IdRange) -> Result<PointId, Failure> {
    if let Some(id) = ids.whole() {
        return Ok(id);
    }
    let list = vault.list_points(Some(item))?;
    let damaged = list.damaged.iter().map(|point| point.point);
    let all = list.points.iter().map(|point| point.id).chain(damaged);
    the_one(item, ids, &all.filter(|id| ids.contains(*id)).collect::<Vec<_>>())
}

/// The only one of those that were found, or what is wrong with the prefix.
pub(crate) fn the_one(item: &str, ids: IdRange, found: &[PointId]) -> Result<PointId, Failure> {
    match found {
        [id] => Ok(*id),
        [] => Err(FaceError::NoPoint { item: item.to_owned(), prefix: ids.prefix() }.into()),
        several => {
            let names: Vec<String> = several.iter().take(5).map(ToString::to_string).collect();
            Err(Failure::usage(format!(
                "several recovery points of {item} begin with {}: {}",
                ids.prefix(),
                names.join(", ")
            )))
        }
    }
}

/// Finds a point of an item. If none is as old as that, says which is the oldest; if it is damaged,
/// which is the newest that is not.
pub(super) fn find(vault: &Vault, item: &str, point: Point) -> Result<Manifest, Failure> {
    let point = match point {
        Point::Latest => PointSelector::Latest,
        Point::Booted => PointSelector::Id(newest_booted(vault, item)?),
        Point::At(moment) => PointSelector::At(moment),
        Point::Ids(ids) => PointSelector::Id(point_of_ids(vault, item, ids)?),
    };
    select_point(vault, item, point).map_err(|error| {
        let no_item = error.code() == &codes::ITEM_NOT_FOUND;
        let none_before = matches!(error, EngineError::NoneBefore { .. });
        let damaged = match &error {
            EngineError::Vault(VaultError::PointDamaged { point, .. }) => Some(*point),
            _ => None,
        };
        let failure = Failure::from(error);
        if no_item {
            return failure.with_hint(known_items(vault, item));
        }
        let Ok(points) = vault.list_points(Some(item)).map(|list| list.points) else {
            return failure;
        };
        let before = damaged.and_then(|id| points.iter().rfind(|point| point.id < id));
        match (before.or(points.last()), points.first()) {
            (Some(other), _) if damaged.is_some() => failure.with_hint(format!(
                "Run `strongroom vault verify --repair`, which takes a good copy from a mirror. \
                 Another point is restored when it is named: {} of {}.",
                other.id,
                human::time(other.time)
            )),
            (_, Some(oldest)) if none_before => failure.with_hint(format!(
                "The oldest recovery point is {} of {}.",
                oldest.id,
                human::time(oldest.time)
            )),
            _ => failure,
        }
    })
}

/// Which items a vault has, for somebody who has named none of them: those that look alike, or all.
fn known_items(vault: &Vault, wrong: &str) -> String {
    let points = vault.list_points(None).map(|list| list.points).unwrap_or_default();
    let mut items: Vec<&str> = points.iter().map(|point| point.item.as_str()).collect();
    items.dedup();
    let near = near(wrong, items.iter().copied());
    let shown = if near.is_empty() { &items } else { &near };
    match shown.as_slice() {
        [] => "The vault has no recovery points yet.".to_owned(),
        few if few.len() <= 8 => {
            format!("The vault has {}; `strongroom vault show` lists all items.", few.join(", "))
        }
        _ => "`strongroom vault show` lists the vault's items.".to_owned(),
    }
}

/// List the recovery points of an item, or of all items, in the order in which they were made
///
/// The last point of an item is its `latest`, whatever times the clocks have recorded.
///
/// The exit code is 6 if the manifest of a point is damaged; the list ends with such points.
///
/// With a server it lists the server's recovery points, unless you name a vault or key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint list
  strongroom recoverypoint list --item web01 --output json
  strongroom recoverypoint list --vault-name main")]
pub(crate) struct ListArgs {
    /// The item [default: all]
    #[arg(long, value_name = "NAME", value_parser = values::name, add = complete::items_of_any())]
    item: Option<String>,

    #[command(flatten)]
    of: OfServiceArgs,

    #[command(flatten)]
    open: OpenArgs,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.of.is_direct(context, &self.open)? {
            return service::list(context, self.item.as_deref(), self.of.vault());
        }
        let vault = open_vault(context, &self.open, None)?;
        let found = vault.list_points(self.item.as_deref()).map_err(|error| {
            let no_item = error.code() == &codes::ITEM_NOT_FOUND;
            match (&self.item, Failure::from(error)) {
                (Some(item), failure) if no_item => failure.with_hint(known_items(&vault, item)),
                (_, failure) => failure,
            }
        });
        let mut list = PointList::from(found?);
        add_boots(&vault, &mut list.recovery_points);
        context.out.result(&list)?;
        all_readable(&list.damaged)
    }
}

/// Show everything about a recovery point
///
/// With a server it shows one of the server's recovery points, unless you name a vault or key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint show --item web01 --recovery-point latest
  strongroom recoverypoint show --item web01 --recovery-point \"2026-11-22 18:00\"
  strongroom recoverypoint show --item web01 --recovery-point yesterday")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    point: PointArgs,

    #[command(flatten)]
    open: OpenArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.point.of.is_direct(context, &self.open)? {
            let PointArgs { item, of, recovery_point } = &self.point;
            return service::show(context, item, of.vault(), *recovery_point);
        }
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        let mut shown = [PointView::from(point)];
        add_boots(&vault, &mut shown);
        let [recovery_point] = shown;
        context.out.result(&PointShown { recovery_point })
    }
}

/// Show the differences between two recovery points of an item
///
/// Bytes are counted in blocks of 64 KiB. The cost follows the difference, not the size of the
/// disks. --output json lists the changed ranges. Works on a vault directly, without a server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint diff --item web01 --from 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB
  strongroom recoverypoint diff --item web01 --from 2026-11-01 --recovery-point 2026-11-08
  strongroom recoverypoint diff --item web01 --from 7d")]
pub(crate) struct DiffArgs {
    /// The item
    #[arg(long, value_name = "NAME", value_parser = values::name, add = complete::items_of_vaults())]
    item: String,

    /// The older point: `latest`, an id or a time
    #[arg(long, value_name = "latest|ID|TIME", add = complete::points())]
    from: Point,

    /// The newer point
    #[arg(long, value_name = "latest|ID|TIME", default_value = "latest", add = complete::points())]
    recovery_point: Point,

    #[command(flatten)]
    open: OpenArgs,
}

impl DiffArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vault = open_vault(context, &self.open, None)?;
        let find = |point| find(&vault, &self.item, point);
        let (from, to) = (find(self.from)?, find(self.recovery_point)?);
        context.out.result(&diff_points(&vault, &from, &to)?)
    }
}

/// Delete recovery points
///
/// Other points are not affected. The next `vault reclaim` frees the space of the deleted points.
/// Deletion is final, so you name the points by their ids, and the command asks before it deletes.
/// It does not delete a locked point (point.locked). `recoverypoint forget` deletes by rules.
///
/// With a server it deletes recovery points of the server's items, unless you name a vault or key.
/// If the vault has soft delete, `recoverypoint keep-until` can restore them for some days.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint delete --item web01 --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB \\
      --dry-run
  strongroom recoverypoint delete --item web01 --recovery-point latest --yes
  strongroom recoverypoint delete --item web01 --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB \\
      --damaged")]
pub(crate) struct DeleteArgs {
    /// The item
    #[arg(long, value_name = "NAME", value_parser = values::name, add = complete::items_of_any())]
    item: String,

    #[command(flatten)]
    of: OfServiceArgs,

    /// The recovery points: their ids, unique beginnings of their ids, or `latest`
    #[arg(long, value_name = "ID,ID|latest", value_delimiter = ',', required = true,
        add = complete::points())]
    recovery_point: Vec<Point>,

    /// Give up a point whose manifest is damaged (`point.damaged`) and has no good copy, so that
    /// reclaim can run again; only without a server
    #[arg(long)]
    damaged: bool,

    #[command(flatten)]
    confirm: ConfirmArgs,

    #[command(flatten)]
    open: OpenArgs,
}

impl DeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if self.damaged {
            return self.give_up(context);
        }
        if self.recovery_point.iter().any(|point| matches!(point, Point::At(_))) {
            return Err(Failure::usage(
                "a time does not say which points to delete: give ids, or latest",
            ));
        }
        if !self.of.is_direct(context, &self.open)? {
            let item = (self.item.as_str(), self.of.vault());
            return self
                .recovery_point
                .iter()
                .try_for_each(|point| service::delete(context, item, *point, self.confirm));
        }
        let vault = open_vault(context, &self.open, None)?;
        // All of them, before the first one goes.
        let mut ids = Vec::new();
        let mut consequences = Vec::new();
        for point in &self.recovery_point {
            match (find(&vault, &self.item, *point), *point) {
                (Ok(found), _) => {
                    if let Some(until) = vault.locked_until(&found)?
                        && until > context.clock.now()
                    {
                        return Err(VaultError::Locked { point: found.id, until }.into());
                    }
                    consequences.push(format!("{} of {}", found.id, human::time(found.time)));
                    ids.push(found.id);
                }
                (Err(failure), Point::Ids(range)) if failure.code() == &codes::POINT_DAMAGED => {
                    let id = point_of_ids(&vault, &self.item, range)?;
                    consequences.push(format!("{id}, whose manifest is damaged"));
                    ids.push(id);
                }
                (Err(failure), _) => return Err(failure),
            }
        }
        ids.sort_unstable();
        ids.dedup();
        if self.confirm.wants_plan() {
            let count = human::count(u64::try_from(ids.len()).unwrap_or(0), "recovery point");
            let plan = Plan::new(format!("Delete {count} of {}", self.item));
            let plan = consequences.into_iter().fold(plan, Plan::with);
            if !self.confirm.go(context, &plan.with("there is no way back"))? {
                return Ok(());
            }
        }
        for id in ids {
            vault.delete_point(&self.item, id, &context::host())?;
            context.out.result(&PointDeleted { item: self.item.clone(), deleted: id })?;
        }
        Ok(())
    }

    fn give_up(self, context: &Context) -> Result<(), Failure> {
        let vault = open_vault(context, &self.open, None)?;
        let ids = self.recovery_point.iter().map(|point| match point {
            Point::Ids(ids) => point_of_ids(&vault, &self.item, *ids),
            _ => Err(Failure::usage("a damaged recovery point is named by its id")),
        });
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        if self.confirm.wants_plan() {
            let count =
                human::count(u64::try_from(ids.len()).unwrap_or(0), "damaged recovery point");
            let plan = Plan::new(format!("Give up {count} of {}", self.item));
            let plan = ids.iter().fold(plan, |plan, id| plan.with(id.to_string()));
            let plan = plan.with("they are lost, even if their manifests are found again");
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        for id in ids {
            vault.give_up_point(&self.item, id)?;
            context.out.result(&PointDeleted { item: self.item.clone(), deleted: id })?;
        }
        Ok(())
    }
}

impl Show for DiffReport {
    fn show(&self) -> String {
        let size = |size: Option<u64>| size.map_or("none".to_owned(), human::bytes);
        let rows = self.disks.iter().map(|disk| {
            [
                disk.name.clone(),
                size(disk.old_size_bytes),
                size(disk.new_size_bytes),
                human::bytes(disk.changed_bytes),
                human::bytes(disk.cleared_bytes),
            ]
        });
        let head = ["DISK", "OLD SIZE", "NEW SIZE", "CHANGED", "CLEARED"];
        format!(
            "{item} from {from} to {to}\n{table}",
            item = self.item,
            from = self.from,
            to = self.to,
            table = human::table(head, &[1, 2, 3, 4], rows),
        )
    }
}
