//! Recovery points that may hold content that ransomware has encrypted, for people.

use strongroom_base::{LastBefore, Suspicion, codes};
use strongroom_format::Manifest;
use strongroom_reports::SuspicionReport;

use crate::{context::Context, human};

/// What a suspect point's manifest says.
pub(crate) fn of(point: &Manifest) -> Option<SuspicionReport> {
    let suspicion = point.suspicion.clone();
    suspicion.map(|suspicion| SuspicionReport::new(suspicion, &point.item, point.id))
}

/// Why a point is suspect, in one line.
pub(crate) fn words(suspicion: &Suspicion) -> String {
    let LastBefore { id, time } = suspicion.last_before;
    let jumps = jumps(suspicion);
    format!("{jumps}; the last recovery point before is {id} of {}", human::time(time))
}

/// What jumped, in one line.
pub(crate) fn jumps(suspicion: &Suspicion) -> String {
    let jumps = suspicion.jumps.iter().map(|jump| {
        let (bytes, most) = (human::bytes(jump.bytes), human::bytes(jump.most_bytes));
        format!(
            "{bytes} of new content on disk {} do not compress, after {most} at most",
            human::printable(&jump.disk)
        )
    });
    jumps.collect::<Vec<_>>().join("; ")
}

/// Warns of a new point that is suspect, and says what to do.
pub(crate) fn warn(context: &Context, suspicion: Option<&SuspicionReport>) {
    if let Some(suspicion) = suspicion {
        warn_with(context, &suspicion.message, codes::POINT_SUSPECT.hint);
    }
}

/// Warns of a suspect point that is about to be restored.
pub(crate) fn warn_of_restore(context: &Context, point: &Manifest) {
    if let Some(suspicion) = of(point) {
        warn_with(context, &suspicion.message, RESTORE_EARLIER);
    }
}

/// What to do before a suspect point is restored.
pub(crate) const RESTORE_EARLIER: &str =
    "The restore continues. To restore the state before, name the last recovery point before.";

/// A warning with the code, and what to do.
pub(crate) fn warn_with(context: &Context, message: &str, hint: &str) {
    let code = codes::POINT_SUSPECT.name;
    context.out.say(&format!("Warning: {message} ({code})\n{hint}"));
}
