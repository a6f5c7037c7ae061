//! Policies: when a machine is backed up, and how long its recovery points are kept.
//!
//! ```text
//!  PolicyRules ──check──▶ Policy ──┬─▶ occurrences ─▶ starts ─▶ due     what is to be backed up now?
//!  (as written)        (as meant)  └─▶ tags ─▶ evaluate ─▶ preview      what may be removed, and when?
//! ```
//!
//! | module      | what it does |
//! |-------------|--------------|
//! | `words`     | [`TimeOfDay`], [`Weekday`], [`WeekOfMonth`], [`Month`] |
//! | `rules`     | [`PolicyRules`]: a policy as it is written down |
//! | `error`     | [`PolicyError`]: what can be wrong with it |
//! | `limits`    | what a policy may say, and the check |
//! | `policy`    | [`Policy`]: checked rules, ready for use |
//! | `zone`      | moments, dates and clocks of a place; summer time |
//! | `schedule`  | [`Policy::occurrences`]: the moments at which a schedule falls due |
//! | `start`     | [`Policy::start_of`], [`Policy::due`]: spread, blackouts, catching up |
//! | `calendar`  | dates as numbers |
//! | `tags`      | which days a retention rule speaks of |
//! | `retention` | [`evaluate`]: until when each point is kept, and by which rules |
//! | `preview`   | [`preview()`], [`is_shorter`]: what a change of policy would do |
//! | `boots`     | [`to_boot`]: which point is booted next, to see whether its machine works |
//! | `suspect`   | [`judge`]: whether a point may hold what ransomware has encrypted |
//!
//! Everything is a pure function: the time of day is an argument, and nothing is remembered. The one
//! thing that is read from outside is the time zone database, of the system or else the one that is
//! compiled in.
//!
//! It must not know how a backup is made, where points are kept, or who asks.

mod boots;
mod calendar;
mod error;
mod limits;
mod policy;
mod preview;
mod retention;
mod rule;
mod rules;
mod schedule;
mod start;
mod suspect;
mod tags;
mod words;
mod zone;

pub use boots::{BootRule, BootablePoint, to_boot};
pub use error::{Part, PolicyError};
pub use limits::{MAX_BLACKOUTS, MAX_POINTS, MAX_START_SPREAD_MINUTES, MAX_TIMES};
pub use policy::Policy;
pub use preview::{Preview, is_shorter, preview};
pub use retention::{History, Keep, Kept, KeptBy, PointTimes, evaluate};
pub use rule::Rule;
pub use rules::{
    Blackout, DEFAULT_START_SPREAD_MINUTES, DailyRetention, HourlyRetention, MonthDays,
    MonthlyRetention, PolicyKind, PolicyRules, Retention, Schedule, WeeklyRetention,
    YearlyRetention,
};
pub use start::{Due, MAX_MISSED, Run};
pub use suspect::{Measured, MeasuredDisk, is_worth_judging, judge};
pub use words::{Month, ParseTimeError, TimeOfDay, WeekOfMonth, Weekday};
