//! Connections: accepted, encrypted, bounded, and ended in order.
//!
//! A connection without a request for a while ends, also if it answers pings. Who has not shown a good
//! token is a stranger: their connections last a minute at most, and have some of the places only;
//! when those are taken, or too many of one address, the oldest of them makes room for the next.
//! So strangers cannot keep out who has a token.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use strongroom_base::lock;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response},
};
use http_body_util::BodyExt as _;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::{
    HttpError, Proxies,
    files::{connections_within, raise_open_files},
};

/// How long requests may take that are at work when the server stops.
const ENDING: Duration = Duration::from_secs(30);

/// How long the server is patient with connections.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// With one that does not greet, sends no whole head of a request, or has none at work.
    pub idle: Duration,
    /// With one of a stranger.
    pub stranger: Duration,
}

impl Patience {
    /// As every face is.
    pub const USUAL: Self =
        Self { idle: Duration::from_secs(15), stranger: Duration::from_mins(1) };
}

/// How connections are served.
#[derive(Clone)]
pub struct Serving {
    /// What answers.
    pub router: Router,
    /// How they are encrypted; none: not at all.
    pub encryption: Option<Arc<ServerConfig>>,
    /// How many there are at once at most; fewer where the system allows too few open files.
    pub connections: usize,
    /// How long they may do nothing.
    pub patience: Patience,
    /// Whose connections are those of many callers.
    pub proxies: Proxies,
}

/// Who is at the other end of a connection, for the requests that come over it.
#[derive(Clone, Debug)]
pub struct Guest {
    address: IpAddr,
    known: Arc<AtomicBool>,
    place: Arc<Place>,
}

impl Guest {
    /// The address of the client that sent a request over it.
    pub fn origin(&self, headers: &HeaderMap) -> IpAddr {
        self.place.places.proxies.origin(self.address, headers)
    }

    /// It has shown a good token.
    pub fn mark_known(&self) {
        if !self.known.swap(true, Ordering::Relaxed) {
            self.place.places.state().strangers.remove(&self.place.number);
        }
    }
}

/// Places for connections.
#[derive(Debug)]
struct Places {
    /// All of them.
    all: usize,
    /// Those that strangers can have.
    of_strangers: usize,
    /// Those that strangers of one address can have.
    of_one: usize,
    /// Whose connections are those of many callers.
    proxies: Proxies,
    state: Mutex<State>,
    /// Notified when one is free.
    free: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    taken: usize,
    /// By number, so the oldest first: the address, and how one is asked to go.
    strangers: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
}

impl State {
    /// Tells the oldest stranger to go, of an address if one is given; whether there is one.
    fn send_off(&mut self, address: Option<IpAddr>) -> bool {
        let of = |of: &IpAddr| address.is_none_or(|address| *of == address);
        let oldest = self.strangers.iter().find(|(_, (from, _))| of(from)).map(|(at, _)| *at);
        let Some((_, leave)) = oldest.and_then(|oldest| self.strangers.remove(&oldest)) else {
            return false;
        };
        leave.notify_one();
        true
    }
}

/// A place that is taken.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    number: u64,
    /// Notified when it is for somebody else.
    go: Arc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        state.taken = state.taken.saturating_sub(1);
        state.strangers.remove(&self.number);
        drop(state);
        self.places.free.notify_one();
    }
}

impl Places {
    fn new(all: usize, proxies: Proxies) -> Arc<Self> {
        let part = |share: usize| all.checked_div(share).unwrap_or(1).max(1);
        Arc::new(Self {
            all,
            of_strangers: all.saturating_sub(part(4)).max(1),
            of_one: part(8),
            proxies,
            state: Mutex::default(),
            free: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A place for a stranger, as soon as there is one.
    async fn take(self: &Arc<Self>, address: IpAddr) -> Place {
        let (number, go) = {
            let mut state = self.state();
            // Behind a proxy on this machine, or another that is known, all callers have its address.
            let own = state.strangers.values().filter(|(of, _)| *of == address).count();
            let is_proxy = address.is_loopback() || self.proxies.has(address);
            if own >= self.of_one && !is_proxy {
                state.send_off(Some(address));
            }
            if state.strangers.len() >= self.of_strangers {
                state.send_off(None);
            }
            let number = state.next;
            state.next = number.saturating_add(1);
            (number, Arc::new(Notify::new()))
        };
        loop {
            {
                let mut state = self.state();
                if state.taken < self.all {
                    state.taken = state.taken.saturating_add(1);
                    state.strangers.insert(number, (address, Arc::clone(&go)));
                    return Place { places: Arc::clone(self), number, go };
                }
                state.send_off(None);
            }
            self.free.notified().await;
        }
    }
}

/// What a connection is doing.
#[derive(Debug, Default)]
struct Busy {
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    at_work: usize,
    last: Option<Instant>,
}

impl Busy {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    fn begin(self: &Arc<Self>) -> AtWork {
        let mut requests = self.requests();
        requests.at_work = requests.at_work.saturating_add(1);
        AtWork(Arc::clone(self))
    }

    /// Since when nothing is at work; none if something is.
    fn idle_since(&self, begun: Instant) -> Option<Instant> {
        let requests = self.requests();
        (requests.at_work == 0).then(|| requests.last.unwrap_or(begun))
    }
}

/// A request that is at work until its answer is sent.
struct AtWork(Arc<Busy>);

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.at_work = requests.at_work.saturating_sub(1);
        requests.last = Some(Instant::now());
    }
}

/// Connections that the kernel takes while the server is busy. A client beyond them tries again after a second.
const WAITING: u32 = 4096;

/// Listens; the address says which port it became.
#[allow(clippy::unused_async, reason = "it works in a runtime only")]
pub async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), HttpError> {
    let bind = || {
        let of = if address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
        let socket = of()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(WAITING)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|source| HttpError::Listen { address, source })
}

/// Serves connections until it is stopped, and lets those end that are at work then.
pub async fn serve(listener: TcpListener, serving: Serving, stop: watch::Receiver<bool>) {
    let connections = connections_within(serving.connections, raise_open_files());
    let places = Places::new(connections, serving.proxies.clone());
    let open = TaskTracker::new();
    let mut stopping = stop.clone();
    let stopped = async move { stopping.wait_for(|stop| *stop).await.is_ok() };
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, guest)) = accepted else { continue };
        stream.set_nodelay(true).ok();
        open.spawn(greet(stream, serving.clone(), guest, stop.clone()));
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(ENDING, open.wait()).await.is_err() {
        tracing::warn!("requests are cut off that did not end");
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Places>) -> Option<(TcpStream, Guest)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            let place = places.take(peer.ip()).await;
            let known = Arc::new(AtomicBool::new(false));
            Some((stream, Guest { address: peer.ip(), known, place: Arc::new(place) }))
        }
        Err(error) => {
            // Too many open files, or a client that went away: neither ends the server.
            tracing::warn!(%error, "a connection cannot be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn greet(stream: TcpStream, serving: Serving, guest: Guest, stop: watch::Receiver<bool>) {
    let Serving { router, encryption, patience, .. } = serving;
    let Some(encryption) = encryption else {
        return connection(stream, router, guest, patience, stop).await;
    };
    let go = Arc::clone(&guest.place.go);
    let greeting = TlsAcceptor::from(encryption).accept(stream);
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(patience.idle, greeting) => greeted,
        () = go.notified() => return,
    };
    match greeted {
        Ok(Ok(stream)) => connection(stream, router, guest, patience, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a client cannot greet"),
        Err(_) => tracing::debug!("a client does not greet"),
    }
}

/// When a connection is to end, if nothing more happens; none while it is at work.
fn end_of(busy: &Busy, guest: &Guest, begun: Instant, patience: Patience) -> Option<Instant> {
    let idle = busy.idle_since(begun).map(|since| since + patience.idle);
    if guest.known.load(Ordering::Relaxed) {
        return idle;
    }
    let last = begun + patience.stranger;
    Some(idle.map_or(last, |idle| idle.min(last)))
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    guest: Guest,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) {
    let busy = Arc::new(Busy::default());
    let (counted, sent) = (Arc::clone(&busy), guest.clone());
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let at_work = counted.begin();
        request.extensions_mut().insert(sent.clone());
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let answer: Response<Body> = answer.await?;
            // It is at work until the last of it is sent, or nobody wants it any more.
            Ok::<_, Infallible>(answer.map(|body| {
                body.map_frame(move |frame| {
                    let _at_work = &at_work;
                    frame
                })
            }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.idle)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(32 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(patience.idle);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).into_owned());
    let begun = Instant::now();
    let mut look = begun + patience.idle;
    let mut ending = false;
    loop {
        tokio::select! {
            done = serving.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "a connection broke off");
                }
                return;
            }
            () = guest.place.go.notified() => return,
            _ = stop.wait_for(|stop| *stop), if !ending => {
                serving.as_mut().graceful_shutdown();
                (ending, look) = (true, Instant::now() + ENDING);
            }
            () = tokio::time::sleep_until(look) => {
                if ending {
                    return;
                }
                let now = Instant::now();
                match end_of(&busy, &guest, begun, patience) {
                    Some(end) if end <= now => {
                        serving.as_mut().graceful_shutdown();
                        (ending, look) = (true, now + patience.idle);
                    }
                    Some(end) => look = end,
                    None => look = now + patience.idle,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SHORT: Patience =
        Patience { idle: Duration::from_millis(300), stranger: Duration::from_millis(900) };

    /// A server; whoever asks for `/in` has a token.
    async fn server(connections: usize) -> (SocketAddr, watch::Sender<bool>) {
        let come_in = get(async |guest: axum::Extension<Guest>| {
            guest.mark_known();
            "in"
        });
        let slow = get(async || {
            tokio::time::sleep(Duration::from_millis(600)).await;
            "slow"
        });
        let router = Router::new()
            .route("/", get(async || "out"))
            .route("/in", come_in)
            .route("/slow", slow)
            .route("/never", get(std::future::pending::<()>));
        let (listener, address) = listen(([127, 0, 0, 1], 0).into()).await.expect("listens");
        let (stop, stopped) = watch::channel(false);
        let proxies = Proxies::default();
        let serving = Serving { router, encryption: None, connections, patience: SHORT, proxies };
        tokio::spawn(serve(listener, serving, stopped));
        (address, stop)
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> Option<String> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).await.ok().filter(|length| *length > 0)?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    /// How long the other side keeps a connection on which pings of HTTP/2 are answered.
    async fn kept(mut stream: TcpStream) -> Duration {
        let begun = Instant::now();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("writes");
        // Settings without any, and from time to time a ping.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("writes");
        let mut answer = [0; 4096];
        loop {
            let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            let sent = stream.write_all(&ping).await;
            let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut answer));
            match read.await {
                _ if sent.is_err() => return begun.elapsed(),
                Ok(Ok(0) | Err(_)) => return begun.elapsed(),
                Ok(Ok(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it is kept for ever");
        }
    }

    #[tokio::test]
    async fn clients_do_not_wait_for_a_server_that_is_busy() {
        let (listener, address) = listen(([127, 0, 0, 1], 0).into()).await.expect("listens");
        // Nobody accepts. The kernel drops the request of who has no place, and it is sent again after a second.
        let mut waiting = Vec::new();
        for _ in 0..400 {
            let connect = TcpStream::connect(address);
            let connected = tokio::time::timeout(Duration::from_millis(900), connect).await;
            waiting.push(connected.expect("there is a place").expect("connects"));
        }
        drop((listener, waiting));
    }

    #[tokio::test]
    async fn a_connection_without_a_request_ends() {
        let (address, _stop) = server(8).await;
        let connect = || async { TcpStream::connect(address).await.expect("connects") };
        let idle = kept(connect().await).await;
        assert!(idle >= SHORT.idle, "{idle:?}");
        // Nothing at all, and half a head.
        for text in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nHost:"] {
            let mut stream = connect().await;
            stream.write_all(text.as_bytes()).await.expect("writes");
            let mut rest = Vec::new();
            let ends = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
            ends.await.expect("it ends").ok();
        }
        // One at work is left alone, if it is not a stranger's for ever.
        let mut stream = connect().await;
        assert!(ask(&mut stream, "/slow").await.expect("an answer").ends_with("slow"));
        let mut stream = connect().await;
        let ends = tokio::time::timeout(Duration::from_secs(10), ask(&mut stream, "/never"));
        assert_eq!(ends.await.expect("it ends"), None);
    }

    #[tokio::test]
    async fn strangers_make_room_for_each_other_and_for_who_has_a_token() {
        let (address, _stop) = server(8).await;
        let connect = || async { TcpStream::connect(address).await.expect("connects") };
        let mut known = connect().await;
        assert!(ask(&mut known, "/in").await.expect("an answer").ends_with("in"));
        let mut strangers = Vec::new();
        for _ in 0..40 {
            strangers.push(connect().await);
        }
        let mut late = connect().await;
        assert!(ask(&mut late, "/in").await.expect("an answer").ends_with("in"));
        assert!(ask(&mut known, "/in").await.expect("it was kept").ends_with("in"));
        drop(strangers);
    }

    #[tokio::test]
    async fn one_address_takes_a_share_only() {
        let of = |n: u8| IpAddr::from([192, 0, 2, n]);
        let places = Places::new(16, Proxies::new(&[of(9)]));
        let mut own = Vec::new();
        for _ in 0..3 {
            own.push(places.take(of(1)).await);
        }
        let other = places.take(of(2)).await;
        assert_eq!(places.state().strangers.len(), 3);
        let told = |place: &Place| {
            let go = Arc::clone(&place.go);
            async move { tokio::time::timeout(Duration::from_millis(1), go.notified()).await.is_ok() }
        };
        assert!(told(&own[0]).await && !told(&own[1]).await && !told(&other).await);
        // That of a proxy is shared by many.
        let mut of_proxy = Vec::new();
        for _ in 0..5 {
            of_proxy.push(places.take(of(9)).await);
        }
        assert!(!told(&of_proxy[0]).await);
        of_proxy.clear();
        own.clear();
        assert_eq!(places.state().taken, 1);
        assert_eq!(places.state().strangers.len(), 1);
        drop(other);
        assert_eq!(places.state().taken, 0);
    }
}
