//! Every fenced block of the pages is run by a test, and those that need nothing but the program are run here.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::Value;
use strongroom_base::{Clock as _, SystemClock};

use crate::{
    blocks::{By, Page, blocks_of, pages, read, root, who},
    docs::{replaced, sources},
    documented::assert_documented,
    harness::{Lab, Run, need},
    server::Service,
    session::{Session, part},
};

#[test]
fn every_block_of_the_pages_is_run() {
    let sources = sources();
    let runs = |by: By| match by {
        By::Test(name) => sources.contains(&format!("fn {name}() {{")),
        By::Script(path) => root().join(path).exists() && read("scripts/test").contains(path),
        By::Nobody(_) => true,
    };
    let (mut count, mut wrong, mut nobody) = (0, Vec::new(), BTreeSet::new());
    for page in pages() {
        for (language, part) in blocks_of(&read(&page)) {
            count += 1;
            match who(&page, &part) {
                None => wrong.push(format!("{page}: nobody runs this ({language}): {part}")),
                Some(by) if !runs(by) => wrong.push(format!("{page}: {by:?} does not: {part}")),
                Some(By::Nobody(why)) => _ = nobody.insert(why),
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 150, "{count} parts were found");
    assert!(nobody.len() <= 5, "not run: {nobody:#?}");
}

/// Each script of a line is there, says what it takes, and that names the options of the line.
#[test]
fn the_scripts_of_the_pages_have_their_flags() {
    let mut count = 0;
    for name in
        ["README.md", "docs/contribute/tests.md", "docs/understand/benchmarks.md", "fuzz/README.md"]
    {
        let page = Page::new(name, "the_scripts_of_the_pages_have_their_flags");
        for part in page.parts() {
            let mut words = part.split(" #").next().expect("a command").split_whitespace();
            let script = root().join(words.next().expect("a script"));
            let output = Command::new(&script).arg("--help").output();
            let run = Run::of(&output.unwrap_or_else(|error| panic!("{part}: {error}")));
            assert_eq!(run.code, 0, "{part}: {run:?}");
            for word in words.filter(|word| word.starts_with('-')) {
                assert!(
                    run.stdout.contains(word),
                    "{part}: {word} is not in --help\n{}",
                    run.stdout
                );
            }
            count += 1;
        }
    }
    assert!(count >= 8, "{count} lines");
}

/// The commands of the README are those that the quickstart shows, in the same order.
#[test]
fn the_quickstart_takes_the_steps_of_the_readme() {
    let quickstart = read("scripts/quickstart");
    let main = part(&quickstart, "\nmain() {\n", "\n  with_the_service\n");
    let mut rest = main;
    let readme = read("README.md");
    let steps = part(&readme, "## The first five things to do", "\n## ");
    let mut found = 0;
    for step in [
        "vault key generate",
        "vault create",
        "backup --item",
        "recoverypoint list",
        "restore disks",
    ] {
        assert!(steps.contains(&format!("strongroom {step}")), "the README lacks {step}");
        let (_, after) = rest.split_once(&format!("./strongroom {step}")).expect(step);
        rest = after;
        found += 1;
    }
    assert_eq!(found, 5);
    assert!(read("README.md").contains("\ncargo build --release --locked -p strongroom "));
    assert!(quickstart.contains("cargo build --release --locked -p strongroom "));
}

/// The package is built and looked into, and the files of an installation without one are put in place.
#[test]
fn the_readme_installs_the_program() {
    need("dpkg-deb", "dpkg");
    let lab = Lab::empty();
    for folder in ["target/release", "bin", "man1", "bash_completion.d"] {
        fs::create_dir_all(lab.path(folder)).expect("a folder");
    }
    // In place of the program something small that does as it does: packing hundreds of MB takes long.
    let program = lab.path("target/release/strongroom");
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_strongroom"));
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let path = |name: &str| lab.path(name).display().to_string();
    let build = format!("{}/packaging/build-deb --program {}", root().display(), program.display());
    let page = Page::new("README.md", "the_readme_installs_the_program");
    let session = Session {
        lab: &lab,
        page: &page,
        environment: vec![],
        replaced: vec![
            ("packaging/build-deb", build),
            ("apt-get install", "dpkg-deb --contents".to_owned()),
            ("/usr/local/bin", path("bin")),
            ("/usr/local/share/man/man1", path("man1")),
            ("/etc/bash_completion.d", path("bash_completion.d")),
        ],
    };
    let shown = session.run(&read("README.md"));
    page.assert_all_run();
    assert!(shown.contains("/usr/bin/strongroom"), "{shown}");
    for file in ["bin/strongroom", "man1/strongroom.1", "bash_completion.d/strongroom"] {
        assert!(lab.path(file).exists(), "{file}");
    }
}

/// A server starts as the pages say, and another one is made from a vault when the first is lost.
#[test]
fn a_server_is_recovered_and_starts() {
    let mut service = Service::start_with("save_every_minutes = 60\n");
    service.lab.ok("vault key generate main.key");
    let path = |name: &str| service.lab.path(name).display().to_string();
    let (vault, key) = (path("vault"), path("main.key"));
    service.lab.ok(&format!("vault create main --vault {vault} --key-file {key}"));
    service.wait_for_catalog();
    service.kill();
    for (name, data) in [
        ("docs/use/recovery.md", "again"),
        ("docs/operate/server.md", "first"),
        ("docs/use/service.md", "other"),
    ] {
        let page = Page::new(name, "a_server_is_recovered_and_starts");
        let data = format!("--data-dir {}", service.lab.path(data).display());
        let session = Session {
            lab: &service.lab,
            page: &page,
            environment: vec![],
            replaced: vec![
                ("'s3://backups/strongroom?region=eu-1'", vault.clone()),
                ("/root/strongroom.key", key.clone()),
                ("strongroom recover", format!("strongroom recover {data}")),
                ("strongroom serve", format!("serve_and_stop --listen 127.0.0.1:0 {data}")),
            ],
        };
        session.run(&read(name));
        page.assert_all_run();
    }
    let log = fs::read_to_string(service.lab.path("serve.log")).expect("a log");
    assert!(log.contains("first-token"), "{log}");
}

#[test]
fn the_page_of_policies_forgets_points() {
    let lab = Lab::new();
    for item in ["web01", "lab"] {
        lab.disk(&format!("{item}.raw"), 4, 1, 7);
        lab.ok(&format!("backup --item {item} --disk system={item}.raw"));
    }
    let text = read("docs/use/policies.md");
    let rules = part(&text, "```json\n", "```");
    fs::write(lab.path("nightly.json"), rules).expect("written");
    let path = |name: &str| lab.path(name).display().to_string();
    let page = Page::new("docs/use/policies.md", "the_page_of_policies_forgets_points");
    let environment =
        vec![("STRONGROOM_VAULT", path("vault")), ("STRONGROOM_KEY_FILE", path("key"))];
    let session = Session { lab: &lab, page: &page, environment, replaced: vec![] };
    session.run(&text);
    page.assert_all_run();
    assert_eq!((lab.points("web01").len(), lab.points("lab").len()), (1, 1));
}

#[test]
fn a_damaged_point_is_given_up_as_the_page_says() {
    let lab = Lab::new();
    lab.disk("d.raw", 4, 1, 7);
    lab.ok("backup --item web --disk system=d.raw");
    lab.change("d.raw", 0, 100, 8);
    lab.ok("backup --item web --disk system=d.raw");
    let points = lab.points("web");
    let manifests = lab.files("vault/points");
    let (manifest, _) = manifests.iter().find(|(path, _)| path.ends_with(&points[0])).expect("one");
    let mut bytes = fs::read(manifest).expect("readable");
    bytes[100] ^= 1;
    fs::remove_file(manifest).expect("removed");
    fs::write(manifest, bytes).expect("written");
    lab.fails("vault reclaim", 6, "point.damaged");
    let path = |name: &str| lab.path(name).display().to_string();
    let page = Page::new("docs/use/recovery.md", "a_damaged_point_is_given_up_as_the_page_says");
    let session = Session {
        lab: &lab,
        page: &page,
        environment: vec![
            ("STRONGROOM_VAULT", path("vault")),
            ("STRONGROOM_KEY_FILE", path("key")),
        ],
        replaced: vec![
            ("--item NAME", "--item web --yes".to_owned()),
            ("--recovery-point ID", format!("--recovery-point {}", points[0])),
        ],
    };
    session.run(&read("docs/use/recovery.md"));
    page.assert_all_run();
    lab.ok("vault reclaim");
    assert_eq!(lab.points("web"), points[1..]);
}

/// The line of the log is a JSON object with a code that exists, and the page's command finds it.
#[test]
fn the_log_line_of_the_page_is_found_by_its_job() {
    need("jq", "jq");
    let lab = Lab::empty();
    let page =
        Page::new("docs/operate/monitoring.md", "the_log_line_of_the_page_is_found_by_its_job");
    let parts = page.parts();
    let [line, command] = parts.as_slice() else { panic!("{parts:#?}") };
    let log: Value = serde_json::from_str(line).expect("JSON");
    lab.ok(&format!("errors show {}", log["code"].as_str().expect("a code")));
    assert_eq!(log["spans"][0]["job"].as_str().map(str::len), Some(26), "an id");
    fs::write(lab.path("log"), format!("{{\"message\":\"another\"}}\n{line}\n")).expect("written");
    let command = command.replace("journalctl -u strongroom -o cat", "cat log");
    let run = Run::of(&lab.shell(&command).output().expect("bash"));
    assert_eq!((run.code, run.stdout.lines().count()), (0, 1), "{run:?}");
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).expect("JSON"), log);
}

#[test]
fn a_job_is_cancelled_as_the_page_says() {
    let service = Service::with_item(16);
    let lab = &service.lab;
    lab.disk("big.img", 1024, 384, 3);
    let image = lab.path("big.img").display().to_string();
    lab.ok(&format!(
        "protection enable-for-disks --item big --host files --vault-name main --disk root={image} --wait"
    ));
    let job = lab.json("protection backup-now --item big")["job"].clone();
    let page = Page::new("docs/use/service.md", "a_job_is_cancelled_as_the_page_says");
    let mut replaced = replaced(&service);
    replaced.push(("01M830F62PWXMD24MNW8TYRGAN", job.as_str().expect("an id").to_owned()));
    let session = Session { lab, page: &page, environment: vec![], replaced };
    session.run(&read("docs/use/service.md"));
    page.assert_all_run();
    let state = || lab.json(&format!("job show {}", job.as_str().expect("an id")));
    for _ in 0..600 {
        if state()["ended"].is_string() {
            break;
        }
        SystemClock.sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(state()["state"], "cancelled");
}

#[test]
fn the_doctors_findings_have_the_documented_fields() {
    let lab = Lab::empty();
    let run = lab.run("doctor --output json --data-dir data --listen 127.0.0.1:0");
    let mut found: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let findings = found["findings"].as_array_mut().expect("a list");
    for finding in findings.iter() {
        assert_eq!(finding["level"] == "ok", finding.get("what_to_do").is_none(), "{finding}");
    }
    findings.retain(|finding| finding["level"] == "ok");
    assert_documented("doctor", &found);
}

/// Each example of the page of JSON is compared with an output by some test.
#[test]
fn every_section_of_the_page_of_json_is_compared() {
    let sources: String = sources().split_whitespace().collect();
    let text = read("docs/use/json.md");
    let mut count = 0;
    for section in text.split("\n## ").skip(1).filter(|section| section.contains("```json")) {
        let heading = section.lines().next().expect("a heading");
        let compared = format!("assert_documented(\"{heading}\",");
        let compared: String = compared.split_whitespace().collect();
        assert!(sources.contains(&compared), "no test compares {heading:?} of docs/use/json.md");
        count += 1;
    }
    assert!(count > 30, "{count} sections");
}
