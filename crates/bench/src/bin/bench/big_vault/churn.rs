//! What changes on the disk from point to point.
//!
//! - *New content* goes to one stretch that is written anew each time: a nightly dump, a ring of logs. So
//!   the data packs of a point are needed by it alone, and deleting it makes them free as a whole.
//! - *Content that the vault has* goes to twelve busy stretches, six of which stay where they are (a
//!   database, mailboxes) and six of which are elsewhere each time (files that are copied or replaced). In
//!   each of them runs of 1 to 16 MiB leave a tenth of the blocks as they were. 3 % are scattered in runs
//!   of 1 to 16 MiB over the whole disk.
//!
//! Runs as long as these are kind: scattered single blocks would each cost a tree node of 8 KiB. How many
//! nodes came of it is printed.

use std::ops::Range;

use strongroom_bench::rng::Rng;

use super::scale::Scale;

const STRETCHES: u64 = 12;
/// Blocks of a run.
const RUN: Range<u64> = 16..257;

/// The content of every block of the disk at one point, as a number for each content.
pub(crate) struct Disk {
    scale: Scale,
    rng: Rng,
    content: Vec<u32>,
    /// The point at which a block changed last.
    changed_at: Vec<u16>,
    point: u16,
    fixed: Vec<u64>,
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Disk {
    /// The disk as the first point has it.
    pub(crate) fn new(scale: &Scale) -> Self {
        let mut rng = Rng::new(7);
        Self {
            content: (0..u32::try_from(scale.blocks).unwrap_or(u32::MAX)).collect(),
            changed_at: vec![0; index(scale.blocks)],
            point: 0,
            fixed: (0..STRETCHES / 2).map(|_| rng.below(scale.blocks)).collect(),
            scale: scale.clone(),
            rng,
        }
    }

    /// The contents of a leaf's blocks.
    pub(crate) fn leaf(&self, leaf: u64) -> &[u32] {
        let start = index(leaf * 256).min(self.content.len());
        let end = index(leaf * 256 + 256).min(self.content.len());
        self.content.get(start..end).unwrap_or_default()
    }

    /// The contents that a point brings.
    pub(crate) fn fresh(scale: &Scale, point: u64) -> Range<u32> {
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        match point.checked_sub(1) {
            None => 0..number(scale.blocks),
            Some(before) => {
                let first = scale.blocks + before * scale.fresh;
                number(first)..number(first + scale.fresh)
            }
        }
    }

    /// Goes to the next point; the leaves that changed, ascending.
    pub(crate) fn next(&mut self) -> Vec<u64> {
        self.point += 1;
        let (blocks, fresh) = (self.scale.blocks, self.scale.fresh);
        let first = (blocks - fresh) / 3;
        for (at, content) in (first..).zip(Self::fresh(&self.scale, self.point.into())) {
            self.set(at, content);
        }
        let mut left = self.scale.changed - fresh;
        let scattered = left * 3 / 100;
        let stretch = (left - scattered) / STRETCHES;
        let mut starts = self.fixed.clone();
        starts.extend((0..STRETCHES / 2).map(|_| self.rng.below(blocks)));
        for start in starts {
            left -= self.fill(start, stretch * 10 / 9 + 1, stretch);
        }
        self.fill(0, blocks, left);
        self.changed_leaves()
    }

    /// Changes so many blocks of a stretch, if it has as many that have not changed yet; how many
    /// it were.
    fn fill(&mut self, start: u64, len: u64, count: u64) -> u64 {
        let blocks = self.scale.blocks;
        let mut done = 0;
        // Where stretches lie upon each other there may be nothing left to change.
        for _ in 0..1000 + len {
            if done == count {
                break;
            }
            let (mut at, mut run) = (self.rng.below(len), self.rng.between(RUN.start, RUN.end));
            let mut content = self.rng.below(blocks);
            while run > 0 && at < len && done < count {
                let block = (start + at) % blocks;
                let known = u32::try_from(content % blocks).unwrap_or(0);
                done += u64::from(self.set(block, known));
                (at, run, content) = (at + 1, run - 1, content + 1);
            }
        }
        done
    }

    /// Changes a block that has not changed yet at this point.
    fn set(&mut self, block: u64, content: u32) -> bool {
        let block = index(block);
        match (self.content.get_mut(block), self.changed_at.get_mut(block)) {
            (Some(old), Some(at)) if *at != self.point => {
                *at = self.point;
                let changes = *old != content;
                *old = content;
                changes
            }
            _ => false,
        }
    }

    fn changed_leaves(&self) -> Vec<u64> {
        let leaves = (0_u64..).zip(self.changed_at.chunks(256));
        leaves.filter(|(_, leaf)| leaf.contains(&self.point)).map(|(number, _)| number).collect()
    }
}
