//! A server that is far away: what goes to it and comes back is held for half a round trip each way.
//!
//! ```text
//!  client ─▶ Distance ──(held)──▶ server
//!         ◀─(held)──────────────
//! ```
//!
//! It knows nothing of HTTP but that one exchange follows the other on a connection, and counts
//! exchanges, connections, and how many exchanges had to follow one another. A new connection costs a round trip
//! before its first byte, as over a real distance. How much a connection may carry is not bounded, and
//! it does not begin slowly.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use strongroom_base::lock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::mpsc,
};

use crate::{Failure, Outcome};

/// Bytes that are carried at once.
const CHUNK: usize = 64 * 1024;

/// Chunks on their way, at most: 64 MiB.
const ON_THE_WAY: usize = 1024;

/// What went over the distance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Requests that were answered.
    pub requests: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// The longest chain of requests of which each began after the one before was answered.
    pub dependent: u64,
}

/// One request and its answer.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    began: Instant,
    ended: Option<Instant>,
}

#[derive(Debug, Default)]
struct Log {
    exchanges: Vec<Exchange>,
    connections: u64,
}

type SharedLog = Arc<Mutex<Log>>;

/// A server, moved away.
#[derive(Debug)]
pub struct Distance {
    address: SocketAddr,
    log: SharedLog,
    /// Ends the connections when it is dropped.
    _runtime: Runtime,
}

impl Distance {
    /// Moves a server so far away that a round trip takes this long.
    pub fn to(server: SocketAddr, round_trip: Duration) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let log = SharedLog::default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let carried = Arc::clone(&log);
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((client, _)) = listener.accept().await {
                lock(&carried).connections += 1;
                tokio::spawn(carry(client, server, round_trip, Arc::clone(&carried)));
            }
        });
        Ok(Self { address, log, _runtime: runtime })
    }

    /// Where it is now.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went over the distance since this was asked last.
    pub fn take(&self) -> Counts {
        let log = std::mem::take(&mut *lock(&self.log));
        let mut spans: Vec<_> =
            log.exchanges.iter().filter_map(|one| Some((one.began, one.ended?))).collect();
        Counts {
            requests: u64::try_from(spans.len()).unwrap_or(u64::MAX),
            connections: log.connections,
            dependent: longest_chain(&mut spans),
        }
    }
}

/// How many of some spans of time had to follow one another at least, if each waited for all that had
/// ended before it began.
fn longest_chain(spans: &mut [(Instant, Instant)]) -> u64 {
    spans.sort_unstable();
    let mut running: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let (mut behind, mut longest) = (0, 0);
    for &(began, ended) in &*spans {
        while let Some(Reverse((end, depth))) = running.peek().copied() {
            if end > began {
                break;
            }
            behind = depth.max(behind);
            running.pop();
        }
        let depth = behind + 1;
        longest = longest.max(depth);
        running.push(Reverse((ended, depth)));
    }
    longest
}

/// What is on its way, and when it arrives.
type Held = (tokio::time::Instant, Vec<u8>);

async fn carry(client: TcpStream, server: SocketAddr, round_trip: Duration, log: SharedLog) {
    let opened = Instant::now();
    let Ok(server) = TcpStream::connect(server).await else { return };
    if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, up_held) = mpsc::channel(ON_THE_WAY);
    let (down, down_held) = mpsc::channel(ON_THE_WAY);
    // The number of the exchange in the log, and whether its answer has begun to arrive.
    let current = Arc::new(Mutex::new(None::<(usize, bool)>));
    let half = round_trip / 2;
    let asked = {
        let (current, log) = (Arc::clone(&current), Arc::clone(&log));
        move |first: bool| {
            let mut current = lock(&current);
            if current.is_none_or(|(_, answered)| answered) {
                let began = if first { opened } else { Instant::now() };
                let mut log = lock(&log);
                *current = Some((log.exchanges.len(), false));
                log.exchanges.push(Exchange { began, ended: None });
            }
        }
    };
    let answered = move || {
        let mut current = lock(&current);
        if let Some((number, answered)) = &mut *current {
            *answered = true;
            // It may have been taken out of the log meanwhile.
            if let Some(exchange) = lock(&log).exchanges.get_mut(*number) {
                exchange.ended = Some(Instant::now());
            }
        }
    };
    tokio::join!(
        // The handshake first.
        hold(from_client, up, half, opened + round_trip, asked),
        deliver(up_held, to_server, || {}),
        hold(from_server, down, half, opened, |_| {}),
        deliver(down_held, to_client, answered),
    );
}

async fn hold(
    mut from: OwnedReadHalf,
    held: mpsc::Sender<Held>,
    time: Duration,
    not_before: Instant,
    mut seen: impl FnMut(bool),
) {
    let mut buffer = vec![0; CHUNK];
    let mut first = true;
    while let Ok(length) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else { return };
        seen(first);
        first = false;
        let due = Instant::now().max(not_before) + time;
        if held.send((due.into(), bytes.to_vec())).await.is_err() {
            return;
        }
    }
}

async fn deliver(mut held: mpsc::Receiver<Held>, mut to: OwnedWriteHalf, mut done: impl FnMut()) {
    while let Some((due, bytes)) = held.recv().await {
        tokio::time::sleep_until(due).await;
        // Before whoever waits for it can ask what was counted.
        done();
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}

/// The address that an `http://` URL names.
pub fn address_of(url: &str) -> Outcome<SocketAddr> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let host = rest.split('/').next().unwrap_or_default();
    host.parse().map_err(|error| Failure::new(format!("{url}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net, thread,
    };

    use super::*;

    /// A server that answers each byte with ten.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() {
                        stream.write_all(&[byte[0]; 10]).unwrap();
                    }
                });
            }
        });
        address
    }

    fn ask(stream: &mut net::TcpStream) {
        stream.write_all(b"x").unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"xxxxxxxxxx");
    }

    #[test]
    fn a_round_trip_takes_its_time_and_is_counted() {
        let round_trip = Duration::from_millis(40);
        let far = Distance::to(server(), round_trip).unwrap();
        let begun = Instant::now();
        let mut stream = net::TcpStream::connect(far.address()).unwrap();
        ask(&mut stream);
        assert!(begun.elapsed() >= round_trip * 2, "a handshake and an exchange");
        let begun = Instant::now();
        ask(&mut stream);
        assert!(begun.elapsed() >= round_trip);
        assert_eq!(far.take(), Counts { requests: 2, connections: 1, dependent: 2 });
        assert_eq!(far.take(), Counts::default());
    }

    #[test]
    fn what_runs_at_once_is_no_chain() {
        let at = |ms: u64| begun() + Duration::from_millis(ms);
        let chain = |spans: &[(u64, u64)]| {
            let mut spans: Vec<_> = spans.iter().map(|(a, b)| (at(*a), at(*b))).collect();
            longest_chain(&mut spans)
        };
        assert_eq!(chain(&[]), 0);
        assert_eq!(chain(&[(0, 10), (1, 11), (2, 9)]), 1);
        assert_eq!(chain(&[(0, 10), (10, 20), (5, 30), (31, 40)]), 3);
        assert_eq!(chain(&[(0, 100), (1, 5), (6, 9), (10, 12)]), 3);
    }

    fn begun() -> Instant {
        static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *BEGUN.get_or_init(Instant::now)
    }
}
