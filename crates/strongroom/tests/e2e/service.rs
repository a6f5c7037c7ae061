//! The service by its commands: a real server, a raw disk image as item, from the first token to
//! the restored disk.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use strongroom_api::SignIn;
use strongroom_base::{Clock as _, Coded as _, SystemClock, SystemEntropy};
use strongroom_client::{Client, Options, Trust};

use crate::{
    blocks::Page,
    documented::assert_documented,
    harness::{Lab, Run},
    server::Service,
};

#[test]
fn from_the_first_token_to_the_restored_disk() {
    let service = Service::with_item(16);
    let lab = &service.lab;
    let contexts = lab.path(".config/strongroom/contexts.toml");
    let mode = fs::metadata(contexts).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let items = lab.json("item list");
    assert_eq!(items["items"][0]["state"], "initial_backup_pending");
    let begun = lab.ok("protection backup-now --item data");
    let id = begun.stdout.trim().to_owned();
    assert!(begun.stderr.contains(&format!("strongroom job wait {id}")), "{}", begun.stderr);
    let job = lab.json(&format!("job wait {id}"));
    assert_eq!(job["state"], "completed", "{job:#}");
    lab.change("d.img", 1 << 20, 100_000, 7);
    lab.copy("d.img", "second.img");
    lab.ok("protection backup-now --item data --wait");
    lab.change("d.img", 0, 5_000_000, 9);

    let points = lab.json("recoverypoint list --item data");
    let points = points["recovery_points"].as_array().expect("a list");
    assert_eq!(points.len(), 2);
    assert!(points[0]["time"].as_str() < points[1]["time"].as_str());
    lab.ok("recoverypoint show --item data --recovery-point latest");
    let restore = "restore disks --item data --recovery-point latest --wait --to";
    fs::create_dir(lab.path("out")).expect("a folder");
    lab.ok(&format!("{restore} {}", lab.path("out").display()));
    lab.assert_same("second.img", "out/root.raw");
    // The disk itself becomes what it was, once somebody says that this is meant.
    let (out, disk) = (lab.path("out"), lab.path("d.img"));
    let onto = format!("{restore} {} --to root={}", out.display(), disk.display());
    lab.fails(&onto, 4, "disk.not_empty");
    lab.fails(&format!("{onto} --in-place"), 2, "usage.invalid");
    lab.ok(&format!("{onto} --in-place --yes"));
    lab.assert_same("second.img", "d.img");
    lab.fails(
        &format!("{restore} {} --to root=/etc/passwd --in-place --yes", out.display()),
        8,
        "place.not_allowed",
    );

    // A disk alone has its place without a folder.
    let alone = lab.path("alone.img");
    lab.ok(&format!("{restore} root={}", alone.display()));
    lab.assert_same("second.img", "alone.img");
    assert!(!lab.path("alone.xml").exists());

    let status = lab.ok("status").stdout;
    assert!(status.contains("1 protected") && status.contains("main"), "{status}");
    let first = points[0]["id"].as_str().expect("an id");
    let keep = format!("recoverypoint keep-until 2031-01-01 --item data --recovery-point {first}");
    assert_eq!(lab.json(&keep)["retain_until"], "2031-01-01T23:59:59.999999999Z");
    lab.ok(&format!("recoverypoint delete --item data --recovery-point {first} --yes"));
    lab.ok("protection disable --item data --retain-forever");
    lab.fails("protection backup-now --item data", 4, "item.stopped");
    lab.ok("protection resume --item data");
    lab.ok("protection disable --item data --delete-backup-data --yes");
    lab.ok("protection undelete --item data");
    let alerts = lab.json("alert list");
    let alert = alerts["alerts"][0]["id"].as_str().expect("deleting tells somebody").to_owned();
    assert_eq!(lab.json(&format!("alert acknowledge {alert}"))["state"], "acknowledged");
    assert_eq!(lab.json(&format!("alert resolve {alert}"))["state"], "resolved");
}

#[test]
fn vaults_and_policies_are_looked_after() {
    let service = Service::with_item(4);
    let lab = &service.lab;
    lab.ok("protection backup-now --item data --wait");
    lab.ok("vault measure main --wait");
    let usage = lab.json("vault usage main");
    assert_eq!(usage["recovery_points"], 1);
    lab.ok("vault reclaim main --wait");
    lab.ok("vault save-catalog main --wait");
    lab.ok("vault rotate-key main --wait");
    let updated = lab.json("vault update main --soft-delete-days 30 --tag site=berlin");
    assert_eq!(updated["soft_delete"]["retention_days"], 30);
    assert_eq!(updated["soft_delete"]["state"], "enabled");
    lab.fails("vault update main", 2, "usage.invalid");
    lab.fails("vault delete main --yes", 4, "vault.not_empty");
    lab.fails("vault show main --vault /x", 2, "usage.invalid");

    let create = "policy create nightly --vault-name main --daily-at 03:15 \
                  --time-zone Europe/Berlin --keep-daily 14 --keep-weekly sun:8";
    let policy = lab.json(create);
    assert_eq!(policy["rules"]["retention"]["daily"]["days"], 14);
    lab.fails(create, 4, "policy.exists");
    lab.ok("item set-policy data --policy nightly --yes");
    let shorter = "nightly --vault-name main --keep-weekly none";
    assert_eq!(lab.json(&format!("policy preview {shorter}"))["shorter"], true);
    let set = lab.json(&format!("policy set {shorter} --yes"));
    assert_eq!(set["rules"]["retention"]["weekly"], Value::Null);
    assert_eq!(set["rules"]["retention"]["daily"]["days"], 14, "as it was");
    lab.fails("policy delete nightly --vault-name main --yes", 4, "policy.in_use");
    let list = lab.ok("policy list --vault-name main").stdout;
    assert!(list.contains("daily at 03:15"), "{list}");

    let default = lab.ok("policy get-default --enhanced --output json").stdout;
    fs::write(lab.path("rules.json"), default).expect("written");
    lab.ok("policy create often --vault-name main --file rules.json");
    lab.ok("vault create spare");
    assert!(
        lab.ok("vault delete spare --yes").stdout.contains("vault undelete` brings it back until")
    );
    lab.ok("vault undelete spare");
}

#[test]
fn access_is_given_and_looked_into() {
    let service = Service::with_item(4);
    let lab = &service.lab;
    fs::write(lab.path("password"), "correct horse battery\n").expect("written");
    lab.ok("access user create ann --password-file password");
    lab.ok("access assignment create --user ann --role reader --vault-name main");
    let url = &service.url;
    let print = &service.fingerprint;
    let add = format!("context add ann --server {url} --fingerprint {print} --sign-in ann");
    lab.ok(&format!("{add} --password-file password"));
    lab.ok("item show data --context ann");
    lab.fails("protection backup-now --item data --context ann", 8, "auth.forbidden");
    fs::write(lab.path("wrong"), "wrong horse battery\n").expect("written");
    lab.fails("context add ann --sign-in ann --password-file wrong", 8, "auth.failed");
    lab.ok("context add ann --sign-in ann --password-file password");

    lab.fails("access token create script --role reader --days 30", 8, "token.outlives");
    let long = "access token create script --days 30 --password-file password --context ann";
    lab.ok(long);
    let change = "access user update ann --password-file new --context ann";
    fs::write(lab.path("new"), "another horse battery\n").expect("written");
    lab.fails(change, 8, "auth.password");
    lab.ok(&format!("{change} --current-password-file password"));
    lab.ok("item show data --context ann");
    let secret = lab.ok("access token create script --role reader").stdout;
    let mut other = lab.command("item list --output tsv");
    other.env("STRONGROOM_SERVER", url).env("STRONGROOM_FINGERPRINT", print);
    other.env("STRONGROOM_TOKEN", secret.trim());
    let run = Run::of(&other.output().expect("the program starts"));
    assert_eq!((run.code, run.stdout.starts_with("data\tmain\tfiles\t")), (0, true), "{run:?}");
    let tokens = lab.json("access token list");
    let tokens = tokens["tokens"].as_array().expect("a list");
    let token = tokens.iter().find(|token| token["name"] == "script").expect("it is there");
    assert!(token["last_used"].is_string(), "{token}");
    lab.ok(&format!("access token revoke {} --yes", token["id"].as_str().expect("an id")));
    let run = Run::of(&other.output().expect("the program starts"));
    assert!(run.code == 8 && run.stderr.contains("auth.token"), "{run:?}");

    assert!(lab.ok("access table").stdout.contains("vault.delete"));
    let assignments = lab.json("access assignment list");
    let list = assignments["assignments"].as_array().expect("a list");
    let of_ann = list.iter().find(|one| one["role"] == "reader").expect("hers");
    lab.ok(&format!("access assignment delete {} --yes", of_ann["id"].as_str().expect("an id")));
    lab.ok("access user update ann --disable --yes");
    lab.ok("access user delete ann --yes");

    let verified = lab.json("audit verify");
    assert_eq!(verified["intact"], true);
    let lines = lab.ok("audit export").stdout;
    let entries = verified["entries"].as_u64().expect("a number");
    let last: Value = serde_json::from_str(lines.lines().last().expect("one")).expect("JSON");
    assert!(last["seq"].as_u64() >= Some(entries), "{last} {entries}");
    assert!(lab.ok("audit list --limit 5").stdout.contains("access.manage"));
    let seq = last["seq"].as_u64().expect("a number");
    let forged = format!("audit verify --seq {seq} --hash {}", "0".repeat(64));
    lab.fails(&forged, 6, "audit.broken");
}

#[test]
fn the_owner_of_the_folder_always_comes_in() {
    let mut service = Service::with_item(4);
    let lab = &service.lab;
    let first = lab.path("data/first-token");
    let mode = fs::metadata(&first).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = fs::read_to_string(lab.path("token")).expect("readable");
    assert!(!service.log().contains(token.trim()), "the token is in the log");
    let new = "server new-token --config server.toml --data-dir data";
    let running = lab.json(new);
    assert_documented("server new-token", &running);
    service.stop();
    let lab = &service.lab;
    let stopped = lab.json(&format!("{new} --hours 1"));
    assert_eq!(stopped["user"], "admin");
    lab.fails("server new-token --data-dir nowhere", 5, "local.io");
    service.stay("");
    service.start_again();
    service.wait_for_greeting();
    let lab = &service.lab;
    for made in [running, stopped] {
        fs::write(lab.path("made"), made["secret"].as_str().expect("a secret")).expect("written");
        let (url, print) = (&service.url, &service.fingerprint);
        let add = format!("context add made --server {url} --fingerprint {print}");
        lab.ok(&format!("{add} --token-file made"));
        lab.ok("access user list --context made");
    }
    assert_eq!(lab.json("audit verify")["intact"], true);
    let made = lab.json("audit list --limit 50").to_string().matches("access.new_token").count();
    assert_eq!(made, 2);
    // Once somebody can sign in, the first token's file goes.
    fs::write(lab.path("password"), "correct horse battery\n").expect("written");
    lab.ok("access user create ann --password-file password");
    for _ in 0..200 {
        if !first.exists() {
            return;
        }
        SystemClock.sleep(Duration::from_millis(100));
    }
    panic!("the first token's file is left");
}

#[test]
fn a_catalog_is_copied_and_loaded_elsewhere() {
    let mut service = Service::with_item(4);
    let lab = &service.lab;
    // The commands of the page, with the files of this test.
    let page = Page::new("docs/operate/catalog.md", "a_catalog_is_copied_and_loaded_elsewhere");
    let of_page = |command: &str| {
        let part = page.parts().into_iter().find(|part| part.contains(command));
        let part = part.expect("the page has it");
        assert!(page.take(&part));
        let words = part.strip_prefix("strongroom ").expect("a command of the program");
        let words = words.replace("/etc/strongroom/server.toml", "server.toml --data-dir data");
        words.strip_suffix(" /backup/catalog.jsonl").expect("the copy").to_owned()
    };
    let (dump, load) = (of_page("dump-catalog"), of_page("load-catalog"));
    page.assert_all_run();
    let dumped = lab.json(&format!("{dump} copy"));
    assert_documented("server dump-catalog", &dumped);
    let copy = fs::metadata(lab.path("copy")).expect("it is there");
    assert_eq!(copy.permissions().mode() & 0o777, 0o600);
    assert_eq!(dumped["size_bytes"], copy.len());
    // Nothing is overwritten, and nothing is left of what failed.
    lab.fails(&format!("{dump} copy"), 5, "local.io");
    lab.fails("server dump-catalog --data-dir nowhere other", 5, "local.io");
    assert!(!lab.path("other").exists());

    // Into the catalog of a server that runs, or that is there: never.
    lab.fails(&format!("{load} copy"), 4, "server.running");
    let items = lab.json("item list");
    service.stop();
    let lab = &service.lab;
    lab.fails(&format!("{load} copy"), 4, "catalog.not_empty");
    for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        fs::remove_file(lab.path("data").join(name)).ok();
    }
    let text = fs::read_to_string(lab.path("copy")).expect("readable");
    fs::write(lab.path("cut"), &text[..text.len() - 100]).expect("written");
    lab.fails(&format!("{load} cut"), 6, "catalog.corrupt");
    lab.fails(&format!("{load} gone"), 5, "local.io");
    let loaded = lab.json(&format!("{load} copy"));
    assert_documented("server load-catalog", &loaded);
    assert_eq!(loaded["audit_intact"], true);
    assert!(loaded["documents"].as_u64() > Some(5), "{loaded}");
    // Tokens, items and jobs are those of before.
    service.start_again();
    service.wait_for_greeting();
    service.add_context("loaded");
    assert_eq!(service.lab.json("item list"), items);
    assert_eq!(service.lab.json("audit verify")["intact"], true);
}

/// What a process has in memory at present, in bytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kib << 10
}

#[test]
fn sixty_strangers_at_once_cost_little() {
    let service = Service::start();
    let try_in = &|n: usize| {
        let client = Client::new(Options {
            server: service.url.clone(),
            token: None,
            trust: Trust::Fingerprint(service.fingerprint.parse().expect("a fingerprint")),
            entropy: Arc::new(SystemEntropy),
            hurry: Some(Duration::from_mins(1)),
        });
        let name = if n.is_multiple_of(2) { "admin".to_owned() } else { format!("nobody-{n}") };
        let password = "no good password".to_owned();
        let refused = client.expect("a client").sign_in(&SignIn { name, password });
        refused.err().expect("it is refused").code().name
    };
    // What the first of anything takes is not what strangers cost.
    try_in(1);
    let before = resident(service.pid());
    let codes: Vec<&str> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..60).map(|n| scope.spawn(move || try_in(n))).collect();
        all.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let grown = resident(service.pid()).saturating_sub(before);
    assert!(grown <= 64 << 20, "{} MiB", grown >> 20);
    assert!(codes.iter().all(|code| ["auth.failed", "auth.rate"].contains(code)), "{codes:?}");
    assert!(codes.contains(&"auth.rate") && codes.contains(&"auth.failed"), "{codes:?}");
    // Few records say it all.
    service.lab.ok("item list");
    let denied = service.lab.json("audit list --limit 100").to_string();
    assert!(denied.matches("access.sign_in").count() <= 3, "{denied}");
}

/// How often the threads of a process that live now have waited for something.
fn waits(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let waits = threads.flatten().filter_map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    });
    waits.sum()
}

/// Whatever looks again and again whether something has happened costs a core its sleep. Time of the
/// processor would depend on the machine; how often threads wake does not.
#[test]
fn an_idle_server_sleeps() {
    let service = Service::start();
    // Until what follows the start is done.
    SystemClock.sleep(Duration::from_secs(4));
    let before = waits(service.pid());
    SystemClock.sleep(Duration::from_secs(10));
    let woken = waits(service.pid()).saturating_sub(before);
    assert!(woken < 150, "{woken} times in 10 s");
}

#[test]
fn every_output_says_the_same() {
    let service = Service::with_item(4);
    let lab = &service.lab;
    lab.ok("protection backup-now --item data --wait");
    for words in [
        "item list",
        "item show data",
        "vault list",
        "vault show main",
        "host list",
        "job list",
        "recoverypoint list",
        "alert list",
        "alert test",
        "status",
        "policy list --vault-name main",
        "context list",
        "context show",
        "access user list",
        "access assignment list",
        "access token list",
        "access table",
        "audit list",
        "protectable-item list --host files",
        "server confirm-clock",
    ] {
        let table = lab.ok(words);
        assert!(!table.stdout.is_empty(), "{words}");
        let tsv = lab.ok(&format!("{words} --output tsv")).stdout;
        assert!(!tsv.contains("NAME\t"), "{words}: {tsv}");
        let yaml = lab.ok(&format!("{words} --output yaml")).stdout;
        let json = lab.json(words);
        if let Some(read) = read_yaml(&yaml) {
            assert_eq!(shape(&read), shape(&json), "{words}\n{yaml}");
        }
    }
    assert_documented("context show", &lab.json("context show"));
    assert_documented("host delete", &{
        lab.ok("host create gone");
        lab.json("host delete gone --yes")
    });
    let begun = lab.json("protection backup-now --item data");
    assert_documented("protection backup-now", &begun);
    lab.ok(&format!("job wait {}", begun["job"].as_str().expect("an id")));
    let page = fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/use/json.md"),
    );
    let page = page.expect("docs/use/json.md");
    for words in LISTS {
        let json = lab.json(words);
        let command = words.split(" --").next().expect("one");
        let key = json.as_object().expect("an object").keys().next().expect("one field");
        let line = format!("| `{command}` | `{key}` |");
        assert!(page.contains(&line), "docs/use/json.md lacks {line}");
    }
    let rows = lab.ok("item list --output tsv").stdout;
    let cells: Vec<&str> = rows.trim_end_matches('\n').split('\t').collect();
    assert_eq!((cells.len(), cells[0], cells[4]), (7, "data", "protected"), "{rows}");
    let run = lab.run("item show nobody --output yaml");
    assert!(run.code == 3 && run.stderr.contains("code: item.unknown"), "{run:?}");
}

/// The commands that list something.
const LISTS: [&str; 17] = [
    "item list",
    "vault list",
    "host list",
    "job list",
    "recoverypoint list",
    "alert list",
    "alert test",
    "policy list --vault-name main",
    "context list",
    "access user list",
    "access assignment list",
    "access token list",
    "access table",
    "audit list",
    "protectable-item list --host files",
    "item list --name data",
    "job list --limit 1",
];

/// The names of all fields; values such as moments and ages differ from call to call.
fn shape(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => object
            .iter()
            .flat_map(|(name, value)| {
                let below = shape(value).into_iter().map(move |below| format!("{name}.{below}"));
                std::iter::once(name.clone()).chain(below)
            })
            .collect(),
        Value::Array(array) => array.first().map(shape).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn read_yaml(text: &str) -> Option<Value> {
    let script = "import sys, json, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut python = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    python.stdin.take()?.write_all(text.as_bytes()).ok()?;
    serde_json::from_slice(&python.wait_with_output().ok()?.stdout).ok()
}

#[test]
fn what_is_not_there_is_said_to_be_not_there() {
    let mut service = Service::with_item(4);
    let lab = &service.lab;
    for (words, exit, code) in [
        ("vault show nobody", 3, "vault.unknown"),
        ("host show nobody", 3, "host.unknown"),
        ("item show nobody", 3, "item.unknown"),
        ("item show data --vault-name nobody", 3, "vault.unknown"),
        ("policy show nobody --vault-name main", 3, "policy.not_found"),
        ("job show 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB", 3, "job.not_found"),
        ("job wait nonsense", 3, "job.not_found"),
        ("alert resolve 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB", 3, "alert.not_found"),
        ("recoverypoint show --item data --recovery-point latest", 3, "point.not_found"),
        ("recoverypoint show --item data --recovery-point 2020-01-01", 3, "point.not_found"),
        ("restore disks --item data --recovery-point latest --to a=b", 8, "place.not_allowed"),
        ("restore disks --item data --recovery-point latest --to a=qcow2:/b", 2, "usage.invalid"),
        (
            "restore disks --item data --recovery-point latest --to /x --threads 1",
            2,
            "usage.invalid",
        ),
        ("access user delete nobody --yes", 3, "user.not_found"),
        ("context use nobody", 3, "context.not_found"),
        ("context show nobody", 3, "context.not_found"),
        ("context remove nobody", 3, "context.not_found"),
        ("item list --context nobody", 3, "context.not_found"),
        ("alert list --item nobody", 3, "item.unknown"),
        ("alert list --rule nothing", 2, "request.invalid"),
        ("errors show nope", 3, "code.not_found"),
        ("item list --policy default", 2, "usage.invalid"),
        ("host create files", 4, "host.exists"),
    ] {
        lab.fails(words, exit, code);
    }
    let begun = lab.ok("protection backup-now --item data --output json").stdout;
    let job: Value = serde_json::from_str(&begun).expect("JSON");
    let job = job["job"].as_str().expect("an id").to_lowercase();
    lab.ok(&format!("job wait {job}"));
    fs::remove_file(lab.path("d.img")).expect("gone");
    let failed = lab.run("protection backup-now --item data --wait --output json");
    assert_ne!(failed.code, 0, "{failed:?}");
    service.stop();
    service.lab.fails("item list", 5, "server.unavailable");
}

#[test]
fn a_server_that_is_not_trusted_gets_no_token() {
    let service = Service::start();
    let lab = &service.lab;
    let wrong = "0".repeat(64);
    for trust in [String::new(), format!("--fingerprint {wrong}")] {
        let add = format!("context add bad --server {} --token-file token {trust}", service.url);
        let error = lab.fails(&add, 8, "server.untrusted");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(&service.fingerprint), "{message}");
    }
    let plain = service.url.replace("https", "http").replace("127.0.0.1", "192.0.2.1");
    lab.fails(&format!("context add bad --server {plain} --token-file token"), 2, "usage.invalid");
    lab.ok("context remove test");
    lab.fails("item list", 2, "server.needed");
}

#[test]
fn without_a_server_commands_say_that_they_need_one() {
    let lab = Lab::new();
    for words in [
        "item list",
        "status",
        "vault list",
        "vault show main",
        "policy list --vault-name main",
        "job list",
        "recoverypoint list --vault-name main",
        "context show",
        "recoverypoint keep-until 2030-01-01 --item a --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB",
    ] {
        lab.fails(words, 2, "server.needed");
    }
    lab.ok("context list");
    lab.ok("vault show");
    lab.ok("policy get-default");
}

#[test]
fn a_vault_that_is_named_is_worked_on_directly_whatever_context_is_in_use() {
    let service = Service::start();
    let lab = &service.lab;
    lab.ok("vault key generate key");
    lab.ok("vault create --vault vault --key-file key");
    lab.disk("d.img", 4, 2, 3);
    lab.ok("backup --item direct --disk root=d.img --vault vault --key-file key");
    let list = lab.json("recoverypoint list --vault vault --key-file key");
    assert_eq!(list["recovery_points"][0]["item"], "direct");
    let rows = lab.ok("recoverypoint list --vault vault --key-file key --output tsv").stdout;
    assert!(rows.starts_with("direct\t") && rows.contains("\t4194304\t"), "{rows}");
    assert_eq!(lab.json("recoverypoint list")["recovery_points"], serde_json::json!([]));
    let both = "recoverypoint list --vault vault --key-file key --context test";
    lab.fails(both, 2, "usage.invalid");
}

#[test]
fn a_shell_completes_names_that_the_server_knows() {
    let mut service = Service::with_item(4);
    let lab = &service.lab;
    let script = lab.ok("completions bash").stdout;
    fs::write(lab.path("complete.sh"), script).expect("written");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_strongroom"));
    let folder = program.parent().expect("a folder").display().to_string();
    let complete = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let last = words.len() - 1;
        let bash = format!(
            "PATH={folder}:$PATH; source complete.sh; COMP_WORDS=({line}); \
             [ ${{#COMP_WORDS[@]}} -gt {last} ] || COMP_WORDS+=(''); COMP_CWORD={last}; \
             COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; \
             f=$(complete -p strongroom | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             $f strongroom \"${{COMP_WORDS[$COMP_CWORD]}}\" ''; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut shell = Command::new("bash");
        let template = lab.command("");
        shell.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = shell.current_dir(lab.path("")).args(["-c", &bash]).output().expect("bash");
        let run = Run::of(&output);
        assert_eq!(run.stderr, "", "{line}");
        run.stdout.lines().map(|word| word.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(complete("strongroom item show d"), ["data"]);
    assert_eq!(complete("strongroom vault show m"), ["main"]);
    assert!(complete("strongroom host show f").contains(&"files".to_owned()));
    assert!(complete("strongroom context use t").contains(&"test".to_owned()));
    assert!(complete("strongroom job show 0").len() == 1);
    assert!(complete("strongroom item set-policy data --policy d").contains(&"default".to_owned()));
    assert!(complete("strongroom protection ba").contains(&"backup-now".to_owned()));
    service.stop();
    let lab = &service.lab;
    let template = lab.command("-- strongroom item show d");
    let mut asks = Command::new(program);
    asks.args(["--", "strongroom", "item", "show", "d"]).current_dir(lab.path(""));
    asks.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    asks.env("STRONGROOM_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3");
    let run = Run::of(&asks.output().expect("the program starts"));
    assert_eq!((run.code, run.stderr.as_str(), run.stdout.trim()), (0, "", ""));
}

#[test]
fn a_lost_server_is_made_anew_from_a_vault() {
    let mut service = Service::start_with("save_every_minutes = 60\n");
    service.lab.ok("vault key generate main.key");
    let place = |service: &Service, name: &str| service.lab.path(name).display().to_string();
    let (vault, key) = (place(&service, "vault"), place(&service, "main.key"));
    service.lab.ok(&format!("vault create main --vault {vault} --key-file {key}"));
    service.lab.ok("host create files");
    service.lab.disk("d.img", 8, 4, 1);
    let path = place(&service, "d.img");
    service.lab.ok(&format!(
        "protection enable-for-disks --item data --host files --vault-name main --disk root={path} \
         --policy default --wait"
    ));
    service.lab.ok("policy create weekly --vault-name main --weekdays sun --daily-at 03:00 --time-zone UTC --keep-weekly sun:9");
    service.lab.ok("protection backup-now --item data --retain-until 2040-01-01 --wait");
    service.wait_for_catalog();
    // What came after it was kept is found in the vault.
    service.lab.change("d.img", 1 << 20, 100_000, 7);
    service.lab.ok("protection backup-now --item data --wait");
    service.lab.copy("d.img", "second.img");
    let before = service.lab.json("recoverypoint list --item data");
    service.kill();
    fs::remove_dir_all(service.lab.path("data")).expect("removed");

    let lab = &service.lab;
    lab.ok("vault key generate wrong.key");
    let recover = format!("recover --vault {vault} --config server.toml --data-dir data");
    lab.fails(&format!("{recover} --key-file wrong.key"), 8, "key.wrong");
    let nowhere = format!("recover --vault {vault}x --config server.toml --data-dir data");
    lab.fails(&format!("{nowhere} --key-file {key}"), 3, "vault.not_found");
    assert!(!lab.path("vaultx").exists());
    let told = lab.json(&format!("{recover} --key-file {key}"));
    assert_eq!(
        (&told["vault"]["name"], &told["policies"]),
        (&Value::from("main"), &Value::from(2))
    );
    assert_eq!(told["items"][0]["name"], "data");
    assert_eq!(
        (&told["recovery_points"], &told["already_known"]),
        (&Value::from(2), &Value::from(false))
    );
    assert_documented("recover", &told);
    let again = lab.json(&format!("{recover} --key-file {key}"));
    assert_eq!(again["already_known"], true);
    let words = lab.ok(&format!("{recover} --key-file {key}")).stdout;
    // With all that the configuration says, from wherever it is started.
    let next = format!(
        "strongroom serve --config {} --data-dir {}",
        lab.path("server.toml").display(),
        lab.path("data").display()
    );
    assert!(
        words.contains("1 item, 2 recovery points, 2 policies") && words.contains(&next),
        "{words}"
    );
    // The key is the server's own from now on.
    fs::remove_file(&key).expect("removed");
    service.start_anew();
    let lab = &service.lab;
    let refused = lab.fails(&format!("{recover} --key-file wrong.key"), 4, "server.running");
    assert!(refused["message"].as_str().is_some_and(|words| words.contains("data")), "{refused}");
    let after = lab.json("recoverypoint list --item data");
    let list = |of: &Value| of["recovery_points"].as_array().expect("points").clone();
    let (now, then) = (list(&after), list(&before));
    let ids = |points: &[Value]| points.iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&now), ids(&then));
    // The first was asked to be kept.
    assert_eq!(now[0]["retain_until"], then[0]["retain_until"]);
    assert!(now.iter().all(|point| point["state"] == "restorable"), "{now:?}");
    fs::create_dir(lab.path("out")).expect("a folder");
    let out = lab.path("out").display().to_string();
    lab.ok(&format!("restore disks --item data --recovery-point latest --wait --to {out}"));
    lab.assert_same("out/root.raw", "second.img");
    lab.change("d.img", 0, 10_000, 8);
    lab.ok("protection backup-now --item data --wait");
    assert_eq!(lab.json("job list --kind backup --limit 1")["jobs"][0]["state"], "completed");
}
