//! Serving exports on a socket: connections are accepted, each gets a thread, and all end together.
//!
//! ```text
//!  Server::start ─▶ accepts ─▶ a thread: encrypt? ─▶ Handshake ─▶ Session, until the client goes or the server stops
//! ```
//!
//! It knows sockets and how long a stranger may take to choose an export. It does not know what is exported, nor who
//! may connect: a socket file is protected by its permissions, and TLS by the certificates that its configuration asks
//! for.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::net::sockopt;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use strongroom_base::{Clock, lock, start_thread};

use super::{Encryption, Exports, Handshake, Heard};

/// How many connections there are at once; each has a thread.
pub const CONNECTIONS: usize = 128;
/// How many of them may be those of strangers, who have not chosen an export yet. When more come, the oldest ends.
const STRANGERS: usize = 32;
/// How often, and how long after one another, it is looked whether a place is free.
const LOOKS: usize = 200;
const LOOK: Duration = Duration::from_millis(5);
/// How long a client may take until it has chosen an export. After that a machine may be idle for days.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a connection that could not be accepted the next one is.
const PAUSE: Duration = Duration::from_millis(100);

/// Where clients connect.
pub enum Listener {
    /// A socket file.
    Unix(UnixListener),
    /// An address; with a configuration, connections must be encrypted.
    Tcp(TcpListener, Option<Arc<ServerConfig>>),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(listener) => f.debug_tuple("Unix").field(listener).finish(),
            Self::Tcp(listener, _) => f.debug_tuple("Tcp").field(listener).finish_non_exhaustive(),
        }
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept()?.0)),
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                // A host that is gone without a word is noticed some day.
                sockopt::set_socket_keepalive(&stream, true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }

    fn config(&self) -> Option<Arc<ServerConfig>> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(_, config) => config.clone(),
        }
    }

    /// Makes a waiting accept fail.
    fn close(&self) {
        let fd = match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener, _) => listener.as_fd(),
        };
        // It fails only if it is closed already.
        rustix::net::shutdown(fd, rustix::net::Shutdown::Both).ok();
    }

    /// Its address, if it has one.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener, _) => listener.local_addr().ok(),
        }
    }
}

/// A connection's socket.
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// Limits the time of each read and write.
    fn limit(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
        }
    }

    fn end(&self) {
        // It fails only if the client is gone already.
        match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both).ok(),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both).ok(),
        };
    }
}

/// A socket whose reads and writes end at a moment, until its client is known.
struct Timed {
    socket: Socket,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    is_known: Arc<AtomicBool>,
}

impl Timed {
    /// Limits the next read or write to the time that is left.
    fn limit(&self) -> io::Result<()> {
        if self.is_known.load(Ordering::SeqCst) {
            return Ok(());
        }
        let left = self.deadline.saturating_sub(self.clock.monotonic());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.limit(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        match &mut self.socket {
            Socket::Unix(stream) => stream.read(buf),
            Socket::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.limit()?;
        match &mut self.socket {
            Socket::Unix(stream) => stream.write(buf),
            Socket::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Shared {
    listener: Listener,
    exports: Arc<dyn Exports + Send + Sync>,
    clock: Arc<dyn Clock>,
    connections: Mutex<BTreeMap<u64, Connection>>,
    stopped: AtomicBool,
}

struct Connection {
    socket: Socket,
    /// Whether its client has chosen an export.
    is_known: Arc<AtomicBool>,
    /// Whether its socket was closed.
    has_ended: bool,
    thread: JoinHandle<()>,
}

/// A server of exports. Dropping it ends its connections.
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.shared.listener).finish_non_exhaustive()
    }
}

impl Server {
    /// Begins to serve.
    pub fn start(
        listener: Listener,
        exports: Arc<dyn Exports + Send + Sync>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shared = Arc::new(Shared {
            listener,
            exports,
            clock,
            connections: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let accepts = Arc::clone(&shared);
        let accepting = start_thread("nbd-accept", move || accept(&accepts));
        Self { shared, accepting: Some(accepting) }
    }

    /// The address at which it listens; none for a socket file.
    pub fn address(&self) -> Option<SocketAddr> {
        self.shared.listener.address()
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Ends all connections and waits for the requests that are being carried out.
    pub fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.listener.close();
        if let Some(accepting) = self.accepting.take() {
            // A panic of it ends only the acceptance.
            accepting.join().ok();
        }
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        connections.values().for_each(|connection| connection.socket.end());
        for connection in connections.into_values() {
            connection.thread.join().ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(shared: &Arc<Shared>) {
    let mut next = 0_u64;
    while !shared.stopped.load(Ordering::SeqCst) {
        let socket = match shared.listener.accept() {
            Ok(socket) => socket,
            Err(_) if shared.stopped.load(Ordering::SeqCst) => return,
            Err(error) => {
                tracing::warn!(%error, "an NBD connection cannot be accepted");
                std::thread::park_timeout(PAUSE);
                continue;
            }
        };
        if !has_room(shared) {
            tracing::warn!(limit = CONNECTIONS, "an NBD connection is refused: there are too many");
            continue;
        }
        next = next.wrapping_add(1);
        begin(shared, next, socket);
    }
}

/// Makes room for a new stranger, who may be a client with every right, at the cost of the oldest one.
fn has_room(shared: &Shared) -> bool {
    for _ in 0..LOOKS {
        let mut open = lock(&shared.connections);
        let is_stranger = |it: &Connection| !it.has_ended && !it.is_known.load(Ordering::SeqCst);
        let strangers = open.values().filter(|it| is_stranger(it)).count();
        if strangers >= STRANGERS
            && let Some(oldest) = open.values_mut().find(|it| is_stranger(it))
        {
            oldest.has_ended = true;
            oldest.socket.end();
        }
        if open.len() < CONNECTIONS {
            return true;
        }
        if open.values().all(|it| !it.has_ended) {
            return false;
        }
        // Those whose socket was closed are about to end.
        drop(open);
        std::thread::park_timeout(LOOK);
    }
    false
}

fn begin(shared: &Arc<Shared>, id: u64, socket: Socket) {
    let own = match socket.try_clone() {
        Ok(own) => own,
        Err(error) => {
            tracing::warn!(%error, "an NBD connection cannot be served");
            return;
        }
    };
    let is_known = Arc::new(AtomicBool::new(false));
    let deadline = shared.clock.monotonic().saturating_add(PATIENCE);
    let clock = Arc::clone(&shared.clock);
    let own = Timed { socket: own, clock, deadline, is_known: Arc::clone(&is_known) };
    // The lock is held until the thread is noted, so that it cannot end before.
    let mut open = lock(&shared.connections);
    let serves = Arc::clone(shared);
    let thread = start_thread("nbd-connection", move || {
        if let Err(error) = converse(&serves, own) {
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            if !is_end && !serves.stopped.load(Ordering::SeqCst) {
                tracing::warn!(%error, "an NBD connection broke off");
            }
        }
        lock(&serves.connections).remove(&id);
    });
    open.insert(id, Connection { socket, is_known, has_ended: false, thread });
}

/// A conversation from its beginning to its end.
fn converse(shared: &Shared, socket: Timed) -> io::Result<()> {
    let known = Known { socket: socket.socket.try_clone()?, flag: Arc::clone(&socket.is_known) };
    let config = shared.listener.config();
    let encryption = if config.is_some() { Encryption::Required } else { Encryption::None };
    match Handshake::start(socket, encryption)?.hear(&*shared.exports)? {
        Heard::Chosen(mut session) => {
            known.set()?;
            session.serve()
        }
        Heard::Encrypt(socket) => {
            let Some(config) = config else { return Ok(()) };
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, socket);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            match Handshake::resume(stream).hear(&*shared.exports)? {
                Heard::Chosen(mut session) => {
                    known.set()?;
                    session.serve()
                }
                Heard::Encrypt(_) | Heard::Ended => Ok(()),
            }
        }
        Heard::Ended => Ok(()),
    }
}

/// Notes that a client is no stranger any more.
struct Known {
    socket: Socket,
    flag: Arc<AtomicBool>,
}

impl Known {
    fn set(&self) -> io::Result<()> {
        self.flag.store(true, Ordering::SeqCst);
        self.socket.limit(None)
    }
}
