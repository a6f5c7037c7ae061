//! Rules of policies as options and files.

use std::{collections::BTreeSet, fs, path::PathBuf, str::FromStr};

use clap::Args;
use strongroom_policy::{
    Blackout, DailyRetention, HourlyRetention, Month, MonthDays, MonthlyRetention, Policy,
    PolicyKind, PolicyRules, Schedule, TimeOfDay, WeekOfMonth, Weekday, WeeklyRetention,
    YearlyRetention,
};

use crate::error::{FaceError, Failure};

/// Rules: from a file, or given as options.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Rules")]
pub(crate) struct RulesArgs {
    /// All rules, as JSON or TOML; see docs/use/policies.md
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "daily_at", "weekdays", "every_hours", "keep_all", "keep_daily", "keep_weekly",
        "keep_monthly", "keep_yearly", "time_zone", "start_spread", "no_start", "enhanced",
        "keep_snapshots"
    ])]
    file: Option<PathBuf>,

    /// Back up every day at this time; with --enhanced at several times
    #[arg(long, value_name = "HH:MM,...", value_delimiter = ',', conflicts_with = "every_hours")]
    daily_at: Vec<TimeOfDay>,

    /// Back up only on these days of the week
    #[arg(long, value_name = "DAY,DAY", requires = "daily_at", value_parser = weekdays)]
    weekdays: Option<Days>,

    /// Back up every 4, 6, 8, 12 or 24 hours, with --enhanced
    #[arg(long, value_name = "HOURS")]
    every_hours: Option<u8>,

    /// With --every-hours: start of the daily window [default: 08:00]
    #[arg(long, value_name = "HH:MM", requires = "every_hours")]
    window_start: Option<TimeOfDay>,

    /// With --every-hours: length of the daily window in hours [default: 24]
    #[arg(long, value_name = "HOURS", requires = "every_hours")]
    window_hours: Option<u8>,

    /// Make an enhanced policy: several backups a day, and longer snapshot retention
    #[arg(long)]
    enhanced: bool,

    /// Time zone of all days and times: Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,

    /// Keep every recovery point for this number of days; 0 removes the rule
    #[arg(long, value_name = "DAYS")]
    keep_all: Option<u16>,

    /// Keep the last recovery point of every day for this number of days; 0 removes the rule
    #[arg(long, value_name = "DAYS")]
    keep_daily: Option<u16>,

    /// Keep the points of some weekdays for a number of weeks: sun:12; `none` removes the rule
    #[arg(long, value_name = "DAY,DAY:WEEKS", value_parser = weekly)]
    keep_weekly: Option<Rule<WeeklyRetention>>,

    /// Keep the points of some days of the month for a number of months: first-sun:12, 1,15,last:6;
    /// `none` removes the rule
    #[arg(long, value_name = "DAYS:MONTHS", value_parser = monthly)]
    keep_monthly: Option<Rule<MonthlyRetention>>,

    /// Keep the points of some days of some months for a number of years: jan/first-sun:10,
    /// jan,jul/1:5; `none` removes the rule
    #[arg(long, value_name = "MONTHS/DAYS:YEARS", value_parser = yearly)]
    keep_yearly: Option<Rule<YearlyRetention>>,

    /// Keep recovery points in the snapshot vault for this number of days
    #[arg(long, value_name = "DAYS")]
    keep_snapshots: Option<u16>,

    /// Spread the starts of the items over this number of minutes
    #[arg(long, value_name = "MINUTES")]
    start_spread: Option<u16>,

    /// Start no backup on these days between these times; may be repeated: mon,tue@08:00-18:00
    #[arg(long, value_name = "DAYS@FROM-TO", value_parser = blackout)]
    no_start: Vec<Blackout>,
}

/// Days of the week.
#[derive(Clone, Debug)]
pub(crate) struct Days(BTreeSet<Weekday>);

/// A rule, or none.
#[derive(Clone, Debug)]
pub(crate) struct Rule<T>(pub(crate) Option<T>);

impl RulesArgs {
    /// Whether anything is said.
    pub(crate) fn is_empty(&self) -> bool {
        let keeps = self.keep_all.is_some()
            || self.keep_daily.is_some()
            || self.keep_weekly.is_some()
            || self.keep_monthly.is_some()
            || self.keep_yearly.is_some()
            || self.keep_snapshots.is_some();
        let when = !self.daily_at.is_empty() || self.every_hours.is_some() || self.enhanced;
        let rest = self.time_zone.is_some()
            || self.start_spread.is_some()
            || !self.no_start.is_empty()
            || self.file.is_some();
        !(keeps || when || rest)
    }

    /// The rules: those of the file, or `base` with the given options. They are checked here, so
    /// that mistakes are found without a server.
    pub(crate) fn rules(self, base: PolicyRules) -> Result<PolicyRules, Failure> {
        let rules = match &self.file {
            Some(file) => read(file)?,
            None => self.change(base),
        };
        Policy::try_from(rules.clone())?;
        Ok(rules)
    }

    fn change(self, mut rules: PolicyRules) -> PolicyRules {
        if self.enhanced {
            rules.kind = PolicyKind::Enhanced;
        }
        if let Some(zone) = self.time_zone {
            rules.time_zone = zone;
        }
        let schedule = rules.schedule.clone();
        let times: BTreeSet<TimeOfDay> = self.daily_at.into_iter().collect();
        match (self.every_hours, self.weekdays) {
            (Some(every_hours), _) => {
                let window_start =
                    self.window_start.unwrap_or_else(|| TimeOfDay::MIDNIGHT.plus_hours(8));
                let window_hours = self.window_hours.unwrap_or(24);
                rules.schedule = Schedule::Hourly { every_hours, window_start, window_hours };
            }
            (None, Some(Days(weekdays))) => rules.schedule = Schedule::Weekly { weekdays, times },
            (None, None) if !times.is_empty() => rules.schedule = Schedule::Daily { times },
            (None, None) => {}
        }
        if rules.schedule != schedule {
            // How long snapshots may be kept follows from the schedule.
            rules.snapshot_retention_days = None;
        }
        let kept = &mut rules.retention;
        if matches!(rules.schedule, Schedule::Weekly { .. }) {
            // It has none: what is kept is said in weeks.
            kept.daily = None;
        }
        if let Some(days) = self.keep_all {
            kept.hourly = (days > 0).then_some(HourlyRetention { days });
        }
        if let Some(days) = self.keep_daily {
            kept.daily = (days > 0).then_some(DailyRetention { days });
        }
        if let Some(Rule(weekly)) = self.keep_weekly {
            kept.weekly = weekly;
        }
        if let Some(Rule(monthly)) = self.keep_monthly {
            kept.monthly = monthly;
        }
        if let Some(Rule(yearly)) = self.keep_yearly {
            kept.yearly = yearly;
        }
        if let Some(days) = self.keep_snapshots {
            rules.snapshot_retention_days = Some(days);
        }
        if let Some(minutes) = self.start_spread {
            rules.start_spread_minutes = minutes;
        }
        if !self.no_start.is_empty() {
            rules.blackouts = self.no_start;
        }
        rules
    }
}

/// The rules of a file.
pub(crate) fn read(file: &PathBuf) -> Result<PolicyRules, Failure> {
    let text = fs::read_to_string(file).map_err(|source| FaceError::Local {
        path: file.clone(),
        action: "read",
        source,
    })?;
    let wrong = |reason: String| {
        Failure::usage(format!("{} holds no rules of a policy: {reason}", file.display()))
    };
    if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
    } else {
        toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))
    }
}

/// A word that can be shortened to its first three letters.
fn word<T: Copy + serde::Serialize>(text: &str, all: &[T], what: &str) -> Result<T, String> {
    let text = text.trim().to_ascii_lowercase();
    let named = |value: &&T| {
        let name = serde_json::to_value(value).ok();
        let name = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
        name == text || (text.len() == 3 && name.starts_with(&text))
    };
    all.iter().find(named).copied().ok_or_else(|| format!("{text:?} is no {what}"))
}

fn weekday(text: &str) -> Result<Weekday, String> {
    word(text, &Weekday::ALL, "day of the week: write mon, tue, wed, thu, fri, sat or sun")
}

fn weekdays(text: &str) -> Result<Days, String> {
    text.split(',').map(weekday).collect::<Result<_, _>>().map(Days)
}

fn month(text: &str) -> Result<Month, String> {
    word(text, &Month::ALL, "month: write jan, feb, ...")
}

fn week(text: &str) -> Result<WeekOfMonth, String> {
    use WeekOfMonth::{First, Fourth, Last, Second, Third};
    let all = [First, Second, Third, Fourth, Last];
    let exact = all.into_iter().find(|week| {
        let name = serde_json::to_value(week).ok();
        name.is_some_and(|name| name.as_str() == Some(text))
    });
    exact.ok_or_else(|| {
        format!("{text:?} is no week of a month: write first, second, third, fourth or last")
    })
}

/// What comes before the last colon, and the number after it; `none` says that there is no rule.
fn counted<'a>(text: &'a str, example: &str) -> Result<Option<(&'a str, u16)>, String> {
    if text == "none" {
        return Ok(None);
    }
    let wrong =
        || format!("{text:?} does not say which and for how long: write {example}, or none");
    let (which, number) = text.rsplit_once(':').ok_or_else(wrong)?;
    Ok(Some((which, number.parse().map_err(|_| wrong())?)))
}

/// Parses `sun:12`.
pub(crate) fn weekly(text: &str) -> Result<Rule<WeeklyRetention>, String> {
    let Some((days, weeks)) = counted(text, "sun:12")? else { return Ok(Rule(None)) };
    let Days(weekdays) = weekdays(days)?;
    Ok(Rule(Some(WeeklyRetention { weekdays, weeks })))
}

/// Parses `first-sun:12`.
pub(crate) fn monthly(text: &str) -> Result<Rule<MonthlyRetention>, String> {
    let Some((days, months)) = counted(text, "first-sun:12")? else { return Ok(Rule(None)) };
    Ok(Rule(Some(MonthlyRetention { on: month_days(days)?, months })))
}

/// Parses `jan/first-sun:10`.
pub(crate) fn yearly(text: &str) -> Result<Rule<YearlyRetention>, String> {
    let Some((which, years)) = counted(text, "jan/first-sun:10")? else { return Ok(Rule(None)) };
    let (months, days) = which
        .split_once('/')
        .ok_or_else(|| format!("{text:?} names no month: write jan/first-sun:10"))?;
    let months = months.split(',').map(month).collect::<Result<_, _>>()?;
    Ok(Rule(Some(YearlyRetention { months, on: month_days(days)?, years })))
}

/// `first-sun`, `first-sun,first-mon`, `1`, `1,15,last`.
fn month_days(text: &str) -> Result<MonthDays, String> {
    if !text.contains('-') {
        let (mut days, mut last) = (BTreeSet::new(), false);
        for day in text.split(',') {
            match (day, day.parse()) {
                ("last", _) => last = true,
                (_, Ok(day)) => drop(days.insert(day)),
                _ => return Err(format!("{day:?} is no day of a month: write 1 to 31 or last")),
            }
        }
        return Ok(MonthDays::Day { days, last });
    }
    let (mut weekdays, mut weeks, mut said) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for day in text.split(',') {
        let (of, on) = day
            .split_once('-')
            .ok_or_else(|| format!("{day:?} is no day of a month: write first-sun"))?;
        let (of, on) = (week(of)?, weekday(on)?);
        weeks.insert(of);
        weekdays.insert(on);
        said.insert((of, on));
    }
    // A policy knows each of these weekdays in each of these weeks.
    if said.len() != weekdays.len().saturating_mul(weeks.len()) {
        return Err(format!(
            "{text:?} cannot be one rule: name each of its weekdays for each of its weeks"
        ));
    }
    Ok(MonthDays::Weekday { weekdays, weeks })
}

fn blackout(text: &str) -> Result<Blackout, String> {
    let wrong = || format!("{text:?} is no such time: write mon,tue@08:00-18:00");
    let (days, times) = text.split_once('@').ok_or_else(wrong)?;
    let (from, to) = times.split_once('-').ok_or_else(wrong)?;
    let time = |text: &str| TimeOfDay::from_str(text).map_err(|error| error.to_string());
    let Days(weekdays) = weekdays(days)?;
    Ok(Blackout { weekdays, from: time(from)?, to: time(to)? })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        rules: RulesArgs,
    }

    fn rules(line: &str) -> Result<PolicyRules, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let rules = line.rules.rules(PolicyRules::default_standard());
        rules.map_err(|failure| failure.to_text())
    }

    #[test]
    fn the_enhanced_default_can_be_said_in_options() {
        let line = "--enhanced --every-hours 4 --keep-snapshots 7 --keep-daily 180 \
                    --keep-weekly sun:12 --keep-monthly first-sun:60 \
                    --keep-yearly jan/first-sun:10";
        assert_eq!(rules(line), Ok(PolicyRules::default_enhanced()));
    }

    #[test]
    fn options_change_what_they_name() {
        let changed = rules(
            "--daily-at 23:30 --weekdays mon,friday --keep-daily 0 \
             --keep-weekly mon,fri:52 --time-zone Europe/Berlin --no-start mon@08:00-18:00 \
             --start-spread 0",
        )
        .expect("rules");
        let Schedule::Weekly { weekdays, times } = &changed.schedule else { panic!("weekly") };
        assert_eq!((weekdays.len(), times.len()), (2, 1));
        assert_eq!((changed.retention.daily, changed.blackouts.len()), (None, 1));
        assert_eq!(changed.time_zone, "Europe/Berlin");
        let days = month_days("1,15,last").expect("days");
        assert_eq!(days, MonthDays::Day { days: [1, 15].into(), last: true });
    }

    #[test]
    fn mistakes_are_named() {
        for (line, named) in [
            ("--daily-at 25:00", "not a time of day"),
            ("--keep-weekly sun", "sun:12"),
            ("--keep-weekly xyz:1", "no day of the week"),
            ("--keep-monthly first-sun,last-mon:1", "cannot be one rule"),
            ("--keep-yearly first-sun:10", "names no month"),
            ("--time-zone Mars", "Mars"),
            ("--weekdays mon", "--daily-at"),
            ("--keep-daily 3", "7"),
            ("--file /does/not/exist", "cannot read"),
        ] {
            let error = rules(line).expect_err(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn files_are_json_or_toml() {
        let folder = tempfile::tempdir().expect("a folder");
        let default = PolicyRules::default_enhanced();
        for (name, text) in [
            ("a.json", serde_json::to_string(&default).expect("JSON")),
            ("a.toml", toml::to_string(&default).expect("TOML")),
        ] {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("written");
            assert_eq!(rules(&format!("--file {}", file.display())), Ok(default.clone()));
        }
    }
}
