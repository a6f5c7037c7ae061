//! What is measured: pages over HTTP, snapshots and differences, disks over NBD.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom_base::{Clock as _, SystemClock};
use strongroom_bench::{
    Failure, Outcome,
    figures::{median, number},
    place::tell,
    rng::Rng,
};

use crate::{
    client::{Account, Connection},
    servers::Server,
};

/// The blob that is read and written.
const BLOB: &str = "/bench/disk.vhd";
/// Its size.
const SIZE: u64 = 1 << 30;
/// The blob of differences, and the largest page blob but three.
const HUGE: u64 = 1 << 40;

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) tool: String,
    pub(crate) work: String,
    /// Requests or answers for each second, milliseconds, or mebibytes for each second: see `unit`.
    pub(crate) value: f64,
    pub(crate) unit: String,
    /// The latency that 99 of 100 requests keep, in milliseconds.
    pub(crate) p99_ms: Option<f64>,
}

impl Record {
    pub(crate) fn new(tool: &str, work: &str, value: f64, unit: &str) -> Self {
        let (tool, work, unit) = (tool.to_owned(), work.to_owned(), unit.to_owned());
        Self { tool, work, value, unit, p99_ms: None }
    }
}

/// A kind of request on pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    Put,
    Get,
}

/// Every kind, size of requests, and number of connections.
pub(crate) fn page_works() -> impl Iterator<Item = (Pages, usize, usize)> {
    let kinds = [Pages::Put, Pages::Get];
    kinds.into_iter().flat_map(|kind| {
        [(4 << 10, 1), (4 << 10, 32), (4 << 20, 1), (4 << 20, 32)]
            .map(|(bytes, connections)| (kind, bytes, connections))
    })
}

/// The name of a work on pages.
pub(crate) fn page_work(kind: Pages, bytes: usize, connections: usize) -> String {
    let kind = if kind == Pages::Put { "Put Page" } else { "Get Blob" };
    let size = if bytes >= 1 << 20 { "4 MiB" } else { "4 KiB" };
    format!("{kind} {size}, {connections} at once")
}

/// What one connection does again and again.
type Step<'a> = Box<dyn FnMut(u64) -> Outcome<()> + Send + 'a>;

/// Repeats steps on so many threads for some seconds; counts and latencies of all.
fn repeat<'a>(
    connections: usize,
    seconds: u64,
    open: impl Fn(usize) -> Outcome<Step<'a>>,
) -> Outcome<(f64, f64)> {
    let stop = AtomicBool::new(false);
    let steps: Vec<Step<'a>> = (0..connections).map(open).collect::<Outcome<_>>()?;
    let begun = Instant::now();
    let all = thread::scope(|scope| {
        let workers: Vec<_> = steps
            .into_iter()
            .zip(0_u64..)
            .map(|(mut step, seed)| {
                let stop = &stop;
                scope.spawn(move || -> Outcome<Vec<f64>> {
                    let mut rng = Rng::new(seed + 1);
                    let mut times = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        step(rng.bits())?;
                        times.push(start.elapsed().as_secs_f64());
                    }
                    Ok(times)
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let join = |worker: thread::ScopedJoinHandle<'_, Outcome<Vec<f64>>>| {
            worker.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked")))
        };
        workers.into_iter().map(join).collect::<Outcome<Vec<_>>>()
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    let mut times = all.concat();
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or(0.0);
    Ok((number(u64::try_from(times.len())?) / elapsed, p99 * 1000.0))
}

/// Bytes that do not repeat.
fn noise(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    Rng::new(7).fill(&mut data);
    data
}

/// A place in a file of 1 GiB for so many bytes.
fn place(random: u64, bytes: usize) -> u64 {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    random % (SIZE / bytes) * bytes
}

fn page_record(
    tool: &str,
    (kind, bytes, connections): (Pages, usize, usize),
    (rate, p99): (f64, f64),
) -> Outcome<Record> {
    let work = page_work(kind, bytes, connections);
    let large = bytes >= 1 << 20;
    let value = if large { rate * number(u64::try_from(bytes)?) / 1_048_576.0 } else { rate };
    let unit = if large { "MiB/s" } else { "/s" };
    let record = Record { p99_ms: Some(p99), ..Record::new(tool, &work, value, unit) };
    tell(&format!("{tool}: {work}: {value:.0} {unit}, p99 {p99:.1} ms"));
    Ok(record)
}

/// Pages over HTTP.
pub(crate) fn pages(tool: &str, account: &Account, seconds: u64) -> Outcome<Vec<Record>> {
    let mut connection = account.connect()?;
    connection.container("bench")?;
    connection.create(BLOB, SIZE)?;
    let chunk = noise(4 << 20);
    // Everything is there before it is read.
    for offset in (0..SIZE).step_by(4 << 20) {
        connection.put(BLOB, offset, &chunk)?;
    }
    let mut records = Vec::new();
    for work in page_works() {
        let (kind, bytes, connections) = work;
        let data = chunk.get(..bytes).unwrap_or_default();
        let done = repeat(connections, seconds, |_| {
            let mut connection = account.connect()?;
            Ok(Box::new(move |random| {
                let offset = place(random, bytes);
                match kind {
                    Pages::Put => connection.put(BLOB, offset, data),
                    Pages::Get => match connection.get(BLOB, offset, bytes)?.len() {
                        read if read == bytes => Ok(()),
                        read => Err(Failure::new(format!("{read} bytes instead of {bytes}"))),
                    },
                }
            }))
        })?;
        records.push(page_record(tool, work, done)?);
    }
    Ok(records)
}

/// The same on a raw file: a write is followed by `fdatasync`, as an answer of 2xx promises.
pub(crate) fn raw_file(work_dir: &Path, seconds: u64) -> Outcome<Vec<Record>> {
    let path = work_dir.join("raw-pages.img");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    let chunk = noise(4 << 20);
    for offset in (0..SIZE).step_by(4 << 20) {
        file.write_all_at(&chunk, offset)?;
    }
    file.sync_all()?;
    let mut records = Vec::new();
    for work in page_works() {
        let (kind, bytes, connections) = work;
        let (file, chunk) = (&file, &chunk);
        let done = repeat(connections, seconds, |_| {
            let mut buffer = vec![0; bytes];
            Ok(Box::new(move |random| {
                let offset = place(random, bytes);
                if kind == Pages::Get {
                    return Ok(file.read_exact_at(&mut buffer, offset)?);
                }
                file.write_all_at(chunk.get(..bytes).unwrap_or_default(), offset)?;
                Ok(file.sync_data()?)
            }))
        })?;
        records.push(page_record("raw file", work, done)?);
    }
    std::fs::remove_file(&path)?;
    Ok(records)
}

/// The median of some tries, in milliseconds.
fn milliseconds(tries: usize, mut work: impl FnMut(usize) -> Outcome<()>) -> Outcome<f64> {
    let mut times = Vec::new();
    for index in 0..tries {
        let start = Instant::now();
        work(index)?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    median(times).ok_or_else(|| Failure::new("nothing was tried"))
}

/// Snapshots of blobs of several sizes, and differences.
pub(crate) fn snapshots(tool: &str, account: &Account) -> Outcome<Vec<Record>> {
    let mut connection = account.connect()?;
    let mut records = Vec::new();
    let mut note = |work: String, value: f64| {
        tell(&format!("{tool}: {work}: {value:.2} ms"));
        records.push(Record::new(tool, &work, value, "ms"));
    };
    let chunk = noise(4 << 20);
    for (size, words) in [(1_u64 << 30, "1 GiB"), (64 << 30, "64 GiB"), (HUGE, "1 TiB")] {
        let path = format!("/bench/snapshots-{}", size >> 30);
        connection.create(&path, size)?;
        // The same pages in each, spread over the blob.
        for index in 0..64 {
            connection.put(&path, index * (size / 64), &chunk)?;
        }
        // A page changes between two snapshots, as in life.
        let took = milliseconds(9, |index| {
            connection.put(&path, u64::try_from(index)? * 4096, &[1; 512])?;
            Ok(())
        })?;
        let both = milliseconds(9, |index| {
            connection.put(&path, u64::try_from(index)? * 4096, &[2; 512])?;
            connection.snapshot(&path).map(drop)
        })?;
        note(format!("snapshot of {words}"), (both - took).max(0.0));
    }
    // 1 % of 1 TiB changes, and as much of a blob that is sixteen times smaller.
    for (size, words) in [(HUGE, "1 TiB"), (HUGE >> 4, "64 GiB")] {
        let path = format!("/bench/diff-{}", size >> 30);
        connection.create(&path, size)?;
        let first = connection.snapshot(&path)?;
        let count = HUGE / 100 / (4 << 20);
        change(&path, size, count, &chunk, account)?;
        let second = connection.snapshot(&path)?;
        connection.put(&path, 0, &[3; 512])?;
        let third = connection.snapshot(&path)?;
        let expected = usize::try_from(count)?;
        let took = milliseconds(5, |_| match connection.diff(&path, &first, &second)? {
            ranges if ranges == expected => Ok(()),
            ranges => Err(Failure::new(format!("{ranges} ranges instead of {expected}"))),
        })?;
        note(format!("difference of 10 GiB in a blob of {words}"), took);
        let took = milliseconds(5, |_| match connection.diff(&path, &second, &third)? {
            1 => Ok(()),
            ranges => Err(Failure::new(format!("{ranges} ranges instead of 1"))),
        })?;
        note(format!("difference of one page in a blob of {words}"), took);
    }
    Ok(records)
}

/// Writes so many chunks, spread over a blob, four at once.
fn change(path: &str, size: u64, count: u64, chunk: &[u8], account: &Account) -> Outcome<()> {
    let stride = size / count / 4096 * 4096;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u64)
            .map(|first| {
                scope.spawn(move || -> Outcome<()> {
                    let mut connection = account.connect()?;
                    for index in (first..count).step_by(4) {
                        connection.put(path, index * stride, chunk)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let joined = writers
            .into_iter()
            .map(|writer| writer.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked"))));
        joined.collect()
    })
}

/// A thousand snapshots of a disk of 1 TiB that changes.
pub(crate) fn crowd(connection: &mut Connection) -> Outcome<()> {
    let path = "/bench/diff-1024";
    for index in 0..1000_u64 {
        connection.put(path, index * (HUGE / 1000) / 4096 * 4096, &[5; 4096])?;
        connection.snapshot(path)?;
    }
    Ok(())
}

/// A process that ends with this value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What fio does over NBD: name, mode, bytes of a request, depth.
const DISK_WORKS: [(&str, &str, &str, &str); 4] = [
    ("NBD 4 KiB random read", "randread", "4k", "32"),
    ("NBD 4 KiB random write", "randwrite", "4k", "32"),
    ("NBD 1 MiB sequential read", "read", "1M", "4"),
    ("NBD 1 MiB sequential write", "write", "1M", "4"),
];

/// The names of the works over NBD.
pub(crate) fn disk_works() -> impl Iterator<Item = &'static str> {
    DISK_WORKS.iter().map(|(name, ..)| *name)
}

fn fio(tool: &str, socket: &Path, seconds: u64) -> Outcome<Vec<Record>> {
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let mut records = Vec::new();
    for (name, mode, bytes, depth) in DISK_WORKS {
        let output = Command::new("fio")
            .args(["--name=disk", "--ioengine=nbd", "--output-format=json", "--time_based"])
            .args(["--end_fsync=1", "--randrepeat=0", "--size=1G"])
            .arg(format!("--uri={uri}"))
            .arg(format!("--rw={mode}"))
            .arg(format!("--bs={bytes}"))
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--runtime={seconds}"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let json = said.get(said.find('{').unwrap_or(0)..).unwrap_or_default();
        let found: Value = serde_json::from_str(json)
            .map_err(|_| Failure::new(String::from_utf8_lossy(&output.stderr).into_owned()))?;
        let side = if mode.ends_with("read") { "read" } else { "write" };
        let number_at = |path: &str| found.pointer(path).and_then(Value::as_f64);
        // The time of the last flush counts as well.
        let bytes_done = number_at(&format!("/jobs/0/{side}/io_bytes")).unwrap_or(0.0);
        let runtime = number_at("/jobs/0/job_runtime").unwrap_or(0.0) / 1000.0;
        let rate = bytes_done / runtime.max(0.001);
        let is_small = bytes == "4k";
        let value = if is_small { rate / 4096.0 } else { rate / 1_048_576.0 };
        let unit = if is_small { "/s" } else { "MiB/s" };
        let p99 =
            number_at(&format!("/jobs/0/{side}/clat_ns/percentile/99.000000")).map(|it| it / 1e6);
        tell(&format!("{tool}: {name}: {value:.0} {unit}"));
        records.push(Record { p99_ms: p99, ..Record::new(tool, name, value, unit) });
    }
    Ok(records)
}

fn wait_for(socket: &Path) -> Outcome<()> {
    for _ in 0..200 {
        if socket.exists() {
            return Ok(());
        }
        SystemClock.sleep(Duration::from_millis(50));
    }
    Err(Failure::new(format!("{} does not appear", socket.display())))
}

/// A blob over NBD.
pub(crate) fn blob_disk(program: &Path, server: &Server, seconds: u64) -> Outcome<Vec<Record>> {
    let socket = server.folder.join("disk.sock");
    let export = Command::new(program)
        .args(["storage", "export", &format!("bench{BLOB}"), "--data-dir"])
        .arg(&server.folder)
        .arg("--socket")
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()?;
    let _export = Ends(export);
    wait_for(&socket)?;
    fio("strongroom", &socket, seconds)
}

/// A raw file of the same size over qemu-nbd, with the cache that machines use.
pub(crate) fn raw_disk(work_dir: &Path, seconds: u64) -> Outcome<Vec<Record>> {
    let (image, socket) = (work_dir.join("raw-disk.img"), work_dir.join("raw-disk.sock"));
    let file = File::create(&image)?;
    let chunk = noise(4 << 20);
    for offset in (0..SIZE).step_by(4 << 20) {
        file.write_all_at(&chunk, offset)?;
    }
    file.sync_all()?;
    strongroom_bench::place::remove(&socket)?;
    let serve = Command::new("qemu-nbd")
        .args(["--persistent", "--shared=4", "--format=raw", "--cache=writeback", "--socket"])
        .arg(&socket)
        .arg(&image)
        .spawn()?;
    let ends = Ends(serve);
    wait_for(&socket)?;
    let records = fio("qemu-nbd", &socket, seconds)?;
    drop(ends);
    std::fs::remove_file(&image)?;
    Ok(records)
}
