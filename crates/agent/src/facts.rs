//! What recovery points say, as it is sent.

use strongroom_api::{ConsistencyProved, ConsistencyWanted, ErrorBody, PointDisk};
use strongroom_base::{Message, message, words};
use strongroom_format::{Consistency, DiskRecord, Manifest};
use strongroom_machine::NO_SCRIPTS;
use strongroom_orders::{Absence, AbsentPoint, PointFacts};
use strongroom_vault::{self as vault, place::Warning};

/// What a recovery point is.
pub(crate) fn point_facts(point: &Manifest) -> PointFacts {
    let disks = point.disks.iter().map(|disk| PointDisk {
        name: disk.name.clone(),
        size_bytes: disk.size_bytes,
        changed_bytes: disk.changed_bytes,
    });
    PointFacts {
        id: point.id,
        item: point.item.clone(),
        time: point.time,
        completed: point.completed,
        consistency: proved(point.consistency),
        disks: disks.collect(),
        stored_bytes: sum(point, |disk| disk.stored_bytes),
        notes: notes(point),
        tags: point.tags.clone(),
        locked_until: point.locked_until,
    }
}

/// A sum over the disks of a point.
pub(crate) fn sum(point: &Manifest, of: fn(&DiskRecord) -> u64) -> u64 {
    point.disks.iter().map(of).fold(0, u64::saturating_add)
}

/// What people should know of a point.
fn notes(point: &Manifest) -> Vec<String> {
    let left_out = point.excluded.iter();
    let mut notes: Vec<String> =
        left_out.map(|disk| format!("disk {} is left out: {}", disk.name, disk.reason)).collect();
    for disk in &point.disks {
        notes.extend(disk.notes.iter().map(|note| format!("disk {}: {note}", disk.name)));
        notes.extend(skipped(disk).map(|message| message.text));
    }
    notes
}

/// That parts of a disk could not be read, if that is so.
pub(crate) fn skipped(disk: &DiskRecord) -> Option<Message> {
    let bytes = disk.skipped.iter().map(|range| range.length).fold(0, u64::saturating_add);
    (bytes > 0).then(|| {
        message!(
            BACKUP_SKIPPED,
            "{bytes} of disk {disk} could not be read and were recorded as zeros",
            bytes = bytes => words::bytes(bytes),
            disk = disk.name
        )
    })
}

/// What is not as good as it should be of a point, if so much was `wanted`.
pub(crate) fn warnings(point: &Manifest, best: Option<ConsistencyWanted>) -> Vec<ErrorBody> {
    let mut warnings = Vec::new();
    let had = proved(point.consistency);
    // Without scripts a Linux guest can be no better. That is no news every night.
    let best_there_is =
        had == ConsistencyProved::FileSystem && point.evidence.iter().any(|it| it == NO_SCRIPTS);
    // The best comes first.
    if let Some(best) = best.filter(|best| ConsistencyProved::from(*best) < had && !best_there_is) {
        let evidence = point.evidence.join("; ");
        let message = message!(
            VM_CONSISTENCY,
            "it is {had} consistent, not {best} consistent: {evidence}",
            had,
            best,
            evidence
        );
        warnings.push(ErrorBody::from(message));
    }
    for disk in &point.disks {
        warnings.extend(skipped(disk).map(ErrorBody::from));
        if disk.unexpected_blocks > 0 {
            let message = message!(
                DISK_BITMAP,
                "{blocks} blocks of disk {disk} had changed although its record of changes does not list them; all of the disk was compared, but points since the last full comparison may lack changes",
                blocks = disk.unexpected_blocks,
                disk = disk.name
            );
            warnings.push(ErrorBody::from(message));
        }
    }
    warnings
}

/// A point that should be there, as it is sent.
pub(crate) fn absent_point(absent: vault::AbsentPoint) -> AbsentPoint {
    let how = match absent.how {
        vault::Absence::Missing => Absence::Missing,
        vault::Absence::Hidden => Absence::Hidden,
    };
    AbsentPoint { item: absent.item, point: absent.point, how }
}

/// A vault's warning, as it is sent.
pub(crate) fn warning(warning: &Warning) -> ErrorBody {
    warning.0.clone().into()
}

/// A kind of consistency in the words of the API.
pub(crate) const fn proved(consistency: Consistency) -> ConsistencyProved {
    match consistency {
        Consistency::Application => ConsistencyProved::Application,
        Consistency::FileSystem => ConsistencyProved::FileSystem,
        Consistency::Crash => ConsistencyProved::Crash,
        Consistency::Unknown => ConsistencyProved::Unknown,
    }
}

/// A kind of consistency in the words of recovery points.
pub(crate) const fn consistency(wanted: ConsistencyWanted) -> Consistency {
    match wanted {
        ConsistencyWanted::Application => Consistency::Application,
        ConsistencyWanted::FileSystem => Consistency::FileSystem,
        ConsistencyWanted::Crash => Consistency::Crash,
    }
}
