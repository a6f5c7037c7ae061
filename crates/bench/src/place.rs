//! Where measuring happens: folders, the page cache, and runs of whole processes.

use std::{
    fs::{self, File, OpenOptions},
    io::{IoSliceMut, Write, stderr},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::io::{Errno, ReadWriteFlags};
use serde::{Deserialize, Serialize};

use crate::{
    Failure, Outcome,
    image::{extents, open, pieces},
};

/// Deletes a folder or file, if it is there.
pub fn remove(path: &Path) -> Outcome<()> {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::at(path)(error)),
        _ => Ok(()),
    }
}

/// Bytes of all files below a folder.
pub fn tree_bytes(path: &Path) -> Outcome<u64> {
    let metadata = fs::symlink_metadata(path).map_err(Failure::at(path))?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    fs::read_dir(path)?.map(|entry| tree_bytes(&entry?.path())).sum()
}

/// Empties the page cache.
pub fn drop_caches() -> Outcome<()> {
    rustix::fs::sync();
    let path = Path::new("/proc/sys/vm/drop_caches");
    let mut file = OpenOptions::new().write(true).open(path).map_err(Failure::at(path))?;
    file.write_all(b"3\n").map_err(Failure::at(path))
}

/// Reads the data of a file, or of all files of a folder, until the page cache holds it. Once is not
/// always enough: a kernel may give up pages that were just read, as if memory were scarce.
pub fn read_into_cache(path: &Path) -> Outcome<()> {
    const ROUNDS: usize = 6;
    let mut files = Vec::new();
    files_below(path, &mut files)?;
    let (mut total, mut missed) = (0_u64, 0_u64);
    for _ in 0..ROUNDS {
        (total, missed) = (0, 0);
        for file in &files {
            let file = open(file, false)?;
            let mut buffer = vec![0; 1 << 20];
            for piece in pieces(&extents(&file)?, 1 << 20) {
                buffer.resize(usize::try_from(piece.len)?, 0);
                let there = read_if_cached(&file, piece.offset, &mut buffer)?;
                total += piece.len;
                missed += piece.len - u64::try_from(there)?;
                if let Some(rest) = buffer.get_mut(there..).filter(|rest| !rest.is_empty()) {
                    file.read_exact_at(rest, piece.offset + u64::try_from(there)?)?;
                }
            }
        }
        if missed <= total / 1000 {
            return Ok(());
        }
    }
    let (missed, total) = (missed >> 20, total >> 20);
    tell(&format!("the page cache lacks {missed} of {total} MiB of {}", path.display()));
    Ok(())
}

fn files_below(path: &Path, files: &mut Vec<PathBuf>) -> Outcome<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        files_below(&entry?.path(), files)?;
    }
    Ok(())
}

/// Reads what the page cache has from `offset` on, without a gap; how many bytes that is.
fn read_if_cached(file: &File, offset: u64, buffer: &mut [u8]) -> Outcome<usize> {
    let slices = &mut [IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(std::io::Error::from(error).into()),
    }
}

/// Waits until all that was written to the file system of a folder is on its disk.
pub fn wait_for_disk(folder: &Path) -> Outcome<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?).map_err(std::io::Error::from)?)
}

/// A command that runs `command` and writes its processor time and memory to the file `times`.
pub fn timed(command: &Command, times: &Path) -> Command {
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["--quiet", "--format", "%U %S %M", "--output"]).arg(times);
    timed.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            timed.env(name, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        timed.current_dir(folder);
    }
    timed
}

/// What [`timed`] has written: user and system time together, and the peak of resident memory.
pub fn read_times(path: &Path) -> Outcome<(f64, u64)> {
    let text = fs::read_to_string(path).map_err(Failure::at(path))?;
    let last = text.lines().last().unwrap_or_default();
    let numbers: Vec<f64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    let kilobytes: Option<u64> = last.rsplit(' ').next().and_then(|word| word.parse().ok());
    match (numbers.as_slice(), kilobytes) {
        ([user, system, _], Some(kilobytes)) => Ok((user + system, kilobytes * 1024)),
        _ => Err(Failure::new(format!("/usr/bin/time said: {text}"))),
    }
}

/// Tells the person who waits.
pub fn tell(line: &str) {
    // Progress that nobody can read is no reason to stop.
    drop(writeln!(stderr(), "{line}"));
}

/// How much of the processor others use, over three seconds.
pub fn busy_percent() -> Outcome<u64> {
    let counters = || -> Outcome<(u64, u64)> {
        let text = fs::read_to_string("/proc/stat")?;
        let ticks: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        // user nice system idle iowait ...
        Ok((ticks.iter().skip(3).take(2).sum(), ticks.iter().sum()))
    };
    let (idle, all) = counters()?;
    Command::new("sleep").arg("3").status()?;
    let (idle_after, all_after) = counters()?;
    let all = all_after.saturating_sub(all).max(1);
    Ok(100 - (idle_after.saturating_sub(idle) * 100 / all).min(100))
}

/// The first line of what a program prints; nothing if it cannot be run.
pub fn first_line(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}

/// What a reader of figures needs to know of the machine that they are of.
#[derive(Debug, Serialize, Deserialize)]
pub struct ThisHost {
    /// Today.
    pub date: String,
    /// The kind of processor.
    pub processor: String,
    /// How many of them may be used.
    pub cores: usize,
    /// Memory.
    pub memory_gib: u64,
    /// Version of Linux.
    pub kernel: String,
}

/// The machine that this runs on.
pub fn this_host() -> Outcome<ThisHost> {
    let information = fs::read_to_string("/proc/cpuinfo")?;
    let processor = information
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let memory: u64 = fs::read_to_string("/proc/meminfo")?
        .split_whitespace()
        .nth(1)
        .ok_or_else(|| Failure::new("/proc/meminfo says nothing"))?
        .parse()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(ThisHost {
        date: first_line("date", "--iso-8601"),
        processor: processor.to_owned(),
        cores: std::thread::available_parallelism()?.get(),
        memory_gib: (memory + (1 << 19)) >> 20,
        kernel: kernel.split('-').next().unwrap_or_default().to_owned(),
    })
}
