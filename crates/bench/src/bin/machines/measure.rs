//! One tool, measured on a guest of its own from the first point to the restore.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;
use strongroom_bench::{
    Failure, Outcome,
    place::{read_into_cache, read_times, remove, tell, timed, wait_for_disk},
};

use crate::{
    disks::{LOAD, Size},
    guest::{DISKS, Guest, NAME},
    host::{pause, run},
    record::{During, Latency, Record, Records, Work},
    tools::{Shop, Tool},
};

/// Points of the chain: the first, and nine days.
pub(crate) const POINTS: u64 = 10;

/// Seconds for which the guest's writes are measured without a backup.
const UNDISTURBED: u64 = 30;

/// Writes a second that the guest is asked for.
const RATE: u64 = 50;

/// A tool at work on a guest.
pub(crate) struct Measure<'a> {
    pub(crate) shop: Shop<'a>,
    pub(crate) guest: &'a Guest<'a>,
    /// Folder of the guest's images.
    pub(crate) images: &'a Path,
    pub(crate) size: Size,
    pub(crate) runs: usize,
    pub(crate) records: &'a mut Records,
}

impl Measure<'_> {
    /// Everything.
    pub(crate) fn all(&mut self) -> Outcome<()> {
        for _ in 0..self.runs {
            self.full(Work::Full)?;
        }
        for day in 1..POINTS {
            self.size.churn(self.guest, day)?;
            self.backup(Work::Incremental)?;
        }
        self.records.stored.push((self.name().to_owned(), self.shop.stored()?));
        self.size.churn(self.guest, POINTS)?;
        // What a freeze leaves in the file systems after the point is not in the point.
        self.guest.host.virsh(&["suspend", NAME])?;
        self.backup(Work::Proof)?;
        for _ in 0..self.runs {
            self.restore()?;
        }
        self.compare()?;
        self.guest.host.virsh(&["resume", NAME])?;
        self.latencies()
    }

    fn name(&self) -> &'static str {
        self.shop.tool.name()
    }

    /// A first point in an empty repository.
    fn full(&mut self, work: Work) -> Outcome<(u64, u64)> {
        self.guest.forget_checkpoints()?;
        self.shop.empty()?;
        self.backup(work)
    }

    /// A backup; gives when it began and ended by the guest's clock, unless the guest is paused.
    fn backup(&mut self, work: Work) -> Outcome<(u64, u64)> {
        let command = match work {
            Work::FullUnfrozen => self.shop.backup_unfrozen(),
            Work::Full | Work::FullUnderLoad => self.shop.backup(true),
            _ => self.shop.backup(false),
        };
        let images = self.images.to_owned();
        if work == Work::Proof {
            return self.run(work, &command, &images);
        }
        let guest = self.guest;
        let (window, frozen) = guest.frozen_during(|| self.run(work, &command, &images))?;
        if let Some(record) = self.records.runs.last_mut() {
            record.frozen_seconds = frozen;
        }
        Ok(window)
    }

    /// A restore; that of the peer fails where its server takes more than a second to start, and is done
    /// again then.
    fn restore(&mut self) -> Outcome<()> {
        let mut tries = 1;
        loop {
            let command = self.shop.restore()?;
            let source = self.shop.source();
            match self.run(Work::Restore, &command, &source) {
                Ok(_) => break,
                Err(failure) if self.shop.tool != Tool::Strongroom && tries < 5 => {
                    let words = failure.to_string();
                    let last = words.trim_end().lines().last().unwrap_or_default();
                    tell(&format!("{}: the restore failed: {last}", self.name()));
                    tries += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
        if let Some(record) = self.records.runs.last_mut() {
            record.failed_before = tries - 1;
        }
        Ok(())
    }

    /// Fails unless the restored disks are those of the guest, which is paused since before the point.
    fn compare(&self) -> Outcome<()> {
        for disk in DISKS {
            let mut command = Command::new("qemu-img");
            command.args(["compare", "-U", "-f", "qcow2", "-F", "qcow2"]);
            command.arg(self.images.join(format!("{disk}.qcow2"))).arg(self.shop.restored(disk));
            run(&mut command)?;
        }
        tell(&format!("{}: the restored disks are the guest's", self.name()));
        Ok(())
    }

    /// Runs a command of the tool, with what it reads in the page cache, and keeps the record. Gives
    /// when it began and ended by the guest's clock, unless the guest is paused.
    fn run(&mut self, work: Work, command: &Command, reads: &Path) -> Outcome<(u64, u64)> {
        let paused = matches!(work, Work::Proof | Work::Restore);
        let clock = || if paused { Ok(0) } else { self.guest.milliseconds() };
        let folder = self.shop.folder.clone();
        let (times, log) = (folder.join("times"), folder.join("log"));
        let mut timed = timed(command, &times);
        timed.env_clear().envs(self.guest.host.environment());
        timed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        timed.stdin(Stdio::null()).stderr(File::create(&log)?);
        wait_for_disk(&folder)?;
        read_into_cache(reads)?;
        let stored = self.shop.stored()?;
        let read = self.guest.qemu_read_bytes()?;

        let begin = clock()?;
        let started = Instant::now();
        let output = timed.output()?;
        // What may still be lost is not done, whoever wrote it.
        wait_for_disk(&folder)?;
        let seconds = started.elapsed().as_secs_f64();
        let end = clock()?;

        let log = fs::read_to_string(&log)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(Failure::new(format!("{command:?} failed:\n{printed}\n{log}")));
        }
        let (cpu_seconds, peak_rss_bytes) = read_times(&times)?;
        let record = Record {
            tool: self.name().to_owned(),
            work,
            seconds,
            cpu_seconds,
            peak_rss_bytes,
            stored_bytes: self.shop.stored()?.saturating_sub(stored),
            qemu_read_bytes: self.guest.qemu_read_bytes()?.saturating_sub(read),
            said_read_bytes: self.shop.said_read(&printed, &log),
            frozen_seconds: None,
            failed_before: 0,
            said: serde_json::from_str(&printed).unwrap_or(Value::Null),
        };
        tell(&format!(
            "{:16} {:13} {seconds:7.2} s, {cpu_seconds:7.2} s CPU, {:5} MB added, {:5} MB read",
            record.tool,
            format!("{work:?}"),
            record.stored_bytes / 1_000_000,
            record.qemu_read_bytes / 1_000_000,
        ));
        self.records.runs.push(record);
        Ok((begin, end))
    }

    /// How long writes in the guest take: at rest, and with full backups meanwhile.
    fn latencies(&mut self) -> Outcome<()> {
        remove(&self.shop.restored("").with_file_name(""))?;
        let load = Load::start(self.guest)?;
        let start = self.guest.milliseconds()?;
        pause(UNDISTURBED * 1000);
        let window = (start, self.guest.milliseconds()?);
        self.note(Latency::of(self.name(), During::Rest, load.end(&[window])?)?);
        self.latency(Work::FullUnderLoad, During::Frozen)?;
        // The peer freezes whenever there is an agent.
        if self.shop.tool == Tool::Strongroom {
            self.latency(Work::FullUnfrozen, During::Unfrozen)?;
        }
        Ok(())
    }

    /// With full backups meanwhile.
    fn latency(&mut self, work: Work, during: During) -> Outcome<()> {
        let load = Load::start(self.guest)?;
        let mut windows = Vec::new();
        for _ in 0..self.runs {
            windows.push(self.full(work)?);
            pause(2000);
        }
        self.note(Latency::of(self.name(), during, load.end(&windows)?)?);
        Ok(())
    }

    fn note(&mut self, latency: Latency) {
        tell(&format!("{latency:?}"));
        self.records.latencies.push(latency);
    }
}

/// fio at work in the guest.
struct Load<'a> {
    guest: &'a Guest<'a>,
    process: u64,
}

impl<'a> Load<'a> {
    /// Starts it and lets it find its pace.
    fn start(guest: &'a Guest<'a>) -> Outcome<Self> {
        let process = guest.start(&format!(
            "rm -rf /run/fio; mkdir /run/fio; cd /run/fio
             exec fio --name=load --filename={LOAD} --rw=randwrite --bs=4k --ioengine=psync \
                --sync=dsync --rate_iops={RATE} --time_based --runtime=3600 --randrepeat=1 \
                --write_lat_log=load --log_unix_epoch=1 --per_job_logs=0 --output=/run/fio/said"
        ))?;
        pause(5000);
        Ok(Self { guest, process })
    }

    /// Ends it; gives the nanoseconds that each write took that ended in one of the windows.
    fn end(self, windows: &[(u64, u64)]) -> Outcome<Vec<u64>> {
        self.guest.sh("killall -INT fio")?;
        // What it returns says that it was interrupted.
        self.guest.wait(self.process).ok();
        let log = self.guest.sh("cat /run/fio/load_clat.log")?;
        let mut times = Vec::new();
        for line in log.lines() {
            // milliseconds, nanoseconds, direction, ...
            let mut words = line.split(", ");
            let (Some(at), Some(took)) = (words.next(), words.next()) else { continue };
            let (at, took): (u64, u64) = (at.parse()?, took.parse()?);
            if windows.iter().any(|&(start, end)| (start..=end).contains(&at)) {
                times.push(took);
            }
        }
        Ok(times)
    }
}

/// Copies images for a guest of its own.
pub(crate) fn copy_images(from: &Path, to: &Path) -> Outcome<PathBuf> {
    remove(to)?;
    fs::create_dir_all(to)?;
    for disk in DISKS {
        let name = format!("{disk}.qcow2");
        run(Command::new("cp").arg("--sparse=always").arg(from.join(&name)).arg(to.join(&name)))?;
    }
    Ok(to.to_owned())
}
