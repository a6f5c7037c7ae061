//! Labels are true, and the guest is left as it was, whatever its agent, hooks and scripts do.

use serde_json::{Value, json};

use crate::{
    after::{answers, assert_clean, backup, fails, later, long, points, restored, says},
    check::Taken,
    guest::{Disk, Guest},
    harness::{Host, within},
};

const CONFIG: &str = "/etc/azure/VMSnapshotScriptPluginConfig.json";
const PRE: &str = "/etc/azure/pre.sh";
const POST: &str = "/etc/azure/post.sh";

/// Writes down that it ran, with what, and when.
const LOG: &str =
    "#!/bin/sh\nread -r up _ </proc/uptime\necho \"$up $(basename $0) $*\" >>/run/log\n";

/// Two disks, booted, without the application if that is not needed.
fn web<'h>(host: &'h Host, words: &str) -> Guest<'h> {
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::qcow2(48));
    guest.cmdline(words).create(host).up(0)
}

/// Azure's template with these changes.
fn configure(guest: &Guest<'_>, changes: &Value) {
    let mut config = json!({
        "pluginName": "ScriptRunner", "preScriptLocation": PRE, "postScriptLocation": POST,
        "preScriptParams": ["", ""], "postScriptParams": ["", ""],
        "preScriptNoOfRetries": 0, "postScriptNoOfRetries": 0, "timeoutInSeconds": 30,
        "continueBackupOnFailure": true, "fsFreezeEnabled": true,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    guest.put(CONFIG, "600", &config.to_string());
}

/// Installs scripts that log, and then run these commands.
fn scripts(guest: &Guest<'_>, pre: &str, post: &str) {
    guest.put(PRE, "700", &format!("{LOG}{pre}\n"));
    guest.put(POST, "700", &format!("{LOG}{post}\n"));
    forget(guest);
}

fn forget(guest: &Guest<'_>) {
    guest.sh("rm -f /run/log /run/hook.log /run/tries");
}

/// The scripts that ran, and what the agent's hook was told, in order.
fn steps(guest: &Guest<'_>) -> Vec<String> {
    let log = guest.sh("cat /run/log /run/hook.log 2>/dev/null | grep '^[0-9]' | sort -n -s");
    let step = |line: &str| line.split_once(' ').unwrap().1.trim().to_owned();
    log.lines().map(step).collect()
}

#[test]
fn scripts_make_it_application_consistent() {
    let host = Host::new();
    let guest = web(&host, "");
    guest.wait_records(3);
    scripts(&guest, "exec /usr/lib/lab/app-pre", "exec /usr/lib/lab/app-post");
    configure(&guest, &json!({"preScriptParams": ["a b", "c"], "postScriptParams": ["d", ""]}));
    for _ in 0..2 {
        forget(&guest);
        let report = backup(&host, &["--require"]);
        assert_eq!(report["consistency"], "application", "{report:#}");
        assert_eq!(steps(&guest), ["pre.sh a b c", "freeze", "thaw", "post.sh d"]);
        for words in ["pre script", "froze 2 file systems", "thawed 2", "post script"] {
            assert!(says(&report["evidence"], words), "{words}: {report:#}");
        }
        let frozen = report["frozen_seconds"].as_f64().unwrap();
        assert!(frozen > 0.0 && frozen < 10.0, "{frozen}");
        assert_clean(&host, &guest, report["checkpoint"].as_str());
        let (one, other) = restored(&host, &report, Taken::Frozen).balances.unwrap();
        assert!(one == other && one > 0, "{one} {other}");
        // The application goes on.
        guest.sh("test ! -e /run/app.pause");
        guest.wait_records(2);
    }
    // Without its scripts, the application is between two states nearly all the time: the check
    // would have seen it.
    guest.sh(&format!("rm {CONFIG}"));
    let torn = (0..6).any(|_| {
        let report = backup(&host, &[]);
        assert_eq!(report["consistency"], "file_system");
        let (one, other) = restored(&host, &report, Taken::Frozen).balances.unwrap();
        one != other
    });
    assert!(torn);
}

#[test]
fn scripts_that_fail() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");

    // Retries run it again.
    let thrice =
        "echo x >>/run/tries; test $(wc -l </run/tries) -ge 3 || { echo not yet >&2; exit 7; }";
    scripts(&guest, thrice, "");
    configure(&guest, &json!({"preScriptNoOfRetries": 2}));
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "application", "{report:#}");
    assert!(says(&report["evidence"], "at try 3"), "{report:#}");
    assert_eq!(steps(&guest), ["pre.sh", "pre.sh", "pre.sh", "freeze", "thaw", "post.sh"]);

    // Not often enough: less, as the configuration allows it.
    forget(&guest);
    configure(&guest, &json!({"preScriptNoOfRetries": 1}));
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    for words in ["Pre-ScriptExecutionFailed", "exit code 7", "not yet", "in 2 tries"] {
        assert!(says(&report["evidence"], words), "{words}: {report:#}");
    }
    assert_eq!(steps(&guest), ["pre.sh", "pre.sh", "freeze", "thaw", "post.sh"]);
    let checkpoint = report["checkpoint"].as_str();
    assert_clean(&host, &guest, checkpoint);

    // Less is not what was asked for.
    forget(&guest);
    fails(&host, &["--require"], "vm.consistency");
    assert_eq!(steps(&guest), ["pre.sh", "pre.sh", "post.sh"]);
    assert_clean(&host, &guest, checkpoint);

    // No backup without the script.
    forget(&guest);
    let before = points(&host);
    configure(&guest, &json!({"continueBackupOnFailure": false}));
    let words = fails(&host, &[], "vm.script");
    assert!(words.contains("Pre-ScriptExecutionFailed"), "{words}");
    assert_eq!(steps(&guest), ["pre.sh", "post.sh"]);
    assert_eq!(points(&host), before);
    assert_clean(&host, &guest, checkpoint);

    // Too long: it is killed, and all that it began.
    scripts(&guest, "(sleep 1234; echo) & sleep 1234", "");
    configure(&guest, &json!({"timeoutInSeconds": 2}));
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    assert!(says(&report["evidence"], "Pre-ScriptTimeout"), "{report:#}");
    assert_eq!(guest.try_sh("ps | grep -c '[s]leep 1234'").1, "0\n");

    // The post script.
    scripts(&guest, "", "exit 5");
    configure(&guest, &json!({}));
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    assert!(says(&report["evidence"], "Post-ScriptExecutionFailed"), "{report:#}");
    configure(&guest, &json!({"continueBackupOnFailure": false}));
    let before = points(&host);
    fails(&host, &[], "vm.script");
    assert_eq!(points(&host), before);
    assert_clean(&host, &guest, report["checkpoint"].as_str());
}

#[test]
fn scripts_without_a_freeze() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    scripts(&guest, "", "");
    configure(&guest, &json!({"fsFreezeEnabled": false}));
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "application", "{report:#}");
    assert_eq!(report["frozen_seconds"], Value::Null, "{report:#}");
    assert!(says(&report["evidence"], "fsFreezeEnabled"), "{report:#}");
    assert_eq!(steps(&guest), ["pre.sh", "post.sh"]);
    // Nothing prepared anything: neither script nor freeze.
    for (pre, post) in [("exit 1", ""), ("", "exit 1")] {
        scripts(&guest, pre, post);
        let report = backup(&host, &[]);
        assert_eq!(report["consistency"], "crash", "{report:#}");
        assert_eq!(steps(&guest), ["pre.sh", "post.sh"]);
        assert_clean(&host, &guest, report["checkpoint"].as_str());
    }
    fails(&host, &["--require"], "vm.consistency");
}

#[test]
fn scripts_that_are_refused() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    scripts(&guest, "", "");
    configure(&guest, &json!({}));
    let refused = |command: &str, name: &str, undo: &str| {
        guest.sh(command);
        forget(&guest);
        let report = backup(&host, &[]);
        assert_eq!(report["consistency"], "file_system", "{command}: {report:#}");
        assert!(says(&report["evidence"], name), "{command}: {report:#}");
        assert_eq!(steps(&guest), ["freeze", "thaw"], "{command}");
        guest.sh(undo);
    };
    let permission = "InsufficientPermissionforPre-Script";
    refused(&format!("chmod 755 {PRE}"), permission, &format!("chmod 700 {PRE}"));
    refused(&format!("chown 1000 {PRE}"), permission, &format!("chown 0 {PRE}"));
    let permission = "InsufficientPermissionforPost-Script";
    refused(&format!("chmod 770 {POST}"), permission, &format!("chmod 700 {POST}"));
    let permission = "InsufficientPermissionforConfig";
    refused(&format!("chmod 644 {CONFIG}"), permission, &format!("chmod 600 {CONFIG}"));
    refused(&format!("chown 1000 {CONFIG}"), permission, &format!("chown 0 {CONFIG}"));
    refused(&format!("mv {PRE} /run/x"), "Pre-ScriptNotFound", &format!("mv /run/x {PRE}"));
    refused(&format!("mv {POST} /run/x"), "Post-ScriptNotFound", &format!("mv /run/x {POST}"));
    refused(&format!("echo '{{' >{CONFIG}"), "IncorrectJSONConfigFile", "true");
    fails(&host, &["--require"], "vm.consistency");
    configure(&guest, &json!({}));
    assert_eq!(backup(&host, &["--require"])["consistency"], "application");
}

#[test]
fn what_is_asked_for_is_not_exceeded() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    scripts(&guest, "", "");
    configure(&guest, &json!({}));
    let report = backup(&host, &["--consistency", "filesystem", "--require"]);
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    assert_eq!(steps(&guest), ["freeze", "thaw"]);
    forget(&guest);
    let report = backup(&host, &["--consistency", "crash", "--require"]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    assert!(steps(&guest).is_empty());
    restored(&host, &report, Taken::Running);
    assert_clean(&host, &guest, report["checkpoint"].as_str());
}

#[test]
fn agents_that_do_not_answer() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    guest.wait_records(3);
    // It hangs: nobody waits for long, and nothing is sent that it would do later.
    let agent = guest.sh("cat /run/ga/pid");
    later(&guest, &format!("sleep 1; kill -STOP {agent}; sleep 20; kill -CONT {agent}"));
    assert!(within(20, || !answers(&host)));
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    assert!(says(&report["evidence"], "the agent did not answer"), "{report:#}");
    let checkpoint = report["checkpoint"].as_str();
    fails(&host, &["--require"], "vm.consistency");
    restored(&host, &report, Taken::Running);
    guest.wait_agent();
    assert_clean(&host, &guest, checkpoint);
    let log = guest.sh("cat /run/hook.log 2>/dev/null || true");
    assert!(!log.contains("freeze"), "{log}");
    // It is dead.
    later(&guest, &format!("sleep 1; kill -KILL {agent}"));
    assert!(within(20, || !answers(&host)));
    let before = points(&host);
    fails(&host, &["--require", "--consistency", "filesystem"], "vm.consistency");
    assert_eq!(points(&host), before);
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    restored(&host, &report, Taken::Running);
}

#[test]
fn no_agent() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).cmdline("lab.noagent").create(&host);
    guest.start();
    assert!(within(90, || guest.console().contains("workload started")));
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    fails(&host, &["--require"], "vm.consistency");
    restored(&host, &report, Taken::Running);
}

#[test]
fn hooks_that_take_too_long_or_fail() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    guest.wait_records(3);
    let hook = "/etc/fsfreeze-hook.d/slow";
    // The agent freezes when nobody waits for it any more.
    guest.put(hook, "755", "#!/bin/sh\n[ $1 = thaw ] || sleep 8\n");
    let report = backup(&host, &["--freeze-timeout", "2s"]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    assert!(says(&report["evidence"], "freezing failed"), "{report:#}");
    assert_clean(&host, &guest, report["checkpoint"].as_str());
    let log = guest.sh("cat /run/hook.log");
    assert!(log.contains("freeze") && log.contains("thaw"), "{log}");
    restored(&host, &report, Taken::Running);
    guest.wait_records(2);
    fails(
        &host,
        &["--freeze-timeout", "2s", "--require", "--consistency", "filesystem"],
        "vm.consistency",
    );
    assert_clean(&host, &guest, report["checkpoint"].as_str());

    guest.put(hook, "755", "#!/bin/sh\n[ $1 = thaw ] || exit 3\n");
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    assert!(says(&report["evidence"], "fsfreeze hook has failed with status 3"), "{report:#}");
    assert_clean(&host, &guest, report["checkpoint"].as_str());
    guest.sh(&format!("rm {hook}"));

    // Somebody else's freeze stays theirs.
    guest.virsh("domfsfreeze", &[]);
    let words = fails(&host, &[], "vm.busy");
    assert!(words.contains("another program has frozen"), "{words}");
    assert_eq!(guest.freeze_status(), "frozen");
    guest.virsh("domfsthaw", &[]);
    assert_clean(&host, &guest, report["checkpoint"].as_str());

    // Somebody thaws what we froze, before the instant.
    later(&guest, "while [ ! -e /run/enough ]; do fsfreeze --unfreeze /data/a; done");
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    guest.sh("touch /run/enough");
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    restored(&host, &report, Taken::Frozen);
}

#[test]
fn frozen_for_a_moment() {
    let host = Host::new();
    let guest = web(&host, "lab.nowriter lab.quiet");
    guest.sh("rm /etc/fsfreeze-hook.d/*");
    let mut frozen = Vec::new();
    for _ in 0..8 {
        let report = backup(&host, &[]);
        assert_eq!(report["consistency"], "file_system", "{report:#}");
        let number = |name: &str| report[name].as_f64().unwrap();
        frozen.push(number("frozen_seconds"));
        eprintln!(
            "{:.3} s frozen, {:.3} s of it QEMU's transaction",
            number("frozen_seconds"),
            number("transaction_seconds")
        );
        eprintln!("  {}", report["evidence"]);
    }
    frozen.sort_by(f64::total_cmp);
    // In emulation, beside other tests; a second would be too long for anybody.
    assert!(frozen[frozen.len() / 2] < 1.0, "{frozen:?}");
}
