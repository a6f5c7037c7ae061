//! The tools that are compared, each used as its manual says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use strongroom_bench::{
    Outcome,
    place::{remove, tree_bytes},
};

use crate::{
    guest::NAME,
    host::{Host, run},
};

/// A tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Strongroom,
    Virtnbdbackup { compress: bool },
}

/// Ours.
pub(crate) const US: &str = "strongroom";
/// The peer as it comes.
pub(crate) const PEER: &str = "virtnbdbackup";
/// The peer, asked to compress.
pub(crate) const PEER_LZ4: &str = "virtnbdbackup -z";

/// All of them.
pub(crate) const TOOLS: [Tool; 3] = [
    Tool::Strongroom,
    Tool::Virtnbdbackup { compress: false },
    Tool::Virtnbdbackup { compress: true },
];

impl Tool {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Strongroom => US,
            Self::Virtnbdbackup { compress: false } => PEER,
            Self::Virtnbdbackup { compress: true } => PEER_LZ4,
        }
    }
}

/// A tool with a repository.
pub(crate) struct Shop<'a> {
    pub(crate) tool: Tool,
    pub(crate) host: &'a Host,
    pub(crate) strongroom: &'a Path,
    /// A folder on the disk that all is on.
    pub(crate) folder: PathBuf,
}

impl Shop<'_> {
    fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    fn target(&self) -> PathBuf {
        self.folder.join("restored")
    }

    fn strongroom(&self, words: &[&str]) -> Command {
        let mut command = self.host.command(self.strongroom);
        command
            .args(words)
            .env("STRONGROOM_VAULT", self.repository())
            .env("STRONGROOM_KEY_FILE", self.folder.join("key"));
        command
    }

    /// A program of the peer. It takes no URI with a socket's name without a password, and libvirt gives
    /// root no session: so it runs where root has another number, as the daemon does.
    fn peer(&self, program: &str) -> Command {
        let mut command = self.host.command(Path::new("unshare"));
        command.args(["--user", "--map-user=1000", "--map-group=1000", "--", program]);
        command.args(["-U", "qemu:///session"]);
        command
    }

    /// Begins with an empty repository.
    pub(crate) fn empty(&self) -> Outcome<()> {
        remove(&self.repository())?;
        remove(&self.folder.join("key"))?;
        fs::create_dir_all(self.folder.join("scratch"))?;
        if self.tool == Tool::Strongroom {
            let key = self.folder.join("key").display().to_string();
            run(&mut self.strongroom(&["vault", "key", "generate", &key]))?;
            run(&mut self.strongroom(&["vault", "create"]))?;
        }
        Ok(())
    }

    /// Bytes of all files of the repository.
    pub(crate) fn stored(&self) -> Outcome<u64> {
        if self.repository().exists() { tree_bytes(&self.repository()) } else { Ok(0) }
    }

    /// The next backup, `full` if the repository is empty.
    pub(crate) fn backup(&self, full: bool) -> Command {
        match self.tool {
            Tool::Strongroom => self.strongroom(&["backup", "--vm", NAME, "--output", "json"]),
            Tool::Virtnbdbackup { compress } => {
                let mut command = self.peer("virtnbdbackup");
                let level = if full { "full" } else { "inc" };
                command.args(["-d", NAME, "-l", level, "-n", "-o"]);
                command.arg(self.repository()).arg("-S").arg(self.folder.join("scratch"));
                command.arg("-f").arg(self.host.dir.join("nbd"));
                if compress {
                    command.arg("-z");
                }
                command
            }
        }
    }

    /// A first backup that does not freeze the guest; of Strongroom only.
    pub(crate) fn backup_unfrozen(&self) -> Command {
        let mut command = self.backup(true);
        command.args(["--consistency", "crash"]);
        command
    }

    /// The restore of the newest point to qcow2 images, into a folder that is made anew.
    pub(crate) fn restore(&self) -> Outcome<Command> {
        remove(&self.target())?;
        fs::create_dir_all(self.target())?;
        let target = self.target().display().to_string();
        Ok(match self.tool {
            Tool::Strongroom => {
                let words = ["restore", "disks", "--item", NAME, "--recovery-point", "latest"];
                let mut command = self.strongroom(&words);
                command.args(["--to", &target, "--format", "qcow2", "--output", "json"]);
                command
            }
            Tool::Virtnbdbackup { .. } => {
                let mut command = self.peer("virtnbdrestore");
                command.args(["-n", "-i"]).arg(self.repository());
                command.args(["-o", &target, "-f"]).arg(self.host.dir.join("nbd"));
                command.arg("-L").arg(self.folder.join("restore.log"));
                command
            }
        })
    }

    /// The restored image of a disk.
    pub(crate) fn restored(&self, disk: &str) -> PathBuf {
        self.target().join(format!("{disk}.qcow2"))
    }

    /// What the repository is read from by a restore.
    pub(crate) fn source(&self) -> PathBuf {
        self.repository()
    }

    /// Bytes of disks that the tool says it has read.
    pub(crate) fn said_read(&self, printed: &str, log: &str) -> Option<u64> {
        match self.tool {
            Tool::Strongroom => {
                let report: Value = serde_json::from_str(printed).ok()?;
                let disks = report.get("disks")?.as_array()?;
                disks.iter().map(|disk| disk.get("read_bytes")?.as_u64()).sum()
            }
            Tool::Virtnbdbackup { .. } => {
                let lines = log.lines().filter_map(|line| {
                    let count = line.split(" bytes of data extents to backup").next();
                    count.filter(|count| count.len() < line.len())?.rsplit(' ').next()
                });
                let counts: Vec<u64> = lines.filter_map(|count| count.parse().ok()).collect();
                (!counts.is_empty()).then(|| counts.iter().sum())
            }
        }
    }
}
