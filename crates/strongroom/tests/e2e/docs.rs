//! The docs as their reader uses them: links lead somewhere, and the README's first steps work.

use std::{collections::BTreeSet, fs, path::PathBuf};

use crate::{
    blocks::root,
    harness::Lab,
    server::Service,
    session::{Page, Session, part, read},
};

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
    fs::File::create(lab.path("volume")).and_then(|file| file.set_len(64 << 20)).expect("a volume");
    let page = Page::new("README.md", "the_first_things_of_the_readme_work");
    let session = Session {
        lab: &lab,
        page: &page,
        environment: vec![],
        replaced: vec![
            ("/backup/vault", path("backup/vault")),
            ("/var/lib/libvirt/images/web01.qcow2", path("web01.qcow2")),
            ("/restore", path("restore")),
            ("\"2026-11-22 18:00\"", "latest".to_owned()),
            ("/dev/vg0/web01", path("volume")),
            ("--in-place", "--in-place --yes".to_owned()),
        ],
    };
    let readme = read("README.md");
    session.run(part(&readme, "## The first five things to do", "\n## "));
    page.assert_all_run();
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
    let page = Page::new("docs/use/recovery.md", "the_page_for_the_worst_day_works");
    let session = Session {
        lab: &lab,
        page: &page,
        environment: vec![],
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
    };
    session.run(&read("docs/use/recovery.md"));
    page.assert_all_run();
    lab.assert_same("db01.raw", "db01-restored.raw");
    lab.assert_same("web01.raw", "restore/web01/system.raw");
}

/// What the pages of the service have, and what it is for a server of a test: where it is, and what a person
/// types or answers with yes.
pub(crate) fn replaced(service: &Service) -> Vec<(&'static str, String)> {
    let path = |name: &str| service.lab.path(name).display().to_string();
    fs::write(service.lab.path("password"), "a long password\n").expect("a password");
    vec![
        ("https://backup.example.net:8443", service.url.clone()),
        ("https://127.0.0.1:8443", service.url.clone()),
        ("/var/lib/strongroom/first-token", path("token")),
        ("C6:20:8C:...", format!("{} --token-file token", service.fingerprint)),
        ("PRINT", service.fingerprint.clone()),
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
    ]
}

/// How the service is used. Machines are tried elsewhere (`vm`).
#[test]
fn the_page_of_the_service_works() {
    let service = Service::start();
    let lab = &service.lab;
    fs::create_dir(lab.path("restore")).expect("a folder");
    let mut replaced = replaced(&service);
    let text = read("docs/use/service.md");
    let page = Page::new("docs/use/service.md", "the_page_of_the_service_works");
    let follow = |replaced: &[(&'static str, String)], heading: &str| {
        let session =
            Session { lab, page: &page, environment: vec![], replaced: replaced.to_vec() };
        session.run(part(&text, &format!("\n## {heading}\n"), "\n## "));
    };
    follow(&replaced, "Start a server and connect to it");
    lab.ok("context use home");
    lab.ok("host create files");
    for (name, seed) in [("data", 1), ("db", 2), ("web01", 3)] {
        lab.disk(&format!("{name}.raw"), 4, 1, seed);
    }
    lab.ok("vault create main");
    for (item, disk) in [("db", "data"), ("web01", "root")] {
        let image = lab.path(&format!("{item}.raw")).display().to_string();
        let protect = "protection enable-for-disks --host files --vault-name main --wait";
        lab.ok(&format!("{protect} --item {item} --disk {disk}={image}"));
        lab.ok(&format!("protection backup-now --item {item} --wait"));
    }
    replaced.push(("vault create main", "vault show main".to_owned()));
    follow(&replaced, "Protect machines");
    follow(&replaced, "Snapshots near the machines");
    let job = lab.json("job list --state completed")["jobs"][0]["id"].clone();
    replaced.push(("01M830F62PWXMD24MNW8TYRGAN", job.as_str().expect("a job").to_owned()));
    follow(&replaced, "Monitor: status, items, jobs, alerts");
    follow(&replaced, "Restore");
    lab.assert_same("db.raw", "restore/data.raw");
    let point = lab.json("recoverypoint list --item web01")["recovery_points"][0]["id"].clone();
    replaced.push(("01M830F62TN2ZNNSX1P1N8C470", point.as_str().expect("a point").to_owned()));
    follow(&replaced, "Stop protection, delete, undelete");
    let entries = lab.json("audit list --limit 1");
    let entry = &entries["entries"][0];
    replaced.push(("--seq 1000", format!("--seq {}", entry["seq"])));
    replaced.push(("HASH_OF_ENTRY_1000", entry["hash"].as_str().expect("a hash").to_owned()));
    follow(&replaced, "Audit: who did what");
    follow(&replaced, "Completion");
    page.assert_all_run();
}

/// How access is given.
#[test]
fn the_page_of_access_works() {
    let service = Service::start();
    let lab = &service.lab;
    let text = read("docs/operate/access.md");
    let page = Page::new("docs/operate/access.md", "the_page_of_access_works");
    let mut replaced = replaced(&service);
    lab.ok("vault create main");
    lab.ok("host create files");
    let follow = |replaced: Vec<(&'static str, String)>, heading: &str| {
        let session = Session { lab, page: &page, environment: vec![], replaced };
        session.run(part(&text, &format!("\n## {heading}\n"), "\n## "));
    };
    // The page makes the same person twice.
    let another = vec![
        ("create ann", "create bea --password-file password".to_owned()),
        ("--user ann", "--user bea".to_owned()),
    ];
    follow([another, replaced.clone()].concat(), "Roles and scopes");
    follow(replaced.clone(), "Signing in");
    // It has just used the first token, whose user has no password.
    lab.ok("context add home --sign-in ann --password-file password --use");
    lab.ok("access token create lost --role reader");
    let tokens = lab.json("access token list");
    let tokens = tokens["tokens"].as_array().expect("a list");
    let token = &tokens.iter().find(|token| token["name"] == "lost").expect("it is there")["id"];
    replaced.push(("revoke ID", format!("revoke {} --yes", token.as_str().expect("an id"))));
    follow(replaced.clone(), "Tokens");
    follow(replaced, "The audit log");
    page.assert_all_run();
}

/// The sources below a folder.
fn sources_of(folder: PathBuf) -> String {
    let mut text = String::new();
    let mut folders = vec![folder];
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

/// All sources of the workspace.
pub(crate) fn sources() -> String {
    sources_of(root().join("crates"))
}

/// Whether a crate declares a module, a type, a constant, a function or a field of this name.
fn declares(sources: &str, name: &str) -> bool {
    let words = ["mod", "struct", "enum", "trait", "fn", "const", "type"];
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let is_after = |before: &str| {
        let is_end = |(_, rest): (&str, &str)| is_end(rest);
        sources.match_indices(before).any(|(at, found)| is_end(sources.split_at(at + found.len())))
    };
    words.iter().any(|word| is_after(&format!("{word} {name}")))
        || sources.contains(&format!("pub {name}: "))
        // In a macro that declares types.
        || sources.contains(&format!("\n    {name} {{\n"))
}

#[test]
fn every_path_of_the_glossary_is_in_the_code() {
    let page = read("docs/understand/glossary.md");
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in page.lines().filter(|line| line.starts_with("| **")) {
        let code = row.trim_end_matches(" |").rsplit(" | ").next().expect("the last column");
        let paths: Vec<&str> = code.split('`').skip(1).step_by(2).collect();
        assert!(!paths.is_empty(), "nothing in the code: {row}");
        rows += 1;
        for path in paths {
            let mut names = path.split("::");
            let name = names.next().expect("a crate").replace('_', "-");
            let folder = root().join("crates").join(name).join("src");
            if !folder.is_dir() {
                wrong.push(format!("{path}: no such crate"));
                continue;
            }
            let sources = sources_of(folder);
            let missing = names.filter(|name| !declares(&sources, name));
            wrong.extend(missing.map(|name| format!("{path}: the crate has no {name}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows > 50, "{rows} rows");
    assert!(declares("pub(crate) mod one;", "one") && declares("struct One<'a> {", "One"));
    assert!(!declares("mod ones;", "one") && !declares("// a mode one", "one"));
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

/// Every variable that a page names is one that the product, a test or a script reads.
#[test]
fn every_variable_of_the_docs_exists() {
    let mut sources = sources();
    for script in fs::read_dir(root().join("scripts")).expect("scripts") {
        let path = script.expect("an entry").path();
        sources += &fs::read_to_string(path).unwrap_or_default();
    }
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for rest in text.split("STRONGROOM_").skip(1) {
            let is_name = |c: &char| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_';
            let name: String = rest.chars().take_while(is_name).collect();
            // A key of the server's file; a test of the server compares those.
            if name.is_empty() || name.starts_with("SERVER_") {
                continue;
            }
            let name = format!("STRONGROOM_{name}");
            assert!(sources.contains(&name), "{}: nothing reads {name}", page.display());
            count += 1;
        }
    }
    assert!(count > 40, "only {count} variables were found");
}

/// Words that docs/contribute/style.md rules out.
const RULED_OUT: &[&str] = &[
    "told",
    "whoever",
    "anew",
    "go on",
    "goes on",
    "going on",
    "gone on",
    "so many",
    "nevertheless",
    "but for",
    "bring back",
    "brings back",
    "brought back",
    "get back",
    "gets back",
    "hears",
    "shall",
    "is over",
    "are over",
    "makes no sense",
    "make no sense",
];

/// Where they may stand: the page or the source, and the word.
const ALLOWED: &[(&str, &str)] = &[
    // It says what to write in place of them.
    ("docs/contribute/style.md", ""),
    // It says which words went.
    ("CHANGELOG.md", "told"),
    ("CHANGELOG.md", "brought back"),
    // A line that scripts/bench writes.
    ("README.md", "anew"),
    ("docs/understand/benchmarks.md", ""),
    ("docs/decisions/0003-compression.md", ""),
    ("crates/vault/src/reclaim/", ""),
    ("crates/bench/", ""),
];

/// Whether a text has these words, in any case and across lines, and not as a part of longer ones.
fn has_words(text: &str, words: &str) -> bool {
    let is_inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(words).any(|(at, found)| {
        let (before, after) = (text.split_at(at).0, text.split_at(at + found.len()).1);
        !before.ends_with(is_inside) && !after.starts_with(is_inside)
    })
}

/// The comments of the sources below a folder, by their paths, without those of tests: each run of them is a text.
fn comments(folder: PathBuf) -> Vec<(PathBuf, String)> {
    let (mut comments, mut folders) = (Vec::new(), vec![folder]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let is_test =
                ["tests", "tests.rs", "simulated"].iter().any(|name| path.ends_with(name));
            if path.is_dir() && !is_test {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
                let text = fs::read_to_string(&path).expect("a source");
                let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
                comments.push((path, comments_of(product)));
            }
        }
    }
    comments
}

/// The comments of a source, joined across lines; between two of them is a mark.
fn comments_of(source: &str) -> String {
    let of = |line: &str| {
        let line = line.trim_start();
        let at = if line.starts_with("//") { Some(0) } else { line.find(" // ").map(|at| at + 1) };
        at.map(|at| line[at..].trim_start_matches(['/', '!']).to_owned())
    };
    let texts = source.lines().map(|line| of(line).unwrap_or_else(|| "|".to_owned()));
    texts.collect::<Vec<_>>().join(" ")
}

/// Pages (with the help of the program and the pages of its errors, which are made from it), the description
/// of the API, and the comments of the product.
#[test]
fn no_text_has_a_word_that_the_style_rules_out() {
    let mut texts: Vec<(PathBuf, String)> = pages()
        .into_iter()
        .chain([root().join("docs/openapi.json")])
        .map(|page| (page.clone(), fs::read_to_string(page).expect("a page")))
        .collect();
    for entry in fs::read_dir(root().join("crates")).expect("crates") {
        texts.extend(comments(entry.expect("a crate").path().join("src")));
    }
    let mut wrong = Vec::new();
    for (path, text) in &texts {
        let name = path.strip_prefix(root()).expect("below the project").display().to_string();
        let text = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        for words in RULED_OUT {
            let is_allowed = |(place, allowed): &(&str, &str)| {
                name.starts_with(place) && (allowed.is_empty() || allowed == words)
            };
            if has_words(&text, words) && !ALLOWED.iter().any(is_allowed) {
                wrong
                    .push(format!("{name}: {words:?}; docs/contribute/style.md has a better word"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(texts.len() > 500, "only {} texts were found", texts.len());
    let source = "//! One\n/// that goes\n/// on.\nlet a = 1; // two\n    // three\n";
    assert_eq!(comments_of(source), " One  that goes  on.  two  three");
    assert!(has_words("it is told.", "told") && !has_words("who_is_told_apart", "told"));
}
