//! Which orders are at work: one that is given again meanwhile waits for the first, and then finds what that
//! has left.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use strongroom_api::ErrorBody;
use strongroom_base::{Cancel, codes, lock};
use strongroom_orders::{OrderId, Result};

/// How often a waiting call checks whether to continue.
const LOOK: Duration = Duration::from_millis(100);

/// The orders that are at work.
#[derive(Debug, Default)]
pub(super) struct AtWork {
    orders: Mutex<BTreeSet<OrderId>>,
    ended: Condvar,
}

/// An order's turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    of: &'a AtWork,
    order: OrderId,
}

impl AtWork {
    fn orders(&self) -> MutexGuard<'_, BTreeSet<OrderId>> {
        lock(&self.orders)
    }

    /// The turn of an order, once no other of its id is at work.
    pub(super) fn begin(&self, order: OrderId, cancel: &Cancel) -> Result<Turn<'_>> {
        let mut orders = self.orders();
        while !orders.insert(order.clone()) {
            if cancel.is_cancelled() {
                let message = "it was stopped while the same order was at work";
                return Err(Box::new(ErrorBody::new(&codes::INTERRUPTED, message)));
            }
            let waited = self.ended.wait_timeout(orders, LOOK);
            orders = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(Turn { of: self, order })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.orders().remove(&self.order);
        self.of.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::JobId;

    use super::*;

    #[test]
    fn the_same_order_waits_and_another_does_not() {
        let at_work = AtWork::default();
        let id = |step| OrderId::of_job(JobId::from_bytes([1; 16]), step);
        let cancel = Cancel::new();
        let first = at_work.begin(id("backup"), &cancel).expect("its turn");
        drop(at_work.begin(id("restore"), &cancel).expect("another"));
        std::thread::scope(|scope| {
            let again = scope.spawn(|| at_work.begin(id("backup"), &cancel).map(drop));
            drop(first);
            again.join().expect("ends").expect("its turn");
        });
        let _first = at_work.begin(id("backup"), &cancel).expect("its turn");
        cancel.cancel();
        let stopped = at_work.begin(id("backup"), &cancel).expect_err("stopped");
        assert_eq!(stopped.code, codes::INTERRUPTED);
    }
}
