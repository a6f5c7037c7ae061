//! A run of an incremental backup.

use std::num::NonZeroU32;

use strongroom_azure::{BlobProperties, BlobType, BlobWrite, Code, Metadata, SnapshotId};
use strongroom_base::Stage;
use strongroom_objects::Rate;

use super::{
    names::{
        BACKUP, COMPLETE, FILLING, OLD, Place, RUN, SNAPSHOT, SOURCE, STATE, joined, name, new_run,
        with,
    },
    report::{BackupReport, Method, SnapshotReport},
    staging::{finish, readable},
    state::{Anchor, BackupSnapshot, State, complete},
};
use crate::{
    Held, NewPageBlob, RangeQuery, StorageClientError,
    blobs::of_snapshot,
    snapshots::{MOMENT, Taken},
    transfer::{Copying, Counts, Readable, Work, apply, equalise, millis, repair},
};

/// How often a snapshot is tried of which it is not known whether it was taken.
const TRIES: u32 = 3;

/// By whom pages are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Through {
    /// This process reads and writes them. The services need not reach each other.
    #[default]
    Client,
    /// The service of the target reads them from the source itself, by a signed URL.
    Service,
}

/// How a backup is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// By whom pages are copied.
    pub through: Through,
    /// The number of backups that the target keeps: older ones are deleted at the end. None: all.
    pub keep: Option<NonZeroU32>,
    /// The name of the run. A run that is given again with its name makes no second backup, but finishes the first. None:
    /// a name that nobody else has.
    pub run: Option<String>,
    /// The number of bytes a second that are copied or compared at most.
    pub limit_rate: Option<u64>,
}

/// Backs a page blob up to another: takes a snapshot of the source, writes what has changed since the last backup to
/// the target, and takes a snapshot of the target. Old snapshots of the source that earlier runs have taken are deleted
/// at the end; the newest stays, for the next difference.
///
/// A run that was interrupted is finished first. A second run at the same time fails, as the first has a lease on the
/// target. The target is created if it does not exist.
pub fn run(
    source: Place<'_>,
    target: Place<'_>,
    options: Backup,
    work: &Work,
) -> Result<BackupReport, StorageClientError> {
    let begun = target.client.clock.monotonic();
    work.progress.set_stage(Stage::Preparing);
    check_source(source)?;
    ensure_target(source, target)?;
    let held = target.client.hold(target.blob, work.wait, &work.cancel)?;
    let rate = Rate::limited(options.limit_rate, &target.client.clock);
    let run = Run {
        source,
        target,
        rate,
        options,
        work,
        write: BlobWrite { lease: Some(held.id()), ..BlobWrite::default() },
        held: &held,
    };
    let mut report = BackupReport {
        source: name(source),
        target: name(target),
        backups: Vec::new(),
        was_too_soon: false,
        deleted_snapshots: Vec::new(),
        kept_snapshots: Vec::new(),
        deleted_backups: Vec::new(),
        duration_ms: 0,
    };
    run.finish_pending(&mut report)?;
    if !run.is_made()? {
        run.begin(&mut report)?;
    }
    run.delete_old(&mut report)?;
    run.delete_backups(&mut report)?;
    let spent = target.client.clock.monotonic().saturating_sub(begun);
    report.duration_ms = millis(spent);
    Ok(report)
}

fn check_source(source: Place<'_>) -> Result<(), StorageClientError> {
    let found = source.client.properties(source.blob, &of_snapshot(None))?;
    let wrong =
        |reason| StorageClientError::Unsuitable { resource: source.blob.to_string(), reason };
    match found.kind {
        BlobType::Page => Ok(()),
        _ => Err(wrong("only page blobs have differences")),
    }
}

/// Creates the target if it does not exist. Who it belongs to is checked under its lease.
fn ensure_target(source: Place<'_>, target: Place<'_>) -> Result<(), StorageClientError> {
    if target.client.find(target.blob, None)?.is_some() {
        return Ok(());
    }
    let size = source.client.properties(source.blob, &of_snapshot(None))?.length;
    let own_name = name(source);
    let blob = NewPageBlob {
        length: size,
        metadata: with(&Metadata::default(), &[(SOURCE, &own_name)])?,
        ..NewPageBlob::default()
    };
    target.client.create_or_find(target.blob, &blob, |_| true)
}

/// Takes a snapshot with metadata that names the run. If it is not known whether it was taken, looks.
pub(super) fn take(
    place: Place<'_>,
    run: &str,
    own: &[(&str, &str)],
    write: &BlobWrite,
) -> Result<SnapshotId, StorageClientError> {
    let moment = place.client.moment(place.blob)?;
    let own: Vec<_> = own.iter().copied().chain([(RUN, run), (MOMENT, &moment)]).collect();
    let metadata = with(&Metadata::default(), &own)?;
    let mut tries = 1;
    loop {
        let error = match place.client.snapshot(place.blob, &metadata, write) {
            Err(error) if error.may_be_done() => error,
            taken => return taken,
        };
        let is_it = |taken: &Taken| {
            let value = |name: &str| taken.metadata.get(name);
            value(RUN) == Some(run) && value(MOMENT) == Some(&moment)
        };
        if let Some(taken) = place.client.snapshots(place.blob)?.iter().find(|taken| is_it(taken)) {
            return Ok(taken.id);
        }
        if tries == TRIES {
            return Err(error);
        }
        tries += 1;
    }
}

struct Run<'a> {
    source: Place<'a>,
    target: Place<'a>,
    rate: Rate,
    options: Backup,
    work: &'a Work,
    write: BlobWrite,
    held: &'a Held,
}

/// What a backup writes, decided before anything is written.
enum Plan {
    /// By the differences since two snapshots that are equal.
    Difference(Anchor),
    /// By the lists of all pages; `are_equal` says that pages of both are known to be equal.
    All { are_equal: bool },
}

impl Run<'_> {
    fn state(&self) -> Result<State, StorageClientError> {
        let found = self.target_properties()?;
        let state = State::read(self.source, self.target, found.metadata)?;
        if !state.is_of_source() {
            return Err(StorageClientError::Foreign {
                resource: self.target.blob.to_string(),
                reason: "it is not a backup of this source",
            });
        }
        Ok(state)
    }

    fn target_properties(&self) -> Result<BlobProperties, StorageClientError> {
        let found = self.target.client.properties(self.target.blob, &of_snapshot(None))?;
        if found.kind != BlobType::Page || found.is_incremental_copy {
            return Err(StorageClientError::Unsuitable {
                resource: self.target.blob.to_string(),
                reason: "a backup goes to a page blob that is not an incremental copy",
            });
        }
        Ok(found)
    }

    /// Finishes what an earlier run has begun.
    fn finish_pending(&self, report: &mut BackupReport) -> Result<(), StorageClientError> {
        let state = self.state()?;
        if let Some(pending) = state.pending() {
            let run = state.metadata.get(RUN).unwrap_or_default().to_owned();
            report.backups.push(self.back_up(&state, &run, pending, true)?);
        }
        Ok(())
    }

    /// Whether the backup of this run is there already.
    fn is_made(&self) -> Result<bool, StorageClientError> {
        let Some(run) = &self.options.run else { return Ok(false) };
        Ok(complete(self.target)?.iter().any(|taken| taken.metadata.get(RUN) == Some(run)))
    }

    /// Takes a snapshot of the source, and makes the backup of it.
    fn begin(&self, report: &mut BackupReport) -> Result<(), StorageClientError> {
        let mut state = self.state()?;
        let fresh = || new_run(&*self.target.client.entropy);
        let run = self.options.run.clone().unwrap_or_else(fresh);
        let old = joined(state.recorded().into_iter());
        self.describe(&mut state, &[(RUN, &run), (OLD, &old)])?;
        let own_name = name(self.target);
        let taken = take(self.source, &run, &[(BACKUP, &own_name)], &BlobWrite::default());
        let snapshot = match taken {
            Err(error)
                if error.service() == Some(Code::SnapshotOperationRateExceeded)
                    && !report.backups.is_empty() =>
            {
                report.was_too_soon = true;
                return Ok(());
            }
            taken => taken?,
        };
        report.backups.push(self.back_up(&state, &run, snapshot, false)?);
        Ok(())
    }

    /// Sets the metadata of the target.
    fn describe(&self, state: &mut State, own: &[(&str, &str)]) -> Result<(), StorageClientError> {
        let own: Vec<_> =
            [(SOURCE, state.source.as_str())].into_iter().chain(own.iter().copied()).collect();
        let metadata = with(&state.metadata, &own)?;
        self.target.client.set_metadata(self.target.blob, &metadata, &self.write)?;
        state.metadata = metadata;
        Ok(())
    }

    /// Makes the target equal to a snapshot of the source, and takes a snapshot of it.
    fn back_up(
        &self,
        state: &State,
        run: &str,
        snapshot: SnapshotId,
        was_continued: bool,
    ) -> Result<SnapshotReport, StorageClientError> {
        let clock = &self.target.client.clock;
        let begun = clock.monotonic();
        self.work.progress.set_stage(Stage::Comparing);
        let size =
            self.source.client.properties(self.source.blob, &of_snapshot(Some(snapshot)))?.length;
        let is_empty = self.is_target_empty()?;
        let (plan, method, reason) = self.plan(state, snapshot, is_empty)?;
        if is_empty {
            let old = state.metadata.get(OLD).unwrap_or_default().to_owned();
            let filling = snapshot.to_string();
            let own =
                [(SOURCE, state.source.as_str()), (RUN, run), (OLD, &old), (FILLING, &filling)];
            let metadata = with(&state.metadata, &own)?;
            self.target.client.set_metadata(self.target.blob, &metadata, &self.write)?;
        }
        if self.target_properties()?.length != size {
            self.target.client.resize(self.target.blob, size, &self.write)?;
        }
        let counts = Counts::default();
        self.work.progress.set_stage(Stage::Copying);
        let own_name = name(self.target);
        let readable = readable(self.source, snapshot, &own_name, run, &self.work.cancel)?;
        let written = self.write_all(&plan, snapshot, &readable, size, &counts);
        let finished = finish(self.source.client, &readable, &own_name);
        written?;
        finished?;
        self.work.progress.set_stage(Stage::Publishing);
        self.held.check()?;
        let of_source = snapshot.to_string();
        let own = [(STATE, COMPLETE), (SOURCE, state.source.as_str()), (SNAPSHOT, &of_source)];
        let taken = take(self.target, run, &own, &self.write)?;
        Ok(SnapshotReport {
            backup: BackupSnapshot {
                snapshot: taken,
                source: state.source.clone(),
                source_snapshot: snapshot,
                size,
            },
            method,
            reason,
            was_continued,
            read_bytes: Counts::get(&counts.read_bytes),
            written_bytes: Counts::get(&counts.written_bytes),
            written_ranges: Counts::get(&counts.written_ranges),
            cleared_bytes: Counts::get(&counts.cleared_bytes),
            cleared_ranges: Counts::get(&counts.cleared_ranges),
            duration_ms: millis(clock.monotonic().saturating_sub(begun)),
        })
    }

    fn is_target_empty(&self) -> Result<bool, StorageClientError> {
        let mut pages = self.target.client.pages(self.target.blob, RangeQuery::default());
        pages.next().transpose().map(|first| first.is_none())
    }

    /// Decides what is written.
    fn plan(
        &self,
        state: &State,
        snapshot: SnapshotId,
        is_empty: bool,
    ) -> Result<(Plan, Method, Option<String>), StorageClientError> {
        let all = |are_equal, method, reason: &str| {
            Ok((
                Plan::All { are_equal },
                method,
                Some(reason.to_owned()).filter(|why| !why.is_empty()),
            ))
        };
        if let Some(anchor) = state.anchor(snapshot) {
            if self.source.client.is_azurite() || self.target.client.is_azurite() {
                // It lists all pages as different, and none as cleared.
                return all(is_empty, Method::Compared, "Azurite lists no differences");
            }
            return match self.missing_difference(anchor, snapshot)? {
                None => Ok((Plan::Difference(anchor), Method::Incremental, None)),
                Some(reason) => all(false, Method::Compared, &reason),
            };
        }
        let filling = state.metadata.get(FILLING);
        if is_empty || filling == Some(snapshot.to_string().as_str()) {
            return all(true, Method::Full, "");
        }
        all(false, Method::Compared, "no backup has a snapshot that the source still has")
    }

    /// Why the differences since two equal snapshots cannot be listed, if they cannot.
    fn missing_difference(
        &self,
        anchor: Anchor,
        snapshot: SnapshotId,
    ) -> Result<Option<String>, StorageClientError> {
        let first = |pages: &mut dyn Iterator<Item = _>| pages.next().transpose();
        for (side, result) in [
            ("source", first(&mut self.of_source(anchor, snapshot))),
            ("target", first(&mut self.of_target(anchor))),
        ] {
            match result {
                Ok(_) => {}
                Err(error)
                    if error.refused().is_some_and(|refused| refused.failure.status == 409) =>
                {
                    let code = error.refused().map(|refused| refused.service_code().to_owned());
                    let code = code.unwrap_or_default();
                    return Ok(Some(format!(
                        "the differences of the {side} cannot be listed: {code}"
                    )));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn of_source(&self, anchor: Anchor, snapshot: SnapshotId) -> crate::Pages<'_> {
        let query = RangeQuery {
            read: of_snapshot(Some(snapshot)),
            previous: Some(anchor.of_source),
            ..RangeQuery::default()
        };
        self.source.client.pages(self.source.blob, query)
    }

    fn of_target(&self, anchor: Anchor) -> crate::Pages<'_> {
        let query = RangeQuery { previous: Some(anchor.of_target), ..RangeQuery::default() };
        self.target.client.pages(self.target.blob, query)
    }

    fn write_all(
        &self,
        plan: &Plan,
        snapshot: SnapshotId,
        readable: &Readable,
        size: u64,
        counts: &Counts,
    ) -> Result<(), StorageClientError> {
        let url = match self.options.through {
            Through::Client => None,
            Through::Service => {
                Some(self.source.client.signed_url(&readable.blob, readable.snapshot)?)
            }
        };
        let copying = Copying {
            from: self.source.client,
            source: self.source.blob,
            snapshot,
            readable,
            to: self.target.client,
            target: self.target.blob,
            size,
            write: &self.write,
            held: self.held,
            url: url.as_ref(),
            counts,
            rate: &self.rate,
            work: self.work,
        };
        match plan {
            Plan::All { are_equal } => equalise(&copying, *are_equal)?,
            Plan::Difference(anchor) => {
                // What was written since the anchor, by a run that was interrupted, is written again.
                repair(&copying, || self.of_target(*anchor))?;
                apply(&copying, || self.of_source(*anchor, snapshot))?;
            }
        }
        // The lists of pages must be the same now: if a difference was not whole, it shows here.
        self.work.progress.set_stage(Stage::Checking);
        equalise(&copying, true)
    }

    /// Deletes the backups that are not kept.
    fn delete_backups(&self, report: &mut BackupReport) -> Result<(), StorageClientError> {
        let Some(keep) = self.options.keep else { return Ok(()) };
        self.work.progress.set_stage(Stage::Deleting);
        let keep = usize::try_from(keep.get()).unwrap_or(usize::MAX);
        let old = complete(self.target)?.into_iter().rev().skip(keep);
        for Taken { id, .. } in old {
            self.held.check()?;
            match self.target.client.delete(self.target.blob, Some(id), None, &BlobWrite::default())
            {
                Ok(()) => report.deleted_backups.push(id.to_string()),
                Err(error) if error.is_not_found() => {}
                // The backup is made. The next run tries again.
                Err(error) => tracing::warn!("{error}"),
            }
        }
        Ok(())
    }

    /// Deletes old snapshots of the source, and forgets them.
    fn delete_old(&self, report: &mut BackupReport) -> Result<(), StorageClientError> {
        self.work.progress.set_stage(Stage::Deleting);
        let mut state = self.state()?;
        let made = report.backups.last().map(|made| made.backup.source_snapshot);
        // One that an earlier try of the run has made may not have come to this.
        let Some(newest) = made.or_else(|| state.newest()) else { return Ok(()) };
        let mut kept = Vec::new();
        for id in state.recorded().into_iter().filter(|id| *id < newest) {
            let deleted =
                self.source.client.delete(self.source.blob, Some(id), None, &BlobWrite::default());
            match deleted {
                Ok(()) => report.deleted_snapshots.push(id.to_string()),
                // An earlier try has deleted it.
                Err(error) if error.is_not_found() => report.deleted_snapshots.push(id.to_string()),
                // The backup is made. The next run tries again.
                Err(error) => {
                    tracing::warn!("{error}");
                    report.kept_snapshots.push(id.to_string());
                    kept.push(id);
                }
            }
        }
        let run = state.metadata.get(RUN).unwrap_or_default().to_owned();
        self.describe(&mut state, &[(RUN, &run), (OLD, &joined(kept.into_iter()))])
    }
}
