//! What was measured.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom_bench::{
    Failure, Outcome,
    figures::{median, number},
};

/// What a tool did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// The first point, of a guest that rests.
    Full,
    /// The next one, after a day.
    Incremental,
    /// The one after the last day, of a paused guest, to compare a restore with.
    Proof,
    /// The newest point to qcow2 images.
    Restore,
    /// The first point, while the guest writes.
    FullUnderLoad,
    /// The same without a freeze, crash consistent.
    FullUnfrozen,
}

/// What goes on while writes in the guest are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum During {
    /// Nothing.
    Rest,
    /// Full backups that freeze the guest's file systems for the instant.
    Frozen,
    /// Full backups that do not: crash consistent.
    Unfrozen,
}

/// One run of a tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) tool: String,
    pub(crate) work: Work,
    /// Wall time, until all that was written is on the disk.
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_rss_bytes: u64,
    /// By how much the repository's files grew.
    pub(crate) stored_bytes: u64,
    /// What QEMU has read meanwhile.
    pub(crate) qemu_read_bytes: u64,
    /// What the tool says it has read of the disks.
    pub(crate) said_read_bytes: Option<u64>,
    /// For how long the guest was frozen, by its own clock.
    pub(crate) frozen_seconds: Option<f64>,
    /// How often the same failed before.
    #[serde(default)]
    pub(crate) failed_before: u32,
    /// What the tool printed, if that was JSON.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) said: Value,
}

/// How long writes in the guest took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) tool: String,
    pub(crate) during: During,
    pub(crate) writes: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    /// Of the nanoseconds that writes took.
    pub(crate) fn of(tool: &str, during: During, mut times: Vec<u64>) -> Outcome<Self> {
        times.sort_unstable();
        let writes = times.len();
        let at = |per_cent: usize| {
            let index = (writes.saturating_sub(1) * per_cent).div_ceil(100);
            let time = times.get(index).copied();
            let time = time.ok_or_else(|| Failure::new("the guest has written nothing"))?;
            Ok::<_, Failure>(number(time) / 1000.0)
        };
        let (p50_us, p99_us, max_us) = (at(50)?, at(99)?, at(100)?);
        Ok(Self { tool: tool.to_owned(), during, writes, p50_us, p99_us, max_us })
    }
}

/// All of it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Records {
    pub(crate) runs: Vec<Record>,
    pub(crate) latencies: Vec<Latency>,
    /// Bytes that each tool's repository has after ten points.
    pub(crate) stored: Vec<(String, u64)>,
}

impl Records {
    /// Those of one tool's runs of one kind.
    pub(crate) fn of(&self, tool: &str, work: Work) -> impl Iterator<Item = &Record> {
        let tool = tool.to_owned();
        self.runs.iter().filter(move |record| record.tool == tool && record.work == work)
    }

    /// The median of something.
    pub(crate) fn median(
        &self,
        tool: &str,
        work: Work,
        of: impl Fn(&Record) -> Option<f64>,
    ) -> Option<f64> {
        median(self.of(tool, work).filter_map(of).collect())
    }

    pub(crate) fn seconds(&self, tool: &str, work: Work) -> Option<f64> {
        self.median(tool, work, |record| Some(record.seconds))
    }

    /// Bytes after ten points.
    pub(crate) fn stored(&self, tool: &str) -> Option<f64> {
        self.stored.iter().find(|(name, _)| name == tool).map(|&(_, bytes)| number(bytes))
    }

    pub(crate) fn latency(&self, tool: &str, during: During) -> Option<&Latency> {
        self.latencies.iter().find(|found| found.tool == tool && found.during == during)
    }

    /// Forgets what was measured of a tool.
    pub(crate) fn forget(&mut self, tool: &str) {
        self.runs.retain(|record| record.tool != tool);
        self.latencies.retain(|latency| latency.tool != tool);
        self.stored.retain(|(name, _)| name != tool);
    }
}

/// The steps while the guest is frozen, as [`steps`] finds them.
pub(crate) const STEPS: [(&str, &str); 4] = [
    ("froze ", "the agent freezes the file systems"),
    ("QEMU's transaction took ", "libvirt begins the backup: QEMU's transaction"),
    ("thawed ", "the agent thaws them"),
    ("frozen for ", "from the freeze command to the thaw's answer"),
];

/// Seconds that each step took, by what a report of Strongroom says as evidence.
pub(crate) fn steps(said: &Value) -> [Option<f64>; 4] {
    let evidence = said.get("evidence").and_then(Value::as_array);
    let lines: Vec<&str> = evidence.into_iter().flatten().filter_map(Value::as_str).collect();
    STEPS.map(|(start, _)| {
        let line = lines.iter().find(|line| line.starts_with(start))?;
        let mut words = line.split(' ').rev().skip_while(|word| !matches!(*word, "s" | "s;"));
        words.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::{During, Latency, steps};

    #[test]
    fn percentiles_are_of_the_slow_end() {
        let latency =
            Latency::of("x", During::Frozen, (1..=200).map(|n| n * 1000).collect()).unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 0.001;
        assert!(close(latency.p50_us, 101.0) && close(latency.p99_us, 199.0));
        assert!(close(latency.max_us, 200.0) && latency.writes == 200);
        assert!(Latency::of("x", During::Frozen, Vec::new()).is_err());
    }

    #[test]
    fn steps_are_what_the_report_says_took_so_long() {
        let said = serde_json::json!({"evidence": [
            "agent 7.2.22 answered in 0.010 s",
            "froze 2 file systems in 0.031 s",
            "QEMU's transaction took 0.042 s",
            "thawed 2 file systems in 0.012 s; the agent says they are thawed",
            "frozen for 0.085 s in all",
            "the guest has no pre and post scripts",
        ]});
        let found = steps(&said).map(|step| step.map(|seconds| (seconds * 1000.0).round()));
        assert_eq!(found, [Some(31.0), Some(42.0), Some(12.0), Some(85.0)]);
        assert_eq!(steps(&serde_json::Value::Null), [None; 4]);
    }
}
