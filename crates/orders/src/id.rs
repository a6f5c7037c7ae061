//! Which order it is.

use std::fmt;

use serde::{Deserialize, Serialize};
use strongroom_base::{Clock, Entropy, JobId};

/// Which order it is.
///
/// An order that is given again, because a line was cut or the service died, bears the id of the first
/// time. Two orders that ask for the same thing twice have two ids.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(String);

impl OrderId {
    /// What a job orders as its step of this name: the same at every try of the job.
    pub fn of_job(job: JobId, step: impl fmt::Display) -> Self {
        Self(format!("{job}/{step}"))
    }

    /// An order of no job, which is given once.
    pub fn once(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
        Self(JobId::generate(clock, entropy).to_string())
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::{SystemClock, SystemEntropy};

    use super::*;

    #[test]
    fn a_step_of_a_job_has_one_id_and_no_other_has_it() {
        let (job, other) = (JobId::from_bytes([1; 16]), JobId::from_bytes([2; 16]));
        let id = OrderId::of_job(job, "backup");
        assert_eq!(id, OrderId::of_job(job, "backup"));
        assert_ne!(id, OrderId::of_job(job, "restore"));
        assert_ne!(id, OrderId::of_job(other, "backup"));
        let once = || OrderId::once(&SystemClock, &SystemEntropy);
        assert_ne!(once(), once());
    }
}
