//! How many files the process may have open: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that the process asks for. The service of systemd has as many.
const WANTED: u64 = 1 << 16;

/// Raises the limit of open files to what a server needs, as far as the system allows, and returns the limit.
pub(crate) fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(WANTED).min(WANTED);
    let current = current.unwrap_or(u64::MAX);
    if current >= wanted {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, current, "the limit of open files cannot be raised");
            current
        }
    }
}

/// The connections that there may be with this limit of open files. A quarter stays for everything else.
pub(crate) fn connections_within(connections: usize, files: u64) -> usize {
    let share = files.saturating_sub(files.div_ceil(4));
    usize::try_from(share).unwrap_or(usize::MAX).min(connections).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_a_quarter_of_the_open_files() {
        assert_eq!(connections_within(1024, 65_536), 1024);
        assert_eq!(connections_within(16_384, 1024), 768);
        assert_eq!(connections_within(16_384, u64::MAX), 16_384);
        assert_eq!(connections_within(16, 0), 1);
    }

    #[test]
    fn the_limit_is_raised_as_far_as_the_system_allows() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit { current: Some(512), ..before };
        setrlimit(Resource::Nofile, low).expect("a lower limit");
        let wanted = before.maximum.unwrap_or(WANTED).min(WANTED);
        assert_eq!(raise_open_files(), wanted);
        assert_eq!(getrlimit(Resource::Nofile).current, Some(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before })
            .expect("as it was");
        assert_eq!(raise_open_files(), before.maximum.unwrap_or(u64::MAX), "it is never lowered");
    }
}
