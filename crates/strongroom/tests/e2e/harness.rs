//! A folder of its own for each test, with a key and a vault, and ways to run the program in it.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A test's folder.
pub(crate) struct Lab {
    dir: TempDir,
    /// Further environment variables of the program.
    environment: Vec<(String, String)>,
}

/// A finished run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lab {
    /// A folder with a key `key`, and a vault `vault` that the environment names.
    pub(crate) fn new() -> Self {
        let lab = Self::empty();
        lab.ok("vault key generate key");
        lab.ok("vault create");
        lab
    }

    /// A folder with nothing in it; the environment names a vault and a key that do not exist.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self { dir, environment: Vec::new() }
    }

    /// Sets an environment variable for the program.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The last value that was set.
    pub(crate) fn get(&self, name: &str) -> String {
        let mut set = self.environment.iter().rev();
        set.find(|(set, _)| set == name).expect("it was set").1.clone()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, to be run in this folder with nothing of the tester's own settings.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command
            .args(words.split_whitespace())
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .env("STRONGROOM_VAULT", "vault")
            .env("STRONGROOM_KEY_FILE", "key")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// A script of bash, to be run in this folder with the program's environment.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(self.dir.path()).env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub(crate) fn run(&self, words: &str) -> Run {
        Run::of(&self.command(words).output().expect("the program starts"))
    }

    /// Runs it; it must succeed.
    pub(crate) fn ok(&self, words: &str) -> Run {
        let run = self.run(words);
        assert_eq!(run.code, 0, "strongroom {words}\n{}{}", run.stdout, run.stderr);
        run
    }

    /// Runs it with `--output json`; it must succeed.
    pub(crate) fn json(&self, words: &str) -> Value {
        let run = self.ok(&format!("{words} --output json"));
        serde_json::from_str(&run.stdout).expect("JSON on standard output")
    }

    /// Runs it with `--output json`; it must fail like this. Returns the error object.
    pub(crate) fn fails(&self, words: &str, exit: i32, code: &str) -> Value {
        let run = self.run(&format!("{words} --output json"));
        assert_eq!(run.code, exit, "strongroom {words}\n{}{}", run.stdout, run.stderr);
        let start = run.stderr.find('{').expect("an error object on standard error");
        let error: Value = serde_json::from_str(&run.stderr[start..]).expect("JSON");
        let error = &error["error"];
        assert_eq!(error["code"], code, "strongroom {words}\n{error:#}");
        error.clone()
    }

    /// A disk image of so many MiB, the first `data` of them random, the rest a hole.
    pub(crate) fn disk(&self, name: &str, mib: u64, data: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        let mut file = File::create(&path).expect("a disk");
        file.write_all(&random(data << 20, seed)).expect("room for a disk");
        file.set_len(mib << 20).expect("room for a disk");
        path
    }

    /// Overwrites a part of a disk.
    pub(crate) fn change(&self, name: &str, offset: u64, length: u64, seed: u64) {
        let file = File::options().write(true).open(self.path(name)).expect("a disk");
        file.write_all_at(&random(length, seed), offset).expect("written");
    }

    /// A copy of a disk, to compare with later.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).expect("copied");
    }

    pub(crate) fn assert_same(&self, one: &str, other: &str) {
        let read = |name| fs::read(self.path(name)).expect("readable");
        // Not assert_eq: it would print both disks.
        assert!(read(one) == read(other), "{one} and {other} differ");
    }

    /// The names and sizes of all files of the vault.
    pub(crate) fn vault_files(&self) -> Vec<(PathBuf, u64)> {
        self.files("vault")
    }

    /// The names and sizes of all files below a folder; none if it does not exist.
    pub(crate) fn files(&self, folder: &str) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        walk(&self.path(folder), &mut files);
        files.sort();
        files
    }

    /// The ids of an item's points, oldest first.
    pub(crate) fn points(&self, item: &str) -> Vec<String> {
        let list = self.json(&format!("recoverypoint list --item {item}"));
        let points = list["recovery_points"].as_array().expect("an array");
        points.iter().map(|point| point["id"].as_str().expect("text").to_owned()).collect()
    }
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            // A program that a signal has ended has no exit code.
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn walk(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    if !folder.exists() {
        return;
    }
    for entry in fs::read_dir(folder).expect("readable") {
        let entry = entry.expect("readable");
        let meta = entry.metadata().expect("readable");
        if meta.is_dir() {
            walk(&entry.path(), files);
        } else {
            files.push((entry.path(), meta.len()));
        }
    }
}

/// Bytes that do not compress, the same for the same seed.
fn random(length: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = usize::try_from(length.div_ceil(8)).expect("fits");
    let mut bytes = Vec::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).expect("fits"));
    bytes
}

/// Whether a program is there; fails with the package that has it.
pub(crate) fn need(program: &str, package: &str) {
    let paths = std::env::var("PATH").unwrap_or_default();
    let found = paths.split(':').any(|dir| Path::new(dir).join(program).exists());
    assert!(found, "{program} is missing: apt-get install {package}, or scripts/install-tools");
}
