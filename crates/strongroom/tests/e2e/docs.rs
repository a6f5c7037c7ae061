//! The docs as their reader uses them: links lead somewhere, and the README's first steps work.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{harness::Lab, server::Service};

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

/// A page's commands, to be run in order in one shell.
struct Session<'a> {
    lab: &'a Lab,
    /// What stands in the page, and what it is in the test's folder.
    replaced: Vec<(&'a str, String)>,
    /// Lines with these words are left out: other tests run them, in a world that they need.
    left_out: &'a [&'a str],
}

impl Session<'_> {
    /// Runs the fenced blocks of a text; all must succeed. Returns how many lines were run and left out.
    fn run(&self, text: &str) -> (usize, usize) {
        let mut script =
            String::from("set -eu\nstrongroom() { echo \"+ $*\"; command \"$PROGRAM\" \"$@\"; }\n");
        let (mut run, mut left) = (0, 0);
        let blocks =
            text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
        for line in blocks.flat_map(|(_, block)| block.lines()).map(str::trim) {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            if self.left_out.iter().any(|word| line.contains(word)) {
                left += 1;
                continue;
            }
            run += 1;
            let line = self
                .replaced
                .iter()
                .fold(line.to_owned(), |line, (page, ours)| line.replace(page, ours));
            script.push_str(&line);
            script.push('\n');
        }
        let output = self
            .lab
            .shell(&script)
            .env("PROGRAM", env!("CARGO_BIN_EXE_strongroom"))
            .output()
            .expect("bash runs");
        let (out, told) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{out}\n{told}");
        (run, left)
    }
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).expect("a page")
}

/// A part of a page, from a heading to another.
fn part<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    let rest = page.split(from).nth(1).unwrap_or_else(|| panic!("no {from:?}"));
    rest.split(to).next().expect("an end")
}

/// The README's first steps, as they stand there. Machines have tests of their own (`vm`).
#[test]
fn the_first_things_of_the_readme_work() {
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
    let path = |name: &str| lab.path(name).display().to_string();
    let session = Session {
        lab: &lab,
        replaced: vec![
            ("/backup/vault", path("backup/vault")),
            ("/var/lib/libvirt/images/web01.qcow2", path("web01.qcow2")),
            ("/restore", path("restore")),
        ],
        left_out: &["--vm ", "vm check", "restore vm", "/dev/"],
    };
    let readme = read("README.md");
    let (run, left) = session.run(part(&readme, "## The first five things to do", "\n## "));
    assert!(run >= 7 && left >= 3, "{run} lines run, {left} left out");
    assert!(lab.path("restore").read_dir().expect("the restored disks").next().is_some());
}

/// The page for 3 a.m., with a vault in a folder. Machines, a new server, damaged points and the reader in
/// Python are tried elsewhere (`vm`, `service_saved`, `damage`, `scripts/check-format`).
#[test]
fn the_page_for_the_worst_day_works() {
    let lab = Lab::new();
    for item in ["web01", "db01", "mail"] {
        lab.disk(&format!("{item}.raw"), 8, 1, 7);
        let disk = if item == "db01" { "data" } else { "system" };
        lab.ok(&format!("backup --item {item} --disk {disk}={item}.raw"));
    }
    lab.ok("vault key generate lost.key");
    let slot = lab.json("vault key add --new-key-file lost.key")["added"]["slot"].clone();
    fs::create_dir(lab.path("usb")).expect("a folder");
    lab.copy("key", "usb/strongroom.key");
    let path = |name: &str| lab.path(name).display().to_string();
    let session = Session {
        lab: &lab,
        replaced: vec![
            ("'s3://backups/strongroom?region=eu-1'", path("vault")),
            ("/mnt/usb/vault", path("vault")),
            ("/backup/vault", path("vault")),
            ("/media/usb", path("usb")),
            ("/root", path("")),
            ("/restore", path("restore")),
            ("/dev/vg0/db01", path("db01-restored.raw")),
            ("'2026-11-22 03:00'", "latest".to_owned()),
            ("yesterday", "today".to_owned()),
            ("ID_OF_THE_LOST_ONE", slot.as_str().expect("the id of the slot").to_owned()),
            ("key remove", "key remove --yes".to_owned()),
        ],
        left_out: &[
            "restore vm",
            "strongroom recover ",
            "strongroom serve",
            "--damaged",
            "format-reader.py",
            "pip install",
        ],
    };
    let (run, left) = session.run(&read("docs/use/recovery.md"));
    assert!(run >= 15 && left >= 8, "{run} lines run, {left} left out");
    lab.assert_same("db01.raw", "db01-restored.raw");
    lab.assert_same("web01.raw", "restore/web01/system.raw");
}

/// The pages of the service: how it is used, and how access to it is given. Machines are tried elsewhere (`vm`).
#[test]
fn the_pages_of_the_service_work() {
    let service = Service::start();
    let lab = &service.lab;
    fs::write(lab.path("password"), "a long password\n").expect("a password");
    fs::create_dir(lab.path("restore")).expect("a folder");
    let path = |name: &str| lab.path(name).display().to_string();
    let url = service.url.clone();
    let mut replaced = vec![
        ("https://backup.example.net:8443", url.clone()),
        ("https://127.0.0.1:8443", url),
        ("/var/lib/strongroom/first-token", path("token")),
        ("C6:20:8C:...", format!("{} --token-file token", service.fingerprint)),
        ("PRINT", service.fingerprint.clone()),
        // What a person types, or answers with yes.
        ("user create ann", "user create ann --password-file password".to_owned()),
        ("--sign-in ann", "--sign-in ann --password-file password".to_owned()),
        ("--days 90 --password", "--days 90 --password-file password".to_owned()),
        ("--delete-backup-data", "--delete-backup-data --yes".to_owned()),
        ("--in-place", "--in-place --yes".to_owned()),
        ("/fast/strongroom", path("fast")),
        ("/srv/data.raw", path("data.raw")),
        ("/restore", path("restore")),
        ("/dev/vg0/data", path("restore/data.raw")),
        ("/etc/bash_completion.d", path("")),
        ("kvm1", "files".to_owned()),
        ("HOST", "files".to_owned()),
        ("\"2026-11-22 18:00\"", "latest".to_owned()),
    ];
    let mut counts = (0, 0);
    let mut run = |replaced: &[(&'static str, String)], text: &str| {
        let session = Session {
            lab,
            replaced: replaced.to_vec(),
            left_out: &[
                "strongroom serve",
                "host discover",
                "protectable-item",
                "enable-for-vm",
                "restore vm",
                "restore accept",
                // Of a job that has ended there is nothing to cancel.
                "job cancel",
            ],
        };
        let (run, left) = session.run(text);
        counts = (counts.0 + run, counts.1 + left);
    };
    let page = read("docs/use/service.md");
    let section = |heading: &str| part(&page, &format!("\n## {heading}\n"), "\n## ");
    run(&replaced, section("Start a server and connect to it"));
    lab.ok("context use home");
    lab.ok("host create files");
    for (name, seed) in [("data", 1), ("db", 2), ("web01", 3)] {
        lab.disk(&format!("{name}.raw"), 4, 1, seed);
    }
    lab.ok("vault create main");
    for item in ["db", "web01"] {
        let (name, image) =
            (if item == "db" { "data" } else { "root" }, path(&format!("{item}.raw")));
        let protect = "protection enable-for-disks --host files --vault-name main --wait";
        lab.ok(&format!("{protect} --item {item} --disk {name}={image}"));
        lab.ok(&format!("protection backup-now --item {item} --wait"));
    }
    replaced.push(("vault create main", "vault show main".to_owned()));
    run(&replaced, section("Protect machines"));
    run(&replaced, section("Snapshots near the machines"));
    let job = lab.json("job list --state completed")["jobs"][0]["id"].clone();
    replaced.push(("01M830F62PWXMD24MNW8TYRGAN", job.as_str().expect("a job").to_owned()));
    run(&replaced, section("Monitor: status, items, jobs, alerts"));
    run(&replaced, section("Restore"));
    lab.assert_same("db.raw", "restore/data.raw");
    let point = lab.json("recoverypoint list --item web01")["recovery_points"][0]["id"].clone();
    replaced.push(("01M830F62TN2ZNNSX1P1N8C470", point.as_str().expect("a point").to_owned()));
    run(&replaced, section("Stop protection, delete, undelete"));
    let entries = lab.json("audit list --limit 1");
    let entry = &entries["entries"][0];
    let hash = entry["hash"].as_str().expect("a hash").to_owned();
    replaced.push(("--seq 1000", format!("--seq {}", entry["seq"])));
    replaced.push(("HASH_OF_ENTRY_1000", hash));
    run(&replaced, section("Audit: who did what"));
    run(&replaced, section("Completion"));

    let access = read("docs/operate/access.md");
    // The page has the same person twice, who is there already.
    for (heading, name) in [("Roles and scopes", "bea"), ("Signing in", "carl")] {
        let another = vec![
            ("create ann", format!("create {name} --password-file password")),
            ("--user ann", format!("--user {name}")),
        ];
        let replaced = [another, replaced.clone()].concat();
        run(&replaced, part(&access, &format!("\n## {heading}\n"), "\n## "));
    }
    // The page has just used the first token, whose user has no password.
    lab.ok("context add home --sign-in ann --password-file password");
    lab.ok("access token create lost --role reader");
    let tokens = lab.json("access token list");
    let tokens = tokens["tokens"].as_array().expect("a list");
    let token = &tokens.iter().find(|token| token["name"] == "lost").expect("it is there")["id"];
    replaced.push(("revoke ID", format!("revoke {} --yes", token.as_str().expect("a token"))));
    run(&replaced, part(&access, "\n## Tokens\n", "\n## "));
    run(&replaced, part(&access, "\n## The audit log\n", "\n# "));
    assert!(counts.0 >= 38 && counts.1 <= 12, "{counts:?}: lines run, lines left out");
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
