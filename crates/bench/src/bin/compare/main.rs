//! Runs Strongroom and its peers on the same disks in one run, and prints how they compare.
//!
//! ```text
//! compare --images DIR --scratch DIR --strongroom PROGRAM --json FILE
//!         [--docs FILE] [--readme FILE] [--runs 3] [--peer-runs 1] [--parts a,b,...] [--keep] [--render]
//! ```
//!
//! Parts: limits, small, product, double, database, compressible, big-vault, restic, borg, borg-default, qemu-img.
//! `--keep` keeps the figures of the other parts from an earlier run's JSON and says so in the table.
//! `--render` measures nothing and prints the tables of an earlier run's JSON.
//! Needs root: it empties the page cache.

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]

mod measure;
mod peers;
mod place;
mod product;
mod record;
mod report;

use std::{
    env, fs,
    io::{Write, stdout},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use serde_json::{Value, json};
use strongroom_bench::{
    Failure, Outcome,
    failure::finish,
    figures::replace_measured,
    image::{extents, open},
    place::{busy_percent, drop_caches, first_line, remove, tell, this_host},
};

use crate::{
    measure::Bench,
    peers::Peer,
    place::{Disk, SmallDisk, World},
    product::{Product, Programs},
    record::{Cache, Record, Records},
};

/// Who writes into documents.
const PROGRAM: &str = "scripts/bench";

const PARTS: [&str; 11] = [
    "limits",
    "small",
    "product",
    "double",
    "compressible",
    "database",
    "big-vault",
    "restic",
    "borg",
    "borg-default",
    "qemu-img",
];

struct Options {
    images: PathBuf,
    scratch: PathBuf,
    strongroom: PathBuf,
    json: PathBuf,
    docs: Option<PathBuf>,
    readme: Option<PathBuf>,
    runs: usize,
    peer_runs: usize,
    parts: Vec<String>,
    keep: bool,
    render: bool,
}

fn main() -> ExitCode {
    finish("compare", options(env::args().skip(1)).and_then(|options| run(&options)))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
    let (mut images, mut scratch, mut strongroom, mut json) = (None, None, None, None);
    let (mut docs, mut readme, mut runs, mut peer_runs) = (None, None, 3, 1);
    let (mut keep, mut render) = (false, false);
    let mut parts: Vec<String> = PARTS.iter().map(|&part| part.to_owned()).collect();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--keep" => {
                keep = true;
                continue;
            }
            "--render" => {
                render = true;
                continue;
            }
            _ => {}
        }
        let value =
            arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
        match argument.as_str() {
            "--images" => images = Some(value.into()),
            "--scratch" => scratch = Some(value.into()),
            "--strongroom" => strongroom = Some(value.into()),
            "--json" => json = Some(value.into()),
            "--docs" => docs = Some(value.into()),
            "--readme" => readme = Some(value.into()),
            "--runs" => runs = value.parse()?,
            "--peer-runs" => peer_runs = value.parse()?,
            "--parts" => parts = value.split(',').map(str::to_owned).collect(),
            _ => return Err(Failure::new(format!("unknown argument {argument}"))),
        }
    }
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        let known = PARTS.join(", ");
        return Err(Failure::new(format!("there is no part {unknown}; there are {known}")));
    }
    let (Some(images), Some(scratch), Some(strongroom), Some(json)) =
        (images, scratch, strongroom, json)
    else {
        return Err(Failure::new("needs --images, --scratch, --strongroom and --json"));
    };
    Ok(Options {
        images,
        scratch,
        strongroom,
        json,
        docs,
        readme,
        runs,
        peer_runs,
        parts,
        keep,
        render,
    })
}

/// What the JSON file holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Results {
    machine: Value,
    limits: Value,
    records: Records,
    #[serde(default)]
    targets: Value,
}

fn run(options: &Options) -> Outcome<()> {
    if options.render {
        return show(options, &serde_json::from_slice(&fs::read(&options.json)?)?);
    }
    fs::create_dir_all(&options.scratch)?;
    let own = env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
    let programs = Programs { strongroom: options.strongroom.clone(), own };
    let mut disk = Disk::with_days(&options.images, "disk.raw", &["day2", "day3"])?;
    let mut database = Disk::with_days(&options.images, "db.raw", &["dbday"])?;
    let (mut records, mut limits) = (Records::default(), Value::Null);
    if options.keep {
        let earlier: Results = serde_json::from_slice(&fs::read(&options.json)?)?;
        (records, limits) = (earlier.records, earlier.limits);
    }
    let mut bench = Bench {
        world: World::new(&options.scratch),
        scratch: options.scratch.clone(),
        records: Records::default(),
        runs: options.runs,
        peer_runs: options.peer_runs,
    };
    bench.world.clear()?;
    let machine = machine(options, &disk)?;
    for part in PARTS.into_iter().filter(|part| options.parts.iter().any(|wanted| wanted == part)) {
        tell(&format!("--- {part}"));
        if part == "limits" {
            limits = measure_limits(&bench, &programs, &disk)?;
        } else {
            run_part(part, &mut bench, &programs, &mut disk, &mut database)?;
        }
        // New figures replace the kept ones of the same work; what is there is saved after every part.
        let fresh = |new: &Record, old: &Record| new.tool == old.tool && new.work == old.work;
        let measured = std::mem::take(&mut bench.records);
        records.0.retain(|old| !measured.0.iter().any(|new| fresh(new, old)));
        records.0.extend(measured.0);
        let targets = serde_json::to_value(report::targets(&records, &limits))?;
        let results = json!({
            "machine": machine, "limits": limits, "records": records, "targets": targets,
        });
        fs::write(&options.json, serde_json::to_string_pretty(&results)?)?;
    }
    show(options, &Results { machine, limits, records, targets: Value::Null })
}

/// Prints the tables, and puts them where they were asked for.
fn show(options: &Options, results: &Results) -> Outcome<()> {
    let Results { machine, limits, records, .. } = results;
    let text = report::render(records, limits, machine, &report::targets(records, limits));
    write!(stdout(), "{text}")?;
    if let Some(docs) = &options.docs {
        replace_measured(docs, PROGRAM, &text)?;
    }
    if let Some(readme) = &options.readme {
        replace_measured(readme, PROGRAM, &report::summary(records, machine))?;
    }
    Ok(())
}

fn run_part(
    part: &str,
    bench: &mut Bench,
    programs: &Programs,
    disk: &mut Disk,
    database: &mut Disk,
) -> Outcome<()> {
    match part {
        "small" => small(bench, programs),
        "product" => Product { programs, bench }.machine(disk),
        "double" => Product { programs, bench }.double(disk),
        "compressible" => {
            // A quarter of the disk's size: enough to measure, small enough to lie beside the rest.
            let bytes = fs::metadata(&disk.path)?.len() / 4;
            bench.records.0.push(sizes(bytes));
            Product { programs, bench }.compressible(bytes)
        }
        "big-vault" => Product { programs, bench }.big_vault(),
        "database" => {
            Product { programs, bench }.database(database)?;
            peers::database(bench, Peer::Restic, database)?;
            peers::database(bench, Peer::Borg(Some("zstd,1")), database)
        }
        "restic" => peers::machine(bench, Peer::Restic, disk, true),
        "borg" => peers::machine(bench, Peer::Borg(Some("zstd,1")), disk, true),
        "borg-default" => peers::machine(bench, Peer::Borg(None), disk, false),
        "qemu-img" => peers::qemu_img(bench, disk),
        _ => Ok(()),
    }
}

/// A small disk of which little changes, backed up by each tool in turn. The disk is made again for each: what a
/// tool finds changed must not be in its first backup already.
fn small(bench: &mut Bench, programs: &Programs) -> Outcome<()> {
    let scratch = bench.scratch.clone();
    let disk = SmallDisk::new(&scratch)?;
    Product { programs, bench }.small(&disk)?;
    for peer in [Peer::Restic, Peer::Borg(Some("zstd,1"))] {
        peers::small(bench, peer, &SmallDisk::new(&scratch)?)?;
    }
    remove(&disk.path)?;
    let stored = bench.records.0.iter().filter(|record| record.work == SmallDisk::WORK);
    for record in stored {
        if record.added_bytes.is_none_or(|bytes| bytes < SmallDisk::CHANGED_BYTES) {
            return Err(Failure::new(format!(
                "{} stored {:?} bytes",
                record.tool, record.added_bytes
            )));
        }
    }
    Ok(())
}

fn sizes(compressible: u64) -> Record {
    Record {
        tool: "sizes".to_owned(),
        work: "sizes".to_owned(),
        cache: Cache::Warm,
        seconds: 0.0,
        cpu_seconds: 0.0,
        peak_rss_bytes: 0,
        added_bytes: None,
        said: json!({ "compressible": compressible }),
    }
}

fn measure_limits(bench: &Bench, programs: &Programs, disk: &Disk) -> Outcome<Value> {
    drop_caches()?;
    let mut command = Command::new(programs.own.join("bench"));
    command.arg("limits").arg(&disk.path).arg("--scratch").arg(&bench.scratch);
    let printed = bench.quietly(command)?;
    tell(printed.trim_end());
    Ok(serde_json::from_str(&printed)?)
}

/// The machine and the programs, in words a reader of the figures needs.
fn machine(options: &Options, disk: &Disk) -> Outcome<Value> {
    let words =
        |text: &str, count: usize| text.split(' ').take(count).collect::<Vec<_>>().join(" ");
    let data: u64 = extents(&open(&disk.path, false)?)?.iter().map(|extent| extent.len).sum();
    let strongroom = first_line(&options.strongroom.display().to_string(), "--version");
    let busy = busy_percent()?;
    let mut note = match (options.keep, options.parts.len() < PARTS.len()) {
        (true, _) => format!("Only {} measured anew.", options.parts.join(", ")),
        (false, true) => format!("Only {} measured.", options.parts.join(", ")),
        (false, false) => String::new(),
    };
    if busy > 10 {
        note = format!(
            "{note} Other work took {busy} % of the processor at the start: read ratios, not seconds."
        );
    }
    let host = this_host()?;
    Ok(json!({
        "date": host.date,
        "strongroom": strongroom.rsplit(' ').next(),
        "processor": host.processor,
        "cores": host.cores,
        "memory_gib": host.memory_gib,
        "kernel": host.kernel,
        "peers": format!(
            "{}, {}, {}",
            words(&first_line("restic", "version"), 2),
            first_line("borg", "--version"),
            words(&first_line("qemu-img", "--version"), 3),
        ),
        "disk_gib": fs::metadata(&disk.path)?.len() >> 30,
        "data_mb": data / 1_000_000,
        "busy_percent_at_start": busy,
        "note": note.trim_start(),
    }))
}
