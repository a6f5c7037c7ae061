//! Reads recovery points without a restore: exports and mounts of Strongroom beside the mounts of its peers, in one run.
//!
//! ```text
//! exports --work DIR --strongroom PROGRAM --disk FILE [--runs 3] [--points 1000] [--docs FILE] [--render]
//! ```
//!
//! Needs root (it empties the page cache and mounts), restic, borg, nbdcopy and fio. `scripts/bench-exports` calls this.
#![allow(clippy::disallowed_methods, reason = "real time is measured")]

mod report;
mod work;

use std::{
    env,
    fs::{self, File},
    io::{Write as _, stdout},
    path::PathBuf,
    process::ExitCode,
};

use serde::{Deserialize, Serialize};
use strongroom_bench::{
    Failure, Outcome,
    failure::finish,
    figures::replace_measured,
    image::{extents, open},
    place::{ThisHost, busy_percent, first_line, this_host},
};

use crate::work::{Record, Shop};

/// Who writes into documents.
const PROGRAM: &str = "scripts/bench-exports";

struct Options {
    work: PathBuf,
    strongroom: PathBuf,
    disk: PathBuf,
    runs: usize,
    points: u64,
    docs: Option<PathBuf>,
    render: bool,
}

/// What the JSON file holds.
#[derive(Serialize, Deserialize)]
struct Results {
    about: About,
    records: Vec<Record>,
}

/// What the figures are of.
#[derive(Serialize, Deserialize)]
pub(crate) struct About {
    host: ThisHost,
    strongroom: String,
    restic: String,
    borg: String,
    points: u64,
    size_mib: u64,
    data_mib: u64,
    busy_percent: u64,
}

fn main() -> ExitCode {
    finish("exports", options(env::args().skip(1)).and_then(|options| run(&options)))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
    let (mut work, mut strongroom, mut disk, mut docs) = (None, None, None, None);
    let (mut runs, mut points, mut render) = (3, 1000, false);
    while let Some(argument) = arguments.next() {
        if argument == "--render" {
            render = true;
            continue;
        }
        let value =
            arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
        match argument.as_str() {
            "--work" => work = Some(value.into()),
            "--strongroom" => strongroom = Some(value.into()),
            "--disk" => disk = Some(value.into()),
            "--runs" => runs = value.parse()?,
            "--points" => points = value.parse()?,
            "--docs" => docs = Some(value.into()),
            _ => return Err(Failure::new(format!("unknown argument {argument}"))),
        }
    }
    let (Some(work), Some(strongroom), Some(disk)) = (work, strongroom, disk) else {
        return Err(Failure::new("needs --work, --strongroom and --disk"));
    };
    Ok(Options { work, strongroom, disk, runs, points, docs, render })
}

fn run(options: &Options) -> Outcome<()> {
    fs::create_dir_all(&options.work)?;
    let json = options.work.join("results.json");
    if options.render {
        return show(options, &serde_json::from_slice(&fs::read(&json)?)?);
    }
    let lock = File::create(options.work.join("lock"))?;
    if lock.try_lock().is_err() {
        return Err(Failure::new(format!("another run works in {}", options.work.display())));
    }
    let disk = open(&options.disk, false)?;
    let data: u64 = extents(&disk)?.iter().map(|extent| extent.len).sum();
    let about = About {
        host: this_host()?,
        strongroom: first_line(&options.strongroom.display().to_string(), "--version"),
        restic: first_line("restic", "version"),
        borg: first_line("borg", "--version"),
        points: options.points,
        size_mib: disk.metadata()?.len() >> 20,
        data_mib: data >> 20,
        busy_percent: busy_percent()?,
    };
    let shop = Shop::open(options)?;
    let mut records = Vec::new();
    shop.measure(&mut records)?;
    let results = Results { about, records };
    fs::write(&json, serde_json::to_string_pretty(&results)?)?;
    show(options, &results)
}

/// Prints the tables, and puts them where they were asked for.
fn show(options: &Options, results: &Results) -> Outcome<()> {
    let text = report::render(&results.about, &results.records);
    write!(stdout(), "{text}")?;
    match &options.docs {
        Some(docs) => replace_measured(docs, PROGRAM, &text),
        None => Ok(()),
    }
}
