//! Cancelling long work.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use event_listener::Event;

/// A flag that long work looks at between steps, or waits for. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    raised: AtomicBool,
    event: Event,
}

impl Cancel {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop at its next step.
    pub fn cancel(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        self.0.event.notify(usize::MAX);
    }

    /// Whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::Relaxed)
    }

    /// Waits until the work should stop, without looking again and again. Dropping it is harmless.
    pub async fn cancelled(&self) {
        // A flag that is raised after this is seen.
        let listener = self.0.event.listen();
        if !self.0.raised.load(Ordering::SeqCst) {
            listener.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    #[test]
    fn whoever_waits_is_woken_and_whoever_comes_later_need_not_wait() {
        let cancel = Cancel::new();
        let mut context = Context::from_waker(Waker::noop());
        let (first, second) = (cancel.clone(), cancel.clone());
        let (mut first, mut second) = (pin!(first.cancelled()), pin!(second.cancelled()));
        assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
        assert!(!cancel.is_cancelled());
        cancel.cancel();
        assert!(cancel.is_cancelled());
        assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(()));
        cancel.cancel();
    }

    #[test]
    fn none_is_missed_whenever_the_flag_is_raised() {
        for _ in 0..500 {
            let cancel = Cancel::new();
            let raising = cancel.clone();
            let thread = crate::start_thread("raises", move || raising.cancel());
            let waiting = cancel.cancelled();
            let mut waiting = pin!(waiting);
            let woken = Arc::new(Woken(std::thread::current()));
            let waker = Waker::from(woken);
            let mut context = Context::from_waker(&waker);
            while waiting.as_mut().poll(&mut context).is_pending() {
                std::thread::park();
            }
            thread.join().expect("raises");
        }
    }

    struct Woken(std::thread::Thread);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
}
