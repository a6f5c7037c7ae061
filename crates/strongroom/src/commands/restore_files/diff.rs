//! `restore files diff`: two recovery points compared by file.

use std::{collections::BTreeMap, ffi::OsString, fmt::Write as _};

use clap::Args;
use serde::Serialize;
use strongroom_files::{Attributes, FileReader, Files, FilesError, Kind, Piece, Visited, shown};

use crate::{
    columns::{Cell, Columns},
    complete,
    context::Context,
    error::{FaceError, Failure},
    human::{self, printable},
    open::open_vault,
    out::Show,
    values::Point,
};

use super::{WhereArgs, ls, path_of, path_parser, served::Served, signs};

/// Compare two recovery points by file
///
/// A file differs if its kind, size, time of change, mode, owner or device differs. With --content,
/// files and links that are alike in all of these are read and compared too. The same partition is
/// compared.
///
/// --suspicious looks for signs of ransomware in the names of files, and lists these alone: at least 50 files in 3 folders
/// that have one new extension in place of others, and new files of one name in at least 10 folders that were there
/// before. Give the last recovery point before a suspect one as --from.
///
/// What could not be read is counted, and the exit code is 7.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files diff --item web01 --from yesterday --recovery-point latest --path /etc
  strongroom restore files diff --item web01 --from 2026-11-01 --recovery-point latest \\
      --disk vda --partition 2 --content --output json
  strongroom restore files diff --item web01 --from 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB \\
      --recovery-point latest --suspicious")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The older point: `latest`, an id or a time
    #[arg(long, value_name = "latest|ID|TIME", add = complete::points())]
    from: Point,

    /// The folder to compare
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path_parser())]
    path: OsString,

    /// Also compare the bytes of files, and the targets of links, that are alike otherwise
    #[arg(long)]
    content: bool,

    /// Look for signs of ransomware instead: files that got one new extension, and new files of one name in many
    /// folders
    #[arg(long, conflicts_with = "content")]
    suspicious: bool,
}

/// What differs, as JSON.
#[derive(Serialize)]
struct Compared {
    changes: Vec<ChangeView>,
    problems: Vec<String>,
    problem_count: u64,
}

#[derive(Serialize)]
struct ChangeView {
    path: String,
    path_hex: Option<String>,
    /// `added`, `removed` or `changed`.
    change: &'static str,
    /// What of it changed.
    what: Vec<&'static str>,
    size_from: Option<u64>,
    size_to: Option<u64>,
}

/// Most problems that are listed.
const PROBLEMS_MAX: usize = 100;

/// Files by path.
pub(super) type Found = BTreeMap<Vec<u8>, (u64, Attributes)>;

/// What could not be read.
#[derive(Default)]
pub(super) struct Problems {
    pub(super) list: Vec<String>,
    pub(super) count: u64,
}

impl Problems {
    fn add(&mut self, problem: String) {
        self.count = self.count.saturating_add(1);
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        }
    }

    /// That there are none, or the error.
    pub(super) fn none(&self) -> Result<(), Failure> {
        if self.count > 0 {
            return Err(FaceError::FilesIncomplete(human::count(self.count, "problem")).into());
        }
        Ok(())
    }
}

impl DiffArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.suspicious {
            return self.show_signs(context);
        }
        let mut problems = Problems::default();
        let changes = match self.place.served(context)? {
            Some(served) => self.through(&served, &mut problems)?,
            None => self.directly(context, &mut problems)?,
        };
        let problem_count = problems.count;
        let list = std::mem::take(&mut problems.list);
        context.out.result(&Compared { changes, problems: list, problem_count })?;
        problems.none()
    }

    /// Shows what the names of files say.
    fn show_signs(&self, context: &Context) -> Result<(), Failure> {
        if let Some(served) = self.place.served(context)? {
            let mut problems = Problems::default();
            let (from, to) = (served.find(self.from)?, served.point()?.to_string());
            let before = self.tree(&served, &from, &mut problems)?;
            let after = self.tree(&served, &to, &mut problems)?;
            let points = [served.moment(&from)?, served.moment(&to)?];
            return signs::show(context, points, [&before, &after], &problems);
        }
        let vault = open_vault(context, &self.place.open, None)?;
        let to = self.place.point.find(&vault)?;
        let from = super::find(&vault, &to.item, self.from)?;
        let mut problems = Problems::default();
        let mut trees = Vec::new();
        for point in [&from, &to] {
            let (mut opened, volume) = self.place.opened_volume(context, &vault, point)?;
            let mut files = Files::open(opened.reader(), &volume)?;
            trees.push(self.all(context, &mut files, &mut problems)?);
        }
        let [before, after] = trees.as_slice() else { return Ok(()) };
        let points = [&from, &to].map(|point| (point.id, point.time));
        signs::show(context, points, [before, after], &problems)
    }

    /// By a server.
    fn through(
        &self,
        served: &Served,
        problems: &mut Problems,
    ) -> Result<Vec<ChangeView>, Failure> {
        if self.content {
            return Err(Failure::usage(
                "--content compares files in a vault only: name the vault with --vault",
            ));
        }
        let from = served.find(self.from)?;
        let before = self.tree(served, &from, problems)?;
        let after = self.tree(served, &served.point()?.to_string(), problems)?;
        Ok(compare(&before, &after, &mut |_, _, _, _| Ok(None))?)
    }

    /// All files of a point, by a server.
    fn tree(
        &self,
        served: &Served,
        point: &str,
        problems: &mut Problems,
    ) -> Result<Found, Failure> {
        let mut found = Found::new();
        served.tree(point, path_of(&self.path).to_vec(), &mut |listed| match listed {
            Ok((path, attributes)) => drop(found.insert(path, (0, attributes))),
            Err((_, problem)) => problems.add(problem),
        })?;
        Ok(found)
    }

    /// In the vault.
    fn directly(
        &self,
        context: &Context,
        problems: &mut Problems,
    ) -> Result<Vec<ChangeView>, Failure> {
        let vault = open_vault(context, &self.place.open, None)?;
        let to = self.place.point.find(&vault)?;
        let from = super::find(&vault, &to.item, self.from)?;
        let (mut from, old) = self.place.opened_volume(context, &vault, &from)?;
        let (mut to, new) = self.place.opened_volume(context, &vault, &to)?;
        let mut old = Files::open(from.reader(), &old)?;
        let mut new = Files::open(to.reader(), &new)?;
        let before = self.all(context, &mut old, problems)?;
        let after = self.all(context, &mut new, problems)?;
        let changes = compare(&before, &after, &mut |path, older_node, node, attributes| {
            if !self.content {
                return Ok(None);
            }
            let pair = [(old.reader(), older_node), (new.reader(), node)];
            match difference_within(context, path, pair, attributes) {
                Err(error @ (FilesError::Cancelled | FilesError::Reader { .. })) => Err(error),
                Err(error) => {
                    problems.add(error.with_causes());
                    Ok(None)
                }
                difference => difference,
            }
        });
        Ok(changes?)
    }

    /// All below the folder, by path.
    fn all(
        &self,
        context: &Context,
        files: &mut Files<'_>,
        problems: &mut Problems,
    ) -> Result<Found, FilesError> {
        let from = files.locate(path_of(&self.path))?;
        let mut found = Found::new();
        files.visit(&from, &context.cancel, &mut |_, visited| {
            match visited {
                Visited::Entry { path, node, attributes } => {
                    found.insert(path.to_vec(), (node, attributes.clone()));
                }
                Visited::Failed { error, .. } => problems.add(error.with_causes()),
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// Says what differs within two files that are alike from outside: path, both nodes, attributes.
type Within<'a> =
    &'a mut dyn FnMut(&[u8], u64, u64, &Attributes) -> Result<Option<&'static str>, FilesError>;

/// What differs between two lists of files, by path.
fn compare(
    before: &Found,
    after: &Found,
    within: Within<'_>,
) -> Result<Vec<ChangeView>, FilesError> {
    let mut changes = Vec::new();
    let view = |path: &[u8], change| ChangeView {
        path: shown(path),
        path_hex: ls::hex_of_bytes(path),
        change,
        what: Vec::new(),
        size_from: None,
        size_to: None,
    };
    for (path, (_, attributes)) in before {
        if !after.contains_key(path) {
            let size_from = Some(attributes.size);
            changes.push(ChangeView { size_from, ..view(path, "removed") });
        }
    }
    for (path, (node, attributes)) in after {
        let size_to = Some(attributes.size);
        let Some((older_node, older)) = before.get(path) else {
            changes.push(ChangeView { size_to, ..view(path, "added") });
            continue;
        };
        let mut what = differences(older, attributes);
        if what.is_empty() {
            what.extend(within(path, *older_node, *node, attributes)?);
        }
        if !what.is_empty() {
            let size_from = Some(older.size);
            changes.push(ChangeView { what, size_from, size_to, ..view(path, "changed") });
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

/// What of a file differs. Sizes and times of folders change with what is in them, which is listed itself.
fn differences(old: &Attributes, new: &Attributes) -> Vec<&'static str> {
    let is_folder = old.kind == Kind::Folder && new.kind == Kind::Folder;
    let checks = [
        ("kind", old.kind != new.kind),
        ("size", !is_folder && old.size != new.size),
        ("modified", !is_folder && old.modified != new.modified),
        ("mode", old.mode != new.mode),
        ("owner", (old.uid, old.gid) != (new.uid, new.gid)),
        ("device", old.device != new.device),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

/// What of two files differs that are alike from outside.
fn difference_within(
    context: &Context,
    path: &[u8],
    pair: [(&mut FileReader, u64); 2],
    attributes: &Attributes,
) -> Result<Option<&'static str>, FilesError> {
    match attributes.kind {
        Kind::File => {
            let same = is_same(context, path, pair, attributes.size)?;
            Ok((!same).then_some("content"))
        }
        Kind::Link => {
            let [(old, old_node), (new, new_node)] = pair;
            let same = old.target(path, old_node)? == new.target(path, new_node)?;
            Ok((!same).then_some("target"))
        }
        _ => Ok(None),
    }
}

/// Whether two files of this size have the same bytes.
fn is_same(
    context: &Context,
    path: &[u8],
    pair: [(&mut FileReader, u64); 2],
    size: u64,
) -> Result<bool, FilesError> {
    let [(old, old_node), (new, new_node)] = pair;
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < size {
        if context.cancel.is_cancelled() {
            return Err(FilesError::Cancelled);
        }
        let rest = size.saturating_sub(at);
        let len = next(old, path, old_node, at, rest, &mut one)?;
        let len = len.min(next(new, path, new_node, at, rest, &mut other)?);
        let in_memory = usize::try_from(len).unwrap_or(usize::MAX);
        if one.get(..in_memory) != other.get(..in_memory) {
            return Ok(false);
        }
        at = at.saturating_add(len);
    }
    Ok(true)
}

/// The next bytes of a file, holes as zeros: how many of them are in the buffer.
fn next(
    reader: &mut FileReader,
    path: &[u8],
    node: u64,
    at: u64,
    rest: u64,
    buf: &mut [u8],
) -> Result<u64, FilesError> {
    let most = u64::try_from(buf.len()).unwrap_or(u64::MAX).min(rest);
    let len = match reader.read(path, node, at, buf)? {
        Piece::Data(len) => u64::try_from(len).unwrap_or(0).min(most),
        Piece::Hole(len) => {
            buf.fill(0);
            len.min(most)
        }
    };
    if len == 0 {
        return Err(FilesError::Damaged {
            path: shown(path),
            reason: "fewer bytes than the file's size could be read".to_owned(),
        });
    }
    Ok(len)
}

impl Show for Compared {
    fn show(&self) -> String {
        let mut text = self.columns().map(|columns| columns.to_text()).unwrap_or_default();
        for problem in &self.problems {
            writeln!(text, "Not read: {}", printable(problem)).ok();
        }
        text
    }

    fn columns(&self) -> Option<Columns> {
        let rows = self.changes.iter().map(|change| {
            let bytes = |size: Option<u64>| size.map_or(Cell::None, Cell::Bytes);
            [
                Cell::Text(change.change.to_owned()),
                Cell::Text(change.what.join(", ")),
                bytes(change.size_from),
                bytes(change.size_to),
                Cell::Text(printable(&change.path)),
            ]
        });
        Some(Columns::new(["CHANGE", "WHAT", "SIZE BEFORE", "SIZE", "PATH"], rows))
    }
}
