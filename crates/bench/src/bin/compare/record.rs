//! What was measured: one record a run, and the questions the tables ask of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom_bench::figures::{median, number};

/// Whether the image (or, for a restore, the repository) was in the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cache {
    Warm,
    Cold,
}

impl Cache {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// One run of one program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Which program, for example `restic`.
    pub(crate) tool: String,
    /// What it did, for example `full`.
    pub(crate) work: String,
    pub(crate) cache: Cache,
    /// Wall time of the whole process.
    pub(crate) seconds: f64,
    /// User and system time of all its threads.
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_rss_bytes: u64,
    /// By how much the repository's files grew.
    pub(crate) added_bytes: Option<u64>,
    /// What the program itself printed, if that was JSON.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) said: Value,
}

/// Everything measured so far, by this run or (if asked for) kept from an earlier one.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Records(pub(crate) Vec<Record>);

impl Records {
    fn of(&self, tool: &str, work: &str, cache: Cache) -> impl Iterator<Item = &Record> {
        let (tool, work) = (tool.to_owned(), work.to_owned());
        self.0.iter().filter(move |record| {
            record.tool == tool && record.work == work && record.cache == cache
        })
    }

    /// The median wall time.
    pub(crate) fn seconds(&self, tool: &str, work: &str, cache: Cache) -> Option<f64> {
        median(self.of(tool, work, cache).map(|record| record.seconds).collect())
    }

    /// The least wall time: what the machine can do when nothing disturbs it.
    pub(crate) fn least_seconds(&self, tool: &str, work: &str, cache: Cache) -> Option<f64> {
        self.of(tool, work, cache).map(|record| record.seconds).reduce(f64::min)
    }

    /// The median processor time.
    pub(crate) fn cpu_seconds(&self, tool: &str, work: &str, cache: Cache) -> Option<f64> {
        median(self.of(tool, work, cache).map(|record| record.cpu_seconds).collect())
    }

    /// How many runs there were.
    pub(crate) fn runs(&self, tool: &str, work: &str, cache: Cache) -> usize {
        self.of(tool, work, cache).count()
    }

    /// The most memory any run of `tool` took, of all its work or of one.
    pub(crate) fn peak_rss(&self, tool: &str, work: Option<&str>) -> Option<f64> {
        self.0
            .iter()
            .filter(|record| record.tool == tool && work.is_none_or(|work| record.work == work))
            .map(|record| number(record.peak_rss_bytes))
            .reduce(f64::max)
    }

    /// The median of the bytes added, in whatever cache state.
    pub(crate) fn added(&self, tool: &str, work: &str) -> Option<f64> {
        let added = |record: &Record| record.added_bytes.map(number);
        let both = [Cache::Warm, Cache::Cold];
        median(
            both.iter().flat_map(|cache| self.of(tool, work, *cache)).filter_map(added).collect(),
        )
    }

    /// All kinds of work done, in the order they were first done.
    pub(crate) fn kinds(&self) -> Vec<(String, Cache)> {
        let mut kinds = Vec::new();
        for record in &self.0 {
            let kind = (record.work.clone(), record.cache);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}
