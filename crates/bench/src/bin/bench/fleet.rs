//! Nights of 10,000 machines on 100 hosts, under several limits, in simulated time.
//!
//! ```text
//! bench fleet [SEED]      prints the table of docs/understand/benchmarks.md
//! ```

use std::io::{Write as _, stdout};

use strongroom_bench::{
    Failure, Outcome,
    fleet::{Fleet, night},
};

/// Runs it.
pub(crate) fn run_program(arguments: &[String]) -> Outcome<()> {
    let seed = match arguments {
        [] => 1,
        [seed] => seed.parse()?,
        _ => return Err(Failure::new("usage: bench fleet [SEED]")),
    };
    let usual = Fleet { seed, ..Fleet::USUAL };
    let nights = [
        ("usual", usual.clone()),
        ("all at 22:00", Fleet { spread_minutes: 0, ..usual.clone() }),
        ("server away until 03:00", Fleet { away_hours: 5, ..usual.clone() }),
        ("one job a host", Fleet { per_host: 1, ..usual.clone() }),
        ("40 jobs in all", Fleet { total: 40, ..usual.clone() }),
        ("8 jobs in all", Fleet { total: 8, ..usual }),
    ];
    let mut out = stdout().lock();
    let head = "| night | jobs: all, host, vault | last ended after | waited: median, p99, most | \
                waiting at most | restores waited at most | missed |";
    writeln!(out, "{head}\n|---|---|---|---|---|---|---|")?;
    for (name, fleet) in nights {
        let done = night(&fleet).map_err(|error| Failure::new(error.to_string()))?;
        let [median, p99, most] = done.waits.map(minutes);
        writeln!(
            out,
            "| {name} | {}, {}, {} | {} | {median}, {p99}, {most} | {} | {} | {} of {} |",
            fleet.total,
            fleet.per_host,
            fleet.per_vault,
            minutes(done.last_end),
            done.most_waiting,
            minutes(done.restore_wait),
            done.missed,
            done.backups,
        )?;
    }
    Ok(())
}

fn minutes(seconds: u64) -> String {
    format!("{}:{:02} h", seconds / 3600, seconds / 60 % 60)
}
