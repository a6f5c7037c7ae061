//! The tables: what each tool took, and each target with what was reached.

use std::fmt::Write as _;

use strongroom_bench::figures::{
    Bound, Target, median, number, ratio, significant, table, target, targets_table,
};

use crate::{
    About,
    work::{Record, Work},
};

const US: &str = "strongroom";

fn middle(records: &[Record], tool: &str, work: Work) -> Option<f64> {
    let runs = records.iter().filter(|run| run.tool == tool && run.work == work);
    median(runs.map(|run| run.value).collect())
}

/// Every target and what was reached.
fn targets(records: &[Record]) -> Vec<Target> {
    let ours = |work| middle(records, US, work);
    let peer = |tool| middle(records, tool, Work::Mount);
    let memory = records.iter().filter(|run| run.work == Work::Memory).map(|run| run.value);
    let memory = memory.reduce(f64::max).map(|bytes| bytes / number(1 << 20));
    let least = Bound::AtLeast;
    let against = |tool, work| ratio(peer(tool), ours(work));
    vec![
        target(
            "open to the first byte, ms",
            "under 100",
            ours(Work::FirstByte).map(|seconds| seconds * 1000.0),
            Bound::AtMost(100.0),
        ),
        target(
            "export in order, speed against a restore",
            "at least 0.7",
            ratio(ours(Work::Restore), ours(Work::Export)),
            least(0.7),
        ),
        target(
            "export in order, speed against restic mount",
            "at least 3",
            against("restic", Work::Export),
            least(3.0),
        ),
        target(
            "export in order, speed against borg mount",
            "at least 3",
            against("borg", Work::Export),
            least(3.0),
        ),
        target(
            "mount in order, speed against restic mount",
            "at least 3",
            against("restic", Work::Mount),
            least(3.0),
        ),
        target(
            "mount in order, speed against borg mount",
            "at least 3",
            against("borg", Work::Mount),
            least(3.0),
        ),
        target(
            "random reads of 4 KiB from memory, a second",
            "over 30,000",
            ours(Work::Random),
            least(30_000.0),
        ),
        target("peak of resident memory, MiB", "under 300", memory, Bound::AtMost(300.0)),
    ]
}

/// All tables, as Markdown that also reads well on a terminal.
pub(crate) fn render(about: &About, records: &[Record]) -> String {
    let mut text = String::new();
    let About { host, strongroom, restic, borg, points, size_mib, data_mib, busy_percent } = about;
    // Writing to a string cannot fail.
    _ = writeln!(
        text,
        "Measured {} with {strongroom}, {restic} and {borg} on {} x {}, {} GiB, Linux {}; a disk of {size_mib} MiB \
         with {data_mib} MiB of data; a vault of {points} points for the first byte. Other work took \
         {busy_percent} % of the processor.\n",
        host.date, host.cores, host.processor, host.memory_gib, host.kernel,
    );
    text.push_str("Targets (medians):\n\n");
    text.push_str(&targets_table(&targets(records)));
    text.push_str("\nSeconds for the whole disk, from an empty page cache; medians:\n\n");
    let rows = [
        ("restore to a file", US, Work::Restore),
        ("export, nbdcopy to nothing", US, Work::Export),
        ("mount disks, dd", US, Work::Mount),
        ("restic mount, dd", "restic", Work::Mount),
        ("borg mount, dd", "borg", Work::Mount),
    ];
    let rows = rows.map(|(name, tool, work)| {
        let seconds = middle(records, tool, work);
        let rate = seconds.map(|seconds| number(*data_mib) / seconds);
        let cell = |value: Option<f64>| value.map(significant).unwrap_or_default();
        vec![name.to_owned(), cell(seconds), cell(rate)]
    });
    text.push_str(&table(&["work", "seconds", "MiB of data a second"], &rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_judged_by_medians_and_memory_by_its_peak() {
        let run = |tool: &str, work, value| Record { tool: tool.to_owned(), work, value };
        let records = [
            run(US, Work::FirstByte, 0.2),
            run(US, Work::FirstByte, 0.05),
            run(US, Work::FirstByte, 0.06),
            run(US, Work::Restore, 2.0),
            run(US, Work::Export, 4.0),
            run("restic", Work::Mount, 20.0),
            run(US, Work::Random, 40_000.0),
            run("strongroom export", Work::Memory, 200.0 * 1_048_576.0),
            run("strongroom mount", Work::Memory, 301.0 * 1_048_576.0),
        ];
        let met: Vec<_> = targets(&records).iter().map(|row| row.met).collect();
        let wanted =
            [Some(true), Some(false), Some(true), None, None, None, Some(true), Some(false)];
        assert_eq!(met, wanted);
    }
}
