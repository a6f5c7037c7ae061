//! Where alerts arrive in tests: a real mail server (`scripts/lab/mail-sink`), and a real HTTP server.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use serde_json::Value;
use strongroom_testing::eventually;

/// A path of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The Python of the lab, which has what tests need.
pub(crate) fn lab_python() -> PathBuf {
    let lab =
        std::env::var_os("STRONGROOM_LAB").map_or_else(|| project("target/lab"), PathBuf::from);
    let python = lab.join("python/bin/python3");
    assert!(python.exists(), "{} is missing: run scripts/lab/install", python.display());
    python
}

/// A certificate for localhost and its key.
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    pub(crate) fn new(folder: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("makes");
        let found = Self { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
        fs::write(&found.certificate, made.cert.pem()).expect("writes");
        fs::write(&found.key, made.signing_key.serialize_pem()).expect("writes");
        found
    }
}

/// A mail server that writes down what it is sent.
pub(crate) struct MailSink {
    process: Child,
    pub(crate) port: u16,
    file: PathBuf,
}

impl MailSink {
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let file = folder.join("mails");
        let mut process = Command::new(lab_python())
            .arg(project("scripts/lab/mail-sink"))
            .arg(&file)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the mail server starts");
        let mut line = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it says its port");
        let port = line.trim().parse().expect("a port");
        Self { process, port, file }
    }

    /// What has arrived, when there is so much of it.
    pub(crate) fn wait(&self, count: usize) -> Vec<Value> {
        eventually("mail", || Some(self.mails()).filter(|mails| mails.len() >= count))
    }

    pub(crate) fn mails(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for MailSink {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// One request that a hook was sent.
#[derive(Clone, Debug)]
pub(crate) struct Hooked {
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Hooked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }
}

#[derive(Default)]
struct HookState {
    got: Vec<Hooked>,
    answers: Vec<u16>,
}

/// A URL that writes down what it is sent, and answers as it is told to.
#[derive(Clone)]
pub(crate) struct HookSink {
    state: Arc<Mutex<HookState>>,
    pub(crate) address: SocketAddr,
}

impl HookSink {
    /// The first answers have these states; all further ones are good.
    pub(crate) fn start(runtime: &tokio::runtime::Runtime, answers: &[u16]) -> Self {
        let mut answers = answers.to_vec();
        answers.reverse();
        let state = Arc::new(Mutex::new(HookState { got: Vec::new(), answers }));
        let take =
            async |State(state): State<Arc<Mutex<HookState>>>, headers: HeaderMap, body: String| {
                let mut state = state.lock().expect("locks");
                state.got.push(Hooked { headers, body });
                let answer = state.answers.pop().unwrap_or(204);
                axum::http::StatusCode::from_u16(answer).expect("a state")
            };
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&state));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("binds");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { state, address }
    }

    pub(crate) fn got(&self) -> Vec<Hooked> {
        self.state.lock().expect("locks").got.clone()
    }

    pub(crate) fn wait(&self, count: usize) -> Vec<Hooked> {
        eventually("a request", || Some(self.got()).filter(|got| got.len() >= count))
    }
}
