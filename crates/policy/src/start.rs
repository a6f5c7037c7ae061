//! Starts: when the backup of one item begins, given the occurrence that it is for.
//!
//! ```text
//! occurrence                                        next occurrence
//!     │◀────── spread ──────▶│                            │
//!     ├──────x───────────────┼────────────────────────────┤     x: the item's own place
//!     │     ┌─── blackout ───────────┐                    │
//!     ├─────│xxxxxxxxxxxxxxxx│       ├───x────────────────┤     moved behind it, spread again
//!     │  ┌───── blackout ─────────────────────────────────┼──┐
//!     ├──│xxxxxx─────────────┼────────────────────────────┤  │  skipped: the next comes first
//! ```
//!
//! The offset is a fixed function of the item's key, so that an item starts at the same time every
//! day, everywhere, and under every version of the program:
//!
//! 1. `h` = FNV-1a, 64 bits, of the key's bytes (offset basis `0xcbf29ce484222325`, prime
//!    `0x100000001b3`).
//! 2. `h` is mixed by the finaliser of `splitmix64`: `h ^= h >> 30; h *= 0xbf58476d1ce4e5b9;
//!    h ^= h >> 27; h *= 0x94d049bb133111eb; h ^= h >> 31`, all modulo 2^64.
//! 3. The start is `floor(h * w / 2^64)` seconds after the beginning of a window of `w` seconds.
//!
//! Invariants: a start is not before its occurrence, is before the next occurrence, and is in no
//! blackout. So the starts of an item are in the order of their occurrences.

use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::{policy::Policy, rules::Blackout, words::Weekday};

/// The most missed occurrences that are counted.
pub const MAX_MISSED: u32 = 9999;

/// A backup that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The occurrence that it is for.
    pub occurrence: Timestamp,
    /// When it is to begin.
    pub start: Timestamp,
}

/// What is to be done about an item now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before the next occurrence.
    Nothing,
    /// One backup, at `run.start`, which may be in the past: then at once.
    Run {
        /// The backup.
        run: Run,
        /// How many older occurrences have passed without one, up to [`MAX_MISSED`]. This backup
        /// stands for all of them.
        missed: u32,
    },
    /// The clock has been set back by more than an occurrence, so that the item would wait until the
    /// time from which it was set back. Remember `handled_until` instead; nothing else is to be done.
    ClockWentBack {
        /// What to remember instead.
        handled_until: Timestamp,
    },
}

impl Policy {
    /// When the item's backup for an occurrence begins. `None`: never, since blackouts last until the
    /// next occurrence.
    pub fn start_of(&self, occurrence: Timestamp, item: &[u8]) -> Option<Timestamp> {
        self.start_from(occurrence, item)
    }

    /// The item's first backup that begins after `after`.
    pub fn next_start(&self, after: Timestamp, item: &[u8]) -> Option<Run> {
        let first = self.last_occurrence(after).or_else(|| self.next_occurrence(after));
        let next = |occurrence: &Timestamp| self.next_occurrence(*occurrence);
        std::iter::successors(first, next)
            .filter_map(|occurrence| {
                Some(Run { occurrence, start: self.start_of(occurrence, item)? })
            })
            .find(|run| run.start > after)
    }

    /// What is to be done about an item at `now`.
    ///
    /// `handled_until`: what of the schedule has been dealt with. When the item comes under the
    /// policy, that moment; then the occurrence of the newest run that was begun.
    ///
    /// `awake_since`: since when the caller has been asking this question without a pause that could
    /// have hidden a start: when it was started, when the machine woke from sleep, when it saw the
    /// clock jump. A run whose start was slept through begins later, spread again from this moment,
    /// so that not every item of a host begins at once. A caller that is restarted all the time must
    /// remember the [`Run`] it was given, or it would be put off each time.
    ///
    /// Whatever was missed, exactly one run is due: that of the newest occurrence. It is the same at
    /// every moment until the next occurrence, so asking often changes nothing.
    pub fn due(
        &self,
        handled_until: Timestamp,
        awake_since: Timestamp,
        now: Timestamp,
        item: &[u8],
    ) -> Due {
        if handled_until > now {
            // Set back by less than an occurrence: waiting repeats nothing and loses little.
            let far = self.next_occurrence(now).is_some_and(|next| next < handled_until);
            return if far { Due::ClockWentBack { handled_until: now } } else { Due::Nothing };
        }
        let newest = self.last_occurrence(now).filter(|newest| *newest > handled_until);
        let Some(occurrence) = newest else { return Due::Nothing };
        let Some(mut start) = self.start_of(occurrence, item) else { return Due::Nothing };
        if start < awake_since && awake_since <= now {
            match self.start_from(awake_since, item) {
                Some(later) => start = later,
                None => return Due::Nothing,
            }
        }
        let after = handled_until.checked_add(SignedDuration::from_nanos(1));
        let missed = self
            .occurrences(after.unwrap_or(handled_until), occurrence)
            .filter(|missed| self.start_of(*missed, item).is_some())
            .zip(1..=MAX_MISSED)
            .last()
            .map_or(0, |(_, count)| count);
        Due::Run { run: Run { occurrence, start }, missed }
    }

    /// The item's place in the time from `from` to the occurrence after it.
    fn start_from(&self, from: Timestamp, item: &[u8]) -> Option<Timestamp> {
        let limit = self.next_occurrence(from).unwrap_or(Timestamp::MAX);
        let hash = hash(item);
        let start = self.place(from, limit, hash);
        match self.blackouts_end(start, limit) {
            None => Some(start),
            Some(end) if end >= limit => None,
            Some(end) => Some(self.place(end, self.next_blackout(end, limit), hash)),
        }
    }

    fn place(&self, from: Timestamp, limit: Timestamp, hash: u64) -> Timestamp {
        let window = limit.duration_since(from).min(self.start_spread());
        let seconds = u128::try_from(window.as_secs()).unwrap_or(0);
        let offset = u128::from(hash).saturating_mul(seconds) >> 64;
        let offset = SignedDuration::from_secs(i64::try_from(offset).unwrap_or(0));
        from.checked_add(offset).unwrap_or(from)
    }

    /// When the blackouts end that `time` is in, one behind the other; they are followed up to
    /// `limit`. `None`: it is in none.
    fn blackouts_end(&self, time: Timestamp, limit: Timestamp) -> Option<Timestamp> {
        let mut reached = time;
        while reached < limit {
            let covering = self.blackouts_around(reached);
            let end =
                covering.filter(|(from, to)| (from..to).contains(&&reached)).map(|(_, to)| to);
            match end.max() {
                Some(end) => reached = end,
                None => break,
            }
        }
        (reached > time).then_some(reached)
    }

    /// When the next blackout after `time` begins, or `limit`.
    fn next_blackout(&self, time: Timestamp, limit: Timestamp) -> Timestamp {
        let begins = self.blackouts_around(time).map(|(from, _)| from);
        begins.filter(|from| *from > time).fold(limit, Timestamp::min)
    }

    /// All blackouts that cover `time`, or begin within a day (the longest spread) after it.
    fn blackouts_around(
        &self,
        time: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, Timestamp)> + '_ {
        let today = self.zone().date(time);
        let blackouts = &self.rules().blackouts;
        // The dates are only looked at where there are blackouts.
        let days = if blackouts.is_empty() { 0..0 } else { -2..3_i64 };
        days.filter_map(move |days| today.checked_add(days.days()).ok()).flat_map(move |date| {
            let weekday = Weekday::of(date);
            let today = blackouts.iter().filter(move |it| it.weekdays.contains(&weekday));
            today.map(move |blackout| self.blackout_on(blackout, date))
        })
    }

    fn blackout_on(&self, blackout: &Blackout, date: jiff::civil::Date) -> (Timestamp, Timestamp) {
        let last = if blackout.to > blackout.from { Ok(date) } else { date.tomorrow() };
        let from = self.zone().first_at(blackout.from.on(date));
        let to = last.map_or(Timestamp::MAX, |last| self.zone().last_at(blackout.to.on(last)));
        (from, to)
    }
}

/// The hash of an item's key: FNV-1a, then the finaliser of `splitmix64`.
fn hash(item: &[u8]) -> u64 {
    let fnv = item.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
