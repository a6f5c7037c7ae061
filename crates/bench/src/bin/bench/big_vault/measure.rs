//! Running the program, and what it took.

use std::{
    env, fmt,
    fs::{self, File},
    io::{Write, stdout},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::Advice;
use serde_json::{Value, json};
use strongroom_base::{Clock as _, SystemClock};
use strongroom_bench::{Failure, Outcome};
use strongroom_vault::Index;

use super::{
    failed,
    generate::{Place, files},
};

/// The argument with which this program opens an index and says what it took.
pub(crate) const OPEN_INDEX: &str = "--open-index";

/// The program that is measured.
pub(crate) struct Program<'a> {
    pub(crate) path: &'a Path,
    pub(crate) place: &'a Place,
}

/// One run of it.
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) peak_rss_bytes: u64,
    /// The JSON that it printed.
    pub(crate) said: Value,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} s, {} MiB", self.seconds, self.peak_rss_bytes >> 20)
    }
}

impl Program<'_> {
    /// Runs a command on the vault, from start to exit.
    pub(crate) fn run(&self, words: &[&str]) -> Outcome<Run> {
        let mut command = Command::new(self.path);
        command.args(words).args(["--output", "json", "--vault"]).arg(&self.place.vault);
        command.arg("--key-file").arg(&self.place.key).arg("--cache-dir").arg(&self.place.cache);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let child = command.spawn().map_err(Failure::at(self.path))?;
        let status = format!("/proc/{}/status", child.id());
        let ended = AtomicBool::new(false);
        let (output, peak_rss_bytes) = thread::scope(|scope| {
            let peak = scope.spawn(|| {
                let mut peak = 0;
                while !ended.load(Ordering::Relaxed) {
                    // The kernel keeps the peak itself; only its last moments are missed.
                    peak = peak.max(memory(&status, "VmHWM:").unwrap_or(0));
                    SystemClock.sleep(Duration::from_millis(1));
                }
                peak
            });
            let output = child.wait_with_output();
            ended.store(true, Ordering::Relaxed);
            (output, peak.join().unwrap_or(0))
        });
        let (output, seconds) = (output?, started.elapsed().as_secs_f64());
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("{command:?} failed:\n{why}")));
        }
        Ok(Run { seconds, peak_rss_bytes, said: serde_json::from_slice(&output.stdout)? })
    }
}

/// A line of a process's status that has a number of kilobytes, as bytes.
fn memory(status: &str, line: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|text| text.strip_prefix(line))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the open index takes.
pub(crate) struct IndexMemory {
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

/// Has a process of its own open the index cache, so that nothing else is in the figure.
pub(crate) fn index_memory(cache: &Path) -> Outcome<IndexMemory> {
    let output = Command::new(env::current_exe()?)
        .args(["big-vault", OPEN_INDEX])
        .arg(cache)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(Failure::new("the index cannot be opened"));
    }
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| {
        let missing = || Failure::new("what the index takes was not said");
        said.get(name).and_then(Value::as_u64).ok_or_else(missing)
    };
    Ok(IndexMemory { bytes: number("bytes")?, records: number("records")? })
}

/// That process: opens the index of the one vault in a cache folder.
pub(crate) fn open_index(cache: &Path) -> Outcome<()> {
    let mut folders = fs::read_dir(cache).map_err(Failure::at(cache))?;
    let folder = folders.next().ok_or_else(|| Failure::new("there is no index"))??.path();
    let resident = || {
        memory("/proc/self/status", "VmRSS:").ok_or_else(|| Failure::new("the kernel is silent"))
    };
    let before = resident()?;
    let index = Index::open(&folder).map_err(failed)?;
    let bytes = resident()?.saturating_sub(before);
    writeln!(stdout(), "{}", json!({ "bytes": bytes, "records": index.len() }))?;
    Ok(())
}

/// Has the kernel forget what it keeps of the files below a folder, so that they are read from the disk.
pub(crate) fn leave_page_cache(folder: &Path) -> Outcome<()> {
    rustix::fs::sync();
    files(folder, &mut |path, _| {
        let file = File::open(path).map_err(Failure::at(path))?;
        Ok(rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?)
    })
}
