//! Shows how far long work has come: a bar on a terminal, a line every ten seconds elsewhere.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strongroom_base::Clock;
use strongroom_engine::{Progress, Snapshot};

use crate::{human, out::tell};

/// How often the bar moves.
const FRAME: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

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
            Style::Lines => Some(thread::spawn(move || lines(&progress, &clock, &wait))),
            Style::Bar => Some(thread::spawn(move || bar(&progress, &wait))),
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
    while wait(LINE) {
        let seconds = clock.monotonic().saturating_sub(start).as_secs_f64();
        tell(&(line(&progress.snapshot(), seconds) + "\n"));
    }
}

/// What has been done in so many seconds.
fn line(now: &Snapshot, seconds: f64) -> String {
    let percent = u128::from(now.done_bytes).saturating_mul(100);
    let percent = percent.checked_div(u128::from(now.total_bytes)).unwrap_or(0).min(100);
    if !now.things.is_empty() {
        let Snapshot { stage, done_bytes, total_bytes, things, .. } = now;
        return match total_bytes {
            0 => (*stage).to_owned(),
            _ => format!("{stage} {percent} %, {done_bytes} of {total_bytes} {things}"),
        };
    }
    let stored = match now.stored_bytes {
        0 => String::new(),
        stored => format!(", {} written", human::bytes(stored)),
    };
    format!(
        "{stage} {percent} %, {done} of {total}, {rate}{stored}",
        stage = if now.stage.is_empty() { "working" } else { now.stage },
        done = human::bytes(now.done_bytes),
        total = human::bytes(now.total_bytes),
        rate = human::rate(now.done_bytes, seconds),
    )
}

fn bar(progress: &Progress, wait: &dyn Fn(Duration) -> bool) {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    let template = "{msg:12} [{bar:24}] {percent:>3} %  {bytes} of {total_bytes}  \
                    {bytes_per_sec}  {eta} left{prefix}";
    let counting = "{msg:12} [{bar:24}] {percent:>3} %  {pos} of {len} {prefix}";
    let style = |template| {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
    };
    style(template);
    let mut things = "";
    while wait(FRAME) {
        let now = progress.snapshot();
        if now.things != things {
            things = now.things;
            style(if things.is_empty() { template } else { counting });
            bar.set_prefix(things);
        }
        bar.set_length(now.total_bytes);
        bar.set_position(now.done_bytes);
        bar.set_message(now.stage);
        if now.stored_bytes > 0 && things.is_empty() {
            bar.set_prefix(format!("  {} written", human::bytes(now.stored_bytes)));
        }
        bar.tick();
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far() {
        let now = Snapshot {
            total_bytes: 10 << 30,
            done_bytes: 5 << 30,
            stored_bytes: 1 << 20,
            stage: "reading",
            things: "",
        };
        let text = line(&now, 10.0);
        assert_eq!(text, "reading 50 %, 5 GiB of 10 GiB, 512 MiB/s, 1 MiB written");
        assert_eq!(line(&Snapshot::default(), 0.0), "working 0 %, 0 B of 0 B, ");
        let progress = Progress::new();
        progress.count("marking", "recovery points", 3, 12);
        let text = line(&progress.snapshot(), 10.0);
        assert_eq!(text, "marking 25 %, 3 of 12 recovery points");
        progress.count("waiting", "backups", 0, 0);
        assert_eq!(line(&progress.snapshot(), 10.0), "waiting");
    }

    #[test]
    fn stops_at_once() {
        let clock = strongroom_base::SystemClock;
        let before = clock.monotonic();
        drop(Shown::start(Progress::new(), Style::Lines, clock));
        assert!(clock.monotonic().saturating_sub(before) < LINE);
    }
}
