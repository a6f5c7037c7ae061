//! Makes the data of the benchmarks, and measures one thing at a time.
//!
//! The programs that measure Strongroom against its peers (`compare`, `machines`, `distant`) run these,
//! each as a process of its own, so that its memory and its time are its own.

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]

mod bare_pipeline;
mod big_vault;
mod catalog;
mod fleet;
mod generate;
mod limits;
mod patch;

use std::{
    env,
    io::{Write as _, stdout},
    process::ExitCode,
};

use strongroom_bench::{Failure, Outcome, failure::finish};

const USAGE: &str = "\
usage: bench COMMAND [ARGUMENTS]

  generate heap|churn|log|noise|grow FILE COUNT SEED
                            makes a table, a day's changes, log lines, noise: the same for the same seed
  patch compare OLD NEW --disk NAME --to PREFIX
  patch apply DISK PREFIX forward|back
                            how two disks differ, and taking a disk from one day to the other
  limits IMAGE --scratch DIR [--seconds N]
                            what this machine can do: read, write, hash, compress, encrypt
  bare-pipeline IMAGE [--output FILE] [--ranges FILE] [--direct-input] [--cached-output]
                            the least a backup must do, without index, manifest or format: the ceiling
  big-vault --scratch DIR --strongroom PROGRAM
                            a vault of 1 TB and 1,000 points without its data: opening, index, reclaim
  catalog [--sqlite N] [--postgres N] [--rounds N] [--scratch DIR]
                            how fast the catalog lists, reads, writes and counts
  fleet [SEED]              nights of 10,000 machines on 100 hosts, in simulated time
";

fn main() -> ExitCode {
    finish("bench", run(env::args().skip(1)))
}

fn run(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let command = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    match command.as_str() {
        "generate" => generate::run_program(arguments),
        "patch" => patch::run_program(&arguments),
        "limits" => limits::run_program(arguments),
        "bare-pipeline" => bare_pipeline::run_program(arguments),
        "big-vault" => big_vault::run_program(arguments),
        "catalog" => catalog::run_program(arguments),
        "fleet" => fleet::run_program(&arguments),
        "--help" | "-h" | "help" => Ok(stdout().write_all(USAGE.as_bytes())?),
        _ => Err(Failure::new(format!("there is no command {command:?}\n{USAGE}"))),
    }
}
