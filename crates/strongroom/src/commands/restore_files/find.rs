//! `restore files find`: files of one recovery point, or of all of an item, by name, time and size.

use std::{collections::BTreeMap, ffi::OsString, fmt::Write as _, os::unix::ffi::OsStrExt as _};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use strongroom_base::PointId;
use strongroom_export::Listed;
use strongroom_files::{Attributes, FilesError, Time, shown};

use crate::{
    columns::{Cell, Columns},
    context::Context,
    error::{FaceError, Failure},
    human::{self, printable},
    moments,
    open::open_vault,
    out::Show,
    values,
};

use super::{WhereArgs, ls, path_of, path_parser, served::Served};

/// Find files of a recovery point by name, time and size
///
/// --name takes a pattern for the last part of the path: * stands for any characters, ? for one. Upper
/// and lower case differ. With --all-points it searches all recovery points of the item, and
/// lists each version of a file once, with the points that have it; --recovery-point then only has
/// to be valid. The list of all files of a file system is kept in the cache folder, sealed: a second
/// search, and a point in which the file system has not changed, do not read it again.
///
/// What could not be read is counted, and the exit code is 7.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files find --item web01 --recovery-point latest --name '*.conf'
  strongroom restore files find --item web01 --recovery-point latest --path /home --larger 1G
  strongroom restore files find --item web01 --recovery-point latest --all-points \\
      --name 'invoice*' --changed-after 2026-11-01
  strongroom restore files find --item web01 --recovery-point latest --all-points \\
      --path /etc --changed")]
pub(crate) struct FindArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The folder to search in
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path_parser())]
    path: OsString,

    /// A pattern for the name
    #[arg(long, value_name = "PATTERN")]
    name: Option<OsString>,

    /// Only what changed after this time
    #[arg(long, value_name = "TIME", value_parser = moments::since)]
    changed_after: Option<Timestamp>,

    /// Only files of more than this size: 10M, 1G
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    larger: Option<u64>,

    /// Search all recovery points of the item
    #[arg(long)]
    all_points: bool,

    /// With --all-points: only files that have several versions, or that some of the points lack
    #[arg(long, requires = "all_points")]
    changed: bool,
}

/// What was found, as JSON.
#[derive(Serialize)]
struct FoundList {
    found: Vec<FoundView>,
    /// What could not be read.
    problems: Vec<String>,
    problem_count: u64,
}

#[derive(Serialize)]
struct FoundView {
    path: String,
    path_hex: Option<String>,
    kind: &'static str,
    size: u64,
    modified: Option<Timestamp>,
    recovery_points: Vec<PointId>,
}

/// A version of a file: its path, kind, size and time.
type Version = (Vec<u8>, &'static str, u64, Option<Time>);

/// Most problems that are listed.
const PROBLEMS_MAX: usize = 100;

#[derive(Default)]
struct Search {
    found: BTreeMap<Version, Vec<PointId>>,
    /// Points that were searched to their end.
    points: usize,
    problems: Vec<String>,
    problem_count: u64,
}

impl Search {
    fn problem(&mut self, problem: String) {
        self.problem_count = self.problem_count.saturating_add(1);
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

impl FindArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let search = match self.place.served(context)? {
            Some(served) => self.through(&served)?,
            None => self.directly(context)?,
        };
        let Search { mut found, points, problems, problem_count } = search;
        if self.changed {
            keep_changed(&mut found, points);
        }
        let view = |((path, kind, size, modified), recovery_points): (Version, Vec<PointId>)| {
            let modified = modified.and_then(ls::moment);
            let path_hex = ls::hex_of_bytes(&path);
            FoundView { path: shown(&path), path_hex, kind, size, modified, recovery_points }
        };
        let found = found.into_iter().map(view).collect();
        context.out.result(&FoundList { found, problems, problem_count })?;
        if problem_count > 0 {
            let parts = human::count(problem_count, "problem");
            return Err(FaceError::FilesIncomplete(parts).into());
        }
        Ok(())
    }

    /// By a server.
    fn through(&self, served: &Served) -> Result<Search, Failure> {
        let points = if self.all_points { served.points()? } else { vec![served.point()?] };
        let mut search = Search::default();
        for id in points {
            let path = path_of(&self.path).to_vec();
            let searched = served.tree(&id.to_string(), path, &mut |listed| match listed {
                Ok((path, attributes)) => self.take(&mut search, id, &path, &attributes),
                Err((path, problem)) => {
                    search.problem(format!("{id}: {}: {problem}", shown(&path)));
                }
            });
            match searched {
                // The folder, or the partition, was not always there.
                Err(failure) if self.all_points && failure.code().name.starts_with("files.") => {
                    search.problem(format!("{id}: {}", failure.message()));
                }
                other => other?,
            }
            search.points = search.points.saturating_add(1);
        }
        Ok(search)
    }

    /// In the vault.
    fn directly(&self, context: &Context) -> Result<Search, Failure> {
        let vault = open_vault(context, &self.place.open, None)?;
        let chosen = self.place.point.find(&vault)?;
        let points = if self.all_points {
            vault.list_points(Some(&chosen.item))?.points
        } else {
            vec![chosen]
        };
        let mut search = Search::default();
        for point in points {
            let id = point.id;
            let (mut opened, volume) = match self.place.opened_volume(context, &vault, &point) {
                Ok(opened) => opened,
                Err(failure) if self.all_points => {
                    search.problem(format!("{id}: {}", failure.message()));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let (path, of) = (path_of(&self.path), (&*vault, &point));
            let searched = opened.tree(of, &volume, path, &context.cancel, &mut |listed| {
                match listed {
                    Listed::File { path, attributes } => {
                        self.take(&mut search, id, path, attributes);
                    }
                    Listed::Failed { path, reason } => {
                        search.problem(format!("{id}: {}: {reason}", shown(path)));
                    }
                }
                Ok(())
            });
            match searched {
                Err(FilesError::Cancelled) => return Err(FilesError::Cancelled.into()),
                // The folder, or the partition, was not always there.
                Err(error) if self.all_points => {
                    search.problem(format!("{id}: {}", error.with_causes()));
                }
                other => drop(other?),
            }
            search.points = search.points.saturating_add(1);
        }
        Ok(search)
    }

    /// Keeps a file if it is wanted.
    fn take(&self, search: &mut Search, point: PointId, path: &[u8], of: &Attributes) {
        if self.wants(path, of) {
            let version = (path.to_vec(), of.kind.name(), of.size, of.modified);
            search.found.entry(version).or_default().push(point);
        }
    }

    fn wants(&self, path: &[u8], attributes: &Attributes) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let named = self.name.as_ref().is_none_or(|pattern| matches(pattern.as_bytes(), name));
        let after = self.changed_after.is_none_or(|after| {
            attributes.modified.and_then(ls::moment).is_some_and(|modified| modified > after)
        });
        let is_file = attributes.kind == strongroom_files::Kind::File;
        let larger = self.larger.is_none_or(|size| is_file && attributes.size > size);
        named && after && larger
    }
}

/// Leaves only files that are not the same in all points.
fn keep_changed(found: &mut BTreeMap<Version, Vec<PointId>>, points: usize) {
    let mut versions: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (path, ..) in found.keys() {
        let count = versions.entry(path.clone()).or_default();
        *count = count.saturating_add(1);
    }
    found.retain(|(path, ..), of| {
        of.len() < points || versions.get(path).is_some_and(|count| *count > 1)
    });
}

/// Whether a name has this pattern. A character is one of UTF-8, where the name is that.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                n += width(*byte);
            }
            Some(wanted) if wanted == byte => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    n == name.len() && pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// Bytes of a character that begins so.
const fn width(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    }
}

impl Show for FoundList {
    fn show(&self) -> String {
        let mut text = self.columns().map(|columns| columns.to_text()).unwrap_or_default();
        for problem in &self.problems {
            writeln!(text, "Not read: {}", printable(problem)).ok();
        }
        text
    }

    fn columns(&self) -> Option<Columns> {
        let rows = self.found.iter().map(|found| {
            let points = u64::try_from(found.recovery_points.len()).unwrap_or(0);
            let last =
                found.recovery_points.last().map_or(Cell::None, |id| Cell::Text(id.to_string()));
            [
                Cell::Text(found.kind.to_owned()),
                Cell::Bytes(found.size),
                found.modified.map_or(Cell::None, Cell::Second),
                Cell::Number(points),
                last,
                Cell::Text(printable(&found.path)),
            ]
        });
        Some(Columns::new(["KIND", "SIZE", "MODIFIED", "POINTS", "NEWEST POINT", "PATH"], rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, is) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*.conf", "x.conf.conf", true),
            ("?", "é", true),
            ("??", "é", false),
            ("a?c", "a名c", true),
            ("", "a", false),
            ("*a*b*", "xxaxxbxx", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), is, "{pattern} {name}");
        }
    }
}
