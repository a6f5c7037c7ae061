//! Runs a program and measures its whole process: wall time here, processor time and memory through
//! `/usr/bin/time`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;
use strongroom_bench::{
    Failure, Outcome,
    place::{drop_caches, read_into_cache, read_times, tell, timed, wait_for_disk},
};

use crate::{
    place::World,
    record::{Cache, Record, Records},
};

/// What a program was run for.
pub(crate) struct Task<'a> {
    pub(crate) tool: &'a str,
    pub(crate) work: &'a str,
    pub(crate) cache: Cache,
    /// What it reads: in the page cache before a warm run.
    pub(crate) reads: &'a Path,
    /// True if the growth of the repository is of interest.
    pub(crate) stores: bool,
}

/// Runs programs in a world and keeps the records.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) scratch: PathBuf,
    pub(crate) records: Records,
    /// Runs of what is short.
    pub(crate) runs: usize,
    /// Runs of the peers.
    pub(crate) peer_runs: usize,
}

impl Bench {
    /// Runs `command` without measuring it, and gives what it printed.
    pub(crate) fn quietly(&self, mut command: Command) -> Outcome<String> {
        self.set_up(&mut command);
        let log = self.scratch.join("last-command.log");
        let output = command.stdin(Stdio::null()).stderr(File::create(&log)?).output();
        let output = output.map_err(|error| failed(&command, &error.to_string()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failed(&command, &fs::read_to_string(&log)?))
    }

    /// Prepares the page cache, runs `command`, and keeps the record.
    pub(crate) fn measure(&mut self, task: &Task<'_>, command: &Command) -> Outcome<()> {
        let times = self.scratch.join("last-command.times");
        let timed = timed(command, &times);
        let before = if task.stores { self.world.repository_bytes()? } else { 0 };
        match task.cache {
            Cache::Cold => drop_caches()?,
            Cache::Warm => {
                rustix::fs::sync();
                read_into_cache(task.reads)?;
            }
        }

        let started = Instant::now();
        let printed = self.quietly(timed)?;
        // What may still be lost is not done, whoever wrote it.
        wait_for_disk(&self.scratch)?;
        let seconds = started.elapsed().as_secs_f64();

        let after = if task.stores { Some(self.world.repository_bytes()?) } else { None };
        let (cpu_seconds, peak_rss_bytes) = read_times(&times)?;
        let record = Record {
            tool: task.tool.to_owned(),
            work: task.work.to_owned(),
            cache: task.cache,
            seconds,
            cpu_seconds,
            peak_rss_bytes,
            added_bytes: after.map(|after| after.saturating_sub(before)),
            said: serde_json::from_str(&printed).unwrap_or(Value::Null),
        };
        let added = record
            .added_bytes
            .map_or(String::new(), |added| format!(", {} MB added", added / 1_000_000));
        tell(&format!(
            "{:12} {:22} {} {seconds:8.2} s, {cpu_seconds:8.2} s CPU, {:5} MB{added}",
            record.tool,
            record.work,
            record.cache.word(),
            record.peak_rss_bytes / 1_000_000,
        ));
        self.records.0.push(record);
        Ok(())
    }

    fn set_up(&self, command: &mut Command) {
        let home = self.world.home();
        command
            .env("XDG_CACHE_HOME", home.join(".cache"))
            .env("HOME", home)
            .env("LC_ALL", "C.UTF-8");
    }
}

fn failed(command: &Command, why: &str) -> Failure {
    Failure::new(format!("{command:?} failed:\n{why}"))
}
