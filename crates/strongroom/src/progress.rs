//! Shows how far long work has come: a bar on a terminal, a line every ten seconds elsewhere.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strongroom_base::{Clock, Passed, Progress, Snapshot, Things, start_thread};

use crate::{human, out::tell};

/// How often the bar moves.
const FRAME: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(10);
/// How often it is looked there whether a phase has ended.
const STEP: Duration = Duration::from_millis(500);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not at all.
    None,
    /// A line now and then.
    Lines,
    /// A bar that moves.
    Bar,
}

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(crate) struct Shown {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shown {
    /// Starts to show `progress`.
    pub(crate) fn start<C: Clock + 'static>(progress: Progress, style: Style, clock: C) -> Self {
        let (stop, stopped) = channel::<()>();
        let wait = move |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        let thread = match style {
            Style::None => None,
            Style::Lines => Some(start_thread("shows", move || lines(&progress, &clock, &wait))),
            Style::Bar => Some(start_thread("shows", move || bar(&progress, &wait))),
        };
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A broken bar must not break the work.
            thread.join().ok();
        }
    }
}

fn lines(progress: &Progress, clock: &dyn Clock, wait: &dyn Fn(Duration) -> bool) {
    let start = clock.monotonic();
    let (mut last, mut seen) = (start, 0);
    while wait(STEP) {
        tell(&phases(progress, &mut seen));
        let now = clock.monotonic();
        if now.saturating_sub(last) >= LINE {
            let seconds = now.saturating_sub(start).as_secs_f64();
            tell(&(line(&progress.snapshot(), seconds) + "\n"));
            last = now;
        }
    }
    tell(&phases(progress, &mut seen));
}

/// A line for each phase that has ended since this was asked last.
fn phases(progress: &Progress, seen: &mut usize) -> String {
    let passed = progress.passed(*seen);
    *seen = seen.saturating_add(passed.len());
    let line = |it: &Passed| format!("{}: {}\n", it.name, human::seconds(it.took.as_secs_f64()));
    passed.iter().map(line).collect()
}

/// How far it has come, in hundredths; none as long as nobody knows how far it goes.
fn percent(now: &Snapshot) -> Option<u64> {
    let percent = u128::from(now.done_bytes).saturating_mul(100);
    let percent = percent.checked_div(u128::from(now.total_bytes))?.min(100);
    u64::try_from(percent).ok()
}

/// `5.0 of 10.0 GiB`: both in the unit of the larger.
fn amounts(now: &Snapshot) -> String {
    if now.things == Things::Bytes {
        human::of_bytes(now.done_bytes, now.total_bytes)
    } else {
        format!("{} of {} {}", now.done_bytes, now.total_bytes, now.things)
    }
}

/// What has been done in a number of seconds.
fn line(now: &Snapshot, seconds: f64) -> String {
    let Some(percent) = percent(now) else { return now.stage.name().to_owned() };
    let mut text = format!("{} {percent} %, {}", now.stage, amounts(now));
    if now.things == Things::Bytes {
        let rate = human::rate(now.done_bytes, seconds);
        let stored = if now.stored_bytes > 0 {
            format!("{} written", human::bytes(now.stored_bytes))
        } else {
            String::new()
        };
        for part in [rate, stored].into_iter().filter(|part| !part.is_empty()) {
            text.push_str(", ");
            text.push_str(&part);
        }
    }
    text
}

/// How wide the bar itself is.
const BAR: u64 = 20;

/// A line for a terminal of this width. What does not fit is left out from the right, never cut.
fn bar_line(now: &Snapshot, rate: f64, left: Duration, width: usize) -> String {
    let mut text = format!("{:<11}", now.stage);
    let Some(percent) = percent(now) else { return text.trim_end().to_owned() };
    let filled = percent.saturating_mul(BAR) / 100;
    let drawn: String = (0..BAR).map(|at| if at < filled { '=' } else { ' ' }).collect();
    let mut parts = vec![format!("[{drawn}] {percent:>3} %"), amounts(now)];
    if now.things == Things::Bytes && rate >= 1.0 {
        parts.push(human::rate_of(rate));
        if now.done_bytes < now.total_bytes {
            parts.push(format!("{} left", human::about(left)));
        }
        if now.stored_bytes > 0 {
            parts.push(format!("{} written", human::bytes(now.stored_bytes)));
        }
    }
    let mut between = " ";
    for part in parts {
        let wide =
            text.chars().count().saturating_add(part.chars().count()).saturating_add(between.len());
        // The last column stays free: some terminals wrap when it is written.
        if wide >= width {
            break;
        }
        text.push_str(between);
        text.push_str(&part);
        between = "  ";
    }
    text.trim_end().to_owned()
}

fn bar(progress: &Progress, wait: &dyn Fn(Duration) -> bool) {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    let terminal = console::Term::stderr();
    let mut seen = 0;
    while wait(FRAME) {
        let passed = phases(progress, &mut seen);
        if !passed.is_empty() {
            bar.suspend(|| tell(&passed));
        }
        let now = progress.snapshot();
        bar.set_length(now.total_bytes);
        bar.set_position(now.done_bytes);
        let width = usize::from(terminal.size().1);
        bar.set_message(bar_line(&now, bar.per_sec(), bar.eta(), width));
        bar.tick();
    }
    bar.finish_and_clear();
    tell(&phases(progress, &mut seen));
}

#[cfg(test)]
mod tests {
    use strongroom_base::Stage;

    use super::*;

    #[test]
    fn lines_say_how_far() {
        let now = Snapshot {
            total_bytes: 10 << 30,
            done_bytes: 5 << 30,
            stored_bytes: 1 << 20,
            stage: Stage::Reading,
            things: Things::Bytes,
        };
        let text = line(&now, 10.0);
        assert_eq!(text, "reading 50 %, 5.0 of 10.0 GiB, 512 MiB/s, 1 MiB written");
        assert_eq!(line(&Snapshot::default(), 0.0), "working");
        let progress = Progress::new();
        progress.count(Stage::Marking, Things::RecoveryPoints, 3, 12);
        let text = line(&progress.snapshot(), 10.0);
        assert_eq!(text, "marking 25 %, 3 of 12 recovery points");
        progress.count(Stage::Waiting, Things::Backups, 0, 0);
        assert_eq!(line(&progress.snapshot(), 10.0), "waiting");
    }

    #[test]
    fn a_phase_is_said_once_it_has_ended() {
        let (progress, mut seen) = (Progress::new(), 0);
        assert_eq!(phases(&progress, &mut seen), "");
        progress.pass("connect", Duration::from_millis(300));
        progress.pass("define", Duration::from_millis(1250));
        assert_eq!(phases(&progress, &mut seen), "connect: 0.3 s\ndefine: 1.2 s\n");
        progress.pass("fill", Duration::from_secs(65));
        assert_eq!(phases(&progress, &mut seen), "fill: 1 min 05 s\n");
        assert_eq!(phases(&progress, &mut seen), "");
    }

    #[test]
    fn a_bar_fits_its_terminal() {
        let now = Snapshot {
            total_bytes: 3 << 30,
            done_bytes: 2_126_000_000,
            stored_bytes: 705_100_000,
            stage: Stage::Transfer,
            things: Things::Bytes,
        };
        let at = |width| bar_line(&now, 542_710_000.5, Duration::from_secs(3700), width);
        assert_eq!(
            at(120),
            "transfer    [=============       ]  65 %  1.9 of 3.0 GiB  517.5 MiB/s  1 h 01 min left  \
             672.4 MiB written"
        );
        for width in [20, 40, 60, 79, 80, 100, 200] {
            let line = at(width);
            assert!(line.chars().count() < width, "{line}");
            assert!(!line.ends_with(' '), "{line:?}");
        }
        assert!(at(80).contains("MiB/s"), "{}", at(80));
        assert_eq!(bar_line(&Snapshot::default(), 0.0, Duration::ZERO, 80), "working");
        let nothing = Snapshot { stage: Stage::Snapshot, ..Snapshot::default() };
        assert_eq!(bar_line(&nothing, 0.0, Duration::ZERO, 80), "snapshot");
    }

    #[test]
    fn stops_at_once() {
        let clock = strongroom_base::SystemClock;
        let before = clock.monotonic();
        drop(Shown::start(Progress::new(), Style::Lines, clock));
        assert!(clock.monotonic().saturating_sub(before) < LINE);
    }
}
