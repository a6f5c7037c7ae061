//! Runs Strongroom's storage accounts against Azurite, a raw file and qemu-nbd, and prints how fast they are.
//!
//! ```text
//! accounts --work DIR --strongroom PROGRAM --azurite MAIN.JS [--seconds 5] [--small] [--docs FILE] [--render]
//! ```
//!
//! Client and server share the machine. `scripts/bench-accounts` calls this.
#![allow(clippy::disallowed_methods, reason = "real time is measured")]

mod client;
mod report;
mod servers;
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
    figures::{number, replace_measured},
    place::{ThisHost, busy_percent, first_line, remove, tell, this_host},
};

use crate::{servers::Server, work::Record};

/// Who writes into documents.
const PROGRAM: &str = "scripts/bench-accounts";

struct Options {
    work: PathBuf,
    strongroom: PathBuf,
    azurite: PathBuf,
    seconds: u64,
    /// Without what takes minutes: differences of 10 GiB, and a thousand snapshots.
    small: bool,
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
    azurite: String,
    qemu_nbd: String,
    seconds: u64,
    busy_percent: u64,
}

fn main() -> ExitCode {
    finish("accounts", options(env::args().skip(1)).and_then(|options| run(&options)))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
    let (mut work, mut strongroom, mut azurite, mut docs) = (None, None, None, None);
    let (mut seconds, mut small, mut render) = (5, false, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--small" => small = true,
            "--render" => render = true,
            _ => {
                let value = arguments
                    .next()
                    .ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
                match argument.as_str() {
                    "--work" => work = Some(value.into()),
                    "--strongroom" => strongroom = Some(value.into()),
                    "--azurite" => azurite = Some(value.into()),
                    "--seconds" => seconds = value.parse()?,
                    "--docs" => docs = Some(value.into()),
                    _ => return Err(Failure::new(format!("unknown argument {argument}"))),
                }
            }
        }
    }
    let (Some(work), Some(strongroom), Some(azurite)) = (work, strongroom, azurite) else {
        return Err(Failure::new("needs --work, --strongroom and --azurite"));
    };
    Ok(Options { work, strongroom, azurite, seconds, small, docs, render })
}

/// The version of a package of npm, by the file of its program.
fn version_of(main: &std::path::Path) -> String {
    let package = main.ancestors().find_map(|folder| {
        let text = fs::read(folder.join("package.json")).ok()?;
        serde_json::from_slice::<serde_json::Value>(&text).ok()
    });
    let version = package.and_then(|it| it.get("version")?.as_str().map(str::to_owned));
    format!("Azurite {}", version.unwrap_or_else(|| "?".to_owned()))
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
    let about = About {
        host: this_host()?,
        strongroom: first_line(&options.strongroom.display().to_string(), "--version"),
        azurite: version_of(&options.azurite),
        qemu_nbd: first_line("qemu-nbd", "--version"),
        seconds: options.seconds,
        busy_percent: busy_percent()?,
    };
    let results = Results { about, records: measure(options)? };
    fs::write(&json, serde_json::to_string_pretty(&results)?)?;
    for folder in ["strongroom", "azurite"] {
        remove(&options.work.join(folder))?;
    }
    show(options, &results)
}

fn measure(options: &Options) -> Outcome<Vec<Record>> {
    let Options { work, strongroom, seconds, .. } = options;
    let mib = |bytes: u64| number(bytes) / 1_048_576.0;
    tell("--- a raw file");
    let mut records = work::raw_file(work, *seconds)?;
    tell("--- azurite");
    {
        let azurite = Server::azurite(&options.azurite, work)?;
        records.extend(work::pages("azurite", &azurite.account, *seconds)?);
        let peak = mib(azurite.peak_memory()?);
        records.push(Record::new("azurite", report::MEMORY, peak, "MiB"));
    }
    tell("--- strongroom");
    let server = Server::strongroom(strongroom, work)?;
    records.extend(work::pages("strongroom", &server.account, *seconds)?);
    let peak = mib(server.peak_memory()?);
    records.push(Record::new("strongroom", report::MEMORY, peak, "MiB"));
    tell("--- disks");
    records.extend(work::blob_disk(strongroom, &server, *seconds)?);
    records.extend(work::raw_disk(work, *seconds)?);
    if !options.small {
        tell("--- snapshots and differences");
        records.extend(work::snapshots("strongroom", &server.account)?);
        work::crowd(&mut server.account.connect()?)?;
        let peak = mib(server.peak_memory()?);
        records.push(Record::new("strongroom", report::CROWD_MEMORY, peak, "MiB"));
    }
    Ok(records)
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
