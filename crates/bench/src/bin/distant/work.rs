//! What is measured: commands of both tools, over the distance.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use strongroom_bench::{
    Failure, Outcome,
    distance::{Counts, Distance},
    place::{remove, tell},
    rng::Rng,
};

use crate::Options;

/// Bytes of the disk that is backed up and restored.
const DISK: usize = 128 << 20;

/// Bytes of it that change from one point to the next.
const CHANGE: usize = 64 << 10;

/// What a tool did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// A point after a small change.
    Incremental,
    /// The list of all points.
    List,
    /// The newest point to a file.
    Restore,
    /// A point after a small change, in a vault of many points and packs.
    CrowdedIncremental,
    /// The list of one item's points in such a vault.
    CrowdedList,
    /// The list of all points of such a vault by a host that has not seen them.
    CrowdedListAnew,
    /// The first reclaim of such a vault, which merges its packs.
    Reclaim,
}

/// One run of a tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) tool: String,
    pub(crate) work: Work,
    pub(crate) seconds: f64,
    pub(crate) counts: Counts,
}

/// Both tools with their repositories.
pub(crate) struct Shop<'a> {
    options: &'a Options,
    far: &'a Distance,
    /// The vault's URL, near and far.
    near_url: String,
    far_url: String,
    near_endpoint: String,
    disk: PathBuf,
}

/// The server that a store's URL names.
pub(crate) fn endpoint(url: &str) -> Outcome<String> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let endpoint = query.split('&').find_map(|part| part.strip_prefix("endpoint="));
    endpoint.map(str::to_owned).ok_or_else(|| Failure::new(format!("{url} names no endpoint")))
}

impl<'a> Shop<'a> {
    pub(crate) fn open(options: &'a Options, endpoint: &str, far: &'a Distance) -> Outcome<Self> {
        // A place of its own for each run.
        let place = format!("vault-{}", std::process::id());
        let near_url = options.store.replacen('?', &format!("/{place}?"), 1);
        let far_url = near_url.replace(endpoint, &format!("http://{}", far.address()));
        for folder in ["cache", "restic-cache", "out"] {
            remove(&options.work.join(folder))?;
        }
        let disk = options.work.join("disk.img");
        let mut bytes = vec![0; DISK];
        Rng::new(128).fill(&mut bytes);
        fs::write(&disk, &bytes)?;
        let shop =
            Self { options, far, near_url, far_url, near_endpoint: endpoint.to_owned(), disk };
        Ok(shop)
    }

    pub(crate) fn near_url(&self) -> &str {
        &self.near_url
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.options.work.join("key")
    }

    /// Changes a little of the disk, to noise that it never had; says where.
    fn change(&self, turn: u64) -> Outcome<()> {
        let blocks = u64::try_from(DISK / CHANGE)?;
        let offset = (turn * 37 + 11) % blocks * u64::try_from(CHANGE)?;
        let mut bytes = vec![0; CHANGE];
        // The points of the crowd are of other seeds: what they have would not be stored again.
        Rng::new(turn + 1_000_000_000).fill(&mut bytes);
        let mut disk = File::options().write(true).open(&self.disk)?;
        disk.seek(SeekFrom::Start(offset))?;
        disk.write_all(&bytes)?;
        Ok(fs::write(self.options.work.join("ranges"), format!("system {offset} {CHANGE}\n"))?)
    }

    /// Measures a backup of a change, which must store it.
    fn measure_backup(&self, records: &mut Vec<Record>, work: Work) -> Outcome<()> {
        let mut command = self.backup(true);
        let output =
            self.measure(records, ("strongroom", work), command.args(["--output", "json"]))?;
        let report: serde_json::Value = serde_json::from_slice(&output)?;
        let stored = report.get("stored_bytes").and_then(serde_json::Value::as_u64);
        match stored {
            Some(stored) if stored >= u64::try_from(CHANGE)? => Ok(()),
            _ => Err(Failure::new(format!("the backup of a change stored {stored:?} bytes"))),
        }
    }

    /// Runs a command, and gives how long it took, what went over the distance, and what it printed.
    fn run(&self, command: &mut Command) -> Outcome<(f64, Counts, Vec<u8>)> {
        self.far.take();
        let began = Instant::now();
        let output = command.stdin(Stdio::null()).output()?;
        let seconds = began.elapsed().as_secs_f64();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::new(format!("{command:?}: {said}")));
        }
        Ok((seconds, self.far.take(), output.stdout))
    }

    fn measure(
        &self,
        records: &mut Vec<Record>,
        (tool, work): (&str, Work),
        command: &mut Command,
    ) -> Outcome<Vec<u8>> {
        let (seconds, counts, printed) = self.run(command)?;
        tell(&format!("{tool}, {work:?}: {seconds:.2} s, {counts:?}"));
        records.push(Record { tool: tool.to_owned(), work, seconds, counts });
        Ok(printed)
    }

    /// The product's command on the vault, near or far.
    fn ours(&self, far: bool, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.options.strongroom);
        let url = if far { &self.far_url } else { &self.near_url };
        command
            .args(arguments)
            .env("STRONGROOM_VAULT", url)
            .env("STRONGROOM_KEY_FILE", self.key())
            .env("STRONGROOM_CACHE_DIR", self.options.work.join("cache"))
            .env("STRONGROOM_CONFIG", self.options.work.join("strongroom.toml"));
        command
    }

    fn backup(&self, far: bool) -> Command {
        let mut command = self.ours(far, &["backup", "--item", "web", "--disk"]);
        command.arg(format!("system=raw:{}", self.disk.display()));
        command.arg("--changed-ranges").arg(self.options.work.join("ranges"));
        command
    }

    /// The product's works on a vault of its own.
    pub(crate) fn strongroom(&self, records: &mut Vec<Record>) -> Outcome<()> {
        fs::write(self.options.work.join("strongroom.toml"), "")?;
        if !self.key().exists() {
            self.run(self.ours(false, &["vault", "key", "generate"]).arg(self.key()))?;
        }
        self.run(&mut self.ours(false, &["vault", "create"]))?;
        self.change(0)?;
        self.run(&mut self.backup(false))?;
        // A first point over the distance: what this host remembers of a place is of its URL.
        self.change(1)?;
        self.run(&mut self.backup(true))?;
        for turn in 0..self.options.runs {
            self.change(u64::try_from(turn)? + 2)?;
            self.measure_backup(records, Work::Incremental)?;
        }
        for _ in 0..self.options.runs {
            let mut list = self.ours(true, &["recoverypoint", "list"]);
            self.measure(records, ("strongroom", Work::List), &mut list)?;
        }
        for _ in 0..self.options.runs {
            let out = self.options.work.join("out");
            remove(&out)?;
            let arguments =
                ["restore", "disks", "--item", "web", "--recovery-point", "latest", "--to"];
            let mut restore = self.ours(true, &arguments);
            self.measure(records, ("strongroom", Work::Restore), restore.arg(&out))?;
            self.compare(&out)?;
        }
        Ok(())
    }

    /// The product's works on the same vault, which has many points and packs now.
    pub(crate) fn crowded(&self, records: &mut Vec<Record>) -> Outcome<()> {
        self.change(100)?;
        self.run(&mut self.backup(true))?;
        for turn in 0..self.options.runs {
            self.change(u64::try_from(turn)? + 101)?;
            self.measure_backup(records, Work::CrowdedIncremental)?;
        }
        for _ in 0..self.options.runs {
            let mut list = self.ours(true, &["recoverypoint", "list", "--item", "web"]);
            self.measure(records, ("strongroom", Work::CrowdedList), &mut list)?;
        }
        let mut list = self.ours(true, &["recoverypoint", "list"]);
        let other = self.options.work.join("other-cache");
        remove(&other)?;
        list.env("STRONGROOM_CACHE_DIR", &other);
        self.measure(records, ("strongroom", Work::CrowdedListAnew), &mut list)?;
        let mut reclaim = self.ours(true, &["vault", "reclaim"]);
        self.measure(records, ("strongroom", Work::Reclaim), &mut reclaim)?;
        self.run(&mut self.ours(false, &["vault", "verify", "--blind"])).map(drop)
    }

    fn restic_command(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command
            .args(arguments)
            .env("RESTIC_REPOSITORY", format!("s3:{endpoint}/lab/restic-{}", std::process::id()))
            .env("RESTIC_PASSWORD", "a password for the bench")
            .env("RESTIC_CACHE_DIR", self.options.work.join("restic-cache"));
        command
    }

    /// The peer's works.
    pub(crate) fn restic(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let (near, far) = (self.near_endpoint.clone(), format!("http://{}", self.far.address()));
        // The changes of another tool are in the first backup already.
        let turns = 10_000;
        self.change(turns)?;
        let backup = |endpoint: &str| {
            let mut command = self.restic_command(endpoint, &["backup"]);
            command.arg(&self.disk);
            command
        };
        self.run(&mut self.restic_command(&near, &["init"]))?;
        self.run(&mut backup(&near))?;
        self.change(turns + 1)?;
        self.run(&mut backup(&far))?;
        for turn in 0..self.options.runs {
            self.change(u64::try_from(turn)? + turns + 2)?;
            self.measure(records, ("restic", Work::Incremental), &mut backup(&far))?;
        }
        for _ in 0..self.options.runs {
            let mut list = self.restic_command(&far, &["snapshots"]);
            self.measure(records, ("restic", Work::List), &mut list)?;
        }
        for _ in 0..self.options.runs {
            let out = self.options.work.join("out");
            remove(&out)?;
            let mut restore = self.restic_command(&far, &["restore", "latest", "--target"]);
            self.measure(records, ("restic", Work::Restore), restore.arg(&out))?;
            self.compare(&out)?;
        }
        Ok(())
    }

    /// Fails unless the one file that was restored is the disk.
    fn compare(&self, out: &Path) -> Outcome<()> {
        let mut found = Vec::new();
        files(out, &mut found)?;
        let [file] = found.as_slice() else {
            return Err(Failure::new(format!("{} files were restored", found.len())));
        };
        let read = |path: &Path| -> Outcome<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(path)?.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        if read(file)? == read(&self.disk)? {
            return Ok(());
        }
        Err(Failure::new(format!("{} is not what was backed up", file.display())))
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Outcome<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
