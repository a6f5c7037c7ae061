//! Runs Strongroom and restic on a store that is a round trip of 50 ms away, and prints how long they
//! take and what goes over the distance.
//!
//! ```text
//! distant --work DIR --strongroom PROGRAM --store URL [--round-trip 50] [--runs 3] [--points 1400]
//!         [--docs FILE] [--render]
//! ```
//!
//! The store is an S3 server on this machine, as `scripts/lab/stores` starts it: URL is what that
//! prints, and the credentials are in the environment. `scripts/bench-distant` calls this.
#![allow(clippy::disallowed_methods, reason = "real time is measured")]

mod crowd;
mod report;
mod work;

use std::{
    env,
    fs::{self, File},
    io::{Write as _, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strongroom_base::Environment;
use strongroom_bench::{
    Failure, Outcome,
    distance::Distance,
    failure::finish,
    figures::replace_measured,
    place::{ThisHost, busy_percent, first_line, tell, this_host},
};

use crate::work::{Record, Shop};

/// Who writes into documents.
const PROGRAM: &str = "scripts/bench-distant";

struct Options {
    work: PathBuf,
    strongroom: PathBuf,
    store: String,
    round_trip: Duration,
    runs: usize,
    points: usize,
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
    round_trip_ms: u128,
    points: usize,
    packs: usize,
    busy_percent: u64,
}

fn main() -> ExitCode {
    // The store's settings are variables.
    Environment::new(env::vars_os()).give();
    finish("distant", options(env::args().skip(1)).and_then(|options| run(&options)))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
    let (mut work, mut strongroom, mut store, mut docs) = (None, None, None, None);
    let (mut round_trip, mut runs, mut points, mut render) = (50, 3, 1400, false);
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
            "--store" => store = Some(value),
            "--round-trip" => round_trip = value.parse()?,
            "--runs" => runs = value.parse()?,
            "--points" => points = value.parse()?,
            "--docs" => docs = Some(value.into()),
            _ => return Err(Failure::new(format!("unknown argument {argument}"))),
        }
    }
    let (Some(work), Some(strongroom), Some(store)) = (work, strongroom, store) else {
        return Err(Failure::new("needs --work, --strongroom and --store"));
    };
    let round_trip = Duration::from_millis(round_trip);
    Ok(Options { work, strongroom, store, round_trip, runs, points, docs, render })
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
    let endpoint = work::endpoint(&options.store)?;
    let far = Distance::to(strongroom_bench::distance::address_of(&endpoint)?, options.round_trip)?;
    let mut about = About {
        host: this_host()?,
        strongroom: first_line(&options.strongroom.display().to_string(), "--version"),
        restic: first_line("restic", "version"),
        round_trip_ms: options.round_trip.as_millis(),
        points: options.points,
        packs: 0,
        busy_percent: busy_percent()?,
    };
    let shop = Shop::open(options, &endpoint, &far)?;
    let mut records = Vec::new();
    tell("--- restic");
    shop.restic(&mut records)?;
    tell("--- strongroom, an empty vault");
    shop.strongroom(&mut records)?;
    tell("--- strongroom, a vault of many points and packs");
    about.packs = crowd::fill(&shop, options.points)?;
    shop.crowded(&mut records)?;
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
