//! What is measured: restores, exports and mounts of one disk, and what peers do.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom_base::SystemEntropy;
use strongroom_bench::{
    Failure, Outcome,
    place::{drop_caches, remove, tell},
};
use strongroom_keys::KeySource;
use strongroom_nbd::{
    client::{Connection, Contexts, Handshake, Payload, Request},
    proto,
};
use strongroom_objects::Folder;
use strongroom_testing::put_points;
use strongroom_vault::{Vault, VaultOptions};

use crate::Options;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// The whole disk to a file, in seconds.
    Restore,
    /// The whole disk read over NBD, in seconds.
    Export,
    /// The whole disk read from a mount, in seconds.
    Mount,
    /// From the start of the program to the first bytes, in seconds.
    FirstByte,
    /// Reads of 4 KiB at random places that were read before, a second.
    Random,
    /// The peak of resident memory, in bytes.
    Memory,
}

/// One run of a tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) tool: String,
    pub(crate) work: Work,
    pub(crate) value: f64,
}

/// The vault, and the repositories of peers.
pub(crate) struct Shop<'a> {
    options: &'a Options,
}

/// A command that runs until it is stopped.
struct Running(Child);

impl Running {
    /// Starts a command, and waits for a line of it.
    fn start(command: &mut Command) -> Outcome<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().ok_or_else(|| Failure::new("no output"))?;
        let running = Self(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        if line.is_empty() { Err(Failure::new("a command ended early")) } else { Ok(running) }
    }

    /// The peak of its resident memory.
    fn memory(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(kib.ok_or_else(|| Failure::new("no VmHWM"))? * 1024.0)
    }

    fn stop(mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that was stopped is gone.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn finished(command: &mut Command) -> Outcome<f64> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let seconds = began.elapsed().as_secs_f64();
    if output.status.success() {
        return Ok(seconds);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{}: {said}", command.get_program().display())))
}

/// Reads a file from its beginning to its end, as a copy of it would.
fn read_file(path: &Path) -> Outcome<f64> {
    let from = format!("if={}", path.display());
    finished(Command::new("dd").args([&from, "of=/dev/null", "bs=1M", "status=none"]))
}

impl<'a> Shop<'a> {
    pub(crate) fn open(options: &'a Options) -> Outcome<Self> {
        let shop = Self { options };
        for name in ["vault", "key", "cache", "restic", "borg", "mnt", "peer", "many", "s"] {
            remove(&shop.path(name))?;
        }
        fs::create_dir_all(shop.path("mnt"))?;
        fs::create_dir_all(shop.path("peer"))?;
        Ok(shop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.options.work.join(name)
    }

    fn strongroom(&self, vault: &str, words: &[&str]) -> Command {
        let mut command = Command::new(&self.options.strongroom);
        command
            .args(words)
            .env("STRONGROOM_VAULT", self.path(vault))
            .env("STRONGROOM_KEY_FILE", self.path("key"))
            .env("STRONGROOM_CACHE_DIR", self.path("cache"));
        command
    }

    fn restic(&self, words: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command
            .args(words)
            .env("RESTIC_REPOSITORY", self.path("restic"))
            .env("RESTIC_PASSWORD", "measured")
            .env("RESTIC_CACHE_DIR", self.path("cache/restic"));
        command
    }

    fn borg(&self, words: &[&str]) -> Command {
        let mut command = Command::new("borg");
        command
            .args(words)
            .env("BORG_REPO", self.path("borg"))
            .env("BORG_PASSPHRASE", "measured")
            .env("BORG_BASE_DIR", self.path("cache/borg"));
        command
    }

    fn add(records: &mut Vec<Record>, tool: &str, work: Work, value: f64) {
        tell(&format!("{tool} {work:?}: {value:.3}"));
        records.push(Record { tool: tool.to_owned(), work, value });
    }

    pub(crate) fn measure(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let key = self.path("key").display().to_string();
        let disk = self.options.disk.display().to_string();
        let named = format!("vda={disk}");
        finished(&mut self.strongroom("vault", &["vault", "key", "generate", &key]))?;
        finished(&mut self.strongroom("vault", &["vault", "create"]))?;
        finished(&mut self.strongroom("vault", &["backup", "--item", "web01", "--disk", &named]))?;
        finished(&mut self.restic(&["init"]))?;
        finished(&mut self.restic(&["backup", &disk]))?;
        finished(&mut self.borg(&["init", "--encryption", "repokey-blake2"]))?;
        finished(&mut self.borg(&["create", "--compression", "zstd,3", "::one", &disk]))?;
        for _ in 0..self.options.runs {
            self.restore(records)?;
            self.export(records)?;
            self.mount(records)?;
            self.restic_mount(records)?;
            self.borg_mount(records)?;
        }
        self.random(records)?;
        self.first_byte(records)
    }

    fn restore(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let to = self.path("out.raw");
        remove(&to)?;
        drop_caches()?;
        let named = format!("vda={}", to.display());
        let words =
            ["restore", "disks", "--item", "web01", "--recovery-point", "latest", "--to", &named];
        let seconds = finished(&mut self.strongroom("vault", &words))?;
        remove(&to)?;
        Self::add(records, "strongroom", Work::Restore, seconds);
        Ok(())
    }

    fn exported(&self, vault: &str) -> Command {
        let socket = self.path("s").display().to_string();
        let words =
            ["export", "--item", "web01", "--recovery-point", "latest", "--socket", &socket];
        self.strongroom(vault, &[&words[..], &["--output", "json"]].concat())
    }

    fn url(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path("s").display())
    }

    fn export(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let export = Running::start(&mut self.exported("vault"))?;
        drop_caches()?;
        let seconds = finished(Command::new("nbdcopy").args([&self.url(), "null:"]))?;
        Self::add(records, "strongroom", Work::Export, seconds);
        Self::add(records, "strongroom export", Work::Memory, export.memory()?);
        export.stop()
    }

    fn mount(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let folder = self.path("mnt").display().to_string();
        let words = ["mount", "disks", "--item", "web01", "--recovery-point", "latest", &folder];
        let mount = Running::start(&mut self.strongroom("vault", &words))?;
        drop_caches()?;
        let seconds = read_file(&self.path("mnt/vda.raw"))?;
        Self::add(records, "strongroom", Work::Mount, seconds);
        Self::add(records, "strongroom mount", Work::Memory, mount.memory()?);
        mount.stop()
    }

    /// Reads the disk from the mount of a peer, and unmounts it.
    fn peer(
        &self,
        records: &mut Vec<Record>,
        tool: &str,
        command: &mut Command,
        below: &str,
    ) -> Outcome<()> {
        let disk = self.options.disk.display().to_string();
        let file = self.path("peer").join(below).join(disk.trim_start_matches('/'));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let began = Instant::now();
        while !file.exists() {
            if began.elapsed() > Duration::from_mins(2) {
                child.kill()?;
                return Err(Failure::new(format!("{tool} did not mount {}", file.display())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop_caches()?;
        let seconds = read_file(&file)?;
        Self::add(records, tool, Work::Mount, seconds);
        finished(Command::new("umount").arg(self.path("peer")))?;
        child.wait()?;
        Ok(())
    }

    fn restic_mount(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let folder = self.path("peer").display().to_string();
        self.peer(records, "restic", &mut self.restic(&["mount", &folder]), "snapshots/latest")
    }

    fn borg_mount(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let folder = self.path("peer").display().to_string();
        let mut command = self.borg(&["mount", "--foreground", "::one", &folder]);
        self.peer(records, "borg", &mut command, "")
    }

    fn random(&self, records: &mut Vec<Record>) -> Outcome<()> {
        let export = Running::start(&mut self.exported("vault"))?;
        let uri = format!("--uri={}", self.url());
        for run in 0..=self.options.runs {
            let output = Command::new("fio")
                .args(["--name=random", "--ioengine=nbd", "--rw=randread", "--bs=4k"])
                .args(["--iodepth=32", "--size=64m", "--time_based", "--runtime=5"])
                .args(["--output-format=json", &uri])
                .output()?;
            // fio says a word before its document.
            let said = String::from_utf8_lossy(&output.stdout);
            let start = said.find('{').ok_or_else(|| Failure::new("fio says nothing"))?;
            let value: Value = serde_json::from_str(said.get(start..).unwrap_or_default())?;
            let rate = value.pointer("/jobs/0/read/iops").and_then(Value::as_f64);
            let rate = rate.ok_or_else(|| Failure::new("fio measured nothing"))?;
            // The first run brings the blocks into memory.
            if run > 0 {
                Self::add(records, "strongroom", Work::Random, rate);
            }
        }
        Self::add(records, "strongroom export", Work::Memory, export.memory()?);
        export.stop()
    }

    /// A vault of many points, and how long its newest takes to give its first bytes.
    fn first_byte(&self, records: &mut Vec<Record>) -> Outcome<()> {
        finished(&mut self.strongroom("many", &["vault", "create"]))?;
        {
            let store = Folder::open(&self.path("many"), Arc::new(SystemEntropy));
            let store = store.map_err(|error| Failure::new(error.to_string()))?;
            let key = KeySource::File(self.path("key"));
            let vault = Vault::open(Arc::new(store), &key, VaultOptions::default());
            let vault = Arc::new(vault.map_err(|error| Failure::new(error.to_string()))?);
            put_points(&vault, "others", 0..self.options.points);
        }
        let small = self.path("small.raw");
        fs::write(&small, strongroom_testing::noise(1, 32 << 20))?;
        let named = format!("vda={}", small.display());
        finished(&mut self.strongroom("many", &["backup", "--item", "web01", "--disk", &named]))?;
        remove(&small)?;
        for _ in 0..self.options.runs.max(5) {
            let began = Instant::now();
            let export = Running::start(&mut self.exported("many"))?;
            let stream = UnixStream::connect(self.path("s"))?;
            let wanted = Contexts { allocation: false, bitmap: None };
            let shake = Handshake::start(stream).and_then(|shake| shake.finish("vda", wanted));
            let (stream, found) = shake.map_err(Failure::new)?;
            let mut bytes = vec![0; 4096];
            let mut connection = Connection::new(stream, &found);
            let into = Payload::In(&mut bytes);
            let mut batch = [Request::new(proto::Command::Read, 0, 4096, into)];
            connection.run(&mut batch).map_err(Failure::new)?;
            Self::add(records, "strongroom", Work::FirstByte, began.elapsed().as_secs_f64());
            export.stop()?;
        }
        Ok(())
    }
}
