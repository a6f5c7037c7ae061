//! Strongroom itself, and the bare pipeline as its ceiling, run by turns so that both meet the same
//! machine.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use strongroom_bench::{
    Failure, Outcome,
    place::{drop_caches, remove},
    rng::Rng,
};

use crate::{
    measure::{Bench, Task},
    peers::empty_target,
    place::{Disk, SmallDisk, same_bytes},
    record::Cache,
};

/// Where the programs lie.
pub(crate) struct Programs {
    pub(crate) strongroom: PathBuf,
    /// The folder of the programs of this crate.
    pub(crate) own: PathBuf,
}

const TOOL: &str = "strongroom";
const CEILING: &str = "bare pipeline";
const WRITING: &str = "writing alone";

/// The commands of the product, for one bench.
pub(crate) struct Product<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) bench: &'a mut Bench,
}

impl Product<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.strongroom);
        command.args(words).arg("--vault").arg(self.bench.world.repository());
        command.arg("--key-file").arg(self.bench.scratch.join("key"));
        command
    }

    fn create(&self) -> Outcome<()> {
        self.bench.world.clear()?;
        let key = self.bench.scratch.join("key");
        if !key.exists() {
            let mut random = Rng::new(4);
            let words: Vec<String> = (0..4).map(|_| format!("{:016x}", random.bits())).collect();
            fs::write(&key, words.concat())?;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        }
        self.bench.quietly(self.command(&["vault", "create"])).map(|_| ())
    }

    fn backup(&self, disk: &Path, ranges: Option<&Path>) -> Command {
        let mut command = self.command(&["backup", "--output", "json", "--item", "bench"]);
        command.arg("--disk").arg(format!("root=raw:{}", disk.display()));
        if let Some(ranges) = ranges {
            // The peers' figures have no such check; what is published was measured without.
            command.arg("--changed-ranges").arg(ranges).args(["--check-clean", "none"]);
        }
        command
    }

    fn measure_backup(
        &mut self,
        work: &str,
        cache: Cache,
        disk: &Path,
        ranges: Option<&Path>,
    ) -> Outcome<()> {
        let command = self.backup(disk, ranges);
        self.bench.measure(&Task { tool: TOOL, work, cache, reads: disk, stores: true }, &command)
    }

    fn measure_restore(&mut self, work: &str, cache: Cache, disk: &Path) -> Outcome<()> {
        let to = empty_target(self.bench)?;
        let mut command = self.command(&["restore", "disks", "--item", "bench"]);
        command.args(["--recovery-point", "latest", "--to"]).arg(&to);
        let vault = self.bench.world.repository();
        self.bench
            .measure(&Task { tool: TOOL, work, cache, reads: &vault, stores: false }, &command)?;
        same_bytes(&to.join("root.raw"), disk)?;
        remove(&to)
    }

    /// Writes what a restore of the disk writes, and does nothing else: `dd`, past the page cache as the
    /// product, holes left out.
    fn measure_writing(&mut self, work: &str, disk: &Path) -> Outcome<()> {
        let to = empty_target(self.bench)?;
        let mut command = Command::new("dd");
        command.arg(format!("if={}", disk.display()));
        command.arg(format!("of={}", to.join("root.raw").display()));
        command.args(["bs=2M", "iflag=fullblock", "oflag=direct", "conv=sparse", "status=none"]);
        let cache = Cache::Warm;
        self.bench
            .measure(&Task { tool: WRITING, work, cache, reads: disk, stores: false }, &command)?;
        remove(&to)
    }

    /// One run of the bare pipeline; its output goes past the page cache, as the product's.
    fn measure_ceiling(
        &mut self,
        work: &str,
        cache: Cache,
        disk: &Path,
        ranges: Option<&Path>,
        output: bool,
    ) -> Outcome<()> {
        let file = self.bench.scratch.join("pipeline.out");
        remove(&file)?;
        let mut command = Command::new(self.programs.own.join("bench"));
        command.arg("bare-pipeline").arg(disk);
        if output {
            command.arg("--output").arg(&file);
        }
        if cache == Cache::Cold {
            command.arg("--direct-input");
        }
        if let Some(ranges) = ranges {
            command.arg("--ranges").arg(ranges);
        }
        let task = Task { tool: CEILING, work, cache, reads: disk, stores: false };
        self.bench.measure(&task, &command)?;
        remove(&file)
    }

    /// Everything on the machine's disk and the days after.
    pub(crate) fn machine(&mut self, disk: &mut Disk) -> Outcome<()> {
        let path = disk.path.clone();
        for cache in [Cache::Cold, Cache::Warm] {
            for _ in 0..self.bench.runs {
                self.measure_ceiling("full", cache, &path, None, true)?;
                self.create()?;
                self.measure_backup("full", cache, &path, None)?;
            }
        }
        self.measure_ceiling("full, no output", Cache::Warm, &path, None, false)?;
        self.bench.world.put_aside("day1")?;
        self.bench.world.take_up("day1")?;
        self.measure_recompression()?;

        for (day, work, before) in [(1, "day2", "day1"), (2, "day3", "day2")] {
            disk.go(day)?;
            let ranges = disk.ranges(day - 1)?;
            let known = format!("{work}, ranges known");
            for _ in 0..self.bench.runs {
                self.measure_ceiling(&known, Cache::Warm, &path, Some(&ranges), true)?;
                self.bench.world.take_up(before)?;
                self.measure_backup(&known, Cache::Warm, &path, Some(&ranges))?;
            }
            self.bench.world.take_up(before)?;
            self.measure_backup(&known, Cache::Cold, &path, Some(&ranges))?;
            self.bench.world.take_up(before)?;
            self.measure_backup(work, Cache::Cold, &path, None)?;
            for _ in 0..self.bench.runs {
                self.bench.world.take_up(before)?;
                self.measure_backup(work, Cache::Warm, &path, None)?;
            }
            remove(&self.bench.scratch.join(before))?;
            self.bench.world.put_aside(work)?;
        }
        self.bench.world.take_up("day3")?;
        for _ in 0..self.bench.runs {
            self.measure_writing("restore", &path)?;
            self.measure_restore("restore", Cache::Warm, &path)?;
        }
        self.measure_restore("restore", Cache::Cold, &path)?;
        disk.go(0)?;
        self.bench.world.end(&["day3"])
    }

    /// The first backup, compressed once more: how long it takes, and the bytes of the vault then.
    fn measure_recompression(&mut self) -> Outcome<()> {
        let command = self.command(&["vault", "reclaim", "--recompress", "--output", "json"]);
        let vault = self.bench.world.repository();
        let (work, cache) = ("full, recompressed", Cache::Warm);
        self.bench
            .measure(&Task { tool: TOOL, work, cache, reads: &vault, stores: false }, &command)?;
        let bytes = self.bench.world.repository_bytes()?;
        if let Some(record) = self.bench.records.0.last_mut() {
            record.added_bytes = Some(bytes);
        }
        Ok(())
    }

    /// Twice the disk, the same day of churn.
    pub(crate) fn double(&mut self, disk: &mut Disk) -> Outcome<()> {
        let path = disk.path.clone();
        disk.go(1)?;
        disk.double(&self.programs.own.join("bench"))?;
        self.create()?;
        self.measure_backup("full, double disk", Cache::Warm, &path, None)?;
        self.bench.world.put_aside("double")?;
        disk.go(2)?;
        let ranges = disk.ranges(1)?;
        for _ in 0..self.bench.runs {
            self.bench.world.take_up("double")?;
            self.measure_backup(
                "day3, ranges known, double disk",
                Cache::Warm,
                &path,
                Some(&ranges),
            )?;
        }
        disk.shrink()?;
        disk.go(0)?;
        drop_caches()?;
        self.bench.world.end(&["double"])
    }

    /// A backup of little, process and all.
    pub(crate) fn small(&mut self, disk: &SmallDisk) -> Outcome<()> {
        self.create()?;
        self.bench.quietly(self.backup(&disk.path, None))?;
        for turn in 0..SmallDisk::TURNS {
            disk.change(turn)?;
            self.measure_backup(SmallDisk::WORK, Cache::Warm, &disk.path, None)?;
        }
        self.bench.world.end(&[])
    }

    /// A disk that is one database, and a day of its churn.
    pub(crate) fn database(&mut self, disk: &mut Disk) -> Outcome<()> {
        let path = disk.path.clone();
        self.create()?;
        self.measure_backup("database full", Cache::Warm, &path, None)?;
        disk.go(1)?;
        let ranges = disk.ranges(0)?;
        self.measure_backup("database day", Cache::Warm, &path, Some(&ranges))?;
        disk.go(0)?;
        self.bench.world.end(&[])
    }

    /// A disk of text: how fast a restore is that the compressed bytes do not slow down.
    pub(crate) fn compressible(&mut self, bytes: u64) -> Outcome<()> {
        let path = self.bench.scratch.join("compressible.raw");
        remove(&path)?;
        let mut command = Command::new(self.programs.own.join("bench"));
        command.args(["generate", "log"]).arg(&path).arg(bytes.to_string()).arg("5");
        self.bench.quietly(command)?;
        fs::OpenOptions::new().write(true).open(&path)?.set_len(bytes)?;
        self.create()?;
        self.measure_backup("full, compressible", Cache::Warm, &path, None)?;
        for _ in 0..self.bench.runs {
            self.measure_restore("restore, compressible", Cache::Warm, &path)?;
        }
        remove(&path)?;
        self.bench.world.end(&[])
    }

    // --- A vault of 1 TB and 1,000 points -----------------------------------------------------------
    // `bench big-vault --scratch DIR --strongroom PROGRAM` generates the metadata of such a vault (no data) and
    // measures on it. It prints one JSON object with the numbers the report reads:
    //   open_warm_seconds         opening it with its index at hand
    //   open_rebuild_seconds      opening it with no index: from the packs' trailers
    //   index_ram_bytes           resident memory the open index takes
    //   stored_bytes              how much data the vault's packs would hold
    //   reclaim_seconds           a whole reclaim over all points

    /// Opening and reclaiming a vault of 1 TB and 1,000 points.
    pub(crate) fn big_vault(&mut self) -> Outcome<()> {
        self.bench.world.clear()?;
        let scratch = self.bench.world.repository();
        fs::create_dir_all(&scratch)?;
        let mut command = Command::new(self.programs.own.join("bench"));
        command.arg("big-vault").arg("--scratch").arg(&scratch);
        command.arg("--strongroom").arg(&self.programs.strongroom);
        let task = Task {
            tool: TOOL,
            work: "big vault",
            cache: Cache::Warm,
            reads: &scratch,
            stores: false,
        };
        self.bench.measure(&task, &command)?;
        if self.bench.records.0.last().is_some_and(|record| record.said.is_null()) {
            return Err(Failure::new("bench big-vault printed no JSON object"));
        }
        self.bench.world.end(&[])
    }
}
