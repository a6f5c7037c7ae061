//! A tiny server of HTTP: one connection, one request, one answer.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use strongroom_client::Fingerprint;

/// What is answered.
#[derive(Clone)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
    stays: bool,
}

impl Answer {
    /// JSON, or what should be.
    pub(crate) fn json(status: u16, body: &str) -> Self {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n"
        );
        Self { bytes: (head + body).into_bytes(), stays: false }
    }

    /// The connection breaks.
    pub(crate) fn nothing() -> Self {
        Self { bytes: Vec::new(), stays: false }
    }

    /// Somewhere else.
    pub(crate) fn redirect(to: &str) -> Self {
        let text = format!("HTTP/1.1 302 X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        Self { bytes: text.into_bytes(), stays: false }
    }

    /// Events that end.
    pub(crate) fn events(stream: &str) -> Self {
        let head = "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        Self { bytes: format!("{head}{stream}").into_bytes(), stays: false }
    }

    /// Events that do not come.
    pub(crate) fn events_that_stay() -> Self {
        Self { stays: true, ..Self::events(": hello\n\n") }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    head: String,
}

impl Seen {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> String {
        let mut lines = self.head.lines();
        let value = lines.find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        });
        value.unwrap_or_default()
    }
}

/// The server. Its threads end with the test's process.
pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Script = Arc<dyn Fn(usize) -> Answer + Send + Sync>;

impl Fake {
    /// Answers each request, counted from 0, as `script` says.
    pub(crate) fn serve(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start("http", "127.0.0.1", None, Arc::new(script))
    }

    /// The same with TLS; also its certificate's fingerprint and PEM.
    pub(crate) fn serve_tls(
        script: impl Fn(usize) -> Answer + Send + Sync + 'static,
    ) -> (Self, String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a certificate");
        let fake = Self::start("https", "localhost", Some(Arc::new(config)), Arc::new(script));
        (fake, Fingerprint::of(&certificate).to_string(), made.cert.pem())
    }

    fn start(scheme: &str, host: &str, tls: Option<Arc<ServerConfig>>, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let number = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (script, log, number) = (script.clone(), log.clone(), number.clone());
                let tls = tls.clone();
                thread::spawn(move || match tls {
                    Some(config) => {
                        let session = ServerConnection::new(config).expect("a session");
                        answer(StreamOwned::new(session, stream), &script, &log, &number);
                    }
                    None => answer(stream, &script, &log, &number),
                });
            }
        });
        Self { url: format!("{scheme}://{host}:{port}"), seen }
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("sound").clone()
    }
}

fn answer(
    mut stream: impl Read + Write,
    script: &Script,
    log: &Mutex<Vec<Seen>>,
    number: &AtomicUsize,
) {
    let mut text = Vec::new();
    let mut bytes = [0; 4096];
    let head = loop {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(read) => text.extend_from_slice(&bytes[..read]),
        }
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let seen = Seen {
                line: head.lines().next().unwrap_or_default().to_owned(),
                head: head.to_owned(),
            };
            let length: usize = seen.header("content-length").parse().unwrap_or(0);
            if body.len() >= length {
                break seen;
            }
        }
    };
    log.lock().expect("sound").push(head);
    let answer = script(number.fetch_add(1, Ordering::SeqCst));
    stream.write_all(&answer.bytes).ok();
    stream.flush().ok();
    if answer.stays {
        #[allow(clippy::disallowed_methods, reason = "a test")]
        thread::sleep(Duration::from_secs(30));
    }
}
