//! The store's own clock, by which the ages of objects are reckoned.
//!
//! The age of an object does not follow from its date and the clock of this host: the two may differ
//! by minutes or years. So the date of an object that was just put is taken for the store's time,
//! and what has passed since is counted without a wall clock.

use std::{sync::Mutex, time::Duration};

use strongroom_base::lock;

use jiff::{SignedDuration, Timestamp};
use strongroom_objects::{Key, PROBES};

use crate::{Vault, VaultError, error::Result};

/// How long a look at the store's clock is good for.
const GOOD_FOR: Duration = Duration::from_hours(1);

/// After this a probe is somebody's who died.
const LEFT_BEHIND: SignedDuration = SignedDuration::from_hours(1);

/// How often the clock is looked at before the store is not believed any more.
const TRIES: u32 = 3;

/// The store's time at a moment of this host's monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Look {
    time: Timestamp,
    at: Duration,
}

/// What is known of the store's clock.
#[derive(Debug, Default)]
pub(crate) struct StoreClock(Mutex<Option<Look>>);

impl Vault {
    /// The time by the store's own clock.
    pub fn store_now(&self) -> Result<Timestamp> {
        let now = self.options.clock.monotonic();
        let known = *lock(&self.store_clock.0);
        let look = match known.filter(|look| now.saturating_sub(look.at) < GOOD_FOR) {
            Some(look) => look,
            None => self.look_at_store_clock()?,
        };
        Ok(after(look, self.options.clock.monotonic()))
    }

    /// How far this host's clock is ahead of the store's; negative if it is behind.
    pub fn clock_ahead(&self) -> Result<SignedDuration> {
        let store = self.store_now()?;
        Ok(self.options.clock.now().duration_since(store))
    }

    /// Takes note of the date of an object that was put at a moment of the monotonic clock.
    pub(crate) fn store_clock_was(&self, time: Timestamp, at: Duration) -> Timestamp {
        let look = Look { time, at };
        *lock(&self.store_clock.0) = Some(look);
        after(look, self.options.clock.monotonic())
    }

    /// A process that sleeps between put and list may find the probe removed, as one that was left behind: then
    /// it is tried again.
    fn look_at_store_clock(&self) -> Result<Look> {
        for _ in 0..TRIES {
            if let Some(look) = self.try_store_clock()? {
                return Ok(look);
            }
        }
        Err(VaultError::Bug("objects that were put are not in the list"))
    }

    /// One look; none if the probe was gone before it was listed.
    fn try_store_clock(&self) -> Result<Option<Look>> {
        let name = format!("{PROBES}{}/clock", self.new_ulid());
        let key = Key::new(name).map_err(|_| VaultError::Bug("a probe without a name"))?;
        let at = self.options.clock.monotonic();
        self.store.put_new(&key, b"clock")?;
        let listed = self.list(PROBES);
        let deleted = self.store.delete(&key);
        let listed = listed?;
        deleted?;
        let Some(own) = listed.iter().find(|entry| entry.key == key) else { return Ok(None) };
        let time = own.modified;
        let clocks = listed.iter().filter(|entry| entry.key.file_name() == "clock");
        for left in clocks.filter(|entry| time.duration_since(entry.modified) > LEFT_BEHIND) {
            self.store.delete(&left.key)?;
        }
        let look = Look { time, at };
        self.store_clock_was(time, at);
        Ok(Some(look))
    }
}

fn after(look: Look, now: Duration) -> Timestamp {
    let passed = SignedDuration::try_from(now.saturating_sub(look.at)).unwrap_or_default();
    look.time.checked_add(passed).unwrap_or(look.time)
}
