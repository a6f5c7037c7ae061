//! Comparing what `--output json` prints with docs/use/json.md.
//!
//! Below each heading `## COMMAND` that page has an example; a command's output must have exactly the
//! fields of its example.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

/// The example below a heading of docs/use/json.md.
fn example(heading: &str) -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/use/json.md");
    let page = fs::read_to_string(page).expect("docs/use/json.md");
    let section = page
        .split(&format!("\n## {heading}\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("docs/use/json.md has no section {heading:?}"));
    let example = section.split("```json\n").nth(1).expect("an example");
    let example = example.split("```").next().expect("an end");
    serde_json::from_str(example).unwrap_or_else(|error| panic!("{heading}: {error}"))
}

/// All paths of fields; those of an array are the first element's. What is below `tags` is free.
fn fields(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) if path.rsplit('.').next() != Some("tags") => {
            for (key, value) in object {
                let path = format!("{path}.{key}");
                fields(value, &path, into);
                into.insert(path);
            }
        }
        Value::Array(array) => {
            if let Some(first) = array.first() {
                fields(first, &format!("{path}[]"), into);
            }
        }
        _ => {}
    }
}

/// Lists that the examples show filled and that may be empty here.
const MAY_BE_EMPTY: [&str; 12] = [
    ".held[]",
    ".left_behind[]",
    ".skipped[]",
    ".excluded[]",
    ".notes[]",
    ".cleared[]",
    ".damaged[]",
    ".damaged_points[]",
    ".unreadable[]",
    ".findings[]",
    ".problems[]",
    ".xattrs[]",
];

pub(crate) fn assert_documented(heading: &str, output: &Value) {
    let (mut wanted, mut found) = (BTreeSet::new(), BTreeSet::new());
    fields(&example(heading), "", &mut wanted);
    fields(output, "", &mut found);
    let shown_empty = |path: &String| MAY_BE_EMPTY.iter().any(|empty| path.contains(empty));
    wanted.retain(|path| !shown_empty(path) || found.contains(path));
    assert_eq!(found, wanted, "{heading}: left is printed, right is documented");
}
