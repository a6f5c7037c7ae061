//! restic, borg and qemu-img, each used as its manual says, on the same disks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use strongroom_bench::{
    Outcome,
    place::{drop_caches, remove},
};

use crate::{
    measure::{Bench, Task},
    place::{Disk, SmallDisk, same_bytes},
    record::Cache,
};

/// A peer that keeps versions in a repository.
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    Restic,
    /// Borg with the given compression, or its own default.
    Borg(Option<&'static str>),
}

const SECRET: &str = "a benchmark's secret";

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Borg(Some(_)) => "borg zstd,1",
            Self::Borg(None) => "borg",
        }
    }

    fn program(self) -> Command {
        match self {
            Self::Restic => {
                let mut command = Command::new("restic");
                command.env("RESTIC_PASSWORD", SECRET).arg("--quiet");
                command
            }
            Self::Borg(_) => {
                let mut command = Command::new("borg");
                command.env("BORG_PASSPHRASE", SECRET);
                command
            }
        }
    }

    fn create(self, bench: &Bench) -> Outcome<()> {
        bench.world.clear()?;
        let repository = bench.world.repository();
        let mut command = self.program();
        match self {
            Self::Restic => command.arg("init").arg("--repo").arg(repository),
            Self::Borg(_) => command.args(["init", "--encryption", "repokey"]).arg(repository),
        };
        bench.quietly(command).map(|_| ())
    }

    fn backup(self, bench: &Bench, disk: &Path, day: &str) -> Command {
        let repository = bench.world.repository();
        let mut command = self.program();
        match self {
            Self::Restic => command.arg("backup").arg("--repo").arg(repository).arg(disk),
            Self::Borg(compression) => {
                command.arg("create");
                if let Some(compression) = compression {
                    command.args(["--compression", compression]);
                }
                command.arg(format!("{}::{day}", repository.display())).arg(disk)
            }
        };
        command
    }

    fn restore(self, bench: &Bench, day: &str, to: &Path) -> Command {
        let repository = bench.world.repository();
        let mut command = self.program();
        match self {
            Self::Restic => command
                .arg("restore")
                .arg("--repo")
                .arg(repository)
                .args(["latest", "--target"])
                .arg(to),
            Self::Borg(_) => command
                .args(["extract", "--sparse"])
                .arg(format!("{}::{day}", repository.display()))
                .current_dir(to),
        };
        command
    }
}

/// Full backup, a working day, a quiet day, and the last day restored.
pub(crate) fn machine(
    bench: &mut Bench,
    peer: Peer,
    disk: &mut Disk,
    everything: bool,
) -> Outcome<()> {
    let path = disk.path.clone();
    let full = |cache| Task { tool: peer.name(), work: "full", cache, reads: &path, stores: true };
    if everything {
        peer.create(bench)?;
        let command = peer.backup(bench, &path, "day1");
        bench.measure(&full(Cache::Cold), &command)?;
    }
    for _ in 0..bench.peer_runs {
        peer.create(bench)?;
        let command = peer.backup(bench, &path, "day1");
        bench.measure(&full(Cache::Warm), &command)?;
    }
    for (day, work) in [(1, "day2"), (2, "day3")] {
        disk.go(day)?;
        let command = peer.backup(bench, &path, work);
        bench.measure(&Task { work, ..full(Cache::Warm) }, &command)?;
    }
    if everything {
        let repository = bench.world.repository();
        let task = Task { work: "restore", reads: &repository, stores: false, ..full(Cache::Warm) };
        let to = empty_target(bench)?;
        let command = peer.restore(bench, "day3", &to);
        bench.measure(&task, &command)?;
        let relative = path.strip_prefix("/").unwrap_or(&path);
        same_bytes(&to.join(relative), &path)?;
        remove(&to)?;
    }
    disk.go(0)?;
    bench.world.end(&[])
}

/// An empty folder to restore to.
pub(crate) fn empty_target(bench: &Bench) -> Outcome<PathBuf> {
    let to = bench.scratch.join("restored");
    remove(&to)?;
    fs::create_dir_all(&to)?;
    Ok(to)
}

/// A backup of little, process and all.
pub(crate) fn small(bench: &mut Bench, peer: Peer, disk: &SmallDisk) -> Outcome<()> {
    peer.create(bench)?;
    bench.quietly(peer.backup(bench, &disk.path, "first"))?;
    for turn in 0..SmallDisk::TURNS {
        disk.change(turn)?;
        let command = peer.backup(bench, &disk.path, &format!("turn{turn}"));
        let task = Task {
            tool: peer.name(),
            work: SmallDisk::WORK,
            cache: Cache::Warm,
            reads: &disk.path,
            stores: true,
        };
        bench.measure(&task, &command)?;
    }
    bench.world.end(&[])
}

/// A disk that is one database, and a day of its churn.
pub(crate) fn database(bench: &mut Bench, peer: Peer, disk: &mut Disk) -> Outcome<()> {
    let path = disk.path.clone();
    peer.create(bench)?;
    for (day, work) in [(0, "database full"), (1, "database day")] {
        disk.go(day)?;
        let command = peer.backup(bench, &path, work.replace(' ', "-").as_str());
        let task = Task { tool: peer.name(), work, cache: Cache::Warm, reads: &path, stores: true };
        bench.measure(&task, &command)?;
    }
    disk.go(0)?;
    bench.world.end(&[])
}

/// qemu-img has no repository, no encryption and no incremental: a full conversion there and back.
pub(crate) fn qemu_img(bench: &mut Bench, disk: &Disk) -> Outcome<()> {
    for cache in [Cache::Cold, Cache::Warm] {
        bench.world.clear()?;
        let folder = bench.world.repository();
        fs::create_dir_all(&folder)?;
        let packed = folder.join("disk.qcow2");
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"]);
        command.arg(&disk.path).arg(&packed);
        let task = Task { tool: "qemu-img", work: "full", cache, reads: &disk.path, stores: true };
        bench.measure(&task, &command)?;
    }
    let packed = bench.world.repository();
    let to = empty_target(bench)?;
    let restored = to.join("disk.raw");
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "qcow2", "-O", "raw"]);
    command.arg(packed.join("disk.qcow2")).arg(&restored);
    let task = Task {
        tool: "qemu-img",
        work: "restore",
        cache: Cache::Warm,
        reads: &packed,
        stores: false,
    };
    bench.measure(&task, &command)?;
    same_bytes(&restored, &disk.path)?;
    remove(&to)?;
    drop_caches()?;
    bench.world.end(&[])
}
