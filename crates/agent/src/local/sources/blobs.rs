//! Page blobs of storage accounts, which are backed up by their snapshots.
//!
//! A job takes one snapshot of each blob. One that was killed finds them again, by the job's id in their metadata; those of
//! other jobs are deleted when the point is made.

use strongroom_api::{
    BlobAccess, Check, ConsistencyWanted, DiskPaths, ErrorBody, Finding, Level, Verdict,
};
use strongroom_azure::{BlobType, Metadata, ReadBlob};
use strongroom_base::{Cancel, Code, Message, codes, message};
use strongroom_engine::{BackupReport, BackupRequest, BlobDisk, BlobDisks, CleanCheck, LeftBehind};
use strongroom_orders::{BackupOrder, Result};

use super::{Kind, Work, disks::choose};
use crate::{
    accounts::Accounts,
    error::{body, of_source},
    local::{
        LocalAgent,
        backup::{Made, frozen_at, tags},
    },
};

/// Page blobs.
pub(super) struct Blobs<'a> {
    /// Name and blob of each.
    pub(super) disks: &'a DiskPaths,
    /// How their account is reached; none: this host serves it.
    pub(super) access: Option<&'a BlobAccess>,
}

impl Kind for Blobs<'_> {
    fn back_up(&self, work: &Work<'_>) -> Result<Made> {
        let Work { agent, open, order, watch } = *work;
        if order.consistency_required && order.consistency != ConsistencyWanted::Crash {
            let message = "page blobs are as after a power cut: nothing can freeze their machines";
            return Err(Box::new(ErrorBody::new(&codes::VM_CONSISTENCY, message)));
        }
        let (chosen, excluded) = choose(self.disks, &order.disks)?;
        let accounts = agent.accounts(self.access);
        let mut found = Vec::new();
        for (name, blob) in &chosen {
            let (client, path) = accounts.open(blob, &watch.cancel)?;
            found.push(BlobDisk { name: (*name).to_owned(), client, path });
        }
        let job = order.job.to_string();
        let blobs = BlobDisks::new(&open.vault, &order.item, None, Some(&job), found);
        let mut blobs = blobs.map_err(|error| of_source(self, error))?;
        if blobs.are_due() {
            let names = chosen.iter().map(|(_, blob)| *blob);
            take(&mut blobs, &accounts, names).map_err(|error| self.or_gone(error))?;
        }
        let made = self.read(work, &blobs, &chosen, excluded);
        let report = made.inspect_err(|error| {
            // What may be tried again, as the same job, continues from the same moment.
            if !error.retryable && error.code != codes::INTERRUPTED {
                said(&blobs.give_up());
            }
        })?;
        said(&blobs.keep_newest());
        Ok(Made {
            point: report.recovery_point,
            stored_bytes: report.stored_bytes,
            report: report.into(),
        })
    }

    fn check(&self, agent: &LocalAgent) -> Result<Check> {
        let accounts = agent.accounts(self.access);
        let mut findings = Vec::new();
        for (name, blob) in self.disks {
            if let Err(error) = obstacle(&accounts, blob) {
                findings.push(red(&error, Some(name)));
            }
        }
        let verdict = if findings.is_empty() { Verdict::Green } else { Verdict::Red };
        let names: Vec<&str> = self.disks.keys().map(String::as_str).collect();
        if self.access.is_some() && names.len() > 1 {
            findings.push(Finding {
                level: Level::Info,
                id: "blobs.one_after_the_other".to_owned(),
                what: "The snapshots of these blobs are taken one after the other.".to_owned(),
                what_to_do:
                    "Blobs of one moment must be in accounts that the server serves itself."
                        .to_owned(),
            });
        }
        Ok(Check { name: names.join(", "), verdict, findings })
    }

    // Nobody can have more.
    fn best(&self, _: &BackupOrder) -> ConsistencyWanted {
        ConsistencyWanted::Crash
    }

    fn gone(&self, _: &Code) -> Message {
        message!(SOURCE_MISSING: blob, "a blob of the item is not there any more")
    }

    fn machine(&self) -> Result<&str> {
        let message = "an item of page blobs has no machine; name one";
        Err(Box::new(ErrorBody::new(&codes::REQUEST_INVALID, message)))
    }
}

impl Blobs<'_> {
    /// Reads what has changed, and publishes the point.
    fn read(
        &self,
        work: &Work<'_>,
        blobs: &BlobDisks,
        chosen: &[(&str, &str)],
        excluded: Vec<strongroom_format::ExcludedDisk>,
    ) -> Result<BackupReport> {
        let Work { agent, open, order, watch } = *work;
        let mut disks = Vec::new();
        for (name, _) in chosen {
            let disk = blobs.disk(name, CleanCheck::SAMPLE);
            disks.push(disk.map_err(|error| of_source(self, error))?);
        }
        let (consistency, evidence) = blobs.consistency().unzip();
        frozen_at(order.tier, evidence.clone().unwrap_or_default(), watch);
        let fresh = BackupRequest::new(&order.item, &agent.host.name, disks);
        let request = BackupRequest {
            excluded,
            tags: tags(order),
            locked_until: order.locked_until,
            consistency: consistency.unwrap_or(fresh.consistency),
            // Somebody who names blobs of another account has no better one.
            best_consistency: consistency,
            evidence: evidence.into_iter().collect(),
            parent: blobs.parent(),
            threads: agent.host.threads,
            limit_rate: order.limit_rate,
            ..fresh
        };
        strongroom_engine::backup(&open.vault, &request, &watch.progress, &watch.cancel)
            .map_err(body)
    }

    /// The error of a blob that is not there says that the source is gone.
    fn or_gone(&self, error: Box<ErrorBody>) -> Box<ErrorBody> {
        let gone = [&codes::BLOB_NOT_FOUND, &codes::CONTAINER_NOT_FOUND];
        let Some(code) = gone.into_iter().find(|code| error.code == **code) else { return error };
        let mut missing = ErrorBody::from(self.gone(code));
        missing.causes.push(error.message);
        Box::new(missing)
    }
}

/// Takes a snapshot of each blob: of all at the same moment, if this host serves them.
fn take<'a>(
    blobs: &mut BlobDisks,
    accounts: &Accounts<'_>,
    names: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let Some(served) = accounts.served() else { return blobs.take_each().map_err(body) };
    let marked: Vec<(String, Metadata)> =
        names.map(str::to_owned).zip(blobs.marks().cloned()).collect();
    blobs.taken_together(served.snapshot(&marked)?);
    Ok(())
}

/// Says in the log which snapshots are left.
fn said(left: &[LeftBehind]) {
    for LeftBehind { blob, snapshot, error } in left {
        tracing::warn!(%blob, %snapshot, %error, "an old snapshot could not be deleted; the next backup tries again");
    }
}

/// Whether there is a page blob with bytes.
pub(super) fn obstacle(accounts: &Accounts<'_>, blob: &str) -> Result<()> {
    let (client, path) = accounts.open(blob, &Cancel::new())?;
    let found = client.properties(&path, &ReadBlob::default()).map_err(body)?;
    let reason = match (found.kind, found.length) {
        (BlobType::Page, 1..) => return Ok(()),
        (BlobType::Page, 0) => "it has no bytes",
        _ => "it is no page blob",
    };
    let message =
        message!(BLOB_TYPE, "{resource} cannot be backed up: {reason}", resource = blob, reason);
    Err(Box::new(ErrorBody::from(message)))
}

/// What stands in the way, as a finding.
pub(super) fn red(error: &ErrorBody, disk: Option<&str>) -> Finding {
    let disk = disk.map_or_else(String::new, |name| format!("disk {name}: "));
    Finding {
        level: Level::Red,
        id: error.code.as_str().to_owned(),
        what: format!("{disk}{}", error.message),
        what_to_do: error.hint.clone(),
    }
}
