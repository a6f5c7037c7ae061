//! A server that is killed in the middle of writes has everything that it acknowledged when it starts again.
//!
//! This program is the test, and with `serve FOLDER` the server that is killed.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::format_push_string,
    missing_docs,
    dead_code,
    reason = "a test fails by panicking, and says its port"
)]

mod blocks;
#[path = "../storage/client.rs"]
mod client;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use client::Client;
use strongroom_base::{Clock, Entropy, SystemClock, SystemEntropy, lock, start_thread};
use strongroom_blobs::AccountKind;
use strongroom_storage::{
    Options, Serve, Storage,
    admin::{self, Reply},
    serve,
};

const WRITERS: usize = 6;
/// Pages of 4 KiB that each writer has for itself.
const PAGES: u64 = 64;
const PAGE: usize = 4096;
const ROUNDS: u64 = 3;

/// The tests, as runners name them.
const TESTS: [(&str, fn()); 4] = [
    ("a_killed_server_has_whole_blocks_and_appends", blocks::whole_blocks_and_appends),
    ("a_long_body_takes_little_memory", blocks::a_long_body_takes_little_memory),
    ("a_killed_server_has_what_it_acknowledged", a_killed_server_has_what_it_acknowledged),
    (
        "a_copy_is_whole_however_often_the_server_is_killed",
        a_copy_is_whole_however_often_the_server_is_killed,
    ),
];

/// Answers runners of tests as a usual test program does.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if let [serve, folder] = arguments.as_slice()
        && serve == "serve"
    {
        be_killed(Path::new(folder));
    } else if has("--list") {
        if !has("--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
    } else {
        let wanted: Vec<&String> =
            arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
        for (name, test) in TESTS {
            if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
                test();
            }
        }
    }
}

fn be_killed(folder: &Path) {
    let options = Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
    let storage = Storage::open(folder, options).expect("opens");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runs");
    runtime.block_on(async {
        let (listen, address) = Serve::plain(([127, 0, 0, 1], 0).into()).await.expect("listens");
        println!("{address}");
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        serve(storage, listen, stopped).await.expect("serves");
    });
}

/// A server in a process of its own, which is killed at the end.
struct Killed(Child, SocketAddr);

impl Killed {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .arg("serve")
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("is piped");
        BufReader::new(stdout).read_line(&mut line).expect("says its address");
        let address = line.trim().parse().expect("an address");
        Self(child, address)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().expect("is running");
        self.0.wait().expect("ends");
    }
}

/// What a page has after its n-th write.
fn content(writer: usize, page: u64, write: u64) -> Vec<u8> {
    let seed = format!("{writer}/{page}/{write}|");
    seed.bytes().cycle().take(PAGE).collect()
}

/// For each page the last write that was acknowledged, and the last one that was sent.
type Ledger = BTreeMap<u64, (u64, u64)>;

fn account(folder: &Path) -> BTreeMap<String, String> {
    let command = admin::Command::Create {
        name: "acct".to_owned(),
        kind: AccountKind::Standard,
        redundancy: None,
        rules: true,
        endpoint: "http://127.0.0.1:1".to_owned(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let reply = admin::run(folder, &command, &clock, &entropy).expect("is created");
    let Reply::Keys(account) = reply else { panic!("{reply:?}") };
    BTreeMap::from([("acct".to_owned(), account.keys[0].value.clone())])
}

fn a_killed_server_has_what_it_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = account(folder.path());
    let ledgers: Vec<Arc<Mutex<Ledger>>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let killed = Killed::start(folder.path());
        let client = Client { address: killed.1, keys: keys.clone() };
        if round == 0 {
            let made = client.ask("PUT", "/con?restype=container", &[], b"");
            assert_eq!(made.status, 201, "{}", made.text());
            for writer in 0..WRITERS {
                client.page_blob(&format!("/con/{writer}"), PAGES * 4096);
            }
        }
        acknowledged += check(&client, &ledgers);
        let writers: Vec<_> = ledgers
            .iter()
            .enumerate()
            .map(|(writer, ledger)| {
                let (client, ledger) = (client.clone(), Arc::clone(ledger));
                start_thread("writer", move || write(&client, writer, &ledger))
            })
            .collect();
        SystemClock.sleep(Duration::from_millis(700 + 300 * round));
        drop(killed);
        for writer in writers {
            writer.join().expect("ends with the server");
        }
    }
    let killed = Killed::start(folder.path());
    let client = Client { address: killed.1, keys };
    acknowledged += check(&client, &ledgers);
    assert!(acknowledged > 50, "only {acknowledged} writes were acknowledged");
    println!("a killed server has what it acknowledged: {acknowledged} pages compared");
}

fn a_copy_is_whole_however_often_the_server_is_killed() {
    const MIB: usize = 1 << 20;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = account(folder.path());
    let piece = |number: usize| content(number, 1, 1).repeat(4 * MIB / PAGE);
    let pieces = 48;
    let mut killed = Killed::start(folder.path());
    let client = Client { address: killed.1, keys: keys.clone() };
    assert_eq!(client.ask("PUT", "/con?restype=container", &[], b"").status, 201);
    client.page_blob("/con/from", u64::try_from(pieces * 4 * MIB).expect("is small"));
    for number in 0..pieces {
        let put = client.put_page("/con/from", number * 4 * MIB, &piece(number));
        assert_eq!(put.status, 201, "{}", put.text());
    }
    // Its own blob, whatever port the server has after a start.
    let url = format!("http://{}/acct/con/from", client.address);
    let asker = client.clone();
    let copier = start_thread("copier", move || {
        let host = client.address.to_string();
        let headers = [("host", &*host), ("x-ms-copy-source", &*url)];
        let mut connection = client.connect();
        connection.send(&client.signed("acct", "PUT", "/acct/con/to", &headers, 0));
        // A copy of this size is answered at its end, which the kill comes before.
        connection.answer(false).is_none()
    });
    while asker.ask("HEAD", "/con/to", &[], b"").status == 404 {
        SystemClock.sleep(Duration::from_millis(5));
    }
    let mut in_the_middle = 0;
    for turn in 0_u64.. {
        assert!(turn < 500, "the copy does not end");
        if turn < 8 {
            drop(killed);
            killed = Killed::start(folder.path());
        }
        let client = Client { address: killed.1, keys: keys.clone() };
        let head = client.ask("HEAD", "/con/to", &[], b"");
        match head.header("x-ms-copy-status") {
            "success" => break,
            status => assert_eq!(status, "pending"),
        }
        // What the next start has to continue.
        in_the_middle += u64::from(turn < 8);
        SystemClock.sleep(Duration::from_millis(20));
    }
    assert!(copier.join().expect("ends with the server"), "the copy was faster than the kill");
    assert!(in_the_middle > 0, "the copy ended before the server was killed");
    let client = Client { address: killed.1, keys };
    let found = client.ask("GET", "/con/to", &[], b"").body;
    assert!(found.chunks(4 * MIB).enumerate().all(|(number, found)| found == piece(number)));
    assert_eq!(found.len(), pieces * 4 * MIB);
    let left = std::fs::read_dir(folder.path().join("copies")).expect("reads").count();
    println!("a copy is whole after {in_the_middle} kills");
    assert_eq!(left, 0, "the file of the copy stays");
}

/// Writes until the server is gone.
fn write(client: &Client, writer: usize, ledger: &Mutex<Ledger>) {
    let mut connection = client.connect();
    for turn in 0.. {
        let page = (turn * 7) % PAGES;
        let write = {
            let mut ledger = lock(ledger);
            let entry = ledger.entry(page).or_default();
            entry.1 += 1;
            entry.1
        };
        let offset = page * 4096;
        let range = format!("bytes={offset}-{}", offset + 4095);
        let host = client.address.to_string();
        let target = format!("/acct/con/{writer}?comp=page");
        let headers = [("host", &*host), ("x-ms-page-write", "update"), ("x-ms-range", &*range)];
        let head = client.signed("acct", "PUT", &target, &headers, PAGE);
        connection.send(&head);
        connection.send(&content(writer, page, write));
        match connection.answer(false) {
            Some(answer) => assert_eq!(answer.status, 201, "{}", answer.text()),
            None => return,
        }
        lock(ledger).entry(page).or_default().0 = write;
    }
}

/// Compares every page with what was acknowledged; says how many.
fn check(client: &Client, ledgers: &[Arc<Mutex<Ledger>>]) -> usize {
    let mut compared = 0;
    for (writer, ledger) in ledgers.iter().enumerate() {
        let answer = client.ask("GET", &format!("/con/{writer}"), &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        for (page, (acknowledged, sent)) in lock(ledger).iter_mut() {
            let at = usize::try_from(page * 4096).expect("is small");
            let found = &answer.body[at..at + PAGE];
            // A write whose answer was lost may be there or not, whole in any case.
            let zero = vec![0; PAGE];
            let is = |write: u64| {
                let wanted = if write == 0 { zero.clone() } else { content(writer, *page, write) };
                found == wanted
            };
            let seen = (*acknowledged..=*sent).rev().find(|write| is(*write));
            let seen = seen.unwrap_or_else(|| {
                let text = String::from_utf8_lossy(&found[..24]).into_owned();
                panic!("page {page} of {writer} lacks write {acknowledged}: it has {text:?}")
            });
            compared += usize::from(*acknowledged > 0);
            (*acknowledged, *sent) = (seen, seen);
        }
    }
    compared
}
