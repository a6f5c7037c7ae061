//! What the tests share: times as text, policies as JSON, and chance that can be repeated.

use std::collections::BTreeSet;

use jiff::Timestamp;
use strongroom_base::SplitMix64;
use strongroom_policy::{
    Blackout, DailyRetention, HourlyRetention, Month, MonthDays, MonthlyRetention, Policy,
    PolicyKind, PolicyRules, Retention, Schedule, TimeOfDay, WeekOfMonth, Weekday, WeeklyRetention,
    YearlyRetention,
};

/// Zones with summer time of an hour and of half an hour, with none, at the equator's odd offsets,
/// with laws that have changed, and one that has lost a day.
pub(crate) const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Tokyo",
    "Africa/Casablanca",
    "America/Sao_Paulo",
    "Pacific/Apia",
];

/// `2026-03-29 02:30[Europe/Berlin]`, with seconds and an offset if they matter.
pub(crate) fn at(text: &str) -> Timestamp {
    text.parse::<jiff::Zoned>().unwrap_or_else(|error| panic!("{text}: {error}")).timestamp()
}

/// A moment as the clock of a zone shows it, with its offset.
pub(crate) fn local(time: Timestamp, zone: &str) -> String {
    time.in_tz(zone).unwrap().strftime("%Y-%m-%d %H:%M%:z").to_string()
}

pub(crate) fn policy(json: &str) -> Policy {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

/// The standard default with one of its rules changed.
pub(crate) fn standard(change: impl FnOnce(&mut PolicyRules)) -> PolicyRules {
    let mut rules = PolicyRules::default_standard();
    change(&mut rules);
    rules
}

/// The enhanced default with one of its rules changed.
pub(crate) fn enhanced(change: impl FnOnce(&mut PolicyRules)) -> PolicyRules {
    let mut rules = PolicyRules::default_enhanced();
    change(&mut rules);
    rules
}

pub(crate) fn time(text: &str) -> TimeOfDay {
    text.parse().unwrap()
}

pub(crate) fn daily_at(times: &[&str]) -> Schedule {
    Schedule::Daily { times: times.iter().map(|text| time(text)).collect() }
}

/// Chance from a seed.
pub(crate) struct Chance(SplitMix64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.bits()
    }

    /// 0 to `end`, without `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    pub(crate) fn between(&mut self, first: u16, last: u16) -> u16 {
        first + u16::try_from(self.below(u64::from(last - first) + 1)).unwrap()
    }

    /// Yes, in so many of a hundred cases.
    pub(crate) fn percent(&mut self, yes: u64) -> bool {
        self.below(100) < yes
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(u64::try_from(of.len()).unwrap())).unwrap()]
    }

    /// One or several.
    pub(crate) fn some<T: Copy + Ord>(&mut self, of: &[T]) -> BTreeSet<T> {
        let mut set = BTreeSet::from([self.one(of)]);
        while self.percent(40) {
            set.insert(self.one(of));
        }
        set
    }

    pub(crate) fn time_of_day(&mut self) -> TimeOfDay {
        let minutes = u16::try_from(self.below(48)).unwrap() * 30;
        TimeOfDay::new((minutes / 60).try_into().unwrap(), (minutes % 60).try_into().unwrap())
            .unwrap()
    }

    fn month_days(&mut self, weekdays: &[Weekday]) -> MonthDays {
        use WeekOfMonth::{First, Fourth, Last, Second, Third};
        if self.percent(50) {
            MonthDays::Weekday {
                weekdays: self.some(weekdays),
                weeks: self.some(&[First, Second, Third, Fourth, Last]),
            }
        } else {
            let days: Vec<u8> = (1..=31).collect();
            MonthDays::Day { days: self.some(&days), last: self.percent(30) }
        }
    }

    fn blackout(&mut self) -> Blackout {
        Blackout {
            weekdays: self.some(&Weekday::ALL),
            from: self.time_of_day(),
            to: self.time_of_day(),
        }
    }

    /// Some schedule. Often only once a day, and at an hour that summer time may skip.
    pub(crate) fn schedule(&mut self, kind: PolicyKind) -> Schedule {
        let mut times = BTreeSet::from([self.time_of_day()]);
        if kind == PolicyKind::Enhanced && self.percent(30) {
            times.insert(self.time_of_day());
            times.insert(self.time_of_day());
        }
        match self.below(4) {
            0 if kind == PolicyKind::Enhanced => {
                let every_hours = self.one(&[4, 6, 8, 12, 24]);
                let most = u64::from(24 / every_hours);
                let window_hours = every_hours * u8::try_from(1 + self.below(most)).unwrap();
                Schedule::Hourly { every_hours, window_start: self.time_of_day(), window_hours }
            }
            1 => Schedule::Weekly { weekdays: self.some(&Weekday::ALL), times },
            _ => Schedule::Daily { times },
        }
    }

    /// Some policy whose points live from days to years.
    pub(crate) fn policy(&mut self) -> Policy {
        loop {
            let kind = self.one(&[PolicyKind::Standard, PolicyKind::Enhanced]);
            let schedule = self.schedule(kind);
            let (daily, weekdays) = if let Schedule::Weekly { weekdays, .. } = &schedule {
                (None, weekdays.iter().copied().collect())
            } else {
                let days = self.between(7, 45);
                (Some(DailyRetention { days }), Weekday::ALL.to_vec())
            };
            let tagged = match &schedule {
                Schedule::Weekly { weekdays, .. } => weekdays.clone(),
                _ => self.some(&weekdays),
            };
            let weekly = daily.is_none() || self.percent(60);
            let weekly =
                weekly.then(|| WeeklyRetention { weekdays: tagged, weeks: self.between(1, 20) });
            let monthly = self.percent(60).then(|| MonthlyRetention {
                on: self.month_days(&weekdays),
                months: self.between(1, 24),
            });
            let yearly = self.percent(50).then(|| YearlyRetention {
                months: self.some(&Month::ALL),
                on: self.month_days(&weekdays),
                years: self.between(1, 6),
            });
            let hourly = self.percent(10).then(|| HourlyRetention { days: self.between(1, 20) });
            let mut blackouts = Vec::new();
            while self.percent(25) {
                blackouts.push(self.blackout());
            }
            let rules = PolicyRules {
                kind,
                time_zone: self.one(&ZONES).to_owned(),
                schedule,
                snapshot_retention_days: None,
                retention: Retention { hourly, daily, weekly, monthly, yearly },
                start_spread_minutes: self.one(&[0, 30, 120, 360]),
                blackouts,
            };
            if let Ok(policy) = Policy::try_from(rules) {
                return policy;
            }
        }
    }
}
