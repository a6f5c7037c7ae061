//! What the operating system says of this process: `/proc/self`.

use std::fs;

/// Numbers of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Processor time, in seconds.
    pub(super) cpu_seconds: f64,
    /// Memory that it uses.
    pub(super) memory_bytes: f64,
    /// Files that it has open.
    pub(super) open_fds: f64,
    /// Files that it may have open.
    pub(super) max_fds: f64,
    /// Its threads.
    pub(super) threads: f64,
}

impl Process {
    /// This process. What the system does not say is 0.
    pub(super) fn here() -> Self {
        let text = |name: &str| fs::read_to_string(format!("/proc/self/{name}"));
        let (stat, limits) = (text("stat").unwrap_or_default(), text("limits").unwrap_or_default());
        let fds = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let mut found = Self::of(&stat, &limits);
        found.open_fds = u32::try_from(fds).map_or(0.0, f64::from);
        found
    }

    fn of(stat: &str, limits: &str) -> Self {
        // The program's name may hold spaces and brackets: what follows begins after the last one.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest)
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        // Counted from the state, which is field 3 of proc(5).
        let field = |number: usize| fields.get(number.saturating_sub(3)).copied().unwrap_or(0.0);
        let ticks =
            f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100));
        let page = f64::from(u32::try_from(rustix::param::page_size()).unwrap_or(4096));
        let max = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let max = max.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self {
            cpu_seconds: (field(14) + field(15)) / ticks,
            memory_bytes: field(24) * page,
            open_fds: 0.0,
            max_fds: max.unwrap_or(0.0),
            threads: field(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_at_their_places() {
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 300 9999 1000 1";
        let limits = "Limit  Soft Limit\nMax open files            1024      524288  files\n";
        let found = Process::of(stat, limits);
        assert!((found.cpu_seconds - 3.0).abs() < 1e-9, "{found:?}");
        assert!((found.memory_bytes - 4_096_000.0).abs() < 1e-9, "{found:?}");
        assert_eq!((found.threads, found.max_fds), (7.0, 1024.0));
        let here = Process::here();
        assert!(here.memory_bytes > 1e6 && here.open_fds > 2.0 && here.threads >= 1.0, "{here:?}");
    }
}
