//! Reads ahead: who reads a disk in order finds the next blocks in memory.
//!
//! Streams are distinguished by where they are: each connection of `nbdcopy` reads a part of the disk of its own, and so
//! does each program in a guest. A read that continues where one of the last streams has ended lets the stream's window
//! grow; any other read begins a stream, for which nothing is read ahead until it is continued.

use std::{ops::Range, sync::OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use strongroom_base::start_thread;

/// Threads that read ahead: a store behind a network keeps them waiting most of the time.
const WORKERS: usize = 4;
/// Pieces of work that wait at most; what comes on top is not read ahead.
const QUEUE: usize = 64;
/// Streams that are followed on a disk.
const STREAMS: usize = 16;
/// How many blocks away from its end a read still continues a stream: clients send several requests at once,
/// which arrive in another order.
const SLACK: u64 = 16;
/// Blocks of the first window.
const FIRST: u64 = 16;
/// Blocks of a piece of work.
pub(crate) const PIECE: u64 = 16;

/// Something that the threads of a cache do.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// Threads that read ahead. They start with the first work, and end when the cache is dropped.
#[derive(Default)]
pub(crate) struct Pool(OnceLock<Sender<Work>>);

impl Pool {
    fn sender(&self) -> &Sender<Work> {
        self.0.get_or_init(|| {
            let (sender, work) = bounded::<Work>(QUEUE);
            for _ in 0..WORKERS {
                let work: Receiver<Work> = work.clone();
                start_thread("read-ahead", move || work.into_iter().for_each(|work| work()));
            }
            sender
        })
    }

    /// Gives the threads something to do, unless they have much to do already.
    pub(crate) fn offer(&self, work: Work) -> bool {
        self.sender().try_send(work).is_ok()
    }

    /// Gives the threads something to do, as soon as they take it.
    pub(crate) fn give(&self, work: Work) {
        // They live as long as the sender.
        self.sender().send(work).ok();
    }
}

/// The streams of a disk.
#[derive(Debug)]
pub(crate) struct Streams {
    list: Vec<Stream>,
    now: u64,
    /// Blocks of the largest window.
    most: u64,
}

#[derive(Debug)]
struct Stream {
    /// The block after the last one that was read.
    end: u64,
    /// Up to where blocks are read ahead.
    ahead: u64,
    window: u64,
    used: u64,
}

impl Streams {
    pub(crate) fn new(most: u64) -> Self {
        Self { list: Vec::new(), now: 0, most }
    }

    /// Notes that blocks are read, and says which to read ahead now.
    pub(crate) fn read(&mut self, blocks: &Range<u64>) -> Option<Range<u64>> {
        self.now = self.now.wrapping_add(1);
        let continues = |stream: &Stream| {
            blocks.start <= stream.end.saturating_add(SLACK)
                && blocks.end.saturating_add(SLACK) >= stream.end
        };
        let Some(stream) = self.list.iter_mut().find(|stream| continues(stream)) else {
            self.begin(blocks.end);
            return None;
        };
        stream.used = self.now;
        if blocks.end <= stream.end {
            return None;
        }
        stream.end = blocks.end;
        let from = stream.ahead.max(stream.end);
        let left = from.saturating_sub(stream.end);
        // Large pieces, before the last one is used up.
        if left > stream.window / 2 {
            return None;
        }
        stream.window = stream.window.saturating_mul(2).clamp(FIRST, self.most.max(FIRST));
        stream.ahead = stream.end.saturating_add(stream.window);
        Some(from..stream.ahead)
    }

    /// Begins a stream, in place of the one that was not continued for the longest time.
    fn begin(&mut self, end: u64) {
        let stream = Stream { end, ahead: end, window: 0, used: self.now };
        if self.list.len() < STREAMS {
            self.list.push(stream);
        } else if let Some(oldest) = self.list.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
    }
}

/// Cuts blocks into pieces of work, at multiples of [`PIECE`].
pub(crate) fn pieces(blocks: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut start = blocks.start;
    std::iter::from_fn(move || {
        if start >= blocks.end {
            return None;
        }
        let end = (start / PIECE).saturating_add(1).saturating_mul(PIECE).min(blocks.end);
        let piece = start..end;
        start = end;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_in_order_is_read_ahead_of_once() {
        let mut streams = Streams::new(64);
        let mut ahead = 0;
        for block in 0..10_000 {
            if let Some(range) = streams.read(&(block..block + 1)) {
                assert_eq!(range.start, ahead.max(block + 1), "nothing twice, nothing left out");
                assert!(range.end <= block + 1 + 64);
                ahead = range.end;
            }
            assert!(block < 2 || ahead > block + 1, "{block} waits");
        }
    }

    #[test]
    fn streams_beside_each_other_are_distinguished() {
        let mut streams = Streams::new(64);
        let mut ahead = [0_u64; 8];
        for step in 0..1000_u64 {
            for (stream, ahead) in (0..).zip(&mut ahead) {
                let block = stream * 100_000 + step;
                if let Some(range) = streams.read(&(block..block + 1)) {
                    *ahead = range.end;
                }
            }
        }
        for (stream, ahead) in (0..).zip(ahead) {
            assert!(ahead > stream * 100_000 + 1000, "{stream} is not followed");
        }
    }

    #[test]
    fn random_reads_read_nothing_ahead() {
        let mut streams = Streams::new(64);
        let mut random = strongroom_base::SplitMix64::new(1);
        let ahead = (0..10_000).filter(|_| {
            let block = random.below(10_000_000);
            streams.read(&(block..block + 1)).is_some()
        });
        assert!(ahead.count() < 10);
    }

    #[test]
    fn pieces_cover_a_range() {
        assert_eq!(pieces(5..40).collect::<Vec<_>>(), [5..16, 16..32, 32..40]);
        assert_eq!(pieces(7..7).count(), 0);
    }
}
