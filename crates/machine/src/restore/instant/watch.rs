//! Resumes a machine that QEMU has stopped because its disks could not be read or written.
//!
//! It happens while the export is away, when the store does not answer, and when there is no room for an overlay. QEMU
//! tries the guest's requests again when the machine is resumed: the guest sees no error.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use strongroom_base::start_thread;
use strongroom_hypervisor::{Connection, Domain};

use crate::error::Result;

/// How often it is looked; and how long after it was resumed at most, when that did not help.
const LOOK: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);

/// Looks after one machine until it is stopped.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    has_ended: AtomicBool,
    resumed: AtomicU64,
}

impl Watch {
    /// Begins to look.
    pub(crate) fn start(connection: &Connection, domain: &Domain) -> Result<Self> {
        let (connection, domain) = (connection.again()?, domain.clone());
        let shared = Arc::<Shared>::default();
        let its = Arc::clone(&shared);
        let thread = start_thread("restore-watch", move || watch(&its, &connection, &domain));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Ends it. How often the machine was resumed.
    pub(crate) fn stop(mut self) -> u64 {
        self.end();
        self.shared.resumed.load(Ordering::SeqCst)
    }

    fn end(&mut self) {
        self.shared.has_ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of it ends only the looking.
            thread.join().ok();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

fn watch(shared: &Shared, connection: &Connection, domain: &Domain) {
    let mut pause = LOOK;
    while !shared.has_ended.load(Ordering::SeqCst) {
        match connection.is_halted_by_an_error(domain) {
            Ok(true) => {
                tracing::warn!(
                    machine = domain.name,
                    "stopped because a disk could not be read or written; it is resumed"
                );
                if let Err(error) = connection.resume(domain) {
                    tracing::debug!(%error, "not resumed");
                }
                shared.resumed.fetch_add(1, Ordering::SeqCst);
                pause = pause.saturating_mul(2).min(LONGEST);
            }
            Ok(false) => pause = LOOK,
            // The daemon may be being restarted.
            Err(error) => tracing::debug!(%error, "not known whether the machine has stopped"),
        }
        std::thread::park_timeout(pause);
    }
}
