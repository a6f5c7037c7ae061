//! Makes the data of the measured disks: the same bytes for the same seed, on every machine.
//!
//! ```text
//! bench generate heap  FILE PAGES SEED        a table of 8 KiB pages
//! bench generate churn FILE PAGES SEED        a day's changes to that many of its pages, in place
//! bench generate log   FILE BYTES SEED        appends log lines
//! bench generate noise FILE BYTES SEED        bytes that no compression makes smaller
//! bench generate grow  FILE BYTES SEED        appends a table of that many bytes to a disk
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use strongroom_bench::{
    Failure, Outcome,
    heap::{Heap, PAGE_SIZE},
    rng::Rng,
    text::write_log,
};

const PAGE_SIZE_U64: u64 = 8192;

/// Runs it.
pub(crate) fn run_program(arguments: Vec<String>) -> Outcome<()> {
    let Ok([what, file, count, seed]) = <[String; 4]>::try_from(arguments) else {
        return Err(Failure::new(
            "usage: bench generate heap|churn|log|noise|grow FILE COUNT SEED",
        ));
    };
    let (path, count, seed) = (Path::new(&file), count.parse()?, seed.parse()?);
    let at = Failure::at(path);
    match what.as_str() {
        "heap" => heap(File::create(path).map_err(&at)?, count, seed),
        "churn" => {
            churn(&OpenOptions::new().read(true).write(true).open(path).map_err(&at)?, count, seed)
        }
        "log" => {
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(&at)?;
            let mut out = BufWriter::with_capacity(1 << 20, file);
            write_log(&mut out, count, seed)?;
            Ok(out.flush()?)
        }
        "noise" => noise(&File::create(path).map_err(&at)?, count, seed),
        "grow" => {
            let file = OpenOptions::new().append(true).open(path).map_err(&at)?;
            heap(file, count / PAGE_SIZE_U64, seed)
        }
        _ => Err(Failure::new(format!("bench generate: there is no {what}"))),
    }
}

fn heap(file: File, pages: u64, seed: u64) -> Outcome<()> {
    let mut heap = Heap::new(seed, 1);
    let mut out = BufWriter::with_capacity(1 << 20, file);
    for page in 0..pages {
        out.write_all(&heap.page((1 << 28) + page * 56))?;
    }
    out.flush()?;
    Ok(out.get_ref().sync_all()?)
}

fn churn(file: &File, count: u64, seed: u64) -> Outcome<()> {
    let pages = file.metadata()?.len() / PAGE_SIZE_U64;
    let mut heap = Heap::new(seed, 50_000_000);
    let mut page = vec![0; PAGE_SIZE];
    for index in heap.touched(pages, count) {
        file.read_exact_at(&mut page, index * PAGE_SIZE_U64)?;
        let churned = heap.churn(&page, (1 << 30) + seed * (1 << 24) + index * 64);
        file.write_all_at(&churned, index * PAGE_SIZE_U64)?;
    }
    Ok(file.sync_all()?)
}

fn noise(mut file: &File, len: u64, seed: u64) -> Outcome<()> {
    let mut rng = Rng::new(seed);
    let mut left = len;
    let mut bytes = vec![0; 1 << 20];
    while left > 0 {
        rng.fill(&mut bytes);
        let part = usize::try_from(left)?.min(bytes.len());
        file.write_all(bytes.get(..part).unwrap_or_default())?;
        left -= u64::try_from(part)?;
    }
    Ok(())
}
