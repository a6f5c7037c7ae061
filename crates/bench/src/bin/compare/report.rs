//! The tables: what every tool took, and each target with the ratio reached.

use std::fmt::Write as _;

use serde_json::Value;
use strongroom_bench::figures::{
    Bound, Target, number, ratio, significant, table, target, targets_table,
};

use crate::record::{Cache, Records};

const US: &str = "strongroom";
const CEILING: &str = "bare pipeline";

fn limit(limits: &Value, primitive: &str) -> Option<f64> {
    let rates = limits.get(primitive)?.as_object()?;
    rates.values().filter_map(Value::as_f64).reduce(f64::max)
}

/// Every target and what was reached.
pub(crate) fn targets(records: &Records, limits: &Value) -> Vec<Target> {
    let warm = |tool: &str, work: &str| records.seconds(tool, work, Cache::Warm);
    let cold = |tool: &str, work: &str| records.seconds(tool, work, Cache::Cold);
    let against = |work: &str, ours: &str, peer: &str, theirs: &str, words: &str, bound: Bound| {
        target(
            format!("{work}, time against {peer}"),
            words,
            ratio(warm(US, ours), warm(peer, theirs)),
            bound,
        )
    };
    let fifth = || Bound::AtMost(0.2);
    let (day2, day3) = ("day2, ranges known", "day3, ranges known");
    let mut rows = vec![
        against("full backup", "full", "restic", "full", "at most 1/5", fifth()),
        against("full backup", "full", "borg zstd,1", "full", "at most 1/5", fifth()),
        target(
            "full backup, speed against the bare pipeline, warm",
            "at least 0.75",
            ratio(warm(CEILING, "full"), warm(US, "full")),
            Bound::AtLeast(0.75),
        ),
        target(
            "full backup, speed against the bare pipeline, cold",
            "at least 0.75",
            ratio(cold(CEILING, "full"), cold(US, "full")),
            Bound::AtLeast(0.75),
        ),
        against(
            "quiet day, ranges known",
            day3,
            "restic",
            "day3",
            "at most 1/30",
            Bound::AtMost(1.0 / 30.0),
        ),
        against(
            "working day, ranges known",
            day2,
            "restic",
            "day2",
            "(a fifth of the data changed)",
            Bound::None,
        ),
        target(
            "quiet day, ranges known, speed against the bare pipeline",
            "(for information)",
            ratio(warm(CEILING, day3), warm(US, day3)),
            Bound::None,
        ),
        target(
            "quiet day, ranges known, twice the disk: time against the single disk",
            "no more (1.1 for noise)",
            ratio(warm(US, "day3, ranges known, double disk"), warm(US, day3)),
            Bound::AtMost(1.1),
        ),
    ];
    rows.extend(small(records));
    for (name, day) in [("working day", "day2"), ("quiet day", "day3")] {
        let work = format!("{name}, ranges unknown");
        rows.push(against(&work, day, "restic", day, "at most 1/8", Bound::AtMost(0.125)));
    }
    rows.extend(stored(records));
    rows.push(against(
        "restore",
        "restore",
        "restic",
        "restore",
        "at most 1/4",
        Bound::AtMost(0.25),
    ));
    rows.push(target(
        "restore, time against writing the same bytes alone",
        "at most 1.1",
        // The disk's rate differs from run to run; the fastest one says what it can do.
        ratio(warm(US, "restore"), records.least_seconds("writing alone", "restore", Cache::Warm)),
        Bound::AtMost(1.1),
    ));
    rows.push(target(
        "restore of compressible data, against sequential writing",
        "at least 0.70",
        ratio(restored_rate(records), limit(limits, "write_direct")),
        Bound::AtLeast(0.7),
    ));
    rows.push(target(
        "backups and restores, peak memory, MiB",
        "at most 128",
        peak_of_data_path(records).map(|bytes| bytes / 1_048_576.0),
        Bound::AtMost(128.0),
    ));
    rows.extend(big_vault(records));
    rows
}

/// The most memory that a backup or a restore took. What care of a vault takes has rows of its own.
fn peak_of_data_path(records: &Records) -> Option<f64> {
    let works = records.kinds().into_iter().map(|(work, _)| work);
    let works = works.filter(|work| work != "big vault" && work != "full, recompressed");
    works.filter_map(|work| records.peak_rss(US, Some(&work))).reduce(f64::max)
}

fn small(records: &Records) -> Vec<Target> {
    let work = "small disk";
    let seconds = |tool: &str| records.seconds(tool, work, Cache::Warm);
    let reached = seconds(US);
    let title = "backup of a small disk of which 64 KiB changed, process and all, s";
    let mut rows = vec![target(title, "at most 0.08", reached, Bound::AtMost(0.08))];
    for peer in ["restic", "borg zstd,1"] {
        let title = format!("the same, time against {peer}");
        rows.push(target(title, "(for information)", ratio(reached, seconds(peer)), Bound::None));
    }
    rows
}

fn stored(records: &Records) -> Vec<Target> {
    let added = |work: &str, ours: &str, peer: &str, theirs: &str, words: &str, bound: Bound| {
        target(
            format!("{work}, bytes against {peer}"),
            words,
            ratio(records.added(US, ours), records.added(peer, theirs)),
            bound,
        )
    };
    let eighth = || Bound::AtMost(0.125);
    vec![
        added("database day", "database day", "restic", "database day", "at most 1/8", eighth()),
        added(
            "database day",
            "database day",
            "borg zstd,1",
            "database day",
            "at most 1/8",
            eighth(),
        ),
        added(
            "working day",
            "day2, ranges known",
            "restic",
            "day2",
            "at most 0.55",
            Bound::AtMost(0.55),
        ),
        added(
            "quiet day",
            "day3, ranges known",
            "restic",
            "day3",
            "(for information)",
            Bound::None,
        ),
        added("first backup", "full", "restic", "full", "at most 1.00", Bound::AtMost(1.0)),
        added(
            "first backup, recompressed",
            "full, recompressed",
            "restic",
            "full",
            "at most 0.93",
            Bound::AtMost(0.93),
        ),
    ]
}

/// MB a second of the restore of compressible data. The disk's size was noted when it was made.
fn restored_rate(records: &Records) -> Option<f64> {
    let noted = records.0.iter().find(|record| record.tool == "sizes")?;
    let size = noted.said.get("compressible")?.as_u64()?;
    let seconds = records.seconds(US, "restore, compressible", Cache::Warm)?;
    Some(number(size) / 1e6 / seconds)
}

fn big_vault(records: &Records) -> Vec<Target> {
    let said =
        records.0.iter().find(|record| record.work == "big vault").map(|record| &record.said);
    let value = |name: &str| said.and_then(|said| said.get(name)).and_then(Value::as_f64);
    let mebibytes = |name: &str| value(name).map(|bytes| bytes / 1_048_576.0);
    let ram = ratio(value("index_ram_bytes"), value("stored_bytes")).map(|ratio| ratio * 1e6);
    let open = "a vault of 1 TB and 1,000 points";
    vec![
        target("index memory, MB for each TB stored", "under 100", ram, Bound::AtMost(100.0)),
        target(
            format!("opening {open}, warm index, s"),
            "under 1",
            value("open_warm_seconds"),
            Bound::AtMost(1.0),
        ),
        target(
            format!("opening {open} from pack trailers, s"),
            "under 30",
            value("open_rebuild_seconds"),
            Bound::AtMost(30.0),
        ),
        target(
            format!("reclaim of {open}, s"),
            "minutes (under 600)",
            value("reclaim_seconds"),
            Bound::AtMost(600.0),
        ),
        target(
            "the same, peak memory, MiB",
            "at most 200",
            mebibytes("reclaim_peak_rss_bytes"),
            Bound::AtMost(200.0),
        ),
        target(
            "rebuilding its index from pack trailers, peak memory, MiB",
            "at most 200",
            mebibytes("open_rebuild_peak_rss_bytes"),
            Bound::AtMost(200.0),
        ),
    ]
}

/// All tables, as Markdown that also reads well on a terminal.
pub(crate) fn render(
    records: &Records,
    limits: &Value,
    machine: &Value,
    targets: &[Target],
) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = writeln!(text, "{}\n", describe(machine));
    text.push_str("Targets (ratios of medians; page cache warm unless said otherwise):\n\n");
    text.push_str(&targets_table(targets));
    text.push_str("\nSeconds of wall time (of processor time), median; the number of runs if more than one:\n\n");
    text.push_str(&times(records));
    text.push_str("\nMB (10^6 bytes) added to the repository:\n\n");
    text.push_str(&sizes(records));
    text.push_str("\nPeak resident memory, MiB, of all runs of a tool:\n\n");
    let memory = tools(records).into_iter().map(|tool| {
        let peak = records.peak_rss(&tool, None).unwrap_or_default() / 1_048_576.0;
        vec![tool, format!("{peak:.0}")]
    });
    text.push_str(&table(&["tool", "MiB"], &memory.collect::<Vec<_>>()));
    text.push_str("\nThis machine's limits on that disk's data, MB/s:\n\n");
    text.push_str(&limit_table(limits));
    text
}

/// What a reader wants to know first, in one table.
pub(crate) fn summary(records: &Records, machine: &Value) -> String {
    const PEERS: [&str; 2] = ["restic", "borg zstd,1"];
    let seconds = |work: &str, ours: &str, theirs: &str| {
        let of = |tool: &str, work: &str| records.seconds(tool, work, Cache::Warm);
        let peers = PEERS.map(|peer| of(peer, theirs));
        compared(format!("{work}, seconds"), of(US, ours), peers)
    };
    let bytes = |work: &str, ours: &str, theirs: &str| {
        let of = |tool: &str, work: &str| records.added(tool, work).map(|bytes| bytes / 1e6);
        let peers = PEERS.map(|peer| of(peer, theirs));
        compared(format!("{work}, MB stored"), of(US, ours), peers)
    };
    let rows = [
        seconds("first backup", "full", "full"),
        seconds("a quiet day, changes known", "day3, ranges known", "day3"),
        seconds("a quiet day, changes unknown", "day3", "day3"),
        seconds("restore", "restore", "restore"),
        bytes("first backup", "full", "full"),
        bytes("a working day", "day2, ranges known", "day2"),
        bytes("a database's day", "database day", "database day"),
    ];
    format!("{}\n\n{}", describe(machine), table(&["", US, PEERS[0], PEERS[1]], &rows))
}

/// A row of the summary: our figure, and the peers' with how many times ours that is.
fn compared(work: String, ours: Option<f64>, peers: [Option<f64>; 2]) -> Vec<String> {
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), significant);
    let mut row = vec![work, cell(ours)];
    row.extend(peers.map(|peer| match ratio(peer, ours) {
        Some(times) => format!("{} ({}x)", cell(peer), significant(times)),
        None => cell(peer),
    }));
    row
}

fn describe(machine: &Value) -> String {
    let word = |name: &str| match machine.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "?".to_owned(),
    };
    format!(
        "Measured {} with strongroom {} on {} x {}, {} GiB of memory, Linux {}, {}; disk of {} GiB with {} MB \
         of data. {}",
        word("date"),
        word("strongroom"),
        word("cores"),
        word("processor"),
        word("memory_gib"),
        word("kernel"),
        word("peers"),
        word("disk_gib"),
        word("data_mb"),
        word("note"),
    )
}

fn tools(records: &Records) -> Vec<String> {
    let mut tools: Vec<String> = Vec::new();
    for record in records.0.iter().filter(|record| record.tool != "sizes") {
        if !tools.contains(&record.tool) {
            tools.push(record.tool.clone());
        }
    }
    tools
}

fn times(records: &Records) -> String {
    let tools = tools(records);
    let mut head = vec!["work", "cache"];
    head.extend(tools.iter().map(String::as_str));
    let kinds = records.kinds().into_iter().filter(|(work, _)| work != "sizes");
    let rows = kinds.map(|(work, cache)| {
        let mut row = vec![work.clone(), cache.word().to_owned()];
        row.extend(tools.iter().map(|tool| {
            let (Some(seconds), Some(cpu)) =
                (records.seconds(tool, &work, cache), records.cpu_seconds(tool, &work, cache))
            else {
                return String::new();
            };
            let runs = match records.runs(tool, &work, cache) {
                1 => String::new(),
                runs => format!(", {runs} runs"),
            };
            format!("{seconds:.2} ({cpu:.1}){runs}")
        }));
        row
    });
    table(&head, &rows.collect::<Vec<_>>())
}

fn sizes(records: &Records) -> String {
    let tools: Vec<String> = tools(records).into_iter().filter(|tool| tool != CEILING).collect();
    let mut head = vec!["work"];
    head.extend(tools.iter().map(String::as_str));
    let mut works: Vec<String> = Vec::new();
    for record in records.0.iter().filter(|record| record.added_bytes.is_some()) {
        if !works.contains(&record.work) {
            works.push(record.work.clone());
        }
    }
    let rows = works.into_iter().map(|work| {
        let mut row = vec![work.clone()];
        row.extend(tools.iter().map(|tool| {
            records.added(tool, &work).map_or(String::new(), |bytes| format!("{:.1}", bytes / 1e6))
        }));
        row
    });
    table(&head, &rows.collect::<Vec<_>>())
}

fn limit_table(limits: &Value) -> String {
    let mut rows = Vec::new();
    for (primitive, rates) in limits.as_object().into_iter().flatten() {
        let rates = rates.as_object().into_iter().flatten();
        let rates = rates.map(|(name, rate)| format!("{} {rate}", name.replace('_', " ")));
        rows.push(vec![primitive.replace('_', " "), rates.collect::<Vec<_>>().join("; ")]);
    }
    table(&["primitive", "MB/s"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use strongroom_bench::figures::significant;

    use super::{render, targets};
    use crate::record::{Cache, Record, Records};

    fn record(tool: &str, work: &str, seconds: f64, added_bytes: Option<u64>) -> Record {
        Record {
            tool: tool.to_owned(),
            work: work.to_owned(),
            cache: Cache::Warm,
            seconds,
            cpu_seconds: seconds,
            peak_rss_bytes: 100 << 20,
            added_bytes,
            said: Value::Null,
        }
    }

    #[test]
    fn judges_targets_by_ratio_and_leaves_open_what_was_not_measured() {
        let records = Records(vec![
            record("restic", "full", 100.0, Some(1000)),
            record("strongroom", "full", 15.0, Some(1049)),
            record("bare pipeline", "full", 10.0, None),
            record("strongroom", "restore", 11.5, None),
            record("writing alone", "restore", 10.0, None),
            record("writing alone", "restore", 20.0, None),
            Record { peak_rss_bytes: 300 << 20, ..record("strongroom", "big vault", 1.0, None) },
        ]);
        let rows = targets(&records, &json!({}));
        let verdict = |start: &str| {
            let row = rows.iter().find(|row| row.work.starts_with(start)).unwrap();
            (row.value.map(significant), row.met)
        };
        assert_eq!(verdict("full backup, time against restic"), (Some("0.150".into()), Some(true)));
        assert_eq!(verdict("full backup, time against borg"), (None, None));
        assert_eq!(
            verdict("full backup, speed against the bare pipeline, warm"),
            (Some("0.667".into()), Some(false))
        );
        assert_eq!(verdict("first backup, bytes"), (Some("1.05".into()), Some(false)));
        assert_eq!(verdict("restore, time against writing"), (Some("1.15".into()), Some(false)));
        assert_eq!(verdict("backups and restores, peak"), (Some("100".into()), Some(true)));
        let text = render(&records, &json!({}), &json!({}), &rows);
        assert!(text.contains("MISSED") && text.contains("not measured"), "{text}");
    }
}
