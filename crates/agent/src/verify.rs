//! Verifies a vault: all of it, or the next part of a round.
//!
//! A part is a verify that stops when it has read its share. Like an interrupted verify, it records the
//! packs that it has read in the vault's cache folder, and the next part continues from there.

use std::sync::{Arc, Mutex};

use strongroom_api::{TaskName, TaskState};
use strongroom_base::{Cancel, Stage, Things, lock};
use strongroom_orders::{Result, VerifyDepth, VerifyFacts, Watch};
use strongroom_vault::{Vault, VaultError};
use strongroom_verify::{VerifyMode, VerifyOptions, VerifyProgress, VerifyReport, verify};

use crate::error::body;

/// How many per cent of the packs are read to look at the structure: a few.
const FEW: f64 = 0.01;

/// Damage that is named.
const NAMED: usize = 20;

pub(crate) fn run(
    vault: &Arc<Vault>,
    depth: VerifyDepth,
    (host, threads): (&str, usize),
    watch: &Watch,
) -> Result<VerifyFacts> {
    watch.task(TaskName::Verify, TaskState::InProgress, None);
    let options = VerifyOptions {
        mode: VerifyMode::Full,
        sample: (depth == VerifyDepth::Structure).then_some(FEW),
        repair: true,
        resume: matches!(depth, VerifyDepth::Part { .. }),
        threads,
        host: host.to_owned(),
        ..VerifyOptions::default()
    };
    let stop = Cancel::new();
    let stage = Mutex::new(None);
    let hears = |now: VerifyProgress| {
        let things = match now.stage {
            Stage::Packs => Things::Packs,
            Stage::Points => Things::RecoveryPoints,
            _ => Things::Objects,
        };
        watch.progress.count(now.stage, things, now.done, now.total);
        let mut last = lock(&stage);
        if *last != Some(now.stage) {
            *last = Some(now.stage);
            watch.task(TaskName::Verify, TaskState::InProgress, Some(now.stage.to_string()));
        }
        if watch.cancel.is_cancelled() {
            stop.cancel();
        }
        if let VerifyDepth::Part { of } = depth
            && now.stage == Stage::Packs
            && now.bytes_done < now.bytes_total
        {
            // Of what is left, its share of the times that are left.
            if now.bytes_done >= now.bytes_total.div_ceil(u64::from(of.max(1))) {
                stop.cancel();
            }
        }
    };
    let report = verify(vault, &options, &hears, &stop).map_err(body)?;
    if watch.cancel.is_cancelled() {
        return Err(body(VaultError::Interrupted));
    }
    let facts = facts(report);
    let words = format!("{} of {} packs read", facts.verified_packs, facts.packs);
    let words = match facts.damaged.len() {
        0 => words,
        _ => format!("{words}; damaged: {}", facts.damaged.join(", ")),
    };
    watch.task(TaskName::Verify, TaskState::Completed, Some(words));
    Ok(facts)
}

fn facts(report: VerifyReport) -> VerifyFacts {
    let points = report.damaged_points.iter().map(|point| {
        let item = point.item.as_deref().unwrap_or("an unknown item");
        format!("recovery point {} of {item}", point.recovery_point)
    });
    let objects = report.damaged.iter().filter(|damaged| !damaged.repaired);
    let objects = objects.map(|damaged| damaged.object.clone());
    let read = report.verified_packs.saturating_add(report.resumed_packs);
    VerifyFacts {
        is_whole: !report.interrupted && read >= report.packs,
        damaged_objects: report.damaged_objects.saturating_sub(report.repaired_objects),
        damaged_points: report.damaged_recovery_points,
        verified_packs: report.verified_packs,
        packs: report.packs,
        read_bytes: report.read_bytes,
        damaged: points.chain(objects).take(NAMED).collect(),
        report: report.into(),
    }
}
