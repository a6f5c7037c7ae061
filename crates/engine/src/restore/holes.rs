//! Blocks that must be made zero.

use super::job::Job;
use crate::error::Result;

/// Joins neighbouring blocks that must be made zero.
pub(super) struct Holes<'a> {
    job: &'a Job<'a>,
    run: Option<(u64, u64)>,
}

impl<'a> Holes<'a> {
    pub(super) fn new(job: &'a Job<'a>) -> Self {
        Self { job, run: None }
    }

    pub(super) fn add(&mut self, block: u64) -> Result<()> {
        if let Some((start, len)) = &mut self.run {
            if start.saturating_add(*len) == block {
                *len = len.saturating_add(1);
                return Ok(());
            }
            self.close()?;
        }
        self.run = Some((block, 1));
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<()> {
        match self.run.take() {
            Some((start, len)) => self.job.clear(start, len),
            None => Ok(()),
        }
    }
}
