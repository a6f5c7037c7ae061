//! `restore files diff --suspicious`: signs of ransomware in the names of files.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::Serialize;
use strongroom_base::PointId;
use strongroom_files::{Kind, shown, signs};

use crate::{
    columns::{Cell, Columns},
    context::Context,
    error::Failure,
    human::{self, printable},
    out::Show,
};

use super::{
    diff::{Found, Problems},
    ls,
};

/// A recovery point.
#[derive(Serialize)]
struct PointView {
    id: PointId,
    time: Timestamp,
}

/// What the names say, as JSON.
#[derive(Serialize)]
struct SignsView {
    from: PointView,
    to: PointView,
    suspicious: bool,
    replaced: Vec<ReplacedView>,
    same_names: Vec<SameNameView>,
    problems: Vec<String>,
    problem_count: u64,
}

#[derive(Serialize)]
struct ReplacedView {
    extension: String,
    extension_hex: Option<String>,
    files: u64,
    folders: u64,
    example: String,
}

#[derive(Serialize)]
struct SameNameView {
    name: String,
    name_hex: Option<String>,
    folders: u64,
    example: String,
}

/// Prints what the names of two points say.
pub(super) fn show(
    context: &Context,
    points: [(PointId, Timestamp); 2],
    found: [&Found; 2],
    problems: &Problems,
) -> Result<(), Failure> {
    let [from, to] = points.map(|(id, time)| PointView { id, time });
    let [before, after] = found.map(kinds);
    let signs = signs(&before, &after);
    let replaced = signs.replaced.iter().map(|sign| ReplacedView {
        extension: shown(&sign.extension),
        extension_hex: ls::hex_of_bytes(&sign.extension),
        files: sign.files,
        folders: sign.folders,
        example: shown(&sign.example),
    });
    let same_names = signs.notes.iter().map(|sign| SameNameView {
        name: shown(&sign.name),
        name_hex: ls::hex_of_bytes(&sign.name),
        folders: sign.folders,
        example: shown(&sign.example),
    });
    context.out.result(&SignsView {
        from,
        to,
        suspicious: !signs.is_empty(),
        replaced: replaced.collect(),
        same_names: same_names.collect(),
        problems: problems.list.clone(),
        problem_count: problems.count,
    })?;
    problems.none()
}

fn kinds(found: &Found) -> BTreeMap<&[u8], Kind> {
    found.iter().map(|(path, (_, attributes))| (path.as_slice(), attributes.kind)).collect()
}

impl Show for SignsView {
    fn show(&self) -> String {
        let point = |point: &PointView| format!("{} of {}", point.id, human::time(point.time));
        let (from, to) = (point(&self.from), point(&self.to));
        let mut text = if self.suspicious {
            let table = self.columns().map(|columns| columns.to_text()).unwrap_or_default();
            format!(
                "{table}Ransomware may have changed these files after recovery point {from}, and before {to}.\n"
            )
        } else {
            format!("The names of files show no sign of ransomware between {from} and {to}.\n")
        };
        for problem in &self.problems {
            writeln!(text, "Not read: {}", printable(problem)).ok();
        }
        text
    }

    fn columns(&self) -> Option<Columns> {
        let row = |sign: &str, name: &str, files, folders, example: &str| {
            [
                Cell::Text(sign.to_owned()),
                Cell::Text(printable(name)),
                Cell::Number(files),
                Cell::Number(folders),
                Cell::Text(printable(example)),
            ]
        };
        let replaced = self.replaced.iter().map(|sign| {
            row("new extension", &sign.extension, sign.files, sign.folders, &sign.example)
        });
        let names = self.same_names.iter().map(|sign| {
            row("same new name", &sign.name, sign.folders, sign.folders, &sign.example)
        });
        let head = ["SIGN", "NAME", "FILES", "FOLDERS", "EXAMPLE"];
        Some(Columns::new(head, replaced.chain(names)))
    }
}
