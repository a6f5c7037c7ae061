//! Storage accounts while very many clients do nothing, or nothing good.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use strongroom_azure::{self as azure, AccountKey, AccountName, Headers, Method};
use strongroom_base::{Clock as _, SystemClock};

use crate::{harness::Lab, storage::Served};

const IDLE: usize = 10_000;
/// Clients that have sent a part of a head.
const HALF: usize = 500;
/// Clients that have sent a signed head and a hundred bytes of a body of 1 MiB.
const SLOW: usize = 500;
/// Clients that send a head without an end.
const HUGE: usize = 50;
/// Clients that end in the middle of a body.
const SHORT: usize = 50;
/// How long an answer may take, also on a machine that has much else to do.
const AT_ONCE: Duration = Duration::from_secs(5);
const BODY: usize = 1 << 20;
/// How much the server's memory may grow by all of them: the 72 MiB for bodies, and 16 KiB for each connection.
const GROWTH: u64 = (72 << 20) + ((16 << 10) * 11_100);

/// An account with a page blob `vms/a` of 1 MiB.
struct Account {
    address: SocketAddr,
    key: AccountKey,
}

impl Account {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("sets");
        stream
    }

    /// The head of a signed request on the blob.
    fn head(&self, method: &str, query: &str, range: &str, length: usize) -> String {
        let (host, length) = (self.address.to_string(), length.to_string());
        let date = azure::http_date(SystemClock.now());
        let target = format!("/disks/vms/a{query}");
        let fields = [
            ("host", &*host),
            ("x-ms-version", "2026-10-06"),
            ("x-ms-date", &date),
            ("x-ms-page-write", "update"),
            ("x-ms-range", range),
            ("content-length", &length),
        ];
        let headers = Headers::of(fields).expect("headers");
        let name = AccountName::new("disks").expect("a name");
        let of = Method::parse(method).expect("a method");
        let signed = azure::sign_request(&name, &self.key, of, &target, &headers).expect("signs");
        let fields = fields.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        format!("{method} {target} HTTP/1.1\r\nauthorization: {signed}\r\n{fields}\r\n")
    }

    /// Writes a page by a connection of its own; status and time.
    fn write(&self, byte: u8) -> (String, Duration) {
        let began = SystemClock.monotonic();
        let mut stream = self.connect();
        let head = self.head("PUT", "?comp=page", "bytes=0-511", 512);
        stream.write_all(&[head.as_bytes(), &[byte; 512]].concat()).expect("sends");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        (line, SystemClock.monotonic().saturating_sub(began))
    }

    /// Reads the blob by a connection of its own.
    fn read(&self) -> (Vec<u8>, Duration) {
        let began = SystemClock.monotonic();
        let mut stream = self.connect();
        stream.write_all(self.head("GET", "", "bytes=0-1048575", 0).as_bytes()).expect("sends");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(reader.read_line(&mut line).expect("a line") > 0, "the head ends early");
        }
        let mut content = vec![0; BODY];
        reader.read_exact(&mut content).expect("the content");
        (content, SystemClock.monotonic().saturating_sub(began))
    }
}

/// The most memory that a process has had, in bytes.
fn most_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// Lets this process have a connection with each client.
fn allow_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Some(maximum.unwrap_or(u64::MAX).min(1 << 16));
    if current.is_some_and(|current| Some(current) < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum })
            .expect("within the maximum");
    }
    let needed = 16_384;
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(allowed >= needed, "this machine allows {allowed} open files; the test needs {needed}");
}

#[test]
fn ten_thousand_idle_clients_keep_nobody_out_and_take_bounded_memory() {
    allow_open_files();
    let lab = Lab::empty();
    let at = "--data-dir storage";
    let shown = lab.json(&format!("storage account create disks {at}"));
    // As a shell starts it: the server raises the limit of its open files itself.
    let program = env!("CARGO_BIN_EXE_strongroom");
    let serve = format!("storage serve {at} --listen 127.0.0.1:0 --tls off");
    let served = Served::start_by(lab.shell(&format!("ulimit -Sn 1024; exec {program} {serve}")));
    let key = shown["keys"][0]["value"].as_str().expect("text");
    let account = Account {
        address: served.url.trim_start_matches("http://").parse().expect("an address"),
        key: AccountKey::parse(key).expect("a key"),
    };
    lab.disk("a.raw", 1, 1, 7);
    lab.ok(&format!("container create vms --account disks {at}"));
    lab.ok(&format!("blob upload a.raw vms/a --account disks {at}"));
    let before = account.read().0;
    let memory = most_memory(served.server.id());

    let mut crowd = Vec::new();
    while crowd.len() < IDLE {
        // Others are answered while they come.
        crowd.extend((0..500).map(|_| account.connect()));
        let (answer, took) = account.write(0);
        assert!(answer.starts_with("HTTP/1.1 201") && took < AT_ONCE, "{answer} after {took:?}");
    }
    let put = account.head("PUT", "?comp=page", "bytes=0-1048575", BODY);
    let half = &put[..put.len() / 2];
    let slow = [put.as_bytes(), &[1; 100]].concat();
    for sent in [vec![half.as_bytes(); HALF], vec![slow.as_slice(); SLOW]].concat() {
        let mut stream = account.connect();
        stream.write_all(sent).expect("sends");
        crowd.push(stream);
    }
    // Heads that the server does not read to their end; it answers or ends the connection.
    for _ in 0..HUGE {
        let mut stream = account.connect();
        let endless = format!("GET /disks/vms/a HTTP/1.1\r\nx-ms-meta-a: {}", "a".repeat(BODY));
        stream.write_all(endless.as_bytes()).ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    for _ in 0..SHORT {
        let mut stream = account.connect();
        let sent = [put.as_bytes(), &vec![1; BODY / 2]].concat();
        stream.write_all(&sent).ok();
    }
    for byte in 1..=20 {
        let (answer, took) = account.write(byte);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert!(took < AT_ONCE, "a write took {took:?}");
        let (content, took) = account.read();
        assert!(took < AT_ONCE, "a read took {took:?}");
        assert!(content[..512] == [byte; 512], "what was written is read");
        assert!(content[512..] == before[512..], "no body that ended early has changed anything");
    }
    let grown = most_memory(served.server.id()).saturating_sub(memory);
    assert!(grown < GROWTH, "{} MiB for all of them", grown >> 20);

    // All of them are still there, and have been answered nothing.
    for stream in crowd.iter_mut().take(IDLE) {
        stream.set_nonblocking(true).expect("sets");
        let kind = stream.read(&mut [0]).expect_err("nothing comes").kind();
        assert_eq!(kind, std::io::ErrorKind::WouldBlock, "an idle client was sent away");
    }
    drop(crowd);
    assert!(account.write(21).0.starts_with("HTTP/1.1 201"));
    served.stop();
}
