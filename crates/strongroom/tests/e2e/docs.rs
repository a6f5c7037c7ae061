//! The docs as their reader uses them: links lead somewhere, and the README's first steps work.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::harness::Lab;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

fn pages() -> Vec<PathBuf> {
    let root = root();
    let top = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root.join(name));
    let mut pages = top.to_vec();
    let mut folders = vec![root.join("docs"), root.join("findings")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of docs") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The text outside of fenced blocks.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// What a heading is called in links, as GitHub does it.
fn anchors(page: &str) -> BTreeSet<String> {
    let heading =
        |line: &str| line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_owned());
    let anchor = |heading: String| {
        heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    prose(page).lines().filter_map(heading).map(anchor).collect()
}

/// The targets of a page's links.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let target = |rest: &str| rest.split([')', ' ']).next().unwrap_or_default().to_owned();
    prose.split("](").skip(1).map(target).collect()
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                page.clone()
            } else {
                page.parent().expect("a folder").join(path)
            };
            if !target.exists() {
                wrong.push(format!("{}: {link}: there is no such file", page.display()));
            } else if !anchor.is_empty() {
                let target = fs::read_to_string(&target).expect("a page");
                if !anchors(&target).contains(anchor) {
                    wrong.push(format!("{}: {link}: there is no such heading", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 300, "only {count} links were found");
}

#[test]
fn every_page_is_in_the_contents() {
    let contents = fs::read_to_string(root().join("docs/README.md")).expect("the contents");
    for folder in ["use", "operate", "understand", "contribute"] {
        for entry in fs::read_dir(root().join("docs").join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            assert!(
                contents.contains(&format!("({folder}/{name})")),
                "docs/README.md lacks {folder}/{name}"
            );
        }
    }
}

#[test]
fn links_and_headings_are_found() {
    let page = "# One: a `thing`\n[a](b.md#c) [d](#one-a-thing)\n```\n[no](no.md)\n# no\n```\n";
    assert_eq!(links(page), ["b.md#c", "#one-a-thing"]);
    assert_eq!(anchors(page), BTreeSet::from(["one-a-thing".to_owned()]));
}

/// The README's first steps, as they stand there. Machines have tests of their own (`vm`): lines that need
/// libvirt are left out here, all others run in order.
#[test]
fn the_first_things_of_the_readme_work() {
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    let steps = readme.split("## The first five things to do").nth(1).expect("the steps");
    let steps = steps.split("\n## ").next().expect("an end");
    let blocks = steps.split("```").skip(1).step_by(2);
    let lab = Lab::empty();
    let image = lab.path("web01.qcow2");
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&image)
        .arg("64M")
        .status()
        .expect("qemu-img runs");
    assert!(made.success());
    fs::create_dir(lab.path("backup")).expect("a folder");
    fs::write(lab.path("volume"), []).expect("a file in place of the volume");
    let replace = |line: &str| {
        line.replace("/backup/vault", &lab.path("backup/vault").display().to_string())
            .replace("/var/lib/libvirt/images/web01.qcow2", &image.display().to_string())
            .replace("/restore", &lab.path("restore").display().to_string())
    };
    let mut script =
        String::from("set -eu\nstrongroom() { echo \"+ $*\"; command \"$PROGRAM\" \"$@\"; }\n");
    let (mut run, mut left) = (0, 0);
    for line in blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty()) {
        if ["--vm ", "vm check", "restore vm", "/dev/"].iter().any(|word| line.contains(word)) {
            left += 1;
            continue;
        }
        run += 1;
        script.push_str(&replace(line));
        script.push('\n');
    }
    assert!(run >= 7 && left >= 3, "{run} lines run, {left} left out:\n{script}");
    let output = lab
        .shell(&script)
        .env("PROGRAM", env!("CARGO_BIN_EXE_strongroom"))
        .output()
        .expect("bash runs");
    let (out, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}\n{told}");
    assert!(lab.path("restore").read_dir().expect("the restored disks").next().is_some());
}

/// All sources of the workspace.
fn sources() -> String {
    let mut text = String::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    text
}

#[test]
fn every_surprise_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/understand/surprises.md")).expect("the page");
    let sources = sources();
    let mut rows = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.contains("| tests |")) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().expect("the last column");
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}: {row}");
        }
        rows += 1;
    }
    assert!(rows >= 12, "{rows} rows");
}
