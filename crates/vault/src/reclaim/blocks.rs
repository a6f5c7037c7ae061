//! The blocks that a walk over recovery points comes upon, collected until many can be looked up in
//! order.

use strongroom_base::Digest;
use strongroom_image::Visitor;

use super::mark::Marks;
use crate::{VaultError, error::Result};

/// Digests that are looked up at once, over all threads: more of them are looked up faster, and take
/// 32 bytes each.
const AT_ONCE: usize = 1 << 20;

/// Blocks that one walker has come upon and not marked yet, parted by digest: a part for each thread
/// that looks them up.
pub(super) struct Blocks<'m, 'v> {
    marks: &'m Marks<'v>,
    parts: Vec<Vec<Digest>>,
    waiting: usize,
    at_once: usize,
}

impl<'m, 'v> Blocks<'m, 'v> {
    /// For one of this number of walkers, of which each has its share of the threads.
    pub(super) fn new(marks: &'m Marks<'v>, walkers: usize, threads: usize) -> Self {
        let share = |of: usize| of.checked_div(walkers).unwrap_or(of).max(1);
        let parts = vec![Vec::new(); share(threads)];
        Self { marks, parts, waiting: 0, at_once: share(AT_ONCE) }
    }

    /// Marks what is waiting.
    pub(super) fn mark_all(&mut self) -> Result<()> {
        self.waiting = 0;
        let marks = self.marks;
        let Some((first, others)) = self.parts.split_first_mut() else { return Ok(()) };
        let result = std::thread::scope(|scope| {
            let others: Vec<_> =
                others.iter_mut().map(|part| scope.spawn(|| marks.mark_blocks(part))).collect();
            let mut result = marks.mark_blocks(first);
            for other in others {
                let panicked = Err(VaultError::Bug("a thread of the reclaim panicked"));
                result = result.and(other.join().unwrap_or(panicked));
            }
            result
        });
        self.parts.iter_mut().for_each(Vec::clear);
        result
    }
}

impl Visitor<VaultError> for Blocks<'_, '_> {
    fn enter_node(&mut self, node: Digest) -> Result<bool> {
        self.marks.mark(&node)
    }

    fn block(&mut self, block: Digest) -> Result<()> {
        let parts = u128::try_from(self.parts.len()).unwrap_or(1);
        let part = u128::from(block.prefix()).saturating_mul(parts) >> 64;
        if let Some(part) = self.parts.get_mut(usize::try_from(part).unwrap_or(0)) {
            part.push(block);
        }
        self.waiting = self.waiting.saturating_add(1);
        if self.waiting < self.at_once { Ok(()) } else { self.mark_all() }
    }
}
