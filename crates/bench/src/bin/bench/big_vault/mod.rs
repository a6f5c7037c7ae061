//! A vault of 1 TB and 1,000 recovery points, without the data: how fast it opens, what its index takes,
//! how long reclaim takes.
//!
//! ```text
//! bench big-vault --scratch DIR --strongroom PROGRAM [--points 1000] [--disk-bytes 1T] [--stored-bytes 1T]
//!                 [--churn PERCENT] [--delete POINTS] [--keep]
//! ```
//!
//! It makes the vault in `DIR`, measures the program on it, prints one JSON object and removes the vault.
//! [`scale`] says how large things are and how they are chosen, [`generate`] what is real: everything
//! but the blocks' own bytes, which are holes in sparse files. The default takes up to 12 GB of disk.
//!
//! Measured, in this order:
//!
//! | | |
//! |---|---|
//! | `open_rebuild_seconds` | `vault rebuild-index` with no index object and no cache, packs not in the page cache |
//! | `open_warm_seconds` | `recoverypoint list`, all points, with the index cache at hand: the median of five |
//! | `index_ram_bytes` | by how much the resident memory of a process grows when it opens the index |
//! | `stored_bytes` | the lengths of all packs in the vault |
//! | `reclaim_seconds` | `vault reclaim` after points were deleted |
//!
//! The peaks are those of the program's resident memory in each of these runs. A key file opens the
//! vault, so no time goes into Argon2. After the reclaim the trees of the first and the last point left are
//! read, and a part of their blocks looked for in the index and in the store.

mod check;
mod churn;
mod generate;
mod hollow;
mod measure;
mod scale;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{Write, stderr, stdout},
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::{Value, json};
use strongroom_bench::{Failure, Outcome};

use self::{generate::Place, measure::Program, scale::Scale};

const USAGE: &str = "\
usage: bench big-vault --scratch DIR --strongroom PROGRAM [OPTIONS]

  --scratch DIR         where the vault is made; it is removed again
  --strongroom PROGRAM  what is measured
  --points N            recovery points of the disk [default: 1000]
  --disk-bytes N        bytes of the disk; K, M, G, T are powers of 1000 [default: 1T]
  --stored-bytes N      bytes of all data packs [default: 1T]
  --churn PERCENT       of the disk's blocks that change from point to point [default: 1]
  --delete N            points that are deleted before the reclaim [default: a tenth of them]
  --keep                leave the vault where it is
";

struct Options {
    scratch: PathBuf,
    strongroom: PathBuf,
    scale: Scale,
    keep: bool,
}

/// Runs it.
pub(crate) fn run_program(arguments: Vec<String>) -> Outcome<()> {
    match arguments.as_slice() {
        [flag] if flag == "--help" || flag == "-h" => {
            stdout().write_all(USAGE.as_bytes()).map_err(Failure::from)
        }
        [flag, cache] if flag == measure::OPEN_INDEX => measure::open_index(Path::new(cache)),
        _ => options(arguments.into_iter()).and_then(|options| run(&options)),
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
    let (mut scratch, mut strongroom, mut keep) = (None, None, false);
    let (mut points, mut disk, mut stored, mut churn) = (1000, 10_u64.pow(12), 10_u64.pow(12), 1);
    let mut delete = None;
    while let Some(argument) = arguments.next() {
        if argument == "--keep" {
            keep = true;
            continue;
        }
        let value =
            arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
        match argument.as_str() {
            "--scratch" => scratch = Some(PathBuf::from(value)),
            "--strongroom" => strongroom = Some(PathBuf::from(value)),
            "--points" => points = value.parse()?,
            "--disk-bytes" => disk = scale::bytes(&value)?,
            "--stored-bytes" => stored = scale::bytes(&value)?,
            "--churn" => churn = value.parse()?,
            "--delete" => delete = Some(value.parse()?),
            _ => return Err(Failure::new(format!("unknown argument {argument}\n{USAGE}"))),
        }
    }
    let (Some(scratch), Some(strongroom)) = (scratch, strongroom) else {
        return Err(Failure::new(format!("needs --scratch and --strongroom\n{USAGE}")));
    };
    let scale = Scale::new(points, disk, stored, churn, delete.unwrap_or(points / 10))?;
    Ok(Options { scratch, strongroom: fs::canonicalize(strongroom)?, scale, keep })
}

fn run(options: &Options) -> Outcome<()> {
    let place = Place::new(&options.scratch.join("big-vault"))?;
    let result = measure_all(options, &place);
    if !options.keep {
        place.remove()?;
    }
    writeln!(stdout(), "{:#}", result?)?;
    Ok(())
}

fn measure_all(options: &Options, place: &Place) -> Outcome<Value> {
    let scale = &options.scale;
    let program = Program { path: &options.strongroom, place };
    tell(&format!("generating {scale}"));
    let started = Instant::now();
    let made = generate::generate(place, scale)?;
    let generate_seconds = started.elapsed().as_secs_f64();
    place.forget_index()?;
    let (packs, stored_bytes) = place.packs()?;
    tell(&format!("made {packs} packs in {generate_seconds:.0} s; rebuilding the index"));

    measure::leave_page_cache(&place.vault.join("packs"))?;
    let rebuild = program.run(&["vault", "rebuild-index"])?;
    tell(&format!("{rebuild}; opening"));
    let mut opens = Vec::new();
    for _ in 0..5 {
        let open = program.run(&["recoverypoint", "list", "--item", generate::ITEM])?;
        check::lists(&open.said, scale.points)?;
        opens.push(open);
    }
    opens.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let open = opens.get(opens.len() / 2).ok_or_else(|| Failure::new("nothing was opened"))?;
    tell(&format!("{open}"));
    let index = measure::index_memory(&place.cache)?;

    let disk_before = place.disk_bytes()?;
    generate::delete(place, scale)?;
    tell("reclaiming");
    let reclaim = program.run(&["vault", "reclaim"])?;
    tell(&format!("{reclaim}; checking what is left"));
    let left = program.run(&["recoverypoint", "list", "--item", generate::ITEM])?;
    check::lists(&left.said, scale.points - scale.delete)?;
    let checked = check::check(place)?;
    Ok(json!({
        "open_warm_seconds": open.seconds,
        "open_warm_peak_rss_bytes": open.peak_rss_bytes,
        "open_rebuild_seconds": rebuild.seconds,
        "open_rebuild_peak_rss_bytes": rebuild.peak_rss_bytes,
        "index_ram_bytes": index.bytes,
        "index_records": index.records,
        "stored_bytes": stored_bytes,
        "reclaim_seconds": reclaim.seconds,
        "reclaim_peak_rss_bytes": reclaim.peak_rss_bytes,
        "reclaim": reclaim.said,
        "points": scale.points,
        "points_deleted": scale.delete,
        "disk_bytes": scale.disk_bytes,
        "blocks_changed_per_point": scale.changed,
        "blocks_new_per_point": scale.fresh,
        "packs": packs,
        "nodes": made.nodes,
        "generate_seconds": generate_seconds,
        "disk_space_before_reclaim_bytes": disk_before,
        "nodes_checked": checked.nodes,
        "blocks_checked": checked.blocks,
    }))
}

/// Tells the person who waits.
fn tell(line: &str) {
    // Progress that nobody can read is no reason to stop.
    drop(writeln!(stderr(), "bench big-vault: {line}"));
}

/// An error with its causes.
fn failed(error: impl std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    Failure::new(text)
}
