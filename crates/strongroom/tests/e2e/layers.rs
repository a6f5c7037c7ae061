//! The workspace's one-way rule: a crate uses only crates on lower rows.

use std::{collections::BTreeMap, fs, path::Path};

#[test]
fn crates_use_only_lower_rows() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut rows = BTreeMap::new();
    let mut uses = Vec::new();
    for entry in fs::read_dir(crates).expect("the crates") {
        let file = entry.expect("a crate").path().join("Cargo.toml");
        let manifest: toml::Table =
            fs::read_to_string(&file).expect("a manifest").parse().expect("TOML");
        let package = &manifest["package"];
        let name = package["name"].as_str().expect("a name").to_owned();
        let row = package
            .get("metadata")
            .and_then(|metadata| metadata.get("strongroom")?.get("row")?.as_integer());
        let row = row.unwrap_or_else(|| panic!("{name} has no row in {}", file.display()));
        rows.insert(name.clone(), row);
        let used = manifest.get("dependencies").and_then(toml::Value::as_table);
        let used = used.into_iter().flat_map(toml::Table::keys);
        uses.extend(used.map(|used| (name.clone(), used.clone())));
    }
    assert!(rows.len() >= 8, "{rows:?}");
    for (name, used) in uses {
        if let Some(row) = rows.get(&used) {
            assert!(*row < rows[&name], "{name} must not use {used}: it is on row {row}");
        }
    }
}
