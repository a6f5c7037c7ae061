//! How much is in a store, and how much room its disk has.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_base::{Clock, lock};

use crate::{
    copies::hub::Hub,
    rows::keys,
    state::NAMES,
    view::{ReadError, View},
};

/// A count is taken again when this number of times has passed that it took: it may look at each row.
const REST: u32 = 20;

/// How much is in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Accounts.
    pub accounts: u64,
    /// Containers.
    pub containers: u64,
    /// Blobs, without their snapshots.
    pub blobs: u64,
    /// Bytes that the files of the leading copy take on its disk.
    pub used: u64,
    /// Bytes that are free on that disk.
    pub free: u64,
}

/// The last count.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<Option<Count>>);

#[derive(Clone, Copy, Debug)]
struct Count {
    usage: Usage,
    /// The number behind the last record that it has.
    next_record: u64,
    ended: Duration,
    took: Duration,
}

impl Counted {
    /// How much is in the store of a hub.
    pub(crate) fn usage(&self, hub: &Arc<Hub>, clock: &dyn Clock) -> Result<Usage, ReadError> {
        // Who asks meanwhile waits for the same count.
        let mut counted = lock(&self.0);
        let next_record = hub.position().next_record;
        let begun = clock.monotonic();
        let view = View::new(hub)?;
        let count = counted.filter(|count| {
            let rests = begun.saturating_sub(count.ended) < count.took.saturating_mul(REST);
            count.next_record == next_record || rests
        });
        let mut usage = if let Some(count) = count {
            count.usage
        } else {
            let usage = count_names(&view)?;
            let ended = clock.monotonic();
            let took = ended.saturating_sub(begun);
            *counted = Some(Count { usage, next_record, ended, took });
            usage
        };
        usage.free = view.shared.room();
        Ok(usage)
    }
}

fn count_names(view: &View) -> Result<Usage, ReadError> {
    let names = view.transaction.open_table(NAMES)?;
    let count = |prefix: u8, counts: fn(&[u8]) -> bool| -> Result<u64, ReadError> {
        let end = prefix.saturating_add(1);
        let mut count = 0_u64;
        for row in names.range([prefix].as_slice()..[end].as_slice())? {
            if counts(row?.0.value()) {
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    };
    let is_blob = |key: &[u8]| keys::last_number(key) == Some(u64::MAX);
    let used = files(&view.shared.folder, 2).map_err(ReadError::File)?;
    Ok(Usage {
        accounts: count(b'a', |_| true)?,
        containers: count(b'c', |_| true)?,
        blobs: count(b'b', is_blob)?,
        used,
        free: 0,
    })
}

/// What the files in a folder take on the disk; one that goes meanwhile takes nothing.
fn files(folder: &Path, depth: u32) -> io::Result<u64> {
    let mut used = 0_u64;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let facts = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            facts => facts?,
        };
        let more = match depth.checked_sub(1) {
            Some(depth) if facts.is_dir() => files(&entry.path(), depth)?,
            _ => facts.blocks().saturating_mul(512),
        };
        used = used.saturating_add(more);
    }
    Ok(used)
}
