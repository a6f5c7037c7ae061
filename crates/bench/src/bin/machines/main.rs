//! Runs Strongroom and virtnbdbackup on guests that run, each on a guest of its own with the same disks
//! and the same days, one after the other, and prints how they compare.
//!
//! ```text
//! machines --project DIR --work DIR --lab DIR --initrd FILE --strongroom PROGRAM
//!          [--small] [--runs 3] [--tools a,b,...] [--docs FILE] [--readme FILE] [--render]
//! ```
//!
//! Tools: strongroom, virtnbdbackup, virtnbdbackup -z. With `--tools`, the figures of the others are kept
//! from an earlier run, and the table says so. `--render` measures nothing and prints the tables of an
//! earlier run. `scripts/bench-machines` calls this.

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]

mod disks;
mod guest;
mod host;
mod measure;
mod record;
mod report;
mod tools;

use std::{
    env,
    fs::{self, File},
    io::{Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom_bench::{
    Failure, Outcome,
    failure::finish,
    figures::replace_measured,
    place::{ThisHost, busy_percent, first_line, remove, tell, this_host},
};

use crate::{
    disks::{FULL, SMALL, Size},
    guest::Guest,
    host::Host,
    measure::{Measure, copy_images},
    record::Records,
    tools::{Shop, TOOLS, Tool},
};

/// Who writes into documents.
const PROGRAM: &str = "scripts/bench-machines";

struct Options {
    project: PathBuf,
    work: PathBuf,
    lab: PathBuf,
    initrd: PathBuf,
    strongroom: PathBuf,
    size: Size,
    runs: usize,
    tools: Vec<Tool>,
    docs: Option<PathBuf>,
    readme: Option<PathBuf>,
    render: bool,
}

/// What the JSON file holds.
#[derive(Serialize, Deserialize)]
struct Results {
    about: About,
    records: Records,
    /// For those who read the file; they follow from the records.
    #[serde(default)]
    targets: Value,
}

/// What the figures are of.
#[derive(Serialize, Deserialize)]
pub(crate) struct About {
    host: ThisHost,
    strongroom: String,
    peer: String,
    qemu: String,
    libvirt: String,
    disks: String,
    runs: usize,
    /// How much of the processor other work took, at most, when a tool's turn began.
    busy_percent: u64,
    /// What has to be said besides.
    note: String,
}

fn main() -> ExitCode {
    finish("machines", options(env::args().skip(1)).and_then(|options| run(&options)))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
    let (mut project, mut work, mut lab, mut initrd) = (None, None, None, None);
    let (mut strongroom, mut docs, mut readme) = (None, None, None);
    let (mut size, mut runs, mut render) = (FULL, 3, false);
    let mut tools = TOOLS.to_vec();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--small" => size = SMALL,
            "--render" => render = true,
            _ => {
                let value = arguments
                    .next()
                    .ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
                match argument.as_str() {
                    "--project" => project = Some(value.into()),
                    "--work" => work = Some(value.into()),
                    "--lab" => lab = Some(value.into()),
                    "--initrd" => initrd = Some(value.into()),
                    "--strongroom" => strongroom = Some(value.into()),
                    "--docs" => docs = Some(value.into()),
                    "--readme" => readme = Some(value.into()),
                    "--runs" => runs = value.parse()?,
                    "--tools" => tools = named(&value)?,
                    _ => return Err(Failure::new(format!("unknown argument {argument}"))),
                }
            }
        }
    }
    let (Some(project), Some(work), Some(lab), Some(initrd), Some(strongroom)) =
        (project, work, lab, initrd, strongroom)
    else {
        return Err(Failure::new("needs --project, --work, --lab, --initrd and --strongroom"));
    };
    // A link to a folder of the lab is made elsewhere.
    let lab = fs::canonicalize::<PathBuf>(lab)?;
    Ok(Options { project, work, lab, initrd, strongroom, size, runs, tools, docs, readme, render })
}

fn named(names: &str) -> Outcome<Vec<Tool>> {
    let tool = |name: &str| {
        TOOLS
            .into_iter()
            .find(|tool| tool.name() == name)
            .ok_or_else(|| Failure::new(format!("there is no tool {name}")))
    };
    names.split(',').map(tool).collect()
}

fn run(options: &Options) -> Outcome<()> {
    let json = options.work.join(format!("results-{}.json", options.size.name));
    if options.render {
        return show(options, &serde_json::from_slice(&fs::read(&json)?)?);
    }
    fs::create_dir_all(&options.work)?;
    let lock = File::create(options.work.join("lock"))?;
    if lock.try_lock().is_err() {
        return Err(Failure::new(format!("another run works in {}", options.work.display())));
    }
    let bench = env::current_exe()?.with_file_name("bench");
    let images = options.work.join(format!("images-{}", options.size.name));
    options.size.make(&images, &bench)?;
    let mut results =
        Results { about: about(options)?, records: Records::default(), targets: Value::Null };
    if options.tools.len() < TOOLS.len() {
        let names: Vec<&str> = options.tools.iter().map(|tool| tool.name()).collect();
        let mut note = format!("Only {} measured", names.join(", "));
        if json.exists() {
            let earlier: Results = serde_json::from_slice(&fs::read(&json)?)?;
            results.records = earlier.records;
            note.push_str(" anew");
        }
        results.about.note = format!("{note}.");
    }
    for &tool in &options.tools {
        tell(&format!("--- {}", tool.name()));
        results.about.busy_percent = results.about.busy_percent.max(busy_percent()?);
        results.records.forget(tool.name());
        measure(options, tool, &images, &mut results.records)?;
        results.targets = serde_json::to_value(report::targets(&results.records))?;
        fs::write(&json, serde_json::to_string_pretty(&results)?)?;
    }
    show(options, &results)
}

/// Measures a tool on a guest of its own.
fn measure(options: &Options, tool: Tool, images: &Path, records: &mut Records) -> Outcome<()> {
    let folder = options.work.join("scratch");
    remove(&folder)?;
    let images = copy_images(images, &folder.join("images"))?;
    let host = Host::start(&options.project, &options.lab)?;
    let guest = Guest::boot(&host, &options.lab, &options.initrd, &images)?;
    let strongroom = options.strongroom.as_path();
    let shop = Shop { tool, host: &host, strongroom, folder: folder.clone() };
    let (size, runs) = (options.size, options.runs);
    Measure { shop, guest: &guest, images: &images, size, runs, records }.all()?;
    drop(host);
    remove(&folder)
}

/// Prints the tables, and puts them where they were asked for.
fn show(options: &Options, results: &Results) -> Outcome<()> {
    let text = report::render(&results.about, &results.records);
    write!(stdout(), "{text}")?;
    if let Some(docs) = &options.docs {
        replace_measured(docs, PROGRAM, &text)?;
    }
    if let Some(readme) = &options.readme {
        replace_measured(readme, PROGRAM, &report::summary(&results.about, &results.records))?;
    }
    Ok(())
}

fn about(options: &Options) -> Outcome<About> {
    let last_word = |line: String| line.rsplit(' ').next().unwrap_or_default().to_owned();
    let strongroom = first_line(&options.strongroom.display().to_string(), "--version");
    let qemu = first_line("qemu-system-x86_64", "--version");
    Ok(About {
        host: this_host()?,
        strongroom: last_word(strongroom),
        peer: last_word(first_line("virtnbdbackup", "--version")),
        qemu: qemu.split(' ').nth(3).unwrap_or_default().to_owned(),
        libvirt: last_word(first_line("libvirtd", "--version")),
        disks: options.size.describe(),
        runs: options.runs,
        busy_percent: 0,
        note: String::new(),
    })
}
