//! docs/operate/security.md promises nothing without a test: each row names tests that exist.

use std::{fs, path::Path};

#[test]
fn each_row_of_the_table_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/operate/security.md"))
        .expect("docs/operate/security.md");
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut checked = 0;
    for row in rows {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let (cannot, tests) = (cells.nth(2).unwrap_or_default(), cells.next().unwrap_or_default());
        if cannot.starts_with('–') {
            // Nothing is promised.
            continue;
        }
        let words: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        let (files, names): (Vec<&str>, Vec<&str>) =
            words.into_iter().partition(|word| word.starts_with("crates/"));
        assert!(!files.is_empty() && !names.is_empty(), "no test is named: {row}");
        let sources: String = files
            .iter()
            .map(|file| fs::read_to_string(root.join(file)).unwrap_or_else(|_| panic!("{file}")))
            .collect();
        for name in names {
            assert!(sources.contains(&format!("fn {name}(")), "{name} is in none of {files:?}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}
