//! A real server on a port of its own, with TLS, in a folder of its own; and who asks it.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use strongroom_agent::{ModuleCommand, ReaderCommand, ThisHost};
use strongroom_base::{Cancel, SystemClock};
use strongroom_hypervisor::Settings;
use strongroom_machine::{Places, guard::GuardCommand};
use strongroom_orders::StorageAccounts;
use strongroom_server::{Serve, ServerConfig, ServerError, serve};
use tokio::{net::TcpStream, runtime::Runtime};
use tokio_rustls::TlsConnector;

use crate::accounts::Stored;

/// A server that runs.
pub(crate) struct Bed {
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) address: SocketAddr,
    /// The token of the first start; of a later start none.
    pub(crate) token: String,
    pub(crate) words: String,
    pub(crate) runtime: Runtime,
    tls: Arc<ClientConfig>,
    stop: Cancel,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

/// A server that may not serve yet.
pub(crate) struct Starting {
    dir: Arc<tempfile::TempDir>,
    stop: Cancel,
    told: mpsc::Receiver<String>,
    thread: JoinHandle<Result<(), ServerError>>,
}

impl Starting {
    /// What it says next.
    pub(crate) fn hear(&self) -> String {
        self.told.recv_timeout(Duration::from_mins(1)).expect("it says something")
    }

    /// Waits until it serves.
    pub(crate) fn wait(self) -> Bed {
        let Ok(words) = self.told.recv_timeout(Duration::from_mins(1)) else {
            panic!("the server did not start: {:?}", self.thread.join())
        };
        Bed::of(self, words)
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The name of the error that it is.
    pub(crate) fn code(&self) -> String {
        let json = self.json();
        let error = &json["error"];
        assert_eq!(error["request_id"].as_str(), Some(self.header("x-request-id")), "{self:?}");
        error["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Its body, if it is what was hoped for.
    #[track_caller]
    pub(crate) fn good(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }
}

pub(crate) fn config(dir: &tempfile::TempDir) -> ServerConfig {
    ServerConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: dir.path().join("data"),
        disk_dirs: vec![dir.path().join("disks")],
        restore_dirs: vec![dir.path().join("restored")],
        ..ServerConfig::default()
    }
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A server that is set otherwise.
    pub(crate) fn with(set: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a folder"));
        for folder in ["disks", "restored"] {
            fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        Self::start(dir, set)
    }

    pub(crate) fn start(dir: Arc<tempfile::TempDir>, set: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::spawn(dir, set).wait()
    }

    /// Starts a server, and does not wait for it.
    pub(crate) fn spawn(
        dir: Arc<tempfile::TempDir>,
        set: impl FnOnce(&mut ServerConfig),
    ) -> Starting {
        let mut config = config(&dir);
        set(&mut config);
        let stop = Cancel::new();
        let (tell, told) = mpsc::channel();
        // The accounts of the test are in memory; nobody listens there.
        let accounts = config
            .storage_listen
            .map(|_| -> Arc<dyn StorageAccounts> { Arc::new(Stored::default()) });
        let serving = Serve {
            config,
            here: ThisHost {
                name: "here".to_owned(),
                settings: Settings::new(Arc::new(SystemClock)),
                system_places: Places::of_system(),
                session_places: Places::of_system(),
                guard: GuardCommand { program: PathBuf::from("/bin/false"), arguments: Vec::new() },
                module: ModuleCommand::this_program("no-module"),
                file_reader: ReaderCommand {
                    program: PathBuf::from("/bin/false"),
                    arguments: Vec::new(),
                },
                connect: None,
                accounts: None,
            },
            accounts,
            notify: None,
            stop: stop.clone(),
            announce: Box::new(move |words| tell.send(words.to_owned()).expect("tells")),
        };
        let thread = std::thread::spawn(|| serve(serving));
        Starting { dir, stop, told, thread }
    }

    fn of(starting: Starting, words: String) -> Self {
        let Starting { dir, stop, thread, .. } = starting;
        let after = |mark: &str| words.split(mark).nth(1).map(str::to_owned);
        let address = after("https://").expect("an address");
        let address = address.split_whitespace().next().expect("one").parse().expect("an address");
        let file = words.lines().find(|line| line.ends_with("/first-token"));
        let token = file.map(|file| fs::read_to_string(file.trim()).expect("a token"));
        let certificate = dir.path().join("data/tls/certificate.pem");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).expect("reads")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            dir,
            address,
            token: token.unwrap_or_default().trim().to_owned(),
            words,
            runtime: Runtime::new().expect("a runtime"),
            tls: Arc::new(tls),
            stop,
            thread: Some(thread),
        }
    }

    /// Waits until it has ended by itself: why.
    pub(crate) fn failure(mut self) -> ServerError {
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("no panic").expect_err("it failed")
    }

    /// Stops it, and starts it again.
    pub(crate) fn restart(mut self) -> Self {
        let (dir, token) = (self.dir.clone(), self.token.clone());
        self.stop();
        drop(self);
        let mut again = Self::start(dir, |_| {});
        again.token = token;
        again
    }

    pub(crate) fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic").expect("ends well");
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Sends a request; the answer's body is still to be read.
    pub(crate) fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> axum::http::Response<hyper::body::Incoming> {
        self.runtime.block_on(async {
            let tcp = TcpStream::connect(self.address).await.expect("connects");
            let name = ServerName::IpAddress(self.address.ip().into());
            let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await.expect("TLS");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.expect("HTTP");
            tokio::spawn(connection);
            sender.send_request(request).await.expect("an answer")
        })
    }

    pub(crate) fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (parts, body) = self.open(request).into_parts();
        let body = self.runtime.block_on(body.collect()).expect("a body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) fn request(
        &self,
        token: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(format!("/v1{path}"));
        request = request.header("host", self.address.to_string());
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        request.body(Full::new(bytes)).expect("a request")
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(self.request(&self.token, Method::GET, path, &[], None))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(&self.token, Method::POST, path, &[], Some(body)))
    }

    /// A request of somebody, without a body.
    pub(crate) fn by(&self, token: &str, method: Method, path: &str) -> Answer {
        self.send(self.request(token, method, path, &[], None))
    }

    /// A disk of noise, so many KiB.
    pub(crate) fn disk(&self, name: &str, kib: usize) -> String {
        let path = self.path(&format!("disks/{name}"));
        let mut state = 88_172_645_463_325_252_u64;
        let mut bytes = Vec::with_capacity(kib << 10);
        while bytes.len() < kib << 10 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        fs::write(&path, bytes).expect("writes");
        path
    }

    /// A vault, and an item in it that was not backed up yet; the job that protected it has ended.
    pub(crate) fn protected(&self, name: &str, kib: usize) -> Value {
        self.post("/vaults", &json!({ "name": "main" }));
        let disk = self.disk(name, kib);
        let protect = json!({
            "vault": "main",
            "host": "here",
            "sources": [{ "name": name, "paths": { "system": disk } }],
        });
        let job = self.post("/items", &protect).good(202);
        let ended = self.ended(&job);
        assert_eq!(ended["state"], "completed", "{ended}");
        self.get(&format!("/items/{name}")).good(200)
    }

    /// A job at its end.
    pub(crate) fn ended(&self, begun: &Value) -> Value {
        let link = begun["link"].as_str().expect("a link").trim_start_matches("/v1");
        for _ in 0..1200 {
            let job = self.get(link).good(200);
            if !job["ended"].is_null() {
                return job;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the job does not end: {}", self.get(link).json());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop();
    }
}
