//! What must be so after a backup, however it ended.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    check::{Cut, Taken, check},
    guest::Guest,
    harness::{Host, Run, try_tool, within},
};

/// Whether tests that take long, or that only differ a little from others, are to run.
pub(crate) fn long() -> bool {
    let long = std::env::var_os("STRONGROOM_LONG").is_some();
    if !long {
        eprintln!("not tried: set STRONGROOM_LONG=1, as scripts/test --long does");
    }
    long
}

/// Backs up with `--output json`; it must succeed.
pub(crate) fn backup(host: &Host, words: &[&str]) -> Value {
    host.json(&[&["backup", "--vm", "web"], words].concat())
}

/// Backs up; it must fail with this code. Gives its words.
pub(crate) fn fails(host: &Host, words: &[&str], code: &str) -> String {
    let words = [&["backup", "--vm", "web", "--output", "json"], words].concat();
    failed(&host.strongroom(&words), code)
}

/// A run that must have failed with this code. Gives its words.
pub(crate) fn failed(run: &Run, code: &str) -> String {
    let start = run.stderr.find('{');
    let error = start.and_then(|start| serde_json::from_str::<Value>(&run.stderr[start..]).ok());
    let error = error.unwrap_or_else(|| panic!("no error: {run:?}"));
    assert_eq!(error["error"]["code"], code, "{error:#}");
    error["error"].to_string()
}

/// Whether the report says something, in its evidence, its notes or a disk's.
pub(crate) fn says(report: &Value, words: &str) -> bool {
    report.to_string().contains(words)
}

/// Restores the disks of a point of a report and checks them.
pub(crate) fn restored(host: &Host, report: &Value, taken: Taken) -> Cut {
    let images = images(host, report);
    let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    check(&images, taken).unwrap_or_else(|error| panic!("{error}\n{report:#}"))
}

/// Restores the disks of a point of a report.
pub(crate) fn images(host: &Host, report: &Value) -> Vec<PathBuf> {
    let point = report["recovery_point"].as_str().unwrap();
    let folder = host.lab.path(&format!("restored-{point}"));
    let to = folder.display().to_string();
    let words = ["restore", "disks", "--item", "web", "--recovery-point", point, "--to", &to];
    host.json(&[&words[..], &["--no-template"]].concat());
    let entries = fs::read_dir(&folder).unwrap();
    let mut images: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // Beside them are a description of the machine and what belongs to it.
    images.retain(|path| path.extension().is_some_and(|extension| extension == "raw"));
    images.sort();
    images
}

/// The ids of the points.
pub(crate) fn points(host: &Host) -> Vec<String> {
    host.lab.points("web")
}

/// What of a backup is left: a freeze, a job, a checkpoint that is not `checkpoint`, files, a guard.
pub(crate) fn left(host: &Host, guest: &Guest<'_>, checkpoint: Option<&str>) -> Vec<String> {
    let mut left = Vec::new();
    if guest.state() == "running" {
        let status = json!({"execute": "guest-fsfreeze-status"}).to_string();
        let status = host.try_virsh(&["qemu-agent-command", &guest.name, &status]);
        if !status.stdout.contains("thawed") {
            left.push(format!("freeze: {}{}", status.stdout.trim(), status.stderr.trim()));
        }
    }
    let job = host.try_virsh(&["backup-dumpxml", &guest.name]);
    if job.code == 0 {
        left.push(job.stdout);
    }
    let names = guest.virsh("checkpoint-list", &["--name"]);
    if names != checkpoint.unwrap_or_default() {
        left.push(format!("checkpoints {names:?} instead of {checkpoint:?}"));
    }
    let names = |folder: &str| {
        let entries = fs::read_dir(host.lab.path(folder)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
    };
    // Files that are locked while something is at work stay.
    let is_lock = |name: &str| matches!(name.rsplit_once('.'), Some((_, "lock" | "guard")));
    left.extend(names("r/strongroom").filter(|name| !is_lock(name)));
    left.extend(names("").filter(|name| name.contains("scratch")));
    left.extend(guards(host));
    left
}

/// The guards that run for this host.
pub(crate) fn guards(host: &Host) -> Vec<String> {
    let found = try_tool("pgrep", &["-f", "strongroom vm-guard"]).stdout;
    let home = format!("HOME={}/", host.lab.path("").display());
    let ours = |id: &&str| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(home.trim_end_matches('/'))
    };
    found.lines().filter(ours).map(|id| format!("guard {id}")).collect()
}

/// Nothing of a backup may be left.
pub(crate) fn assert_clean(host: &Host, guest: &Guest<'_>, checkpoint: Option<&str>) {
    let found = left(host, guest, checkpoint);
    assert!(found.is_empty(), "{found:?}");
}

/// Nothing of a backup may be left soon.
pub(crate) fn assert_clean_within(
    seconds: u64,
    host: &Host,
    guest: &Guest<'_>,
    checkpoint: Option<&str>,
) {
    let mut found = Vec::new();
    within(seconds, || {
        found = left(host, guest, checkpoint);
        found.is_empty()
    });
    assert!(found.is_empty(), "{found:?}");
}

/// Whether the guest's agent answers.
pub(crate) fn answers(host: &Host) -> bool {
    let ping = r#"{"execute":"guest-ping"}"#;
    host.try_virsh(&["qemu-agent-command", "web", ping, "--timeout", "1"]).code == 0
}

/// Runs something in the guest and does not wait for its end.
pub(crate) fn later(guest: &Guest<'_>, command: &str) {
    guest.put("/run/later", "700", command);
    // A shell that does not keep our output, for which the agent would wait.
    guest.sh("setsid sh /run/later </dev/null >/dev/null 2>&1 &");
}
