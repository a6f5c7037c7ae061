//! What policies may say, and how it is refused.

use std::collections::BTreeSet;

use strongroom_base::Coded;
use strongroom_policy::{
    Blackout, DailyRetention, HourlyRetention, Month, MonthDays, MonthlyRetention, Part, Policy,
    PolicyError, PolicyKind, PolicyRules, Schedule, WeekOfMonth, Weekday, WeeklyRetention,
    YearlyRetention,
};

use crate::tools::{daily_at, enhanced, policy, standard, time};

fn refusal(rules: PolicyRules) -> PolicyError {
    let error = Policy::try_from(rules).expect_err("a refusal");
    assert_eq!(error.code().name, "policy.invalid");
    error
}

fn accepted(rules: PolicyRules) -> Policy {
    Policy::try_from(rules).unwrap_or_else(|error| panic!("{error}"))
}

fn weekly(rules: &mut PolicyRules, weekdays: &[Weekday], weeks: u16) {
    let weekdays: BTreeSet<_> = weekdays.iter().copied().collect();
    rules.schedule = Schedule::Weekly { weekdays: weekdays.clone(), times: [time("02:00")].into() };
    rules.snapshot_retention_days = None;
    rules.retention.daily = None;
    rules.retention.weekly = Some(WeeklyRetention { weekdays, weeks });
    rules.retention.monthly = None;
    rules.retention.yearly = None;
}

fn hourly(every_hours: u8, window_hours: u8) -> Schedule {
    Schedule::Hourly { every_hours, window_start: time("08:00"), window_hours }
}

#[test]
fn azures_defaults_are_policies() {
    assert_eq!(accepted(PolicyRules::default_standard()), Policy::default_standard());
    assert_eq!(accepted(PolicyRules::default_enhanced()), Policy::default_enhanced());
    assert_eq!(Policy::default_standard().snapshot_retention_days(), 2);
    assert_eq!(Policy::default_enhanced().snapshot_retention_days(), 7);
    assert_eq!(Policy::default_standard().most_points(), 30);
    // 180 days; 7 days of 5 more a day; 60 months but for 5, and 10 years, that the days cover.
    assert_eq!(Policy::default_enhanced().most_points(), 180 + 35 + 55 + 10);
}

#[test]
fn a_policy_is_read_as_it_is_written() {
    for policy in [Policy::default_standard(), Policy::default_enhanced()] {
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy, "{text}");
    }
    let short = policy(
        r#"{"kind": "standard", "time_zone": "europe/berlin",
            "schedule": {"weekly": {"weekdays": ["sunday", "monday"], "times": ["02:30"]}},
            "retention": {"weekly": {"weekdays": ["monday", "sunday", "monday"], "weeks": 4},
                          "monthly": {"on": {"day": {"last": true}}, "months": 3}}}"#,
    );
    assert_eq!(
        serde_json::to_string(&short).unwrap(),
        concat!(
            r#"{"kind":"standard","time_zone":"Europe/Berlin","#,
            r#""schedule":{"weekly":{"weekdays":["monday","sunday"],"times":["02:30"]}},"#,
            r#""snapshot_retention_days":5,"#,
            r#""retention":{"weekly":{"weekdays":["monday","sunday"],"weeks":4},"#,
            r#""monthly":{"on":{"day":{"last":true}},"months":3}},"start_spread_minutes":120}"#
        )
    );
}

#[test]
fn what_is_misspelt_is_refused() {
    let good = serde_json::to_string(&Policy::default_enhanced()).unwrap();
    for (from, to) in [
        (r#""retention""#, r#""retentions""#),
        (r#""weekly":{"#, r#""weekly":{"day":1,"#),
        (r#""every_hours""#, r#""interval""#),
        (r#""days":180"#, r#""days":180,"weeks":1"#),
        (r#""weeks":["first"]"#, r#""weeks":["fifth"]"#),
        (r#""08:00""#, r#""8:00""#),
        (r#""time_zone":"UTC""#, r#""time_zone":"Europe/Bielefeld""#),
        (r#""days":180"#, r#""days":6"#),
    ] {
        let wrong = good.replacen(from, to, 1);
        assert_ne!(good, wrong);
        assert!(serde_json::from_str::<Policy>(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn zones_are_known_by_their_iana_names() {
    for name in [
        "",
        "Mars/Olympus",
        "Etc/Unknown",
        "+02:00",
        "W. Europe Standard Time",
        "localtime",
        "PosixRules",
        "posix/Europe/Berlin",
        "right/Europe/Berlin",
    ] {
        let error = refusal(standard(|rules| rules.time_zone = name.to_owned()));
        assert_eq!(error, PolicyError::UnknownTimeZone { name: name.to_owned() });
    }
    assert_eq!(
        accepted(standard(|rules| rules.time_zone = "utc".to_owned())).rules().time_zone,
        "UTC"
    );
}

#[test]
fn schedules() {
    use PolicyError::{
        Empty, EveryHours, NoTimes, StandardHourly, StandardTimes, TooManyTimes, WindowHours,
    };
    let with = |schedule: Schedule| {
        enhanced(|rules| {
            rules.schedule = schedule;
            rules.snapshot_retention_days = None;
        })
    };
    assert_eq!(refusal(standard(|rules| rules.schedule = hourly(4, 24))), StandardHourly);
    let twice = daily_at(&["02:00", "14:00"]);
    let given = StandardTimes { given: 2 };
    assert_eq!(refusal(standard(|rules| rules.schedule = twice.clone())), given);
    accepted(with(twice));
    for every_hours in 0..=24 {
        let rules = with(hourly(every_hours, 24));
        match every_hours {
            4 | 6 | 8 | 12 | 24 => drop(accepted(rules)),
            given => assert_eq!(refusal(rules), EveryHours { given }),
        }
    }
    for (every_hours, given) in [(4, 0), (4, 3), (4, 10), (6, 4), (8, 20), (4, 28), (24, 12)] {
        assert_eq!(refusal(with(hourly(every_hours, given))), WindowHours { given, every_hours });
    }
    for (every_hours, window) in [(4, 4), (4, 12), (6, 18), (8, 16), (12, 12), (24, 24)] {
        accepted(with(hourly(every_hours, window)));
    }
    assert_eq!(refusal(with(daily_at(&[]))), NoTimes);
    let times = |count: u8| Schedule::Daily {
        times: (0..count).map(|n| time(&format!("{:02}:{:02}", n / 2, n % 2 * 30))).collect(),
    };
    accepted(with(times(24)));
    assert_eq!(refusal(with(times(25))), TooManyTimes { given: 25 });
    let error = refusal(standard(|rules| weekly(rules, &[], 4)));
    assert_eq!(error, Empty { of: Part::Schedule, what: "weekday" });
}

#[test]
fn durations() {
    let daily = |days| {
        standard(move |rules| {
            rules.retention.daily = Some(DailyRetention { days });
        })
    };
    for days in [0, 6, 10_000] {
        let error =
            PolicyError::Duration { of: Part::Daily, given: days, unit: "days", min: 7, max: 9999 };
        assert_eq!(refusal(daily(days)), error);
    }
    accepted(daily(7));
    accepted(daily(9999));

    let weekly = |weeks| standard(move |rules| weekly(rules, &[Weekday::Sunday], weeks));
    accepted(weekly(1));
    accepted(weekly(5165));
    assert_eq!(
        refusal(weekly(5166)).to_string(),
        "weekly retention is for 5166 weeks; allowed are 1 to 5165 (99 years)"
    );
    assert!(matches!(refusal(weekly(0)), PolicyError::Duration { of: Part::Weekly, .. }));

    let last = || MonthDays::Day { days: BTreeSet::new(), last: true };
    let monthly = |months| {
        standard(|rules| {
            rules.retention.monthly = Some(MonthlyRetention { on: last(), months });
        })
    };
    accepted(monthly(1188));
    for months in [0, 1189, 9999] {
        assert!(matches!(
            refusal(monthly(months)),
            PolicyError::Duration { of: Part::Monthly, .. }
        ));
    }
    let yearly = |years| {
        standard(|rules| {
            let months = BTreeSet::from([Month::December]);
            rules.retention.yearly = Some(YearlyRetention { months, on: last(), years });
        })
    };
    accepted(yearly(99));
    for years in [0, 100] {
        assert!(matches!(refusal(yearly(years)), PolicyError::Duration { of: Part::Yearly, .. }));
    }
    for days in [0, 10_000] {
        let rules = standard(|rules| rules.retention.hourly = Some(HourlyRetention { days }));
        assert!(matches!(refusal(rules), PolicyError::Duration { of: Part::Hourly, .. }));
    }
}

#[test]
fn days_that_are_never() {
    use Month::{April, February, March};
    let yearly = |months: &[Month], days: &[u8], last| {
        standard(|rules| {
            let on = MonthDays::Day { days: days.iter().copied().collect(), last };
            let months = months.iter().copied().collect();
            rules.retention.yearly = Some(YearlyRetention { months, on, years: 2 });
        })
    };
    accepted(yearly(&[February], &[29], false));
    assert_eq!(refusal(yearly(&[February], &[30], false)), PolicyError::NeverTagged);
    assert_eq!(refusal(yearly(&[February, April], &[31], false)), PolicyError::NeverTagged);
    accepted(yearly(&[February, March], &[31], false));
    accepted(yearly(&[February], &[], true));
    assert!(matches!(refusal(yearly(&[March], &[], false)), PolicyError::Empty { .. }));
    assert!(matches!(refusal(yearly(&[], &[1], false)), PolicyError::Empty { .. }));
    for given in [0, 32] {
        let error = PolicyError::DayOfMonth { of: Part::Yearly, given };
        assert_eq!(refusal(yearly(&[March], &[1, given], false)), error);
    }
    for (weekdays, weeks) in [(vec![Weekday::Sunday], vec![]), (vec![], vec![WeekOfMonth::Last])] {
        let rules = standard(|rules| {
            let on = MonthDays::Weekday {
                weekdays: weekdays.into_iter().collect(),
                weeks: weeks.into_iter().collect(),
            };
            rules.retention.monthly = Some(MonthlyRetention { on, months: 2 });
        });
        assert!(matches!(refusal(rules), PolicyError::Empty { of: Part::Monthly, .. }));
    }
}

#[test]
fn snapshots() {
    let days = |mut rules: PolicyRules, days: Option<u16>| {
        rules.snapshot_retention_days = days;
        Policy::try_from(rules).map(|policy| policy.snapshot_retention_days())
    };
    let range = |rules: &PolicyRules, default, min, max| {
        assert_eq!(days(rules.clone(), None), Ok(default));
        for given in min..=max {
            assert_eq!(days(rules.clone(), Some(given)), Ok(given));
        }
        for given in [min - 1, max + 1] {
            let error = PolicyError::SnapshotDays { given, min, max };
            assert_eq!(days(rules.clone(), Some(given)), Err(error));
        }
    };
    range(&PolicyRules::default_standard(), 2, 1, 5);
    range(&standard(|rules| weekly(rules, &[Weekday::Sunday], 4)), 5, 5, 5);
    range(&enhanced(|rules| weekly(rules, &[Weekday::Sunday], 4)), 7, 5, 20);
    for (every_hours, max) in [(4, 17), (6, 22), (8, 26), (12, 30), (24, 30)] {
        range(&enhanced(|rules| rules.schedule = hourly(every_hours, 24)), 7, 1, max);
    }
    range(&enhanced(|rules| rules.schedule = daily_at(&["02:00"])), 7, 1, 30);
    let all: Vec<String> = (0..24).map(|hour| format!("{hour:02}:00")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    range(&enhanced(|rules| rules.schedule = daily_at(&all)), 4, 1, 4);

    let short = enhanced(|rules| {
        rules.schedule = daily_at(&["02:00"]);
        rules.retention.daily = Some(DailyRetention { days: 10 });
    });
    let error = PolicyError::SnapshotBeyondVault { given: 11, vault: 10 };
    assert_eq!(days(short, Some(11)), Err(error));
    let one_week = enhanced(|rules| weekly(rules, &[Weekday::Sunday], 1));
    let error = PolicyError::SnapshotBeyondVault { given: 8, vault: 7 };
    assert_eq!(days(one_week, Some(8)), Err(error));
}

fn first(weekday: Weekday) -> MonthlyRetention {
    let on = MonthDays::Weekday { weekdays: [weekday].into(), weeks: [WeekOfMonth::First].into() };
    MonthlyRetention { on, months: 12 }
}

#[test]
fn schedule_and_retention_fit_together() {
    use Weekday::{Monday, Sunday};
    let error = refusal(standard(|rules| rules.retention.daily = None));
    assert_eq!(error, PolicyError::DailyMissing);
    let with = |change: fn(&mut PolicyRules)| {
        standard(|rules| {
            weekly(rules, &[Monday, Sunday], 4);
            change(rules);
        })
    };
    accepted(with(|_| ()));
    let error = refusal(with(|rules| rules.retention.daily = Some(DailyRetention { days: 7 })));
    assert_eq!(error, PolicyError::DailyWithWeekly);
    let error = refusal(with(|rules| rules.retention.weekly = None));
    assert_eq!(error, PolicyError::WeeklyMissing);
    let error = refusal(with(|rules| {
        rules.retention.weekly.as_mut().unwrap().weekdays = [Monday].into();
    }));
    assert_eq!(error, PolicyError::WeeklyDaysDiffer);
    accepted(with(|rules| rules.retention.monthly = Some(first(Monday))));
    let error = refusal(with(|rules| rules.retention.monthly = Some(first(Weekday::Tuesday))));
    assert_eq!(error, PolicyError::TagWithoutBackup { of: Part::Monthly });
}

#[test]
fn an_item_has_at_most_9999_points() {
    let rules = |days: u16, years: u16| {
        standard(|rules| {
            rules.retention.daily = Some(DailyRetention { days });
            let months = Month::ALL.into();
            let on = MonthDays::Day { days: [1].into(), last: false };
            rules.retention.yearly = Some(YearlyRetention { months, on, years });
        })
    };
    // The days cover 27 years.
    accepted(rules(9999, 27));
    let error = PolicyError::TooManyPoints { points: 9999 + 12, max: 9999 };
    assert_eq!(refusal(rules(9999, 28)), error);
    let every = |days| {
        enhanced(|rules| {
            rules.retention.hourly = Some(HourlyRetention { days });
        })
    };
    accepted(every(1600));
    assert!(matches!(refusal(every(1700)), PolicyError::TooManyPoints { .. }));
}

#[test]
fn spread_and_blackouts() {
    accepted(standard(|rules| rules.start_spread_minutes = 0));
    accepted(standard(|rules| rules.start_spread_minutes = 1440));
    let error = refusal(standard(|rules| rules.start_spread_minutes = 1441));
    assert_eq!(error, PolicyError::StartSpread { given: 1441 });

    let blackout = |weekdays: &[Weekday], from: &str, to: &str| Blackout {
        weekdays: weekdays.iter().copied().collect(),
        from: time(from),
        to: time(to),
    };
    let with = |blackouts: Vec<Blackout>| standard(|rules| rules.blackouts = blackouts);
    let all = &Weekday::ALL;
    assert_eq!(
        refusal(with(vec![blackout(all, "00:00", "00:00")])),
        PolicyError::BlackoutsCoverWeek
    );
    assert_eq!(
        refusal(with(vec![blackout(all, "20:00", "08:00"), blackout(all, "08:00", "20:00")])),
        PolicyError::BlackoutsCoverWeek
    );
    accepted(with(vec![blackout(all, "20:00", "08:00"), blackout(all, "08:01", "20:00")]));
    accepted(with(vec![blackout(&all[1..], "00:00", "00:00")]));
    // What begins on Sunday evening ends on Monday.
    accepted(with(vec![blackout(&all[1..], "12:00", "12:00")]));
    assert_eq!(
        refusal(with(vec![blackout(all, "12:00", "12:00")])),
        PolicyError::BlackoutsCoverWeek
    );
    assert!(matches!(
        refusal(with(vec![blackout(&[], "01:00", "02:00")])),
        PolicyError::Empty { .. }
    ));
    let error = PolicyError::TooManyBlackouts { given: 65, max: 64 };
    assert_eq!(refusal(with(vec![blackout(all, "01:00", "02:00"); 65])), error);
}

#[test]
fn messages_say_what_to_change() {
    let kinds = [PolicyKind::Standard, PolicyKind::Enhanced];
    assert_eq!(
        kinds.map(|kind| serde_json::to_string(&kind).unwrap()),
        ["\"standard\"", "\"enhanced\""]
    );
    let error = refusal(enhanced(|rules| rules.schedule = hourly(6, 16)));
    assert_eq!(
        error.to_string(),
        "the window of an hourly schedule is 4 to 24 hours long and a multiple of its interval (6), \
         not 16 hours"
    );
    let error = refusal(standard(|rules| rules.snapshot_retention_days = Some(6)));
    assert_eq!(
        error.to_string(),
        "snapshots are kept for 6 days; with this kind and schedule, allowed are 1 to 5"
    );
}
