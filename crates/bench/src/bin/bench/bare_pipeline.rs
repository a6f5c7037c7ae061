//! The ceiling: what this machine does when it only skips zeros, hashes, deduplicates in memory,
//! compresses, encrypts and writes. Prints one JSON object.
//!
//! ```text
//! bench bare-pipeline IMAGE [--output FILE] [--direct-input] [--cached-output] [--ranges FILE]
//!                     [--threads 2] [--readers N] [--level 1] [--hash-only]
//! ```

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Serialize;
use strongroom_bench::{
    Failure, Outcome,
    image::{create, extents, open, pieces, read_ranges},
    pipeline::{DIRECT_PIECE, Setup, Totals, run},
};

#[derive(Serialize)]
struct Report {
    seconds: f64,
    #[serde(flatten)]
    totals: Totals,
}

/// Runs it.
pub(crate) fn run_program(arguments: Vec<String>) -> Outcome<()> {
    let mut arguments = arguments.into_iter();
    let mut image = None;
    let (mut output, mut ranges) = (None::<PathBuf>, None::<PathBuf>);
    let (mut direct_input, mut cached_output) = (false, false);
    let (mut threads, mut readers, mut level) = (2, None, Some(1));
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")));
        match argument.as_str() {
            "--output" => output = Some(value()?.into()),
            "--ranges" => ranges = Some(value()?.into()),
            "--direct-input" => direct_input = true,
            "--cached-output" => cached_output = true,
            "--threads" => threads = value()?.parse()?,
            "--readers" => readers = Some(value()?.parse()?),
            "--level" => level = Some(value()?.parse()?),
            "--hash-only" => level = None,
            _ if argument.starts_with("--") || image.is_some() => {
                return Err(Failure::new(format!("unknown argument {argument}")));
            }
            _ => image = Some(argument),
        }
    }
    let image = image.ok_or_else(|| Failure::new("name an image"))?;

    let started = Instant::now();
    let image = open(Path::new(&image), direct_input)?;
    let output = output.map(|path| create(&path, !cached_output)).transpose()?;
    let wanted = ranges.map_or_else(|| extents(&image), |path| read_ranges(&path))?;
    let setup = Setup {
        pieces: pieces(&wanted, DIRECT_PIECE),
        threads,
        readers: readers.unwrap_or(if direct_input { 8 } else { 0 }),
        level,
    };
    let totals = run(&image, output.as_ref(), &setup)?;
    let report = Report { seconds: started.elapsed().as_secs_f64(), totals };
    writeln!(stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}
