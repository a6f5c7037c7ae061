//! The names of objects, as all copies have them.

use std::collections::BTreeSet;

use strongroom_objects::Key;

use super::Look;
use crate::Result;

/// All names below a prefix, from all copies.
pub(super) fn list(look: &Look<'_>, prefix: &str) -> Result<BTreeSet<Key>> {
    let mut names = BTreeSet::new();
    look.inspector.copies.list(prefix, |_, entry| {
        names.insert(entry.key);
    })?;
    Ok(names)
}
