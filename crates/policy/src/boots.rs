//! Which recovery point is booted next to see whether its machine works.
//!
//! A pure function of the points of an item, the rule of its policy, and a moment. This module must not know how a point is
//! booted, or what follows from it.

use jiff::{SignedDuration, Timestamp};
use strongroom_base::PointId;

/// The pause of a weekly verification. A little less than a week, so that it does not creep to a later hour each time.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24 - 1);

/// Which recovery points are booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootRule {
    /// Every point that was complete at this moment or later, in order.
    EveryPoint(Timestamp),
    /// The newest point, as soon as it is there. Points that a newer one overtakes are left out.
    Newest,
    /// The newest point, once a week.
    Weekly,
}

/// A recovery point that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootablePoint {
    /// The point.
    pub id: PointId,
    /// When it was complete.
    pub completed: Timestamp,
    /// When it was booted last.
    pub booted: Option<Timestamp>,
}

/// The point that is to be booted now, if one is. The points are given in any order.
pub fn to_boot(rule: BootRule, points: &[BootablePoint], now: Timestamp) -> Option<PointId> {
    let by_time = |point: &&BootablePoint| (point.completed, point.id);
    let newest = points.iter().max_by_key(by_time).filter(|point| point.booted.is_none());
    let chosen = match rule {
        BootRule::EveryPoint(since) => points
            .iter()
            .filter(|point| point.booted.is_none() && point.completed >= since)
            .min_by_key(by_time),
        BootRule::Newest => newest,
        BootRule::Weekly => {
            let last = points.iter().filter_map(|point| point.booted).max();
            // A clock that went back must not put it off for ever.
            newest.filter(|_| last.is_none_or(|last| now.duration_since(last).abs() >= WEEK))
        }
    };
    chosen.map(|point| point.id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn point(n: u8, completed: i64, booted: Option<i64>) -> BootablePoint {
        let id = PointId::from_bytes([n; 16]);
        BootablePoint { id, completed: at(completed), booted: booted.map(at) }
    }

    fn chosen(rule: BootRule, points: &[BootablePoint], now: i64) -> Option<u8> {
        to_boot(rule, points, at(now)).map(|id| id.to_bytes()[0])
    }

    #[test]
    fn every_point_is_booted_in_order_from_when_it_was_asked_for() {
        let rule = BootRule::EveryPoint(at(10));
        let points = [point(3, 30, None), point(1, 9, None), point(2, 20, None)];
        assert_eq!(chosen(rule, &points, 40), Some(2));
        let points = [point(3, 30, None), point(1, 9, None), point(2, 20, Some(35))];
        assert_eq!(chosen(rule, &points, 40), Some(3));
        let points = [point(3, 30, Some(50)), point(1, 9, None), point(2, 20, Some(35))];
        assert_eq!(chosen(rule, &points, 60), None);
        assert_eq!(chosen(rule, &[], 60), None);
    }

    #[test]
    fn only_the_newest_is_booted_and_once() {
        let points = [point(1, 10, None), point(2, 20, None)];
        assert_eq!(chosen(BootRule::Newest, &points, 30), Some(2));
        let points = [point(1, 10, None), point(2, 20, Some(25))];
        assert_eq!(chosen(BootRule::Newest, &points, 30), None);
    }

    #[test]
    fn once_a_week_whichever_point_was_booted_last() {
        let booted = point(1, 10, Some(20));
        let (early, late) = (20 + 6 * DAY, 20 + 7 * DAY);
        assert_eq!(chosen(BootRule::Weekly, &[booted, point(2, 30, None)], early), None);
        assert_eq!(chosen(BootRule::Weekly, &[booted, point(2, 30, None)], late), Some(2));
        // There is nothing new.
        assert_eq!(chosen(BootRule::Weekly, &[booted], late), None);
        // The clock went back by a month: it is not waited for.
        assert_eq!(chosen(BootRule::Weekly, &[booted, point(2, 30, None)], -30 * DAY), Some(2));
        assert_eq!(chosen(BootRule::Weekly, &[point(2, 30, None)], 31), Some(2));
    }

    proptest! {
        /// What was booted is never chosen, and for the newest and weekly it is the newest.
        #[test]
        fn nothing_is_booted_twice(
            points in prop::collection::vec((0_i64..1000, prop::option::of(0_i64..1000)), 0..20),
            now in 0_i64..2000, since in 0_i64..1000,
        ) {
            let points: Vec<_> = points.iter().zip(0_u8..).map(|((completed, booted), n)| point(n, *completed, *booted)).collect();
            for rule in [BootRule::EveryPoint(at(since)), BootRule::Newest, BootRule::Weekly] {
                let Some(id) = to_boot(rule, &points, at(now)) else { continue };
                let found = points.iter().find(|point| point.id == id).expect("one of them");
                prop_assert_eq!(found.booted, None);
                if let BootRule::EveryPoint(since) = rule {
                    prop_assert!(found.completed >= since);
                } else {
                    prop_assert!(points.iter().all(|point| point.completed <= found.completed));
                }
            }
        }
    }
}
