//! Stored data that a machine needed and that is damaged.
//!
//! Owns which damage was found first, and at which step. The machine sees a read that failed, and may come far without
//! what it wanted; the recovery point is damaged all the same, and a restore of it would fail.

use std::{
    error::Error,
    sync::{Arc, Mutex},
};

use strongroom_base::{ByteRange, Code, Coded as _, Kind, RangeSet, lock};
use strongroom_disk::{DiskError, DiskSource, Extent};
use strongroom_files::FilesError;
use strongroom_reports::{BootDamage, Rung};

/// The damage of a boot verification.
#[derive(Debug)]
pub(super) struct Damages(Mutex<Noted>);

#[derive(Debug)]
struct Noted {
    /// The step that the machine is to come to next.
    step: Rung,
    first: Option<BootDamage>,
}

impl Damages {
    /// None yet, before the first step.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Noted { step: Rung::Digests, first: None })))
    }

    /// Damage that is found from now on is found at this step.
    pub(super) fn at(&self, step: Rung) {
        lock(&self.0).step = step;
    }

    /// What was found first.
    pub(super) fn first(&self) -> Option<BootDamage> {
        lock(&self.0).first.clone()
    }

    /// Notes why a disk cannot be read, if that is damage.
    pub(super) fn note(&self, disk: &str, error: &DiskError) {
        // What could not be read when the point was made is no damage of it, and a store that is away none of the data.
        if matches!(error, DiskError::Point { .. }) {
            self.found(disk, error.code(), error);
        }
    }

    /// The same of those who read files.
    pub(super) fn note_files(&self, error: &FilesError) {
        if let FilesError::Disk { disk, .. } = error {
            self.found(disk, error.code(), error);
        }
    }

    fn found(&self, disk: &str, code: &'static Code, error: &(dyn Error + 'static)) {
        if code.kind != Kind::Corrupt {
            return;
        }
        let mut noted = lock(&self.0);
        let step = noted.step;
        noted.first.get_or_insert_with(|| BootDamage {
            step,
            disk: disk.to_owned(),
            code: code.name.to_owned(),
            reason: innermost(error),
        });
    }

    /// A disk whose damage is noted when somebody reads it.
    pub(super) fn watch(
        self: &Arc<Self>,
        disk: &str,
        of: Arc<dyn DiskSource>,
    ) -> Arc<dyn DiskSource> {
        Arc::new(Watched { damages: Arc::clone(self), name: disk.to_owned(), of })
    }
}

/// The causes of an error in words, without the error itself: that names the disk.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some print their cause.
        if !words.last().is_some_and(|last| last.ends_with(&text)) {
            words.push(text);
        }
        next = cause.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

struct Watched {
    damages: Arc<Damages>,
    name: String,
    of: Arc<dyn DiskSource>,
}

impl DiskSource for Watched {
    fn size(&self) -> u64 {
        self.of.size()
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.of.extents(range).inspect_err(|error| self.damages.note(&self.name, error))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.of.read_at(offset, buf).inspect_err(|error| self.damages.note(&self.name, error))
    }

    fn changed(&self) -> Option<&RangeSet> {
        self.of.changed()
    }

    fn format(&self) -> &str {
        self.of.format()
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::codes;

    use super::*;

    fn point(code: &'static Code) -> DiskError {
        let source = Box::new(std::io::Error::other("the pack is short"));
        DiskError::Point { disk: "vda".to_owned(), code, source }
    }

    /// A disk that is damaged.
    struct Bad;

    impl DiskSource for Bad {
        fn size(&self) -> u64 {
            512
        }

        fn extents(&self, _: ByteRange) -> Result<Vec<Extent>, DiskError> {
            Ok(Vec::new())
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), DiskError> {
            Err(point(&codes::STORE_CORRUPT))
        }

        fn changed(&self) -> Option<&RangeSet> {
            None
        }

        fn format(&self) -> &'static str {
            "raw"
        }
    }

    #[test]
    fn the_first_damage_is_kept_with_its_step() {
        let damages = Damages::new();
        damages.at(Rung::Kernel);
        let disk = damages.watch("vda", Arc::new(Bad));
        disk.extents(ByteRange::between(0, 512)).expect("none is read");
        assert_eq!(damages.first(), None);
        disk.read_at(0, &mut [0; 512]).expect_err("it is damaged");
        damages.at(Rung::Login);
        damages.note("vdb", &point(&codes::STORE_MISSING));
        let found = damages.first().expect("it was noted");
        assert_eq!((found.step, found.disk.as_str()), (Rung::Kernel, "vda"));
        assert_eq!(
            (found.code.as_str(), found.reason.as_str()),
            ("store.corrupt", "the pack is short")
        );
    }

    #[test]
    fn what_is_no_damage_is_not_taken_for_it() {
        let damages = Damages::new();
        damages.note("vda", &point(&codes::STORE_UNAVAILABLE));
        let lost = std::io::Error::other("it could not be read when the recovery point was made");
        let range = ByteRange::between(0, 512);
        damages.note("vda", &DiskError::Read { disk: "vda".to_owned(), range, source: lost });
        damages.note_files(&FilesError::Cancelled);
        assert_eq!(damages.first(), None);
    }
}
