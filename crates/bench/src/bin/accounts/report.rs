//! The tables: what each server took, and each target with what was reached.

use std::fmt::Write as _;

use strongroom_bench::figures::{Bound, Target, ratio, significant, table, target, targets_table};

use crate::{
    About,
    work::{Pages, Record, disk_works, page_work, page_works},
};

/// The name of the figure of memory.
pub(crate) const MEMORY: &str = "peak memory with pages over HTTP";
/// The same after everything else.
pub(crate) const CROWD_MEMORY: &str = "peak memory with 1 TiB of blobs and 1,000 snapshots";

const US: &str = "strongroom";

fn value(records: &[Record], tool: &str, work: &str) -> Option<f64> {
    records.iter().find(|it| it.tool == tool && it.work == work).map(|it| it.value)
}

/// Every target and what was reached.
fn targets(records: &[Record]) -> Vec<Target> {
    let against =
        |peer: &str, work: &str| ratio(value(records, US, work), value(records, peer, work));
    let ours = |work: &str| value(records, US, work);
    let least = Bound::AtLeast;
    let most = Bound::AtMost;
    let small = page_work(Pages::Put, 4 << 10, 32);
    let mut all = vec![target(
        format!("{small}, times Azurite"),
        "at least 20",
        against("azurite", &small),
        least(20.0),
    )];
    for (kind, bytes, connections) in page_works().filter(|(_, bytes, _)| *bytes >= 1 << 20) {
        let work = page_work(kind, bytes, connections);
        let reached = against("azurite", &work);
        all.push(target(format!("{work}, times Azurite"), "at least 5", reached, least(5.0)));
    }
    for work in disk_works() {
        let reached = against("qemu-nbd", work);
        all.push(target(format!("{work}, of qemu-nbd"), "at least 0.8", reached, least(0.8)));
    }
    for size in ["1 GiB", "64 GiB", "1 TiB"] {
        let work = format!("snapshot of {size}");
        all.push(target(format!("{work}, ms"), "at most 10", ours(&work), most(10.0)));
    }
    let difference = "difference of 10 GiB in a blob of 1 TiB";
    all.push(target(format!("{difference}, ms"), "at most 200", ours(difference), most(200.0)));
    let smaller = ratio(ours(difference), ours("difference of 10 GiB in a blob of 64 GiB"));
    all.push(target("the same, times that of 64 GiB", "about 1", smaller, most(1.5)));
    all.push(target(
        format!("{CROWD_MEMORY}, MiB"),
        "at most 256",
        ours(CROWD_MEMORY),
        most(256.0),
    ));
    all
}

/// The figures of some works, a column for each tool.
fn figures(records: &[Record], works: &[String], tools: &[&str]) -> String {
    let head: Vec<&str> = ["work"].iter().chain(tools).copied().collect();
    let cell = |work: &str, tool: &str| {
        let found = records.iter().find(|it| it.tool == tool && it.work == work);
        found.map_or_else(
            || "-".to_owned(),
            |it| {
                let p99 = it.p99_ms.map(|p99| format!(", p99 {} ms", significant(p99)));
                format!("{} {}{}", significant(it.value), it.unit, p99.unwrap_or_default())
            },
        )
    };
    let row = |work: &String| {
        let cells = tools.iter().map(|tool| cell(work, tool));
        [work.clone()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let has = |work: &&String| records.iter().any(|it| it.work == **work);
    table(&head, &works.iter().filter(has).map(row).collect::<Vec<_>>())
}

/// All tables, as Markdown that also reads well on a terminal.
pub(crate) fn render(about: &About, records: &[Record]) -> String {
    let mut text = String::new();
    let About { host, strongroom, azurite, qemu_nbd, seconds, busy_percent } = about;
    // Writing to a string cannot fail.
    _ = writeln!(
        text,
        "{}; {}, {} cores, {} GiB, Linux {}; other work used {busy_percent} % of the processor before the run.\n\
         {strongroom}; {azurite}; {qemu_nbd}. Each work for {seconds} s; clients on the same cores. An answer of\n\
         Strongroom means that the pages are durable; Azurite promises nothing, and the raw file is synced after each write.\n",
        host.date, host.processor, host.cores, host.memory_gib, host.kernel,
    );
    text.push_str(&targets_table(&targets(records)));
    text.push('\n');
    let mut pages: Vec<String> =
        page_works().map(|(kind, bytes, many)| page_work(kind, bytes, many)).collect();
    pages.push(MEMORY.to_owned());
    text.push_str(&figures(records, &pages, &[US, "azurite", "raw file"]));
    text.push('\n');
    let disks: Vec<String> = disk_works().map(str::to_owned).collect();
    text.push_str(&figures(records, &disks, &[US, "qemu-nbd"]));
    let mut others = Vec::new();
    for record in records.iter().filter(|it| it.tool == US) {
        if !pages.contains(&record.work) && !disks.contains(&record.work) {
            others.push(record.work.clone());
        }
    }
    if !others.is_empty() {
        text.push('\n');
        text.push_str(&figures(records, &others, &[US]));
    }
    text
}
