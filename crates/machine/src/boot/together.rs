//! Machines that run together: each stays until all have come as far as they go.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A group of machines. Each of its verifications has one.
#[derive(Clone, Debug)]
pub struct Together(Arc<AtomicUsize>);

impl Together {
    /// A group of this number of machines.
    pub fn of(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    /// Whether no machine is on its way any more.
    pub(super) fn is_complete(&self) -> bool {
        self.left() == 0
    }

    /// How many machines have not come as far as they go, those that were not started among them.
    pub(crate) fn left(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// A machine of the group is on its way until this is dropped.
    pub(super) fn on_its_way(&self) -> OnItsWay {
        OnItsWay(Arc::clone(&self.0))
    }
}

/// A machine that has not come as far as it goes yet.
#[derive(Debug)]
pub(super) struct OnItsWay(Arc<AtomicUsize>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_complete_when_the_last_has_arrived() {
        let group = Together::of(2);
        let (first, second) = (group.on_its_way(), group.clone().on_its_way());
        assert!(!group.is_complete());
        drop(first);
        assert!(!group.is_complete());
        drop(second);
        assert!(group.is_complete());
    }
}
