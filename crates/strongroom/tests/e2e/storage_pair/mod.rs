//! Storage accounts at two servers: joined, followed, failed over and back, by the program.

mod failover;
mod join;
mod loss;

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use azure::{AccountKey, AccountName, BlobPath, BlobWrite, ConnectionString, Headers, Method};
use jiff::Timestamp;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use strongroom_azure as azure;
use strongroom_base::{ByteRange, Clock as _, SystemClock, SystemEntropy, lock, start_thread};
use strongroom_storage_client::{Client, NewPageBlob, Options, Patience, Trust, place};
use strongroom_testing::{free_port, wait_until};

use crate::{documented::assert_documented, harness::Lab, storage::Served};

/// Two servers on this machine, without TLS.
struct Two {
    lab: Lab,
    ports: [u16; 2],
    served: [Option<Served>; 2],
}

const FOLDERS: [&str; 2] = ["a", "b"];

impl Two {
    /// Server 0 has an account `disks` with a container `vms`; server 1 has joined it. Both are served.
    fn joined() -> Self {
        let mut two =
            Self { lab: Lab::empty(), ports: [free_port(), free_port()], served: [None, None] };
        two.lab.ok("storage account create disks --data-dir a");
        two.serve(0);
        two.lab.ok("container create vms --account disks --data-dir a");
        two.join();
        two.serve(1);
        two
    }

    fn join(&self) -> Value {
        let invite = format!("storage replication invite --data-dir a --url {}", self.url(0));
        let given = self.lab.json(&format!("{invite} --file invitation"));
        assert_documented("storage replication invite", &given);
        let join = format!("storage replication join --data-dir b --url {}", self.url(1));
        let joined = self.lab.json(&format!("{join} --invitation-file invitation"));
        assert_documented("storage replication join", &joined);
        fs::remove_file(self.lab.path("invitation")).expect("removed");
        joined
    }

    fn url(&self, server: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[server])
    }

    fn serve(&mut self, server: usize) {
        let (folder, port) = (FOLDERS[server], self.ports[server]);
        let words =
            format!("storage serve --data-dir {folder} --listen 127.0.0.1:{port} --tls off");
        self.served[server] = Some(Served::start(&self.lab, &words));
    }

    fn stop(&mut self, server: usize) {
        self.served[server].take().expect("is served").stop();
    }

    fn kill(&mut self, server: usize) {
        // SIGKILL, by dropping it.
        drop(self.served[server].take().expect("is served"));
    }

    fn signal(&self, server: usize, signal: Signal) {
        let pid = self.served[server].as_ref().expect("is served").pid();
        kill_process(pid, signal).expect("a signal");
    }

    fn show(&self, server: usize) -> Value {
        self.lab.json(&format!("storage replication show --data-dir {}", FOLDERS[server]))
    }

    fn role(&self, server: usize) -> String {
        self.show(server)["role"].as_str().expect("text").to_owned()
    }

    /// Waits until a server plays a part.
    fn wait_for_role(&self, server: usize, role: &str) {
        let folder = FOLDERS[server];
        wait_until(&format!("{folder} is {role}"), || self.role(server) == role);
    }

    /// Waits until the secondary has everything that the primary has.
    fn wait_in_step(&self, secondary: usize) {
        let primary = 1 - secondary;
        wait_until("the secondary is in step", || {
            let (there, here) = (self.show(primary), self.show(secondary));
            here["state"] == "live" && here["records"] == there["records"]
        });
    }

    /// A client of the account at a server, as its primary or its readable secondary.
    fn client(&self, server: usize, is_secondary: bool) -> Client {
        client(&self.lab, &self.url(server), is_secondary)
    }

    fn writers(&self, server: usize, writers: u64) -> Writers {
        Writers::start(|| self.client(server, false), "vms/numbers", writers, Duration::ZERO)
    }

    /// A signed request to a server: status and everything behind the status line.
    fn ask(&self, server: usize, method: &str, target: &str) -> (u16, String) {
        self.ask_with(server, method, target, &[])
    }

    fn ask_with(
        &self,
        server: usize,
        method: &str,
        target: &str,
        more: &[(&str, &str)],
    ) -> (u16, String) {
        let keys = format!("storage account keys disks --data-dir {}", FOLDERS[server]);
        let keys = self.lab.json(&keys);
        let key = AccountKey::parse(keys["keys"][0]["value"].as_str().expect("text"));
        let host = format!("127.0.0.1:{}", self.ports[server]);
        let date = azure::http_date(SystemClock.now());
        let mut headers = vec![
            ("host", host.as_str()),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", date.as_str()),
            ("content-length", "0"),
        ];
        headers.extend(more);
        let parsed = Headers::of(headers.iter().copied()).expect("headers");
        let name = AccountName::new("disks").expect("a name");
        let kind = Method::parse(method).expect("a method");
        let key = key.expect("a key");
        let signed = azure::sign_request(&name, &key, kind, target, &parsed).expect("signs");
        let mut text = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
        write!(text, "authorization: {signed}\r\n").expect("text");
        for (name, value) in headers {
            write!(text, "{name}: {value}\r\n").expect("text");
        }
        raw(&host, &(text + "\r\n"))
    }

    fn download(&self, server: usize, blob: &str, is_secondary: bool) -> Vec<u8> {
        download(&self.client(server, is_secondary), blob)
    }
}

/// All of a blob.
pub(crate) fn download(client: &Client, blob: &str) -> Vec<u8> {
    let path = path(blob);
    let size = client.properties(&path, &azure::ReadBlob::default()).expect("is there").length;
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < size {
        let range = ByteRange::new(at, (size - at).min(4 << 20)).expect("a range");
        bytes.extend(client.get(&path, &azure::ReadBlob::default(), range).expect("is read"));
        at += range.len();
    }
    bytes
}

/// Sends a request and reads its answer: status and everything behind the status line.
fn raw(host: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(host).expect("connects");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

pub(crate) fn path(blob: &str) -> BlobPath {
    match place(blob).expect("a place") {
        azure::Resource::Blob(path) => path,
        other => panic!("{other:?}"),
    }
}

/// A client of the account `disks` at a URL, that tries once. With TLS it believes the certificate in a file.
pub(crate) fn client(lab: &Lab, url: &str, is_secondary: bool) -> Client {
    client_trusting(lab, url, is_secondary, Trust::System)
}

/// The same, with TLS.
pub(crate) fn client_trusting(lab: &Lab, url: &str, is_secondary: bool, trust: Trust) -> Client {
    let keys = lab.json("storage account keys disks --data-dir a");
    let key = keys["keys"][0]["value"].as_str().expect("text");
    let name = if is_secondary { "disks-secondary" } else { "disks" };
    let text = format!("AccountName=disks;AccountKey={key};BlobEndpoint={url}/{name}");
    let connection = ConnectionString::parse(&text).expect("a connection string");
    let patience = Patience {
        tries: 1,
        pause: Duration::from_millis(50),
        connect: Duration::from_secs(2),
        silence: Duration::from_secs(5),
    };
    let options = Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy));
    Client::new(Options { patience, trust, ..options }).expect("a client")
}

const PAGE: u64 = 4096;
/// Pages of each writer.
const PAGES: u64 = 256;

/// A write that was answered: when, which page, and the number that it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) at: Timestamp,
    pub(crate) page: u64,
    pub(crate) number: u64,
}

/// Writers of numbered pages to one blob, until they are ended or the server is gone.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Answered>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

fn numbered(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(usize::try_from(PAGE / 8).expect("fits"))
}

impl Writers {
    /// Writers by clients of their own, as fast as they are answered, with a pause after each write.
    pub(crate) fn start(
        client: impl Fn() -> Client,
        blob: &str,
        writers: u64,
        pause: Duration,
    ) -> Self {
        let path = path(blob);
        let new = NewPageBlob { length: writers * PAGES * PAGE, ..NewPageBlob::default() };
        let write = BlobWrite::default();
        client().create_page_blob(&path, &new, &write).expect("is made");
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let threads = (0..writers).map(|writer| {
            let (stop, answered, path) = (Arc::clone(&stop), Arc::clone(&answered), path.clone());
            let client = client();
            start_thread("writer", move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let page = writer * PAGES + number % PAGES;
                    let body = numbered(number).into();
                    if client.put_pages(&path, page * PAGE, body, &BlobWrite::default()).is_err() {
                        // What it answered before counts.
                        return;
                    }
                    lock(&answered).push(Answered { at: SystemClock.now(), page, number });
                    if !pause.is_zero() {
                        SystemClock.sleep(pause);
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { stop, answered, threads }
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.answered).len()
    }

    /// What was answered so far.
    pub(crate) fn answered(&self) -> Vec<Answered> {
        lock(&self.answered).clone()
    }

    pub(crate) fn end(self) -> Vec<Answered> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("ends");
        }
        lock(&self.answered).clone()
    }
}

/// The number in each page. A page has one number all over: a write is there whole or not at all.
fn numbers(content: &[u8]) -> Vec<u64> {
    let number = |page: &[u8]| {
        let number = u64::from_le_bytes(page[..8].try_into().expect("eight"));
        assert!(page == numbered(number), "a page has parts of two writes");
        number
    };
    content.chunks(usize::try_from(PAGE).expect("fits")).map(number).collect()
}

/// Checks that all of these writes are there.
pub(crate) fn assert_there(content: &[u8], answered: &[Answered], until: Option<Timestamp>) {
    let found = numbers(content);
    for write in answered.iter().filter(|write| until.is_none_or(|until| write.at < until)) {
        let there = found[usize::try_from(write.page).expect("fits")];
        assert!(there >= write.number, "{write:?} is missing: {there}, last sync {until:?}");
    }
}

/// Checks that all of these writes are there, and that each writer's writes are there in their order: a later one is not
/// without the earlier ones.
pub(crate) fn assert_writes(content: &[u8], answered: &[Answered], until: Option<Timestamp>) {
    assert_there(content, answered, until);
    let found = numbers(content);
    let pages = usize::try_from(PAGES).expect("fits");
    for writer in found.chunks(pages) {
        let last = writer.iter().copied().max().unwrap_or_default();
        for earlier in last.saturating_sub(PAGES - 1).max(1)..=last {
            let page = usize::try_from(earlier % PAGES).expect("fits");
            assert_eq!(
                writer[page], earlier,
                "the order is not that of the writer, whose last is {last}"
            );
        }
    }
}
