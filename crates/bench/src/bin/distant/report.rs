//! The tables: what each tool took over the distance, and each target with what was reached.

use std::fmt::Write as _;

use strongroom_bench::figures::{
    Bound, Target, median, number, ratio, table, target, targets_table,
};

use crate::{
    About,
    work::{Record, Work},
};

const US: &str = "strongroom";
const PEER: &str = "restic";

const WORKS: [(&str, Work); 7] = [
    ("quiet incremental", Work::Incremental),
    ("list of points", Work::List),
    ("restore of 128 MiB", Work::Restore),
    ("quiet incremental, many points and packs", Work::CrowdedIncremental),
    ("list of an item's points, many points and packs", Work::CrowdedList),
    ("list of all points by a host that has seen none", Work::CrowdedListAnew),
    ("first reclaim, many points and packs", Work::Reclaim),
];

fn middle(records: &[Record], tool: &str, work: Work, of: impl Fn(&Record) -> f64) -> Option<f64> {
    let runs = records.iter().filter(|run| run.tool == tool && run.work == work);
    median(runs.map(of).collect())
}

/// Every target and what was reached.
fn targets(records: &[Record]) -> Vec<Target> {
    let seconds = |tool: &str, work| middle(records, tool, work, |run| run.seconds);
    let trips = |work| middle(records, US, work, |run| number(run.counts.dependent));
    let against = |ours, peer| ratio(seconds(US, ours), seconds(PEER, peer));
    let most = Bound::AtMost;
    let crowded = trips(Work::CrowdedIncremental);
    vec![
        target(
            "quiet incremental, time against restic",
            "at most 0.2",
            against(Work::Incremental, Work::Incremental),
            most(0.2),
        ),
        target(
            "quiet incremental, dependent round trips",
            "at most 8",
            trips(Work::Incremental),
            most(8.0),
        ),
        target("the same, many points and packs", "at most 8", crowded, most(8.0)),
        target(
            "list of points, time against restic",
            "at most 0.2",
            against(Work::List, Work::List),
            most(0.2),
        ),
        target(
            "restore of 128 MiB, time against restic",
            "at most 0.5",
            against(Work::Restore, Work::Restore),
            most(0.5),
        ),
        target(
            "first reclaim of many small packs, s",
            "at most 5",
            seconds(US, Work::Reclaim),
            most(5.0),
        ),
    ]
}

/// All tables, as Markdown that also reads well on a terminal.
pub(crate) fn render(about: &About, records: &[Record]) -> String {
    let mut text = String::new();
    let About { host, strongroom, restic, round_trip_ms, points, packs, busy_percent } = about;
    // Writing to a string cannot fail.
    _ = writeln!(
        text,
        "Measured {} with {strongroom} and {restic} on {} x {}, Linux {}; a round trip of {round_trip_ms} ms; \
         many points and packs are {points} and {packs}. Other work took {busy_percent} % of the \
         processor.\n",
        host.date, host.cores, host.processor, host.kernel,
    );
    text.push_str("Targets (medians):\n\n");
    text.push_str(&targets_table(&targets(records)));
    text.push_str(
        "\nSeconds of wall time: requests, of them in a row, new connections; medians:\n\n",
    );
    let rows = WORKS.map(|(name, work)| {
        let cell = |tool: &str| {
            let of = |count: fn(&Record) -> f64| middle(records, tool, work, count);
            let cell = || {
                Some(format!(
                    "{:.2}: {:.0}, {:.0}, {:.0}",
                    of(|run| run.seconds)?,
                    of(|run| number(run.counts.requests))?,
                    of(|run| number(run.counts.dependent))?,
                    of(|run| number(run.counts.connections))?,
                ))
            };
            cell().unwrap_or_default()
        };
        vec![name.to_owned(), cell(US), cell(PEER)]
    });
    text.push_str(&table(&["work", US, PEER], &rows));
    text
}

#[cfg(test)]
mod tests {
    use strongroom_bench::distance::Counts;

    use super::*;

    #[test]
    fn targets_are_judged_by_medians() {
        let run = |tool: &str, work, seconds, dependent| Record {
            tool: tool.to_owned(),
            work,
            seconds,
            counts: Counts { requests: 20, connections: 3, dependent },
        };
        let records = [
            run(US, Work::Incremental, 0.5, 8),
            run(US, Work::Incremental, 0.9, 9),
            run(US, Work::Incremental, 0.4, 8),
            run(PEER, Work::Incremental, 5.0, 90),
            run(US, Work::Reclaim, 6.0, 99),
        ];
        let met: Vec<_> = targets(&records).iter().map(|row| row.met).collect();
        assert_eq!(met, [Some(true), Some(true), None, None, None, Some(false)]);
    }
}
