//! What runs in the test guest: data whose correctness can be checked after any restore, an application
//! that has states that do not fit, and a measurement of how long writes take. One static program.
//!
//!     workload records [MS]              records to /data/a and /data/b in turn, a pause of MS between two
//!     workload app FOLDER                two balances that are equal only between two transactions
//!     workload last FOLDER               prints the number of the last record
//!     workload latency FOLDER SECONDS [BYTES]   random writes with fdatasync; prints percentiles as JSON
//!
//! A record is one line of 64 bytes: a number of ten digits counting from 1, 43 characters that follow from
//! it, and the CRC-32 of all before; fields are parted by a space. A record is written and synced to disk A,
//! then the same to disk B: at any single instant, the last number of A is that of B or one more.
//! The test harness (crates/strongroom/tests/vm) reads the same format.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

const RECORD: u64 = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["records"] | ["records", ""] => records(50),
        ["records", pause] => records(pause.parse().unwrap_or(50)),
        ["app", folder] => app(Path::new(folder)),
        ["last", folder] => {
            println!("{}", last(folder).unwrap_or(0));
            Ok(())
        }
        ["latency", folder, seconds] => latency(folder, seconds, "4096"),
        ["latency", folder, seconds, bytes] => latency(folder, seconds, bytes),
        _ => Err(io::Error::other("see workload.rs for what can be said")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("LAB workload {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn stopped() -> bool {
    Path::new("/run/stop").exists()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn step(state: u64) -> u64 {
    let state = state ^ (state << 13);
    let state = state ^ (state >> 7);
    state ^ (state << 17)
}

/// The line of a number.
fn record(number: u64) -> Vec<u8> {
    let mut line = format!("{number:010} ").into_bytes();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..43 {
        state = step(state);
        line.push(b'a' + (state >> 32) as u8 % 26);
    }
    let crc = crc32(&line);
    // 10 + 1 + 43 + 1 + 8 + 1 bytes
    line.extend(format!(" {crc:08x}\n").into_bytes());
    line
}

fn last(folder: &str) -> io::Result<u64> {
    let file = File::open(format!("{folder}/records"))?;
    let count = file.metadata()?.len() / RECORD;
    let mut line = vec![0; RECORD as usize];
    file.read_exact_at(&mut line, count.saturating_sub(1) * RECORD)?;
    if count == 0 || line != record(count) {
        return Err(io::Error::other(format!("{folder}: record {count} is not what was written")));
    }
    Ok(count)
}

fn records(pause: u64) -> io::Result<()> {
    let folders: Vec<_> = ["/data/a", "/data/b"]
        .into_iter()
        .filter(|folder| {
            fs::read_to_string("/proc/mounts").unwrap_or_default().contains(&format!(" {folder} "))
        })
        .collect();
    let mut files = Vec::new();
    let mut lasts = Vec::new();
    for folder in &folders {
        let name = format!("{folder}/records");
        let new = fs::metadata(&name).map_or(true, |data| data.len() == 0);
        files.push(File::options().create(true).append(true).open(&name)?);
        lasts.push(if new { 0 } else { last(folder)? });
    }
    let mut number = lasts.first().copied().unwrap_or(0);
    if let Some(&second) = lasts.get(1) {
        if number == second + 1 {
            put(&mut files[1], number)?;
        } else if number != second {
            return Err(io::Error::other(format!(
                "disks of different times: {number} and {second}"
            )));
        }
    }
    while !stopped() {
        number += 1;
        for file in &mut files {
            put(file, number)?;
        }
        sleep(Duration::from_millis(pause));
    }
    Ok(())
}

fn put(file: &mut File, number: u64) -> io::Result<()> {
    file.write_all(&record(number))?;
    file.sync_all()
}

/// The application: a transaction writes one balance, works for a while, and writes the other. Asked by the
/// file /run/app.pause, it stops between two transactions and says so by /run/app.paused.
fn app(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let open = |name| {
        File::options().create(true).truncate(false).read(true).write(true).open(folder.join(name))
    };
    let (one, other) = (open("balance1")?, open("balance2")?);
    let mut text = String::new();
    io::Read::read_to_string(&mut &one, &mut text)?;
    let mut balance: u64 = text.trim().parse().unwrap_or(0);
    let set = |file: &File, balance: u64| {
        file.write_all_at(format!("{balance:015}\n").as_bytes(), 0)?;
        file.sync_all()
    };
    set(&other, balance)?;
    while !stopped() {
        let pause = Path::new("/run/app.pause");
        if pause.exists() {
            fs::write("/run/app.paused", "")?;
            while pause.exists() && !stopped() {
                sleep(Duration::from_millis(20));
            }
            fs::remove_file("/run/app.paused")?;
        }
        balance += 1;
        set(&one, balance)?;
        sleep(Duration::from_millis(300));
        set(&other, balance)?;
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn latency(folder: &str, seconds: &str, bytes: &str) -> io::Result<()> {
    let wrong = |_| io::Error::other("not a number");
    let (seconds, bytes) = (seconds.parse().map_err(wrong)?, bytes.parse::<u64>().map_err(wrong)?);
    let slots = (16 << 20) / bytes.max(1);
    let name = format!("{folder}/latency");
    let file = File::create(&name)?;
    let block = vec![0xa5; bytes as usize];
    for slot in 0..slots {
        file.write_all_at(&block, slot * bytes)?;
    }
    file.sync_all()?;
    let (mut times, mut state) = (Vec::new(), 1);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        state = step(state);
        let begun = Instant::now();
        file.write_all_at(&block, state % slots * bytes)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_micros());
    }
    fs::remove_file(&name)?;
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    println!(
        "{{\"writes\":{},\"p50_us\":{},\"p95_us\":{},\"p99_us\":{},\"p999_us\":{},\"max_us\":{}}}",
        times.len(),
        at(500),
        at(950),
        at(990),
        at(999),
        at(1000),
    );
    Ok(())
}
