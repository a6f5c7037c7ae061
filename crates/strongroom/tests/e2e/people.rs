//! What people see at a prompt: questions before something goes, and which server was asked.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{
    documented::assert_documented,
    harness::{Lab, Run, need},
    server::Service,
};

/// Runs the program on a terminal, with this typed.
fn on_a_terminal(lab: &Lab, words: &str, typed: &str) -> Run {
    need("script", "bsdutils");
    let template = lab.command(words);
    let mut command = Command::new("script");
    let line = format!("{} {words}", env!("CARGO_BIN_EXE_strongroom"));
    command.args(["-qec", &line, "/dev/null"]).current_dir(lab.path("")).env_clear();
    command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("script starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(typed.as_bytes()).expect("typed");
    let run = Run::of(&child.wait_with_output().expect("it ends"));
    drop(input);
    run
}

#[test]
fn a_point_goes_only_after_a_yes() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk a=d.img");
    let point = lab.points("web").remove(0);
    let delete = format!("recoverypoint delete --item web --recovery-point {point}");
    let error = lab.fails(&delete, 2, "usage.invalid");
    assert!(error["message"].to_string().contains("no way back"), "{error}");
    assert!(error["hint"].to_string().contains("--yes"), "{error}");
    let plan = lab.json(&format!("{delete} --dry-run"));
    assert_documented("dry run", &plan);
    for (typed, code) in [("n\n", 130), ("\n", 130)] {
        let run = on_a_terminal(&lab, &delete, typed);
        assert_eq!(run.code, code, "{run:?}");
        assert!(run.stdout.contains("Go on? [y/N]") && run.stdout.contains(&point), "{run:?}");
    }
    assert_eq!(lab.points("web").len(), 1, "nothing is gone");
    assert_eq!(on_a_terminal(&lab, &delete, "y\n").code, 0);
    lab.fails("recoverypoint list --item web", 3, "item.not_found");
    let unknown = format!("{delete} --dry-run");
    lab.fails(&unknown, 3, "point.not_found");
}

#[test]
fn what_would_go_is_shown_and_asked_by_the_service_too() {
    let service = Service::with_item(4);
    let lab = &service.lab;
    lab.ok("protection backup-now --item data --wait");
    lab.ok("protection backup-now --item data --wait");
    let points = lab.points("data");
    let of_point = format!("--item data --recovery-point {}", points[0]);
    let delete = format!("recoverypoint delete {of_point}");
    let id_of = |words: &str, field: &str| {
        let list = lab.json(words);
        list[field][0]["id"].as_str().expect("an id").to_owned()
    };
    let revoke = format!("access token revoke {}", id_of("access token list", "tokens"));
    let assignment = id_of("access assignment list", "assignments");
    let unassign = format!("access assignment delete {assignment}");
    lab.ok(&format!("recoverypoint keep-until 2040-01-01 {of_point}"));
    let shorter = format!("recoverypoint keep-until 2039-12-31 {of_point}");
    let as_policy = format!("recoverypoint keep-until policy {of_point}");
    let onto = format!(
        "restore disks {of_point} --to {0} --to root={0}/d.img --in-place",
        lab.path("").display()
    );
    let commands = [
        (shorter.as_str(), "it was to be kept until 2040-01-01 23:59:59"),
        (as_policy.as_str(), "for as long as the policy says"),
        (revoke.as_str(), "this cannot be undone"),
        (unassign.as_str(), "Take the role"),
        (onto.as_str(), "their present content is lost"),
        ("access user update admin --disable", "does not restore them"),
        (delete.as_str(), "recoverypoint keep-until"),
        ("protection disable --item data --delete-backup-data", "2 recovery points of"),
        ("vault delete main", "vault undelete"),
        ("host delete files", "Forget the host files"),
        ("access user delete admin", "roles and tokens"),
        ("policy delete default --vault-name main", "Delete the policy default"),
        ("vault update main --immutability locked", "never be switched off"),
        ("vault update main --soft-delete always_on", "never be switched off"),
    ];
    for (words, said) in commands {
        let error = lab.fails(words, 2, "usage.invalid");
        assert!(error["message"].to_string().contains(said), "{words}: {error}");
        let plan = lab.ok(&format!("{words} --dry-run")).stdout;
        assert!(plan.contains(said) && plan.contains("dry run"), "{words}: {plan}");
    }
    assert_eq!(lab.points("data"), points, "nothing is gone");
    let kept = lab.json(&format!("recoverypoint show {of_point}"))["retain_until"].to_string();
    assert!(kept.contains("2040-01-01T23:59:59"), "{kept}");
    // A longer time takes nothing away.
    lab.ok(&format!("recoverypoint keep-until 2041-01-01 {of_point} --dry-run"));
    lab.ok(&format!("recoverypoint keep-until 2041-01-01 {of_point}"));
    lab.ok(&format!("{as_policy} --yes"));
    lab.fails("restore undo --item data", 3, "request.not_found");
    lab.fails("restore accept --item data --dry-run", 3, "request.not_found");
    // What takes nothing away is not asked about; a dry run of it changes nothing either.
    lab.ok("protection disable --item data --retain-forever --dry-run");
    assert_eq!(lab.json("item show data")["state"], "protected");
    lab.ok("vault update main --tag site=berlin");
    lab.ok("policy set default --vault-name main --keep-daily 60");
}

#[test]
fn shorter_retention_is_asked_about_by_how_many_points_go() {
    let service = Service::with_item(4);
    let lab = &service.lab;
    lab.ok("protection resume --item data --policy default --dry-run");
    let policy = "policy create short --vault-name main --daily-at 02:00 --keep-daily 7";
    lab.ok(policy);
    lab.ok("policy create long --vault-name main --daily-at 02:00 --keep-daily 90");
    lab.ok("item set-policy data --policy long");
    lab.ok("protection backup-now --item data --wait");
    let point = lab.points("data").remove(0);
    lab.ok(&format!("recoverypoint keep-until policy --item data --recovery-point {point} --yes"));
    let preview = lab.json("policy preview long --vault-name main --keep-daily 7");
    assert_eq!(preview["removed_earlier"], 1, "{preview}");
    let said = "1 recovery point kept for a shorter time";
    for words in
        ["policy set long --vault-name main --keep-daily 7", "item set-policy data --policy short"]
    {
        let plan = lab.ok(&format!("{words} --dry-run")).stdout;
        assert!(plan.contains(said), "{plan}");
        lab.fails(words, 2, "usage.invalid");
    }
    lab.ok("item set-policy data --policy short --yes");
    let longer = lab.ok("item set-policy data --policy long --dry-run").stdout;
    assert!(longer.contains("0 recovery points kept for a shorter time"), "{longer}");
    lab.ok("item set-policy data --policy long");
}

#[test]
fn a_context_never_takes_over_from_a_vault_that_is_named() {
    let mut service = Service::start();
    let lab = &mut service.lab;
    lab.ok("vault key generate key");
    lab.ok("vault create --vault vault --key-file key");
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk a=d.img --vault vault --key-file key");
    // The context counts, and every failure says so.
    let error =
        lab.fails("recoverypoint show --item web --recovery-point latest", 3, "item.unknown");
    let hint = error["hint"].to_string();
    assert!(hint.contains(&service.url) && hint.contains("(context test)"), "{hint}");
    assert!(hint.contains("--vault"), "{hint}");
    // The environment counts like the options.
    lab.set("STRONGROOM_VAULT", "vault");
    lab.set("STRONGROOM_KEY_FILE", "key");
    assert_eq!(lab.points("web").len(), 1);
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("d.img", "out/a.raw");
    let error = lab.fails("recoverypoint list --item web --context test", 3, "item.unknown");
    assert!(error["hint"].to_string().contains("(context test)"), "{error}");
    // Two that contradict each other are refused, not chosen from.
    lab.set("STRONGROOM_CONTEXT", "test");
    let error = lab.fails("recoverypoint list", 2, "usage.invalid");
    assert!(error["message"].to_string().contains("STRONGROOM_CONTEXT"), "{error}");
    // A vault of the configuration file is the last; that it was passed over is said.
    lab.set("STRONGROOM_VAULT", "");
    lab.set("STRONGROOM_KEY_FILE", "");
    let (vault, key) = (lab.path("vault"), lab.path("key"));
    let config = format!("vault = {vault:?}\nkey_file = {key:?}\n");
    std::fs::write(lab.path("config.toml"), config).expect("written");
    lab.set("STRONGROOM_CONFIG", "config.toml");
    let run = lab.ok("recoverypoint list");
    assert!(run.stderr.contains("of the configuration file; for that give --vault"), "{run:?}");
    lab.ok("context remove test");
    lab.set("STRONGROOM_CONTEXT", "");
    assert_eq!(lab.points("web").len(), 1);
}

/// What a shell is offered for the last word of a line.
fn completions(lab: &Lab, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let last = (words.len() - 1).to_string();
    let mut command = lab.command("");
    command.arg("--").args(words);
    command.env("STRONGROOM_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", last);
    let run = Run::of(&command.output().expect("the program starts"));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line}");
    run.stdout.lines().map(|word| word.trim().to_owned()).collect()
}

#[test]
fn items_and_points_complete_without_a_server() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web01 --disk a=d.img");
    lab.ok("backup --item db --disk a=d.img");
    let point = lab.points("web01").remove(0);
    for command in ["recoverypoint list", "restore disks", "recoverypoint diff", "backup"] {
        assert_eq!(completions(&lab, &format!("strongroom {command} --item w")), ["web01"]);
    }
    let points = "strongroom recoverypoint show --item web01 --recovery-point ";
    assert_eq!(completions(&lab, points), ["latest", &point]);
    // Whatever goes wrong is no answer, and no noise.
    assert!(completions(&lab, "strongroom recoverypoint list --vault nowhere --item w").is_empty());
    assert!(completions(&lab, "strongroom backup --connect qemu:///nowhere --vm w").is_empty());
}

#[test]
fn the_beginning_of_an_id_is_enough() {
    let service = Service::with_item(4);
    let lab = &service.lab;
    let job = lab.json("protection backup-now --item data --wait")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let begins = &job[..12];
    assert_eq!(lab.json(&format!("job show {begins}"))["id"], *job);
    assert_eq!(lab.json(&format!("job wait {}", begins.to_lowercase()))["id"], *job);
    lab.fails("job show 01JD3W6E", 3, "job.not_found");
    let several = lab.fails(&format!("job show {}", &job[..6]), 2, "usage.invalid");
    assert!(several["message"].to_string().contains("several jobs"), "{several}");
    let list = lab.ok("job list --limit 1");
    assert!(list.stderr.contains("--limit 0 shows all"), "{list:?}");
    assert!(!lab.ok("job list --limit 0").stderr.contains("--limit"));
    // What a list shows of an id is taken for it.
    let row = lab.ok("recoverypoint list --item data").stdout;
    let shown =
        row.lines().nth(1).expect("a row").split_whitespace().nth(3).expect("an id").to_owned();
    assert_eq!(shown.len(), 10, "{row}");
    lab.ok("protection backup-now --item data --wait");
    let point = lab.points("data").remove(0);
    let show = lab.json(&format!("recoverypoint show --item data --recovery-point {shown}"));
    assert_eq!(show["id"], *point);
    lab.fails("recoverypoint show --item data --recovery-point 01JD3W6E0Z", 3, "point.not_found");
    let delete = format!("recoverypoint delete --item data --recovery-point {shown} --yes");
    assert!(lab.ok(&delete).stdout.contains("recoverypoint keep-until` brings it back"));
    lab.ok("access token create script --role reader");
    for words in [
        "item list",
        "job list",
        "recoverypoint list",
        "access token list",
        "alert list",
        "vault list",
        "context list",
        "policy list --vault-name main",
        "protectable-item list --host files",
    ] {
        let text = lab.ok(words).stdout;
        let wide = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(wide <= 110, "{words} is {wide} columns wide\n{text}");
    }
}

#[test]
fn the_beginning_of_an_id_is_enough_without_a_server() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web01 --disk a=d.img --tag reason=test");
    let text = lab.ok("recoverypoint list").stdout;
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(text.contains("CONSISTENCY") && text.contains("crash"), "{text}");
    let point = lab.points("web01").remove(0);
    let (show, begins) = ("recoverypoint show --item web01 --recovery-point", &point[..10]);
    assert_eq!(lab.json(&format!("{show} {begins}"))["recovery_point"]["id"], *point);
    lab.fails(&format!("{show} 01JD3W6E0Z"), 3, "point.not_found");
    lab.change("d.img", 0, 100, 2);
    lab.ok(&format!("backup --item web01 --disk a=d.img --parent {begins}"));
    let several = lab.fails(&format!("{show} {}", &point[..6]), 2, "usage.invalid");
    assert!(several["message"].to_string().contains("several"), "{several}");
    lab.ok(&format!("recoverypoint delete --item web01 --recovery-point {begins} --yes"));
}

#[test]
fn slips_get_a_hint_that_helps() {
    let mut lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web01 --disk a=d.img");
    let hint = |lab: &Lab, words: &str, code: i32, name: &str| {
        lab.fails(words, code, name)["hint"].to_string()
    };
    for (words, said) in [
        ("snapshots", "recoverypoint list"),
        ("recoverypoint list --json", "-o json"),
        ("backup -r /x", "--vault URL"),
    ] {
        let said_in_json = hint(&lab, words, 2, "usage.invalid");
        assert!(said_in_json.contains(said), "{words}: {said_in_json}");
        let run = lab.run(words);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{words}");
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(said), "{run:?}");
    }
    assert_eq!(lab.ok("recoverypoint list -o tsv").stdout.lines().count(), 1);
    let error = lab.fails("backup", 2, "usage.invalid");
    assert!(error["message"].to_string().contains("--vm NAME"), "{error}");
    let near = hint(&lab, "recoverypoint list --item web02", 3, "item.not_found");
    assert!(near.contains("web01"), "{near}");
    let near =
        hint(&lab, "restore disks --item web1 --recovery-point latest --to x", 3, "item.not_found");
    assert!(near.contains("web01"), "{near}");
    let there = hint(&lab, "vault key generate key", 2, "key.unreadable");
    assert!(there.contains("never overwrites"), "{there}");
    lab.set("STRONGROOM_KEY_FILE", "");
    lab.set("RESTIC_PASSWORD", "x");
    let unread = hint(&lab, "recoverypoint list", 8, "key.missing");
    assert!(unread.contains("RESTIC_PASSWORD is not read"), "{unread}");
}

#[test]
fn a_port_that_is_taken_is_named_as_what_it_is() {
    let lab = Lab::empty();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let words = format!("serve --data-dir data --listen {address}");
    let error = lab.fails(&words, 5, "local.io");
    assert!(error["hint"].to_string().contains("ss -ltnp"), "{error}");
}

#[test]
fn alerts_are_found_and_resolved_by_what_they_are_about() {
    let service = Service::with_item(4);
    let lab = &service.lab;
    lab.ok("vault create spare");
    lab.ok("vault delete spare --yes");
    lab.ok("protection backup-now --item data --wait");
    lab.ok("protection disable --item data --delete-backup-data --yes");
    let count = |words: &str| lab.json(words)["alerts"].as_array().expect("a list").len();
    assert_eq!(count("alert list"), 2);
    assert_eq!(count("alert list --severity critical --state firing"), 2);
    assert_eq!(count("alert list --severity warning"), 0);
    assert_eq!(count("alert list --rule vault_deleted"), 1);
    assert_eq!(count("alert list --kind delete_backup_data --item data"), 1);
    assert_eq!(count("alert list --vault-name main"), 1);
    let id = lab.json("alert list")["alerts"][0]["id"].as_str().expect("an id").to_owned();
    lab.fails(&format!("alert resolve {id} --rule vault_deleted"), 2, "usage.invalid");
    assert_eq!(count("alert resolve --all --subject data"), 1);
    assert_eq!(count("alert list --state firing"), 1);
    assert_eq!(count("alert resolve --all --rule job_failed"), 0);
    assert_eq!(count("alert resolve --all"), 1);
    assert_eq!(count("alert list --state firing"), 0);
    assert!(lab.ok("alert resolve --all").stdout.contains("There are no alerts"));
}

#[test]
fn a_restore_names_its_point_by_when_it_was() {
    let lab = Lab::new();
    lab.disk("d.img", 4, 1, 1);
    lab.ok("backup --item web --disk a=d.img");
    let show = |time: &str| {
        let mut command = lab.command("recoverypoint show --item web --output json");
        Run::of(&command.args(["--recovery-point", time]).output().expect("it starts"))
    };
    for time in ["today", "0h", "0s ago", "in 2h", "tomorrow"] {
        assert_eq!(show(time).code, 0, "{time}");
    }
    for time in ["yesterday", "2d", "2h ago", "1w"] {
        let run = show(time);
        assert!(run.code == 3 && run.stderr.contains("point.none_before"), "{time}: {run:?}");
    }
    let run = show("5m");
    assert!(run.code == 2 && run.stderr.contains("write 5min"), "{run:?}");
}

#[test]
fn what_is_not_there_is_not_found_and_what_is_like_it_is_named() {
    let mut lab = Lab::empty();
    let hint = |lab: &Lab, words: &str, exit: i32, code: &str| {
        lab.fails(words, exit, code)["hint"].to_string()
    };
    for (words, said) in [
        ("errors show vm.agnet", "vm.agent"),
        ("errors show agent", "vm.agent"),
        ("errors show nope", "`strongroom errors` lists them"),
    ] {
        let found = hint(&lab, words, 3, "code.not_found");
        assert!(found.contains(said), "{words}: {found}");
    }
    let none = hint(&lab, "context use home", 3, "context.not_found");
    assert!(none.contains("strongroom context add"), "{none}");
    lab.set("STRONGROOM_SERVER_JOBS", "abc");
    let named = hint(&lab, "serve --data-dir data", 2, "config.invalid");
    assert!(named.contains("the variable STRONGROOM_SERVER_JOBS"), "{named}");
}

#[test]
fn a_context_that_is_added_is_not_used_unasked() {
    let service = Service::start();
    let lab = &service.lab;
    let (url, print) = (&service.url, &service.fingerprint);
    let add = format!("context add other --server {url} --fingerprint {print} --token-file token");
    let run = lab.ok(&add);
    assert!(run.stderr.contains("The context in use stays test"), "{run:?}");
    assert_eq!(lab.json("context show")["name"], "test");
    lab.ok(&format!("{add} --use"));
    assert_eq!(lab.json("context show")["name"], "other");
}
