//! A proxy before a server that loses requests and answers, or stops working altogether.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use strongroom_base::{lock, start_thread};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives, and its answer.
    Passes,
    /// The connection ends before the server sees it.
    IsLost,
    /// The server carries it out, and the connection ends before its answer.
    AnswerIsLost,
    /// It is answered by 503.
    IsBusy,
    /// It is answered by 400.
    IsRefused,
}

/// What a proxy does besides.
#[derive(Clone, Copy, Debug, Default)]
struct Manner {
    hides_azurite: bool,
    refuses_snapshots: bool,
}

type Rule = Box<dyn FnMut(u64) -> Fate + Send>;

/// A proxy, which ends with the test.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicU64>,
    rule: Arc<Mutex<Rule>>,
    is_over: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy that passes everything on.
    pub(crate) fn before(server: SocketAddr) -> Self {
        Self::start(server, Manner::default())
    }

    /// A proxy behind which Azurite cannot be recognised.
    pub(crate) fn hiding(azurite: SocketAddr) -> Self {
        Self::start(azurite, Manner { hides_azurite: true, ..Manner::default() })
    }

    /// A proxy before a service that gives no bytes of snapshots, as premium accounts.
    pub(crate) fn premium(server: SocketAddr) -> Self {
        Self::start(server, Manner { refuses_snapshots: true, ..Manner::default() })
    }

    fn start(server: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicU64::new(0));
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Fate::Passes)));
        let is_over = Arc::new(AtomicBool::new(false));
        let (counted, decides, over) = (requests.clone(), rule.clone(), is_over.clone());
        start_thread("proxy", move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = stream else { continue };
                let (counted, decides) = (counted.clone(), decides.clone());
                start_thread("proxied", move || {
                    connection(client, server, manner, &counted, &decides);
                });
            }
        });
        Self { address, requests, rule, is_over }
    }

    /// Counts requests from zero, and decides by their numbers, the first of which is 0.
    pub(crate) fn rule(&self, rule: impl FnMut(u64) -> Fate + Send + 'static) {
        let mut current = lock(&self.rule);
        self.requests.store(0, Ordering::SeqCst);
        *current = Box::new(rule);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
    }
}

/// A message of HTTP: its head, and its body.
fn message(from: &mut BufReader<TcpStream>, is_answer_of_head: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut length, mut is_chunked) = (0, false);
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        bytes.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line).to_ascii_lowercase();
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        is_chunked |= text.starts_with("transfer-encoding:") && text.contains("chunked");
        if line == b"\r\n" {
            break;
        }
    }
    if is_answer_of_head {
        return Some(bytes);
    }
    while is_chunked {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).ok()?;
        bytes.extend_from_slice(&line);
        let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        from.read_exact(&mut chunk).ok()?;
        bytes.extend_from_slice(&chunk);
        is_chunked = size > 0;
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    bytes.extend_from_slice(&body);
    Some(bytes)
}

const REFUSED: &[u8] =
    b"HTTP/1.1 400 Bad\r\nx-ms-error-code: InvalidOperation\r\ncontent-length: 0\r\n\r\n";
const BUSY: &[u8] =
    b"HTTP/1.1 503 Busy\r\nx-ms-error-code: ServerBusy\r\ncontent-length: 0\r\n\r\n";

/// Makes an answer of Azurite one of a service that nobody knows.
fn disguise(answer: &mut [u8]) {
    let (name, other) = (b"Azurite-Blob", b"Another-Blob");
    if let Some(at) = answer.windows(name.len()).position(|part| part == name) {
        answer[at..at + name.len()].copy_from_slice(other);
    }
}

/// Whether it is Get Blob of a snapshot.
fn is_read_of_snapshot(request: &[u8]) -> bool {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.starts_with("GET") && line.contains("snapshot=") && !line.contains("comp=")
}

fn connection(
    client: TcpStream,
    server: SocketAddr,
    options: Manner,
    count: &AtomicU64,
    rule: &Mutex<Rule>,
) {
    let Ok(upstream) = TcpStream::connect(server) else { return };
    client.set_nodelay(true).ok();
    upstream.set_nodelay(true).ok();
    let (mut client, mut upstream) = (BufReader::new(client), BufReader::new(upstream));
    while let Some(request) = message(&mut client, false) {
        let is_read = is_read_of_snapshot(&request);
        let fate = match lock(rule).as_mut() {
            _ if options.refuses_snapshots && is_read => Fate::IsRefused,
            rule => rule(count.fetch_add(1, Ordering::SeqCst)),
        };
        match fate {
            Fate::IsLost => return,
            Fate::IsBusy | Fate::IsRefused => {
                let answer = if fate == Fate::IsBusy { BUSY } else { REFUSED };
                if client.get_mut().write_all(answer).is_err() {
                    return;
                }
                continue;
            }
            Fate::Passes | Fate::AnswerIsLost => {}
        }
        if upstream.get_mut().write_all(&request).is_err() {
            return;
        }
        let Some(mut answer) = message(&mut upstream, request.starts_with(b"HEAD")) else { return };
        if options.hides_azurite {
            disguise(&mut answer);
        }
        if fate == Fate::AnswerIsLost || client.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}
