//! The Last Sync Time: all writes that the primary answered before it are durable and applied here.
//!
//! The primary takes its clock, then reads where it stands: whatever it answered before that moment lies before that
//! position. When this server has reached the position, it has all of that.

use std::collections::VecDeque;

use jiff::Timestamp;
use strongroom_blobs::{Position, Ticks};

use crate::map;

/// Positions that are remembered until they are reached.
const REMEMBERED: usize = 256;

/// What is known of the Last Sync Time.
#[derive(Debug, Default)]
pub(super) struct Synced {
    time: Option<Timestamp>,
    /// The primary's clock, and the number of the next record there, in their order.
    ahead: VecDeque<(Timestamp, u64)>,
    /// The newest of them, reached or not.
    primary: Option<(Timestamp, Position)>,
}

impl Synced {
    /// After a start: the stamp of the last record, which the primary had not answered before.
    pub(super) fn new(position: Position) -> Self {
        let time = (position.stamp > 0).then(|| map::timestamp(Ticks(position.stamp)));
        Self { time, ..Self::default() }
    }

    /// The primary stood at this position a moment after its clock showed this time.
    pub(super) fn hear(&mut self, clock: Timestamp, position: Position) {
        self.primary = Some((clock, position));
        if self.ahead.len() >= REMEMBERED {
            // The last one is replaced: the first is the one that is reached next.
            self.ahead.pop_back();
        }
        self.ahead.push_back((clock, position.next_record));
    }

    /// This server has reached a position.
    pub(super) fn reach(&mut self, position: Position) {
        while let Some((clock, next)) = self.ahead.front().copied()
            && next <= position.next_record
        {
            self.time = Some(clock);
            self.ahead.pop_front();
        }
    }

    /// Another history, or another server, from this position on.
    pub(super) fn restart(&mut self, position: Position) {
        *self = Self::new(position);
    }

    /// The Last Sync Time; none if this server was never in step.
    pub(super) const fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// The primary's clock and position when it was heard last.
    pub(super) const fn primary(&self) -> Option<(Timestamp, Position)> {
        self.primary
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a moment")
    }

    const fn position(next_record: u64) -> Position {
        Position { next_record, stamp: 1, era: None }
    }

    #[test]
    fn the_time_is_that_of_the_last_position_that_was_reached() {
        let mut synced = Synced::new(Position { next_record: 1, stamp: 0, era: None });
        assert_eq!(synced.time(), None);
        synced.hear(at(10), position(5));
        synced.hear(at(11), position(5));
        synced.hear(at(12), position(9));
        synced.reach(position(4));
        assert_eq!(synced.time(), None);
        synced.reach(position(5));
        assert_eq!(synced.time(), Some(at(11)));
        synced.reach(position(8));
        assert_eq!(synced.time(), Some(at(11)));
        synced.reach(position(100));
        assert_eq!(synced.time(), Some(at(12)));
        // A primary whose clock was set back says earlier times, and they are the true ones.
        synced.hear(at(3), position(100));
        synced.reach(position(100));
        assert_eq!(synced.time(), Some(at(3)));
    }

    #[test]
    fn after_a_start_the_stamp_of_the_last_record_counts() {
        let stamp = 17_646_000_000_000_000;
        let synced = Synced::new(Position { next_record: 9, stamp, era: None });
        assert_eq!(synced.time(), Some(map::timestamp(Ticks(stamp))));
    }

    proptest! {
        /// However many positions are heard before one is reached: the time is never one at which the primary had
        /// answered something that is missing here.
        #[test]
        fn the_time_never_claims_what_is_missing(steps in proptest::collection::vec((0_u64..4, any::<bool>()), 1..1500)) {
            let mut synced = Synced::new(Position { next_record: 1, stamp: 0, era: None });
            let (mut clock, mut there, mut here) = (0_i64, 1_u64, 1_u64);
            // What the primary had at each second.
            let mut had = vec![1_u64];
            for (more, hears) in steps {
                clock += 1;
                there += more;
                had.push(there);
                if hears {
                    synced.hear(at(clock), position(there));
                } else {
                    here = there.min(here + 3);
                    synced.reach(position(here));
                }
                if let Some(time) = synced.time() {
                    let needed = had[usize::try_from(time.as_second()).expect("fits")];
                    prop_assert!(needed <= here, "{needed} {here}");
                }
            }
        }
    }
}
