//! Where measuring happens: the disk and its days, the folder a tool works in, the page cache.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use strongroom_bench::{
    Failure, Outcome,
    image::{self, extents, open},
    place::{remove, tree_bytes},
    rng::Rng,
};

/// One disk image that is taken from day to day by patches.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    size: u64,
    days: Vec<PathBuf>,
    day: usize,
}

impl Disk {
    /// The disk at `path` on its first day, whatever an interrupted run left it as. `days` are the
    /// patches' prefixes.
    pub(crate) fn open(path: PathBuf, size: u64, days: Vec<PathBuf>) -> Outcome<Self> {
        let mut disk = Self { path, size, days, day: 0 };
        if disk.marker().exists() {
            // Going back is right from any state: what a patch did not touch it does not touch.
            disk.day = disk.days.len();
            disk.shrink()?;
            disk.go(0)?;
        }
        Ok(disk)
    }

    /// A disk's size and its days, from how it lies there untouched.
    pub(crate) fn with_days(images: &Path, name: &str, days: &[&str]) -> Outcome<Self> {
        let path = images.join(name);
        let sizes = images.join(format!("{name}.size"));
        if !sizes.exists() {
            let size = fs::metadata(&path).map_err(Failure::at(&path))?.len();
            fs::write(&sizes, size.to_string())?;
        }
        let size = fs::read_to_string(&sizes)?.trim().parse()?;
        Self::open(path, size, days.iter().map(|day| images.join(day)).collect())
    }

    fn marker(&self) -> PathBuf {
        self.path.with_extension("moved")
    }

    /// Takes the disk to a day; 0 is the first.
    pub(crate) fn go(&mut self, day: usize) -> Outcome<()> {
        fs::write(self.marker(), "not on its first day\n")?;
        while self.day < day {
            self.apply(self.day, "forward")?;
            self.day += 1;
        }
        while self.day > day {
            self.day -= 1;
            self.apply(self.day, "back")?;
        }
        if self.day == 0 && fs::metadata(&self.path)?.len() == self.size {
            fs::remove_file(self.marker())?;
        }
        Ok(())
    }

    fn apply(&self, day: usize, direction: &str) -> Outcome<()> {
        let prefix = self.days.get(day).ok_or_else(|| Failure::new("the disk has no such day"))?;
        image::apply(&self.path, prefix, direction)
    }

    /// The changed ranges of the day that starts at `day`.
    pub(crate) fn ranges(&self, day: usize) -> Outcome<PathBuf> {
        let prefix = self.days.get(day).ok_or_else(|| Failure::new("the disk has no such day"))?;
        Ok(prefix.with_extension("ranges"))
    }

    /// Makes the disk twice as large; the second half gets as much data as the first has.
    pub(crate) fn double(&self, bench: &Path) -> Outcome<()> {
        fs::write(self.marker(), "doubled\n")?;
        let data: u64 = extents(&open(&self.path, false)?)?.iter().map(|extent| extent.len).sum();
        let mut command = Command::new(bench);
        command.arg("generate");
        command.arg("log").arg(&self.path).arg(data.to_string()).arg("77");
        if !command.status()?.success() {
            return Err(Failure::new("bench could not double the disk"));
        }
        let disk = OpenOptions::new().write(true).open(&self.path)?;
        disk.set_len(self.size * 2)?;
        Ok(disk.sync_all()?)
    }

    /// Takes the second half away again.
    pub(crate) fn shrink(&self) -> Outcome<()> {
        let disk =
            OpenOptions::new().write(true).open(&self.path).map_err(Failure::at(&self.path))?;
        disk.set_len(self.size)?;
        Ok(disk.sync_all()?)
    }
}

/// A disk of 4 MiB of noise.
pub(crate) struct SmallDisk {
    pub(crate) path: PathBuf,
}

impl SmallDisk {
    /// Backups of it: what they take differs more than what long ones take.
    pub(crate) const TURNS: u64 = 11;
    const LEN: usize = 4 << 20;
    const CHANGE: usize = 64 << 10;
    /// What a backup has to store at least: the change is noise.
    pub(crate) const CHANGED_BYTES: u64 = 64 << 10;
    /// What its backups are called.
    pub(crate) const WORK: &str = "small disk";

    pub(crate) fn new(scratch: &Path) -> Outcome<Self> {
        let path = scratch.join("small.raw");
        let mut bytes = vec![0; Self::LEN];
        Rng::new(41).fill(&mut bytes);
        fs::write(&path, bytes)?;
        Ok(Self { path })
    }

    /// Changes 64 KiB of it, of another place and to other noise in each turn.
    pub(crate) fn change(&self, turn: u64) -> Outcome<()> {
        let places = u64::try_from(Self::LEN / Self::CHANGE)?;
        let mut bytes = vec![0; Self::CHANGE];
        Rng::new(turn + 42).fill(&mut bytes);
        let disk = OpenOptions::new().write(true).open(&self.path)?;
        disk.write_all_at(&bytes, turn * 5 % places * u64::try_from(Self::CHANGE)?)?;
        Ok(disk.sync_all()?)
    }
}

/// The folder one tool works in: its repository and its home, always at the same path, with copies put
/// aside so that an incremental can be measured several times from the same start.
pub(crate) struct World {
    scratch: PathBuf,
}

impl World {
    pub(crate) fn new(scratch: &Path) -> Self {
        Self { scratch: scratch.to_owned() }
    }

    fn live(&self) -> PathBuf {
        self.scratch.join("live")
    }

    /// The tool's repository.
    pub(crate) fn repository(&self) -> PathBuf {
        self.live().join("repository")
    }

    /// The tool's home: its caches and configuration.
    pub(crate) fn home(&self) -> PathBuf {
        self.live().join("home")
    }

    /// Starts with nothing.
    pub(crate) fn clear(&self) -> Outcome<()> {
        remove(&self.live())?;
        Ok(fs::create_dir_all(self.home())?)
    }

    /// Puts what there is aside under `name`.
    pub(crate) fn put_aside(&self, name: &str) -> Outcome<()> {
        let aside = self.scratch.join(name);
        remove(&aside)?;
        fs::rename(self.live(), &aside).map_err(Failure::at(&aside))
    }

    /// Starts with what was put aside. Large files of the repository, which no tool changes in place,
    /// are shared with it.
    pub(crate) fn take_up(&self, name: &str) -> Outcome<()> {
        remove(&self.live())?;
        copy_tree(&self.scratch.join(name), &self.live(), false)
    }

    /// Deletes everything.
    pub(crate) fn end(&self, names: &[&str]) -> Outcome<()> {
        for name in names {
            remove(&self.scratch.join(name))?;
        }
        remove(&self.live())
    }

    /// Bytes of all files of the repository.
    pub(crate) fn repository_bytes(&self) -> Outcome<u64> {
        tree_bytes(&self.repository())
    }
}

fn copy_tree(from: &Path, to: &Path, share: bool) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).map_err(Failure::at(from))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target, share || entry.file_name() == "repository")?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if share && entry.metadata()?.len() >= 1 << 20 {
            fs::hard_link(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Fails unless two files have the same bytes.
pub(crate) fn same_bytes(one: &Path, other: &Path) -> Outcome<()> {
    let status = Command::new("cmp").arg("--").arg(one).arg(other).status()?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{} was not restored as it was", one.display())))
}
