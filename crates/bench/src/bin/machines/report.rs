//! The tables: what each tool took, and each target with what was reached.

use std::fmt::Write as _;

use strongroom_bench::figures::{
    Bound, Target, number, ratio, significant, table, target, targets_table,
};

use crate::{
    About,
    measure::POINTS,
    record::{During, Latency, Record, Records, STEPS, Work, steps},
    tools::{PEER, PEER_LZ4, TOOLS, Tool, US},
};

/// Every target and what was reached.
pub(crate) fn targets(records: &Records) -> Vec<Target> {
    let whole = |tool: &str| {
        Some(records.seconds(tool, Work::Full)? + records.seconds(tool, Work::Restore)?)
    };
    let read = |tool: &str, work: Work| {
        records.median(tool, work, |run| Some(number(run.qemu_read_bytes)))
    };
    let frozen = |tool: &str| frozen(records, tool);
    let slower = |tool: &str, during: During| {
        let p99 = |during| records.latency(tool, during).map(|latency| latency.p99_us);
        ratio(p99(during), p99(During::Rest))
    };
    let mut rows = Vec::new();
    for peer in [PEER, PEER_LZ4] {
        rows.push(target(
            format!("full backup and restore, time against {peer}"),
            "at most 1/3",
            ratio(whole(US), whole(peer)),
            Bound::AtMost(1.0 / 3.0),
        ));
    }
    for peer in [PEER, PEER_LZ4] {
        rows.push(target(
            format!("incremental of 1 %, time against {peer}"),
            "at most 1/2",
            ratio(records.seconds(US, Work::Incremental), records.seconds(peer, Work::Incremental)),
            Bound::AtMost(0.5),
        ));
    }
    for peer in [PEER, PEER_LZ4] {
        rows.push(target(
            format!("bytes stored after {POINTS} points, against {peer}"),
            "at most 0.33",
            ratio(records.stored(US), records.stored(peer)),
            Bound::AtMost(0.33),
        ));
    }
    rows.push(target(
        "guest's p99 write latency during a full backup, against undisturbed",
        "at most 5",
        slower(US, During::Frozen),
        Bound::AtMost(5.0),
    ));
    rows.push(target(
        "the same without a freeze, crash consistent",
        "at most 2",
        slower(US, During::Unfrozen),
        Bound::AtMost(2.0),
    ));
    for peer in [PEER, PEER_LZ4] {
        rows.push(target(
            format!("the same, of {peer}"),
            "(for information)",
            slower(peer, During::Frozen),
            Bound::None,
        ));
    }
    rows.push(target(
        format!("time that the guest is frozen, against {PEER}"),
        "(for information)",
        ratio(frozen(US), frozen(PEER)),
        Bound::None,
    ));
    for (name, work) in [("full", Work::Full), ("incremental", Work::Incremental)] {
        rows.push(target(
            format!("{name}, bytes read by QEMU, against {PEER}"),
            "(for information)",
            ratio(read(US, work), read(PEER, work)),
            Bound::None,
        ));
    }
    rows
}

fn frozen(records: &Records, tool: &str) -> Option<f64> {
    records.median(tool, Work::Incremental, |run| run.frozen_seconds)
}

/// All tables, as Markdown that also reads well on a terminal.
pub(crate) fn render(about: &About, records: &Records) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = writeln!(text, "{}\n", describe(about));
    text.push_str("Targets (ratios of medians):\n\n");
    text.push_str(&targets_table(&targets(records)));
    text.push_str(
        "\nSeconds of wall time (of processor time), median; the number of runs if more than one:\n\n",
    );
    let works = [
        ("full", Work::Full),
        ("incremental, 1 % written", Work::Incremental),
        ("restore to qcow2", Work::Restore),
        ("full, guest under load", Work::FullUnderLoad),
        ("the same, without a freeze", Work::FullUnfrozen),
    ];
    let mut head = vec!["work"];
    head.extend(TOOLS.map(Tool::name));
    let times = works.map(|(name, work)| {
        row(name, |tool| {
            let seconds = records.seconds(tool, work)?;
            let cpu = records.median(tool, work, |run| Some(run.cpu_seconds))?;
            let runs = match records.of(tool, work).count() {
                1 => String::new(),
                runs => format!(", {runs} runs"),
            };
            Some(format!("{seconds:.2} ({cpu:.1}){runs}"))
        })
    });
    text.push_str(&table(&head, &times));
    for tool in TOOLS.map(Tool::name) {
        let failed: u32 = records.of(tool, Work::Restore).map(|run| run.failed_before).sum();
        if failed > 0 {
            _ = writeln!(text, "\nRestores by {tool} that failed and were done again: {failed}.");
        }
    }
    text.push_str("\nMB (10^6 bytes):\n\n");
    text.push_str(&table(&head, &sizes(records)));
    text.push_str("\nThe guest frozen, seconds by its own clock; median and longest:\n\n");
    let frozen = [("full", Work::Full), ("incremental", Work::Incremental)].map(|(name, work)| {
        row(name, |tool| {
            let middle = records.median(tool, work, |run| run.frozen_seconds)?;
            let longest = records.of(tool, work).filter_map(|run| run.frozen_seconds);
            Some(format!("{middle:.2}, {:.2}", longest.fold(0.0, f64::max)))
        })
    });
    text.push_str(&table(&head, &frozen));
    text.push_str(
        "\nWrites of 4 KiB in the guest, ms until they are on its disk: p50, p99, longest (writes):\n\n",
    );
    let latencies = [
        ("undisturbed", During::Rest),
        ("during full backups", During::Frozen),
        ("without a freeze", During::Unfrozen),
    ];
    let latencies = latencies.map(|(name, during)| {
        row(name, |tool| {
            let Latency { writes, p50_us, p99_us, max_us, .. } = records.latency(tool, during)?;
            let [p50, p99, max] = [p50_us, p99_us, max_us].map(|us| significant(us / 1000.0));
            Some(format!("{p50}, {p99}, {max} ({writes})"))
        })
    });
    text.push_str(&table(&head, &latencies));
    text.push_str(
        "\nWhile Strongroom has the guest frozen, ms, median of the full backups under load:\n\n",
    );
    text.push_str(&table(&["step", "ms"], &frozen_steps(records)));
    text.push_str("\nPeak resident memory, MiB, of all runs of a tool:\n\n");
    let memory = row("memory", |tool| {
        let runs = records.runs.iter().filter(|run| run.tool == tool);
        let peak = runs.map(|run| run.peak_rss_bytes).max()?;
        Some(format!("{:.0}", number(peak) / 1_048_576.0))
    });
    text.push_str(&table(&head, &[memory]));
    text
}

/// What each step takes while the guest is frozen.
fn frozen_steps(records: &Records) -> Vec<Vec<String>> {
    let step = |(nth, (_, name)): (usize, (&str, &str))| {
        let of = |run: &Record| steps(&run.said).get(nth).copied().flatten();
        let seconds = records.median(US, Work::FullUnderLoad, of);
        let cell = seconds.map(|seconds| significant(seconds * 1000.0)).unwrap_or_default();
        vec![name.to_owned(), cell]
    };
    STEPS.into_iter().enumerate().map(step).collect()
}

/// A row with a cell for each tool.
fn row(name: &str, of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let cells = TOOLS.map(|tool| of(tool.name()).unwrap_or_default());
    [vec![name.to_owned()], cells.to_vec()].concat()
}

fn sizes(records: &Records) -> Vec<Vec<String>> {
    let mega = |bytes: f64| format!("{:.1}", bytes / 1e6);
    let median = |name: &str, work: Work, of: &dyn Fn(&Record) -> Option<u64>| {
        row(name, |tool| records.median(tool, work, |run| of(run).map(number)).map(mega))
    };
    vec![
        median("full: read by QEMU", Work::Full, &|run| Some(run.qemu_read_bytes)),
        median("full: read, the tool says", Work::Full, &|run| run.said_read_bytes),
        median("full: stored", Work::Full, &|run| Some(run.stored_bytes)),
        median("incremental: read by QEMU", Work::Incremental, &|run| Some(run.qemu_read_bytes)),
        median("incremental: read, the tool says", Work::Incremental, &|run| run.said_read_bytes),
        median("incremental: stored", Work::Incremental, &|run| Some(run.stored_bytes)),
        row(&format!("stored after {POINTS} points"), |tool| records.stored(tool).map(mega)),
    ]
}

/// What a reader wants to know first, in one table.
pub(crate) fn summary(about: &About, records: &Records) -> String {
    let row = |name: &str, of: &dyn Fn(&str) -> Option<f64>| {
        let ours = of(US);
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), significant);
        let mut row = vec![name.to_owned(), cell(ours)];
        row.extend([PEER, PEER_LZ4].map(|peer| match ratio(of(peer), ours) {
            Some(times) => format!("{} ({}x)", cell(of(peer)), significant(times)),
            None => cell(of(peer)),
        }));
        row
    };
    let rows = [
        row("first backup, seconds", &|tool| records.seconds(tool, Work::Full)),
        row("a day of 1 %, seconds", &|tool| records.seconds(tool, Work::Incremental)),
        row("restore, seconds", &|tool| records.seconds(tool, Work::Restore)),
        row(&format!("{POINTS} points, MB stored"), &|tool| {
            records.stored(tool).map(|bytes| bytes / 1e6)
        }),
        row("guest frozen, seconds", &|tool| frozen(records, tool)),
        row("guest's p99 write latency during a full backup, ms", &|tool| {
            records.latency(tool, During::Frozen).map(|latency| latency.p99_us / 1000.0)
        }),
    ];
    format!("{}\n\n{}", describe(about), table(&["", US, PEER, PEER_LZ4], &rows))
}

fn describe(about: &About) -> String {
    let About { host, strongroom, peer, qemu, libvirt, disks, note, .. } = about;
    let busy = match about.busy_percent {
        0..=10 => String::new(),
        busy => format!("Other work took {busy} % of the processor: read ratios, not seconds."),
    };
    format!(
        "Measured {} with strongroom {strongroom} and virtnbdbackup {peer} on {} x {}, {} GiB of memory, \
         Linux {}, libvirt {libvirt}, QEMU {qemu} in emulation; {disks}. {note} {busy}",
        host.date, host.cores, host.processor, host.memory_gib, host.kernel,
    )
    .trim_end()
    .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::targets;
    use crate::record::{During, Latency, Record, Records, Work};

    fn run(tool: &str, work: Work, seconds: f64) -> Record {
        Record {
            tool: tool.to_owned(),
            work,
            seconds,
            cpu_seconds: seconds,
            peak_rss_bytes: 1 << 20,
            stored_bytes: 1000,
            qemu_read_bytes: 2000,
            said_read_bytes: None,
            frozen_seconds: Some(0.1),
            failed_before: 0,
            said: Value::Null,
        }
    }

    #[test]
    fn judges_by_ratio_and_leaves_open_what_was_not_measured() {
        let records = Records {
            runs: vec![
                run("strongroom", Work::Full, 2.0),
                run("strongroom", Work::Restore, 1.0),
                run("virtnbdbackup", Work::Full, 5.0),
                run("virtnbdbackup", Work::Restore, 5.0),
                run("strongroom", Work::Incremental, 0.6),
                run("virtnbdbackup", Work::Incremental, 1.0),
            ],
            latencies: vec![
                Latency::of("strongroom", During::Rest, vec![1_000_000]).unwrap(),
                Latency::of("strongroom", During::Frozen, vec![4_900_000]).unwrap(),
            ],
            stored: vec![("strongroom".to_owned(), 25), ("virtnbdbackup".to_owned(), 100)],
        };
        let rows = targets(&records);
        let met = |start: &str| rows.iter().find(|row| row.work.starts_with(start)).unwrap().met;
        assert_eq!(met("full backup and restore, time against virtnbdbackup"), Some(true));
        assert_eq!(met("full backup and restore, time against virtnbdbackup -z"), None);
        assert_eq!(met("incremental of 1 %, time against virtnbdbackup"), Some(false));
        assert_eq!(met("bytes stored after 10 points, against virtnbdbackup"), Some(true));
        assert_eq!(met("guest's p99"), Some(true));
        assert_eq!(met("the same without"), None);
        assert_eq!(met("the same, of virtnbdbackup"), None);
    }
}
