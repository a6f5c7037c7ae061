//! Storage accounts at two servers: joined, followed, failed over and back, by the program.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
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

use crate::{
    blocks::{Page, parts, read},
    documented::assert_documented,
    harness::Lab,
    storage::Served,
};

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

#[test]
fn accounts_are_kept_at_a_second_server_and_fail_over_and_back() {
    let mut two = Two::joined();
    let lab = &two.lab;
    let account = lab.json("storage account show disks --data-dir a");
    assert_eq!(account["redundancy"], "grs");
    lab.ok("storage account create more --data-dir a");
    assert_eq!(lab.json("storage account show more --data-dir a")["redundancy"], "grs");
    lab.fails(
        "storage account create less --redundancy lrs --data-dir a",
        2,
        "storage.replication_invalid",
    );
    let at = "--account disks --data-dir a";
    lab.disk("one.raw", 16, 8, 1);
    lab.ok(&format!("blob upload one.raw vms/one {at}"));
    lab.ok(&format!("blob snapshot vms/one {at}"));
    two.wait_in_step(1);

    // Without RA the secondary is not read.
    let target = "/disks-secondary/vms?restype=container&comp=list";
    assert_eq!(two.ask(1, "GET", target).0, 403);
    let update = lab.json("storage account update disks --redundancy ra-grs --data-dir a");
    assert_documented("storage account show", &update);
    let keys = lab.json("storage account keys disks --data-dir a");
    let string = keys["connection_string"].as_str().expect("text").to_owned();
    assert!(string.contains(&format!("{}/disks-secondary", two.url(1))), "{string}");
    two.wait_in_step(1);
    wait_until("the secondary is read", || two.ask(1, "GET", target).0 == 200);
    assert!(two.download(1, "vms/one", true) == fs::read(lab.path("one.raw")).expect("is read"));
    let far = lab.json("storage account keys disks --data-dir b");
    let far = far["connection_string"].as_str().expect("text");
    assert!(far.contains(&format!("BlobEndpoint={}/disks;", two.url(0))), "{far}");
    lab.ok("blob download vms/one far.raw --account disks --data-dir b");
    lab.assert_same("one.raw", "far.raw");
    let (status, stats) = two.ask(1, "GET", "/disks-secondary/?restype=service&comp=stats");
    assert!(status == 200 && stats.contains("<Status>live</Status>"), "{stats}");
    assert!(stats.contains("<LastSyncTime>") && stats.contains("GMT"), "{stats}");

    // It is written at the primary only, by clients and by commands.
    let (status, refused) = two.ask(1, "PUT", "/disks-secondary/other?restype=container");
    assert!(status == 403 && refused.contains("InsufficientAccountPermissions"), "{refused}");
    for method in ["GET", "PUT"] {
        let (status, refused) = two.ask(1, method, "/disks/other?restype=container");
        assert!(status == 403 && refused.contains("AccountIsDisabled"), "{refused}");
        assert!(refused.contains("disks-secondary"), "{refused}");
    }
    assert_eq!(two.ask(0, "GET", target).0, 403);
    lab.fails("storage account create far --data-dir b", 4, "storage.not_primary");
    lab.fails("storage account failover --yes --data-dir a", 2, "storage.replication_invalid");
    let export = "storage export disks/vms/one --data-dir b --socket b.sock";
    lab.fails(export, 4, "storage.not_primary");
    assert_documented("storage replication show", &two.show(1));
    assert_documented("storage replication show", &two.show(0));
    let shown = lab.json("storage account replication disks --data-dir b");
    assert_documented("storage account replication", &shown);
    assert_eq!(
        (&shown["accounts"][0]["redundancy"], &shown["role"]),
        (&"ra_grs".into(), &"secondary".into())
    );

    // A planned failover loses nothing, also of what is written meanwhile, and the old primary follows by itself.
    let writers = two.writers(0, 2);
    wait_until("much is written", || writers.count() > 200);
    let failed_over = lab.json("storage account failover --yes --data-dir b");
    assert_documented("storage account failover", &failed_over);
    assert_eq!((&failed_over["planned"], &failed_over["lost_records"]), (&true.into(), &0.into()));
    let answered = writers.end();
    assert_writes(&two.download(1, "vms/numbers", false), &answered, None);
    assert_eq!(two.role(1), "primary");
    two.wait_for_role(0, "secondary");
    lab.disk("two.raw", 8, 4, 2);
    lab.ok("blob upload two.raw vms/two --account disks --data-dir b");
    two.wait_in_step(0);
    assert!(two.download(0, "vms/two", true) == fs::read(lab.path("two.raw")).expect("is read"));

    // And back, after both were stopped.
    two.stop(0);
    two.stop(1);
    two.serve(1);
    two.serve(0);
    two.wait_for_role(1, "primary");
    two.wait_in_step(0);
    let back = two.lab.json("storage account failover --yes --data-dir a");
    assert_eq!(back["planned"], true, "{back:#}");
    two.wait_for_role(1, "secondary");
    two.wait_in_step(1);
    assert_writes(&two.download(0, "vms/numbers", false), &answered, None);

    // The end of the pair, at both servers.
    for folder in FOLDERS {
        let ended = two.lab.json(&format!("storage replication remove --yes --data-dir {folder}"));
        assert_eq!(ended["role"], "alone", "{ended:#}");
        let account = two.lab.json(&format!("storage account show disks --data-dir {folder}"));
        assert_eq!(account["redundancy"], "lrs");
    }
    assert!(
        two.download(1, "vms/two", false) == fs::read(two.lab.path("two.raw")).expect("is read")
    );
}

#[test]
fn an_invitation_is_for_one_server_and_one_hour_and_nobody_else() {
    let mut two =
        Two { lab: Lab::empty(), ports: [free_port(), free_port()], served: [None, None] };
    two.lab.ok("storage account create disks --data-dir a");
    let invite = format!("storage replication invite --data-dir a --url {}", two.url(0));
    for (url, text) in [("http://192.0.2.1:1", "loopback"), ("https://127.0.0.1:1", "certificate")]
    {
        let refused = format!("storage replication invite --data-dir a --url {url}");
        let said = two.lab.fails(&refused, 2, "storage.replication_invalid").to_string();
        assert!(said.contains(text), "{said}");
    }
    let line = two.lab.ok(&invite).stdout;
    fs::write(two.lab.path("invitation"), &line).expect("written");
    assert_eq!(two.show(0)["role"], "alone");
    let join = |folder: &str, url: &str| {
        format!(
            "storage replication join --data-dir {folder} --url {url} --invitation-file invitation"
        )
    };
    // Nobody serves yet.
    two.lab.fails(&join("b", &two.url(1)), 5, "storage.peer_unavailable");
    two.serve(0);
    let own = two.lab.fails(&join("b", &two.url(0)), 2, "storage.replication_invalid").to_string();
    assert!(own.contains("gave the invitation"), "{own}");
    two.lab.ok("storage account create other --data-dir c");
    two.lab.fails(&join("c", &two.url(1)), 2, "storage.replication_invalid");
    fs::write(two.lab.path("nonsense"), "nonsense").expect("written");
    let nonsense =
        join("b", &two.url(1)).replace("invitation-file invitation", "invitation-file nonsense");
    two.lab.fails(&nonsense, 2, "storage.replication_invalid");

    // Who has no secret is answered as anybody who asks something that does not exist.
    let host = format!("127.0.0.1:{}", two.ports[0]);
    let secret = line.split(' ').nth(3).expect("a secret").to_owned();
    for (method, token) in [
        ("GET", "Bearer x"),
        ("POST", "Bearer x"),
        ("GET", "nothing"),
        ("GET", &format!("Bearer {secret}")),
    ] {
        let path = if token.contains(&secret) { "records" } else { "state" };
        let text = format!(
            "{method} /-/replication/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: {token}\r\ncontent-length: 0\r\n\r\n"
        );
        let (status, answer) = raw(&host, &text);
        assert!((400..=403).contains(&status), "{answer}");
        assert!(!answer.contains("\"role\"") && !answer.contains("epoch"), "{answer}");
    }
    let joined = two.lab.json(&join("b", &two.url(1)));
    assert_eq!(joined["accounts"], serde_json::json!(["disks"]));
    // It was interrupted, perhaps, and is repeated; another server is too late.
    two.lab.ok(&join("b", &two.url(1)));
    two.lab.fails(&join("d", "http://127.0.0.1:9"), 5, "storage.peer_unavailable");
    two.serve(1);
    two.wait_in_step(1);
    two.lab.fails(&join("d", "http://127.0.0.1:9"), 5, "storage.peer_unavailable");
    let again = two.lab.fails(&invite, 2, "storage.replication_invalid").to_string();
    assert!(again.contains("has another one already"), "{again}");

    // The secret is in no log, list or message, and its file is for its owner.
    for folder in FOLDERS {
        let file = two.lab.path(folder).join("replication.json");
        assert_eq!(fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).expect("text");
        let kept: Value = serde_json::from_str(&text).expect("JSON");
        let kept = kept["peer"]["secret"].as_str().expect("a secret").to_owned();
        assert_ne!(kept, secret);
        let shown =
            two.lab.ok(&format!("storage replication show --data-dir {folder} --output json"));
        assert!(!shown.stdout.contains(&kept) && !shown.stderr.contains(&kept));
    }
}

#[test]
fn what_was_answered_before_the_last_sync_time_is_at_the_secondary() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.lab.disk("big.raw", 64, 64, 3);
    two.lab.ok("blob upload big.raw vms/big --account disks --data-dir a");
    two.wait_in_step(1);
    let writers = two.writers(0, 4);
    wait_until("much is written", || writers.count() > 2000);
    // The secondary stands still for a moment, so that the primary has what nobody else has when it dies.
    two.signal(1, Signal::STOP);
    let before = writers.count();
    wait_until("more is written", || writers.count() > before + 400);
    two.kill(0);
    two.signal(1, Signal::CONT);
    let answered = writers.end();
    wait_until("the secondary has noticed", || two.show(1)["state"] == "unavailable");

    let refused =
        two.lab.fails("storage account failover --yes --data-dir b", 4, "storage.failover_loses");
    assert!(refused.to_string().contains("writes after 20"), "{refused}");
    assert_eq!(two.role(1), "secondary");
    let lost = two.lab.json("storage account failover --accept-loss --yes --data-dir b");
    assert_eq!(lost["planned"], false, "{lost:#}");
    let synced: Timestamp =
        lost["last_sync_time"].as_str().expect("a time").parse().expect("a time");
    let content = two.download(1, "vms/numbers", false);
    assert_writes(&content, &answered, Some(synced));
    let covered = answered.iter().filter(|write| write.at < synced).count();
    assert!(covered > 500, "{covered} of {} writes are before {synced}", answered.len());

    // The new primary is written; the old one returns and takes nothing, not even for a moment.
    two.lab.disk("new.raw", 4, 4, 4);
    two.lab.ok("blob upload new.raw vms/new --account disks --data-dir b");
    two.serve(0);
    two.wait_for_role(0, "fenced");
    let (status, refused) = two.ask(0, "PUT", "/disks/other?restype=container");
    assert!(status == 403 && refused.contains("AccountIsDisabled"), "{refused}");
    // It is read, with what it alone has.
    assert_writes(&two.download(0, "vms/numbers", false), &answered, None);
    wait_until("it knows what it has alone", || two.show(0)["discard_records"].as_u64().is_some());
    let alone = two.show(0)["discard_records"].as_u64().expect("a number");
    assert!(alone >= 400, "{alone}");
    two.lab.fails("storage replication rejoin --data-dir a", 4, "storage.diverged");
    assert_eq!(two.role(0), "fenced");
    two.lab.ok("storage replication rejoin --discard --yes --data-dir a");
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
    let resync = two.show(0)["resync"].clone();
    let fetched = resync["fetched_bytes"].as_u64().expect("it was resynchronized");
    // 64 MiB are the same at both.
    assert!(fetched < 24 << 20, "{resync:#}");
    for blob in ["vms/numbers", "vms/new", "vms/big"] {
        assert!(two.download(0, blob, true) == two.download(1, blob, false), "{blob}");
    }
    let back = two.lab.json("storage account failover --yes --data-dir a");
    assert_eq!((&back["planned"], &back["lost_records"]), (&true.into(), &0.into()), "{back:#}");
    assert!(two.download(0, "vms/numbers", false) == content);
}

#[test]
fn a_primary_takes_no_writes_before_it_knows_that_it_still_is_one() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.stop(1);
    two.stop(0);
    two.serve(0);
    assert_eq!(two.show(0)["state"], "waiting");
    let list = "/disks/vms?restype=container&comp=list";
    assert_eq!(two.ask(0, "GET", list).0, 200);
    let (status, refused) = two.ask(0, "PUT", "/disks/one?restype=container");
    assert!(status == 503 && refused.contains("ServerBusy"), "{refused}");
    two.lab.fails("storage account create more --data-dir a", 4, "storage.not_primary");
    // The other server says so.
    two.serve(1);
    two.wait_for_role(0, "primary");
    assert_eq!(two.ask(0, "PUT", "/disks/one?restype=container").0, 201);
    two.wait_in_step(1);
    // The operator says so.
    two.stop(1);
    two.kill(0);
    two.serve(0);
    wait_until("it says why it waits", || two.show(0)["reason"].as_str().is_some());
    let confirmed = two.lab.json("storage replication confirm --yes --data-dir a");
    assert_eq!(confirmed["role"], "primary", "{confirmed:#}");
    assert_eq!(two.ask(0, "PUT", "/disks/two?restype=container").0, 201);
    two.lab.fails(
        "storage replication confirm --yes --data-dir a",
        2,
        "storage.replication_invalid",
    );
    two.serve(1);
    two.wait_in_step(1);
}

/// The page's commands, with ports of this machine for the names of its servers; with TLS.
#[test]
fn the_page_of_two_servers_works() {
    let lab = Lab::empty();
    let name = "docs/use/storage.md";
    let page = Page::new(name, "the_page_of_two_servers_works");
    let ports = FOLDERS.map(|folder| (folder, free_port()));
    let show = |folder: &str| lab.json(&format!("storage replication show --data-dir {folder}"));
    let mut served = Vec::new();
    for part in parts(&read(name)) {
        if !page.take(&part) {
            continue;
        }
        let mut words = part.trim_start_matches("strongroom ").replace("/srv/", "");
        for (folder, port) in ports {
            words = words.replace(&format!("{folder}.example:10000"), &format!("127.0.0.1:{port}"));
            if words.contains(&format!("--data-dir {folder} ")) {
                words = words.replace("0.0.0.0:10000", &format!("127.0.0.1:{port}"));
            }
        }
        if words.starts_with("storage serve") {
            served.push(Served::start(&lab, &words));
            continue;
        }
        if words.starts_with("storage account failover") {
            let follows = if words.contains("dir a") { "a" } else { "b" };
            wait_until("the secondary is in step", || {
                let shown = show(follows);
                shown["role"] == "secondary" && shown["state"] == "live"
            });
        }
        lab.ok(&words);
    }
    page.assert_all_run();
    wait_until("the first server is the primary again", || show("a")["role"] == "primary");
    wait_until("the other one follows", || {
        let shown = show("b");
        shown["role"] == "secondary" && shown["state"] == "live"
    });
    // A certificate that is made again is known after the next start: its server says so.
    served.pop().expect("b is served").stop();
    fs::remove_file(lab.path("b/certificate.pem")).expect("removed");
    let before = show("a")["peer_fingerprint"].clone();
    let words = format!("storage serve --data-dir b --listen 127.0.0.1:{}", ports[1].1);
    served.push(Served::start(&lab, &words));
    wait_until("the new certificate is known", || show("a")["peer_fingerprint"] != before);
    wait_until("the secondary follows", || show("b")["state"] == "live");
    // So it is for the primary, which asks the other server when it starts.
    served.remove(0).stop();
    fs::remove_file(lab.path("a/certificate.pem")).expect("removed");
    let before = show("b")["peer_fingerprint"].clone();
    let words = format!("storage serve --data-dir a --listen 127.0.0.1:{}", ports[0].1);
    served.push(Served::start(&lab, &words));
    wait_until("the new certificate is known", || show("b")["peer_fingerprint"] != before);
    wait_until("the secondary follows", || show("b")["state"] == "live");
}

#[test]
fn servers_refuse_each_other_what_is_not_valid() {
    let two = Two::joined();
    two.wait_in_step(1);
    let file = fs::read_to_string(two.lab.path("b/replication.json")).expect("text");
    let kept: Value = serde_json::from_str(&file).expect("JSON");
    let secret = kept["peer"]["secret"].as_str().expect("a secret").to_owned();
    let host = format!("127.0.0.1:{}", two.ports[0]);
    let ask = |method: &str, path: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "{method} /-/replication/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
        );
        let (status, answer) = raw(
            &host,
            &format!(
                "{head}authorization: Bearer {secret}\r\ncontent-length: {length}\r\n\r\n{body}"
            ),
        );
        let code = answer.lines().find_map(|line| line.strip_prefix("x-strongroom-code: "));
        (status, code.unwrap_or_default().to_owned())
    };
    let said = |status: u16, code: &str| (status, code.to_owned());
    let standing = two.show(0);
    let next = standing["records"].as_u64().expect("a number") + 1;
    assert_eq!(ask("GET", "state", ""), said(200, "done"));
    for path in [
        "records",
        "records?at=1.0&epoch=1&durable=1",
        "records?at=-1.0&epoch=1&durable=1&wait=0",
        "records?at=1.0&epoch=x&durable=1&wait=0",
        "records?at=99999999999999999999.0&epoch=1&durable=1&wait=0",
        "other",
        "",
        "../disks",
    ] {
        assert_eq!(ask("GET", path, ""), said(400, "invalid"), "{path}");
    }
    for path in ["state", "fence", "fence?epoch=", "join"] {
        assert_eq!(ask("POST", path, "{}"), said(400, "invalid"), "{path}");
    }
    let records = |next: u64, stamp: u64, epoch: u64| {
        ask("GET", &format!("records?at={next}.{stamp}&epoch={epoch}&durable=1&wait=0"), "")
    };
    assert_eq!(records(next, 1, 2), said(409, "wrong_epoch"));
    assert_eq!(records(next + 1000, 1, 1), said(409, "ahead"));
    assert_eq!(records(next, 1, 1), said(410, "too_far_behind"));
    assert_eq!(ask("POST", "resync?session=none", "question"), said(410, "session_gone"));
    assert_eq!(ask("POST", "resync", "no question"), said(410, "session_gone"));
    // More than a question may have.
    let long = "x".repeat((4 << 20) + 1);
    assert_eq!(ask("POST", "resync", &long), said(400, "invalid"));
    // Nothing of this has changed anything.
    two.wait_in_step(1);
    assert_eq!(two.show(0)["role"], "primary");
    // An older epoch fences nobody.
    assert_eq!(ask("POST", "fence?epoch=0", ""), said(200, "done"));
    assert_eq!(ask("POST", "fence?epoch=1", ""), said(200, "done"));
    assert_eq!(two.role(0), "primary");
}

#[test]
fn a_copy_that_was_running_in_a_failover_ends_as_failed() {
    let two = Two::joined();
    // A source that says what it is, and then nothing.
    let source = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let url = format!("http://{}/other/vms/source", source.local_addr().expect("an address"));
    start_thread("source", move || {
        let mut kept = Vec::new();
        for stream in source.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            let length = stream.read(&mut head).expect("a request");
            if head[..length].starts_with(b"HEAD") {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\nx-ms-blob-type: PageBlob\r\n\
                     etag: \"0x1\"\r\nlast-modified: Sun, 29 Nov 2026 12:00:00 GMT\r\nconnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).expect("sent");
            } else {
                kept.push(stream);
            }
        }
    });
    let copy = [("x-ms-copy-source", url.as_str())];
    let (status, begun) = two.ask_with(0, "PUT", "/disks/vms/copy", &copy);
    assert!(status == 202 && begun.contains("x-ms-copy-status: pending"), "{begun}");
    two.wait_in_step(1);
    let failed_over = two.lab.json("storage account failover --yes --data-dir b");
    assert_eq!(failed_over["planned"], true, "{failed_over:#}");
    wait_until("the copy has ended", || {
        let (_, shown) = two.ask(1, "HEAD", "/disks/vms/copy");
        shown.contains("x-ms-copy-status: failed") && shown.contains("failed over")
    });
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
}

#[test]
fn a_failover_needs_no_process_that_serves_the_secondary() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.stop(1);
    two.lab.disk("one.raw", 8, 4, 1);
    two.lab.ok("blob upload one.raw vms/one --account disks --data-dir a");
    // What the secondary lacks is fetched by the command itself.
    let failed_over = two.lab.json("storage account failover --yes --data-dir b");
    assert_eq!(failed_over["planned"], true, "{failed_over:#}");
    let (status, refused) = two.ask(0, "PUT", "/disks/other?restype=container");
    assert!(status == 403 && refused.contains("AccountIsDisabled"), "{refused}");
    two.serve(1);
    two.wait_for_role(1, "primary");
    let content = fs::read(two.lab.path("one.raw")).expect("is read");
    assert!(two.download(1, "vms/one", false) == content);
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
}

#[test]
fn servers_that_are_killed_again_and_again_stay_equal() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.lab.disk("big.raw", 48, 48, 5);
    two.lab.ok("blob upload big.raw vms/big --account disks --data-dir a");
    two.kill(1);
    let mut blobs = Vec::new();
    for round in 0..6_u64 {
        let blob = format!("vms/numbers{round}");
        let client = || two.client(0, false);
        let writers = Writers::start(client, &blob, 2, Duration::from_millis(1));
        two.serve(1);
        // The secondary dies while it gets its state, and while it takes records.
        SystemClock.sleep(Duration::from_millis(100 + 90 * round));
        two.kill(1);
        if round % 2 == 1 {
            // And the primary, which continues when the other one is there.
            two.kill(0);
            two.serve(1);
            two.serve(0);
            two.wait_for_role(0, "primary");
            two.kill(1);
        }
        blobs.push((blob, writers.end()));
    }
    two.serve(1);
    two.wait_in_step(1);
    assert_eq!(two.show(1)["role"], "secondary");
    assert!(two.download(1, "vms/big", true) == fs::read(two.lab.path("big.raw")).expect("read"));
    for (blob, answered) in blobs {
        assert!(!answered.is_empty(), "{blob} was not written");
        let far = two.download(1, &blob, true);
        assert!(far == two.download(0, &blob, false), "{blob} differs");
        assert_writes(&far, &answered, None);
    }
}

#[test]
fn a_primary_that_has_lost_changes_is_found_out_and_nothing_is_dropped() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.stop(0);
    let copy = two.lab.shell("cp -a a older").status().expect("runs");
    assert!(copy.success());
    two.serve(0);
    two.wait_for_role(0, "primary");
    two.lab.disk("one.raw", 4, 4, 7);
    two.lab.ok("blob upload one.raw vms/one --account disks --data-dir a");
    two.wait_in_step(1);
    two.kill(0);
    // Somebody has copied an older folder back.
    let back = two.lab.shell("rm -r a && mv older a").status().expect("runs");
    assert!(back.success());
    two.serve(0);
    wait_until("it is found out", || two.show(1)["state"] == "ahead");
    let refused =
        two.lab.fails("storage account failover --yes --data-dir b", 4, "storage.failover_loses");
    assert!(refused.to_string().contains("has records that the primary lacks"), "{refused}");
    assert_eq!(two.show(1)["state"], "ahead");
    two.lab.ok("storage account failover --accept-loss --yes --data-dir b");
    let content = fs::read(two.lab.path("one.raw")).expect("is read");
    assert!(two.download(1, "vms/one", false) == content);
    // What the old primary has is in the history of the new one: it returns by itself.
    two.wait_for_role(0, "secondary");
    two.wait_in_step(0);
}

#[test]
fn a_secondary_whose_disk_rots_fetches_what_is_damaged() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.lab.disk("one.raw", 8, 8, 8);
    two.lab.ok("blob upload one.raw vms/one --account disks --data-dir a");
    two.wait_in_step(1);
    two.stop(1);
    let is_data = |path: &std::path::Path| {
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let is_state =
            name.starts_with("state") || path.components().any(|it| it.as_os_str() == "journal");
        !is_state && path.extension().is_none_or(|extension| extension != "json")
    };
    let files = two.lab.files("b/blobs");
    let data: Vec<_> =
        files.iter().filter(|(path, size)| *size >= 1 << 20 && is_data(path)).collect();
    assert!(!data.is_empty(), "{files:?}");
    for (path, size) in data {
        fs::write(path, vec![0xA5; usize::try_from(*size).expect("fits")]).expect("written");
    }
    two.serve(1);
    // The first write behind a snapshot needs the rest of its block.
    two.lab.ok("blob snapshot vms/one --account disks --data-dir a");
    let page = numbered(1).into();
    let write = BlobWrite::default();
    two.client(0, false).put_pages(&path("vms/one"), 12_288, page, &write).expect("is written");
    two.wait_in_step(1);
    assert!(two.download(1, "vms/one", true) == two.download(0, "vms/one", false));
    let resync = two.show(1)["resync"].clone();
    assert!(resync["fetched_bytes"].as_u64() >= Some(8 << 20), "{resync:#}");
}

#[test]
fn of_two_primaries_the_one_of_the_earlier_epoch_stops() {
    let mut two = Two::joined();
    two.wait_in_step(1);
    two.kill(0);
    wait_until("the secondary has noticed", || two.show(1)["state"] == "unavailable");
    // What the primary has written since is not known, and is not called nothing.
    let behind = two.show(1);
    assert!(behind["lag_records"].is_null() && behind["lag_seconds"].is_u64(), "{behind:#}");
    two.lab.ok("storage account failover --accept-loss --yes --data-dir b");
    two.kill(1);
    two.serve(0);
    // The operator is wrong: the other one was promoted.
    two.lab.ok("storage replication confirm --yes --data-dir a");
    assert_eq!(two.role(0), "primary");
    two.serve(1);
    two.wait_for_role(1, "primary");
    two.wait_in_step(0);
    assert_eq!(two.ask(1, "PUT", "/disks/one?restype=container").0, 201);
}

#[test]
fn what_was_given_up_is_neither_read_nor_taken_for_the_primarys() {
    let mut two = Two::joined();
    two.lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    two.wait_in_step(1);
    two.kill(1);
    two.lab.disk("own.raw", 4, 4, 1);
    two.lab.ok("blob upload own.raw vms/own --account disks --data-dir a");
    two.kill(0);
    two.serve(1);
    two.lab.ok("storage account failover --accept-loss --yes --data-dir b");
    two.lab.disk("new.raw", 4, 4, 2);
    two.lab.ok("blob upload new.raw vms/new --account disks --data-dir b");
    two.serve(0);
    two.wait_for_role(0, "fenced");
    two.stop(0);
    // While nobody serves it, nothing comes; then the new primary is gone.
    two.lab.ok("storage replication rejoin --discard --yes --data-dir a");
    two.kill(1);
    let shown = two.show(0);
    assert!(shown["last_sync_time"].is_null() && shown["state"] == "bootstrap", "{shown:#}");
    let failover = "storage account failover --yes --data-dir a";
    let refused = two.lab.fails(failover, 4, "storage.failover_loses").to_string();
    assert!(refused.contains("it was to give up"), "{refused}");
    two.serve(0);
    let list = "/disks-secondary/vms?restype=container&comp=list";
    let (status, answer) = two.ask(0, "GET", list);
    assert!(status == 503 && answer.contains("gives its own changes up"), "{answer}");
    two.serve(1);
    two.wait_for_role(1, "primary");
    two.wait_in_step(0);
    assert_eq!(two.ask(0, "GET", list).0, 200);
    assert!(two.download(0, "vms/new", true) == two.download(1, "vms/new", false));
}

#[test]
fn a_primary_whose_secondary_never_came_may_be_joined_again() {
    let mut two =
        Two { lab: Lab::empty(), ports: [free_port(), free_port()], served: [None, None] };
    two.lab.ok("storage account create disks --data-dir a");
    two.serve(0);
    let invite = format!("storage replication invite --data-dir a --url {}", two.url(0));
    two.lab.ok(&format!("{invite} --file invitation"));
    let join = format!(
        "storage replication join --data-dir b --url {} --invitation-file invitation",
        two.url(1)
    );
    two.lab.ok(&join);
    two.stop(0);
    two.serve(0);
    // There is nobody who could have been promoted.
    two.wait_for_role(0, "primary");
    assert_eq!(two.ask(0, "PUT", "/disks/vms?restype=container").0, 201);
    fs::remove_dir_all(two.lab.path("b")).expect("removed");
    two.lab.ok(&join);
    two.serve(1);
    two.wait_in_step(1);
    // A plan is of what would happen.
    let plan = "storage account failover --dry-run --data-dir a";
    two.lab.fails(plan, 2, "storage.replication_invalid");
    two.lab.ok("storage account failover --dry-run --data-dir b");
    two.lab.ok("storage account create alone --data-dir c");
    let nothing = "storage replication remove --dry-run --data-dir c";
    two.lab.fails(nothing, 2, "storage.replication_invalid");
    // The second server moves.
    two.stop(1);
    two.ports[1] = free_port();
    let moved = format!("storage replication update --data-dir b --url {}", two.url(1));
    assert_documented("storage replication show", &two.lab.json(&moved));
    two.serve(1);
    two.wait_in_step(1);
    wait_until("the first one has learned it", || two.show(0)["peer_url"] == two.url(1));
}
