//! Threads that have a name, and what they share.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
};

/// Locks what threads share.
///
/// Poison is passed over. A thread that panics ends its job, which is said where the thread is joined; what others
/// have under the same lock (counters, caches, lists of failures) is changed in single steps, so that it is whole at
/// every moment. Where a change of several steps must be seen whole or not at all, it is made beside the lock and
/// put in at once.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
