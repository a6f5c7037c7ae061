//! The workspace's walls: a crate uses only crates on lower rows, what decides reaches nothing that touches
//! a disk or a store, and only the program reads its environment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A crate, as its manifest and its sources say.
#[derive(Default)]
struct Crate {
    row: Option<i64>,
    /// What it is built with, tests aside.
    uses: Vec<String>,
    /// Its sources: path and text.
    sources: Vec<(String, String)>,
}

type Crates = BTreeMap<String, Crate>;

/// Crates that reach no crate of the workspace but these, directly or by others.
const REACHES_ONLY: [(&str, &[&str]); 2] = [
    (
        "strongroom-control",
        &[
            "strongroom-api",
            "strongroom-base",
            "strongroom-catalog",
            "strongroom-orders",
            "strongroom-policy",
            "strongroom-reports",
        ],
    ),
    (
        "strongroom-orders",
        &["strongroom-api", "strongroom-base", "strongroom-policy", "strongroom-reports"],
    ),
];

/// Crates that do not use these themselves: what they need of them goes through others.
const USES_NOT: [(&str, &[&str]); 1] = [(
    "strongroom-server",
    &[
        "strongroom-disk",
        "strongroom-engine",
        "strongroom-export",
        "strongroom-hypervisor",
        "strongroom-machine",
        "strongroom-objects",
        "strongroom-vault",
        "strongroom-verify",
    ],
)];

/// What tests share, and the crates that are built with it: no part of the product.
const TESTING: (&str, [&str; 2]) = ("strongroom-testing", ["strongroom-bench", "strongroom-sim"]);

/// Sources below the programs that name the machine's own clock. Everything else takes a [`Clock`] from its caller, so
/// that tests and simulators own the time.
///
/// [`Clock`]: strongroom_base::Clock
const SYSTEM_CLOCK: [(&str, &str); 15] = [
    // What they wait for is another process, which lives in the machine's time.
    ("strongroom-disk", "image/serve.rs"),
    ("strongroom-disk", "nbd/disk.rs"),
    ("strongroom-files", "reader.rs"),
    // Process 1 of a machine, which waits for its devices.
    ("strongroom-files", "machine/guest/mod.rs"),
    ("strongroom-keys", "module.rs"),
    // They put the service together, for all its life or for one command, and give it this clock.
    ("strongroom-server", "src/serve.rs"),
    ("strongroom-server", "src/first.rs"),
    ("strongroom-server", "src/copies.rs"),
    ("strongroom-server", "src/recover.rs"),
    ("strongroom-server", "src/doctor.rs"),
    // Tools for tests.
    ("strongroom-testing", "processes.rs"),
    ("strongroom-orders", "conformance/mod.rs"),
    // What is taken if the caller says nothing.
    ("strongroom-objects", "open.rs"),
    ("strongroom-objects", "memory.rs"),
    ("strongroom-vault", "vault.rs"),
];

/// Sources below the programs that name the operating system's chance. Everything else takes an [`Entropy`] from its
/// caller, so that tests and simulators own what is drawn.
///
/// [`Entropy`]: strongroom_base::Entropy
const SYSTEM_ENTROPY: [(&str, &str); 7] = [
    // They put the service together, for all its life or for one command, and give it this chance.
    ("strongroom-server", "src/serve.rs"),
    ("strongroom-server", "src/copies.rs"),
    ("strongroom-server", "src/recover.rs"),
    // Names of unfinished files of a cache, which no simulated vault shares with another process.
    ("strongroom-vault", "files.rs"),
    // A tool for tests.
    ("strongroom-orders", "conformance/mod.rs"),
    // What is taken if the caller says nothing.
    ("strongroom-objects", "open.rs"),
    ("strongroom-vault", "vault.rs"),
];

/// Programs, which read their environment and give it to the crates that they use.
const PROGRAMS: [&str; 3] = ["strongroom", "strongroom-bench", "strongroom-sim"];

/// What is wrong with the workspace.
fn faults(crates: &Crates) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, krate) in crates {
        let Some(row) = krate.row else {
            faults.push(format!("{name} has no row"));
            continue;
        };
        for used in &krate.uses {
            if let Some(other) = crates.get(used).and_then(|other| other.row)
                && other >= row
            {
                faults.push(format!("{name} must not use {used}: it is on row {other}"));
            }
        }
        if !PROGRAMS.contains(&name.as_str()) {
            let read = krate.sources.iter().filter(|_| name != TESTING.0);
            let read = read.flat_map(|(path, text)| reads(path, text));
            faults.extend(read.map(|read| format!("{name} reads the environment: {read}")));
            for (own, allowed, what) in [
                ("SystemClock", SYSTEM_CLOCK.as_slice(), "a clock"),
                ("SystemEntropy", &SYSTEM_ENTROPY, "chance"),
            ] {
                let found = krate.sources.iter().filter(|(path, text)| {
                    let known = |(of, end): &(&str, &str)| name == of && path.ends_with(end);
                    names(text, own) && name != "strongroom-base" && !allowed.iter().any(known)
                });
                faults
                    .extend(found.map(|(path, _)| format!("{name} has {what} of its own: {path}")));
            }
        }
    }
    for (name, allowed) in REACHES_ONLY {
        let strange =
            reached(crates, name).into_iter().filter(|it| !allowed.contains(&it.as_str()));
        faults.extend(strange.map(|it| format!("{name} must not reach {it}")));
    }
    for (name, forbidden) in USES_NOT {
        let uses = crates.get(name).map(|krate| krate.uses.as_slice()).unwrap_or_default();
        let strange = uses.iter().filter(|it| forbidden.contains(&it.as_str()));
        faults.extend(strange.map(|it| format!("{name} must not use {it}")));
    }
    let users = crates.iter().filter(|(_, krate)| krate.uses.iter().any(|it| it == TESTING.0));
    let strange = users.filter(|(name, _)| !TESTING.1.contains(&name.as_str()));
    faults.extend(strange.map(|(name, _)| format!("{name} must not use {}", TESTING.0)));
    // A wall around what has another name now is none.
    let named = REACHES_ONLY.iter().chain(&USES_NOT);
    let named = named.flat_map(|(name, others)| others.iter().chain([name])).chain(&PROGRAMS);
    let unknown: BTreeSet<_> = named.filter(|name| !crates.contains_key(**name)).collect();
    faults.extend(unknown.into_iter().map(|name| format!("there is no crate {name}")));
    faults
}

/// The crates of the workspace that one is built with, by whatever way.
fn reached(crates: &Crates, name: &str) -> BTreeSet<String> {
    let (mut found, mut left) = (BTreeSet::new(), vec![name.to_owned()]);
    while let Some(next) = left.pop() {
        let uses = crates.get(&next).map(|krate| krate.uses.as_slice()).unwrap_or_default();
        for used in uses.iter().filter(|used| crates.contains_key(*used)) {
            if found.insert(used.clone()) {
                left.push(used.clone());
            }
        }
    }
    found
}

/// Whether a source names something, its tests aside.
fn names(text: &str, what: &str) -> bool {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    product.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(what))
}

/// Lines of a source that read the environment or the arguments, its tests aside.
fn reads(path: &str, text: &str) -> Vec<String> {
    // A module of tests is the end of its file.
    let mut lines: Vec<&str> = text.lines().collect();
    let is_test = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{')
    };
    if let Some(end) = lines.windows(2).position(is_test) {
        lines.truncate(end);
    }
    let is_read = |line: &str| {
        let line = line.trim_start();
        let by_name = ["env::var", "env::args", "env::temp_dir"].iter().any(|it| line.contains(it));
        let by_list = line.contains("std::env::{")
            && ["var", "args", "temp_dir"].iter().any(|it| line.contains(it));
        // They ask for `TMPDIR`; those that end in `_in` are given a folder.
        let by_tempfile =
            ["tempdir()", "tempfile()", "NamedTempFile::new()"].iter().any(|it| line.contains(it));
        !line.starts_with("//") && (by_name || by_list || by_tempfile)
    };
    let read = lines.iter().enumerate().filter(|(_, line)| is_read(line));
    read.map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim())).collect()
}

/// The sources below a folder, without test code that has files of its own.
pub(crate) fn sources(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let is_of_tests = ["tests", "tests.rs", "testing", "simulated"].contains(&name.as_str());
        if is_of_tests || name.ends_with("_tests.rs") {
            continue;
        }
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            into.push((path.display().to_string(), text));
        }
    }
}

#[test]
fn the_workspace_keeps_its_walls() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut crates = Crates::new();
    for entry in fs::read_dir(folder).expect("the crates") {
        let path = entry.expect("a crate").path();
        let file = path.join("Cargo.toml");
        let manifest: toml::Table =
            fs::read_to_string(&file).expect("a manifest").parse().expect("TOML");
        let package = &manifest["package"];
        let name = package["name"].as_str().expect("a name").to_owned();
        let mut krate = Crate {
            row: package
                .get("metadata")
                .and_then(|metadata| metadata.get("strongroom")?.get("row")?.as_integer()),
            ..Crate::default()
        };
        for table in ["dependencies", "build-dependencies"] {
            let used = manifest.get(table).and_then(toml::Value::as_table);
            krate.uses.extend(used.into_iter().flat_map(toml::Table::keys).cloned());
        }
        sources(&path.join("src"), &mut krate.sources);
        assert!(!krate.sources.is_empty(), "{name} has no sources");
        crates.insert(name, krate);
    }
    assert!(crates.len() >= 8);
    let faults = faults(&crates);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A workspace in which all walls stand, and what a change makes of it.
fn made_up(change: impl FnOnce(&mut Crates)) -> Vec<String> {
    let named = REACHES_ONLY.iter().chain(&USES_NOT);
    let names = named.flat_map(|(name, others)| others.iter().chain([name])).chain(&PROGRAMS);
    let row = |name: &str| match name {
        "strongroom-control" => 3,
        "strongroom-orders" => 2,
        "strongroom-server" => 4,
        name if PROGRAMS.contains(&name) => 5,
        _ => 1,
    };
    let made =
        |name: &&str| ((*name).to_owned(), Crate { row: Some(row(name)), ..Crate::default() });
    let mut crates: Crates = names.map(made).collect();
    change(&mut crates);
    faults(&crates)
}

fn add(crates: &mut Crates, name: &str, used: &str) {
    crates.get_mut(name).expect(name).uses.push(used.to_owned());
}

#[test]
fn a_wall_that_is_broken_is_seen() {
    assert_eq!(made_up(|_| {}), Vec::<String>::new());
    assert_eq!(
        made_up(|crates| add(crates, "strongroom-disk", "strongroom-vault")),
        ["strongroom-disk must not use strongroom-vault: it is on row 1"]
    );
    assert_eq!(
        made_up(|crates| crates.get_mut("strongroom-disk").expect("it").row = None),
        ["strongroom-disk has no row"]
    );
    // By another, which may itself.
    let by_another = made_up(|crates| {
        crates.insert("between".to_owned(), Crate { row: Some(2), ..Crate::default() });
        add(crates, "between", "strongroom-disk");
        add(crates, "strongroom-control", "between");
        add(crates, "strongroom-control", "serde");
    });
    let reach = |what: &str| format!("strongroom-control must not reach {what}");
    assert_eq!(by_another, [reach("between"), reach("strongroom-disk")]);
    assert_eq!(
        made_up(|crates| add(crates, "strongroom-server", "strongroom-vault")),
        ["strongroom-server must not use strongroom-vault"]
    );
    let renamed = made_up(|crates| drop(crates.remove("strongroom-orders")));
    assert_eq!(renamed, ["there is no crate strongroom-orders"]);
    let tested = |name: &'static str| {
        made_up(|crates| {
            crates.insert(TESTING.0.to_owned(), Crate { row: Some(0), ..Crate::default() });
            add(crates, name, TESTING.0);
        })
    };
    assert_eq!(tested("strongroom-bench"), Vec::<String>::new());
    assert_eq!(tested("strongroom-disk"), ["strongroom-disk must not use strongroom-testing"]);
}

#[test]
fn whoever_reads_the_environment_is_seen() {
    let with = |name: &'static str, text: &'static str| {
        made_up(|crates| {
            let source = ("a.rs".to_owned(), text.to_owned());
            crates.get_mut(name).expect(name).sources.push(source);
        })
    };
    for bad in [
        "fn a() { std::env::var(\"A\"); }",
        "fn a() { env::vars_os(); }",
        "use std::env::{temp_dir, var};",
        "let folder = std::env::temp_dir();",
        "let folder = tempfile::tempdir()?;",
        "let words = env::args();",
    ] {
        let fault = format!("strongroom-disk reads the environment: a.rs:1: {bad}");
        assert_eq!(with("strongroom-disk", bad), [fault]);
        assert_eq!(with("strongroom", bad), Vec::<String>::new(), "programs may");
    }
    let clock = "use strongroom_base::SystemClock;";
    let fault = "strongroom-disk has a clock of its own: a.rs".to_owned();
    assert_eq!(with("strongroom-disk", clock), [fault]);
    assert_eq!(with("strongroom", clock), Vec::<String>::new(), "programs may");
    let chance = "let id = PointId::generate(clock, &SystemEntropy);";
    let fault = "strongroom-disk has chance of its own: a.rs".to_owned();
    assert_eq!(with("strongroom-disk", chance), [fault]);
    assert_eq!(with("strongroom", chance), Vec::<String>::new(), "programs may");
    // Tests in a file of their own are no end of the file.
    let after = "#[cfg(test)]\nmod tests;\n\nlet words = env::args();";
    assert_eq!(with("strongroom-disk", after).len(), 1);
    for good in [
        "// std::env::var",
        "let folder = tempfile::tempdir_in(&place)?;",
        "let version = env!(\"CARGO_PKG_VERSION\");",
        "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    std::env::var(\"A\");\n}\n",
        "fn a() {}\n\n#[cfg(test)]\npub(crate) mod golden {\n    std::env::var(\"A\");\n}\n",
    ] {
        assert_eq!(with("strongroom-disk", good), Vec::<String>::new(), "{good}");
    }
}
