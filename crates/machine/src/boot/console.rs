//! What a machine writes on its console: read from the socket at which QEMU listens, as much of it as is worth keeping.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use strongroom_base::{lock, start_thread};

/// Bytes that are kept of the begin and of the end of it.
const HEAD_MAX: usize = 256 << 10;
const TAIL_MAX: usize = 256 << 10;
const GAP: &[u8] = b"\n[the middle is left out]\n";

/// A console that is being read.
pub(super) struct Console {
    kept: Arc<Mutex<Kept>>,
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let room = HEAD_MAX.saturating_sub(self.head.len()).min(bytes.len());
        let (head, tail) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        self.tail.extend(tail);
        let over = self.tail.len().saturating_sub(TAIL_MAX);
        self.tail.drain(..over);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = self.head.clone();
        let whole = self.head.len().saturating_add(self.tail.len());
        if u64::try_from(whole).unwrap_or(u64::MAX) < self.total {
            all.extend_from_slice(GAP);
        }
        all.extend(&self.tail);
        all
    }
}

impl Console {
    /// Reads at this socket until it is stopped or QEMU ends.
    pub(super) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut from = stream.try_clone()?;
        let kept = Arc::<Mutex<Kept>>::default();
        let its = Arc::clone(&kept);
        let thread = start_thread("boot-console", move || {
            let mut buffer = [0; 4096];
            // QEMU ends in many ways; whatever it wrote before counts.
            while let Ok(count) = from.read(&mut buffer)
                && count > 0
            {
                lock(&its).take(buffer.get(..count).unwrap_or_default());
            }
        });
        Ok(Self { kept, stream, thread: Some(thread) })
    }

    /// What is kept so far.
    pub(super) fn bytes(&self) -> Vec<u8> {
        lock(&self.kept).bytes()
    }

    /// Bytes that were written in all.
    pub(super) fn total(&self) -> u64 {
        lock(&self.kept).total
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have ended already.
        self.stream.shutdown(Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_begin_and_the_end_are_kept_however_much_is_written() {
        let mut kept = Kept::default();
        kept.take(b"begin");
        assert_eq!(kept.bytes(), b"begin");
        for number in 0..100_000_u32 {
            kept.take(format!("line {number}\n").as_bytes());
        }
        kept.take(b"end");
        let bytes = kept.bytes();
        assert!(bytes.len() <= HEAD_MAX + TAIL_MAX + GAP.len());
        assert!(bytes.starts_with(b"beginline 0\n") && bytes.ends_with(b"line 99999\nend"));
        assert!(bytes.windows(GAP.len()).any(|part| part == GAP));
        let lines: usize = (0..100_000).map(|number| format!("line {number}\n").len()).sum();
        assert_eq!(kept.total, u64::try_from(lines + 8).expect("small"));
    }
}
