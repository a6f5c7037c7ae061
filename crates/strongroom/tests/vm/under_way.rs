//! Backups under way, to be stopped, killed or disturbed.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
};

use serde_json::Value;
use strongroom_base::{Clock as _, SystemClock};

use crate::{
    after::guards,
    guest::{Disk, Guest},
    harness::{Host, Run, tool, within},
};

/// Slow enough to be killed while it reads, quick enough to be waited for.
pub(crate) const SLOW: &str = "1M";

/// Two disks, booted, with some records.
pub(crate) fn web<'h>(host: &'h Host, words: &str) -> Guest<'h> {
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::qcow2(48));
    guest.cmdline(words).create(host).up(3)
}

/// A backup under way, in a process group of its own.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(host: &Host, words: &[&str]) -> Self {
        let words = [&["backup", "--vm", "web", "--output", "json"], words].concat();
        let mut command = host.command(&words);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    pub(crate) fn signal(&self, name: &str) {
        tool("kill", &[&format!("-{name}"), &self.0.id().to_string()]);
    }

    /// The whole process group.
    pub(crate) fn signal_all(&self, name: &str) {
        tool("kill", &[&format!("-{name}"), "--", &format!("-{}", self.0.id())]);
    }

    /// Whether it has a file open.
    pub(crate) fn reads(&self, path: &Path) -> bool {
        let path = path.canonicalize().expect("there");
        let open = fs::read_dir(format!("/proc/{}/fd", self.0.id())).into_iter().flatten();
        open.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|found| found == path))
    }

    pub(crate) fn end(self) -> Run {
        Run::of(&self.0.wait_with_output().expect("it ends"))
    }

    pub(crate) fn report(self) -> Value {
        let run = self.end();
        assert_eq!(run.code, 0, "{run:?}");
        serde_json::from_str(&run.stdout).expect("JSON")
    }
}

/// Waits until the backup's job runs, and some of the disks was read.
pub(crate) fn wait_reading(host: &Host) {
    let job = || host.try_virsh(&["backup-dumpxml", "web"]).code == 0;
    assert!(within(30, job), "no job begins");
    SystemClock.sleep(std::time::Duration::from_millis(500));
}

/// Waits until the guest is frozen. Nothing else may be asked of the agent.
pub(crate) fn wait_frozen(guest: &Guest<'_>) {
    assert!(within(30, || guest.freeze_status() == "frozen"), "it is never frozen");
}

/// Has every freeze take so many seconds before the file systems are frozen.
pub(crate) fn slow_freeze(guest: &Guest<'_>, seconds: u32) {
    let hook = format!("#!/bin/sh\n[ $1 = thaw ] || sleep {seconds}\n");
    guest.put("/etc/fsfreeze-hook.d/slow", "755", &hook);
}

pub(crate) fn kill_guards(host: &Host) {
    for guard in guards(host) {
        tool("kill", &["-KILL", guard.trim_start_matches("guard ")]);
    }
}
