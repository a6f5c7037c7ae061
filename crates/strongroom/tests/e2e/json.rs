//! What `--output json` prints is what docs/json.md shows.
//!
//! Below each heading `## COMMAND` that page has an example; here every command is run, and its
//! output must have exactly the fields of its example.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::harness::Lab;

/// The example below a heading of docs/json.md.
fn example(heading: &str) -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
    let page = fs::read_to_string(page).expect("docs/json.md");
    let section = page
        .split(&format!("\n## {heading}\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("docs/json.md has no section {heading:?}"));
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
const MAY_BE_EMPTY: [&str; 7] = [
    ".skipped[]",
    ".excluded[]",
    ".notes[]",
    ".cleared[]",
    ".damaged[]",
    ".damaged_points[]",
    ".unreadable[]",
];

fn assert_documented(heading: &str, output: &Value) {
    let (mut wanted, mut found) = (BTreeSet::new(), BTreeSet::new());
    fields(&example(heading), "", &mut wanted);
    fields(output, "", &mut found);
    let shown_empty = |path: &String| MAY_BE_EMPTY.iter().any(|empty| path.contains(empty));
    wanted.retain(|path| !shown_empty(path) || found.contains(path));
    assert_eq!(found, wanted, "{heading}: left is printed, right is documented");
}

#[test]
fn every_output_has_the_documented_fields() {
    let lab = Lab::empty();
    assert_documented("vault key generate", &lab.json("vault key generate key"));
    lab.ok("vault key generate second");
    assert_documented("vault create", &lab.json("vault create"));
    lab.disk("d.img", 8, 4, 1);
    let backup = "backup --item web01 --disk system=d.img --tag reason=test";
    lab.ok(backup);
    lab.change("d.img", 0, 100, 2);
    assert_documented("backup", &lab.json(backup));
    assert_documented("recoverypoint list", &lab.json("recoverypoint list"));
    let show = "recoverypoint show --item web01 --recovery-point latest";
    assert_documented("recoverypoint show", &lab.json(show));
    let points = lab.points("web01");
    let diff = format!("recoverypoint diff --item web01 --from {}", points[0]);
    assert_documented("recoverypoint diff", &lab.json(&diff));
    let restore = "restore disks --item web01 --recovery-point latest --to out";
    assert_documented("restore disks", &lab.json(restore));
    let delete = format!("recoverypoint delete --item web01 --recovery-point {}", points[0]);
    assert_documented("recoverypoint delete", &lab.json(&delete));
    assert_documented("vault usage", &lab.json("vault usage --content"));
    assert_documented("vault verify", &lab.json("vault verify"));
    assert_documented("vault rebuild-index", &lab.json("vault rebuild-index"));
    assert_documented("vault reclaim", &lab.json("vault reclaim"));

    assert_documented("vault show", &lab.json("vault show"));
    assert_documented("vault key list", &lab.json("vault key list"));
    let added = lab.json("vault key add --new-key-file second");
    assert_documented("vault key add", &added);
    let slot = added["added"]["slot"].as_str().expect("text");
    let removed = lab.json(&format!("vault key remove --slot {slot}"));
    assert_documented("vault key remove", &removed);
    let rotated = lab.json("vault key rotate --new-key-file second");
    assert_documented("vault key rotate", &rotated);
    let rotated = lab.json("vault key rotate --master --key-file second");
    assert_documented("vault key rotate --master", &rotated);
    assert_documented("errors", &lab.json("errors"));
    let run = lab.run("recoverypoint list --output json");
    let error: Value = serde_json::from_str(&run.stderr).expect("JSON");
    assert_documented("Errors", &error);
}
