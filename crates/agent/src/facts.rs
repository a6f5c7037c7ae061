//! What recovery points say, as it is sent.

use strongroom_api::{ConsistencyProved, ConsistencyWanted, ErrorBody, PointDisk};
use strongroom_base::{Message, message, words};
use strongroom_format::{Consistency, DiskRecord, Manifest};
use strongroom_orders::{Absence, AbsentPoint, PointFacts};
use strongroom_vault::{self as vault, place::Warning};

/// What a recovery point is.
pub(crate) fn point_facts(point: &Manifest) -> PointFacts {
    let disks = point.disks.iter().map(|disk| PointDisk {
        name: disk.name.clone(),
        size_bytes: disk.size_bytes,
        changed_bytes: disk.changed_bytes,
        new_bytes: disk.new_content.map(|new| new.bytes),
        incompressible_bytes: disk.new_content.map(|new| new.incompressible_bytes),
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
        suspicion: point.suspicion.clone(),
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

/// What is not as good as it should be of a point, if this consistency was `wanted`.
pub(crate) fn warnings(point: &Manifest, wanted: Option<ConsistencyWanted>) -> Vec<ErrorBody> {
    let mut warnings = Vec::new();
    let had = proved(point.consistency);
    // Without scripts a Linux guest can be no better. That is no news every night.
    let is_best = point.best_consistency == Some(point.consistency);
    // The best comes first.
    if let Some(best) = wanted.filter(|wanted| !had.reaches(*wanted) && !is_best) {
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

#[cfg(test)]
mod tests {
    use strongroom_base::codes;

    use super::*;

    /// Which consistency was had, and which of the points with it could have had no better one.
    fn warned(had: Consistency, best: Option<Consistency>, wanted: ConsistencyWanted) -> bool {
        // One of a program that did not know the field.
        let old = include_bytes!("../../format/tests/golden/manifest-v1.json");
        let point = Manifest {
            consistency: had,
            best_consistency: best,
            evidence: vec!["said".to_owned()],
            ..Manifest::decode(old).expect("a point")
        };
        warnings(&point, Some(wanted)).iter().any(|it| it.code == codes::VM_CONSISTENCY)
    }

    #[test]
    fn that_a_point_is_suspect_is_a_fact() {
        let suspect = include_bytes!("../../format/tests/golden/manifest-v1-suspect.json");
        let point = Manifest::decode(suspect).expect("a point");
        let facts = point_facts(&point);
        assert_eq!(facts.suspicion, point.suspicion);
        let disk = &facts.disks[0];
        assert_eq!(disk.new_bytes, Some(64_424_509_440));
        assert_eq!(disk.incompressible_bytes, Some(60_129_542_144));
    }

    #[test]
    fn what_a_guest_cannot_have_is_no_warning() {
        use ConsistencyWanted as W;
        let guest = Some(Consistency::FileSystem);
        assert!(warned(Consistency::FileSystem, None, W::Application), "nothing is known of it");
        assert!(!warned(Consistency::FileSystem, guest, W::Application));
        assert!(warned(Consistency::Crash, guest, W::Application), "it could have had more");
        assert!(!warned(Consistency::FileSystem, None, W::FileSystem));
        assert!(!warned(Consistency::Application, None, W::FileSystem));
        assert!(warned(Consistency::Unknown, None, W::Crash));
    }
}
