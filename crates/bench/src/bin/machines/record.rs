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
    /// Whether full backups ran meanwhile.
    pub(crate) backup: bool,
    pub(crate) writes: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    /// Of the nanoseconds that writes took.
    pub(crate) fn of(tool: &str, backup: bool, mut times: Vec<u64>) -> Outcome<Self> {
        times.sort_unstable();
        let writes = times.len();
        let at = |per_cent: usize| {
            let index = (writes.saturating_sub(1) * per_cent).div_ceil(100);
            let time = times.get(index).copied();
            let time = time.ok_or_else(|| Failure::new("the guest has written nothing"))?;
            Ok::<_, Failure>(number(time) / 1000.0)
        };
        let (p50_us, p99_us, max_us) = (at(50)?, at(99)?, at(100)?);
        Ok(Self { tool: tool.to_owned(), backup, writes, p50_us, p99_us, max_us })
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

    pub(crate) fn latency(&self, tool: &str, backup: bool) -> Option<&Latency> {
        self.latencies.iter().find(|found| found.tool == tool && found.backup == backup)
    }

    /// Forgets what was measured of a tool.
    pub(crate) fn forget(&mut self, tool: &str) {
        self.runs.retain(|record| record.tool != tool);
        self.latencies.retain(|latency| latency.tool != tool);
        self.stored.retain(|(name, _)| name != tool);
    }
}

#[cfg(test)]
mod tests {
    use super::Latency;

    #[test]
    fn percentiles_are_of_the_slow_end() {
        let latency = Latency::of("x", true, (1..=200).map(|n| n * 1000).collect()).unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 0.001;
        assert!(close(latency.p50_us, 101.0) && close(latency.p99_us, 199.0));
        assert!(close(latency.max_us, 200.0) && latency.writes == 200);
        assert!(Latency::of("x", true, Vec::new()).is_err());
    }
}
