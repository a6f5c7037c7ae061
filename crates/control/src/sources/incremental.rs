//! Page blobs that are backed up to other page blobs.

use strongroom_api::{
    BlobPlace, Item, ProtectIncrementalBackup, ProtectSource, ProtectableItem, Source,
};
use strongroom_base::{codes, words};
use strongroom_orders::AllowedPlaces;

use super::{
    blobs::{check_access, check_blob},
    kind::{Found, IncrementalBackup, Kind, Machine, Protectable},
};
use crate::{
    error::{ControlError, Result},
    rights::not_allowed,
};

/// The most backups that are kept.
const MOST: u32 = 9999;

impl Kind for IncrementalBackup<'_> {
    // A blob has the backups of one other.
    fn key(&self, _: &Item) -> String {
        let from = self.to.access.as_ref().map_or("", |access| &*access.connection_string_file);
        format!("incremental/{from}/{}", self.to.blob)
    }

    fn described(&self) -> String {
        let Self { from, to, keep } = self;
        let of = |place: &BlobPlace| match &place.access {
            Some(access) => format!("{} by {}", place.blob, access.connection_string_file),
            None => place.blob.clone(),
        };
        format!("{} to {}, {}", of(from), of(to), words::count((*keep).into(), "backup"))
    }

    fn replaced(&self, item: &Item) -> String {
        item.name.clone()
    }

    fn machine(&self) -> Option<Machine<'_>> {
        None
    }

    fn incremental(&self) -> Option<IncrementalBackup<'_>> {
        Some(*self)
    }
}

/// Two blobs that somebody names.
pub(super) struct IncrementalBackups;

impl Protectable for IncrementalBackups {
    fn is_wanted(&self, source: &ProtectSource) -> bool {
        source.incremental_backup.is_some()
    }

    fn check(&self, source: &ProtectSource) -> Result<()> {
        let Some(ProtectIncrementalBackup { from, to, keep }) = &source.incremental_backup else {
            return Ok(());
        };
        check_blob(&from.blob)?;
        check_blob(&to.blob)?;
        if from == to {
            let message = "a blob is not backed up to itself";
            return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
        }
        if !(1..=MOST).contains(keep) {
            let message = "1 to 9999 backups of a blob are kept";
            return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
        }
        Ok(())
    }

    fn is_discovered(&self) -> bool {
        false
    }

    fn called(&self, source: &ProtectSource) -> String {
        let blob = source.incremental_backup.as_ref().map_or("", |wanted| &*wanted.from.blob);
        super::machine::item_name(blob.rsplit('/').next().unwrap_or_default())
    }

    fn find(
        &self,
        source: &ProtectSource,
        _: &[ProtectableItem],
        places: &dyn AllowedPlaces,
    ) -> Result<Found> {
        self.check(source)?;
        let name = self.called(source);
        let Some(ProtectIncrementalBackup { from, to, keep }) = source.incremental_backup.clone()
        else {
            return Err(ControlError::refused(&codes::BUG, "no blob is to be backed up"));
        };
        let refused = |no| not_allowed(None, &no);
        let check = |place: &BlobPlace, served: &dyn Fn(&str) -> Result<()>| match &place.access {
            Some(access) => check_access(places, access),
            None => served(&place.blob),
        };
        check(&from, &|blob| places.check_blob(blob).map_err(refused))?;
        check(&to, &|blob| places.check_blob_target(blob).map_err(refused))?;
        Ok(Found { source: Source::IncrementalBackup { from, to, keep }, name })
    }
}
