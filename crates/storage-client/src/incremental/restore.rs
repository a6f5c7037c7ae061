//! Restoring a backup to a new blob, from which the next backup continues.

use strongroom_azure::{BlobProperties, BlobWrite, Metadata, SnapshotId};
use strongroom_base::Stage;
use strongroom_objects::Rate;

use super::{
    names::{BACKUP, Place, RESTORED, RESTORING, name, new_run, with},
    report::RestoreReport,
    run::{Through, take},
    state::find,
};
use crate::{
    NewPageBlob, StorageClientError,
    transfer::{Copying, Counts, Readable, Work, equalise, millis},
};

/// How a backup is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    /// By whom pages are copied.
    pub through: Through,
    /// The metadata that the restored blob gets.
    pub metadata: Metadata,
    /// The number of bytes a second that are copied at most.
    pub limit_rate: Option<u64>,
}

/// Restores a backup, which is a snapshot of `backup`, to a new page blob. A restore that was interrupted continues.
///
/// The restored blob gets a snapshot that says which backup it equals: a backup of the restored blob to the same target
/// continues from there and writes only what has changed.
pub fn restore(
    backup: Place<'_>,
    snapshot: SnapshotId,
    to: Place<'_>,
    options: &Restore,
    work: &Work,
) -> Result<RestoreReport, StorageClientError> {
    let begun = to.client.clock.monotonic();
    work.progress.set_stage(Stage::Preparing);
    let found = find(backup, snapshot)?;
    let mark = format!("{snapshot} {}", name(backup));
    let was_continued = begin(to, found.size, &mark, options)?;
    let held = to.client.hold(to.blob, work.wait, &work.cancel)?;
    let write = BlobWrite { lease: Some(held.id()), ..BlobWrite::default() };
    let url = match options.through {
        Through::Client => None,
        Through::Service => Some(backup.client.signed_url(backup.blob, Some(snapshot))?),
    };
    let counts = Counts::default();
    let rate = Rate::limited(options.limit_rate, &to.client.clock);
    let readable = Readable { blob: backup.blob.clone(), snapshot: Some(snapshot) };
    let copying = Copying {
        from: backup.client,
        source: backup.blob,
        snapshot,
        readable: &readable,
        to: to.client,
        target: to.blob,
        size: found.size,
        write: &write,
        held: &held,
        url: url.as_ref(),
        counts: &counts,
        rate: &rate,
        work,
    };
    work.progress.set_stage(Stage::Restoring);
    // What is there was written by an earlier attempt, from the same snapshot.
    equalise(&copying, true)?;
    work.progress.set_stage(Stage::Checking);
    equalise(&copying, true)?;
    work.progress.set_stage(Stage::Publishing);
    held.check()?;
    let taken = publish(backup, snapshot, to, &write)?;
    to.client.set_metadata(to.blob, &options.metadata, &write)?;
    Ok(RestoreReport {
        backup: found,
        restored: name(to),
        restored_snapshot: taken.to_string(),
        was_continued,
        read_bytes: Counts::get(&counts.read_bytes),
        written_bytes: Counts::get(&counts.written_bytes),
        written_ranges: Counts::get(&counts.written_ranges),
        duration_ms: millis(to.client.clock.monotonic().saturating_sub(begun)),
    })
}

/// Creates the blob with its mark; whether it was there with it.
fn begin(
    to: Place<'_>,
    size: u64,
    mark: &str,
    options: &Restore,
) -> Result<bool, StorageClientError> {
    let is_ours = |found: &BlobProperties| {
        found.length == size && found.metadata.get(RESTORING) == Some(mark)
    };
    if to.client.find(to.blob, None)?.as_ref().is_some_and(is_ours) {
        return Ok(true);
    }
    let metadata = with(&options.metadata, &[(RESTORING, mark)])?;
    let blob = NewPageBlob { length: size, metadata, ..NewPageBlob::default() };
    to.client.create_or_find(to.blob, &blob, is_ours)?;
    Ok(false)
}

/// Takes the snapshot from which the next backup continues, unless an earlier attempt has.
fn publish(
    backup: Place<'_>,
    snapshot: SnapshotId,
    to: Place<'_>,
    write: &BlobWrite,
) -> Result<SnapshotId, StorageClientError> {
    let (of, id) = (name(backup), snapshot.to_string());
    let taken = to.client.snapshots(to.blob)?;
    let is_it = |metadata: &Metadata| {
        metadata.get(BACKUP) == Some(of.as_str()) && metadata.get(RESTORED) == Some(id.as_str())
    };
    if let Some(taken) = taken.iter().find(|taken| is_it(&taken.metadata)) {
        return Ok(taken.id);
    }
    let run = new_run(&*to.client.entropy);
    take(to, &run, &[(BACKUP, &of), (RESTORED, &id)], write)
}
