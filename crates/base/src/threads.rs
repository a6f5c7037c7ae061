//! Threads that have a name.

use std::thread::{Builder, JoinHandle};

/// Starts a thread. The system shows the first 15 bytes of its name.
///
/// The one place that starts threads which outlive their function, so that it can be seen where they are;
/// those of [`std::thread::scope`] end with it.
#[allow(clippy::expect_used, reason = "without threads no work is possible")]
#[allow(clippy::disallowed_methods, reason = "the one place that starts threads")]
pub fn start_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    Builder::new().name(name.to_owned()).spawn(work).expect("the system has no thread left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name() {
        let name = start_thread("counts", || std::thread::current().name().map(str::to_owned));
        assert_eq!(name.join().expect("ends").as_deref(), Some("counts"));
    }
}
