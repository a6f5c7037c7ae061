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
    let delete = format!("recoverypoint delete --item data --recovery-point {}", points[0]);
    let commands = [
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
    lab.ok(&format!("recoverypoint keep-until policy --item data --recovery-point {point}"));
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
