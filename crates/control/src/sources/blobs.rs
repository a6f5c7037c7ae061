//! Page blobs of storage accounts.

use strongroom_api::{
    BlobAccess, DiskPaths, Item, KeyReference, ProtectBlobs, ProtectSource, ProtectableItem, Source,
};
use strongroom_base::codes;
use strongroom_orders::AllowedPlaces;

use super::kind::{Found, Kind, Machine, Protectable};
use crate::{
    error::{ControlError, Result},
    rights::not_allowed,
};

/// The most blobs of an item: the snapshots of all are one change of the accounts.
const MOST: usize = 64;

/// Blobs, and the file that says where they are.
pub(super) struct Blobs<'a> {
    pub(super) disks: &'a DiskPaths,
    pub(super) access: Option<&'a BlobAccess>,
}

impl Kind for Blobs<'_> {
    fn key(&self, _: &Item) -> String {
        let from = self.access.map_or("", |access| access.connection_string_file.as_str());
        let disks: Vec<String> =
            self.disks.iter().map(|(name, blob)| format!("{name}={blob}")).collect();
        format!("blobs/{from}/{}", disks.join(","))
    }

    fn described(&self) -> String {
        let disks: Vec<String> =
            self.disks.iter().map(|(name, blob)| format!("{name}={blob}")).collect();
        disks.join(", ")
    }

    fn replaced(&self, item: &Item) -> String {
        item.name.clone()
    }

    fn machine(&self) -> Option<Machine<'_>> {
        None
    }
}

/// Blobs that somebody names.
pub(super) struct NamedBlobs;

impl Protectable for NamedBlobs {
    fn is_wanted(&self, source: &ProtectSource) -> bool {
        source.blobs.is_some()
    }

    fn check(&self, source: &ProtectSource) -> Result<()> {
        let Some(ProtectBlobs { disks, .. }) = &source.blobs else { return Ok(()) };
        if disks.is_empty() || disks.len() > MOST {
            let message = "1 to 64 page blobs can be protected as one item";
            return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
        }
        disks.values().try_for_each(|blob| check_blob(blob))
    }

    fn is_discovered(&self) -> bool {
        false
    }

    fn called(&self, source: &ProtectSource) -> String {
        let first = source.blobs.as_ref().and_then(|blobs| blobs.disks.keys().next().cloned());
        first.unwrap_or_else(|| "blobs".to_owned())
    }

    fn find(
        &self,
        source: &ProtectSource,
        _: &[ProtectableItem],
        places: &dyn AllowedPlaces,
    ) -> Result<Found> {
        self.check(source)?;
        let name = self.called(source);
        let Some(ProtectBlobs { disks, access }) = source.blobs.clone() else {
            return Err(ControlError::refused(&codes::BUG, "no blobs are wanted"));
        };
        if let Some(access) = &access {
            check_access(places, access)?;
        } else {
            let refused = |no| not_allowed(None, &no);
            disks.values().try_for_each(|blob| places.check_blob(blob).map_err(refused))?;
        }
        Ok(Found { source: Source::Blobs { disks, access }, name })
    }
}

/// Refuses what is no blob.
pub(super) fn check_blob(blob: &str) -> Result<()> {
    if is_blob(blob) {
        return Ok(());
    }
    // It is not repeated: it may be a connection string, or a URL with a signature.
    let message = "a page blob is named as ACCOUNT/CONTAINER/BLOB; what grants access to it belongs into a file";
    Err(ControlError::refused(&codes::REQUEST_INVALID, message))
}

/// Refuses files that grant access to an account, and that nobody may name.
pub(super) fn check_access(places: &dyn AllowedPlaces, access: &BlobAccess) -> Result<()> {
    let refused = |no| not_allowed(None, &no);
    let BlobAccess { connection_string_file, ca_file } = access;
    [Some(connection_string_file), ca_file.as_ref()]
        .into_iter()
        .flatten()
        .try_for_each(|file| places.check_key(&KeyReference::File(file.clone())).map_err(refused))
}

/// Whether a text is `ACCOUNT/CONTAINER/BLOB`, and nothing that grants access.
fn is_blob(text: &str) -> bool {
    let mut parts = text.splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default();
    let (account, container, blob) = (part(), part(), part());
    let is_name = |name: &str| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-$".contains(c);
        !name.is_empty() && name.len() <= 63 && name.chars().all(good)
    };
    is_name(account)
        && is_name(container)
        && !blob.is_empty()
        && blob.len() <= 1024
        && !blob.contains(['?', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_grants_access_is_a_blob() {
        for good in ["disks/vms/web01.vhd", "a1/$root/x", "a/b/c/d e/ü"] {
            assert!(is_blob(good), "{good}");
        }
        for bad in [
            "",
            "disks",
            "disks/vms",
            "disks/vms/",
            "/vms/a",
            "https://disks.blob.example.net/vms/a?sig=x",
            "disks/vms/a?sv=1&sig=x",
            "AccountName=a;AccountKey=eA==/b/c",
        ] {
            assert!(!is_blob(bad), "{bad}");
        }
    }
}
